//! The statements of batches, on both databases. Each runs in its caller's transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, PgConnection, Row, SqliteConnection};
use uuid::Uuid;

use super::model::{BatchFilter, BatchRecord, CallbackRecord, NewBatch, Progress, Tally};
use crate::client::LedgerTx;
use crate::id::{BatchId, JobId};
use crate::ledger::{MAX_STATEMENT_ROWS, PostgresLedger, SqliteLedger};
use crate::link::{EndedBatch, Link};
use crate::sql::{decode_error, hex_ids, limit, millis, sqlite_now};
use crate::state::StoredState;

/// What became of a batch that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Written {
    New,
    /// Its key belongs to this one, which says the same.
    Duplicate(BatchId, u32),
    /// Its key belongs to this one, which says something else.
    Conflict(BatchId),
}

/// Writes a batch and its jobs, unless its key is taken.
pub(crate) async fn insert(
    mut on: LedgerTx<'_>,
    batch: &NewBatch,
    named: bool,
) -> Result<Written, sqlx::Error> {
    if !insert_row(on.reborrow(), batch, named).await? {
        return standing(on, batch, named).await;
    }
    for jobs in batch.jobs.chunks(MAX_STATEMENT_ROWS) {
        match on.reborrow() {
            LedgerTx::Postgres(on) => PostgresLedger::insert_in(on, jobs, named).await?,
            LedgerTx::Sqlite(on) => SqliteLedger::insert_in(on, jobs).await?,
        };
    }
    Ok(Written::New)
}

