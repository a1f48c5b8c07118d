//! Queues in filters: the one place that refuses names of queues that do not exist.

use holdfast_http::problem::Problem;
use holdfast_http::{Binding, Bound, Call};

use crate::state::ControlState;

/// Refuses a filter by a queue that does not exist; `field` is where the name stands in the request. See
/// [`unknown_queue`](holdfast_jobs::Jobs::unknown_queue).
pub(crate) async fn refuse_unknown(
    state: &ControlState,
    field: &'static str,
    names: impl IntoIterator<Item = impl Into<String>>,
) -> Result<(), Problem> {
    let names: Vec<String> = names.into_iter().map(Into::into).collect();
    if names.is_empty() {
        return Ok(());
    }
    let jobs = state.jobs.clone();
    let judged = async move { jobs.unknown_queue(field, &names).await };
    match state.http.on_runtime(judged).await? {
        Some(fault) => Err(fault.into()),
        None => Ok(()),
    }
}

/// The same for a key that may be bound. One that is bound to queues is not told which others there are: those that it may name were
/// checked by its binding.
pub(crate) async fn refuse_unknown_to<N, Q>(
    call: &Call<Bound<N>, ControlState, Q>,
    field: &'static str,
    names: impl IntoIterator<Item = impl Into<String>>,
) -> Result<(), Problem> {
    let is_bound = |binding: &Binding| !binding.queues.is_empty();
    if call.allowed.binding().is_some_and(|binding| is_bound(binding)) {
        return Ok(());
    }
    refuse_unknown(call.state(), field, names).await
}
