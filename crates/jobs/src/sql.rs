//! The database as the parts beside the ledger use it: whole transactions, on either dialect, as units of work of the
//! executor ([`holdfast_core::sql`]).
//!
//! Every statement of these parts is rare next to those of the ledger, so each runs inside a transaction. That is what
//! a transaction pooler carries in any case, and what lets an action and its audit entry be one.

use std::time::Duration;

use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::{Bounds, Database};

use crate::LedgerTx;
use crate::ledger::LedgerError;
use crate::observer::Observers;

pub use holdfast_core::sql::OwnTx;

/// SQLite's now, in milliseconds; the database's own clock, as everywhere.
macro_rules! sqlite_now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}
pub(crate) use sqlite_now;

/// One database, and whether statements may be named.
#[derive(Debug, Clone)]
pub struct Sql {
    database: Database,
    /// See `database.prepared_statements`.
    pub(crate) named: bool,
    /// Who is asked when a unit ends jobs or batches.
    pub(crate) observers: Observers,
}

impl Sql {
    pub fn new(database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            database: database.clone(),
            named: settings.prepared_statements,
            observers: Observers::default(),
        }
    }

    pub(crate) fn observed(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// Whether statements may be prepared by name: what `persistent` of a query takes.
    pub fn named(&self) -> bool {
        self.named
    }

    /// A transaction that may write. On SQLite it holds the write lock from its first moment.
    pub async fn begin(&self) -> Result<OwnTx, sqlx::Error> {
        Ok(match &self.database {
            Database::Postgres(database) => OwnTx::Postgres(database.begin().await?),
            Database::Sqlite(database) => OwnTx::Sqlite(database.begin().await?),
        })
    }

    /// A transaction that only reads.
    pub async fn begin_read(&self) -> Result<OwnTx, sqlx::Error> {
        Ok(match &self.database {
            Database::Postgres(database) => OwnTx::Postgres(database.begin().await?),
            Database::Sqlite(database) => OwnTx::SqliteRead(database.begin_read().await?),
        })
    }

    /// One unit of work, with the bounds of the settings. The work begins its transactions with [`Self::begin`].
    pub fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, LedgerError>> {
        self.within_bounds(doing, Bounds::SETTINGS, work)
    }

    /// The same with shorter bounds.
    pub fn within_bounds<T>(
        &self,
        doing: &'static str,
        bounds: Bounds,
        work: impl Future<Output = Result<T, sqlx::Error>>,
    ) -> impl Future<Output = Result<T, LedgerError>> {
        // On the heap: each layer of the executor would hold the work by value, and a handler that writes a page of events
        // through several of them would not fit the stack of a thread.
        let work = Box::pin(work);
        let run = Box::pin(self.database.run_any(doing, bounds, work));
        async move { run.await.map_err(|error| LedgerError::of(doing, error)) }
    }
}

/// A time as SQL takes it.
pub(crate) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

/// A limit as SQL takes it.
pub(crate) fn limit(rows: usize) -> i64 {
    i64::try_from(rows).unwrap_or(i64::MAX)
}

/// JSON text of ids in hexadecimal, for SQLite's `json_each` and `unhex`.
pub(crate) fn hex_ids(ids: &[uuid::Uuid]) -> String {
    let texts: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    serde_json::to_string(&texts).unwrap_or_default()
}

/// Milliseconds since the epoch, rounded up, by the clock of the database.
pub(crate) async fn now_ms(on: LedgerTx<'_>, named: bool) -> Result<i64, sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => {
            sqlx::query_scalar("select ceil(extract(epoch from clock_timestamp()) * 1000)::bigint")
                .persistent(named)
                .fetch_one(on)
                .await
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_scalar(concat!("select ", sqlite_now!()))
                .fetch_one(on)
                .await
        }
    }
}

pub(crate) fn decode_error(message: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(message.to_string().into())
}
