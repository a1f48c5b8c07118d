//! What follows the end of a job: the next job of its chain, and the count of its batch.
//!
//! # Invariants
//! - What a completion enqueues is written in the transaction that writes the completion, and only if the lease still
//!   held: so a chain goes on exactly once, whoever dies when.
//! - A batch's counts are moved in the transaction that makes a job final, or puts a discarded one back. The row's lock
//!   orders those who end its last jobs at the same time; the one whose count comes to the total ends the batch and
//!   enqueues the callback, in that same transaction. A batch ends once: after that its counts stand.
//! - Locks are taken in one order: rows of jobs, then rows of batches by id. A batch's lock is the last, and is held for
//!   one statement and the commit; a flush of outcomes touches each of its batches once. [`finish_free`] takes the batches
//!   first, and may, since it waits for none of its locks.
//!
//! What observers enqueue ([`crate::observer`]) is written in the same transactions. Jobs without a chain or a batch, whose outcome no
//! observer wants, never reach this module.
//!
//! # When things fail
//! The transaction is fenced as every outcome is, so it may be repeated after a lost reply: then nothing is held any more,
//! and nothing is enqueued or counted a second time.
//!
//! A batch whose row another transaction has locked delays a joint [`finish`] until the server's bound on such waits, and
//! fails it whole. Then [`finish_free`] stores the outcomes of all other batches, and tells which it could not.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::failpoint;
use holdfast_core::sql::Bounds;

use crate::LedgerTx;
use crate::batches::{self, Tally};
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::{
    self, ClaimedJob, FreeFinish, InsertOutcome, LedgerError, NewJob, Outcome, PostgresLedger, RunAt,
    SqliteLedger,
};
use crate::ledger::{FreeRows, WrittenOutcome};
use crate::link::Previous;
use crate::observer::Observers;
use crate::sql::Sql;
use crate::state::StoredState;

/// Most time that [`finish_free`] waits for the unique key of a chain's next job.
const KEY_WAIT: Duration = Duration::from_millis(20);

/// An outcome with what follows it.
#[derive(Debug, Clone)]
pub struct FollowedOutcome {
    pub outcome: Outcome,
    pub batch: Option<BatchId>,
    /// What its completion enqueues.
    pub next: Option<NewJob>,
    /// What observers enqueue if it is written.
    pub observed: Vec<NewJob>,
}

impl FollowedOutcome {
    /// Whether anything follows this outcome of the job.
    pub(crate) fn is_tied(job: &ClaimedJob, outcome: &Outcome) -> bool {
        let completed = matches!(outcome, Outcome::Completed { .. });
        job.batch.is_some() || completed && job.options.then.is_some()
    }

    /// The outcome of a job of this queue, with all that follows it.
    pub(crate) fn observed(job: &ClaimedJob, queue: &str, outcome: &Outcome, observers: &Observers) -> Self {
        let followed = Self::of(job, outcome).unwrap_or_else(|| Self {
            outcome: outcome.clone(),
            batch: None,
            next: None,
            observed: Vec::new(),
        });
        Self {
            observed: observers.on_outcome(job, queue, outcome, false),
            ..followed
        }
    }

    /// `None`: nothing follows this outcome of the job by itself. Every outcome of a batch's job is tied, one that puts it back too: if
    /// the job was asked to cancel, the row becomes final and is to be counted.
    pub fn of(job: &ClaimedJob, outcome: &Outcome) -> Option<Self> {
        let batch = job.batch;
        let next = match outcome {
            Outcome::Completed { result, .. } => job.options.then.as_ref().map(|then| {
                let previous = Previous {
                    id: job.id,
                    result: result.as_deref().map(ToOwned::to_owned),
                };
                then.after(previous, job.options.traceparent.clone())
            }),
            _ => None,
        };
        (batch.is_some() || next.is_some()).then(|| Self {
            outcome: outcome.clone(),
            batch,
            next,
            observed: Vec::new(),
        })
    }
}

/// A job that an end brought about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FollowUpJob {
    pub kind: Arc<str>,
    pub queue: Arc<str>,
    /// When it is due, after the end.
    pub delay: Duration,
}

