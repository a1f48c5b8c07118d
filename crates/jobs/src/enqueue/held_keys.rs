//! Keys that other open transactions hold.
//!
//! A row whose `unique_key` or Idempotency-Key an open transaction has written waits for that transaction to end, which may be
//! minutes (`Jobs::enqueue_in` invites it). So such a key is remembered, and its requests wait here instead of in the server.
//!
//! # States of a key
//! *free* (not in the map) → *held*, once a request was split down to it → asked again by one request at a time, with a delay
//! that doubles to [`REMEMBERED`] → *free*, once a try answers, or [`REMEMBERED`] after the last one if nobody asks.
//!
//! # Invariants
//! - For one held key, one request asks the ledger, and at most [`PROBES`] do for all of them; each waits for [`PROBE_WAIT`].
//! - The map holds [`MOST`] keys at most. What is not in it costs its lane one wait, as the first request does.
//! - A request waits no longer than its producer's patience, then it is told which kind of thing is in its way.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use tokio::sync::{Mutex as Turn, OwnedMutexGuard, Semaphore, SemaphorePermit};
use tokio::time::Instant;

use crate::ledger::NewJob;

/// How long a key counts as held after it was found so.
const REMEMBERED: Duration = Duration::from_secs(1);

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), REMEMBERED);

/// How long a try for a key that may be held waits for it.
pub(super) const PROBE_WAIT: Duration = Duration::from_millis(20);

/// Tries for held keys that are under way at once.
const PROBES: usize = 2;

/// Keys that are remembered at once.
const MOST: usize = 10_000;

/// What a row may wait for.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Unique(Arc<str>, String),
    Idempotency(String),
    /// The Idempotency-Key of a batch.
    Batch(String),
}

impl Key {
    pub(super) fn of(jobs: &[NewJob]) -> Vec<Self> {
        jobs.iter()
            .flat_map(|job| {
                let unique = job.unique_key.clone();
                let unique = unique.map(|key| Self::Unique(Arc::clone(&job.kind), key));
                unique
                    .into_iter()
                    .chain(job.idempotency_key.clone().map(Self::Idempotency))
            })
            .collect()
    }
}

#[derive(Debug)]
pub(super) struct HeldKeys {
    held: Mutex<HashMap<Key, HeldKey>>,
    probes: Semaphore,
}

#[derive(Debug, Clone)]
struct HeldKey {
    seen: Instant,
    turn: Arc<Turn<KeyAttempts>>,
}

/// How a key was asked for so far.
#[derive(Debug)]
pub(super) struct KeyAttempts {
    tries: u32,
    next: Instant,
    free: bool,
}

/// The turn of one request to ask for a held key.
#[derive(Debug)]
pub(super) struct KeyTurn {
    pub key: Key,
    asked: OwnedMutexGuard<KeyAttempts>,
}

/// How a request may go on.
#[derive(Debug)]
pub(super) enum Entry {
    /// None of its keys is known to be held.
    Free,
    /// One is, and it is this request's turn to ask for it.
    Turn(KeyTurn),
    /// One is, and was for as long as the producer waits.
    Held,
}

impl HeldKeys {
    pub(super) fn new() -> Self {
        Self {
            held: Mutex::default(),
            probes: Semaphore::new(PROBES),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<Key, HeldKey>> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keys that are remembered as held.
    pub(super) fn count(&self) -> usize {
        self.lock().values().filter(|one| is_current(one)).count()
    }

    /// Waits while one of the keys is held.
    pub(super) async fn enter(&self, keys: &[Key], give_up: Instant) -> Entry {
        while let Some((key, turn)) = self.find(keys) {
            let Ok(asked) = tokio::time::timeout_at(give_up, turn.lock_owned()).await else {
                return Entry::Held;
            };
            if !asked.free {
                return Entry::Turn(KeyTurn { key, asked });
            }
        }
        Entry::Free
    }

    /// The first of the keys that is held.
    fn find(&self, keys: &[Key]) -> Option<(Key, Arc<Turn<KeyAttempts>>)> {
        let mut held = self.lock();
        if held.is_empty() {
            return None;
        }
        for key in keys {
            let Some(one) = held.get(key) else { continue };
            if is_current(one) {
                return Some((key.clone(), Arc::clone(&one.turn)));
            }
            held.remove(key);
        }
        None
    }

    /// A request was split down to this key.
    pub(super) fn mark(&self, key: Key) {
        let now = Instant::now();
        let mut held = self.lock();
        if let Some(one) = held.get_mut(&key) {
            one.seen = now;
            return;
        }
        if held.len() >= MOST {
            held.retain(|_, one| is_current(one));
        }
        if held.len() < MOST {
            let asked = KeyAttempts {
                tries: 0,
                next: now + BACKOFF.delay(1),
                free: false,
            };
            let turn = Arc::new(Turn::new(asked));
            held.insert(key, HeldKey { seen: now, turn });
        }
    }

    /// Waits until the key is to be asked for again. `None`: the producer's patience ends first.
    pub(super) async fn wait_to_ask(&self, turn: &KeyTurn, give_up: Instant) -> Option<SemaphorePermit<'_>> {
        let next = turn.asked.next;
        if next >= give_up {
            tokio::time::sleep_until(give_up).await;
            return None;
        }
        tokio::time::sleep_until(next).await;
        // The semaphore is never closed.
        tokio::time::timeout_at(give_up, self.probes.acquire())
            .await
            .ok()?
            .ok()
    }

    /// It is held still.
    pub(super) fn still_held(&self, turn: &mut KeyTurn) {
        turn.asked.tries += 1;
        turn.asked.next = Instant::now() + BACKOFF.delay(turn.asked.tries);
        self.mark(turn.key.clone());
    }

    /// The ledger has answered: whoever waits for the key goes on as others do.
    pub(super) fn release(&self, mut turn: KeyTurn) {
        turn.asked.free = true;
        self.lock().remove(&turn.key);
    }
}

/// Found held lately, or asked for at this moment.
fn is_current(held: &HeldKey) -> bool {
    held.seen.elapsed() < REMEMBERED || held.turn.try_lock().is_err()
}
