//! What a user wants to be sent, all that is kept about one, and deleting it.

use std::collections::BTreeMap;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::stream;
use holdfast::notify::preferences::{Channels, Mode, Preferences, PreferencesText, Quiet, Switch};
use holdfast::notify::{AddressState, PreferenceError};
use holdfast::product::AccountId;
use holdfast::product::UserName;
use holdfast::{DeleteOptions, Deleted, Export, MadeKey, UserDataError};
use holdfast_jobs::ledger::LedgerError;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use utoipa::ToSchema;

use super::view::ProblemBody;
use crate::auth::{Allowed, Anyone};
use crate::body::json_body;
use crate::params::Params;
use crate::problem::{FieldFault, Problem, ProblemKind, quote};
use crate::state::{State, json};

/// Pieces of an export that are read ahead of a slow reader.
const AHEAD: usize = 2;

/// What a user wants to be sent. What is left out is as it is for a user who has said nothing.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Preferences, example = json!({"language": "de-at", "time_zone": "Europe/Vienna",
    "address": "ada@example.com", "quiet_hours": {"from": "22:00", "until": "07:00"}, "digest_at": "08:00",
    "email": "on", "webhook": "on", "topics": {"news": {"email": "digest"}}}))]
pub(crate) struct PreferencesBody {
    /// `en`, `de-at`. With it the mail template `hello.de-at` or `hello.de` is taken for `hello`, where there is one.
    language: Option<String>,
    /// An IANA time zone; UTC if left out.
    time_zone: Option<String>,
    /// Where mail goes; the user's name if left out, where that is an address. An address that an admin sets is confirmed
    /// immediately. Any other receives a mail with a link that confirms it, and nothing else until then.
    address: Option<String>,
    /// `confirmed`; `unconfirmed`: a mail with a link was sent, or only an admin can confirm it (`notifications.public_url`
    /// is not set); `earlier`: set before confirmations existed, it receives mail. Null: there is no address. Read-only:
    /// ignored in requests.
    #[serde(default)]
    #[schema(read_only)]
    address_state: Option<String>,
    /// When no mail of a list is sent: it waits until they are over.
    quiet_hours: Option<QuietBody>,
    /// When a digest is due, `HH:MM`; 08:00 if left out.
    digest_at: Option<String>,
    /// Of every topic that says nothing else: `on`, `off`, or `digest`, which puts mail aside and sends it as one.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "on")]
    email: Mode,
    /// Whether news of events (`event.news`) tell webhooks of the user's subscriptions: `on` or `off`.
    #[serde(default)]
    #[schema(value_type = Option<String>, example = "on")]
    webhook: Switch,
    /// By topic, which is the `list` of a mail: `{"email": "on|off|digest", "webhook": "on|off"}`; a hundred at most.
    #[serde(default)]
    #[schema(value_type = Object)]
    topics: BTreeMap<String, Channels>,
}

/// In the user's own time zone; over midnight where `until` is the earlier.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = QuietHours)]
pub(crate) struct QuietBody {
    #[schema(example = "22:00")]
    from: String,
    #[schema(example = "07:00")]
    until: String,
}

impl From<PreferencesBody> for PreferencesText {
    fn from(body: PreferencesBody) -> Self {
        Self {
            language: body.language,
            time_zone: body.time_zone,
            address: body.address,
            quiet_hours: body.quiet_hours.map(|quiet| Quiet {
                from: quiet.from,
                until: quiet.until,
            }),
            digest_at: body.digest_at,
            email: body.email,
            webhook: body.webhook,
            topics: body.topics,
        }
    }
}

impl PreferencesBody {
    fn new(preferences: &Preferences, state: Option<AddressState>) -> Self {
        let text = preferences.text();
        let state = state.map(|state| match state {
            AddressState::Confirmed => "confirmed",
            AddressState::Unconfirmed => "unconfirmed",
            AddressState::Earlier => "earlier",
        });
        Self {
            address_state: state.map(str::to_owned),
            language: text.language,
            time_zone: text.time_zone,
            address: text.address,
            quiet_hours: text.quiet_hours.map(|quiet| QuietBody {
                from: quiet.from,
                until: quiet.until,
            }),
            digest_at: text.digest_at,
            email: text.email,
            webhook: text.webhook,
            topics: text.topics,
        }
    }
}

