//! Accepting jobs: one by one, or a batch.

use std::borrow::Cow;
use std::fmt;

use actix_web::http::StatusCode;
use actix_web::web;
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::{Moment, Seconds};
use holdfast_http::params::{idempotency_key, traceparent};
use holdfast_http::{Bound, Call, Produce, Reply, accepted, json, json_at};
use holdfast_jobs::enqueue::{EnqueuedJob, JobRequest};
use holdfast_jobs::{JobId, State};
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::bound::{permit_request, permit_requests};
use crate::fields::{Attempts, Urgency};
use crate::job_view::durability_name;
use crate::state::ControlState;

/// Most jobs that are even parsed, whatever the configuration allows: memory is bounded before it is asked for.
const MOST_JOBS: usize = 100_000;

/// An accepted job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AcceptedJob {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    #[schema(value_type = String, example = "available")]
    pub state: State,
    /// `ledger`: committed in SQL. `redis`: on the broker.
    #[schema(value_type = String, example = "ledger")]
    pub durability: Cow<'static, str>,
    /// It already existed under this key; `id` is that of the first one.
    pub duplicate: bool,
}

impl From<EnqueuedJob> for AcceptedJob {
    fn from(job: EnqueuedJob) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            durability: durability_name(job.durability).into(),
            duplicate: job.duplicate,
        }
    }
}

impl AcceptedJob {
    /// With the job's address.
    pub fn reply(&self, status: StatusCode) -> Reply {
        json_at(status, &format!("/v1/jobs/{}", self.id), self)
    }
}

/// An accepted batch.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct AcceptedBatch {
    pub accepted: usize,
    /// In the order of the request's `jobs`.
    #[schema(value_type = Vec<String>)]
    pub ids: Vec<JobId>,
}

impl From<Vec<EnqueuedJob>> for AcceptedBatch {
    fn from(jobs: Vec<EnqueuedJob>) -> Self {
        Self {
            accepted: jobs.len(),
            ids: jobs.into_iter().map(|job| job.id).collect(),
        }
    }
}

/// A job to be enqueued.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJob, example = json!({"kind": "debug.echo", "payload": {"message": "hello"}}))]
pub struct JobBody {
    /// The kind of job; `GET /v1/kinds` lists them.
    pub kind: String,
    /// The payload, as the kind requires it. Stored byte for byte.
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    /// Default: the kind's queue.
    pub queue: Option<String>,
    /// At or after this time (RFC 3339). A time that has passed means now, and is stored so. Not together with
    /// `delay_seconds`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Moment>,
    /// The earliest start, in seconds from now, by the database's clock.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub delay_seconds: Option<Seconds>,
    /// Default: `normal`.
    #[schema(value_type = Option<String>, pattern = "^(high|normal|low)$")]
    pub priority: Option<Urgency>,
    /// Largest number of attempts, the first included. Default: the kind's, or the configured one.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub max_attempts: Option<Attempts>,
    /// Longest duration of one attempt, in seconds; above 0, at most a day.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 86400)]
    pub timeout_seconds: Option<Seconds>,
    /// At most one job of this kind with this key waits or runs; a further request returns the first.
    #[schema(max_length = 255)]
    pub unique_key: Option<String>,
    /// The job is cancelled, with an error of the class `expired`, if it has not begun by then (RFC 3339). Not for follow-ups.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub expires_at: Option<Moment>,
    /// The key for per-key limits of concurrency and rate, e.g. a customer's id.
    #[schema(max_length = 255)]
    pub limit_key: Option<String>,
    /// Words by which the job is found (`tag:vip`): at most 8, each once, of 1 to 64 characters.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 8)]
    pub tags: Vec<String>,
    /// The job that is enqueued when this one completes, in the same transaction. It may have its own `then`,
    /// ten jobs in all. It is not enqueued if the job is discarded or cancelled. `delay_seconds` counts from
    /// the completion; `run_at` is not allowed. Handlers in Rust can read the previous result.
    #[schema(value_type = Option<Value>)]
    pub then: Option<Box<JobBody>>,
}

impl JobBody {
    /// With the defaults for everything else.
    pub fn new(kind: String, payload: Box<RawValue>) -> Self {
        Self {
            kind,
            payload,
            queue: None,
            run_at: None,
            delay_seconds: None,
            priority: None,
            max_attempts: None,
            timeout_seconds: None,
            unique_key: None,
            expires_at: None,
            limit_key: None,
            tags: Vec::new(),
            then: None,
        }
    }

