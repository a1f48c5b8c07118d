//! What the end of a job, the end of a batch or a missed tick enqueues for an observer, such as the product that sends webhooks.
//!
//! # Invariants
//! - What an observer asks for is written in the transaction that writes the outcome, and only if the outcome was written: never
//!   before it is committed, never lost after it, once for each outcome. On a queue of `redis` durability it is written to the
//!   ledger before the job leaves the broker, under keys that make a repetition harmless.
//! - A process without an observer, and an outcome that no observer wants, run no statement more than they would otherwise.
//! - An observer decides from its memory. [`Observers::ready`] is awaited before a transaction begins, so that this memory is not
//!   older than the observer promises.
//!
//! # When things fail
//! - *The memory cannot be refreshed*: outcomes of the ledger wait as they do while SQL is unavailable. Jobs of the broker end by
//!   what was known last.
//! - *The process dies between the decision and the commit*: neither the outcome nor what follows it is there.

use std::fmt::Debug;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};

use crate::id::{BatchId, JobId};
use crate::ledger::{ClaimedJob, LedgerError, NewJob, Outcome};
use crate::link::EndedBatch;
use crate::state::StoredState;

/// Longest that a job of the broker waits for an observer that has never been ready.
const FIRST_READING: Duration = Duration::from_secs(1);

/// A job that is completed or discarded.
#[derive(Debug, Clone, Copy)]
pub struct EndedJob<'a> {
    pub id: JobId,
    pub kind: &'a str,
    pub queue: &'a str,
    /// `Completed` or `Discarded`.
    pub state: StoredState,
    /// Attempts it took, this one included; a crash is none.
    pub attempt: u32,
    pub crashes: u32,
    pub batch: Option<BatchId>,
    /// Of a discarded job: `permanent`, `transient`, `timeout`, `panic`, `crash`, …
    pub error_class: Option<&'a str>,
    /// The outcome may be reported again, by another process: what is enqueued needs keys made of the job's id.
    pub may_repeat: bool,
}

/// A tick that no beat took in time.
#[derive(Debug, Clone)]
pub struct MissedTick {
    pub schedule: String,
    pub kind: String,
    /// `None`: the kind's own.
    pub queue: Option<String>,
    pub slot: DateTime<Utc>,
}

/// Decides what is enqueued. All but [`Observer::refresh`] is answered from memory.
#[async_trait]
pub trait Observer: Debug + Send + Sync {
    /// Makes the memory as current as the observer promises; immediately if it is.
    async fn refresh(&self) -> Result<(), LedgerError>;

    /// Whether the memory is as current as the observer promises.
    fn is_current(&self) -> bool;

    /// Whether the memory was ever filled.
    fn is_known(&self) -> bool;

    /// Forgets: what the observer observes has changed.
    fn changed(&self);

    /// Whether [`Observer::on_job`] would enqueue anything.
    fn wants_job(&self, kind: &str, queue: &str, state: StoredState) -> bool;

    fn on_job(&self, job: &EndedJob<'_>) -> Vec<NewJob>;

    fn on_batch(&self, batch: &EndedBatch) -> Vec<NewJob>;

    fn on_missed(&self, tick: &MissedTick) -> Vec<NewJob>;
}

/// The observer of a process, once it is there. Cheap to clone; clones share it.
#[derive(Debug, Clone, Default)]
pub struct Observers(Arc<OnceLock<Arc<dyn Observer>>>);

impl Observers {
    /// The first one counts: a process has one.
    pub(crate) fn set(&self, observer: Arc<dyn Observer>) {
        let _ = self.0.set(observer);
    }

    fn get(&self) -> Option<&dyn Observer> {
        self.0.get().map(|observer| &**observer)
    }

    /// To be awaited before a transaction that may end something.
    ///
    /// # Errors
    /// Transient ones alone: an observer whose memory cannot be filled at all must not make an outcome one that cannot be stored.
    pub(crate) async fn ready(&self) -> Result<(), LedgerError> {
        let Some(observer) = self.get().filter(|observer| !observer.is_current()) else {
            return Ok(());
        };
        match observer.refresh().await {
            Err(error) if !error.is_transient() => {
                tracing::error!(error = ?error, "events of jobs go by what was known last");
                Ok(())
            }
            refreshed => refreshed,
        }
    }

    /// Whether [`Observers::ready`] would ask the database.
    pub(crate) fn is_old(&self) -> bool {
        self.get().is_some_and(|observer| !observer.is_current())
    }

    /// The same for ends that do not wait for SQL: a refresh goes on by itself, except for the first.
    pub(crate) async fn nearly_ready(&self) {
        let Some(observer) = self.0.get().filter(|observer| !observer.is_current()) else {
            return;
        };
        let observer = Arc::clone(observer);
        let is_known = observer.is_known();
        let refreshing = tokio::spawn(async move {
            if let Err(error) = observer.refresh().await {
                tracing::debug!(error = ?error, "events of jobs go by what was known last");
            }
        });
        if !is_known {
            // Either way what is known then counts.
            let _ = tokio::time::timeout(FIRST_READING, refreshing).await;
        }
    }

    /// What is observed has changed in this process.
    pub fn changed(&self) {
        if let Some(observer) = self.get() {
            observer.changed();
        }
    }

    /// Whether an observer may want this outcome; if its memory is old, any.
    pub(crate) fn may_want(&self, kind: &str, queue: &str, outcome: &Outcome) -> bool {
        let Some(observer) = self.get() else {
            return false;
        };
        let state = outcome.state();
        matches!(state, StoredState::Completed | StoredState::Discarded)
            && (!observer.is_current() || observer.wants_job(kind, queue, state))
    }

    /// What an outcome enqueues once it is written.
    pub(crate) fn on_outcome(
        &self,
        job: &ClaimedJob,
        queue: &str,
        outcome: &Outcome,
        may_repeat: bool,
    ) -> Vec<NewJob> {
        let Some(observer) = self.get() else {
            return Vec::new();
        };
        let (state, error_class) = match outcome {
            Outcome::Completed { .. } => (StoredState::Completed, None),
            Outcome::Discard { error, .. } => (StoredState::Discarded, Some(&*error.class)),
            Outcome::Retry { .. }
            | Outcome::Snooze { .. }
            | Outcome::Cancel { .. }
            | Outcome::HandBack { .. } => return Vec::new(),
        };
        if !observer.wants_job(&job.kind, queue, state) {
            return Vec::new();
        }
        observer.on_job(&EndedJob {
            id: job.id,
            kind: &job.kind,
            queue,
            state,
            attempt: job.attempt + 1,
            crashes: job.crashes,
            batch: job.batch,
            error_class,
            may_repeat,
        })
    }

    pub(crate) fn on_job(&self, job: &EndedJob<'_>) -> Vec<NewJob> {
        match self.get() {
            Some(observer) if observer.wants_job(job.kind, job.queue, job.state) => observer.on_job(job),
            _ => Vec::new(),
        }
    }

    pub(crate) fn on_batch(&self, batch: &EndedBatch) -> Vec<NewJob> {
        self.get()
            .map(|observer| observer.on_batch(batch))
            .unwrap_or_default()
    }

    pub(crate) fn on_missed(&self, tick: &MissedTick) -> Vec<NewJob> {
        self.get()
            .map(|observer| observer.on_missed(tick))
            .unwrap_or_default()
    }
}
