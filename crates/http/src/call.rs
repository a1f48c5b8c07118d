//! [`Call`]: what a handler is given, and the answers it makes of it.
//!
//! A handler of an admitted caller has a `Call` as its first argument, and a `web::Payload` beside it if its request has a body. What
//! handlers have in common is here: the scope, the query, the ids of the path, the body, the actor for the audit log, and the one
//! place that moves work to the process' own runtime.
//!
//! ```text
//! async fn show(call: Call<Read, AppState>) -> Reply {
//!     let id = call.id::<JobId>()?;
//!     let job = call.run(move |state| async move { state.jobs.get(id).await }).await?;
//!     ok(&JobView::from(job.ok_or_else(|| not_found(id))?))
//! }
//! ```
//!
//! # Invariants
//! - A request is refused in this order: caller, scope, rate, query, and then what the handler finds in path and body.
//! - A handler whose `Call` does not say [`WithQuery`] takes no query parameters; a request with one is refused.

use std::fmt;
use std::future::Future;
use std::marker::PhantomData;
use std::pin::Pin;
use std::str::FromStr;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest, HttpResponse, web};
use holdfast_jobs::audit::AuditContext;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::access::{AuthorizedCaller, Need};
use crate::body::{BodySize, json_body_of};
use crate::context::{ServerContext, json};
use crate::params::{Params, idempotency_key, path_id, path_text};
use crate::problem::Problem;
use crate::responses::CachedRoute;
use crate::routes::{Access, FirstArgument};

/// What a handler answers.
pub type Reply = Result<HttpResponse, Problem>;

/// Whether a route takes query parameters.
pub trait Query: 'static {
    fn check(request: &HttpRequest) -> Result<(), Problem>;
}

/// The route takes no query parameters.
#[derive(Debug)]
pub struct NoQuery;

/// The handler reads the query parameters with [`Call::params`].
#[derive(Debug)]
pub struct WithQuery;

impl Query for NoQuery {
    fn check(request: &HttpRequest) -> Result<(), Problem> {
        Params::of(request, &[]).finish()
    }
}

impl Query for WithQuery {
    fn check(_: &HttpRequest) -> Result<(), Problem> {
        Ok(())
    }
}

/// A request of a caller who may do what needs `N`, to a crate whose routes share the state `S`.
pub struct Call<N, S: 'static, Q = NoQuery> {
    pub allowed: AuthorizedCaller<N>,
    pub request: HttpRequest,
    state: web::Data<S>,
    context: web::Data<ServerContext>,
    query: PhantomData<Q>,
}

impl<N, S, Q> Call<N, S, Q> {
    pub fn state(&self) -> &S {
        &self.state
    }

    pub fn context(&self) -> &ServerContext {
        &self.context
    }

    /// The caller as the actor of an audited action.
    pub fn actor(&self) -> AuditContext {
        self.allowed.by(&self.request)
    }

    /// The parameter `{id}` of the path, parsed.
    pub fn id<T: FromStr<Err: fmt::Display>>(&self) -> Result<T, Problem> {
        path_id(&self.request)
    }

    /// A parameter of the path, as text.
    pub fn path(&self, parameter: &str) -> String {
        path_text(&self.request, parameter).into_owned()
    }

    /// The `Idempotency-Key` of the request, kept apart for each caller.
    pub fn job_key(&self) -> Result<Option<String>, Problem> {
        let key = idempotency_key(&self.request)?;
        Ok(key.map(|key| self.allowed.caller().job_key(key)))
    }

    /// The body, one document about one thing.
    pub async fn json<T: DeserializeOwned + Send + 'static>(
        &self,
        payload: web::Payload,
    ) -> Result<T, Problem> {
        self.json_of(payload, BodySize::Document).await
    }

    /// The body, of this size.
    pub async fn json_of<T: DeserializeOwned + Send + 'static>(
        &self,
        payload: web::Payload,
        size: BodySize,
    ) -> Result<T, Problem> {
        json_body_of(&self.request, payload, &self.context, size).await
    }

    /// Runs what may open database connections where they outlive this thread: see [`ServerContext::on_runtime`].
    pub async fn run<T, E, F>(&self, work: impl FnOnce(Arc<S>) -> F) -> Result<T, Problem>
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        let state = self.state.clone().into_inner();
        self.context.on_runtime(work(state)).await
    }

    /// As [`run`](Self::run), answered from the cached responses of the route where they are fresh.
    pub async fn cached<T, E, F>(&self, route: &CachedRoute, work: impl FnOnce(Arc<S>) -> F) -> Reply
    where
        F: Future<Output = Result<T, E>> + Send + 'static,
        T: Serialize + Send + 'static,
        E: Send + 'static,
        Problem: From<E>,
    {
        let state = self.state.clone().into_inner();
        let caller = self.allowed.caller();
        self.context
            .cached(&self.request, caller, route, work(state))
            .await
    }
}

impl<N, S> Call<N, S, WithQuery> {
    /// The query, of which these names are known.
    pub fn params(&self, known: &'static [&'static str]) -> Params {
        Params::of(&self.request, known)
    }
}

impl<N, S, Q> fmt::Debug for Call<N, S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Call({:?} {})", self.allowed, self.request.path())
    }
}

impl<N: Need, S, Q> FirstArgument for Call<N, S, Q> {
    const ACCESS: Access = AuthorizedCaller::<N>::ACCESS;
}

impl<N: Need, S: 'static, Q: Query> FromRequest for Call<N, S, Q> {
    type Error = Problem;
    type Future = Admission<N, S, Q>;

    fn from_request(request: &HttpRequest, payload: &mut Payload) -> Self::Future {
        Admission {
            allowed: AuthorizedCaller::from_request(request, payload),
            request: request.clone(),
            call: PhantomData,
        }
    }
}

/// Resolves to a [`Call`] once it is known who calls.
pub struct Admission<N: Need, S, Q> {
    allowed: <AuthorizedCaller<N> as FromRequest>::Future,
    request: HttpRequest,
    call: PhantomData<fn() -> (S, Q)>,
}

impl<N: Need, S, Q> fmt::Debug for Admission<N, S, Q> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Admission").finish_non_exhaustive()
    }
}

impl<N: Need, S: 'static, Q: Query> Future for Admission<N, S, Q> {
    type Output = Result<Call<N, S, Q>, Problem>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let allowed = ready!(Pin::new(&mut self.allowed).poll(cx))?;
        let request = self.request.clone();
        let (Some(state), Some(context)) = (request.app_data::<web::Data<S>>(), request.app_data()) else {
            return Poll::Ready(Err(Problem::internal(
                "the application has no state for this route",
            )));
        };
        Q::check(&request)?;
        Poll::Ready(Ok(Call {
            allowed,
            state: web::Data::clone(state),
            context: web::Data::clone(context),
            request,
            query: PhantomData,
        }))
    }
}

/// 200 with a document.
pub fn ok(body: &impl Serialize) -> Reply {
    json(StatusCode::OK, body)
}

/// A document that stands at an address of its own: with `Location`.
pub fn json_at(status: StatusCode, location: &str, body: &impl Serialize) -> Reply {
    let location = HeaderValue::from_str(location).map_err(Problem::internal)?;
    let mut response = json(status, body)?;
    response.headers_mut().insert(header::LOCATION, location);
    Ok(response)
}

/// 202 for what a request has enqueued; 200 if it was there before, under the same key.
pub fn accepted(duplicate: bool) -> StatusCode {
    if duplicate {
        StatusCode::OK
    } else {
        StatusCode::ACCEPTED
    }
}
