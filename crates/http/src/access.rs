//! What a handler asks for: `Allowed<Read>` in its signature, and it runs only for those who may.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest, web};
use futures::future::{Either, LocalBoxFuture, Ready, ready};

use holdfast::product::AddressAuthority;
use holdfast_jobs::audit::By;

use super::keys::{ApiKeys, AuthError, Caller};
use super::scope::Scope;
use super::sessions::{SessionError, Sessions, is_token};
use super::users::UserError;
use crate::border;
use crate::problem::{Problem, ProblemKind, RETRY_AFTER};
use crate::rate::{Class, Subject, Verdict};
use crate::state::State;

/// Longest token that is looked at, in bytes. Ours have 67; a bootstrap key may be longer.
const MAX_TOKEN: usize = 1_024;

/// What a route needs.
pub(crate) trait Need: 'static {
    /// `None`: whoever is known.
    const SCOPE: Option<Scope>;
    /// Counted among these.
    const CLASS: Class;
}

macro_rules! needs {
    ($($name:ident: $scope:expr, $class:ident;)+) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Need for $name {
            const SCOPE: Option<Scope> = $scope;
            const CLASS: Class = Class::$class;
        }
    )+};
}

needs! {
    Produce: Some(Scope::Produce), Produce;
    Read: Some(Scope::Read), Read;
    Admin: Some(Scope::Admin), Admin;
    Anyone: None, Read;
}

/// A caller who may do what needs `N`.
pub(crate) struct Allowed<N> {
    caller: Caller,
    need: PhantomData<N>,
}

impl<N> Allowed<N> {
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the caller may read what belongs to this user: one's own with a session, anybody's with a key that has the
    /// scope `read` or with a session that may do everything.
    pub(crate) fn reads_user(&self, user: &str) -> Result<(), Problem> {
        match self.caller {
            Caller::User { id, scopes } if id.to_string() != user && !scopes.allow(Scope::Admin) => {
                Err(Problem::new(
                    ProblemKind::MissingScope,
                    "a session reads its own user's; anybody's takes a key with the scope `read`",
                ))
            }
            Caller::User { .. } => Ok(()),
            caller => permit::<Read>(caller).map(drop),
        }
    }

    /// Whether the caller may change and see all of what belongs to this user: one's own with a session, anybody's with the
    /// scope `admin`.
    pub(crate) fn acts_for_user(&self, user: &str) -> Result<(), Problem> {
        match self.caller {
            Caller::User { id, .. } if id.to_string() == user => Ok(()),
            caller => permit::<Admin>(caller).map(drop),
        }
    }

    /// Whether the caller sees what a kind marks as secret, and the tokens in URLs. The one place that decides it.
    pub(crate) fn sees_secrets(&self) -> bool {
        self.caller.may(Scope::Admin)
    }

    /// With which authority this caller sets addresses of users.
    pub(crate) fn address_authority(&self) -> AddressAuthority {
        if self.caller.may(Scope::Admin) {
            AddressAuthority::Admin
        } else {
            AddressAuthority::User
        }
    }

    /// In whose name, and in which request, something is done.
    pub(crate) fn by(&self, request: &HttpRequest) -> By {
        let by = By::new(self.caller.actor());
        match border::id_of(request) {
            Some(id) => by.in_request(&id),
            None => by,
        }
    }
}

impl<N> fmt::Debug for Allowed<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Allowed({})", self.caller)
    }
}

impl<N: Need> FromRequest for Allowed<N> {
    type Error = Problem;
    type Future = Either<Ready<Result<Self, Problem>>, LocalBoxFuture<'static, Result<Self, Problem>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(state) = request.app_data::<web::Data<State>>() else {
            return Either::Left(ready(Err(Problem::internal("the application has no state"))));
        };
        // Nearly every request ends here, without a wait and without a box.
        if !state.open
            && let Ok(Some(token)) = bearer(request)
            && let Some(caller) = state.keys.known(token)
            && let Some(verdict) = take_at_once(state, N::CLASS, caller)
        {
            return Either::Left(ready(verdict.enforce(request).and_then(|()| permit(caller))));
        }
        let (state, request) = (state.clone(), request.clone());
        Either::Right(Box::pin(async move {
            let caller = identify(&state, &request).await?;
            if let Some(subject) = subject(caller) {
                state.rates.take(N::CLASS, subject).await.enforce(&request)?;
            }
            permit(caller)
        }))
    }
}

