//! Workers in any language: the pull protocol, and kinds and queues as data, as clients see them.

use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

const JSON: [(&str, &str); 1] = [("content-type", "application/json")];

async fn put(client: &mut Client, path: &str, body: &Value) -> Response {
    client
        .request("PUT", path, &JSON, body.to_string().as_bytes())
        .await
        .unwrap()
}

async fn post(client: &mut Client, path: &str, body: Value) -> Response {
    client.post_json(path, &body).await.unwrap()
}

/// The answer's document; it must have this status.
#[track_caller]
fn good(response: &Response, status: u16) -> Value {
    assert_eq!(response.status, status, "{}", response.text());
    body_of(response)
}

fn worker_of(queues: &[&str]) -> Value {
    json!({"name": "host-1", "queues": queues, "concurrency": 4,
           "client": {"name": "test", "version": "1", "language": "sh"}})
}

async fn registered(client: &mut Client) -> String {
    let answer = good(&post(client, "/v1/workers", worker_of(&["media"])).await, 201);
    assert_eq!(answer["lost_after_seconds"], 15.0);
    assert_eq!(answer["heartbeat_seconds"], 5.0);
    answer["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_kind_is_declared_enqueued_pulled_and_finished_over_http() {
    let app = TestApp::start().await;
    let (mut admin, mut producer) = (
        app.admin(),
        app.with_scopes("producer", "produce,read:payload").await,
    );
    let kind = json!({"queue": "media", "timeout_seconds": 30, "retry": {"max_attempts": 2}, "redact": ["/token"],
        "description": "Makes a thumbnail.", "payload_schema": {"required": ["url"]},
        "result_schema": {"properties": {"width": {"type": "integer"}}}});
    let shown = good(&put(&mut admin, "/v1/kinds/thumbnail.make", &kind).await, 201);
    assert_eq!(
        (&shown["declared"], &shown["retry"]["max_attempts"]),
        (&json!(true), &json!(2))
    );
    good(&put(&mut admin, "/v1/kinds/thumbnail.make", &kind).await, 200);
    assert_eq!(
        good(&admin.get("/v1/kinds/thumbnail.make").await.unwrap(), 200),
        shown
    );
    let list = good(&admin.get("/v1/kinds").await.unwrap(), 200);
    assert!(list["kinds"].as_array().unwrap().contains(&shown));
    let queues = good(&admin.get("/v1/queues").await.unwrap(), 200);
    let media = queues["queues"]
        .as_array()
        .unwrap()
        .iter()
        .find(|queue| queue["name"] == "media")
        .unwrap()
        .clone();
    assert_eq!(
        (&media["served_by"], &media["durability"]),
        (&json!("pull"), &json!("ledger"))
    );
    let health = good(&admin.get("/health").await.unwrap(), 200);
    let unserved = health["checks"]["workers"]["unserved"]
        .as_array()
        .or(health["workers"]["unserved"].as_array());
    assert!(
        health.to_string().contains("no worker serves") || unserved.is_some(),
        "{health}"
    );

    let job = |payload: Value| json!({"kind": "thumbnail.make", "payload": payload});
    problem_of(
        &post(&mut producer, "/v1/jobs", job(json!({}))).await,
        422,
        "invalid-payload",
        "payload.url",
    );
    let accepted = good(
        &post(
            &mut producer,
            "/v1/jobs",
            job(json!({"url": "u", "token": "t0p-s3cret"})),
        )
        .await,
        202,
    );
    let id = accepted["id"].as_str().unwrap();
    let seen = good(&producer.get(&format!("/v1/jobs/{id}")).await.unwrap(), 200);
    assert_eq!(seen["payload"], json!({"url": "u", "token": "[redacted]"}));
    // Schedules, chains and batches take the kind too.
    let schedule =
        json!({"name": "thumbs", "every_seconds": 3600, "kind": "thumbnail.make", "payload": {"url": "u"}});
    good(&post(&mut admin, "/v1/schedules", schedule).await, 201);

    let mut work = app.with_scopes("worker", "work").await;
    let worker = registered(&mut work).await;
    let path = |call: &str| format!("/v1/workers/{worker}/{call}");
    let pulled = good(
        &post(&mut work, &path("pull"), json!({"max": 10, "wait_seconds": 20})).await,
        200,
    );
    let given = &pulled["jobs"][0];
    assert_eq!(
        given["payload"],
        json!({"url": "u", "token": "t0p-s3cret"}),
        "a worker sees what it works on"
    );
    assert_eq!(
        (
            &given["attempt"],
            &given["max_attempts"],
            &given["deadline_seconds"]
        ),
        (&json!(1), &json!(2), &json!(30.0))
    );
    let beat = json!({"running": [id], "progress": {id: {"percent": 50}}, "log": [
            {"job": id, "line": "half of t0p-s3cret"}, {"job": id, "fence": given["fence"], "line": "more"},
            {"job": id, "fence": "7.7", "line": "of another execution"}]});
    let answer = good(&post(&mut work, &path("heartbeat"), beat).await, 200);
    assert_eq!(answer, json!({"cancel": [], "lost": [], "drain": false}));
    let workers = good(&admin.get("/v1/workers").await.unwrap(), 200);
    assert_eq!(workers["workers"][0]["client"]["language"], "sh");
    assert_eq!(workers["workers"][0]["stats"]["media"]["running"], 1);
    let outcome = json!({"job": id, "fence": given["fence"], "outcome": "completed", "result": {"width": "wide"}, "log": ["the end"]});
    let finished = good(
        &post(&mut work, &path("finish"), json!({"outcomes": [outcome]})).await,
        200,
    );
    let refused = finished["outcomes"][0]["refused"].as_str().unwrap();
    assert!(refused.starts_with("result.width: "), "{refused}");
    let log = good(&producer.get(&format!("/v1/jobs/{id}/log")).await.unwrap(), 200);
    let lines: Vec<&str> = log["lines"]
        .as_array()
        .unwrap()
        .iter()
        .map(|line| line["line"].as_str().unwrap())
        .collect();
    assert_eq!(lines, ["half of [redacted]", "more", "the end"], "{log}");
    let letter = good(&admin.get(&format!("/v1/dead-letters/{id}")).await.unwrap(), 200);
    assert!(letter.to_string().contains("result.width"), "{letter}");

    // A worker that is to drain is told so; its deletion may be repeated.
    good(
        &admin.request("POST", &path("drain"), &[], &[]).await.unwrap(),
        200,
    );
    let told = good(&post(&mut work, &path("heartbeat"), json!({})).await, 200);
    assert_eq!(told["drain"], true);
    for _ in 0..2 {
        assert_eq!(
            work.delete(&format!("/v1/workers/{worker}"))
                .await
                .unwrap()
                .status,
            204
        );
    }
    problem_of(
        &post(&mut work, &path("pull"), json!({"max": 1})).await,
        404,
        "worker-not-found",
        "id",
    );
    for (action, target) in [("kind.put", "thumbnail.make"), ("worker.drain", worker.as_str())] {
        let audit = good(
            &admin.get(&format!("/v1/audit?action={action}")).await.unwrap(),
            200,
        );
        assert_eq!(audit["entries"][0]["target"], target);
    }

    // A kind that was deleted hides more than before, not less.
    good(&admin.delete("/v1/kinds/thumbnail.make").await.unwrap(), 200);
    let path = format!("/v1/jobs/{id}");
    let seen = good(&producer.get(&path).await.unwrap(), 200);
    assert_eq!(seen["payload"], "[redacted]");
    let seen = good(&admin.get(&path).await.unwrap(), 200);
    assert_eq!(seen["payload"], json!({"url": "u", "token": "t0p-s3cret"}));
}

#[tokio::test]
async fn bad_input_of_workers_and_declarations_is_named() {
    let app = TestSettings::new()
        .with("HOLDFAST__QUEUES__MINE__SERVED_BY", "pull")
        .start()
        .await;
    let (mut admin, mut work) = (app.admin(), app.with_scopes("worker", "work").await);
    good(&put(&mut admin, "/v1/queues/media", &json!({})).await, 201);
    good(
        &put(&mut admin, "/v1/queues/media", &json!({"served_by": "pull"})).await,
        200,
    );
    for (path, body, status, slug, field) in [
        ("/v1/queues/Media", json!({}), 422, "invalid-field", "queue"),
        (
            "/v1/queues/media",
            json!({"served_by": "rust"}),
            422,
            "invalid-field",
            "served_by",
        ),
        ("/v1/queues/default", json!({}), 409, "queue-configured", "name"),
        (
            "/v1/kinds/debug.echo",
            json!({"queue": "media"}),
            409,
            "kind-coded",
            "name",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "default"}),
            409,
            "queue-of-another-fleet",
            "queue",
        ),
        (
            "/v1/kinds/9",
            json!({"queue": "media"}),
            422,
            "invalid-field",
            "name",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "timeout_seconds": 0}),
            422,
            "invalid-field",
            "timeout_seconds",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "retry": {"max_attempts": 0}}),
            422,
            "invalid-field",
            "retry.max_attempts",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "redact": ["token."]}),
            422,
            "invalid-field",
            "redact[0]",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "colour": 1}),
            422,
            "invalid-field",
            "colour",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "payload_schema": {"type": "strin"}}),
            422,
            "invalid-field",
            "payload_schema",
        ),
        (
            "/v1/kinds/a.b",
            json!({"queue": "media", "result_schema": {"$ref": "https://example.com/x"}}),
            422,
            "invalid-field",
            "result_schema",
        ),
    ] {
        problem_of(&put(&mut admin, path, &body).await, status, slug, field);
    }
    problem(
        &admin.get("/v1/kinds/no.such").await.unwrap(),
        404,
        "kind-not-found",
    );
    problem(
        &admin.delete("/v1/kinds/debug.echo").await.unwrap(),
        409,
        "kind-coded",
    );
    problem(
        &admin.delete("/v1/queues/no-such").await.unwrap(),
        404,
        "queue-not-found",
    );

    // Only with the scope, and only for queues of this fleet.
    let mut reader = app.with_scopes("reader", "produce,read").await;
    problem(
        &post(&mut reader, "/v1/workers", worker_of(&["media"])).await,
        403,
        "missing-scope",
    );
    problem(
        &post(
            &mut work,
            "/v1/jobs",
            json!({"kind": "debug.echo", "payload": {}}),
        )
        .await,
        403,
        "missing-scope",
    );
    let refused = problem_of(
        &post(&mut work, "/v1/workers", worker_of(&["default"])).await,
        409,
        "queue-of-another-fleet",
        "queues",
    );
    assert!(
        refused["detail"]
            .as_str()
            .unwrap()
            .contains("queues.default.served_by"),
        "{refused}"
    );
    problem_of(
        &post(&mut work, "/v1/workers", worker_of(&["media", "nowhere"])).await,
        422,
        "unknown-queue",
        "queues[1]",
    );
    problem_of(
        &post(&mut work, "/v1/workers", worker_of(&[])).await,
        422,
        "invalid-field",
        "queues",
    );
    good(
        &post(&mut work, "/v1/workers", worker_of(&["mine", "media"])).await,
        201,
    );

    let worker = registered(&mut work).await;
    let path = |call: &str| format!("/v1/workers/{worker}/{call}");
    let none = "01JD3V0S7W8Q4M2XKZC5T9R6BH";
    for (call, body, field) in [
        ("pull", json!({"max": 0}), "max"),
        ("pull", json!({"max": 501}), "max"),
        ("pull", json!({"max": 1, "wait_seconds": 61}), "wait_seconds"),
        ("pull", json!({"max": 1, "have": vec![none; 10_001]}), "have"),
        ("pull", json!({"max": 1, "have": ["x"]}), "have[0]"),
        (
            "heartbeat",
            json!({"progress": {none: 1}}),
            "progress.01JD3V0S7W8Q4M2XKZC5T9R6BH",
        ),
        ("heartbeat", json!({"progress": {"x": 1}}), "progress.x"),
        (
            "finish",
            json!({"outcomes": [{"job": none, "fence": "0.0", "outcome": "won"}]}),
            "outcomes[0].outcome",
        ),
    ] {
        problem_of(
            &post(&mut work, &path(call), body).await,
            422,
            "invalid-field",
            field,
        );
    }
    let outcome = json!({"job": none, "fence": "0.0", "outcome": "completed"});
    problem(
        &post(
            &mut work,
            &path("finish"),
            json!({"outcomes": vec![&outcome; 10_000]}),
        )
        .await,
        413,
        "batch-too-large",
    );
    let all = good(
        &post(
            &mut work,
            &path("finish"),
            json!({"outcomes": vec![&outcome; 1_000]}),
        )
        .await,
        200,
    );
    assert!(
        all["outcomes"]
            .as_array()
            .unwrap()
            .iter()
            .all(|one| one["status"] == "unknown")
    );
    // Another key's worker does not exist.
    let mut other = app.with_scopes("other", "work").await;
    for call in ["pull", "heartbeat", "finish"] {
        let body = if call == "pull" {
            json!({"max": 1})
        } else if call == "finish" {
            json!({"outcomes": []})
        } else {
            json!({})
        };
        problem(
            &post(&mut other, &path(call), body).await,
            404,
            "worker-not-found",
        );
    }
}

