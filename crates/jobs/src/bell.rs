//! The bell: the Redis list that wakes a waiting worker of a ledger queue. It carries no job.
//!
//! `{holdfast:bell}:<queue>` holds at most [`MAX_ENTRIES`] entries and expires after [`EXPIRY`]. An entry is the time in
//! milliseconds after which there is something to do, `0` for at once; those stand to the left, where the pop begins.
//! All bells share one hash tag, so that one blocking pop may name them all.
//!
//! # Invariants
//! - Nothing depends on a ring. A worker that hears none looks anyway, at its safety poll; a ring too many costs it one
//!   look.
//! - [`Bell::ring`] neither waits nor fails. One task of the process sends the rings; what comes while one round trip is
//!   under way is merged into the next, so that rings never queue up.
//! - A worker in the same process hears a ring without Redis ([`Listener`] listens to both).
//!
//! # When things fail
//! - *Redis is away*: rings are dropped, a listener says that it hears nothing ([`Heard::listening`]), and its worker
//!   polls. The listener connects again by itself.
//! - *The connection breaks during a wait*: the wait ends early, since rings may have been missed.
//! - *A wait is dropped*: the blocking pop goes on inside the listener, and its ring is heard by the next wait.
//!   With the listener itself goes at most one ring.

mod line;
mod listener;
mod local;

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::redis::{GateError, RedisGate};
use holdfast_core::telemetry::catalogue;
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, DropGuard};

pub use self::listener::{Heard, Listener, Ring};

use self::local::LocalBell;

/// Most entries of one bell: it wakes so many workers of other processes at once.
pub const MAX_ENTRIES: usize = 4;

/// How long a bell rings on when nobody hears it. Longer than any safety poll, which makes it superfluous.
pub const EXPIRY: Duration = Duration::from_secs(10);

/// Pause after a ring could not be sent, so that an outage is not met with one attempt for each enqueue.
const PAUSE: Duration = Duration::from_millis(100);

/// Rings, and lets listen. Cheap to clone; rings are sent as long as a clone lives.
#[derive(Clone)]
pub struct Bell {
    gate: RedisGate,
    local: Arc<LocalBell>,
    pending: Arc<Pending>,
    _ringer: Arc<DropGuard>,
}

impl fmt::Debug for Bell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Bell")
            .field("gate", &self.gate)
            .finish_non_exhaustive()
    }
}

impl Bell {
    /// Call it inside the tokio runtime.
    pub fn new(gate: RedisGate) -> Self {
        let pending = Arc::new(Pending::default());
        let stop = CancellationToken::new();
        if gate.is_configured() {
            tokio::spawn(
                stop.clone()
                    .run_until_cancelled_owned(send_rings(gate.clone(), pending.clone())),
            );
        }
        Self {
            gate,
            local: Arc::default(),
            pending,
            _ringer: Arc::new(stop.drop_guard()),
        }
    }

    /// Says that `count` jobs of a queue are due in `due_in`.
    pub fn ring(&self, queue: &str, count: usize, due_in: Duration) {
        if count == 0 {
            return;
        }
        self.local.ring(queue, due_in);
        if self.gate.mode().is_normal() {
            self.pending.add(queue, count, due_in);
        }
    }

    pub fn gate(&self) -> &RedisGate {
        &self.gate
    }

    /// One worker's ear. Each has a connection of its own, made when it first waits.
    pub fn listener(&self) -> Listener {
        Listener::new(self.clone())
    }
}

/// The key of a queue's bell.
fn key(queue: &str) -> String {
    format!("{KEY_PREFIX}{queue}")
}

const KEY_PREFIX: &str = "{holdfast:bell}:";

/// Rings that were not sent yet, one for each queue at most.
#[derive(Debug, Default)]
struct Pending {
    rings: Mutex<HashMap<Box<str>, MergedRings>>,
    /// One permit: there is something to send.
    news: Notify,
}

