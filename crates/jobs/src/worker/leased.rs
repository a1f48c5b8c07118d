//! The jobs that this process holds, by queue and id: the truth that the ledger's and the broker's own records are compared
//! with, when a reply was lost or an inflight set evicted.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};

use crate::id::{JobId, WorkerId};

type Key = (Arc<str>, WorkerId);

#[derive(Debug, Default)]
pub(crate) struct Leased(Mutex<BTreeMap<Key, HashSet<JobId>>>);

impl Leased {
    pub(crate) fn add(&self, queue: &Arc<str>, worker: WorkerId, ids: impl Iterator<Item = JobId>) {
        let mut leased = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leased.entry((Arc::clone(queue), worker)).or_default().extend(ids);
    }

    pub(crate) fn remove(&self, queue: &Arc<str>, worker: WorkerId, ids: impl Iterator<Item = JobId>) {
        let mut leased = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (Arc::clone(queue), worker);
        if let Some(set) = leased.get_mut(&key) {
            for id in ids {
                set.remove(&id);
            }
            if set.is_empty() {
                leased.remove(&key);
            }
        }
    }

    /// Everything held under an id, whatever the queue.
    pub(crate) fn of_worker(&self, worker: WorkerId) -> Vec<JobId> {
        let leased = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leased
            .iter()
            .filter(|((_, holder), _)| *holder == worker)
            .flat_map(|(_, ids)| ids.iter().copied())
            .collect()
    }

    pub(crate) fn of(&self, queue: &Arc<str>, worker: WorkerId) -> Vec<JobId> {
        let leased = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        leased
            .get(&(Arc::clone(queue), worker))
            .map(|set| set.iter().copied().collect())
            .unwrap_or_default()
    }
}
