//! Deletes finished jobs and audit entries past their retention, and what limits no longer need, in small steps.

use std::time::Duration;

use crate::ledger::{LedgerError, Retention};
use crate::meters::maintained;
use crate::worker::Shared;

/// Rows deleted in one statement.
const BATCH: usize = 1_000;

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
        maintained("prune_jobs", &jobs, |deleted| *deleted);
        maintained("prune_audit", &entries, |deleted| *deleted);
        let rest = rest_after(jobs).min(rest_after(entries)).min(rest_after(buckets));
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
