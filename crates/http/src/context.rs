//! What every handler shares.

use actix_web::http::StatusCode;
use holdfast::UserData;
use holdfast::events::discovery::{Sources, Subscriptions};
use holdfast::events::recommend::Recommender;
use holdfast::notify::PreferenceStore;
use holdfast::notify::notifications::Notices;
use holdfast::points::Points;
use holdfast_jobs::Jobs;
use holdfast_jobs::schedules::Schedules;
use serde::Serialize;
use std::time::Duration;

use actix_web::HttpResponse;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::auth::{ApiKeys, Sessions};
use crate::body_budget::BodyBudget;
use crate::problem::Problem;
use crate::rate::RateLimits;
use crate::responses::Responses;

#[derive(Debug)]
pub(crate) struct State {
    pub(crate) jobs: Jobs,
    pub(crate) schedules: Schedules,
    /// Of the routes that opt in.
    pub(crate) responses: Responses,
    pub(crate) points: Points,
    pub(crate) sources: Sources,
    pub(crate) subscriptions: Subscriptions,
    /// With the stores of events and interactions.
    pub(crate) recommender: Recommender,
    pub(crate) user_data: UserData,
    pub(crate) preferences: PreferenceStore,
    pub(crate) notices: Notices,
    pub(crate) keys: ApiKeys,
    pub(crate) rates: RateLimits,
    pub(crate) sessions: Sessions,
    /// The server started without any key: it serves this machine while there is none.
    pub(crate) open: bool,
    pub(crate) max_body: usize,
    pub(crate) body_budget: BodyBudget,
    /// Longest a body may take to arrive.
    pub(crate) body_deadline: Duration,
    pub(crate) max_wait: Duration,
    /// A worker that was silent for longer is not alive.
    pub(crate) lost_after: Duration,
    /// Long polls end early at a stop.
    pub(crate) stopping: CancellationToken,
    /// The process' own runtime. Each HTTP thread has one of its own, which ends with the server: a pooled connection
    /// opened there would die under whoever gets it next.
    pub(crate) runtime: Handle,
}

impl State {
    /// Runs what may open database connections where these outlive the HTTP threads. Given up with its request.
    pub(crate) async fn on_runtime<T, E>(
        &self,
        work: impl Future<Output = Result<T, E>> + Send + 'static,
    ) -> Result<T, Problem>
    where
        T: Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        match AbortOnDropHandle::new(self.runtime.spawn(work)).await {
            Ok(result) => Ok(result?),
            Err(error) => Err(Problem::internal(error)),
        }
    }
}

/// A JSON answer.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<HttpResponse, Problem> {
    let text = serde_json::to_vec(body).map_err(Problem::internal)?;
    Ok(HttpResponse::build(status)
        .content_type("application/json")
        .body(text))
}
