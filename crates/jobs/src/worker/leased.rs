//! The jobs that this process holds, by queue and id: the truth that the ledger's and the broker's own records are compared
//! with, when a reply was lost, an inflight set evicted, or a standby promoted that lacks what was written last.
//!
//! # Strays of an id that claims
//! The ledger's list and this one change while they are compared. So a comparison ([`LeaseBook::begin_comparison`] to
//! [`LeaseBook::end_comparison`]) notes every job that is added or removed while it lasts; what the ledger listed, and was neither known
//! before nor added or removed meanwhile, is a *suspect*: unless a claim that is under way adds it. A suspect that is added
//! later is none. One that is left when every claim that had begun by then is over, is a stray.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::id::{JobId, WorkerId};
use crate::ledger::Fence;

type Key = (Arc<str>, WorkerId);

#[derive(Debug, Default)]
pub(crate) struct LeaseBook(Mutex<Book>);

#[derive(Debug, Default)]
struct Book {
    held: BTreeMap<Key, HashSet<JobId>>,
    /// Added or removed since the comparison under way began.
    moved: Option<HashSet<JobId>>,
    suspects: HashMap<JobId, Fence>,
}

impl Book {
    fn of_worker(&self, worker: WorkerId) -> Vec<JobId> {
        self.held
            .iter()
            .filter(|((_, holder), _)| *holder == worker)
            .flat_map(|(_, ids)| ids.iter().copied())
            .collect()
    }
}

impl LeaseBook {
    fn book(&self) -> MutexGuard<'_, Book> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn add(&self, queue: &Arc<str>, worker: WorkerId, ids: impl Iterator<Item = JobId>) {
        let mut book = self.book();
        let book = &mut *book;
        let held = book.held.entry((Arc::clone(queue), worker)).or_default();
        for id in ids {
            held.insert(id);
            if let Some(moved) = &mut book.moved {
                moved.insert(id);
            }
            book.suspects.remove(&id);
        }
        if held.is_empty() {
            book.held.remove(&(Arc::clone(queue), worker));
        }
    }

    pub(crate) fn remove(&self, queue: &Arc<str>, worker: WorkerId, ids: impl Iterator<Item = JobId>) {
        let mut book = self.book();
        let book = &mut *book;
        let key = (Arc::clone(queue), worker);
        if let Some(held) = book.held.get_mut(&key) {
            for id in ids {
                held.remove(&id);
                if let Some(moved) = &mut book.moved {
                    moved.insert(id);
                }
            }
            if held.is_empty() {
                book.held.remove(&key);
            }
        }
    }

    /// Everything held under an id, whatever the queue.
    pub(crate) fn of_worker(&self, worker: WorkerId) -> Vec<JobId> {
        self.book().of_worker(worker)
    }

    pub(crate) fn of(&self, queue: &Arc<str>, worker: WorkerId) -> Vec<JobId> {
        self.book()
            .held
            .get(&(Arc::clone(queue), worker))
            .map(|held| held.iter().copied().collect())
            .unwrap_or_default()
    }

    /// What is held under an id now. To be followed by one [`Self::end_comparison`].
    pub(crate) fn begin_comparison(&self, worker: WorkerId) -> Vec<JobId> {
        let mut book = self.book();
        book.moved = Some(HashSet::new());
        book.suspects.clear();
        book.of_worker(worker)
    }

    /// What the ledger has listed beyond what was held; how many of those are suspects.
    pub(crate) fn end_comparison(&self, listed: Vec<Fence>) -> usize {
        let mut book = self.book();
        let moved = book.moved.take().unwrap_or_default();
        book.suspects = listed
            .into_iter()
            .filter(|fence| !moved.contains(&fence.id))
            .map(|fence| (fence.id, fence))
            .collect();
        book.suspects.len()
    }

    /// Those suspects that were not added since.
    pub(crate) fn take_suspects(&self) -> Vec<Fence> {
        std::mem::take(&mut self.book().suspects).into_values().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_moves_while_the_lists_are_compared_is_no_stray() {
        let leased = LeaseBook::default();
        let (queue, worker): (Arc<str>, _) = (Arc::from("default"), WorkerId::generate());
        let fence = |id| Fence {
            id,
            attempt: 0,
            crashes: 0,
        };
        let ids: Vec<JobId> = (0..5).map(|_| JobId::generate()).collect();
        leased.add(&queue, worker, ids[..2].iter().copied());
        assert_eq!(leased.begin_comparison(worker).len(), 2);
        // Claimed and finished while the ledger was read; claimed and still held; claimed by a claim whose reply is on its way.
        leased.add(&queue, worker, ids[2..4].iter().copied());
        leased.remove(&queue, worker, ids[2..3].iter().copied());
        let stray = JobId::generate();
        let listed = [ids[2], ids[3], ids[4], stray].map(fence).to_vec();
        assert_eq!(leased.end_comparison(listed), 2);
        leased.add(&queue, worker, ids[4..].iter().copied());
        assert_eq!(leased.take_suspects(), [fence(stray)]);
        assert!(leased.take_suspects().is_empty());
    }
}
