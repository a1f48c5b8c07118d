//! The worker's row, which is the lease of all its jobs, and what returns the jobs of a lease that ended. The protocol, with
//! every interleaving: `docs/adr/0008-the-lease-is-a-lock.md`.
//!
//! # Invariants
//! - A worker's row is deleted only by a transaction that has locked it `for update` in a statement before, and in a
//!   statement after that has found no job running under it. A claim holds the row `for key share`, so it has committed by then, or
//!   finds no row.
//! - Rows of jobs are locked with `skip locked`: nothing here waits for a job's row, so a row that somebody else holds
//!   delays itself alone, and no two transactions wait for each other.
//! - What is decided of a job is decided on the version of its row that was locked: the columns are read in the `set` list of the
//!   update, never in a subquery, which would see the statement's snapshot.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::sql::Bounds;
use serde_json::json;
use sqlx::Connection;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::PostgresLedger;
use super::rows::{count, decode_error, from_count, millis};
use crate::LedgerTx;
use crate::batches::Tally;
use crate::follow_ups::{self, Effects};
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::{
    Fence, Heartbeat, IdRange, LedgerError, MAX_STATEMENT_ROWS, RenewedLease, RescueReport, ReturnReport,
    WorkerRecord, WorkerReport, keys,
};

/// Lost workers that one statement looks after. An id has a bounded number of entries in `holdfast_jobs_running`, and this bounds
/// how many of them one statement walks past.
const LOST_WORKERS: i64 = 10;

/// Rows of workers read for the list of workers; one process has a few.
const WORKER_ROWS: i64 = 10_000;

/// How long the search for jobs without a worker's row may take in one range of ids.
const ORPHANS_WITHIN: Duration = Duration::from_secs(1);

/// A job goes back without a crash, or is cancelled if it was asked to. It was due when it was claimed, and so it is now, also if
/// the clock was set back meanwhile.
macro_rules! put_back {
    () => {
        "update holdfast_jobs as j
         set state = case when j.cancel_requested then 'cancelled' else 'available' end,
             cancel_requested = false,
             run_at = least(j.run_at, now()),
             finished_at = case when j.cancel_requested then now() end,
             started_at = case when j.cancel_requested then j.started_at end,
             worker = case when j.cancel_requested then j.worker end
         where j.id = any (array (select id from held))
         returning j.id, j.queue, j.state, j.batch_id, j.kind, j.attempt, j.crashes"
    };
}

/// A job that may have been running gets a strike; one that only waited in the worker's buffer does not. `$1`: crashes that make a
/// job poison.
macro_rules! rescue_held {
    () => {
        "update holdfast_jobs as j
         set state = case when j.cancel_requested then 'cancelled'
                          when j.started_at is not null and j.crashes + 1 >= $1 then 'discarded'
                          else 'available' end,
             crashes = j.crashes + (j.started_at is not null)::int,
             cancel_requested = false,
             run_at = least(j.run_at, now()),
             started_at = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= $1
                               then j.started_at end,
             finished_at = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= $1
                                then now() end,
             worker = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= $1
                           then j.worker end,
             errors = case when j.started_at is null then j.errors
                           else coalesce(j.errors, '[]'::jsonb) || jsonb_build_object(
                               'at', to_char(now() at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"'),
                               'attempt', j.attempt + 1, 'class', 'crash',
                               'message', 'the worker that ran the job was lost (crash ' || (j.crashes + 1) || ')',
                               'worker', coalesce((select name from holdfast_workers w where w.id = j.worker),
                                                  j.worker::text),
                               'started_at', to_char(j.started_at at time zone 'utc', 'YYYY-MM-DD\"T\"HH24:MI:SS.MS\"Z\"')) end
         where j.id = any (array (select id from held))
         returning j.id, j.queue, j.state, j.batch_id, j.kind, j.attempt, j.crashes"
    };
}

/// Whether [`put_back`] ends the job; the batch that it belongs to then counts it.
macro_rules! put_back_ends {
    () => {
        "cancel_requested"
    };
}

/// Whether [`rescue_held`] ends the job.
macro_rules! rescue_ends {
    () => {
        "(cancel_requested or started_at is not null and crashes + 1 >= $1)"
    };
}

/// Of the picked jobs those that may be written. A job that ends is counted by its batch: if somebody holds the row of the
/// batch, the job is left for the next time, so that it does not keep the others waiting.
macro_rules! held {
    () => {
        "batches as materialized (
             select id from holdfast_batches
             where id = any (array (select batch_id from picked where ends and batch_id is not null))
             order by id
             for update skip locked),
         held as materialized (
             select picked.id from picked
             where not ends or batch_id is null or batch_id in (select id from batches)
                or not exists (select from holdfast_batches as b where b.id = picked.batch_id)) "
    };
}

