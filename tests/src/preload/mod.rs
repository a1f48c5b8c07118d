//! A disk that stalls and a clock that steps: libraries that a server or a process of ours loads before the system's own.
//!
//! Ours are compiled from C by the compiler that links Rust programs: C exports symbols without unsafe Rust.

use std::fs::{self, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, ensure};
use holdfast_testkit::PostgresOptions;
use tempfile::TempDir;

/// Where packages put libfaketime.
const FAKETIME: [&str; 4] = [
    "/usr/lib/x86_64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib/aarch64-linux-gnu/faketime/libfaketimeMT.so.1",
    "/usr/lib64/faketime/libfaketimeMT.so.1",
    "/usr/lib/faketime/libfaketimeMT.so.1",
];

/// The environment of a process of ours whose clock is off by so much: `+5m`, `-5m`. Its monotonic clock is true.
pub fn clock_off_by(offset: &str) -> Result<[(&'static str, &str); 4]> {
    let library = FAKETIME
        .into_iter()
        .find(|path| Path::new(path).exists())
        .context("libfaketime is not installed: run scripts/test once, or install the package libfaketime")?;
    Ok([
        ("LD_PRELOAD", library),
        ("FAKETIME", offset),
        ("FAKETIME_DONT_FAKE_MONOTONIC", "1"),
        ("DONT_FAKE_MONOTONIC", "1"),
    ])
}

/// A compiled library, and the file by which a test rules it. Both are in a folder that the server can read, which runs as another
/// user.
#[derive(Debug)]
struct Library {
    _dir: TempDir,
    compiled: PathBuf,
    file: PathBuf,
}

impl Library {
    fn compile(name: &str, text: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755))?;
        let (source, library) = (
            dir.path().join(format!("{name}.c")),
            dir.path().join(format!("{name}.so")),
        );
        fs::write(&source, text)?;
        let compiled = Command::new("cc")
            .args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"])
            .args([&library, &source])
            .arg("-ldl")
            .output()
            .context("there is no C compiler: Rust links with it, too")?;
        let printed = String::from_utf8_lossy(&compiled.stderr);
        ensure!(compiled.status.success(), "{name}.c: {printed}");
        Ok(Self {
            compiled: library,
            file: dir.path().join(name),
            _dir: dir,
        })
    }

    /// A server that loads it, and finds the file by the variable.
    fn loaded(&self, options: PostgresOptions, variable: &str) -> PostgresOptions {
        options
            .env("LD_PRELOAD", self.compiled.to_string_lossy())
            .env(variable, self.file.to_string_lossy())
    }
}

/// A disk whose writes do not become durable while it stalls. Reads go on.
#[derive(Debug)]
pub struct StallingDisk(Library);

impl StallingDisk {
    pub fn new() -> Result<Self> {
        Library::compile("stalled_disk", include_str!("stalled_disk.c")).map(Self)
    }

    /// A server on this disk, which waits for it at each commit.
    pub fn server(&self) -> PostgresOptions {
        self.0.loaded(PostgresOptions::default(), "STALLED_DISK")
    }

    pub fn stall(&self) -> Result<()> {
        fs::write(&self.0.file, "").context("the disk cannot be stalled")
    }

    pub fn go_on(&self) -> Result<()> {
        fs::remove_file(&self.0.file).context("the disk does not stall")
    }
}

/// The clock of a database's host, which can be set.
#[derive(Debug)]
pub struct SteppingClock(Library);

impl SteppingClock {
    pub fn new() -> Result<Self> {
        let library = Library::compile("clock_offset", include_str!("clock_offset.c"))?;
        fs::write(&library.file, 0_i64.to_ne_bytes())?;
        Ok(Self(library))
    }

    /// A server with this clock.
    pub fn server(&self) -> PostgresOptions {
        self.0.loaded(PostgresOptions::fast(), "CLOCK_OFFSET")
    }

    /// Seconds from the true time. Written in place: the server has the file mapped into its memory.
    pub fn set(&self, seconds: i64) -> Result<()> {
        let mut file = OpenOptions::new().write(true).open(&self.0.file)?;
        file.write_all(&seconds.to_ne_bytes())
            .context("the clock cannot be set")
    }
}