fn take_at_once(state: &State, class: Class, caller: Caller) -> Option<Verdict> {
    match subject(caller) {
        Some(subject) => state.rates.try_take(class, subject),
        None => Some(Verdict::Unlimited),
    }
}

/// Whose requests are counted together; `None`: this machine's own are not counted.
fn subject(caller: Caller) -> Option<Subject> {
    match caller {
        Caller::Bootstrap => Some(Subject::Bootstrap),
        Caller::Key { id, .. } => Some(Subject::Key(id.ulid())),
        Caller::User { id, .. } => Some(Subject::User(id.ulid())),
        Caller::Local => None,
    }
}

/// Who asks. Whoever is not known at once counts as anonymous first: guessing is limited before it is answered.
async fn identify(state: &State, request: &HttpRequest) -> Result<Caller, Problem> {
    let token = match bearer(request) {
        Ok(token) => token,
        Err(_) if state.open => None,
        Err(problem) => {
            count_anonymous(state, request).await?;
            return Err(problem);
        }
    };
    match token {
        // A session names its user, whoever else may ask here.
        Some(token) if is_token(token) && state.keys.known(token).is_none() => {
            let session = state.sessions.authenticate(token).await;
            if session.is_err() {
                count_anonymous(state, request).await?;
            }
            Ok(session?)
        }
        token if state.open => local_caller(state, request, token).await,
        Some(token) => {
            if let Some(caller) = state.keys.known(token) {
                return Ok(caller);
            }
            count_anonymous(state, request).await?;
            Ok(state.keys.look_up(token).await?)
        }
        None => {
            count_anonymous(state, request).await?;
            Err(unauthenticated(
                "send `Authorization: Bearer <key>`; `holdfast keys create` makes a key",
                false,
            ))
        }
    }
}

pub(crate) async fn count_anonymous(state: &State, request: &HttpRequest) -> Result<(), Problem> {
    let address = state.rates.address_of(request);
    state.rates.take(Class::Anonymous, address).await.enforce(request)
}

/// Lets a request read what no route of the API serves, with a key or, where there are any, with a session. `keyless`:
/// without any key at all everybody may.
pub(crate) async fn may_read(
    request: &HttpRequest,
    keys: &ApiKeys,
    sessions: Option<&Sessions>,
    keyless: bool,
) -> Result<(), Problem> {
    let Some(token) = bearer(request)? else {
        if keyless && keys.none_exist().await? {
            return refuse_other_origins(request);
        }
        return Err(unauthenticated(
            "send `Authorization: Bearer <key>` with a key that has the scope `read`; `holdfast keys create` makes one",
            false,
        ));
    };
    let caller = match (keys.known(token), sessions) {
        (Some(caller), _) => caller,
        (None, Some(sessions)) if is_token(token) => sessions.authenticate(token).await?,
        (None, _) => keys.look_up(token).await?,
    };
    permit::<Read>(caller).map(drop)
}

/// The token of the `Authorization` header, if there is one.
pub(crate) fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
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

fn permit<N: Need>(caller: Caller) -> Result<Allowed<N>, Problem> {
    let Some(scope) = N::SCOPE.filter(|scope| !caller.may(*scope)) else {
        return Ok(Allowed {
            caller,
            need: PhantomData,
        });
    };
    let detail = format!("this needs a key with the scope `{scope}`; `admin` includes it");
    let challenge = format!("Bearer realm=\"holdfast\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::new(ProblemKind::MissingScope, detail);
    Err(match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    })
}

pub(crate) fn unauthenticated(detail: &str, presented: bool) -> Problem {
    let challenge = if presented {
        "Bearer realm=\"holdfast\", error=\"invalid_token\""
    } else {
        "Bearer realm=\"holdfast\""
    };
    Problem::new(ProblemKind::Unauthenticated, detail)
        .with_header(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge))
}

impl From<AuthError> for Problem {
    fn from(error: AuthError) -> Self {
        match error {
            AuthError::Unknown => unauthenticated("the API key is unknown or revoked", true),
            AuthError::Unavailable => Self::unavailable(
                "the API key cannot be looked up while the database is away; try again",
                RETRY_AFTER,
            ),
        }
    }
}

