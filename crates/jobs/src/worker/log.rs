//! Lines of handlers on their way into the logs of their jobs.

use std::collections::BTreeMap;

use super::WorkerState;
use super::finisher::FinishedJob;
use crate::id::WorkerId;
use crate::job::Reports;
use crate::job_log::{self, LogChunk};
use crate::ledger::{ClaimedJob, LedgerError};

/// Chunks of one statement: about 3 MiB.
const CHUNKS: usize = 100;

/// Stores what running jobs have written. What cannot be stored now is tried with the next poll.
pub(super) async fn store_lines(shared: &WorkerState) {
    let writing = shared.running.writing();
    let mut by_worker: BTreeMap<WorkerId, Vec<(&ClaimedJob, &Reports)>> = BTreeMap::new();
    for one in &writing {
        let jobs = by_worker.entry(one.worker).or_default();
        jobs.push((&one.job, &one.reports));
    }
    for (worker, jobs) in by_worker {
        if let Err(error) = store_taken(shared, worker, &jobs).await {
            tracing::debug!(error = ?error, "lines of running jobs were not stored; trying again");
            return;
        }
    }
}

/// Stores what ended jobs of one worker have written, before their outcomes: after them the fence would not hold.
pub(super) async fn store_last_lines(
    shared: &WorkerState,
    worker: WorkerId,
    finished: &[&FinishedJob],
) -> Result<(), LedgerError> {
    let jobs: Vec<(&ClaimedJob, &Reports)> = finished
        .iter()
        .filter_map(|one| Some((&*one.job, one.reports.as_ref()?)))
        .collect();
    // What was taken before and not stored comes first, and what was written since then next.
    while store_taken(shared, worker, &jobs).await? {}
    Ok(())
}

/// Stores what is to be stored next. False: nothing was.
async fn store_taken(
    shared: &WorkerState,
    worker: WorkerId,
    jobs: &[(&ClaimedJob, &Reports)],
) -> Result<bool, LedgerError> {
    let taken = jobs
        .iter()
        .map(|(job, reports)| (*reports, reports.log().take(&shared.jobs, job)));
    let taken: Vec<(&Reports, Vec<LogChunk>)> = taken.filter(|(_, chunks)| !chunks.is_empty()).collect();
    let chunks: Vec<LogChunk> = taken.iter().flat_map(|(_, chunks)| chunks).cloned().collect();
    for piece in chunks.chunks(CHUNKS) {
        job_log::append(shared.jobs.sql(), worker, piece).await?;
    }
    for (reports, chunks) in &taken {
        reports.log().stored(chunks);
    }
    Ok(!taken.is_empty())
}
