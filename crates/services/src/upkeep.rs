//! What every service does beside its own work: it tells the database its kinds, for jobs that are enqueued by SQL, and writes its
//! statistics.

use std::time::Duration;

use holdfast_core::shutdown::Shutdown;
use holdfast_jobs::Jobs;

/// Longest last write of statistics.
const LAST_WRITE: Duration = Duration::from_secs(2);

/// Begins it beside everything else; nothing waits for it. `is_worker`: the process runs jobs.
pub(crate) fn spawn_upkeep(jobs: &Jobs, is_worker: bool, stop: &Shutdown) {
    let (jobs, stop) = (jobs.clone(), stop.token().clone());
    tokio::spawn(async move {
        let catalogue = stop.run_until_cancelled(jobs.publish_catalogue());
        tokio::join!(catalogue, jobs.keep_statistics(is_worker, &stop));
    });
}

/// Writes what was counted last, once all work of the process has ended.
pub(crate) async fn finish_upkeep(jobs: &Jobs) {
    jobs.statistics().flush_last(LAST_WRITE).await;
}
