//! Cancelling many jobs at once: by filter, or all that wait in a queue (a purge).
//!
//! A purge cancels; it does not delete. What was accepted stays on record, with its idempotency key, for
//! `jobs.retain_completed_seconds`. Running jobs are not purged; a cancellation by filter asks them to give way.
//! Jobs on the broker are reached by a purge alone: nothing there can be searched.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::Durability;
use serde_json::{Value, json};
use sqlx::Row;
use uuid::Uuid;

use super::AdminHandle;
use crate::LedgerTx;
use crate::audit::{AuditEntry, action};
use crate::bulk::{
    self, BulkError, BulkPosition, BulkProgress, CALL_ROWS, CALL_TIME, COUNT_CAP, Operation, STEP_ROWS,
};
use crate::bulk::{BulkStep, Step};
use crate::follow_ups::{self, Effects};
use crate::id::JobId;
use crate::ledger::LedgerError;
use crate::observer::Observers;
use crate::sql::{hex_ids, limit, sqlite_now};
use crate::state::{State, StoredState};

/// Which jobs to cancel. The default means every job that has not ended.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CancelFilter {
    pub queue: Option<String>,
    pub kind: Option<String>,
    /// Scheduled, available, retryable or running; left out: all of them. A final state matches nothing.
    pub state: Option<State>,
    /// Accepted at or after.
    pub from: Option<DateTime<Utc>>,
    /// Accepted before.
    pub to: Option<DateTime<Utc>>,
    /// Only these.
    pub ids: Option<Vec<JobId>>,
}

/// The result of a purge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PurgeReport {
    /// In the ledger.
    pub ledger: BulkProgress,
    /// Jobs taken from the broker, by this call.
    pub broker: u64,
    /// False: there may be more on the broker.
    pub broker_finished: bool,
}

/// `$1` queue, `$2` kind, `$3` from, `$4` to, `$5` due later, `$6` tried before, `$7` ids; all may be null.
macro_rules! postgres_waiting {
    () => {
        "state = 'available'
         and ($1::text is null or queue = $1) and ($2::text is null or kind = $2)
         and ($3::bigint is null or created_at >= 'epoch'::timestamptz + $3 * interval '1 millisecond')
         and ($4::bigint is null or created_at < 'epoch'::timestamptz + $4 * interval '1 millisecond')
         and ($5::boolean is null or (run_at > now()) = $5) and ($6::boolean is null or (attempt > 0) = $6)
         and ($7::uuid[] is null or id = any ($7))"
    };
}
macro_rules! postgres_running {
    () => {
        "state = 'running' and not cancel_requested
         and ($1::text is null or queue = $1) and ($2::text is null or kind = $2)
         and ($3::bigint is null or created_at >= 'epoch'::timestamptz + $3 * interval '1 millisecond')
         and ($4::bigint is null or created_at < 'epoch'::timestamptz + $4 * interval '1 millisecond')
         and ($5::boolean is null or true) and ($6::boolean is null or true)
         and ($7::uuid[] is null or id = any ($7))"
    };
}
macro_rules! sqlite_waiting {
    () => {
        concat!(
            "state = 'available' and (?1 is null or queue = ?1) and (?2 is null or kind = ?2)
             and (?3 is null or created_at >= ?3) and (?4 is null or created_at < ?4)
             and (?5 is null or (run_at > ",
            sqlite_now!(),
            ") = ?5) and (?6 is null or (attempt > 0) = ?6)
             and (?7 is null or id in (select unhex(value) from json_each(?7)))"
        )
    };
}
macro_rules! sqlite_running {
    () => {
        "state = 'running' and not cancel_requested
         and (?1 is null or queue = ?1) and (?2 is null or kind = ?2)
         and (?3 is null or created_at >= ?3) and (?4 is null or created_at < ?4)
         and (?5 is null or true) and (?6 is null or true)
         and (?7 is null or id in (select unhex(value) from json_each(?7)))"
    };
}
/// One statement about jobs that match.
macro_rules! postgres_step {
    ($set:literal, $filter:ident) => {
        concat!(
            "update holdfast_jobs set ",
            $set,
            " where id = any (array (
                 select id from holdfast_jobs where ",
            $filter!(),
            "
                   and created_at <= 'epoch'::timestamptz + $8 * interval '1 millisecond'
                 limit $9 for update skip locked))
             returning batch_id"
        )
    };
}
macro_rules! sqlite_step {
    ($set:expr, $filter:ident) => {
        concat!(
            "update holdfast_jobs set ",
            $set,
            " where id in (
                 select id from holdfast_jobs where ",
            $filter!(),
            " and created_at <= ?8 limit ?9)
             returning batch_id"
        )
    };
}
macro_rules! counting {
    ($filter:ident, $limit:literal) => {
        concat!(
            "select count(*) from (select 1 from holdfast_jobs where ",
            $filter!(),
            " limit ",
            $limit,
            ") as m"
        )
    };
}

/// The waiting ones, and the running ones.
struct Statements {
    waiting: &'static str,
    running: &'static str,
}

