//! What is counted of jobs. The handles of a kind are made with its registration, so that counting costs a few
//! nanoseconds, and so that a kind which has never failed shows a zero.

use holdfast_core::config::Durability;
use holdfast_core::telemetry::catalogue;
use holdfast_core::telemetry::metrics::OTHER;
use metrics::{Counter, Histogram};

use crate::ledger::Outcome;

/// The metrics of one kind.
#[derive(Debug, Clone)]
pub(crate) struct KindMeters {
    on_ledger: Counter,
    on_redis: Counter,
    duration: Histogram,
    completed: Counter,
    retry: Counter,
    snoozed: Counter,
    discarded: Counter,
    cancelled: Counter,
    handed_back: Counter,
}

impl KindMeters {
    pub(crate) fn of(kind: &str) -> Self {
        let executions = |outcome| catalogue::JOB_EXECUTIONS.with([kind, outcome]);
        Self {
            on_ledger: catalogue::JOBS_ENQUEUED.with([kind, "ledger"]),
            on_redis: catalogue::JOBS_ENQUEUED.with([kind, "redis"]),
            duration: catalogue::JOB_DURATION.with([kind]),
            completed: executions("completed"),
            retry: executions("retry"),
            snoozed: executions("snoozed"),
            discarded: executions("discarded"),
            cancelled: executions("cancelled"),
            handed_back: executions("handed_back"),
        }
    }

    /// What a kind that this process does not know is counted under.
    pub(crate) fn of_unknown() -> Self {
        Self::of(OTHER)
    }

    pub(crate) fn enqueued(&self, durability: Durability) {
        match durability {
            Durability::Ledger => self.on_ledger.increment(1),
            Durability::Redis => self.on_redis.increment(1),
        }
    }

    pub(crate) fn executed(&self, outcome: &Outcome, took: std::time::Duration) {
        self.duration.record(took);
        self.ended(outcome);
    }

    pub(crate) fn ended(&self, outcome: &Outcome) {
        match outcome {
            Outcome::Completed { .. } => &self.completed,
            Outcome::Retry { .. } => &self.retry,
            Outcome::Snooze { .. } => &self.snoozed,
            Outcome::Discard { .. } => &self.discarded,
            Outcome::Cancel { .. } => &self.cancelled,
            Outcome::HandBack { .. } => &self.handed_back,
        }
        .increment(1);
    }
}

/// One step of a maintenance duty: how it ended, and what it moved.
pub(crate) fn maintained<T, E>(duty: &'static str, step: &Result<T, E>, items: impl FnOnce(&T) -> u64) {
    let outcome = match step {
        Ok(done) => {
            let items = items(done);
            if items > 0 {
                catalogue::MAINTENANCE_ITEMS.with([duty]).increment(items);
            }
            "ok"
        }
        Err(_) => "failed",
    };
    catalogue::MAINTENANCE_STEPS.with([duty, outcome]).increment(1);
}
