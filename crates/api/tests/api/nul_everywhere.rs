//! U+0000, which PostgreSQL stores in no text: in every text that the OpenAPI document knows, of every route. It was a 500 there.

use holdfast_testkit::PostgresServer;
use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::auth::concrete;
use crate::support::{TestApp, TestSettings, body_of};

/// Deepest documents that are made: `then` of a job is a job.
const DEPTH: usize = 6;

/// The schema that a reference leads to, or the first of several.
fn resolved<'d>(document: &'d Value, schema: &'d Value) -> &'d Value {
    if let Some(reference) = schema["$ref"].as_str() {
        let target = document.pointer(reference.trim_start_matches('#')).unwrap();
        return resolved(document, target);
    }
    for keyword in ["allOf", "oneOf", "anyOf"] {
        let mut alternatives = schema[keyword].as_array().into_iter().flatten();
        if let Some(first) = alternatives.find(|one| one["type"] != "null") {
            return resolved(document, first);
        }
    }
    schema
}

fn is_of(schema: &Value, name: &str) -> bool {
    match &schema["type"] {
        Value::Array(names) => names.iter().any(|one| one == name),
        one => one == name,
    }
}

/// Bodies of this schema, each with U+0000 in one of its texts, and where that is.
fn spoilt(document: &Value, schema: &Value, path: &str, depth: usize) -> Vec<(Value, String)> {
    let schema = resolved(document, schema);
    if depth == 0 {
        return Vec::new();
    }
    let mut bodies = Vec::new();
    if is_of(schema, "string") {
        bodies.push((json!("a\0b"), path.to_owned()));
    }
    if is_of(schema, "array") {
        let inner = format!("{path}[0]");
        let items = spoilt(document, &schema["items"], &inner, depth - 1);
        bodies.extend(items.into_iter().map(|(item, place)| (json!([item]), place)));
    }
    if let Some(properties) = schema["properties"].as_object() {
        for (name, property) in properties {
            let inner = if path.is_empty() {
                name.clone()
            } else {
                format!("{path}.{name}")
            };
            let values = spoilt(document, property, &inner, depth - 1);
            bodies.extend(
                values
                    .into_iter()
                    .map(|(value, place)| (json!({ name: value }), place)),
            );
        }
    }
    bodies
}

/// A clear refusal that names the field.
#[track_caller]
fn assert_refused(response: &Response, status: u16, field: &str, what: &str) {
    assert_eq!(response.status, status, "{what}: {}", response.text());
    let body = body_of(response);
    assert_eq!(body["field"], field, "{what}: {body}");
    assert!(
        body["detail"].as_str().unwrap().contains("U+0000"),
        "{what}: {body}"
    );
}

async fn send(client: &mut Client, method: &str, path: &str, body: &Value) -> Response {
    let text = body.to_string();
    let headers = [("content-type", "application/json")];
    client
        .request(method, path, &headers, text.as_bytes())
        .await
        .unwrap()
}

#[tokio::test]
async fn u0000_in_any_text_of_any_route_is_refused_by_the_name_of_its_field_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let app: TestApp = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .start()
        .await;
    let document = body_of(&app.client().get("/openapi.json").await.unwrap());
    let mut admin = app.admin();
    let (mut texts, mut parameters) = (0, 0);
    for (path, item) in document["paths"].as_object().unwrap() {
        if !path.starts_with("/v1/") {
            continue;
        }
        for (method, operation) in item.as_object().unwrap() {
            let method = method.to_uppercase();
            for parameter in operation["parameters"].as_array().into_iter().flatten() {
                let name = parameter["name"].as_str().unwrap();
                let (target, field) = match parameter["in"].as_str().unwrap() {
                    "query" => {
                        let base = concrete(path);
                        let separator = if base.contains('?') { '&' } else { '?' };
                        (format!("{base}{separator}{name}=a%00b"), name)
                    }
                    "path" => (path.replace(&format!("{{{name}}}"), "a%00b"), "path"),
                    _ => continue,
                };
                let target = concrete(&target);
                let response = send(&mut admin, &method, &target, &json!({})).await;
                assert_refused(&response, 400, field, &format!("{method} {target}"));
                parameters += 1;
            }
            let schema = &operation["requestBody"]["content"]["application/json"]["schema"];
            let list = path.trim_start_matches("/v1/").split('/').next().unwrap();
            for (body, place) in spoilt(&document, schema, "", DEPTH) {
                // Items of a bare list are named by what the list is of.
                let field = if place.starts_with('[') {
                    format!("{list}{place}")
                } else {
                    place
                };
                let response = send(&mut admin, &method, &concrete(path), &body).await;
                texts += 1;
                if path == "/v1/points" {
                    // Its items are read one by one, and the first fault counts.
                    assert_eq!(response.status, 422, "{body}: {}", response.text());
                    continue;
                }
                assert_refused(&response, 422, &field, &format!("{method} {path} {body}"));
            }
        }
    }
    assert!(
        texts >= 150 && parameters >= 100,
        "{texts} texts, {parameters} parameters"
    );
    // What is stored as it was sent may have it, on PostgreSQL too.
    let job = json!({"kind": "debug.echo", "payload": {"a\0b": "c\0d"}});
    let accepted = admin.post_json("/v1/jobs", &job).await.unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    // The document's texts are not all: a header, and a cursor that has one inside.
    let key = [
        ("idempotency-key", "a\u{1}b"),
        ("content-type", "application/json"),
    ];
    let body = job.to_string();
    let refused = admin
        .request("POST", "/v1/jobs", &key, body.as_bytes())
        .await
        .unwrap();
    assert_eq!(refused.status, 400, "{}", refused.text());
}
