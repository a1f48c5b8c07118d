//! Cancelling what is left of a batch.
//!
//! A bulk operation like any other: steps of 1,000 jobs, each with its count and its record. Jobs that wait are cancelled,
//! jobs that run are asked to give way. A job whose row is locked is being finished, or claimed, this very moment: it is
//! looked at again, one job at a time, so that nobody waits for a row while holding another.

use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::{BatchRecord, Tally, store};
use crate::LedgerTx;
use crate::admin::AdminHandle;
use crate::audit::action;
use crate::bulk::{self, BulkError, BulkPosition, BulkProgress, BulkStep, Operation, STEP_ROWS, Step};
use crate::follow_ups;
use crate::id::BatchId;
use crate::observer::Observers;
use crate::sql::{limit, sqlite_now};

/// The result of a cancellation.
#[derive(Debug, Clone)]
pub struct CancelledBatch {
    /// The current batch.
    pub batch: BatchRecord,
    /// `None`: it had ended before, and nothing was done.
    pub done: Option<BulkProgress>,
}

impl AdminHandle<'_> {
    /// Cancels the jobs of a batch that wait, and asks those that run to give way, as far as one call goes. `None`: unknown
    /// id. Repeatable: what is cancelled, or has been asked, is not counted again.
    pub async fn cancel_batch(&self, id: BatchId) -> Result<Option<CancelledBatch>, BulkError> {
        let Some(batch) = self.jobs.batches().get(id).await? else {
            return Ok(None);
        };
        if batch.ended_at.is_some() {
            return Ok(Some(CancelledBatch { batch, done: None }));
        }
        let operation = Operation {
            action: action::BATCH_CANCEL,
            target: Some(id.to_string()),
            request: json!({ "batch": id }),
            key: None,
        };
        let done = bulk::run(self.jobs, self.by, &operation, &Cancel(id)).await?;
        let batch = self.jobs.batches().get(id).await?.unwrap_or(batch);
        Ok(Some(CancelledBatch {
            batch,
            done: Some(done),
        }))
    }
}

struct Cancel(BatchId);

/// How many jobs a statement takes, and whether it waits for a lock.
#[derive(Clone, Copy)]
enum Reach {
    /// Whatever nobody holds.
    Free,
    /// One, waiting for whoever holds it.
    One,
}

/// How often one step waits for a job that somebody holds.
const WAITS: usize = 20;

macro_rules! postgres_change {
    ($set:literal, $which:literal, $lock:literal) => {
        concat!(
            "update holdfast_jobs set ",
            $set,
            " where id = any (array (
                 select id from holdfast_jobs where batch_id = $1 and ",
            $which,
            " limit $2 for update ",
            $lock,
            "))"
        )
    };
}

macro_rules! sqlite_change {
    ($set:expr, $which:literal) => {
        concat!(
            "update holdfast_jobs set ",
            $set,
            " where id in (select id from holdfast_jobs where batch_id = ?1 and ",
            $which,
            " limit ?2)"
        )
    };
}

impl Step for Cancel {
    async fn step(
        &self,
        mut on: LedgerTx<'_>,
        _: BulkPosition,
        named: bool,
        observers: &Observers,
    ) -> Result<BulkStep, sqlx::Error> {
        let mut changed = CancelCounts::default();
        for reach in std::iter::once(Reach::Free).chain(std::iter::repeat_n(Reach::One, WAITS)) {
            changed = self.change(on.reborrow(), reach, named).await?;
            if changed.total() > 0 || !self.is_any_left(on.reborrow(), named).await? {
                break;
            }
        }
        if changed.total() == 0 {
            return Ok(BulkStep::default());
        }
        store::note_cancel(on.reborrow(), self.0, named).await?;
        let tally = Tally {
            cancelled: i64::try_from(changed.cancelled).unwrap_or(i64::MAX),
            ..Tally::default()
        };
        let effects = follow_ups::count(on, &[(self.0, tally)].into(), named, Some(observers)).await?;
        Ok(BulkStep {
            seen: changed.total(),
            affected: changed.total(),
            effects,
            ..BulkStep::default()
        })
    }
}

