//! What the handlers of every crate share.

use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpResponse;
use actix_web::http::StatusCode;
use actix_web::web::{Data, ServiceConfig};
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::shutdown::Shutdown;
use serde::Serialize;
use tokio::runtime::Handle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::authentication::Authenticator;
use crate::body::BodyBudget;
use crate::problem::Problem;
use crate::rate::RateLimits;
use crate::responses::Responses;

/// A body has this share of a request's time, so that a slow sender is answered 408 before the whole request times out.
const BODY_SHARE: f64 = 0.9;

/// One for each server; the state of a crate with routes holds it.
#[derive(Debug)]
pub struct ServerContext {
    pub authenticator: Arc<dyn Authenticator>,
    /// The server started without any key: it serves this machine while there is none.
    pub is_keyless: bool,
    pub rates: RateLimits,
    /// Cached answers, for the routes that opt in.
    pub responses: Responses,
    /// Largest body, in bytes.
    pub max_body: usize,
    pub body_budget: BodyBudget,
    /// Longest a body may take to arrive.
    pub body_deadline: Duration,
    /// Longest a long poll may wait.
    pub max_wait: Duration,
    /// Cancelled when the server stops: long polls end early.
    pub stopping: CancellationToken,
    /// The process' own runtime. Each HTTP thread has a runtime that ends with the server: a pooled connection that is opened there
    /// would fail under the next request that gets it.
    pub runtime: Handle,
}

impl ServerContext {
    /// Call it inside tokio.
    pub fn new(
        settings: &Settings,
        cache: Cache,
        authenticator: Arc<dyn Authenticator>,
        is_keyless: bool,
        shutdown: &Shutdown,
    ) -> Arc<Self> {
        let server = &settings.server;
        Arc::new(Self {
            authenticator,
            is_keyless,
            rates: RateLimits::new(settings, cache.gate().clone()),
            responses: Responses::new(cache, settings),
            max_body: server.max_body_bytes,
            body_budget: BodyBudget::new(server.max_body_bytes_in_flight),
            body_deadline: server.request_timeout.mul_f64(BODY_SHARE),
            max_wait: server.max_wait,
            stopping: shutdown.token().clone(),
            runtime: Handle::current(),
        })
    }

    /// Registers the context with one HTTP thread; the extractors need it.
    pub fn register(self: &Arc<Self>, config: &mut ServiceConfig) {
        config.app_data(Data::from(Arc::clone(self)));
    }

    /// Runs what may open database connections on the process' own runtime, which outlives the HTTP threads. It is dropped with its
    /// request.
    pub async fn on_runtime<T, E>(
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
pub fn json(status: StatusCode, body: &impl Serialize) -> Result<HttpResponse, Problem> {
    let text = serde_json::to_vec(body).map_err(Problem::internal)?;
    Ok(HttpResponse::build(status)
        .content_type("application/json")
        .body(text))
}
