//! Attacks on the border, and what holds: sizes, secrets, sessions without Redis, names, headers.

use std::time::{Duration, Instant};

use holdfast_accounts::Role;
use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of, until};

const PATIENCE: Duration = Duration::from_secs(60);

/// After this a logout holds in every process, without Redis: docs/security-model.md.
const LOGOUT_BOUND: Duration = Duration::from_secs(10);

const JSON: (&str, &str) = ("content-type", "application/json");

async fn put(client: &mut Client, path: &str, body: &Value) -> Response {
    let text = body.to_string();
    client
        .request("PUT", path, &[JSON], text.as_bytes())
        .await
        .unwrap()
}

#[tokio::test]
async fn a_login_of_more_than_4_kib_is_refused_before_it_is_read() {
    let app = TestApp::start().await;
    let body = json!({"name": "ada", "password": "x".repeat(4_096)});
    let refused = app.client().post_json("/v1/auth/login", &body).await.unwrap();
    let told = problem(&refused, 413, "body-too-large");
    assert!(told["detail"].as_str().unwrap().contains("4096"), "{told}");
}

#[tokio::test]
async fn a_document_about_one_thing_has_1_mib_whatever_lists_may_have() {
    let app = TestApp::start().await;
    let ada = app.user("ada", Role::Viewer).await;
    let topics: serde_json::Map<_, _> = (0..200_000).map(|n| (format!("t{n}"), json!({}))).collect();
    let path = format!("/v1/users/{}/preferences", ada.id);
    let refused = put(&mut app.admin(), &path, &json!({ "topics": topics })).await;
    problem(&refused, 413, "body-too-large");
}

#[tokio::test]
async fn bodies_beyond_the_budget_are_answered_503_and_small_ones_go_on() {
    let app = TestSettings::new()
        .with("HOLDFAST__SERVER__MAX_BODY_BYTES", "1048576")
        .with("HOLDFAST__SERVER__MAX_BODY_BYTES_IN_FLIGHT", "2097152")
        .start()
        .await;
    let mut slow = Vec::new();
    // Each keeps back its last byte.
    for _ in 0..2 {
        let mut stream = tokio::net::TcpStream::connect(app.address).await.unwrap();
        let head = format!(
            "POST /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {}\r\ncontent-type: application/json\r\n\
             content-length: 800001\r\n\r\n",
            crate::support::ADMIN
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![b' '; 800_000]).await.unwrap();
        slow.push(stream);
    }
    let large = json!([{"uid": "1", "title": "x".repeat(900_000), "starts_at": "2090-01-01T20:00:00Z"}]);
    let refused = until("the budget is spent", PATIENCE, async || {
        let response = app.admin().post_json("/v1/events", &large).await.unwrap();
        (response.status == 503).then_some(response)
    })
    .await;
    problem(&refused, 503, "unavailable");
    assert!(refused.header("retry-after").is_some());
    app.enqueue().await;
    drop(slow);
    until("the budget is there again", PATIENCE, async || {
        let response = app.admin().post_json("/v1/events", &large).await.unwrap();
        (response.status != 503).then_some(())
    })
    .await;
    let mut rest = tokio::net::TcpStream::connect(app.address).await.unwrap();
    rest.write_all(b"GET /health/live HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    rest.read_to_string(&mut answer).await.unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
}

#[tokio::test]
async fn a_list_with_too_many_items_is_refused_at_the_first_too_many() {
    let app = TestApp::start().await;
    let list = format!("[{}0]", "0,".repeat(500_000));
    for path in ["/v1/events", "/v1/interactions", "/v1/points"] {
        let refused = app
            .admin()
            .request("POST", path, &[JSON], list.as_bytes())
            .await
            .unwrap();
        problem(&refused, 413, "batch-too-large");
        // What follows is not even looked at.
        let broken = format!("{}}}}}", &list[..list.len() - 1]);
        let refused = app
            .admin()
            .request("POST", path, &[JSON], broken.as_bytes())
            .await
            .unwrap();
        problem(&refused, 413, "batch-too-large");
    }
    let names: Vec<String> = (0..100_000).map(|n| format!("\"a{n}\":0")).collect();
    let map = format!("{{{},\"events\":[]}}", names.join(","));
    let refused = app
        .admin()
        .request("POST", "/v1/events", &[JSON], map.as_bytes())
        .await
        .unwrap();
    problem_of(&refused, 422, "invalid-field", "a0");
}

#[tokio::test]
async fn a_fault_names_its_own_document() {
    let app = TestApp::start().await;
    let good = json!({"uid": "1", "title": "Jazz", "starts_at": "tomorrow"});
    let refused = app.admin().post_json("/v1/events", &json!([good])).await.unwrap();
    let told = problem_of(&refused, 422, "invalid-field", "events[0].starts_at");
    assert!(
        told["detail"]
            .as_str()
            .unwrap()
            .starts_with("events[0].starts_at: "),
        "{told}"
    );
    let refused = app
        .admin()
        .post_json("/v1/interactions", &json!([{"user": "u"}]))
        .await
        .unwrap();
    let told = problem(&refused, 422, "invalid-field");
    assert!(
        told["field"].as_str().unwrap().starts_with("interactions[0]."),
        "{told}"
    );
    let lines = b"\n\n{\"lat\":1}\n";
    let ndjson = [("content-type", "application/x-ndjson")];
    let refused = app
        .admin()
        .request("POST", "/v1/points", &ndjson, lines)
        .await
        .unwrap();
    let told = problem(&refused, 422, "invalid-field");
    assert_eq!(
        (&told["errors"][0]["line"], &told["errors"][0]["index"]),
        (&json!(3), &json!(0)),
        "{told}"
    );
    assert!(told["detail"].as_str().unwrap().starts_with("line 3: "), "{told}");
}

#[tokio::test]
async fn u0000_is_refused_by_the_name_of_its_field() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (path, field) in [
        ("/v1/jobs?queue=%00", "queue"),
        ("/v1/audit?actor=a%00b", "actor"),
        ("/v1/mail-templates/%00", "path"),
        ("/v1/schedules/a%00b", "path"),
    ] {
        problem_of(&admin.get(path).await.unwrap(), 400, "invalid-parameter", field);
    }
    let body = json!({"filter": {"queue": "a\0b"}});
    let refused = admin.post_json("/v1/jobs/cancel", &body).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "filter.queue");
    let body = json!([{"uid": "1", "title": "a\0", "starts_at": "2090-01-01T20:00:00Z"}]);
    let refused = admin.post_json("/v1/events", &body).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "events[0].title");
}

