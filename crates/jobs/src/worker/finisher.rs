//! Outcomes, stored in batches. What cannot be stored now is held and tried again; nothing is dropped while the lease
//! may live.
//!
//! A batch is whatever waits when the one before is done, so a lone outcome is stored at once and a busy lane shares
//! statements. Outcomes of broker jobs go to the broker; what must live on (a retry, a dead letter) goes to the ledger
//! first and leaves the broker after: a crash in between runs the job twice, never not at all.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::failpoint;
use holdfast_core::failure::FailureClass;
use holdfast_core::telemetry::catalogue;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::Shared;
use super::ends::{Ends, apart};
use super::lane::Slot;
use crate::broker::{Broker, BrokerError, BrokerOutcome, Finished as BrokerFinished};
use crate::id::{JobId, WorkerId};
use crate::ledger::{ClaimedJob, LedgerError, NewJob, Outcome, RunAt};

/// Outcomes of one statement or script at most.
const BATCH: usize = 500;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

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
pub(crate) struct Finished {
    pub lease: Lease,
    pub job: Arc<ClaimedJob>,
    pub outcome: Outcome,
    pub slot: Slot,
}

/// The way in. Bounded by the lanes' slots: each outcome holds one.
#[derive(Debug, Clone)]
pub(crate) struct Outcomes {
    ledger: mpsc::Sender<Finished>,
    broker: mpsc::Sender<Finished>,
}

impl Outcomes {
    pub(crate) fn send(&self, finished: Finished) {
        let to = match finished.lease {
            Lease::Ledger { .. } => &self.ledger,
            Lease::Broker { .. } => &self.broker,
        };
        if let Err(error) = to.try_send(finished) {
            // The channel has a place for every slot, so it can only be closed: the process is ending, and the lease
            // will tell the rescuer.
            tracing::error!(error = %error, "an outcome came after the end");
        }
    }
}

#[derive(Debug)]
pub(crate) struct Finishers {
    ledger: mpsc::Receiver<Finished>,
    broker: mpsc::Receiver<Finished>,
}

/// `most`: slots of all lanes together. Two fetchers may fill one lane at the same time, hence twice.
pub(crate) fn channels(most: usize) -> (Outcomes, Finishers) {
    let most = most * 2;
    let (to_ledger, ledger) = mpsc::channel(most);
    let (to_broker, broker) = mpsc::channel(most);
    (
        Outcomes {
            ledger: to_ledger,
            broker: to_broker,
        },
        Finishers { ledger, broker },
    )
}

/// The finishers at work.
#[derive(Debug)]
pub(crate) struct Finishing {
    ledger: JoinHandle<()>,
    broker: JoinHandle<()>,
    done: tokio_util::sync::CancellationToken,
}

impl Finishers {
    pub(crate) fn spawn(self, shared: &Arc<Shared>) -> Finishing {
        let done = tokio_util::sync::CancellationToken::new();
        Finishing {
            ledger: tokio::spawn(run(Arc::clone(shared), self.ledger, done.clone(), Store::Ledger)),
            broker: tokio::spawn(run(Arc::clone(shared), self.broker, done.clone(), Store::Broker)),
            done,
        }
    }
}

impl Finishing {
    /// Flushes what is there; gives up after `limit`.
    pub(crate) async fn close(self, shared: &Shared, limit: Duration) {
        self.done.cancel();
        let flushed = async {
            // A finisher that panicked has nothing left to flush.
            self.ledger.await.ok();
            self.broker.await.ok();
        };
        if tokio::time::timeout(limit, flushed).await.is_err() {
            let held: usize = shared.lanes.values().map(|lane| lane.held()).sum();
            tracing::error!(
                jobs = held,
                "outcomes could not be stored before the end; their jobs will be rescued"
            );
        }
    }
}

#[derive(Clone, Copy)]
enum Store {
    Ledger,
    Broker,
}

