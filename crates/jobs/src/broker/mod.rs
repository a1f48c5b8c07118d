//! The broker: the Redis side of queues with `durability = "redis"`, where the job itself lives.
//!
//! Keys and values are those of `apalis_redis::Config` for a queue named in braces (`{events}:data`, `{events}:meta:<id>`,
//! …; see `keys.rs`), so a stock `apalis_redis::RedisStorage<Envelope>` can push what our workers run, and can run what
//! we push. Only plain jobs live here: due now, of normal priority, without unique or idempotency key. Retries, delays
//! and dead letters stand in the ledger.
//!
//! # Places of a job
//!
//! ```text
//! push ─► active ─► fetch ─► inflight:<member> ─► acknowledge ─► meta with the outcome, until it expires
//!           ▲  ▲                  │
//!           │  └─ hand_back ──────┤   a stopping worker, or a lease whose answer was lost: no crash
//!           └──── rescue ─────────┘   the member's heartbeat is too old: one crash
//! scheduled ─► active, with each fetch: what stock pushes, and what the janitor found lost
//! ```
//!
//! # Invariants
//! - A job is in `data` from its push to its acknowledgement, and at every moment in at most one other place. Every
//!   move is one script: it happens altogether or not at all.
//! - Only the member that holds a job can end it; a lost member must take a new name. That is the fence.
//! - All times are the server's. No script handles more than [`MAX_BATCH`] ids.
//! - Scripts remove before they add, so that a server that is out of memory still lets jobs be fetched and ended.
//!
//! # When things fail
//! - *The answer of a push is lost*: the script carries a deadline that lies before the caller's own, so once the caller
//!   has given up, the push was applied or never will be ([`PushOutcome::Doubtful`]); [`Broker::resolve`] tells which.
//! - *The answer of a fetch is lost*: the jobs are leased and nobody knows. [`Broker::reconcile`] returns them.
//! - *Any other answer is lost*: call again; a repetition changes nothing.
//! - *A worker dies*: its jobs return with [`Broker::rescue`], `lost_after` later.
//! - *Redis was away*: every worker looks silent. Nobody is rescued until Redis has served for `lost_after` on end.
//! - *Redis loses keys* (eviction takes whole keys): a heartbeat rebuilds the worker's inflight set, a fetch or
//!   heartbeat that finds its member unknown has it register again, and the [`Janitor`] puts back what stands in `data`
//!   alone. A job is lost only if its data is.

mod contact;
mod fetch;
mod finish;
mod janitor;
mod keys;
mod lookup;
mod membership;
mod purge;
mod push;
mod rescue;
mod script;
mod sweep;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::failure::{Certainty, FailureClass};
use holdfast_core::mode::DegradedReason;
use holdfast_core::redis::{GateError, RedisGate};

pub use self::fetch::{Batch, BrokerJob, FetchAnswer, Unreadable};
pub use self::finish::{BrokerOutcome, FinishedExecution};
pub use self::janitor::{Janitor, Swept};
pub use self::lookup::{BrokerRecord, Depth, EndState, Place, Resolution};
pub use self::membership::{Beat, Registration};
pub use self::push::{OutgoingJob, PushOutcome, PushReport};
pub use self::rescue::BrokerRescueReport;

use self::contact::Contact;
use self::keys::QueueKeys;
use self::membership::MissingJobs;

/// Most ids that one script handles.
pub const MAX_BATCH: usize = 500;

/// Most bytes of envelopes or results that one script carries, a single larger job excepted: much more would not cross
/// a slow wire within a command's timeout, however often it is tried.
const MAX_BATCH_BYTES: usize = 1024 * 1024;

/// How often a script is repeated because members came between reading their names and using them.
const MEMBER_ATTEMPTS: usize = 5;

/// How long jobs are leased and outcomes remembered.
#[derive(Debug, Clone)]
pub struct BrokerSettings {
    /// How long the outcome of a finished job can be asked for. Zero: not at all.
    pub result_ttl: Duration,
    /// A member that was not heard of for this long is lost. Whole seconds; what is less counts as one.
    pub lost_after: Duration,
    /// The same of stock workers, which beat every 30 s.
    pub stock_lost_after: Duration,
    /// How long the server must have served without a break before this process takes a member for lost or a job for
    /// ownerless: after an outage every living worker looks silent until it has been heard of again.
    pub contact: Duration,
}

impl BrokerSettings {
    /// With stock's own default for stock workers (10 missed beats of 30 s), and `lost_after` of contact.
    pub fn new(result_ttl: Duration, lost_after: Duration) -> Self {
        Self {
            result_ttl,
            lost_after,
            stock_lost_after: Duration::from_mins(5),
            contact: lost_after,
        }
    }
}

/// The queues on Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Broker {
    gate: RedisGate,
    settings: BrokerSettings,
    contact: Arc<Contact>,
    missing: Arc<MissingJobs>,
}

impl Broker {
    pub fn new(gate: RedisGate, settings: BrokerSettings) -> Self {
        let contact = Arc::new(Contact::new(gate.watch()));
        Self {
            gate,
            settings,
            contact,
            missing: Arc::default(),
        }
    }

