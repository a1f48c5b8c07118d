//! How handlers of this crate keep to the queues and kinds of a bound key.
//!
//! A job belongs to the key if its kind and its queue do. Jobs that do not are answered as jobs that there are none: a bound key is not
//! told what else the installation runs.

use std::sync::Arc;

use holdfast_http::problem::Problem;
use holdfast_http::{Binding, Bound, Call};
use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::{JobId, Jobs};

use crate::jobs::not_found;
use crate::state::ControlState;

/// Refuses a request for a job that is not the key's, or that has a follow-up that is not. The queue is then part of the request, so that
/// a change of its kind meanwhile leads it nowhere else. The request then names the caller, as the audit log does.
pub(crate) async fn permit_request<N, Q>(
    call: &Call<Bound<N>, ControlState, Q>,
    request: &mut JobRequest,
) -> Result<(), Problem> {
    request.enqueued_by = Some(name_of(call));
    let Some(binding) = call.allowed.binding() else {
        return Ok(());
    };
    call.state().learn().await;
    permit(binding, &call.state().jobs, request, "")
}

/// The same for many requests; a refusal names the one.
pub(crate) async fn permit_requests<N, Q>(
    call: &Call<Bound<N>, ControlState, Q>,
    requests: &mut [JobRequest],
    callback: Option<&mut JobRequest>,
) -> Result<(), Problem> {
    let name = name_of(call);
    for request in requests.iter_mut() {
        request.enqueued_by = Some(Arc::clone(&name));
    }
    let Some(binding) = call.allowed.binding() else {
        return Ok(());
    };
    call.state().learn().await;
    let jobs = &call.state().jobs;
    for (index, request) in requests.iter_mut().enumerate() {
        permit(binding, jobs, request, &format!("jobs[{index}]."))?;
    }
    callback.map_or(Ok(()), |callback| permit(binding, jobs, callback, "callback."))
}

fn name_of<N, Q>(call: &Call<Bound<N>, ControlState, Q>) -> Arc<str> {
    Arc::from(call.allowed.caller().actor().as_str())
}

fn permit(binding: &Binding, jobs: &Jobs, request: &mut JobRequest, prefix: &str) -> Result<(), Problem> {
    let (mut next, mut prefix) = (Some(request), prefix.to_owned());
    while let Some(job) = next {
        binding.permit_kind(&format!("{prefix}kind"), &job.kind)?;
        // Of a kind that nobody knows the check of the request says so.
        let queue = job.queue.take().or_else(|| jobs.queue_of_kind(&job.kind));
        if let Some(queue) = &queue {
            binding.permit_queue(&format!("{prefix}queue"), queue)?;
        }
        job.queue = queue;
        prefix.push_str("then.");
        next = job.then.as_deref_mut();
    }
    Ok(())
}

/// Refuses an id that is not that of one of the key's jobs.
pub(crate) async fn permit_job<N, Q>(
    call: &Call<Bound<N>, ControlState, Q>,
    id: JobId,
) -> Result<(), Problem> {
    let Some(binding) = call.allowed.binding().cloned() else {
        return Ok(());
    };
    let found = call
        .run(move |state| async move { state.jobs.get(id).await })
        .await?;
    match found {
        Some(job) if binding.allows(&job.kind, &job.queue) => Ok(()),
        _ => Err(not_found(id)),
    }
}
