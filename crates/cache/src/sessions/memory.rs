//! What this process knows about sessions by itself: revocations, and what Redis has yet to be told.

use std::collections::{HashMap, HashSet, VecDeque};
use std::hash::Hash;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::redis::GateError;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::MAX_REMEMBERED;
use super::store::{StoredSession, Times, tell_created, tell_revoked, tell_revoked_all};
use crate::remote::Remote;

/// A session, as Redis knows it: the hashes of its user and of its id.
pub(super) type Name = (String, String);

/// The sessions of one process.
#[derive(Debug, Default)]
pub(crate) struct State {
    memory: Mutex<Memory>,
    /// How much Redis has yet to be told.
    untold: AtomicUsize,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct Memory {
    revoked: ExpiringMap<Name, ()>,
    /// Users of whom all sessions until a moment are revoked, milliseconds since the Unix epoch.
    revoked_users: ExpiringMap<String, u64>,
    /// Made while Redis was away, with the times to store them with.
    made: ExpiringMap<Name, (StoredSession, Times)>,
    tell_revoked: HashSet<Name>,
    tell_revoked_users: HashMap<String, u64>,
}

impl State {
    pub(super) fn made(&self, name: Name, session: StoredSession, times: Times) {
        let kept = times.idle;
        self.change(|memory| memory.made.put(name, (session, times), kept));
    }

    /// A session that was made while Redis was away and is not stored yet.
    pub(super) fn unstored(&self, name: &Name) -> Option<StoredSession> {
        self.lock().made.get(name).map(|(session, _)| session.clone())
    }

    /// Here and now.
    pub(super) fn revoke(&self, name: &Name, kept: Duration) {
        self.change(|memory| {
            memory.made.remove(name);
            memory.revoked.put(name.clone(), (), kept);
        });
    }

    pub(super) fn revoke_all(&self, user: &str, until_ms: u64, kept: Duration) {
        self.change(|memory| memory.revoke_user(user, until_ms, kept));
    }

    pub(super) fn is_revoked(&self, name: &Name, created_ms: u64) -> bool {
        let memory = self.lock();
        memory.revoked.get(name).is_some()
            || memory
                .revoked_users
                .get(&name.0)
                .is_some_and(|until| created_ms <= *until)
    }

    /// Until when all sessions of a user are revoked.
    pub(super) fn revoked_until(&self, user: &str) -> Option<u64> {
        self.lock().revoked_users.get(user).copied()
    }

    pub(super) fn tell_revoked(&self, name: Name) {
        self.change(|memory| {
            bound(&mut memory.tell_revoked);
            memory.tell_revoked.insert(name);
        });
    }

    pub(super) fn tell_revoked_all(&self, user: String, until_ms: u64) {
        self.change(|memory| {
            if memory.tell_revoked_users.len() < MAX_REMEMBERED
                || memory.tell_revoked_users.contains_key(&user)
            {
                memory.tell_revoked_users.insert(user, until_ms);
            }
        });
    }

    pub(crate) fn heard_revoked(&self, user: &str, id: &str) {
        let name = (user.to_owned(), id.to_owned());
        self.revoke(&name, HEARD_KEPT);
    }

    pub(crate) fn heard_all_revoked(&self, user: &str, until_ms: u64) {
        self.revoke_all(user, until_ms, HEARD_KEPT);
    }

    /// Waits until there is something to tell Redis.
    pub(crate) async fn arrived(&self) {
        while self.untold.load(Ordering::SeqCst) == 0 {
            self.arrived.notified().await;
        }
    }

    /// Tells Redis one thing of each sort; called again until there is nothing left.
    pub(crate) async fn settle(&self, remote: &Remote) -> Result<(), GateError> {
        let (made, revoked, user) = {
            let memory = self.lock();
            (
                memory
                    .made
                    .first()
                    .map(|(name, made)| (name.clone(), made.clone())),
                memory.tell_revoked.iter().next().cloned(),
                memory
                    .tell_revoked_users
                    .iter()
                    .next()
                    .map(|(user, until)| (user.clone(), *until)),
            )
        };
        if let Some((name, (session, times))) = made {
            tell_created(remote, &name, &session, times).await?;
            self.change(|memory| memory.made.remove(&name));
        }
        if let Some(name) = revoked {
            tell_revoked(remote, &name).await?;
            self.change(|memory| memory.tell_revoked.remove(&name));
        }
        if let Some((user, until_ms)) = user {
            tell_revoked_all(remote, &user, until_ms).await?;
            self.change(|memory| {
                if memory.tell_revoked_users.get(&user) == Some(&until_ms) {
                    memory.tell_revoked_users.remove(&user);
                }
            });
        }
        Ok(())
    }

