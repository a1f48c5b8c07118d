//! Mail: templates, and who gets none.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_http::body::{BodySize, json_body, json_body_of};
use holdfast_http::json;
use holdfast_http::params::{Params, path_name};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Allowed, Read};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mail::{MailTemplate, MailTemplateRecord, Suppression};
use crate::state::NotifyState;

const DEFAULT_LIMIT: usize = 100;
const MAX_LIMIT: usize = 1_000;

/// Longest cursor, in bytes: an address and a list.
const MAX_CURSOR: usize = 1_024;

/// Why an operator suppresses an address who does not say.
const BY_HAND: &str = "suppressed by an operator";

/// A template to be stored.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewMailTemplate, example = json!({"subject": "Hello {{ name }}", "text": "Dear {{ name }}, …"}))]
pub(crate) struct TemplateBody {
    /// Jinja: `{{ name }}` is the `name` of a job's `data`. An undefined variable is an error.
    subject: String,
    /// The plain text.
    text: String,
    /// Values are escaped.
    html: Option<String>,
}

/// A template.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = MailTemplate)]
pub(crate) struct TemplateView {
    name: String,
    subject: String,
    text: String,
    html: Option<String>,
    created_at: DateTime<Utc>,
    updated_at: DateTime<Utc>,
}

impl From<MailTemplateRecord> for TemplateView {
    fn from(record: MailTemplateRecord) -> Self {
        let MailTemplate { subject, text, html } = record.template;
        Self {
            name: record.name,
            subject,
            text,
            html,
            created_at: record.created_at,
            updated_at: record.updated_at,
        }
    }
}

/// One page of templates, by name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct MailTemplatePage {
    templates: Vec<TemplateView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// A deleted template.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedMailTemplate {
    name: String,
    deleted: bool,
}

/// An address that shall receive no mail.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewSuppression, example = json!({"address": "ada@example.com", "reason": "asked by phone"}))]
pub(crate) struct SuppressBody {
    address: String,
    /// The list; default: every list.
    list: Option<String>,
    #[schema(max_length = 512)]
    reason: Option<String>,
}

/// An address that shall receive mail again.
#[derive(Debug, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = ReleasedSuppression, example = json!({"address": "ada@example.com"}))]
pub(crate) struct ReleaseBody {
    address: String,
    /// The list; default: the suppression of every list.
    list: Option<String>,
}

/// An address that receives no mail.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Suppression)]
pub(crate) struct SuppressionView {
    address: String,
    /// Null: every list.
    list: Option<String>,
    #[schema(example = "unsubscribed")]
    reason: String,
    at: DateTime<Utc>,
}

impl From<Suppression> for SuppressionView {
    fn from(suppression: Suppression) -> Self {
        let Suppression {
            address,
            list,
            reason,
            at,
        } = suppression;
        Self {
            address,
            list,
            reason,
            at,
        }
    }
}

/// One page of suppressed addresses.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SuppressionPage {
    suppressions: Vec<SuppressionView>,
    /// Pass it as `after` to get the next page. Null on the last page.
    next: Option<String>,
}

/// Whether an address receives mail.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Suppressed {
    address: String,
    suppressed: bool,
}

/// List mail templates
///
/// In pages, by name.
#[utoipa::path(get, path = "/v1/mail-templates", tag = "mail", operation_id = "list_mail_templates",
   params(
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = MailTemplatePage),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list_templates(
    _: Allowed<Read>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let after = params.short_text("after", MAX_CURSOR);
    params.finish()?;
    let notices = state.notices.clone();
    let found = state
        .http
        .on_runtime(async move { notices.mail().templates(after.as_deref(), limit + 1).await })
        .await?;
    let more = found.len() > limit;
    let templates: Vec<TemplateView> = found.into_iter().take(limit).map(TemplateView::from).collect();
    let next = templates
        .last()
        .filter(|_| more)
        .map(|template| template.name.clone());
    json(StatusCode::OK, &MailTemplatePage { templates, next })
}

/// Show a mail template
///
/// The stored template.
#[utoipa::path(get, path = "/v1/mail-templates/{name}", tag = "mail", operation_id = "show_mail_template",
   params(("name" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = TemplateView),
        (status = 404, description = "mail-template-not-found"),
    ))]
pub(crate) async fn show_template(
    _: Allowed<Read>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (notices, name) = (state.notices.clone(), path_name(&request));
    let record = state
        .http
        .on_runtime(async move { notices.mail().template(&name).await })
        .await?;
    json(StatusCode::OK, &TemplateView::from(record))
}

/// Create or replace a mail template
///
/// Creates or replaces the template. Mails that are sent from now on use it.
#[utoipa::path(put, path = "/v1/mail-templates/{name}", tag = "mail", operation_id = "put_mail_template",
    request_body = TemplateBody,
   params(("name" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = TemplateView),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "too-many-mail-templates"),
        (status = 422, description = "invalid-field: an invalid template, with the line"),
    ))]
