//! The workspace keeps its shape: dependencies point one way, and some names stand in one place only.
//!
//! Read from `cargo metadata` and the sources, so that it fails before a review would have to notice.
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

/// Who may depend on whom, build dependencies included.
const MAY_DEPEND_ON: &[(&str, &[&str])] = &[
    ("core", &[]),
    ("cache", &["core"]),
    ("jobs", &["core"]),
    ("http", &["core", "cache", "jobs"]),
    ("accounts", &["core", "cache", "jobs", "http"]),
    ("control", &["core", "cache", "jobs", "http"]),
    // It knows the API by its documents alone.
    ("console", &["core", "http"]),
    ("outbound", &["core", "jobs"]),
    ("product", &["core", "cache", "jobs", "http", "outbound"]),
    // No product depends on another one. Those that make jobs answer with documents of `control`.
    ("kinds", &["core", "cache", "jobs", "http", "outbound", "product"]),
    (
        "points",
        &["core", "cache", "jobs", "http", "outbound", "product"],
    ),
    (
        "results",
        &["core", "cache", "jobs", "http", "outbound", "product"],
    ),
    ("autoscale", &["core", "jobs", "product"]),
    (
        "events",
        &["core", "cache", "jobs", "http", "control", "outbound", "product"],
    ),
    (
        "notify",
        &["core", "cache", "jobs", "http", "control", "outbound", "product"],
    ),
    // Everything above reaches products through `services` alone.
    (
        "services",
        &[
            "core",
            "cache",
            "jobs",
            "http",
            "accounts",
            "console",
            "control",
            "outbound",
            "product",
            "kinds",
            "points",
            "events",
            "notify",
            "results",
            "autoscale",
        ],
    ),
    ("api", BINARY),
    ("worker", BINARY),
    ("beat", BINARY),
    (
        "ops",
        &["core", "cache", "jobs", "http", "accounts", "control", "services"],
    ),
    (
        "cli",
        &[
            "core", "cache", "jobs", "http", "accounts", "console", "control", "services", "ops",
        ],
    ),
    // What applications depend on: their binaries are services and the command line.
    ("holdfast", &["core", "jobs", "services", "cli"]),
    ("bench", &["core", "cache", "jobs", "services"]),
    ("testkit", &[]),
    // The black-box suite depends on nothing that ships.
    ("tests", &[]),
];

/// A binary is a service of `services`, and its tests read what it stores and answers.
const BINARY: &[&str] = &["core", "cache", "jobs", "http", "accounts", "services"];

/// Crates that only one of ours may depend on.
const NAMED_BY_ONE: &[(&str, &str)] = &[
    ("deadpool-redis", "core"),
    ("apalis", "jobs"),
    ("apalis-core", "jobs"),
    ("apalis-redis", "jobs"),
];

/// Paths that only some files may name, in code.
const NAMED_IN: &[(&str, &[&str])] = &[
    ("deadpool_redis::", &["crates/core/src/redis/"]),
    ("apalis::", &["crates/jobs/src/backend.rs"]),
    (
        "apalis_core::",
        &["crates/jobs/src/backend.rs", "crates/jobs/src/stock.rs"],
    ),
    ("apalis_redis::", &["crates/jobs/src/stock.rs"]),
    // Clippy refuses the calls themselves; nobody else may lift that.
    (
        "clippy::disallowed_methods",
        &[
            "crates/core/src/config/",
            "crates/core/src/clock.rs",
            "crates/testkit/src/environment.rs",
            "tests/",
        ],
    ),
];

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    manifest_path: PathBuf,
    dependencies: Vec<Dependency>,
}

#[derive(Deserialize)]
struct Dependency {
    name: String,
    kind: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .canonicalize()
        .unwrap()
}

fn packages() -> Vec<Package> {
    let output = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--no-deps", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice::<Metadata>(&output.stdout)
        .unwrap()
        .packages
}

