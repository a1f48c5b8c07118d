//! The `holdfast` binary in a directory of its own, and what its checks found.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_testkit::Child;
use serde_json::Value;
use tempfile::TempDir;

pub(crate) const DEADLINE: Duration = Duration::from_mins(2);

/// Checks that measure: a busy machine may make any of them slow, which is a warning and never a failure.
const MEASURED: [&str; 6] = [
    "redis.latency",
    "redis.pipelining",
    "redis.cache",
    "database.latency",
    "performance.requests",
    "cache.operations",
];

/// A working directory and the environment of every command in it.
pub(crate) struct Place {
    directory: TempDir,
    env: Vec<(String, String)>,
}

impl Place {
    pub(crate) fn new() -> Self {
        Self {
            directory: TempDir::new().unwrap(),
            env: Vec::new(),
        }
    }

    pub(crate) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    pub(crate) fn path(&self) -> &std::path::Path {
        self.directory.path()
    }

    pub(crate) fn start(&self, binary: &str, args: &[&str]) -> Child {
        let env = self.env.iter().map(|(name, value)| (name, value));
        Child::binary(binary)
            .args(args)
            .envs(env)
            .current_dir(self.path())
            .start()
            .unwrap()
    }

    /// A service on a port of its own.
    pub(crate) fn start_on(&self, binary: &str, args: &[&str], port: u16) -> Child {
        let env = self
            .env
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()));
        Child::binary(binary)
            .args(args)
            .envs(env)
            .env("PORT", port.to_string())
            .current_dir(self.path())
            .start()
            .unwrap()
    }

    /// The exit code and everything printed.
    pub(crate) async fn run(&self, args: &[&str]) -> (i32, String) {
        let mut child = self.start("holdfast", args);
        let status = child.wait_exit(DEADLINE).await.unwrap();
        (
            status.code().unwrap_or(-1),
            child.printed(DEADLINE).await.unwrap().text,
        )
    }

    /// Runs checks with `--json`.
    pub(crate) async fn checks(&self, args: &[&str]) -> Checks {
        let (code, text) = self.run(&[args, &["--json"]].concat()).await;
        let document: Value =
            serde_json::from_str(&text).unwrap_or_else(|error| panic!("{args:?}: {error}: {text}"));
        Checks { code, document }
    }
}

/// What a run of checks printed.
pub(crate) struct Checks {
    pub(crate) code: i32,
    pub(crate) document: Value,
}

impl Checks {
    /// `group.name` → verdict.
    pub(crate) fn verdicts(&self) -> BTreeMap<String, String> {
        let checks = self.document["checks"].as_array().unwrap();
        checks
            .iter()
            .map(|check| (name_of(check), text(check, "verdict")))
            .collect()
    }

    /// The faults that were named: what failed, and what warned for another reason than this machine's load.
    pub(crate) fn faults(&self) -> Vec<String> {
        let is_fault = |(name, verdict): &(&String, &String)| {
            *verdict == "fail" || (*verdict == "warn" && !MEASURED.contains(&name.as_str()))
        };
        let verdicts = self.verdicts();
        verdicts
            .iter()
            .filter(is_fault)
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The summary and the hint of one check.
    pub(crate) fn said(&self, name: &str) -> String {
        let checks = self.document["checks"].as_array().unwrap();
        let check = checks
            .iter()
            .find(|check| name_of(check) == name)
            .unwrap_or_else(|| panic!("there is no {name} in {:#}", self.document));
        format!("{} | {}", text(check, "summary"), text(check, "hint"))
    }

    /// Exactly this one is named, in these words.
    #[track_caller]
    pub(crate) fn assert_only(&self, fault: &str, words: &str) {
        assert_eq!(self.faults(), [fault], "{:#}", self.document);
        let said = self.said(fault);
        assert!(said.contains(words), "{fault} says {said:?}, and not {words:?}");
    }

    #[track_caller]
    pub(crate) fn assert_sound(&self) {
        assert_eq!(self.faults(), [""; 0], "{:#}", self.document);
        assert_eq!(self.code, 0);
    }
}

fn name_of(check: &Value) -> String {
    format!("{}.{}", text(check, "group"), text(check, "name"))
}

fn text(value: &Value, field: &str) -> String {
    value[field].as_str().unwrap_or_default().to_owned()
}

/// A server that accepts and never answers.
pub(crate) struct Silent {
    listener: tokio::net::TcpListener,
}

impl Silent {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self { listener }
    }

    /// The kernel accepts for us; nobody will ever read.
    pub(crate) fn port(&self) -> u16 {
        self.listener.local_addr().unwrap().port()
    }
}
