//! Batches and chains over HTTP.

use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, echo, problem, problem_of};

fn batch(jobs: usize) -> Value {
    let jobs: Vec<Value> = (0..jobs).map(|n| echo(json!({ "n": n }))).collect();
    json!({ "name": "import", "jobs": jobs, "callback": echo(json!("done")) })
}

#[tokio::test]
async fn a_batch_is_accepted_followed_listed_and_cancelled() {
    let app = TestApp::start().await;
    let mut client = app.admin();
    let accepted = client.post_json("/v1/batches", &batch(3)).await.unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let said = body_of(&accepted);
    let id = said["id"].as_str().unwrap().to_owned();
    assert_eq!(
        accepted.header("location"),
        Some(format!("/v1/batches/{id}").as_str())
    );
    assert_eq!((&said["total"], &said["duplicate"]), (&json!(3), &json!(false)));
    assert_eq!(said["ids"].as_array().unwrap().len(), 3);

    let path = format!("/v1/batches/{id}");
    let shown = body_of(&client.get(&format!("{path}?wait=0.1")).await.unwrap());
    assert_eq!(
        (
            &shown["state"],
            &shown["name"],
            &shown["pending"],
            &shown["percent"]
        ),
        (&json!("running"), &json!("import"), &json!(3), &json!(0))
    );
    assert_eq!(
        shown["progress"],
        json!({"scheduled": 0, "available": 3, "running": 0, "retryable": 0})
    );
    let callback = json!({"kind": "debug.echo", "queue": "default", "id": null});
    assert_eq!(shown["callback"], callback);
    let members = body_of(&client.get(&format!("/v1/jobs?batch={id}")).await.unwrap());
    let members = members["jobs"].as_array().unwrap();
    assert_eq!(members.len(), 3);
    assert!(members.iter().all(|job| job["batch"] == json!(id)));

    let other = body_of(&client.post_json("/v1/batches", &batch(1)).await.unwrap());
    let page = body_of(&client.get("/v1/batches?limit=1").await.unwrap());
    let next = page["next"].as_str().unwrap().to_owned();
    assert_eq!(page["batches"].as_array().unwrap().len(), 1);
    let rest = body_of(
        &client
            .get(&format!("/v1/batches?limit=1&after={next}"))
            .await
            .unwrap(),
    );
    assert_eq!(
        (rest["batches"].as_array().unwrap().len(), &rest["next"]),
        (1, &Value::Null)
    );

    let first = members[0]["id"].as_str().unwrap();
    let one = client
        .post_json(&format!("/v1/jobs/{first}/cancel"), &json!({}))
        .await
        .unwrap();
    assert_eq!(one.status, 200);
    let cancelled = client
        .post_json(&format!("{path}/cancel"), &json!({}))
        .await
        .unwrap();
    assert_eq!(cancelled.status, 200, "{}", cancelled.text());
    let said = body_of(&cancelled);
    assert_eq!((&said["affected"], &said["finished"]), (&json!(2), &json!(true)));
    let ended = &said["batch"];
    assert_eq!(
        (&ended["state"], &ended["cancelled"]),
        (&json!("ended"), &json!(3))
    );
    let job = format!("/v1/jobs/{}", ended["callback"]["id"].as_str().unwrap());
    let job = body_of(&client.get(&job).await.unwrap());
    assert_eq!(
        (&job["callback_of"], &job["payload"]),
        (&json!(id), &json!("done"))
    );
    let again = client
        .post_json(&format!("{path}/cancel"), &json!({}))
        .await
        .unwrap();
    problem(&again, 409, "illegal-transition");

    let ended = body_of(&client.get("/v1/batches?state=ended").await.unwrap());
    assert_eq!(ended["batches"].as_array().unwrap().len(), 1);
    let running = body_of(&client.get("/v1/batches?state=running").await.unwrap());
    assert_eq!(running["batches"][0]["id"], other["id"]);
    let audit = body_of(&client.get("/v1/audit?action=batch.cancel").await.unwrap());
    assert_eq!(
        (&audit["entries"][0]["target"], &audit["entries"][0]["count"]),
        (&json!(id), &json!(2))
    );
    app.stop().await;
}

#[tokio::test]
async fn a_batch_repeated_under_its_key_is_answered_with_the_first() {
    let app = TestApp::start().await;
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "import-7"),
    ];
    let send = async |body: Value| {
        let body = body.to_string();
        app.admin()
            .request("POST", "/v1/batches", &headers, body.as_bytes())
            .await
            .unwrap()
    };
    let first = send(batch(2)).await;
    let again = send(batch(2)).await;
    assert_eq!((first.status, again.status), (202, 200));
    let (first, again) = (body_of(&first), body_of(&again));
    assert_eq!((&again["id"], &again["duplicate"]), (&first["id"], &json!(true)));
    problem_of(
        &send(batch(1)).await,
        422,
        "idempotency-key-reused",
        "Idempotency-Key",
    );
    let mut other = app.with_scopes("other", "produce").await;
    let body = batch(2).to_string();
    let apart = other
        .request("POST", "/v1/batches", &headers, body.as_bytes())
        .await
        .unwrap();
    assert_eq!(apart.status, 202, "keys are kept apart for each caller");
    app.stop().await;
}

