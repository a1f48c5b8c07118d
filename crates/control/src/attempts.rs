//! What a job has done: its attempts, and what its handlers have written.

use std::borrow::Cow;

use chrono::{DateTime, Utc};
use holdfast_http::{Bound, Call, Read, Reply, WithQuery, ok};
use holdfast_jobs::attempts::Attempt;
use holdfast_jobs::job_log::{JobLog, LoggedLine};
use holdfast_jobs::marks::REDACTED;
use holdfast_jobs::{JobId, State as JobState, WorkerId};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bound::permit_job;
use crate::job_view::ErrorView;
use crate::jobs::not_found;
use crate::state::ControlState;

/// The attempts of a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = JobAttempts)]
pub struct AttemptsView {
    #[schema(value_type = String)]
    pub id: JobId,
    #[schema(value_type = String, example = "completed")]
    pub state: JobState,
    /// The first one first. Executions that were put back without an outcome (a worker that stopped, a snooze) are none.
    pub attempts: Vec<AttemptView>,
}

/// One attempt.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = JobAttempt)]
pub struct AttemptView {
    /// From 1. A crash does not count: the next attempt has the same number.
    pub attempt: u32,
    /// running, completed, failed, discarded, crashed or cancelled.
    #[schema(value_type = String, example = "failed")]
    pub outcome: Cow<'static, str>,
    /// The worker's name. Absent: it is gone, and left none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Of the last attempt.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schema(value_type = Option<String>)]
    pub worker_id: Option<WorkerId>,
    /// The machine, as the worker's name has it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub host: Option<String>,
    /// Absent: it has not begun, or a version before wrote it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_at: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub duration_seconds: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<ErrorView>,
}

impl From<Attempt> for AttemptView {
    fn from(attempt: Attempt) -> Self {
        let span = attempt.started_at.zip(attempt.ended_at);
        let duration = span.and_then(|(began, ended)| (ended - began).to_std().ok());
        Self {
            attempt: attempt.attempt,
            outcome: attempt.outcome.as_str().into(),
            host: attempt.host().map(ToOwned::to_owned),
            worker: attempt.worker,
            worker_id: attempt.worker_id,
            started_at: attempt.started_at,
            ended_at: attempt.ended_at,
            duration_seconds: duration.map(|duration| duration.as_secs_f64()),
            error: attempt.error.map(ErrorView::from),
        }
    }
}

/// List the attempts of a job
///
/// Each with its worker, times, outcome and error.
#[utoipa::path(get, path = "/v1/jobs/{id}/attempts", tag = "jobs", operation_id = "list_attempts",
    params(("id" = String, Path, description = "The job's id")),
    responses(
        (status = 200, body = AttemptsView),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "job-not-found"),
    ))]
pub(crate) async fn attempts(call: Call<Bound<Read>, ControlState>) -> Reply {
    let id = call.id::<JobId>()?;
    permit_job(&call, id).await?;
    let found = call.run(move |state| async move { state.jobs.attempts(id).await });
    let (job, attempts) = found.await?.ok_or_else(|| not_found(id))?;
    let mut view = AttemptsView {
        id,
        state: job.state,
        attempts: attempts.into_iter().map(AttemptView::from).collect(),
    };
    if !call.allowed.sees_payloads() {
        let errors = view
            .attempts
            .iter_mut()
            .filter_map(|attempt| attempt.error.as_mut());
        errors.for_each(ErrorView::hide);
    }
    ok(&view)
}

/// The log of a job.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = JobLog)]
pub struct LogView {
    #[schema(value_type = String)]
    pub id: JobId,
    /// More lines may come, unless it is final.
    #[schema(value_type = String, example = "running")]
    pub state: JobState,
    /// The oldest first.
    pub lines: Vec<LoggedLineView>,
    /// Lines before the first that were dropped: the newest 1,000 lines of 256 KiB are stored.
    pub dropped: u32,
}

/// A line that a handler wrote.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = LoggedLine)]
pub struct LoggedLineView {
    /// Among all lines of the job, from 1.
    pub number: u32,
    pub attempt: u32,
    /// By the worker's clock; of a pull worker, when the line came to the API.
    pub at: DateTime<Utc>,
    pub line: String,
}

impl From<LoggedLine> for LoggedLineView {
    fn from(line: LoggedLine) -> Self {
        Self {
            number: line.number,
            attempt: line.attempt,
            at: line.at,
            line: line.text,
        }
    }
}

/// Show the log of a job
///
/// The lines that its handlers wrote, in all attempts. They are stored with heartbeats and outcomes, so those of a running job are some
/// seconds late. Without `read:payload` their texts are hidden. A job of a `redis` queue has none.
#[utoipa::path(get, path = "/v1/jobs/{id}/log", tag = "jobs", operation_id = "show_job_log",
    params(
        ("id" = String, Path, description = "The job's id"),
        ("after" = Option<u32>, Query, description = "Only lines with a larger number: what came since the last request"),
    ),
    responses(
        (status = 200, body = LogView),
        (status = 400, description = "invalid-id, invalid-parameter"),
        (status = 404, description = "job-not-found"),
    ))]
pub(crate) async fn log(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    let id = call.id::<JobId>()?;
    let mut params = call.params(&["after"]);
    let after = params.count("after", 0, u32::MAX as usize);
    params.finish()?;
    permit_job(&call, id).await?;
    // The job first: lines that it writes before it ends are found, if it is said to have ended.
    let found = call.run(move |state| async move {
        let job = state.jobs.get(id).await?;
        let log = state.jobs.log_of(id).await?;
        Ok::<_, holdfast_jobs::ledger::LedgerError>(job.map(|job| (job.state, log)))
    });
    let (state, JobLog { mut lines, dropped }) = found.await?.ok_or_else(|| not_found(id))?;
    lines.retain(|line| after.is_none_or(|after| line.number as usize > after));
    if !call.allowed.sees_payloads() {
        for line in &mut lines {
            REDACTED.clone_into(&mut line.text);
        }
    }
    ok(&LogView {
        id,
        state,
        lines: lines.into_iter().map(LoggedLineView::from).collect(),
        dropped,
    })
}
