//! Reading batches, on both databases. Each statement runs in its caller's transaction.

use chrono::{DateTime, Utc};
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, Row};
use uuid::Uuid;

use super::model::{BatchFilter, BatchRecord, CallbackRecord, Progress};
use crate::LedgerTx;
use crate::id::{BatchId, JobId};
use crate::sql::{decode_error, hex_ids, limit, sqlite_now};
use crate::state::StoredState;

macro_rules! record {
    ($kind:literal, $queue:literal) => {
        concat!(
            "select id, name, total, completed, discarded, cancelled, ",
            $kind,
            " as kind, ",
            $queue,
            " as queue, callback_id, cancel_requested, created_at, ended_at from holdfast_batches "
        )
    };
}

/// `->>` of the server would refuse a callback whose payload holds U+0000.
const POSTGRES: &str = record!(
    "holdfast_json_text(callback::json, 'kind')",
    "holdfast_json_text(callback::json, 'queue')"
);
const SQLITE: &str = record!("callback ->> 'kind'", "callback ->> 'queue'");

pub(crate) async fn get(
    on: LedgerTx<'_>,
    id: BatchId,
    named: bool,
) -> Result<Option<BatchRecord>, sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => sqlx::query(AssertSqlSafe(format!("{POSTGRES} where id = $1")))
            .bind(id.as_uuid())
            .persistent(named)
            .fetch_optional(on)
            .await?
            .map(|row| record_of_postgres(&row))
            .transpose(),
        LedgerTx::Sqlite(on) => sqlx::query(AssertSqlSafe(format!("{SQLITE} where id = ?1")))
            .bind(id.as_uuid())
            .fetch_optional(on)
            .await?
            .map(|row| record_of_sqlite(&row))
            .transpose(),
    }
}

pub(crate) async fn list(
    on: LedgerTx<'_>,
    filter: &BatchFilter,
    named: bool,
) -> Result<Vec<BatchRecord>, sqlx::Error> {
    let after = filter.after.map(BatchId::as_uuid);
    match on {
        LedgerTx::Postgres(on) => {
            let text = format!(
                "{POSTGRES}
                 where ($1::uuid is null or id < $1) and ($2::boolean is null or (ended_at is not null) = $2)
                 order by id desc limit $3"
            );
            let rows = sqlx::query(AssertSqlSafe(text))
                .bind(after)
                .bind(filter.ended)
                .bind(limit(filter.limit))
                .persistent(named)
                .fetch_all(on)
                .await?;
            rows.iter().map(record_of_postgres).collect()
        }
        LedgerTx::Sqlite(on) => {
            let text = format!(
                "{SQLITE}
                 where (?1 is null or id < ?1) and (?2 is null or (ended_at is not null) = ?2)
                 order by id desc limit ?3"
            );
            let rows = sqlx::query(AssertSqlSafe(text))
                .bind(after)
                .bind(filter.ended)
                .bind(limit(filter.limit))
                .fetch_all(on)
                .await?;
            rows.iter().map(record_of_sqlite).collect()
        }
    }
}

/// What both rows say alike.
macro_rules! record {
    ($row:expr, $number:expr, $time:expr) => {{
        let (row, number, time) = ($row, $number, $time);
        let callback = match (row.try_get("kind")?, row.try_get("queue")?) {
            (Some(kind), Some(queue)) => Some(CallbackRecord {
                kind,
                queue,
                id: row
                    .try_get::<Option<Uuid>, _>("callback_id")?
                    .map(JobId::from_uuid),
            }),
            _ => None,
        };
        Ok(BatchRecord {
            id: BatchId::from_uuid(row.try_get("id")?),
            name: row.try_get("name")?,
            total: number("total")?,
            completed: number("completed")?,
            discarded: number("discarded")?,
            cancelled: number("cancelled")?,
            callback,
            cancel_requested: row.try_get("cancel_requested")?,
            created_at: time("created_at")?.ok_or_else(|| decode_error("a batch without a time"))?,
            ended_at: time("ended_at")?,
        })
    }};
}

fn record_of_postgres(row: &PgRow) -> Result<BatchRecord, sqlx::Error> {
    record!(
        row,
        |name: &str| row.try_get::<i32, _>(name).map(i32::unsigned_abs),
        |name: &str| row.try_get::<Option<DateTime<Utc>>, _>(name)
    )
}

fn record_of_sqlite(row: &SqliteRow) -> Result<BatchRecord, sqlx::Error> {
    record!(row, |name: &str| row.try_get::<u32, _>(name), |name: &str| {
        let unix_ms: Option<i64> = row.try_get(name)?;
        Ok::<_, sqlx::Error>(unix_ms.and_then(DateTime::from_timestamp_millis))
    })
}

/// Counts the jobs that are not final.
pub(crate) async fn progress(
    on: LedgerTx<'_>,
    batch: &BatchRecord,
    named: bool,
) -> Result<Progress, sqlx::Error> {
    let mut progress = Progress::default();
    if batch.ended_at.is_some() {
        return Ok(progress);
    }
    let rows: Vec<(String, bool, bool, i64)> = match on {
        LedgerTx::Postgres(on) => {
            sqlx::query_as(
                "select state, run_at > now(), attempt > 0, count(*) from holdfast_jobs
                 where batch_id = $1 and state in ('available', 'running') group by 1, 2, 3",
            )
            .bind(batch.id.as_uuid())
            .persistent(named)
            .fetch_all(on)
            .await?
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_as(concat!(
                "select state, run_at > ",
                sqlite_now!(),
                " as ahead, attempt > 0 as tried, count(*) from holdfast_jobs
                 where batch_id = ?1 and state in ('available', 'running') group by 1, 2, 3"
            ))
            .bind(batch.id.as_uuid())
            .fetch_all(on)
            .await?
        }
    };
    for (state, ahead, tried, jobs) in rows {
        let state: StoredState = state.parse().map_err(decode_error)?;
        progress.add(
            state.seen_as(ahead, u32::from(tried)),
            u32::try_from(jobs).unwrap_or(u32::MAX),
        );
    }
    Ok(progress)
}

/// Those among `ids` that have ended.
pub(crate) async fn ended(
    on: LedgerTx<'_>,
    ids: &[BatchId],
    named: bool,
) -> Result<Vec<BatchId>, sqlx::Error> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let found: Vec<Uuid> = match on {
        LedgerTx::Postgres(on) => {
            sqlx::query_scalar("select id from holdfast_batches where id = any($1) and ended_at is not null")
                .bind(ids)
                .persistent(named)
                .fetch_all(on)
                .await?
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_scalar(
                "select id from holdfast_batches
                 where id in (select unhex(value) from json_each(?1)) and ended_at is not null",
            )
            .bind(hex_ids(&ids))
            .fetch_all(on)
            .await?
        }
    };
    Ok(found.into_iter().map(BatchId::from_uuid).collect())
}