/// What a deletion has removed, or left under no name.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedUser {
    id: String,
    deleted: bool,
    /// There was an account: it is gone with its preferences, its digest and its sessions.
    account: bool,
    interactions: u64,
    subscriptions: u64,
    /// Rows about mail: what was sent, suppressions, links.
    mail: u64,
    /// Attempts of webhooks that told of the user, and say now that it was somebody.
    deliveries: u64,
    /// That name the user no more. Those that have not run will do nothing.
    jobs: u64,
    /// Entries of the audit log that say now that somebody did it.
    audit: u64,
    /// The API keys in force that the user made.
    keys: Vec<DeletedUsersKey>,
}

impl From<PreferenceError> for Problem {
    fn from(error: PreferenceError) -> Self {
        let text = error.to_string();
        match error {
            PreferenceError::Unknown(_) => Self::field(ProblemKind::UserNotFound, "id", text),
            PreferenceError::Invalid(faults) => {
                let faults = faults
                    .into_iter()
                    .map(|fault| FieldFault::new(fault.field, fault.reason));
                Self::faults(ProblemKind::InvalidField, faults.collect())
            }
            PreferenceError::Sql(error) => error.into(),
            PreferenceError::Enqueue(error) => error.into(),
        }
    }
}

impl From<UserDataError> for Problem {
    fn from(error: UserDataError) -> Self {
        let text = error.to_string();
        match error {
            UserDataError::Unknown(_) => Self::field(ProblemKind::UserNotFound, "id", text),
            UserDataError::Sql(error) => error.into(),
        }
    }
}

/// An API key that a deleted user had made.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct DeletedUsersKey {
    id: String,
    name: String,
    #[schema(example = "produce,read")]
    scopes: String,
    /// Revoked with the user. False: it is still in force.
    revoked: bool,
}

impl DeletedUsersKey {
    fn new(key: MadeKey, options: DeleteOptions) -> Self {
        Self {
            id: key.id.to_string(),
            name: key.name,
            scopes: key.scopes,
            revoked: options.revoke_keys,
        }
    }
}

/// The user that the path names, if the caller may do as that user.
fn own_user(allowed: &Allowed<Anyone>, request: &HttpRequest) -> Result<UserName, Problem> {
    let id = request.match_info().get("id").unwrap_or_default();
    allowed.acts_for_user(id)?;
    id.parse()
        .map_err(|fault| Problem::field(ProblemKind::InvalidId, "id", format!("{} {fault}", quote(id))))
}

fn own_account(allowed: &Allowed<Anyone>, request: &HttpRequest) -> Result<AccountId, Problem> {
    let id = own_user(allowed, request)?;
    let account = id.as_str().parse();
    account.map_err(|fault| {
        let reason = format!("{} {fault}", quote(id.as_str()));
        Problem::field(ProblemKind::InvalidId, "id", reason)
    })
}

