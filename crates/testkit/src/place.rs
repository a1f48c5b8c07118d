//! A command of ours in a directory of its own: `holdfast`, or another binary.

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::sync::mpsc;
use std::time::Duration;

use crate::{Child, free_port};
use serde_json::Value;
use tempfile::TempDir;

pub const DEADLINE: Duration = Duration::from_mins(1);

/// A working directory and the environment of every command in it.
#[derive(Debug)]
pub struct Place {
    program: &'static str,
    directory: TempDir,
    env: Vec<(String, String)>,
}

/// What a command printed, and its exit code.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: Option<i32>,
    pub stdout: String,
    /// Both streams: a line of one may stand anywhere among the other's.
    pub text: String,
}

impl Default for Place {
    fn default() -> Self {
        Self::of("holdfast")
    }
}

impl Place {
    /// For `holdfast`.
    pub fn new() -> Self {
        Self::default()
    }

    pub fn of(program: &'static str) -> Self {
        Self {
            program,
            directory: TempDir::new().unwrap(),
            env: Vec::new(),
        }
    }

    pub fn with_env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub fn start(&self, args: &[&str]) -> Child {
        let env = self.env.iter().map(|(name, value)| (name, value));
        Child::binary(self.program)
            .args(args)
            .envs(env)
            .current_dir(self.path())
            .start()
            .unwrap()
    }

    /// A service of the same environment, on a port of its own.
    pub fn service(&self, binary: &str, port: u16) -> Child {
        let env = self.env.iter().map(|(name, value)| (name, value));
        Child::binary(binary)
            .envs(env)
            .env("PORT", port.to_string())
            .current_dir(self.path())
            .start()
            .unwrap()
    }

    pub async fn run(&self, args: &[&str]) -> CommandOutput {
        let mut child = self.start(args);
        let status = child.wait_exit(DEADLINE).await.unwrap();
        let printed = child.printed(DEADLINE).await.unwrap();
        CommandOutput {
            code: status.code(),
            stdout: printed.stdout,
            text: printed.text,
        }
    }

    /// The same at a terminal, where `typed` is typed: util-linux' `script` makes one.
    pub async fn run_at_terminal(&self, args: &[&str], typed: &str) -> CommandOutput {
        let quoted = |word: &str| format!("'{}'", word.replace('\'', r"'\''"));
        let program = crate::binary(self.program).unwrap();
        let program = program.to_string_lossy();
        let words = std::iter::once(&*program).chain(args.iter().copied());
        let command: Vec<String> = words.map(quoted).collect();
        let line = format!(
            "printf %s {} | script --quiet --return --command {} /dev/null",
            quoted(&format!("{typed}\n")),
            quoted(&command.join(" "))
        );
        let env = self.env.iter().map(|(name, value)| (name, value));
        let mut child = Child::program("/bin/sh")
            .args(["-c", &line])
            .envs(env)
            .current_dir(self.path())
            .start()
            .unwrap();
        let status = child.wait_exit(DEADLINE).await.unwrap();
        let printed = child.printed(DEADLINE).await.unwrap();
        CommandOutput {
            code: status.code(),
            stdout: printed.stdout,
            text: printed.text,
        }
    }

    /// The one JSON document that a successful command prints.
    pub async fn json(&self, args: &[&str]) -> Value {
        let ended = self.run(&[args, &["--json"]].concat()).await;
        assert_eq!(ended.code, Some(0), "{args:?}: {}", ended.text);
        serde_json::from_str(&ended.stdout)
            .unwrap_or_else(|error| panic!("{args:?}: {error}: {}", ended.text))
    }
}

/// A running `holdfast dev`.
#[derive(Debug)]
pub struct Dev {
    pub child: Child,
    pub address: SocketAddr,
    /// Its port, also for the healthcheck.
    pub port: u16,
}

impl Dev {
    /// Returns once its welcome is there to the last line: what is printed at once is still read line by line.
    pub async fn start(place: &mut Place) -> Self {
        let port = free_port().unwrap();
        place.env.retain(|(name, _)| name != "PORT");
        place.env.push(("PORT".to_owned(), port.to_string()));
        let child = place.start(&[]);
        child.wait_for_line("?wait=10", DEADLINE).await.unwrap();
        Self {
            child,
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            port,
        }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    pub async fn stop(mut self) {
        self.child.sigterm().unwrap();
        let status = self.child.wait_exit(DEADLINE).await.unwrap();
        assert_eq!(status.code(), Some(0));
    }
}

/// Answers every request with the same bytes, or never.
#[derive(Debug)]
pub struct CannedServer {
    address: SocketAddr,
    /// Dropped with it: then the connections close.
    _open: mpsc::Sender<()>,
}

impl CannedServer {
    pub fn start(answer: Option<&'static str>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (open, closed) = mpsc::channel::<()>();
        std::thread::spawn(move || {
            let mut held = Vec::new();
            for stream in listener.incoming() {
                let Ok(mut stream) = stream else { return };
                if let Some(answer) = answer {
                    let mut request = [0; 4096];
                    let _read = stream.read(&mut request);
                    stream.write_all(answer.as_bytes()).ok();
                } else {
                    held.push(stream);
                }
                if matches!(closed.try_recv(), Err(mpsc::TryRecvError::Disconnected)) {
                    return;
                }
            }
        });
        Self { address, _open: open }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }
}
