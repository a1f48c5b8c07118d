//! The SQL side: PostgreSQL, or SQLite when embedded. No statement of a job, and no product.
//!
//! Statements that mean the same on both databases are written once, in the [`dialect`].
//!
//! # One executor
//! All work on the database is a *unit of work* with a name ([`PostgresDatabase::run`], [`Database::run_any`]). One place
//! (`unit.rs`) admits it, bounds it, gives it up, tells the gate what came of it, and measures it.
//!
//! # Invariants
//! - Opening never needs the server to be up; no error, log line or `Debug` holds a URL.
//! - Every deadline is the server's too (`bounds.rs`), and the server's answer arrives before the client gives up.
//! - What is given up ends: it is cancelled, and its connection counts until the server is done with it (`pool.rs`).
//! - An unavailable database costs the first callers up to a second and all others microseconds (`gate.rs`), until the
//!   attendant's probe is answered (`attendant.rs`).
//! - Which failures are worth another try, and which mean an outage, is decided in [`crate::failure`], never here.

mod attendant;
mod bounds;
pub mod dialect;
mod error;
mod gate;
mod measure;
mod migrations;
mod pool;
mod postgres;
mod raw;
mod schema;
mod sqlite;
mod tx;
mod unit;

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

pub use crate::breaker::BreakerState;
pub use bounds::Bounds;
pub use error::{DatabaseAddress, SqlError};
pub use measure::operations;
pub use migrations::{MIGRATION_DEADLINE, MigrationReport, migrate, migrate_within};
pub use pool::{PgSession, PgTx, PostgresDatabase};
pub use schema::wait_for_schema;
pub use sqlite::{SqliteDatabase, SqliteWriteTx};
pub use tx::{OwnTx, Tx};
pub use unit::UnitError;

use self::gate::Gate;
use crate::backoff::Backoff;
use crate::config::DatabaseSettings;
use crate::mode::Mode;
use crate::shutdown::Shutdown;

/// Longest single attempt while waiting for a database to come up.
const READY_ATTEMPT: Duration = Duration::from_secs(5);

/// Between those attempts: a database that wakes from zero takes some hundred milliseconds.
const READY_BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));

/// An open database. Clones share the pools.
#[derive(Debug, Clone)]
pub enum Database {
    Postgres(PostgresDatabase),
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
            Dialect::Postgres => PostgresDatabase::open(settings).map(Self::Postgres),
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
        match timeout(deadline, self.round_trip()).await {
            Ok(Ok(())) => Ok(started.elapsed()),
            Ok(Err(error)) => Err(SqlError::Driver(error).of(self.address())),
            Err(_) => Err(self.late(deadline)),
        }
    }

    /// Which database it is.
    pub fn address(&self) -> DatabaseAddress {
        DatabaseAddress {
            server: self.gate().server().to_owned(),
            variable: URL_VARIABLE,
        }
    }

    /// It did not answer within `after`.
    pub fn late(&self, after: Duration) -> SqlError {
        SqlError::deadline(after).of(self.address())
    }

    /// A statement, because PgBouncer answers sqlx' protocol-level ping by itself, and one that reads the file,
    /// because SQLite answers a bare `SELECT 1` without it.
    async fn round_trip(&self) -> Result<(), sqlx::Error> {
        match self {
            Self::Postgres(database) => {
                let mut session = database.acquire().await?;
                sqlx::raw_sql("SELECT 1").execute(&mut *session).await.map(drop)
            }
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
                    "the database is not ready yet; trying again"
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
        migrations::pending(self)
            .await
            .map_err(|error| error.of(self.address()))
    }

    /// Runs one unit of work that begins its own transactions. `operation` says what it does (`claim jobs`), and is the
    /// label of its metrics.
    pub async fn run_any<T>(
        &self,
        operation: &'static str,
        bounds: Bounds,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> Result<T, UnitError> {
        match self {
            Self::Postgres(database) => database.run_any(operation, bounds, work).await,
            Self::Sqlite(database) => database.run_any(operation, bounds, work).await,
        }
    }

    /// Whether the database serves, and if not, since when and why.
    pub fn mode(&self) -> Mode {
        *self.watch().borrow()
    }

    /// Follows the mode. A change that was there before is not reported as new.
    pub fn watch(&self) -> watch::Receiver<Mode> {
        match self {
            Self::Postgres(database) => database.watch(),
            Self::Sqlite(database) => database.watch(),
        }
    }

    /// Connections whose statement was given up and that the server is not known to be done with.
    pub fn abandoned(&self) -> usize {
        match self {
            Self::Postgres(database) => database.abandoned(),
            Self::Sqlite(_) => 0,
        }
    }

    /// The position of the database's breaker.
    pub fn breaker(&self) -> BreakerState {
        self.gate().position()
    }

    fn gate(&self) -> &Gate {
        match self {
            Self::Postgres(database) => &database.0.gate,
            Self::Sqlite(database) => database.gate(),
        }
    }

    pub fn pool_stats(&self) -> SqlPoolStats {
        match self {
            Self::Postgres(database) => database.stats(),
            Self::Sqlite(SqliteDatabase { writer, reader, .. }) => {
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
                Self::Postgres(database) => database.close().await,
                Self::Sqlite(SqliteDatabase { writer, reader, .. }) => {
                    reader.close().await;
                    writer.close().await;
                }
            }
        };
        if timeout(deadline, closing).await.is_err() {
            tracing::warn!(
                deadline_ms = deadline.as_millis() as u64,
                "database connections were still in use when the process stopped"
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

/// The environment variables of the two URLs: of the settings `database.url` and `database.direct_url`.
const URL_VARIABLE: &str = "DATABASE_URL";
const DIRECT_URL_VARIABLE: &str = "DATABASE_UNPOOLED_URL";

/// Which database a URL names. `is_direct`: it is `database.direct_url`.
fn address_of(url: &SecretString, is_direct: bool) -> Result<DatabaseAddress, SqlError> {
    let server = match Dialect::of(url)? {
        Dialect::Postgres => postgres::server(&postgres::connect_options(url)?),
        Dialect::Sqlite => sqlite::connect_options(url)?.get_filename().display().to_string(),
    };
    let variable = if is_direct {
        DIRECT_URL_VARIABLE
    } else {
        URL_VARIABLE
    };
    Ok(DatabaseAddress { server, variable })
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