async fn run(
    shared: Arc<Shared>,
    mut receiver: mpsc::Receiver<Finished>,
    done: tokio_util::sync::CancellationToken,
    store: Store,
) {
    let mut batch = Vec::with_capacity(BATCH);
    // Batches that wait for a store that is away, so that the next ones need not wait behind them.
    let holding = TaskTracker::new();
    loop {
        tokio::select! {
            biased;
            received = receiver.recv_many(&mut batch, BATCH) => if received == 0 { break },
            // No runner is left that could send; whatever was sent has been received above.
            () = done.cancelled() => break,
        }
        let finished = std::mem::replace(&mut batch, Vec::with_capacity(BATCH));
        match store {
            Store::Ledger => finish_on_ledger(&shared, finished).await,
            Store::Broker => finish_on_broker(&shared, finished, &holding).await,
        }
    }
    holding.close();
    holding.wait().await;
}

async fn finish_on_ledger(shared: &Shared, finished: Vec<Finished>) {
    let mut by_worker: BTreeMap<WorkerId, Vec<Finished>> = BTreeMap::new();
    for one in finished {
        by_worker.entry(one.lease.worker()).or_default().push(one);
    }
    for (worker, finished) in by_worker {
        failpoint::reach("finish");
        let (tied, plain) = apart(&finished);
        let mut held = HashSet::new();
        for outcomes in [plain, tied].into_iter().filter(|outcomes| !outcomes.is_empty()) {
            held.extend(store_outcomes(shared, worker, outcomes).await);
        }
        failpoint::reach("finished");
        for one in &finished {
            shared
                .leased
                .remove(&one.slot.lane().name, worker, std::iter::once(one.job.id));
        }
        report_lost_leases(&finished, &held);
        arm_alarms(&finished);
        // The outcomes are stored, or void: the slots are free.
        pass_places_on(shared, finished);
    }
}

/// Repeats until the ledger answers; the statement is fenced, so a repeat after a lost reply does nothing.
async fn store_outcomes(shared: &Shared, worker: WorkerId, outcomes: Ends) -> HashSet<JobId> {
    let mut failures = 0;
    loop {
        match outcomes.store(shared, worker).await {
            Ok(held) => {
                if failures > 0 {
                    tracing::debug!(jobs = outcomes.len(), failures, "held outcomes are stored");
                    // An earlier try may have been applied without its reply: then nothing counts as lost.
                    return outcomes.ids();
                }
                return held.into_iter().collect();
            }
            Err(error) if error.is_transient() => {
                if failures == 0 {
                    tracing::debug!(jobs = outcomes.len(), error = ?error, "outcomes are held until the ledger takes them");
                }
                failures += 1;
                tokio::time::sleep(BACKOFF.delay(failures)).await;
            }
            Err(error) => return store_one_by_one(shared, worker, outcomes, &error).await,
        }
    }
}

/// The ledger refuses the batch for good: find the outcome it refuses, and discard that job with the reason.
async fn store_one_by_one(
    shared: &Shared,
    worker: WorkerId,
    outcomes: Ends,
    error: &LedgerError,
) -> HashSet<JobId> {
    tracing::error!(error = ?error, jobs = outcomes.len(), "the ledger refuses a batch of outcomes");
    let mut held = HashSet::new();
    for mut one in outcomes.one_by_one() {
        let mut failures = 0;
        loop {
            match one.store(shared, worker).await {
                Ok(ids) => {
                    held.extend(ids);
                    break;
                }
                Err(error) if error.is_transient() => {
                    failures += 1;
                    tokio::time::sleep(BACKOFF.delay(failures)).await;
                }
                Err(error) => {
                    let Some(discarded) = one.discarded_instead(&error, &shared.identity.name()) else {
                        tracing::error!(jobs = ?one.ids(), error = ?error, "an outcome cannot be stored at all");
                        break;
                    };
                    one = discarded;
                }
            }
        }
    }
    held
}

fn report_lost_leases(finished: &[Finished], held: &HashSet<JobId>) {
    let lost: Vec<_> = finished
        .iter()
        .map(|one| one.job.id)
        .filter(|id| !held.contains(id))
        .collect();
    if let Some(first) = lost.first() {
        catalogue::JOB_OUTCOMES_VOID.with([]).increment(lost.len() as u64);
        tracing::warn!(jobs = lost.len(), job.id = %first, "outcomes are void: their leases were lost");
    }
}

