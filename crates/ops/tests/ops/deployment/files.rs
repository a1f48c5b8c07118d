//! Reading the files, and what every one of them must agree on.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use serde_json::Value;

/// The programs of the image.
pub(crate) const SERVICES: [&str; 3] = ["api", "worker", "beat"];

/// Where they answer. `crates/http/src/health/routes.rs` has them; `commands.rs` asks for them.
pub(crate) const LIVE: &str = "/health/live";
pub(crate) const READY: &str = "/health/ready";

/// The port of every image and manifest, as the programs have it.
pub(crate) const PORT: u64 = 8080;

pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

pub(crate) fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn json(path: &str) -> Value {
    serde_json::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

pub(crate) fn toml(path: &str) -> Value {
    toml::from_str(&read(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The documents of a YAML file; merge keys (`<<`) and anchors are resolved.
pub(crate) fn yaml(path: &str) -> Vec<Value> {
    let text = read(path);
    let documents = serde_norway::Deserializer::from_str(&text).map(|document| {
        let mut value = serde_norway::Value::deserialize(document)?;
        value.apply_merge()?;
        serde_norway::from_value(value)
    });
    documents
        .collect::<Result<_, serde_norway::Error>>()
        .unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The files of a directory with this extension, by their paths from the root.
pub(crate) fn list(directory: &str, extension: &str) -> Vec<String> {
    let mut paths: Vec<String> = std::fs::read_dir(root().join(directory))
        .unwrap_or_else(|error| panic!("{directory}: {error}"))
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .filter(|name| {
            Path::new(name)
                .extension()
                .is_some_and(|known| known == extension)
        })
        .map(|name| format!("{directory}/{name}"))
        .collect();
    paths.sort();
    paths
}

/// How long the programs take to stop, by their own default.
pub(crate) fn grace_seconds() -> u64 {
    let table = holdfast_services::settings_table();
    let setting = table
        .iter()
        .find(|setting| setting.key == "server.grace_seconds")
        .unwrap();
    setting.default.parse().unwrap()
}

/// Every name that a platform's file sets is a setting.
#[track_caller]
pub(crate) fn assert_are_settings(place: &str, variables: &Value) {
    let table = holdfast_services::settings_table();
    for name in variables.as_object().unwrap().keys() {
        let is_known = table.iter().any(|setting| setting.env == *name);
        assert!(is_known, "{place} sets {name}, which is no setting");
    }
}

#[test]
fn no_file_of_a_platform_is_unknown_to_these_tests() {
    const KNOWN: [&str; 9] = [
        "compose.yaml",
        "fly.toml",
        "grafana",
        "kubernetes",
        "prometheus",
        "railway",
        "redis-cache.conf",
        "redis-queue.conf",
        "render.yaml",
    ];
    for entry in std::fs::read_dir(root().join("deploy")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        assert!(
            name == "systemd" || KNOWN.contains(&name.as_str()),
            "deploy/{name} has no test"
        );
    }
}
