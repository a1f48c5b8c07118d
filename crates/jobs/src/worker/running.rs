//! What runs in this process right now: for cancellation, progress, and the wind-down.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio_util::sync::CancellationToken;

use crate::id::{JobId, WorkerId};
use crate::job::Reports;
use crate::ledger::{ClaimedJob, Fence, Progress};

#[derive(Debug)]
struct Entry {
    worker: WorkerId,
    job: Arc<ClaimedJob>,
    on_ledger: bool,
    cancel: CancellationToken,
    reports: Reports,
}

/// A running job that has written lines to its log.
#[derive(Debug)]
pub(crate) struct WritingJob {
    pub worker: WorkerId,
    pub job: Arc<ClaimedJob>,
    pub reports: Reports,
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
        job: &Arc<ClaimedJob>,
        on_ledger: bool,
        cancel: CancellationToken,
        reports: Reports,
    ) {
        let entry = Entry {
            worker,
            job: Arc::clone(job),
            on_ledger,
            cancel,
            reports,
        };
        self.lock().insert(job.id, entry);
    }

    pub(crate) fn remove(&self, fence: &Fence) {
        let mut entries = self.lock();
        // A later execution of the same job may have taken the place.
        if entries
            .get(&fence.id)
            .is_some_and(|entry| entry.job.fence() == *fence)
        {
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
            if let Some(value) = entry.reports.take_progress() {
                news.entry(entry.worker).or_default().push(Progress {
                    fence: entry.job.fence(),
                    value,
                });
            }
        }
        news
    }

    /// Those that have lines to be stored.
    pub(crate) fn writing(&self) -> Vec<WritingJob> {
        let entries = self.lock();
        let writing = entries
            .values()
            .filter(|entry| entry.on_ledger && !entry.reports.log().is_empty());
        writing
            .map(|entry| WritingJob {
                worker: entry.worker,
                job: Arc::clone(&entry.job),
                reports: entry.reports.clone(),
            })
            .collect()
    }
}
