//! The pull protocol: workers in any language. What each call promises is in `holdfast_jobs::pull`.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::{HttpResponse, web};
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::Seconds;
use holdfast_http::openapi::IdText;
use holdfast_http::{Admin, Binding, Bound, Call, Problem, ProblemKind, Reply, Work, json, ok};
use holdfast_jobs::pull::{
    Beat, ClientInfo, MAX_WAIT, OutcomeStatus, PullAnswer, PullError, PullRequest, PulledJob, Registration,
    ReportedLine, ReportedOutcome, Verb, fence_text,
};
use holdfast_jobs::{BatchId, JobId, WorkerId};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::state::ControlState;

/// What a pull worker is, for people who look at a list of workers.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct WorkerClient {
    #[schema(max_length = 100, example = "curl")]
    pub name: String,
    #[schema(max_length = 100, example = "8.5.0")]
    pub version: String,
    #[schema(max_length = 100, example = "sh")]
    pub language: String,
}

/// The registration of a pull worker.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWorker)]
pub struct RegistrationBody {
    /// 1 to 100 characters, such as the host's name.
    #[schema(min_length = 1, max_length = 100)]
    pub name: String,
    /// The queues to take jobs from, each served by pull workers.
    #[schema(min_items = 1, max_items = 100)]
    pub queues: Vec<String>,
    /// Jobs that the worker runs concurrently.
    #[schema(minimum = 1, maximum = 10_000)]
    pub concurrency: u32,
    pub client: WorkerClient,
    /// The kinds that it has handlers for: jobs of other kinds are put back for 15 s. Absent: every kind.
    #[schema(min_items = 1, max_items = 1_000)]
    pub kinds: Option<BTreeSet<String>>,
}

/// A registered worker.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct RegisteredWorker {
    #[schema(value_type = String)]
    pub id: WorkerId,
    /// How often to send a heartbeat, in seconds.
    pub heartbeat_seconds: f64,
    /// After this many seconds without any call the worker's jobs are given to others.
    pub lost_after_seconds: f64,
}

/// A request for jobs.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Pull)]
pub struct PullBody {
    /// Jobs at most, 1 to 500.
    #[schema(minimum = 1, maximum = 500)]
    pub max: usize,
    /// How long to wait for the first job, in seconds, 60 at most. The answer comes earlier, with no jobs, if the worker sends no
    /// heartbeat in the meantime.
    #[serde(default)]
    #[schema(value_type = f64, minimum = 0, maximum = 60)]
    pub wait_seconds: Option<Seconds>,
    /// Every job that the worker has. A job that is leased to it and not named here is given again.
    #[serde(default)]
    #[schema(value_type = Vec<IdText>, max_items = 10_000)]
    pub have: Vec<JobId>,
}

/// What comes with a job beside its payload.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct JobHeaders {
    /// The W3C trace context of its producer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
}

/// How the batch ended whose callback a job is.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct EndedBatchView {
    #[schema(value_type = String)]
    pub id: BatchId,
    pub total: u32,
    pub completed: u32,
    pub discarded: u32,
    pub cancelled: u32,
}

/// A job to be run.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PulledJob)]
pub struct PulledJobView {
    #[schema(value_type = String)]
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    #[schema(value_type = Value)]
    pub payload: Box<RawValue>,
    /// The number of this attempt, from 1.
    pub attempt: u32,
    pub max_attempts: u32,
    /// Send it back with the outcome, as it is.
    pub fence: String,
    /// Longest time that the attempt may take, in seconds from its start.
    pub deadline_seconds: f64,
    pub headers: JobHeaders,
    /// What the job before this one in its chain returned.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<Value>)]
    pub previous_result: Option<Box<RawValue>>,
    /// The batch that the job is part of.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub batch: Option<BatchId>,
    /// The batch whose callback the job is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ended_batch: Option<EndedBatchView>,
}

impl From<PulledJob> for PulledJobView {
    fn from(PulledJob { job, queue }: PulledJob) -> Self {
        let fence = fence_text(&job.fence());
        Self {
            id: job.id,
            kind: job.kind,
            queue: queue.to_string(),
            payload: job.payload,
            attempt: job.attempt + 1,
            max_attempts: job.max_attempts,
            fence,
            deadline_seconds: job.timeout.as_secs_f64(),
            headers: JobHeaders {
                traceparent: job.options.traceparent,
            },
            previous_result: job.options.previous.and_then(|previous| previous.result),
            batch: job.batch,
            ended_batch: job.options.ended_batch.map(|ended| EndedBatchView {
                id: ended.id,
                total: ended.total,
                completed: ended.completed,
                discarded: ended.discarded,
                cancelled: ended.cancelled,
            }),
        }
    }
}

