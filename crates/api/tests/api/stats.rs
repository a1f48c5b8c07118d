//! Statistics over HTTP.

use serde_json::{Value, json};

use crate::support::{TestApp, body_of, problem_of};

#[tokio::test]
async fn what_pull_workers_did_is_shown_by_queue_and_kind() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let kind = json!({"queue": "media", "payload_schema": {}});
    let declared = admin
        .request(
            "PUT",
            "/v1/kinds/thumbnail.make",
            &[("content-type", "application/json")],
            kind.to_string().as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    for _ in 0..3 {
        let job = json!({"kind": "thumbnail.make", "payload": {}});
        assert_eq!(admin.post_json("/v1/jobs", &job).await.unwrap().status, 202);
    }
    let worker = json!({"name": "host-1", "queues": ["media"], "concurrency": 4,
        "client": {"name": "test", "version": "1", "language": "sh"}});
    let worker = body_of(&admin.post_json("/v1/workers", &worker).await.unwrap());
    let id = worker["id"].as_str().unwrap();
    let pulled = json!({"max": 3, "wait_seconds": 5, "have": []});
    let pulled = admin
        .post_json(&format!("/v1/workers/{id}/pull"), &pulled)
        .await
        .unwrap();
    let pulled = body_of(&pulled);
    let outcomes: Vec<Value> = pulled["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .enumerate()
        .map(|(n, job)| {
            let outcome = if n == 0 { "discard" } else { "completed" };
            json!({"job": job["id"], "fence": job["fence"], "outcome": outcome})
        })
        .collect();
    assert_eq!(outcomes.len(), 3);
    let finished = json!({"outcomes": outcomes});
    let finished = admin
        .post_json(&format!("/v1/workers/{id}/finish"), &finished)
        .await
        .unwrap();
    assert_eq!(finished.status, 200, "{}", finished.text());
    app.jobs.statistics().flush().await.unwrap();

    for (by, name) in [("queue", "media"), ("kind", "thumbnail.make")] {
        let stats = body_of(&admin.get(&format!("/v1/stats?by={by}")).await.unwrap());
        let series = &stats["series"][0];
        assert_eq!(series["name"], name, "{stats}");
        let total = &series["total"];
        let told =
            ["enqueued", "completed", "failed", "discarded", "cancelled"].map(|name| total[name].clone());
        assert_eq!(told, [3, 2, 1, 1, 0].map(Value::from));
        assert!(total["run_seconds"]["p50"].is_number() && total["wait_seconds"]["p99"].is_number());
        let points = series["completed"].as_array().unwrap();
        assert_eq!(points.iter().filter_map(Value::as_u64).sum::<u64>(), 2);
        for list in ["enqueued", "available", "oldest_age_seconds"] {
            assert_eq!(series[list].as_array().unwrap().len(), points.len(), "{list}");
        }
        assert_eq!(stats["step_seconds"], 60);
    }
    let all = body_of(&admin.get("/v1/stats?kind=debug.echo").await.unwrap());
    assert_eq!(
        (&all["series"][0]["name"], &all["series"][0]["total"]["enqueued"]),
        (&Value::Null, &json!(0))
    );
    assert_eq!(all["outages"], json!([]));
}

#[tokio::test]
async fn a_question_that_cannot_be_answered_names_its_parameter() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (query, field) in [
        ("step=7", "step"),
        ("from=yesterday", "from"),
        ("by=day", "by"),
        ("limit=5", "limit"),
        ("from=2020-01-01T00:00:00Z&step=60", "step"),
    ] {
        let refused = admin.get(&format!("/v1/stats?{query}")).await.unwrap();
        problem_of(&refused, 400, "invalid-parameter", field);
    }
}
