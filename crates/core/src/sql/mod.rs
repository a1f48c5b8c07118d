//! The SQL side: PostgreSQL, or SQLite when embedded. Pools, readiness and migrations; no statement of a job.
//!
//! Invariants: opening never needs the server to be up; every wait has a deadline; no error, log line or `Debug`
//! holds a URL. When the database goes away, a statement fails within the acquire timeout or its caller's own
//! deadline and the pool mends itself: dead connections are dropped as they are met, new ones opened on demand.
//! Which failures are worth another try is decided in [`crate::failure`], never here.

mod error;
mod measure;
mod migrations;
mod postgres;
mod schema;
mod sqlite;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use sqlx::postgres::PgPool;
use tokio::time::{Instant, timeout};

pub use error::SqlError;
pub use measure::measure;
pub use migrations::{MIGRATION_DEADLINE, MigrationReport, migrate, migrate_within};
pub use schema::wait_for_schema;
pub use sqlite::SqliteDatabase;

use crate::backoff::Backoff;
use crate::config::DatabaseSettings;
use crate::shutdown::Shutdown;

/// Longest single attempt while waiting for a database to come up.
const READY_ATTEMPT: Duration = Duration::from_secs(5);

/// Between those attempts: a database that wakes from zero takes some hundred milliseconds.
const READY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));

/// An open database. Clones share the pools.
#[derive(Debug, Clone)]
pub enum Database {
    Postgres(PgPool),
    Sqlite(SqliteDatabase),
}

/// A pool at one moment. SQLite's two pools are added up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SqlPoolStats {
    /// Open connections.
    pub size: u32,
    /// Open connections that nobody uses.
    pub idle: u32,
    /// Most connections there may be.
    pub max: u32,
}

impl Database {
    /// Opens the pools without connecting; the server may come later. Must be called inside a tokio runtime.
    ///
    /// Errors only for what no retry mends: an unusable URL, or a directory that cannot be made.
    pub fn open(settings: &DatabaseSettings) -> Result<Self, SqlError> {
        match Dialect::of(&settings.url)? {
            Dialect::Postgres => postgres::open(settings).map(Self::Postgres),
            Dialect::Sqlite => sqlite::open(settings).map(Self::Sqlite),
        }
    }

    /// `postgres` or `sqlite`.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Postgres(_) => "postgres",
            Self::Sqlite(_) => "sqlite",
        }
    }

    /// One round trip to the server behind any pooler; how long it took, the wait for a connection included.
    pub async fn ping(&self, deadline: Duration) -> Result<Duration, SqlError> {
        let started = Instant::now();
        timeout(deadline, self.round_trip())
            .await
            .map_err(|_| SqlError::Deadline(deadline))??;
        Ok(started.elapsed())
    }

    /// A statement, because PgBouncer answers sqlx' protocol-level ping by itself, and one that reads the file,
    /// because SQLite answers a bare `SELECT 1` without it.
    async fn round_trip(&self) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(pool) => sqlx::raw_sql("SELECT 1").execute(pool).await.map(drop),
            Self::Sqlite(database) => sqlx::raw_sql("SELECT 1 FROM sqlite_schema LIMIT 1")
                .execute(&database.reader)
                .await
                .map(drop),
        }
    }

    /// Waits until the database answers, trying again with backoff while its failures are transient.
    ///
    /// Errors with the last failure once `deadline` has passed; at once with one that waiting does not mend, such
    /// as a wrong password; and with [`SqlError::Stopped`] when the process is asked to stop.
    pub async fn wait_until_ready(&self, deadline: Duration, shutdown: &Shutdown) -> Result<(), SqlError> {
        let give_up = Instant::now() + deadline;
        let attempts = async {
            for attempt in 1.. {
                let left = give_up.saturating_duration_since(Instant::now());
                let Err(error) = self.ping(left.min(READY_ATTEMPT)).await else {
                    break;
                };
                let pause = READY_BACKOFF.delay(attempt);
                if !error.is_transient() || error.is_refused() || Instant::now() + pause >= give_up {
                    return Err(error);
                }
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    attempt,
                    "the database is not ready yet, trying again"
                );
                tokio::time::sleep(pause).await;
            }
            Ok(())
        };
        tokio::select! {
            ready = attempts => ready,
            () = shutdown.wait() => Err(SqlError::Stopped),
        }
    }

    /// The migrations this binary has and the database has not, oldest first; empty when it is up to date.
    pub async fn pending_migrations(&self) -> Result<Vec<String>, SqlError> {
        migrations::pending(self).await
    }

    pub fn pool_stats(&self) -> SqlPoolStats {
        match self {
            Self::Postgres(pool) => stats_of(pool),
            Self::Sqlite(SqliteDatabase { writer, reader }) => {
                let (writer, reader) = (stats_of(writer), stats_of(reader));
                SqlPoolStats {
                    size: writer.size + reader.size,
                    idle: writer.idle + reader.idle,
                    max: writer.max + reader.max,
                }
            }
        }
    }

    /// Closes every connection, waiting up to `deadline` for those in use. SQLite folds its log into the file.
    pub async fn close(&self, deadline: Duration) {
        let closing = async {
            match self {
                Self::Postgres(pool) => pool.close().await,
                Self::Sqlite(SqliteDatabase { writer, reader }) => {
                    reader.close().await;
                    writer.close().await;
                }
            }
        };
        if timeout(deadline, closing).await.is_err() {
            tracing::warn!(
                deadline_ms = deadline.as_millis() as u64,
                "database connections were still in use at the end"
            );
        }
    }
}

fn stats_of<DB: sqlx::Database>(pool: &sqlx::Pool<DB>) -> SqlPoolStats {
    SqlPoolStats {
        size: pool.size(),
        idle: u32::try_from(pool.num_idle()).unwrap_or(u32::MAX),
        max: pool.options().get_max_connections(),
    }
}

/// Checks a database URL as far as that is possible without connecting.
pub fn check_url(url: &SecretString) -> Result<(), SqlError> {
    match Dialect::of(url)? {
        Dialect::Postgres => postgres::connect_options(url).map(drop),
        Dialect::Sqlite => sqlite::connect_options(url).map(drop),
    }
}

/// Which database a URL means, by its scheme.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Postgres,
    Sqlite,
}

impl Dialect {
    fn of(url: &SecretString) -> Result<Self, SqlError> {
        match url.expose_secret().split_once(':').map(|(scheme, _)| scheme) {
            Some("postgres" | "postgresql") => Ok(Self::Postgres),
            Some("sqlite") => Ok(Self::Sqlite),
            _ => Err(SqlError::Configuration {
                problem: "it must start with postgres://, postgresql:// or sqlite://".to_owned(),
            }),
        }
    }
}