/// A worker whose row somebody holds is left for the next time: it may be the heartbeat that shows it is alive. By chance, so
/// that those whose jobs cannot be had now do not keep the others from their turn.
const RESCUE: &str = concat!(
    "with lost as materialized (
         select id from holdfast_workers
         where seen_at <= now() - $2 * interval '1 millisecond'
         order by random()
         limit $4
         for no key update skip locked),
     picked as materialized (
         select id, batch_id, ",
    rescue_ends!(),
    " as ends from holdfast_jobs
         where state = 'running' and worker in (select id from lost)
         limit $3
         for update skip locked), ",
    held!(),
    rescue_held!()
);

/// The ids of a range alone, because the index also has, until a vacuum, each job that any worker has ever run.
const RESCUE_ORPHANS: &str = concat!(
    "with picked as materialized (
         select id, batch_id, ",
    rescue_ends!(),
    " as ends from holdfast_jobs as j
         where j.state = 'running' and j.worker >= $2 and j.worker <= $3
           and not exists (select from holdfast_workers as w where w.id = j.worker)
         limit $4
         for update of j skip locked), ",
    held!(),
    rescue_held!()
);

const RETURN_STRAYS: &str = concat!(
    "with picked as materialized (
         select j.id, j.batch_id, ",
    put_back_ends!(),
    " as ends from holdfast_jobs as j
         where j.state = 'running' and j.worker = $1
           and not exists (select from unnest($2::uuid[]) as known(id) where known.id = j.id)
         limit $3
         for update of j skip locked), ",
    held!(),
    put_back!()
);

const RETURN_SUSPECTS: &str = concat!(
    "with picked as materialized (
         select j.id, j.batch_id, ",
    put_back_ends!(),
    " as ends from holdfast_jobs as j
         join unnest($2::uuid[], $3::integer[], $4::integer[]) as s(id, attempt, crashes) on s.id = j.id
         where j.state || '' = 'running' and j.worker = $1 and j.attempt = s.attempt and j.crashes = s.crashes
         for update of j skip locked), ",
    held!(),
    put_back!()
);

const RETURN_ALL: &str = concat!(
    "with picked as materialized (
         select id, batch_id, ",
    put_back_ends!(),
    " as ends from holdfast_jobs where state = 'running' and worker = $1 limit $2 for update skip locked), ",
    held!(),
    put_back!()
);

const UNKNOWN_TO_WORKER: &str = "
select j.id, j.attempt, j.crashes from holdfast_jobs as j
where j.state = 'running' and j.worker = $1
  and not exists (select from unnest($2::uuid[]) as known(id) where known.id = j.id)
limit $3";

/// All in one statement; one whose row somebody else holds is not waited for.
const RENEW: &str = "
with free as materialized (
    select id from holdfast_workers where id = any ($1) for no key update skip locked),
renewed as (
    update holdfast_workers set seen_at = now() where id = any (array (select id from free)))
select id, id = any (array (select id from free)), draining,
       id = any ($2) and exists (select from holdfast_jobs where state = 'running' and worker = holdfast_workers.id)
from holdfast_workers where id = any ($1)";

fn rows(limit: usize) -> i64 {
    i64::try_from(limit.min(MAX_STATEMENT_ROWS)).unwrap_or(1)
}

