//! `PATCH /v1/jobs/{id}`: what is changed, and what is refused.

use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, echo, id_of, problem, problem_of};

async fn patch(client: &mut Client, id: impl std::fmt::Display, body: &Value) -> Response {
    let headers = [("content-type", "application/json")];
    let body = body.to_string();
    client
        .request("PATCH", &format!("/v1/jobs/{id}"), &headers, body.as_bytes())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_waiting_job_is_changed_and_a_running_one_is_not() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut waiting = echo(json!({"n": 1}));
    waiting["delay_seconds"] = json!(3600);
    let id = id_of(&admin.post_json("/v1/jobs", &waiting).await.unwrap());
    let mut producer = app.with_scopes("producer", "produce").await;
    let change = json!({"payload": {"n": 2}, "priority": "high", "max_attempts": 7, "queue": "events", "run_at": "2030-01-02T03:04:05Z"});
    let edited = body_of(&patch(&mut producer, id, &change).await);
    assert_eq!(
        edited,
        json!({"id": id, "state": "scheduled", "queue": "events", "priority": "high", "max_attempts": 7, "run_at": "2030-01-02T03:04:05Z"})
    );
    let job = body_of(&admin.get(&format!("/v1/jobs/{id}")).await.unwrap());
    assert_eq!(job["payload"], json!({"n": 2}));
    let audit = body_of(&admin.get("/v1/audit?action=job.edit").await.unwrap());
    assert_eq!(audit["entries"][0]["target"], json!(id));
    assert!(!audit.to_string().contains(r#""n":2"#), "{audit}");

    let running = app.enqueue().await;
    let worker = app.worker().await;
    let lost_after = app.settings.worker.lost_after;
    app.jobs
        .ledger()
        .claim("default", worker, 1, lost_after)
        .await
        .unwrap();
    let refused = problem(
        &patch(&mut admin, running, &json!({"priority": "low"})).await,
        409,
        "illegal-transition",
    );
    assert!(
        refused["detail"].as_str().unwrap().contains("running"),
        "{refused}"
    );
    let job = body_of(&admin.get(&format!("/v1/jobs/{running}")).await.unwrap());
    assert_eq!(job["priority"], "normal");
}

#[tokio::test]
async fn an_invalid_change_names_its_field() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut waiting = echo(json!({}));
    waiting["delay_seconds"] = json!(3600);
    let id = id_of(&admin.post_json("/v1/jobs", &waiting).await.unwrap());
    for (body, slug, field) in [
        (json!({}), "invalid-field", "body"),
        (json!({"kind": "debug.sleep"}), "invalid-field", "kind"),
        (json!({"priority": "urgent"}), "invalid-field", "priority"),
        (json!({"max_attempts": 0}), "invalid-field", "max_attempts"),
        (json!({"queue": "nowhere"}), "unknown-queue", "queue"),
        (json!({"run_at": "tomorrow"}), "invalid-field", "run_at"),
        (
            json!({"run_at": "2030-01-02T03:04:05Z", "delay_seconds": 5}),
            "invalid-field",
            "run_at",
        ),
    ] {
        problem_of(&patch(&mut admin, id, &body).await, 422, slug, field);
    }
    let unknown = holdfast_jobs::JobId::generate();
    problem(
        &patch(&mut admin, unknown, &json!({"priority": "low"})).await,
        404,
        "job-not-found",
    );
    problem_of(
        &patch(&mut admin, "nonsense", &json!({})).await,
        400,
        "invalid-id",
        "id",
    );
}
