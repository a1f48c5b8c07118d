//! Queues: counted, paused, resumed.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

use actix_web::http::StatusCode;
use holdfast_cache::{Class, Namespace};
use holdfast_core::config::{Durability, ServedBy};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Admin, Bound, Call, Produce, Read, Reply, json, ok};
use holdfast_jobs::ledger::{LedgerError, QueueStats, WorkerQueueStats};
use holdfast_jobs::limits::LimitsInForce;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job_view::durability_name;
use crate::limits::LimitsView;
use crate::state::ControlState;
use crate::workers::is_alive;

/// The cached answers of `GET /v1/queues`.
pub(crate) const CACHED: CachedRoute = CachedRoute {
    namespace: Namespace::raw(Class::ApiResponse, "queue-list", 1),
    lifetime: Lifetime::List,
};

/// One queue, counted.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Queue)]
pub struct QueueView {
    pub name: String,
    /// `ledger` or `redis`; null: the queue has jobs, but neither the configuration names it nor was it declared.
    #[schema(value_type = Option<String>)]
    pub durability: Option<Cow<'static, str>>,
    /// `rust` or `pull`: which workers run its jobs; null: it is neither configured nor declared.
    #[schema(value_type = Option<String>)]
    #[serde(default)]
    pub served_by: Option<Cow<'static, str>>,
    pub paused: bool,
    pub depth: DepthView,
    /// How long the oldest due job has waited, in seconds.
    pub oldest_age_seconds: f64,
    /// Seconds that the due jobs would take at the current rate; null while no job finishes. Limits are taken
    /// into account, jobs that are enqueued later are not.
    pub drain_seconds: Option<f64>,
    /// The figures of the living workers for this queue.
    pub rates: RateView,
    pub limits: LimitsView,
}

/// Jobs by state. Completed and cancelled ones are not counted: there may be millions.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = QueueDepth)]
pub struct DepthView {
    pub available: u64,
    pub scheduled: u64,
    pub retryable: u64,
    pub running: u64,
    pub discarded: u64,
}

/// Sums over the living workers.
#[derive(Debug, Default, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[schema(as = QueueRates)]
pub struct RateView {
    pub workers: usize,
    /// Outcomes a second, from the workers' last heartbeats.
    pub per_second: f64,
    /// Since the workers started.
    pub completed: u64,
    pub failed: u64,
}

impl RateView {
    pub(crate) fn add(&mut self, stats: &WorkerQueueStats) {
        self.workers += 1;
        self.per_second += stats.per_second;
        self.completed += stats.completed;
        self.failed += stats.failed;
    }

    /// `None`: nothing is done, so nobody can tell.
    fn drain_seconds(&self, available: u64) -> Option<f64> {
        if available == 0 {
            return Some(0.0);
        }
        (self.per_second > 0.0).then(|| available as f64 / self.per_second)
    }
}

impl QueueView {
    pub(crate) fn new(
        stats: QueueStats,
        durability: Option<Durability>,
        served_by: Option<ServedBy>,
        rates: RateView,
        limits: LimitsInForce,
    ) -> Self {
        let QueueStats {
            queue,
            paused,
            available,
            scheduled,
            retryable,
            running,
            discarded,
            oldest_age_seconds,
        } = stats;
        Self {
            name: queue,
            durability: durability.map(|durability| durability_name(durability).into()),
            served_by: served_by.map(|fleet| fleet.name().into()),
            paused,
            depth: DepthView {
                available,
                scheduled,
                retryable,
                running,
                discarded,
            },
            oldest_age_seconds,
            drain_seconds: rates.drain_seconds(available),
            rates,
            limits: limits.into(),
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct QueueList {
    pub queues: Vec<QueueView>,
}

/// The result of a request to pause or resume.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SteeredQueue {
    pub name: String,
    pub paused: bool,
}

/// The result of a request to wake the workers of a queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WokenQueue {
    pub name: String,
    pub rung: bool,
}

/// List queues
///
/// Every configured or declared queue and every other queue with jobs: depth by state, age of the oldest job, rates,
/// limits, and whether it is paused. Of a bound key, its queues.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", operation_id = "list_queues",
    responses(
        (status = 200, body = QueueList),
    ))]
pub(crate) async fn list(call: Call<Bound<Read>, ControlState>) -> Reply {
    let binding = call.allowed.binding().cloned();
    let is_shown = move |queue: &str| binding.as_ref().is_none_or(|binding| binding.allows_queue(queue));
    let list = |state: Arc<ControlState>| async move {
        let queues = views(&state, is_shown).await?;
        Ok::<_, LedgerError>(QueueList { queues })
    };
    call.cached(&CACHED, list).await
}