#[tokio::test]
async fn a_bad_batch_is_refused_whole_and_says_where() {
    let app = TestSettings::new()
        .with("HOLDFAST__JOBS__MAX_BATCH", "3")
        .start()
        .await;
    let mut client = app.admin();
    let unknown = json!({"kind": "no.such", "payload": {}});
    for (body, status, slug, field, index) in [
        (json!({"jobs": []}), 422, "batch-empty", "jobs", None),
        (batch(4), 413, "batch-too-large", "jobs", None),
        (
            json!({"jobs": [echo(json!(1)), unknown]}),
            422,
            "unknown-kind",
            "kind",
            Some(1),
        ),
        (
            json!({"jobs": [{"kind": "debug.echo", "payload": 1, "unique_key": "k"}]}),
            422,
            "invalid-field",
            "unique_key",
            Some(0),
        ),
        (
            json!({"jobs": [echo(json!(1))], "callback": {"kind": "no.such", "payload": {}}}),
            422,
            "unknown-kind",
            "callback.kind",
            None,
        ),
        (
            json!({"jobs": [echo(json!(1))], "callback": {"kind": "debug.echo", "payload": 1, "run_at": "2030-01-01T00:00:00Z"}}),
            422,
            "invalid-field",
            "callback.run_at",
            None,
        ),
        (
            json!({"jobs": [echo(json!(1))], "name": ""}),
            422,
            "invalid-field",
            "name",
            None,
        ),
        (
            json!({"jobs": [echo(json!(1))], "then": 1}),
            422,
            "invalid-field",
            "then",
            None,
        ),
    ] {
        let response = client.post_json("/v1/batches", &body).await.unwrap();
        let said = problem_of(&response, status, slug, field);
        assert_eq!(said.get("index").and_then(Value::as_u64), index, "{said}");
    }
    let nothing = body_of(&client.get("/v1/batches").await.unwrap());
    assert_eq!(nothing["batches"], json!([]));
    problem(
        &client.get("/v1/batches/nonsense").await.unwrap(),
        400,
        "invalid-id",
    );
    let none = "/v1/batches/01JD3V0S7W8Q4M2XKZC5T9R6BH";
    problem(&client.get(none).await.unwrap(), 404, "batch-not-found");
    let cancel = client
        .post_json(&format!("{none}/cancel"), &json!({}))
        .await
        .unwrap();
    problem(&cancel, 404, "batch-not-found");
    problem(
        &client.get("/v1/batches?state=odd").await.unwrap(),
        400,
        "invalid-parameter",
    );
    problem(
        &client.get("/v1/batches?after=odd").await.unwrap(),
        400,
        "invalid-cursor",
    );
    app.stop().await;
}

#[tokio::test]
async fn a_chain_is_accepted_shown_and_its_faults_are_named() {
    let app = TestApp::start().await;
    let mut client = app.admin();
    let chain = json!({"kind": "debug.echo", "payload": 1, "then": {
        "kind": "debug.echo", "payload": {"step": 2}, "queue": "events", "delay_seconds": 1.5, "priority": "high",
        "then": {"kind": "debug.echo", "payload": 3, "max_attempts": 2}}});
    let accepted = client.post_json("/v1/jobs", &chain).await.unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let path = format!("/v1/jobs/{}", body_of(&accepted)["id"].as_str().unwrap());
    let shown = body_of(&client.get(&path).await.unwrap());
    let then = &shown["then"];
    assert_eq!(
        (
            &then["queue"],
            &then["payload"],
            &then["delay_seconds"],
            &then["priority"]
        ),
        (&json!("events"), &json!({"step": 2}), &json!(1.5), &json!("high"))
    );
    assert_eq!(
        (&then["then"]["payload"], &then["then"]["max_attempts"]),
        (&json!(3), &json!(2))
    );
    assert_eq!((&shown["child"], &shown["parent"]), (&Value::Null, &Value::Null));

    let follow = |then: Value| json!({"kind": "debug.echo", "payload": 1, "then": then});
    let deep = (0..11).fold(json!({"kind": "debug.echo", "payload": 1}), |chain, _| {
        follow(chain)
    });
    for (body, slug, field) in [
        (
            follow(json!({"kind": "no.such", "payload": 1})),
            "unknown-kind",
            "then.kind",
        ),
        (
            follow(follow(json!({"kind": "debug.echo"}))),
            "invalid-field",
            "then.then.payload",
        ),
        (
            follow(json!({"kind": "debug.echo", "payload": 1, "queue": "none"})),
            "unknown-queue",
            "then.queue",
        ),
        (
            follow(json!({"kind": "debug.echo", "payload": 1, "run_at": "2030-01-01T00:00:00Z"})),
            "invalid-field",
            "then.run_at",
        ),
        (
            deep,
            "invalid-field",
            "then.then.then.then.then.then.then.then.then.then.then",
        ),
    ] {
        let response = client.post_json("/v1/jobs", &body).await.unwrap();
        problem_of(&response, 422, slug, field);
    }
    let in_a_batch = json!({"jobs": [echo(json!(1)), follow(json!({"kind": "no.such", "payload": 1}))]});
    let response = client.post_json("/v1/jobs/batch", &in_a_batch).await.unwrap();
    let said = problem_of(&response, 422, "unknown-kind", "then.kind");
    assert_eq!(said["index"], 1);
    app.stop().await;
}