const POSTGRES_STEP: Statements = Statements {
    waiting: postgres_step!("state = 'cancelled', finished_at = now()", postgres_waiting),
    running: postgres_step!("cancel_requested = true", postgres_running),
};
const SQLITE_STEP: Statements = Statements {
    waiting: sqlite_step!(
        concat!("state = 'cancelled', finished_at = ", sqlite_now!()),
        sqlite_waiting
    ),
    running: sqlite_step!("cancel_requested = 1", sqlite_running),
};
const POSTGRES_COUNT: Statements = Statements {
    waiting: counting!(postgres_waiting, "$8"),
    running: counting!(postgres_running, "$8"),
};
const SQLITE_COUNT: Statements = Statements {
    waiting: counting!(sqlite_waiting, "?8"),
    running: counting!(sqlite_running, "?8"),
};

/// Binds the seven parameters of a filter, on either database.
macro_rules! bound {
    ($statement:expr, $filter:expr, $ids:expr) => {{
        let (ahead, tried) = $filter.shades();
        sqlx::query($statement)
            .bind($filter.queue.clone())
            .bind($filter.kind.clone())
            .bind($filter.from.map(|at| at.timestamp_millis()))
            .bind($filter.to.map(|at| at.timestamp_millis()))
            .bind(ahead)
            .bind(tried)
            .bind($ids)
    }};
}

impl CancelFilter {
    fn takes_waiting(&self) -> bool {
        matches!(
            self.state,
            None | Some(State::Scheduled | State::Available | State::Retryable)
        )
    }

    fn takes_running(&self) -> bool {
        matches!(self.state, None | Some(State::Running))
    }

    /// Whether a waiting row's time lies ahead, and whether it was tried before, where that matters.
    fn shades(&self) -> (Option<bool>, Option<bool>) {
        match self.state {
            Some(State::Scheduled) => (Some(true), Some(false)),
            Some(State::Retryable) => (Some(true), Some(true)),
            Some(State::Available) => (Some(false), None),
            _ => (None, None),
        }
    }

    fn uuids(&self) -> Option<Vec<Uuid>> {
        let ids = self.ids.as_ref()?;
        Some(ids.iter().map(|id| id.as_uuid()).collect())
    }

    fn hex_ids(&self) -> Option<String> {
        self.uuids().map(|ids| hex_ids(&ids))
    }

    fn document(&self) -> Value {
        let given = [
            ("queue", json!(self.queue)),
            ("kind", json!(self.kind)),
            ("state", json!(self.state)),
            ("from", json!(self.from)),
            ("to", json!(self.to)),
            ("ids", json!(self.ids)),
        ];
        let told = given.into_iter().filter(|(_, value)| !value.is_null());
        Value::Object(told.map(|(name, value)| (name.to_owned(), value)).collect())
    }
}

/// A purge leaves what runs alone.
struct Cancel<'a> {
    filter: &'a CancelFilter,
    running_too: bool,
}

impl Step for Cancel<'_> {
    async fn step(
        &self,
        mut on: LedgerTx<'_>,
        position: BulkPosition,
        named: bool,
        observers: &Observers,
    ) -> Result<BulkStep, sqlx::Error> {
        let mut changed = 0;
        let mut effects = Effects::default();
        if self.filter.takes_waiting() {
            let batches = self
                .change(on.reborrow(), position, named, |all| all.waiting)
                .await?;
            changed = batches.len() as u64;
            let ends = batches.into_iter().map(|batch| (batch, StoredState::Cancelled));
            let tallies = follow_ups::tallied(ends, 1);
            effects = follow_ups::count(on.reborrow(), &tallies, named, Some(observers)).await?;
        }
        if changed == 0 && self.running_too && self.filter.takes_running() {
            let asked = self.change(on, position, named, |all| all.running).await?;
            changed = asked.len() as u64;
        }
        Ok(BulkStep {
            seen: changed,
            affected: changed,
            effects,
            ..BulkStep::default()
        })
    }
}

impl Cancel<'_> {
    /// The batch of each job that was changed.
    async fn change(
        &self,
        on: LedgerTx<'_>,
        position: BulkPosition,
        named: bool,
        which: fn(&Statements) -> &'static str,
    ) -> Result<Vec<Option<Uuid>>, sqlx::Error> {
        let (began, most) = (position.began_ms, limit(STEP_ROWS));
        match on {
            LedgerTx::Postgres(on) => {
                let update = bound!(which(&POSTGRES_STEP), self.filter, self.filter.uuids())
                    .bind(began)
                    .bind(most);
                let rows = update.persistent(named).fetch_all(on).await?;
                rows.iter().map(|row| row.try_get(0)).collect()
            }
            LedgerTx::Sqlite(on) => {
                let update = bound!(which(&SQLITE_STEP), self.filter, self.filter.hex_ids())
                    .bind(began)
                    .bind(most);
                let rows = update.fetch_all(on).await?;
                rows.iter().map(|row| row.try_get(0)).collect()
            }
        }
    }
}