/// Frees the slots, and in a queue with limits tells whoever waits for a place that one is free.
fn pass_places_on(shared: &Shared, finished: Vec<Finished>) {
    let mut limited: BTreeMap<Arc<str>, usize> = BTreeMap::new();
    for one in finished {
        let lane = one.slot.lane();
        if lane.is_limited() {
            *limited.entry(Arc::clone(&lane.name)).or_default() += 1;
        }
    }
    for (queue, places) in limited {
        if let Some(lane) = shared.lanes.get(&queue) {
            lane.ledger_alarm.now();
        }
        shared.jobs.bell().ring(&queue, places, Duration::ZERO);
    }
}

/// A job that is due again soon is claimed when it is due, not at the next poll.
fn arm_alarms(finished: &[Finished]) {
    for one in finished {
        if let Outcome::Retry { delay, .. } | Outcome::Snooze { delay, .. } = &one.outcome {
            one.slot.lane().ledger_alarm.after(*delay);
        }
    }
}

async fn finish_on_broker(shared: &Arc<Shared>, finished: Vec<Finished>, holding: &TaskTracker) {
    let mut by_lease: BTreeMap<Lease, Vec<Finished>> = BTreeMap::new();
    for one in finished {
        by_lease.entry(one.lease.clone()).or_default().push(one);
    }
    for (lease, finished) in by_lease {
        let Lease::Broker { worker, queue } = lease else {
            continue;
        };
        let (moving, ending): (Vec<_>, Vec<_>) = finished.into_iter().partition(moves_to_ledger);
        let shared = Arc::clone(shared);
        if !ending.is_empty() {
            leave_broker(&shared, Departure::of(&queue, worker, &ending), ending, holding).await;
        }
        if !moving.is_empty() {
            // Apart, so that jobs which only end do not wait for the database.
            let held = holding.clone();
            holding.spawn(async move {
                move_to_ledger(&shared, &queue, &moving).await;
                arm_alarms(&moving);
                leave_broker(&shared, Departure::of(&queue, worker, &moving), moving, &held).await;
            });
        }
    }
}

/// Retries and dead letters live in the ledger.
fn moves_to_ledger(one: &Finished) -> bool {
    matches!(
        one.outcome,
        Outcome::Retry { .. } | Outcome::Snooze { .. } | Outcome::Discard { .. }
    )
}

/// Repeats until the ledger takes them. They keep their places meanwhile, which bounds how many can wait here.
async fn move_to_ledger(shared: &Shared, queue: &Arc<str>, finished: &[Finished]) {
    let rows: Vec<NewJob> = finished.iter().filter_map(|one| ledger_row(queue, one)).collect();
    let mut failures = 0;
    while let Err(error) = shared.jobs.ledger().insert(&rows).await {
        if failures == 0 {
            tracing::debug!(jobs = rows.len(), error = ?error, "failed broker jobs are held until the ledger takes them");
        }
        failures += 1;
        tokio::time::sleep(BACKOFF.delay(failures)).await;
    }
}

fn ledger_row(queue: &Arc<str>, one: &Finished) -> Option<NewJob> {
    let (run_at, attempt, error, discarded) = match &one.outcome {
        Outcome::Retry { delay, error, fence } => (RunAt::In(*delay), fence.attempt + 1, Some(error), false),
        Outcome::Snooze { delay, fence } => (RunAt::In(*delay), fence.attempt, None, false),
        Outcome::Discard { error, fence } => (RunAt::Now, fence.attempt + 1, Some(error), true),
        Outcome::Completed { .. } | Outcome::Cancel { .. } | Outcome::HandBack { .. } => return None,
    };
    let job = &one.job;
    Some(NewJob {
        id: job.id,
        kind: Arc::from(job.kind.as_str()),
        queue: Arc::clone(queue),
        payload: Arc::from(job.payload.clone()),
        priority: job.priority,
        run_at,
        max_attempts: job.max_attempts,
        timeout: job.timeout,
        unique_key: None,
        idempotency_key: None,
        limit_key: None,
        options: job.options.clone(),
        batch: None,
        attempt,
        crashes: job.crashes,
        errors: error.cloned().into_iter().collect(),
        doubtful: false,
        discarded,
    })
}

