//! The ledger on PostgreSQL. Works through PgBouncer in transaction mode: no LISTEN, no session state.
//!
//! Batches travel as arrays (`unnest`), one statement and one commit each.

mod claim;
mod clock;
mod frontier;
mod lease;
mod position;
mod prune;
mod rows;
mod writes;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::{Bounds, PostgresDatabase};
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::{Connection, FromRow, SqlSafeStr};
use uuid::Uuid;

use self::frontier::{Frontiers, LOOK_BOUND};
pub(crate) use self::rows::RECORD;
use self::rows::count;
use super::prune::PruneCursor;
use super::{
    CancelReply, ClaimedJob, Doubtful, Fence, FreeFinish, Heartbeat, IdRange, InsertOutcome, Insertion,
    JobRecord, Ledger, LedgerError, NewJob, Outcome, Progress, PruneReport, QueueStats, RenewedLease,
    RescueReport, Retention, RetryReply, ReturnReport, ServerClock, TimeSpan, WorkerRecord, WorkerReport,
    keys,
};
use crate::follow_ups::Effects;
use crate::id::{JobId, WorkerId};
use crate::limits::ClaimRequest;
use crate::observer::Observers;

/// See the module.
#[derive(Debug, Clone)]
pub struct PostgresLedger {
    database: PostgresDatabase,
    /// Off behind a pooler that cannot carry prepared statements (PgBouncer before 1.21): then each statement is
    /// unnamed, and inside a transaction, which keeps its two halves on one connection of the server.
    named_statements: bool,
    frontiers: Arc<Frontiers>,
    pruned: Arc<PruneCursor>,
    observers: Observers,
}

impl PostgresLedger {
    pub fn new(database: PostgresDatabase, settings: &DatabaseSettings) -> Self {
        Self {
            database,
            named_statements: settings.prepared_statements,
            frontiers: Arc::new(Frontiers::new(LOOK_BOUND)),
            pruned: Arc::default(),
            observers: Observers::default(),
        }
    }

    pub(super) fn observed(self, observers: Observers) -> Self {
        Self { observers, ..self }
    }

    /// With another bound for looks at a queue, so that a test needs fewer rows to reach it.
    #[doc(hidden)]
    #[must_use]
    pub fn with_look_bound(self, bound: Duration) -> Self {
        Self {
            frontiers: Arc::new(Frontiers::new(bound)),
            ..self
        }
    }

    /// One unit of work of the executor, with the bounds of the settings.
    pub(crate) async fn within<T>(
        &self,
        doing: &'static str,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, LedgerError> {
        self.within_bounds(doing, Bounds::SETTINGS, work).await
    }

    /// The same with shorter bounds, which take a transaction: see [`Bounds`].
    pub(crate) async fn within_bounds<T>(
        &self,
        doing: &'static str,
        bounds: Bounds,
        work: impl AsyncFnOnce(&mut PgConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, LedgerError> {
        let done = self
            .database
            .run(doing, bounds, self.named_statements, work)
            .await;
        done.map_err(|error| LedgerError::of(doing, error))
    }

    pub(crate) fn query<'q>(&self, sql: impl SqlSafeStr) -> Query<'q, Postgres, PgArguments> {
        sqlx::query(sql).persistent(self.named_statements)
    }

    pub(crate) fn query_as<'q, T: for<'r> FromRow<'r, PgRow>>(
        &self,
        sql: impl SqlSafeStr,
    ) -> QueryAs<'q, Postgres, T, PgArguments> {
        sqlx::query_as(sql).persistent(self.named_statements)
    }

    pub(crate) fn query_scalar<'q, T>(
        &self,
        sql: impl SqlSafeStr,
    ) -> QueryScalar<'q, Postgres, T, PgArguments>
    where
        (T,): for<'r> FromRow<'r, PgRow>,
    {
        sqlx::query_scalar(sql).persistent(self.named_statements)
    }
}