#[tokio::test]
async fn two_keys_of_idempotency_are_refused_and_encodings_have_no_case() {
    let app = TestApp::start().await;
    let body = json!({"kind": "debug.echo", "payload": 1}).to_string();
    let twice = [JSON, ("idempotency-key", "a"), ("idempotency-key", "b")];
    let refused = app
        .admin()
        .request("POST", "/v1/jobs", &twice, body.as_bytes())
        .await
        .unwrap();
    problem_of(&refused, 400, "invalid-header", "Idempotency-Key");
    let identity = [JSON, ("content-encoding", "Identity")];
    let taken = app
        .admin()
        .request("POST", "/v1/jobs", &identity, body.as_bytes())
        .await
        .unwrap();
    assert_eq!(taken.status, 202, "{}", taken.text());
}

#[tokio::test]
async fn a_keyless_server_trusts_no_proxy_and_no_other_page() {
    let app = TestSettings::new().without("HOLDFAST_API_KEY").start().await;
    let origin = format!("http://{}", app.address);
    let own: [(&str, &str); 1] = [("origin", &origin)];
    let ask = async |headers: &[(&str, &str)]| {
        app.client()
            .request("GET", "/v1/keys", headers, &[])
            .await
            .unwrap()
    };
    assert_eq!(ask(&own).await.status, 200);
    for (name, value) in [
        ("x-forwarded-for", "203.0.113.9"),
        ("forwarded", "for=203.0.113.9"),
        ("via", "1.1 proxy"),
        ("x-real-ip", "127.0.0.1"),
        ("origin", "http://localhost:1"),
        ("sec-fetch-site", "cross-site"),
        ("sec-fetch-site", "same-site"),
    ] {
        problem(&ask(&[(name, value)]).await, 403, "untrusted-origin");
    }
    let mut client = app.client();
    let metrics = client.request("GET", "/metrics", &[("x-forwarded-for", "203.0.113.9")], &[]);
    problem(&metrics.await.unwrap(), 403, "untrusted-origin");
}