    pub fn gate(&self) -> &RedisGate {
        &self.gate
    }

    /// Whether jobs can be fetched and ended: also while the server lacks nothing but memory, which that frees.
    pub fn serves(&self) -> bool {
        contact::serves(&self.gate.mode())
    }

    pub fn settings(&self) -> &BrokerSettings {
        &self.settings
    }

    /// The moment after which a script that starts now must not be applied any more, in milliseconds of the server's
    /// clock. It lies before the moment at which the gate gives up, by more than the server's clock is misjudged, so
    /// that a call that timed out is either applied already or never will be.
    fn deadline(&self) -> Result<u64, BrokerError> {
        let timeout = self.gate.settings().command_timeout;
        let allowed = timeout * 3 / 4;
        match self.gate.server_now_ms() {
            Some(now) => Ok(now.saturating_add(millis(allowed))),
            None if self.gate.is_configured() => Err(GateError::Unavailable {
                reason: DegradedReason::Connecting,
            }
            .into()),
            None => Err(GateError::NotConfigured.into()),
        }
    }

    /// Names of all members that may hold jobs: workers, and lost ones not yet emptied.
    async fn members(&self, keys: &QueueKeys) -> Result<Vec<String>, BrokerError> {
        let mut pipe = redis::pipe();
        pipe.cmd("ZRANGE").arg(keys.workers()).arg(0).arg(-1);
        pipe.cmd("ZRANGEBYSCORE").arg(keys.lost()).arg(0).arg(0);
        let (mut members, lost): (Vec<String>, Vec<String>) = self
            .gate
            .run_freeing(
                "broker.members",
                |mut c| async move { pipe.query_async(&mut c).await },
            )
            .await?;
        members.extend(lost);
        Ok(members)
    }
}

/// Why the broker could not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    #[error(transparent)]
    Gate(#[from] GateError),
    /// The server received the call too late, and did nothing.
    #[error("{op}: the server received it after its deadline")]
    Late { op: &'static str },
    /// Part of it was applied before it failed.
    #[error("{op}: failed after a part was done")]
    HalfWay {
        op: &'static str,
        #[source]
        source: Box<BrokerError>,
    },
    /// Workers came and went too fast to look at their jobs.
    #[error("{op}: the members of the queue kept changing")]
    Unsettled { op: &'static str },
    /// A script answered something it never answers.
    #[error("{op}: unexpected answer")]
    Answer { op: &'static str },
}

impl BrokerError {
    /// Whether the same call may succeed later.
    pub fn class(&self) -> FailureClass {
        match self {
            Self::Gate(error) => error.class(),
            Self::HalfWay { source, .. } => source.class(),
            Self::Late { .. } | Self::Unsettled { .. } => FailureClass::Transient,
            Self::Answer { .. } => FailureClass::Permanent,
        }
    }

    /// Whether it may have been applied although it failed.
    pub fn certainty(&self) -> Certainty {
        match self {
            Self::Gate(error) => error.certainty(),
            Self::Late { .. } | Self::Unsettled { .. } => Certainty::NotApplied,
            Self::HalfWay { .. } | Self::Answer { .. } => Certainty::Unknown,
        }
    }

    /// Redis was not asked at all: nothing to log.
    pub fn is_unavailable(&self) -> bool {
        matches!(self, Self::Gate(error) if error.is_unavailable())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// Whole seconds, one at least.
fn seconds(duration: Duration) -> u64 {
    duration.as_secs().max(1)
}

/// Splits `items` into runs of at most [`MAX_BATCH`] items and about [`MAX_BATCH_BYTES`], in order.
fn portions<T>(items: &[T], bytes: impl Fn(&T) -> usize) -> Vec<std::ops::Range<usize>> {
    let mut portions = Vec::with_capacity(items.len().div_ceil(MAX_BATCH));
    let (mut start, mut weight) = (0, 0usize);
    for (index, item) in items.iter().enumerate() {
        let heavier = weight.saturating_add(bytes(item));
        if index > start && (index - start == MAX_BATCH || heavier > MAX_BATCH_BYTES) {
            portions.push(start..index);
            (start, weight) = (index, bytes(item));
        } else {
            weight = heavier;
        }
    }
    if start < items.len() {
        portions.push(start..items.len());
    }
    portions
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn portions_are_bounded_in_items_and_bytes_and_cover_all() {
        assert!(portions(&[0; 0], |_| 1).is_empty());
        assert_eq!(portions(&[0; 1_200], |_| 1), [0..500, 500..1_000, 1_000..1_200]);
        let half = MAX_BATCH_BYTES / 2;
        assert_eq!(portions(&[half; 5], |bytes| *bytes), [0..2, 2..4, 4..5]);
        let huge = [1, MAX_BATCH_BYTES * 2, 1];
        assert_eq!(portions(&huge, |bytes| *bytes), [0..1, 1..2, 2..3]);
    }
}
