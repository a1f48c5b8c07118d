//! The statements of limits on SQLite. All of them run in the caller's transaction, which holds the one write lock.

use std::collections::BTreeMap;

use chrono::DateTime;
use serde_json::json;
use sqlx::Row;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use uuid::Uuid;

use super::ClaimRequest;
use super::claim::{Candidate, LockedQueue, WaitingKey};
use crate::ledger::ClaimedJob;
use crate::sql::{decode_error, limit, millis, sqlite_now as now};

pub(super) async fn is_limited(on: &mut SqliteConnection, queue: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "select exists (select 1 from holdfast_queues where name = ?1 and limited)
             or exists (select 1 from holdfast_key_overrides where queue = ?1 and expires_at > ",
        now!(),
        ")"
    ))
    .bind(queue)
    .fetch_one(on)
    .await
}

pub(super) async fn configure(
    on: &mut SqliteConnection,
    queue: &str,
    limits: &str,
    limited: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "insert into holdfast_queues (name, configured, limited, updated_at) values (?1, ?2, ?3, ",
        now!(),
        ")
         on conflict (name) do update
         set configured = excluded.configured,
             limited = case when overridden is null then excluded.limited else limited end,
             updated_at = excluded.updated_at"
    ))
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .execute(on)
    .await?;
    Ok(())
}

/// `limited` is what the override says; without one, the configured limits say it: an empty one holds only nulls.
pub(super) async fn set_override(
    on: &mut SqliteConnection,
    queue: &str,
    limits: Option<&str>,
    limited: Option<bool>,
) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "insert into holdfast_queues (name, overridden, limited, updated_at) values (?1, ?2, coalesce(?3, 0), ",
        now!(),
        ")
         on conflict (name) do update
         set overridden = excluded.overridden,
             limited = coalesce(?3, exists (
                 select 1 from json_each(coalesce(configured, '{}')) as one where one.type <> 'null')),
             rate_full_at = null,
             updated_at = excluded.updated_at"
    ))
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn all(
    on: &mut SqliteConnection,
) -> Result<Vec<(String, Option<String>, Option<String>)>, sqlx::Error> {
    sqlx::query_as(
        "select name, configured, overridden from holdfast_queues
         where configured is not null or overridden is not null",
    )
    .fetch_all(on)
    .await
}

