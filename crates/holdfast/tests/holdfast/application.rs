//! Applications, as processes: the one in `examples/standalone`, which is built here, and the examples of this crate.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;

use holdfast_testkit::place::DEADLINE;
use holdfast_testkit::{Child, binary, http};
use serde_json::{Value, json};
use tempfile::TempDir;

/// On a port that the system chooses, and in the form of log that names it.
const SERVED: &[(&str, &str)] = &[
    ("PORT", "0"),
    ("HOLDFAST__SERVER__HOST", "127.0.0.1"),
    ("HOLDFAST__LOG__FORMAT", "json"),
];

/// The line of a service that serves requests, or health checks alone.
const LISTENING: &str = r#""message":"listening"#;

/// An application, and a directory with an SQLite database for it.
pub(crate) struct Application {
    program: PathBuf,
    directory: TempDir,
}

/// One process of it that serves HTTP.
pub(crate) struct Running {
    child: Child,
    pub(crate) address: SocketAddr,
}

impl Application {
    pub(crate) async fn standalone() -> Self {
        Self::of(tokio::task::spawn_blocking(built).await.unwrap())
    }

    pub(crate) fn example(name: &str) -> Self {
        Self::of(example(name))
    }

    fn of(program: PathBuf) -> Self {
        Self {
            program,
            directory: TempDir::new().unwrap(),
        }
    }

    /// `holdfast.toml` of the directory.
    pub(crate) fn configure(&self, text: &str) {
        std::fs::write(self.directory.path().join("holdfast.toml"), text).unwrap();
    }

    /// Whether something was written into the directory.
    pub(crate) fn has_files(&self) -> bool {
        std::fs::read_dir(self.directory.path()).unwrap().count() > 0
    }

    fn child(&self, program: PathBuf, arguments: &[&str], env: &[(&str, &str)]) -> Child {
        Child::program(program)
            .args(arguments)
            .envs(env.iter().copied())
            .current_dir(self.directory.path())
            .start()
            .unwrap()
    }

    /// Starts services, and waits until one of them answers.
    pub(crate) async fn start(&self, arguments: &[&str], env: &[(&str, &str)]) -> Running {
        let env = [env, SERVED].concat();
        let child = self.child(self.program.clone(), arguments, &env);
        let line = child.wait_for_line(LISTENING, DEADLINE).await.unwrap();
        let entry: Value = serde_json::from_str(&line).unwrap();
        let address = entry["address"].as_str().unwrap().parse().unwrap();
        Running { child, address }
    }

    /// Runs a command to its end: exit code and output.
    pub(crate) async fn run(&self, arguments: &[&str], env: &[(&str, &str)]) -> (Option<i32>, String) {
        ended(self.child(self.program.clone(), arguments, env)).await
    }

    /// Runs an example of this crate in the directory of the application.
    pub(crate) async fn run_example(&self, name: &str, env: &[(&str, &str)]) -> (Option<i32>, String) {
        ended(self.child(example(name), &[], env)).await
    }
}

impl Running {
    pub(crate) async fn get(&self, path: &str) -> Value {
        let response = http::get(self.address, path).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        response.json().unwrap()
    }

    /// Enqueues an invitation; status and answer.
    pub(crate) async fn invite(&self, to: &str) -> (u16, Value) {
        let body = json!({"kind": "invite.send", "payload": {"to": to, "team": "Compilers"}});
        let response = http::post_json(self.address, "/v1/jobs", &body).await.unwrap();
        (response.status, response.json().unwrap())
    }

    /// Waits until it has printed a line with this text.
    pub(crate) async fn printed(&self, text: &str) {
        self.child.wait_for_line(text, DEADLINE).await.unwrap();
    }

    /// The job once it has finished.
    pub(crate) async fn finished(&self, id: &Value) -> Value {
        let path = format!("/v1/jobs/{}?wait=20", id.as_str().unwrap());
        self.get(&path).await
    }

    /// It ends when it is told to, with 0.
    pub(crate) async fn stop(mut self) -> String {
        self.child.sigterm().unwrap();
        let (code, printed) = ended(self.child).await;
        assert_eq!(code, Some(0), "{printed}");
        printed
    }
}

async fn ended(mut child: Child) -> (Option<i32>, String) {
    let status = child.wait_exit(DEADLINE).await.unwrap();
    let printed = child.printed(DEADLINE).await.unwrap();
    (status.code(), printed.text)
}

/// An example of this crate, as cargo has built it.
fn example(name: &str) -> PathBuf {
    let binaries = binary("holdfast").unwrap();
    let program = binaries.with_file_name("examples").join(name);
    assert!(
        program.is_file(),
        "not built: run `cargo build --workspace --all-targets` first"
    );
    program
}

const MANIFEST: &str = "examples/standalone/Cargo.toml";

/// What cargo tells a test about its package. `ring` is built again when they change, and all that depends on it.
const OF_THIS_PACKAGE: [&str; 8] = [
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_LINKS",
    "CARGO_PKG_NAME",
    "CARGO_PKG_VERSION_MAJOR",
    "CARGO_PKG_VERSION_MINOR",
    "CARGO_PKG_VERSION_PATCH",
    "CARGO_PKG_VERSION_PRE",
    "OUT_DIR",
];

/// Builds the standalone application and its tests, with its own lock file.
fn built() -> PathBuf {
    cargo(&["build", "--all-targets"]);
    target().join("debug/invites")
}

/// The workspace's target folder.
fn target() -> PathBuf {
    let program = binary("holdfast").unwrap();
    program.ancestors().nth(2).unwrap().to_owned()
}

/// Runs cargo for the standalone application, and returns what was printed. The target folder and the profiles are the workspace's:
/// dependencies with the same features are compiled once for both. Only Holdfast's crates are other packages outside of their
/// workspace; they are not optimised, as inside.
pub(crate) fn cargo(command: &[&str]) -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap();
    let lock = std::fs::read_to_string(root.join("examples/standalone/Cargo.lock")).unwrap();
    let names = lock.lines().filter_map(|line| line.strip_prefix("name = "));
    let own = names.filter(|name| name.starts_with("\"holdfast"));
    let mut cargo = Command::new(env!("CARGO"));
    for variable in OF_THIS_PACKAGE {
        cargo.env_remove(variable);
    }
    let output = cargo
        .args(command)
        .args(["--quiet", "--locked", "--manifest-path", MANIFEST])
        .args(["--config", "Cargo.toml"])
        .args(own.flat_map(|name| {
            [
                "--config".to_owned(),
                format!("profile.dev.package.{name}.opt-level=0"),
            ]
        }))
        .arg("--target-dir")
        .arg(target())
        .current_dir(&root)
        .env("CARGO_INCREMENTAL", "0")
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).into_owned();
    assert!(output.status.success(), "{printed}");
    printed
}
