//! Directories: one per server, gone with it; and one per user that test processes share (port leases, the
//! cluster template).

use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::unistd::Uid;
use tempfile::TempDir;

use crate::{process, reaper};

/// Prefix of everything the testkit creates in the system's temp dir; the undertaker removes nothing else.
pub(crate) const PREFIX: &str = "holdfast-testkit-";

/// Linux' file system in memory; containers often leave it too small.
const MEMORY_DISK: &str = "/dev/shm";
const MEMORY_DISK_MIN_KIB: u64 = 2 * 1024 * 1024;
const DF_LIMIT: Duration = Duration::from_secs(5);

/// A fresh private directory, removed on drop or, when this process is killed, by the undertaker.
pub(crate) fn private_dir() -> Result<TempDir> {
    private_dir_in(&std::env::temp_dir())
}

/// The same in memory, where there is plenty of it: for data that need not survive a power cut. File systems
/// on disk may take a millisecond to create each of the hundreds of files of a database.
pub(crate) async fn private_dir_in_memory() -> Result<TempDir> {
    if available_kib(MEMORY_DISK)
        .await
        .is_some_and(|kib| kib >= MEMORY_DISK_MIN_KIB)
    {
        return private_dir_in(Path::new(MEMORY_DISK));
    }
    private_dir()
}

fn private_dir_in(parent: &Path) -> Result<TempDir> {
    let dir = tempfile::Builder::new()
        .prefix(PREFIX)
        .tempdir_in(parent)
        .with_context(|| format!("creating a directory in {}", parent.display()))?;
    reaper::remove_afterwards(dir.path());
    Ok(dir)
}

/// None if there is no such file system.
async fn available_kib(mount: &str) -> Option<u64> {
    let mut df = Command::new("df");
    df.args(["-Pk", mount]);
    let output = process::run(df, DF_LIMIT).await.ok()?;
    // A header, then: device, blocks, used, available, ….
    let text = String::from_utf8_lossy(&output.stdout);
    text.lines().nth(1)?.split_whitespace().nth(3)?.parse().ok()
}

/// The directory that all test processes of this user share. Readable by others, because a PostgreSQL started
/// by root runs as another user; refused if somebody else owns it.
pub(crate) fn shared_dir() -> Result<PathBuf> {
    let uid = Uid::effective();
    let dir = std::env::temp_dir().join(format!("{PREFIX}shared-{uid}"));
    match fs::DirBuilder::new().mode(0o755).create(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => ensure_own_dir(&dir, uid)?,
        Err(error) => return Err(error).with_context(|| format!("creating {}", dir.display())),
    }
    Ok(dir)
}

fn ensure_own_dir(dir: &Path, uid: Uid) -> Result<()> {
    let found = fs::symlink_metadata(dir).with_context(|| format!("reading {}", dir.display()))?;
    ensure!(
        found.is_dir() && found.uid() == uid.as_raw(),
        "{} belongs to another user or is no directory: remove it",
        dir.display()
    );
    Ok(())
}