pub(crate) async fn put_template(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let TemplateBody { subject, text, html } =
        json_body_of(&request, payload, &state.http, BodySize::Bulk).await?;
    let template = MailTemplate { subject, text, html };
    let (notices, name, by) = (state.notices.clone(), path_name(&request), allowed.by(&request));
    let record = state
        .http
        .on_runtime(async move { notices.mail().put_template(&by, &name, &template).await })
        .await?;
    json(StatusCode::OK, &TemplateView::from(record))
}

/// Delete a mail template
///
/// Waiting mails that use the template are discarded.
#[utoipa::path(delete, path = "/v1/mail-templates/{name}", tag = "mail", operation_id = "delete_mail_template",
   params(("name" = String, Path, description = "The template's name")),
    responses(
        (status = 200, body = DeletedMailTemplate),
        (status = 404, description = "mail-template-not-found"),
    ))]
pub(crate) async fn delete_template(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let (notices, name, by) = (state.notices.clone(), path_name(&request), allowed.by(&request));
    let gone = name.clone();
    state
        .http
        .on_runtime(async move { notices.mail().delete_template(&by, &gone).await })
        .await?;
    json(StatusCode::OK, &DeletedMailTemplate { name, deleted: true })
}

/// List suppressed addresses
///
/// Addresses that receive no mail: of one list, because their owners unsubscribed, or of any list.
#[utoipa::path(get, path = "/v1/mail-suppressions", tag = "mail", operation_id = "list_mail_suppressions",
   params(
        ("after" = Option<String>, Query, description = "The `next` of the previous page"),
        ("limit" = Option<usize>, Query, description = "1 to 1000; default 100"),
    ),
    responses(
        (status = 200, body = SuppressionPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list_suppressions(
    _: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let mut params = Params::of(&request, &["after", "limit"]);
    let limit = params.count("limit", 1, MAX_LIMIT).unwrap_or(DEFAULT_LIMIT);
    let after = params.short_text("after", MAX_CURSOR);
    params.finish()?;
    let after = after.map(|text| cursor(&text)).transpose()?;
    let notices = state.notices.clone();
    let found = state
        .http
        .on_runtime(async move {
            let after = after
                .as_ref()
                .map(|(address, list)| (address.as_str(), list.as_str()));
            notices.mail().suppressions(after, limit + 1).await
        })
        .await?;
    let more = found.len() > limit;
    let suppressions: Vec<SuppressionView> =
        found.into_iter().take(limit).map(SuppressionView::from).collect();
    let next = suppressions.last().filter(|_| more).map(|last| {
        let list = last.list.as_deref().unwrap_or_default();
        format!("{list}/{}", last.address)
    });
    json(StatusCode::OK, &SuppressionPage { suppressions, next })
}

/// The list's name holds no `/`; an address may.
fn cursor(text: &str) -> Result<(String, String), Problem> {
    let parts = text.split_once('/');
    parts
        .map(|(list, address)| (address.to_owned(), list.to_owned()))
        .ok_or_else(|| {
            let reason = format!("{} is no cursor; use the `next` of the page before", quote(text));
            Problem::field(ProblemKind::InvalidCursor, "after", reason)
        })
}

/// Suppress an address
///
/// The address receives no more mail: of one list, or of any. Repeating it changes nothing.
#[utoipa::path(post, path = "/v1/mail-suppressions", tag = "mail", operation_id = "suppress_mail",
    request_body = SuppressBody,
    responses(
        (status = 200, body = Suppressed),
        (status = 400, description = "malformed-json"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn suppress(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: SuppressBody = json_body(&request, payload, &state.http).await?;
    let (notices, by, address) = (state.notices.clone(), allowed.by(&request), body.address.clone());
    state
        .http
        .on_runtime(async move {
            let reason = body.reason.as_deref().unwrap_or(BY_HAND);
            notices
                .mail()
                .suppress(&by, &body.address, body.list.as_deref(), reason)
                .await
        })
        .await?;
    let suppressed = true;
    json(StatusCode::OK, &Suppressed { address, suppressed })
}

/// Release a suppressed address
///
/// The address receives mail again. Use it for an address that exists again, or whose owner asks for it.
#[utoipa::path(post, path = "/v1/mail-suppressions/release", tag = "mail", operation_id = "release_mail",
    request_body = ReleaseBody,
    responses(
        (status = 200, body = Suppressed),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "nothing-matched"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn release(
    allowed: Allowed<Admin>,
    state: web::Data<NotifyState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: ReleaseBody = json_body(&request, payload, &state.http).await?;
    let (notices, by, address) = (state.notices.clone(), allowed.by(&request), body.address.clone());
    state
        .http
        .on_runtime(async move {
            notices
                .mail()
                .release(&by, &body.address, body.list.as_deref())
                .await
        })
        .await?;
    let suppressed = false;
    json(StatusCode::OK, &Suppressed { address, suppressed })
}
