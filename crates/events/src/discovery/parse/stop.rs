//! Ending a parse that nobody waits for any more, or that takes too long.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// How long one body may be read, without the time in which its entries are stored. The largest permitted bodies take a few
/// seconds.
pub const MAX_READING: Duration = Duration::from_secs(60);

/// A parse runs where a timeout of its job cannot reach it (a blocking thread); it asks this instead, in every loop.
#[derive(Debug)]
pub struct Stop {
    begun: Instant,
    limit: Duration,
    cancelled: AtomicBool,
    waited_millis: AtomicU64,
}

impl Default for Stop {
    fn default() -> Self {
        Self::after(MAX_READING)
    }
}

impl Stop {
    /// Ends the parse after `limit` from now.
    pub fn after(limit: Duration) -> Self {
        Self {
            begun: Instant::now(),
            limit,
            cancelled: AtomicBool::new(false),
            waited_millis: AtomicU64::new(0),
        }
    }

    /// Ends the parse now, from any thread.
    pub fn cancel(&self) {
        self.cancelled.store(true, Ordering::Relaxed);
    }

    /// The parse waited so long for somebody else, which is not held against it.
    pub fn excuse(&self, waited: Duration) {
        let millis = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        self.waited_millis.fetch_add(millis, Ordering::Relaxed);
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancelled.load(Ordering::Relaxed)
    }

    /// Whether the parse has to end now.
    pub fn is_due(&self) -> bool {
        let waited = Duration::from_millis(self.waited_millis.load(Ordering::Relaxed));
        self.is_cancelled() || self.begun.elapsed().saturating_sub(waited) >= self.limit
    }

    pub(crate) fn limit(&self) -> Duration {
        self.limit
    }
}
