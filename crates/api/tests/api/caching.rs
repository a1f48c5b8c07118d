//! Cached answers: what is kept, for whom, for how long, and what forgets it.

use std::time::Duration;

use holdfast_testkit::http::Response;
use holdfast_testkit::{PostgresServer, RedisOptions, RedisServer};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, echo, problem, until};

const LISTS_TTL: &str = "HOLDFAST__CACHE__LISTS_TTL_SECONDS";
const LIMIT: Duration = Duration::from_secs(60);

/// Answers are fresh for longer than a test takes.
fn patient() -> TestSettings {
    TestSettings::new().with(LISTS_TTL, "60")
}

#[track_caller]
fn came(response: &Response, how: &str) {
    assert_eq!(response.header("x-cache"), Some(how), "{}", response.text());
}

fn available(response: &Response) -> Value {
    let body = body_of(response);
    let queues = body["queues"].as_array().unwrap();
    let default = queues.iter().find(|queue| queue["name"] == "default").unwrap();
    default["depth"]["available"].clone()
}

#[tokio::test]
async fn a_list_is_made_once_for_all_who_ask_in_its_time() {
    let app = patient().start().await;
    let first = app.admin().get("/v1/queues").await.unwrap();
    came(&first, "miss");
    app.enqueue().await;
    let second = app.admin().get("/v1/queues").await.unwrap();
    came(&second, "hit");
    assert_eq!((first.status, &first.body), (second.status, &second.body));
    assert_eq!(second.header("content-type"), Some("application/json"));
    assert_eq!(second.header("vary"), Some("authorization"));
    assert!(
        second
            .header("cache-control")
            .unwrap()
            .starts_with("private, max-age=")
    );
    assert!(second.header("age").is_some());

    let mut own = app.admin().with_header("cache-control", "no-cache");
    let fresh = own.get("/v1/queues").await.unwrap();
    came(&fresh, "bypass");
    assert_eq!((available(&second), available(&fresh)), (json!(0), json!(1)));
}

#[tokio::test]
async fn a_client_that_has_the_answer_is_told_so_without_a_body() {
    let app = patient().start().await;
    for path in ["/v1/queues", "/v1/workers", "/openapi.json"] {
        let first = app.admin().get(path).await.unwrap();
        let tag = first.header("etag").unwrap().to_owned();
        assert!(tag.starts_with('"') && tag.ends_with('"'), "{path}: {tag}");
        let known = app
            .admin()
            .request("GET", path, &[("if-none-match", &tag)], &[])
            .await
            .unwrap();
        assert_eq!((known.status, known.body.len()), (304, 0), "{path}");
        assert_eq!(known.header("etag"), Some(tag.as_str()));
        let other = app
            .admin()
            .request("GET", path, &[("if-none-match", "\"another\"")], &[])
            .await
            .unwrap();
        assert_eq!((other.status, &other.body), (200, &first.body), "{path}");
    }
}

#[tokio::test]
async fn one_identity_never_gets_the_answer_of_another() {
    let app = patient().start().await;
    let (mut ann, mut bob) = (
        app.with_scopes("ann", "read").await,
        app.with_scopes("bob", "read").await,
    );
    for client in [&mut ann, &mut bob, &mut app.admin()] {
        came(&client.get("/v1/queues").await.unwrap(), "miss");
        came(&client.get("/v1/queues").await.unwrap(), "hit");
        let head = client.request("HEAD", "/v1/queues", &[], &[]).await.unwrap();
        came(&head, "hit");
        assert_eq!((head.status, head.body.len()), (200, 0));
    }
    let mut producer = app.with_scopes("producer", "produce").await;
    problem(&producer.get("/v1/queues").await.unwrap(), 403, "missing-scope");
    problem(
        &app.client().get("/v1/queues").await.unwrap(),
        401,
        "unauthenticated",
    );
    let odd = app.admin().get("/v1/queues?x=1").await.unwrap();
    problem(&odd, 400, "invalid-parameter");
}

#[tokio::test]
async fn pausing_a_queue_forgets_the_list_on_every_server() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let postgres = PostgresServer::start().await.unwrap();
    let settings = || {
        patient()
            .with("REDIS_URL", &redis.url())
            .with("DATABASE_URL", &postgres.url())
    };
    let (one, other) = (settings().start().await, settings().start().await);
    let paused = async |app: &TestApp| {
        let list = body_of(&app.admin().get("/v1/queues").await.unwrap());
        list["queues"][0]["paused"].clone()
    };
    let name = {
        let list = body_of(&one.admin().get("/v1/queues").await.unwrap());
        list["queues"][0]["name"].as_str().unwrap().to_owned()
    };
    for (verb, now) in [("pause", true), ("resume", false)] {
        assert_eq!(paused(&one).await, !now);
        until("the other server has listed them", LIMIT, async || {
            (paused(&other).await == !now).then_some(())
        })
        .await;
        let path = format!("/v1/queues/{name}/{verb}");
        let done = one.admin().request("POST", &path, &[], &[]).await.unwrap();
        assert_eq!(done.status, 200);
        assert_eq!(paused(&one).await, now, "at once on the server that did it");
        until("the other server sees it", LIMIT, async || {
            (paused(&other).await == now).then_some(())
        })
        .await;
    }
}

#[tokio::test]
async fn with_the_database_away_the_last_list_is_served_as_stale() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with(LISTS_TTL, "0.05")
        .with("DATABASE_URL", &postgres.url())
        .with("HOLDFAST__DATABASE__ACQUIRE_TIMEOUT_SECONDS", "1")
        .with("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "2")
        .start()
        .await;
    let before = app.admin().get("/v1/queues").await.unwrap();
    came(&before, "miss");
    postgres.kill9().await.unwrap();
    let stale = until("its time is over", LIMIT, async || {
        let response = app.admin().get("/v1/queues").await.unwrap();
        (response.header("x-cache") == Some("stale")).then_some(response)
    })
    .await;
    assert_eq!((stale.status, &stale.body), (200, &before.body));
    // What was never asked for has no last answer.
    problem(&app.admin().get("/v1/workers").await.unwrap(), 503, "unavailable");
}

#[tokio::test]
async fn with_caching_off_every_answer_is_made_anew() {
    let app = TestSettings::new().with(LISTS_TTL, "0").start().await;
    for _ in 0..3 {
        came(&app.admin().get("/v1/queues").await.unwrap(), "bypass");
        app.admin().post_json("/v1/jobs", &echo(json!(1))).await.unwrap();
    }
    // The counts of a busy database are shared for a moment: only no answer may be kept for longer.
    until("the last job is counted", LIMIT, async || {
        let response = app.admin().get("/v1/queues").await.unwrap();
        came(&response, "bypass");
        (available(&response) == json!(3)).then_some(())
    })
    .await;
}

#[tokio::test]
async fn no_service_has_the_routes_of_the_bench() {
    let app = TestApp::start().await;
    for path in ["/measure/constant", "/measure/local", "/measure/redis"] {
        problem(&app.admin().get(path).await.unwrap(), 404, "route-not-found");
    }
}
