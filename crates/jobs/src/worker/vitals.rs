//! When this worker last did what a worker must do. Monotonic milliseconds, readable from the watchdog's own thread.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

#[derive(Debug)]
pub(crate) struct Vitals {
    epoch: Instant,
    looked: AtomicU64,
    heartbeat: AtomicU64,
    broker: AtomicU64,
}

impl Default for Vitals {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            looked: AtomicU64::new(0),
            heartbeat: AtomicU64::new(0),
            broker: AtomicU64::new(0),
        }
    }
}

impl Vitals {
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
        self.heartbeat.store(self.now(), Ordering::Relaxed);
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