/// What does a user want to be sent?
///
/// A session reads its own user's; a key with `admin` reads anybody's.
#[utoipa::path(get, path = "/v1/users/{id}/preferences", tag = "users", operation_id = "get_preferences",
    params(("id" = String, Path, description = "The user's id")),
    responses(
        (status = 200, body = PreferencesBody),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "invalid-id"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "user-not-found"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn preferences(
    allowed: Allowed<Anyone>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let account = own_account(&allowed, &request)?;
    Params::of(&request, &[]).finish()?;
    let store = state.preferences.clone();
    let found = state
        .on_runtime(async move { store.preferences(account).await })
        .await?;
    let view = PreferencesBody::new(&found.preferences, found.address_state);
    json(StatusCode::OK, &view)
}

/// Say what a user wants to be sent
///
/// Replaces all of it. Mail that names a `list` and a `user` obeys; mail of no list (a receipt, a new password) is sent
/// whatever it says. A session writes its own user's; a key with `admin` writes anybody's.
#[utoipa::path(put, path = "/v1/users/{id}/preferences", tag = "users", operation_id = "put_preferences",
    request_body = PreferencesBody,
    params(("id" = String, Path, description = "The user's id")),
    responses(
        (status = 200, body = PreferencesBody),
        (status = 400, body = ProblemBody, content_type = "application/problem+json",
            description = "invalid-id, malformed-json"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "user-not-found"),
        (status = 413, body = ProblemBody, content_type = "application/problem+json", description = "body-too-large"),
        (status = 422, body = ProblemBody, content_type = "application/problem+json", description = "invalid-field"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn put_preferences(
    allowed: Allowed<Anyone>,
    state: web::Data<State>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    let account = own_account(&allowed, &request)?;
    Params::of(&request, &[]).finish()?;
    let body: PreferencesBody = json_body(&request, payload, &state).await?;
    let preferences = Preferences::parse(body.into()).map_err(PreferenceError::Invalid)?;
    let (store, by, authority) = (
        state.preferences.clone(),
        allowed.by(&request),
        allowed.address_authority(),
    );
    let view = state
        .on_runtime(async move {
            let set = store.set_preferences(&by, account, &preferences, authority).await;
            set.map(|state| PreferencesBody::new(&preferences, state))
        })
        .await?;
    json(StatusCode::OK, &view)
}

/// Export all that is kept about a user
///
/// One JSON object: `account`, `preferences`, `recommendations`, and the lists `subscriptions`, `interactions`, `mails`,
/// `suppressions` and `digest`. It is sent while it is read: an answer that breaks off is no whole document. A session reads
/// its own user's; a key with `admin` reads anybody's, also of a name of the application's own.
#[utoipa::path(get, path = "/v1/users/{id}/export", tag = "users", operation_id = "export_user",
    params(("id" = String, Path, description = "The user's id, or the name that interactions give the user")),
    responses(
        (status = 200, body = Object, content_type = "application/json"),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "invalid-id"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "user-not-found"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn export(
    allowed: Allowed<Anyone>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let user = own_user(&allowed, &request)?;
    Params::of(&request, &[]).finish()?;
    let user_data = state.user_data.clone();
    let export = state
        .on_runtime(async move { user_data.export(&user).await })
        .await?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    // Where database connections outlive this request; it ends when nobody reads any more.
    state.runtime.spawn(send_pieces(export, sender));
    let body = stream::unfold(pieces, |mut pieces| async move {
        pieces.recv().await.map(|piece| (piece, pieces))
    });
    let mut response = HttpResponse::Ok()
        .content_type("application/json")
        .streaming(body);
    let headers = response.headers_mut();
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(response)
}

async fn send_pieces(mut export: Export, sender: mpsc::Sender<Result<Bytes, LedgerError>>) {
    while let Some(piece) = export.next().await.transpose() {
        if let Err(error) = &piece {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "an export of a user breaks off"
            );
        }
        let is_last = piece.is_err();
        if sender.send(piece).await.is_err() || is_last {
            return;
        }
    }
}

/// Delete a user
///
/// Deletes or anonymises all data of the user in one transaction, with an entry in the audit log. Sessions end, and mail that waits
/// for the user is not sent. Mail records are deleted for the user's confirmed addresses; suppressions stay, under a hash. The audit
/// log drops the name of a viewer, and keeps the id of an operator or admin. API keys that the user made are listed in the answer, and
/// are revoked with `revoke_keys=true`. A session deletes its own user; a key with `admin` deletes any, also an application's own name.
#[utoipa::path(delete, path = "/v1/users/{id}", tag = "users", operation_id = "delete_user",
    params(
        ("id" = String, Path, description = "The user's id, or the name that interactions give the user"),
        ("revoke_keys" = Option<bool>, Query, description = "true: revokes the API keys that the user made"),
    ),
    responses(
        (status = 200, body = DeletedUser),
        (status = 400, body = ProblemBody, content_type = "application/problem+json", description = "invalid-id"),
        (status = 401, body = ProblemBody, content_type = "application/problem+json", description = "unauthenticated"),
        (status = 403, body = ProblemBody, content_type = "application/problem+json", description = "missing-scope"),
        (status = 404, body = ProblemBody, content_type = "application/problem+json", description = "user-not-found"),
        (status = 503, body = ProblemBody, content_type = "application/problem+json", description = "unavailable"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn delete(
    allowed: Allowed<Anyone>,
    state: web::Data<State>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    let user = own_user(&allowed, &request)?;
    let mut params = Params::of(&request, &["revoke_keys"]);
    let options = DeleteOptions {
        revoke_keys: params.parsed("revoke_keys").unwrap_or_default(),
    };
    params.finish()?;
    let (user_data, sessions, by) = (
        state.user_data.clone(),
        state.sessions.clone(),
        allowed.by(&request),
    );
    let id = user.to_string();
    let (done, keys) = state
        .on_runtime(async move {
            let keys = user_data.made_keys(&user).await?;
            let done = user_data.delete(&by, &user, options).await?;
            sessions.end_all(user.as_str()).await;
            Ok::<(Deleted, Vec<MadeKey>), UserDataError>((done, keys))
        })
        .await?;
    let view = DeletedUser {
        id,
        deleted: true,
        account: done.account,
        interactions: done.interactions,
        subscriptions: done.subscriptions,
        mail: done.mail,
        deliveries: done.deliveries,
        jobs: done.jobs,
        audit: done.audit,
        keys: keys
            .into_iter()
            .map(|key| DeletedUsersKey::new(key, options))
            .collect(),
    };
    json(StatusCode::OK, &view)
}
