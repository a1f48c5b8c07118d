//! Every route, in one table: what is served, what the OpenAPI document lists and what the tests walk through are
//! this table.

pub(crate) mod account;
mod audit;
pub(crate) mod batches;
mod bulk;
mod confirm;
pub(crate) mod dead_letters;
mod docs;
pub(crate) mod enqueue;
mod events;
mod fields;
mod health;
mod items;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod kinds;
pub(crate) mod limits;
mod mail;
mod measure;
mod metrics;
mod notices;
pub(crate) mod openapi;
mod points;
mod points_body;
pub(crate) mod queues;
mod recommendations;
pub(crate) mod schedules;
mod sources;
mod subscriptions;
mod unsubscribe;
mod users;
pub(crate) mod view;
mod webhook_deliveries;
mod webhooks;

use actix_web::http::header::{self, HeaderValue};
use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, guard};

pub(crate) use self::measure::configure as measure;
use crate::problem::{Problem, ProblemKind};

/// The header that makes a repeated enqueue harmless.
pub(crate) const IDEMPOTENCY_KEY: &str = "Idempotency-Key";

/// One method of one path.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Route {
    /// `GET`, `POST`, `PUT` or `DELETE`. HEAD is answered wherever GET is.
    pub method: &'static str,
    /// With parameters in braces.
    pub path: &'static str,
}

/// Builds a table of routes and the function that serves exactly these.
macro_rules! routes {
    ($table:ident, $configure:ident: $($path:literal => { $($method:ident $handler:path),+ })+) => {
        pub const $table: &[Route] = &[$($(Route { method: stringify!($method), path: $path }),+),+];

        pub(crate) fn $configure(config: &mut ServiceConfig) {
            $(config.service({
                const ALLOW: &str = allow!($($method),+);
                web::resource($path)
                    $(.route(method!($method).to($handler)))+
                    .default_service(web::to(|request: HttpRequest| async move {
                        Err::<actix_web::HttpResponse, Problem>(method_not_allowed(&request, ALLOW))
                    }))
            });)+
        }
    };
}

macro_rules! method {
    (GET) => {
        web::route().guard(guard::Any(guard::Get()).or(guard::Head()))
    };
    (POST) => {
        web::post()
    };
    (PUT) => {
        web::put()
    };
    (DELETE) => {
        web::delete()
    };
}

macro_rules! allow {
    (GET) => {
        "GET, HEAD"
    };
    (POST) => {
        "POST"
    };
    (GET, POST) => {
        "GET, HEAD, POST"
    };
    (GET, PUT) => {
        "GET, HEAD, PUT"
    };
    (GET, PUT, DELETE) => {
        "GET, HEAD, PUT, DELETE"
    };
    (PUT, DELETE) => {
        "PUT, DELETE"
    };
    (DELETE) => {
        "DELETE"
    };
}

