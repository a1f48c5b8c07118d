//! The embedded database: one file, one writer, a few readers.
//!
//! SQLite lets one connection write at a time. Instead of letting writers fail on each other's locks, this process
//! has exactly one writing connection, and its pool is the queue in front of it; readers never wait for it (WAL).
//! Other processes on the same file are waited for by the busy timeout. A commit returns when it is on disk
//! (`synchronous=FULL`): an accepted job survives a power cut, as it does on PostgreSQL.

use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::sqlite::{
    SqliteConnectOptions, SqliteJournalMode, SqlitePool, SqlitePoolOptions, SqliteSynchronous,
};

use super::SqlError;
use super::postgres::unusable;
use crate::config::DatabaseSettings;

/// How long a statement waits for the lock of another process.
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reading connections: list and status queries are short, and each has a thread of its own.
const READERS: u32 = 4;

/// Page cache of each connection in KiB (negative by SQLite's convention). There is no memory map beside it: an
/// I/O error on a mapped page would kill the process with SIGBUS where a read returns an error.
const CACHE_KIB: &str = "-16384";

/// The write-ahead log is cut back to this after a checkpoint, so that one burst does not keep the disk for ever.
const JOURNAL_LIMIT_BYTES: &str = "67108864";

/// The pools of an embedded database.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    /// Exactly one connection. Whoever writes goes through here.
    pub writer: SqlitePool,
    /// For reading only: these connections refuse to write.
    pub reader: SqlitePool,
}

/// Makes the file's directory and opens both pools without connecting. Must run inside a tokio runtime.
pub(super) fn open(settings: &DatabaseSettings) -> Result<SqliteDatabase, SqlError> {
    let options = connect_options(&settings.url)?;
    create_directory(options.get_filename())?;
    let writer = pool_options(settings)
        .max_connections(1)
        .connect_lazy_with(options.clone());
    let reader = pool_options(settings)
        .max_connections(READERS)
        .connect_lazy_with(options.pragma("query_only", "ON"));
    Ok(SqliteDatabase { writer, reader })
}

/// A connection to a file does not go stale, so it is neither tested nor replaced.
fn pool_options(settings: &DatabaseSettings) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

/// The options of a writing connection.
pub(super) fn connect_options(url: &SecretString) -> Result<SqliteConnectOptions, SqlError> {
    let url = url.expose_secret();
    if url.contains(":memory:") || url.contains("mode=memory") {
        let problem = "an in-memory SQLite database is gone with its connection; name a file".to_owned();
        return Err(SqlError::Configuration { problem });
    }
    let options = SqliteConnectOptions::from_str(url).map_err(|error| unusable(&error))?;
    if options.get_filename().as_os_str().is_empty() {
        return Err(SqlError::Configuration {
            problem: "it names no file".to_owned(),
        });
    }
    Ok(options
        .create_if_missing(true)
        .journal_mode(SqliteJournalMode::Wal)
        .synchronous(SqliteSynchronous::Full)
        .busy_timeout(BUSY_TIMEOUT)
        .foreign_keys(true)
        .pragma("temp_store", "memory")
        .pragma("cache_size", CACHE_KIB)
        .pragma("journal_size_limit", JOURNAL_LIMIT_BYTES))
}

pub(super) fn create_directory(file: &Path) -> Result<(), SqlError> {
    let Some(directory) = file.parent().filter(|parent| !parent.as_os_str().is_empty()) else {
        return Ok(());
    };
    std::fs::create_dir_all(directory).map_err(|source| SqlError::Directory {
        path: directory.to_owned(),
        source,
    })
}