    fn change<T>(&self, change: impl FnOnce(&mut Memory) -> T) -> T {
        let mut memory = self.lock();
        let outcome = change(&mut memory);
        let untold = memory.made.len() + memory.tell_revoked.len() + memory.tell_revoked_users.len();
        self.untold.store(untold, Ordering::SeqCst);
        if untold > 0 {
            self.arrived.notify_one();
        }
        outcome
    }

    fn lock(&self) -> MutexGuard<'_, Memory> {
        self.memory.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How long what other processes revoked is remembered: no token shall live longer.
const HEARD_KEPT: Duration = Duration::from_hours(1);

impl Memory {
    fn revoke_user(&mut self, user: &str, until_ms: u64, kept: Duration) {
        self.made
            .retain(|(of, _), (session, _)| of != user || session.created_ms > until_ms);
        let until = self
            .revoked_users
            .get(user)
            .map_or(until_ms, |known| until_ms.max(*known));
        self.revoked_users.put(user.to_owned(), until, kept);
    }
}

/// Room for one more. What is dropped ends with its idle time on Redis instead.
fn bound(names: &mut HashSet<Name>) {
    if names.len() >= MAX_REMEMBERED
        && let Some(one) = names.iter().next().cloned()
    {
        names.remove(&one);
    }
}

/// A map that forgets: what is past its time, and the oldest when it is full.
#[derive(Debug)]
struct ExpiringMap<K, V> {
    values: HashMap<K, (V, Instant)>,
    /// In the order of their arrival; those that were replaced or removed stand here as well.
    order: VecDeque<(K, Instant)>,
}

impl<K, V> Default for ExpiringMap<K, V> {
    fn default() -> Self {
        Self {
            values: HashMap::new(),
            order: VecDeque::new(),
        }
    }
}

impl<K: Hash + Eq + Clone, V> ExpiringMap<K, V> {
    fn put(&mut self, key: K, value: V, kept: Duration) {
        let until = Instant::now() + kept;
        self.values.insert(key.clone(), (value, until));
        self.order.push_back((key, until));
        self.tidy();
    }

    fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: std::borrow::Borrow<Q>,
    {
        let (value, until) = self.values.get(key)?;
        (*until > Instant::now()).then_some(value)
    }

    fn remove(&mut self, key: &K) {
        self.values.remove(key);
        self.tidy();
    }

    fn retain(&mut self, mut keep: impl FnMut(&K, &V) -> bool) {
        self.values.retain(|key, (value, _)| keep(key, value));
        self.tidy();
    }

    fn first(&self) -> Option<(&K, &V)> {
        self.values.iter().next().map(|(key, (value, _))| (key, value))
    }

    fn len(&self) -> usize {
        self.values.len()
    }

    /// Drops from the front what is over, replaced or removed, and what there is no room for.
    fn tidy(&mut self) {
        let now = Instant::now();
        while let Some((key, until)) = self.order.front() {
            let current = self.values.get(key).is_some_and(|(_, then)| then == until);
            let full = self.order.len() > MAX_REMEMBERED;
            if current && *until > now && !full {
                break;
            }
            if current {
                self.values.remove(key);
            }
            self.order.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEPT: Duration = Duration::from_secs(60);

    fn name(number: usize) -> Name {
        ("user".to_owned(), number.to_string())
    }

    #[test]
    fn the_oldest_revocations_make_room() {
        let state = State::default();
        for number in 0..=MAX_REMEMBERED {
            state.revoke(&name(number), KEPT);
        }
        assert!(!state.is_revoked(&name(0), 0));
        assert!(state.is_revoked(&name(1), 0) && state.is_revoked(&name(MAX_REMEMBERED), 0));
    }

    #[test]
    fn a_revocation_past_its_time_is_forgotten() {
        let state = State::default();
        state.revoke(&name(1), Duration::ZERO);
        assert!(!state.is_revoked(&name(1), 0));
    }

    #[test]
    fn revoking_a_user_spares_what_is_created_later() {
        let state = State::default();
        state.revoke_all("user", 1_000, KEPT);
        state.revoke_all("user", 500, KEPT);
        assert!(state.is_revoked(&name(1), 1_000));
        assert!(!state.is_revoked(&name(1), 1_001));
        assert!(!state.is_revoked(&("other".to_owned(), "1".to_owned()), 1));
    }
}
