//! Sources and subscriptions, over HTTP.

use serde_json::{Value, json};

use crate::support::{TestApp, body_of, problem, problem_of};

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

fn source(name: &str) -> Value {
    json!({"name": name, "kind": "ical", "url": "https://example.com/a.ics", "time_zone": "Europe/Vienna"})
}

#[tokio::test]
async fn a_source_is_made_shown_replaced_and_deleted() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let response = admin.post_json("/v1/sources", &source("city")).await.unwrap();
    assert_eq!(response.status, 201, "{}", response.text());
    let made = body_of(&response);
    let id = made["id"].as_str().unwrap().to_owned();
    assert_eq!(
        (&made["interval_seconds"], &made["enabled"]),
        (&json!(3_600), &json!(true))
    );
    assert_eq!(
        (&made["last_run"], &made["consecutive_failures"]),
        (&Value::Null, &json!(0))
    );
    assert!(made["next_run_at"].is_string());
    let again = admin.post_json("/v1/sources", &source("city")).await.unwrap();
    problem(&again, 409, "name-taken");
    let path = format!("/v1/sources/{id}");
    assert_eq!(body_of(&admin.get(&path).await.unwrap())["name"], "city");
    let mut other = source("town");
    other["enabled"] = json!(false);
    let body = serde_json::to_vec(&other).unwrap();
    let headers = [("content-type", "application/json")];
    let put = admin.request("PUT", &path, &headers, &body).await.unwrap();
    assert_eq!(put.status, 200, "{}", put.text());
    assert_eq!(
        (&body_of(&put)["name"], &body_of(&put)["next_run_at"]),
        (&json!("town"), &Value::Null)
    );
    let job = admin
        .request("POST", &format!("{path}/discover"), &[], &[])
        .await
        .unwrap();
    assert_eq!(job.status, 202, "{}", job.text());
    assert_eq!(body_of(&job)["kind"], "events.discover");
    let listed = body_of(&admin.get("/v1/sources?limit=1").await.unwrap());
    assert_eq!(
        (listed["sources"].as_array().unwrap().len(), &listed["next"]),
        (1, &Value::Null)
    );
    let gone = admin.request("DELETE", &path, &[], &[]).await.unwrap();
    assert_eq!(gone.status, 200);
    problem(&admin.get(&path).await.unwrap(), 404, "source-not-found");
    let audited = body_of(&admin.get(&format!("/v1/audit?target={id}")).await.unwrap());
    let entries = audited["entries"].as_array().unwrap();
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), &entry["details"]["enabled"]))
        .collect();
    assert_eq!(
        told,
        [
            ("source.delete", &Value::Null),
            ("source.update", &json!(false)),
            ("source.create", &json!(true)),
        ]
    );
    assert!(entries.iter().all(|entry| entry["request_id"].is_string()));
}

#[tokio::test]
async fn every_fault_of_a_source_is_named() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (field, value) in [
        ("kind", json!("rdf")),
        ("name", json!("")),
        ("url", json!("webcal://example.com/a.ics")),
        ("url", json!("https://user:word@example.com/")),
        ("url", Value::Null),
        ("interval_seconds", json!(1)),
        ("time_zone", json!("Mars/Base")),
        ("lat", json!(91)),
        ("mapping", json!({"title": "/t", "starts_at": "/s"})),
        ("subreddit", json!("vienna")),
        ("colour", json!("red")),
    ] {
        let mut body = source("x");
        body[field] = value;
        if field == "lat" {
            body["lon"] = json!(0);
        }
        let response = admin.post_json("/v1/sources", &body).await.unwrap();
        problem_of(&response, 422, "invalid-field", field);
    }
    let mut mapped = source("x");
    mapped["kind"] = json!("json");
    mapped["mapping"] = json!({"title": "t", "starts_at": "/s"});
    let response = admin.post_json("/v1/sources", &mapped).await.unwrap();
    problem_of(&response, 422, "invalid-field", "mapping.title");
    problem(&admin.get("/v1/sources/x").await.unwrap(), 400, "invalid-id");
    problem(
        &admin.get(&format!("/v1/sources/{UNKNOWN}")).await.unwrap(),
        404,
        "source-not-found",
    );
    problem(
        &admin.get("/v1/sources?limit=0").await.unwrap(),
        400,
        "invalid-parameter",
    );
}

#[tokio::test]
async fn subscriptions_are_made_listed_and_deleted() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let wish = json!({"user": "anna", "category": "music", "lat": 48.2, "lon": 16.4, "within_km": 10});
    let made = admin.post_json("/v1/subscriptions", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let id = body_of(&made)["id"].as_str().unwrap().to_owned();
    assert_eq!(body_of(&made)["email"], Value::Null);
    let mut mailed = wish.clone();
    mailed["email"] = json!("Anna <anna@example.com>");
    mailed["user"] = json!("mailed");
    let made = admin.post_json("/v1/subscriptions", &mailed).await.unwrap();
    assert_eq!(body_of(&made)["email"], "Anna <anna@example.com>");
    for (field, value) in [
        ("user", json!("")),
        ("email", json!("anna")),
        ("email", json!("a@example.com\r\nBcc: b@example.com")),
        ("text", json!("!")),
        ("lat", json!(91)),
        ("within_km", Value::Null),
    ] {
        let mut odd = wish.clone();
        odd[field] = value;
        let response = admin.post_json("/v1/subscriptions", &odd).await.unwrap();
        problem_of(&response, 422, "invalid-field", field);
    }
    let listed = body_of(&admin.get("/v1/subscriptions?user=anna").await.unwrap());
    assert_eq!(listed["subscriptions"][0]["category"], "music");
    let none = body_of(&admin.get("/v1/subscriptions?user=ben").await.unwrap());
    assert_eq!(none["subscriptions"], json!([]));
    let path = format!("/v1/subscriptions/{id}");
    assert_eq!(
        admin.request("DELETE", &path, &[], &[]).await.unwrap().status,
        200
    );
    let again = admin.request("DELETE", &path, &[], &[]).await.unwrap();
    problem(&again, 404, "subscription-not-found");
}
