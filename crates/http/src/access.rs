//! What a handler asks of its caller: with `AuthorizedCaller<Read>` as its first argument it runs only for callers who may read.
//!
//! The argument says it once: the [route table](mod@crate::routes) and the OpenAPI [document](crate::openapi) read it from the handler.

use std::fmt;
use std::marker::PhantomData;
use std::sync::Arc;

use actix_web::dev::Payload;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest, HttpRequest, web};
use futures::future::{Either, LocalBoxFuture, Ready, ready};
use holdfast_jobs::audit::AuditContext;

use crate::authentication::{bearer, identify};
use crate::binding::Binding;
use crate::caller::Caller;
use crate::context::ServerContext;
use crate::middleware;
use crate::problem::{Problem, ProblemKind};
use crate::rate::{Class, Subject, Verdict};
use crate::scope::Scope;

/// What a route needs.
pub trait Need: 'static {
    /// `None`: any caller who is known.
    const SCOPE: Option<Scope>;
    /// A scope that will do as well.
    const OR: Option<Scope> = None;
    /// Scopes that together will do as well.
    const OR_BOTH: Option<[Scope; 2]> = None;
    /// The class of rate limits that counts its requests.
    const CLASS: Class;
    /// Whether the handler keeps to the queues and kinds that a key is bound to. Otherwise bound keys are refused.
    const KEEPS_TO_BINDING: bool = false;
}

/// What needs `N`, of a handler that keeps to the queues and kinds of a bound key.
#[derive(Debug)]
pub struct Bound<N>(PhantomData<N>);

impl<N: Need> Need for Bound<N> {
    const SCOPE: Option<Scope> = N::SCOPE;
    const OR: Option<Scope> = N::OR;
    const OR_BOTH: Option<[Scope; 2]> = N::OR_BOTH;
    const CLASS: Class = N::CLASS;
    const KEEPS_TO_BINDING: bool = true;
}

macro_rules! needs {
    ($($(#[$doc:meta])+ $name:ident: $scope:expr, $class:ident;)+) => {$(
        $(#[$doc])+
        #[derive(Debug)]
        pub struct $name;

        impl Need for $name {
            const SCOPE: Option<Scope> = $scope;
            const CLASS: Class = Class::$class;
        }
    )+};
}

needs! {
    /// The scope `produce`.
    Produce: Some(Scope::Produce), Produce;
    /// The scope `work`.
    Work: Some(Scope::Work), Work;
    /// The scope `read`.
    Read: Some(Scope::Read), Read;
    /// The scope `admin`.
    Admin: Some(Scope::Admin), Admin;
    /// Any caller who is known; the handler decides what is allowed.
    Anyone: None, Read;
}

/// The scope `produce` or the scope `work`: what producers and workers of jobs have in common.
#[derive(Debug)]
pub struct ProduceOrWork;

impl Need for ProduceOrWork {
    const SCOPE: Option<Scope> = Some(Scope::Produce);
    const OR: Option<Scope> = Some(Scope::Work);
    const CLASS: Class = Class::Work;
}

/// The scope `admin`, or `produce` and `work` together: who enqueues jobs and runs them may name what they are. The handler lets
/// those who are no admins change nothing that exists.
#[derive(Debug)]
pub struct Declare;

impl Need for Declare {
    const SCOPE: Option<Scope> = Some(Scope::Admin);
    const OR_BOTH: Option<[Scope; 2]> = Some([Scope::Produce, Scope::Work]);
    const CLASS: Class = Class::Admin;
}

/// A caller who may do what needs `N`.
pub struct AuthorizedCaller<N> {
    caller: Caller,
    need: PhantomData<N>,
}

impl<N> AuthorizedCaller<N> {
    pub fn caller(&self) -> &Caller {
        &self.caller
    }

    /// Whether the caller may read what belongs to this user: one's own with a session, anybody's with a key that has the
    /// scope `read` or with a session that may do everything.
    pub fn reads_user(&self, user: &str) -> Result<(), Problem> {
        match &self.caller {
            Caller::User { id, scopes } if id.to_string() != user && !scopes.allow(Scope::Admin) => {
                Err(Problem::new(
                    ProblemKind::MissingScope,
                    "a session reads its own user's; anybody's takes a key with the scope `read`",
                ))
            }
            Caller::User { .. } => Ok(()),
            caller => permit_scope(caller, Read::SCOPE),
        }
    }

    /// Whether the caller may change and see all of what belongs to this user: one's own with a session, anybody's with the
    /// scope `admin`.
    pub fn acts_for_user(&self, user: &str) -> Result<(), Problem> {
        match &self.caller {
            Caller::User { id, .. } if id.to_string() == user => Ok(()),
            caller => permit_scope(caller, Admin::SCOPE),
        }
    }

    /// Whether the caller sees what a kind marks as secret, and the tokens in URLs. The one place that decides it.
    pub fn sees_secrets(&self) -> bool {
        self.is_admin()
    }

    /// Whether the caller sees payloads, results and the texts of errors.
    pub fn sees_payloads(&self) -> bool {
        self.caller.may(Scope::ReadPayload)
    }

    /// Refuses a caller who does not see payloads; `what` needs it.
    pub fn needs_payloads(&self, what: &str) -> Result<(), Problem> {
        if self.sees_payloads() {
            return Ok(());
        }
        let detail = format!("{what} needs a key with the scope `{}`", Scope::ReadPayload);
        Err(Problem::new(ProblemKind::MissingScope, detail))
    }

    /// Whether the caller may do everything.
    pub fn is_admin(&self) -> bool {
        self.caller.may(Scope::Admin)
    }

    /// The caller as the actor of an audited action, with the request's id.
    pub fn by(&self, request: &HttpRequest) -> AuditContext {
        let by = AuditContext::new(self.caller.actor());
        match middleware::id_of(request) {
            Some(id) => by.in_request(&id),
            None => by,
        }
    }
}

impl<N> AuthorizedCaller<Bound<N>> {
    /// What the handler has to keep to.
    pub fn binding(&self) -> Option<&Arc<Binding>> {
        self.caller.binding()
    }
}

impl<N> fmt::Debug for AuthorizedCaller<N> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Allowed({})", self.caller)
    }
}