impl AdminHandle<'_> {
    /// How many jobs of the ledger a cancellation would reach, up to [`COUNT_CAP`] of each sort.
    pub async fn count_cancellable(&self, filter: &CancelFilter) -> Result<u64, LedgerError> {
        let sql = self.jobs.sql();
        let most = i64::try_from(COUNT_CAP).unwrap_or(i64::MAX);
        sql.within("count jobs to be cancelled", async {
            let mut total = 0;
            let mut tx = sql.begin_read().await?;
            let sorts = [
                (
                    filter.takes_waiting(),
                    POSTGRES_COUNT.waiting,
                    SQLITE_COUNT.waiting,
                ),
                (
                    filter.takes_running(),
                    POSTGRES_COUNT.running,
                    SQLITE_COUNT.running,
                ),
            ];
            for (_, postgres, sqlite) in sorts.into_iter().filter(|(wanted, _, _)| *wanted) {
                let count: i64 = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let counting = bound!(postgres, filter, filter.uuids()).bind(most);
                        counting.persistent(sql.named).fetch_one(on).await?.try_get(0)?
                    }
                    LedgerTx::Sqlite(on) => {
                        let counting = bound!(sqlite, filter, filter.hex_ids()).bind(most);
                        counting.fetch_one(on).await?.try_get(0)?
                    }
                };
                total += count.unsigned_abs();
            }
            tx.commit().await?;
            Ok(total)
        })
        .await
    }

    /// Cancels the jobs of the ledger that match, and asks the running ones to give way, as far as one call goes.
    /// `key`: an idempotency key, behind its caller's name.
    pub async fn cancel_many(
        &self,
        filter: &CancelFilter,
        key: Option<String>,
    ) -> Result<BulkProgress, BulkError> {
        let operation = Operation {
            action: action::JOBS_CANCEL,
            target: filter.queue.clone(),
            request: json!({ "filter": filter.document() }),
            key,
        };
        let cancel = Cancel {
            filter,
            running_too: true,
        };
        bulk::run(self.jobs, self.by, &operation, &cancel).await
    }

    /// Cancels everything that waits in a queue, in the ledger and on the broker, as far as one call goes.
    ///
    /// # Errors
    /// `Unavailable`, with nothing done: the queue lives on the broker too, and Redis is away.
    pub async fn purge(&self, queue: &str, key: Option<String>) -> Result<PurgeReport, BulkError> {
        let on_broker = self
            .jobs
            .queues()
            .get(queue)
            .is_some_and(|settings| settings.durability == Durability::Redis);
        let broker = self.jobs.broker().filter(|_| on_broker);
        if on_broker && !broker.is_some_and(crate::broker::Broker::serves) {
            return Err(BulkError::Unavailable { what: "Redis" });
        }
        let filter = CancelFilter {
            queue: Some(queue.to_owned()),
            ..CancelFilter::default()
        };
        let operation = Operation {
            action: action::QUEUE_PURGE,
            target: Some(queue.to_owned()),
            request: json!({ "queue": queue }),
            key,
        };
        let cancel = Cancel {
            filter: &filter,
            running_too: false,
        };
        let ledger = bulk::run(self.jobs, self.by, &operation, &cancel).await?;
        let (broker, broker_finished) = match broker {
            Some(broker) => self.purge_broker(broker, queue).await?,
            None => (0, true),
        };
        Ok(PurgeReport {
            ledger,
            broker,
            broker_finished,
        })
    }

    /// What was pushed before it began, at most: a queue that fills as fast as it is emptied must not hold a call.
    async fn purge_broker(
        &self,
        broker: &crate::broker::Broker,
        queue: &str,
    ) -> Result<(u64, bool), BulkError> {
        const AWAY: BulkError = BulkError::Unavailable { what: "Redis" };
        let give_up = tokio::time::Instant::now() + CALL_TIME;
        let depth = broker.depth(queue).await.map_err(|_| AWAY)?;
        let waiting = depth.active + depth.scheduled;
        let (mut removed, mut idle) = (0, 0);
        // A step may find that workers have taken all that it had read; then it reads anew.
        while removed < waiting.min(CALL_ROWS) && idle < 3 && tokio::time::Instant::now() < give_up {
            match broker.purge(queue).await {
                Ok(0) => idle += 1,
                Ok(count) => {
                    removed += count;
                    idle = 0;
                }
                Err(error) if removed == 0 => {
                    tracing::warn!(queue, error = %error, "cannot purge the broker");
                    return Err(AWAY);
                }
                Err(error) => {
                    tracing::warn!(queue, error = %error, "a purge of the broker stopped before its end");
                    break;
                }
            }
        }
        if removed > 0 {
            let entry = AuditEntry::new(action::QUEUE_PURGE)
                .target(queue)
                .count(removed)
                .details(json!({ "durability": "redis" }));
            self.jobs.audit().record(self.by, &entry).await?;
        }
        let left = tokio::time::timeout(Duration::from_secs(1), broker.depth(queue)).await;
        let finished =
            removed >= waiting || matches!(left, Ok(Ok(depth)) if depth.active + depth.scheduled == 0);
        Ok((removed, finished))
    }
}
