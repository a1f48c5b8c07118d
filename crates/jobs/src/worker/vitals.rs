//! When this worker last did what a worker must do. Monotonic milliseconds, readable from the watchdog's own thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::time::Instant;

/// No heartbeat has been stored yet.
const NEVER: u64 = u64::MAX;

#[derive(Debug)]
pub(crate) struct Vitals {
    epoch: Instant,
    looked: AtomicU64,
    heartbeat: AtomicU64,
    /// The first of the heartbeats that were stored without a longer pause than `longest_pause`; or [`NEVER`].
    heartbeats_since: AtomicU64,
    longest_pause: Duration,
    broker: AtomicU64,
}

impl Vitals {
    /// Of a worker with these periods: between two heartbeats, and until a silent worker is lost.
    pub(crate) fn new(heartbeat: Duration, lost_after: Duration) -> Self {
        Self {
            epoch: Instant::now(),
            looked: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            heartbeats_since: AtomicU64::new(NEVER),
            longest_pause: longest_pause(heartbeat, lost_after),
            broker: AtomicU64::new(0),
        }
    }

    fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    fn age(&self, of: &AtomicU64) -> Duration {
        Duration::from_millis(self.now().saturating_sub(of.load(Ordering::Relaxed)))
    }

    /// A claim or a poll of the ledger came to its end, with an answer or an error.
    pub(crate) fn looked(&self) {
        self.looked.store(self.now(), Ordering::Relaxed);
    }

    /// The ledger took a heartbeat.
    pub(crate) fn heartbeat(&self) {
        let now = self.now();
        let last = self.heartbeat.swap(now, Ordering::Relaxed);
        let is_late = Duration::from_millis(now.saturating_sub(last)) > self.longest_pause;
        if is_late || self.heartbeats_since.load(Ordering::Relaxed) == NEVER {
            self.heartbeats_since.store(now, Ordering::Relaxed);
        }
    }

    /// For how long the ledger has taken heartbeats of this worker without a long pause; zero during one.
    pub(crate) fn heartbeats_for(&self) -> Duration {
        if self.since_heartbeat() > self.longest_pause {
            return Duration::ZERO;
        }
        self.age(&self.heartbeats_since)
    }

    /// The broker answered a fetch.
    pub(crate) fn broker(&self) {
        self.broker.store(self.now(), Ordering::Relaxed);
    }

    pub(crate) fn since_looked(&self) -> Duration {
        self.age(&self.looked)
    }

    pub(crate) fn since_heartbeat(&self) -> Duration {
        self.age(&self.heartbeat)
    }

    pub(crate) fn since_broker(&self) -> Duration {
        self.age(&self.broker)
    }
}

/// While this worker's last heartbeat is no older than this, that of another living worker is younger than `lost_after`: both are
/// stored every `heartbeat`. A tenth of `lost_after` is for the time that storing takes. Twice a heartbeat is the least
/// `lost_after`, and then the pause cannot be shorter than one heartbeat and half of the next.
fn longest_pause(heartbeat: Duration, lost_after: Duration) -> Duration {
    (lost_after.saturating_sub(heartbeat + lost_after / 10)).max(heartbeat * 3 / 2)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vitals(heartbeat: u64, lost_after: u64) -> Vitals {
        Vitals::new(Duration::from_secs(heartbeat), Duration::from_secs(lost_after))
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_pause_between_two_heartbeats_begins_the_count_anew() {
        let vitals = vitals(5, 15);
        assert_eq!(vitals.heartbeats_for(), Duration::ZERO);
        for _ in 0..4 {
            vitals.heartbeat();
            tokio::time::advance(Duration::from_secs(5)).await;
        }
        assert_eq!(vitals.heartbeats_for(), Duration::from_secs(20));
        tokio::time::advance(Duration::from_secs(4)).await;
        assert_eq!(vitals.heartbeats_for(), Duration::ZERO, "the pause lasts");
        vitals.heartbeat();
        tokio::time::advance(Duration::from_secs(1)).await;
        assert_eq!(vitals.heartbeats_for(), Duration::from_secs(1));
    }

    #[test]
    fn the_longest_pause_is_longer_than_a_heartbeat_and_shorter_than_a_lease() {
        for (heartbeat, lost_after) in [(5, 15), (5, 10), (1, 3_600), (2, 6)] {
            let pause = vitals(heartbeat, lost_after).longest_pause;
            assert!(Duration::from_secs(heartbeat) < pause && pause < Duration::from_secs(lost_after));
        }
    }
}