async fn insert_row(on: LedgerTx<'_>, batch: &NewBatch, named: bool) -> Result<bool, sqlx::Error> {
    let callback = batch.callback.as_ref().map(serde_json::to_string);
    let callback = callback.transpose().map_err(decode_error)?;
    let total = i32::try_from(batch.jobs.len()).map_err(decode_error)?;
    let written = match on {
        LedgerTx::Postgres(on) => sqlx::query(
            "insert into holdfast_batches (id, name, total, callback, idempotency_key, fingerprint)
             values ($1, $2, $3, $4::text::jsonb, $5, $6) on conflict do nothing",
        )
        .bind(batch.id.as_uuid())
        .bind(&batch.name)
        .bind(total)
        .bind(callback)
        .bind(&batch.idempotency_key)
        .bind(&batch.fingerprint)
        .persistent(named)
        .execute(on)
        .await?
        .rows_affected(),
        LedgerTx::Sqlite(on) => sqlx::query(concat!(
            "insert into holdfast_batches (id, name, total, callback, idempotency_key, fingerprint, created_at)
             values (?1, ?2, ?3, ?4, ?5, ?6, ",
            sqlite_now!(),
            ") on conflict do nothing"
        ))
        .bind(batch.id.as_uuid())
        .bind(&batch.name)
        .bind(total)
        .bind(callback)
        .bind(&batch.idempotency_key)
        .bind(&batch.fingerprint)
        .execute(on)
        .await?
        .rows_affected(),
    };
    Ok(written == 1)
}

/// What stands in the way of a batch that was not written. A row with the very id is this batch, written by an attempt
/// whose reply was lost.
async fn standing(on: LedgerTx<'_>, batch: &NewBatch, named: bool) -> Result<Written, sqlx::Error> {
    let row: Option<(Uuid, i32, Option<String>)> = match on {
        LedgerTx::Postgres(on) => {
            sqlx::query_as(
                "select id, total, fingerprint from holdfast_batches
                 where id = $1 or idempotency_key = $2 order by id = $1 desc limit 1",
            )
            .bind(batch.id.as_uuid())
            .bind(&batch.idempotency_key)
            .persistent(named)
            .fetch_optional(on)
            .await?
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_as(
                "select id, total, fingerprint from holdfast_batches
                 where id = ?1 or idempotency_key = ?2 order by id = ?1 desc limit 1",
            )
            .bind(batch.id.as_uuid())
            .bind(&batch.idempotency_key)
            .fetch_optional(on)
            .await?
        }
    };
    // Pruned since it stood in the way: the producer may well try once more.
    let (id, total, fingerprint) = row.ok_or(sqlx::Error::PoolTimedOut)?;
    let id = BatchId::from_uuid(id);
    Ok(if id == batch.id {
        Written::New
    } else if fingerprint == batch.fingerprint {
        Written::Duplicate(id, total.unsigned_abs())
    } else {
        Written::Conflict(id)
    })
}

/// Moves the counts of batches that have not ended; tells of those that end with it, with their callbacks.
pub(crate) async fn count(
    on: LedgerTx<'_>,
    tallies: &BTreeMap<BatchId, Tally>,
    named: bool,
) -> Result<Vec<(EndedBatch, Option<Link>)>, sqlx::Error> {
    let moved: Vec<(Uuid, Tally)> = tallies
        .iter()
        .filter(|(_, tally)| !tally.is_empty())
        .map(|(id, tally)| (id.as_uuid(), *tally))
        .collect();
    if moved.is_empty() {
        return Ok(Vec::new());
    }
    match on {
        LedgerTx::Postgres(on) => count_postgres(on, &moved, named).await,
        LedgerTx::Sqlite(on) => count_sqlite(on, &moved).await,
    }
}

async fn count_postgres(
    on: &mut PgConnection,
    moved: &[(Uuid, Tally)],
    named: bool,
) -> Result<Vec<(EndedBatch, Option<Link>)>, sqlx::Error> {
    let ids: Vec<Uuid> = moved.iter().map(|(id, _)| *id).collect();
    // An update of several rows locks them in whatever order it finds them.
    if ids.len() > 1 {
        sqlx::query("select from holdfast_batches where id = any($1) order by id for update")
            .bind(&ids)
            .persistent(named)
            .execute(&mut *on)
            .await?;
    }
    let rows = sqlx::query(
        "update holdfast_batches as b
         set completed = b.completed + t.completed,
             discarded = b.discarded + t.discarded,
             cancelled = b.cancelled + t.cancelled,
             ended_at = case when b.completed + b.discarded + b.cancelled + t.completed + t.discarded + t.cancelled
                                  >= b.total then now() end
         from unnest($1::uuid[], $2::bigint[], $3::bigint[], $4::bigint[]) as t (id, completed, discarded, cancelled)
         where b.id = t.id and b.ended_at is null
         returning b.id, b.total, b.completed, b.discarded, b.cancelled, b.ended_at is not null as ended,
                   b.callback::text as callback",
    )
    .bind(&ids)
    .bind(moved.iter().map(|(_, tally)| tally.completed).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, tally)| tally.discarded).collect::<Vec<_>>())
    .bind(moved.iter().map(|(_, tally)| tally.cancelled).collect::<Vec<_>>())
    .persistent(named)
    .fetch_all(on)
    .await?;
    ended_among(rows.iter().map(|row| {
        let number = |name: &str| row.try_get::<i32, _>(name).map(i32::unsigned_abs);
        let batch = EndedBatch {
            id: BatchId::from_uuid(row.try_get("id")?),
            total: number("total")?,
            completed: number("completed")?,
            discarded: number("discarded")?,
            cancelled: number("cancelled")?,
        };
        Ok((row.try_get("ended")?, batch, row.try_get("callback")?))
    }))
}

async fn count_sqlite(
    on: &mut SqliteConnection,
    moved: &[(Uuid, Tally)],
) -> Result<Vec<(EndedBatch, Option<Link>)>, sqlx::Error> {
    let moved: Vec<_> = moved
        .iter()
        .map(|(id, tally)| {
            json!([
                id.simple().to_string(),
                tally.completed,
                tally.discarded,
                tally.cancelled
            ])
        })
        .collect();
    let rows = sqlx::query(concat!(
        "update holdfast_batches as b
         set completed = b.completed + t.completed,
             discarded = b.discarded + t.discarded,
             cancelled = b.cancelled + t.cancelled,
             ended_at = case when b.completed + b.discarded + b.cancelled + t.completed + t.discarded + t.cancelled
                                  >= b.total then ",
        sqlite_now!(),
        " end
         from (select unhex(value ->> 0) as id, value ->> 1 as completed, value ->> 2 as discarded,
                      value ->> 3 as cancelled
               from json_each(?1)) as t
         where b.id = t.id and b.ended_at is null
         returning id, total, completed, discarded, cancelled, ended_at is not null as ended, callback"
    ))
    .bind(json!(moved).to_string())
    .fetch_all(on)
    .await?;
    ended_among(rows.iter().map(|row| {
        let batch = EndedBatch {
            id: BatchId::from_uuid(row.try_get("id")?),
            total: row.try_get("total")?,
            completed: row.try_get("completed")?,
            discarded: row.try_get("discarded")?,
            cancelled: row.try_get("cancelled")?,
        };
        Ok((row.try_get("ended")?, batch, row.try_get("callback")?))
    }))
}

