//! The embedded database: one file, one writer, a few readers.
//!
//! SQLite lets one connection write at a time. Instead of letting writers fail on each other's locks, this process
//! has exactly one writing connection, and its pool is the queue in front of it; readers never wait for it (WAL).
//! Other processes on the same file are waited for by the busy timeout. A commit returns when it is on disk
//! (`synchronous=FULL`): an accepted job survives a power cut, as it does on PostgreSQL.
//!
//! # Bounds
//! SQLite has no timeout for statements, so a progress handler ends them: on a writing connection when
//! `database.statement_timeout_seconds` have passed since its transaction began, or at once when the transaction is given
//! up; on a reading one when that time has passed since the read began. What ends so was not applied.
//!
//! # When another process holds the write lock
//! A transaction asks for the lock at its beginning. While it waits, the attendant asks too; if the lock does not move for
//! its whole question, the gate opens: waiting writers are released and further ones refused until the lock can be had.
//! Reads go on.

use std::fmt;
use std::ops::{Deref, DerefMut};
use std::path::Path;
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use secrecy::{ExposeSecret, SecretString};
use sqlx::pool::PoolConnection;
use sqlx::sqlite::{
    Sqlite, SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqlitePool, SqlitePoolOptions,
    SqliteSynchronous,
};
use sqlx::{SqlSafeStr, Transaction};
use sqlx_core::transaction::TransactionManager;
use tokio::sync::watch;

use super::bounds::Bounds;
use super::gate::Gate;
use super::postgres::unusable;
use super::unit::{self, UnitError};
use super::{SqlError, attendant, measure};
use crate::config::DatabaseSettings;
use crate::mode::Mode;

type Manager = <Sqlite as sqlx::Database>::TransactionManager;

/// How long a transaction waits for the lock of another process that comes and goes. (One that stays opens the gate.)
const BUSY_TIMEOUT: Duration = Duration::from_secs(5);

/// Reading connections: list and status queries are short, and each has a thread of its own.
const READERS: u32 = 4;

/// Instructions of SQLite's machine between two calls of the progress handler: some tens of microseconds.
const PROGRESS_PERIOD: i32 = 1_000;

/// Page cache of each connection in KiB (negative by SQLite's convention). There is no memory map beside it: an
/// I/O error on a mapped page would kill the process with SIGBUS where a read returns an error.
const CACHE_KIB: &str = "-16384";

/// The write-ahead log is cut back to this after a checkpoint, so that one burst does not keep the disk for ever.
const JOURNAL_LIMIT_BYTES: &str = "67108864";

/// The pools of an embedded database.
#[derive(Debug, Clone)]
pub struct SqliteDatabase {
    /// Exactly one connection. Writers go through [`Self::write`] or [`Self::begin`], which ask the gate and bound the wait.
    pub writer: SqlitePool,
    /// For reading only: these connections refuse to write.
    pub reader: SqlitePool,
    embedded: Arc<PoolState>,
}

/// What the pools share with the attendant.
#[derive(Debug)]
pub(super) struct PoolState {
    pub(super) gate: Arc<Gate>,
    limit: Arc<WriteLimit>,
    /// Transactions of this process that wait for the lock of the file.
    waiting: AtomicUsize,
    statement_timeout: Duration,
}

impl PoolState {
    pub(super) fn waits_for_lock(&self) -> bool {
        self.waiting.load(Ordering::Relaxed) > 0
    }
}

impl Drop for PoolState {
    fn drop(&mut self) {
        // The attendant finds it gone, and ends.
        self.gate.suspect();
    }
}

/// When the writing connection has to stop; read by its progress handler.
#[derive(Debug)]
struct WriteLimit {
    epoch: Instant,
    /// Microseconds after the epoch.
    deadline: AtomicU64,
    is_given_up: AtomicBool,
}

