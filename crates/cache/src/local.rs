//! The copies in this process: moka, bounded in bytes.
//!
//! A copy is removed when its key changes; one that is merely doubtful stays, as a fallback for a failed load, until
//! its lifetime ends or others need the room.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use moka::Expiry;
use moka::sync::Cache as Moka;

use crate::entry::Entry;
use crate::marks::{Mark, Marks};

/// What a copy takes beside its key and value: the entry itself, moka's own bookkeeping.
const OVERHEAD: usize = 320;

pub(crate) struct Local {
    copies: Moka<Arc<str>, Arc<Entry>>,
    /// Changes of keys, to tell a copy that was on its way meanwhile.
    changes: Marks,
    /// How often all copies were declared doubtful.
    epoch: AtomicU64,
}

struct UntilUseless;

impl Expiry<Arc<str>, Arc<Entry>> for UntilUseless {
    fn expire_after_create(
        &self,
        _: &Arc<str>,
        entry: &Arc<Entry>,
        _: std::time::Instant,
    ) -> Option<Duration> {
        Some(entry.kept())
    }

    fn expire_after_update(
        &self,
        _: &Arc<str>,
        entry: &Arc<Entry>,
        _: std::time::Instant,
        _: Option<Duration>,
    ) -> Option<Duration> {
        Some(entry.kept())
    }
}

impl Local {
    pub(crate) fn new(max_bytes: u64) -> Self {
        let copies = Moka::builder()
            .max_capacity(max_bytes)
            .weigher(|key: &Arc<str>, entry: &Arc<Entry>| {
                u32::try_from(key.len() + entry.payload.len() + OVERHEAD).unwrap_or(u32::MAX)
            })
            .expire_after(UntilUseless)
            .build();
        Self {
            copies,
            changes: Marks::new(),
            epoch: AtomicU64::new(0),
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.copies.get(key)
    }

    /// Taken before a value is asked for; see [`Self::keep`].
    pub(crate) fn mark(&self, key: &str) -> Mark {
        self.changes.take(key)
    }

    /// Keeps a copy, unless its key has changed since the mark was taken.
    pub(crate) fn keep(&self, key: &Arc<str>, entry: &Arc<Entry>, mark: Mark) -> bool {
        if !self.changes.unchanged(mark) {
            return false;
        }
        self.copies.insert(Arc::clone(key), Arc::clone(entry));
        if self.changes.unchanged(mark) {
            return true;
        }
        // It changed between the look and the insertion.
        self.copies.invalidate(key);
        false
    }

    /// The key has changed: no copy of it, and none of what is on its way now.
    pub(crate) fn forget(&self, key: &str) -> Mark {
        let mark = self.changes.note(key);
        self.copies.invalidate(key);
        mark
    }

    /// Changes may have been missed: no copy of now is fresh any more.
    pub(crate) fn doubt_all(&self) {
        self.epoch.fetch_add(1, Ordering::SeqCst);
    }

    pub(crate) fn epoch(&self) -> u64 {
        self.epoch.load(Ordering::SeqCst)
    }

    /// Copies and the bytes they take, as moka last counted them.
    pub(crate) fn size(&self) -> (u64, u64) {
        self.copies.run_pending_tasks();
        (self.copies.entry_count(), self.copies.weighted_size())
    }
}
