//! The units.

use std::collections::BTreeMap;
use std::process::Command;

use super::files::{SERVICES, grace_seconds, list, read, root};

/// A unit's settings: section and name to the values.
fn unit(name: &str) -> BTreeMap<(String, String), Vec<String>> {
    let mut section = String::new();
    let mut settings: BTreeMap<(String, String), Vec<String>> = BTreeMap::new();
    for line in read(&format!("deploy/systemd/holdfast-{name}.service")).lines() {
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        if let Some(title) = line.strip_prefix('[') {
            title.trim_end_matches(']').clone_into(&mut section);
        } else {
            let (key, value) = line.split_once('=').unwrap_or_else(|| panic!("{name}: {line}"));
            let values = settings.entry((section.clone(), key.to_owned())).or_default();
            values.push(value.to_owned());
        }
    }
    settings
}

fn setting(name: &str, section: &str, key: &str) -> String {
    let settings = unit(name);
    let values = settings.get(&(section.to_owned(), key.to_owned()));
    values.unwrap_or_else(|| panic!("{name} has no {key}")).join(" ")
}

#[test]
fn each_service_has_a_unit_that_lets_it_drain() {
    assert_eq!(list("deploy/systemd", "service").len(), SERVICES.len() + 1);
    let mut ports = Vec::new();
    for program in SERVICES {
        assert_eq!(
            setting(program, "Service", "ExecStart"),
            format!("/usr/local/bin/{program}")
        );
        assert_eq!(setting(program, "Service", "User"), "holdfast");
        assert_eq!(setting(program, "Service", "KillSignal"), "SIGTERM");
        assert_eq!(setting(program, "Service", "Restart"), "on-failure");
        let stop: u64 = setting(program, "Service", "TimeoutStopSec").parse().unwrap();
        assert!(stop > grace_seconds(), "{program}");
        assert!(setting(program, "Unit", "After").contains("holdfast-migrate.service"));
        ports.push(setting(program, "Service", "Environment"));
    }
    ports.dedup();
    assert_eq!(
        ports,
        ["PORT=8080", "PORT=8081", "PORT=8082"],
        "all three on one machine"
    );
    assert_eq!(
        setting("migrate", "Service", "ExecStart"),
        "/usr/local/bin/holdfast migrate"
    );
    assert_eq!(setting("migrate", "Service", "Type"), "oneshot");
}

/// systemd's own opinion, where it is installed.
#[test]
fn systemd_finds_no_fault() {
    let directory = tempfile::TempDir::new().unwrap();
    let mut copies = Vec::new();
    for path in list("deploy/systemd", "service") {
        let (_, file) = path.rsplit_once('/').unwrap();
        let mut text = String::new();
        for line in read(&path).lines() {
            // The programs are not installed here.
            let is_start = line.starts_with("ExecStart=");
            text.push_str(if is_start { "ExecStart=/bin/true" } else { line });
            text.push('\n');
        }
        let copy = directory.path().join(file);
        std::fs::write(&copy, text).unwrap();
        copies.push(copy);
    }
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .args(&copies)
        .output();
    let Ok(output) = verified else {
        eprintln!("systemd is not installed: its own check was left out");
        return;
    };
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    // It also speaks of units of this machine, which are none of ours.
    let ours: Vec<&str> = said.lines().filter(|line| line.contains("holdfast-")).collect();
    assert!(ours.is_empty(), "{ours:#?}");
}

/// What a unit may do beyond what it needs, in systemd's own points: 0.0 is best and 10.0 worst. Each of ours has 1.2.
#[test]
fn systemd_finds_little_exposure() {
    for path in list("deploy/systemd", "service") {
        let rated = Command::new("systemd-analyze")
            .args(["security", "--no-pager", "--offline=true", "--threshold=20"])
            .arg(root().join(&path))
            .output();
        let Ok(output) = rated else {
            eprintln!("systemd is not installed: its own check was left out");
            return;
        };
        // The threshold is in tenths.
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        assert!(output.status.success(), "{path}: {said}");
        assert!(
            said.contains("Overall exposure level for holdfast-"),
            "{path}: {said}"
        );
    }
}