    pub(crate) fn into_request(
        self,
        idempotency_key: Option<String>,
        traceparent: Option<String>,
    ) -> JobRequest {
        JobRequest {
            then: self.then.map(|then| Box::new(then.into_request(None, None))),
            queue: self.queue,
            run_at: self.run_at.map(|moment| moment.0),
            delay: self.delay_seconds.map(|seconds| seconds.0),
            priority: self.priority.map(|urgency| urgency.0).unwrap_or_default(),
            max_attempts: self.max_attempts.map(|attempts| attempts.0),
            timeout: self.timeout_seconds.map(|seconds| seconds.0),
            unique_key: self.unique_key,
            expires_at: self.expires_at.map(|moment| moment.0),
            limit_key: self.limit_key,
            tags: self.tags,
            idempotency_key,
            traceparent,
            ..JobRequest::new(self.kind, self.payload)
        }
    }
}

/// Many jobs, accepted atomically.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatch)]
pub struct BatchBody {
    /// Up to 10,000, unless the server is configured otherwise.
    #[serde(deserialize_with = "bounded")]
    #[schema(min_items = 1)]
    pub jobs: Vec<JobBody>,
}

/// A list that is refused before it fills the memory.
pub(crate) fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JobBody>, D::Error> {
    struct Jobs;

    impl<'de> Visitor<'de> for Jobs {
        type Value = Vec<JobBody>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a list of jobs")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Self::Value, A::Error> {
            let mut jobs = Vec::new();
            while let Some(job) = list.next_element()? {
                if jobs.len() == MOST_JOBS {
                    return Err(A::Error::custom(format!(
                        "more than {MOST_JOBS} jobs in one batch"
                    )));
                }
                jobs.push(job);
            }
            Ok(jobs)
        }
    }

    deserializer.deserialize_seq(Jobs)
}

/// Enqueue a job
///
/// Accepted means committed: after a 202 the job will run. A repeat with the same `Idempotency-Key`, or with a
/// `unique_key` whose job still waits or runs, is answered 200 with the first job's id. After a 503 or 504
/// repeat the request with the same `Idempotency-Key`.
#[utoipa::path(post, path = "/v1/jobs", tag = "jobs", operation_id = "enqueue_job",
    request_body = JobBody,
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 200 printable ASCII characters; kept apart for each API key"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, passed on to the job"),
    ),
    responses(
        (status = 202, body = AcceptedJob, description = "Accepted",
            headers(("Location" = String, description = "The job's address"))),
        (status = 200, body = AcceptedJob, description = "It already existed: `duplicate` is true"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep, \
                           idempotency-key-reused"),
        (status = 503, description = "unavailable: no store can take the job; see Retry-After"),
        (status = 504, description = "timed-out"),
    ))]
pub(crate) async fn one(call: Call<Bound<Produce>, ControlState>, payload: web::Payload) -> Reply {
    let key = call.job_key()?;
    let body: JobBody = call.json_of(payload, BodySize::Bulk).await?;
    enqueue(&call, body.into_request(key, traceparent(&call.request))).await
}

/// Enqueues one job as the caller may, and answers with it.
pub(crate) async fn enqueue(call: &Call<Bound<Produce>, ControlState>, mut request: JobRequest) -> Reply {
    permit_request(call, &mut request).await?;
    let job = AcceptedJob::from(call.state().jobs.enqueue_request(request).await?);
    job.reply(accepted(job.duplicate))
}

/// Enqueue a batch
///
/// Atomic: one invalid job refuses the batch, and `index` names it. A repeat with the same `Idempotency-Key`
/// enqueues nothing and is answered 200 with the first ids.
#[utoipa::path(post, path = "/v1/jobs/batch", tag = "jobs", operation_id = "enqueue_batch",
    request_body = BatchBody,
    params(
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 200 printable ASCII characters; kept apart for each API key"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, passed on to every job"),
    ),
    responses(
        (status = 202, body = AcceptedBatch, description = "All accepted; `ids` in the order of `jobs`"),
        (status = 200, body = AcceptedBatch, description = "All of them already existed"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 413, description = "body-too-large, payload-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "the same as for one job, with `index`; batch-empty, idempotency-key-reused"),
        (status = 504, description = "timed-out"),
    ))]
pub(crate) async fn batch(call: Call<Bound<Produce>, ControlState>, payload: web::Payload) -> Reply {
    let key = idempotency_key(&call.request)?;
    let body: BatchBody = call.json_of(payload, BodySize::Bulk).await?;
    let trace = traceparent(&call.request);
    let jobs = body.jobs.into_iter();
    let mut requests: Vec<JobRequest> = jobs.map(|job| job.into_request(None, trace.clone())).collect();
    permit_requests(&call, &mut requests, None).await?;
    let under = key.map(|key| (call.allowed.caller().clone(), key.to_owned()));
    let jobs = call.run(|state| async move {
        let Some((caller, key)) = under else {
            return state.jobs.enqueue_requests(requests).await;
        };
        let key_of = |index| caller.batch_key(&key, index);
        state.jobs.enqueue_requests_under_one_key(requests, key_of).await
    });
    let jobs = jobs.await?;
    let repeated = jobs.iter().all(|job| job.duplicate);
    json(accepted(repeated), &AcceptedBatch::from(jobs))
}