impl<N: Need> FromRequest for AuthorizedCaller<N> {
    type Error = Problem;
    type Future = Either<Ready<Result<Self, Problem>>, LocalBoxFuture<'static, Result<Self, Problem>>>;

    fn from_request(request: &HttpRequest, _: &mut Payload) -> Self::Future {
        let Some(context) = request.app_data::<web::Data<ServerContext>>() else {
            return Either::Left(ready(Err(Problem::internal("the application has no context"))));
        };
        // Nearly every request ends here, without a wait and without a box.
        if !context.is_keyless
            && let Ok(Some(token)) = bearer(request)
            && let Some(caller) = context.authenticator.known_key(token)
            && let Some(verdict) = take_at_once(context, N::CLASS, &caller)
        {
            return Either::Left(ready(verdict.enforce(request).and_then(|()| permit(caller))));
        }
        let (context, request) = (context.clone(), request.clone());
        Either::Right(Box::pin(async move {
            let caller = identify(&context, &request).await?;
            if let Some(subject) = subject(&caller) {
                context.rates.take(N::CLASS, subject).await.enforce(&request)?;
            }
            permit(caller)
        }))
    }
}

fn take_at_once(context: &ServerContext, class: Class, caller: &Caller) -> Option<Verdict> {
    match subject(caller) {
        Some(subject) => context.rates.try_take(class, subject),
        None => Some(Verdict::Unlimited),
    }
}

/// Whose requests are counted together; `None`: those of this machine and of the command line's own process are not counted.
fn subject(caller: &Caller) -> Option<Subject> {
    match caller {
        Caller::Bootstrap => Some(Subject::Bootstrap),
        Caller::Key { id, .. } => Some(Subject::Key(*id)),
        Caller::User { id, .. } => Some(Subject::User(*id)),
        Caller::Operator | Caller::Local => None,
    }
}

fn permit<N: Need>(caller: Caller) -> Result<AuthorizedCaller<N>, Problem> {
    let has_both = N::OR_BOTH.is_some_and(|both| both.iter().all(|scope| caller.may(*scope)));
    if !has_both {
        permit_either(&caller, N::SCOPE, N::OR)?;
    }
    if !N::KEEPS_TO_BINDING {
        refuse_bound(&caller)?;
    }
    Ok(AuthorizedCaller {
        caller,
        need: PhantomData,
    })
}

/// Refuses a key that is bound to queues or kinds.
pub(crate) fn refuse_bound(caller: &Caller) -> Result<(), Problem> {
    caller.binding().map_or(Ok(()), |binding| Err(binding.refuse()))
}

/// Refuses a caller without this scope.
pub(crate) fn permit_scope(caller: &Caller, scope: Option<Scope>) -> Result<(), Problem> {
    permit_either(caller, scope, None)
}

/// Refuses a caller who has neither of these scopes.
fn permit_either(caller: &Caller, scope: Option<Scope>, or: Option<Scope>) -> Result<(), Problem> {
    let enough: Vec<Scope> = scope.into_iter().chain(or).collect();
    if enough.is_empty() || enough.iter().any(|scope| caller.may(*scope)) {
        return Ok(());
    }
    let names = |between: &str, quote: &str| {
        let names = enough.iter().map(|scope| format!("{quote}{scope}{quote}"));
        names.collect::<Vec<_>>().join(between)
    };
    let detail = format!(
        "this needs a key with the scope {}; `admin` includes it",
        names(" or ", "`")
    );
    let challenge = format!(
        "Bearer realm=\"holdfast\", error=\"insufficient_scope\", scope=\"{}\"",
        names(" ", "")
    );
    let problem = Problem::new(ProblemKind::MissingScope, detail);
    Err(match HeaderValue::from_str(&challenge) {
        Ok(value) => problem.with_header(header::WWW_AUTHENTICATE, value),
        Err(_) => problem,
    })
}