#[derive(Debug, Clone, Copy, Default)]
struct CancelCounts {
    cancelled: u64,
    asked: u64,
}

impl CancelCounts {
    fn total(self) -> u64 {
        self.cancelled + self.asked
    }
}

impl Cancel {
    /// Those that wait; those that run once none waits.
    async fn change(
        &self,
        mut on: LedgerTx<'_>,
        reach: Reach,
        named: bool,
    ) -> Result<CancelCounts, sqlx::Error> {
        let cancelled = self.cancel_waiting(on.reborrow(), reach, named).await?;
        let asked = if cancelled == 0 {
            self.ask_running(on, reach, named).await?
        } else {
            0
        };
        Ok(CancelCounts { cancelled, asked })
    }

    async fn cancel_waiting(&self, on: LedgerTx<'_>, reach: Reach, named: bool) -> Result<u64, sqlx::Error> {
        match on {
            LedgerTx::Postgres(on) => {
                let statement = match reach {
                    Reach::Free => postgres_change!(
                        "state = 'cancelled', finished_at = now()",
                        "state = 'available'",
                        "skip locked"
                    ),
                    Reach::One => postgres_change!(
                        "state = 'cancelled', finished_at = now()",
                        "state = 'available'",
                        ""
                    ),
                };
                run_postgres(on, statement, self.0, reach, named).await
            }
            LedgerTx::Sqlite(on) => {
                const CANCEL: &str = sqlite_change!(
                    concat!("state = 'cancelled', finished_at = ", sqlite_now!()),
                    "state = 'available'"
                );
                run_sqlite(on, CANCEL, self.0, reach).await
            }
        }
    }

    async fn ask_running(&self, on: LedgerTx<'_>, reach: Reach, named: bool) -> Result<u64, sqlx::Error> {
        match on {
            LedgerTx::Postgres(on) => {
                let statement = match reach {
                    Reach::Free => postgres_change!(
                        "cancel_requested = true",
                        "state = 'running' and not cancel_requested",
                        "skip locked"
                    ),
                    Reach::One => postgres_change!(
                        "cancel_requested = true",
                        "state = 'running' and not cancel_requested",
                        ""
                    ),
                };
                run_postgres(on, statement, self.0, reach, named).await
            }
            LedgerTx::Sqlite(on) => {
                const ASK: &str = sqlite_change!(
                    "cancel_requested = 1",
                    "state = 'running' and not cancel_requested"
                );
                run_sqlite(on, ASK, self.0, reach).await
            }
        }
    }

    async fn is_any_left(&self, on: LedgerTx<'_>, named: bool) -> Result<bool, sqlx::Error> {
        const LEFT: &str = "select exists (select 1 from holdfast_jobs where batch_id = $1
            and (state = 'available' or state = 'running' and not cancel_requested)) as more";
        match on {
            LedgerTx::Postgres(on) => {
                let row = sqlx::query(LEFT)
                    .bind(self.0.as_uuid())
                    .persistent(named)
                    .fetch_one(on)
                    .await?;
                row.try_get("more")
            }
            LedgerTx::Sqlite(on) => {
                let row = sqlx::query(LEFT).bind(self.0.as_uuid()).fetch_one(on).await?;
                row.try_get("more")
            }
        }
    }
}

impl Reach {
    fn rows(self) -> i64 {
        match self {
            Self::Free => limit(STEP_ROWS),
            Self::One => 1,
        }
    }
}

async fn run_postgres(
    on: &mut sqlx::PgConnection,
    statement: &'static str,
    batch: BatchId,
    reach: Reach,
    named: bool,
) -> Result<u64, sqlx::Error> {
    let id: Uuid = batch.as_uuid();
    let update = sqlx::query(statement).bind(id).bind(reach.rows());
    Ok(update.persistent(named).execute(on).await?.rows_affected())
}

async fn run_sqlite(
    on: &mut sqlx::SqliteConnection,
    statement: &'static str,
    batch: BatchId,
    reach: Reach,
) -> Result<u64, sqlx::Error> {
    let update = sqlx::query(statement).bind(batch.as_uuid()).bind(reach.rows());
    Ok(update.execute(on).await?.rows_affected())
}
