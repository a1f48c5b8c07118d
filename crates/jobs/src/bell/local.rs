//! The bell inside one process: no Redis, no wait.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// Rings of one queue that are remembered. Whoever has missed more is told that something is due.
const REMEMBERED: usize = 8;

/// Wakes every listener of this process.
#[derive(Debug, Default)]
pub(super) struct LocalBell {
    queues: Mutex<HashMap<Box<str>, Rung>>,
    news: Notify,
}

/// The rings of one queue.
#[derive(Debug, Default)]
struct Rung {
    /// How many there were.
    count: u64,
    /// When the newest of them are due.
    newest: VecDeque<Instant>,
}

impl LocalBell {
    pub(super) fn ring(&self, queue: &str, due_in: Duration) {
        {
            let mut queues = self.queues();
            let rung = match queues.get_mut(queue) {
                Some(rung) => rung,
                None => queues.entry(queue.into()).or_default(),
            };
            rung.count += 1;
            if rung.newest.len() == REMEMBERED {
                rung.newest.pop_front();
            }
            rung.newest.push_back(Instant::now() + due_in);
        }
        self.news.notify_waiters();
    }

    /// Resolves with the next ring of any queue after its first poll (or `enable`).
    pub(super) fn news(&self) -> tokio::sync::futures::Notified<'_> {
        self.news.notified()
    }

    /// How many rings there were so far: a new listener has missed none.
    pub(super) fn counts(&self) -> HashMap<Box<str>, u64> {
        self.queues()
            .iter()
            .map(|(queue, rung)| (queue.clone(), rung.count))
            .collect()
    }

    /// The earliest due time among the rings that `seen` does not count, which then does.
    pub(super) fn heard(&self, queue: &str, seen: &mut HashMap<Box<str>, u64>) -> Option<Duration> {
        let queues = self.queues();
        let rung = queues.get(queue)?;
        let before = seen.get(queue).copied().unwrap_or(0);
        if before == rung.count {
            return None;
        }
        seen.insert(queue.into(), rung.count);
        let missed = usize::try_from(rung.count - before).unwrap_or(usize::MAX);
        match missed {
            ..=REMEMBERED => {
                let due = rung.newest.iter().rev().take(missed).min()?;
                Some(due.saturating_duration_since(Instant::now()))
            }
            _ => Some(Duration::ZERO),
        }
    }

    fn queues(&self) -> MutexGuard<'_, HashMap<Box<str>, Rung>> {
        self.queues.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_listener_hears_the_earliest_of_the_rings_it_has_not_heard() {
        let bell = LocalBell::default();
        bell.ring("events", Duration::ZERO);
        let mut seen = bell.counts();
        assert_eq!(bell.heard("events", &mut seen), None, "rung before it listened");
        bell.ring("events", Duration::from_secs(9));
        bell.ring("events", Duration::from_secs(3));
        bell.ring("events", Duration::from_secs(6));
        assert_eq!(bell.heard("events", &mut seen), Some(Duration::from_secs(3)));
        assert_eq!(bell.heard("events", &mut seen), None);
        for _ in 0..=REMEMBERED {
            bell.ring("events", Duration::from_mins(1));
        }
        assert_eq!(
            bell.heard("events", &mut seen),
            Some(Duration::ZERO),
            "more than is remembered"
        );
        assert_eq!(bell.heard("ml", &mut seen), None);
    }
}
