//! Batches: jobs that belong together, followed and steered as one.

use std::borrow::Cow;

use actix_web::http::StatusCode;
use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::body::BodySize;
use holdfast_http::params::{Params, traceparent};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Bound, Call, PageParams, Produce, Read, Reply, WithQuery, accepted, json, json_at, ok};
use holdfast_jobs::batches::{BatchFilter, BatchRecord, BatchRequest, EnqueuedBatch, Progress};
use holdfast_jobs::{BatchId, JobId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bound::permit_requests;
use crate::enqueue::{JobBody, bounded};
use crate::jobs::wait_of;
use crate::state::ControlState;

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
pub(crate) async fn create(call: Call<Bound<Produce>, ControlState>, payload: web::Payload) -> Reply {
    let idempotency_key = call.job_key()?;
    let body: GroupBody = call.json_of(payload, BodySize::Bulk).await?;
    let trace = traceparent(&call.request);
    let members = body.jobs.into_iter();
    let mut batch = BatchRequest {
        name: body.name,
        jobs: members.map(|job| job.into_request(None, trace.clone())).collect(),
        callback: body.callback.map(|callback| callback.into_request(None, None)),
        idempotency_key,
    };
    permit_requests(&call, &mut batch.jobs, batch.callback.as_mut()).await?;
    let batch = call.run(|state| async move { state.jobs.enqueue_batch(batch).await });
    let view = AcceptedView::from(batch.await?);
    let location = format!("/v1/batches/{}", view.id);
    json_at(accepted(view.duplicate), &location, &view)
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
pub(crate) async fn show(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let id = call.id::<BatchId>()?;
    let wait = wait_of(&call)?;
    let stopping = call.context().stopping.clone();
    let found = call.run(move |state| async move {
        let batches = state.jobs.batches();
        if !wait.is_zero() {
            tokio::select! {
                waited = batches.wait(id, wait) => drop(waited?),
                () = stopping.cancelled() => {}
            }
        }
        batches.progress(id).await
    });
    let (record, progress) = found.await?.ok_or_else(|| not_found(id))?;
    ok(&BatchView::new(record, Some(progress)))
}

/// List batches
///
/// In pages, newest first.
#[utoipa::path(get, path = "/v1/batches", tag = "batches", operation_id = "list_batches",
    params(
        ("state" = Option<String>, Query, description = "`running` or `ended`"),
        PageParams,
    ),
    responses(
        (status = 200, body = BatchPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["state", "after", "limit"]);
    let page = params.page();
    let ended = has_ended(&mut params);
    params.finish()?;
    let filter = BatchFilter {
        ended,
        after: page.cursor()?,
        limit: page.wanted(),
    };
    let found = call.run(|state| async move { state.jobs.batches().list(&filter).await });
    let view = |batch| BatchView::new(batch, None);
    let (batches, next) = page.cut(found.await?, view, |batch| batch.id);
    ok(&BatchPage { batches, next })
}

/// The parameter `state`.
fn has_ended(params: &mut Params) -> Option<bool> {
    match params.text("state")?.to_owned().as_str() {
        "running" => Some(false),
        "ended" => Some(true),
        other => {
            params.fault("state", format!("{} is neither running nor ended", quote(other)));
            None
        }
    }
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
pub(crate) async fn cancel(call: Call<Produce, ControlState>) -> Reply {
    let (id, by) = (call.id::<BatchId>()?, call.actor());
    let cancelled = call.run(move |state| async move { state.jobs.steer(&by).cancel_batch(id).await });
    let cancelled = cancelled.await?.ok_or_else(|| not_found(id))?;
    let Some(done) = cancelled.done else {
        let detail = "the batch has ended; only one that runs can be cancelled";
        return Err(Problem::new(ProblemKind::IllegalTransition, detail));
    };
    let has_ended = cancelled.batch.ended_at.is_some();
    let view = CancelledView {
        affected: done.affected,
        finished: done.finished,
        batch: BatchView::new(cancelled.batch, None),
    };
    json(
        if has_ended {
            StatusCode::OK
        } else {
            StatusCode::ACCEPTED
        },
        &view,
    )
}

fn not_found(id: BatchId) -> Problem {
    let reason = format!("no batch {id} is known; it was never accepted, or is no longer kept");
    Problem::field(ProblemKind::BatchNotFound, "id", reason)
}
