//! The OpenAPI document: made of the route tables that a process serves.
//!
//! What all routes have in common is added here, so that handlers document what is their own: the scope of a route and the three
//! answers that come with it (401, 403, 503), and the body of every error.

use std::sync::OnceLock;

use actix_web::{HttpRequest, HttpResponse, web};
use bytes::Bytes;
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response};

use crate::problem::{PROBLEM_JSON, ProblemBody};
use crate::responses::{constant, tag_of};
use crate::routes::{Access, Route, RouteTable};

/// How long clients may keep it: it changes with a new version of the server only.
const CACHE_CONTROL: &str = "public, max-age=300";

/// The name of the security scheme.
const SCHEME: &str = "api_key";

#[derive(utoipa::OpenApi)]
#[openapi(
    info(
        title = "Holdfast",
        description = "Background jobs that keep running when Redis does not.\n\nSend `Authorization: Bearer`: \
            an API key, or the token of a session (`/v1/auth/login`). A key has scopes, and so has the role of a user: `produce` (enqueue, cancel, retry), `work` (run jobs), `read` (every GET under /v1, without payloads), `read:payload` (the same with payloads), `admin` (pause, resume \
            and all of the others). Times are RFC 3339 in UTC, ids are ULIDs, errors are `application/problem+json` \
            (RFC 9457) with a `type` that never changes.",
    ),
    components(schemas(ProblemBody))
)]
struct Frame;

/// The document of these tables.
pub fn document(tables: &[RouteTable]) -> OpenApi {
    let mut document = tables.iter().fold(Frame::openapi(), |document, table| {
        document.merge_from((table.document)())
    });
    document
        .components
        .get_or_insert_default()
        .add_security_scheme(SCHEME, SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
    for route in tables.iter().flat_map(|table| table.routes) {
        let path = document.paths.paths.get_mut(route.path);
        if let Some(operation) = path.and_then(|path| operation_of(path, route.method)) {
            secure(operation, route);
            name_problems(operation);
        }
    }
    document
}

fn operation_of<'a>(path: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        "GET" => path.get.as_mut(),
        "POST" => path.post.as_mut(),
        "PUT" => path.put.as_mut(),
        "DELETE" => path.delete.as_mut(),
        _ => None,
    }
}

/// Adds what a route that is not public needs and answers. What the handler says for itself stays.
fn secure(operation: &mut Operation, route: &Route) {
    let scope = match route.access {
        Access::Public => return,
        Access::Known => "any",
        Access::Scope(scope) => scope.as_str(),
    };
    operation
        .security
        .get_or_insert_with(|| vec![SecurityRequirement::new(SCHEME, [scope])]);
    let answers = [
        ("401", "unauthenticated"),
        ("403", "missing-scope, key-bound"),
        ("503", "unavailable"),
    ];
    for (status, description) in answers {
        let responses = &mut operation.responses.responses;
        responses
            .entry(status.to_owned())
            .or_insert_with(|| RefOr::T(Response::new(description)));
    }
}

/// Gives every error without a body the body of a problem.
fn name_problems(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        let is_error = status.starts_with('4') || status.starts_with('5');
        if let RefOr::T(response) = response
            && is_error
            && response.content.is_empty()
        {
            let content = Content::new(Some(Ref::from_schema_name("Problem")));
            response
                .content
                .insert(PROBLEM_JSON.to_owned(), RefOr::T(content));
        }
    }
}

/// The document of one server, made when it is asked for first.
#[derive(Debug)]
pub struct ServedDocument {
    tables: Vec<RouteTable>,
    text: OnceLock<(Bytes, String)>,
}

impl ServedDocument {
    /// Of these tables. Register it as the data of [`ROUTES`].
    pub fn new(tables: Vec<RouteTable>) -> Self {
        Self {
            tables,
            text: OnceLock::new(),
        }
    }

    /// The text, and its ETag.
    fn text(&self) -> &(Bytes, String) {
        self.text.get_or_init(|| {
            // The document is our own, and its parts are all JSON.
            let text = document(&self.tables).to_json();
            let text = text.map(Bytes::from).unwrap_or_default();
            let tag = tag_of(&text);
            (text, tag)
        })
    }
}

crate::routes! {
    /// The document itself.
    pub ROUTES:
    "/openapi.json" => { GET show }
}

/// This document
#[utoipa::path(get, path = "/openapi.json", tag = "about", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")))]
async fn show(document: web::Data<ServedDocument>, request: HttpRequest) -> HttpResponse {
    let (text, tag) = document.text();
    constant(&request, tag, text, CACHE_CONTROL)
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::access::{Admin, Allowed, Anyone};
    use crate::problem::Problem;
    use crate::scope::Scope;

    type Answer = Result<HttpResponse, Problem>;

    #[utoipa::path(get, path = "/open", responses((status = 404, description = "gone")))]
    async fn open(_: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    #[utoipa::path(post, path = "/guarded", responses((status = 403, description = "its own words")))]
    async fn guarded(_: Allowed<Admin>, _: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    #[utoipa::path(put, path = "/guarded", responses((status = 200, description = "done")),
        security(("api_key" = ["read"])))]
    async fn known(_: Allowed<Anyone>, _: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    crate::routes! {
        TABLE:
        "/open" => { GET open }
        "/guarded" => { POST guarded, PUT known }
    }

    #[test]
    fn the_first_argument_of_a_handler_says_who_may_use_its_route() {
        let access: Vec<_> = TABLE.routes.iter().map(|route| route.access).collect();
        assert_eq!(
            access,
            [Access::Public, Access::Scope(Scope::Admin), Access::Known]
        );
    }

    #[test]
    fn scopes_and_common_answers_are_added_and_what_a_handler_says_stays() {
        let document = serde_json::to_value(document(&[TABLE])).unwrap();
        let answers = |method: &str| document["paths"]["/guarded"][method]["responses"].clone();
        let problem = "#/components/schemas/Problem";
        let schema = |answer: &Value| answer["content"][PROBLEM_JSON]["schema"]["$ref"].clone();
        assert_eq!(
            document["paths"]["/guarded"]["post"]["security"][0]["api_key"][0],
            "admin"
        );
        assert_eq!(answers("post")["401"]["description"], "unauthenticated");
        assert_eq!(answers("post")["403"]["description"], "its own words");
        assert_eq!(schema(&answers("post")["403"]), problem);
        assert_eq!(
            document["paths"]["/guarded"]["put"]["security"][0]["api_key"][0],
            "read"
        );
        assert!(answers("put")["200"]["content"].is_null());
        let open = &document["paths"]["/open"]["get"];
        assert!(open["security"].is_null() && open["responses"]["401"].is_null());
        assert_eq!(schema(&open["responses"]["404"]), problem);
        assert!(document.pointer("/components/schemas/Problem").is_some());
    }
}