impl WriteLimit {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            deadline: AtomicU64::new(u64::MAX),
            is_given_up: AtomicBool::new(false),
        }
    }

    fn begin(&self, limit: Duration) {
        let deadline = u64::try_from((self.epoch.elapsed() + limit).as_micros()).unwrap_or(u64::MAX);
        self.deadline.store(deadline, Ordering::Relaxed);
        self.is_given_up.store(false, Ordering::Relaxed);
    }

    /// Work that does not come through the executor has no limit, and must not meet the one of the work before it.
    fn lift(&self) {
        self.deadline.store(u64::MAX, Ordering::Relaxed);
        self.is_given_up.store(false, Ordering::Relaxed);
    }

    fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn may_go_on(&self) -> bool {
        !self.is_given_up.load(Ordering::Relaxed)
            && self.epoch.elapsed().as_micros() < u128::from(self.deadline.load(Ordering::Relaxed))
    }
}

/// Creates the file, empty, and opens both pools without connecting. Must run inside a tokio runtime.
pub(super) fn open(settings: &DatabaseSettings) -> Result<SqliteDatabase, SqlError> {
    let options = connect_options(&settings.url)?;
    create_file(options.get_filename())?;
    let embedded = Arc::new(PoolState {
        gate: Arc::new(Gate::new(options.get_filename().display().to_string())),
        limit: Arc::new(WriteLimit::new()),
        waiting: AtomicUsize::new(0),
        statement_timeout: settings.statement_timeout,
    });
    let limit = Arc::clone(&embedded.limit);
    let lifted = Arc::clone(&embedded.limit);
    let writer = pool_options(settings)
        .max_connections(1)
        .after_connect(move |connection, _| {
            let limit = Arc::clone(&limit);
            Box::pin(async move {
                let mut handle = connection.lock_handle().await?;
                handle.set_progress_handler(PROGRESS_PERIOD, move || limit.may_go_on());
                Ok(())
            })
        })
        .before_acquire(move |_, _| {
            lifted.lift();
            Box::pin(async { Ok(true) })
        })
        .connect_lazy_with(options.clone());
    let limit = settings.statement_timeout;
    let reader = pool_options(settings)
        .max_connections(READERS)
        .after_connect(move |connection, _| Box::pin(limit_read(connection, limit)))
        .before_acquire(move |connection, _| {
            Box::pin(async move { limit_read(connection, limit).await.map(|()| true) })
        })
        .connect_lazy_with(options.clone().pragma("query_only", "ON"));
    let probing = SqliteConnectOptions::new().filename(options.get_filename());
    tokio::spawn(attendant::attend_sqlite(Arc::downgrade(&embedded), probing));
    Ok(SqliteDatabase {
        writer,
        reader,
        embedded,
    })
}

/// Ends whatever is read over this connection when the limit has passed.
async fn limit_read(connection: &mut SqliteConnection, limit: Duration) -> Result<(), sqlx::Error> {
    let deadline = Instant::now() + limit;
    let mut handle = connection.lock_handle().await?;
    handle.set_progress_handler(PROGRESS_PERIOD, move || Instant::now() < deadline);
    Ok(())
}

/// A connection to a file does not go stale, so it is neither tested nor replaced.
fn pool_options(settings: &DatabaseSettings) -> SqlitePoolOptions {
    SqlitePoolOptions::new()
        .acquire_timeout(settings.acquire_timeout)
        .idle_timeout(None)
        .max_lifetime(None)
        .test_before_acquire(false)
}

impl SqliteDatabase {
    /// Runs one unit of work: reads over [`Self::reader`], or writes with [`Self::write`] or [`Self::begin`].
    pub async fn run_any<T>(
        &self,
        operation: &'static str,
        bounds: Bounds,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, UnitError> {
        let embedded = &self.embedded;
        unit::run(
            &embedded.gate,
            operation,
            bounds,
            embedded.statement_timeout,
            work,
        )
        .await
    }

    /// One transaction that holds the write lock from its first moment.
    pub async fn write<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut tx = self.begin().await?;
        let done = work(&mut tx).await?;
        tx.commit().await.map(|()| done)
    }

