//! Why one job waits, and running it again.

use std::borrow::Cow;
use std::time::Duration;

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::{Moment, Seconds};
use holdfast_http::params::traceparent;
use holdfast_http::{Bound, Call, Produce, Read, Reply, ok};
use holdfast_jobs::diagnosis::WaitReason;
use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::ledger::JobRecord;
use holdfast_jobs::link::Link;
use holdfast_jobs::retry::MAX_ATTEMPTS_LIMIT;
use holdfast_jobs::{JobId, State as JobState, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::bound::permit_job;
use crate::enqueue::{AcceptedJob, enqueue};
use crate::fields::{Attempts, Urgency};
use crate::jobs::not_found;
use crate::state::ControlState;

/// Why a job does not end now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobStanding {
    #[schema(value_type = String)]
    pub id: JobId,
    #[schema(value_type = String, example = "available")]
    pub state: JobState,
    /// The one that decides first. Empty: the job has ended.
    pub reasons: Vec<ReasonView>,
}

/// One reason. What does not belong to its code is absent.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[schema(as = WaitReason)]
pub struct ReasonView {
    /// expired, due_later, queue_paused, no_worker, payload_sealed, queue_limit, queue_rate, key_paused, key_limit, key_rate,
    /// jobs_ahead, ready, running, worker_lost or stopping.
    #[schema(value_type = String, example = "queue_paused")]
    pub code: Cow<'static, str>,
    /// The reason as a sentence.
    pub message: String,
    /// Until then at least: of `due_later`, `queue_rate`, `key_paused` and `key_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<DateTime<Utc>>,
    /// Jobs that run: of `queue_limit` and `key_limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub running: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub limit: Option<u64>,
    /// Some of the running jobs with the same `limit_key`. Not for bound keys.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(value_type = Vec<String>)]
    pub holders: Vec<JobId>,
    /// Due jobs that come first, up to 10,001.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub jobs: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub worker: Option<WorkerId>,
}

impl ReasonView {
    /// `names_others`: the caller may know the ids of other jobs.
    fn new(reason: WaitReason, names_others: bool) -> Self {
        let view = Self {
            code: reason.code().into(),
            message: reason.to_string(),
            ..Self::default()
        };
        match reason {
            WaitReason::DueLater { at: until }
            | WaitReason::QueueRate { until }
            | WaitReason::KeyPaused { until, .. }
            | WaitReason::KeyRate { until } => Self {
                until: Some(until),
                ..view
            },
            WaitReason::QueueLimit { running, limit } => Self {
                running: Some(running),
                limit: Some(limit),
                ..view
            },
            WaitReason::KeyLimit {
                running,
                limit,
                holders,
            } => Self {
                running: Some(running),
                limit: Some(limit),
                holders: if names_others { holders } else { Vec::new() },
                ..view
            },
            WaitReason::JobsAhead { jobs } => Self {
                jobs: Some(jobs),
                ..view
            },
            WaitReason::Runs { worker } | WaitReason::WorkerLost { worker } => Self {
                worker: Some(worker),
                ..view
            },
            WaitReason::Expired
            | WaitReason::QueuePaused
            | WaitReason::NoWorker
            | WaitReason::PayloadSealed { .. }
            | WaitReason::Ready
            | WaitReason::Stopping => view,
        }
    }
}

/// Why a job waits
///
/// Its time, the pause and the limits of its queue, the workers, and the jobs before it, as they are now.
#[utoipa::path(get, path = "/v1/jobs/{id}/why", tag = "jobs", operation_id = "why_job",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = JobStanding),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "job-not-found"),
    ))]
pub(crate) async fn why(call: Call<Bound<Read>, ControlState>) -> Reply {
    let id = call.id::<JobId>()?;
    permit_job(&call, id).await?;
    let names_others = call.allowed.binding().is_none();
    let standing = call.run(move |state| async move { state.jobs.why(id, state.lost_after).await });
    let standing = standing.await?.ok_or_else(|| not_found(id))?;
    let reasons = standing
        .reasons
        .into_iter()
        .map(|reason| ReasonView::new(reason, names_others));
    ok(&JobStanding {
        id,
        state: standing.job.state,
        reasons: reasons.collect(),
    })
}

