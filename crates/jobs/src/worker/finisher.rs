//! Outcomes, stored in batches. What cannot be stored now is held and tried again; nothing is dropped while the lease
//! may live.
//!
//! A batch is whatever waits when the one before is done, so a lone outcome is stored at once and a busy lane shares
//! statements. A store that does not end soon is overtaken: up to [`STORES`] are under way, so that one that waits (for a
//! lock, for a slow statement) delays its own outcomes alone. Outcomes of the ledger that something follows ([`crate::follow_ups`])
//! are stored apart from the plain ones, and so are those that an observer may want ([`crate::observer`]). What a store could not write goes to [`super::held`].
//!
//! Outcomes of broker jobs go to the broker; what must live on (a retry, a dead letter) goes to the ledger first
//! ([`super::moving`]) and leaves the broker after ([`super::departure`]): a crash in between runs the job twice, never not at
//! all.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::failpoint;
use holdfast_core::telemetry::catalogue;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::WorkerState;
use super::departure::{self, Departure};
use super::held::HeldOutcomeSender;
use super::lane::Slot;
use super::moving;
use super::outcome_batch::Sort;
use crate::follow_ups::FollowedOutcome;
use crate::id::{JobId, WorkerId};
use crate::job::Reports;
use crate::ledger::{ClaimedJob, Outcome};
use crate::observer::Observers;

/// Outcomes of one statement or script at most.
pub(super) const BATCH: usize = 500;

/// Stores of one sort that are under way at once.
const STORES: usize = 3;

/// How long the next batch waits for the store before it. Well above what a commit takes on a sound disk: while the store is
/// quick, one at a time makes the largest batches.
const OVERTAKE_AFTER: Duration = Duration::from_millis(100);

/// Under whose name a job was taken.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Lease {
    Ledger { worker: WorkerId },
    Broker { worker: WorkerId, queue: Arc<str> },
}

impl Lease {
    pub(crate) fn worker(&self) -> WorkerId {
        match self {
            Self::Ledger { worker } | Self::Broker { worker, .. } => *worker,
        }
    }
}

/// A job that ended, and its place, which is free once the outcome is stored.
#[derive(Debug)]
pub(crate) struct FinishedJob {
    pub lease: Lease,
    pub job: Arc<ClaimedJob>,
    pub outcome: Outcome,
    pub slot: Slot,
    /// Of a job whose next crash would make it poison: no other such job runs here until this one's outcome is stored.
    pub last_chance: Option<OwnedSemaphorePermit>,
    /// Of a job of the ledger that has lines to be stored.
    pub reports: Option<Reports>,
}

impl FinishedJob {
    /// Of a job that did not run here.
    pub(crate) fn unrun(lease: Lease, job: ClaimedJob, outcome: Outcome, slot: Slot) -> Self {
        Self {
            lease,
            job: Arc::new(job),
            outcome,
            slot,
            last_chance: None,
            reports: None,
        }
    }
}

/// The way in. Bounded by the lanes' slots: each outcome holds one.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    plain: mpsc::Sender<FinishedJob>,
    tied: mpsc::Sender<FinishedJob>,
    broker: mpsc::Sender<FinishedJob>,
    observers: Observers,
}

impl Outcomes {
    fn is_followed(&self, finished: &FinishedJob) -> bool {
        let FinishedJob {
            job, outcome, slot, ..
        } = finished;
        FollowedOutcome::is_tied(job, outcome)
            || self.observers.may_want(&job.kind, &slot.lane().name, outcome)
    }

