//! The pages that say which test proves what name tests that exist.

use std::collections::HashSet;
use std::path::Path;

use crate::readme::{code_spans, read, root};

const PAGES: [&str; 3] = [
    "docs/security-model.md",
    "docs/reliability.md",
    "docs/encryption.md",
];
/// Where tests are, and in which languages.
const SOURCES: [&str; 3] = ["crates", "tests", "clients"];
const LANGUAGES: [&str; 4] = ["rs", "py", "mjs", "ts"];

/// Every word of the sources that could be the name of a test. Macros write some: a list of names, for each database.
fn words() -> HashSet<String> {
    let mut words = HashSet::new();
    let mut directories: Vec<_> = SOURCES.iter().map(|name| root().join(name)).collect();
    while let Some(directory) = directories.pop() {
        for entry in std::fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            let name = path.file_name().unwrap_or_default();
            if path.is_dir() {
                if name != "node_modules" && name != "target" {
                    directories.push(path);
                }
            } else if has_language(&path) {
                let text = std::fs::read_to_string(&path).unwrap();
                let separate = |letter: char| !letter.is_ascii_alphanumeric() && letter != '_';
                words.extend(
                    text.split(separate)
                        .filter(|word| is_long(word))
                        .map(str::to_owned),
                );
            }
        }
    }
    words
}

fn has_language(path: &Path) -> bool {
    let extension = path.extension().and_then(|extension| extension.to_str());
    extension.is_some_and(|extension| LANGUAGES.contains(&extension))
}

/// The names of tests are sentences.
fn is_long(word: &str) -> bool {
    word.matches('_').count() >= 3
}

#[test]
fn every_test_that_a_page_names_exists() {
    let words = words();
    let mut named = 0;
    for page in PAGES {
        for span in code_spans(&read(page)) {
            let is_name = span
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || "_:".contains(c));
            let name = span.rsplit("::").next().unwrap_or_default();
            if !is_name || !is_long(name) {
                continue;
            }
            named += 1;
            // A macro adds the database to some names.
            let base = name
                .trim_end_matches("_on_postgres")
                .trim_end_matches("_on_sqlite");
            assert!(
                words.contains(name) || words.contains(base),
                "{page} names {span}, which is no test"
            );
            if let Some((package, _)) = span.split_once("::") {
                assert!(
                    root().join("crates").join(package).is_dir(),
                    "{page}: {span} is in no crate"
                );
            }
        }
    }
    assert!(named > 60, "{named} names were found");
}
