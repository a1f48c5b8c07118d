//! Queues and the workers that serve them.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_jobs::audit::By;
use holdfast_jobs::ledger::{LedgerError, WorkerRecord};

use super::view::{ProblemBody, QueueList, QueueView, RateView, SteeredQueue, WorkerList, WorkerView};
use crate::auth::{Admin, Allowed, Read};
use crate::params::{Params, path_name};
use crate::problem::{Problem, ProblemKind, quote};
use crate::responses::Cached;
use crate::state::{State, json};

/// List queues
///
/// Every configured queue, and every other one that holds jobs: depth by state, oldest age, rates, limits, paused or not.
#[utoipa::path(get, path = "/v1/queues", tag = "queues", operation_id = "list_queues",
    responses(
        (status = 200, body = QueueList),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["read"])))]
pub(crate) async fn list(
    allowed: Allowed<Read>,
    state: web::Data<State>,
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
    state
        .cached(&request, allowed.caller(), Cached::Queues, list)
        .await
}

/// Pause a queue
///
/// No worker takes a job from it any more; what runs goes on, and jobs are still accepted. It survives restarts.
#[utoipa::path(post, path = "/v1/queues/{name}/pause", tag = "queues", operation_id = "pause_queue",
    params(("name" = String, Path, description = "A queue that the configuration names")),
    responses(
        (status = 200, body = SteeredQueue),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "queue-not-found"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn pause(
    allowed: Allowed<Admin>,
    state: web::Data<State>,
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
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "queue-not-found"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn resume(
    allowed: Allowed<Admin>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    steer(&state, allowed.by(&request), path_name(&request), false).await
}

async fn steer(state: &State, by: By, name: String, paused: bool) -> Result<HttpResponse, Problem> {
    known_queue(state, &name)?;
    let (jobs, queue) = (state.jobs.clone(), name.clone());
    state
        .on_runtime(async move {
            if paused {
                jobs.steer(&by).pause(&queue).await
            } else {
                jobs.steer(&by).resume(&queue).await
            }
        })
        .await?;
    state.responses.forget(Cached::Queues).await;
    json(StatusCode::OK, &SteeredQueue { name, paused })
}

/// Only a queue that the configuration names can be steered.
pub(super) fn known_queue(state: &State, name: &str) -> Result<(), Problem> {
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

/// List workers
///
/// Who is alive and what it runs. A worker that was lost stays listed until its jobs are rescued.
#[utoipa::path(get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    responses(
        (status = 200, body = WorkerList),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["read"])))]
pub(crate) async fn workers(
    allowed: Allowed<Read>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (jobs, lost_after) = (state.jobs.clone(), state.lost_after);
    let list = async move {
        let workers = jobs.workers().await?.into_iter().map(|record| {
            let alive = is_alive(&record, lost_after);
            WorkerView::new(record, alive)
        });
        Ok::<_, LedgerError>(WorkerList {
            workers: workers.collect(),
        })
    };
    state
        .cached(&request, allowed.caller(), Cached::Workers, list)
        .await
}

fn is_alive(worker: &WorkerRecord, lost_after: std::time::Duration) -> bool {
    worker.seen_seconds_ago < lost_after.as_secs_f64()
}
