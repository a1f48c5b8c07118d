//! The claim: the partial index, walked once for each priority from the [frontier](super::frontier) on; rows are taken with
//! `FOR UPDATE SKIP LOCKED`, so that workers never wait for one another.
//!
//! The statement locks the worker's row too, `FOR KEY SHARE`, once it has found a job (so that a claim that finds none writes
//! nothing): whoever is to delete that row waits until the jobs are running for all to see, and a claim that comes to a row that is
//! deleted takes nothing (`docs/adr/0008-the-lease-is-a-lock.md`).

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::postgres::{PgConnection, PgRow};
use sqlx::{FromRow, Row};
use tokio::time::Instant;
use uuid::Uuid;

use super::PostgresLedger;
use super::frontier::From;
use super::rows::{decode_error, from_count, millis, raw};
use crate::id::{BatchId, JobId};
use crate::ledger::{ClaimedJob, LedgerError, MAX_STATEMENT_ROWS, Options, Priority};
use crate::limits::Asked;

const CLAIM: &str = "
with picked as materialized (
    select due.id
    from (values (0::smallint, coalesce($5::timestamptz, '-infinity')),
                 (1::smallint, coalesce($6::timestamptz, '-infinity')),
                 (2::smallint, coalesce($7::timestamptz, '-infinity'))) as level(priority, since)
    cross join lateral (
        select id from holdfast_jobs
        where state = 'available' and queue = $1 and priority = level.priority
          and run_at >= level.since and run_at <= now()
        order by run_at, id
        limit $3
        for update skip locked) as due
    where exists (select from holdfast_workers
                  where id = $2 and seen_at > now() - $4 * interval '1 millisecond')
      and (select holdfast_queue_is_open_1($1))
    limit $3),
lease as materialized (
    select id from holdfast_workers
    where id = $2 and seen_at > now() - $4 * interval '1 millisecond' and exists (select from picked)
    for key share)
update holdfast_jobs
set state = 'running', worker = $2, started_at = case when crashes = 0 then now() end
where id = any (array (select id from picked)) and exists (select from lease)
returning id, kind, payload::text as payload, attempt, crashes, max_attempts, timeout_ms, options::text as options,
          priority, run_at, snoozes, doubtful, batch_id, now() as claimed_at";

/// Nested-loop by construction: a few probes of the partial index for each queue, whatever the backlog.
const PEEK: &str = "
select queue, (extract(epoch from min(run_at) - now()) * 1000)::float8 as due_ms
from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::timestamptz[]) as q(queue, high, normal, low)
cross join lateral (values (0::smallint, coalesce(q.high, '-infinity')),
                           (1::smallint, coalesce(q.normal, '-infinity')),
                           (2::smallint, coalesce(q.low, '-infinity'))) as level(priority, since)
cross join lateral (
    select run_at from holdfast_jobs
    where state = 'available' and queue = q.queue and priority = level.priority and run_at >= level.since
    order by run_at
    limit 1) as first
where not exists (select from holdfast_queues where name = q.queue and (paused or limited))
group by queue";

impl PostgresLedger {
    /// See [`crate::ledger::Ledger::claim`].
    pub(super) async fn claim_jobs(&self, asked: Asked<'_>) -> Result<Vec<ClaimedJob>, LedgerError> {
        let mut jobs = self
            .within("claim jobs", async |on| {
                self.claim_from(on, asked, self.frontiers.of(asked.queue)).await
            })
            .await?;
        // UPDATE … RETURNING has no order of its own.
        jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        Ok(jobs)
    }

    async fn claim_from(
        &self,
        on: &mut PgConnection,
        asked: Asked<'_>,
        from: From,
    ) -> Result<Vec<ClaimedJob>, sqlx::Error> {
        let began = Instant::now();
        let [high, normal, low] = from;
        let rows = self
            .query(CLAIM)
            .bind(asked.queue)
            .bind(asked.worker.as_uuid())
            .bind(i64::try_from(asked.room.min(MAX_STATEMENT_ROWS)).unwrap_or(1))
            .bind(millis(asked.lost_after))
            .bind(high)
            .bind(normal)
            .bind(low)
            .fetch_all(on)
            .await?;
        let took = began.elapsed();
        let jobs: Vec<ClaimedJob> = rows.iter().map(ClaimedJob::from_row).collect::<Result<_, _>>()?;
        let at: Option<DateTime<Utc>> = rows.first().map(|row| row.try_get("claimed_at")).transpose()?;
        self.frontiers.claimed(asked.queue, from, &jobs, at, took);
        Ok(jobs)
    }

    /// See [`crate::ledger::Ledger::peek`].
    pub(super) async fn peek_queues(
        &self,
        queues: &[String],
    ) -> Result<BTreeMap<String, Duration>, LedgerError> {
        self.within("look for due jobs", async |on| {
            let began = Instant::now();
            let from: Vec<From> = queues.iter().map(|queue| self.frontiers.of(queue)).collect();
            let rows: Vec<(String, f64)> = self
                .query_as(PEEK)
                .bind(queues)
                .bind(from.iter().map(|from| from[0]).collect::<Vec<_>>())
                .bind(from.iter().map(|from| from[1]).collect::<Vec<_>>())
                .bind(from.iter().map(|from| from[2]).collect::<Vec<_>>())
                .fetch_all(&mut *on)
                .await?;
            let took = began.elapsed();
            let due: BTreeMap<String, Duration> = rows
                .into_iter()
                .map(|(queue, due_ms)| (queue, Duration::from_secs_f64(due_ms.max(0.0) / 1_000.0)))
                .collect();
            for (queue, from) in queues.iter().zip(from) {
                let is_due = due.get(queue).is_some_and(Duration::is_zero);
                self.frontiers.peeked(queue, from, is_due, took);
            }
            Ok(due)
        })
        .await
    }
}

impl FromRow<'_, PgRow> for ClaimedJob {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let timeout: i64 = row.try_get("timeout_ms")?;
        let options: Option<String> = row.try_get("options")?;
        Ok(Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            payload: raw(row.try_get("payload")?)?,
            attempt: from_count(row.try_get("attempt")?),
            crashes: from_count(row.try_get("crashes")?),
            max_attempts: from_count(row.try_get("max_attempts")?),
            timeout: Duration::from_millis(timeout.unsigned_abs()),
            options: options
                .map_or(Ok(Options::default()), |text| serde_json::from_str(&text))
                .map_err(decode_error)?,
            priority: Priority::from_rank(row.try_get("priority")?),
            run_at: row.try_get("run_at")?,
            snoozes: from_count(row.try_get("snoozes")?),
            doubtful: row.try_get("doubtful")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
        })
    }
}
