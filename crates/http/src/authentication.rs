//! Who sends a request: the token of the `Authorization` header, and the [`Authenticator`] that knows it.
//!
//! # When things fail
//! A token that cannot be looked up now is answered 503, not 401: it may be right. A token that is not known without waiting counts as
//! anonymous before it is looked up, so that guessing is limited before it is answered.

use std::fmt;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpRequest, web};
use futures::future::BoxFuture;

use crate::access::{permit_scope, refuse_bound};
use crate::caller::Caller;
use crate::context::ServerContext;
use crate::local_machine::refuse_other_origins;
use crate::problem::{Problem, ProblemKind};
use crate::rate::Class;
use crate::scope::Scope;

/// Longest token that is looked at, in bytes. Ours have 67; a bootstrap key may be longer.
const MAX_TOKEN: usize = 1_024;

/// Knows the callers of an installation. Implemented where API keys and sessions are stored.
///
/// A future that reads the database must do so on the process' own runtime: it is polled on an HTTP thread.
pub trait Authenticator: fmt::Debug + Send + Sync + 'static {
    /// The caller with this API key, if that is known without waiting.
    fn known_key(&self, token: &str) -> Option<Caller>;

    /// The caller with this API key.
    ///
    /// # Errors
    /// 401: no key in force has this text. 503: it cannot be looked up now.
    fn look_up_key<'a>(&'a self, token: &'a str) -> BoxFuture<'a, Result<Caller, Problem>>;

    /// The user whose session has this token; `None`: the token is not that of a session.
    fn session<'a>(&'a self, token: &'a str) -> Option<BoxFuture<'a, Result<Caller, Problem>>>;

    /// Whether there is no API key at all.
    ///
    /// # Errors
    /// 503: that cannot be read now.
    fn has_no_keys(&self) -> BoxFuture<'_, Result<bool, Problem>>;
}

/// Who sends this request.
pub(crate) async fn identify(context: &ServerContext, request: &HttpRequest) -> Result<Caller, Problem> {
    let token = match bearer(request) {
        Ok(token) => token,
        Err(_) if context.is_keyless => None,
        Err(problem) => {
            count_anonymous(context, request).await?;
            return Err(problem);
        }
    };
    let callers = &*context.authenticator;
    let known = token.and_then(|token| callers.known_key(token));
    // A session names its user, also where this machine is served without a key.
    if known.is_none()
        && let Some(session) = token.and_then(|token| callers.session(token))
    {
        let caller = session.await;
        if caller.is_err() {
            count_anonymous(context, request).await?;
        }
        return caller;
    }
    if context.is_keyless {
        return local_caller(callers, request, token).await;
    }
    if let Some(caller) = known {
        return Ok(caller);
    }
    count_anonymous(context, request).await?;
    match token {
        Some(token) => callers.look_up_key(token).await,
        None => Err(unauthenticated(
            "send `Authorization: Bearer <key>`; `holdfast keys create` makes a key",
            false,
        )),
    }
}

/// A server that started without any key serves this machine until there is one.
async fn local_caller(
    callers: &dyn Authenticator,
    request: &HttpRequest,
    token: Option<&str>,
) -> Result<Caller, Problem> {
    if callers.has_no_keys().await? {
        refuse_other_origins(request)?;
        return Ok(Caller::Local);
    }
    match token {
        Some(token) => key(callers, token).await,
        None => Err(unauthenticated(
            "API keys exist now: send `Authorization: Bearer <key>`",
            false,
        )),
    }
}

async fn key(callers: &dyn Authenticator, token: &str) -> Result<Caller, Problem> {
    match callers.known_key(token) {
        Some(caller) => Ok(caller),
        None => callers.look_up_key(token).await,
    }
}

/// Counts the request as one without a key that is known, by the address it comes from.
pub async fn count_anonymous(context: &ServerContext, request: &HttpRequest) -> Result<(), Problem> {
    let address = context.rates.address_of(request);
    context
        .rates
        .take(Class::Anonymous, address)
        .await
        .enforce(request)
}

/// Lets a request read what every service serves, with a key or a session that has the scope `read`. `is_keyless`: while there is no
/// key at all, this machine may read without one.
pub(crate) async fn may_read(
    request: &HttpRequest,
    callers: &dyn Authenticator,
    is_keyless: bool,
) -> Result<(), Problem> {
    let Some(token) = bearer(request)? else {
        if is_keyless && callers.has_no_keys().await? {
            return refuse_other_origins(request);
        }
        return Err(unauthenticated(
            "send `Authorization: Bearer <key>` with a key that has the scope `read`; `holdfast keys create` makes one",
            false,
        ));
    };
    let caller = match (callers.known_key(token), callers.session(token)) {
        (Some(caller), _) => caller,
        (None, Some(session)) => session.await?,
        (None, None) => callers.look_up_key(token).await?,
    };
    permit_scope(&caller, Some(Scope::Read))?;
    refuse_bound(&caller)
}

/// Whether the caller of a request that goes on may still read: its key is not revoked, its session has not ended. While that cannot be
/// looked up, it may.
pub async fn still_may_read(request: &HttpRequest) -> bool {
    let Some(context) = request.app_data::<web::Data<ServerContext>>() else {
        return false;
    };
    match may_read(request, &*context.authenticator, context.is_keyless).await {
        Ok(()) => true,
        Err(problem) => !matches!(
            problem.kind().status(),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN
        ),
    }
}

/// The token of the `Authorization` header, if there is one.
pub fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
    let Some(value) = request.headers().get(header::AUTHORIZATION) else {
        return Ok(None);
    };
    value
        .to_str()
        .ok()
        .and_then(|text| text.split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, token)| token.trim())
        .filter(|token| !token.is_empty() && token.len() <= MAX_TOKEN)
        .map(Some)
        .ok_or_else(|| unauthenticated("the Authorization header must be `Bearer <key>`", true))
}

/// The answer to a request whose caller is not known. `is_presented`: it carried a token.
pub fn unauthenticated(detail: &str, is_presented: bool) -> Problem {
    let challenge = if is_presented {
        "Bearer realm=\"holdfast\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"holdfast\""
    };
    Problem::new(ProblemKind::Unauthenticated, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}
