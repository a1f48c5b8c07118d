//! Publishing what happened.

use actix_web::web;
use holdfast_http::body::BodySize;
use holdfast_http::{Call, Problem, ProblemKind, Produce, Reply, accepted, json};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::notifications::{Notice, NoticeId, PublishedNotice};
use crate::state::NotifyState;

/// What happened.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewNotification, example = json!({"type": "order.paid", "data": {"order": 42}}))]
pub(crate) struct NoticeBody {
    /// Words of a-z, A-Z, 0-9, _ and -, with dots between.
    #[serde(rename = "type")]
    #[schema(max_length = 255, example = "order.paid")]
    event_type: String,
    /// Any JSON, sent unchanged.
    #[schema(value_type = Value)]
    data: Box<RawValue>,
}

/// The result.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Notification)]
pub(crate) struct NoticeView {
    /// The `webhook-id` of its deliveries is `msg_` and this.
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: NoticeId,
    /// Number of endpoints that receive it: the enabled ones that subscribe to its type.
    webhooks: u64,
    /// It already existed under this key; `id` is that of the first one.
    duplicate: bool,
}

impl From<PublishedNotice> for NoticeView {
    fn from(published: PublishedNotice) -> Self {
        let PublishedNotice {
            id,
            webhooks,
            duplicate,
        } = published;
        Self {
            id,
            webhooks,
            duplicate,
        }
    }
}

/// Publish a notification
///
/// Enqueues a signed delivery (a job of the kind `notify.webhook`) for every enabled webhook that subscribes to
/// the type, in one transaction. A repeat with the same `Idempotency-Key` publishes nothing and is answered
/// 200.
#[utoipa::path(post, path = "/v1/notifications", tag = "notifications", operation_id = "publish_notification",
    request_body = NoticeBody,
    params(("Idempotency-Key" = Option<String>, Header, description = "1 to 200 printable ASCII characters")),
    responses(
        (status = 202, body = NoticeView, description = "Published"),
        (status = 200, body = NoticeView, description = "It was published before, under this key"),
        (status = 400, description = "malformed-json, invalid-header"),
        (status = 413, description = "body-too-large, payload-too-large"),
        (status = 422, description = "invalid-field, idempotency-key-reused"),
    ))]
pub(crate) async fn publish(call: Call<Produce, NotifyState>, payload: web::Payload) -> Reply {
    let key = call.job_key()?;
    let body: NoticeBody = call.json_of(payload, BodySize::Bulk).await?;
    let event_type = body.event_type.parse();
    let notice = Notice {
        event_type: event_type
            .map_err(|error| Problem::field(ProblemKind::InvalidField, "type", format!("{error}")))?,
        data: body.data,
        key,
    };
    let published = call.run(|state| async move { state.notices.publish(&notice).await });
    let published = published.await?;
    json(accepted(published.duplicate), &NoticeView::from(published))
}