/// The answer to a pull.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = PulledJobs)]
pub struct PulledView {
    pub jobs: Vec<PulledJobView>,
    /// Take no more jobs: finish what there is, and delete the worker.
    pub drain: bool,
    /// The worker's id has been given 100,000 jobs: register again when it suits, finish what was pulled under this id, and delete
    /// it. Optional; it keeps the database fast.
    pub register_again: bool,
}

impl From<PullAnswer> for PulledView {
    fn from(pulled: PullAnswer) -> Self {
        Self {
            jobs: pulled.jobs.into_iter().map(PulledJobView::from).collect(),
            drain: pulled.drain,
            register_again: pulled.register_again,
        }
    }
}

/// How an attempt ended.
#[derive(Debug, Clone, Copy, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeVerb {
    Completed,
    /// To be tried again, as the retry policy says.
    Failed,
    /// Never to be tried again: a dead letter.
    Discard,
    /// To be run again after `retry_after_seconds` (default 15); not an attempt.
    Snooze,
    /// It stopped because it was asked to.
    Cancelled,
}

/// How one job ended.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = JobOutcome)]
pub struct OutcomeBody {
    #[schema(value_type = IdText)]
    pub job: JobId,
    /// As the pull gave it.
    pub fence: String,
    pub outcome: OutcomeVerb,
    /// Of a completed job. Checked against the kind's `result_schema`.
    #[serde(default)]
    #[schema(value_type = Option<Value>)]
    pub result: Option<Box<RawValue>>,
    /// Of a failed or discarded job: the reason, for people. 4,096 bytes are stored.
    #[serde(default)]
    pub error: Option<String>,
    /// Of a failed or snoozed job: when to try again, in seconds from now.
    #[serde(default)]
    #[schema(value_type = Option<f64>, minimum = 0)]
    pub retry_after_seconds: Option<Seconds>,
    /// Lines for the job's log that no heartbeat has brought. Of one line 4,096 bytes are stored, of a job the newest 1,000 lines with
    /// 256 KiB.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schema(max_items = 1_000)]
    pub log: Vec<String>,
}

/// Outcomes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Finish)]
pub struct FinishBody {
    /// At most 1,000.
    #[schema(max_items = 1_000)]
    pub outcomes: Vec<OutcomeBody>,
}

/// The status of a reported outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum OutcomeStatusView {
    /// It is written, by this call or by an earlier one.
    Stored,
    /// The job is no longer this worker's under this fence: nothing was written, and there is nothing to repeat.
    LeaseLost,
    /// There is no such job.
    Unknown,
}

/// The answer to one outcome.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = FinishedJob)]
pub struct FinishedView {
    #[schema(value_type = String)]
    pub job: JobId,
    pub status: OutcomeStatusView,
    /// The job completed, but its result was refused for this reason: it is a dead letter.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refused: Option<String>,
}

/// The answers, in the order of the outcomes.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = FinishedJobs)]
pub struct FinishedList {
    pub outcomes: Vec<FinishedView>,
}

/// A line that a handler wrote.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct LogLine {
    #[schema(value_type = IdText)]
    pub job: JobId,
    /// As the pull gave it: then the line is dropped if the worker no longer has the job under this fence. Absent: it belongs to the
    /// execution that the worker has now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fence: Option<String>,
    /// 4,096 bytes are stored.
    pub line: String,
}

/// The heartbeat of a pull worker.
#[derive(Debug, Default, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Heartbeat)]
pub struct HeartbeatBody {
    /// Every job that the worker has.
    #[serde(default)]
    #[schema(value_type = Vec<IdText>, max_items = 10_000)]
    pub running: Vec<JobId>,
    /// The newest progress of some of them, any JSON of up to 64 KiB.
    #[serde(default)]
    #[schema(value_type = BTreeMap<String, Value>)]
    pub progress: BTreeMap<String, Box<RawValue>>,
    /// Lines of handlers, 1,000 at most, for the logs of their jobs (`GET /v1/jobs/{id}/log`). Those of jobs that are not the worker's
    /// are dropped. A heartbeat that is repeated stores its lines again.
    #[serde(default)]
    #[schema(max_items = 1_000)]
    pub log: Vec<LogLine>,
}

/// Instructions to the worker.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct HeartbeatAnswer {
    /// Jobs that are to stop: they were cancelled.
    #[schema(value_type = Vec<String>)]
    pub cancel: Vec<JobId>,
    /// Jobs that are no longer this worker's: what they still do is in vain.
    #[schema(value_type = Vec<String>)]
    pub lost: Vec<JobId>,
    /// Take no more jobs: finish what there is, and delete the worker.
    pub drain: bool,
}

