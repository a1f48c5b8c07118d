//! The kinds that this server knows, with the retry policy that counts for each.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_jobs::{Jobs, Kind, RetryPolicy};
use serde::Serialize;
use utoipa::ToSchema;

use super::view::ProblemBody;
use crate::auth::{Allowed, Read};
use crate::params::Params;
use crate::problem::Problem;
use crate::state::{State, json};

/// How often a job is tried, and how long it rests in between.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = RetryPolicy)]
pub(crate) struct PolicyView {
    /// Executions at most, the first included.
    max_attempts: u32,
    /// Longest rest after the first failure, doubled after each further one.
    base_seconds: f64,
    /// Longest rest at all.
    cap_seconds: f64,
    /// Each rest is drawn evenly from zero to its longest.
    jitter: bool,
}

impl From<RetryPolicy> for PolicyView {
    fn from(policy: RetryPolicy) -> Self {
        Self {
            max_attempts: policy.max_attempts,
            base_seconds: policy.backoff.base.as_secs_f64(),
            cap_seconds: policy.backoff.cap.as_secs_f64(),
            jitter: policy.backoff.jitter,
        }
    }
}

/// A kind of job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Kind)]
pub(crate) struct KindView {
    kind: &'static str,
    /// Where its jobs go unless they say otherwise.
    queue: &'static str,
    /// Longest one attempt may take, unless a job says otherwise.
    timeout_seconds: f64,
    /// What counts for its jobs on its own queue, unless they say otherwise.
    retry: PolicyView,
    /// What counts instead on queues that have a policy of their own.
    retry_on: BTreeMap<String, PolicyView>,
}

impl KindView {
    fn of(kind: &Kind, jobs: &Jobs) -> Self {
        let policy = |queue: &str| PolicyView::from(jobs.retries().of(kind.name, kind.retry, queue));
        let overruling = jobs
            .queues()
            .keys()
            .filter(|queue| jobs.retries().is_overruled_on(queue) && *queue != kind.queue);
        Self {
            kind: kind.name,
            queue: kind.queue,
            timeout_seconds: kind.timeout.unwrap_or(jobs.default_timeout()).as_secs_f64(),
            retry: policy(kind.queue),
            retry_on: overruling.map(|queue| (queue.clone(), policy(queue))).collect(),
        }
    }
}

/// Every kind.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct KindList {
    kinds: Vec<KindView>,
}

/// List kinds
///
/// What this server can enqueue, with the retry policy that counts: of the kind's configuration, its queue's, the kind's
/// code, or the default, part by part.
#[utoipa::path(get, path = "/v1/kinds", tag = "kinds", operation_id = "list_kinds",
    responses(
        (status = 200, body = KindList),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json",
            description = "unavailable: the API key cannot be looked up"),
    ),
    security(("api_key" = ["read"])))]
pub(crate) async fn list(
    _: Allowed<Read>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let jobs = &state.jobs;
    let kinds = jobs
        .registry()
        .kinds()
        .map(|kind| KindView::of(kind, jobs))
        .collect();
    json(StatusCode::OK, &KindList { kinds })
}
