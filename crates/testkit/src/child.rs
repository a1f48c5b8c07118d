//! The built binaries (`api`, `worker`, `holdfast`), run as processes.
//!
//! A child gets a clean environment: `PATH`, `HOME` and `TMPDIR`, and what the test says. Its output is kept
//! and shown when a wait fails or the test panics. It is killed on drop.

use std::ffi::{OsStr, OsString};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::environment;
use crate::lines::{LineLog, Stream};
use crate::process::Process;

/// What a failed wait or a panic shows.
const SHOWN_LINES: usize = 200;
/// The unit of CPU times in /proc: USER_HZ, 100 on every Linux architecture that Rust has a tier 1 target
/// for.
const TICKS_PER_SECOND: f64 = 100.0;

/// Where cargo has put the binary `name`: beside the running test's own directory.
pub fn binary(name: &str) -> Result<PathBuf> {
    let test = std::env::current_exe().context("the path of this test")?;
    // A test is target/<profile>/deps/<test>-<hash>, a binary target/<profile>/<name>.
    let profile = test
        .parent()
        .and_then(Path::parent)
        .context("the target directory of this test")?;
    let path = profile.join(name);
    ensure!(
        path.is_file(),
        "the binary `{name}` is not at {}: run `cargo build --workspace --bins` first (same profile and target)",
        path.display()
    );
    Ok(path)
}

/// How to start a [`Child`].
#[derive(Debug)]
pub struct ChildBuilder {
    name: String,
    program: Result<PathBuf>,
    args: Vec<OsString>,
    env: Vec<(OsString, OsString)>,
    dir: Option<PathBuf>,
}

impl ChildBuilder {
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.args.push(arg.as_ref().to_owned());
        self
    }

    pub fn args<A: AsRef<OsStr>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args
            .extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    pub fn envs<N: AsRef<OsStr>, V: AsRef<OsStr>>(self, pairs: impl IntoIterator<Item = (N, V)>) -> Self {
        pairs
            .into_iter()
            .fold(self, |builder, (name, value)| builder.env(name, value))
    }

    /// The child's working directory (this process' own unless set).
    pub fn current_dir(mut self, dir: impl Into<PathBuf>) -> Self {
        self.dir = Some(dir.into());
        self
    }

    /// What errors call the child (the binary's name unless set): `worker-2`.
    pub fn named(mut self, name: impl Into<String>) -> Self {
        self.name = name.into();
        self
    }

    /// Starts the process. Must be called within a tokio runtime.
    pub fn start(self) -> Result<Child> {
        let (stdout, stdout_writer) = std::io::pipe().context("creating a pipe")?;
        let (stderr, stderr_writer) = std::io::pipe().context("creating a pipe")?;
        let mut command = Command::new(self.program?);
        command
            .args(self.args)
            .env_clear()
            .envs(environment::inherited())
            .envs(self.env);
        command.stdout(stdout_writer).stderr(stderr_writer);
        if let Some(dir) = self.dir {
            command.current_dir(dir);
        }
        let output = LineLog::new(2);
        output.feed(format!("{}-stdout", self.name), Stream::Stdout, stdout)?;
        output.feed(format!("{}-stderr", self.name), Stream::Stderr, stderr)?;
        let process = Process::spawn(&self.name, command)?;
        Ok(Child {
            name: self.name,
            process,
            output,
        })
    }
}

/// What a child has printed (its last 20,000 lines).
#[derive(Debug, Clone)]
pub struct ChildOutput {
    pub stdout: String,
    /// stdout and stderr: the lines of each in order, those of both interleaved as they happened to be read.
    pub text: String,
}

/// A running binary. SIGKILLed and reaped on drop.
#[derive(Debug)]
pub struct Child {
    name: String,
    process: Process,
    output: LineLog,
}

impl Child {
    /// A binary of this workspace, as cargo has built it.
    pub fn binary(name: &str) -> ChildBuilder {
        ChildBuilder::new(name, binary(name))
    }

    /// Any other program: a path, or a name to be found on PATH.
    pub fn program(program: impl Into<PathBuf>) -> ChildBuilder {
        let program = program.into();
        let name = program
            .file_name()
            .unwrap_or(program.as_os_str())
            .to_string_lossy()
            .into_owned();
        ChildBuilder::new(&name, Ok(program))
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub fn sigterm(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGTERM)
    }

