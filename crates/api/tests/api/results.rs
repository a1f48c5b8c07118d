//! Results and channels over HTTP.

use holdfast_testkit::PostgresServer;
use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

async fn put(client: &mut Client, path: &str, body: &Value) -> Response {
    let body = serde_json::to_vec(body).unwrap();
    let headers = [("content-type", "application/json")];
    client.request("PUT", path, &headers, &body).await.unwrap()
}

#[tokio::test]
async fn results_are_written_read_waited_for_and_deleted() {
    let app = TestApp::start().await;
    let mut worker = app.with_scopes("worker", "work").await;
    let mut producer = app.with_scopes("producer", "produce").await;
    let written = put(
        &mut worker,
        "/v1/results/task%2F1",
        &json!({"body": "{\"a\": \"\\u0000\"}", "finished": true}),
    )
    .await;
    assert_eq!(written.status, 200, "{}", written.text());
    let written = body_of(&written);
    assert_eq!(
        (&written["id"], &written["stored"]),
        (&json!("task/1"), &json!(true))
    );
    let late = put(
        &mut worker,
        "/v1/results/task%2F1",
        &json!({"body": "late", "unless_finished": true}),
    )
    .await;
    assert_eq!(
        body_of(&late),
        json!({"id": "task/1", "version": written["version"], "stored": false})
    );
    let read = json!({"ids": ["task/1", "absent"], "wait_seconds": 30});
    let read = body_of(&producer.post_json("/v1/results/read", &read).await.unwrap());
    assert_eq!(read["results"][0]["body"], "{\"a\": \"\\u0000\"}");
    assert_eq!(read["results"][0]["version"], written["version"]);
    assert!(read["results"][0]["expires_at"].as_str().unwrap().ends_with('Z'));
    assert_eq!(
        (read["results"].as_array().unwrap().len(), &read["left_out"]),
        (1, &json!([]))
    );
    let known = json!({"ids": ["task/1"], "known": {"task/1": written["version"]}, "wait_seconds": 0.01});
    let nothing = body_of(&producer.post_json("/v1/results/read", &known).await.unwrap());
    assert_eq!(nothing, json!({"results": [], "left_out": []}));

    let batch = json!({"results": [{"id": "a", "body": "1"}, {"id": "b", "body": "2", "ttl_seconds": 60}]});
    let batch = body_of(&worker.post_json("/v1/results/write", &batch).await.unwrap());
    assert_eq!(
        (&batch["results"][0]["id"], &batch["results"][1]["id"]),
        (&json!("a"), &json!("b"))
    );
    let deleted = producer
        .post_json("/v1/results/delete", &json!({"ids": ["a", "b", "c"]}))
        .await
        .unwrap();
    assert_eq!(body_of(&deleted), json!({"deleted": 2}));

    let part = json!({"parts": ["one", "two\u{6}\u{16}"], "ttl_seconds": 60});
    let added = worker.post_json("/v1/results/set/parts", &part).await.unwrap();
    assert_eq!(body_of(&added), json!({"count": 2, "added": 2}));
    let listed = producer.get("/v1/results/set/parts?limit=1").await.unwrap();
    assert_eq!(
        body_of(&listed),
        json!({"parts": ["one"], "count": 2, "next": "one"})
    );
    let gone = worker
        .post_json("/v1/results/set/parts/delete", &json!({"parts": ["one"]}))
        .await
        .unwrap();
    assert_eq!(body_of(&gone), json!({"count": 1, "deleted": 1}));
}

#[tokio::test]
async fn messages_are_heard_by_all_who_listen() {
    let app = TestApp::start().await;
    let (mut sender, mut listener) = (app.admin(), app.admin());
    let begin = body_of(&listener.get("/v1/channels/news?wait_seconds=30").await.unwrap());
    assert_eq!(begin, json!({"messages": [], "last": 0, "missed": false}));
    let posted = json!({"messages": ["a", "b"]});
    let posted = body_of(&sender.post_json("/v1/channels/news", &posted).await.unwrap())["last"]
        .as_i64()
        .unwrap();
    let heard = body_of(
        &listener
            .get("/v1/channels/news?after=0&wait_seconds=30&limit=1")
            .await
            .unwrap(),
    );
    assert_eq!(
        heard,
        json!({"messages": [{"seq": posted - 1, "body": "a"}], "last": posted - 1, "missed": false})
    );
    let read = json!({"channels": {"news": posted - 1, "other": null}, "wait_seconds": 30});
    let read = body_of(&listener.post_json("/v1/channels/read", &read).await.unwrap());
    assert_eq!(
        read["channels"]["news"]["messages"],
        json!([{"seq": posted, "body": "b"}])
    );
    assert_eq!(
        read["channels"]["other"],
        json!({"messages": [], "last": 0, "missed": false})
    );
}

