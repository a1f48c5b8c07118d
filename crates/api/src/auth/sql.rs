//! How the tables of keys and users are asked: rarely, with a deadline, and through any pooler.

use std::time::Duration;

use sqlx::FromRow;
use sqlx::postgres::{PgArguments, PgPool, PgQueryResult, PgRow, Postgres};
use sqlx::query::{Query, QueryAs};

/// Longest one statement may take.
const DEADLINE: Duration = Duration::from_secs(3);

/// Why a table could not be asked.
#[derive(Debug, thiserror::Error)]
pub(super) enum StoreError {
    #[error("the database failed")]
    Sql(#[from] sqlx::Error),
    #[error("the database did not answer within {} ms", .0.as_millis())]
    TimedOut(Duration),
}

/// Unnamed and inside a transaction, so that any pooler can carry it. These statements are rare; the round trips are
/// not missed.
pub(super) async fn execute(
    pool: &PgPool,
    statement: Query<'_, Postgres, PgArguments>,
) -> sqlx::Result<PgQueryResult> {
    let mut tx = pool.begin().await?;
    let done = statement.persistent(false).execute(&mut *tx).await?;
    tx.commit().await?;
    Ok(done)
}

/// Like [`execute`], for rows.
pub(super) async fn fetch_all<T>(
    pool: &PgPool,
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

pub(super) async fn bounded<T>(statement: impl Future<Output = sqlx::Result<T>>) -> Result<T, StoreError> {
    tokio::time::timeout(DEADLINE, statement)
        .await
        .map_err(|_| StoreError::TimedOut(DEADLINE))?
        .map_err(StoreError::Sql)
}

/// Somebody else wrote to our table.
pub(super) fn unreadable(column: &'static str) -> StoreError {
    StoreError::Sql(sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: "not a value that Holdfast wrote".into(),
    })
}
