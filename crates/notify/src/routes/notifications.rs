//! Publishing what happened.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::body::{BodySize, json_body_of};
use holdfast_http::json;
use holdfast_http::params::{Params, idempotency_key};
use holdfast_http::{Allowed, Produce};
use holdfast_http::{Problem, ProblemKind};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;
use utoipa::ToSchema;

use crate::notifications::{Notice, NoticeId, Published};
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

impl From<Published> for NoticeView {
    fn from(published: Published) -> Self {
        let Published {
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
pub(crate) async fn publish(
    allowed: Allowed<Produce>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let key = idempotency_key(&request)?.map(|key| allowed.caller().job_key(key));
    let body: NoticeBody = json_body_of(&request, payload, &state.http, BodySize::Bulk).await?;
    let notice = Notice {
        event_type: body
            .event_type
            .parse()
            .map_err(|error| Problem::field(ProblemKind::InvalidField, "type", format!("{error}")))?,
        data: body.data,
        key,
    };
    let notices = state.notices.clone();
    let published = state
        .http
        .on_runtime(async move { notices.publish(&notice).await })
        .await?;
    let status = if published.duplicate {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    };
    json(status, &NoticeView::from(published))
}
