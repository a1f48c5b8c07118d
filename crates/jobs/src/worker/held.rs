//! Outcomes that the ledger did not take at the first try.
//!
//! # States
//! *due* → tried together with others, without waiting for a lock → *stored*, *void* (the lease was lost) or *later*, with a
//! delay that doubles. An outcome that fails a transaction by itself is tried *alone* from then on. One that is refused for
//! good is replaced by a dead letter with the reason; where that is refused too, it is *set aside*: tried every
//! [`REFUSED_AGAIN`], without the place in its lane.
//!
//! # Invariants
//! - A locked row delays the outcomes that need it, and no other: a try takes what is free ([`Sort::store_free`]), a
//!   transaction that fails nevertheless is halved down to the outcome that fails it.
//! - What is held is bounded by the places in the lanes, which the held jobs keep, and by [`ASIDE`].
//! - One statement at a time is under way here.
//!
//! # When things fail
//! With the ledger away, a round ends at its first failure. A statement that takes too long is made smaller. A batch that is
//! so busy that its row is never found free is waited for, one batch at a time, within the server's bound on lock waits.
//! When the worker stops, the rounds go on until everything is stored or the worker's patience ends; what is set aside is
//! left to the rescuer.

use std::collections::{BTreeMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::failure::Certainty;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::WorkerState;
use super::finisher::{BATCH, FinishedJob, settle};
use super::outcome_batch::{Sort, replacement};
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::LedgerError;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// When an outcome that the ledger refuses in every form is tried again.
pub(super) const REFUSED_AGAIN: Duration = Duration::from_secs(30);

/// Refused outcomes that give their places in the lanes up; further ones keep theirs.
pub(super) const ASIDE: usize = 1_000;

/// Outcomes that are tried by themselves in one round at most.
const ALONE: usize = 16;

/// Statements that may fail in one portion; with more, the whole table may be locked.
const FAILURES: u32 = 64;

/// A batch that was found locked this often is waited for.
const WAIT_AFTER: u32 = 4;

/// How often a batch is waited for.
const WAIT_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug)]
struct HeldOutcome {
    finished: FinishedJob,
    /// An earlier try may have been applied without its reply: if nothing is held any more, that is why.
    in_doubt: bool,
    /// Its row, or its batch's, was locked when it was last tried.
    locked: bool,
    alone: bool,
    tries: u32,
    due: Instant,
    refusals: u32,
    aside: bool,
}

impl HeldOutcome {
    fn id(&self) -> JobId {
        self.finished.job.id
    }

    fn worker(&self) -> WorkerId {
        self.finished.lease.worker()
    }

    fn later(&mut self) {
        self.tries += 1;
        self.due = Instant::now() + BACKOFF.delay(self.tries);
    }
}

/// The way in.
#[derive(Debug, Clone)]
pub(super) struct HeldOutcomeSender {
    sender: mpsc::Sender<Vec<HeldOutcome>>,
    locked: Arc<LockedBatches>,
}

/// Batches whose rows were found locked: their outcomes are held at once, so that they fail nobody else's transaction.
#[derive(Debug, Default)]
struct LockedBatches(Mutex<HashSet<BatchId>>);

impl HeldOutcomeSender {
    /// `most`: outcomes that may be held.
    pub(super) fn spawn(
        shared: &Arc<WorkerState>,
        sort: Sort,
        most: usize,
    ) -> (Self, tokio::task::JoinHandle<()>) {
        let (sender, receiver) = mpsc::channel(most.max(1));
        let locked = Arc::new(LockedBatches::default());
        let keeper = Keeper {
            shared: Arc::clone(shared),
            sort,
            held: Vec::new(),
            most: BATCH,
            aside: 0,
            waited: None,
        };
        let task = tokio::spawn(keeper.run(receiver, Arc::clone(&locked)));
        (Self { sender, locked }, task)
    }

    /// Whether the outcome's batch is known to be locked.
    pub(super) fn is_locked(&self, finished: &FinishedJob) -> bool {
        let Some(batch) = finished.job.batch else {
            return false;
        };
        let locked = self.locked.0.lock().unwrap_or_else(PoisonError::into_inner);
        locked.contains(&batch)
    }

