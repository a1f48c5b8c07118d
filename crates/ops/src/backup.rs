//! `holdfast backup`: a copy of the embedded database in one file, of one moment, beside running services.
//!
//! SQLite writes the copy itself (`VACUUM INTO`) in one read transaction: what was committed before is in it, nothing else.
//! The copy is checked and flushed to the disk before the command says that it is done; a copy that fails is removed. An
//! existing file is never overwritten. While it runs, writers go on, and the write-ahead log grows by what they write.

use std::fs::OpenOptions;
use std::io;
use std::path::{Path, PathBuf};

use holdfast_core::config::Settings;
use serde::Serialize;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection as _, Row as _};

#[derive(Debug, Serialize)]
pub struct Report {
    pub file: PathBuf,
    pub bytes: u64,
}

#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    #[error("DATABASE_URL names no SQLite database: back PostgreSQL up with pg_dump (docs/backup.md)")]
    NotSqlite,
    #[error("there is no database at {}", .0.display())]
    NoDatabase(PathBuf),
    #[error("{} cannot be created; an existing file is not overwritten", file.display())]
    File { file: PathBuf, source: io::Error },
    #[error("the database cannot be copied")]
    Copy(#[source] sqlx::Error),
    #[error(
        "the copy is damaged, and was removed: check the database with `sqlite3 FILE 'pragma integrity_check'`"
    )]
    Damaged,
    #[error("the copy cannot be flushed to the disk")]
    Flush(#[source] io::Error),
}

/// Writes a copy of the database that the settings name into a new file, which only this user can read.
///
/// # Errors
/// See [`BackupError`]; then there is no file.
pub async fn backup(settings: &Settings, file: &Path) -> Result<Report, BackupError> {
    let database = settings.embedded_path().ok_or(BackupError::NotSqlite)?;
    if !database.is_file() {
        return Err(BackupError::NoDatabase(database));
    }
    create(file).map_err(|source| BackupError::File {
        file: file.to_owned(),
        source,
    })?;
    let made = write(&database, file).await;
    if made.is_err() {
        std::fs::remove_file(file).ok();
    }
    Ok(Report {
        file: file.to_owned(),
        bytes: made?,
    })
}

/// An empty file is what `VACUUM INTO` accepts. Made here, so that it is never readable for others.
fn create(file: &Path) -> io::Result<()> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(file).map(drop)
}

async fn write(database: &Path, file: &Path) -> Result<u64, BackupError> {
    let copied = async {
        let mut from = SqliteConnection::connect_with(&reading(database)).await?;
        sqlx::query("vacuum into ?1")
            .bind(file.to_string_lossy().into_owned())
            .execute(&mut from)
            .await?;
        from.close().await?;
        let mut copy = SqliteConnection::connect_with(&reading(file)).await?;
        let verdict: String = sqlx::raw_sql("pragma integrity_check(1)")
            .fetch_one(&mut copy)
            .await?
            .try_get(0)?;
        copy.close().await?;
        Ok(verdict == "ok")
    };
    if !copied.await.map_err(BackupError::Copy)? {
        return Err(BackupError::Damaged);
    }
    flush(file).map_err(BackupError::Flush)
}

fn reading(file: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(file)
        .read_only(true)
        .create_if_missing(false)
}

fn flush(file: &Path) -> io::Result<u64> {
    let open = std::fs::File::open(file)?;
    open.sync_all()?;
    Ok(open.metadata()?.len())
}