/// `core` of `holdfast-core`; `None` for what is not ours.
fn short(name: &str) -> Option<&str> {
    let is_facade = name == "holdfast";
    name.strip_prefix("holdfast-").or(is_facade.then_some(name))
}

impl Dependency {
    fn is_for_tests(&self) -> bool {
        self.kind.as_deref() == Some("dev")
    }
}

#[test]
fn dependencies_point_one_way() {
    let allowed: BTreeMap<_, BTreeSet<_>> = MAY_DEPEND_ON
        .iter()
        .map(|(name, may)| (*name, may.iter().copied().collect()))
        .collect();
    let mut wrong = Vec::new();
    for package in packages() {
        let name =
            short(&package.name).unwrap_or_else(|| panic!("{} is not called holdfast-…", package.name));
        let may = allowed
            .get(name)
            .unwrap_or_else(|| panic!("no rule says what {name} may depend on"));
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_for_tests())
        {
            let Some(on) = short(&dependency.name) else {
                continue;
            };
            // The black-box suite has no code but tests.
            let is_suite = name == "tests" && on == "testkit";
            if !may.contains(on) && !is_suite {
                wrong.push(format!("{name} must not depend on {on}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn tests_reach_no_further_up_than_the_code_does() {
    let mut wrong = Vec::new();
    for package in packages() {
        let Some(name) = short(&package.name).filter(|name| *name != "tests") else {
            continue;
        };
        let (_, may) = MAY_DEPEND_ON.iter().find(|(rule, _)| *rule == name).unwrap();
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| dependency.is_for_tests())
        {
            if let Some(on) = short(&dependency.name)
                && on != "testkit"
                && on != name
                && !may.contains(&on)
            {
                wrong.push(format!("the tests of {name} must not depend on {on}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn some_crates_are_the_business_of_one_of_ours() {
    for package in packages() {
        let name = short(&package.name).unwrap_or_default();
        for dependency in package
            .dependencies
            .iter()
            .filter(|dependency| !dependency.is_for_tests())
        {
            for (of_one, owner) in NAMED_BY_ONE {
                assert!(
                    dependency.name != *of_one || name == *owner,
                    "{name} depends on {of_one}, not {owner}"
                );
            }
        }
    }
}

#[test]
fn some_names_stand_in_one_place_only() {
    let root = root();
    let mut wrong = Vec::new();
    for package in packages() {
        let source = package.manifest_path.parent().unwrap().join("src");
        for file in rust_files(&source) {
            let path = file.strip_prefix(&root).unwrap().to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&file).unwrap();
            for (name, places) in NAMED_IN {
                let is_named = text
                    .lines()
                    .any(|line| !line.trim_start().starts_with("//") && names(line, name));
                if is_named && !places.iter().any(|place| path.starts_with(place)) {
                    wrong.push(format!("{path} names {name}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn no_service_names_a_product() {
    let products =
        ["kinds", "points", "events", "notify", "results"].map(|product| format!("crate::{product}::"));
    for service in ["api", "worker", "beat"] {
        for file in rust_files(&root().join("crates/services/src").join(service)) {
            let text = std::fs::read_to_string(&file).unwrap();
            for product in &products {
                assert!(!text.contains(product), "{} names {product}", file.display());
            }
        }
    }
}

#[test]
fn the_main_functions_stay_thin() {
    for package in packages() {
        let main = package.manifest_path.parent().unwrap().join("src/main.rs");
        let Ok(text) = std::fs::read_to_string(&main) else {
            continue;
        };
        assert!(
            text.lines().count() < 60,
            "{} has 60 lines or more",
            main.display()
        );
    }
}

/// Whether `name` stands in a line as a whole path, not as the end of a longer one.
fn names(line: &str, name: &str) -> bool {
    line.match_indices(name)
        .any(|(at, _)| !line[..at].ends_with(|before: char| before.is_alphanumeric() || before == '_'))
}

fn rust_files(directory: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(rust_files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
    files
}
