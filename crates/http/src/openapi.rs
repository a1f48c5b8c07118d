//! The OpenAPI document: made of the route tables that a process serves.
//!
//! The schemas of payloads and results of kinds are among its components: those of the program's kinds for everybody, those of declared
//! kinds for callers who may list them.
//!
//! What all routes have in common is added here, so that handlers document what is their own: the scope of a route and the three
//! answers that come with it (401, 403, 503), the answers to a body that cannot be read (400, 413, 415) and to an id that is none (400),
//! the form of parameters that many routes have, and the body of every error.

use std::borrow::Cow;
use std::fmt;
use std::sync::OnceLock;

use actix_web::dev::Payload;
use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{FromRequest as _, HttpRequest, HttpResponse, web};
use bytes::Bytes;
use futures::future::BoxFuture;
use serde_json::Value;
use utoipa::OpenApi as _;
use utoipa::openapi::path::{Operation, ParameterIn, PathItem};
use utoipa::openapi::schema::{KnownFormat, ObjectBuilder, SchemaFormat, Type};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, OpenApi, Ref, RefOr, Response, Schema};

use crate::access::{AuthorizedCaller, Bound, Read};
use crate::context::ServerContext;
use crate::problem::{PROBLEM_JSON, ProblemBody};
use crate::refinements::Refinements;
use crate::responses::{constant, tag_of};
use crate::routes::{Access, Route, RouteTable};

/// How long clients may keep it: it changes with a new version of the server only.
const CACHE_CONTROL: &str = "public, max-age=300";

/// The same of what only some callers are shown: declared kinds change at any time.
const PRIVATE_CACHE_CONTROL: &str = "private, no-cache";

/// The name of the security scheme.
const SCHEME: &str = "api_key";

/// An id: a ULID, in capitals or not.
const ID_PATTERN: &str = "^[0-7][0-9A-HJKMNP-TV-Za-hjkmnp-tv-z]{25}$";

/// As [`crate::params::idempotency_key`] takes it. Spaces at the ends are no part of a header's value.
const IDEMPOTENCY_KEY_PATTERN: &str = "^[!-~]([ -~]{0,198}[!-~])?$";

/// Longest wait of a long poll in seconds, unless the server is configured otherwise.
const MAX_WAIT_SECONDS: u32 = 60;

/// Below these the `id` of a path may be a name.
const NAMED: [&str; 3] = ["/v1/keys/", "/v1/results/", "/v1/users/"];

/// An id in a body, for its document: the type is `String` on the wire.
#[derive(Debug)]
pub struct IdText;

impl utoipa::PartialSchema for IdText {
    fn schema() -> RefOr<Schema> {
        ObjectBuilder::new()
            .schema_type(Type::String)
            .pattern(Some(ID_PATTERN))
            .into()
    }
}

impl utoipa::ToSchema for IdText {
    fn name() -> Cow<'static, str> {
        "Id".into()
    }
}

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
            bound_parameters(operation, route.path);
            name_unreadable(operation);
            name_problems(operation);
            name_successes(operation);
        }
    }
    document
}

fn operation_of<'a>(path: &'a mut PathItem, method: &str) -> Option<&'a mut Operation> {
    match method {
        "GET" => path.get.as_mut(),
        "POST" => path.post.as_mut(),
        "PUT" => path.put.as_mut(),
        "PATCH" => path.patch.as_mut(),
        "DELETE" => path.delete.as_mut(),
        _ => None,
    }
}

/// Adds what a route that is not public needs and answers. What the handler says for itself stays.
fn secure(operation: &mut Operation, route: &Route) {
    let scopes = match route.access {
        Access::Public => return,
        Access::Known => vec!["any"],
        Access::Scope(scope) => vec![scope.as_str()],
        Access::Either(scope, or) => vec![scope.as_str(), or.as_str()],
    };
    // Each requirement by itself is enough.
    operation.security.get_or_insert_with(|| {
        let requirement = |scope: &str| SecurityRequirement::new(SCHEME, [scope]);
        scopes.into_iter().map(requirement).collect()
    });
    answer(operation, "401", "unauthenticated");
    answer(operation, "403", "missing-scope, key-bound");
    answer(operation, "503", "unavailable");
}

/// Adds an answer that the handler does not document.
fn answer(operation: &mut Operation, status: &str, description: &str) {
    let responses = &mut operation.responses.responses;
    responses
        .entry(status.to_owned())
        .or_insert_with(|| RefOr::T(Response::new(description)));
}

