//! What running jobs hear and say between claim and outcome: cancellations in, progress and lines out; and which queues are paused.

use std::collections::BTreeSet;
use std::sync::{Arc, PoisonError};

use holdfast_core::config::Durability;

use super::{WorkerState, log};

/// Asks every `control_poll`, and only if something runs that could care.
pub(crate) async fn run(shared: Arc<WorkerState>) {
    let poll = shared.settings.worker.control_poll;
    let has_broker_lanes = shared
        .lanes
        .values()
        .any(|lane| lane.durability == Durability::Redis);
    loop {
        tokio::time::sleep(poll).await;
        bring_cancellations(&shared).await;
        store_progress(&shared).await;
        log::store_lines(&shared).await;
        if has_broker_lanes {
            refresh_paused(&shared).await;
        }
    }
}

/// One statement for all that runs, however young: its index holds nothing but what was asked to cancel. A job that ends
/// before it is asked is cancelled by the statement that would have put it back.
async fn bring_cancellations(shared: &WorkerState) {
    let workers = shared.running.ledger_workers();
    if workers.is_empty() {
        return;
    }
    match shared.jobs.ledger().cancel_requests(&workers).await {
        Ok(ids) => {
            for id in ids {
                shared.running.cancel(id);
            }
        }
        Err(error) => tracing::debug!(error = ?error, "cannot ask for cancellations"),
    }
}

/// Progress is advice: what cannot be stored now is followed by newer progress, or by the outcome.
async fn store_progress(shared: &WorkerState) {
    for (worker, news) in shared.running.take_progress() {
        if let Err(error) = shared.jobs.ledger().store_progress(worker, &news).await {
            tracing::debug!(error = ?error, "progress was not stored");
        }
    }
}

/// A claim asks the ledger itself whether its queue is paused; a fetch from the broker cannot.
async fn refresh_paused(shared: &WorkerState) {
    match shared.jobs.ledger().paused_queues().await {
        Ok(paused) => {
            *shared.paused.lock().unwrap_or_else(PoisonError::into_inner) =
                paused.into_iter().collect::<BTreeSet<_>>();
        }
        Err(error) => tracing::debug!(error = ?error, "cannot ask which queues are paused"),
    }
}
