//! The worker's row, which is the lease of all its jobs, and what returns the jobs of a lease that ended. The same protocol as on
//! PostgreSQL (`docs/adr/0008-the-lease-is-a-lock.md`). SQLite has one writer, so each statement and each transaction is one
//! step, and nothing is locked.

use std::time::Duration;

use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use uuid::Uuid;

use super::SqliteLedger;
use super::rows::{decode_error, hex, hex_array, limit_of, millis};
use crate::LedgerTx;
use crate::follow_ups;
use crate::id::{JobId, WorkerId};
use crate::ledger::{
    Fence, Heartbeat, IdRange, LedgerError, MAX_STATEMENT_ROWS, RenewedLease, RescueReport, ReturnReport,
    WorkerRecord, WorkerReport, keys,
};
use crate::observer::Observers;

/// Rows of workers read for the list of workers; one process has a few.
const WORKER_ROWS: i64 = 10_000;

/// A job goes back without a crash, or is cancelled if it was asked to. It was due when it was claimed, and so it is now, also if
/// the clock was set back meanwhile.
macro_rules! put_back {
    () => {
        concat!(
            "update holdfast_jobs
             set state = case when cancel_requested then 'cancelled' else 'available' end,
                 cancel_requested = 0,
                 run_at = min(run_at, ",
            now!(),
            "),
                 finished_at = case when cancel_requested then ",
            now!(),
            " end,
                 started_at = case when cancel_requested then started_at end,
                 worker = case when cancel_requested then worker end "
        )
    };
}

/// A job that may have been running gets a strike; one that only waited in the worker's buffer does not. `?1`: crashes that make a
/// job poison.
macro_rules! rescue {
    () => {
        concat!(
            "update holdfast_jobs as j
             set state = case when j.cancel_requested then 'cancelled'
                              when j.started_at is not null and j.crashes + 1 >= ?1 then 'discarded'
                              else 'available' end,
                 crashes = j.crashes + (j.started_at is not null),
                 cancel_requested = 0,
                 run_at = min(j.run_at, ",
            now!(),
            "),
                 started_at = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= ?1
                                   then j.started_at end,
                 finished_at = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= ?1
                                    then ",
            now!(),
            " end,
                 worker = case when j.cancel_requested or j.started_at is not null and j.crashes + 1 >= ?1
                               then j.worker end,
                 errors = case when j.started_at is null then j.errors
                               else json_insert(case when json_valid(j.errors) then j.errors else '[]' end, '$[#]', json_object(
                                   'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                                   'attempt', j.attempt + 1, 'class', 'crash',
                                   'message', 'the worker that ran the job was lost (crash ' || (j.crashes + 1) || ')',
                                   'worker', coalesce((select name from holdfast_workers w where w.id = j.worker),
                                                      hex(j.worker)),
                                   'started_at', strftime('%Y-%m-%dT%H:%M:%fZ', j.started_at / 1000.0, 'unixepoch'))) end "
        )
    };
}

const RETURNING: &str = " returning id, queue, state, batch_id, kind, attempt, crashes";

fn rows(limit: usize) -> i64 {
    limit_of(limit.min(MAX_STATEMENT_ROWS))
}

impl SqliteLedger {
    /// See [`crate::ledger::Ledger::register`].
    pub(super) async fn register_worker(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        self.write("register the worker", async |on| {
            sqlx::query(concat!(
                "insert into holdfast_workers (id, name, queues, stats, started_at, client, seen_at)
                 values (?1, ?2, ?3, ?4, ?5, ?6, ",
                now!(),
                ")
                 on conflict (id) do update set seen_at = excluded.seen_at"
            ))
            .bind(report.id.as_uuid())
            .bind(&report.name)
            .bind(json!(report.queues).to_string())
            .bind(json!(report.stats).to_string())
            .bind(report.started_at.timestamp_millis())
            .bind(report.client.as_ref().map(|client| json!(client).to_string()))
            .execute(&mut *on)
            .await?;
            Ok(())
        })
        .await
    }

    /// See [`crate::ledger::Ledger::heartbeat`].
    pub(super) async fn beat(&self, report: &WorkerReport) -> Result<Heartbeat, LedgerError> {
        self.write("record a heartbeat", async |on| {
            let renewed = sqlx::query(concat!(
                "update holdfast_workers set seen_at = ",
                now!(),
                ", stats = ?2 where id = ?1"
            ))
            .bind(report.id.as_uuid())
            .bind(json!(report.stats).to_string())
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
        self.write("renew leases", async |on| {
            let found: Vec<(Uuid, bool, bool, bool)> = sqlx::query_as(concat!(
                "update holdfast_workers set seen_at = ",
                now!(),
                " where id in (select unhex(value) from json_each(?1))
                 returning id, true, draining,
                     id in (select unhex(value) from json_each(?2)) and exists (
                         select 1 from holdfast_jobs as j where j.state = 'running' and j.worker = holdfast_workers.id)"
            ))
            .bind(hex_workers(ids))
            .bind(hex_workers(idle))
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
        self.within("look for cancelled jobs", async {
            let ids: Vec<Uuid> = sqlx::query_scalar(
                "select id from holdfast_jobs
                 where state = 'running' and cancel_requested
                   and worker in (select unhex(value) from json_each(?1)) limit 1000",
            )
            .bind(hex_workers(workers))
            .fetch_all(&self.database.reader)
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
        self.within("look for stray jobs", async {
            let found: Vec<(Uuid, u32, u32)> = sqlx::query_as(
                "select id, attempt, crashes from holdfast_jobs
                 where state = 'running' and worker = ?1 and id not in (select unhex(value) from json_each(?2))
                 limit ?3",
            )
            .bind(worker.as_uuid())
            .bind(hex_array(known))
            .bind(rows(MAX_STATEMENT_ROWS))
            .fetch_all(&self.database.reader)
            .await?;
            let fence = |(id, attempt, crashes)| Fence {
                id: JobId::from_uuid(id),
                attempt,
                crashes,
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
        const STRAYS: &str = concat!(
            put_back!(),
            "where id in (select id from holdfast_jobs
                          where state = 'running' and worker = ?1
                            and id not in (select unhex(value) from json_each(?2)) limit ?3)"
        );
        self.within(
            "put stray jobs back",
            self.transaction(async |tx| {
                let moved: Vec<keys::RescuedRow> =
                    sqlx::query_as(sqlx::AssertSqlSafe(format!("{STRAYS}{RETURNING}")))
                        .bind(worker.as_uuid())
                        .bind(hex_array(known))
                        .bind(rows(MAX_STATEMENT_ROWS))
                        .fetch_all(&mut *tx)
                        .await?;
                report_returned(tx, &moved, &self.observers).await
            }),
        )
        .await
    }

    /// See [`crate::ledger::Ledger::return_suspects`].
    pub(super) async fn return_fenced(
        &self,
        worker: WorkerId,
        fences: &[Fence],
    ) -> Result<ReturnReport, LedgerError> {
        const SUSPECTS: &str = concat!(
            put_back!(),
            "where +state = 'running' and +worker = ?1
               and (id, attempt, crashes) in (
                   select unhex(value ->> 0), value ->> 1, value ->> 2 from json_each(?2))"
        );
        let suspects: Vec<_> = fences
            .iter()
            .map(|fence| json!([hex(fence.id.as_uuid()), fence.attempt, fence.crashes]))
            .collect();
        self.within(
            "put stray jobs back",
            self.transaction(async |tx| {
                let moved: Vec<keys::RescuedRow> =
                    sqlx::query_as(sqlx::AssertSqlSafe(format!("{SUSPECTS}{RETURNING}")))
                        .bind(worker.as_uuid())
                        .bind(json!(suspects).to_string())
                        .fetch_all(&mut *tx)
                        .await?;
                report_returned(tx, &moved, &self.observers).await
            }),
        )
        .await
    }

    /// See [`crate::ledger::Ledger::deregister`].
    pub(super) async fn end_lease(&self, worker: WorkerId) -> Result<ReturnReport, LedgerError> {
        const ALL: &str = concat!(
            put_back!(),
            "where id in (select id from holdfast_jobs where state = 'running' and worker = ?1 limit ?2)"
        );
        self.within(
            "deregister the worker",
            self.transaction(async |tx| {
                let moved: Vec<keys::RescuedRow> = sqlx::query_as(sqlx::AssertSqlSafe(format!("{ALL}{RETURNING}")))
                    .bind(worker.as_uuid())
                    .bind(rows(MAX_STATEMENT_ROWS))
                    .fetch_all(&mut *tx)
                    .await?;
                let mut report = report_returned(&mut *tx, &moved, &self.observers).await?;
                sqlx::query(
                    "delete from holdfast_workers
                     where id = ?1 and not exists (select 1 from holdfast_jobs where state = 'running' and worker = ?1)",
                )
                .bind(worker.as_uuid())
                .execute(&mut *tx)
                .await?;
                let stays: bool = sqlx::query_scalar("select exists (select 1 from holdfast_workers where id = ?1)")
                    .bind(worker.as_uuid())
                    .fetch_one(&mut *tx)
                    .await?;
                report.gone = !stays;
                Ok(report)
            }),
        )
        .await
    }

    /// See [`crate::ledger::Ledger::rescue`].
    pub(super) async fn rescue_lost(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        const LOST: &str = concat!(
            rescue!(),
            "where id in (select id from holdfast_jobs
                          where state = 'running'
                            and worker in (select id from holdfast_workers where seen_at <= ",
            now!(),
            " - ?2)
                          limit ?3)"
        );
        self.observers.ready().await?;
        self.within(
            "rescue jobs",
            self.transaction(async |tx| {
                let moved: Vec<keys::RescuedRow> =
                    sqlx::query_as(sqlx::AssertSqlSafe(format!("{LOST}{RETURNING}")))
                        .bind(max_crashes)
                        .bind(millis(lost_after))
                        .bind(rows(limit))
                        .fetch_all(&mut *tx)
                        .await?;
                let mut report = report_rescued(&mut *tx, &moved, &self.observers).await?;
                let buried: Vec<Uuid> = sqlx::query_scalar(concat!(
                    "delete from holdfast_workers
                     where seen_at <= ",
                    now!(),
                    " - ?1
                       and not exists (select 1 from holdfast_jobs
                                       where state = 'running' and worker = holdfast_workers.id)
                     returning id"
                ))
                .bind(millis(lost_after))
                .fetch_all(&mut *tx)
                .await?;
                report.workers_lost = buried.into_iter().map(WorkerId::from_uuid).collect();
                Ok(report)
            }),
        )
        .await
    }

    /// See [`crate::ledger::Ledger::rescue_orphans`].
    pub(super) async fn rescue_ownerless(
        &self,
        range: IdRange,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        const ORPHANS: &str = concat!(
            rescue!(),
            "where id in (select id from holdfast_jobs
                          where state = 'running' and worker >= ?2 and worker <= ?3
                            and not exists (select 1 from holdfast_workers as w where w.id = holdfast_jobs.worker)
                          limit ?4)"
        );
        self.observers.ready().await?;
        self.within(
            "rescue jobs without a worker",
            self.transaction(async |tx| {
                let moved: Vec<keys::RescuedRow> =
                    sqlx::query_as(sqlx::AssertSqlSafe(format!("{ORPHANS}{RETURNING}")))
                        .bind(max_crashes)
                        .bind(range.first().as_uuid())
                        .bind(range.last().as_uuid())
                        .bind(rows(limit))
                        .fetch_all(&mut *tx)
                        .await?;
                report_rescued(tx, &moved, &self.observers).await
            }),
        )
        .await
    }

    /// See [`crate::ledger::Ledger::workers`].
    pub(super) async fn list_workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.within("list workers", async {
            let rows: Vec<WorkerRecord> = sqlx::query_as(concat!(
                "select id, name, queues, stats, started_at, seen_at, client, draining, (",
                now!(),
                " - seen_at) / 1000.0 as ago
                 from holdfast_workers order by started_at, id limit ?1"
            ))
            .bind(WORKER_ROWS)
            .fetch_all(&self.database.reader)
            .await?;
            Ok(keys::by_process(rows))
        })
        .await
    }
}

async fn report_returned(
    on: &mut SqliteConnection,
    moved: &[keys::RescuedRow],
    observers: &Observers,
) -> Result<ReturnReport, sqlx::Error> {
    let tallies = keys::tallies_of(moved).map_err(decode_error)?;
    let effects = follow_ups::count(LedgerTx::Sqlite(on), &tallies, true, Some(observers)).await?;
    Ok(keys::return_report(moved, effects))
}

async fn report_rescued(
    on: &mut SqliteConnection,
    moved: &[keys::RescuedRow],
    observers: &Observers,
) -> Result<RescueReport, sqlx::Error> {
    let tallies = keys::tallies_of(moved).map_err(decode_error)?;
    let observed = keys::observed(moved, observers);
    let mut effects = follow_ups::enqueue(LedgerTx::Sqlite(&mut *on), &observed, true).await?;
    effects.merge(follow_ups::count(LedgerTx::Sqlite(on), &tallies, true, Some(observers)).await?);
    Ok(keys::rescue_report(moved, effects))
}

fn hex_workers(ids: &[WorkerId]) -> String {
    json!(ids.iter().map(|id| hex(id.as_uuid())).collect::<Vec<_>>()).to_string()
}
