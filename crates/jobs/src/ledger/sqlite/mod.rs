//! The ledger on SQLite: the embedded default, in WAL mode with one writer.
//!
//! The statements mirror those of PostgreSQL. SQLite has one writer at a time, so nothing needs `SKIP LOCKED`; batches
//! travel as JSON (`json_each`), inserts as multi-row `VALUES` in power-of-two sizes, so that few statements are ever
//! prepared. Times are milliseconds since the epoch.

#[macro_use]
mod rows;
mod clock;
mod lease;
mod writes;

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::sql::{Bounds, SqliteDatabase};
use serde_json::json;
use sqlx::AssertSqlSafe;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

pub(crate) use self::rows::RECORD;
use self::rows::{hex, hex_array, limit_of, millis};
use super::prune::{PruneCursor, WINDOW};
use super::{
    CancelReply, ClaimedJob, Doubtful, Fence, FreeFinish, Heartbeat, IdRange, InsertOutcome, Insertion,
    JobRecord, Ledger, LedgerError, NewJob, Outcome, Progress, PruneReport, QueueStats, RenewedLease,
    RescueReport, Retention, RetryReply, ReturnReport, ServerClock, TimeSpan, WorkerRecord, WorkerReport,
    keys,
};
use crate::follow_ups::Effects;
use crate::id::{JobId, WorkerId};
use crate::observer::Observers;

const CLAIM: &str = concat!(
    "update holdfast_jobs set state = 'running', worker = ?2, started_at = case when crashes = 0 then ", now!(), " end
     where id in (select id from (
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 0
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         union all
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 1
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         union all
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 2
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         ) limit ?3)
       and exists (select 1 from holdfast_workers where id = ?2 and seen_at > ", now!(), " - ?4)
       and not exists (select 1 from holdfast_queues where name = ?1 and (paused or limited))
       and not exists (select 1 from holdfast_key_overrides where queue = ?1 and expires_at > ", now!(), ")
     returning id, kind, payload, attempt, crashes, max_attempts, timeout_ms, options, priority, run_at, snoozes, doubtful,
               batch_id"
);

const PEEK: &str = concat!(
    "select q.value as queue, min((
         select run_at from holdfast_jobs
         where state = 'available' and queue = q.value and priority = level.value order by run_at limit 1)) - ", now!(), "
         as due_ms
     from json_each(?1) as q cross join json_each('[0,1,2]') as level
     where not exists (select 1 from holdfast_queues where name = q.value and (paused or limited))
       and not exists (select 1 from holdfast_key_overrides as o where o.queue = q.value and o.expires_at > ", now!(), ")
     group by q.value"
);

/// See the module.
#[derive(Debug, Clone)]
pub struct SqliteLedger {
    database: SqliteDatabase,
    pruned: Arc<PruneCursor>,
    observers: Observers,
}

impl SqliteLedger {
    pub fn new(database: SqliteDatabase) -> Self {
        Self {
            database,
            pruned: Arc::default(),
            observers: Observers::default(),
        }
    }

    pub(super) fn observed(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// One unit of work of the executor: reads, or [`Self::transaction`].
    async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, LedgerError> {
        let done = self.database.run_any(doing, Bounds::SETTINGS, work).await;
        done.map_err(|error| LedgerError::of(doing, error))
    }

    /// One unit of work that writes, in a transaction.
    async fn write<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, LedgerError> {
        let done = self
            .database
            .run_any(doing, Bounds::SETTINGS, self.transaction(work))
            .await;
        done.map_err(|error| LedgerError::of(doing, error))
    }

    /// One transaction, which holds the write lock from its first moment.
    async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        self.database.write(work).await
    }

