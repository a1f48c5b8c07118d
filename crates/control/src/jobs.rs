//! Following jobs and steering them.

use std::time::Duration;

use actix_web::http::StatusCode;
use holdfast_core::config::Durability;
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Bound, Call, Produce, Read, Reply, WithQuery, json, ok};
use holdfast_jobs::ledger::{CancelReply, JobRecord, LedgerError, RetryReply};
use holdfast_jobs::{JobId, Jobs, State as JobState};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::bound::permit_job;
use crate::job_view::JobView;
use crate::state::ControlState;

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
pub(crate) async fn show(call: Call<Bound<Read>, ControlState, WithQuery>) -> Reply {
    let id = call.id::<JobId>()?;
    let wait = wait_of(&call)?;
    permit_job(&call, id).await?;
    let stopping = call.context().stopping.clone();
    let found = call.run(move |state| async move {
        let found = tokio::select! {
            found = look(&state.jobs, id, wait) => found?,
            () = stopping.cancelled(), if !wait.is_zero() => state.jobs.get(id).await?,
        };
        Ok::<_, LedgerError>(match found {
            Some(record) => Some(viewed(&state.jobs, record).await),
            None => None,
        })
    });
    let mut found = found.await?.ok_or_else(|| not_found(id))?;
    call.state().learn().await;
    found.redact_for(&call);
    ok(&found)
}

/// The parameter `wait`, the only one of the route.
pub(crate) fn wait_of<N>(call: &Call<N, ControlState, WithQuery>) -> Result<Duration, Problem> {
    let mut params = call.params(&["wait"]);
    let wait = params.seconds("wait", call.context().max_wait);
    params.finish()?;
    Ok(wait.unwrap_or(Duration::ZERO))
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
pub(crate) async fn cancel(call: Call<Bound<Produce>, ControlState>) -> Reply {
    let (id, by) = (call.id::<JobId>()?, call.actor());
    permit_job(&call, id).await?;
    let reply = call.run(move |state| async move { state.jobs.steer(&by).cancel(id).await });
    let (status, state) = match reply.await?.ok_or_else(|| not_found(id))? {
        CancelReply::Cancelled | CancelReply::AlreadyFinal(JobState::Cancelled) => {
            (StatusCode::OK, JobState::Cancelled)
        }
        CancelReply::Requested => (StatusCode::ACCEPTED, JobState::Running),
        CancelReply::AlreadyFinal(state) => {
            let rule = "only a job that has not ended can be cancelled";
            return Err(refused(id, state, rule));
        }
    };
    json(status, &SteeredJob { id, state })
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
pub(crate) async fn retry(call: Call<Bound<Produce>, ControlState>) -> Reply {
    let (id, by) = (call.id::<JobId>()?, call.actor());
    permit_job(&call, id).await?;
    let reply = call.run(move |state| async move { state.jobs.steer(&by).retry(id).await });
    match reply.await?.ok_or_else(|| not_found(id))? {
        RetryReply::Available { .. } => {
            let state = JobState::Available;
            ok(&SteeredJob { id, state })
        }
        RetryReply::Refused(state) => {
            let rule = "only a job that waits or is discarded can be retried";
            Err(refused(id, state, rule))
        }
        RetryReply::UniqueKeyTaken => {
            Err(Problem::new(ProblemKind::IllegalTransition, RetryReply::UNIQUE_KEY_TAKEN).about(id))
        }
    }
}

pub(crate) fn not_found(id: JobId) -> Problem {
    let reason = format!("no job {id} is known; it was never accepted, or is no longer kept");
    Problem::field(ProblemKind::JobNotFound, "id", reason)
}

pub(crate) fn refused(id: JobId, state: JobState, rule: &str) -> Problem {
    Problem::new(
        ProblemKind::IllegalTransition,
        format!("the job is {state}; {rule}"),
    )
    .about(id)
}
