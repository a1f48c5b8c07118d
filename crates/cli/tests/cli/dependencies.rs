//! What we depend on is what `deny.toml` allows: licences, bans and sources.
//!
//! `scripts/audit` checks the same with cargo-deny, and the advisories too; this runs wherever the tests run, and needs
//! neither a network nor a tool. The crates are those that this machine's build uses.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

#[derive(Deserialize)]
struct Metadata {
    packages: Vec<Package>,
}

#[derive(Deserialize)]
struct Package {
    name: String,
    version: String,
    license: Option<String>,
    /// `None`: of this workspace.
    source: Option<String>,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../..")
}

fn printed(program: &str, args: &[&str]) -> Vec<u8> {
    let output = Command::new(program)
        .args(args)
        .current_dir(root())
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {args:?}: {errors}");
    output.stdout
}

/// Every crate of this machine's build that is not ours.
fn foreign() -> Vec<Package> {
    let about = String::from_utf8(printed("rustc", &["-vV"])).unwrap();
    let host = about
        .lines()
        .find_map(|line| line.strip_prefix("host: "))
        .unwrap();
    let args = [
        "metadata",
        "--format-version",
        "1",
        "--locked",
        "--offline",
        "--filter-platform",
        host,
    ];
    let metadata: Metadata = serde_json::from_slice(&printed(env!("CARGO"), &args)).unwrap();
    let packages = metadata.packages.into_iter();
    packages.filter(|package| package.source.is_some()).collect()
}

/// The quoted texts between `start` and the `]` after it.
fn listed(start: &str) -> Vec<String> {
    let text = std::fs::read_to_string(root().join("deny.toml")).unwrap();
    let (_, rest) = text.split_once(start).unwrap();
    let list = rest.split("\n]").next().unwrap();
    let lines = list.lines().filter(|line| !line.trim_start().starts_with('#'));
    lines
        .flat_map(|line| line.split('"').skip(1).step_by(2))
        .map(ToOwned::to_owned)
        .collect()
}

/// Whether an SPDX expression can be met with these licences. `/` is what old manifests write for `OR`.
fn is_met(expression: &str, allowed: &[String]) -> bool {
    let spaced = expression
        .replace('/', " OR ")
        .replace('(', " ( ")
        .replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let (met, rest) = any_of(&words, allowed);
    assert!(rest.is_empty(), "{expression:?} cannot be read from {rest:?} on");
    met
}

fn any_of<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = all_of(words, allowed);
    while let ["OR", more @ ..] = rest {
        let (also, left) = all_of(more, allowed);
        (met, rest) = (met | also, left);
    }
    (met, rest)
}

fn all_of<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let (mut met, mut rest) = one(words, allowed);
    while let ["AND", more @ ..] = rest {
        let (also, left) = one(more, allowed);
        (met, rest) = (met & also, left);
    }
    (met, rest)
}

fn one<'a>(words: &'a [&'a str], allowed: &[String]) -> (bool, &'a [&'a str]) {
    let is_allowed = |name: &str| allowed.iter().any(|allowed| allowed == name);
    match words {
        ["(", inner @ ..] => {
            let (met, rest) = any_of(inner, allowed);
            (met, rest.strip_prefix(&[")"]).unwrap())
        }
        [license, "WITH", exception, rest @ ..] => (is_allowed(&format!("{license} WITH {exception}")), rest),
        [license, rest @ ..] => (is_allowed(license), rest),
        [] => (false, words),
    }
}

#[test]
fn every_licence_is_allowed() {
    let allowed = listed("[licenses]");
    assert!(allowed.len() > 5, "{allowed:?}");
    let refused: Vec<String> = foreign()
        .into_iter()
        .filter(|package| {
            !package
                .license
                .as_deref()
                .is_some_and(|license| is_met(license, &allowed))
        })
        .map(|package| format!("{} {}: {:?}", package.name, package.version, package.license))
        .collect();
    assert!(refused.is_empty(), "{refused:#?}");
}

#[test]
fn no_banned_crate_is_used_and_all_come_from_the_registry() {
    let banned = listed("\ndeny = [");
    assert!(banned.contains(&"rsa".to_owned()), "{banned:?}");
    for package in foreign() {
        assert!(
            !banned.contains(&package.name),
            "{} is banned by deny.toml",
            package.name
        );
        assert_eq!(package.source.as_deref(), Some(REGISTRY), "{}", package.name);
    }
}

#[test]
fn expressions_are_read_as_spdx_means_them() {
    let allowed = ["MIT".to_owned(), "Apache-2.0 WITH LLVM-exception".to_owned()];
    for met in [
        "MIT",
        "GPL-3.0 OR MIT",
        "GPL-3.0/MIT",
        "(MIT OR X) AND Apache-2.0 WITH LLVM-exception",
        "X AND Y OR MIT",
    ] {
        assert!(is_met(met, &allowed), "{met}");
    }
    for not in ["GPL-3.0", "MIT AND GPL-3.0", "Apache-2.0", "(MIT OR X) AND Y"] {
        assert!(!is_met(not, &allowed), "{not}");
    }
}