impl PostgresLedger {
    /// See [`crate::ledger::Ledger::register`].
    pub(super) async fn register_worker(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        self.within("register the worker", async |on| {
            self.query(
                "insert into holdfast_workers (id, name, queues, stats, started_at, client)
                 values ($1, $2, $3, $4, $5, $6::json)
                 on conflict (id) do update set seen_at = now()",
            )
            .bind(report.id.as_uuid())
            .bind(&report.name)
            .bind(json!(report.queues))
            .bind(json!(report.stats))
            .bind(report.started_at)
            .bind(report.client.as_ref().map(|client| json!(client).to_string()))
            .execute(&mut *on)
            .await?;
            Ok(())
        })
        .await
    }

    /// See [`crate::ledger::Ledger::heartbeat`].
    pub(super) async fn beat(&self, report: &WorkerReport) -> Result<Heartbeat, LedgerError> {
        self.within("record a heartbeat", async |on| {
            let renewed = self
                .query("update holdfast_workers set seen_at = now(), stats = $2 where id = $1")
                .bind(report.id.as_uuid())
                .bind(json!(report.stats))
                .execute(&mut *on)
                .await?;
            Ok(if renewed.rows_affected() == 1 {
                Heartbeat::Renewed
            } else {
                Heartbeat::Lost
            })
        })
        .await
    }

    /// See [`crate::ledger::Ledger::renew`].
    pub(super) async fn renew_leases(
        &self,
        ids: &[WorkerId],
        idle: &[WorkerId],
    ) -> Result<Vec<RenewedLease>, LedgerError> {
        self.within("renew leases", async |on| {
            let found: Vec<(Uuid, bool, bool, bool)> = self
                .query_as(RENEW)
                .bind(uuids(ids))
                .bind(uuids(idle))
                .fetch_all(&mut *on)
                .await?;
            Ok(found.into_iter().map(RenewedLease::from_row).collect())
        })
        .await
    }

    /// See [`crate::ledger::Ledger::cancel_requests`].
    pub(super) async fn requested_cancellations(
        &self,
        workers: &[WorkerId],
    ) -> Result<Vec<JobId>, LedgerError> {
        self.within("look for cancelled jobs", async |on| {
            let ids: Vec<Uuid> = self
                .query_scalar(
                    "select id from holdfast_jobs
                     where state = 'running' and cancel_requested and worker = any ($1) limit 1000",
                )
                .bind(uuids(workers))
                .fetch_all(&mut *on)
                .await?;
            Ok(ids.into_iter().map(JobId::from_uuid).collect())
        })
        .await
    }