/// What is to be different from the first job. What is absent stays as it was.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = RerunRequest, example = json!({"priority": "high"}))]
pub struct RerunBody {
    /// Another payload, which the kind must accept.
    #[schema(value_type = Option<Value>)]
    pub payload: Option<Box<RawValue>>,
    pub queue: Option<String>,
    /// At or after this time (RFC 3339). Default: now. Not together with `delay_seconds`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Moment>,
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub delay_seconds: Option<Seconds>,
    #[schema(value_type = Option<String>, pattern = "^(high|normal|low)$")]
    pub priority: Option<Urgency>,
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub max_attempts: Option<Attempts>,
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 86400)]
    pub timeout_seconds: Option<Seconds>,
}

impl RerunBody {
    fn into_request(self, first: JobRecord) -> JobRequest {
        JobRequest {
            queue: Some(self.queue.unwrap_or(first.queue)),
            run_at: self.run_at.map(|moment| moment.0),
            delay: self.delay_seconds.map(|seconds| seconds.0),
            priority: self.priority.map_or(first.priority, |urgency| urgency.0),
            // A redrive may have given it more than a request may ask for.
            max_attempts: Some(
                self.max_attempts
                    .map_or(first.max_attempts.min(MAX_ATTEMPTS_LIMIT), |attempts| attempts.0),
            ),
            timeout: Some(
                self.timeout_seconds
                    .map_or_else(|| seconds(first.timeout_seconds), |seconds| seconds.0),
            ),
            unique_key: first.unique_key,
            limit_key: first.limit_key,
            tags: first.tags,
            then: first.then.map(|link| Box::new(follow_up(*link))),
            ..JobRequest::new(first.kind, self.payload.unwrap_or(first.payload))
        }
    }
}

fn follow_up(link: Link) -> JobRequest {
    JobRequest {
        queue: Some(link.queue),
        delay: Some(seconds(link.delay_seconds)).filter(|delay| !delay.is_zero()),
        priority: link.priority,
        max_attempts: Some(link.max_attempts),
        timeout: Some(seconds(link.timeout_seconds)),
        backoff: link.backoff,
        unique_key: link.unique_key,
        limit_key: link.limit_key,
        tags: link.tags,
        then: link.then.map(|link| Box::new(follow_up(*link))),
        ..JobRequest::new(link.kind, link.payload)
    }
}

/// What was a duration when it was stored.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}

/// Run a job again
///
/// Enqueues a new job with the kind, payload, queue, priority, attempts, timeout, keys, tags and follow-ups of this one, whatever its state, and
/// with the changes of the body (`{}`: none). It is checked as any new job. If another job with its `unique_key` waits or runs, that one
/// is answered, with `duplicate`. The first job stays as it is, and the new one is in no batch.
#[utoipa::path(post, path = "/v1/jobs/{id}/rerun", tag = "jobs", operation_id = "rerun_job",
    request_body = RerunBody,
    params(
        ("id" = String, Path, description = "The job's id"),
        ("Idempotency-Key" = Option<String>, Header,
            description = "1 to 200 printable ASCII characters; kept apart for each API key"),
        ("traceparent" = Option<String>, Header, description = "W3C trace context, passed on to the job"),
    ),
    responses(
        (status = 202, body = AcceptedJob, description = "Accepted",
            headers(("Location" = String, description = "The new job's address"))),
        (status = 200, body = AcceptedJob, description = "It already existed: `duplicate` is true"),
        (status = 400, description = "malformed-json, invalid-header, invalid-id"),
        (status = 404, description = "job-not-found"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep, \
                           idempotency-key-reused"),
        (status = 503, description = "unavailable: no store can take the job; see Retry-After"),
        (status = 504, description = "timed-out"),
    ))]
pub(crate) async fn rerun(call: Call<Bound<Produce>, ControlState>, payload: web::Payload) -> Reply {
    let id = call.id::<JobId>()?;
    let key = call.job_key()?;
    let body: RerunBody = call.json_of(payload, BodySize::Bulk).await?;
    permit_job(&call, id).await?;
    let first = call.run(move |state| async move { state.jobs.get(id).await });
    let first = first.await?.ok_or_else(|| not_found(id))?;
    let request = JobRequest {
        idempotency_key: key,
        traceparent: traceparent(&call.request),
        ..body.into_request(first)
    };
    enqueue(&call, request).await
}
