//! Accepting jobs: one by one, or a batch.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_jobs::enqueue::JobRequest;
use serde::Deserialize;
use serde::de::{Deserializer, Error, SeqAccess, Visitor};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use super::IDEMPOTENCY_KEY;
use super::fields::{Attempts, Moment, Seconds, Urgency};
use super::view::{AcceptedBatch, AcceptedJob, ProblemBody};
use crate::auth::{Allowed, Caller, Produce};
use crate::body::{BodySize, json_body_of};
use crate::params::{Params, traceparent};
use crate::problem::{Problem, ProblemKind};
use crate::state::{State, json};

/// Longest `Idempotency-Key`, in bytes. It is stored behind the name of the caller.
const MAX_IDEMPOTENCY_KEY: usize = 200;

/// Most jobs that are even parsed, whatever the configuration allows: memory is bounded before it is asked for.
const MOST_JOBS: usize = 100_000;

/// A job as its producer words it.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewJob, example = json!({"kind": "debug.echo", "payload": {"message": "hello"}}))]
pub(crate) struct JobBody {
    /// What kind of work it is; the registry of the server names every kind.
    pub(crate) kind: String,
    /// What the kind needs to do it. Kept as it was written.
    #[schema(value_type = Value)]
    pub(crate) payload: Box<RawValue>,
    /// Left out: the kind's own queue.
    pub(crate) queue: Option<String>,
    /// Not before this moment (RFC 3339). A time that has passed means now, and is stored so. Not together with
    /// `delay_seconds`.
    #[schema(value_type = Option<String>, format = DateTime)]
    pub(crate) run_at: Option<Moment>,
    /// Not before so many seconds from now, by the database's clock.
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub(crate) delay_seconds: Option<Seconds>,
    /// Left out: `normal`.
    #[schema(value_type = Option<String>, pattern = "^(high|normal|low)$")]
    pub(crate) priority: Option<Urgency>,
    /// Executions at most, the first included. Left out: the kind's own, or the configured default.
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub(crate) max_attempts: Option<Attempts>,
    /// Longest one attempt may take; above 0, a day at most.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 86400)]
    pub(crate) timeout_seconds: Option<Seconds>,
    /// While a job of this kind with this key waits or runs, another one is answered with the first.
    #[schema(max_length = 255)]
    pub(crate) unique_key: Option<String>,
    /// Whose place and tokens it takes in a queue with limits by key: a customer's, say.
    #[schema(max_length = 255)]
    pub(crate) limit_key: Option<String>,
    /// What is enqueued when it completes, in the same transaction; it may have a `then` of its own, ten in all. Not if the
    /// job is discarded or cancelled. `delay_seconds` counts from the completion, and there is no `run_at`. Handlers written in Rust are told what the job
    /// before returned.
    #[schema(value_type = Option<Value>)]
    pub(crate) then: Option<Box<JobBody>>,
}

impl JobBody {
    pub(super) fn into_request(
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
            limit_key: self.limit_key,
            idempotency_key,
            traceparent,
            ..JobRequest::new(self.kind, self.payload)
        }
    }
}

/// Many jobs, accepted all or not at all.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewBatch)]
pub(crate) struct BatchBody {
    /// Up to 10,000, unless the server is configured otherwise.
    #[serde(deserialize_with = "bounded")]
    #[schema(min_items = 1)]
    pub(crate) jobs: Vec<JobBody>,
}

/// A list that is refused before it fills the memory.
pub(super) fn bounded<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<JobBody>, D::Error> {
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
/// Accepted means committed: once this answers 202, the job will run. A repeat under the same `Idempotency-Key`, or
/// under a `unique_key` whose job still waits or runs, is answered 200 with the first job's id. After a 503 or 504
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
        (status = 200, body = AcceptedJob, description = "It stood already: `duplicate` is true"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "malformed-json, invalid-header"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json",
            description = "body-too-large, payload-too-large"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json",
            description = "unsupported-media-type"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json",
            description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep, \
                           idempotency-key-reused"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json",
            description = "unavailable: no store can take the job; see Retry-After"),
        (status = 504, body = ProblemBody, content_type = "application/problem+json", description = "timed-out"),
    ),
    security(("api_key" = ["produce"])))]
pub(crate) async fn one(
    allowed: Allowed<Produce>,
    state: web::Data<State>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let key = idempotency_key(&request)?.map(|key| allowed.caller().job_key(key));
    let body: JobBody = json_body_of(&request, payload, &state, BodySize::Bulk).await?;
    let job = state
        .jobs
        .enqueue_request(body.into_request(key, traceparent(&request)))
        .await?;
    let status = if job.duplicate {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)).map_err(Problem::internal)?;
    let mut response = json(status, &AcceptedJob::from(job))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// Enqueue a batch
///
/// All or nothing: one bad job refuses the batch, and `index` says which. A repeat under the same `Idempotency-Key`
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
        (status = 200, body = AcceptedBatch, description = "They stood already, all of them"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "malformed-json, invalid-header"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json",
            description = "body-too-large, payload-too-large, batch-too-large"),
        (status = 415, body = ProblemBody, content_type = "application/problem+json",
            description = "unsupported-media-type"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json",
            description = "the same as for one job, with `index`; batch-empty, idempotency-key-reused"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
        (status = 504, body = ProblemBody, content_type = "application/problem+json", description = "timed-out"),
    ),
    security(("api_key" = ["produce"])))]
pub(crate) async fn batch(
    allowed: Allowed<Produce>,
    state: web::Data<State>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let key = idempotency_key(&request)?;
    let body: BatchBody = json_body_of(&request, payload, &state, BodySize::Bulk).await?;
    let trace = traceparent(&request);
    let requests: Vec<JobRequest> = (0..)
        .zip(body.jobs)
        .map(|(index, job)| {
            let key = key.map(|key| allowed.caller().batch_key(key, index));
            job.into_request(key, trace.clone())
        })
        .collect();
    let jobs = state.jobs.clone();
    let accepted = state
        .on_runtime(async move { jobs.enqueue_requests_under_one_key(requests).await })
        .await?;
    let repeated = accepted.iter().all(|job| job.duplicate);
    let status = if repeated {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    json(status, &AcceptedBatch::from(accepted))
}

/// As the client words it.
pub(super) fn idempotency_key(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let mut values = request.headers().get_all(IDEMPOTENCY_KEY);
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        let reason = "given more than once: which of them makes a repetition harmless cannot be told";
        return Err(Problem::field(
            ProblemKind::InvalidHeader,
            IDEMPOTENCY_KEY,
            reason,
        ));
    }
    value
        .to_str()
        .ok()
        .filter(|key| (1..=MAX_IDEMPOTENCY_KEY).contains(&key.len()))
        .map(Some)
        .ok_or_else(|| {
            let reason = format!("must be 1 to {MAX_IDEMPOTENCY_KEY} printable ASCII characters");
            Problem::field(ProblemKind::InvalidHeader, IDEMPOTENCY_KEY, reason)
        })
}

/// Keys are stored behind their caller's name, which holds neither `/` nor `#`: no two callers' keys, and no batch's
/// and job's, are ever the same.
impl Caller {
    pub(super) fn job_key(&self, key: &str) -> String {
        format!("{self}/{key}")
    }

    fn batch_key(&self, key: &str, index: usize) -> String {
        format!("{self}#{index}/{key}")
    }
}
