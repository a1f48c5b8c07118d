//! Inviting a user by mail: the route that sends the link, and the page behind it. The link itself is of `holdfast_accounts`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use holdfast_accounts::users::{INVITATION_LIFETIME, MAX_PASSWORD, MIN_PASSWORD};
use holdfast_accounts::{User, UserError, unknown_user};
use holdfast_http::body::{BodySize, body_bytes};
use holdfast_http::mailed_link::{behind_link, escaped, page};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Admin, Call, Reply, json, request_id};
use holdfast_jobs::JobId;
use holdfast_jobs::audit::{AuditContext, AuditEntry, action};
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_notify::mail::{INVITATION_TEMPLATE, NotifyEmail};
use lettre::Address;
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::json;
use utoipa::ToSchema;

use super::UserData;
use super::routes::UsersState;

const FORM: &str = "application/x-www-form-urlencoded";
const TITLE: &str = "Set your password";

/// An invitation that is being sent.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Invitation)]
pub struct InvitationView {
    /// The user's id.
    pub user: String,
    /// The address that the mail goes to.
    pub to: String,
    /// The job that sends the mail.
    #[schema(value_type = String)]
    pub job: JobId,
}

/// The form of the page that a link leads to.
#[derive(Debug, ToSchema)]
#[expect(dead_code, reason = "it describes the body")]
pub(crate) struct PasswordForm {
    #[schema(format = Password)]
    password: String,
}

/// Why a user was not invited.
#[derive(Debug, thiserror::Error)]
pub(crate) enum InviteError {
    #[error(transparent)]
    User(#[from] UserError),
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

impl From<InviteError> for Problem {
    fn from(error: InviteError) -> Self {
        match error {
            InviteError::User(error) => error.into(),
            InviteError::Enqueue(error) => error.into(),
            InviteError::Sql(error) => error.into(),
        }
    }
}

/// Invite a user by mail
///
/// Sends a mail to the user's name, which must be a mail address, with a link with which the user sets a password. The link works once,
/// for 48 hours, and until the user is changed. The password before stays valid until then. Needs `notifications.public_url` and a mail
/// server.
#[utoipa::path(post, path = "/v1/users/{id}/invite", tag = "users", operation_id = "invite_user",
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 202, body = InvitationView),
        (status = 404, description = "user-not-found"),
        (status = 422, description = "invalid-field: the name is not a mail address, the user is disabled, or `notifications.public_url` is not set"),
    ))]
pub(crate) async fn invite(call: Call<Admin, UsersState>) -> Reply {
    let (name, by) = (call.path("id"), call.actor());
    let wanted = name.clone();
    let invited = call
        .run(move |state| async move { state.sessions.users().invite(&wanted).await })
        .await?;
    let Some((user, token)) = invited else {
        return Err(unknown_user(&name));
    };
    check(&user)?;
    let link = link(call.state(), &token)?;
    let (id, to) = (user.id.to_string(), user.name.clone());
    let sent = call.run(move |state| async move { state.user_data.send_invitation(&by, &user, &link).await });
    let view = InvitationView {
        user: id,
        to,
        job: sent.await?.id,
    };
    json(StatusCode::ACCEPTED, &view)
}

fn check(user: &User) -> Result<(), Problem> {
    let refused = |reason: &str| Err(Problem::field(ProblemKind::InvalidField, "id", reason.to_owned()));
    if user.disabled_at.is_some() {
        return refused("the user is disabled: enable the user first");
    }
    if user.name.parse::<Address>().is_err() {
        return refused("the user's name is not a mail address: set a password instead");
    }
    Ok(())
}

fn link(state: &UsersState, token: &SecretString) -> Result<SecretString, Problem> {
    let Some(base) = &state.public_url else {
        let reason = "no link can be made: set notifications.public_url";
        return Err(Problem::field(ProblemKind::InvalidField, "id", reason.to_owned()));
    };
    let base = base.as_str().trim_end_matches('/');
    Ok(SecretString::from(format!(
        "{base}/v1/set-password/{}",
        token.expose_secret()
    )))
}

