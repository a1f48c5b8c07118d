//! Workers and their leases: what they report, what the ledger answers, and what is taken from those that are lost.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};

use crate::follow_ups::Effects;
use crate::id::{JobId, WorkerId};
use crate::pull::PullClient;

/// A worker's heartbeat.
#[derive(Debug, Clone)]
pub struct WorkerReport {
    pub id: WorkerId,
    /// A readable name: host, process and boot.
    pub name: String,
    pub queues: Vec<String>,
    pub started_at: DateTime<Utc>,
    pub stats: BTreeMap<String, WorkerQueueStats>,
    /// Of a worker that pulls over HTTP. Written once, with its registration.
    pub client: Option<PullClient>,
}

/// What a worker reports of one queue.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize, Deserialize)]
pub struct WorkerQueueStats {
    pub running: u64,
    pub completed: u64,
    pub failed: u64,
    /// Outcomes a second since the heartbeat before.
    pub per_second: f64,
    /// Jobs of the queue that it may run concurrently. 0: a worker of a release that did not report it.
    #[serde(default)]
    pub places: u64,
    /// The same of all its queues together.
    #[serde(default)]
    pub process_places: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Heartbeat {
    Renewed,
    /// The worker was not heard of for too long: its jobs were rescued and its row is gone. It must take a new identity.
    Lost,
}

/// The answer of a [renewal](crate::ledger::Ledger::renew).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RenewedLease {
    pub worker: WorkerId,
    /// False: another transaction holds the row, and the lease is as old as it was.
    pub is_renewed: bool,
    /// It is to take no more jobs.
    pub draining: bool,
    /// It was said to be idle, and jobs run under its id.
    pub has_jobs: bool,
}

impl RenewedLease {
    pub(super) fn from_row((worker, is_renewed, draining, has_jobs): (uuid::Uuid, bool, bool, bool)) -> Self {
        Self {
            worker: WorkerId::from_uuid(worker),
            is_renewed,
            draining,
            has_jobs,
        }
    }
}

/// A heartbeat this far ahead of the server's clock was written before the clock was set back. Less is no harm: nothing is
/// delayed by more than that.
pub(crate) const CLOCK_AHEAD: Duration = Duration::from_secs(1);

/// What the server's clock shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ServerClock {
    pub now: DateTime<Utc>,
    /// The latest time that it is known to have shown: now, or when a worker was seen.
    pub latest: DateTime<Utc>,
}

impl ServerClock {
    /// Whether it has shown a later time before.
    pub fn is_set_back(&self) -> bool {
        (self.latest - self.now)
            .to_std()
            .is_ok_and(|ahead| ahead > CLOCK_AHEAD)
    }
}

/// Times after one and up to another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TimeSpan {
    pub after: DateTime<Utc>,
    pub until: DateTime<Utc>,
}

pub(crate) fn count_by_queue(queues: Vec<String>) -> BTreeMap<String, u64> {
    let mut counts = BTreeMap::new();
    for queue in queues {
        *counts.entry(queue).or_default() += 1;
    }
    counts
}

/// What a worker's id gave back without a crash.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReturnReport {
    /// Jobs that are available again, by queue.
    pub returned: BTreeMap<String, u64>,
    /// Jobs that were asked to cancel, and are cancelled.
    pub cancelled: u64,
    /// The id has no row, and so no jobs.
    pub gone: bool,
    /// What the ends of jobs brought about.
    pub effects: Effects,
}

impl ReturnReport {
    pub fn jobs(&self) -> u64 {
        self.returned.values().sum::<u64>() + self.cancelled
    }
}

/// Ids of workers, by when they were made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct IdRange {
    /// Milliseconds since the epoch.
    pub from_ms: u64,
    /// The first millisecond that does not belong to it; `None`: it has no end.
    pub to_ms: Option<u64>,
}

impl IdRange {
    pub const ALL: Self = Self {
        from_ms: 0,
        to_ms: None,
    };

    /// The smallest id of the range.
    pub fn first(self) -> WorkerId {
        WorkerId::first_of_ms(self.from_ms)
    }

    /// The largest.
    pub fn last(self) -> WorkerId {
        let end = self.to_ms.map(|to| WorkerId::first_of_ms(to).as_uuid().as_u128());
        let last = end.map_or(u128::MAX, |end| end.saturating_sub(1));
        WorkerId::from_uuid(uuid::Uuid::from_u128(last))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RescueReport {
    /// Jobs put back, by queue.
    pub returned: BTreeMap<String, u64>,
    /// Jobs that were asked to cancel, and are cancelled.
    pub cancelled: u64,
    /// Jobs discarded as poison.
    pub poisoned: Vec<JobId>,
    pub workers_lost: Vec<WorkerId>,
    /// What the ends of jobs brought about.
    pub effects: Effects,
}

impl RescueReport {
    pub fn jobs(&self) -> u64 {
        self.returned.values().sum::<u64>() + self.cancelled + self.poisoned.len() as u64
    }
}

/// A worker process, whatever number of ids it has. (A process takes another id now and then, and keeps an older one until the
/// jobs that run under it have ended.)
#[derive(Debug, Clone, Serialize)]
pub struct WorkerRecord {
    /// The newest id.
    pub id: WorkerId,
    pub name: String,
    pub queues: Vec<String>,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    /// By the server's clock, at the time of asking.
    pub seen_seconds_ago: f64,
    pub stats: BTreeMap<String, WorkerQueueStats>,
    /// Of a worker that pulls over HTTP.
    pub client: Option<PullClient>,
    /// It was asked to take no more jobs.
    pub draining: bool,
}
