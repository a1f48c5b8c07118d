//! Deletes what has expired: a duty of every beat. Any number of them may do it at once.

use std::time::Duration;

use holdfast_core::sql::dialect::rows;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;

/// Between two sweeps at least.
pub const SWEEP_PERIOD: Duration = Duration::from_secs(10);

/// Rows of a table that one transaction deletes at most.
const STEP: usize = 1_000;

/// Between steps while there is more.
const STEP_PAUSE: Duration = Duration::from_millis(50);

/// A channel is forgotten this long after its last message has expired, in milliseconds: until then its readers find their place.
const CHANNEL_MILLIS: i64 = 3_600_000;

/// Tables, and how long their rows are kept beyond their expiry, in milliseconds. Parts before their sets: a set has nothing left.
const TABLES: [(&str, i64); 5] = [
    ("holdfast_results", 0),
    ("holdfast_result_parts", 0),
    ("holdfast_result_sets", 0),
    ("holdfast_channel_messages", 0),
    ("holdfast_channels", CHANNEL_MILLIS),
];

/// One step: whether there may be more.
pub(crate) async fn sweep(sql: &Sql) -> Result<bool, LedgerError> {
    let mut more = false;
    for (table, kept) in TABLES {
        more |= sweep_table(sql, table, kept).await? == STEP as u64;
    }
    Ok(more)
}

/// A row that another transaction has locked to write it again is left.
async fn sweep_table(sql: &Sql, table: &str, kept: i64) -> Result<u64, LedgerError> {
    sql.within("sweep results", async {
        let mut tx = sql.begin().await?;
        let deleted = match tx.on() {
            LedgerTx::Postgres(on) => {
                let text = format!(
                    "delete from {table} where ctid = any (array (
                         select ctid from {table} where expires_at <= now() - $1 * interval '1 millisecond'
                         order by expires_at limit $2 for update skip locked))"
                );
                sqlx::query(sqlx::AssertSqlSafe(text))
                    .bind(kept)
                    .bind(rows(STEP))
                    .persistent(sql.named())
                    .execute(on)
                    .await?
                    .rows_affected()
            }
            LedgerTx::Sqlite(on) => {
                let text = format!(
                    "delete from {table} where rowid in (
                         select rowid from {table} where expires_at <= cast(unixepoch('subsec') * 1000 as integer) - ?1
                         order by expires_at limit ?2)"
                );
                sqlx::query(sqlx::AssertSqlSafe(text))
                    .bind(kept)
                    .bind(rows(STEP))
                    .execute(on)
                    .await?
                    .rows_affected()
            }
        };
        tx.commit().await?;
        Ok(deleted)
    })
    .await
}

/// Never ends by itself.
pub(crate) async fn sweep_forever(sql: Sql, period: Duration) {
    loop {
        let pause = match sweep(&sql).await {
            Ok(true) => STEP_PAUSE,
            Ok(false) => period,
            Err(error) => {
                tracing::debug!(error = ?error, "cannot delete expired results");
                period
            }
        };
        tokio::time::sleep(pause).await;
    }
}