type Counted = (bool, EndedBatch, Option<String>);

fn ended_among(
    rows: impl Iterator<Item = Result<Counted, sqlx::Error>>,
) -> Result<Vec<(EndedBatch, Option<Link>)>, sqlx::Error> {
    let mut ended = Vec::new();
    for row in rows {
        let (has_ended, batch, callback) = row?;
        if has_ended {
            ended.push((batch, link(callback.as_deref())?));
        }
    }
    Ok(ended)
}

fn link(text: Option<&str>) -> Result<Option<Link>, sqlx::Error> {
    text.map(serde_json::from_str).transpose().map_err(decode_error)
}

pub(crate) async fn note_callback(
    on: LedgerTx<'_>,
    batch: BatchId,
    job: JobId,
    named: bool,
) -> Result<(), sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => {
            sqlx::query("update holdfast_batches set callback_id = $2 where id = $1")
                .bind(batch.as_uuid())
                .bind(job.as_uuid())
                .persistent(named)
                .execute(on)
                .await?;
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query("update holdfast_batches set callback_id = ?2 where id = ?1")
                .bind(batch.as_uuid())
                .bind(job.as_uuid())
                .execute(on)
                .await?;
        }
    }
    Ok(())
}

pub(crate) async fn note_cancel(on: LedgerTx<'_>, batch: BatchId, named: bool) -> Result<(), sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => {
            sqlx::query(
                "update holdfast_batches set cancel_requested = true where id = $1 and not cancel_requested",
            )
            .bind(batch.as_uuid())
            .persistent(named)
            .execute(on)
            .await?;
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query(
                "update holdfast_batches set cancel_requested = 1 where id = ?1 and not cancel_requested",
            )
            .bind(batch.as_uuid())
            .execute(on)
            .await?;
        }
    }
    Ok(())
}

const POSTGRES_RECORD: &str = "
select id, name, total, completed, discarded, cancelled, callback ->> 'kind' as kind, callback ->> 'queue' as queue,
       callback_id, cancel_requested, created_at, ended_at
from holdfast_batches ";

const SQLITE_RECORD: &str = "
select id, name, total, completed, discarded, cancelled, callback ->> 'kind' as kind, callback ->> 'queue' as queue,
       callback_id, cancel_requested, created_at, ended_at
from holdfast_batches ";

pub(crate) async fn get(
    on: LedgerTx<'_>,
    id: BatchId,
    named: bool,
) -> Result<Option<BatchRecord>, sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => sqlx::query(AssertSqlSafe(format!("{POSTGRES_RECORD} where id = $1")))
            .bind(id.as_uuid())
            .persistent(named)
            .fetch_optional(on)
            .await?
            .map(|row| record_of_postgres(&row))
            .transpose(),
        LedgerTx::Sqlite(on) => sqlx::query(AssertSqlSafe(format!("{SQLITE_RECORD} where id = ?1")))
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
                "{POSTGRES_RECORD}
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
                "{SQLITE_RECORD}
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

/// Those among `ids` that have ended, or are not known.
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

