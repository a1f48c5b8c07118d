//! Mail: templates, and who gets none.

use actix_web::web;
use chrono::{DateTime, Utc};
use holdfast_http::body::BodySize;
use holdfast_http::{Admin, Call, PageParams, PageRequest, Problem, Read, Reply, WithQuery, ok};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::mail::{MailTemplate, MailTemplateRecord, Suppression};
use crate::state::NotifyState;

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
#[schema(as = Suppressed)]
pub(crate) struct SuppressionStatus {
    address: String,
    suppressed: bool,
}

/// List mail templates
///
/// In pages, by name.
#[utoipa::path(get, path = "/v1/mail-templates", tag = "mail", operation_id = "list_mail_templates",
   params(
        PageParams,
    ),
    responses(
        (status = 200, body = MailTemplatePage),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn list_templates(call: Call<Read, NotifyState, WithQuery>) -> Reply {
    let page = page(&call)?;
    let (after, wanted) = (page.after.clone(), page.wanted());
    let found =
        call.run(move |state| async move { state.notices.mail().templates(after.as_deref(), wanted).await });
    let (templates, next) = page.cut(found.await?, TemplateView::from, |record| record.name.clone());
    ok(&MailTemplatePage { templates, next })
}

/// The page that a request asks for, whose cursor is a text.
fn page<N>(call: &Call<N, NotifyState, WithQuery>) -> Result<PageRequest, Problem> {
    let mut params = call.params(&["after", "limit"]);
    let page = params.page();
    params.short_text("after", MAX_CURSOR);
    params.finish()?;
    Ok(page)
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
pub(crate) async fn show_template(call: Call<Read, NotifyState>) -> Reply {
    let name = call.path("name");
    let record = call.run(|state| async move { state.notices.mail().template(&name).await });
    ok(&TemplateView::from(record.await?))
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
pub(crate) async fn put_template(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let TemplateBody { subject, text, html } = call.json_of(payload, BodySize::Bulk).await?;
    let template = MailTemplate { subject, text, html };
    let (name, by) = (call.path("name"), call.actor());
    let record =
        call.run(|state| async move { state.notices.mail().put_template(&by, &name, &template).await });
    ok(&TemplateView::from(record.await?))
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
pub(crate) async fn delete_template(call: Call<Admin, NotifyState>) -> Reply {
    let (name, by) = (call.path("name"), call.actor());
    let gone = name.clone();
    call.run(|state| async move { state.notices.mail().delete_template(&by, &gone).await })
        .await?;
    ok(&DeletedMailTemplate { name, deleted: true })
}

/// List suppressed addresses
///
/// Addresses that receive no mail: of one list, because their owners unsubscribed, or of any list.
#[utoipa::path(get, path = "/v1/mail-suppressions", tag = "mail", operation_id = "list_mail_suppressions",
   params(
        PageParams,
    ),
    responses(
        (status = 200, body = SuppressionPage),
        (status = 400, description = "invalid-parameter, invalid-cursor"),
    ))]
pub(crate) async fn list_suppressions(call: Call<Admin, NotifyState, WithQuery>) -> Reply {
    let page = page(&call)?;
    let (after, wanted) = (page.cursor_of(cursor)?, page.wanted());
    let found = call.run(move |state| async move {
        let after = after.as_ref();
        let after = after.map(|(address, list)| (address.as_str(), list.as_str()));
        state.notices.mail().suppressions(after, wanted).await
    });
    let (suppressions, next) = page.cut(found.await?, SuppressionView::from, |last| {
        let list = last.list.as_deref().unwrap_or_default();
        format!("{list}/{}", last.address)
    });
    ok(&SuppressionPage { suppressions, next })
}

/// The list's name holds no `/`; an address may.
fn cursor(text: &str) -> Option<(String, String)> {
    let (list, address) = text.split_once('/')?;
    Some((address.to_owned(), list.to_owned()))
}

/// Suppress an address
///
/// The address receives no more mail: of one list, or of any. Repeating it changes nothing.
#[utoipa::path(post, path = "/v1/mail-suppressions", tag = "mail", operation_id = "suppress_mail",
    request_body = SuppressBody,
    responses(
        (status = 200, body = SuppressionStatus),
        (status = 400, description = "malformed-json"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn suppress(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let body: SuppressBody = call.json(payload).await?;
    let (by, address) = (call.actor(), body.address.clone());
    let suppressing = call.run(|state| async move {
        let reason = body.reason.as_deref().unwrap_or(BY_HAND);
        let (mail, list) = (state.notices.mail(), body.list.as_deref());
        mail.suppress(&by, &body.address, list, reason).await
    });
    suppressing.await?;
    let suppressed = true;
    ok(&SuppressionStatus { address, suppressed })
}

/// Release a suppressed address
///
/// The address receives mail again. Use it for an address that exists again, or whose owner asks for it.
#[utoipa::path(post, path = "/v1/mail-suppressions/release", tag = "mail", operation_id = "release_mail",
    request_body = ReleaseBody,
    responses(
        (status = 200, body = SuppressionStatus),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "nothing-matched"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn release(call: Call<Admin, NotifyState>, payload: web::Payload) -> Reply {
    let body: ReleaseBody = call.json(payload).await?;
    let (by, address) = (call.actor(), body.address.clone());
    let releasing = call.run(|state| async move {
        let (mail, list) = (state.notices.mail(), body.list.as_deref());
        mail.release(&by, &body.address, list).await
    });
    releasing.await?;
    let suppressed = false;
    ok(&SuppressionStatus { address, suppressed })
}
