//! Which process migrates: one row, held for [`LEASE`] at a time and renewed over connections of its own.
//!
//! The row also holds how far a backfill has come. Only the holder writes it, so a migrator that was frozen and continued
//! cannot set it back. A lost lease ends nothing that is under way: whoever takes over repeats it, and both may.

use std::time::Duration;

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::{Instant, sleep, timeout};

use crate::sql::SqlError;

/// How long a process that stopped renewing keeps others from migrating.
const LEASE: Duration = Duration::from_secs(30);

/// Between renewals.
const RENEWAL_PERIOD: Duration = Duration::from_secs(5);

/// Longest single renewal, the connection included.
const RENEWAL_DEADLINE: Duration = Duration::from_secs(10);

pub(super) const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS holdfast_migrator (
    id         smallint    PRIMARY KEY CHECK (id = 1),
    holder     text        NOT NULL,
    held_until timestamptz NOT NULL,
    version    bigint,
    position   text
)";

/// This process' claim to the row. Times are the server's.
#[derive(Debug, Clone)]
pub(super) struct Lease {
    holder: String,
}

impl Lease {
    pub(super) fn new() -> Self {
        Self {
            holder: format!("{:032x}", rand::random::<u128>()),
        }
    }

    /// Takes the row, or renews it. `false`: another process holds it.
    pub(super) async fn take(&self, connection: &mut PgConnection) -> sqlx::Result<bool> {
        let sql = format!(
            "INSERT INTO holdfast_migrator AS held (id, holder, held_until)
             VALUES (1, '{}', clock_timestamp() + interval '{} seconds')
             ON CONFLICT (id) DO UPDATE SET holder = excluded.holder, held_until = excluded.held_until
             WHERE held.holder = excluded.holder OR held.held_until < clock_timestamp() RETURNING 1",
            self.holder,
            LEASE.as_secs()
        );
        let row = sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_optional(connection)
            .await?;
        Ok(row.is_some())
    }

    /// Lets the next process begin without waiting for the lease to end.
    pub(super) async fn release(&self, connection: &mut PgConnection) -> sqlx::Result<()> {
        let sql = format!(
            "UPDATE holdfast_migrator SET held_until = '-infinity' WHERE holder = '{}'",
            self.holder
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(drop)
    }

    /// Renews the lease for as long as it is polled. Returns when the server has not answered for a whole lease: then the
    /// statement that it runs beside is not answered either.
    pub(super) async fn keep(&self, options: &PgConnectOptions) -> SqlError {
        let mut answered = Instant::now();
        loop {
            sleep(RENEWAL_PERIOD).await;
            match timeout(RENEWAL_DEADLINE, self.renew(options)).await {
                Ok(Ok(true)) => answered = Instant::now(),
                Ok(Ok(false)) => {
                    answered = Instant::now();
                    tracing::warn!("another process has taken over the migration");
                }
                Ok(Err(error)) => tracing::warn!(%error, "the lease of the migration was not renewed"),
                Err(_) => tracing::warn!("the lease of the migration was not renewed in time"),
            }
            if answered.elapsed() > LEASE {
                return SqlError::deadline(LEASE);
            }
        }
    }

    async fn renew(&self, options: &PgConnectOptions) -> sqlx::Result<bool> {
        let mut connection = PgConnection::connect_with(options).await?;
        let held = self.take(&mut connection).await?;
        connection.close().await?;
        Ok(held)
    }

    /// How far the backfill of this migration has come.
    pub(super) async fn position(
        &self,
        connection: &mut PgConnection,
        version: i64,
    ) -> sqlx::Result<Option<String>> {
        let sql = format!("SELECT position FROM holdfast_migrator WHERE version = {version}");
        match sqlx::raw_sql(AssertSqlSafe(sql))
            .fetch_optional(connection)
            .await?
        {
            Some(row) => row.try_get(0),
            None => Ok(None),
        }
    }

    pub(super) async fn set_position(
        &self,
        connection: &mut PgConnection,
        version: i64,
        position: &str,
    ) -> sqlx::Result<()> {
        let sql = format!(
            "UPDATE holdfast_migrator SET version = {version}, position = {} WHERE holder = '{}'",
            quoted(position),
            self.holder
        );
        sqlx::raw_sql(AssertSqlSafe(sql))
            .execute(connection)
            .await
            .map(drop)
    }
}

/// A literal, whatever the server's `standard_conforming_strings` is: without backslashes it does not matter.
pub(super) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\\', "").replace('\'', "''"))
}