/// Adds the form of parameters that mean the same on every route.
fn bound_parameters(operation: &mut Operation, path: &str) {
    let mut has_id = false;
    for parameter in operation.parameters.iter_mut().flatten() {
        let RefOr::T(parameter) = parameter else { continue };
        let Some(RefOr::T(Schema::Object(schema))) = &mut parameter.schema else {
            continue;
        };
        match (&parameter.parameter_in, parameter.name.as_str()) {
            (ParameterIn::Path, "id") if !NAMED.iter().any(|named| path.starts_with(named)) => {
                schema.pattern = Some(ID_PATTERN.to_owned());
                has_id = true;
            }
            (ParameterIn::Header, "Idempotency-Key") => {
                schema.pattern = Some(IDEMPOTENCY_KEY_PATTERN.to_owned());
            }
            (ParameterIn::Query, "from" | "to") => {
                schema.format = Some(SchemaFormat::KnownFormat(KnownFormat::DateTime));
            }
            (ParameterIn::Query, "wait") => {
                schema.minimum = Some(0_u32.into());
                schema.maximum = Some(MAX_WAIT_SECONDS.into());
            }
            _ => {}
        }
    }
    if has_id {
        answer(operation, "400", "invalid-id");
    }
}

/// Adds the answers to a body that cannot be read.
fn name_unreadable(operation: &mut Operation) {
    let Some(body) = &operation.request_body else {
        return;
    };
    let is_json = matches!(body, RefOr::T(body) if body.content.contains_key("application/json"));
    answer(operation, "413", "body-too-large");
    answer(operation, "415", "unsupported-media-type");
    if is_json {
        answer(operation, "400", "malformed-json");
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

/// Gives every answer a description, which OpenAPI requires: generators refuse a document without.
fn name_successes(operation: &mut Operation) {
    for (status, response) in &mut operation.responses.responses {
        if let RefOr::T(response) = response
            && response.description.is_empty()
        {
            let status = status
                .parse()
                .ok()
                .and_then(|code| StatusCode::from_u16(code).ok());
            let reason = status.and_then(|status| status.canonical_reason());
            reason
                .unwrap_or("An answer")
                .clone_into(&mut response.description);
        }
    }
}

/// Schemas for the components of the document, by name. A name that is taken is left as it is.
pub type NamedSchemas = Vec<(String, Value)>;

/// The schemas that a caller may see beside those that everybody sees; `None`: they are not known now.
pub type SchemasFor =
    Box<dyn Fn(AuthorizedCaller<Bound<Read>>) -> BoxFuture<'static, Option<NamedSchemas>> + Send + Sync>;

/// The document of one server, made when it is asked for first.
pub struct ServedDocument {
    tables: Vec<RouteTable>,
    refinements: Refinements,
    schemas: NamedSchemas,
    schemas_for: SchemasFor,
    document: OnceLock<Value>,
    text: OnceLock<(Bytes, String)>,
}

impl fmt::Debug for ServedDocument {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServedDocument")
            .field("tables", &self.tables)
            .finish_non_exhaustive()
    }
}

impl ServedDocument {
    /// Of these tables. Register it as the data of [`ROUTES`].
    pub fn new(
        tables: Vec<RouteTable>,
        refinements: Refinements,
        schemas: NamedSchemas,
        schemas_for: SchemasFor,
    ) -> Self {
        Self {
            tables,
            refinements,
            schemas,
            schemas_for,
            document: OnceLock::new(),
            text: OnceLock::new(),
        }
    }

    fn document(&self) -> &Value {
        self.document.get_or_init(|| {
            // The document is our own, and its parts are all JSON.
            let mut document = serde_json::to_value(document(&self.tables)).unwrap_or_default();
            self.refinements.apply(&mut document);
            allow_empty_parameters(&mut document);
            add_schemas(&mut document, self.schemas.clone());
            document
        })
    }

    /// The text for everybody, and its ETag.
    fn text(&self) -> &(Bytes, String) {
        self.text.get_or_init(|| text_of(self.document()))
    }

    /// The text for the caller of this request; `None`: that for everybody.
    async fn text_for(&self, request: &HttpRequest) -> Option<(Bytes, String)> {
        let context = request.app_data::<web::Data<ServerContext>>()?;
        if !context.is_keyless && !request.headers().contains_key(header::AUTHORIZATION) {
            return None;
        }
        let caller = AuthorizedCaller::from_request(request, &mut Payload::None)
            .await
            .ok()?;
        let schemas = (self.schemas_for)(caller).await?;
        if schemas.is_empty() {
            return None;
        }
        let mut document = self.document().clone();
        add_schemas(&mut document, schemas);
        Some(text_of(&document))
    }
}

/// As [`crate::params::Params`] reads a query: an empty parameter counts as left out.
fn allow_empty_parameters(document: &mut Value) {
    let paths = document["paths"].as_object_mut().into_iter().flatten();
    let operations = paths.filter_map(|(_, path)| path.as_object_mut()).flatten();
    let parameters = operations.filter_map(|(_, operation)| operation.get_mut("parameters")?.as_array_mut());
    for parameter in parameters
        .flatten()
        .filter(|parameter| parameter["in"] == "query")
    {
        parameter["allowEmptyValue"] = Value::Bool(true);
    }
}

fn add_schemas(document: &mut Value, more: NamedSchemas) {
    let Some(components) = document["components"]["schemas"].as_object_mut() else {
        return;
    };
    for (name, schema) in more {
        components.entry(name).or_insert(schema);
    }
}

fn text_of(document: &Value) -> (Bytes, String) {
    let text = Bytes::from(document.to_string());
    let tag = tag_of(&text);
    (text, tag)
}

crate::routes! {
    /// The document itself.
    pub ROUTES:
    "/openapi.json" => { GET show }
}

/// This document
///
/// With the schemas of the kinds that are part of the program, as `HttpRequestPayload` and `HttpRequestResult`. With a key or a session
/// that may list kinds, those of declared kinds too.
#[utoipa::path(get, path = "/openapi.json", tag = "about", operation_id = "openapi",
    responses((status = 200, description = "OpenAPI 3.1", content_type = "application/json")),
    security((), ("api_key" = ["read"])))]
