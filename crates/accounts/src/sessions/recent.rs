//! The changes of sessions that this process made, which its mirror of the table may not have yet.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::store::{SessionChange, SessionHash};

/// Most changes in memory; the oldest is dropped for a new one, and then known from the mirror.
const MAX_RECENT: usize = 10_000;

/// Most logouts that wait for SQL to recover.
const MAX_WAITING: usize = 1_000;

#[derive(Debug)]
pub(super) struct RecentChanges {
    /// How long a change is kept: as long as an older token may be valid.
    kept: Duration,
    memory: Mutex<Memory>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Memory {
    found: HashMap<SessionHash, (SessionChange, Instant)>,
    order: VecDeque<(SessionHash, Instant)>,
}

impl RecentChanges {
    pub(super) fn new(kept: Duration) -> Self {
        Self {
            kept,
            memory: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    pub(super) fn note(&self, id: SessionHash, changed: SessionChange) {
        let now = Instant::now();
        let mut memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        memory.found.insert(id, (changed, now));
        memory.order.push_back((id, now));
        while let Some(&(oldest, at)) = memory.order.front() {
            if memory.order.len() <= MAX_RECENT && now.duration_since(at) < self.kept {
                break;
            }
            memory.order.pop_front();
            if memory.found.get(&oldest).is_some_and(|(_, noted)| *noted == at) {
                memory.found.remove(&oldest);
            }
        }
    }

    pub(super) fn get(&self, id: &SessionHash) -> Option<SessionChange> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (changed, at) = memory.found.get(id)?;
        (at.elapsed() < self.kept).then_some(*changed)
    }

    /// A permit for one logout that waits for SQL; `None`: too many wait.
    pub(super) fn place_to_wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }
}
