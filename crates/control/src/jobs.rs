//! Following jobs and steering them.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_core::config::Durability;
use holdfast_http::json;
use holdfast_http::params::{Params, path_id};
use holdfast_http::problem::{Problem, ProblemKind, bad_cursor};
use holdfast_http::{Allowed, Produce, Read};
use holdfast_jobs::ledger::{CancelReply, JobFilter, JobRecord, LedgerError, RetryReply};
use holdfast_jobs::{BatchId, JobId, Jobs, State as JobState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::job_view::JobView;
use crate::state::ControlState;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Longest name in a filter, in bytes.
const MAX_NAME: usize = 255;

/// Rows read at once while a page is filled.
const CHUNK: usize = 100;

/// A page that holds so many bytes of payloads, results and errors ends early; the next one goes on.
const PAGE_BYTES: usize = 8 * 1024 * 1024;

/// One page of jobs, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobPage {
    pub jobs: Vec<JobView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    pub next: Option<JobId>,
}

/// The result of a request to cancel or retry.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct SteeredJob {
    #[schema(value_type = String)]
    pub id: JobId,
    /// The job's current state. `running` after a cancellation: it was asked to stop.
    #[schema(value_type = String, example = "cancelled")]
    pub state: JobState,
}

/// Show a job
///
/// With `wait` the response is sent when the job is final, or after that many seconds.
#[utoipa::path(get, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "show_job",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("wait" = Option<f64>, Query, description = "Seconds to wait for the job to be final, 60 at most unless \
            the server is configured otherwise"),
    ),
    responses(
        (status = 200, body = JobView),
        (status = 400, description = "invalid-id, invalid-parameter"),
        (status = 404, description = "job-not-found: unknown, or already deleted"),
    ))]
pub(crate) async fn show(
    allowed: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = path_id::<JobId>(&request)?;
    let mut params = Params::of(&request, &["wait"]);
    let wait = params
        .seconds("wait", state.http.max_wait)
        .unwrap_or(Duration::ZERO);
    params.finish()?;
    let (jobs, stopping) = (state.jobs.clone(), state.http.stopping.clone());
    let found = state
        .http
        .on_runtime(async move {
            let found = tokio::select! {
                found = look(&jobs, id, wait) => found?,
                () = stopping.cancelled(), if !wait.is_zero() => jobs.get(id).await?,
            };
            Ok::<_, LedgerError>(match found {
                Some(record) => Some(viewed(&jobs, record).await),
                None => None,
            })
        })
        .await?;
    let mut found = found.ok_or_else(|| not_found(id))?;
    if !allowed.sees_secrets() {
        found.redact(state.redactor);
    }
    json(StatusCode::OK, &found)
}

async fn look(jobs: &Jobs, id: JobId, wait: Duration) -> Result<Option<JobRecord>, LedgerError> {
    if wait.is_zero() {
        jobs.get(id).await
    } else {
        jobs.wait(id, wait).await
    }
}

/// A job of a `redis` queue lives in the ledger if the broker could not take it, or once it has failed.
async fn viewed(jobs: &Jobs, record: JobRecord) -> JobView {
    let redis = jobs
        .queues()
        .get(&record.queue)
        .is_some_and(|queue| queue.durability == Durability::Redis);
    let durability = if redis && !matches!(jobs.ledger().get(record.id).await, Ok(Some(_))) {
        Durability::Redis
    } else {
        Durability::Ledger
    };
    JobView::new(record, durability)
}