#[tokio::test]
async fn secrets_in_payloads_are_for_admins() {
    let app = TestApp::start().await;
    let request = json!({"kind": "http.request", "queue": "default", "delay_seconds": 3600, "payload": {
        "url": "https://u:p%40ss@example.com/x?token=QTOK", "headers": {"x-api-key": "SK_LIVE_1"}},
        "then": {"kind": "notify.email", "payload": {"to": "a@example.com", "template": "t", "data": {"c": "SECRET-77"}}}});
    let enqueued = app.admin().post_json("/v1/jobs", &request).await.unwrap();
    assert_eq!(enqueued.status, 202, "{}", enqueued.text());
    let id = body_of(&enqueued)["id"].as_str().unwrap().to_owned();
    let schedule =
        json!({"name": "s", "every_seconds": 3600, "kind": "http.request", "payload": request["payload"]});
    let made = app.admin().post_json("/v1/schedules", &schedule).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let source = json!({"name": "f", "kind": "ical", "url": "https://example.com/private-FTOK/basic.ics"});
    let made = app.admin().post_json("/v1/sources", &source).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    app.user("viewer", Role::Viewer).await;
    let mut viewer = app.client().with_bearer(&app.log_in("viewer").await);
    let mut reader = app.with_scopes("reader", "read:payload,produce").await;
    let job = format!("/v1/jobs/{id}");
    for path in [
        &*job,
        "/v1/jobs",
        "/v1/schedules",
        "/v1/schedules/s",
        "/v1/sources",
        "/v1/dead-letters",
    ] {
        let all = app.admin().get(path).await.unwrap().text();
        let is_shown = |secret: &str| all.contains(secret);
        let secrets = ["p%40ss", "QTOK", "SK_LIVE_1", "SECRET-77", "FTOK"];
        assert!(
            path == "/v1/dead-letters" || secrets.into_iter().any(is_shown),
            "{path}: {all}"
        );
        for client in [&mut viewer, &mut reader] {
            let text = client.get(path).await.unwrap().text();
            for secret in secrets {
                assert!(!text.contains(secret), "{path} shows {secret}: {text}");
            }
        }
    }
}

