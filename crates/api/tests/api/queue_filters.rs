//! Filters by a queue: a name that is not a queue's is refused, and one that has rows, or was declared elsewhere a moment ago, is not.

use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, problem_of};

/// Every request that filters by a queue: the method, the path, the body, and the field that has the name.
fn filters(queue: &str) -> Vec<(&'static str, String, Value, &'static str)> {
    let get = |path: String, field| ("GET", path, Value::Null, field);
    let post = |path: &str, body: Value| ("POST", path.to_owned(), body, "filter.queue");
    let filter = json!({ "queue": queue });
    vec![
        get(format!("/v1/jobs?queue={queue}"), "queue"),
        get(
            format!("/v1/jobs?queue={queue}&view=summary&state=completed"),
            "queue",
        ),
        get(format!("/v1/jobs?q=queue:{queue}"), "q"),
        get(format!("/v1/jobs?q=kind:debug.echo%20queue:default,{queue}"), "q"),
        get(format!("/v1/jobs?q=-queue:{queue}"), "q"),
        get(format!("/v1/jobs/counts?q=queue:{queue}"), "q"),
        get(format!("/v1/dead-letters?queue={queue}"), "queue"),
        get(format!("/v1/stats?queue={queue}"), "queue"),
        get(format!("/v1/scaling?queue={queue}"), "queue"),
        post("/v1/jobs/cancel", json!({ "filter": filter, "dry_run": true })),
        post(
            "/v1/dead-letters/redrive",
            json!({ "filter": filter, "dry_run": true }),
        ),
        post(
            "/v1/dead-letters/delete",
            json!({ "filter": filter, "dry_run": true }),
        ),
    ]
}

async fn ask(client: &mut Client, method: &str, path: &str, body: &Value) -> Response {
    match method {
        "GET" => client.get(path).await.unwrap(),
        _ => client.post_json(path, body).await.unwrap(),
    }
}

async fn put_queue(app: &TestApp, queue: &str) {
    let headers = [("content-type", "application/json")];
    let path = format!("/v1/queues/{queue}");
    let declared = app.admin().request("PUT", &path, &headers, b"{}").await.unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
}

async fn every_filter_takes(app: &TestApp, queue: &str) {
    for (method, path, body, _) in filters(queue) {
        let response = ask(&mut app.admin(), method, &path, &body).await;
        assert_eq!(response.status, 200, "{method} {path}: {}", response.text());
    }
}

#[tokio::test]
async fn an_unknown_queue_is_refused_in_every_filter_with_the_queues_that_there_are() {
    let app = TestApp::start().await;
    for (method, path, body, field) in filters("defualt") {
        let response = ask(&mut app.admin(), method, &path, &body).await;
        let body = problem_of(&response, 422, "unknown-queue", field);
        let detail = body["detail"].as_str().unwrap();
        assert!(
            detail.contains("\"defualt\"") && detail.contains("default, "),
            "{method} {path}: {detail}"
        );
    }
    // What is no dry run changes nothing either.
    let id = app.enqueue().await;
    for path in [
        "/v1/jobs/cancel",
        "/v1/dead-letters/redrive",
        "/v1/dead-letters/delete",
    ] {
        let body = json!({"filter": {"queue": "defualt"}});
        let response = app.admin().post_json(path, &body).await.unwrap();
        problem_of(&response, 422, "unknown-queue", "filter.queue");
    }
    let job = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
    assert_eq!(body_of(&job)["state"], "available");
    every_filter_takes(&app, "default").await;
}

#[tokio::test]
async fn a_queue_that_another_process_declared_a_moment_ago_is_known() {
    let app = TestApp::start().await;
    let twin = app.twin().await;
    // This process has just read that there is none.
    let response = app.admin().get("/v1/jobs?queue=late").await.unwrap();
    problem_of(&response, 422, "unknown-queue", "queue");
    put_queue(&twin, "late").await;
    every_filter_takes(&app, "late").await;
}

#[tokio::test]
async fn a_queue_that_was_deleted_is_known_as_long_as_it_has_rows() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    put_queue(&app, "past").await;
    let headers = [("content-type", "application/json")];
    let kind = br#"{"queue": "past"}"#;
    let declared = admin
        .request("PUT", "/v1/kinds/old.kind", &headers, kind)
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    let job = json!({"kind": "old.kind", "payload": 1});
    let accepted = admin.post_json("/v1/jobs", &job).await.unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let cancel = json!({"filter": {"queue": "past"}});
    let cancelled = admin.post_json("/v1/jobs/cancel", &cancel).await.unwrap();
    assert_eq!(body_of(&cancelled)["affected"], 1);
    for path in ["/v1/kinds/old.kind", "/v1/queues/past"] {
        let deleted = admin.delete(path).await.unwrap();
        assert_eq!(deleted.status, 200, "{}", deleted.text());
    }
    let found = body_of(&admin.get("/v1/jobs?queue=past").await.unwrap());
    assert_eq!(found["jobs"].as_array().unwrap().len(), 1, "{found}");
    every_filter_takes(&app, "past").await;
    let job = json!({"kind": "debug.echo", "payload": 1, "queue": "past"});
    let refused = admin.post_json("/v1/jobs", &job).await.unwrap();
    problem_of(&refused, 422, "unknown-queue", "queue");
}
