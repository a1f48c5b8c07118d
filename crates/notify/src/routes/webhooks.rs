//! Webhooks: endpoints that are told of notifications.

use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_control::enqueue::AcceptedJob;
use holdfast_http::body::fields::Seconds;
use holdfast_http::body::fields::secret;
use holdfast_http::body::json_body;
use holdfast_http::json;
use holdfast_http::params::Params;
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Allowed};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::NotifyState;
use crate::webhooks::{
    MadeWebhook, RotatedSecret, WebhookDraft, WebhookError, WebhookFault, WebhookId, WebhookRecord,
};

pub(super) const DEFAULT_LIMIT: usize = 100;
pub(super) const MAX_LIMIT: usize = 1_000;

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
    /// Which notifications: a type such as `order.paid`, a prefix such as `order.*`, or `*` for all. 1 to 50.
    events: Vec<String>,
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

pub(super) fn webhook_id(request: &HttpRequest) -> Result<WebhookId, Problem> {
    let text = request.match_info().get("id").unwrap_or_default();
    text.parse().map_err(|error| {
        Problem::field(
            ProblemKind::InvalidId,
            "id",
            format!("{} is {error}", quote(text)),
        )
    })
}

/// List webhooks
///
/// In pages, in the order of creation, without their secrets.
#[utoipa::path(get, path = "/v1/webhooks", tag = "webhooks", operation_id = "list_webhooks",
   params(
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = WebhookPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list(
    _: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let after = params.text("after").map(ToOwned::to_owned);
    params.finish()?;
    let after = after.map(|text| cursor::<WebhookId>(&text)).transpose()?;
    let notices = state.notices.clone();
    let found = state
        .http
        .on_runtime(async move { notices.webhooks().list(after, limit + 1).await })
        .await?;
    let more = found.len() > limit;
    let webhooks: Vec<WebhookView> = found.into_iter().take(limit).map(WebhookView::from).collect();
    let next = webhooks.last().filter(|_| more).map(|webhook| webhook.id);
    json(StatusCode::OK, &WebhookPage { webhooks, next })
}

pub(super) fn cursor<T: std::str::FromStr>(text: &str) -> Result<T, Problem> {
    text.parse().map_err(|_| {
        let reason = format!("{} is no cursor; use the `next` of the page before", quote(text));
        Problem::field(ProblemKind::InvalidCursor, "after", reason)
    })
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
pub(crate) async fn create(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: CreateBody = json_body(&request, payload, &state.http).await?;
    let draft = draft(&body.url, body.description.as_deref(), &body.events, body.enabled)?;
    let (notices, by) = (state.notices.clone(), allowed.by(&request));
    let made = state
        .http
        .on_runtime(async move { notices.webhooks().create(&by, &draft, body.secret.as_ref()).await })
        .await?;
    let MadeWebhook { webhook, secret } = made;
    let location =
        HeaderValue::from_str(&format!("/v1/webhooks/{}", webhook.id)).map_err(Problem::internal)?;
    let view = SecretView {
        webhook: webhook.into(),
        secret: secret.expose().to_owned(),
    };
    let mut response = json(StatusCode::CREATED, &view)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
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
pub(crate) async fn show(
    _: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (notices, id) = (state.notices.clone(), webhook_id(&request)?);
    let record = state
        .http
        .on_runtime(async move { notices.webhooks().get(id).await })
        .await?;
    json(StatusCode::OK, &WebhookView::from(record))
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
pub(crate) async fn put(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let id = webhook_id(&request)?;
    let body: PutBody = json_body(&request, payload, &state.http).await?;
    let draft = draft(&body.url, body.description.as_deref(), &body.events, body.enabled)?;
    let (notices, by) = (state.notices.clone(), allowed.by(&request));
    let record = state
        .http
        .on_runtime(async move { notices.webhooks().put(&by, id, &draft).await })
        .await?;
    json(StatusCode::OK, &WebhookView::from(record))
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
pub(crate) async fn delete(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (notices, id) = (state.notices.clone(), webhook_id(&request)?);
    let by = allowed.by(&request);
    state
        .http
        .on_runtime(async move { notices.webhooks().delete(&by, id).await })
        .await?;
    json(StatusCode::OK, &DeletedWebhook { id, deleted: true })
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
pub(crate) async fn rotate(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let id = webhook_id(&request)?;
    let body: RotateBody = json_body(&request, payload, &state.http).await?;
    let grace = body.grace_seconds.map_or(DEFAULT_GRACE, |seconds| seconds.0);
    let (notices, by) = (state.notices.clone(), allowed.by(&request));
    let rotated = state
        .http
        .on_runtime(async move {
            notices
                .webhooks()
                .rotate(&by, id, body.secret.as_ref(), grace)
                .await
        })
        .await?;
    let RotatedSecret { webhook, secret } = rotated;
    let view = SecretView {
        webhook: webhook.into(),
        secret: secret.expose().to_owned(),
    };
    json(StatusCode::OK, &view)
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
pub(crate) async fn test(
    _: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (notices, id) = (state.notices.clone(), webhook_id(&request)?);
    let job = state
        .http
        .on_runtime(async move { notices.webhooks().test(id).await })
        .await?;
    let location = HeaderValue::from_str(&format!("/v1/jobs/{}", job.id)).map_err(Problem::internal)?;
    let mut response = json(StatusCode::ACCEPTED, &AcceptedJob::from(job))?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}
