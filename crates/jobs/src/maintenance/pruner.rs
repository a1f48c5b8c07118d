//! Deletes finished jobs, ended batches and audit entries past their retention, and what limits no longer need, in small
//! steps. Also ends the batches that an older version left open (see [`crate::batches`]).

use std::time::Duration;

use crate::ledger::{LedgerError, Retention};
use crate::meters::maintained;
use crate::worker::Shared;

/// Rows deleted in one statement.
const BATCH: usize = 1_000;

/// Batches ended by one sweep.
const SWEEP: usize = 100;

/// The rest between looks that found less than a batch.
const REST: Duration = Duration::from_secs(30);

/// The rest between full batches: pruning must not crowd out claims.
const BREATH: Duration = Duration::from_millis(50);

pub(super) async fn run(shared: &Shared) {
    let retention = Retention {
        completed: shared.settings.jobs.retain_completed,
        discarded: shared.settings.jobs.retain_discarded,
    };
    loop {
        let jobs = shared.jobs.ledger().prune(&retention, BATCH).await;
        let entries = shared
            .jobs
            .audit()
            .prune(shared.settings.audit.retain, BATCH)
            .await;
        let buckets = shared.jobs.limits().prune(BATCH).await;
        let batches = shared
            .jobs
            .batches()
            .prune(shared.settings.jobs.retain_batches, BATCH)
            .await;
        let swept = shared.jobs.batches().sweep(SWEEP).await;
        maintained("prune_batches", &batches, |deleted| *deleted);
        maintained("sweep_batches", &swept, |ended| *ended);
        maintained("prune_jobs", &jobs, |deleted| *deleted);
        maintained("prune_audit", &entries, |deleted| *deleted);
        if let Err(error) = swept {
            tracing::debug!(error = ?error, "cannot sweep batches");
        }
        let rest = [jobs, entries, buckets, batches]
            .into_iter()
            .map(rest_after)
            .min()
            .unwrap_or(REST);
        tokio::time::sleep(rest).await;
    }
}

/// A full batch means that there is more.
fn rest_after(pruned: Result<u64, LedgerError>) -> Duration {
    match pruned {
        Ok(deleted) if deleted >= BATCH as u64 => BREATH,
        Ok(_) => REST,
        Err(error) => {
            tracing::debug!(error = ?error, "cannot prune");
            REST
        }
    }
}
