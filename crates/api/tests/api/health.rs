//! The health routes, beside the API and alone.

use std::time::{Duration, Instant};

use holdfast_core::shutdown::Shutdown;
use holdfast_http::health::{DatabaseProbe, Health, health_server};
use holdfast_testkit::http;
use holdfast_testkit::{RedisOptions, RedisServer};
use serde_json::json;

use crate::support::{TestApp, TestSettings, body_of, problem, until};

#[tokio::test]
async fn a_report_names_every_service_and_needs_no_key() {
    let app = TestApp::start().await;
    app.worker().await;
    app.enqueue().await;
    let response = app.client().get("/health").await.unwrap();
    assert_eq!(response.status, 200);
    let body = body_of(&response);
    assert_eq!(body["status"], "healthy", "{body}");
    assert_eq!(body["version"], env!("CARGO_PKG_VERSION"));
    assert!(body["uptime_seconds"].is_u64());
    let services = &body["services"];
    for name in ["database", "redis", "queue", "workers"] {
        assert!(services[name]["response_time_ms"].is_f64(), "{body}");
        assert!(services[name]["details"].is_object(), "{body}");
    }
    assert_eq!(services["database"]["status"], "healthy");
    assert_eq!(services["database"]["details"]["kind"], "sqlite");
    assert_eq!(
        services["redis"]["status"], "not_configured",
        "no Redis is no fault"
    );
    assert_eq!(services["queue"]["details"]["queues"]["default"]["available"], 1);
    assert_eq!(services["workers"]["details"]["count"], 1);
    assert_eq!(services["workers"]["details"]["queues"], json!({"default": 1}));
}

#[tokio::test]
async fn no_worker_is_a_degraded_service_with_a_hint() {
    let app = TestApp::start().await;
    let response = app.client().get("/health").await.unwrap();
    let body = body_of(&response);
    assert_eq!((response.status, &body["status"]), (200, &json!("degraded")));
    assert_eq!(body["services"]["workers"]["status"], "degraded");
    assert!(
        body["services"]["workers"]["hint"]
            .as_str()
            .unwrap()
            .contains("worker")
    );
}

#[tokio::test]
async fn live_and_ready_say_so() {
    let app = TestApp::start().await;
    let mut client = app.client();
    assert_eq!(
        body_of(&client.get("/health/live").await.unwrap())["status"],
        "alive"
    );
    assert_eq!(
        body_of(&client.get("/health/ready").await.unwrap())["status"],
        "ready"
    );
}

#[tokio::test]
async fn redis_is_reported_with_its_details_and_its_loss_degrades() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.worker().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    let mut client = app.client();
    let body = body_of(&client.get("/health").await.unwrap());
    assert_eq!(body["status"], "healthy", "{body}");
    let details = &body["services"]["redis"]["details"];
    assert!(details["version"].as_str().unwrap().contains('.'), "{details}");
    assert!(
        details["memory_used"].is_string() && details["connected_clients"].is_u64(),
        "{details}"
    );
    assert!(
        details["uptime_days"].is_u64() && details["pool"]["max"].is_u64(),
        "{details}"
    );
    assert_eq!(
        (&details["mode"], &details["breaker"]),
        (&json!("normal"), &json!("closed"))
    );

    redis.kill9().await.unwrap();
    let degraded = until("degraded", Duration::from_secs(10), async || {
        let response = client.get("/health").await.unwrap();
        assert_eq!(response.status, 200, "{}", response.text());
        let body = body_of(&response);
        (body["status"] == "degraded").then_some(body)
    });
    let degraded = degraded.await;
    let redis_health = &degraded["services"]["redis"];
    assert_eq!(redis_health["status"], "degraded");
    assert!(
        redis_health["hint"].is_string() && redis_health["details"]["since"].is_string(),
        "{redis_health}"
    );
}

#[tokio::test]
async fn a_hanging_redis_does_not_hang_the_report() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new().with("REDIS_URL", &redis.url()).start().await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    redis.sigstop().await.unwrap();
    for _ in 0..5 {
        let started = Instant::now();
        assert_eq!(app.client().get("/health").await.unwrap().status, 200);
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
    }
    redis.sigcont().await.unwrap();
}

#[tokio::test]
async fn a_process_with_nothing_else_serves_the_health_routes_alone() {
    let app = TestApp::start().await;
    let settings = TestSettings::new().load();
    let health = Health::builder()
        .probe(DatabaseProbe::new(app.database.clone()))
        .build();
    let server = health_server(&settings, health).unwrap();
    let address = server.address();
    let shutdown = Shutdown::new();
    let running = tokio::spawn(server.run_until_stopped(shutdown.clone()));
    assert_eq!(
        body_of(&http::get(address, "/health").await.unwrap())["status"],
        "healthy"
    );
    assert_eq!(http::get(address, "/health/live").await.unwrap().status, 200);
    assert_eq!(http::get(address, "/health/ready").await.unwrap().status, 200);
    problem(
        &http::get(address, "/v1/jobs").await.unwrap(),
        404,
        "route-not-found",
    );
    shutdown.trigger();
    running.await.unwrap().unwrap();
}