#[async_trait]
impl Ledger for PostgresLedger {
    async fn insert_as(&self, jobs: &[NewJob], how: Insertion) -> Result<Vec<InsertOutcome>, LedgerError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        // One statement is its own transaction: the common case pays for one round trip.
        let one_batch = jobs.iter().all(|job| job.batch == jobs[0].batch);
        let plain = one_batch && jobs.iter().all(|job| !keys::has_key(job));
        if plain && jobs.len() <= super::MAX_STATEMENT_ROWS {
            let insert = async |on: &mut PgConnection| Self::insert_in(on, jobs, self.named_statements).await;
            return self.within("accept jobs", insert).await;
        }
        let bounds = Bounds {
            lock: how.lock_wait,
            ..Bounds::SETTINGS
        };
        let insert = async {
            let mut tx = self.database.begin().await?;
            let settled = Self::settle_in(&mut tx, jobs, self.named_statements).await?;
            let accepted = settled.answers(how.one_key);
            if how.keeps(&accepted) {
                tx.commit().await?;
            } else {
                tx.rollback().await?;
            }
            Ok(accepted)
        };
        let inserted = self.database.run_any("accept jobs", bounds, insert).await;
        inserted.map_err(|error| LedgerError::of("accept jobs", error))
    }

    async fn claim(
        &self,
        queue: &str,
        worker: WorkerId,
        limit: usize,
        lost_after: Duration,
    ) -> Result<Vec<ClaimedJob>, LedgerError> {
        let asked = ClaimRequest {
            queue,
            worker,
            room: limit,
            lost_after,
        };
        self.claim_jobs(asked).await
    }

    fn look_again_in(&self, queue: &str) -> Option<Duration> {
        self.frontiers.look_again_in(queue)
    }

    async fn peek(&self, queues: &[String]) -> Result<BTreeMap<String, Duration>, LedgerError> {
        self.peek_queues(queues).await
    }

    async fn finish(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Vec<JobId>, LedgerError> {
        let outcomes: Vec<&Outcome> = outcomes.iter().collect();
        self.within("record outcomes", async |on| {
            let written = Self::finish_in(on, worker, &outcomes, self.named_statements).await?;
            Ok(written.into_iter().map(|row| row.id).collect())
        })
        .await
    }

    async fn finish_free(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<FreeFinish, LedgerError> {
        let outcomes: Vec<&Outcome> = outcomes.iter().collect();
        self.within("record held outcomes", async |on| {
            let rows = Self::finish_free_in(on, worker, &outcomes, self.named_statements).await?;
            Ok(rows.into())
        })
        .await
    }

    async fn mark_started(&self, worker: WorkerId, fence: &Fence) -> Result<bool, LedgerError> {
        self.within("record a start", async |on| {
            let done = self
                .query(
                    "update holdfast_jobs set started_at = now()
                 where id = $1 and state || '' = 'running' and worker = $2 and attempt = $3 and crashes = $4",
                )
                .bind(fence.id.as_uuid())
                .bind(worker.as_uuid())
                .bind(count(fence.attempt))
                .bind(count(fence.crashes))
                .execute(&mut *on)
                .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    async fn store_progress(&self, worker: WorkerId, progress: &[Progress]) -> Result<(), LedgerError> {
        self.within("store progress", async |on| {
            self.query(
                "update holdfast_jobs as j set progress = p.value::json
                 from unnest($2::uuid[], $3::integer[], $4::integer[], $5::text[]) as p(id, attempt, crashes, value)
                 where j.id = p.id and j.state || '' = 'running' and j.worker = $1
                   and j.attempt = p.attempt and j.crashes = p.crashes
                   and j.id = any (array (select id from holdfast_jobs where id = any ($2) order by id
                                          for update skip locked))",
            )
            .bind(worker.as_uuid())
            .bind(progress.iter().map(|row| row.fence.id.as_uuid()).collect::<Vec<_>>())
            .bind(progress.iter().map(|row| count(row.fence.attempt)).collect::<Vec<_>>())
            .bind(progress.iter().map(|row| count(row.fence.crashes)).collect::<Vec<_>>())
            .bind(progress.iter().map(|row| row.value.get()).collect::<Vec<_>>())
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
        self.prune_jobs(retention, limit).await
    }

    async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        self.within("read a job", async |on| {
            self.query_as(sqlx::AssertSqlSafe(format!("{RECORD} where id = $1")))
                .bind(id.as_uuid())
                .fetch_optional(&mut *on)
                .await
        })
        .await
    }

    async fn final_among(&self, ids: &[JobId]) -> Result<Vec<JobId>, LedgerError> {
        self.within("look for finished jobs", async |on| {
            let found: Vec<Uuid> = self
                .query_scalar(
                    "select id from holdfast_jobs
                 where id = any($1) and state in ('completed', 'discarded', 'cancelled')",
                )
                .bind(ids.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
                .fetch_all(&mut *on)
                .await?;
            Ok(found.into_iter().map(JobId::from_uuid).collect())
        })
        .await
    }

    async fn cancel(&self, id: JobId) -> Result<Option<(CancelReply, Effects)>, LedgerError> {
        self.observers.ready().await?;
        self.within("cancel a job", async |on| {
            let mut tx = on.begin().await?;
            let done = Self::cancel_in(&mut tx, id, self.named_statements, &self.observers).await?;
            tx.commit().await?;
            Ok(done)
        })
        .await
    }

    async fn retry_now(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError> {
        self.within("retry a job", async |on| {
            let mut tx = on.begin().await?;
            let done = Self::retry_in(&mut tx, id, self.named_statements).await?;
            if done == Some(RetryReply::UniqueKeyTaken) {
                // The statement that found out has aborted the transaction.
                tx.rollback().await?;
            } else {
                tx.commit().await?;
            }
            Ok(done)
        })
        .await
    }

    async fn queue_stats(&self) -> Result<Vec<QueueStats>, LedgerError> {
        self.within("count the queues", async |on| {
            let rows: Vec<keys::StatsRow> = self.query_as(
                "with counted as (
                     select queue,
                            count(*) filter (where state = 'available' and run_at <= now()) as available,
                            count(*) filter (where state = 'available' and run_at > now() and attempt = 0) as scheduled,
                            count(*) filter (where state = 'available' and run_at > now() and attempt > 0) as retryable,
                            count(*) filter (where state = 'running') as running,
                            coalesce(extract(epoch from now() - min(run_at)
                                filter (where state = 'available' and run_at <= now())), 0)::float8 as oldest
                     from holdfast_jobs where state = 'available' or state = 'running' group by queue),
                 dead as (
                     select queue, count(*) as discarded from holdfast_jobs where state = 'discarded' group by queue)
                 select queue, coalesce(q.paused, false) as paused, coalesce(available, 0) as available,
                        coalesce(scheduled, 0) as scheduled, coalesce(retryable, 0) as retryable,
                        coalesce(running, 0) as running, coalesce(discarded, 0) as discarded,
                        coalesce(oldest, 0) as oldest
                 from counted full join dead using (queue)
                 full join (select name as queue, paused from holdfast_queues) as q using (queue)
                 order by queue",
            )
            .fetch_all(&mut *on)
            .await?;
            Ok(rows.into_iter().map(keys::queue_stats).collect())
        })
        .await
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), LedgerError> {
        self.within("pause or resume a queue", async |on| {
            Self::set_paused_in(on, queue, paused, self.named_statements).await
        })
        .await
    }

    async fn paused_queues(&self) -> Result<Vec<String>, LedgerError> {
        self.within("read the paused queues", async |on| {
            self.query_scalar("select name from holdfast_queues where paused")
                .fetch_all(&mut *on)
                .await
        })
        .await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.list_workers().await
    }

    async fn doubtful(&self, limit: usize) -> Result<Vec<Doubtful>, LedgerError> {
        self.within("look for doubtful jobs", async |on| {
            let rows: Vec<(Uuid, String)> = self
                .query_as("select id, queue from holdfast_jobs where doubtful order by id limit $1")
                .bind(i64::try_from(limit).unwrap_or(i64::MAX))
                .fetch_all(&mut *on)
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
        self.within("settle doubtful jobs", async |on| {
            self.query(// What somebody has locked is found again by the next sweep.
                "update holdfast_jobs set doubtful = false where id = any (array (
                     select id from holdfast_jobs where id = any($1) and doubtful order by id for update skip locked))",
            )
                .bind(ids.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
                .execute(&mut *on)
                .await?;
            Ok(())
        })
        .await
    }
}
