//! Webhooks: endpoints that receive notifications.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_control::enqueue::AcceptedJob;
use holdfast_http::body::fields::Seconds;
use holdfast_http::body::fields::secret;
use holdfast_http::problem::Problem;
use holdfast_http::{Admin, Call, PageParams, Reply, WithQuery, json_at, ok};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::NotifyState;
use crate::webhooks::{
    MadeWebhook, RotatedSecret, WebhookDraft, WebhookError, WebhookFault, WebhookId, WebhookRecord,
};

/// How long the secret before a rotation signs too, unless the request says otherwise: enough to deploy the new one.
const DEFAULT_GRACE: Duration = Duration::from_hours(24);

/// An endpoint to be created.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewWebhook, example = json!({"url": "https://example.com/hooks", "events": ["order.*"]}))]
pub(crate) struct CreateBody {
    /// The URL that receives notifications: https or http, at a public address.
    #[schema(max_length = 2048)]
    url: String,
    /// Which notifications: a type such as `order.paid`, a prefix such as `order.*`, or `*` for all that are published. 1 to 50.
    /// The engine's own (`job.completed`, `job.discarded`, `batch.completed`, `schedule.missed`, `queue.stalled`) are sent where
    /// they, or `job.*` and so on, are named; `*` is without them.
    events: Vec<String>,
    /// Of which kinds the events of jobs and schedules are sent: names, or prefixes such as `report.*`. Default: of all.
    #[serde(default)]
    kinds: Vec<String>,
    /// Of which queues the events of jobs, schedules and queues are sent. Default: of all.
    #[serde(default)]
    queues: Vec<String>,
    #[schema(max_length = 255)]
    description: Option<String>,
    /// Your own secret: `whsec_` and the base64 of 24 to 64 random bytes. Default: a generated one.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    secret: Option<SecretString>,
    /// Default: true.
    enabled: Option<bool>,
}

/// The new settings of an endpoint.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookChange, example = json!({"url": "https://example.com/hooks", "events": ["*"], "enabled": true}))]
pub(crate) struct PutBody {
    #[schema(max_length = 2048)]
    url: String,
    events: Vec<String>,
    /// Of which kinds the events of jobs and schedules are sent. Default: of all.
    #[serde(default)]
    kinds: Vec<String>,
    /// Of which queues the events of jobs, schedules and queues are sent. Default: of all.
    #[serde(default)]
    queues: Vec<String>,
    #[schema(max_length = 255)]
    description: Option<String>,
    /// Default: true.
    enabled: Option<bool>,
}

/// How a secret is changed.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = WebhookRotation)]
pub(crate) struct RotateBody {
    /// How long the previous secret stays valid, in seconds, 0 to 2592000; default: a day.
    #[schema(value_type = Option<f64>, minimum = 0, maximum = 2_592_000)]
    grace_seconds: Option<Seconds>,
    /// Your own secret. Default: a generated one.
    #[serde(default, deserialize_with = "optional_secret")]
    #[schema(value_type = Option<String>, format = Password)]
    secret: Option<SecretString>,
}

fn optional_secret<'de, D: serde::Deserializer<'de>>(
    deserializer: D,
) -> Result<Option<SecretString>, D::Error> {
    secret(deserializer).map(Some)
}

/// An endpoint, without its secret.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Webhook)]
pub(crate) struct WebhookView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: WebhookId,
    url: String,
    events: Vec<String>,
    /// Of which kinds events of jobs and schedules are sent; empty: of all.
    kinds: Vec<String>,
    /// Of which queues events of jobs, schedules and queues are sent; empty: of all.
    queues: Vec<String>,
    description: String,
    enabled: bool,
    /// Why Holdfast disabled it; null if an operator did.
    disabled_reason: Option<String>,
    /// The first failure after the last success.
    failing_since: Option<DateTime<Utc>>,
    /// The previous secret stays valid until this time.
    previous_secret_until: Option<DateTime<Utc>>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<WebhookRecord> for WebhookView {
    fn from(record: WebhookRecord) -> Self {
        Self {
            id: record.id,
            url: record.url,
            events: record
                .events
                .iter()
                .map(|filter| filter.as_str().to_owned())
                .collect(),
            kinds: record.kinds,
            queues: record.queues,
            description: record.description,
            enabled: record.enabled,
            disabled_reason: record.disabled_reason,
            failing_since: record.failing_since,
            previous_secret_until: record.previous_secret_until,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// An endpoint with its secret, which is shown once.
#[derive(Serialize, ToSchema)]
#[schema(as = WebhookWithSecret)]
pub(crate) struct SecretView {
    webhook: WebhookView,
    /// The secret that verifies signatures: `whsec_` and base64.
    secret: String,
}

/// One page of endpoints, in the order of creation.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WebhookPage {
    webhooks: Vec<WebhookView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    #[schema(value_type = Option<String>)]
    next: Option<WebhookId>,
}

/// A deleted endpoint.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedWebhook {
    #[schema(value_type = String)]
    id: WebhookId,
    deleted: bool,
}

/// List webhooks
///
/// In pages, in the order of creation, without their secrets.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
   params(
        PageParams,
    ),
    responses(
        (status = 200, body = WebhookPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(call: Call<Admin, NotifyState, WithQuery>) -> Reply {
    let mut params = call.params(&["after", "limit"]);
    let page = params.page();
    params.finish()?;
    let (after, wanted) = (page.cursor()?, page.wanted());
    let found = call.run(move |state| async move { state.notices.webhooks().list(after, wanted).await });
    let (webhooks, next) = page.cut(found.await?, WebhookView::from, |webhook| webhook.id);
    ok(&WebhookPage { webhooks, next })
}

/// Create a webhook
///
/// The secret is shown only in this response. Requests are signed as Standard Webhooks specifies: verify them
/// with one of the libraries of <https://www.standardwebhooks.com>.
#[utoipa::path(post, path = "/v1/webhooks", tag = "webhooks", operation_id = "create_webhook",
    request_body = CreateBody,
    responses(
        (status = 201, body = SecretView, description = "Made",
            headers(("Location" = String, description = "The webhook's address"))),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "too-many-webhooks"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let body: CreateBody = call.json(payload).await?;
    let draft = draft(&body.url, body.description.as_deref(), &body.events, body.enabled)?
        .only(body.kinds, body.queues)
        .map_err(WebhookError::from)?;
    let by = call.actor();
    let made = call.run(|state| async move {
        let secret = body.secret.as_ref();
        state.notices.webhooks().create(&by, &draft, secret).await
    });
    let MadeWebhook { webhook, secret } = made.await?;
    let location = format!("/v1/webhooks/{}", webhook.id);
    let view = SecretView {
        webhook: webhook.into(),
        secret: secret.expose().to_owned(),
    };
    json_at(StatusCode::CREATED, &location, &view)
}

fn draft(
    url: &str,
    description: Option<&str>,
    events: &[String],
    enabled: Option<bool>,
) -> Result<WebhookDraft, Problem> {
    let draft = WebhookDraft::parse(url, description, events, enabled.unwrap_or(true));
    draft.map_err(|fault: WebhookFault| WebhookError::from(fault).into())
}

/// Show a webhook
///
/// Without its secret.
#[utoipa::path(get, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "show_webhook",
   params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, body = WebhookView),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "webhook-not-found"),
    ))]
