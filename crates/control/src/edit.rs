//! Changing a job while it waits.

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::{Moment, Seconds};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Bound, Call, Produce, Reply, ok};
use holdfast_jobs::ledger::Priority;
use holdfast_jobs::{EditReply, JobEdit, JobId, State as JobState};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::bound::permit_job;
use crate::fields::{Attempts, Urgency};
use crate::jobs::{not_found, refused};
use crate::state::ControlState;

/// What is to be different. What is absent stays as it is; at least one of them is given.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobChange, min_properties = 1, example = json!({"priority": "high"}))]
pub struct EditBody {
    /// Another payload, which the kind must accept. Stored byte for byte. A secret field that reads `[redacted]` is refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub payload: Option<Box<RawValue>>,
    /// Another queue. A due job is due from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    /// A due job is due from now on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, pattern = "^(high|normal|low)$")]
    pub priority: Option<Urgency>,
    /// At or after this time (RFC 3339). A time that has passed means now. Not together with `delay_seconds`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>, format = DateTime)]
    pub run_at: Option<Moment>,
    /// The earliest start, in seconds from now, by the database's clock.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub delay_seconds: Option<Seconds>,
    /// Largest number of attempts, the first included; more than the job has made.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<u32>, minimum = 1, maximum = 100)]
    pub max_attempts: Option<Attempts>,
}

impl From<EditBody> for JobEdit {
    fn from(body: EditBody) -> Self {
        Self {
            payload: body.payload,
            queue: body.queue,
            priority: body.priority.map(|urgency| urgency.0),
            run_at: body.run_at.map(|moment| moment.0),
            delay: body.delay_seconds.map(|seconds| seconds.0),
            max_attempts: body.max_attempts.map(|attempts| attempts.0),
        }
    }
}

/// A job that was changed, as it is now.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EditedJob {
    #[schema(value_type = String)]
    pub id: JobId,
    #[schema(value_type = String, example = "scheduled")]
    pub state: JobState,
    pub queue: String,
    #[schema(value_type = String, example = "high")]
    pub priority: Priority,
    pub run_at: DateTime<Utc>,
    pub max_attempts: u32,
}

/// Change a job that waits
///
/// Payload, queue, priority, time and number of attempts can be changed until a worker takes the job; then the answer is 409, and the job
/// is as it was. A repeat of the request that enqueued it, with its `Idempotency-Key`, is one for another job once the payload was changed.
#[utoipa::path(patch, path = "/v1/jobs/{id}", tag = "jobs", operation_id = "edit_job",
    request_body = EditBody,
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = EditedJob),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "job-not-found"),
        (status = 409, description = "illegal-transition: it does not wait, or it waits on the broker"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, unknown-kind, unknown-queue, invalid-payload, payload-too-deep"),
    ))]
pub(crate) async fn edit(call: Call<Bound<Produce>, ControlState>, payload: web::Payload) -> Reply {
    let (id, by) = (call.id::<JobId>()?, call.actor());
    let body: EditBody = call.json_of(payload, BodySize::Bulk).await?;
    permit_job(&call, id).await?;
    if let (Some(binding), Some(queue)) = (call.allowed.binding(), &body.queue) {
        binding.permit_queue("queue", queue)?;
    }
    let edit = JobEdit::from(body);
    let reply = call.run(move |state| async move { state.jobs.steer(&by).edit(id, edit).await });
    match reply.await?.ok_or_else(|| not_found(id))? {
        EditReply::Edited => {}
        EditReply::Refused(state) => {
            return Err(refused(id, state, "only a job that waits can be changed"));
        }
        EditReply::OnBroker => {
            let reason =
                "the job waits on the broker, where it cannot be changed; cancel it and enqueue another";
            return Err(Problem::new(ProblemKind::IllegalTransition, reason).about(id));
        }
    }
    let job = call.run(move |state| async move { state.jobs.get(id).await });
    let job = job.await?.ok_or_else(|| not_found(id))?;
    ok(&EditedJob {
        id,
        state: job.state,
        queue: job.queue,
        priority: job.priority,
        run_at: job.run_at,
        max_attempts: job.max_attempts,
    })
}
