//! Showing one user, exporting all that is stored about a user, and deleting it.

use std::sync::Arc;

use actix_web::HttpResponse;
use actix_web::http::header::{self, HeaderValue};
use bytes::Bytes;
use futures::stream;
use holdfast_accounts::{Sessions, User, unknown_user};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Admin, Anyone, Call, Reply, ServerContext, WithQuery, ok};
use holdfast_jobs::ledger::LedgerError;
use holdfast_notify::NotificationsSettings;
use holdfast_product::{ApiProcess, own_user};
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;
use url::Url;
use utoipa::ToSchema;

use super::{DeleteOptions, DeletionReport, Export, MadeKey, UserData, UserDataError, invite};

holdfast_http::routes! {
    /// One user, the export, the deletion, and invitations. Their state is [`UsersState`].
    pub ROUTES:
    "/v1/users/{id}" => { GET show, DELETE delete }
    "/v1/users/{id}/export" => { GET export }
    "/v1/users/{id}/invite" => { POST invite::invite }
    "/v1/set-password/{token}" => { GET invite::ask, POST invite::accept }
}

/// The state of [`ROUTES`].
#[derive(Debug, Clone)]
pub struct UsersState {
    pub http: Arc<ServerContext>,
    pub user_data: UserData,
    pub sessions: Sessions,
    /// Where the links of invitations lead.
    pub public_url: Option<Url>,
}

impl UsersState {
    /// It reaches nothing yet.
    pub fn new(api: ApiProcess<'_>, sessions: Sessions) -> Self {
        Self {
            http: Arc::clone(api.http),
            user_data: UserData::new(api.process, api.cache),
            sessions,
            public_url: api.process.settings.section::<NotificationsSettings>().public_url,
        }
    }
}

/// Pieces of an export that are read ahead of a slow reader.
const AHEAD: usize = 2;

/// What a deletion removed or anonymised.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedUser {
    pub id: String,
    pub deleted: bool,
    /// Whether there was an account; it was deleted with its preferences, its digest and its sessions.
    pub account: bool,
    /// Whether there were preferences of a user of the application without an account; they were deleted with the digest.
    #[serde(default)]
    pub preferences: bool,
    pub interactions: u64,
    pub subscriptions: u64,
    /// Rows about mail: what was sent, suppressions, links.
    pub mail: u64,
    /// Webhook attempts that named the user, now anonymised.
    pub deliveries: u64,
    /// Jobs that no longer name the user. Those that have not run will do nothing.
    pub jobs: u64,
    /// Audit log entries whose actor was the user, now anonymised.
    pub audit: u64,
    /// The API keys in force that the user made.
    pub keys: Vec<DeletedUsersKey>,
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
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct DeletedUsersKey {
    pub id: String,
    pub name: String,
    #[schema(example = "produce,read")]
    pub scopes: String,
    /// Revoked with the user. False: it is still in force.
    pub revoked: bool,
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

/// Show a user
#[utoipa::path(get, path = "/v1/users/{id}", tag = "users", operation_id = "get_user",
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 200, body = User),
        (status = 404, description = "user-not-found"),
    ))]
pub(crate) async fn show(call: Call<Admin, UsersState>) -> Reply {
    let name = call.path("id");
    let wanted = name.clone();
    let found = call.run(move |state| async move { state.sessions.users().named(&wanted).await });
    match found.await? {
        Some(user) => ok(&user),
        None => Err(unknown_user(&name)),
    }
}

/// Export a user's data
///
/// One JSON object: `account`, `preferences`, `recommendations`, and the lists `subscriptions`, `interactions`,
/// `mails`, `suppressions` and `digest`. It is sent while it is read: a response that breaks off is incomplete.
/// A session reads its own user's data; a key with `admin` reads every user's, also that of user ids of the
/// application.
#[utoipa::path(get, path = "/v1/users/{id}/export", tag = "users", operation_id = "export_user",
    params(("id" = String, Path, description = "The user's id, or the application's id of the user")),
    responses(
        (status = 200, body = Object, content_type = "application/json"),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "user-not-found"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn export(call: Call<Anyone, UsersState>) -> Reply {
    let user = own_user(&call)?;
    let export = call
        .run(move |state| async move { state.user_data.export(&user).await })
        .await?;
    let (sender, pieces) = mpsc::channel(AHEAD);
    // Where database connections outlive this request; it ends when nobody reads any more.
    call.context().runtime.spawn(send_pieces(export, sender));
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
        ("id" = String, Path, description = "The user's id, or the application's id of the user"),
        ("revoke_keys" = Option<bool>, Query, description = "true: revokes the API keys that the user made"),
    ),
    responses(
        (status = 200, body = DeletedUser),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "user-not-found"),
    ),
    security(("api_key" = ["admin"])))]
pub(crate) async fn delete(call: Call<Anyone, UsersState, WithQuery>) -> Reply {
    let user = own_user(&call)?;
    let mut params = call.params(&["revoke_keys"]);
    let options = DeleteOptions {
        revoke_keys: params.parsed("revoke_keys").unwrap_or_default(),
    };
    params.finish()?;
    let (id, by) = (user.to_string(), call.actor());
    let (done, keys) = call
        .run(move |state| async move {
            let keys = state.user_data.made_keys(&user).await?;
            let done = state.user_data.delete(&by, &user, options).await?;
            state.sessions.end_all(user.as_str()).await;
            Ok::<(DeletionReport, Vec<MadeKey>), UserDataError>((done, keys))
        })
        .await?;
    let view = DeletedUser {
        id,
        deleted: true,
        account: done.account,
        preferences: done.others.get("preferences").is_some_and(|count| *count > 0),
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
    ok(&view)
}
