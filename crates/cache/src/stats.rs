//! What the cache has done, by class.

use std::sync::atomic::{AtomicU64, Ordering};

use holdfast_core::mode::Mode;
use serde::Serialize;

use crate::class::Class;

macro_rules! counters {
    ($($(#[$doc:meta])* $name:ident),+ $(,)?) => {
        /// Counts of one class since the process started.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
        pub struct ClassStats {
            $($(#[$doc])* pub $name: u64,)+
        }

        #[derive(Debug, Default)]
        pub(crate) struct ClassCounters {
            $(pub(crate) $name: AtomicU64,)+
        }

        impl ClassCounters {
            fn snapshot(&self) -> ClassStats {
                ClassStats { $($name: self.$name.load(Ordering::Relaxed),)+ }
            }
        }
    };
}

counters! {
    /// Reads that a fresh copy in the process answered.
    hit_local,
    /// Reads that Redis answered with a fresh value.
    hit_redis,
    /// Reads that found no value that could be served.
    miss,
    /// Reads that were answered with a value past its TTL.
    stale,
    /// Operations that would have asked Redis and could not. They count as hits, misses and so on besides.
    degraded,
    /// Values that did not decode; each counts as a miss besides.
    undecodable,
    /// Runs of a loader.
    loads,
    /// Those that failed, panicked or were late.
    load_errors,
    /// Values that were stored, by `set` or after a load.
    stores,
    /// Values too large to be cached.
    too_large,
    /// Values that were deleted.
    deletes,
    /// Copies that were dropped because another process had changed the value.
    invalidations,
}

/// Counts of every class.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    classes: [ClassCounters; Class::ALL.len()],
}

impl Counters {
    pub(crate) fn of(&self, class: Class) -> &ClassCounters {
        &self.classes[class.index()]
    }

    pub(crate) fn snapshot(&self) -> Vec<(Class, ClassStats)> {
        Class::ALL
            .into_iter()
            .map(|class| (class, self.of(class).snapshot()))
            .collect()
    }
}

pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Ordering::Relaxed);
}

/// The cache at one moment.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CacheStats {
    pub classes: Vec<(Class, ClassStats)>,
    /// Copies in the process.
    pub local_entries: u64,
    /// The bytes they take, with what keeping them takes.
    pub local_bytes: u64,
    /// Changes that Redis has yet to be told.
    pub pending: usize,
    pub mode: Mode,
}

impl CacheStats {
    /// The counts of one class.
    pub fn of(&self, class: Class) -> ClassStats {
        self.classes[class.index()].1
    }

    /// The share of reads that were answered without a loader, or `None` before the first.
    pub fn hit_ratio(&self) -> Option<f64> {
        let (mut hits, mut reads) = (0, 0);
        for (_, stats) in &self.classes {
            let served = stats.hit_local + stats.hit_redis + stats.stale;
            hits += served;
            reads += served + stats.miss;
        }
        (reads > 0).then(|| hits as f64 / reads as f64)
    }
}
