//! One count of the queues for all who ask in this process.
//!
//! Counting costs the database about 0.6 s for each million waiting jobs, and a page, a metrics scrape and a health check may
//! all ask for it at any pace. So one count runs at a time; who asked before it began shares its answer. Counting may take
//! one part in [`SHARE`] of the time: an expensive answer is given again until then. A cheap one is always new.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::sync::Mutex;
use tokio::time::Instant;

use crate::ledger::{Ledger, LedgerError, QueueStats};

/// An answer is given again for this many times what it took.
const SHARE: u32 = 10;
/// But not one that took less than this.
const CHEAP: Duration = Duration::from_millis(20);
/// Nor for longer than this.
const OLDEST: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
pub(crate) struct QueueCounts {
    last: Mutex<Option<Count>>,
    /// Grows with each change that the next answer is to show.
    changes: AtomicU64,
}

/// The last count.
#[derive(Debug)]
struct Count {
    began: Instant,
    /// [`QueueCounts::changes`] then.
    changes: u64,
    took: Duration,
    /// `None`: it failed.
    queues: Option<Vec<QueueStats>>,
}

impl Count {
    /// Whether it answers a question of that time.
    fn answers(&self, asked: Instant) -> bool {
        if self.began >= asked {
            return true;
        }
        let keep = if self.took < CHEAP {
            Duration::ZERO
        } else {
            self.took * SHARE
        };
        self.queues.is_some() && self.began.elapsed() < keep.min(OLDEST)
    }
}

impl QueueCounts {
    pub(crate) async fn get(&self, ledger: &dyn Ledger) -> Result<Vec<QueueStats>, LedgerError> {
        let asked = Instant::now();
        let mut last = self.last.lock().await;
        let changes = self.changes.load(Ordering::Acquire);
        let current = last.as_ref().filter(|count| count.changes == changes);
        if let Some(count) = current.filter(|count| count.answers(asked)) {
            return count.queues.clone().ok_or(LedgerError::TimedOut {
                doing: "count the queues",
                after: count.took,
            });
        }
        let began = Instant::now();
        let counted = ledger.queue_stats().await;
        *last = Some(Count {
            began,
            changes,
            took: began.elapsed(),
            queues: counted.as_ref().ok().cloned(),
        });
        counted
    }

    /// A queue was paused or resumed here: the next answer shows it.
    pub(crate) fn changed(&self) {
        self.changes.fetch_add(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn count(took: Duration, queues: Option<Vec<QueueStats>>) -> Count {
        Count {
            began: Instant::now(),
            changes: 0,
            took,
            queues,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_expensive_count_is_given_again_for_ten_times_what_it_took_and_a_cheap_one_is_not() {
        let cheap = count(CHEAP / 2, Some(Vec::new()));
        let dear = count(Duration::from_millis(600), Some(Vec::new()));
        let failed = count(Duration::from_secs(4), None);
        let asked = Instant::now();
        for count in [&cheap, &dear, &failed] {
            assert!(count.answers(asked), "it began when it was asked for");
        }
        tokio::time::advance(Duration::from_millis(5_999)).await;
        let asked = Instant::now();
        assert!(dear.answers(asked));
        assert!(!cheap.answers(asked) && !failed.answers(asked));
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(!dear.answers(Instant::now()));
        let slow = count(Duration::from_secs(60), Some(Vec::new()));
        tokio::time::advance(OLDEST).await;
        assert!(!slow.answers(Instant::now()));
    }
}
