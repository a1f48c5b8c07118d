//! Deletes finished jobs, ended batches and audit entries past their retention, and what limits no longer need, in small
//! steps. Also cancels jobs that have expired ([`crate::expiry`]), and ends the batches that an older version left open (see
//! [`crate::batches`]).

use std::time::Duration;

use tokio::time::Instant;

use crate::ledger::{LedgerError, Retention};
use crate::meters::maintained;
use crate::worker::WorkerState;

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

/// What the pruner does.
#[derive(Debug, Clone, Copy)]
enum Duty {
    Jobs,
    AuditEntries,
    LimitBuckets,
    Batches,
    OpenBatches,
    ExpiredJobs,
    Fingerprints,
}

impl Duty {
    const ALL: [Self; 7] = [
        Self::Jobs,
        Self::AuditEntries,
        Self::LimitBuckets,
        Self::Batches,
        Self::OpenBatches,
        Self::ExpiredJobs,
        Self::Fingerprints,
    ];

    /// As metrics and logs name it.
    const fn name(self) -> &'static str {
        match self {
            Self::Jobs => "prune_jobs",
            Self::AuditEntries => "prune_audit",
            Self::LimitBuckets => "prune_limits",
            Self::Batches => "prune_batches",
            Self::OpenBatches => "sweep_batches",
            Self::ExpiredJobs => "cancel_expired",
            Self::Fingerprints => "fill_fingerprints",
        }
    }

    /// One step: how many it dealt with, and whether the next may find more immediately.
    async fn step(self, shared: &WorkerState) -> Result<(u64, bool), LedgerError> {
        let (jobs, settings) = (&shared.jobs, &shared.settings);
        let (done, most) = match self {
            Self::Jobs => {
                let retention = Retention {
                    completed: settings.jobs.retain_completed,
                    discarded: settings.jobs.retain_discarded,
                };
                let pruned = jobs.ledger().prune(&retention, BATCH).await?;
                return Ok((pruned.deleted, pruned.has_more));
            }
            Self::AuditEntries => (jobs.audit().prune(settings.audit.retain, BATCH).await?, BATCH),
            Self::LimitBuckets => (jobs.limits().prune(BATCH).await?, BATCH),
            Self::Batches => (
                jobs.batches().prune(settings.jobs.retain_batches, BATCH).await?,
                BATCH,
            ),
            Self::OpenBatches => (jobs.batches().sweep(SWEEP).await?, SWEEP),
            Self::ExpiredJobs => (jobs.cancel_expired(BATCH).await?, BATCH),
            Self::Fingerprints => (jobs.fill_fingerprints(FINGERPRINTS).await?, FINGERPRINTS),
        };
        Ok((done, done >= most as u64))
    }
}

/// Each duty has its own time: one that has more to do does not make the others look again.
pub(super) async fn run(shared: &WorkerState) {
    let mut due = [Instant::now(); Duty::ALL.len()];
    loop {
        for (duty, due) in Duty::ALL.into_iter().zip(&mut due) {
            if *due > Instant::now() {
                continue;
            }
            let step = duty.step(shared).await;
            maintained(duty.name(), &step, |(done, _)| *done);
            let rest = match step {
                Ok((_, true)) => STEP_PAUSE,
                Ok((_, false)) => REST,
                Err(error) => {
                    tracing::debug!(error = ?error, duty = duty.name(), "a duty of the pruner failed");
                    REST
                }
            };
            *due = Instant::now() + rest;
        }
        let next = due.into_iter().min().unwrap_or_else(Instant::now);
        tokio::time::sleep_until(next).await;
    }
}