impl From<SessionError> for Problem {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Off => Self::new(
                ProblemKind::LoginOff,
                "nobody can log in: set JWT_SECRET_KEY to a long random text (openssl rand -hex 32), the same for \
                 every API process; API keys work without",
            ),
            SessionError::WrongLogin => Self::new(
                ProblemKind::LoginFailed,
                "no enabled user has this name and this password",
            ),
            SessionError::Invalid => unauthenticated("the token is not one of this server's", true),
            SessionError::Expired => unauthenticated(
                "the token has expired: get another with POST /v1/auth/refresh, or log in again",
                true,
            ),
            SessionError::Ended => unauthenticated("the session has ended: log in again", true),
            SessionError::User(error) => error.into(),
            SessionError::Failed(source) => Self::internal(source),
        }
    }
}

impl From<UserError> for Problem {
    fn from(error: UserError) -> Self {
        match error {
            UserError::Busy => Self::unavailable(
                "more passwords are to be checked than this server can; try again",
                RETRY_AFTER,
            ),
            UserError::Unavailable(source) => {
                Self::unavailable("the database does not answer now; try again", RETRY_AFTER)
                    .caused_by(source)
            }
            error => Self::internal(error),
        }
    }
}

/// A server that started without any key serves this machine, until there is a key.
async fn local_caller(state: &State, request: &HttpRequest, token: Option<&str>) -> Result<Caller, Problem> {
    if state.keys.none_exist().await? {
        refuse_other_origins(request)?;
        return Ok(Caller::Local);
    }
    match token {
        Some(token) => Ok(state.keys.authenticate(token).await?),
        None => Err(unauthenticated(
            "API keys exist now: send `Authorization: Bearer <key>`",
            false,
        )),
    }
}

/// Headers that proxies add: a request that has one may come from another machine.
const FORWARDING: [&str; 7] = [
    "forwarded",
    "via",
    "x-forwarded-for",
    "x-forwarded-host",
    "x-forwarded-proto",
    "x-forwarded-server",
    "x-real-ip",
];

/// What to do about a request from elsewhere.
const HINT: &str =
    "is not this machine; set HOLDFAST_API_KEY, or make a key with `holdfast keys create`, to serve others";

/// A page on the Internet can make a browser on this machine send requests here, by a form or by a DNS name that resolves to
/// 127.0.0.1, and a proxy on this machine forwards requests of other machines. `Origin`, `Host`, `Sec-Fetch-Site` and the headers
/// that proxies add reveal them. A value that cannot be read is refused.
pub(crate) fn refuse_other_origins(request: &HttpRequest) -> Result<(), Problem> {
    let untrusted =
        |name: &str, reason: &str| Err(Problem::field(ProblemKind::UntrustedOrigin, name, reason));
    let headers = request.headers();
    if let Some(name) = FORWARDING.iter().find(|name| headers.contains_key(**name)) {
        return untrusted(
            name,
            "was added by a proxy: set HOLDFAST_API_KEY to serve others than this machine",
        );
    }
    let mut authority = None;
    for (name, header) in [("Host", header::HOST), ("Origin", header::ORIGIN)] {
        let mut values = headers.get_all(header);
        let Some(value) = values.next() else { continue };
        if values.next().is_some() {
            return untrusted(name, "is given more than once");
        }
        let Ok(text) = value.to_str() else {
            return untrusted(name, "cannot be read");
        };
        let given = text.split_once("://").map_or(text, |(_, rest)| rest);
        if !is_local(given) {
            return untrusted(name, HINT);
        }
        // A page of another port on this machine is another origin.
        if *authority.get_or_insert(given) != given {
            return untrusted(name, "is another origin than the one that is asked");
        }
    }
    let site = headers.get("sec-fetch-site").map(HeaderValue::as_bytes);
    if site.is_some_and(|site| site != b"same-origin" && site != b"none") {
        return untrusted("Sec-Fetch-Site", "says that another site's page has sent this");
    }
    Ok(())
}

fn is_local(authority: &str) -> bool {
    let host = match authority.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None => authority.split(':').next().unwrap_or(authority),
    };
    host.eq_ignore_ascii_case("localhost")
        || host.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_are_local() {
        for local in [
            "localhost",
            "LOCALHOST:8080",
            "127.0.0.1",
            "127.0.0.1:8080",
            "[::1]",
            "[::1]:8080",
        ] {
            assert!(is_local(local), "{local}");
        }
        for other in [
            "example.com",
            "localhost.example.com:8080",
            "10.0.0.1:80",
            "[2001:db8::1]:80",
            "null",
            "",
        ] {
            assert!(!is_local(other), "{other}");
        }
    }
}
