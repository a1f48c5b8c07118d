//! What a client sends as JSON for its own use comes back as it was sent, byte for byte, on both databases.

use holdfast_testkit::PostgresServer;
use holdfast_testkit::http::Response;
use serde_json::Value;

use crate::support::{TestApp, TestSettings, body_of};

/// JSON that a parser or a database would word otherwise.
const SENT: &str = r#"{"z":1,"a":2,"amount":1e2,"neg":-0,"d":1,"d":2,"tiny":1e-20000,"huge":1e999,"id":1234567890123456789012345678901234567890,"nul":"a\u0000b","half":"\ud800","pair":"\ud83d\ude00", "space" : [ 1 , 2 ]}"#;

async fn post(app: &TestApp, path: &str, body: &str) -> Response {
    request(app, "POST", path, body).await
}

async fn request(app: &TestApp, method: &str, path: &str, body: &str) -> Response {
    let headers = [("content-type", "application/json")];
    let answer = app
        .admin()
        .request(method, path, &headers, body.as_bytes())
        .await
        .unwrap();
    assert!(answer.status < 300, "{path}: {}", answer.text());
    answer
}

async fn send(app: &TestApp, path: &str, body: &str) -> Value {
    body_of(&post(app, path, body).await)
}

async fn shown(app: &TestApp, id: &Value) -> String {
    let path = format!("/v1/jobs/{}", id.as_str().unwrap());
    app.admin().get(&path).await.unwrap().text()
}

/// Cancels the job, which ends it and so its batch.
async fn cancel(app: &TestApp, id: &Value) {
    post(app, &format!("/v1/jobs/{}/cancel", id.as_str().unwrap()), "{}").await;
}

async fn payloads_are_kept(app: &TestApp) {
    let payload = format!(r#""payload":{SENT}"#);
    let echo = |payload: &str| format!(r#"{{"kind":"debug.echo","payload":{payload}}}"#);

    let plain = send(app, "/v1/jobs", &echo(SENT)).await;
    assert!(shown(app, &plain["id"]).await.contains(&payload), "a job");

    let several = send(
        app,
        "/v1/jobs/batch",
        &format!(r#"{{"jobs":[{0},{0}]}}"#, echo(SENT)),
    )
    .await;
    assert!(
        shown(app, &several["ids"][1]).await.contains(&payload),
        "a job of several"
    );

    let batch = format!(r#"{{"jobs":[{}],"callback":{}}}"#, echo("1"), echo(SENT));
    let batch = send(app, "/v1/batches", &batch).await;
    cancel(app, &batch["ids"][0]).await;
    let path = format!("/v1/batches/{}", batch["id"].as_str().unwrap());
    let ended = body_of(&app.admin().get(&path).await.unwrap());
    let callback = shown(app, &ended["callback"]["id"]).await;
    assert!(callback.contains(&payload), "a callback: {callback}");

    let schedule = format!(r#"{{"name":"nightly","cron":"0 3 * * *","kind":"debug.echo","payload":{SENT}}}"#);
    let made = post(app, "/v1/schedules", &schedule).await.text();
    assert!(made.contains(&payload), "a schedule: {made}");
    let of_schedule = app.admin().get("/v1/schedules/nightly").await.unwrap().text();
    assert!(of_schedule.contains(&payload), "a schedule: {of_schedule}");
    let run = send(app, "/v1/schedules/nightly/run", "{}").await;
    let run = shown(app, &run["id"]).await;
    assert!(run.contains(&payload), "a job of a schedule: {run}");
}

/// What a pull worker reports.
async fn reports_are_kept(app: &TestApp) {
    request(app, "PUT", "/v1/kinds/test.sent", r#"{"queue":"sent"}"#).await;
    let job = send(app, "/v1/jobs", r#"{"kind":"test.sent","payload":1}"#).await;
    let worker = r#"{"name":"w","queues":["sent"],"concurrency":1,"client":{"name":"c","version":"1","language":"l"}}"#;
    let worker = send(app, "/v1/workers", worker).await;
    let worker = format!("/v1/workers/{}", worker["id"].as_str().unwrap());
    let pulled = send(app, &format!("{worker}/pull"), r#"{"max":1,"wait_seconds":30}"#).await;
    let (id, fence) = (job["id"].as_str().unwrap(), &pulled["jobs"][0]["fence"]);

    let beat = format!(r#"{{"running":["{id}"],"progress":{{"{id}":{SENT}}}}}"#);
    post(app, &format!("{worker}/heartbeat"), &beat).await;
    let progress = shown(app, &job["id"]).await;
    assert!(
        progress.contains(&format!(r#""progress":{SENT}"#)),
        "progress: {progress}"
    );

    let outcome = format!(r#"{{"job":"{id}","fence":{fence},"outcome":"completed","result":{SENT}}}"#);
    let stored = send(
        app,
        &format!("{worker}/finish"),
        &format!(r#"{{"outcomes":[{outcome}]}}"#),
    )
    .await;
    assert_eq!(stored["outcomes"][0]["status"], "stored", "{stored}");
    let result = shown(app, &job["id"]).await;
    assert!(
        result.contains(&format!(r#""result":{SENT}"#)),
        "a result: {result}"
    );
}

#[tokio::test]
async fn payloads_results_and_progress_are_kept_byte_for_byte() {
    let app = TestApp::start().await;
    payloads_are_kept(&app).await;
    reports_are_kept(&app).await;
    app.stop().await;

    let server = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with("DATABASE_URL", &server.url())
        .start()
        .await;
    payloads_are_kept(&app).await;
    reports_are_kept(&app).await;
    app.stop().await;
}
