//! Batches: jobs that belong together, followed and steered as one.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_http::body::{BodySize, json_body_of};
use holdfast_http::json;
use holdfast_http::params::idempotency_key;
use holdfast_http::params::{Params, path_id, traceparent};
use holdfast_http::problem::{Problem, ProblemKind, bad_cursor, quote};
use holdfast_http::{Allowed, Produce, Read};
use holdfast_jobs::batches::{BatchFilter, BatchRecord, BatchRequest, EnqueuedBatch, Progress};
use holdfast_jobs::{BatchId, JobId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::enqueue::{JobBody, bounded};
use crate::state::ControlState;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Jobs that are accepted atomically and tracked together.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewGroup, example = json!({
    "name": "import of 2 files",
    "jobs": [
        {"kind": "debug.echo", "payload": {"message": "one"}},
        {"kind": "debug.echo", "payload": {"message": "two"}}
    ],
    "callback": {"kind": "debug.echo", "payload": {"message": "all done"}}
}))]
pub struct GroupBody {
    /// A readable description.
    #[schema(max_length = 255)]
    pub name: Option<String>,
    /// Up to 10,000, unless the server is configured otherwise. None of them can have a `unique_key`.
    #[serde(deserialize_with = "bounded")]
    #[schema(min_items = 1)]
    pub jobs: Vec<JobBody>,
    /// A job that is enqueued once, when every job of the batch is completed, discarded or cancelled. It is due
    /// immediately, or after `delay_seconds`; `run_at` is not allowed. Handlers in Rust can read the counts.
    pub callback: Option<JobBody>,
}

/// An accepted batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = AcceptedGroup)]
pub struct AcceptedView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: BatchId,
    /// Number of jobs.
    pub total: u32,
    /// In the order of the request's `jobs`; empty for a repeat (`GET /v1/jobs?batch=` lists them).
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<JobId>,
    /// It already existed under this key; `id` is that of the first one.
    pub duplicate: bool,
}

impl From<EnqueuedBatch> for AcceptedView {
    fn from(batch: EnqueuedBatch) -> Self {
        Self {
            id: batch.id,
            total: batch.total,
            ids: batch.jobs.into_iter().map(|job| job.id).collect(),
            duplicate: batch.duplicate,
        }
    }
}

/// A batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Batch)]
pub struct BatchView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: BatchId,
    pub name: Option<String>,
    /// `running`, or `ended`: every job is final.
    #[schema(value_type = String, example = "running")]
    pub state: Cow<'static, str>,
    pub total: u32,
    /// Jobs that are not final.
    pub pending: u32,
    pub completed: u32,
    pub discarded: u32,
    pub cancelled: u32,
    /// Percentage of final jobs, rounded down.
    pub percent: u32,
    /// The pending jobs by state; null in a list.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub progress: Option<ProgressView>,
    pub callback: Option<CallbackView>,
    /// Whether its cancellation was requested.
    pub cancel_requested: bool,
    pub created_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// The pending jobs of a batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchProgress)]
pub struct ProgressView {
    pub scheduled: u32,
    pub available: u32,
    pub running: u32,
    pub retryable: u32,
}

/// The callback of a batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = BatchCallback)]
pub struct CallbackView {
    pub kind: String,
    pub queue: String,
    /// Once the batch has ended.
    #[schema(value_type = Option<String>)]
    pub id: Option<JobId>,
}

impl BatchView {
    /// The batch, and where its pending jobs stand if that was asked for.
    pub fn new(record: BatchRecord, progress: Option<Progress>) -> Self {
        Self {
            id: record.id,
            state: if record.ended_at.is_some() {
                "ended".into()
            } else {
                "running".into()
            },
            total: record.total,
            pending: record.pending(),
            completed: record.completed,
            discarded: record.discarded,
            cancelled: record.cancelled,
            percent: record.percent(),
            progress: progress.map(|progress| ProgressView {
                scheduled: progress.scheduled,
                available: progress.available,
                running: progress.running,
                retryable: progress.retryable,
            }),
            callback: record.callback.map(|callback| CallbackView {
                kind: callback.kind,
                queue: callback.queue,
                id: callback.id,
            }),
            cancel_requested: record.cancel_requested,
            created_at: record.created_at,
            ended_at: record.ended_at,
            name: record.name,
        }
    }
}

/// One page of batches, newest first.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct BatchPage {
    pub batches: Vec<BatchView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    pub next: Option<BatchId>,
}

/// Enqueue a batch with a callback
///
/// Atomic: one invalid job refuses the batch, and `index` names it. Jobs of a batch are stored in the ledger
/// whatever the durability of their queues. Follow-up jobs (`then`) are not part of the batch. A repeat with
/// the same `Idempotency-Key` enqueues nothing and is answered 200 with the first batch.
#[utoipa::path(post, path = "/v1/batches", tag = "batches", operation_id = "create_batch",
    request_body = GroupBody,
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 200 printable ASCII characters; kept apart for each API key, as long as the batch"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, passed on to every job"),
    ),
    responses(
        (status = 202, body = AcceptedView, description = "Accepted; `ids` in the order of `jobs`",
            headers(("Location" = String, description = "The batch's address"))),
        (status = 200, body = AcceptedView, description = "It already existed: `duplicate` is true"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 413, description = "body-too-large, payload-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "the same as for one job, with `index`; batch-empty, idempotency-key-reused"),
        (status = 504, description = "timed-out"),
    ))]