/// List jobs
///
/// In pages, newest first. Jobs that are stored on the broker are not listed. A page may be shorter than
/// `limit` if its jobs are large; `next` is set if there are more.
#[utoipa::path(get, path = "/v1/jobs", tag = "jobs", operation_id = "list_jobs",
    params(
        ("queue" = Option<String>, Query, description = "Only this queue"),
        ("state" = Option<String>, Query,
            description = "scheduled, available, running, retryable, completed, discarded or cancelled"),
        ("kind" = Option<String>, Query, description = "Only this kind"),
        ("batch" = Option<String>, Query, description = "Only jobs of the batch with this id"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = JobPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(
    allowed: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let filter = filter(&request)?;
    let jobs = state.jobs.clone();
    let mut page = state
        .http
        .on_runtime(async move { page(&jobs, filter).await })
        .await?;
    if !allowed.sees_secrets() {
        page.jobs.iter_mut().for_each(|job| job.redact(state.redactor));
    }
    json(StatusCode::OK, &page)
}

fn filter(request: &HttpRequest) -> Result<JobFilter, Problem> {
    let mut params = Params::of(request, &["queue", "state", "kind", "batch", "after", "limit"]);
    let state = params.parsed::<JobState>("state");
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let queue = name(&mut params, "queue");
    let kind = name(&mut params, "kind");
    let batch = params.parsed::<BatchId>("batch");
    let cursor = params.text("after").map(ToOwned::to_owned);
    params.finish()?;
    let after = cursor
        .map(|text| text.parse::<JobId>().map_err(|_| bad_cursor(&text)))
        .transpose()?;
    Ok(JobFilter {
        queue,
        state,
        kind,
        batch,
        after,
        limit,
    })
}

fn name(params: &mut Params, parameter: &str) -> Option<String> {
    let text = params.text(parameter)?.to_owned();
    if text.len() > MAX_NAME {
        params.fault(parameter, format!("longer than {MAX_NAME} bytes"));
        return None;
    }
    Some(text)
}

/// Reads chunks until the page is full of jobs, or of bytes.
async fn page(jobs: &Jobs, filter: JobFilter) -> Result<JobPage, LedgerError> {
    let mut found: Vec<JobView> = Vec::new();
    let mut bytes = 0;
    let mut after = filter.after;
    loop {
        // One more than fits tells whether there is a next page.
        let limit = CHUNK.min(filter.limit + 1 - found.len());
        let chunk = jobs
            .list(&JobFilter {
                after,
                limit,
                ..filter.clone()
            })
            .await?;
        let is_last = chunk.len() < limit;
        for record in chunk {
            let job = JobView::new(record, Durability::Ledger);
            if found.len() == filter.limit || (bytes > PAGE_BYTES && !found.is_empty()) {
                let next = found.last().map(JobView::id);
                return Ok(JobPage { jobs: found, next });
            }
            bytes += job.weight();
            after = Some(job.id());
            found.push(job);
        }
        if is_last {
            return Ok(JobPage {
                jobs: found,
                next: None,
            });
        }
    }
}

/// Cancel a job
///
/// A waiting job never runs; a running one is asked to stop, and its state stays `running` until it does.
/// Cancelling a cancelled job again changes nothing.
#[utoipa::path(post, path = "/v1/jobs/{id}/cancel", tag = "jobs", operation_id = "cancel_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = SteeredJob, description = "It will never run"),
        (status = 202, body = SteeredJob, description = "It is running and was asked to stop"),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "job-not-found"),
        (status = 409, description = "illegal-transition: it has ended"),
    ))]
pub(crate) async fn cancel(
    allowed: Allowed<Produce>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (jobs, id, by) = (
        state.jobs.clone(),
        path_id::<JobId>(&request)?,
        allowed.by(&request),
    );
    let reply = state
        .http
        .on_runtime(async move { jobs.steer(&by).cancel(id).await })
        .await?;
    match reply.ok_or_else(|| not_found(id))? {
        CancelReply::Cancelled | CancelReply::AlreadyFinal(JobState::Cancelled) => json(
            StatusCode::OK,
            &SteeredJob {
                id,
                state: JobState::Cancelled,
            },
        ),
        CancelReply::Requested => json(
            StatusCode::ACCEPTED,
            &SteeredJob {
                id,
                state: JobState::Running,
            },
        ),
        CancelReply::AlreadyFinal(state) => Err(refused(
            id,
            state,
            "only a job that has not ended can be cancelled",
        )),
    }
}

/// Retry a job
///
/// Makes a discarded or delayed job available now.
#[utoipa::path(post, path = "/v1/jobs/{id}/retry", tag = "jobs", operation_id = "retry_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = SteeredJob, description = "It is available"),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "job-not-found"),
        (status = 409, description = "illegal-transition: it is running, completed or cancelled, or its unique key is taken"),
    ))]
pub(crate) async fn retry(
    allowed: Allowed<Produce>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (jobs, id, by) = (
        state.jobs.clone(),
        path_id::<JobId>(&request)?,
        allowed.by(&request),
    );
    let reply = state
        .http
        .on_runtime(async move { jobs.steer(&by).retry(id).await })
        .await?;
    match reply.ok_or_else(|| not_found(id))? {
        RetryReply::Available { .. } => json(
            StatusCode::OK,
            &SteeredJob {
                id,
                state: JobState::Available,
            },
        ),
        RetryReply::Refused(state) => Err(refused(
            id,
            state,
            "only a job that waits or is discarded can be retried",
        )),
        RetryReply::UniqueKeyTaken => {
            Err(Problem::new(ProblemKind::IllegalTransition, RetryReply::UNIQUE_KEY_TAKEN).about(id))
        }
    }
}

fn not_found(id: JobId) -> Problem {
    let reason = format!("no job {id} is known; it was never accepted, or is no longer kept");
    Problem::field(ProblemKind::JobNotFound, "id", reason)
}

fn refused(id: JobId, state: JobState, rule: &str) -> Problem {
    Problem::new(
        ProblemKind::IllegalTransition,
        format!("the job is {state}; {rule}"),
    )
    .about(id)
}