    /// Outcomes that need not be tried at once.
    pub(super) async fn wait_for_batches(&self, finished: Vec<FinishedJob>) {
        self.send(finished, false).await;
    }

    /// Outcomes of a transaction that failed.
    pub(super) async fn hold(&self, finished: Vec<FinishedJob>, error: &LedgerError) {
        if error.is_transient() {
            tracing::debug!(jobs = finished.len(), error = ?error, "outcomes are held until the ledger stores them");
        } else {
            tracing::error!(jobs = finished.len(), error = ?error, "the ledger refuses a batch of outcomes");
        }
        self.send(finished, error.certainty() == Certainty::Unknown).await;
    }

    async fn send(&self, finished: Vec<FinishedJob>, in_doubt: bool) {
        if finished.is_empty() {
            return;
        }
        let due = Instant::now();
        let held = finished
            .into_iter()
            .map(|finished| HeldOutcome {
                finished,
                in_doubt,
                locked: false,
                alone: false,
                tries: 0,
                due,
                refusals: 0,
                aside: false,
            })
            .collect();
        if self.sender.send(held).await.is_err() {
            tracing::error!("outcomes arrived after the worker stopped; their jobs will be rescued");
        }
    }
}

/// How a try went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum TryResult {
    /// The ledger answered.
    Answered,
    /// It is away, or takes too long: no more in this round.
    Away,
}

/// How many outcomes are held, and since when there is any: for health and metrics.
#[derive(Debug, Default)]
pub(super) struct HeldOutcomes {
    plain: Mutex<Option<(usize, Instant)>>,
    tied: Mutex<Option<(usize, Instant)>>,
}

impl HeldOutcomes {
    fn of(&self, sort: Sort) -> &Mutex<Option<(usize, Instant)>> {
        match sort {
            Sort::Plain => &self.plain,
            Sort::Tied => &self.tied,
        }
    }

    fn set(&self, sort: Sort, held: usize) {
        let mut state = self.of(sort).lock().unwrap_or_else(PoisonError::into_inner);
        let since = state.map_or_else(Instant::now, |(_, since)| since);
        *state = (held > 0).then_some((held, since));
    }

    /// The number, and for how long some have been held without a break.
    pub(super) fn sum(&self) -> (usize, Duration) {
        [Sort::Plain, Sort::Tied]
            .into_iter()
            .filter_map(|sort| *self.of(sort).lock().unwrap_or_else(PoisonError::into_inner))
            .fold((0, Duration::ZERO), |(sum, longest), (held, since)| {
                (sum + held, longest.max(since.elapsed()))
            })
    }
}

/// Keeps what is held and tries it.
#[derive(Debug)]
struct Keeper {
    shared: Arc<WorkerState>,
    sort: Sort,
    held: Vec<HeldOutcome>,
    /// Outcomes of one statement; fewer while statements take too long.
    most: usize,
    /// Outcomes that gave their places up.
    aside: usize,
    /// When a batch was last waited for.
    waited: Option<Instant>,
}

impl Keeper {
    async fn run(mut self, mut receiver: mpsc::Receiver<Vec<HeldOutcome>>, locked: Arc<LockedBatches>) {
        let mut open = true;
        while open || !self.held.is_empty() {
            let next = self.held.iter().map(|one| one.due).min();
            tokio::select! {
                news = receiver.recv(), if open => match news {
                    Some(news) => self.held.extend(news),
                    None => open = false,
                },
                () = tokio::time::sleep_until(next.unwrap_or_else(Instant::now)), if next.is_some() => {
                    self.round().await;
                    locked.set(&self.held);
                }
            }
            if !open {
                self.leave_aside();
            }
            self.shared.held_outcomes.set(self.sort, self.held.len());
        }
    }

