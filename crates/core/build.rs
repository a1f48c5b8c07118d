//! Lists the files of `migrations/` for `src/sql/migrations/files.rs`: the folder is the only list there is.
//!
//! The build fails where the numbers have a gap, or where the two dialects do not have the same migrations: a binary
//! that misses one must not exist.

#![allow(
    clippy::disallowed_methods,
    reason = "cargo tells a build script what it needs by the environment"
)]

use std::error::Error;
use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::{env, fs};

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../migrations");
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-changed={}", root.display());
    let postgres = migrations_in(&root.join("postgres"))?;
    let sqlite = migrations_in(&root.join("sqlite"))?;
    if names(&postgres) != names(&sqlite) {
        return Err(format!(
            "migrations/postgres and migrations/sqlite must hold the same names: {:?} and {:?}",
            names(&postgres),
            names(&sqlite)
        )
        .into());
    }
    let mut code = String::new();
    write_list(&mut code, "POSTGRES", &postgres)?;
    write_list(&mut code, "SQLITE", &sqlite)?;
    fs::write(Path::new(&env::var("OUT_DIR")?).join("migrations.rs"), code)?;
    Ok(())
}

/// A file of the folder: its number, its name without the ending, and where it is.
type MigrationFile = (i64, String, PathBuf);

fn migrations_in(folder: &Path) -> Result<Vec<MigrationFile>, Box<dyn Error>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_stem()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        let number = name.split_once('_').map(|(number, _)| number);
        let well_named = path.extension().is_some_and(|ending| ending == "sql")
            && number.is_some_and(|number| number.len() == 4);
        let version = number.and_then(|number| number.parse().ok());
        let Some(version) = version.filter(|_| well_named) else {
            return Err(format!("{} is not named NNNN_name.sql", path.display()).into());
        };
        found.push((version, name, path));
    }
    found.sort();
    for (expected, (version, name, _)) in (1..).zip(&found) {
        if *version != expected {
            return Err(format!(
                "{}: {name} stands where number {expected:04} is expected",
                folder.display()
            )
            .into());
        }
    }
    Ok(found)
}

fn names(found: &[MigrationFile]) -> Vec<&str> {
    found.iter().map(|(_, name, _)| name.as_str()).collect()
}

fn write_list(code: &mut String, list: &str, found: &[MigrationFile]) -> Result<(), Box<dyn Error>> {
    writeln!(code, "pub(super) const {list}: &[Migration] = &[")?;
    for (version, name, path) in found {
        let path = path.canonicalize()?;
        writeln!(
            code,
            "    Migration {{ version: {version}, name: {name:?}, sql: include_str!({:?}) }},",
            path.display()
        )?;
    }
    writeln!(code, "];")?;
    Ok(())
}
