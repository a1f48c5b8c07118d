//! What a process remembers of pull workers. It only saves statements: without it, or in another process, the database is asked.
//!
//! # What is remembered
//! - Who registered a worker, and for which queues, for [`SESSION_FOR`] or as long as its lease is fresh.
//! - Which jobs it was given. While each of them is in the next pull's `have`, or was finished through this process, no reply was
//!   lost, and nobody asks the ledger what the worker holds: that question walks past every entry that the worker has left in an
//!   index since the last vacuum. A claim that was begun and not answered, a job that the client does not name, and [`LOOK_EVERY`]
//!   make the next pull ask.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::PullClient;
use crate::id::{JobId, WorkerId};
use crate::ledger::{RenewedLease, WorkerQueueStats};

/// How long a worker's row is taken for what it was, unless its lease is renewed through this process: renewals tell whether it is to
/// drain.
const SESSION_FOR: Duration = Duration::from_secs(2);

/// How often the ledger is asked in any case: a pull of the same worker may have claimed late in another process.
const LOOK_EVERY: Duration = Duration::from_secs(10);

/// Workers that are remembered. The one that was not heard of for longest is forgotten.
const MAX_KNOWN: usize = 10_000;

/// Jobs that one id should take at most, as for Rust workers: [`crate::worker::JOBS_PER_ID`].
const WORN_AFTER: u64 = crate::worker::JOBS_PER_ID;

/// A worker as its row has it.
#[derive(Debug, Clone)]
pub(super) struct Session {
    pub name: String,
    pub queues: Vec<Arc<str>>,
    pub client: PullClient,
    pub draining: bool,
}

#[derive(Debug)]
struct KnownWorker {
    session: Arc<Session>,
    read_at: Instant,
    heard_at: Instant,
    /// Given through this process, and not finished through it.
    given: HashSet<JobId>,
    /// Pulls under way.
    pulls: usize,
    /// Pulls that ended without an answer and may have claimed something; and how many of them a look has resolved.
    losses: u64,
    resolved: u64,
    looked_at: Option<Instant>,
    total: u64,
    ended: BTreeMap<Arc<str>, EndCounts>,
    reported_at: Instant,
    /// The row says that nothing runs and nothing has ended lately.
    reported_quiet: bool,
}

#[derive(Debug, Clone, Copy, Default)]
struct EndCounts {
    completed: u64,
    failed: u64,
    /// Since the last heartbeat.
    lately: u64,
}

#[derive(Debug)]
pub(super) struct Memory {
    workers: Mutex<HashMap<WorkerId, KnownWorker>>,
    /// So long after it was renewed a lease holds for certain, with a pause of the [renewals](super::renewals) to spare.
    fresh_for: Duration,
}

impl Memory {
    pub(super) fn new(lost_after: Duration) -> Self {
        Self {
            workers: Mutex::default(),
            fresh_for: lost_after * 3 / 4,
        }
    }

