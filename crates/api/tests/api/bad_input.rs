//! Everything that is refused, one test for each way to be wrong: a 4xx problem that names the field.

use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, echo, problem, problem_of};

async fn post(app: &TestApp, body: Value) -> Response {
    app.admin().post_json("/v1/jobs", &body).await.unwrap()
}

async fn post_text(app: &TestApp, path: &str, body: &str) -> Response {
    app.admin()
        .request(
            "POST",
            path,
            &[("content-type", "application/json")],
            body.as_bytes(),
        )
        .await
        .unwrap()
}

async fn get(app: &TestApp, path: &str) -> Response {
    app.admin().get(path).await.unwrap()
}

async fn nothing_was_accepted(app: &TestApp) {
    assert_eq!(body_of(&get(app, "/v1/jobs").await)["jobs"], json!([]));
}

#[tokio::test]
async fn unknown_kind() {
    let app = TestApp::start().await;
    let response = post(&app, json!({"kind": "no.such", "payload": {}})).await;
    let body = problem_of(&response, 422, "unknown-kind", "kind");
    assert!(
        body["detail"].as_str().unwrap().contains("debug.echo"),
        "it says which kinds there are: {body}"
    );
    nothing_was_accepted(&app).await;
}

#[tokio::test]
async fn unknown_queue() {
    let app = TestApp::start().await;
    let response = post(
        &app,
        json!({"kind": "debug.echo", "payload": {}, "queue": "nope"}),
    )
    .await;
    problem_of(&response, 422, "unknown-queue", "queue");
}

#[tokio::test]
async fn payload_that_the_kind_cannot_parse_is_found_at_enqueue() {
    let app = TestApp::start().await;
    let response = post(&app, json!({"kind": "debug.fail", "payload": {"mode": "loudly"}})).await;
    problem_of(&response, 422, "invalid-payload", "payload.mode");
    let response = post(
        &app,
        json!({"kind": "http.request", "payload": {"url": "no url"}}),
    )
    .await;
    problem_of(&response, 422, "invalid-payload", "payload.url");
    nothing_was_accepted(&app).await;
}

#[tokio::test]
async fn payload_too_large() {
    let app = TestSettings::new()
        .with("HOLDFAST__JOBS__MAX_PAYLOAD_BYTES", "100")
        .start()
        .await;
    let response = post(&app, echo(json!("x".repeat(99)))).await;
    problem_of(&response, 413, "payload-too-large", "payload");
    assert_eq!(
        post(&app, echo(json!("x".repeat(98)))).await.status,
        202,
        "the quotes count too"
    );
}

