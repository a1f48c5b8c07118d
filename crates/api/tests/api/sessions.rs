//! People who log in: what lets them in, what ends it, and what holds while a store is away.

use std::time::{Duration, Instant};

use holdfast_accounts::Role;
use holdfast_core::redis::{RedisGate, Role as GateRole};
use holdfast_testkit::{PostgresServer, RedisOptions, RedisServer};
use secrecy::SecretString;
use serde_json::json;

use crate::attacks::expired_twin_of;
use crate::support::{PASSWORD, TestApp, TestSettings, body_of, by, echo, problem, problem_of, until};

/// Generous: nothing here is about speed.
const PATIENCE: Duration = Duration::from_mins(1);

async fn with_redis(redis: &RedisServer) -> TestApp {
    let app = TestSettings::new().over(&redis.url()).start().await;
    wait_for_sessions(&app, "healthy").await;
    app
}

/// Waits until `/health` says this of the sessions.
async fn wait_for_sessions(app: &TestApp, status: &str) {
    let redis = &app.settings.redis;
    let gate = RedisGate::open(GateRole::Cache, redis.cache.as_ref(), redis).unwrap();
    gate.wait_ready(PATIENCE).await;
    until(&format!("sessions are {status}"), PATIENCE, async || {
        let body = body_of(&app.client().get("/health").await.unwrap());
        (body["services"]["sessions"]["status"] == status).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_session_does_what_its_users_role_allows_and_no_more() {
    let app = TestApp::start().await;
    let user = app.user("Ada@Example.com", Role::Operator).await;
    let response = app.try_login("ada@example.COM", PASSWORD).await;
    assert_eq!(response.status, 200, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    let body = body_of(&response);
    assert_eq!(
        (&body["token_type"], &body["expires_in"]),
        (&json!("Bearer"), &json!(900))
    );
    assert_eq!(
        body["user"],
        json!({"id": user.id.to_string(), "name": "ada@example.com", "role": "operator", "scopes": ["produce", "read", "read:payload"]})
    );
    let token = body["access_token"].as_str().unwrap();
    assert_eq!(
        body_of(&app.me(token).await),
        json!({"kind": "user", "id": user.id.to_string(), "name": "ada@example.com", "scopes": ["produce", "read", "read:payload"]})
    );
    let mut session = app.client().with_bearer(token);
    assert_eq!(
        session
            .post_json("/v1/jobs", &echo(json!(1)))
            .await
            .unwrap()
            .status,
        202
    );
    assert_eq!(session.get("/v1/jobs").await.unwrap().status, 200);
    problem(
        &app.post(token, "/v1/queues/default/pause").await,
        403,
        "missing-scope",
    );
}

#[tokio::test]
async fn whatever_is_wrong_with_a_login_is_answered_alike() {
    let app = TestApp::start().await;
    app.user("ada", Role::Viewer).await;
    app.user("gone", Role::Viewer).await;
    app.users.set_enabled("gone", false, &by()).await.unwrap();
    let mut answers = Vec::new();
    for (name, password) in [
        ("ada", "a wrong password"),
        ("gone", PASSWORD),
        ("nobody", PASSWORD),
    ] {
        let response = app.try_login(name, password).await;
        let mut body = problem(&response, 401, "login-failed");
        assert!(!response.text().contains(password), "{}", response.text());
        body.as_object_mut().unwrap().remove("request_id");
        let mut headers = response.headers.clone();
        headers.retain(|(name, _)| {
            !["x-request-id", "date", "ratelimit"].contains(&name.to_lowercase().as_str())
        });
        headers.sort();
        answers.push((body, headers));
    }
    assert!(answers.iter().all(|answer| *answer == answers[0]), "{answers:?}");
}

#[tokio::test]
async fn a_login_that_makes_no_sense_is_told_why() {
    let app = TestApp::start().await;
    let post = async |body| app.client().post_json("/v1/auth/login", &body).await.unwrap();
    problem_of(
        &post(json!({"name": "ada"})).await,
        422,
        "invalid-field",
        "password",
    );
    let number = post(json!({"name": "ada", "password": 123_456_789})).await;
    problem_of(&number, 422, "invalid-field", "password");
    assert!(!number.text().contains("123456789"), "{}", number.text());
    let long = json!({"name": "ada", "password": "p".repeat(1_025)});
    problem_of(&post(long).await, 422, "invalid-field", "password");
    let long = json!({"name": "n".repeat(255), "password": PASSWORD});
    problem_of(&post(long).await, 422, "invalid-field", "name");
    let huge = vec![b' '; app.settings.server.max_body_bytes + 1];
    let huge = app
        .client()
        .request(
            "POST",
            "/v1/auth/login",
            &[("content-type", "application/json")],
            &huge[..],
        )
        .await;
    // The server may hang up on whoever goes on sending; if it answers, it says so.
    if let Ok(response) = huge {
        problem(&response, 413, "body-too-large");
    }
}

#[tokio::test]
async fn a_logout_ends_the_session_in_every_process_at_once() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = with_redis(&redis).await;
    let twin = app.twin().await;
    wait_for_sessions(&twin, "healthy").await;
    app.user("ada", Role::Viewer).await;
    let (token, other) = (app.log_in("ada").await, app.log_in("ada").await);
    assert_eq!(twin.me(&token).await.status, 200);

    assert_eq!(twin.post(&token, "/v1/auth/logout").await.status, 204);
    for process in [&app, &twin] {
        problem(&process.me(&token).await, 401, "unauthenticated");
        problem(
            &process.post(&token, "/v1/auth/refresh").await,
            401,
            "unauthenticated",
        );
        problem(
            &process.post(&token, "/v1/auth/logout").await,
            401,
            "unauthenticated",
        );
        assert_eq!(process.me(&other).await.status, 200, "another session goes on");
    }
    let keys = redis.keys("*").await.unwrap().join(" ");
    assert!(!keys.contains("ada") && !keys.contains(&token), "{keys}");
}

#[tokio::test]
async fn a_token_is_exchanged_for_the_next_also_after_it_expired() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = with_redis(&redis).await;
    app.user("ada", Role::Viewer).await;
    let first = app.log_in("ada").await;
    let refreshed = app.post(&first, "/v1/auth/refresh").await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let second = body_of(&refreshed)["access_token"].as_str().unwrap().to_owned();
    assert_ne!(first, second);
    assert_eq!(app.me(&second).await.status, 200);

    let expired = expired_twin_of(&second, 60);
    let refused = app.me(&expired).await;
    let body = problem(&refused, 401, "unauthenticated");
    assert!(
        body["detail"].as_str().unwrap().contains("/v1/auth/refresh"),
        "{body}"
    );
    let refreshed = app.post(&expired, "/v1/auth/refresh").await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let second = body_of(&refreshed)["access_token"].as_str().unwrap().to_owned();
    // Longer ago than a session lasts unused.
    let old = expired_twin_of(&second, 3_600);
    problem(&app.post(&old, "/v1/auth/refresh").await, 401, "unauthenticated");

    assert_eq!(app.post(&second, "/v1/auth/logout").await.status, 204);
    for token in [&first, &second, &expired] {
        problem(&app.post(token, "/v1/auth/refresh").await, 401, "unauthenticated");
    }
    let key = app.post(crate::support::ADMIN, "/v1/auth/refresh").await;
    problem(&key, 400, "not-a-session");
    problem(
        &app.post(crate::support::ADMIN, "/v1/auth/logout").await,
        400,
        "not-a-session",
    );
}

#[tokio::test]
async fn a_new_password_or_a_disabled_user_ends_the_sessions_without_redis_too() {
    let app = TestApp::start().await;
    let ended = async |token: &str| {
        until("the session has ended", PATIENCE, async || {
            (app.me(token).await.status == 401).then_some(())
        })
        .await;
        problem(&app.post(token, "/v1/auth/refresh").await, 401, "unauthenticated");
    };
    app.user("ada", Role::Viewer).await;
    let token = app.log_in("ada").await;
    assert_eq!(app.me(&token).await.status, 200);
    let password = SecretString::from("another long password".to_owned());
    app.users.set_password("ada", &password, &by()).await.unwrap();
    ended(&token).await;
    problem(&app.try_login("ada", PASSWORD).await, 401, "login-failed");

    let response = app.try_login("ada", "another long password").await;
    let token = body_of(&response)["access_token"].as_str().unwrap().to_owned();
    assert_eq!(app.me(&token).await.status, 200);
    app.users.set_enabled("ada", false, &by()).await.unwrap();
    ended(&token).await;
    app.users.set_enabled("ada", true, &by()).await.unwrap();
    problem(&app.me(&token).await, 401, "unauthenticated");
}

#[tokio::test]
async fn while_redis_is_away_tokens_are_good_and_a_logout_holds_here_and_later_everywhere() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = with_redis(&redis).await;
    let twin = app.twin().await;
    wait_for_sessions(&twin, "healthy").await;
    app.user("ada", Role::Viewer).await;
    let (kept, left) = (app.log_in("ada").await, app.log_in("ada").await);
    assert_eq!(twin.me(&left).await.status, 200);

    redis.kill9().await.unwrap();
    wait_for_sessions(&app, "degraded").await;
    wait_for_sessions(&twin, "degraded").await;
    let health = app.client().get("/health").await.unwrap();
    assert_eq!(health.status, 200);
    assert!(body_of(&health)["services"]["sessions"]["hint"].is_string());
    for process in [&app, &twin] {
        assert_eq!(process.me(&kept).await.status, 200);
    }
    assert_eq!(app.post(&left, "/v1/auth/logout").await.status, 204);
    problem(&app.me(&left).await, 401, "unauthenticated");
    until("the other process knows it from SQL", PATIENCE, async || {
        (twin.me(&left).await.status == 401).then_some(())
    })
    .await;
    let begun_meanwhile = app.log_in("ada").await;
    assert_eq!(twin.me(&begun_meanwhile).await.status, 200);
    let refreshed = app.post(&kept, "/v1/auth/refresh").await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let expired = expired_twin_of(&kept, 60);
    problem(
        &app.post(&expired, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );

    redis.restart().await.unwrap();
    wait_for_sessions(&app, "healthy").await;
    wait_for_sessions(&twin, "healthy").await;
    until("the logout has reached the other process", PATIENCE, async || {
        (twin.me(&left).await.status == 401).then_some(())
    })
    .await;
    until(
        "the session begun meanwhile is known everywhere",
        PATIENCE,
        async || (twin.me(&begun_meanwhile).await.status == 200).then_some(()),
    )
    .await;
    problem(&app.me(&left).await, 401, "unauthenticated");
}

#[tokio::test]
async fn with_the_database_away_sessions_go_on_and_logins_are_refused_for_now() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .with("HOLDFAST__DATABASE__ACQUIRE_TIMEOUT_SECONDS", "1")
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    app.user("bob", Role::Viewer).await;
    let token = app.log_in("ada").await;
    assert_eq!(app.me(&token).await.status, 200);
    postgres.kill9().await.unwrap();
    assert_eq!(app.me(&token).await.status, 200);
    let refused = app.try_login("bob", PASSWORD).await;
    problem(&refused, 503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    problem(&app.post(&token, "/v1/auth/refresh").await, 503, "unavailable");
    postgres.start_again().await.unwrap();
    until("refreshing works again", PATIENCE, async || {
        (app.post(&token, "/v1/auth/refresh").await.status == 200).then_some(())
    })
    .await;
}

#[tokio::test]
async fn a_logout_that_redis_took_while_sql_was_away_is_written_soon_after_sql_recovers() {
    let (postgres, redis) = tokio::try_join!(
        PostgresServer::start(),
        RedisServer::start(RedisOptions::default())
    )
    .unwrap();
    let app = TestSettings::new()
        .over(&redis.url())
        .with("DATABASE_URL", &postgres.url())
        .with("HOLDFAST__DATABASE__ACQUIRE_TIMEOUT_SECONDS", "1")
        .start()
        .await;
    wait_for_sessions(&app, "healthy").await;
    app.user("ada", Role::Viewer).await;
    let (ended, kept) = (app.log_in("ada").await, app.log_in("ada").await);
    assert_eq!(app.me(&ended).await.status, 200);

    postgres.kill9().await.unwrap();
    assert_eq!(app.post(&ended, "/v1/auth/logout").await.status, 204);
    problem(&app.me(&ended).await, 401, "unauthenticated");
    assert_eq!(app.me(&kept).await.status, 200);

    postgres.start_again().await.unwrap();
    let recovered = Instant::now();
    until("the logout is in SQL", PATIENCE, async || {
        let count = "select count(*) from holdfast_sessions where ended_at is not null";
        (postgres.psql(count).await.ok()? == "1").then_some(())
    })
    .await;
    // Two seconds between two attempts, as many until the gate of the database opens, and this machine is busy.
    assert!(
        recovered.elapsed() < Duration::from_secs(20),
        "{:?}",
        recovered.elapsed()
    );
    // Now it needs Redis no more: a process that starts without it refuses the token.
    redis.kill9().await.unwrap();
    let twin = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .start()
        .await;
    problem(&twin.me(&ended).await, 401, "unauthenticated");
    problem(
        &twin.post(&ended, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );
    assert_eq!(twin.me(&kept).await.status, 200);
}

#[tokio::test]
async fn users_are_the_same_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let app = TestSettings::new()
        .with("DATABASE_URL", &postgres.url())
        .start()
        .await;
    let made = app.user("Ada", Role::Admin).await;
    assert_eq!(
        (made.name.as_str(), made.role, made.token_version),
        ("ada", Role::Admin, 1)
    );
    let token = app.log_in("ADA").await;
    assert_eq!(body_of(&app.me(&token).await)["scopes"], json!(["admin"]));
    let off = app.users.set_enabled("ada", false, &by()).await.unwrap().unwrap();
    assert!(off.disabled_at.is_some() && off.updated_at >= made.updated_at);
    problem(&app.try_login("ada", PASSWORD).await, 401, "login-failed");
    let on = app.users.set_enabled("ada", true, &by()).await.unwrap().unwrap();
    assert_eq!((on.disabled_at, on.token_version), (None, 3));
    let viewer = app
        .users
        .set_role("ada", Role::Viewer, &by())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(viewer.role, Role::Viewer);
    let password = SecretString::from("another long password".to_owned());
    app.users
        .set_password("ada", &password, &by())
        .await
        .unwrap()
        .unwrap();
    assert_eq!(app.try_login("ada", "another long password").await.status, 200);
    assert_eq!(app.users.list().await.unwrap().len(), 1);
    let stored = postgres
        .psql("select password_hash from holdfast_users")
        .await
        .unwrap();
    assert!(stored.contains("$argon2id$v=19$"), "{stored}");
}

#[tokio::test]
async fn production_without_a_secret_has_no_logins_and_says_what_to_set() {
    let app = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .without("JWT_SECRET_KEY")
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    let body = problem(&app.try_login("ada", PASSWORD).await, 501, "login-off");
    assert!(
        body["detail"].as_str().unwrap().contains("JWT_SECRET_KEY"),
        "{body}"
    );
    let health = body_of(&app.client().get("/health").await.unwrap());
    assert_eq!(health["services"]["sessions"]["status"], "not_configured");
    assert_eq!(app.admin().get("/v1/auth/me").await.unwrap().status, 200);
}
