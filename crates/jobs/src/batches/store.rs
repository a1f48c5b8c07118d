//! Writing batches and their counts, on both databases. Each statement runs in its caller's transaction.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use sqlx::{PgConnection, Row, SqliteConnection};
use uuid::Uuid;

use super::model::{NewBatch, Tally};
use crate::LedgerTx;
use crate::id::{BatchId, JobId};
use crate::ledger;
use crate::link::{EndedBatch, Link};
use crate::sql::{decode_error, sqlite_now};

/// What became of a batch that was to be written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BatchWrite {
    New,
    /// Its key belongs to this one, which says the same.
    Duplicate(BatchId, u32),
    /// Its key belongs to this one, which says something else.
    Conflict(BatchId),
}

/// A batch that stands in the way may be pruned before it is read; then there is room for the new one.
const TRIES: usize = 3;

/// Writes a batch and its jobs, unless its key is taken.
pub(crate) async fn insert(
    mut on: LedgerTx<'_>,
    batch: &NewBatch,
    named: bool,
) -> Result<BatchWrite, sqlx::Error> {
    let mut tries = 0;
    while !insert_row(on.reborrow(), batch, named).await? {
        if let Some(written) = standing(on.reborrow(), batch, named).await? {
            return Ok(written);
        }
        tries += 1;
        if tries == TRIES {
            return Err(sqlx::Error::RowNotFound);
        }
    }
    ledger::insert_in(on, &batch.jobs, named).await?;
    Ok(BatchWrite::New)
}

async fn insert_row(on: LedgerTx<'_>, batch: &NewBatch, named: bool) -> Result<bool, sqlx::Error> {
    let callback = batch.callback.as_ref().map(serde_json::to_string);
    let callback = callback.transpose().map_err(decode_error)?;
    let total = i32::try_from(batch.jobs.len()).map_err(decode_error)?;
    let written = match on {
        LedgerTx::Postgres(on) => sqlx::query(
            "insert into holdfast_batches (id, name, total, callback, idempotency_key, fingerprint)
             values ($1, $2, $3, $4::text::json, $5, $6) on conflict do nothing",
        )
        .bind(batch.id.as_uuid())
        .bind(&batch.name)
        .bind(total)
        .bind(callback)
        .bind(&batch.idempotency_key)
        .bind(batch.fingerprints.first())
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
        .bind(batch.fingerprints.first())
        .execute(on)
        .await?
        .rows_affected(),
    };
    Ok(written == 1)
}

/// What stands in the way of a batch that was not written. A row with the very id is this batch, written by an attempt
/// whose reply was lost.
async fn standing(
    on: LedgerTx<'_>,
    batch: &NewBatch,
    named: bool,
) -> Result<Option<BatchWrite>, sqlx::Error> {
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
    Ok(row.map(|(id, total, fingerprint)| {
        let id = BatchId::from_uuid(id);
        if id == batch.id {
            BatchWrite::New
        } else if fingerprint.is_some_and(|fingerprint| batch.fingerprints.contains(&fingerprint)) {
            BatchWrite::Duplicate(id, total.unsigned_abs())
        } else {
            BatchWrite::Conflict(id)
        }
    }))
}

/// Locks the rows of these batches that nobody else has locked, without waiting; answers with those that somebody has. A
/// batch that is gone is in nobody's way.
pub(crate) async fn lock_free(
    on: LedgerTx<'_>,
    batches: &BTreeSet<BatchId>,
    named: bool,
) -> Result<BTreeSet<BatchId>, sqlx::Error> {
    // SQLite locks no rows.
    let LedgerTx::Postgres(on) = on else {
        return Ok(BTreeSet::new());
    };
    if batches.is_empty() {
        return Ok(BTreeSet::new());
    }
    let ids: Vec<Uuid> = batches.iter().map(|id| id.as_uuid()).collect();
    let free: Vec<Uuid> = sqlx::query_scalar(
        "select id from holdfast_batches where id = any($1) order by id for update skip locked",
    )
    .bind(&ids)
    .persistent(named)
    .fetch_all(&mut *on)
    .await?;
    if free.len() == ids.len() {
        return Ok(BTreeSet::new());
    }
    let locked: Vec<Uuid> =
        sqlx::query_scalar("select id from holdfast_batches where id = any($1) and id <> all($2)")
            .bind(&ids)
            .bind(&free)
            .persistent(named)
            .fetch_all(on)
            .await?;
    Ok(locked.into_iter().map(BatchId::from_uuid).collect())
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

type CountedBatch = (bool, EndedBatch, Option<String>);

fn ended_among(
    rows: impl Iterator<Item = Result<CountedBatch, sqlx::Error>>,
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