/// Show the page of an invitation
///
/// A page with a form for the password. The link of an invitation leads here; it works once, for 48 hours.
#[utoipa::path(get, path = "/v1/set-password/{token}", tag = "users", operation_id = "ask_for_password",
    params(("token" = String, Path, description = "The token of a mail's link")),
    responses(
        (status = 200, description = "A page", content_type = "text/html"),
        (status = 404, description = "link-not-found"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn ask(state: web::Data<UsersState>, request: HttpRequest) -> Result<HttpResponse, Problem> {
    let users = state.sessions.users().clone();
    let follow = |token: String| async move { users.invited(&token).await };
    let user = behind_link(&state.http, &request, follow).await?;
    Ok(page(StatusCode::OK, TITLE, &form(&user.name, "")))
}

/// Accept an invitation
///
/// The request of the page's form: `password=…`. Sets the password and ends the link and the user's sessions. A password that is not
/// acceptable is answered with the page again.
#[utoipa::path(post, path = "/v1/set-password/{token}", tag = "users", operation_id = "accept_invitation",
    params(("token" = String, Path, description = "The token of a mail's link")),
    request_body(content = PasswordForm, content_type = "application/x-www-form-urlencoded"),
    responses(
        (status = 200, description = "The password is set", content_type = "text/html"),
        (status = 404, description = "link-not-found"),
        (status = 422, description = "The password is not acceptable", content_type = "text/html"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn accept(
    state: web::Data<UsersState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let users = state.sessions.users().clone();
    let follow = |token: String| async move {
        let user = users.invited(&token).await?;
        Ok::<_, UserError>(user.map(|user| (user, token)))
    };
    let (user, token) = behind_link(&state.http, &request, follow).await?;
    let body = body_bytes(&request, payload, &state.http, BodySize::Login, &[FORM]).await?;
    let password = password_of(&body);
    let (users, id) = (state.sessions.users().clone(), request_id(&request));
    let accepted = state.http.on_runtime(async move {
        match users.accept_invitation(&token, &password, id.as_deref()).await {
            Ok(done) => Ok(Ok(done)),
            Err(UserError::InvalidPassword) => Ok(Err(UserError::InvalidPassword.to_string())),
            Err(error) => Err(error),
        }
    });
    match accepted.await? {
        Ok(Some(_)) => Ok(page(
            StatusCode::OK,
            TITLE,
            "<p>The password is set. You can log in.</p>",
        )),
        Ok(None) => Err(Problem::new(
            ProblemKind::LinkNotFound,
            "the link was used already",
        )),
        Err(reason) => {
            let form = form(&user.name, &reason);
            Ok(page(StatusCode::UNPROCESSABLE_ENTITY, TITLE, &form))
        }
    }
}

fn form(user: &str, fault: &str) -> String {
    let (user, fault) = (escaped(user), escaped(fault));
    format!(
        "<p>Set the password of <b>{user}</b>: {MIN_PASSWORD} to {MAX_PASSWORD} bytes.</p>\n<p>{fault}</p>\n\
         <form method=\"post\"><input type=\"password\" name=\"password\" autocomplete=\"new-password\" required>\n\
         <button>Set the password</button></form>"
    )
}

/// The field `password` of a form; empty if there is none.
fn password_of(body: &Bytes) -> SecretString {
    let field = url::form_urlencoded::parse(body).find(|(name, _)| name == "password");
    SecretString::from(field.map(|(_, value)| value.into_owned()).unwrap_or_default())
}

impl UserData {
    /// Enqueues the mail, with its entry in the audit log.
    async fn send_invitation(
        &self,
        by: &AuditContext,
        user: &User,
        link: &SecretString,
    ) -> Result<EnqueuedJob, InviteError> {
        let mail = NotifyEmail {
            to: Some(user.name.clone()),
            user: user.id.to_string().parse().ok(),
            template: INVITATION_TEMPLATE.to_owned(),
            data: json!({ "link": link.expose_secret(), "user": user.name, "hours": INVITATION_LIFETIME.as_secs() / 3_600 }),
            list: None,
            reply_to: None,
            key: None,
        };
        let entry = AuditEntry::new(action::USER_UPDATE)
            .target(&user.name)
            .details(json!({ "changed": "invitation" }));
        let (sql, jobs) = (&self.0.sql, &self.0.jobs);
        let sent = sql.within("invite a user", async {
            let mut tx = sql.begin().await?;
            let sent = match jobs.enqueue_in(tx.on(), jobs.enqueue(mail)).await {
                Ok(sent) => sent,
                Err(refused) => return Ok(Err(refused)),
            };
            jobs.audit().record_in(tx.on(), by, &entry).await?;
            tx.commit().await?;
            Ok(Ok(sent))
        });
        let sent = sent.await??;
        jobs.ring(&sent.queue);
        Ok(sent)
    }
}