    /// The same, rolled back if the work's second answer is false.
    async fn transaction_if<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<(T, bool), sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut tx = self.database.begin().await?;
        let (done, keep) = work(&mut tx).await?;
        if keep {
            tx.commit().await?;
        } else {
            tx.rollback().await?;
        }
        Ok(done)
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn insert_as(&self, jobs: &[NewJob], how: Insertion) -> Result<Vec<InsertOutcome>, LedgerError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.within("accept jobs", async {
            self.transaction_if(async |tx| {
                let accepted = Self::settle_in(tx, jobs).await?.answers(how.one_key);
                let keep = how.keeps(&accepted);
                Ok((accepted, keep))
            })
            .await
        })
        .await
    }

    async fn claim(
        &self,
        queue: &str,
        worker: WorkerId,
        limit: usize,
        lost_after: Duration,
    ) -> Result<Vec<ClaimedJob>, LedgerError> {
        let mut jobs: Vec<ClaimedJob> = self
            .write("claim jobs", async |on| {
                sqlx::query_as(CLAIM)
                    .bind(queue)
                    .bind(worker.as_uuid())
                    .bind(limit_of(limit.min(super::MAX_STATEMENT_ROWS)))
                    .bind(millis(lost_after))
                    .fetch_all(&mut *on)
                    .await
            })
            .await?;
        // UPDATE … RETURNING has no order of its own.
        jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        Ok(jobs)
    }

    async fn peek(&self, queues: &[String]) -> Result<BTreeMap<String, Duration>, LedgerError> {
        self.within("look for due jobs", async {
            let rows: Vec<(String, Option<i64>)> = sqlx::query_as(PEEK)
                .bind(json!(queues).to_string())
                .fetch_all(&self.database.reader)
                .await?;
            Ok(rows
                .into_iter()
                .filter_map(|(queue, due_ms)| {
                    Some((queue, Duration::from_millis(u64::try_from(due_ms?).unwrap_or(0))))
                })
                .collect())
        })
        .await
    }

    async fn finish(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Vec<JobId>, LedgerError> {
        let outcomes: Vec<&Outcome> = outcomes.iter().collect();
        self.write("record outcomes", async |on| {
            let written = Self::finish_in(on, worker, &outcomes).await?;
            Ok(written.into_iter().map(|row| row.id).collect())
        })
        .await
    }

    fn locks_rows(&self) -> bool {
        false
    }

    /// Nothing but the whole file can be locked.
    async fn finish_free(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<FreeFinish, LedgerError> {
        let stored = self.finish(worker, outcomes).await?;
        Ok(FreeFinish {
            stored,
            locked: Vec::new(),
        })
    }

    async fn mark_started(&self, worker: WorkerId, fence: &Fence) -> Result<bool, LedgerError> {
        self.write("record a start", async |on| {
            let done = sqlx::query(concat!(
                "update holdfast_jobs set started_at = ",
                now!(),
                "
                 where id = ?1 and state = 'running' and worker = ?2 and attempt = ?3 and crashes = ?4"
            ))
            .bind(fence.id.as_uuid())
            .bind(worker.as_uuid())
            .bind(fence.attempt)
            .bind(fence.crashes)
            .execute(&mut *on)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    async fn store_progress(&self, worker: WorkerId, progress: &[Progress]) -> Result<(), LedgerError> {
        let rows: Vec<_> = progress
            .iter()
            .map(|p| {
                json!([
                    hex(p.fence.id.as_uuid()),
                    p.fence.attempt,
                    p.fence.crashes,
                    p.value.get()
                ])
            })
            .collect();
        self.write("store progress", async |on| {
            sqlx::query(
                "update holdfast_jobs as j set progress = p.value
                 from (select unhex(value ->> 0) as id, value ->> 1 as attempt, value ->> 2 as crashes,
                              value ->> 3 as value
                       from json_each(?2)) as p
                 where j.id = p.id and +j.state = 'running' and +j.worker = ?1
                   and j.attempt = p.attempt and j.crashes = p.crashes",
            )
            .bind(worker.as_uuid())
            .bind(json!(rows).to_string())
            .execute(&mut *on)
            .await?;
            Ok(())
        })
        .await
    }

    async fn check_clock(&self) -> Result<ServerClock, LedgerError> {
        self.check_the_clock().await
    }

    async fn make_due(
        &self,
        queues: &[String],
        span: TimeSpan,
        limit: usize,
    ) -> Result<BTreeMap<String, u64>, LedgerError> {
        self.make_jobs_due(queues, span, limit).await
    }

    async fn register(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        self.register_worker(report).await
    }

    async fn heartbeat(&self, report: &WorkerReport) -> Result<Heartbeat, LedgerError> {
        self.beat(report).await
    }

    async fn renew(&self, ids: &[WorkerId], idle: &[WorkerId]) -> Result<Vec<RenewedLease>, LedgerError> {
        self.renew_leases(ids, idle).await
    }

    async fn cancel_requests(&self, workers: &[WorkerId]) -> Result<Vec<JobId>, LedgerError> {
        self.requested_cancellations(workers).await
    }

    async fn unknown_to_worker(&self, worker: WorkerId, known: &[JobId]) -> Result<Vec<Fence>, LedgerError> {
        self.running_unknown(worker, known).await
    }

    async fn return_strays(&self, worker: WorkerId, known: &[JobId]) -> Result<ReturnReport, LedgerError> {
        self.return_unknown(worker, known).await
    }

    async fn return_suspects(&self, worker: WorkerId, fences: &[Fence]) -> Result<ReturnReport, LedgerError> {
        self.return_fenced(worker, fences).await
    }

    async fn deregister(&self, worker: WorkerId) -> Result<ReturnReport, LedgerError> {
        self.end_lease(worker).await
    }

    async fn rescue_orphans(
        &self,
        range: IdRange,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        self.rescue_ownerless(range, max_crashes, limit).await
    }

    async fn rescue(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        self.rescue_lost(lost_after, max_crashes, limit).await
    }

    async fn prune(&self, retention: &Retention, limit: usize) -> Result<PruneReport, LedgerError> {
        const COMPLETED: &str = concat!(
            "delete from holdfast_jobs where id in (
                 select id
                 from (select id, state, finished_at from holdfast_jobs where id > ?1 and id < ?2 order by id limit ?5)
                 where state in ('completed', 'cancelled') and finished_at < ",
            now!(),
            " - ?3 limit ?4)
             returning id"
        );
        const DISCARDED: &str = concat!(
            "delete from holdfast_jobs where id in (
                 select id from holdfast_jobs
                 where state = 'discarded' and finished_at < ",
            now!(),
            " - ?1
                 order by finished_at limit ?2)"
        );
        let (after, newest) = self.pruned.next(retention);
        self.write("prune finished jobs", async |on| {
            let deleted: Vec<Uuid> = sqlx::query_scalar(COMPLETED)
                .bind(after.as_uuid())
                .bind(newest.as_uuid())
                .bind(millis(retention.completed))
                .bind(limit_of(limit))
                .bind(WINDOW)
                .fetch_all(&mut *on)
                .await?;
            let read: Option<Uuid> = if deleted.len() >= limit {
                deleted.iter().max().copied()
            } else {
                sqlx::query_scalar(
                    "select id from holdfast_jobs where id > ?1 and id < ?2 order by id limit 1 offset ?3 - 1",
                )
                .bind(after.as_uuid())
                .bind(newest.as_uuid())
                .bind(WINDOW)
                .fetch_optional(&mut *on)
                .await?
            };
            self.pruned.read_up_to(read.map(JobId::from_uuid));
            let discarded = sqlx::query(DISCARDED)
                .bind(millis(retention.discarded))
                .bind(limit_of(limit))
                .execute(&mut *on)
                .await?
                .rows_affected();
            Ok(PruneReport {
                deleted: deleted.len() as u64 + discarded,
                has_more: read.is_some() || discarded >= limit as u64,
            })
        })
        .await
    }

    async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        self.within("read a job", async {
            sqlx::query_as(AssertSqlSafe(format!("{RECORD} where id = ?1")))
                .bind(id.as_uuid())
                .fetch_optional(&self.database.reader)
                .await
        })
        .await
    }

    async fn final_among(&self, ids: &[JobId]) -> Result<Vec<JobId>, LedgerError> {
        self.within("look for finished jobs", async {
            let found: Vec<Uuid> = sqlx::query_scalar(
                "select id from holdfast_jobs
                 where id in (select unhex(value) from json_each(?1))
                   and state in ('completed', 'discarded', 'cancelled')",
            )
            .bind(hex_array(ids))
            .fetch_all(&self.database.reader)
            .await?;
            Ok(found.into_iter().map(JobId::from_uuid).collect())
        })
        .await
    }

    async fn cancel(&self, id: JobId) -> Result<Option<(CancelReply, Effects)>, LedgerError> {
        self.observers.ready().await?;
        let work = self.transaction(async |tx| Self::cancel_in(tx, id, &self.observers).await);
        self.within("cancel a job", work).await
    }

    async fn retry_now(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError> {
        let work = self.transaction(async |tx| Self::retry_in(tx, id).await);
        self.within("retry a job", work).await
    }

    async fn queue_stats(&self) -> Result<Vec<QueueStats>, LedgerError> {
        self.within("count the queues", async {
            let rows: Vec<keys::StatsRow> = sqlx::query_as(concat!(
                "with counted as (
                     select queue,
                            count(*) filter (where state = 'available' and run_at <= ", now!(), ") as available,
                            count(*) filter (where state = 'available' and run_at > ", now!(), "
                                             and attempt = 0) as scheduled,
                            count(*) filter (where state = 'available' and run_at > ", now!(), "
                                             and attempt > 0) as retryable,
                            count(*) filter (where state = 'running') as running,
                            0 as discarded,
                            max(0, coalesce(", now!(), " - min(run_at)
                                filter (where state = 'available' and run_at <= ", now!(), "), 0)) / 1000.0 as oldest
                     from holdfast_jobs where state = 'available' or state = 'running' group by queue
                     union all
                     select queue, 0, 0, 0, 0, count(*), 0 from holdfast_jobs where state = 'discarded' group by queue
                     union all
                     select name, 0, 0, 0, 0, 0, 0 from holdfast_queues)
                 select queue, coalesce((select paused from holdfast_queues where name = queue), 0) as paused,
                        sum(available) as available, sum(scheduled) as scheduled, sum(retryable) as retryable,
                        sum(running) as running, sum(discarded) as discarded, cast(max(oldest) as real) as oldest
                 from counted group by queue order by queue"
            ))
            .fetch_all(&self.database.reader)
            .await?;
            Ok(rows.into_iter().map(keys::queue_stats).collect())
        })
        .await
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), LedgerError> {
        let work = self.transaction(async |tx| Self::set_paused_in(tx, queue, paused).await);
        self.within("pause or resume a queue", work).await
    }

    async fn paused_queues(&self) -> Result<Vec<String>, LedgerError> {
        self.within("read the paused queues", async {
            sqlx::query_scalar("select name from holdfast_queues where paused")
                .fetch_all(&self.database.reader)
                .await
        })
        .await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.list_workers().await
    }

    async fn doubtful(&self, limit: usize) -> Result<Vec<Doubtful>, LedgerError> {
        self.within("look for doubtful jobs", async {
            let rows: Vec<(Uuid, String)> =
                sqlx::query_as("select id, queue from holdfast_jobs where doubtful order by id limit ?1")
                    .bind(limit_of(limit))
                    .fetch_all(&self.database.reader)
                    .await?;
            Ok(rows
                .into_iter()
                .map(|(id, queue)| Doubtful {
                    id: JobId::from_uuid(id),
                    queue,
                })
                .collect())
        })
        .await
    }

    async fn settle(&self, ids: &[JobId]) -> Result<(), LedgerError> {
        self.write("settle doubtful jobs", async |on| {
            sqlx::query(
                "update holdfast_jobs set doubtful = 0
                 where doubtful and id in (select unhex(value) from json_each(?1))",
            )
            .bind(hex_array(ids))
            .execute(&mut *on)
            .await?;
            Ok(())
        })
        .await
    }
}