    /// What the ledger refuses in every form is not waited for at the end.
    fn leave_aside(&mut self) {
        let before = self.held.len();
        self.held.retain(|one| !one.aside);
        if self.held.len() < before {
            let jobs = before - self.held.len();
            tracing::error!(
                jobs,
                "outcomes that the ledger refuses are dropped; their jobs will be rescued"
            );
        }
    }

    async fn round(&mut self) {
        let now = Instant::now();
        let (mut due, later): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|one| one.due <= now);
        self.held = later;
        due.sort_by_key(|one| one.due);
        let (mut alone, together): (Vec<_>, Vec<_>) = due.into_iter().partition(|one| one.alone);
        if alone.len() > ALONE {
            self.held.extend(alone.split_off(ALONE));
        }
        let mut portions: Vec<Vec<HeldOutcome>> = by_worker(together)
            .into_values()
            .flat_map(|ones| portions(ones, self.most))
            .collect();
        portions.extend(alone.into_iter().map(|one| vec![one]));
        let mut tried = TryResult::Answered;
        for portion in portions {
            if tried == TryResult::Answered {
                tried = self.try_portion(portion).await;
            } else {
                self.put_off(portion);
            }
        }
        if tried == TryResult::Answered {
            self.wait_for_a_batch().await;
        }
    }

    fn put_off(&mut self, mut portion: Vec<HeldOutcome>) {
        for one in &mut portion {
            one.later();
        }
        self.held.extend(portion);
    }

    /// Stores what is free of one worker's outcomes.
    async fn try_portion(&mut self, portion: Vec<HeldOutcome>) -> TryResult {
        // Pieces that are still to be tried; each failure of a piece halves it.
        let mut pieces = vec![portion];
        let mut failures = 0;
        while let Some(mut piece) = pieces.pop() {
            let Some(worker) = piece.first().map(HeldOutcome::worker) else {
                continue;
            };
            let outcomes = piece.iter().map(|one| &one.finished);
            let error = match self.sort.store_free(&self.shared, worker, outcomes).await {
                Ok(finish) => {
                    if piece.len() >= self.most {
                        self.most = (self.most * 2).min(BATCH);
                    }
                    let locked: HashSet<JobId> = finish.locked.into_iter().collect();
                    self.sort_out(worker, piece, &finish.stored, &locked);
                    continue;
                }
                Err(error) => error,
            };
            failures += 1;
            if self.is_away(&error) || failures > FAILURES {
                if is_slow(&error) {
                    self.most = (piece.len() / 2).max(1);
                }
                for one in &mut piece {
                    one.in_doubt |= error.certainty() == Certainty::Unknown;
                }
                self.put_off(piece);
                for piece in pieces {
                    self.put_off(piece);
                }
                return TryResult::Away;
            }
            if piece.len() > 1 {
                let rest = piece.split_off(piece.len() / 2);
                pieces.extend([rest, piece]);
                continue;
            }
            for mut one in piece {
                one.alone = true;
                if error.is_contention() {
                    // The unique key of what follows it: rows of jobs and batches are told apart without a failure.
                    one.locked = false;
                    one.later();
                } else {
                    self.replace(&mut one, &error);
                }
                self.held.push(one);
            }
        }
        TryResult::Answered
    }

    /// Whether the error says nothing of a single outcome. Only a key that a chain's next job waits for does, and what is
    /// refused for good: rows of jobs and batches are never waited for.
    fn is_away(&self, error: &LedgerError) -> bool {
        let of_a_key = self.sort == Sort::Tied && self.shared.jobs.ledger().locks_rows();
        error.is_transient() && !(of_a_key && error.is_contention())
    }

    /// The ledger refuses this outcome for good.
    fn replace(&mut self, one: &mut HeldOutcome, error: &LedgerError) {
        let name = self.shared.identity.name();
        if let Some(outcome) = replacement(&one.finished.outcome, one.refusals, error, &name) {
            tracing::error!(job.id = %one.id(), error = ?error, "the ledger refuses an outcome: its job is discarded");
            one.finished.outcome = outcome;
            one.refusals += 1;
            one.due = Instant::now();
            return;
        }
        one.due = Instant::now() + REFUSED_AGAIN;
        if !one.aside && self.aside < ASIDE {
            tracing::error!(job.id = %one.id(), error = ?error, "the ledger refuses an outcome in every form: it is set aside");
            one.aside = true;
            self.aside += 1;
            one.finished.slot.free();
            one.finished.last_chance = None;
        }
    }

    /// Settles what is stored or void, and keeps what is locked.
    fn sort_out(
        &mut self,
        worker: WorkerId,
        piece: Vec<HeldOutcome>,
        stored: &[JobId],
        locked: &HashSet<JobId>,
    ) {
        let (kept, done): (Vec<_>, Vec<_>) = piece.into_iter().partition(|one| locked.contains(&one.id()));
        for mut one in kept {
            one.locked = true;
            one.later();
            self.held.push(one);
        }
        self.settle(worker, done, stored);
    }

    fn settle(&mut self, worker: WorkerId, done: Vec<HeldOutcome>, stored: &[JobId]) {
        self.aside -= done.iter().filter(|one| one.aside).count();
        let stored: HashSet<JobId> = stored.iter().copied().collect();
        let void: Vec<JobId> = done
            .iter()
            .filter(|one| !one.in_doubt && !stored.contains(&one.id()))
            .map(HeldOutcome::id)
            .collect();
        if !done.is_empty() {
            tracing::debug!(jobs = done.len(), "held outcomes are stored");
        }
        let finished = done.into_iter().map(|one| one.finished).collect();
        settle(&self.shared, worker, finished, &void);
    }

    /// A batch that others finish all the time is seldom found free: at times one takes its turn among them.
    async fn wait_for_a_batch(&mut self) {
        if self.waited.is_some_and(|at| at.elapsed() < WAIT_EVERY) {
            return;
        }
        let patient = self
            .held
            .iter()
            .filter(|one| one.locked && !one.alone && one.tries >= WAIT_AFTER);
        let Some((worker, batch)) = patient
            .filter_map(|one| Some((one.tries, one.worker(), one.finished.job.batch?)))
            .min()
            .map(|(_, worker, batch)| (worker, batch))
        else {
            return;
        };
        self.waited = Some(Instant::now());
        let (mut ours, rest): (Vec<_>, Vec<_>) = std::mem::take(&mut self.held)
            .into_iter()
            .partition(|one| one.finished.job.batch == Some(batch) && one.worker() == worker && !one.alone);
        self.held = rest;
        if ours.len() > BATCH {
            self.held.extend(ours.split_off(BATCH));
        }
        let outcomes = ours.iter().map(|one| &one.finished);
        match self.sort.store(&self.shared, worker, outcomes).await {
            Ok(stored) => self.settle(worker, ours, &stored),
            Err(error) => {
                for one in &mut ours {
                    one.in_doubt |= error.certainty() == Certainty::Unknown;
                }
                self.put_off(ours);
            }
        }
    }
}

impl LockedBatches {
    fn set(&self, held: &[HeldOutcome]) {
        let locked = held
            .iter()
            .filter(|one| one.locked)
            .filter_map(|one| one.finished.job.batch)
            .collect();
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = locked;
    }
}

/// Whether a smaller statement may succeed.
pub(super) fn is_slow(error: &LedgerError) -> bool {
    error.is_statement_timeout() || matches!(error, LedgerError::TimedOut { .. })
}

fn by_worker(held: Vec<HeldOutcome>) -> BTreeMap<WorkerId, Vec<HeldOutcome>> {
    let mut by_worker: BTreeMap<WorkerId, Vec<HeldOutcome>> = BTreeMap::new();
    for one in held {
        by_worker.entry(one.worker()).or_default().push(one);
    }
    by_worker
}

/// Cuts into portions of `most` at most.
fn portions<T>(mut rest: Vec<T>, most: usize) -> Vec<Vec<T>> {
    let mut portions = Vec::new();
    while rest.len() > most {
        let tail = rest.split_off(most);
        portions.push(std::mem::replace(&mut rest, tail));
    }
    portions.push(rest);
    portions
}