pub(crate) async fn show(call: Call<Admin, NotifyState>) -> Reply {
    let id = call.id()?;
    let record = call.run(move |state| async move { state.notices.webhooks().get(id).await });
    ok(&WebhookView::from(record.await?))
}

/// Replace a webhook
///
/// Replaces everything but the secret. It also enables an endpoint that Holdfast has disabled; jobs that were
/// discarded meanwhile can be redriven (`/v1/dead-letters/redrive`). Deliveries use the change within a second.
#[utoipa::path(put, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "put_webhook",
    request_body = PutBody,
   params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, body = WebhookView),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "webhook-not-found"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn put(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let (id, by) = (call.id()?, call.actor());
    let body: PutBody = call.json(payload).await?;
    let draft = draft(&body.url, body.description.as_deref(), &body.events, body.enabled)?
        .only(body.kinds, body.queues)
        .map_err(WebhookError::from)?;
    let record = call.run(move |state| async move { state.notices.webhooks().put(&by, id, &draft).await });
    ok(&WebhookView::from(record.await?))
}

/// Delete a webhook
///
/// Waiting deliveries are discarded.
#[utoipa::path(delete, path = "/v1/webhooks/{id}", tag = "webhooks", operation_id = "delete_webhook",
   params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, body = DeletedWebhook),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "webhook-not-found"),
    ))]
pub(crate) async fn delete(call: Call<Admin, NotifyState>) -> Reply {
    let (id, by) = (call.id()?, call.actor());
    call.run(move |state| async move { state.notices.webhooks().delete(&by, id).await })
        .await?;
    ok(&DeletedWebhook { id, deleted: true })
}

/// Rotate the secret of a webhook
///
/// The new secret is shown only in this response. During the grace period every request is signed with both
/// secrets, so the receiver can switch at any time. An older secret becomes invalid now.
#[utoipa::path(post, path = "/v1/webhooks/{id}/rotate", tag = "webhooks", operation_id = "rotate_webhook",
    request_body = RotateBody,
   params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 200, body = SecretView),
        (status = 400, description = "malformed-json, invalid-id"),
        (status = 404, description = "webhook-not-found"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn rotate(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let (id, by) = (call.id()?, call.actor());
    let body: RotateBody = call.json(payload).await?;
    let grace = body.grace_seconds.map_or(DEFAULT_GRACE, |seconds| seconds.0);
    let rotated = call.run(move |state| async move {
        let secret = body.secret.as_ref();
        state.notices.webhooks().rotate(&by, id, secret, grace).await
    });
    let RotatedSecret { webhook, secret } = rotated.await?;
    ok(&SecretView {
        webhook: webhook.into(),
        secret: secret.expose().to_owned(),
    })
}

/// Test a webhook
///
/// Sends the notification `webhook.test` once, whatever the webhook subscribes to and whether or not it is
/// enabled. The outcome is that of the job, and is listed with the deliveries.
#[utoipa::path(post, path = "/v1/webhooks/{id}/test", tag = "webhooks", operation_id = "test_webhook",
   params(("id" = String, Path, description = "The webhook's id")),
    responses(
        (status = 202, body = AcceptedJob, description = "The job",
            headers(("Location" = String, description = "The job's address"))),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "webhook-not-found"),
    ))]
pub(crate) async fn test(call: Call<Admin, NotifyState>) -> Reply {
    let id = call.id()?;
    let job = call.run(move |state| async move { state.notices.webhooks().test(id).await });
    AcceptedJob::from(job.await?).reply(StatusCode::ACCEPTED)
}
