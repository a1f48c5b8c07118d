//! Deletes finished jobs, ended batches and audit entries past their retention, and what limits no longer need, in small
//! steps. Also cancels jobs that have expired ([`crate::expiry`]), and ends the batches that an older version left open (see
//! [`crate::batches`]).

use std::time::Duration;

use crate::ledger::{LedgerError, Retention};
use crate::meters::maintained;
use crate::worker::Shared;

/// Rows deleted in one statement.
const BATCH: usize = 1_000;

/// Dead letters that one step gives a fingerprint ([`crate::failures`]). Few, since each is read with all its errors.
const FINGERPRINTS: usize = 200;

/// Batches ended by one sweep.
const SWEEP: usize = 100;

/// Pause between steps that left nothing to do.
const REST: Duration = Duration::from_secs(30);

/// Pause between steps while more work remains: pruning must not crowd out claims.
const STEP_PAUSE: Duration = Duration::from_millis(50);

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
        let expired = shared.jobs.cancel_expired(BATCH).await;
        let fingerprints = shared.jobs.fill_fingerprints(FINGERPRINTS).await;
        maintained("fill_fingerprints", &fingerprints, |filled| *filled);
        maintained("cancel_expired", &expired, |cancelled| *cancelled);
        maintained("prune_batches", &batches, |deleted| *deleted);
        maintained("sweep_batches", &swept, |ended| *ended);
        maintained("prune_jobs", &jobs, |pruned| pruned.deleted);
        maintained("prune_audit", &entries, |deleted| *deleted);
        if let Err(error) = swept {
            tracing::debug!(error = ?error, "cannot sweep batches");
        }
        let has_more = |deleted: u64| deleted >= BATCH as u64;
        let rest = [
            jobs.map(|pruned| pruned.has_more),
            entries.map(has_more),
            buckets.map(has_more),
            batches.map(has_more),
            expired.map(has_more),
            fingerprints.map(|filled| filled >= FINGERPRINTS as u64),
        ]
        .into_iter()
        .map(rest_after)
        .min()
        .unwrap_or(REST);
        tokio::time::sleep(rest).await;
    }
}

fn rest_after(has_more: Result<bool, LedgerError>) -> Duration {
    match has_more {
        Ok(true) => STEP_PAUSE,
        Ok(false) => REST,
        Err(error) => {
            tracing::debug!(error = ?error, "cannot prune");
            REST
        }
    }
}
