//! Counts, reasons and reruns of jobs over HTTP.

use holdfast_jobs::ledger::Outcome;
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, echo, problem, problem_of};

#[tokio::test]
async fn jobs_are_counted_by_state_queue_and_kind() {
    let app = TestApp::start().await;
    app.enqueue().await;
    app.enqueue().await;
    let mut admin = app.admin();
    let mut later = echo(json!({"n": 2}));
    later["delay_seconds"] = json!(3600);
    assert_eq!(admin.post_json("/v1/jobs", &later).await.unwrap().status, 202);
    let counts = async |query: &str| {
        let answer = app.admin().get(&format!("/v1/jobs/counts{query}")).await.unwrap();
        assert_eq!(answer.status, 200, "{}", answer.text());
        body_of(&answer)
    };
    let count = |value: &str, count: u64| json!({"value": value, "count": count, "certainty": "exact"});
    let by_state = counts("").await;
    assert_eq!(
        by_state["counts"],
        json!([count("available", 2), count("scheduled", 1)])
    );
    assert_eq!(
        (&by_state["by"], &by_state["complete"]),
        (&json!("state"), &json!(true))
    );
    assert_eq!(
        counts("?by=kind").await["counts"],
        json!([count("debug.echo", 3)])
    );
    let one = counts("?by=queue&q=payload.n:2").await;
    assert_eq!(one["counts"], json!([count("default", 1)]));

    problem_of(
        &admin.get("/v1/jobs/counts?by=age").await.unwrap(),
        400,
        "invalid-parameter",
        "by",
    );
    problem_of(
        &admin.get("/v1/jobs/counts?q=what").await.unwrap(),
        400,
        "invalid-parameter",
        "q",
    );
    let mut reader = app.with_scopes("reader", "read").await;
    problem(
        &reader.get("/v1/jobs/counts?q=payload.n:2").await.unwrap(),
        403,
        "missing-scope",
    );
}

#[tokio::test]
async fn a_waiting_job_says_why() {
    let app = TestApp::start().await;
    let id = app.enqueue().await;
    let mut admin = app.admin();
    let why = async || body_of(&app.admin().get(&format!("/v1/jobs/{id}/why")).await.unwrap());
    let first = why().await;
    assert_eq!((&first["id"], &first["state"]), (&json!(id), &json!("available")));
    assert_eq!(first["reasons"][0]["code"], json!("no_worker"));
    app.worker().await;
    admin
        .request("POST", "/v1/queues/default/pause", &[], &[])
        .await
        .unwrap();
    let paused = why().await;
    assert_eq!(
        paused["reasons"],
        json!([{"code": "queue_paused", "message": "its queue is paused"}])
    );
    let missing = admin
        .get("/v1/jobs/01JD3V0S7W8Q4M2XKZC5T9R6BH/why")
        .await
        .unwrap();
    problem(&missing, 404, "job-not-found");
}

#[tokio::test]
async fn a_rerun_is_a_new_job_with_the_changes() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut body = echo(json!({"n": 1, "big": 9_007_199_254_740_993_u64}));
    body["limit_key"] = json!("ada");
    body["max_attempts"] = json!(7);
    body["then"] = json!({"kind": "debug.echo", "payload": {"after": true}, "delay_seconds": 5});
    let first = body_of(&admin.post_json("/v1/jobs", &body).await.unwrap())["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let complete = |fence| Outcome::Completed { fence, result: None };
    assert_eq!(app.finish_all(complete).await, 1);

    let path = format!("/v1/jobs/{first}/rerun");
    let again = admin
        .post_json(&path, &json!({"priority": "high"}))
        .await
        .unwrap();
    assert_eq!(again.status, 202, "{}", again.text());
    let again = body_of(&again);
    assert_ne!(again["id"], json!(first));
    let shown = |id: &str| {
        let path = format!("/v1/jobs/{id}");
        let mut admin = app.admin();
        async move { body_of(&admin.get(&path).await.unwrap()) }
    };
    let (old, new) = (shown(&first).await, shown(again["id"].as_str().unwrap()).await);
    assert_eq!(
        (&old["state"], &new["state"]),
        (&json!("completed"), &json!("available"))
    );
    for field in [
        "kind",
        "queue",
        "payload",
        "limit_key",
        "max_attempts",
        "timeout_seconds",
    ] {
        assert_eq!(old[field], new[field], "{field}");
    }
    assert_eq!((&new["priority"], &new["parent"]), (&json!("high"), &Value::Null));
    assert_eq!(new["then"]["payload"], json!({"after": true}));
    assert_eq!(new["then"]["delay_seconds"], json!(5.0));

    let edited = admin
        .post_json(&path, &json!({"payload": {"n": 2}, "delay_seconds": 60}))
        .await
        .unwrap();
    let edited = shown(body_of(&edited)["id"].as_str().unwrap()).await;
    assert_eq!(
        (&edited["payload"], &edited["state"]),
        (&json!({"n": 2}), &json!("scheduled"))
    );

    problem_of(
        &admin.post_json(&path, &json!({"queue": "none"})).await.unwrap(),
        422,
        "unknown-queue",
        "queue",
    );
    problem(
        &admin
            .post_json(&path, &json!({"kind": "debug.sleep"}))
            .await
            .unwrap(),
        422,
        "invalid-field",
    );
    let missing = "/v1/jobs/01JD3V0S7W8Q4M2XKZC5T9R6BH/rerun";
    problem(
        &admin.post_json(missing, &json!({})).await.unwrap(),
        404,
        "job-not-found",
    );
    // Under one Idempotency-Key there is one.
    let mut client = app.admin().with_header("idempotency-key", "once");
    let one = body_of(&client.post_json(&path, &json!({})).await.unwrap());
    let two = body_of(&client.post_json(&path, &json!({})).await.unwrap());
    assert_eq!((&one["id"], &two["duplicate"]), (&two["id"], &json!(true)));
}

#[tokio::test]
async fn one_queue_is_shown() {
    let app = TestApp::start().await;
    app.enqueue().await;
    let mut admin = app.admin();
    let shown = body_of(&admin.get("/v1/queues/default").await.unwrap());
    assert_eq!(
        (&shown["name"], &shown["depth"]["available"]),
        (&json!("default"), &json!(1))
    );
    problem_of(
        &admin.get("/v1/queues/none").await.unwrap(),
        404,
        "queue-not-found",
        "name",
    );
}
