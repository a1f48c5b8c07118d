//! How many workers the queues need: [`Jobs::scaling`], for autoscalers.
//!
//! Figures come from what is stored anyway: counts by minute and depths by minute ([`statistics`](crate::statistics)), the workers' rows,
//! limits and pauses. The only question to the table of jobs is the one that idle workers ask: whether a job of a queue is due. The costs
//! depend on queues, kinds and processes, not on the number of jobs.
//!
//! # Invariants
//! - Figures that cannot be trusted (old depths, an outage) never advise fewer places or replicas than there are. They may advise more.
//! - Advice never takes the place of a running job ([`Demand::desired_places`]).
//! - A running job is one that occupies a place: claimed jobs that wait in the buffer of a worker count as waiting.
//!
//! # When things fail
//! - *The database is unavailable*: there is no answer, and so no advice.
//! - *No process writes depths* (none ran a job, or was given one, for ten minutes): they get old, and are not trusted. A queue with a due
//!   job is advised a place even then.

mod demand;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::ServedBy;

pub use demand::{ASSUMED_RUN, Demand, replicas};

use crate::client::Jobs;
use crate::ledger::{LedgerError, WorkerRecord};
use crate::limits::LimitsInForce;
use crate::statistics::{LoadReport, QueueLoad, mean};

/// Depths are counted at the start of each minute, and counting may take some seconds. Older ones were left out at least once.
pub const STALE_AFTER: Duration = Duration::from_secs(150);

/// Why figures are not trusted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distrust {
    /// No depths of the last hour are stored.
    NoDepths,
    /// They are older than [`STALE_AFTER`].
    OldDepths,
    /// This process cannot use Redis: depths of `redis` queues are incomplete.
    RedisUnavailable,
    /// The database has just refused statements of this process.
    DatabaseUnavailable,
}

impl Distrust {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NoDepths => "no-depths",
            Self::OldDepths => "old-depths",
            Self::RedisUnavailable => "redis-unavailable",
            Self::DatabaseUnavailable => "database-unavailable",
        }
    }
}

/// The living workers of a queue or a fleet, without those that drain.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Capacity {
    pub workers: u64,
    /// Jobs that they may run concurrently.
    pub places: u64,
}

/// The figures of a queue or a fleet, and what follows from them.
#[derive(Debug, Clone, PartialEq)]
pub struct ScalingNeed {
    pub demand: Demand,
    pub capacity: Capacity,
    pub desired_places: u64,
    pub desired_replicas: u64,
}

/// What an autoscaler asks for.
#[derive(Debug, Clone)]
pub struct ScalingReport {
    /// The minute in which the depths were counted; `None`: there are none.
    pub as_of: Option<DateTime<Utc>>,
    /// Age of the depths by the database's clock.
    pub age: Option<Duration>,
    /// Rates are taken over this time.
    pub window: Duration,
    /// Empty: the figures are trusted.
    pub distrust: Vec<Distrust>,
    pub queues: BTreeMap<String, ScalingNeed>,
    /// By [`ServedBy::name`]: the queues and workers of Rust, and those that pull.
    pub fleets: BTreeMap<&'static str, ScalingNeed>,
}

impl Jobs {
    /// The figures of the queues that `is_shown` accepts, and of their fleets. A backlog is to be gone after `drain`; a worker that was silent
    /// for `lost_after` does not count.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn scaling(
        &self,
        drain: Duration,
        lost_after: Duration,
        is_shown: impl Fn(&str) -> bool,
    ) -> Result<ScalingReport, LedgerError> {
        let (load, workers, paused, limits, declared) = tokio::try_join!(
            self.statistics().load(),
            self.workers(),
            self.ledger().paused_queues(),
            self.limits().all(),
            self.declared().current(),
        )?;
        let counted = load.queues.iter().filter(|(_, load)| load.gauge.is_some());
        let names: BTreeSet<String> = (self.queues().keys())
            .chain(counted.map(|(name, _)| name))
            .cloned()
            .chain(declared.queues.iter().map(ToString::to_string))
            .filter(|name| is_shown(name))
            .collect();
        let names: Vec<String> = names.into_iter().collect();
        let due = self.ledger().peek(&names).await?;
        let workers: Vec<WorkerRecord> = workers
            .into_iter()
            .filter(|worker| worker.seen_seconds_ago < lost_after.as_secs_f64() && !worker.draining)
            .collect();
        let distrust = self.distrust(&load);
        let mut queues = BTreeMap::new();
        for name in names {
            let capacity = capacity_of(&workers, &name);
            let demand = Demand {
                has_due_job: due.get(&name).is_some_and(Duration::is_zero),
                paused: paused.contains(&name),
                limit: limits.get(&name).and_then(max_running),
                ..demand_of(load.queues.get(&name), load.window, capacity)
            };
            let configured = self.queues().get(&name).map_or(1, |queue| queue.concurrency);
            let is_rust = self.fleet_of(&name) == Some(ServedBy::Rust);
            let places_each = places_each(capacity, if is_rust { configured as f64 } else { 1.0 });
            queues.insert(
                name,
                ScalingNeed::new(demand, capacity, places_each, drain, &distrust),
            );
        }
        let fleets = [ServedBy::Rust, ServedBy::Pull].map(|fleet| {
            let of_fleet = queues
                .iter()
                .filter(|(name, _)| self.fleet_of(name) == Some(fleet));
            (
                fleet.name(),
                fleet_of(&of_fleet.collect::<Vec<_>>(), &workers, &distrust),
            )
        });
        Ok(ScalingReport {
            as_of: load.depths_at,
            age: load
                .depths_at
                .map(|at| (load.now - at).to_std().unwrap_or_default()),
            window: load.window,
            distrust,
            queues,
            fleets: fleets.into(),
        })
    }

    fn distrust(&self, load: &LoadReport) -> Vec<Distrust> {
        let [redis, database] = self.statistics().modes();
        let depths = match load.depths_at {
            None => Some(Distrust::NoDepths),
            Some(at) => {
                let age = (load.now - at).to_std().unwrap_or_default();
                (age > STALE_AFTER).then_some(Distrust::OldDepths)
            }
        };
        let redis = redis.is_degraded().then_some(Distrust::RedisUnavailable);
        let database = database.is_degraded().then_some(Distrust::DatabaseUnavailable);
        [depths, redis, database].into_iter().flatten().collect()
    }
}

