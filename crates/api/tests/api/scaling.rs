//! `GET /v1/scaling`: figures from statistics, and what follows from them.

use holdfast_core::clock;
use holdfast_testkit::PostgresServer;
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem_of};

async fn on_sqlite() -> TestApp {
    TestApp::start().await
}

async fn scaling(app: &TestApp, query: &str) -> Value {
    let answer = app.admin().get(&format!("/v1/scaling{query}")).await.unwrap();
    assert_eq!(answer.status, 200, "{}", answer.text());
    body_of(&answer)
}

/// What the one process that has the duty of this minute does.
async fn write_figures(app: &TestApp) {
    app.jobs.statistics().flush().await.unwrap();
    let minute = clock::now().timestamp().div_euclid(60);
    app.jobs.sum_statistics(minute).await.unwrap();
}

async fn a_backlog_is_advised_places_by_rate_run_time_and_drain_time(app: TestApp) {
    let before = scaling(&app, "").await;
    assert_eq!(
        (&before["trusted"], &before["reasons"], &before["as_of"]),
        (&json!(false), &json!(["no-depths"]), &Value::Null)
    );
    assert_eq!(before["queues"]["default"]["desired_replicas"], 0);
    for _ in 0..120 {
        app.enqueue().await;
    }
    // A job waits, and no depth says so yet.
    let due = &scaling(&app, "").await["queues"]["default"];
    assert_eq!(
        (&due["has_due_job"], &due["waiting"], &due["desired_replicas"]),
        (&json!(true), &json!(0), &json!(1))
    );
    write_figures(&app).await;
    let after = scaling(&app, "").await;
    assert_eq!((&after["trusted"], &after["reasons"]), (&json!(true), &json!([])));
    assert!(after["age_seconds"].as_f64().unwrap() < 90.0, "{after}");
    let window = after["window_seconds"].as_f64().unwrap();
    assert!((300.0..=361.0).contains(&window), "{after}");
    let queue = &after["queues"]["default"];
    assert_eq!((&queue["waiting"], &queue["running"]), (&json!(120), &json!(0)));
    let arrivals = queue["arrivals_per_second"].as_f64().unwrap();
    assert!((arrivals * window - 120.0).abs() < 1.0, "{after}");
    // No job has ended: each is taken to run for a second. 120 in 60 s, and what arrives meanwhile.
    let places = (120.0 / 60.0 + 120.0 / window).ceil();
    assert_eq!(
        queue["desired_places"].as_u64().unwrap(),
        places as u64,
        "{after}"
    );
    assert_eq!(queue["desired_replicas"], 1);
    assert_eq!(after["fleets"]["rust"]["waiting"], 120);
    assert_eq!(after["fleets"]["pull"]["waiting"], 0);
    let fast = &scaling(&app, "?queue=default&drain_seconds=1").await;
    assert_eq!(fast["queues"].as_object().unwrap().len(), 1);
    let queue = &fast["queues"]["default"];
    assert_eq!(
        (&queue["desired_places"], &queue["desired_replicas"]),
        (&json!(121), &json!(3))
    );
    app.jobs.pause("default").await.unwrap();
    let paused = &scaling(&app, "").await["queues"]["default"];
    assert_eq!(
        (&paused["paused"], &paused["desired_replicas"]),
        (&json!(true), &json!(0))
    );
}

async fn living_workers_are_counted_and_old_figures_never_advise_less(app: TestApp) {
    let mut admin = app.admin();
    let kind = json!({"queue": "media", "payload_schema": {}}).to_string();
    let headers = [("content-type", "application/json")];
    let declared = admin
        .request("PUT", "/v1/kinds/thumbnail.make", &headers, kind.as_bytes())
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    for name in ["one", "other"] {
        let worker = json!({"name": name, "queues": ["media"], "concurrency": 4,
            "client": {"name": "test", "version": "1", "language": "sh"}});
        let worker = body_of(&admin.post_json("/v1/workers", &worker).await.unwrap());
        let heartbeat = format!("/v1/workers/{}/heartbeat", worker["id"].as_str().unwrap());
        let beaten = admin
            .post_json(&heartbeat, &json!({"running": []}))
            .await
            .unwrap();
        assert_eq!(beaten.status, 200, "{}", beaten.text());
    }
    // There are no depths: no worker is advised away.
    let untrusted = scaling(&app, "?queue=media").await;
    let queue = &untrusted["queues"]["media"];
    assert_eq!(
        (&queue["workers"], &queue["places"]),
        (&json!(2), &json!(8)),
        "{untrusted}"
    );
    assert_eq!(
        (&queue["desired_replicas"], &queue["desired_places"]),
        (&json!(2), &json!(8))
    );
    assert_eq!(untrusted["fleets"]["pull"]["desired_replicas"], 2);
    write_figures(&app).await;
    let trusted = scaling(&app, "?queue=media").await;
    assert_eq!(trusted["trusted"], true, "{trusted}");
    assert_eq!(trusted["queues"]["media"]["desired_replicas"], 0);
    assert_eq!(trusted["fleets"]["pull"]["desired_replicas"], 0);
    assert_eq!(trusted["fleets"]["pull"]["places"], 8);
}

#[tokio::test]
async fn a_backlog_is_advised_places_on_sqlite() {
    a_backlog_is_advised_places_by_rate_run_time_and_drain_time(on_sqlite().await).await;
}

#[tokio::test]
async fn a_backlog_is_advised_places_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .start()
        .await;
    a_backlog_is_advised_places_by_rate_run_time_and_drain_time(app).await;
}

#[tokio::test]
async fn workers_are_counted_on_sqlite() {
    living_workers_are_counted_and_old_figures_never_advise_less(on_sqlite().await).await;
}

#[tokio::test]
async fn workers_are_counted_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .start()
        .await;
    living_workers_are_counted_and_old_figures_never_advise_less(app).await;
}

#[tokio::test]
async fn a_drain_time_out_of_range_names_its_parameter() {
    let app = TestApp::start().await;
    for drain in ["0", "86401", "soon"] {
        let refused = app
            .admin()
            .get(&format!("/v1/scaling?drain_seconds={drain}"))
            .await
            .unwrap();
        problem_of(&refused, 400, "invalid-parameter", "drain_seconds");
    }
}
