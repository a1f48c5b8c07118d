//! Whether something happened to a key between two moments, without a table of keys.
//!
//! A fixed array of counters; a key's counter is shared by others, so the answer may be "yes" although nothing
//! happened, and is never "no" although something did. Whoever reads or loads takes a mark first and looks again
//! before keeping what came: a change in between means that it may be old.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::atomic::{AtomicU64, Ordering};

/// Two of a thousand keys that change at the same time share a counter now and then; each time costs one value that
/// is not kept.
const COUNTERS: usize = 1_024;

#[derive(Debug)]
pub(crate) struct Marks {
    counters: Box<[AtomicU64]>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Mark {
    at: usize,
    count: u64,
}

impl Marks {
    pub(crate) fn new() -> Self {
        Self {
            counters: (0..COUNTERS).map(|_| AtomicU64::new(0)).collect(),
        }
    }

    pub(crate) fn take(&self, key: &str) -> Mark {
        let at = place(key);
        Mark {
            at,
            count: self.counters[at].load(Ordering::SeqCst),
        }
    }

    /// Something happened to this key. The mark that says so is the caller's own.
    pub(crate) fn note(&self, key: &str) -> Mark {
        let at = place(key);
        let count = self.counters[at].fetch_add(1, Ordering::SeqCst) + 1;
        Mark { at, count }
    }

    pub(crate) fn unchanged(&self, mark: Mark) -> bool {
        self.counters[mark.at].load(Ordering::SeqCst) == mark.count
    }
}

fn place(key: &str) -> usize {
    let mut hasher = DefaultHasher::new();
    key.hash(&mut hasher);
    hasher.finish() as usize % COUNTERS
}
