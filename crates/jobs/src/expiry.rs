//! Jobs that expire: one with an `expires_at` that has not begun by then is cancelled, and never runs.
//!
//! A job has begun once a worker was given it, or ran it: from its first attempt, crash or snooze on it does not expire. Its time is held
//! against the clock of the database.
//!
//! # Who cancels it
//! - The worker that claims it ([`Jobs::mark_expired`]): the outcome is written under the lease's fence, like any other.
//! - The sweep of every Rust worker ([`Jobs::cancel_expired`]), for jobs that no worker claims.
//!
//! Both leave an error of the class [`EXPIRED`] with the job, count it in its batch, and enqueue nothing that was to follow it, as a
//! cancellation does.
//!
//! # Cost
//! Jobs without an expiry cost nothing: the claim has read `options` in any case, and the sweep reads a partial index. A claim that has
//! taken jobs with one reads the clock once. A job of a `redis` queue that expires is stored in the ledger.
//!
//! # When things fail
//! If the clock of the database cannot be read, the claimed jobs run: this host's clock may be wrong, and would cancel accepted jobs too
//! early. A job that expires between its claim and its start runs. A worker that dies before
//! it has written the outcome leaves the job leased: it is rescued as one that has not started, and expires at its next claim.

use holdfast_core::clock;
use sqlx::Row;
use uuid::Uuid;

use crate::LedgerTx;
use crate::client::Jobs;
use crate::follow_ups::{self, Effects};
use crate::ledger::{ClaimedJob, ErrorRecord, LedgerError, Outcome};
use crate::sql::{limit, sqlite_now};
use crate::state::StoredState;

/// The class of the error that an expired job is left with.
pub const EXPIRED: &str = "expired";

/// What the error says.
const MESSAGE: &str = "the job had not begun when it expired";

const POSTGRES: &str = "
update holdfast_jobs
set state = 'cancelled', finished_at = now(), errors = coalesce(errors, '[]'::jsonb) || $2::jsonb
where id = any (array (
    select id from holdfast_jobs
    where state = 'available' and expires_at <= now() and attempt = 0 and crashes = 0 and snoozes = 0
    order by expires_at limit $1 for update skip locked))
returning batch_id";

const SQLITE: &str = concat!(
    "update holdfast_jobs
     set state = 'cancelled', finished_at = ",
    sqlite_now!(),
    ", errors = json_insert(case when json_valid(errors) then errors else '[]' end, '$[#]', json(?2))
     where id in (
         select id from holdfast_jobs
         where state = 'available' and expires_at <= ",
    sqlite_now!(),
    " and attempt = 0 and crashes = 0 and snoozes = 0
         order by expires_at limit ?1)
     returning batch_id"
);

fn error(attempt: u32, worker: &str) -> ErrorRecord {
    ErrorRecord::new(clock::now(), attempt, EXPIRED, MESSAGE, worker)
}

/// The outcome of a job that a worker has claimed and that has expired.
pub(crate) fn outcome(job: &ClaimedJob, worker: &str) -> Outcome {
    Outcome::Cancel {
        fence: job.fence(),
        error: Some(error(job.attempt + 1, worker)),
    }
}

impl Jobs {
    /// Marks those that must not begin any more.
    pub(crate) async fn mark_expired(&self, claimed: &mut [ClaimedJob]) {
        if claimed.iter().all(|job| job.expires_at().is_none()) {
            return;
        }
        let now = match self.ledger().check_clock().await {
            Ok(clock) => clock.now,
            Err(error) => {
                tracing::warn!(error = ?error, "the clock of the database cannot be read: jobs run without a look at their expiry");
                return;
            }
        };
        for job in claimed {
            job.expired = job.expires_at().is_some_and(|at| at <= now);
        }
    }

    /// Cancels up to `most` waiting jobs that have expired. How many there were.
    pub async fn cancel_expired(&self, most: usize) -> Result<u64, LedgerError> {
        let sql = self.sql();
        let error = serde_json::to_string(&error(1, ""))
            .map_err(|error| LedgerError::Corrupt(format!("an error cannot be written: {error}")))?;
        let (cancelled, effects) = sql
            .within("cancel expired jobs", async {
                let mut tx = sql.begin().await?;
                let batches = cancel(tx.on(), &error, most, sql.named).await?;
                let cancelled = batches.len() as u64;
                let ends = batches.into_iter().map(|batch| (batch, StoredState::Cancelled));
                let tallies = follow_ups::tallied(ends, 1);
                let mut effects = Effects::default();
                if cancelled > 0 {
                    effects = follow_ups::count(tx.on(), &tallies, sql.named, Some(&sql.observers)).await?;
                }
                tx.commit().await?;
                Ok((cancelled, effects))
            })
            .await?;
        self.announce(&effects);
        Ok(cancelled)
    }
}

/// The batch of each job that was cancelled. A row that another transaction holds is left for the next sweep.
async fn cancel(
    on: LedgerTx<'_>,
    error: &str,
    most: usize,
    named: bool,
) -> Result<Vec<Option<Uuid>>, sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => {
            let update = sqlx::query(POSTGRES).bind(limit(most)).bind(error);
            let rows = update.persistent(named).fetch_all(on).await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        }
        LedgerTx::Sqlite(on) => {
            let rows = sqlx::query(SQLITE)
                .bind(limit(most))
                .bind(error)
                .fetch_all(on)
                .await?;
            rows.iter().map(|row| row.try_get(0)).collect()
        }
    }
}