#[tokio::test]
async fn a_job_that_has_expired_is_given_to_nobody_and_shows_why() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    good(
        &put(&mut admin, "/v1/kinds/thumbnail.make", &json!({"queue": "media"})).await,
        201,
    );
    let job = |expires: &str| json!({"kind": "thumbnail.make", "payload": {}, "expires_at": expires});
    let expired = good(
        &post(&mut admin, "/v1/jobs", job("2020-01-31T12:00:00Z")).await,
        202,
    );
    let other = good(
        &post(&mut admin, "/v1/jobs", job("2030-01-31T12:00:00Z")).await,
        202,
    );
    let worker = registered(&mut admin).await;
    let pull = json!({"max": 10, "wait_seconds": 30, "have": []});
    let pulled = good(
        &post(&mut admin, &format!("/v1/workers/{worker}/pull"), pull).await,
        200,
    );
    assert_eq!(pulled["jobs"].as_array().unwrap().len(), 1, "{pulled}");
    assert_eq!(pulled["jobs"][0]["id"], other["id"]);
    let path = format!("/v1/jobs/{}?wait=30", expired["id"].as_str().unwrap());
    let seen = good(&admin.get(&path).await.unwrap(), 200);
    assert_eq!(
        (&seen["state"], &seen["errors"][0]["class"]),
        (&json!("cancelled"), &json!("expired"))
    );
    assert_eq!(seen["expires_at"], "2020-01-31T12:00:00Z");
    let follow = json!({"kind": "thumbnail.make", "payload": {}, "then": job("2020-01-31T12:00:00Z")});
    problem_of(
        &post(&mut admin, "/v1/jobs", follow).await,
        422,
        "invalid-field",
        "then.expires_at",
    );
}