/// A worker that was asked to drain.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DrainedWorker {
    #[schema(value_type = String)]
    pub id: WorkerId,
    pub draining: bool,
}

/// The caller that a worker belongs to.
fn owner<N>(call: &Call<N, ControlState>) -> String {
    call.allowed.caller().to_string()
}

/// A bound key's worker serves its queues, and runs its kinds: jobs of others on these queues are left for other workers. What it is
/// registered for is what it pulls, and nobody else's key may speak for it.
fn keep_to(binding: &Binding, body: &mut RegistrationBody) -> Result<(), Problem> {
    for (index, queue) in body.queues.iter().enumerate() {
        binding.permit_queue(&format!("queues[{index}]"), queue)?;
    }
    if !binding.kinds.is_empty() {
        let kinds = body.kinds.get_or_insert_with(|| binding.kinds.clone());
        for kind in kinds.iter() {
            binding.permit_kind("kinds", kind)?;
        }
    }
    Ok(())
}

/// Register a pull worker
///
/// For workers in any language. The worker takes jobs with `pull`, reports their outcomes with `finish` and lives as long as it sends
/// heartbeats. If the reply is lost, register again: the other id is forgotten.
#[utoipa::path(post, path = "/v1/workers", tag = "workers", operation_id = "register_worker",
    request_body = RegistrationBody,
    responses(
        (status = 201, body = RegisteredWorker),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "queue-of-another-fleet: a queue is served by Rust workers"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field, unknown-queue"),
    ))]
pub(crate) async fn register(call: Call<Bound<Work>, ControlState>, payload: web::Payload) -> Reply {
    let mut body: RegistrationBody = call.json(payload).await?;
    if let Some(binding) = call.allowed.binding() {
        keep_to(binding, &mut body)?;
    }
    let owner = owner(&call);
    let registration = Registration {
        name: body.name,
        queues: body.queues,
        concurrency: body.concurrency,
        client: ClientInfo {
            name: body.client.name,
            version: body.client.version,
            language: body.client.language,
        },
        kinds: body.kinds,
    };
    let id = call
        .run(move |state| async move { state.pull.register(&owner, registration).await })
        .await?;
    let pull = &call.state().pull;
    let answer = RegisteredWorker {
        id,
        heartbeat_seconds: pull.heartbeat().as_secs_f64(),
        lost_after_seconds: pull.lost_after().as_secs_f64(),
    };
    json(StatusCode::CREATED, &answer)
}

/// Pull jobs
///
/// The jobs are leased to the worker. One pull of a worker at a time: give one up, and ignore its reply, before the next. A job that the
/// worker has and that is not in `have` is given again, with the same fence.
#[utoipa::path(post, path = "/v1/workers/{id}/pull", tag = "workers", operation_id = "pull_jobs",
    request_body = PullBody,
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 200, body = PulledView),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "worker-not-found: it was silent for too long, or is another key's; register again"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn pull(call: Call<Bound<Work>, ControlState>, payload: web::Payload) -> Reply {
    let id = call.id::<WorkerId>()?;
    let body: PullBody = call.json(payload).await?;
    let wait = body.wait_seconds.map_or(Duration::ZERO, |seconds| seconds.0);
    if wait > MAX_WAIT {
        let rule = format!("must be 0 to {}", MAX_WAIT.as_secs());
        return Err(Problem::field(ProblemKind::InvalidField, "wait_seconds", rule));
    }
    let asked = PullRequest {
        max: body.max,
        wait: wait.min(call.context().max_wait),
        have: body.have,
    };
    let (owner, stopping) = (owner(&call), call.context().stopping.clone());
    let pulled = call
        .run(move |state| async move { state.pull.pull(&owner, id, asked, &stopping).await })
        .await?;
    ok(&PulledView::from(pulled))
}