    pub(crate) fn send(&self, finished: FinishedJob) {
        let to = match finished.lease {
            Lease::Ledger { .. } if self.is_followed(&finished) => &self.tied,
            Lease::Ledger { .. } => &self.plain,
            Lease::Broker { .. } => &self.broker,
        };
        if let Err(error) = to.try_send(finished) {
            // The channel has a place for every slot, so it can only be closed: the process is ending, and the lease
            // will tell the rescuer.
            tracing::error!(error = %error, "an outcome arrived after the worker stopped");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Finishers {
    plain: mpsc::Receiver<FinishedJob>,
    tied: mpsc::Receiver<FinishedJob>,
    broker: mpsc::Receiver<FinishedJob>,
    /// Outcomes that may be held.
    most: usize,
}

/// `most`: slots of all lanes together. Two fetchers may fill one lane at the same time, hence twice.
pub(crate) fn channels(most: usize, observers: Observers) -> (Outcomes, Finishers) {
    let most = most * 2;
    let (to_plain, plain) = mpsc::channel(most);
    let (to_tied, tied) = mpsc::channel(most);
    let (to_broker, broker) = mpsc::channel(most);
    let outcomes = Outcomes {
        plain: to_plain,
        tied: to_tied,
        broker: to_broker,
        observers,
    };
    let finishers = Finishers {
        plain,
        tied,
        broker,
        most,
    };
    (outcomes, finishers)
}

/// The finishers at work.
#[derive(Debug)]
pub(crate) struct FinisherTasks {
    tasks: Vec<JoinHandle<()>>,
    done: CancellationToken,
}

impl Finishers {
    pub(crate) fn spawn(self, shared: &Arc<WorkerState>) -> FinisherTasks {
        let done = CancellationToken::new();
        let mut tasks = Vec::new();
        for (sort, receiver) in [(Sort::Plain, self.plain), (Sort::Tied, self.tied)] {
            let (holding, held) = HeldOutcomeSender::spawn(shared, sort, self.most);
            let shared = Arc::clone(shared);
            let store =
                move |finished| finish_on_ledger(Arc::clone(&shared), sort, finished, holding.clone());
            // `holding` is dropped with `store`: then the keeper ends once nothing is held.
            tasks.push(tokio::spawn(run(receiver, done.clone(), store)));
            tasks.push(held);
        }
        let (broker, kept) = (Arc::clone(shared), TaskTracker::new());
        let (holding, ending) = (kept.clone(), done.clone());
        let store =
            move |finished| finish_on_broker(Arc::clone(&broker), finished, kept.clone(), ending.clone());
        let running = run(self.broker, done.clone(), store);
        tasks.push(tokio::spawn(async move {
            running.await;
            holding.close();
            holding.wait().await;
        }));
        FinisherTasks { tasks, done }
    }
}

impl FinisherTasks {
    /// Flushes what is there; gives up after `limit`.
    pub(crate) async fn close(self, shared: &WorkerState, limit: Duration) {
        self.done.cancel();
        let flushed = async {
            for task in self.tasks {
                // A finisher that panicked has nothing left to flush.
                task.await.ok();
            }
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            let held: usize = shared.lanes.values().map(|lane| lane.held()).sum();
            tracing::error!(
                jobs = held,
                "outcomes could not be stored before the worker stopped; their jobs will be rescued"
            );
        }
    }
}

/// Stores what is received, in batches.
async fn run<F>(
    mut receiver: mpsc::Receiver<FinishedJob>,
    done: CancellationToken,
    store: impl Fn(Vec<FinishedJob>) -> F,
) where
    F: Future<Output = ()> + Send + 'static,
{
    let mut batch = Vec::with_capacity(BATCH);
    let overtaken = TaskTracker::new();
    let places = Arc::new(Semaphore::new(STORES));
    loop {
        tokio::select! {
            biased;
            received = receiver.recv_many(&mut batch, BATCH) => if received == 0 { break },
            // No runner is left that could send; whatever was sent has been received above.
            () = done.cancelled() => break,
        }
        let finished = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            break; // the semaphore is never closed
        };
        let storing = store(finished);
        let mut storing = Box::pin(async move {
            storing.await;
            drop(place);
        });
        if tokio::time::timeout(OVERTAKE_AFTER, &mut storing).await.is_err() {
            overtaken.spawn(storing);
        }
    }
    overtaken.close();
    overtaken.wait().await;
}

async fn finish_on_ledger(
    shared: Arc<WorkerState>,
    sort: Sort,
    finished: Vec<FinishedJob>,
    holding: HeldOutcomeSender,
) {
    let mut by_worker: BTreeMap<WorkerId, Vec<FinishedJob>> = BTreeMap::new();
    let mut waiting = Vec::new();
    for one in finished {
        if sort == Sort::Tied && holding.is_locked(&one) {
            waiting.push(one);
        } else {
            by_worker.entry(one.lease.worker()).or_default().push(one);
        }
    }
    holding.wait_for_batches(waiting).await;
    for (worker, finished) in by_worker {
        failpoint::reach("finish");
        match sort.store(&shared, worker, finished.iter()).await {
            Ok(stored) => {
                let stored: HashSet<JobId> = stored.into_iter().collect();
                let void: Vec<JobId> = finished
                    .iter()
                    .map(|one| one.job.id)
                    .filter(|id| !stored.contains(id))
                    .collect();
                settle(&shared, worker, finished, &void);
            }
            Err(error) => holding.hold(finished, &error).await,
        }
    }
}

/// These outcomes are stored, or void: the slots are free.
pub(super) fn settle(shared: &WorkerState, worker: WorkerId, finished: Vec<FinishedJob>, void: &[JobId]) {
    failpoint::reach("finished");
    for one in &finished {
        shared
            .leased
            .remove(&one.slot.lane().name, worker, std::iter::once(one.job.id));
    }
    report_lost_leases(void);
    arm_alarms(&finished);
    pass_places_on(shared, finished);
}

fn report_lost_leases(void: &[JobId]) {
    if let Some(first) = void.first() {
        catalogue::JOB_OUTCOMES_VOID.with([]).increment(void.len() as u64);
        tracing::warn!(jobs = void.len(), job.id = %first, "outcomes are ignored: their leases were lost");
    }
}

/// Frees the slots, and in a queue with limits tells whoever waits for a place that one is free.
fn pass_places_on(shared: &WorkerState, finished: Vec<FinishedJob>) {
    let mut limited: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for one in finished {
        let lane = one.slot.lane();
        if lane.is_limited() {
            *limited.entry(Arc::clone(&lane.name)).or_default() += 1;
        }
    }
    for (queue, places) in limited {
        let Some(lane) = shared.lanes.get(&queue) else {
            continue;
        };
        lane.ledger_alarm.now();
        if let Some(due_in) = lane.offer_places() {
            shared.jobs.bell().ring(&queue, places, due_in);
        }
    }
}

/// A job that is due again soon is claimed when it is due, not at the next poll.
pub(super) fn arm_alarms(finished: &[FinishedJob]) {
    for one in finished {
        if let Outcome::Retry { delay, .. } | Outcome::Snooze { delay, .. } = &one.outcome {
            one.slot.lane().ledger_alarm.after(*delay);
        }
    }
}

async fn finish_on_broker(
    shared: Arc<WorkerState>,
    finished: Vec<FinishedJob>,
    holding: TaskTracker,
    ending: CancellationToken,
) {
    let mut by_lease: BTreeMap<Lease, Vec<FinishedJob>> = BTreeMap::new();
    for one in finished {
        by_lease.entry(one.lease.clone()).or_default().push(one);
    }
    for (lease, finished) in by_lease {
        let Lease::Broker { worker, queue } = lease else {
            continue;
        };
        let (outcomes_to_move, ended): (Vec<_>, Vec<_>) = finished
            .into_iter()
            .partition(|one| moving::is_for_ledger(&one.outcome));
        let (observed, ended) = moving::observed_ends(&shared, &queue, ended).await;
        if !ended.is_empty() {
            let departure = Departure::of(&queue, worker, &ended);
            departure::leave_broker(&shared, departure, ended, &holding).await;
        }
        if !observed.finished.is_empty() {
            let (shared, queue, tracker) = (Arc::clone(&shared), Arc::clone(&queue), holding.clone());
            holding.spawn(async move {
                moving::end_observed(&shared, &queue, worker, observed, &tracker).await;
            });
        }
        if !outcomes_to_move.is_empty() {
            // Apart, so that jobs which only end do not wait for the database.
            let (shared, tracker) = (Arc::clone(&shared), holding.clone());
            let ending = ending.clone();
            holding.spawn(async move {
                moving::move_to_ledger(&shared, &queue, worker, outcomes_to_move, &tracker, &ending).await;
            });
        }
    }
}
