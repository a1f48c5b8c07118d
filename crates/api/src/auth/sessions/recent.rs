//! What this process has changed of sessions, until every copy of the table says so too.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::store::{Changed, SessionHash};

/// Most changes that are remembered; the oldest makes room. Others are known from the table within its limit.
const MAX_RECENT: usize = 10_000;

/// Most logouts that wait to be written to SQL.
const MAX_WAITING: usize = 1_000;

#[derive(Debug)]
pub(super) struct Recent {
    /// As long as a token of before may be good.
    kept: Duration,
    memory: Mutex<Memory>,
    waiting: Arc<Semaphore>,
}

#[derive(Debug, Default)]
struct Memory {
    found: HashMap<SessionHash, (Changed, Instant)>,
    order: VecDeque<(SessionHash, Instant)>,
}

impl Recent {
    pub(super) fn new(kept: Duration) -> Self {
        Self {
            kept,
            memory: Mutex::default(),
            waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        }
    }

    pub(super) fn note(&self, id: SessionHash, changed: Changed) {
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

    pub(super) fn get(&self, id: &SessionHash) -> Option<Changed> {
        let memory = self.memory.lock().unwrap_or_else(PoisonError::into_inner);
        let (changed, at) = memory.found.get(id)?;
        (at.elapsed() < self.kept).then_some(*changed)
    }

    /// For one logout that is written later; `None`: too many wait.
    pub(super) fn place_to_wait(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.waiting).try_acquire_owned().ok()
    }
}
