//! What clients are told while a store is away, and that nobody has to restart anything.

use std::time::{Duration, Instant};

use holdfast_testkit::{PostgresServer, RedisOptions, RedisServer};
use serde_json::json;

use crate::support::{ADMIN, TestApp, TestSettings, body_of, echo, problem, until};

async fn on_postgres(postgres: &PostgresServer, settings: TestSettings) -> TestApp {
    settings
        .with("DATABASE_URL", &postgres.url())
        .with("HOLDFAST__DATABASE__ACQUIRE_TIMEOUT_SECONDS", "1")
        .with("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "2")
        .start()
        .await
}

#[tokio::test]
async fn with_the_database_away_an_enqueue_is_refused_with_retry_after_and_works_again_by_itself() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = on_postgres(&postgres, TestSettings::new()).await;
    let mut keyed = app.with_scopes("known", "produce").await;
    assert_eq!(
        keyed.post_json("/v1/jobs", &echo(json!(1))).await.unwrap().status,
        202
    );

    postgres.kill9().await.unwrap();
    // A key that was seen still is one: the answer is 503, not 401.
    let started = Instant::now();
    let response = keyed.post_json("/v1/jobs", &echo(json!(2))).await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(10),
        "{:?}",
        started.elapsed()
    );
    problem(&response, 503, "unavailable");
    assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);
    assert!(
        !response.text().contains(&postgres.port().to_string()),
        "{}",
        response.text()
    );

    // One that was not may be right.
    let unknown = app
        .client()
        .with_bearer("hf_unknown")
        .get("/v1/queues")
        .await
        .unwrap();
    problem(&unknown, 503, "unavailable");

    for path in [
        "/v1/jobs",
        "/v1/queues",
        "/v1/workers",
        "/v1/jobs/01JD3V0S7W8Q4M2XKZC5T9R6BH",
    ] {
        problem(
            &app.client().with_bearer(ADMIN).get(path).await.unwrap(),
            503,
            "unavailable",
        );
    }
    let started = Instant::now();
    let health = app.client().get("/health").await.unwrap();
    assert!(
        started.elapsed() < Duration::from_secs(1),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(
        (health.status, &body_of(&health)["status"]),
        (503, &json!("unhealthy"))
    );
    assert!(body_of(&health)["services"]["database"]["hint"].is_string());
    assert_eq!(app.client().get("/health/live").await.unwrap().status, 200);
    assert_eq!(app.client().get("/health/ready").await.unwrap().status, 503);

    postgres.start_again().await.unwrap();
    until("enqueues work again", Duration::from_secs(20), async || {
        (keyed.post_json("/v1/jobs", &echo(json!(3))).await.unwrap().status == 202).then_some(())
    })
    .await;
    until("healthy again", Duration::from_secs(10), async || {
        (app.client().get("/health").await.unwrap().status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_pull_workers_calls_are_refused_with_retry_after_and_its_outcome_is_stored_after_the_outage() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = TestSettings::new().with("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "50");
    let app = on_postgres(&postgres, settings).await;
    let (mut admin, mut work) = (app.admin(), app.with_scopes("worker", "work").await);
    let kind = json!({"queue": "media"}).to_string();
    let declared = admin
        .request(
            "PUT",
            "/v1/kinds/thumbnail.make",
            &[("content-type", "application/json")],
            kind.as_bytes(),
        )
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
    let job = json!({"kind": "thumbnail.make", "payload": {}});
    assert_eq!(admin.post_json("/v1/jobs", &job).await.unwrap().status, 202);
    let registration = json!({"name": "host-1", "queues": ["media"], "concurrency": 4,
        "client": {"name": "test", "version": "1", "language": "sh"}});
    let worker = body_of(&work.post_json("/v1/workers", &registration).await.unwrap());
    let own = format!("/v1/workers/{}", worker["id"].as_str().unwrap());
    let pull = json!({"max": 1, "wait_seconds": 20});
    let pulled = body_of(&work.post_json(&format!("{own}/pull"), &pull).await.unwrap());
    let (id, fence) = (&pulled["jobs"][0]["id"], &pulled["jobs"][0]["fence"]);
    let outcomes = json!({"outcomes": [{"job": id, "fence": fence, "outcome": "completed"}]});

    postgres.kill9().await.unwrap();
    let calls = [
        ("/v1/workers".to_owned(), registration),
        (
            format!("{own}/pull"),
            json!({"max": 1, "wait_seconds": 20, "have": [id]}),
        ),
        (format!("{own}/heartbeat"), json!({"running": [id]})),
        (format!("{own}/finish"), outcomes.clone()),
    ];
    for (path, body) in calls {
        let response = work.post_json(&path, &body).await.unwrap();
        problem(&response, 503, "unavailable");
        assert!(
            response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1,
            "{path}"
        );
    }
    let response = work.delete(&own).await.unwrap();
    problem(&response, 503, "unavailable");
    assert!(response.header("retry-after").unwrap().parse::<u32>().unwrap() >= 1);

    postgres.start_again().await.unwrap();
    let stored = until("the outcome is stored", Duration::from_secs(60), async || {
        let response = work.post_json(&format!("{own}/finish"), &outcomes).await.unwrap();
        (response.status == 200).then(|| body_of(&response))
    })
    .await;
    assert_eq!(stored["outcomes"][0]["status"], "stored", "{stored}");
    let shown = body_of(
        &admin
            .get(&format!("/v1/jobs/{}", id.as_str().unwrap()))
            .await
            .unwrap(),
    );
    assert_eq!(
        (&shown["state"], &shown["attempt"], &shown["crashes"]),
        (&json!("completed"), &json!(1), &json!(0))
    );
}

#[tokio::test]
async fn with_the_database_hanging_health_still_answers_within_a_second() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = on_postgres(&postgres, TestSettings::new()).await;
    postgres.sigstop().await.unwrap();
    for _ in 0..3 {
        let started = Instant::now();
        let response = app.client().get("/health").await.unwrap();
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(response.status, 503);
    }
    let response = app.admin().post_json("/v1/jobs", &echo(json!(1))).await.unwrap();
    assert!([503, 504].contains(&response.status), "{}", response.text());
    postgres.sigcont().await.unwrap();
}

#[tokio::test]
async fn a_redis_queue_accepts_while_the_database_is_away_with_keys_that_are_known() {
    let postgres = PostgresServer::start().await.unwrap();
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let settings = TestSettings::new()
        .with("REDIS_URL", &redis.url())
        .with("HOLDFAST__QUEUES__EVENTS__DURABILITY", "redis");
    let app = on_postgres(&postgres, settings).await;
    app.gate.wait_ready(Duration::from_secs(10)).await;
    let mut keyed = app.with_scopes("known", "produce").await;
    let job = json!({"kind": "debug.echo", "payload": 1, "queue": "events"});
    let response = keyed.post_json("/v1/jobs", &job).await.unwrap();
    assert_eq!(
        (response.status, &body_of(&response)["durability"]),
        (202, &json!("redis"))
    );

    postgres.kill9().await.unwrap();
    for _ in 0..3 {
        let response = keyed.post_json("/v1/jobs", &job).await.unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
        let id = body_of(&response)["id"].as_str().unwrap().to_owned();
        let shown = app.admin().get(&format!("/v1/jobs/{id}")).await.unwrap();
        assert_eq!(
            (shown.status, &body_of(&shown)["durability"]),
            (200, &json!("redis")),
            "{}",
            shown.text()
        );
    }
}
