//! What runs in this process right now: for cancellation, progress, and the wind-down.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::id::{JobId, WorkerId};
use crate::job::ProgressCell;
use crate::ledger::{Fence, Progress};

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    fence: Fence,
    on_ledger: bool,
    cancel: CancellationToken,
    progress: ProgressCell,
}

#[derive(Debug, Default)]
pub(crate) struct Running(Mutex<HashMap<JobId, Entry>>);

impl Running {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobId, Entry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn insert(
        &self,
        worker: WorkerId,
        fence: Fence,
        on_ledger: bool,
        cancel: CancellationToken,
        progress: ProgressCell,
    ) {
        let entry = Entry {
            worker,
            fence,
            on_ledger,
            cancel,
            progress,
        };
        self.lock().insert(fence.id, entry);
    }

    pub(crate) fn remove(&self, fence: &Fence) {
        let mut entries = self.lock();
        // A later execution of the same job may have taken the place.
        if entries.get(&fence.id).is_some_and(|entry| entry.fence == *fence) {
            entries.remove(&fence.id);
        }
    }

    pub(crate) fn count(&self) -> usize {
        self.lock().len()
    }

    /// Under which identities jobs of the ledger run.
    pub(crate) fn ledger_workers(&self) -> Vec<WorkerId> {
        let mut workers: Vec<WorkerId> = self
            .lock()
            .values()
            .filter(|entry| entry.on_ledger)
            .map(|entry| entry.worker)
            .collect();
        workers.sort_unstable();
        workers.dedup();
        workers
    }

    pub(crate) fn cancel(&self, id: JobId) -> bool {
        self.lock().get(&id).is_some_and(|entry| {
            entry.cancel.cancel();
            true
        })
    }

    /// Progress that was reported since the last call, by identity.
    pub(crate) fn take_progress(&self) -> HashMap<WorkerId, Vec<Progress>> {
        let mut news: HashMap<WorkerId, Vec<Progress>> = HashMap::new();
        for entry in self.lock().values().filter(|entry| entry.on_ledger) {
            if let Some(value) = entry.progress.take() {
                news.entry(entry.worker).or_default().push(Progress {
                    fence: entry.fence,
                    value,
                });
            }
        }
        news
    }
}