    pub fn sigint(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGINT)
    }

    pub fn sigstop(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGSTOP)
    }

    pub fn sigcont(&mut self) -> Result<()> {
        self.process.signal(Signal::SIGCONT)
    }

    /// SIGKILL, and waits until the process is gone. No error if it has ended before.
    pub async fn sigkill(&mut self) -> Result<ExitStatus> {
        self.process.kill().await
    }

    /// Whether the process has not ended (it may be stopped).
    pub fn is_running(&mut self) -> Result<bool> {
        Ok(self.process.exited()?.is_none())
    }

    /// Waits for the end of the process; the error shows what it printed last.
    pub async fn wait_exit(&mut self, deadline: Duration) -> Result<ExitStatus> {
        let output = self.output.clone();
        let exited = self.process.wait(deadline).await;
        exited.with_context(|| format!("{} printed last:\n{}", self.name, output.tail(SHOWN_LINES)))
    }

    /// Waits for a line (of stdout or stderr) that contains `text`; one printed before counts.
    pub async fn wait_for_line(&self, text: &str, deadline: Duration) -> Result<String> {
        self.wait_for_line_after(0, text, deadline).await
    }

    /// The same for lines from [`Self::line_count`] on.
    pub async fn wait_for_line_after(&self, from: usize, text: &str, deadline: Duration) -> Result<String> {
        let pick = |line: &str| line.contains(text).then(|| line.to_owned());
        self.output
            .wait_for(
                from,
                deadline,
                &format!("a line with {text:?} from {}", self.name),
                pick,
            )
            .await
    }

    /// How many lines the child has printed.
    pub fn line_count(&self) -> usize {
        self.output.len()
    }

    /// What the child has printed so far (its last 20,000 lines), stdout and stderr interleaved as they
    /// happened to be read.
    pub fn lines(&self) -> Vec<String> {
        self.output.lines()
    }

    /// All that an ended child has printed: its pipes may be read to the end a moment after it is gone.
    pub async fn printed(&self, deadline: Duration) -> Result<ChildOutput> {
        self.output
            .wait_end(deadline)
            .await
            .with_context(|| self.name.clone())?;
        Ok(ChildOutput {
            stdout: self.output.lines_of(Stream::Stdout).join("\n"),
            text: self.output.lines().join("\n"),
        })
    }

    /// Waits for the log line that says `listening`, and returns its `address`; one that means every
    /// interface is returned as 127.0.0.1.
    pub async fn listening_addr(&self, deadline: Duration) -> Result<SocketAddr> {
        let what = format!("the line of {} that says where it is listening", self.name);
        self.output.wait_for(0, deadline, &what, listening_addr).await
    }

    /// Resident memory in bytes.
    pub fn rss_bytes(&self) -> Result<u64> {
        let status = self.proc_file("status")?;
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix("VmRSS:"))
            .context("VmRSS in /proc")?;
        let kib: u64 = line
            .trim()
            .trim_end_matches(" kB")
            .parse()
            .with_context(|| format!("VmRSS {line:?}"))?;
        Ok(kib * 1024)
    }

    /// User and system time used so far, in seconds (to a hundredth).
    pub fn cpu_seconds(&self) -> Result<f64> {
        let stat = self.proc_file("stat")?;
        // `pid (name) state …`, where the name may hold anything; utime and stime are fields 14 and 15.
        let (_, fields) = stat.rsplit_once(')').context("a process name in /proc")?;
        let mut ticks = fields.split_whitespace().skip(11).map(str::parse::<u64>);
        match (ticks.next(), ticks.next()) {
            (Some(Ok(user)), Some(Ok(system))) => Ok((user + system) as f64 / TICKS_PER_SECOND),
            _ => anyhow::bail!("CPU times in {stat:?}"),
        }
    }

    fn proc_file(&self, file: &str) -> Result<String> {
        let path = format!("/proc/{}/{file}", self.pid());
        std::fs::read_to_string(&path).with_context(|| {
            format!(
                "reading {path} of {} (needs Linux, and a running process)",
                self.name
            )
        })
    }
}

impl ChildBuilder {
    fn new(name: &str, program: Result<PathBuf>) -> Self {
        Self {
            name: name.to_owned(),
            program,
            args: Vec::new(),
            env: Vec::new(),
            dir: None,
        }
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let printed = self.output.tail(SHOWN_LINES);
            eprintln!(
                "--- {} (pid {}) printed last:\n{printed}\n---",
                self.name,
                self.pid()
            );
        }
    }
}

/// The address in a log line whose message is `listening`: JSON with `message` and `address` (at the top or
/// under `fields`), or a readable line with `listening` and `address=…`.
fn listening_addr(line: &str) -> Option<SocketAddr> {
    if let Ok(entry) = serde_json::from_str::<Value>(line) {
        let fields = entry.get("fields").unwrap_or(&entry);
        let message = fields.get("message").or_else(|| entry.get("message"))?.as_str()?;
        let address = fields.get("address").or_else(|| entry.get("address"))?.as_str()?;
        return (message == "listening")
            .then(|| address.parse().ok())
            .flatten()
            .map(reachable);
    }
    if !line.contains("listening") {
        return None;
    }
    let (_, after) = without_colours(line)
        .split_once("address=")
        .map(|(a, b)| (a.to_owned(), b.to_owned()))?;
    let address = after.trim_start_matches('"').split([' ', '"', ',']).next()?;
    address.parse().ok().map(reachable)
}

/// What a terminal format puts around field names: `ESC [ … m`.
fn without_colours(line: &str) -> String {
    let mut parts = line.split('\u{1b}');
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |text, part| {
        text + part.split_once('m').map_or(part, |(_, rest)| rest)
    })
}

/// Every interface includes loopback.
fn reachable(address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        return SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), address.port());
    }
    address
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_address_is_found_in_every_log_format() {
        for line in [
            r#"{"level":"info","message":"listening","service":"api","address":"127.0.0.1:81"}"#,
            r#"{"fields":{"message":"listening","address":"[::]:81"}}"#,
            "2026-01-01T00:00:00Z INFO api: listening address=0.0.0.0:81 pid=7",
            "\u{1b}[32m INFO\u{1b}[0m listening \u{1b}[3maddress\u{1b}[0m\u{1b}[2m=\u{1b}[0m\"127.0.0.1:81\"",
        ] {
            assert_eq!(
                listening_addr(line),
                Some("127.0.0.1:81".parse().unwrap()),
                "{line}"
            );
        }
        for line in [
            r#"{"message":"listening soon","address":"127.0.0.1:81"}"#,
            "listening",
            "address=127.0.0.1:81",
        ] {
            assert_eq!(listening_addr(line), None, "{line}");
        }
    }

    #[test]
    fn a_missing_binary_names_the_command_that_builds_it() {
        let error = Child::binary("no-such-binary").start().unwrap_err().to_string();
        assert!(
            error.contains("`no-such-binary`") && error.contains("cargo build --workspace --bins"),
            "{error}"
        );
    }
}
