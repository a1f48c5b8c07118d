//! The log of deliveries of a webhook.

use chrono::{DateTime, Utc};
use holdfast_http::{Admin, Call, PageParams, Reply, WithQuery, ok};
use holdfast_jobs::JobId;
use serde::Serialize;
use utoipa::ToSchema;

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
        PageParams,
    ),
    responses(
        (status = 200, body = DeliveryPage),
        (status = 400, description = "invalid-id, invalid-parameter, invalid-cursor"),
        (status = 404, description = "webhook-not-found"),
    ))]
pub(crate) async fn list(call: Call<Admin, NotifyState, WithQuery>) -> Reply {
    let id = call.id()?;
    let mut params = call.params(&["delivered", "after", "limit"]);
    let page = params.page();
    let delivered = params.parsed("delivered");
    params.finish()?;
    let filter = DeliveryFilter {
        delivered,
        before: page.cursor()?,
        limit: page.wanted(),
    };
    let found = call.run(move |state| async move { state.notices.webhooks().deliveries(id, filter).await });
    let (deliveries, next) = page.cut(found.await?, DeliveryView::from, |delivery| delivery.id);
    ok(&DeliveryPage { deliveries, next })
}
