//! Queues: counted, paused, resumed.

use std::borrow::Cow;
use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_cache::{Class, Namespace};
use holdfast_core::config::Durability;
use holdfast_http::json;
use holdfast_http::params::{Params, path_name};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Admin, Allowed, Read};
use holdfast_jobs::audit::By;
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
    /// `ledger` or `redis`; null: the queue has jobs, but the configuration does not name it.
    #[schema(value_type = Option<String>)]
    pub durability: Option<Cow<'static, str>>,
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

/// List queues
///
/// Every configured queue and every other queue with jobs: depth by state, age of the oldest job, rates,
/// limits, and whether it is paused.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", operation_id = "list_queues",
    responses(
        (status = 200, body = QueueList),
    ))]
pub(crate) async fn list(
    allowed: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (jobs, lost_after) = (state.jobs.clone(), state.lost_after);
    let list = async move {
        let (stats, workers, mut limits) =
            tokio::try_join!(jobs.queue_stats(), jobs.workers(), jobs.limits().all())?;
        let mut rates: BTreeMap<String, RateView> = BTreeMap::new();
        for worker in workers.iter().filter(|worker| is_alive(worker, lost_after)) {
            for (queue, stats) in &worker.stats {
                rates.entry(queue.clone()).or_default().add(stats);
            }
        }
        let queues = stats.into_iter().map(|stats| {
            let durability = jobs.queues().get(&stats.queue).map(|queue| queue.durability);
            let rates = rates.remove(&stats.queue).unwrap_or_default();
            let limits = limits.remove(&stats.queue).unwrap_or_default();
            QueueView::new(stats, durability, rates, limits)
        });
        Ok::<_, LedgerError>(QueueList {
            queues: queues.collect(),
        })
    };
    state.http.cached(&request, allowed.caller(), &CACHED, list).await
}

/// Pause a queue
///
/// Workers claim no more jobs of the queue. Running jobs continue, and jobs are still accepted. A pause
/// survives restarts.
#[utoipa::path(post, path = "/v1/queues/{name}/pause", tag = "queues", operation_id = "pause_queue",
    params(("name" = String, Path, description = "A queue that the configuration names")),
    responses(
        (status = 200, body = SteeredQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn pause(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    steer(&state, allowed.by(&request), path_name(&request), true).await
}

/// Resume a queue
#[utoipa::path(post, path = "/v1/queues/{name}/resume", tag = "queues", operation_id = "resume_queue",
    params(("name" = String, Path, description = "A queue that the configuration names")),
    responses(
        (status = 200, body = SteeredQueue),
        (status = 404, description = "queue-not-found"),
    ))]
pub(crate) async fn resume(
    allowed: Allowed<Admin>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    steer(&state, allowed.by(&request), path_name(&request), false).await
}

async fn steer(state: &ControlState, by: By, name: String, paused: bool) -> Result<HttpResponse, Problem> {
    known_queue(state, &name)?;
    let (jobs, queue) = (state.jobs.clone(), name.clone());
    state
        .http
        .on_runtime(async move {
            if paused {
                jobs.steer(&by).pause(&queue).await
            } else {
                jobs.steer(&by).resume(&queue).await
            }
        })
        .await?;
    state.http.responses.forget(&CACHED).await;
    json(StatusCode::OK, &SteeredQueue { name, paused })
}

/// Only a queue that the configuration names can be steered.
pub(crate) fn known_queue(state: &ControlState, name: &str) -> Result<(), Problem> {
    if !state.jobs.queues().contains_key(name) {
        let known: Vec<_> = state.jobs.queues().keys().map(String::as_str).collect();
        let reason = format!(
            "{} is not among the configured queues: {}",
            quote(name),
            known.join(", ")
        );
        return Err(Problem::field(ProblemKind::QueueNotFound, "name", reason));
    }
    Ok(())
}
