//! What is counted in memory while jobs are enqueued and run.
//!
//! Counting takes a shared lock and a few atomic additions, about a tenth of a microsecond. The lock is exclusive for a new pair of
//! queue and kind, and for some microseconds every ten seconds, when the counts are taken.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

use holdfast_core::telemetry::metrics::OTHER;

use super::buckets::{BUCKETS, Buckets, bucket_of};
use crate::ledger::Outcome;

/// Pairs of queue and kind that one process tells apart. What exceeds them is counted under `other`.
const MAX_CELLS: usize = 256;

/// A pair that was not counted for this many takings, five minutes, gives its place to another.
const MAX_IDLE: u32 = 30;

/// What jobs of one kind on one queue came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    pub enqueued: u64,
    pub completed: u64,
    /// Attempts that failed and are tried again.
    pub retried: u64,
    pub discarded: u64,
    pub cancelled: u64,
    /// From when a job was due until it was started.
    pub wait: Buckets,
    /// Of every attempt, however it ended.
    pub run: Buckets,
}

impl Counts {
    pub fn add(&mut self, other: &Self) {
        self.enqueued += other.enqueued;
        self.completed += other.completed;
        self.retried += other.retried;
        self.discarded += other.discarded;
        self.cancelled += other.cancelled;
        for (sums, counts) in [(&mut self.wait, other.wait), (&mut self.run, other.run)] {
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
        }
    }

    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Attempts that failed.
    pub fn failed(&self) -> u64 {
        self.retried + self.discarded
    }
}

#[derive(Debug, Default)]
struct Cell {
    enqueued: AtomicU64,
    completed: AtomicU64,
    retried: AtomicU64,
    discarded: AtomicU64,
    cancelled: AtomicU64,
    wait: [AtomicU64; BUCKETS],
    run: [AtomicU64; BUCKETS],
}

impl Cell {
    fn ended(&self, outcome: &Outcome) {
        let counter = match outcome {
            Outcome::Completed { .. } => &self.completed,
            Outcome::Retry { .. } => &self.retried,
            Outcome::Discard { .. } => &self.discarded,
            Outcome::Cancel { .. } => &self.cancelled,
            Outcome::Snooze { .. } | Outcome::HandBack { .. } => return,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    fn take(&self) -> Counts {
        let taken = |counter: &AtomicU64| counter.swap(0, Ordering::Relaxed);
        Counts {
            enqueued: taken(&self.enqueued),
            completed: taken(&self.completed),
            retried: taken(&self.retried),
            discarded: taken(&self.discarded),
            cancelled: taken(&self.cancelled),
            wait: self.wait.each_ref().map(taken),
            run: self.run.each_ref().map(taken),
        }
    }
}

#[derive(Debug, Default)]
struct Place {
    cell: Cell,
    /// Takings since it was last counted.
    idle: u32,
}

/// By queue, then by kind.
type Places = HashMap<Box<str>, HashMap<Box<str>, Place>>;

/// The counters of one process.
#[derive(Debug, Default)]
pub(super) struct Counters {
    places: RwLock<Places>,
    /// Everything that has no place.
    other: Cell,
    is_full: AtomicBool,
}

/// Counts of one pair of queue and kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct CountsByKind {
    pub queue: Box<str>,
    pub kind: Box<str>,
    pub counts: Counts,
}

impl Counters {
    pub(super) fn enqueued(&self, queue: &str, kind: &str) {
        self.count(queue, kind, |cell| {
            cell.enqueued.fetch_add(1, Ordering::Relaxed);
        });
    }

    pub(super) fn started(&self, queue: &str, kind: &str, waited: Duration) {
        self.count(queue, kind, |cell| {
            cell.wait[bucket_of(waited)].fetch_add(1, Ordering::Relaxed);
        });
    }

    /// `took`: `None`, the job did not run, or it is not known for how long.
    pub(super) fn ended(&self, queue: &str, kind: &str, outcome: &Outcome, took: Option<Duration>) {
        self.count(queue, kind, |cell| {
            cell.ended(outcome);
            if let Some(took) = took {
                cell.run[bucket_of(took)].fetch_add(1, Ordering::Relaxed);
            }
        });
    }

    fn count(&self, queue: &str, kind: &str, count: impl Fn(&Cell)) {
        {
            let places = self.places.read().unwrap_or_else(PoisonError::into_inner);
            if let Some(place) = places.get(queue).and_then(|kinds| kinds.get(kind)) {
                return count(&place.cell);
            }
        }
        if self.is_full.load(Ordering::Relaxed) {
            return count(&self.other);
        }
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        if places.values().map(HashMap::len).sum::<usize>() >= MAX_CELLS {
            self.is_full.store(true, Ordering::Relaxed);
            return count(&self.other);
        }
        let kinds = places.entry(queue.into()).or_default();
        count(&kinds.entry(kind.into()).or_default().cell);
    }

    /// Everything that was counted since the last taking.
    pub(super) fn take(&self) -> Vec<CountsByKind> {
        let mut places = self.places.write().unwrap_or_else(PoisonError::into_inner);
        let mut taken = Vec::new();
        for (queue, kinds) in places.iter_mut() {
            kinds.retain(|kind, place| {
                let counts = place.cell.take();
                if counts.is_empty() {
                    place.idle += 1;
                    return place.idle < MAX_IDLE;
                }
                place.idle = 0;
                let (queue, kind) = (queue.clone(), kind.clone());
                taken.push(CountsByKind { queue, kind, counts });
                true
            });
        }
        places.retain(|_, kinds| !kinds.is_empty());
        self.is_full.store(false, Ordering::Relaxed);
        let counts = self.other.take();
        if !counts.is_empty() {
            let (queue, kind) = (OTHER.into(), OTHER.into());
            taken.push(CountsByKind { queue, kind, counts });
        }
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_are_taken_once() {
        let counters = Counters::default();
        counters.enqueued("default", "a");
        counters.enqueued("default", "a");
        counters.started("default", "a", Duration::from_millis(3));
        let [taken] = &counters.take()[..] else {
            panic!("one pair");
        };
        assert_eq!(
            (&*taken.queue, &*taken.kind, taken.counts.enqueued),
            ("default", "a", 2)
        );
        assert_eq!(taken.counts.wait[2], 1);
        assert!(counters.take().is_empty());
    }

    #[test]
    fn pairs_are_bounded_what_exceeds_them_is_counted_as_other_and_idle_ones_give_way() {
        let counters = Counters::default();
        let names: Vec<String> = (0..MAX_CELLS + 50).map(|n| format!("kind{n}")).collect();
        for name in &names {
            counters.enqueued("default", name);
        }
        let taken = counters.take();
        assert_eq!(taken.len(), MAX_CELLS + 1);
        let other = taken.iter().find(|taken| &*taken.queue == OTHER).unwrap();
        assert_eq!(other.counts.enqueued, 50);
        for _ in 0..MAX_IDLE {
            assert!(counters.take().is_empty());
        }
        counters.enqueued("default", "late");
        assert_eq!(&*counters.take()[0].kind, "late");
    }
}