    fn workers(&self) -> MutexGuard<'_, HashMap<WorkerId, KnownWorker>> {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn change(&self, worker: WorkerId, change: impl FnOnce(&mut KnownWorker)) {
        if let Some(known) = self.workers().get_mut(&worker) {
            change(known);
        }
    }

    pub(super) fn session(&self, worker: WorkerId) -> Option<Arc<Session>> {
        let workers = self.workers();
        let known = workers.get(&worker)?;
        let is_current = known.read_at.elapsed() < SESSION_FOR || known.heard_at.elapsed() < self.fresh_for;
        is_current.then(|| Arc::clone(&known.session))
    }

    pub(super) fn is_known(&self, worker: WorkerId) -> bool {
        self.workers().contains_key(&worker)
    }

    pub(super) fn is_draining(&self, worker: WorkerId) -> bool {
        self.workers()
            .get(&worker)
            .is_some_and(|known| known.session.draining)
    }

    /// Whether the worker's lease holds for certain until the next renewal.
    pub(super) fn is_fresh(&self, worker: WorkerId) -> bool {
        self.heard_at(worker)
            .is_some_and(|heard_at| heard_at.elapsed() < self.fresh_for)
    }

    /// Whether the worker has nothing by what this process knows, and the ledger was not asked for a while.
    pub(super) fn is_idle(&self, worker: WorkerId) -> bool {
        self.workers().get(&worker).is_some_and(|known| {
            let is_due = known.looked_at.is_none_or(|at| at.elapsed() > LOOK_EVERY / 3);
            is_due && known.given.is_empty() && known.losses == known.resolved
        })
    }

    /// Whether the worker's row says all that there is to say of its figures.
    pub(super) fn is_quiet(&self, worker: WorkerId) -> bool {
        self.workers().get(&worker).is_some_and(|known| {
            known.reported_quiet
                && known.given.is_empty()
                && known.ended.values().all(|ended| ended.lately == 0)
        })
    }

    /// What a renewal that began then has answered; `was_asked`: also whether the worker has jobs.
    pub(super) fn renewed(&self, lease: &RenewedLease, began: Instant, was_asked: bool) {
        self.change(lease.worker, |known| {
            if lease.is_renewed {
                known.heard_at = began;
            }
            if known.session.draining != lease.draining {
                let mut session = Session::clone(&known.session);
                session.draining = lease.draining;
                known.session = Arc::new(session);
            }
            if lease.has_jobs {
                // It may have them from a pull that is under way: then the look finds nothing more.
                known.losses += 1;
            } else if was_asked {
                known.looked_at = Some(began);
            }
        });
    }

    pub(super) fn remember(&self, worker: WorkerId, session: &Arc<Session>) {
        let now = Instant::now();
        let mut workers = self.workers();
        if let Some(known) = workers.get_mut(&worker) {
            known.session = Arc::clone(session);
            known.read_at = now;
            return;
        }
        if workers.len() >= MAX_KNOWN
            && let Some(stalest) = workers
                .iter()
                .min_by_key(|(_, known)| known.heard_at)
                .map(|(id, _)| *id)
        {
            workers.remove(&stalest);
        }
        workers.insert(
            worker,
            KnownWorker {
                session: Arc::clone(session),
                read_at: now,
                heard_at: now,
                given: HashSet::new(),
                pulls: 0,
                losses: 0,
                resolved: 0,
                looked_at: None,
                total: 0,
                ended: BTreeMap::new(),
                reported_at: now,
                reported_quiet: false,
            },
        );
    }

    pub(super) fn forget(&self, worker: WorkerId) {
        self.workers().remove(&worker);
    }

    /// The worker's lease was renewed.
    pub(super) fn heard(&self, worker: WorkerId) {
        self.change(worker, |known| known.heard_at = Instant::now());
    }

    pub(super) fn heard_at(&self, worker: WorkerId) -> Option<Instant> {
        self.workers().get(&worker).map(|known| known.heard_at)
    }

    /// A pull begins.
    pub(super) fn begin(self: &Arc<Self>, worker: WorkerId) -> PendingPull {
        self.change(worker, |known| known.pulls += 1);
        PendingPull {
            memory: Arc::clone(self),
            worker,
            may_have_claimed: false,
        }
    }

    /// Whether the worker may hold a job that its client does not have. To be asked by a pull that has begun.
    pub(super) fn must_look(&self, worker: WorkerId, have: &HashSet<JobId>) -> bool {
        self.workers().get(&worker).is_none_or(|known| {
            let is_due = known.looked_at.is_none_or(|at| at.elapsed() > LOOK_EVERY);
            is_due || known.pulls > 1 || known.losses != known.resolved || !known.given.is_subset(have)
        })
    }

    /// Whether a pull has ended without an answer since the last look.
    pub(super) fn has_losses(&self, worker: WorkerId) -> bool {
        self.workers()
            .get(&worker)
            .is_some_and(|known| known.losses != known.resolved)
    }

    /// To be read before a look: what it resolves.
    pub(super) fn losses(&self, worker: WorkerId) -> u64 {
        self.workers().get(&worker).map_or(0, |known| known.losses)
    }

    /// The ledger has told what the worker holds beyond `have`: nothing more, or (`complete` is false) more than was read.
    pub(super) fn looked(&self, worker: WorkerId, have: &HashSet<JobId>, losses: u64, complete: bool) {
        self.change(worker, |known| {
            known.given.retain(|job| have.contains(job));
            known.looked_at = complete.then(Instant::now);
            if complete {
                known.resolved = losses;
            }
        });
    }

    /// These have ended, or are no longer the worker's.
    pub(super) fn finished<'j>(&self, worker: WorkerId, jobs: impl IntoIterator<Item = &'j JobId>) {
        self.change(worker, |known| {
            for job in jobs {
                known.given.remove(job);
            }
        });
    }

    /// For the worker's figures.
    pub(super) fn count(&self, worker: WorkerId, queue: &Arc<str>, completed: bool) {
        self.change(worker, |known| {
            let ended = known.ended.entry(Arc::clone(queue)).or_default();
            ended.lately += 1;
            if completed {
                ended.completed += 1;
            } else {
                ended.failed += 1;
            }
        });
    }

    /// The id has been given many jobs: statements that look for what it holds get slow.
    pub(super) fn is_worn(&self, worker: WorkerId) -> bool {
        self.workers()
            .get(&worker)
            .is_some_and(|known| known.total >= WORN_AFTER)
    }

    /// The figures of a heartbeat, as far as this process knows them.
    pub(super) fn stats(
        &self,
        worker: WorkerId,
        running: &BTreeMap<Arc<str>, u64>,
    ) -> BTreeMap<String, WorkerQueueStats> {
        let mut workers = self.workers();
        let Some(known) = workers.get_mut(&worker) else {
            return BTreeMap::new();
        };
        let seconds = known.reported_at.elapsed().as_secs_f64().max(0.001);
        known.reported_at = Instant::now();
        known.reported_quiet =
            running.values().all(|jobs| *jobs == 0) && known.ended.values().all(|ended| ended.lately == 0);
        let session = Arc::clone(&known.session);
        session
            .queues
            .iter()
            .map(|queue| {
                let ended = known.ended.entry(Arc::clone(queue)).or_default();
                let stats = WorkerQueueStats {
                    running: running.get(queue).copied().unwrap_or(0),
                    completed: ended.completed,
                    failed: ended.failed,
                    per_second: std::mem::take(&mut ended.lately) as f64 / seconds,
                    places: session.client.concurrency.into(),
                    process_places: session.client.concurrency.into(),
                };
                (queue.to_string(), stats)
            })
            .collect()
    }
}