#[tokio::test]
async fn without_redis_a_logout_holds_in_every_process_and_after_a_restart() {
    let app = TestApp::start().await;
    let twin = app.twin().await;
    app.user("ada", Role::Viewer).await;
    let (token, other) = (app.log_in("ada").await, app.log_in("ada").await);
    assert_eq!(twin.me(&token).await.status, 200);
    assert_eq!(app.post(&token, "/v1/auth/logout").await.status, 204);
    problem(&app.me(&token).await, 401, "unauthenticated");
    // A refresh asks SQL and not a copy.
    problem(
        &twin.post(&token, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );
    // The bound itself is that of the copies of tables: `no_request_sees_what_was_changed_longer_ago_than_the_hard_limit`.
    until("the other process knows", 2 * LOGOUT_BOUND, async || {
        (twin.me(&token).await.status == 401).then_some(())
    })
    .await;
    let restarted = app.twin().await;
    problem(&restarted.me(&token).await, 401, "unauthenticated");
    problem(
        &restarted.post(&token, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );
    assert_eq!(restarted.me(&other).await.status, 200);
}

#[tokio::test]
async fn a_refresh_ends_the_token_before_it_and_a_second_use_ends_the_session() {
    let app = TestApp::start().await;
    let twin = app.twin().await;
    app.user("ada", Role::Viewer).await;
    let first = app.log_in("ada").await;
    let refreshed = app.post(&first, "/v1/auth/refresh").await;
    let second = body_of(&refreshed)["access_token"].as_str().unwrap().to_owned();
    problem(&app.me(&first).await, 401, "unauthenticated");
    assert_eq!(app.me(&second).await.status, 200);
    assert_eq!(twin.me(&second).await.status, 200);
    problem(
        &twin.post(&first, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );
    problem(
        &app.post(&second, "/v1/auth/refresh").await,
        401,
        "unauthenticated",
    );
    problem(&twin.me(&second).await, 401, "unauthenticated");
}

#[tokio::test]
async fn a_session_ends_at_its_longest_without_redis_too() {
    let app = TestSettings::new()
        .with("HOLDFAST__AUTH__ACCESS_TOKEN_SECONDS", "60")
        .with("HOLDFAST__CACHE__SESSION_TTL_SECONDS", "60")
        .with("HOLDFAST__CACHE__SESSION_MAX_SECONDS", "60")
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    let mut token = app.log_in("ada").await;
    let mut lifetimes = Vec::new();
    // Each refresh gives a token that lasts as long as the session, and no longer.
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_millis(1_100)).await;
        let refreshed = app.post(&token, "/v1/auth/refresh").await;
        assert_eq!(refreshed.status, 200, "{}", refreshed.text());
        let body = body_of(&refreshed);
        lifetimes.push(body["expires_in"].as_u64().unwrap());
        token = body["access_token"].as_str().unwrap().to_owned();
    }
    assert!(lifetimes.is_sorted_by(|one, next| one > next), "{lifetimes:?}");
    assert!(lifetimes[2] <= 57, "{lifetimes:?}");
}

#[tokio::test]
async fn a_refresh_after_the_sessions_longest_is_refused() {
    const LONGEST: Duration = Duration::from_secs(4);
    let app = TestSettings::new()
        .adjusted(|settings| settings.cache.session_max = LONGEST)
        .start()
        .await;
    app.user("ada", Role::Viewer).await;
    let began = Instant::now();
    let first = app.log_in("ada").await;
    let refreshed = app.post(&first, "/v1/auth/refresh").await;
    assert_eq!(refreshed.status, 200, "{}", refreshed.text());
    let body = body_of(&refreshed);
    assert!(
        body["expires_in"].as_u64().unwrap() <= LONGEST.as_secs(),
        "{body}"
    );
    let token = body["access_token"].as_str().unwrap();
    // It is not refreshed meanwhile: a session that ends unused would end later, after `cache.session_ttl`.
    until("the session has ended", PATIENCE, async || {
        (app.me(token).await.status == 401).then_some(())
    })
    .await;
    assert!(began.elapsed() >= LONGEST, "{:?}", began.elapsed());
    problem(&app.post(token, "/v1/auth/refresh").await, 401, "unauthenticated");
}

#[tokio::test]
async fn keys_that_a_user_made_are_told_and_end_with_the_user() {
    let app = TestApp::start().await;
    let mallory = app.user("mallory", Role::Admin).await;
    let mut session = app.client().with_bearer(&app.log_in("mallory").await);
    for name in ["backdoor", "other"] {
        let body = json!({"name": name, "scopes": ["admin"]});
        let made = session.post_json("/v1/keys", &body).await.unwrap();
        assert_eq!(made.status, 201, "{}", made.text());
    }
    let listed = body_of(&app.admin().get("/v1/keys").await.unwrap());
    assert_eq!(listed["keys"][0]["created_by"], format!("user/{}", mallory.id));
    let export = session
        .get(&format!("/v1/users/{}/export", mallory.id))
        .await
        .unwrap();
    assert_eq!(body_of(&export)["keys"][0]["name"], "backdoor");
    let path = format!("/v1/users/{}?revoke_keys=true", mallory.id);
    let gone = body_of(&session.delete(&path).await.unwrap());
    assert_eq!(gone["keys"].as_array().unwrap().len(), 2, "{gone}");
    assert_eq!(gone["keys"][0]["revoked"], true);
    let audit = body_of(&app.admin().get("/v1/audit").await.unwrap());
    let by_id = format!("user/{}", mallory.id);
    let entries = audit["entries"].as_array().unwrap();
    assert_eq!(
        entries.iter().filter(|entry| entry["actor"] == by_id).count(),
        3,
        "{audit}"
    );
    let listed = body_of(&app.admin().get("/v1/keys").await.unwrap());
    let all = listed["keys"].as_array().unwrap();
    assert!(all.iter().all(|key| key["revoked_at"].is_string()), "{listed}");
}

#[tokio::test]
async fn in_production_health_says_words_and_details_are_for_readers() {
    let app = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .start()
        .await;
    let public = body_of(&app.client().get("/health").await.unwrap());
    assert_eq!(public["services"]["queue"]["details"], json!({}), "{public}");
    assert!(public["services"]["database"]["status"].is_string());
    let mut reader = app.with_scopes("reader", "read").await;
    let known = body_of(&reader.get("/health").await.unwrap());
    assert_ne!(known["services"]["queue"]["details"], json!({}), "{known}");
    assert_eq!(public["services"]["ledger"]["details"], json!({}), "{public}");
    assert_eq!(
        known["services"]["ledger"]["details"]["faults"],
        json!([]),
        "{known}"
    );
}

#[tokio::test]
async fn metrics_count_strangers_as_anything_else_does() {
    let app = TestSettings::new()
        .with("HOLDFAST__RATE_LIMIT__ANONYMOUS_PER_MINUTE", "6")
        .start()
        .await;
    let mut client = app.client().with_bearer("guess");
    let mut statuses = Vec::new();
    for _ in 0..8 {
        statuses.push(client.get("/metrics").await.unwrap().status);
    }
    assert!(
        statuses.starts_with(&[401]) && statuses.ends_with(&[429]),
        "{statuses:?}"
    );
}

#[tokio::test]
async fn a_short_bootstrap_key_starts_no_production_server() {
    let started = TestSettings::new()
        .with("HOLDFAST_ENV", "production")
        .with("HOLDFAST_API_KEY", "fifteen-letters")
        .try_start()
        .await;
    let error = started.err().expect("it must not start");
    assert!(error.to_string().contains("16"), "{error}");
    assert_eq!(error.exit_code(), 64);
}