pub(crate) async fn prune(
    on: LedgerTx<'_>,
    retain: Duration,
    most: usize,
    named: bool,
) -> Result<u64, sqlx::Error> {
    let done = match on {
        LedgerTx::Postgres(on) => sqlx::query(
            "delete from holdfast_batches where id = any (array (
                 select id from holdfast_batches
                 where ended_at < now() - $1 * interval '1 millisecond'
                 order by ended_at limit $2 for update skip locked))",
        )
        .bind(millis(retain))
        .bind(limit(most))
        .persistent(named)
        .execute(on)
        .await?
        .rows_affected(),
        LedgerTx::Sqlite(on) => sqlx::query(concat!(
            "delete from holdfast_batches where id in (
                 select id from holdfast_batches where ended_at < ",
            sqlite_now!(),
            " - ?1 order by ended_at limit ?2)"
        ))
        .bind(millis(retain))
        .bind(limit(most))
        .execute(on)
        .await?
        .rows_affected(),
    };
    Ok(done)
}

/// Batches that run, and have no job that does or waits.
pub(crate) async fn left_open(
    on: LedgerTx<'_>,
    most: usize,
    named: bool,
) -> Result<Vec<BatchId>, sqlx::Error> {
    // A batch and its jobs change together, so one statement never sees a batch between its last job and its end.
    const LEFT: &str = "select b.id from holdfast_batches as b where b.ended_at is null and not exists (
            select 1 from holdfast_jobs as j where j.batch_id = b.id and j.state in ('available', 'running'))
        order by b.id limit $1";
    let found: Vec<Uuid> = match on {
        LedgerTx::Postgres(on) => {
            sqlx::query_scalar(LEFT)
                .bind(limit(most))
                .persistent(named)
                .fetch_all(on)
                .await?
        }
        LedgerTx::Sqlite(on) => sqlx::query_scalar(LEFT).bind(limit(most)).fetch_all(on).await?,
    };
    Ok(found.into_iter().map(BatchId::from_uuid).collect())
}

/// A batch as a sweep reads it: id, total, completed, discarded, cancelled, and the rows of its jobs that are pending,
/// discarded and cancelled.
type Left = (Uuid, i32, i32, i32, i32, i64, i64, i64);

/// What the counts of these batches lack, under their locks. A job whose row is gone, and that nobody counted, counts as
/// completed: it was final, or it would not have been deleted.
pub(crate) async fn sweep(
    on: LedgerTx<'_>,
    ids: &[BatchId],
    named: bool,
) -> Result<BTreeMap<BatchId, Tally>, sqlx::Error> {
    const COUNTED: &str = "select b.id, b.total, b.completed, b.discarded, b.cancelled,
            (select count(*) from holdfast_jobs as j where j.batch_id = b.id and j.state in ('available', 'running')),
            (select count(*) from holdfast_jobs as j where j.batch_id = b.id and j.state = 'discarded'),
            (select count(*) from holdfast_jobs as j where j.batch_id = b.id and j.state = 'cancelled')
        from holdfast_batches as b where b.ended_at is null and b.id ";
    let uuids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let rows: Vec<Left> = match on {
        LedgerTx::Postgres(on) => {
            sqlx::query("select from holdfast_batches where id = any($1) order by id for update")
                .bind(&uuids)
                .persistent(named)
                .execute(&mut *on)
                .await?;
            sqlx::query_as(AssertSqlSafe(format!("{COUNTED} = any($1)")))
                .bind(&uuids)
                .persistent(named)
                .fetch_all(on)
                .await?
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query_as(AssertSqlSafe(format!(
                "{COUNTED} in (select unhex(value) from json_each(?1))"
            )))
            .bind(hex_ids(&uuids))
            .fetch_all(on)
            .await?
        }
    };
    let mut missing = BTreeMap::new();
    for (id, total, completed, discarded, cancelled, pending, dead, given_up) in rows {
        // A dead letter was put back since the look without a lock.
        if pending > 0 {
            continue;
        }
        let more = Tally {
            completed: 0,
            discarded: (dead - i64::from(discarded)).max(0),
            cancelled: (given_up - i64::from(cancelled)).max(0),
        };
        let known = i64::from(completed + discarded + cancelled) + more.discarded + more.cancelled;
        let completed = (i64::from(total) - known).max(0);
        missing.insert(BatchId::from_uuid(id), Tally { completed, ..more });
    }
    Ok(missing)
}
