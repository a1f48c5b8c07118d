//! The OpenAPI document, made once from the handlers' own annotations.

use std::sync::LazyLock;

use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityScheme};
use utoipa::{Modify, OpenApi};

use super::view::ProblemBody;
use crate::responses::{constant, tag_of};

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "Background jobs that keep running when Redis does not.\n\nSend `Authorization: Bearer`: \
            an API key, or the token of a session (`/v1/auth/login`). A key has scopes, and so has the role of a user: `produce` (enqueue, cancel, retry), `read` (every GET under /v1), `admin` (pause, resume \
            and all of the others). Times are RFC 3339 in UTC, ids are ULIDs, errors are `application/problem+json` \
            (RFC 9457) with a `type` that never changes.",
    ),
    paths(
        super::enqueue::one,
        super::enqueue::batch,
        super::jobs::show,
        super::jobs::list,
        super::jobs::cancel,
        super::jobs::retry,
        super::batches::create,
        super::batches::list,
        super::batches::show,
        super::batches::cancel,
        super::kinds::list,
        super::queues::list,
        super::queues::pause,
        super::queues::resume,
        super::limits::set,
        super::limits::unset,
        super::queues::workers,
        super::bulk::cancel,
        super::bulk::purge,
        super::dead_letters::list,
        super::dead_letters::show,
        super::dead_letters::redrive,
        super::dead_letters::delete,
        super::points::make_track,
        super::points::list,
        super::points::accept,
        super::points::letters,
        super::points::redrive_letters,
        super::points::delete_letters,
        super::events::store,
        super::events::list,
        super::recommendations::interact,
        super::recommendations::recommend,
        super::audit::list,
        super::schedules::list,
        super::schedules::create,
        super::schedules::show,
        super::schedules::put,
        super::schedules::delete,
        super::schedules::run,
        super::schedules::enable,
        super::schedules::disable,
        super::webhooks::list,
        super::webhooks::create,
        super::webhooks::show,
        super::webhooks::put,
        super::webhooks::delete,
        super::webhooks::rotate,
        super::webhooks::test,
        super::webhook_deliveries::list,
        super::notices::publish,
        super::mail::list_templates,
        super::mail::show_template,
        super::mail::put_template,
        super::mail::delete_template,
        super::mail::list_suppressions,
        super::mail::suppress,
        super::mail::release,
        super::confirm::ask,
        super::confirm::confirm,
        super::unsubscribe::ask,
        super::unsubscribe::unsubscribe,
        super::sources::list,
        super::sources::create,
        super::sources::show,
        super::sources::put,
        super::sources::delete,
        super::sources::discover,
        super::subscriptions::list,
        super::subscriptions::create,
        super::subscriptions::delete,
        super::users::preferences,
        super::users::put_preferences,
        super::users::export,
        super::users::delete,
        super::account::login,
        super::account::refresh,
        super::account::logout,
        super::account::me,
        super::keys::list,
        super::keys::create,
        super::keys::rotate,
        super::keys::revoke,
        super::health::report,
        super::health::live,
        super::health::ready,
        super::metrics::prometheus,
        super::metrics::redis,
        document,
    ),
    components(schemas(ProblemBody, super::points::PointBody)),
    modifiers(&ApiKey),
)]
struct ApiDocument;

#[derive(Debug)]
struct ApiKey;

impl Modify for ApiKey {
    fn modify(&self, document: &mut utoipa::openapi::OpenApi) {
        let scheme = SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer));
        document
            .components
            .get_or_insert_default()
            .add_security_scheme("api_key", scheme);
    }
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "about", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
pub(crate) async fn document(request: HttpRequest) -> HttpResponse {
    static TAG: LazyLock<String> = LazyLock::new(|| tag_of(&TEXT));
    constant(&request, &TAG, &TEXT, KEPT)
}

/// It changes with a new version of the server only.
const KEPT: &str = "public, max-age=300";

/// The document as it is sent; made when it is asked for first.
static TEXT: LazyLock<Bytes> = LazyLock::new(|| {
    // The document is our own, and its parts are all JSON.
    ApiDocument::openapi()
        .to_json()
        .map(Bytes::from)
        .unwrap_or_default()
});
