//! What a batch is, as its producer words it, as it is written, and as it is read.

use chrono::{DateTime, Utc};

use crate::enqueue::{EnqueuedJob, JobRequest};
use crate::id::{BatchId, JobId};
use crate::ledger::NewJob;
use crate::link::Link;
use crate::state::{State, StoredState};

/// A batch as its producer words it.
#[derive(Debug, Clone, Default)]
pub struct BatchRequest {
    /// A readable description.
    pub name: Option<String>,
    pub jobs: Vec<JobRequest>,
    /// Enqueued when every job is final.
    pub callback: Option<JobRequest>,
    /// As long as the first batch with this key is kept, another one is answered with the first.
    pub idempotency_key: Option<String>,
}

/// A checked batch, ready to be written.
#[derive(Debug, Clone)]
pub(crate) struct NewBatch {
    pub(crate) id: BatchId,
    pub(crate) name: Option<String>,
    pub(crate) jobs: Vec<NewJob>,
    pub(crate) callback: Option<Link>,
    pub(crate) idempotency_key: Option<String>,
    /// Of what was asked for, where there is a key: what comes again under it must say the same.
    /// Of what it says; the first is stored. Empty: it has no key.
    pub(crate) fingerprints: Vec<String>,
}

/// An accepted batch.
#[derive(Debug, Clone)]
pub struct EnqueuedBatch {
    pub id: BatchId,
    /// In the order of the request; empty for a duplicate.
    pub jobs: Vec<EnqueuedJob>,
    pub total: u32,
    /// It already existed under this key; `id` is that of the first one.
    pub duplicate: bool,
}

/// How many jobs became final, by state; below zero where dead letters were put back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Tally {
    pub(crate) completed: i64,
    pub(crate) discarded: i64,
    pub(crate) cancelled: i64,
}

impl Tally {
    pub(crate) fn add(&mut self, state: StoredState, jobs: i64) {
        match state {
            StoredState::Completed => self.completed += jobs,
            StoredState::Discarded => self.discarded += jobs,
            StoredState::Cancelled => self.cancelled += jobs,
            StoredState::Available | StoredState::Running => {}
        }
    }

    pub(crate) fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// A batch as its users see it.
#[derive(Debug, Clone)]
pub struct BatchRecord {
    pub id: BatchId,
    pub name: Option<String>,
    pub total: u32,
    /// The final ones, by state.
    pub completed: u32,
    pub discarded: u32,
    pub cancelled: u32,
    pub callback: Option<CallbackRecord>,
    /// Whether its cancellation was requested.
    pub cancel_requested: bool,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// The callback of a batch.
#[derive(Debug, Clone)]
pub struct CallbackRecord {
    pub kind: String,
    pub queue: String,
    /// Once the batch has ended.
    pub id: Option<JobId>,
}

impl BatchRecord {
    /// Jobs that are not final.
    pub fn pending(&self) -> u32 {
        self.total
            .saturating_sub(self.completed + self.discarded + self.cancelled)
    }

    /// The final ones of a hundred, rounded down: a hundred only when there is nothing left.
    pub fn percent(&self) -> u32 {
        let done = u64::from(self.total - self.pending());
        u32::try_from(done * 100 / u64::from(self.total.max(1))).unwrap_or(100)
    }
}

/// The pending jobs of a batch, by state.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    pub scheduled: u32,
    pub available: u32,
    pub running: u32,
    pub retryable: u32,
}

impl Progress {
    pub(crate) fn add(&mut self, state: State, jobs: u32) {
        match state {
            State::Scheduled => self.scheduled += jobs,
            State::Available => self.available += jobs,
            State::Running => self.running += jobs,
            State::Retryable => self.retryable += jobs,
            State::Completed | State::Discarded | State::Cancelled => {}
        }
    }
}

/// Which batches to list.
#[derive(Debug, Clone, Default)]
pub struct BatchFilter {
    /// True: only those that have ended; false: only those that run.
    pub ended: Option<bool>,
    /// Only batches older than this one.
    pub after: Option<BatchId>,
    pub limit: usize,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hundred_percent_is_said_only_when_nothing_is_left() {
        let mut record = BatchRecord {
            id: BatchId::generate(),
            name: None,
            total: 1_000,
            completed: 990,
            discarded: 6,
            cancelled: 3,
            callback: None,
            cancel_requested: false,
            created_at: DateTime::UNIX_EPOCH,
            ended_at: None,
        };
        assert_eq!((record.pending(), record.percent()), (1, 99));
        record.cancelled = 4;
        assert_eq!((record.pending(), record.percent()), (0, 100));
    }
}