/// Finish jobs
///
/// Each outcome is written under its fence, together with what follows it (chains, batches), and answered by itself. May be repeated as it
/// is. A completed job whose result is too large, or not what its kind's schema describes, becomes a dead letter.
#[utoipa::path(post, path = "/v1/workers/{id}/finish", tag = "workers", operation_id = "finish_jobs",
    request_body = FinishBody,
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 200, body = FinishedList),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "worker-not-found: it is another key's"),
        (status = 413, description = "body-too-large, batch-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn finish(call: Call<Bound<Work>, ControlState>, payload: web::Payload) -> Reply {
    let id = call.id::<WorkerId>()?;
    let body: FinishBody = call.json_of(payload, BodySize::Bulk).await?;
    let owner = owner(&call);
    let outcomes = body.outcomes.into_iter().map(reported).collect();
    let stored = call
        .run(move |state| async move { state.pull.finish(&owner, id, outcomes).await })
        .await?;
    let outcomes = stored.into_iter().map(|one| FinishedView {
        job: one.job,
        status: match one.status {
            OutcomeStatus::Stored => OutcomeStatusView::Stored,
            OutcomeStatus::LeaseLost => OutcomeStatusView::LeaseLost,
            OutcomeStatus::Unknown => OutcomeStatusView::Unknown,
        },
        refused: one.refused,
    });
    ok(&FinishedList {
        outcomes: outcomes.collect(),
    })
}

fn reported(body: OutcomeBody) -> ReportedOutcome {
    ReportedOutcome {
        job: body.job,
        fence: body.fence,
        verb: match body.outcome {
            OutcomeVerb::Completed => Verb::Completed,
            OutcomeVerb::Failed => Verb::Failed,
            OutcomeVerb::Discard => Verb::Discard,
            OutcomeVerb::Snooze => Verb::Snooze,
            OutcomeVerb::Cancelled => Verb::Cancelled,
        },
        result: body.result,
        error: body.error,
        retry_after: body.retry_after_seconds.map(|seconds| seconds.0),
        log: body.log,
    }
}

/// Send a heartbeat
///
/// Keeps the worker's leases, brings progress, and tells which jobs are to stop. A pull renews the leases too, when it arrives.
#[utoipa::path(post, path = "/v1/workers/{id}/heartbeat", tag = "workers", operation_id = "send_heartbeat",
    request_body = HeartbeatBody,
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 200, body = HeartbeatAnswer),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "worker-not-found: it was silent for too long, or is another key's; register again"),
        (status = 413, description = "body-too-large"),
        (status = 415, description = "unsupported-media-type"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn heartbeat(call: Call<Bound<Work>, ControlState>, payload: web::Payload) -> Reply {
    let id = call.id::<WorkerId>()?;
    let body: HeartbeatBody = call.json_of(payload, BodySize::Bulk).await?;
    let (owner, beat) = (owner(&call), beat_of(body)?);
    let answer = call
        .run(move |state| async move { state.pull.beat(&owner, id, beat).await })
        .await?;
    ok(&HeartbeatAnswer {
        cancel: answer.cancel,
        lost: answer.lost,
        drain: answer.drain,
    })
}

fn beat_of(body: HeartbeatBody) -> Result<Beat, Problem> {
    let progress = body.progress.into_iter().map(|(id, value)| {
        let id = id.parse::<JobId>().map_err(|error| {
            let field = format!("progress.{}", id.chars().take(80).collect::<String>());
            Problem::field(ProblemKind::InvalidField, field, format!("is {error}"))
        })?;
        Ok((id, value))
    });
    Ok(Beat {
        running: body.running,
        progress: progress.collect::<Result<_, Problem>>()?,
        log: body.log.into_iter().map(reported_line).collect(),
    })
}

fn reported_line(line: LogLine) -> ReportedLine {
    ReportedLine {
        job: line.job,
        fence: line.fence,
        line: line.line,
    }
}

/// Delete a pull worker
///
/// What it holds goes back to its queues immediately, without a crash. A worker that is gone already is no error.
#[utoipa::path(delete, path = "/v1/workers/{id}", tag = "workers", operation_id = "delete_worker",
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 204, description = "It is gone"),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "worker-not-found: it is another key's"),
    ))]
pub(crate) async fn delete(call: Call<Bound<Work>, ControlState>) -> Reply {
    let id = call.id::<WorkerId>()?;
    let owner = owner(&call);
    call.run(move |state| async move { state.pull.leave(&owner, id).await })
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Drain a pull worker
///
/// It is given no more jobs, and told so by its next pull or heartbeat.
#[utoipa::path(post, path = "/v1/workers/{id}/drain", tag = "workers", operation_id = "drain_worker",
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 200, body = DrainedWorker),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "worker-not-found: unknown, gone, or a Rust worker"),
    ))]
pub(crate) async fn drain(call: Call<Admin, ControlState>) -> Reply {
    let id = call.id::<WorkerId>()?;
    let by = call.actor();
    let draining = call
        .run(move |state| async move { state.jobs.steer(&by).drain_worker(id).await })
        .await?;
    if !draining {
        return Err(PullError::UnknownWorker(id).into());
    }
    ok(&DrainedWorker { id, draining })
}
