//! Logging in and out, and who one is.

use actix_web::{HttpRequest, HttpResponse, web};
use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_http::authentication::{bearer, unauthenticated};
use holdfast_http::body::fields::secret;
use holdfast_http::body::{BodySize, json_body_of};
use holdfast_http::params::Params;
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::rate::{Class, Subject};
use holdfast_http::{Anyone, Bound, Call, Caller, Reply, Scopes, ok};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::sessions::{NewSession, is_token};
use crate::state::AccountsState;
use crate::users::{MAX_PASSWORD, MAX_USER_NAME, folded};
use crate::users::{Role, UserId};

/// A name and a password.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
#[schema(as = Login, example = json!({"name": "ada@example.com", "password": "correct horse battery staple"}))]
pub(crate) struct LoginBody {
    /// Case-insensitive.
    #[schema(max_length = 254)]
    name: String,
    #[serde(deserialize_with = "secret")]
    #[schema(value_type = String, max_length = 1024, format = Password)]
    password: SecretString,
}

/// A token, shown once.
#[derive(Serialize, ToSchema)]
#[schema(as = SessionToken)]
pub(crate) struct TokenView {
    /// Send it as `Authorization: Bearer <access_token>`.
    access_token: String,
    #[schema(value_type = String, example = "Bearer")]
    token_type: &'static str,
    expires_in: u64,
    expires_at: DateTime<Utc>,
    user: UserView,
}

#[derive(Debug, Serialize, ToSchema)]
#[schema(as = User)]
pub(crate) struct UserView {
    #[schema(value_type = String)]
    id: UserId,
    name: String,
    #[schema(value_type = String, example = "operator")]
    role: Role,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
}

impl From<NewSession> for TokenView {
    fn from(opened: NewSession) -> Self {
        let NewSession {
            user,
            token,
            lifetime,
        } = opened;
        Self {
            access_token: token.expose_secret().to_owned(),
            token_type: "Bearer",
            expires_in: lifetime.as_secs(),
            expires_at: clock::now() + lifetime,
            user: UserView {
                id: user.id,
                name: user.name,
                role: user.role,
                scopes: user.role.scopes(),
            },
        }
    }
}

/// The caller.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Me)]
pub(crate) struct MeView {
    /// `user`, `key`, `bootstrap` (HOLDFAST_API_KEY) or `local` (this machine, while there is no key).
    #[schema(value_type = String, example = "user")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    #[schema(value_type = Vec<String>)]
    scopes: Scopes,
    /// The only queues that a bound key may be used for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    queues: Vec<String>,
    /// The only kinds that a bound key may be used for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    kinds: Vec<String>,
}

/// Log in
///
/// Returns a token that is valid for some minutes; `/v1/auth/refresh` returns the next one. An unknown name, a
/// disabled user and a wrong password get the same response. Login attempts are limited for each name and each
/// address, successful ones included; further ones are answered 429 with `Retry-After`.
#[utoipa::path(post, path = "/v1/auth/login", tag = "sessions", operation_id = "login", request_body = LoginBody,
    responses(
        (status = 200, body = TokenView),
        (status = 401, description = "login-failed"),
        (status = 422, description = "invalid-field"),
        (status = 429, description = "too-many-requests"),
        (status = 501, description = "login-off"),
        (status = 503, description = "unavailable"),
    ))]
pub(crate) async fn login(
    state: web::Data<AccountsState>,
    request: HttpRequest,
    payload: web::Payload,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let address = state.http.rates.address_of(&request);
    state
        .http
        .rates
        .take(Class::LoginAddress, address)
        .await
        .enforce(&request)?;
    let LoginBody { name, password } = json_body_of(&request, payload, &state.http, BodySize::Login).await?;
    check_lengths(&name, &password)?;
    // What this bucket holds is told to nobody: others may be trying the same name.
    let account = Subject::account(&folded(&name));
    state
        .http
        .rates
        .take(Class::LoginAccount, account)
        .await
        .enforce_silently()?;
    let sessions = state.sessions.clone();
    let opened = state
        .http
        .on_runtime(async move { sessions.login(&name, &password).await });
    ok(&TokenView::from(opened.await?))
}

