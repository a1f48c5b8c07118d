//! What every service tells the database when it starts, for jobs that are enqueued by SQL.

use holdfast_core::shutdown::Shutdown;
use holdfast_jobs::Jobs;

/// Tells it beside everything else; nothing waits for it.
pub(crate) fn spawn_catalogue(jobs: &Jobs, stop: &Shutdown) {
    let (jobs, stop) = (jobs.clone(), stop.token().clone());
    tokio::spawn(async move { stop.run_until_cancelled(jobs.publish_catalogue()).await });
}