routes! { API_ROUTES, api:
    "/v1/jobs" => { GET jobs::list, POST enqueue::one }
    "/v1/jobs/cancel" => { POST bulk::cancel }
    "/v1/jobs/batch" => { POST enqueue::batch }
    "/v1/jobs/{id}" => { GET jobs::show }
    "/v1/jobs/{id}/cancel" => { POST jobs::cancel }
    "/v1/jobs/{id}/retry" => { POST jobs::retry }
    "/v1/batches" => { GET batches::list, POST batches::create }
    "/v1/batches/{id}" => { GET batches::show }
    "/v1/batches/{id}/cancel" => { POST batches::cancel }
    "/v1/kinds" => { GET kinds::list }
    "/v1/queues" => { GET queues::list }
    "/v1/queues/{name}/pause" => { POST queues::pause }
    "/v1/queues/{name}/resume" => { POST queues::resume }
    "/v1/queues/{name}/purge" => { POST bulk::purge }
    "/v1/dead-letters" => { GET dead_letters::list }
    "/v1/dead-letters/redrive" => { POST dead_letters::redrive }
    "/v1/dead-letters/delete" => { POST dead_letters::delete }
    "/v1/dead-letters/{id}" => { GET dead_letters::show }
    "/v1/tracks" => { POST points::make_track }
    "/v1/tracks/{id}/points" => { GET points::list }
    "/v1/points" => { POST points::accept }
    "/v1/points/dead-letters" => { GET points::letters }
    "/v1/points/dead-letters/redrive" => { POST points::redrive_letters }
    "/v1/points/dead-letters/delete" => { POST points::delete_letters }
    "/v1/events" => { GET events::list, POST events::store }
    "/v1/interactions" => { POST recommendations::interact }
    "/v1/users/{id}" => { DELETE users::delete }
    "/v1/users/{id}/preferences" => { GET users::preferences, PUT users::put_preferences }
    "/v1/users/{id}/export" => { GET users::export }
    "/v1/users/{id}/recommendations" => { GET recommendations::recommend }
    "/v1/queues/{name}/limits" => { PUT limits::set, DELETE limits::unset }
    "/v1/audit" => { GET audit::list }
    "/v1/schedules" => { GET schedules::list, POST schedules::create }
    "/v1/schedules/{name}" => { GET schedules::show, PUT schedules::put, DELETE schedules::delete }
    "/v1/schedules/{name}/run" => { POST schedules::run }
    "/v1/schedules/{name}/enable" => { POST schedules::enable }
    "/v1/schedules/{name}/disable" => { POST schedules::disable }
    "/v1/webhooks" => { GET webhooks::list, POST webhooks::create }
    "/v1/webhooks/{id}" => { GET webhooks::show, PUT webhooks::put, DELETE webhooks::delete }
    "/v1/webhooks/{id}/rotate" => { POST webhooks::rotate }
    "/v1/webhooks/{id}/test" => { POST webhooks::test }
    "/v1/webhooks/{id}/deliveries" => { GET webhook_deliveries::list }
    "/v1/notifications" => { POST notices::publish }
    "/v1/mail-templates" => { GET mail::list_templates }
    "/v1/mail-templates/{name}" => { GET mail::show_template, PUT mail::put_template, DELETE mail::delete_template }
    "/v1/mail-suppressions" => { GET mail::list_suppressions, POST mail::suppress }
    "/v1/mail-suppressions/release" => { POST mail::release }
    "/v1/confirm-address/{token}" => { GET confirm::ask, POST confirm::confirm }
    "/v1/unsubscribe/{token}" => { GET unsubscribe::ask, POST unsubscribe::unsubscribe }
    "/v1/sources" => { GET sources::list, POST sources::create }
    "/v1/sources/{id}" => { GET sources::show, PUT sources::put, DELETE sources::delete }
    "/v1/sources/{id}/discover" => { POST sources::discover }
    "/v1/subscriptions" => { GET subscriptions::list, POST subscriptions::create }
    "/v1/subscriptions/{id}" => { DELETE subscriptions::delete }
    "/v1/workers" => { GET queues::workers }
    "/v1/auth/login" => { POST account::login }
    "/v1/auth/refresh" => { POST account::refresh }
    "/v1/auth/logout" => { POST account::logout }
    "/v1/auth/me" => { GET account::me }
    "/v1/keys" => { GET keys::list, POST keys::create }
    "/v1/keys/{id}/rotate" => { POST keys::rotate }
    "/v1/keys/{id}/revoke" => { POST keys::revoke }
    "/openapi.json" => { GET openapi::document }
}

routes! { HEALTH_ROUTES, health:
    "/health" => { GET health::report }
    "/health/live" => { GET health::live }
    "/health/ready" => { GET health::ready }
    "/metrics" => { GET metrics::prometheus }
    "/metrics/redis" => { GET metrics::redis }
}

routes! { DOCS_ROUTES, docs:
    "/docs" => { GET docs::redirect }
    "/docs/{file:.*}" => { GET docs::file }
}

fn method_not_allowed(request: &HttpRequest, allow: &'static str) -> Problem {
    let detail = format!("{} takes {allow}", request.path());
    Problem::new(ProblemKind::MethodNotAllowed, detail)
        .with_header(header::ALLOW, HeaderValue::from_static(allow))
}

/// Where no route leads.
pub(crate) async fn nowhere(request: HttpRequest) -> Result<actix_web::HttpResponse, Problem> {
    let path = crate::problem::quote(request.path());
    Err(Problem::new(
        ProblemKind::RouteNotFound,
        format!("{path} is no route; /openapi.json lists them all"),
    ))
}