/// Refresh a token
///
/// Send the last token. It may have expired as long as its session is live (30 minutes after the last use). It
/// is good no more after that; who sends it again ends the session, because two have it.
#[utoipa::path(post, path = "/v1/auth/refresh", tag = "sessions", operation_id = "refresh_session",
    responses(
        (status = 200, body = TokenView),
        (status = 400, description = "not-a-session"),
        (status = 401, description = "unauthenticated"),
        (status = 403, description = "untrusted-origin"),
        (status = 429, description = "too-many-requests"),
        (status = 503, description = "unavailable"),
    ),
    security(("api_key" = ["any"])))]
pub(crate) async fn refresh(
    state: web::Data<AccountsState>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    Params::of(&request, &[]).finish()?;
    let address = state.http.rates.address_of(&request);
    state
        .http
        .rates
        .take(Class::Anonymous, address)
        .await
        .enforce(&request)?;
    let token = session_token(&request)?;
    let sessions = state.sessions.clone();
    let opened = state
        .http
        .on_runtime(async move { sessions.refresh(&token).await });
    ok(&TokenView::from(opened.await?))
}

/// Log out
///
/// Ends the session: none of its tokens is good any more. This process refuses them at once, and so do the others with Redis;
/// without it, or while it is away, they do within ten seconds.
#[utoipa::path(post, path = "/v1/auth/logout", tag = "sessions", operation_id = "logout",
    responses(
        (status = 204, description = "the session has ended"),
        (status = 400, description = "not-a-session"),
        (status = 403, description = "untrusted-origin"),
    ))]
pub(crate) async fn logout(call: Call<Anyone, AccountsState>) -> Reply {
    let token = session_token(&call.request)?;
    call.run(|state| async move { state.sessions.logout(&token).await })
        .await?;
    Ok(HttpResponse::NoContent().finish())
}

/// Show the caller
#[utoipa::path(get, path = "/v1/auth/me", tag = "sessions", operation_id = "me",
    responses(
        (status = 200, body = MeView),
        (status = 403, description = "untrusted-origin"),
    ))]
pub(crate) async fn me(call: Call<Bound<Anyone>, AccountsState>) -> Reply {
    let sessions = &call.state().sessions;
    let binding = call
        .allowed
        .binding()
        .map(|binding| (**binding).clone())
        .unwrap_or_default();
    let view = match *call.allowed.caller() {
        Caller::User { id, scopes } => MeView {
            kind: "user",
            id: Some(id.to_string()),
            name: sessions
                .name_of(UserId::from_ulid(id))
                .await
                .map(|name| name.to_string()),
            scopes,
            queues: Vec::new(),
            kinds: Vec::new(),
        },
        Caller::Key { id, scopes, .. } => MeView {
            kind: "key",
            id: Some(id.to_string()),
            name: None,
            scopes,
            queues: binding.queues.into_iter().collect(),
            kinds: binding.kinds.into_iter().collect(),
        },
        Caller::Bootstrap => all_powerful("bootstrap"),
        Caller::Operator => all_powerful("operator"),
        Caller::Local => all_powerful("local"),
    };
    ok(&view)
}

fn all_powerful(kind: &'static str) -> MeView {
    MeView {
        kind,
        id: None,
        name: None,
        scopes: Scopes::ADMIN,
        queues: Vec::new(),
        kinds: Vec::new(),
    }
}

/// What no user has is refused before it is hashed; whether a user has it is not told by this.
fn check_lengths(name: &str, password: &SecretString) -> Result<(), Problem> {
    let refused = |field, limit, unit| {
        let reason = format!("it has at most {limit} {unit}");
        Err(Problem::field(ProblemKind::InvalidField, field, reason))
    };
    if name.chars().count() > MAX_USER_NAME {
        return refused("name", MAX_USER_NAME, "characters");
    }
    if password.expose_secret().len() > MAX_PASSWORD {
        return refused("password", MAX_PASSWORD, "bytes");
    }
    Ok(())
}

/// The session's token that a request carries.
fn session_token(request: &HttpRequest) -> Result<String, Problem> {
    match bearer(request)? {
        Some(token) if is_token(token) => Ok(token.to_owned()),
        Some(_) => Err(Problem::new(
            ProblemKind::NotASession,
            "this is an API key, which is not logged in: `holdfast keys revoke` ends it",
        )),
        None => Err(unauthenticated(
            "send `Authorization: Bearer <access_token>`",
            false,
        )),
    }
}
