//! How the tables of keys and users are asked: rarely, as units of work of the executor, and through any pooler.

use holdfast_core::sql::{Bounds, Database, PostgresDatabase, SqliteDatabase, UnitError};
use holdfast_jobs::audit::{AuditEntry, By};
use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, Postgres};
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{Sqlite, SqliteArguments};

/// Why a table could not be asked.
pub(super) type StoreError = UnitError;

/// Unnamed and inside a transaction, so that any pooler can carry it. These statements are rare; the round trips are
/// not missed.
pub(super) async fn execute(
    pool: &PostgresDatabase,
    statement: Query<'_, Postgres, PgArguments>,
) -> sqlx::Result<PgQueryResult> {
    let mut tx = pool.begin().await?;
    let done = statement.persistent(false).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done)
}

/// Who does something to keys or users, and what the audit log says of it.
pub(super) struct Deed<'a> {
    pub(super) by: &'a By,
    pub(super) entry: AuditEntry,
}

/// A statement for the database in use.
pub(super) enum Write<'q> {
    Postgres(&'q PostgresDatabase, Query<'q, Postgres, PgArguments>),
    Sqlite(&'q SqliteDatabase, Query<'q, Sqlite, SqliteArguments>),
}

impl Write<'_> {
    /// Runs the statement and records the deed in one transaction. A statement that changes nothing is no deed. Answers
    /// how many rows it changed.
    pub(super) async fn recorded(self, deed: &Deed<'_>) -> sqlx::Result<u64> {
        match self {
            Self::Postgres(pool, statement) => {
                let mut tx = pool.begin().await?;
                let changed = statement
                    .persistent(false)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                if changed > 0 {
                    deed.entry.record_in(&mut tx, deed.by).await?;
                }
                tx.commit().await?;
                Ok(changed)
            }
            Self::Sqlite(pool, statement) => {
                let mut tx = pool.begin().await?;
                let changed = statement.execute(&mut *tx).await?.rows_affected();
                if changed > 0 {
                    deed.entry.record_in(&mut tx, deed.by).await?;
                }
                tx.commit().await?;
                Ok(changed)
            }
        }
    }
}

/// Like [`execute`], for rows.
pub(super) async fn fetch_all<T>(
    pool: &PostgresDatabase,
    statement: QueryAs<'_, Postgres, T, PgArguments>,
) -> sqlx::Result<Vec<T>>
where
    T: for<'r> FromRow<'r, PgRow> + Send + Unpin,
{
    let mut tx = pool.begin().await?;
    let rows = statement.persistent(false).fetch_all(&mut *tx).await?;
    tx.commit().await?;
    Ok(rows)
}

/// One unit of work; `operation` says what it does.
pub(super) async fn bounded<T>(
    database: &Database,
    operation: &'static str,
    work: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, StoreError> {
    database.run_any(operation, Bounds::SETTINGS, work).await
}

/// Somebody else wrote to our table.
pub(super) fn unreadable(column: &'static str) -> StoreError {
    StoreError::Sql(sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "not a value that Holdfast wrote".into(),
    })
}
