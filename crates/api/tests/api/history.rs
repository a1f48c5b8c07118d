//! `GET /v1/jobs/{id}/attempts` and `/log`: what they answer, and to whom.

use holdfast_jobs::ledger::{ErrorRecord, Outcome};
use serde_json::json;

use crate::support::{TestApp, body_of, problem, problem_of};

#[tokio::test]
async fn attempts_and_lines_are_shown_and_their_texts_hidden_from_viewers() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let id = app.enqueue().await;
    let worker = app.worker().await;
    let lost_after = app.settings.worker.lost_after;
    let claimed = app
        .jobs
        .ledger()
        .claim("default", worker, 1, lost_after)
        .await
        .unwrap();
    let fence = claimed[0].fence();
    app.jobs.write_log(worker, fence, &["one", "two"]).await.unwrap();
    let error = ErrorRecord::new(
        holdfast_core::clock::now(),
        1,
        "timeout",
        "it timed out",
        "web-1-17-9R6BHX",
    );
    let error = error.after(Some(std::time::Duration::from_secs(2)));
    let discarded = [Outcome::Discard { fence, error }];
    assert_eq!(app.jobs.ledger().finish(worker, &discarded).await.unwrap(), [id]);

    let attempts = body_of(&admin.get(&format!("/v1/jobs/{id}/attempts")).await.unwrap());
    assert_eq!(attempts["state"], "discarded");
    let attempt = &attempts["attempts"][0];
    assert_eq!(
        (&attempt["attempt"], &attempt["outcome"]),
        (&json!(1), &json!("discarded"))
    );
    assert_eq!(
        (&attempt["worker"], &attempt["host"]),
        (&json!("web-1-17-9R6BHX"), &json!("web-1"))
    );
    assert_eq!(attempt["duration_seconds"], 2.0);
    assert_eq!(attempt["error"]["message"], "it timed out");

    let log = body_of(&admin.get(&format!("/v1/jobs/{id}/log")).await.unwrap());
    assert_eq!((&log["state"], &log["dropped"]), (&json!("discarded"), &json!(0)));
    let lines = log["lines"].as_array().unwrap();
    assert_eq!(lines.len(), 2, "{log}");
    assert_eq!(
        (&lines[1]["line"], &lines[1]["number"], &lines[1]["attempt"]),
        (&json!("two"), &json!(2), &json!(1))
    );
    let later = body_of(&admin.get(&format!("/v1/jobs/{id}/log?after=1")).await.unwrap());
    assert_eq!(later["lines"].as_array().unwrap().len(), 1, "{later}");

    let mut reader = app.with_scopes("reader", "read").await;
    let hidden = body_of(&reader.get(&format!("/v1/jobs/{id}/attempts")).await.unwrap());
    assert_eq!(hidden["attempts"][0]["error"]["message"], "[redacted]");
    let hidden = body_of(&reader.get(&format!("/v1/jobs/{id}/log")).await.unwrap());
    assert_eq!(hidden["lines"][0]["line"], "[redacted]");
}

#[tokio::test]
async fn unknown_jobs_and_wrong_parameters_are_named() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let id = app.enqueue().await;
    for part in ["attempts", "log"] {
        let unknown = holdfast_jobs::JobId::generate();
        problem(
            &admin.get(&format!("/v1/jobs/{unknown}/{part}")).await.unwrap(),
            404,
            "job-not-found",
        );
        problem_of(
            &admin.get(&format!("/v1/jobs/nonsense/{part}")).await.unwrap(),
            400,
            "invalid-id",
            "id",
        );
    }
    let path = format!("/v1/jobs/{id}/log?after=-1");
    problem_of(
        &admin.get(&path).await.unwrap(),
        400,
        "invalid-parameter",
        "after",
    );
    let empty = body_of(&admin.get(&format!("/v1/jobs/{id}/log")).await.unwrap());
    assert_eq!(empty["lines"], json!([]));
}
