//! What maintenance does for batches, on both databases: those that ended long ago go, those that were left open end.
//! Each statement runs in its caller's transaction.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::model::Tally;
use crate::LedgerTx;
use crate::id::BatchId;
use crate::sql::{hex_ids, limit, millis, sqlite_now};

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
type SweptBatch = (Uuid, i32, i32, i32, i32, i64, i64, i64);

/// What the counts of these batches lack, under their locks; a batch that somebody has locked is left for the next sweep. A job whose row is gone, and that nobody counted, counts as
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
    let rows: Vec<SweptBatch> = match on {
        LedgerTx::Postgres(on) => {
            let locked: Vec<Uuid> = sqlx::query_scalar(
                "select id from holdfast_batches where id = any($1) order by id for update skip locked",
            )
            .bind(&uuids)
            .persistent(named)
            .fetch_all(&mut *on)
            .await?;
            sqlx::query_as(AssertSqlSafe(format!("{COUNTED} = any($1)")))
                .bind(&locked)
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