/// What is to be told once the transaction is committed: [`crate::Jobs::announce`] rings for these jobs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Effects {
    pub enqueued: Vec<FollowUpJob>,
    pub ended: Vec<BatchId>,
}

impl Effects {
    fn enqueued(&mut self, job: &NewJob) {
        self.enqueued.push(FollowUpJob {
            kind: Arc::clone(&job.kind),
            queue: Arc::clone(&job.queue),
            delay: match job.run_at {
                RunAt::In(delay) => delay,
                RunAt::Now | RunAt::At(_) | RunAt::Tick(_) => Duration::ZERO,
            },
        });
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.enqueued.extend(other.enqueued);
        self.ended.extend(other.ended);
    }
}

/// Writes outcomes under their fences, and what follows those that were still held, in one transaction.
pub async fn finish(
    sql: &Sql,
    worker: WorkerId,
    outcomes: &[FollowedOutcome],
) -> Result<(Vec<JobId>, Effects), LedgerError> {
    sql.within("record outcomes and what follows them", async {
        let plain: Vec<&Outcome> = outcomes.iter().map(|tied| &tied.outcome).collect();
        let mut tx = sql.begin().await?;
        let held = match tx.on() {
            LedgerTx::Postgres(on) => PostgresLedger::finish_in(on, worker, &plain, sql.named).await?,
            LedgerTx::Sqlite(on) => SqliteLedger::finish_in(on, worker, &plain).await?,
        };
        let effects = follow_all(tx.on(), outcomes, &held, sql).await?;
        failpoint::reach("tied");
        tx.commit().await?;
        Ok((held.into_iter().map(|row| row.id).collect(), effects))
    })
    .await
}

/// The same without waiting for the rows of jobs and batches, and hardly for keys: an outcome whose job or batch somebody has
/// locked is left, and told.
pub async fn finish_free(
    sql: &Sql,
    worker: WorkerId,
    outcomes: &[FollowedOutcome],
) -> Result<(FreeFinish, Effects), LedgerError> {
    let bounds = Bounds::SETTINGS.lock(KEY_WAIT);
    sql.within_bounds("record held outcomes and what follows them", bounds, async {
        let batches: BTreeSet<BatchId> = outcomes.iter().filter_map(|tied| tied.batch).collect();
        let mut tx = sql.begin().await?;
        let locked = batches::store::lock_free(tx.on(), &batches, sql.named).await?;
        let (left, free): (Vec<&FollowedOutcome>, Vec<&FollowedOutcome>) = outcomes
            .iter()
            .partition(|tied| tied.batch.is_some_and(|batch| locked.contains(&batch)));
        let plain: Vec<&Outcome> = free.iter().map(|tied| &tied.outcome).collect();
        let mut rows = match tx.on() {
            LedgerTx::Postgres(on) => PostgresLedger::finish_free_in(on, worker, &plain, sql.named).await?,
            LedgerTx::Sqlite(on) => FreeRows {
                written: SqliteLedger::finish_in(on, worker, &plain).await?,
                locked: Vec::new(),
            },
        };
        let effects = follow_all(tx.on(), outcomes, &rows.written, sql).await?;
        tx.commit().await?;
        rows.locked
            .extend(left.iter().map(|tied| tied.outcome.fence().id));
        Ok((rows.into(), effects))
    })
    .await
}

/// Writes what follows those outcomes whose leases held.
async fn follow_all(
    mut on: LedgerTx<'_>,
    outcomes: &[FollowedOutcome],
    held: &[WrittenOutcome],
    sql: &Sql,
) -> Result<Effects, sqlx::Error> {
    let by_id: HashMap<JobId, &FollowedOutcome> = outcomes
        .iter()
        .map(|tied| (tied.outcome.fence().id, tied))
        .collect();
    let ended: Vec<(&FollowedOutcome, StoredState)> = held
        .iter()
        .filter_map(|row| Some((*by_id.get(&row.id)?, row.state)))
        .collect();
    let mut effects = follow(on.reborrow(), &ended, sql.named).await?;
    let observed = ended
        .iter()
        .filter(|(tied, state)| *state == tied.outcome.state())
        .flat_map(|(tied, _)| tied.observed.iter().cloned());
    effects.merge(enqueue(on.reborrow(), &observed.collect::<Vec<_>>(), sql.named).await?);
    // By what the rows became: a job that was asked to cancel does not become available again.
    let mut tallies = BTreeMap::<BatchId, Tally>::new();
    for (tied, state) in ended.iter().filter(|(_, state)| state.is_final()) {
        if let Some(batch) = tied.batch {
            tallies.entry(batch).or_default().add(*state, 1);
        }
    }
    effects.merge(count(on, &tallies, sql.named, Some(&sql.observers)).await?);
    Ok(effects)
}

