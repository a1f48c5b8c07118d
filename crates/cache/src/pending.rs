//! Changes that Redis does not know yet: what was deleted, set or bumped while it was away, or without an answer.
//!
//! Until Redis has been told, values of these keys are not read from there. Bounded: beyond [`MAX_KEYS`] the keys'
//! namespaces are forgotten as a whole instead, which loses values and serves none that is old.

use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::key::NamespaceId;

/// Keys that are remembered one by one.
pub(crate) const MAX_KEYS: usize = 10_000;

#[derive(Debug, Default)]
pub(crate) struct Pending {
    changes: Mutex<Changes>,
    /// How many there are: nearly always none, and then nobody takes the lock.
    count: AtomicUsize,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Changes {
    keys: HashMap<Arc<str>, NamespaceId>,
    namespaces: HashMap<NamespaceId, u64>,
}

/// Some of what Redis has to be told.
#[derive(Debug, Default)]
pub(crate) struct Batch {
    pub(crate) keys: Vec<Arc<str>>,
    pub(crate) namespaces: Vec<(NamespaceId, u64)>,
}

impl Batch {
    pub(crate) fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.namespaces.is_empty()
    }
}

impl Pending {
    /// Remembers a changed key. Answers the namespaces that have to be forgotten because there are too many.
    pub(crate) fn add_key(&self, key: &Arc<str>, namespace: NamespaceId) -> Vec<NamespaceId> {
        let mut changes = self.lock();
        changes.keys.insert(Arc::clone(key), namespace);
        let mut overflow = Vec::new();
        if changes.keys.len() > MAX_KEYS {
            for (_, namespace) in std::mem::take(&mut changes.keys) {
                if !overflow.contains(&namespace) {
                    overflow.push(namespace);
                }
            }
        }
        self.count_and_wake(&changes);
        overflow
    }

    pub(crate) fn add_namespace(&self, namespace: NamespaceId, number: u64) {
        let mut changes = self.lock();
        changes.namespaces.insert(namespace, number);
        self.count_and_wake(&changes);
    }

    /// Whether what Redis has under this key is known to be old.
    pub(crate) fn concerns(&self, key: &str, namespace: NamespaceId) -> bool {
        if self.count.load(Ordering::SeqCst) == 0 {
            return false;
        }
        let changes = self.lock();
        changes.keys.contains_key(key) || changes.namespaces.contains_key(&namespace)
    }

    pub(crate) fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    pub(crate) fn batch(&self, most: usize) -> Batch {
        let changes = self.lock();
        Batch {
            keys: changes.keys.keys().take(most).cloned().collect(),
            namespaces: changes
                .namespaces
                .iter()
                .take(most)
                .map(|(id, number)| (*id, *number))
                .collect(),
        }
    }

    /// Redis has been told.
    pub(crate) fn remove(&self, batch: &Batch) {
        let mut changes = self.lock();
        for key in &batch.keys {
            changes.keys.remove(key);
        }
        for (namespace, number) in &batch.namespaces {
            // Unless it was forgotten once more meanwhile.
            if changes.namespaces.get(namespace) == Some(number) {
                changes.namespaces.remove(namespace);
            }
        }
        self.count_and_wake(&changes);
    }

    /// Waits until there is something to tell.
    pub(crate) async fn arrived(&self) {
        while self.count() == 0 {
            self.arrived.notified().await;
        }
    }

    fn count_and_wake(&self, changes: &Changes) {
        let count = changes.keys.len() + changes.namespaces.len();
        self.count.store(count, Ordering::SeqCst);
        if count > 0 {
            self.arrived.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, Changes> {
        self.changes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::class::Class;

    const ONE: NamespaceId = NamespaceId {
        class: Class::Static,
        name: "one",
        version: 1,
    };

    #[test]
    fn too_many_keys_forget_their_namespace_instead() {
        let pending = Pending::default();
        for number in 0..MAX_KEYS {
            assert!(pending.add_key(&number.to_string().into(), ONE).is_empty());
        }
        assert_eq!(pending.count(), MAX_KEYS);
        assert_eq!(pending.add_key(&"one more".into(), ONE), [ONE]);
        pending.add_namespace(ONE, 7);
        assert_eq!(pending.count(), 1);
        assert!(pending.concerns("anything", ONE));
    }

    #[test]
    fn what_was_told_is_forgotten_and_what_came_meanwhile_is_not() {
        let pending = Pending::default();
        pending.add_namespace(ONE, 1);
        let batch = pending.batch(10);
        pending.add_namespace(ONE, 2);
        pending.remove(&batch);
        assert_eq!(pending.batch(10).namespaces, [(ONE, 2)]);
    }
}
