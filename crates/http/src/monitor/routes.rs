//! The routes of machines that watch; see [`monitor`](super).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_core::telemetry::metrics::CONTENT_TYPE;

use super::{Monitor, RedisReport};
use crate::authentication::count_anonymous;
use crate::context::{ServerContext, json};
use crate::health::Health;
use crate::params::Params;
use crate::problem::Problem;

/// Prometheus metrics
///
/// Metrics of this process and of the queues. Needs a key with the scope `read`, unless `metrics.public` is set
/// or there is no key.
#[utoipa::path(get, path = "/metrics", tag = "health", operation_id = "metrics",
    responses(
        (status = 200, description = "Prometheus text, version 0.0.4", content_type = "text/plain"),
        (status = 401, description = "unauthenticated"),
        (status = 403, description = "missing-scope"),
        (status = 503, description = "unavailable"),
    ),
    security((), ("api_key" = ["read"])))]
pub(crate) async fn prometheus(
    request: HttpRequest,
    health: web::Data<Health>,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let monitor = health.monitor()?;
    authorize(&request, monitor).await?;
    Ok(HttpResponse::Ok()
        .content_type(CONTENT_TYPE)
        .body(monitor.exposition().await))
}

/// A request that may not see the figures counts as anonymous, as anywhere else: keys are not guessed here either.
async fn authorize(request: &HttpRequest, monitor: &Monitor) -> Result<(), Problem> {
    let Err(refused) = monitor.authorize(request).await else {
        return Ok(());
    };
    if let Some(context) = request.app_data::<web::Data<ServerContext>>() {
        count_anonymous(context, request).await?;
    }
    Err(refused)
}

/// The Redis server, with advice
///
/// Has every field in every mode: a value that cannot be read is null. Cached for a second.
#[utoipa::path(get, path = "/metrics/redis", tag = "health", operation_id = "redis_metrics",
    responses(
        (status = 200, body = RedisReport),
        (status = 401, description = "unauthenticated"),
        (status = 403, description = "missing-scope"),
        (status = 503, description = "unavailable"),
    ),
    security((), ("api_key" = ["read"])))]
pub(crate) async fn redis(request: HttpRequest, health: web::Data<Health>) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let monitor = health.monitor()?;
    authorize(&request, monitor).await?;
    let report = monitor
        .redis()
        .await
        .ok_or_else(|| Problem::internal("the report on Redis could not be made"))?;
    json(StatusCode::OK, &*report)
}
