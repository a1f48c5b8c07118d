//! What a handler asks for: `Allowed<Read>` in its signature, and it runs only for those who may.

use std::fmt;
use std::marker::PhantomData;
use std::net::IpAddr;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest, web};
use futures::future::{Either, LocalBoxFuture, Ready, ready};

use holdfast_jobs::audit::By;

use super::keys::{ApiKeys, AuthError, Caller};
use super::scope::Scope;
use crate::border;
use crate::problem::{Problem, ProblemKind, RETRY_AFTER};
use crate::state::State;

/// Longest token that is looked at, in bytes. Ours have 67; a bootstrap key may be longer.
const MAX_TOKEN: usize = 1_024;

/// The scope that a route needs.
pub(crate) trait Need: 'static {
    const SCOPE: Scope;
}

macro_rules! needs {
    ($($name:ident),+) => {$(
        #[derive(Debug)]
        pub(crate) struct $name;

        impl Need for $name {
            const SCOPE: Scope = Scope::$name;
        }
    )+};
}

needs!(Produce, Read, Admin);

/// A caller who may do what needs `N`.
pub(crate) struct Allowed<N> {
    caller: Caller,
    need: PhantomData<N>,
}

impl<N> Allowed<N> {
    pub(crate) fn caller(&self) -> &Caller {
        &self.caller
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
        let token = match bearer(request) {
            Ok(token) => token,
            Err(problem) if !state.open => return Either::Left(ready(Err(problem))),
            Err(_) => None,
        };
        if state.open {
            let (state, request) = (state.clone(), request.clone());
            let token = token.map(ToOwned::to_owned);
            return Either::Right(Box::pin(async move {
                let caller = local_caller(&state, &request, token.as_deref()).await?;
                permit(caller)
            }));
        }
        let Some(token) = token else {
            return Either::Left(ready(Err(unauthenticated(
                "send `Authorization: Bearer <key>`; `holdfast keys create` makes a key",
                false,
            ))));
        };
        // Nearly every request ends here, without a wait and without a box.
        if let Some(caller) = state.keys.known(token) {
            return Either::Left(ready(permit(caller)));
        }
        let (keys, token) = (state.keys.clone(), token.to_owned());
        Either::Right(Box::pin(async move {
            permit(keys.authenticate(&token).await.map_err(Problem::from)?)
        }))
    }
}

/// Lets a request read what no route of the API serves. `keyless`: without any key at all everybody may.
pub(crate) async fn may_read(request: &HttpRequest, keys: &ApiKeys, keyless: bool) -> Result<(), Problem> {
    let Some(token) = bearer(request)? else {
        if keyless && keys.none_exist().await? {
            return Ok(());
        }
        return Err(unauthenticated(
            "send `Authorization: Bearer <key>` with a key that has the scope `read`; `holdfast keys create` makes one",
            false,
        ));
    };
    let caller = match keys.known(token) {
        Some(caller) => caller,
        None => keys.authenticate(token).await?,
    };
    permit::<Read>(caller).map(drop)
}

/// The token of the `Authorization` header, if there is one.
fn bearer(request: &HttpRequest) -> Result<Option<&str>, Problem> {
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
    if caller.may(N::SCOPE) {
        return Ok(Allowed {
            caller,
            need: PhantomData,
        });
    }
    let scope = N::SCOPE;
    let detail = format!("this needs a key with the scope `{scope}`; `admin` includes it");
    let challenge = format!("Bearer realm=\"holdfast\", error=\"insufficient_scope\", scope=\"{scope}\"");
    let problem = Problem::new(ProblemKind::MissingScope, detail);
    Err(match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    })
}

fn unauthenticated(detail: &str, presented: bool) -> Problem {
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

/// A page on the Internet can make a browser on this machine send requests here, by a form or by a name that it
/// points at 127.0.0.1. Both betray themselves by their `Origin` or `Host`.
fn refuse_other_origins(request: &HttpRequest) -> Result<(), Problem> {
    let host = request
        .headers()
        .get(header::HOST)
        .and_then(|value| value.to_str().ok());
    let origin = request
        .headers()
        .get(header::ORIGIN)
        .and_then(|value| value.to_str().ok());
    let origin_host = origin.map(|origin| origin.split_once("://").map_or(origin, |(_, rest)| rest));
    for (name, value) in [("Host", host), ("Origin", origin_host)] {
        if value.is_some_and(|authority| !is_local(authority)) {
            return Err(Problem::field(
                ProblemKind::UntrustedOrigin,
                name,
                "is not this machine; set HOLDFAST_API_KEY, or make a key with `holdfast keys create`, to serve others",
            ));
        }
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
