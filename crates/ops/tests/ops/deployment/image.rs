//! Dockerfile.production and .dockerignore. `scripts/image` builds and runs them; here is what can be read.

use std::path::{Path, PathBuf};

use super::files::{PORT, read, root};

/// The instructions, with continued lines joined.
fn instructions() -> Vec<String> {
    let text = read("Dockerfile.production").replace("\\\n", " ");
    let lines = text.lines().map(str::trim);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "))
        .collect()
}

#[track_caller]
fn assert_has(start: &str, parts: &[&str]) {
    let all = instructions();
    let found = all
        .iter()
        .any(|line| line.starts_with(start) && parts.iter().all(|part| line.contains(part)));
    assert!(found, "no {start} with {parts:?} in {all:#?}");
}

#[test]
fn the_image_has_every_program_and_nobodys_rights() {
    assert_has(
        "COPY --from=build",
        &[
            "release/api",
            "release/worker",
            "release/beat",
            "release/holdfast",
        ],
    );
    assert_has("USER 10001", &[]);
    assert_has("STOPSIGNAL SIGTERM", &[]);
    assert_has("CMD [\"api\"]", &[]);
    assert_has("EXPOSE", &[&PORT.to_string()]);
    assert_has(
        "HEALTHCHECK",
        &[
            "--interval=30s",
            "CMD [\"/usr/local/bin/holdfast\", \"healthcheck\"]",
        ],
    );
    let all = instructions();
    assert!(
        all.iter().all(|line| !line.starts_with("ENTRYPOINT")),
        "platforms give the whole command"
    );
    assert!(
        all.iter().all(|line| !line.contains("--mount=type=cache")),
        "Railway refuses it"
    );
    // A setting of this name would be a fault of the configuration at run time.
    assert!(
        all.iter()
            .all(|line| !(line.starts_with("ENV") && line.contains("BUILD_SHA")))
    );
}

#[test]
fn dependencies_are_compiled_before_the_commit_is_known() {
    let all = instructions();
    let at = |part: &str| all.iter().position(|line| line.contains(part)).unwrap();
    assert!(at("cargo chef cook") < at("ARG HOLDFAST_BUILD_SHA"));
    for package in ["holdfast-api", "holdfast-worker", "holdfast-beat", "holdfast-cli"] {
        assert_has("RUN cargo chef cook", &["--locked", package]);
        assert_has(
            "RUN HOLDFAST_BUILD_SHA",
            &["cargo build --release --locked", package],
        );
    }
    // It measures, and is not run in production.
    assert!(all.iter().all(|line| !line.contains("holdfast-bench")));
    // The toolchain of the image is no older than the workspace asks for.
    let wanted = read("Cargo.toml");
    let (_, wanted) = wanted.split_once("rust-version = \"1.").unwrap();
    let wanted: u32 = wanted.split('"').next().unwrap().parse().unwrap();
    let base = all[0].split("rust:1.").nth(1).unwrap();
    let has: u32 = base.split('-').next().unwrap().parse().unwrap();
    assert!(
        has >= wanted,
        "rust 1.{has} in Dockerfile.production, 1.{wanted} in Cargo.toml"
    );
}

#[test]
fn the_context_holds_what_the_build_needs_and_no_secrets() {
    let ignore = read(".dockerignore");
    let kept: Vec<&str> = ignore.lines().filter_map(|line| line.strip_prefix('!')).collect();
    assert!(
        ignore.lines().any(|line| line == "*"),
        "everything else is left out"
    );
    for path in &kept {
        assert!(root().join(path).exists(), "{path}");
    }
    for needed in ["Cargo.toml", "Cargo.lock", "crates", "migrations", "tests"] {
        assert!(kept.contains(&needed), "{needed} is needed");
    }
}

/// What the sources take in at compile time is in the context: else the image alone would not build.
#[test]
fn every_included_file_is_in_the_context() {
    let ignore = read(".dockerignore");
    let kept: Vec<PathBuf> = ignore
        .lines()
        .filter_map(|line| line.strip_prefix('!'))
        .map(|path| root().join(path))
        .collect();
    let mut included = 0;
    for package in std::fs::read_dir(root().join("crates")).unwrap() {
        for source in sources(&package.unwrap().path().join("src")) {
            for path in included_by(&std::fs::read_to_string(&source).unwrap()) {
                let full = source.parent().unwrap().join(&path);
                let full = full
                    .canonicalize()
                    .unwrap_or_else(|error| panic!("{}: {path}: {error}", source.display()));
                assert!(
                    kept.iter().any(|kept| full.starts_with(kept)),
                    "{} takes in {path}, which is not in the context",
                    source.display()
                );
                included += 1;
            }
        }
    }
    assert!(included >= 5, "only {included} included files were found");
}

/// The paths of `include_str!("…")` and `include_bytes!("…")`.
fn included_by(text: &str) -> Vec<String> {
    let paths = ["include_str!(\"", "include_bytes!(\""]
        .into_iter()
        .flat_map(|start| {
            text.split(start)
                .skip(1)
                .filter_map(|rest| rest.split('"').next())
        });
    paths.map(str::to_owned).collect()
}

fn sources(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// `scripts/image --debian` makes the base itself, and with the same cargo-chef.
#[test]
fn the_script_has_the_cargo_chef_of_the_dockerfile() {
    let script = read("scripts/image");
    let (_, version) = script.split_once("readonly CHEF=").unwrap();
    let version = version.lines().next().unwrap();
    assert_has(
        "RUN command -v cargo-chef",
        &[&format!("--version {version} cargo-chef")],
    );
}
