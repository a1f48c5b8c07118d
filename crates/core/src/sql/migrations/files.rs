//! The files of `migrations/`, embedded by the build script, and how each of them is run.
//!
//! A PostgreSQL file may begin with one line that says how it is run:
//!
//! | first line | run |
//! | --- | --- |
//! | none | all of it in one transaction, with the entry that records it |
//! | `-- holdfast: no-transaction` | statement by statement, each ended by `;` at the end of a line; each may be repeated |
//! | `-- holdfast: batches after POSITION` | one statement, repeated from POSITION until it returns null |
//!
//! A statement of batches holds `:after`, the position that the batch before it returned, and `:rows`, the most rows that it
//! may change. It returns one row with the new position as text, or null when nothing is left, and may be repeated.
//!
//! SQLite runs every file in the one transaction of the run; a file that has nothing to do there holds a comment alone.

use std::fmt::Write;

use sha2::{Digest, Sha256};

/// One file of `migrations/`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Migration {
    pub(super) version: i64,
    /// The file's name without its ending: `0001_jobs`.
    pub(super) name: &'static str,
    pub(super) sql: &'static str,
}

include!(concat!(env!("OUT_DIR"), "/migrations.rs"));

/// How a file is run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    Transaction,
    Statements,
    Batches { first: &'static str },
}

const HEADER: &str = "-- holdfast: ";

impl Migration {
    pub(super) fn method(&self) -> Method {
        let header = self.sql.lines().next().and_then(|line| line.strip_prefix(HEADER));
        match header {
            Some("no-transaction") => Method::Statements,
            Some(batches) => Method::Batches {
                first: batches.strip_prefix("batches after ").unwrap_or_default(),
            },
            None => Method::Transaction,
        }
    }

    /// The statements of a file that is run without a transaction.
    pub(super) fn statements(&self) -> impl Iterator<Item = &'static str> {
        self.sql
            .split(";\n")
            .map(without_comments)
            .filter(|statement| !statement.is_empty())
    }

    pub(super) fn checksum(&self) -> String {
        Sha256::digest(self.sql)
            .iter()
            .fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
                hex
            })
    }

    /// The statement that records it as applied. Nothing in it comes from outside this binary.
    pub(super) fn entry(&self) -> String {
        let Self { version, name, .. } = self;
        let checksum = self.checksum();
        format!(
            "INSERT INTO holdfast_migrations (version, name, checksum) VALUES ({version}, '{name}', '{checksum}')"
        )
    }
}

/// A statement without the comment lines above it.
fn without_comments(statement: &'static str) -> &'static str {
    let mut rest = statement.trim_start();
    while rest.starts_with("--") {
        rest = rest.split_once('\n').map_or("", |(_, after)| after).trim_start();
    }
    rest.trim_end().trim_end_matches(';')
}

/// The index that a statement builds concurrently, and its table.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct ConcurrentIndex<'a> {
    pub(super) name: &'a str,
    pub(super) table: &'a str,
}

impl<'a> ConcurrentIndex<'a> {
    /// `None` for every other statement.
    pub(super) fn built_by(statement: &'a str) -> Option<Self> {
        let mut words = statement
            .split_whitespace()
            .filter(|word| !["unique", "if", "not", "exists"].contains(word));
        let built = words.next() == Some("create")
            && words.next() == Some("index")
            && words.next() == Some("concurrently");
        let name = words.next().filter(|_| built)?;
        let table = words.nth(1)?;
        Some(Self { name, table })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_build_script_finds_every_file() {
        for (folder, migrations) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let path = format!("{}/../../migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let names: Vec<String> = migrations
                .iter()
                .map(|migration| format!("{}.sql", migration.name))
                .collect();
            assert_eq!(files, names, "migrations/{folder}");
        }
    }

    #[test]
    fn migrations_that_were_applied_to_databases_are_never_edited() {
        // The first release's. A change here means that its databases are refused as edited.
        let sums: Vec<String> = POSTGRES[..12]
            .iter()
            .chain(&SQLITE[..12])
            .map(Migration::checksum)
            .collect();
        assert_eq!(hex_of(&sums.concat()), FIRST_RELEASE);
    }

    const FIRST_RELEASE: &str = "bc7cc0aea567332684dcc2cfa96dd34ca53272c10730df4052820b3508ce0a02";

    fn hex_of(text: &str) -> String {
        Migration {
            version: 0,
            name: "",
            sql: Box::leak(text.to_owned().into_boxed_str()),
        }
        .checksum()
    }

    #[test]
    fn every_file_says_how_it_is_run_in_words_that_the_runner_knows() {
        for migration in POSTGRES {
            let name = migration.name;
            match migration.method() {
                Method::Transaction => assert!(
                    !migration.sql.contains(HEADER.trim()),
                    "{name}: only the first line counts"
                ),
                Method::Statements => {
                    assert!(
                        !migration.sql.contains("$$"),
                        "{name}: a function is created in a transaction"
                    );
                    assert!(migration.statements().count() > 0, "{name}");
                    for statement in migration.statements() {
                        let concurrent = statement.contains("concurrently");
                        assert_eq!(
                            ConcurrentIndex::built_by(statement).is_some(),
                            concurrent,
                            "{statement}"
                        );
                        assert!(!concurrent || statement.contains("if not exists"), "{statement}");
                    }
                }
                Method::Batches { first } => {
                    assert!(!first.is_empty(), "{name}: unknown header");
                    assert!(
                        migration.sql.contains(":after") && migration.sql.contains(":rows"),
                        "{name}"
                    );
                }
            }
        }
    }

    #[test]
    fn statements_lose_the_comments_between_them() {
        let migration = Migration {
            version: 1,
            name: "0001_test",
            sql: "-- holdfast: no-transaction\n-- Why.\ncreate unique index concurrently if not exists a\n    on t (x);\n\n-- More.\nanalyze t;\n",
        };
        let statements: Vec<&str> = migration.statements().collect();
        assert_eq!(
            statements,
            [
                "create unique index concurrently if not exists a\n    on t (x)",
                "analyze t"
            ]
        );
        assert_eq!(
            ConcurrentIndex::built_by(statements[0]),
            Some(ConcurrentIndex {
                name: "a",
                table: "t"
            })
        );
        assert_eq!(ConcurrentIndex::built_by(statements[1]), None);
    }
}
