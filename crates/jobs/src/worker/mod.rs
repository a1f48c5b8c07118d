//! The worker: claims jobs, runs them in apalis workers, stores what became of them.
//!
//! # Parts
//! One [`lane`] for each queue. Its [`fetcher`]s claim from the ledger, and from the broker for a `redis` queue; its
//! apalis worker ([`crate::backend`]) runs them ([`runner`]); the [`finisher`]s store outcomes in batches. The
//! [`weighted_permits`] hands out the places that the lanes share, if they do. The
//! [`listener`] hears the bell and looks at the ledger when there is none. [`last_chances`] holds jobs whose next crash would
//! be their last. [`heartbeat`] keeps the leases, [`control`] brings cancellations and takes progress away, [`watchdog`] ends
//! a process that has gone deaf.
//!
//! # Invariants
//! - No task here ends because of an outage. Each retries by itself, and says so once.
//! - A job is held from its claim until its outcome is stored; a lane holds a bounded number, so an outage of the
//!   database bounds what waits for it.
//! - An outcome is written under the lease it was run under. If that lease was lost, the outcome is void.
//!
//! # Stopping
//! Fetchers stop; what waits in the buffers is handed back; what runs may go on for the grace period, then it is
//! dropped and handed back; outcomes are flushed; the worker's row goes. A second signal ends the process at once, and
//! the rescuer of another worker does the rest.

mod control;
mod departure;
mod fetcher;
mod finisher;
pub(crate) mod heartbeat;
mod held;
mod identity;
pub(crate) mod lane;
mod last_chances;
mod leased;
mod listener;
mod log;
mod moving;
mod outcome_batch;
mod runner;
mod running;
mod vitals;
mod watchdog;
mod weighted_permits;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::config::{Durability, Settings};
use holdfast_core::redis::RedisGate;
use holdfast_core::shutdown::Shutdown;
use tokio::sync::{OnceCell, Semaphore, mpsc};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::backend;
use crate::client::Jobs;
use crate::job::Resources;
use crate::ledger::LedgerError;
use crate::maintenance;
use finisher::Finishers;
use identity::Identity;
use lane::Lane;
use last_chances::LastChances;
use leased::LeaseBook;
use running::Running;
use vitals::Vitals;
use weighted_permits::Shares;

pub(crate) use identity::{JOBS_PER_ID, process_name};
pub(crate) use outcome_batch::replacement;
pub(crate) use runner::{Delivery, MISSING_KEY_PAUSE, execute};
pub use watchdog::{DEAF_EXIT_CODE, DependencyProbe, Watchdog};

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct WorkerParts {
    pub settings: Settings,
    pub jobs: Jobs,
    pub gate: RedisGate,
    pub resources: Resources,
}

/// A worker that has not started.
#[derive(Debug)]
pub struct Worker {
    shared: Arc<WorkerState>,
    finishers: Finishers,
}

/// What every part of a worker knows.
#[derive(Debug)]
pub(crate) struct WorkerState {
    pub settings: Settings,
    pub jobs: Jobs,
    pub gate: RedisGate,
    pub resources: Resources,
    pub identity: Identity,
    pub lanes: BTreeMap<Arc<str>, Arc<Lane>>,
    /// The places that all lanes share.
    pub shares: Shares,
    pub running: Running,
    pub leased: LeaseBook,
    paused: Mutex<BTreeSet<String>>,
    pub vitals: Vitals,
    /// Whether this process' configured limits stand in SQL; nothing is claimed before they do.
    limits_declared: OnceCell<()>,
    /// No new work.
    pub stop: Shutdown,
    /// The grace period is over: what still runs is dropped.
    pub abort: CancellationToken,
    /// One job at a time, in the whole process, runs for the last time before it would count as poison.
    pub last_chance: Arc<Semaphore>,
    /// Broker jobs whose outcomes the ledger refuses in every form, and that hold no place in a lane meanwhile.
    pub aside: Semaphore,
    /// The jobs that wait for it.
    pub last_chances: LastChances,
    pub outcomes: finisher::Outcomes,
    held_outcomes: held::HeldOutcomes,
}

impl WorkerState {
    /// As of the last control poll.
    pub(crate) fn is_paused(&self, queue: &str) -> bool {
        self.paused
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains(queue)
    }
}

impl WorkerState {
    /// Makes the configured limits known, once.
    pub(crate) async fn declare_limits(&self) -> Result<(), LedgerError> {
        self.limits_declared
            .get_or_try_init(async || self.jobs.limits().declare(&self.settings.queues).await)
            .await
            .copied()
    }
}

/// Why a worker ended before it was asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkerError {
    #[error("no queue to serve: worker.queues names none of the configured queues")]
    NoQueues,
    #[error("a part of the worker ended by itself: {0}")]
    PartEnded(String),
}

/// The least time for storing outcomes at the end, before the rest is left to the rescuer; kept free of the grace period.
const FLUSH_LIMIT: Duration = Duration::from_secs(3);