async fn show(document: web::Data<ServedDocument>, request: HttpRequest) -> HttpResponse {
    let mut answer = if let Some((text, tag)) = document.text_for(&request).await {
        constant(&request, &tag, &text, PRIVATE_CACHE_CONTROL)
    } else {
        let (text, tag) = document.text();
        constant(&request, tag, text, CACHE_CONTROL)
    };
    let vary = HeaderValue::from_static("authorization");
    answer.headers_mut().append(header::VARY, vary);
    answer
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::{Admin, Anyone, AuthorizedCaller};
    use crate::problem::Problem;
    use crate::scope::Scope;

    type Answer = Result<HttpResponse, Problem>;

    #[utoipa::path(get, path = "/open", responses((status = 200), (status = 404, description = "gone")))]
    async fn open(_: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    #[utoipa::path(post, path = "/guarded", responses((status = 403, description = "its own words")))]
    async fn guarded(_: AuthorizedCaller<Admin>, _: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    #[utoipa::path(put, path = "/guarded", responses((status = 200, description = "done")),
        security(("api_key" = ["read"])))]
    async fn known(_: AuthorizedCaller<Anyone>, _: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    #[utoipa::path(post, path = "/things/{id}", request_body(content = String, content_type = "application/json"),
        params(("id" = String, Path), ("Idempotency-Key" = Option<String>, Header)),
        responses((status = 413, description = "its own words")))]
    async fn change(_: AuthorizedCaller<Admin>, _: HttpRequest) -> Answer {
        Ok(HttpResponse::Ok().finish())
    }

    crate::routes! {
        TABLE:
        "/open" => { GET open }
        "/guarded" => { POST guarded, PUT known }
        "/things/{id}" => { POST change }
    }

    #[test]
    fn the_first_argument_of_a_handler_says_who_may_use_its_route() {
        let access: Vec<_> = TABLE.routes.iter().map(|route| route.access).collect();
        assert_eq!(
            access,
            [
                Access::Public,
                Access::Scope(Scope::Admin),
                Access::Known,
                Access::Scope(Scope::Admin)
            ]
        );
    }

    #[test]
    fn ids_keys_and_bodies_are_described_with_the_answers_to_those_that_cannot_be_read() {
        let document = serde_json::to_value(document(&[TABLE])).unwrap();
        let change = &document["paths"]["/things/{id}"]["post"];
        assert_eq!(change["parameters"][0]["schema"]["pattern"], ID_PATTERN);
        assert_eq!(
            change["parameters"][1]["schema"]["pattern"],
            IDEMPOTENCY_KEY_PATTERN
        );
        let says = |status: &str| change["responses"][status]["description"].clone();
        assert_eq!(
            [says("400"), says("413"), says("415")],
            ["invalid-id", "its own words", "unsupported-media-type"]
        );
        assert!(document["paths"]["/guarded"]["post"]["responses"]["415"].is_null());
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
        assert_eq!(open["responses"]["200"]["description"], "OK");
        assert_eq!(schema(&open["responses"]["404"]), problem);
        assert!(document.pointer("/components/schemas/Problem").is_some());
    }
}
