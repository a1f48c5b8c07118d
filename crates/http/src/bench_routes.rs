//! Routes for `holdfast-bench http`: one answer, as a constant, from the copy in the process, and from Redis.
//!
//! They are served only where `Application::with_measuring_routes` of `holdfast-api` was
//! called, which no service does, and never in production.

use std::sync::LazyLock;

use actix_web::web::{self, ServiceConfig};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use holdfast_cache::{Class, Namespace};

use crate::access::{AuthorizedCaller, Read};
use crate::context::ServerContext;
use crate::problem::Problem;
use crate::responses::{constant, respond, tag_of, tagged};

const COPIED: Namespace<Bytes> = Namespace::raw(Class::Static, "measured-copied", 1);
const UNCOPIED: Namespace<Bytes> = Namespace::raw(Class::Static, "measured", 1).not_copied();

/// A kilobyte of JSON.
static BODY: LazyLock<Bytes> = LazyLock::new(|| {
    let body = serde_json::json!({ "fill": "x".repeat(1_000) });
    Bytes::from(body.to_string())
});
static TAG: LazyLock<String> = LazyLock::new(|| tag_of(&BODY));

pub fn configure(config: &mut ServiceConfig) {
    config
        .route("/measure/constant", web::get().to(unchanging))
        .route("/measure/local", web::get().to(local))
        .route("/measure/redis", web::get().to(redis));
}

async fn unchanging(_: AuthorizedCaller<Read>, request: HttpRequest) -> HttpResponse {
    constant(&request, &TAG, &BODY, "private, max-age=1")
}

async fn local(
    allowed: AuthorizedCaller<Read>,
    context: web::Data<ServerContext>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    measured(&allowed, &context, &request, COPIED).await
}

async fn redis(
    allowed: AuthorizedCaller<Read>,
    context: web::Data<ServerContext>,
    request: HttpRequest,
) -> Result<HttpResponse, Problem> {
    measured(&allowed, &context, &request, UNCOPIED).await
}

async fn measured(
    allowed: &AuthorizedCaller<Read>,
    context: &ServerContext,
    request: &HttpRequest,
    namespace: Namespace<Bytes>,
) -> Result<HttpResponse, Problem> {
    let key = namespace.key(&["GET", request.path(), &allowed.caller().to_string()]);
    let load = || async { Ok::<_, std::convert::Infallible>(tagged(&BODY)) };
    let found = context.responses.cache().get_or_load(&key, load).await;
    found
        .map(|found| respond(request, &found))
        .map_err(|error| Problem::internal(error.to_string()))
}