/// A pull under way.
#[derive(Debug)]
pub(super) struct PendingPull {
    memory: Arc<Memory>,
    worker: WorkerId,
    may_have_claimed: bool,
}

impl PendingPull {
    /// A claim begins: from here on the pull may leave jobs behind.
    pub(super) fn claims(&mut self) {
        self.may_have_claimed = true;
    }

    /// No claim of this pull took anything.
    pub(super) fn took_nothing(&mut self) {
        self.may_have_claimed = false;
    }

    /// All that it claimed is in the answer.
    pub(super) fn gave(mut self, jobs: impl IntoIterator<Item = JobId>) {
        self.may_have_claimed = false;
        self.memory.change(self.worker, |known| {
            let before = known.given.len();
            known.given.extend(jobs);
            known.total += (known.given.len() - before) as u64;
        });
    }
}

impl Drop for PendingPull {
    fn drop(&mut self) {
        let lost = u64::from(self.may_have_claimed);
        self.memory.change(self.worker, |known| {
            known.pulls = known.pulls.saturating_sub(1);
            known.losses += lost;
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn known() -> (Memory, WorkerId) {
        let (memory, worker) = (Memory::new(Duration::from_secs(15)), WorkerId::generate());
        let session = Session {
            name: "w".to_owned(),
            queues: vec![Arc::from("media")],
            client: PullClient {
                owner: "k".to_owned(),
                client: super::super::ClientInfo::default(),
                concurrency: 1,
                kinds: None,
            },
            draining: false,
        };
        memory.remember(worker, &Arc::new(session));
        (memory, worker)
    }

    #[tokio::test(start_paused = true)]
    async fn the_ledger_is_asked_only_while_a_reply_may_have_been_lost() {
        let (memory, worker) = known();
        let memory = Arc::new(memory);
        let (one, two) = (JobId::generate(), JobId::generate());
        let none = HashSet::new();
        let mut pull = memory.begin(worker);
        assert!(memory.must_look(worker, &none), "the ledger was not asked yet");
        memory.looked(worker, &none, memory.losses(worker), true);
        pull.claims();
        pull.gave([one, two]);
        let pull = memory.begin(worker);
        assert!(!memory.must_look(worker, &HashSet::from([one, two])));
        assert!(
            memory.must_look(worker, &HashSet::from([one])),
            "the reply was lost"
        );
        memory.finished(worker, [&two]);
        assert!(
            !memory.must_look(worker, &HashSet::from([one])),
            "the other has ended"
        );
        drop(pull);
        assert!(
            !memory.must_look(worker, &HashSet::from([one])),
            "it has claimed nothing"
        );
        let mut pull = memory.begin(worker);
        pull.claims();
        drop(pull);
        assert!(
            memory.must_look(worker, &HashSet::from([one])),
            "a claim was not answered"
        );
        memory.looked(worker, &HashSet::from([one]), memory.losses(worker), true);
        assert!(!memory.must_look(worker, &HashSet::from([one])));
        tokio::time::advance(LOOK_EVERY + Duration::from_millis(1)).await;
        assert!(memory.must_look(worker, &HashSet::from([one])), "it is time");
        assert!(
            memory.must_look(WorkerId::generate(), &none),
            "of another process"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_renewal_tells_whether_an_idle_worker_has_jobs_and_is_to_drain() {
        let (memory, worker) = known();
        let memory = Arc::new(memory);
        let none = HashSet::new();
        let lease = RenewedLease {
            worker,
            is_renewed: true,
            draining: false,
            has_jobs: false,
        };
        assert!(memory.is_idle(worker), "the ledger was not asked yet");
        memory.renewed(&lease, Instant::now(), true);
        assert!(!memory.is_idle(worker), "the ledger was just asked");
        let pull = memory.begin(worker);
        assert!(!memory.must_look(worker, &none));
        tokio::time::advance(LOOK_EVERY / 2).await;
        assert!(memory.is_idle(worker) && memory.is_fresh(worker));
        let claimed_late = RenewedLease {
            draining: true,
            has_jobs: true,
            ..lease
        };
        memory.renewed(&claimed_late, Instant::now(), true);
        assert!(memory.must_look(worker, &none) && memory.has_losses(worker));
        assert!(memory.is_draining(worker));
        assert!(!memory.is_idle(worker), "its next pull looks");
        drop(pull);
        tokio::time::advance(Duration::from_secs(12)).await;
        assert!(!memory.is_fresh(worker) && memory.session(worker).is_none());
    }
}
