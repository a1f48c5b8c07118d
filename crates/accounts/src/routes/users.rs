//! Users over HTTP, for callers with the scope `admin`. A password is in a request and in no answer.
//!
//! One user is shown and deleted by `holdfast_services::USER_ROUTES`, which has all of `/v1/users/{id}`.

use actix_web::http::StatusCode;
use actix_web::{HttpRequest, HttpResponse, web};
use holdfast_http::body::fields::{exposed, optional_exposed, optional_secret, secret};
use holdfast_http::body::{BodySize, json_body_of};
use holdfast_http::json;
use holdfast_http::params::{Params, path_text};
use holdfast_http::problem::{Problem, ProblemKind, quote};
use holdfast_http::{Admin, Allowed};
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
pub(crate) async fn list(
    _: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let users = state.users.clone();
    let users = state.http.on_runtime(async move { users.list().await }).await?;
    json(StatusCode::OK, &UserList { users })
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
pub(crate) async fn create(
    allowed: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: UserBody = json_body_of(&request, payload, &state.http, BodySize::Login).await?;
    let (users, by) = (state.users.clone(), allowed.by(&request));
    let created = state.http.on_runtime(async move {
        match &body.password {
            Some(password) => users.create(&body.name, body.role, password, &by).await,
            None => users.create_without_password(&body.name, body.role, &by).await,
        }
    });
    json(StatusCode::CREATED, &created.await?)
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
pub(crate) async fn set_password(
    allowed: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: PasswordBody = json_body_of(&request, payload, &state.http, BodySize::Login).await?;
    let (users, by, name) = (state.users.clone(), allowed.by(&request), user_of(&request));
    let change = async move { users.set_password(&name, &body.password, &by).await };
    changed(&state, &request, change).await
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
pub(crate) async fn set_role(
    allowed: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let body: RoleBody = json_body_of(&request, payload, &state.http, BodySize::Login).await?;
    let (users, by, name) = (state.users.clone(), allowed.by(&request), user_of(&request));
    let change = async move { users.set_role(&name, body.role, &by).await };
    changed(&state, &request, change).await
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
pub(crate) async fn enable(
    allowed: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    set_enabled(&allowed, &state, &request, true).await
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
pub(crate) async fn disable(
    allowed: Allowed<Admin>,
    state: web::Data<AccountsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    set_enabled(&allowed, &state, &request, false).await
}

async fn set_enabled(
    allowed: &Allowed<Admin>,
    state: &AccountsState,
    request: &HttpRequest,
    enabled: bool,
) -> Result<HttpResponse, Problem> {
    Params::of(request, &[]).finish()?;
    let (users, by, name) = (state.users.clone(), allowed.by(request), user_of(request));
    let change = async move { users.set_enabled(&name, enabled, &by).await };
    changed(state, request, change).await
}

async fn changed(
    state: &AccountsState,
    request: &HttpRequest,
    change: impl Future<Output = Result<Option<User>, UserError>> + Send + 'static,
) -> Result<HttpResponse, Problem> {
    match state.http.on_runtime(change).await? {
        Some(user) => json(StatusCode::OK, &user),
        None => Err(unknown_user(&user_of(request))),
    }
}

/// The id or the name that the path gives.
fn user_of(request: &HttpRequest) -> String {
    path_text(request, "id").into_owned()
}

/// The answer about a user who does not exist.
pub fn unknown_user(name: &str) -> Problem {
    let reason = format!("no user has the id or the name {}", quote(name));
    Problem::field(ProblemKind::UserNotFound, "id", reason)
}
