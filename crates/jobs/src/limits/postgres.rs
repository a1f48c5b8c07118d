//! The statements of limits on PostgreSQL. All of them run in the caller's transaction; times are read off
//! `clock_timestamp()`, because a transaction that waited for the queue's lock has an old `now()`.

use std::collections::BTreeMap;

use sqlx::Row;
use sqlx::postgres::{PgConnection, PgRow};
use uuid::Uuid;

use super::Asked;
use super::claim::{Candidate, Locked, WaitingKey};
use crate::ledger::ClaimedJob;
use crate::sql::{limit, millis};

pub(super) async fn is_limited(on: &mut PgConnection, named: bool, queue: &str) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar("select exists (select from holdfast_queues where name = $1 and limited)")
        .bind(queue)
        .persistent(named)
        .fetch_one(on)
        .await
}

pub(super) async fn configure(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    limits: &str,
    limited: bool,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into holdfast_queues as q (name, configured, limited) values ($1, $2::jsonb, $3)
         on conflict (name) do update
         set configured = excluded.configured,
             limited = case when q.overridden is null then excluded.limited else q.limited end,
             updated_at = now()",
    )
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

/// `limited` is what the override says; without one, the configured limits say it: an empty one is `{}` but for nulls.
pub(super) async fn set_override(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    limits: Option<&str>,
    limited: Option<bool>,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "insert into holdfast_queues as q (name, overridden, limited) values ($1, $2::jsonb, coalesce($3, false))
         on conflict (name) do update
         set overridden = excluded.overridden,
             limited = coalesce($3, jsonb_strip_nulls(coalesce(q.configured, '{}')) <> '{}'),
             rate_full_at = null,
             updated_at = now()",
    )
    .bind(queue)
    .bind(limits)
    .bind(limited)
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn all(
    on: &mut PgConnection,
    named: bool,
) -> Result<Vec<(String, Option<String>, Option<String>)>, sqlx::Error> {
    sqlx::query_as(
        "select name, configured::text, overridden::text from holdfast_queues
         where configured is not null or overridden is not null",
    )
    .persistent(named)
    .fetch_all(on)
    .await
}

pub(super) async fn prune(on: &mut PgConnection, named: bool, most: usize) -> Result<u64, sqlx::Error> {
    let done = sqlx::query(
        "delete from holdfast_limit_buckets where (queue, key) in (
             select queue, key from holdfast_limit_buckets where full_at < clock_timestamp()
             order by full_at limit $1 for update skip locked)",
    )
    .bind(limit(most))
    .persistent(named)
    .execute(on)
    .await?;
    Ok(done.rows_affected())
}

