//! How the tables of keys and users are asked: rarely, as units of work of the executor, and through any pooler.

use holdfast_core::sql::{Bounds, Database, PostgresDatabase, SqliteDatabase, UnitError};
use holdfast_jobs::audit::{AuditContext, AuditEntry};
use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgQueryResult, PgRow, Postgres};
use sqlx::query::{Query, QueryAs};
use sqlx::sqlite::{Sqlite, SqliteArguments};

/// Why a table could not be asked.
pub(crate) type StoreError = UnitError;

/// Unnamed and inside a transaction, so that any pooler can carry it. These statements are rare; the round trips are
/// not missed.
pub(crate) async fn execute(
    pool: &PostgresDatabase,
    statement: Query<'_, Postgres, PgArguments>,
) -> sqlx::Result<PgQueryResult> {
    let mut tx = pool.begin().await?;
    let done = statement.persistent(false).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done)
}

/// A change of keys or users, as the audit log records it.
pub(crate) struct AuditedAction<'a> {
    pub(crate) by: &'a AuditContext,
    pub(crate) entry: AuditEntry,
}

/// A statement for the database in use.
pub(crate) enum Write<'q> {
    Postgres(&'q PostgresDatabase, Query<'q, Postgres, PgArguments>),
    Sqlite(&'q SqliteDatabase, Query<'q, Sqlite, SqliteArguments>),
}

impl Write<'_> {
    /// Runs the statement and records the action in one transaction. A statement that changes nothing records nothing. Returns how many
    /// rows it changed.
    pub(crate) async fn recorded(self, action: &AuditedAction<'_>) -> sqlx::Result<u64> {
        match self {
            Self::Postgres(pool, statement) => {
                let mut tx = pool.begin().await?;
                let changed = statement
                    .persistent(false)
                    .execute(&mut *tx)
                    .await?
                    .rows_affected();
                if changed > 0 {
                    action.entry.record_in(&mut tx, action.by).await?;
                }
                tx.commit().await?;
                Ok(changed)
            }
            Self::Sqlite(pool, statement) => {
                let mut tx = pool.begin().await?;
                let changed = statement.execute(&mut *tx).await?.rows_affected();
                if changed > 0 {
                    action.entry.record_in(&mut tx, action.by).await?;
                }
                tx.commit().await?;
                Ok(changed)
            }
        }
    }
}

/// Like [`execute`], for rows.
pub(crate) async fn fetch_all<T>(
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
pub(crate) async fn bounded<T>(
    database: &Database,
    operation: &'static str,
    work: impl Future<Output = sqlx::Result<T>>,
) -> Result<T, StoreError> {
    database.run_any(operation, Bounds::SETTINGS, work).await
}

/// Another program wrote to our table.
pub(crate) fn unreadable(column: &'static str) -> StoreError {
    StoreError::Sql(sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "not a value that Holdfast wrote".into(),
    })
}
