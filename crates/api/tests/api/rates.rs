//! How often one may ask, counted over Redis and without it.

use std::time::{Duration, Instant};

use holdfast_core::redis::{RedisGate, Role};
use holdfast_testkit::{RedisOptions, RedisServer};

use crate::support::{ADMIN, TestApp, TestSettings, body_of, problem, until};

const PATIENCE: Duration = Duration::from_mins(1);

/// One a second, and ten at once.
fn limited() -> TestSettings {
    TestSettings::new().with("HOLDFAST__RATE_LIMIT__READ_PER_MINUTE", "60")
}

/// Of so many requests, by turns to these: how many were granted, and how long it took.
async fn granted(apps: &[&TestApp], requests: usize) -> (usize, Duration) {
    let started = Instant::now();
    let mut granted = 0;
    for n in 0..requests {
        let response = apps[n % apps.len()].admin().get("/v1/queues").await.unwrap();
        if response.status == 200 {
            granted += 1;
            continue;
        }
        problem(&response, 429, "too-many-requests");
        let seconds: u64 = response.header("retry-after").unwrap().parse().unwrap();
        assert!((1..=2).contains(&seconds), "{seconds}");
    }
    (granted, started.elapsed())
}

/// A full bucket of ten, and what flowed in meanwhile.
#[track_caller]
fn assert_about_ten((granted, took): (usize, Duration)) {
    let most = 10 + took.as_secs() as usize + 1;
    assert!((10..=most).contains(&granted), "{granted} in {took:?}");
}

/// Waits until a gate of this process' own has reached Redis, and the app's own has said so.
async fn counts_over_redis(app: &TestApp) {
    let redis = &app.settings.redis;
    let gate = RedisGate::open(Role::Cache, redis.cache.as_ref(), redis).unwrap();
    gate.wait_ready(PATIENCE).await;
    sessions_are(app, "healthy").await;
}

async fn sessions_are(app: &TestApp, status: &str) {
    until(&format!("the cache's Redis is {status}"), PATIENCE, async || {
        let body = body_of(&app.client().get("/health").await.unwrap());
        (body["services"]["sessions"]["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_limit_holds_for_all_processes_together() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = limited().over(&redis.url()).start().await;
    let twin = limited().over(&redis.url()).start().await;
    counts_over_redis(&app).await;
    counts_over_redis(&twin).await;
    assert_about_ten(granted(&[&app, &twin], 40).await);

    let refused = app.admin().get("/v1/queues").await.unwrap();
    if refused.status == 429 {
        assert_eq!(refused.header("ratelimit-policy"), Some("\"read\";q=10;w=10"));
        assert!(
            refused
                .header("ratelimit")
                .unwrap()
                .starts_with("\"read\";r=0;t=")
        );
    }
    // Other keys, other classes and the health routes have not been asked for.
    let mut other = app.with_scopes("other", "read").await;
    let response = other.get("/v1/queues").await.unwrap();
    assert_eq!(
        (response.status, response.header("ratelimit")),
        (200, Some("\"read\";r=9;t=1"))
    );
    for path in ["/health", "/health/live", "/openapi.json"] {
        let response = app.client().get(path).await.unwrap();
        assert_eq!(
            (response.status, response.header("ratelimit")),
            (200, None),
            "{path}"
        );
    }
    let echo = crate::support::echo(serde_json::json!(1));
    assert_eq!(
        app.admin().post_json("/v1/jobs", &echo).await.unwrap().status,
        202
    );
}

#[tokio::test]
async fn without_redis_each_process_grants_its_share() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = limited().over(&redis.url()).start().await;
    counts_over_redis(&app).await;
    redis.kill9().await.unwrap();
    sessions_are(&app, "degraded").await;
    assert_about_ten(granted(&[&app], 30).await);

    let alone = limited()
        .with("HOLDFAST__RATE_LIMIT__INSTANCES", "10")
        .start()
        .await;
    let started = Instant::now();
    let first = alone.admin().get("/v1/queues").await.unwrap();
    let second = alone.admin().get("/v1/queues").await.unwrap();
    assert_eq!(first.status, 200);
    if started.elapsed() < Duration::from_secs(9) {
        problem(&second, 429, "too-many-requests");
    }
}

#[tokio::test]
async fn guessing_keys_is_limited_by_address_and_right_ones_are_not_held_up() {
    let app = TestSettings::new()
        .with("HOLDFAST__RATE_LIMIT__ANONYMOUS_PER_MINUTE", "30")
        .start()
        .await;
    assert_eq!(app.admin().get("/v1/queues").await.unwrap().status, 200);
    let started = Instant::now();
    let mut refused = 0;
    for n in 0..12 {
        let guess = format!("hf_{n:064}");
        let response = app.client().with_bearer(&guess).get("/v1/queues").await.unwrap();
        refused += usize::from(response.status == 429);
        assert!([401, 429].contains(&response.status), "{}", response.text());
    }
    // Five at once, then one in two seconds.
    let flowed_in = started.elapsed().as_secs() as usize / 2 + 1;
    assert!(
        refused + flowed_in + 5 >= 12,
        "{refused} in {:?}",
        started.elapsed()
    );
    assert_eq!(
        app.client()
            .with_bearer(ADMIN)
            .get("/v1/queues")
            .await
            .unwrap()
            .status,
        200
    );
}

#[tokio::test]
async fn without_a_limit_nothing_is_counted_or_said() {
    let app = TestApp::start().await;
    for _ in 0..50 {
        let response = app.admin().get("/v1/queues").await.unwrap();
        assert_eq!(
            (response.status, response.header("ratelimit-policy")),
            (200, None)
        );
    }
}