/// The queues whose names are to be shown.
async fn views(state: &ControlState, is_shown: impl Fn(&str) -> bool) -> Result<Vec<QueueView>, LedgerError> {
    let jobs = &state.jobs;
    let (stats, workers, mut limits) =
        tokio::try_join!(jobs.queue_stats(), jobs.workers(), jobs.limits().all())?;
    let mut rates: BTreeMap<String, RateView> = BTreeMap::new();
    for worker in workers.iter().filter(|worker| is_alive(worker, state.lost_after)) {
        for (queue, stats) in &worker.stats {
            rates.entry(queue.clone()).or_default().add(stats);
        }
    }
    let stats = stats.into_iter().filter(|stats| is_shown(&stats.queue));
    let queues = stats.map(|stats| {
        let served_by = jobs.fleet_of(&stats.queue);
        let configured = jobs.queues().get(&stats.queue).map(|queue| queue.durability);
        let durability = configured.or(served_by.map(|_| Durability::Ledger));
        let rates = rates.remove(&stats.queue).unwrap_or_default();
        let limits = limits.remove(&stats.queue).unwrap_or_default();
        QueueView::new(stats, durability, served_by, rates, limits)
    });
    Ok(queues.collect())
}

/// Show a queue
///
/// Also one that is neither configured nor declared, while it has jobs.
#[utoipa::path(get, path = "/v1/queues/{name}", tag = "queues", operation_id = "show_queue",
    params(("name" = String, Path, description = "The queue's name")),
    responses(
        (status = 200, body = QueueView),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn show(call: Call<Bound<Read>, ControlState>) -> Reply {
    let name = call.path("name");
    if let Some(binding) = call.allowed.binding() {
        binding.permit_queue("name", &name)?;
    }
    let queue = name.clone();
    let found = call.run(move |state| async move { views(&state, |shown| shown == queue).await });
    match found.await?.pop() {
        Some(view) => ok(&view),
        None => Err(unknown_queue(call.state(), &name).await?),
    }
}

/// Pause a queue
///
/// Workers claim no more jobs of the queue. Running jobs continue, and jobs are still accepted. A pause
/// survives restarts.
#[utoipa::path(post, path = "/v1/queues/{name}/pause", tag = "queues", operation_id = "pause_queue",
    params(("name" = String, Path, description = "A configured or declared queue")),
    responses(
        (status = 200, body = SteeredQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn pause(call: Call<Admin, ControlState>) -> Reply {
    steer(&call, true).await
}

/// Resume a queue
#[utoipa::path(post, path = "/v1/queues/{name}/resume", tag = "queues", operation_id = "resume_queue",
    params(("name" = String, Path, description = "A configured or declared queue")),
    responses(
        (status = 200, body = SteeredQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn resume(call: Call<Admin, ControlState>) -> Reply {
    steer(&call, false).await
}

/// Wake a queue's workers
///
/// For jobs that were enqueued by SQL (`holdfast.enqueue`), after the commit. Waiting workers look for jobs of the queue now, and not only
/// at their next poll. May be repeated; it is never needed for a job to run.
#[utoipa::path(post, path = "/v1/queues/{name}/ring", tag = "queues", operation_id = "ring_queue",
    params(("name" = String, Path, description = "A configured or declared queue")),
    responses(
        (status = 202, body = WokenQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn ring(call: Call<Bound<Produce>, ControlState>) -> Reply {
    let name = call.path("name");
    if let Some(binding) = call.allowed.binding() {
        binding.permit_queue("name", &name)?;
    }
    known_queue(call.state(), &name).await?;
    call.state().jobs.ring_for_all(&name);
    json(StatusCode::ACCEPTED, &WokenQueue { name, rung: true })
}

async fn steer(call: &Call<Admin, ControlState>, paused: bool) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    known_queue(call.state(), &name).await?;
    let queue = name.clone();
    let steered = call.run(move |state| async move {
        let steering = state.jobs.steer(&by);
        if paused {
            steering.pause(&queue).await
        } else {
            steering.resume(&queue).await
        }
    });
    steered.await?;
    call.context().responses.forget(&CACHED).await;
    ok(&SteeredQueue { name, paused })
}

/// Only a queue that the configuration names, or that was declared, can be steered.
pub(crate) async fn known_queue(state: &ControlState, name: &str) -> Result<(), Problem> {
    if state.jobs.queues().contains_key(name) {
        return Ok(());
    }
    let declared = state.declared().await?;
    if declared.queues.contains(name) {
        return Ok(());
    }
    Err(unknown_queue(state, name).await?)
}

/// The answer about a queue that there is not.
async fn unknown_queue(state: &ControlState, name: &str) -> Result<Problem, Problem> {
    let declared = state.declared().await?;
    let configured = state.jobs.queues().keys().map(String::as_str);
    let known: Vec<&str> = configured
        .chain(declared.queues.iter().map(|queue| &**queue))
        .take(LISTED)
        .collect();
    let reason = format!(
        "there is no queue {}; there are {}",
        quote(name),
        known.join(", ")
    );
    Ok(Problem::field(ProblemKind::QueueNotFound, "name", reason))
}

/// Most names that a refusal lists.
const LISTED: usize = 50;
