//! The log of deliveries of a webhook.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_http::json;
use holdfast_http::params::Params;
use holdfast_http::problem::Problem;
use holdfast_http::{Admin, Allowed};
use holdfast_jobs::JobId;
use serde::Serialize;
use utoipa::ToSchema;

use super::webhooks::{DEFAULT_LIMIT, MAX_LIMIT, cursor, webhook_id};
use crate::state::NotifyState;
use crate::webhooks::{Delivery, DeliveryFilter, DeliveryId};

/// One attempt to deliver a notification.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WebhookDelivery)]
pub(crate) struct DeliveryView {
    #[schema(value_type = String)]
    id: DeliveryId,
    /// Sent as `webhook-id`.
    message_id: String,
    #[serde(rename = "type")]
    event_type: String,
    #[schema(value_type = String)]
    job_id: JobId,
    attempt: u32,
    at: DateTime<Utc>,
    duration_ms: u64,
    /// The receiver answered 2xx.
    delivered: bool,
    /// Null if there was no response.
    status: Option<u16>,
    error: Option<String>,
    /// The first 1,024 bytes of the request.
    request: String,
    /// The first 1,024 bytes of the response.
    response: Option<String>,
}

impl From<Delivery> for DeliveryView {
    fn from(delivery: Delivery) -> Self {
        let Delivery {
            id,
            message_id,
            event_type,
            job_id,
            attempt,
            at,
            duration_ms,
            delivered,
            status,
            error,
            request,
            response,
        } = delivery;
        Self {
            id,
            message_id,
            event_type,
            job_id,
            attempt,
            at,
            duration_ms,
            delivered,
            status,
            error,
            request,
            response,
        }
    }
}

/// One page of attempts, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeliveryPage {
    deliveries: Vec<DeliveryView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    next: Option<DeliveryId>,
}

/// List the deliveries of a webhook
///
/// Every attempt, in pages, newest first; stored for `notifications.retain_deliveries_seconds`.
#[utoipa::path(get, path = "/v1/webhooks/{id}/deliveries", tag = "webhooks", operation_id = "list_webhook_deliveries",
   params(
        ("id" = String, Path, description = "The webhook's id"),
        ("delivered" = Option<bool>, Query, description = "Only those that were delivered, or that failed"),
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = DeliveryPage),
        (status = 400, description = "invalid-id, invalid-parameter, invalid-cursor"),
        (status = 404, description = "webhook-not-found"),
    ))]
pub(crate) async fn list(
    _: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let id = webhook_id(&request)?;
    let mut params = Params::of(&request, &["delivered", "after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let delivered = params.parsed("delivered");
    let after = params.text("after").map(ToOwned::to_owned);
    params.finish()?;
    let before = after.map(|text| cursor::<DeliveryId>(&text)).transpose()?;
    let filter = DeliveryFilter {
        delivered,
        before,
        limit: limit + 1,
    };
    let notices = state.notices.clone();
    let found = state
        .http
        .on_runtime(async move { notices.webhooks().deliveries(id, filter).await })
        .await?;
    let more = found.len() > limit;
    let deliveries: Vec<DeliveryView> = found.into_iter().take(limit).map(DeliveryView::from).collect();
    let next = deliveries.last().filter(|_| more).map(|delivery| delivery.id);
    json(StatusCode::OK, &DeliveryPage { deliveries, next })
}