/// Enqueues the next job of each chain, and notes with the job before it which that is.
async fn follow(
    mut on: LedgerTx<'_>,
    ended: &[(&FollowedOutcome, StoredState)],
    named: bool,
) -> Result<Effects, sqlx::Error> {
    let (parents, children): (Vec<JobId>, Vec<NewJob>) = ended
        .iter()
        .filter(|(_, state)| *state == StoredState::Completed)
        .filter_map(|(tied, _)| Some((tied.outcome.fence().id, tied.next.clone()?)))
        .unzip();
    let mut effects = Effects::default();
    if children.is_empty() {
        return Ok(effects);
    }
    let accepted = ledger::insert_in(on.reborrow(), &children, named).await?;
    for (child, accepted) in children.iter().zip(&accepted) {
        // Another job has its unique key: that one is what follows.
        if matches!(accepted, InsertOutcome::New(_)) {
            effects.enqueued(child);
        }
    }
    let ids: Vec<JobId> = accepted.iter().map(InsertOutcome::id).collect();
    match on {
        LedgerTx::Postgres(on) => PostgresLedger::note_children_in(on, &parents, &ids, named).await?,
        LedgerTx::Sqlite(on) => SqliteLedger::note_children_in(on, &parents, &ids).await?,
    }
    Ok(effects)
}

/// Enqueues what an observer asked for. Nothing at all for none.
pub(crate) async fn enqueue(on: LedgerTx<'_>, jobs: &[NewJob], named: bool) -> Result<Effects, sqlx::Error> {
    let mut effects = Effects::default();
    if jobs.is_empty() {
        return Ok(effects);
    }
    let accepted = ledger::insert_in(on, jobs, named).await?;
    for (job, accepted) in jobs.iter().zip(&accepted) {
        if matches!(accepted, InsertOutcome::New(_)) {
            effects.enqueued(job);
        }
    }
    Ok(effects)
}

/// Moves the counts of batches that have not ended, ends those that are complete, and enqueues their callbacks. To be
/// called last in its transaction: it locks the batches.
pub(crate) async fn count(
    mut on: LedgerTx<'_>,
    tallies: &BTreeMap<BatchId, Tally>,
    named: bool,
    observers: Option<&Observers>,
) -> Result<Effects, sqlx::Error> {
    let mut effects = Effects::default();
    if tallies.is_empty() {
        return Ok(effects);
    }
    for (batch, callback) in batches::store::count(on.reborrow(), tallies, named).await? {
        effects.ended.push(batch.id);
        if let Some(observers) = observers {
            effects.merge(enqueue(on.reborrow(), &observers.on_batch(&batch), named).await?);
        }
        let Some(callback) = callback else { continue };
        let job = callback.at_end_of(batch);
        let accepted = ledger::insert_in(on.reborrow(), std::slice::from_ref(&job), named).await?;
        let Some(accepted) = accepted.first() else {
            continue;
        };
        if matches!(accepted, InsertOutcome::New(_)) {
            effects.enqueued(&job);
        }
        batches::store::note_callback(on.reborrow(), batch.id, accepted.id(), named).await?;
    }
    Ok(effects)
}

/// Tallies rows that an `update … returning` tells of.
pub(crate) fn tallied(
    rows: impl IntoIterator<Item = (Option<uuid::Uuid>, StoredState)>,
    each: i64,
) -> BTreeMap<BatchId, Tally> {
    let mut tallies = BTreeMap::<BatchId, Tally>::new();
    for (batch, state) in rows {
        if let Some(batch) = batch {
            tallies
                .entry(BatchId::from_uuid(batch))
                .or_default()
                .add(state, each);
        }
    }
    tallies
}
