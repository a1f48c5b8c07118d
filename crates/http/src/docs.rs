//! Swagger UI at `/docs`, from files compiled in. Not served in production.
//!
//! It may load nothing from elsewhere, and nobody may frame it. The only other HTML is the page that links in mails lead to
//! (`holdfast-notify`).

use std::sync::{Arc, LazyLock};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use utoipa_swagger_ui::Config;

use crate::problem::{Problem, ProblemKind};

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").persist_authorization(false)));

crate::routes! {
    /// The page and its files.
    undocumented pub ROUTES:
    "/docs" => { GET redirect }
    "/docs/{file:.*}" => { GET file }
}

/// What the page may do: its own files and this server's routes. Swagger UI sets styles in the page; its scripts are all
/// files.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
     img-src 'self' data:; font-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; \
     frame-ancestors 'none'";

/// The page's own links are relative to the folder.
async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

async fn file(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let path = request.match_info().get("file").unwrap_or_default();
    let file = utoipa_swagger_ui::serve(path, Arc::clone(&CONFIG))
        .map_err(|error| Problem::internal(error.to_string()))?
        .ok_or_else(|| Problem::new(ProblemKind::RouteNotFound, "Swagger UI has no such file"))?;
    let mut response = HttpResponse::Ok();
    response.insert_header((header::CONTENT_SECURITY_POLICY, PAGE_POLICY));
    response.insert_header((header::X_FRAME_OPTIONS, "DENY"));
    if file.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response
        .content_type(file.content_type)
        .body(file.bytes.into_owned()))
}
