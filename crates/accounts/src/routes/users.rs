//! Users over HTTP, for callers with the scope `admin`. A password is in a request and in no answer.
//!
//! One user is shown and deleted by `holdfast_services::USER_ROUTES`, which has all of `/v1/users/{id}`.

use std::sync::Arc;

use actix_web::http::StatusCode;
use actix_web::web;
use holdfast_http::body::BodySize;
use holdfast_http::body::fields::{exposed, optional_exposed, optional_secret, secret};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Call, Reply, json, ok};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::state::AccountsState;
use crate::users::{Role, User, UserError};

/// Every user, by name.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct UserList {
    pub users: Vec<User>,
}

/// A user to be created.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewUser, example = json!({"name": "ada@example.com", "role": "operator", "password": "correct horse battery"}))]
pub struct UserBody {
    /// A name or an e-mail address; case-insensitive.
    #[schema(max_length = 254)]
    pub name: String,
    /// viewer (read), operator (produce, read) or admin (everything).
    #[schema(value_type = String, pattern = "^(viewer|operator|admin)$")]
    pub role: Role,
    /// 12 to 1,024 bytes. Left out: the user sets one after an invitation.
    #[serde(
        default,
        deserialize_with = "optional_secret",
        serialize_with = "optional_exposed",
        skip_serializing_if = "Option::is_none"
    )]
    #[schema(value_type = Option<String>, min_length = 12, max_length = 1024, format = Password)]
    pub password: Option<SecretString>,
}

/// A user's new password.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewPassword)]
pub struct PasswordBody {
    /// 12 to 1,024 bytes.
    #[serde(deserialize_with = "secret", serialize_with = "exposed")]
    #[schema(value_type = String, min_length = 12, max_length = 1024, format = Password)]
    pub password: SecretString,
}

/// A user's new role.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = NewRole)]
pub struct RoleBody {
    /// viewer (read), operator (produce, read) or admin (everything).
    #[schema(value_type = String, pattern = "^(viewer|operator|admin)$")]
    pub role: Role,
}

/// List users
///
/// Every user who can log in with a password, by name; disabled ones included.
#[utoipa::path(get, path = "/v1/users", tag = "users", operation_id = "list_users",
    responses(
        (status = 200, body = UserList),
    ))]
pub(crate) async fn list(call: Call<Admin, AccountsState>) -> Reply {
    let users = call.run(|state| async move { state.users.list().await });
    ok(&UserList { users: users.await? })
}

/// Create a user
#[utoipa::path(post, path = "/v1/users", tag = "users", operation_id = "create_user", request_body = UserBody,
    responses(
        (status = 201, body = User),
        (status = 400, description = "malformed-json"),
        (status = 409, description = "name-taken"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn create(call: Call<Admin, AccountsState>, payload: web::Payload) -> Reply {
    let body: UserBody = call.json_of(payload, BodySize::Login).await?;
    let by = call.actor();
    let user = call.run(|state| async move {
        let users = &state.users;
        match &body.password {
            Some(password) => users.create(&body.name, body.role, password, &by).await,
            None => users.create_without_password(&body.name, body.role, &by).await,
        }
    });
    json(StatusCode::CREATED, &user.await?)
}

/// Set a user's password
///
/// The user's sessions end within ten seconds.
#[utoipa::path(put, path = "/v1/users/{id}/password", tag = "users", operation_id = "set_password",
    request_body = PasswordBody,
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 200, body = User),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "user-not-found"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn set_password(call: Call<Admin, AccountsState>, payload: web::Payload) -> Reply {
    let body: PasswordBody = call.json_of(payload, BodySize::Login).await?;
    let (name, by) = (call.path("id"), call.actor());
    changed(&call, |state| async move {
        state.users.set_password(&name, &body.password, &by).await
    })
    .await
}

/// Change a user's role
///
/// The user's sessions end within ten seconds.
#[utoipa::path(put, path = "/v1/users/{id}/role", tag = "users", operation_id = "set_role",
    request_body = RoleBody,
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 200, body = User),
        (status = 400, description = "malformed-json"),
        (status = 404, description = "user-not-found"),
        (status = 413, description = "body-too-large"),
        (status = 422, description = "invalid-field"),
    ))]
pub(crate) async fn set_role(call: Call<Admin, AccountsState>, payload: web::Payload) -> Reply {
    let body: RoleBody = call.json_of(payload, BodySize::Login).await?;
    let (name, by) = (call.path("id"), call.actor());
    changed(&call, |state| async move {
        state.users.set_role(&name, body.role, &by).await
    })
    .await
}

/// Enable a user
///
/// A disabled user can log in again.
#[utoipa::path(post, path = "/v1/users/{id}/enable", tag = "users", operation_id = "enable_user",
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 200, body = User),
        (status = 404, description = "user-not-found"),
    ))]
pub(crate) async fn enable(call: Call<Admin, AccountsState>) -> Reply {
    set_enabled(&call, true).await
}

/// Disable a user
///
/// The user can no longer log in, and the name stays taken. The user's sessions end within ten seconds.
#[utoipa::path(post, path = "/v1/users/{id}/disable", tag = "users", operation_id = "disable_user",
    params(("id" = String, Path, description = "The user's id or name")),
    responses(
        (status = 200, body = User),
        (status = 404, description = "user-not-found"),
    ))]
pub(crate) async fn disable(call: Call<Admin, AccountsState>) -> Reply {
    set_enabled(&call, false).await
}

async fn set_enabled(call: &Call<Admin, AccountsState>, enabled: bool) -> Reply {
    let (name, by) = (call.path("id"), call.actor());
    changed(call, move |state| async move {
        state.users.set_enabled(&name, enabled, &by).await
    })
    .await
}

/// Changes the user that the path names.
async fn changed<F>(call: &Call<Admin, AccountsState>, change: impl FnOnce(Arc<AccountsState>) -> F) -> Reply
where
    F: Future<Output = Result<Option<User>, UserError>> + Send + 'static,
{
    let user = call.run(change).await?;
    ok(&user.ok_or_else(|| unknown_user(&call.path("id")))?)
}

/// The answer about a user who does not exist.
pub fn unknown_user(name: &str) -> Problem {
    let reason = format!("no user has the id or the name {}", quote(name));
    Problem::field(ProblemKind::UserNotFound, "id", reason)
}
