//! Swagger UI at `/docs`, from files compiled in. Not served in production.

use std::sync::{Arc, LazyLock};

use actix_web::http::header;
use actix_web::{HttpRequest, HttpResponse};
use utoipa_swagger_ui::Config;

use crate::problem::{Problem, ProblemKind};

static CONFIG: LazyLock<Arc<Config<'static>>> =
    LazyLock::new(|| Arc::new(Config::from("/openapi.json").persist_authorization(false)));

/// The page's own links are relative to the folder.
pub(crate) async fn redirect() -> HttpResponse {
    HttpResponse::PermanentRedirect()
        .insert_header((header::LOCATION, "/docs/"))
        .finish()
}

pub(crate) async fn file(request: HttpRequest) -> Result<HttpResponse, Problem> {
    let path = request.match_info().get("file").unwrap_or_default();
    let file = utoipa_swagger_ui::serve(path, Arc::clone(&CONFIG))
        .map_err(|error| Problem::internal(error.to_string()))?
        .ok_or_else(|| Problem::new(ProblemKind::RouteNotFound, "Swagger UI has no such file"))?;
    let mut response = HttpResponse::Ok();
    if file.gzpipped {
        response.insert_header((header::CONTENT_ENCODING, "gzip"));
    }
    Ok(response
        .content_type(file.content_type)
        .body(file.bytes.into_owned()))
}