impl ScalingNeed {
    fn new(
        demand: Demand,
        capacity: Capacity,
        places_each: f64,
        drain: Duration,
        distrust: &[Distrust],
    ) -> Self {
        let desired_places = demand.desired_places(drain);
        Self {
            demand,
            capacity,
            desired_places,
            desired_replicas: replicas(desired_places, places_each),
        }
        .trusted_or_not_less(distrust)
    }

    /// Figures that are not trusted advise no less than there is.
    fn trusted_or_not_less(mut self, distrust: &[Distrust]) -> Self {
        if !distrust.is_empty() {
            self.desired_places = self.desired_places.max(self.capacity.places);
            self.desired_replicas = self.desired_replicas.max(self.capacity.workers);
        }
        self
    }
}

fn max_running(limits: &LimitsInForce) -> Option<u64> {
    limits.effective().max_running.map(u64::from)
}

/// Places of one worker; `assumed`: while there is none to ask.
fn places_each(capacity: Capacity, assumed: f64) -> f64 {
    if capacity.workers > 0 && capacity.places > 0 {
        capacity.places as f64 / capacity.workers as f64
    } else {
        assumed
    }
}

fn capacity_of(workers: &[WorkerRecord], queue: &str) -> Capacity {
    let serving = workers
        .iter()
        .filter(|worker| worker.queues.iter().any(|name| name == queue));
    serving.fold(Capacity::default(), |sum, worker| Capacity {
        workers: sum.workers + 1,
        places: sum.places + worker.stats.get(queue).map_or(0, |stats| stats.places),
    })
}

fn demand_of(load: Option<&QueueLoad>, window: Duration, capacity: Capacity) -> Demand {
    let load = load.cloned().unwrap_or_default();
    let per_second = |count: u64| count as f64 / window.as_secs_f64().max(1.0);
    let counts = &load.counts;
    let (available, claimed) = load
        .gauge
        .map_or((0, 0), |gauge| (gauge.available, gauge.running));
    let running = claimed.min(capacity.places);
    Demand {
        // A retry is an arrival too.
        arrivals_per_second: per_second(counts.enqueued + counts.retried),
        completions_per_second: per_second(counts.completed + counts.failed() + counts.cancelled),
        run_seconds: mean(&counts.run).map(|mean| mean.as_secs_f64()),
        waiting: available + (claimed - running),
        running,
        oldest_age_seconds: load.gauge.map_or(0.0, |gauge| gauge.oldest_age.as_secs_f64()),
        ..Demand::default()
    }
}

/// The sums of the queues. Workers whose lanes do not share places need as many replicas as the neediest queue; workers that do, as many as
/// all places together.
fn fleet_of(
    queues: &[(&String, &ScalingNeed)],
    workers: &[WorkerRecord],
    distrust: &[Distrust],
) -> ScalingNeed {
    let mut demand = Demand::default();
    let (mut desired_places, mut desired_replicas, mut ran, mut run_seconds) = (0, 0, 0.0, 0.0);
    for (_, queue) in queues {
        let of = &queue.demand;
        demand.arrivals_per_second += of.arrivals_per_second;
        demand.completions_per_second += of.completions_per_second;
        demand.waiting += of.waiting;
        demand.running += of.running;
        demand.oldest_age_seconds = demand.oldest_age_seconds.max(of.oldest_age_seconds);
        demand.has_due_job |= of.has_due_job;
        if let Some(run) = of.run_seconds {
            let weight = of.completions_per_second.max(f64::MIN_POSITIVE);
            ran += weight;
            run_seconds += run * weight;
        }
        desired_places += queue.desired_places;
        desired_replicas = desired_replicas.max(queue.desired_replicas);
    }
    demand.run_seconds = (ran > 0.0).then(|| run_seconds / ran);
    let serves = |worker: &&WorkerRecord| {
        let mut names = queues.iter().map(|(name, _)| *name);
        names.any(|name| worker.queues.contains(name))
    };
    let places_of = |worker: &WorkerRecord| {
        let stats = worker.stats.values();
        stats.map(|stats| stats.process_places).max().unwrap_or(0)
    };
    let capacity = workers
        .iter()
        .filter(serves)
        .fold(Capacity::default(), |sum, worker| Capacity {
            workers: sum.workers + 1,
            places: sum.places + places_of(worker),
        });
    if capacity.places > 0 {
        desired_replicas = desired_replicas.max(replicas(desired_places, places_each(capacity, 1.0)));
    }
    ScalingNeed {
        demand,
        capacity,
        desired_places,
        desired_replicas,
    }
    .trusted_or_not_less(distrust)
}