/// What the broker is to be told of a batch.
#[derive(Debug)]
struct Departure {
    queue: Arc<str>,
    worker: WorkerId,
    ended: Vec<BrokerFinished>,
    back: Vec<JobId>,
}

impl Departure {
    fn of(queue: &Arc<str>, worker: WorkerId, finished: &[Finished]) -> Self {
        let mut departure = Self {
            queue: Arc::clone(queue),
            worker,
            ended: Vec::with_capacity(finished.len()),
            back: Vec::new(),
        };
        for one in finished {
            let outcome = match &one.outcome {
                Outcome::HandBack { .. } => {
                    departure.back.push(one.job.id);
                    continue;
                }
                Outcome::Completed { result, .. } => BrokerOutcome::Completed(result.clone()),
                Outcome::Cancel { .. } => BrokerOutcome::Cancelled,
                _ => BrokerOutcome::Moved,
            };
            let (id, kind, attempt) = (one.job.id, one.job.kind.clone(), one.job.attempt + 1);
            departure.ended.push(BrokerFinished {
                id,
                kind,
                attempt,
                outcome,
            });
        }
        departure
    }

    fn jobs(&self) -> usize {
        self.ended.len() + self.back.len()
    }

    /// Tells the broker; how many of the leases it had lost.
    async fn tell(&self, broker: &Broker) -> Result<usize, BrokerError> {
        let mut void = 0;
        if !self.ended.is_empty() {
            failpoint::reach("acknowledge");
            let held = broker.acknowledge(&self.queue, self.worker, &self.ended).await?;
            failpoint::reach("acknowledged");
            void = self.ended.len() - held.len();
        }
        if !self.back.is_empty() {
            broker.hand_back(&self.queue, self.worker, &self.back).await?;
        }
        Ok(void)
    }

    fn forget_leases(&self, shared: &Shared) {
        let ids = self
            .ended
            .iter()
            .map(|one| one.id)
            .chain(self.back.iter().copied());
        shared.leased.remove(&self.queue, self.worker, ids);
    }
}

/// Takes finished jobs off the broker. If it is away, their places are freed at once (the lane's jobs come from the
/// ledger now, and no more can come from the broker), and the outcomes are held.
async fn leave_broker(
    shared: &Arc<Shared>,
    departure: Departure,
    places: Vec<Finished>,
    holding: &TaskTracker,
) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    match departure.tell(broker).await {
        Ok(void) => {
            departure.forget_leases(shared);
            if void > 0 {
                catalogue::JOB_OUTCOMES_VOID.with([]).increment(void as u64);
                tracing::warn!(jobs = void, queue = %departure.queue, "outcomes are void: the broker lost their leases");
            }
        }
        Err(error) => {
            drop(places);
            let shared = Arc::clone(shared);
            holding.spawn(async move { hold(&shared, departure, error).await });
        }
    }
}

/// Tries until the broker is back. What it held when it went away bounds what is held here. If it gave the leases up
/// meanwhile, or lost its memory, it takes nothing, and that is that.
///
/// What the broker refuses is tried for as long as a lease lives too, and given up only then: a refusal may be how an
/// outage begins. To whoever has not given the new password, a server calls a long command a protocol error.
async fn hold(shared: &Shared, departure: Departure, error: BrokerError) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    let (jobs, queue) = (departure.jobs(), &departure.queue);
    // The gate has said that Redis is away; this happens for every batch of an outage.
    tracing::debug!(jobs, queue = %queue, error = %error, "outcomes are held until the broker is back");
    let mut error = error;
    let mut failures = 0;
    let mut refused: Option<Instant> = None;
    loop {
        if error.class() == FailureClass::Transient {
            refused = None;
        } else if refused.get_or_insert_with(Instant::now).elapsed() >= shared.settings.worker.lost_after {
            break;
        }
        failures += 1;
        tokio::time::sleep(BACKOFF.delay(failures)).await;
        match departure.tell(broker).await {
            Ok(_) => {
                tracing::debug!(jobs, queue = %queue, failures, "held outcomes are stored");
                return departure.forget_leases(shared);
            }
            Err(again) => error = again,
        }
    }
    tracing::error!(jobs, queue = %queue, error = %error, "the broker refuses outcomes; it may run their jobs again");
    departure.forget_leases(shared);
}