#[tokio::test]
async fn payload_too_deep() {
    let app = TestApp::start().await;
    let deep = format!("{}1{}", "[".repeat(33), "]".repeat(33));
    let text = format!(r#"{{"kind":"debug.echo","payload":{deep}}}"#);
    problem_of(
        &post_text(&app, "/v1/jobs", &text).await,
        422,
        "payload-too-deep",
        "payload",
    );
    let deeper = format!("{}1{}", "[".repeat(100_000), "]".repeat(100_000));
    let text = format!(r#"{{"kind":"debug.echo","payload":{deeper}}}"#);
    problem_of(
        &post_text(&app, "/v1/jobs", &text).await,
        422,
        "payload-too-deep",
        "payload",
    );
}

#[tokio::test]
async fn body_too_large_with_and_without_a_declared_length() {
    let app = TestSettings::new()
        .with("HOLDFAST__SERVER__MAX_BODY_BYTES", "1024")
        .with("HOLDFAST__JOBS__MAX_PAYLOAD_BYTES", "512")
        .start()
        .await;
    problem(
        &post(&app, echo(json!("x".repeat(1_024)))).await,
        413,
        "body-too-large",
    );
    let chunk = format!("800\r\n{}\r\n0\r\n\r\n", "x".repeat(0x800));
    let raw = format!(
        "POST /v1/jobs HTTP/1.1\r\nhost: localhost\r\nauthorization: Bearer {}\r\n\
         content-type: application/json\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n{chunk}",
        crate::support::ADMIN
    );
    let answer = crate::limits::raw_exchange(app.address, raw.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 413 "), "{answer}");
    assert!(answer.contains("urn:holdfast:problem:body-too-large"), "{answer}");
}

#[tokio::test]
async fn wrong_types_are_named_by_their_field() {
    let app = TestApp::start().await;
    for (field, value) in [
        ("kind", json!(7)),
        ("queue", json!(["default"])),
        ("priority", json!("urgent")),
        ("priority", json!(1)),
        ("unique_key", json!({})),
        ("delay_seconds", json!("5")),
        ("delay_seconds", json!(-1)),
        ("timeout_seconds", json!("long")),
        ("timeout_seconds", json!(0)),
        ("timeout_seconds", json!(86_401)),
        ("max_attempts", json!("3")),
        ("max_attempts", json!(1.5)),
    ] {
        let mut body = echo(json!({}));
        body[field] = value.clone();
        let response = post(&app, body).await;
        let body = problem_of(&response, 422, "invalid-field", field);
        assert_eq!(body["instance"], "/v1/jobs", "{value}");
    }
    nothing_was_accepted(&app).await;
}

#[tokio::test]
async fn missing_unknown_and_duplicate_fields() {
    let app = TestApp::start().await;
    problem_of(
        &post(&app, json!({"payload": {}})).await,
        422,
        "invalid-field",
        "kind",
    );
    problem_of(
        &post(&app, json!({"kind": "debug.echo"})).await,
        422,
        "invalid-field",
        "payload",
    );
    let body = problem_of(
        &post(&app, json!({"kind": "debug.echo", "payload": 1, "delay": 5})).await,
        422,
        "invalid-field",
        "delay",
    );
    assert!(
        body["detail"].as_str().unwrap().contains("delay_seconds"),
        "it says what is known: {body}"
    );
    let twice = r#"{"kind":"debug.echo","kind":"debug.echo","payload":1}"#;
    problem_of(
        &post_text(&app, "/v1/jobs", twice).await,
        422,
        "invalid-field",
        "kind",
    );
    problem_of(
        &post_text(&app, "/v1/jobs", "[]").await,
        422,
        "invalid-field",
        "body",
    );
}

#[tokio::test]
async fn malformed_json_is_located() {
    let app = TestApp::start().await;
    let response = post_text(&app, "/v1/jobs", "{\"kind\": \"debug.echo\",\n \"payload\": }").await;
    let body = problem(&response, 400, "malformed-json");
    assert_eq!((&body["line"], &body["column"]), (&json!(2), &json!(13)));
    for text in [
        "",
        " ",
        "{",
        "nonsense",
        "{\"kind\":\"debug.echo\",\"payload\":1} more",
    ] {
        problem(&post_text(&app, "/v1/jobs", text).await, 400, "malformed-json");
    }
    let invalid_utf8 = b"{\"kind\":\"debug.echo\",\"payload\":\"\xff\"}";
    let response = app
        .admin()
        .request(
            "POST",
            "/v1/jobs",
            &[("content-type", "application/json")],
            invalid_utf8,
        )
        .await
        .unwrap();
    problem(&response, 400, "malformed-json");
}

#[tokio::test]
async fn wrong_content_type() {
    let app = TestApp::start().await;
    let body = echo(json!(1)).to_string();
    for headers in [
        vec![("content-type", "application/x-www-form-urlencoded")],
        vec![("content-type", "text/plain")],
        vec![],
        vec![("content-type", "application/json"), ("content-encoding", "gzip")],
    ] {
        let response = app
            .admin()
            .request("POST", "/v1/jobs", &headers, body.as_bytes())
            .await
            .unwrap();
        problem(&response, 415, "unsupported-media-type");
    }
    let charset = [("content-type", "application/json; charset=utf-8")];
    assert_eq!(
        app.admin()
            .request("POST", "/v1/jobs", &charset, body.as_bytes())
            .await
            .unwrap()
            .status,
        202
    );
}

#[tokio::test]
async fn run_at_in_another_format() {
    let app = TestApp::start().await;
    for run_at in [
        json!("2030-01-31"),
        json!("31.01.2030 12:00"),
        json!("2030-01-31T12:00:00"),
        json!("tomorrow"),
        json!(1_893_456_000),
        json!("9999-12-31T00:00:00Z"),
        json!("1969-12-31T23:59:59Z"),
    ] {
        let mut body = echo(json!({}));
        body["run_at"] = run_at;
        problem_of(&post(&app, body).await, 422, "invalid-field", "run_at");
    }
}

#[tokio::test]
async fn max_attempts_out_of_range() {
    let app = TestApp::start().await;
    for number in [json!(0), json!(-1), json!(101), json!(4_294_967_296_u64)] {
        let mut body = echo(json!({}));
        body["max_attempts"] = number;
        let body = problem_of(&post(&app, body).await, 422, "invalid-field", "max_attempts");
        assert!(
            body["detail"].as_str().unwrap().contains("from 1 to 100"),
            "{body}"
        );
    }
}

#[tokio::test]
async fn both_run_at_and_delay_seconds() {
    let app = TestApp::start().await;
    let mut body = echo(json!({}));
    body["run_at"] = json!("2030-01-31T12:00:00Z");
    body["delay_seconds"] = json!(5);
    let body = problem_of(&post(&app, body).await, 422, "invalid-field", "run_at");
    assert!(
        body["detail"].as_str().unwrap().contains("delay_seconds"),
        "{body}"
    );
}

#[tokio::test]
async fn keys_too_long_empty_or_unprintable() {
    let app = TestApp::start().await;
    for key in [String::new(), "k".repeat(256), "a\nb".to_owned()] {
        let mut body = echo(json!({}));
        body["unique_key"] = json!(key);
        problem_of(&post(&app, body).await, 422, "invalid-field", "unique_key");
    }
    for key in ["", &"k".repeat(201)] {
        let mut client = app.admin().with_header("idempotency-key", key);
        let response = client.post_json("/v1/jobs", &echo(json!(1))).await.unwrap();
        problem_of(&response, 400, "invalid-header", "Idempotency-Key");
    }
}

#[tokio::test]
async fn bad_cursor_and_other_parameters() {
    let app = TestApp::start().await;
    problem_of(
        &get(&app, "/v1/jobs?after=nonsense").await,
        400,
        "invalid-cursor",
        "after",
    );
    problem_of(
        &get(&app, "/v1/jobs?limit=0").await,
        400,
        "invalid-parameter",
        "limit",
    );
    problem_of(
        &get(&app, "/v1/jobs?limit=1001").await,
        400,
        "invalid-parameter",
        "limit",
    );
    problem_of(
        &get(&app, "/v1/jobs?limit=many").await,
        400,
        "invalid-parameter",
        "limit",
    );
    problem_of(
        &get(&app, "/v1/jobs?state=done").await,
        400,
        "invalid-parameter",
        "state",
    );
    problem_of(
        &get(&app, "/v1/jobs?stat=completed").await,
        400,
        "invalid-parameter",
        "stat",
    );
    problem_of(
        &get(&app, "/v1/jobs?queue=a&queue=b").await,
        400,
        "invalid-parameter",
        "queue",
    );
    let long = format!("/v1/jobs?kind={}", "k".repeat(256));
    problem_of(&get(&app, &long).await, 400, "invalid-parameter", "kind");
    let too_long = format!("/v1/jobs?kind={}", "k".repeat(5_000));
    problem(&get(&app, &too_long).await, 414, "uri-too-long");
    let two = problem_of(
        &get(&app, "/v1/jobs?limit=0&state=done").await,
        400,
        "invalid-parameter",
        "state",
    );
    assert_eq!(
        two["errors"].as_array().unwrap().len(),
        2,
        "every fault at once: {two}"
    );
}

#[tokio::test]
async fn bad_wait() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    for wait in ["-1", "61", "soon", "NaN", "inf"] {
        let response = get(&app, &format!("/v1/jobs/{id}?wait={wait}")).await;
        problem_of(&response, 400, "invalid-parameter", "wait");
    }
}

#[tokio::test]
async fn bad_and_unknown_ids() {
    let app = TestApp::start().await;
    let unknown = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
    for (method, suffix) in [("GET", ""), ("POST", "/cancel"), ("POST", "/retry")] {
        let mut admin: Client = app.admin();
        let response = admin
            .request(method, &format!("/v1/jobs/17{suffix}"), &[], &[])
            .await
            .unwrap();
        problem_of(&response, 400, "invalid-id", "id");
        let response = admin
            .request(method, &format!("/v1/jobs/{unknown}{suffix}"), &[], &[])
            .await
            .unwrap();
        problem_of(&response, 404, "job-not-found", "id");
    }
    problem_of(
        &get(&app, &format!("/v1/jobs/{unknown}?wait=5")).await,
        404,
        "job-not-found",
        "id",
    );
}

#[tokio::test]
async fn unknown_queue_in_a_path() {
    let app = TestApp::start().await;
    for verb in ["pause", "resume"] {
        let path = format!("/v1/queues/nope/{verb}");
        let response = app.admin().request("POST", &path, &[], &[]).await.unwrap();
        problem_of(&response, 404, "queue-not-found", "name");
    }
}

#[tokio::test]
async fn unknown_route_and_wrong_method() {
    let app = TestApp::start().await;
    for path in ["/v1", "/v2/jobs", "/v1/jobs/", "/v1/dead-letter", "/health/deep"] {
        let body = problem(&get(&app, path).await, 404, "route-not-found");
        assert_eq!(body["instance"], path);
    }
    let response = app.admin().delete("/v1/jobs").await.unwrap();
    problem(&response, 405, "method-not-allowed");
    assert_eq!(response.header("allow"), Some("GET, HEAD, POST"));
    let response = get(&app, "/v1/jobs/batch").await;
    problem(&response, 405, "method-not-allowed");
    assert_eq!(response.header("allow"), Some("POST"));
}

#[tokio::test]
async fn a_batch_with_one_bad_job_is_refused_whole_and_says_which() {
    let app = TestApp::start().await;
    let good = echo(json!(1));
    let cases = [
        (json!({"kind": "no.such", "payload": 1}), "unknown-kind", "kind"),
        (
            json!({"kind": "debug.echo", "payload": 1, "queue": "nope"}),
            "unknown-queue",
            "queue",
        ),
        (
            json!({"kind": "debug.fail", "payload": {"mode": "x"}}),
            "invalid-payload",
            "payload.mode",
        ),
        (
            json!({"kind": "debug.echo", "payload": 1, "max_attempts": 0}),
            "invalid-field",
            "max_attempts",
        ),
        (
            json!({"kind": "debug.echo", "payload": 1, "extra": 0}),
            "invalid-field",
            "extra",
        ),
        (json!({"kind": "debug.echo"}), "invalid-field", "payload"),
        (json!("a job"), "invalid-field", "jobs"),
    ];
    for (bad, slug, field) in cases {
        let batch = json!({"jobs": [good, good, bad, good]});
        let response = app.admin().post_json("/v1/jobs/batch", &batch).await.unwrap();
        let body = problem_of(&response, 422, slug, field);
        assert_eq!(body["index"], 2, "{body}");
        assert_eq!(body["errors"][0]["index"], 2, "{body}");
    }
    nothing_was_accepted(&app).await;
}

#[tokio::test]
async fn a_batch_that_is_empty_too_large_or_none() {
    let app = TestSettings::new()
        .with("HOLDFAST__JOBS__MAX_BATCH", "3")
        .start()
        .await;
    let batch = |jobs: usize| json!({"jobs": vec![echo(json!(1)); jobs]});
    let mut admin = app.admin();
    problem_of(
        &admin.post_json("/v1/jobs/batch", &batch(0)).await.unwrap(),
        422,
        "batch-empty",
        "jobs",
    );
    problem_of(
        &admin.post_json("/v1/jobs/batch", &batch(4)).await.unwrap(),
        413,
        "batch-too-large",
        "jobs",
    );
    let response = admin
        .post_json("/v1/jobs/batch", &json!({"job": []}))
        .await
        .unwrap();
    problem_of(&response, 422, "invalid-field", "job");
    let response = admin
        .post_json("/v1/jobs/batch", &json!({"jobs": {}}))
        .await
        .unwrap();
    problem_of(&response, 422, "invalid-field", "jobs");
    nothing_was_accepted(&app).await;
    assert_eq!(
        admin.post_json("/v1/jobs/batch", &batch(3)).await.unwrap().status,
        202
    );
}

#[tokio::test]
async fn an_idempotency_key_of_another_job() {
    let app = TestApp::start().await;
    let mut client = app.admin().with_header("Idempotency-Key", "order-17");
    let first = client
        .post_json("/v1/jobs", &echo(json!({"n": 1})))
        .await
        .unwrap();
    assert_eq!(first.status, 202);
    let second = client
        .post_json("/v1/jobs", &echo(json!({"n": 2})))
        .await
        .unwrap();
    let body = problem_of(&second, 422, "idempotency-key-reused", "Idempotency-Key");
    assert_eq!(body["job_id"], body_of(&first)["id"]);
}

#[tokio::test]
async fn an_idempotency_key_of_another_batch() {
    let app = TestApp::start().await;
    let mut client = app.admin().with_header("Idempotency-Key", "orders-17");
    let batch = |jobs: usize| {
        let jobs: Vec<Value> = (0..jobs).map(|n| echo(json!({"n": n}))).collect();
        json!({"jobs": jobs})
    };
    let first = client.post_json("/v1/jobs/batch", &batch(3)).await.unwrap();
    assert_eq!(first.status, 202);
    for other in [1, 2, 4] {
        let second = client.post_json("/v1/jobs/batch", &batch(other)).await.unwrap();
        problem_of(&second, 422, "idempotency-key-reused", "Idempotency-Key");
    }
    let same = client.post_json("/v1/jobs/batch", &batch(3)).await.unwrap();
    assert_eq!(same.status, 200);
    assert_eq!(body_of(&same)["ids"], body_of(&first)["ids"]);
}

#[tokio::test]
async fn no_answer_repeats_a_long_text_of_the_client() {
    let app = TestApp::start().await;
    let long = "x".repeat(100_000);
    for body in [
        json!({"kind": long, "payload": 1}),
        json!({"kind": "debug.echo", "payload": 1, "queue": long}),
        json!({"kind": "debug.echo", "payload": 1, "run_at": long}),
    ] {
        let response = post(&app, body).await;
        assert_eq!(response.status, 422);
        assert!(response.body.len() < 2_000, "{} bytes", response.body.len());
    }
}