pub(crate) async fn create(
    allowed: Allowed<Produce>,
    state: web::Data<ControlState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let key = idempotency_key(&request)?.map(|key| allowed.caller().job_key(key));
    let body: GroupBody = json_body_of(&request, payload, &state.http, BodySize::Bulk).await?;
    let trace = traceparent(&request);
    let members = body.jobs.into_iter();
    let batch = BatchRequest {
        name: body.name,
        jobs: members.map(|job| job.into_request(None, trace.clone())).collect(),
        callback: body.callback.map(|callback| callback.into_request(None, None)),
        idempotency_key: key,
    };
    let jobs = state.jobs.clone();
    let accepted = state
        .http
        .on_runtime(async move { jobs.enqueue_batch(batch).await })
        .await?;
    let status = if accepted.duplicate {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location =
        HeaderValue::from_str(&format!("/v1/batches/{}", accepted.id)).map_err(Problem::internal)?;
    let mut response = json(status, &AcceptedView::from(accepted))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Show a batch
///
/// With `wait` the response is sent when the batch has ended, or after that many seconds.
#[utoipa::path(get, path = "/v1/batches/{id}", tag = "batches", operation_id = "show_batch",
    params(
        ("id" = String, Path, description = "The batch's id"),
        ("wait" = Option<f64>, Query, description = "Seconds to wait for the batch to end, 60 at most unless \
            the server is configured otherwise"),
    ),
    responses(
        (status = 200, body = BatchView),
        (status = 400, description = "invalid-id, invalid-parameter"),
        (status = 404, description = "batch-not-found: unknown, or already deleted"),
    ))]
pub(crate) async fn show(
    _: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = path_id::<BatchId>(&request)?;
    let mut params = Params::of(&request, &["wait"]);
    let wait = params
        .seconds("wait", state.http.max_wait)
        .unwrap_or(Duration::ZERO);
    params.finish()?;
    let (batches, stopping) = (state.jobs.batches(), state.http.stopping.clone());
    let found = state
        .http
        .on_runtime(async move {
            if !wait.is_zero() {
                tokio::select! {
                    waited = batches.wait(id, wait) => drop(waited?),
                    () = stopping.cancelled() => {}
                }
            }
            batches.progress(id).await
        })
        .await?;
    let (record, progress) = found.ok_or_else(|| not_found(id))?;
    json(StatusCode::OK, &BatchView::new(record, Some(progress)))
}

/// List batches
///
/// In pages, newest first.
#[utoipa::path(get, path = "/v1/batches", tag = "batches", operation_id = "list_batches",
    params(
        ("state" = Option<String>, Query, description = "`running` or `ended`"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = BatchPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(
    _: Allowed<Read>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let filter = filter(&request)?;
    let (batches, limit) = (state.jobs.batches(), filter.limit);
    // One more than fits tells whether there is a next page.
    let filter = BatchFilter {
        limit: limit + 1,
        ..filter
    };
    let mut found = state
        .http
        .on_runtime(async move { batches.list(&filter).await })
        .await?;
    let more = found.len() > limit;
    found.truncate(limit);
    let next = found.last().map(|batch| batch.id).filter(|_| more);
    let views = found.into_iter().map(|batch| BatchView::new(batch, None));
    let page = BatchPage {
        batches: views.collect(),
        next,
    };
    json(StatusCode::OK, &page)
}

fn filter(request: &HttpRequest) -> Result<BatchFilter, Problem> {
    let mut params = Params::of(request, &["state", "after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let cursor = params.text("after").map(ToOwned::to_owned);
    let ended = match params.text("state").map(ToOwned::to_owned).as_deref() {
        None => None,
        Some("running") => Some(false),
        Some("ended") => Some(true),
        Some(other) => {
            params.fault("state", format!("{} is neither running nor ended", quote(other)));
            None
        }
    };
    params.finish()?;
    let after = cursor
        .map(|text| text.parse::<BatchId>().map_err(|_| bad_cursor(&text)))
        .transpose()?;
    Ok(BatchFilter { ended, after, limit })
}

/// The result of a cancellation.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = CancelledBatch)]
pub struct CancelledView {
    /// Jobs that this request cancelled or asked to stop.
    pub affected: u64,
    /// False: there may be more; repeat the request.
    pub finished: bool,
    /// The current batch.
    pub batch: BatchView,
}

/// Cancel a batch
///
/// Cancels the waiting jobs of the batch and asks the running ones to stop. The batch ends when they have
/// stopped, and its callback is then enqueued as usual. Repeating it changes nothing.
#[utoipa::path(post, path = "/v1/batches/{id}/cancel", tag = "batches", operation_id = "cancel_batch",
    params(("id" = String, Path, description = "The batch's id")),
    responses(
        (status = 200, body = CancelledView, description = "It has ended"),
        (status = 202, body = CancelledView, description = "Some of its jobs are running and were asked to stop"),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "batch-not-found"),
        (status = 409, description = "illegal-transition: it had ended before"),
    ))]
pub(crate) async fn cancel(
    allowed: Allowed<Produce>,
    state: web::Data<ControlState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (jobs, id, by) = (
        state.jobs.clone(),
        path_id::<BatchId>(&request)?,
        allowed.by(&request),
    );
    let cancelled = state
        .http
        .on_runtime(async move { jobs.steer(&by).cancel_batch(id).await })
        .await?
        .ok_or_else(|| not_found(id))?;
    let Some(done) = cancelled.done else {
        let detail = "the batch has ended; only one that runs can be cancelled";
        return Err(Problem::new(ProblemKind::IllegalTransition, detail));
    };
    let status = if cancelled.batch.ended_at.is_some() {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let view = CancelledView {
        affected: done.affected,
        finished: done.finished,
        batch: BatchView::new(cancelled.batch, None),
    };
    json(status, &view)
}

fn not_found(id: BatchId) -> Problem {
    let reason = format!("no batch {id} is known; it was never accepted, or is no longer kept");
    Problem::field(ProblemKind::BatchNotFound, "id", reason)
}
