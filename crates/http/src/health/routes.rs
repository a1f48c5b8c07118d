//! The routes that every service serves; see [`health`](super) and [`monitor`](crate::monitor).

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use serde::Serialize;
use utoipa::ToSchema;

use super::{Health, Report, Verdict};
use crate::context::json;
use crate::monitor::routes as monitor;
use crate::problem::Problem;

crate::routes! {
    /// The routes that every service serves. Their state is [`Health`].
    pub ROUTES:
    "/health" => { GET report }
    "/health/live" => { GET live }
    "/health/ready" => { GET ready }
    "/metrics" => { GET monitor::prometheus }
    "/metrics/redis" => { GET monitor::redis }
}

/// A status for a platform's health check.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Word {
    #[schema(value_type = String, example = "ready")]
    status: &'static str,
    uptime_seconds: u64,
}

/// Health report
///
/// 200 while the service serves, also degraded; 503 when it cannot. Cached for a second. In production the
/// details, errors and hints of the services are for callers with the scope `read`; everybody else is told how
/// each service is.
#[utoipa::path(get, path = "/health", tag = "health", operation_id = "health",
    responses(
        (status = 200, body = Report, description = "healthy or degraded"),
        (status = 503, body = Report, description = "unhealthy"),
    ),
    security((), ("api_key" = ["read"])))]
pub(crate) async fn report(request: HttpRequest, health: web::Data<Health>) -> Result<HttpResponse, Problem> {
    let report = health.report().await;
    let shows_all = match health.monitor() {
        Ok(monitor) => monitor.shows_details(&request).await,
        Err(_) => true,
    };
    let report = if shows_all {
        report
    } else {
        report.in_words().into()
    };
    let status = match report.status {
        Verdict::Healthy | Verdict::Degraded => StatusCode::OK,
        Verdict::Unhealthy => StatusCode::SERVICE_UNAVAILABLE,
    };
    json(status, &*report)
}

/// Liveness
///
/// Checks no dependency: 200 as long as the process can answer.
#[utoipa::path(get, path = "/health/live", tag = "health", operation_id = "live",
    responses((status = 200, body = Word)))]
pub(crate) async fn live(health: web::Data<Health>) -> Result<HttpResponse, Problem> {
    word(StatusCode::OK, "alive", &health)
}

/// Readiness
#[utoipa::path(get, path = "/health/ready", tag = "health", operation_id = "ready",
    responses(
        (status = 200, body = Word),
        (status = 503, body = Word, description = "a required dependency is unavailable, or the process is stopping"),
    ))]
pub(crate) async fn ready(health: web::Data<Health>) -> Result<HttpResponse, Problem> {
    if health.is_ready().await {
        word(StatusCode::OK, "ready", &health)
    } else if health.is_stopping() {
        word(StatusCode::SERVICE_UNAVAILABLE, "stopping", &health)
    } else {
        word(StatusCode::SERVICE_UNAVAILABLE, "not_ready", &health)
    }
}

fn word(status: StatusCode, text: &'static str, health: &Health) -> Result<HttpResponse, Problem> {
    json(
        status,
        &Word {
            status: text,
            uptime_seconds: health.uptime().as_secs(),
        },
    )
}