    /// See [`crate::ledger::Ledger::unknown_to_worker`].
    pub(super) async fn running_unknown(
        &self,
        worker: WorkerId,
        known: &[JobId],
    ) -> Result<Vec<Fence>, LedgerError> {
        self.within("look for stray jobs", async |on| {
            let found: Vec<(Uuid, i32, i32)> = self
                .query_as(UNKNOWN_TO_WORKER)
                .bind(worker.as_uuid())
                .bind(known.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
                .bind(rows(MAX_STATEMENT_ROWS))
                .fetch_all(&mut *on)
                .await?;
            let fence = |(id, attempt, crashes)| Fence {
                id: JobId::from_uuid(id),
                attempt: from_count(attempt),
                crashes: from_count(crashes),
            };
            Ok(found.into_iter().map(fence).collect())
        })
        .await
    }

    /// See [`crate::ledger::Ledger::return_strays`].
    pub(super) async fn return_unknown(
        &self,
        worker: WorkerId,
        known: &[JobId],
    ) -> Result<ReturnReport, LedgerError> {
        self.within("put stray jobs back", async |on| {
            let mut tx = on.begin().await?;
            let moved: Vec<keys::RescuedRow> = self
                .query_as(RETURN_STRAYS)
                .bind(worker.as_uuid())
                .bind(known.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
                .bind(rows(MAX_STATEMENT_ROWS))
                .fetch_all(&mut *tx)
                .await?;
            let report = self.report_returned(&mut tx, moved).await?;
            tx.commit().await?;
            Ok(report)
        })
        .await
    }

    /// See [`crate::ledger::Ledger::return_suspects`].
    pub(super) async fn return_fenced(
        &self,
        worker: WorkerId,
        fences: &[Fence],
    ) -> Result<ReturnReport, LedgerError> {
        self.within("put stray jobs back", async |on| {
            let mut tx = on.begin().await?;
            let moved: Vec<keys::RescuedRow> = self
                .query_as(RETURN_SUSPECTS)
                .bind(worker.as_uuid())
                .bind(fences.iter().map(|fence| fence.id.as_uuid()).collect::<Vec<_>>())
                .bind(
                    fences
                        .iter()
                        .map(|fence| count(fence.attempt))
                        .collect::<Vec<_>>(),
                )
                .bind(
                    fences
                        .iter()
                        .map(|fence| count(fence.crashes))
                        .collect::<Vec<_>>(),
                )
                .fetch_all(&mut *tx)
                .await?;
            let report = self.report_returned(&mut tx, moved).await?;
            tx.commit().await?;
            Ok(report)
        })
        .await
    }

    /// See [`crate::ledger::Ledger::deregister`].
    pub(super) async fn end_lease(&self, worker: WorkerId) -> Result<ReturnReport, LedgerError> {
        self.within("deregister the worker", async |on| {
            let mut tx = on.begin().await?;
            // Waits for the claims under way; those that come later wait for this transaction.
            self.query("select from holdfast_workers where id = $1 for update")
                .bind(worker.as_uuid())
                .execute(&mut *tx)
                .await?;
            // A statement of its own, so that it sees what those claims have committed.
            let moved: Vec<keys::RescuedRow> = self
                .query_as(RETURN_ALL)
                .bind(worker.as_uuid())
                .bind(rows(MAX_STATEMENT_ROWS))
                .fetch_all(&mut *tx)
                .await?;
            let mut report = self.report_returned(&mut tx, moved).await?;
            let deleted = self
                .query(
                    "delete from holdfast_workers
                     where id = $1 and not exists (select from holdfast_jobs where state = 'running' and worker = $1)",
                )
                .bind(worker.as_uuid())
                .execute(&mut *tx)
                .await?;
            report.gone = deleted.rows_affected() == 1 || !self.has_row(&mut tx, worker).await?;
            tx.commit().await?;
            Ok(report)
        })
        .await
    }

    async fn has_row(&self, on: &mut PgConnection, worker: WorkerId) -> Result<bool, sqlx::Error> {
        self.query_scalar("select exists (select from holdfast_workers where id = $1)")
            .bind(worker.as_uuid())
            .fetch_one(on)
            .await
    }

    async fn count_ends(
        &self,
        on: &mut PgConnection,
        tallies: &BTreeMap<BatchId, Tally>,
    ) -> Result<Effects, sqlx::Error> {
        let observers = Some(&self.observers);
        follow_ups::count(LedgerTx::Postgres(on), tallies, self.named_statements, observers).await
    }

    /// Counts what was put back, and makes the next claims find it.
    async fn report_returned(
        &self,
        on: &mut PgConnection,
        moved: Vec<keys::RescuedRow>,
    ) -> Result<ReturnReport, sqlx::Error> {
        if !moved.is_empty() {
            self.frontiers.forget();
        }
        let tallies = keys::tallies_of(&moved).map_err(decode_error)?;
        let effects = self.count_ends(on, &tallies).await?;
        Ok(keys::return_report(&moved, effects))
    }

    /// See [`crate::ledger::Ledger::rescue`].
    pub(super) async fn rescue_lost(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        // A rescue that discards nothing, as almost all, asks no observer.
        if let Some(report) = self.rescue_step(lost_after, max_crashes, limit, false).await? {
            return Ok(report);
        }
        self.observers.ready().await?;
        let report = self.rescue_step(lost_after, max_crashes, limit, true).await?;
        Ok(report.unwrap_or_default())
    }

    /// `None`: it would discard jobs, whose observers are to be made ready before.
    async fn rescue_step(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
        is_ready: bool,
    ) -> Result<Option<RescueReport>, LedgerError> {
        self.within("rescue jobs", async |on| {
            let mut tx = on.begin().await?;
            let moved: Vec<keys::RescuedRow> = self
                .query_as(RESCUE)
                .bind(count(max_crashes))
                .bind(millis(lost_after))
                .bind(rows(limit))
                .bind(LOST_WORKERS)
                .fetch_all(&mut *tx)
                .await?;
            if !is_ready && self.observers.is_old() && keys::is_any_poisoned(&moved) {
                tx.rollback().await?;
                return Ok(None);
            }
            let mut report = self.report_rescued(&mut tx, moved).await?;
            tx.commit().await?;
            report.workers_lost = self.bury(on, lost_after).await?;
            Ok(Some(report))
        })
        .await
    }

    /// Deletes rows of lost workers that hold nothing. A claim that is under way for one is not waited for: its row is left
    /// for the next time.
    async fn bury(&self, on: &mut PgConnection, lost_after: Duration) -> Result<Vec<WorkerId>, sqlx::Error> {
        let mut tx = on.begin().await?;
        let lost: Vec<Uuid> = self
            .query_scalar(
                "select id from holdfast_workers where seen_at <= now() - $1 * interval '1 millisecond'
                 order by random() limit $2 for update skip locked",
            )
            .bind(millis(lost_after))
            .bind(LOST_WORKERS)
            .fetch_all(&mut *tx)
            .await?;
        let buried: Vec<Uuid> = if lost.is_empty() {
            Vec::new()
        } else {
            self.query_scalar(
                "delete from holdfast_workers as w
                 where id = any ($1)
                   and not exists (select from holdfast_jobs where state = 'running' and worker = w.id)
                 returning id",
            )
            .bind(lost)
            .fetch_all(&mut *tx)
            .await?
        };
        tx.commit().await?;
        Ok(buried.into_iter().map(WorkerId::from_uuid).collect())
    }

    /// See [`crate::ledger::Ledger::rescue_orphans`].
    pub(super) async fn rescue_ownerless(
        &self,
        range: IdRange,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        self.observers.ready().await?;
        let bounds = Bounds::SETTINGS.statement(ORPHANS_WITHIN);
        self.within_bounds("rescue jobs without a worker", bounds, async |on| {
            let moved: Vec<keys::RescuedRow> = self
                .query_as(RESCUE_ORPHANS)
                .bind(count(max_crashes))
                .bind(range.first().as_uuid())
                .bind(range.last().as_uuid())
                .bind(rows(limit))
                .fetch_all(&mut *on)
                .await?;
            self.report_rescued(on, moved).await
        })
        .await
    }

    async fn report_rescued(
        &self,
        on: &mut PgConnection,
        moved: Vec<keys::RescuedRow>,
    ) -> Result<RescueReport, sqlx::Error> {
        if !moved.is_empty() {
            self.frontiers.forget();
        }
        let tallies = keys::tallies_of(&moved).map_err(decode_error)?;
        let observed = keys::observed(&moved, &self.observers);
        let mut effects =
            follow_ups::enqueue(LedgerTx::Postgres(&mut *on), &observed, self.named_statements).await?;
        effects.merge(self.count_ends(on, &tallies).await?);
        Ok(keys::rescue_report(&moved, effects))
    }

    /// See [`crate::ledger::Ledger::workers`].
    pub(super) async fn list_workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.within("list workers", async |on| {
            let rows: Vec<WorkerRecord> = self
                .query_as(
                    "select id, name, queues, stats, started_at, seen_at, client::text as client, draining,
                            extract(epoch from now() - seen_at)::float8 as ago
                     from holdfast_workers order by started_at, id limit $1",
                )
                .bind(WORKER_ROWS)
                .fetch_all(&mut *on)
                .await?;
            Ok(keys::by_process(rows))
        })
        .await
    }
}

fn uuids(ids: &[WorkerId]) -> Vec<Uuid> {
    ids.iter().map(|id| id.as_uuid()).collect()
}
