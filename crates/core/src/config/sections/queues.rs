//! The settings of queues, and what the file may say about kinds and schedules.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::declare::{Section as _, choice, count};
use super::super::limits::QueueLimits;
use super::super::reader::Reader;
use super::super::tables;
use crate::settings;

/// Most that one queue may weigh: a share of less than a hundredth is better a queue with few places.
const MAX_WEIGHT: u32 = 100;

/// Where a queue's jobs live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// SQL is the queue; Redis only wakes the workers.
    Ledger,
    /// The job lives on the broker; losing Redis' memory loses it.
    Redis,
}

/// Which fleet of workers runs a queue's jobs. A claim takes whatever is due, of any kind, so a queue has one fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServedBy {
    /// Worker processes of Holdfast.
    Rust,
    /// Clients of `POST /v1/workers/{id}/pull`, in any language.
    Pull,
}

impl Durability {
    const CHOICES: [(&str, Self); 2] = [("ledger", Self::Ledger), ("redis", Self::Redis)];
}

impl ServedBy {
    const CHOICES: [(&str, Self); 2] = [(Self::Rust.name(), Self::Rust), (Self::Pull.name(), Self::Pull)];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Pull => "pull",
        }
    }
}

settings! {
    ["queue_defaults"]
    /// Defaults of every queue. Each queue may set every one of them: `queues.NAME.KEY`.
    #[derive(Debug, Clone)]
    pub struct QueueSettings {
        /// Where jobs are stored: "ledger" (SQL; Redis only wakes the workers) or "redis" (on Redis: less load for the database,
        /// and jobs are lost when Redis loses its memory).
        durability: Durability = choice("ledger", &Durability::CHOICES);
        /// Which workers run the queue's jobs: "rust" (processes of Holdfast) or "pull" (clients of the pull protocol, in any
        /// language; the durability must be "ledger"). A claim takes jobs of every kind, so a queue has one of them.
        served_by: ServedBy = choice("rust", &ServedBy::CHOICES);
        /// Jobs of the queue that one worker process runs concurrently, {range}.
        concurrency: usize = count(50, 1..=10_000);
        /// The queue's share of a worker's places where `worker.concurrency` limits them, {range}: a queue of weight 3 gets three
        /// times the running time of one of weight 1 while both have jobs. Other queues use the places that a queue does not need.
        weight: u32 = count(1, 1..=MAX_WEIGHT);
    }
    sections {
        /// What bounds the queue over all workers, unless the API says otherwise.
        limits: QueueLimits;
    }
    and {
        /// `[queues.NAME.retry]`.
        retry: RetryOverride = tables::queue_retry;
    }
}

/// `[queues.NAME]`.
pub(in super::super) fn queues(reader: &mut Reader<'_>) -> BTreeMap<String, QueueSettings> {
    let names = reader.names("queues");
    let read = |name: String| {
        let settings = reader.in_queue(&name, QueueSettings::read);
        (name, settings)
    };
    names.into_iter().map(read).collect()
}

/// What one kind or one queue says about retries. Unset parts are decided elsewhere: `retry.rs` of the jobs crate says
/// where.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RetryOverride {
    pub max_attempts: Option<u32>,
    pub base: Option<Duration>,
    pub cap: Option<Duration>,
    pub jitter: Option<bool>,
}

/// What the configuration says about one kind.
#[derive(Debug, Clone, Default)]
pub struct KindSettings {
    pub retry: RetryOverride,
}

/// A schedule as the configuration words it. Whether its expression, its kind and its payload are of any use, the jobs
/// crate knows: a beat checks that before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    pub cron: Option<String>,
    pub every_seconds: Option<f64>,
    pub time_zone: Option<String>,
    pub kind: String,
    /// The TOML table or value, as JSON; `{}` if absent.
    pub payload: serde_json::Value,
    pub queue: Option<String>,
    pub catch_up: Option<String>,
    pub catch_up_max: Option<u32>,
    pub jitter_seconds: Option<f64>,
    pub enabled: bool,
}