pub(super) async fn lock(
    on: &mut PgConnection,
    named: bool,
    asked: Asked<'_>,
) -> Result<Option<Locked>, sqlx::Error> {
    let row = sqlx::query(
        "select paused, configured::text as configured, overridden::text as overridden, key_cursor,
                greatest(coalesce(extract(epoch from rate_full_at - clock_timestamp()) * 1000, 0), 0)::float8 as debt_ms,
                exists (select from holdfast_workers
                        where id = $2 and seen_at > now() - $3 * interval '1 millisecond') as alive
         from holdfast_queues where name = $1 for update",
    )
    .bind(asked.queue)
    .bind(asked.worker.as_uuid())
    .bind(millis(asked.lost_after))
    .persistent(named)
    .fetch_optional(on)
    .await?;
    row.map(|row| {
        Ok(Locked {
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

/// Over the workers, because the index of running jobs begins with them; every running job has a worker's row.
pub(super) async fn running(on: &mut PgConnection, named: bool, queue: &str) -> Result<i64, sqlx::Error> {
    sqlx::query_scalar(
        "select coalesce(sum(held.jobs), 0)::bigint
         from holdfast_workers as w
         cross join lateral (
             select count(*) as jobs from holdfast_jobs
             where state = 'running' and worker = w.id and queue = $1) as held",
    )
    .bind(queue)
    .persistent(named)
    .fetch_one(on)
    .await
}

/// From key to key through the index, whatever lies between them.
pub(super) async fn keys(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    after: &str,
    most: usize,
) -> Result<Vec<WaitingKey>, sqlx::Error> {
    let rows = sqlx::query(
        "with recursive walk (key, n) as (
             (select limit_key, 1 from holdfast_jobs
              where state = 'available' and queue = $1 and limit_key > $2
              order by limit_key limit 1)
             union all
             select next.limit_key, walk.n + 1 from walk cross join lateral (
                 select limit_key from holdfast_jobs
                 where state = 'available' and queue = $1 and limit_key > walk.key
                 order by limit_key limit 1) as next
             where walk.n < $3)
         select walk.key,
                (select count(*) from holdfast_jobs as r
                 where r.state = 'running' and r.queue = $1 and r.limit_key = walk.key) as running,
                coalesce((select greatest(extract(epoch from b.full_at - clock_timestamp()) * 1000, 0)
                          from holdfast_limit_buckets as b
                          where b.queue = $1 and b.key = walk.key), 0)::float8 as debt_ms
         from walk order by walk.n",
    )
    .bind(queue)
    .bind(after)
    .bind(i32::try_from(most).unwrap_or(i32::MAX))
    .persistent(named)
    .fetch_all(on)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(WaitingKey {
                key: row.try_get("key")?,
                running: row.try_get("running")?,
                debt_ms: row.try_get("debt_ms")?,
            })
        })
        .collect()
}

pub(super) async fn heads(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    keys: &[&str],
    each: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let rows = sqlx::query(
        "select head.id, head.priority, head.run_at, k.key
         from unnest($2::text[]) as k (key)
         cross join (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
         cross join lateral (
             select id, priority, run_at from holdfast_jobs
             where state = 'available' and queue = $1 and limit_key = k.key collate \"C\"
               and priority = level.priority and run_at <= now()
             order by run_at, id limit $3) as head",
    )
    .bind(queue)
    .bind(keys)
    .bind(limit(each))
    .persistent(named)
    .fetch_all(on)
    .await?;
    rows.iter()
        .map(|row| candidate(row, row.try_get("key")?))
        .collect()
}

pub(super) async fn due(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    most: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let rows = sqlx::query(
        "select due.id, due.priority, due.run_at
         from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
         cross join lateral (
             select id, priority, run_at from holdfast_jobs
             where state = 'available' and queue = $1 and priority = level.priority and run_at <= now()
             order by run_at, id limit $2) as due",
    )
    .bind(queue)
    .bind(limit(most))
    .persistent(named)
    .fetch_all(on)
    .await?;
    rows.iter().map(|row| candidate(row, None)).collect()
}

pub(super) async fn unkeyed(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    window: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let rows = sqlx::query(
        "select due.id, due.priority, due.run_at
         from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
         cross join lateral (
             select id, priority, run_at, limit_key from holdfast_jobs
             where state = 'available' and queue = $1 and priority = level.priority and run_at <= now()
             order by run_at, id limit $2) as due
         where due.limit_key is null",
    )
    .bind(queue)
    .bind(limit(window))
    .persistent(named)
    .fetch_all(on)
    .await?;
    rows.iter().map(|row| candidate(row, None)).collect()
}

fn candidate(row: &PgRow, key: Option<String>) -> Result<Candidate, sqlx::Error> {
    Ok(Candidate {
        id: row.try_get("id")?,
        priority: row.try_get("priority")?,
        run_at: row.try_get("run_at")?,
        key,
    })
}

pub(super) async fn take(
    on: &mut PgConnection,
    named: bool,
    asked: Asked<'_>,
    ids: &[Uuid],
) -> Result<Vec<ClaimedJob>, sqlx::Error> {
    sqlx::query_as(
        "update holdfast_jobs
         set state = 'running', worker = $2, started_at = case when crashes = 0 then now() end
         where id = any (array (
                   select id from holdfast_jobs where id = any ($1) and state = 'available' for update skip locked))
           and exists (select from holdfast_workers
                       where id = $2 and seen_at > now() - $3 * interval '1 millisecond')
         returning id, kind, payload::text as payload, attempt, crashes, max_attempts, timeout_ms,
                   options::text as options, priority, run_at, snoozes, doubtful, batch_id",
    )
    .bind(ids)
    .bind(asked.worker.as_uuid())
    .bind(millis(asked.lost_after))
    .persistent(named)
    .fetch_all(on)
    .await
}

pub(super) async fn spend(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    spent_ms: f64,
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "update holdfast_queues
         set rate_full_at = greatest(rate_full_at, clock_timestamp()) + $2 * interval '1 millisecond'
         where name = $1",
    )
    .bind(queue)
    .bind(spent_ms)
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn spend_by_key(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    spent: &BTreeMap<&str, f64>,
) -> Result<(), sqlx::Error> {
    if spent.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "insert into holdfast_limit_buckets (queue, key, full_at)
         select $1, s.key, greatest(b.full_at, clock_timestamp()) + s.ms * interval '1 millisecond'
         from unnest($2::text[], $3::float8[]) as s (key, ms)
         left join holdfast_limit_buckets as b on b.queue = $1 and b.key = s.key collate \"C\"
         on conflict (queue, key) do update set full_at = excluded.full_at",
    )
    .bind(queue)
    .bind(spent.keys().copied().collect::<Vec<_>>())
    .bind(spent.values().copied().collect::<Vec<_>>())
    .persistent(named)
    .execute(on)
    .await?;
    Ok(())
}

pub(super) async fn set_cursor(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
    cursor: &str,
) -> Result<(), sqlx::Error> {
    sqlx::query("update holdfast_queues set key_cursor = $2 where name = $1")
        .bind(queue)
        .bind(cursor)
        .persistent(named)
        .execute(on)
        .await?;
    Ok(())
}

pub(super) async fn next_due(
    on: &mut PgConnection,
    named: bool,
    queue: &str,
) -> Result<Option<f64>, sqlx::Error> {
    sqlx::query_scalar(
        "select (extract(epoch from min(next.run_at) - clock_timestamp()) * 1000)::float8
         from (values (0::smallint), (1::smallint), (2::smallint)) as level (priority)
         cross join lateral (
             select run_at from holdfast_jobs
             where state = 'available' and queue = $1 and priority = level.priority and run_at > now()
             order by run_at limit 1) as next",
    )
    .bind(queue)
    .persistent(named)
    .fetch_one(on)
    .await
}