pub(super) async fn prune(on: &mut SqliteConnection, most: usize) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(concat!(
        "delete from holdfast_limit_buckets where (queue, key) in (
             select queue, key from holdfast_limit_buckets where full_at < ",
        now!(),
        " order by full_at limit ?1)"
    ))
    .bind(limit(most))
    .execute(on)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn lock(
    on: &mut SqliteConnection,
    asked: ClaimRequest<'_>,
) -> Result<Option<LockedQueue>, sqlx::Error> {
    let row = sqlx::query(concat!(
        "select limited, paused, configured, overridden, key_cursor,
                cast(max(coalesce(rate_full_at - ",
        now!(),
        ", 0), 0) as real) as debt_ms,
                exists (select 1 from holdfast_workers where id = ?2 and seen_at > ",
        now!(),
        " - ?3) as alive,
                exists (select 1 from holdfast_key_overrides where queue = ?1 and expires_at > ",
        now!(),
        ") as has_overrides
         from holdfast_queues where name = ?1"
    ))
    .bind(asked.queue)
    .bind(asked.worker.as_uuid())
    .bind(millis(asked.lost_after))
    .fetch_optional(on)
    .await?;
    row.map(|row| {
        Ok(LockedQueue {
            limited: row.try_get("limited")?,
            has_overrides: row.try_get("has_overrides")?,
            paused: row.try_get("paused")?,
            alive: row.try_get("alive")?,
            configured: row.try_get("configured")?,
            overridden: row.try_get("overridden")?,
            cursor: row.try_get("key_cursor")?,
            debt_ms: row.try_get("debt_ms")?,
        })
    })
    .transpose()
}

/// Of any worker, or of none that is known any more: such jobs count until they are rescued.
pub(super) async fn running(on: &mut SqliteConnection, queue: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar("select count(*) from holdfast_jobs where state = 'running' and queue = ?1")
        .bind(queue)
        .fetch_one(on)
        .await
}

/// From key to key through the index, whatever lies between them.
pub(super) async fn keys(
    on: &mut SqliteConnection,
    queue: &str,
    after: &str,
    most: usize,
) -> Result<Vec<WaitingKey>, sqlx::Error> {
    let rows = sqlx::query(concat!(
        "with recursive walk (key, n) as (
             select (select limit_key from holdfast_jobs
                     where state = 'available' and queue = ?1 and limit_key is not null and limit_key > ?2
                     order by limit_key limit 1), 1
             union all
             select (select limit_key from holdfast_jobs
                     where state = 'available' and queue = ?1 and limit_key is not null and limit_key > walk.key
                     order by limit_key limit 1), n + 1
             from walk where walk.key is not null and n < ?3)
         select walk.key as key, coalesce(o.paused, 0) as paused, o.max_running as max_running,
                (select count(*) from holdfast_jobs as r
                 where r.state = 'running' and r.queue = ?1 and r.limit_key is not null and r.limit_key = walk.key)
                 as running,
                cast(coalesce((select max(b.full_at - ",
        now!(),
        ", 0) from holdfast_limit_buckets as b where b.queue = ?1 and b.key = walk.key), 0) as real) as debt_ms
         from walk
         left join holdfast_key_overrides as o on o.queue = ?1 and o.key = walk.key and o.expires_at > ",
        now!(),
        " where walk.key is not null order by n"
    ))
    .bind(queue)
    .bind(after)
    .bind(limit(most))
    .fetch_all(on)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingKey {
                key: row.try_get("key")?,
                running: row.try_get("running")?,
                debt_ms: row.try_get("debt_ms")?,
                paused: row.try_get("paused")?,
                max_running: row.try_get("max_running")?,
            })
        })
        .collect()
}

pub(super) async fn heads(
    on: &mut SqliteConnection,
    queue: &str,
    keys: &[&str],
    each: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let rows = sqlx::query(concat!(
        "select j.id, j.priority, j.run_at, k.value as key
         from json_each(?2) as k
         cross join json_each('[0,1,2]') as level
         cross join holdfast_jobs as j
         where j.id in (select id from holdfast_jobs
                        where state = 'available' and queue = ?1 and limit_key is not null and limit_key = k.value
                          and priority = level.value and run_at <= ",
        now!(),
        "               order by run_at, id limit ?3)"
    ))
    .bind(queue)
    .bind(json!(keys).to_string())
    .bind(limit(each))
    .fetch_all(on)
    .await?;
    rows.iter()
        .map(|row| candidate(row, row.try_get("key")?))
        .collect()
}

pub(super) async fn due(
    on: &mut SqliteConnection,
    queue: &str,
    most: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    Ok(first_of_each_priority(on, queue, most)
        .await?
        .into_iter()
        .map(|job| Candidate { key: None, ..job })
        .collect())
}

pub(super) async fn unkeyed(
    on: &mut SqliteConnection,
    queue: &str,
    window: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let mut jobs = first_of_each_priority(on, queue, window).await?;
    jobs.retain(|job| job.key.is_none());
    Ok(jobs)
}

async fn first_of_each_priority(
    on: &mut SqliteConnection,
    queue: &str,
    most: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let mut jobs = Vec::new();
    for priority in [0_i16, 1, 2] {
        let rows = sqlx::query(concat!(
            "select id, priority, run_at, limit_key from holdfast_jobs
             where state = 'available' and queue = ?1 and priority = ?2 and run_at <= ",
            now!(),
            " order by run_at, id limit ?3"
        ))
        .bind(queue)
        .bind(priority)
        .bind(limit(most))
        .fetch_all(&mut *on)
        .await?;
        for row in &rows {
            jobs.push(candidate(row, row.try_get("limit_key")?)?);
        }
    }
    Ok(jobs)
}

fn candidate(row: &SqliteRow, key: Option<String>) -> Result<Candidate, sqlx::Error> {
    let run_at: i64 = row.try_get("run_at")?;
    Ok(Candidate {
        id: row.try_get("id")?,
        priority: row.try_get("priority")?,
        run_at: DateTime::from_timestamp_millis(run_at)
            .ok_or_else(|| decode_error("run_at is out of range"))?,
        key,
    })
}

pub(super) async fn take(
    on: &mut SqliteConnection,
    asked: ClaimRequest<'_>,
    ids: &[Uuid],
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    let hex: Vec<String> = ids.iter().map(|id| id.simple().to_string()).collect();
    sqlx::query_as(concat!(
        "update holdfast_jobs
         set state = 'running', worker = ?2, started_at = case when crashes = 0 then ",
        now!(),
        " end
         where id in (select unhex(value) from json_each(?1)) and +state = 'available'
           and exists (select 1 from holdfast_workers where id = ?2 and seen_at > ",
        now!(),
        " - ?3)
         returning id, kind, payload, attempt, crashes, max_attempts, timeout_ms, options, priority, run_at, snoozes, doubtful, batch_id"
    ))
    .bind(json!(hex).to_string())
    .bind(asked.worker.as_uuid())
    .bind(millis(asked.lost_after))
    .fetch_all(on)
    .await
}

pub(super) async fn spend(on: &mut SqliteConnection, queue: &str, spent_ms: f64) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "update holdfast_queues set rate_full_at = max(coalesce(rate_full_at, 0), ",
        now!(),
        ") + ?2 where name = ?1"
    ))
    .bind(queue)
    .bind(spent_ms)
    .execute(on)
    .await?;
    Ok(())
}

/// Makes the queue's bucket an empty one: `whole_ms` from being full.
pub(super) async fn empty_bucket(
    on: &mut SqliteConnection,
    queue: &str,
    whole_ms: f64,
) -> Result<(), sqlx::Error> {
    sqlx::query(concat!(
        "update holdfast_queues set rate_full_at = ",
        now!(),
        " + ?2 where name = ?1"
    ))
    .bind(queue)
    .bind(whole_ms)
    .execute(on)
    .await?;
    Ok(())
}

/// Makes the buckets of these keys empty ones.
pub(super) async fn empty_buckets_of_keys(
    on: &mut SqliteConnection,
    queue: &str,
    keys: &[&str],
    whole_ms: f64,
) -> Result<(), sqlx::Error> {
    if keys.is_empty() {
        return Ok(());
    }
    sqlx::query(concat!(
        "update holdfast_limit_buckets set full_at = ",
        now!(),
        " + ?3 where queue = ?1 and key in (select value from json_each(?2))"
    ))
    .bind(queue)
    .bind(json!(keys).to_string())
    .bind(whole_ms)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn spend_by_key(
    on: &mut SqliteConnection,
    queue: &str,
    spent: &BTreeMap<&str, f64>,
) -> Result<(), sqlx::Error> {
    let rows: Vec<_> = spent.iter().collect();
    sqlx::query(concat!(
        "insert into holdfast_limit_buckets (queue, key, full_at)
         select ?1, s.value ->> 0, max(coalesce(b.full_at, 0), ",
        now!(),
        ") + (s.value ->> 1)
         from json_each(?2) as s
         left join holdfast_limit_buckets as b on b.queue = ?1 and b.key = s.value ->> 0
         where true
         on conflict (queue, key) do update set full_at = excluded.full_at"
    ))
    .bind(queue)
    .bind(json!(rows).to_string())
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn set_cursor(
    on: &mut SqliteConnection,
    queue: &str,
    cursor: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("update holdfast_queues set key_cursor = ?2 where name = ?1")
        .bind(queue)
        .bind(cursor)
        .execute(on)
        .await?;
    Ok(())
}

pub(super) async fn next_due(on: &mut SqliteConnection, queue: &str) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "select cast(min((select run_at from holdfast_jobs
                          where state = 'available' and queue = ?1 and priority = level.value and run_at > ",
        now!(),
        "                 order by run_at limit 1)) - ",
        now!(),
        " as real)
         from json_each('[0,1,2]') as level"
    ))
    .bind(queue)
    .fetch_one(on)
    .await
}

/// Milliseconds until the first override of a key of the queue ends.
pub(super) async fn next_override_end(
    on: &mut SqliteConnection,
    queue: &str,
) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(concat!(
        "select cast(min(expires_at) - ",
        now!(),
        " as real) from holdfast_key_overrides where queue = ?1 and expires_at > ",
        now!()
    ))
    .bind(queue)
    .fetch_one(on)
    .await
}
