//! The deployment files of a directory, without any server: would they do what the product needs?
//!
//! What is checked is what goes wrong in silence: too little time to stop, a path that is not a health route, a container
//! that runs as root, a Redis that evicts jobs, a setting or a metric that does not exist. A file that is not there is
//! skipped. Every fault names its file, and the field.

mod platforms;
mod railway;
mod settings;
mod watching;

use std::fmt::Write as _;
use std::path::PathBuf;
use std::time::Duration;

use holdfast_http::health;

use super::{Check, CheckResult, Finding, check};

pub(crate) use railway::{cutoff, railway};

pub(crate) const RAILWAY_JSON: &str = "railway.json";
pub(crate) const RAILWAY_TS: &str = ".railway/railway.ts";

/// Longest file that is read; ours have some kilobytes.
const LONGEST: u64 = 1024 * 1024;

/// A directory that is deployed from.
#[derive(Debug)]
pub(crate) struct Deployment {
    directory: PathBuf,
    /// How long a service may take to stop (`server.grace_seconds`).
    grace: Duration,
}

pub(crate) const CHECKS: &[Check<Deployment>] = &[
    check!("railway", needs [], within 10, railway::railway),
    check!("railway_cutoff", needs [], within 10, railway::cutoff),
    check!("dockerfile", needs [], within 10, platforms::dockerfile),
    check!("procfile", needs [], within 10, platforms::procfile),
    check!("compose", needs [], within 10, platforms::compose),
    check!("kubernetes", needs [], within 10, platforms::kubernetes),
    check!("fly", needs [], within 10, platforms::fly),
    check!("render", needs [], within 10, platforms::render),
    check!("systemd", needs [], within 10, platforms::systemd),
    check!("redis_conf", needs [], within 10, platforms::redis_conf),
    check!("prometheus", needs [], within 10, watching::prometheus),
    check!("grafana", needs [], within 10, watching::grafana),
    check!("env_example", needs [], within 10, settings::env_example),
    check!("holdfast_toml", needs [], within 10, settings::holdfast_toml),
];

impl Deployment {
    pub(crate) fn new(directory: PathBuf, grace: Duration) -> Self {
        Self { directory, grace }
    }

    pub(crate) fn has(&self, path: &str) -> bool {
        self.directory.join(path).exists()
    }

    /// A file's text; `None` if it is not there.
    fn read(&self, path: &str) -> CheckResult<Option<String>> {
        let full = self.directory.join(path);
        let unreadable =
            |problem: String| Finding::fail(format!("{path}: {problem}"), "Make it readable, or remove it.");
        match std::fs::metadata(&full) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(unreadable(error.to_string())),
            Ok(found) if found.len() > LONGEST => {
                return Err(unreadable("it has more than 1 MiB".to_owned()));
            }
            Ok(_) => {}
        }
        let text = std::fs::read_to_string(full);
        text.map(Some).map_err(|error| unreadable(error.to_string()))
    }

    /// The files of a folder with this ending: path and text, sorted.
    fn read_all(&self, folder: &str, ending: &str) -> CheckResult<Vec<(String, String)>> {
        let Ok(entries) = std::fs::read_dir(self.directory.join(folder)) else {
            return Ok(Vec::new());
        };
        let names = entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
        let mut names: Vec<String> = names.filter(|name| name.ends_with(ending)).collect();
        names.sort();
        let mut files = Vec::new();
        for name in names {
            let path = format!("{folder}/{name}");
            if let Some(text) = self.read(&path)? {
                files.push((path, text));
            }
        }
        Ok(files)
    }

    fn grace_seconds(&self) -> f64 {
        self.grace.as_secs_f64()
    }
}

/// Everything that is wrong with the files of one platform.
#[derive(Debug, Default)]
struct Faults(Vec<String>);

impl Faults {
    fn add(&mut self, fault: impl Into<String>) {
        self.0.push(fault.into());
    }

    /// The time a platform gives a stopping service, in seconds; `None` if the file does not say.
    fn stop_time(&mut self, place: &str, name: &str, seconds: Option<f64>, deployment: &Deployment) {
        let grace = deployment.grace_seconds();
        match seconds {
            None => self.add(format!(
                "{place} has no {name}: jobs would be killed, not finished (it needs more than {grace} s)"
            )),
            Some(seconds) if seconds <= grace => {
                self.add(format!(
                    "{place}: {name} is {seconds} s, not above server.grace_seconds ({grace})"
                ));
            }
            Some(_) => {}
        }
    }

    fn health_route(&mut self, place: &str, path: &str) {
        if !health::ROUTES.routes.iter().any(|route| route.path == path) {
            self.add(format!("{place}: {path} is not a health route"));
        }
    }

    fn finding(self, sound: impl Into<String>, hint: &str) -> Finding {
        if self.0.is_empty() {
            return Finding::pass(sound);
        }
        let mut told = String::new();
        for (index, fault) in self.0.iter().enumerate() {
            let _ = write!(told, "{}{fault}", if index == 0 { "" } else { "; " });
        }
        Finding::fail(told, hint)
    }
}

/// `40`, `40s`, `1m30s`, `1min`, as compose, Fly and systemd write times; in seconds.
fn seconds(text: &str) -> Option<f64> {
    let mut total = 0.0;
    let mut rest = text.trim();
    while !rest.is_empty() {
        let digits = rest
            .find(|c: char| !c.is_ascii_digit() && c != '.')
            .unwrap_or(rest.len());
        let number: f64 = rest[..digits].parse().ok()?;
        rest = rest[digits..].trim_start();
        let letters = rest
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(rest.len());
        total += number
            * match &rest[..letters] {
                "" | "s" | "sec" => 1.0,
                "ms" => 0.001,
                "m" | "min" => 60.0,
                "h" => 3_600.0,
                _ => return None,
            };
        rest = rest[letters..].trim_start();
    }
    (!text.trim().is_empty()).then_some(total)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_platforms_write_them() {
        for (text, expected) in [
            ("40", 40.0),
            ("40s", 40.0),
            ("1m30s", 90.0),
            ("1min 30s", 90.0),
            ("500ms", 0.5),
        ] {
            assert_eq!(seconds(text), Some(expected), "{text}");
        }
        for text in ["", "soon", "1w", "-1"] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
