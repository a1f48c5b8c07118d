//! Tables of routes: what a crate serves, what the OpenAPI document lists and what the tests walk through are one table.
//!
//! A row is a method, a path and a handler. Who may use a route is the handler's first argument, [`AuthorizedCaller`].

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::ServiceConfig;
use actix_web::{Handler, HttpRequest, HttpResponse, web};
use utoipa::openapi::OpenApi;

use crate::access::{AuthorizedCaller, Need};
use crate::problem::{Problem, ProblemKind, quote};
use crate::scope::Scope;

/// Who may use a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Access {
    /// The handler decides, whether the caller is known or not.
    Public,
    /// Callers who are known; the handler decides further.
    Known,
    /// Callers with this scope.
    Scope(Scope),
    /// Callers with one of these scopes.
    Either(Scope, Scope),
}

/// One method of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`. HEAD is answered wherever GET is.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
    pub access: Access,
}

/// The routes of one crate. Made by [`routes!`](crate::routes!).
#[derive(Debug, Clone, Copy)]
pub struct RouteTable {
    pub routes: &'static [Route],
    /// Registers the routes. Their state must be registered beside them.
    pub configure: fn(&mut ServiceConfig),
    /// Their part of the OpenAPI document.
    pub document: fn() -> OpenApi,
}

/// The first argument of a handler, which says who may use its route.
pub trait FirstArgument {
    const ACCESS: Access;
}

impl<N: Need> FirstArgument for AuthorizedCaller<N> {
    const ACCESS: Access = match (N::SCOPE, N::OR) {
        (Some(scope), Some(or)) => Access::Either(scope, or),
        (Some(scope), None) => Access::Scope(scope),
        (None, _) => Access::Known,
    };
}

impl<T: ?Sized + 'static> FirstArgument for web::Data<T> {
    const ACCESS: Access = Access::Public;
}

impl FirstArgument for HttpRequest {
    const ACCESS: Access = Access::Public;
}

/// The arguments of a handler.
pub trait Arguments {
    const ACCESS: Access;
}

impl Arguments for () {
    const ACCESS: Access = Access::Public;
}

macro_rules! arguments {
    ($($first:ident $($other:ident)*;)+) => {$(
        impl<$first: FirstArgument $(, $other)*> Arguments for ($first, $($other,)*) {
            const ACCESS: Access = $first::ACCESS;
        }
    )+};
}

arguments! {
    A;
    A B;
    A B C;
    A B C D;
}

/// Who may use the route of this handler.
pub const fn access_of<A: Arguments, H: Handler<A>>(_: &H) -> Access {
    A::ACCESS
}

/// Makes a table of routes, and serves and documents exactly these.
///
/// ```text
/// routes! {
///     /// The routes of this crate.
///     pub ROUTES:
///     "/v1/kinds" => { GET kinds::list }
///     "/v1/schedules" => { GET schedules::list, POST schedules::create }
/// }
/// ```
///
/// Every handler has a `#[utoipa::path]`; tables whose rows are not documented are declared with `undocumented pub ROUTES:`.
#[macro_export]
macro_rules! routes {
    ($(#[$meta:meta])* $vis:vis $table:ident:
        $($path:literal => { $($method:ident $($handler:ident)::+),+ $(,)? })+) => {
        $(#[$meta])*
        $vis const $table: $crate::RouteTable = {
            #[derive(::utoipa::OpenApi)]
            #[openapi(paths($($($($handler)::+),+),+))]
            struct Document;

            $crate::routes!(@table
                <Document as ::utoipa::OpenApi>::openapi;
                $($path => { $($method $($handler)::+),+ })+)
        };
    };
    ($(#[$meta:meta])* undocumented $vis:vis $table:ident:
        $($path:literal => { $($method:ident $($handler:ident)::+),+ $(,)? })+) => {
        $(#[$meta])*
        $vis const $table: $crate::RouteTable = $crate::routes!(@table
            ::utoipa::openapi::OpenApi::default;
            $($path => { $($method $($handler)::+),+ })+);
    };
    (@table $document:expr; $($path:literal => { $($method:ident $($handler:ident)::+),+ })+) => {
        $crate::RouteTable {
            routes: &[$($($crate::Route {
                method: stringify!($method),
                path: $path,
                access: $crate::routes::access_of(&$($handler)::+),
            }),+),+],
            configure: |config| {
                $(config.service({
                    const ALLOW: &str = $crate::routes::__allow!($($method),+);
                    ::actix_web::web::resource($path)
                        $(.route($crate::routes::__method!($method).to($($handler)::+)))+
                        .default_service(::actix_web::web::to(|request: ::actix_web::HttpRequest| async move {
                            $crate::routes::method_not_allowed(&request, ALLOW)
                        }))
                });)+
            },
            document: $document,
        }
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __method {
    (GET) => {
        ::actix_web::web::route()
            .guard(::actix_web::guard::Any(::actix_web::guard::Get()).or(::actix_web::guard::Head()))
    };
    (POST) => {
        ::actix_web::web::post()
    };
    (PUT) => {
        ::actix_web::web::put()
    };
    (PATCH) => {
        ::actix_web::web::patch()
    };
    (DELETE) => {
        ::actix_web::web::delete()
    };
}

#[doc(hidden)]
#[macro_export]
macro_rules! __allow {
    (@name GET) => { "GET, HEAD" };
    (@name $method:ident) => { stringify!($method) };
    ($first:ident $(, $other:ident)*) => {
        concat!($crate::routes::__allow!(@name $first) $(, ", ", $crate::routes::__allow!(@name $other))*)
    };
}

#[doc(hidden)]
pub use crate::{__allow, __method};

/// The answer to a method that the route does not take.
#[doc(hidden)]
pub fn method_not_allowed(request: &HttpRequest, allow: &'static str) -> Result<HttpResponse, Problem> {
    let detail = format!("{} takes {allow}", request.path());
    Err(Problem::new(ProblemKind::MethodNotAllowed, detail)
        .with_header(header::ALLOW, HeaderValue::from_static(allow)))
}

/// The answer where no route leads.
pub(crate) async fn not_found(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let path = quote(request.path());
    Err(Problem::new(
        ProblemKind::RouteNotFound,
        format!("{path} is no route; /openapi.json lists them all"),
    ))
}