    /// Begins a transaction that holds the write lock from its first moment.
    pub async fn begin(&self) -> Result<SqliteWriteTx, sqlx::Error> {
        unit::admit(&self.embedded.gate)?;
        let mut tx = SqliteWriteTx {
            connection: self.writer.acquire().await?,
            embedded: Arc::clone(&self.embedded),
            operation: unit::current().0,
            has_ended: false,
        };
        let limit = unit::current().1.statement;
        let limit = limit.map_or(self.embedded.statement_timeout, |limit| {
            limit.min(self.embedded.statement_timeout)
        });
        tx.embedded.limit.begin(limit + BUSY_TIMEOUT);
        let waiting = LockWaiter::count(&self.embedded);
        Manager::begin(&mut tx.connection, Some("BEGIN IMMEDIATE".into_sql_str())).await?;
        drop(waiting);
        tx.embedded.limit.begin(limit);
        unit::sending();
        Ok(tx)
    }

    /// Begins a transaction that reads.
    pub async fn begin_read(&self) -> Result<Transaction<'static, Sqlite>, sqlx::Error> {
        self.reader.begin().await
    }

    /// Follows whether the file can be written.
    pub fn watch(&self) -> watch::Receiver<Mode> {
        self.embedded.gate.watch()
    }

    pub(super) fn gate(&self) -> &Gate {
        &self.embedded.gate
    }
}

/// A transaction that waits for the lock of the file.
struct LockWaiter<'a>(&'a PoolState);

impl<'a> LockWaiter<'a> {
    fn count(embedded: &'a PoolState) -> Self {
        embedded.waiting.fetch_add(1, Ordering::Relaxed);
        Self(embedded)
    }
}

impl Drop for LockWaiter<'_> {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A writing transaction; rolled back when it is dropped.
///
/// A connection whose transaction was dropped is closed: SQLite may have rolled back by itself (a full disk, an interrupt), and
/// the pool's idea of it would be wrong. Its place is taken until its thread is done with the statement.
pub struct SqliteWriteTx {
    connection: PoolConnection<Sqlite>,
    embedded: Arc<PoolState>,
    operation: &'static str,
    /// Committed or rolled back without an error.
    has_ended: bool,
}

impl SqliteWriteTx {
    pub async fn commit(mut self) -> Result<(), sqlx::Error> {
        let done = Manager::commit(&mut self.connection).await;
        self.has_ended = done.is_ok();
        done
    }

    pub async fn rollback(mut self) -> Result<(), sqlx::Error> {
        let done = Manager::rollback(&mut self.connection).await;
        self.has_ended = done.is_ok();
        done
    }
}

impl Deref for SqliteWriteTx {
    type Target = SqliteConnection;

    fn deref(&self) -> &SqliteConnection {
        &self.connection
    }
}

impl DerefMut for SqliteWriteTx {
    fn deref_mut(&mut self) -> &mut SqliteConnection {
        &mut self.connection
    }
}

impl fmt::Debug for SqliteWriteTx {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SqliteWriteTx")
            .field("operation", &self.operation)
            .finish_non_exhaustive()
    }
}

impl Drop for SqliteWriteTx {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.embedded.limit.give_up();
        self.connection.close_on_drop();
        if unit::is_given_up() {
            measure::record_abandoned(self.operation);
        }
    }
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

/// Creates the file and missing directories with permissions for this process' user alone, because the file holds payloads and
/// secrets. SQLite gives its journals the permissions of the file. Existing files and directories keep their permissions.
pub(super) fn create_file(file: &Path) -> Result<(), SqlError> {
    let failed = |path: &Path| {
        let path = path.to_owned();
        move |source| SqlError::Directory { path, source }
    };
    let parent = file.parent().filter(|parent| !parent.as_os_str().is_empty());
    if let Some(directory) = parent {
        let mut builder = std::fs::DirBuilder::new();
        builder.recursive(true);
        #[cfg(unix)]
        std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
        builder.create(directory).map_err(failed(directory))?;
    }
    let mut options = std::fs::OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    match options.open(file) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(failed(file)(error)),
        _ => Ok(()),
    }
}
