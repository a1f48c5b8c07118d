//! Renewals of leases, grouped: one statement for all workers of a process that are heard within a pause.
//!
//! # Invariants
//! - A renewal is answered after its statement has committed, never before.
//! - The first of a group waits for at most [`Renewals::pause`] since the group before began; alone, it does not wait. So a process
//!   sends one statement a pause, however many workers it serves.
//! - A group that fails gives no answer: each caller then renews for itself. A row that another transaction holds therefore delays the
//!   workers of one group once, for as long as the statement's deadline, and fails none of them.
//! - With the renewal of an idle worker comes whether jobs run under its id that it does not know: a reply was lost, or a claim
//!   committed late. Idle workers cost no statement of their own for that.
//!
//! # What if a step is late
//! The statement commits after its callers gave up: these leases last longer than their workers, by at most the statement's deadline.
//! A row that another transaction holds is not renewed, and its lease does not count as fresh: the worker's next call renews it.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, oneshot};
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::memory::Memory;
use crate::client::Jobs;
use crate::id::WorkerId;
use crate::ledger::MAX_STATEMENT_ROWS;

/// The part of `worker.lost_after` that a group gathers for.
const PAUSE_PART: u32 = 8;

#[derive(Debug)]
pub(super) struct Renewals {
    shared: Arc<RenewalQueue>,
    jobs: Jobs,
    memory: Arc<Memory>,
    pause: Duration,
    started: std::sync::Once,
    stop: CancellationToken,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct RenewalQueue {
    pending: Mutex<Vec<PendingRenewal>>,
    changed: Notify,
}

#[derive(Debug)]
struct PendingRenewal {
    worker: WorkerId,
    answer: oneshot::Sender<bool>,
}

/// A renewal that may be under way.
#[derive(Debug)]
pub(super) struct Renewal(Option<oneshot::Receiver<bool>>);

impl Renewal {
    pub(super) fn done() -> Self {
        Self(None)
    }

    pub(super) fn is_pending(&self) -> bool {
        self.0.is_some()
    }

    /// Whether the worker has a row. `None`: nothing is known; the caller is to renew by itself.
    pub(super) async fn answer(&mut self) -> Option<bool> {
        let answer = match &mut self.0 {
            Some(pending) => pending.await.ok(),
            None => Some(true),
        };
        self.0 = None;
        answer
    }
}

impl Renewals {
    pub(super) fn new(jobs: Jobs, memory: Arc<Memory>, lost_after: Duration) -> Self {
        let stop = CancellationToken::new();
        Self {
            shared: Arc::default(),
            jobs,
            memory,
            pause: lost_after / PAUSE_PART,
            started: std::sync::Once::new(),
            _stop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// Renews the worker's lease with the next group. Call it inside the process' own runtime.
    pub(super) fn join(&self, worker: WorkerId) -> Renewal {
        self.started.call_once(|| {
            let task = run(
                Arc::clone(&self.shared),
                self.jobs.clone(),
                Arc::clone(&self.memory),
                self.pause,
            );
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
        });
        let (answer, answered) = oneshot::channel();
        self.shared.pending().push(PendingRenewal { worker, answer });
        self.shared.changed.notify_one();
        Renewal(Some(answered))
    }
}

impl RenewalQueue {
    fn pending(&self) -> std::sync::MutexGuard<'_, Vec<PendingRenewal>> {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

async fn run(shared: Arc<RenewalQueue>, jobs: Jobs, memory: Arc<Memory>, pause: Duration) {
    let mut next = Instant::now();
    loop {
        if shared.pending().is_empty() {
            shared.changed.notified().await;
            continue;
        }
        tokio::time::sleep_until(next).await;
        next = Instant::now() + pause;
        let mut pending = std::mem::take(&mut *shared.pending());
        pending.retain(|one| !one.answer.is_closed() || memory.is_known(one.worker));
        while !pending.is_empty() {
            let group = pending.split_off(pending.len().saturating_sub(MAX_STATEMENT_ROWS));
            renew(&jobs, &memory, group).await;
        }
    }
}

async fn renew(jobs: &Jobs, memory: &Memory, group: Vec<PendingRenewal>) {
    let mut ids: Vec<WorkerId> = group.iter().map(|one| one.worker).collect();
    ids.sort_unstable();
    ids.dedup();
    let idle: Vec<WorkerId> = ids
        .iter()
        .copied()
        .filter(|worker| memory.is_idle(*worker))
        .collect();
    let began = Instant::now();
    let found = match jobs.ledger().renew(&ids, &idle).await {
        Ok(found) => found,
        Err(error) => {
            tracing::debug!(error = ?error, workers = ids.len(), "a group of leases was not renewed");
            return;
        }
    };
    for lease in &found {
        memory.renewed(lease, began, idle.contains(&lease.worker));
    }
    for one in group {
        let has_row = found.iter().any(|lease| lease.worker == one.worker);
        if !has_row {
            memory.forget(one.worker);
        }
        // A caller that has gone needs no answer.
        let _ = one.answer.send(has_row);
    }
}