#[tokio::test]
async fn who_produces_and_works_declares_what_is_not_there_yet_and_changes_nothing() {
    let app = TestApp::start().await;
    let mut both = app.with_scopes("both", "produce,work").await;
    let kind = json!({"queue": "emails", "timeout_seconds": 60});
    assert_eq!(put(&mut both, "/v1/kinds/celery", &kind).await.status, 201);
    assert_eq!(
        put(&mut both, "/v1/kinds/celery", &kind).await.status,
        200,
        "the same again"
    );
    let other = put(
        &mut both,
        "/v1/kinds/celery",
        &json!({"queue": "emails", "timeout_seconds": 61}),
    )
    .await;
    problem(&other, 403, "missing-scope");
    assert_eq!(put(&mut both, "/v1/queues/more", &json!({})).await.status, 201);
    assert_eq!(put(&mut both, "/v1/queues/more", &json!({})).await.status, 200);
    assert_eq!(
        put(&mut app.admin(), "/v1/kinds/celery", &json!({"queue": "more"}))
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn what_is_wrong_with_a_result_or_a_message_is_named() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let long = "n".repeat(256);
    for (path, body, field) in [
        (
            "/v1/results/write",
            json!({"results": [{"id": "a", "body": ""}, {"id": "", "body": ""}]}),
            "results[1].id",
        ),
        (
            "/v1/results/write",
            json!({"results": [{"id": "read", "body": ""}]}),
            "results[0].id",
        ),
        (
            "/v1/results/write",
            json!({"results": [{"id": "a", "body": "", "ttl_seconds": 0}]}),
            "results[0].ttl_seconds",
        ),
        (
            "/v1/results/write",
            json!({"results": [{"id": "a", "body": "\u{0}"}]}),
            "results[0].body",
        ),
        (
            "/v1/results/write",
            json!({"results": [{"id": "a"}]}),
            "results[0].body",
        ),
        ("/v1/results/read", json!({"ids": [long]}), "ids"),
        (
            "/v1/results/read",
            json!({"ids": ["a"], "wait_seconds": 31}),
            "wait_seconds",
        ),
        ("/v1/results/a/parts", json!({"parts": [""]}), "parts"),
        (
            "/v1/results/a/parts",
            json!({"parts": ["x".repeat(1_025)]}),
            "parts",
        ),
        (
            "/v1/channels/a",
            json!({"messages": ["a"], "ttl_seconds": 3_601}),
            "ttl_seconds",
        ),
        (
            "/v1/channels/read",
            json!({"channels": {"a": 0}, "limit": 0}),
            "limit",
        ),
    ] {
        let response = admin.post_json(path, &body).await.unwrap();
        problem_of(&response, 422, "invalid-field", field);
    }
    let many: Vec<_> = (0..1_001).map(|n| n.to_string()).collect();
    problem(
        &admin
            .post_json("/v1/results/read", &json!({"ids": many}))
            .await
            .unwrap(),
        413,
        "batch-too-large",
    );
    problem(
        &admin
            .post_json("/v1/results/read", &json!({"ids": []}))
            .await
            .unwrap(),
        422,
        "batch-empty",
    );
    let large = json!({"messages": ["x".repeat(300_000)]});
    let large = admin.post_json("/v1/channels/a", &large).await.unwrap();
    problem_of(&large, 413, "payload-too-large", "messages[0]");
    let parameters = admin.get("/v1/channels/a?after=x").await.unwrap();
    problem_of(&parameters, 400, "invalid-parameter", "after");
}

#[tokio::test]
async fn while_the_database_is_away_results_are_answered_503_and_waiters_go_on() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = TestSettings::new().with("DATABASE_URL", &postgres.url());
    let app = settings.start().await;
    let (mut waiting, mut other) = (app.admin(), app.admin());
    let read = json!({"ids": ["a"], "wait_seconds": 30});
    assert_eq!(
        put(&mut other, "/v1/results/b", &json!({"body": ""}))
            .await
            .status,
        200
    );
    let waiter = tokio::spawn(async move { waiting.post_json("/v1/results/read", &read).await.unwrap() });
    postgres.kill9().await.unwrap();
    let refused = put(&mut other, "/v1/results/a", &json!({"body": "x"})).await;
    problem(&refused, 503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    postgres.start_again().await.unwrap();
    crate::support::until(
        "the write is taken",
        std::time::Duration::from_secs(60),
        async || {
            let written = put(&mut other, "/v1/results/a", &json!({"body": "x"})).await;
            (written.status == 200).then_some(())
        },
    )
    .await;
    let answer = waiter.await.unwrap();
    // It began to wait before the outage and is answered, or it came into it.
    assert!(
        answer.status == 503 || body_of(&answer)["results"][0]["body"] == "x",
        "{}",
        answer.text()
    );
}