impl Worker {
    /// Call it inside tokio; it reaches nothing yet. `stop` ends the run.
    pub fn new(parts: WorkerParts, stop: Shutdown) -> Result<Self, WorkerError> {
        let WorkerParts {
            settings,
            jobs,
            gate,
            resources,
        } = parts;
        let weights = settings.served_queues().map(|(name, queue)| (name, queue.weight));
        let shares = Shares::new(settings.worker.concurrency, weights);
        let lanes: BTreeMap<Arc<str>, Arc<Lane>> = settings
            .served_queues()
            .map(|(name, queue)| {
                let lane = Lane::new(
                    name,
                    queue.durability,
                    queue.concurrency,
                    settings.worker.batch_size,
                );
                if let Some(ahead) = shares.ahead(name) {
                    lane.set_ahead(ahead);
                }
                (Arc::clone(&lane.name), lane)
            })
            .collect();
        if lanes.is_empty() {
            return Err(WorkerError::NoQueues);
        }
        let most: usize = lanes.values().map(|lane| lane.most()).sum();
        let (outcomes, finishers) = finisher::channels(most + last_chances::MOST, jobs.observers().clone());
        let shared = Arc::new(WorkerState {
            identity: Identity::new(),
            lanes,
            shares,
            running: Running::default(),
            leased: LeaseBook::default(),
            paused: Mutex::default(),
            vitals: Vitals::new(settings.worker.heartbeat, settings.worker.lost_after),
            limits_declared: OnceCell::new(),
            stop,
            abort: CancellationToken::new(),
            last_chance: Arc::new(Semaphore::new(1)),
            aside: Semaphore::new(held::ASIDE),
            last_chances: LastChances::default(),
            outcomes,
            held_outcomes: held::HeldOutcomes::default(),
            settings,
            jobs,
            gate,
            resources,
        });
        Ok(Self { shared, finishers })
    }

    /// Takes another id after about so many jobs, instead of 100,000: for tests of what happens then.
    #[must_use]
    pub fn renewing_its_id_after(self, jobs: u64) -> Self {
        self.shared.identity.set_jobs_per_id(jobs);
        self
    }

    /// For the health page and the watchdog.
    pub fn watchdog(&self) -> Watchdog {
        Watchdog::new(Arc::clone(&self.shared))
    }

    /// Runs until the stop signal, then winds down as the module says.
    ///
    /// # Errors
    /// Only for what should not be possible: a part that ended by itself. The process should exit non-zero.
    pub async fn run(self) -> Result<(), WorkerError> {
        let Self { shared, finishers } = self;
        let finishing = finishers.spawn(&shared);
        heartbeat::register_once(&shared).await;
        let mut keepers = JoinSet::new();
        keepers.spawn(heartbeat::run(Arc::clone(&shared)));
        keepers.spawn(control::run(Arc::clone(&shared)));
        keepers.spawn(maintenance::run(Arc::clone(&shared)));
        let mut sources = JoinSet::new();
        sources.spawn(listener::run_bell(Arc::clone(&shared)));
        sources.spawn(listener::run_lookout(Arc::clone(&shared)));
        sources.spawn(last_chances::run(Arc::clone(&shared)));
        let mut runners = JoinSet::new();
        for lane in shared.lanes.values() {
            let (deliveries, receiver) = mpsc::channel(lane.most());
            sources.spawn(fetcher::run_ledger(
                Arc::clone(&shared),
                Arc::clone(lane),
                deliveries.clone(),
            ));
            if lane.durability == Durability::Redis && shared.jobs.broker().is_some() {
                sources.spawn(fetcher::run_broker(
                    Arc::clone(&shared),
                    Arc::clone(lane),
                    deliveries,
                ));
            }
            runners.spawn(backend::run_lane(Arc::clone(&shared), Arc::clone(lane), receiver));
        }
        tracing::info!(worker = %shared.identity.name(), queues = ?shared.lanes.keys().collect::<Vec<_>>(), "working");

        let failed = tokio::select! {
            biased;
            () = shared.stop.wait() => None,
            Some(ended) = sources.join_next() => Some(ended),
            Some(ended) = keepers.join_next() => Some(ended),
            Some(ended) = runners.join_next() => Some(ended),
        };
        shared.stop.trigger();
        let stopped_at = Instant::now();
        wind_down(&shared, sources, runners).await;
        // The leases are kept until the outcomes are stored: with the ledger away, for all of the grace period.
        let left = shared.settings.server.grace.saturating_sub(stopped_at.elapsed());
        finishing.close(&shared, left.max(FLUSH_LIMIT)).await;
        drop(keepers);
        heartbeat::deregister(&shared).await;
        match failed {
            None => Ok(()),
            Some(Err(error)) => Err(WorkerError::PartEnded(error.to_string())),
            Some(Ok(())) => Err(WorkerError::PartEnded("it returned".to_owned())),
        }
    }
}

/// Lets the runners finish within the grace period, then drops what is left.
async fn wind_down(shared: &WorkerState, mut sources: JoinSet<()>, mut runners: JoinSet<()>) {
    let grace = shared.settings.server.grace.saturating_sub(FLUSH_LIMIT);
    let finished = async {
        while sources.join_next().await.is_some() {}
        while runners.join_next().await.is_some() {}
    };
    tokio::pin!(finished);
    if tokio::time::timeout(grace, &mut finished).await.is_err() {
        tracing::warn!(
            jobs = shared.running.count(),
            "the grace period has ended: returning running jobs"
        );
        shared.abort.cancel();
        if tokio::time::timeout(FLUSH_LIMIT, finished).await.is_err() {
            tracing::error!("some jobs could not be stopped; they will be rescued");
        }
    }
}
