//! Which build this is: the version, and the commit where the build was told it.
//!
//! `HOLDFAST_BUILD_SHA` is read when this crate is compiled (Dockerfile.production passes it on), not when it runs: an
//! image says what it was made of, whatever its environment.

use std::sync::LazyLock;

/// As many characters of a commit as tell commits apart.
const SHA_LENGTH: usize = 12;

/// `0.1.0+3f2a9c1d0b7e`, or `0.1.0` where the build was not told its commit.
pub fn version() -> &'static str {
    static VERSION: LazyLock<String> =
        LazyLock::new(|| describe(env!("CARGO_PKG_VERSION"), option_env!("HOLDFAST_BUILD_SHA")));
    &VERSION
}

fn describe(version: &str, sha: Option<&str>) -> String {
    let sha: String = sha
        .unwrap_or_default()
        .chars()
        .filter(char::is_ascii_alphanumeric)
        .take(SHA_LENGTH)
        .collect();
    if sha.is_empty() {
        return version.to_owned();
    }
    format!("{version}+{sha}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commit_is_build_metadata() {
        let sha = "3f2a9c1d0b7e55aa3f2a9c1d0b7e55aa3f2a9c1d";
        assert_eq!(describe("0.1.0", Some(sha)), "0.1.0+3f2a9c1d0b7e");
    }

    #[test]
    fn a_build_that_was_not_told_has_the_bare_version() {
        for nothing in [None, Some(""), Some("  \n")] {
            assert_eq!(describe("0.1.0", nothing), "0.1.0");
        }
    }
}
