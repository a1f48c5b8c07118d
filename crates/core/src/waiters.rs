//! Waiters for news that one poll of the process looks for, whatever their number.
//!
//! A waiter names its keys, and with each key what it knows of it (`T`: a version, say; `()` where there is nothing to know). The
//! poll asks for what is [`wanted`](Waiters::wanted), and [`notify`](Waiters::notify)s the keys for which there is news. A notified
//! waiter reads for itself, and joins again if the news was not for it.
//!
//! # Invariants
//! - A notification between `join` and the wait is not lost.
//! - A waiter that is dropped leaves: its keys are wanted no more from the next call of `wanted` on.
//! - [`join_within`](Waiters::join_within) keeps the number of keys below a limit, counted once for each waiter.

use std::collections::HashMap;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::Notify;

/// The process has as many waiters as it may have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("too many requests wait in this process")]
pub struct TooManyWaiters;

/// Who waits, by key.
#[derive(Debug)]
pub struct Waiters<K, T = ()> {
    state: Mutex<State<K, T>>,
    joined: Notify,
}

#[derive(Debug)]
struct State<K, T> {
    by_key: HashMap<K, Vec<(T, Weak<Notify>)>>,
    /// Entries in `by_key`, of waiters that have left included.
    entries: usize,
}

/// One waiter. It leaves when it is dropped.
#[derive(Debug)]
pub struct Waiter(Arc<Notify>);

impl Waiter {
    /// Resolves once one of its keys has been notified.
    pub async fn notified(&self) {
        self.0.notified().await;
    }
}

impl<K, T> Default for Waiters<K, T> {
    fn default() -> Self {
        let state = State {
            by_key: HashMap::new(),
            entries: 0,
        };
        Self {
            state: Mutex::new(state),
            joined: Notify::new(),
        }
    }
}

impl<K: Eq + Hash + Clone, T: PartialEq + Clone> Waiters<K, T> {
    /// Waits for any of these keys, of each of which something is known.
    pub fn join(&self, keys: impl IntoIterator<Item = (K, T)>) -> Waiter {
        let waiter = self.state().join(keys.into_iter().collect());
        self.joined.notify_one();
        waiter
    }

    /// The same, unless more than `limit` keys would be waited for.
    pub fn join_within(
        &self,
        limit: usize,
        keys: impl IntoIterator<Item = (K, T)>,
    ) -> Result<Waiter, TooManyWaiters> {
        let keys: Vec<_> = keys.into_iter().collect();
        let mut state = self.state();
        if state.entries + keys.len() > limit {
            state.drop_those_who_left();
        }
        if state.entries + keys.len() > limit {
            return Err(TooManyWaiters);
        }
        let waiter = state.join(keys);
        drop(state);
        self.joined.notify_one();
        Ok(waiter)
    }

    /// Resolves once a waiter has joined since the last time.
    pub async fn joined(&self) {
        self.joined.notified().await;
    }

    /// The keys that are waited for, with what is known of them; each pair once.
    pub fn wanted(&self) -> Vec<(K, T)> {
        let mut state = self.state();
        state.drop_those_who_left();
        let mut wanted = Vec::with_capacity(state.by_key.len());
        for (key, waiters) in &state.by_key {
            for (index, (known, _)) in waiters.iter().enumerate() {
                if !waiters[..index].iter().any(|(other, _)| other == known) {
                    wanted.push((key.clone(), known.clone()));
                }
            }
        }
        wanted
    }

    /// There is news of these keys. Those who wait for them are notified, once.
    pub fn notify<Q>(&self, keys: impl IntoIterator<Item = Q>)
    where
        Q: std::borrow::Borrow<K>,
    {
        let mut state = self.state();
        for key in keys {
            let Some(waiters) = state.by_key.remove(key.borrow()) else {
                continue;
            };
            state.entries -= waiters.len();
            for notify in waiters.iter().filter_map(|(_, waiter)| waiter.upgrade()) {
                notify.notify_one();
            }
        }
    }

    fn state(&self) -> MutexGuard<'_, State<K, T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Eq + Hash, T> State<K, T> {
    fn join(&mut self, keys: Vec<(K, T)>) -> Waiter {
        let notify = Arc::new(Notify::new());
        self.entries += keys.len();
        for (key, known) in keys {
            let entry = (known, Arc::downgrade(&notify));
            self.by_key.entry(key).or_default().push(entry);
        }
        Waiter(notify)
    }

    fn drop_those_who_left(&mut self) {
        self.by_key.retain(|_, waiters| {
            waiters.retain(|(_, waiter)| waiter.strong_count() > 0);
            !waiters.is_empty()
        });
        self.entries = self.by_key.values().map(Vec::len).sum();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_waiter_is_notified_of_any_of_its_keys_also_before_it_waits() {
        let waiters = Waiters::default();
        let both = waiters.join([("a", 1), ("b", 2)]);
        let other = waiters.join([("c", 0)]);
        waiters.notify(["b"]);
        both.notified().await;
        let mut wanted = waiters.wanted();
        wanted.sort_unstable();
        assert_eq!(
            wanted,
            [("a", 1), ("c", 0)],
            "b is joined for again by its waiter"
        );
        drop(both);
        drop(other);
        assert_eq!(waiters.wanted(), []);
    }

    #[tokio::test]
    async fn what_several_know_alike_is_wanted_once() {
        let waiters = Waiters::default();
        let _held = [1, 1, 2].map(|known| waiters.join([("a", known)]));
        let mut wanted = waiters.wanted();
        wanted.sort_unstable();
        assert_eq!(wanted, [("a", 1), ("a", 2)]);
    }

    #[tokio::test]
    async fn the_limit_counts_keys_and_those_who_left_make_room() {
        let waiters = Waiters::default();
        let first = waiters.join_within(3, [("a", ()), ("b", ())]).unwrap();
        let refused = waiters.join_within(3, [("a", ()), ("b", ())]);
        assert_eq!(refused.map(drop), Err(TooManyWaiters));
        drop(first);
        assert!(waiters.join_within(3, [("a", ()), ("b", ()), ("c", ())]).is_ok());
    }
}