/// All rings of one queue since the last were sent.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct MergedRings {
    /// Jobs that are due, counted up to [`MAX_ENTRIES`].
    due: usize,
    /// The shortest delay of the others.
    later: Option<Duration>,
}

impl Pending {
    fn add(&self, queue: &str, count: usize, due_in: Duration) {
        {
            let mut rings = self.rings();
            // Looked up before it is made: most rings find their queue's entry.
            let merged = match rings.get_mut(queue) {
                Some(merged) => merged,
                None => rings.entry(queue.into()).or_default(),
            };
            merged.add(count, due_in);
        }
        self.news.notify_one();
    }

    fn take(&self) -> HashMap<Box<str>, MergedRings> {
        std::mem::take(&mut *self.rings())
    }

    fn rings(&self) -> MutexGuard<'_, HashMap<Box<str>, MergedRings>> {
        self.rings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl MergedRings {
    fn add(&mut self, count: usize, due_in: Duration) {
        if due_in.is_zero() {
            self.due = self.due.saturating_add(count).min(MAX_ENTRIES);
        } else {
            self.later = Some(self.later.map_or(due_in, |later| later.min(due_in)));
        }
    }

    /// Due entries go to the left and push the others out: whoever looks at once learns what is due later.
    fn write(self, queue: &str, pipe: &mut redis::Pipeline) {
        let key = key(queue);
        if self.due > 0 {
            pipe.cmd("LPUSH").arg(&key).arg(vec![0; self.due]).ignore();
        }
        if let Some(later) = self.later {
            let millis = u64::try_from(later.as_millis()).unwrap_or(u64::MAX).max(1);
            pipe.cmd("RPUSH").arg(&key).arg(millis).ignore();
        }
        pipe.cmd("LTRIM").arg(&key).arg(0).arg(MAX_ENTRIES - 1).ignore();
        pipe.cmd("PEXPIRE")
            .arg(&key)
            .arg(EXPIRY.as_secs() * 1_000)
            .ignore();
    }
}

/// Sends what is pending, one round trip at a time.
async fn send_rings(gate: RedisGate, pending: Arc<Pending>) {
    let meters = (
        catalogue::BELL_RINGS.with(["sent"]),
        catalogue::BELL_RINGS.with(["failed"]),
    );
    loop {
        pending.news.notified().await;
        let rings = pending.take();
        let sent = send(&gate, &rings).await;
        let outcome = if sent.is_ok() { &meters.0 } else { &meters.1 };
        outcome.increment(rings.len() as u64);
        if let Err(error) = sent {
            if !error.is_unavailable() {
                tracing::debug!(error = %error, queues = rings.len(), "wake-ups were lost; workers poll");
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

async fn send(gate: &RedisGate, rings: &HashMap<Box<str>, MergedRings>) -> Result<(), GateError> {
    if rings.is_empty() {
        return Ok(());
    }
    let mut pipe = redis::pipe();
    for (queue, merged) in rings {
        merged.write(queue, &mut pipe);
    }
    gate.run("bell.ring", |mut connection| async move {
        pipe.query_async(&mut connection).await
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rings_of_a_queue_merge_into_a_bounded_count_and_the_shortest_delay() {
        let pending = Pending::default();
        for _ in 0..1_000 {
            pending.add("events", 500, Duration::ZERO);
        }
        pending.add("events", 1, Duration::from_secs(9));
        pending.add("events", 1, Duration::from_secs(2));
        pending.add("ml", 1, Duration::from_secs(5));
        let rings = pending.take();
        assert_eq!(
            rings["events"],
            MergedRings {
                due: MAX_ENTRIES,
                later: Some(Duration::from_secs(2))
            }
        );
        assert_eq!(
            rings["ml"],
            MergedRings {
                due: 0,
                later: Some(Duration::from_secs(5))
            }
        );
        assert!(pending.take().is_empty());
    }
}
