//! Who may ask for what.

use std::time::Duration;

use holdfast_accounts::{KeyError, Scopes};
use holdfast_services::api::API_ROUTES;
use secrecy::ExposeSecret;
use serde_json::json;

use crate::support::{TestApp, TestSettings, by, echo, problem, problem_of, until};

/// Every route under `/v1` with the scope that its documentation names.
pub(crate) const SCOPES: &[(&str, &str, &str)] = &[
    ("GET", "/v1/users", "admin"),
    ("POST", "/v1/users", "admin"),
    ("GET", "/v1/users/{id}", "admin"),
    ("PUT", "/v1/users/{id}/password", "admin"),
    ("PUT", "/v1/users/{id}/role", "admin"),
    ("POST", "/v1/users/{id}/enable", "admin"),
    ("POST", "/v1/users/{id}/invite", "admin"),
    ("POST", "/v1/users/{id}/disable", "admin"),
    ("GET", "/v1/jobs", "read"),
    ("POST", "/v1/jobs", "produce"),
    ("POST", "/v1/jobs/batch", "produce"),
    ("GET", "/v1/jobs/counts", "read"),
    ("GET", "/v1/jobs/{id}", "read"),
    ("PATCH", "/v1/jobs/{id}", "produce"),
    ("GET", "/v1/jobs/{id}/why", "read"),
    ("GET", "/v1/jobs/{id}/attempts", "read"),
    ("GET", "/v1/jobs/{id}/log", "read"),
    ("POST", "/v1/jobs/{id}/rerun", "produce"),
    ("POST", "/v1/jobs/{id}/cancel", "produce"),
    ("POST", "/v1/jobs/{id}/retry", "produce"),
    ("GET", "/v1/queues", "read"),
    ("GET", "/v1/queues/{name}", "read"),
    ("GET", "/v1/queues/{name}/keys", "read"),
    ("PUT", "/v1/queues/{name}/keys/{key}", "admin"),
    ("DELETE", "/v1/queues/{name}/keys/{key}", "admin"),
    ("POST", "/v1/queues/{name}/pause", "admin"),
    ("POST", "/v1/queues/{name}/resume", "admin"),
    ("POST", "/v1/queues/{name}/ring", "produce"),
    ("POST", "/v1/jobs/cancel", "admin"),
    ("POST", "/v1/queues/{name}/purge", "admin"),
    ("GET", "/v1/scaling", "read"),
    ("GET", "/v1/stats", "read"),
    ("GET", "/v1/stream", "read"),
    ("GET", "/v1/failures", "read"),
    ("GET", "/v1/failures/{fingerprint}", "read"),
    ("GET", "/v1/workers/{id}", "read"),
    ("GET", "/v1/beats", "read"),
    ("GET", "/v1/schedules/{name}/runs", "read"),
    ("POST", "/v1/schedules/preview", "read"),
    ("GET", "/v1/dead-letters", "read"),
    ("GET", "/v1/dead-letters/{id}", "read"),
    ("POST", "/v1/dead-letters/redrive", "admin"),
    ("POST", "/v1/dead-letters/delete", "admin"),
    ("POST", "/v1/tracks", "produce"),
    ("GET", "/v1/tracks/{id}/points", "read"),
    ("POST", "/v1/points", "produce"),
    ("GET", "/v1/points/dead-letters", "read"),
    ("POST", "/v1/points/dead-letters/redrive", "admin"),
    ("POST", "/v1/points/dead-letters/delete", "admin"),
    ("PUT", "/v1/results/{id}", "produce or work"),
    ("POST", "/v1/results/write", "produce or work"),
    ("POST", "/v1/results/read", "produce or work"),
    ("POST", "/v1/results/delete", "produce or work"),
    ("GET", "/v1/results/{id}/parts", "produce or work"),
    ("POST", "/v1/results/{id}/parts", "produce or work"),
    ("POST", "/v1/results/{id}/parts/delete", "produce or work"),
    ("GET", "/v1/channels/{name}", "produce or work"),
    ("POST", "/v1/channels/{name}", "produce or work"),
    ("POST", "/v1/channels/read", "produce or work"),
    ("GET", "/v1/sources", "read"),
    ("POST", "/v1/sources", "admin"),
    ("GET", "/v1/sources/{id}", "read"),
    ("PUT", "/v1/sources/{id}", "admin"),
    ("DELETE", "/v1/sources/{id}", "admin"),
    ("POST", "/v1/sources/{id}/discover", "produce"),
    ("GET", "/v1/subscriptions", "read"),
    ("POST", "/v1/subscriptions", "produce"),
    ("DELETE", "/v1/subscriptions/{id}", "produce"),
    ("GET", "/v1/events", "read"),
    ("POST", "/v1/events", "produce"),
    ("POST", "/v1/interactions", "produce"),
    ("DELETE", "/v1/users/{id}", "admin"),
    ("GET", "/v1/users/{id}/preferences", "admin"),
    ("PUT", "/v1/users/{id}/preferences", "admin"),
    ("GET", "/v1/users/{id}/export", "admin"),
    ("GET", "/v1/users/{id}/recommendations", "read"),
    ("PUT", "/v1/queues/{name}/limits", "admin"),
    ("DELETE", "/v1/queues/{name}/limits", "admin"),
    ("GET", "/v1/audit", "admin"),
    ("GET", "/v1/batches", "read"),
    ("POST", "/v1/batches", "produce"),
    ("GET", "/v1/batches/{id}", "read"),
    ("POST", "/v1/batches/{id}/cancel", "produce"),
    ("GET", "/v1/kinds", "read"),
    ("GET", "/v1/kinds/{name}", "read"),
    ("PUT", "/v1/kinds/{name}", "admin"),
    ("DELETE", "/v1/kinds/{name}", "admin"),
    ("PUT", "/v1/queues/{name}", "admin"),
    ("DELETE", "/v1/queues/{name}", "admin"),
    ("POST", "/v1/workers", "work"),
    ("DELETE", "/v1/workers/{id}", "work"),
    ("POST", "/v1/workers/{id}/pull", "work"),
    ("POST", "/v1/workers/{id}/finish", "work"),
    ("POST", "/v1/workers/{id}/heartbeat", "work"),
    ("POST", "/v1/workers/{id}/drain", "admin"),
    ("GET", "/v1/schedules", "read"),
    ("POST", "/v1/schedules", "admin"),
    ("GET", "/v1/schedules/{name}", "read"),
    ("PUT", "/v1/schedules/{name}", "admin"),
    ("DELETE", "/v1/schedules/{name}", "admin"),
    ("POST", "/v1/schedules/{name}/run", "produce"),
    ("POST", "/v1/schedules/{name}/enable", "admin"),
    ("POST", "/v1/schedules/{name}/disable", "admin"),
    ("GET", "/v1/webhooks", "admin"),
    ("POST", "/v1/webhooks", "admin"),
    ("GET", "/v1/webhooks/{id}", "admin"),
    ("PUT", "/v1/webhooks/{id}", "admin"),
    ("DELETE", "/v1/webhooks/{id}", "admin"),
    ("POST", "/v1/webhooks/{id}/rotate", "admin"),
    ("POST", "/v1/webhooks/{id}/test", "admin"),
    ("GET", "/v1/webhooks/{id}/deliveries", "admin"),
    ("POST", "/v1/notifications", "produce"),
    ("GET", "/v1/mail-templates", "read"),
    ("GET", "/v1/mail-templates/{name}", "read"),
    ("PUT", "/v1/mail-templates/{name}", "admin"),
    ("DELETE", "/v1/mail-templates/{name}", "admin"),
    ("GET", "/v1/mail-suppressions", "admin"),
    ("POST", "/v1/mail-suppressions", "admin"),
    ("POST", "/v1/mail-suppressions/release", "admin"),
    ("GET", "/v1/workers", "read"),
    ("POST", "/v1/auth/logout", "any"),
    ("GET", "/v1/auth/me", "any"),
    ("GET", "/v1/keys", "admin"),
    ("POST", "/v1/keys", "admin"),
    ("POST", "/v1/keys/{id}/rotate", "admin"),
    ("POST", "/v1/keys/{id}/revoke", "admin"),
    ("GET", "/v1/encryption", "admin"),
    ("POST", "/v1/encryption/rotate", "admin"),
    ("GET", "/v1/signing-keys", "admin"),
    ("POST", "/v1/signing-keys", "admin"),
    ("POST", "/v1/signing-keys/rotate", "admin"),
    ("DELETE", "/v1/signing-keys/{id}", "admin"),
];

/// Routes that judge for themselves who asks.
const WITHOUT_KEY: &[&str] = &[
    "/v1/auth/login",
    "/v1/auth/refresh",
    "/v1/confirm-address/{token}",
    "/v1/set-password/{token}",
    "/v1/unsubscribe/{token}",
];

pub(crate) fn concrete(path: &str) -> String {
    path.replace("{id}", "01JD3V0S7W8Q4M2XKZC5T9R6BH")
        .replace("{name}", "default")
        .replace("{key}", "k")
        .replace("{fingerprint}", "0123456789abcdef")
        // It would not end by itself.
        .replace("/v1/stream", "/v1/stream?topics=none")
}

#[tokio::test]
async fn every_route_needs_a_key_with_its_scope_and_no_more() {
    let app = TestApp::start().await;
    let secured: Vec<_> = API_ROUTES
        .iter()
        .filter(|route| route.path.starts_with("/v1") && !WITHOUT_KEY.contains(&route.path))
        .collect();
    assert_eq!(secured.len(), SCOPES.len(), "a route is missing from this table");
    let mut anonymous = app.client();
    let mut keyed = Vec::new();
    for scope in ["produce", "work", "read", "read:payload", "admin"] {
        keyed.push((scope, app.with_scopes(scope, scope).await));
    }
    for (method, path, scope) in SCOPES {
        assert!(
            secured
                .iter()
                .any(|route| (route.method, route.path) == (*method, *path)),
            "{method} {path}"
        );
        let response = anonymous
            .request(method, &concrete(path), &[], &[])
            .await
            .unwrap();
        problem(&response, 401, "unauthenticated");
        assert_eq!(
            response.header("www-authenticate"),
            Some("Bearer realm=\"holdfast\"")
        );

        for (held, client) in &mut keyed {
            let response = client.request(method, &concrete(path), &[], &[]).await.unwrap();
            let includes = *held == "read:payload" && *scope == "read";
            let mut enough = scope.split(" or ");
            if enough.clone().any(|one| one == *held) || includes || *held == "admin" || *scope == "any" {
                assert!(
                    ![401, 403].contains(&response.status),
                    "{method} {path}: {}",
                    response.text()
                );
                continue;
            }
            let body = problem(&response, 403, "missing-scope");
            let detail = body["detail"].as_str().unwrap();
            let challenge = response.header("www-authenticate").unwrap();
            assert!(
                challenge.contains("insufficient_scope")
                    && enough.all(|one| challenge.contains(one) && detail.contains(one)),
                "{challenge}"
            );
        }
    }
}

#[tokio::test]
async fn a_wrong_key_is_refused_however_it_is_sent() {
    let app = TestApp::start().await;
    for value in [
        "Bearer wrong",
        "Bearer hf_0000000000000000000000000000000000000000000000000000000000000000",
        "Bearer ",
        "Bearer",
        "Basic dXNlcjpwYXNz",
        "bootstrap-key-of-the-tests",
        &format!("Bearer {}", "k".repeat(5_000)),
    ] {
        let response = app
            .client()
            .with_header("authorization", value)
            .get("/v1/queues")
            .await
            .unwrap();
        problem(&response, 401, "unauthenticated");
        let challenge = response.header("www-authenticate").unwrap();
        assert!(challenge.contains("invalid_token"), "{challenge}");
    }
    let lower = app
        .client()
        .with_header("authorization", "bearer bootstrap-key-of-the-tests");
    assert_eq!({ lower }.get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn a_body_is_not_looked_at_without_a_key() {
    let app = TestApp::start().await;
    let response = app
        .client()
        .request(
            "POST",
            "/v1/jobs",
            &[("content-type", "application/json")],
            b"nonsense",
        )
        .await
        .unwrap();
    problem(&response, 401, "unauthenticated");
}

#[tokio::test]
async fn a_new_key_works_at_once_and_its_text_is_stored_nowhere() {
    let app = TestApp::start().await;
    // Fills the server's snapshot, without the key.
    let warm = app
        .client()
        .with_bearer("unknown")
        .get("/v1/queues")
        .await
        .unwrap();
    problem(&warm, 401, "unauthenticated");
    let key = app
        .keys
        .create("ci", "read".parse().unwrap(), &by())
        .await
        .unwrap();
    let secret = key.secret.expose_secret().to_owned();
    let mut client = app.client().with_bearer(&secret);
    until("the key works", Duration::from_secs(2), async || {
        (client.get("/v1/queues").await.unwrap().status == 200).then_some(())
    })
    .await;
    let listed = app.keys.list().await.unwrap();
    let text = serde_json::to_string(&listed).unwrap() + &format!("{listed:?} {key:?}");
    assert!(
        !text.contains(&secret[3..]),
        "the secret must not be shown: {text}"
    );
    assert_eq!((listed.len(), listed[0].name.as_str()), (1, "ci"));
}

#[tokio::test]
async fn a_revoked_key_stops_working() {
    let app = TestApp::start().await;
    let mut client = app.with_scopes("leaver", "read").await;
    assert_eq!(client.get("/v1/queues").await.unwrap().status, 200);
    assert_eq!(
        app.keys.revoke("leaver", &by()).await.unwrap().unwrap().name,
        "leaver"
    );
    assert_eq!(app.keys.revoke("nobody", &by()).await.unwrap(), None);
    let refused = until("the key is refused", Duration::from_secs(11), async || {
        let response = client.get("/v1/queues").await.unwrap();
        (response.status != 200).then_some(response)
    });
    problem(&refused.await, 401, "unauthenticated");
    let listed = app.keys.list().await.unwrap();
    assert!(listed[0].revoked_at.is_some());
}

#[tokio::test]
async fn names_of_keys_are_checked_and_taken_once() {
    let app = TestApp::start().await;
    let scopes: Scopes = "read".parse().unwrap();
    app.keys.create("ci", scopes, &by()).await.unwrap();
    assert!(matches!(
        app.keys.create("ci", scopes, &by()).await,
        Err(KeyError::NameTaken)
    ));
    for name in ["", " ci", "a\nb", &"n".repeat(101)] {
        assert!(
            matches!(
                app.keys.create(name, scopes, &by()).await,
                Err(KeyError::InvalidName)
            ),
            "{name:?}"
        );
    }
}

#[tokio::test]
async fn the_use_of_a_key_is_written_down() {
    let app = TestApp::start().await;
    let mut client = app.with_scopes("worker bee", "read").await;
    client.get("/v1/queues").await.unwrap();
    let keys = app.keys.clone();
    app.stop().await;
    assert!(keys.list().await.unwrap()[0].last_used_at.is_some());
}

#[tokio::test]
async fn without_any_key_this_machine_is_served_until_there_is_one() {
    let app = TestSettings::new().without("HOLDFAST_API_KEY").start().await;
    let response = app.client().post_json("/v1/jobs", &echo(json!(1))).await.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let paused = app
        .client()
        .request("POST", "/v1/queues/default/pause", &[], &[])
        .await
        .unwrap();
    assert_eq!(paused.status, 200);

    let mut keyed = app.with_scopes("first", "read").await;
    until("the door closes", Duration::from_secs(11), async || {
        let response = app.client().get("/v1/queues").await.unwrap();
        (response.status == 401).then_some(())
    })
    .await;
    assert_eq!(keyed.get("/v1/queues").await.unwrap().status, 200);
}

#[tokio::test]
async fn without_any_key_no_page_on_the_internet_can_use_a_browser_here() {
    let app = TestSettings::new().without("HOLDFAST_API_KEY").start().await;
    let foreign = app
        .client()
        .with_header("origin", "https://evil.example")
        .get("/v1/queues")
        .await
        .unwrap();
    problem_of(&foreign, 403, "untrusted-origin", "Origin");
    let own = app
        .client()
        .with_header("origin", format!("http://{}", app.address))
        .get("/v1/queues")
        .await
        .unwrap();
    assert_eq!(own.status, 200);
    let raw = "GET /v1/queues HTTP/1.1\r\nhost: rebound.example\r\nconnection: close\r\n\r\n";
    let answer = crate::limits::raw_exchange(app.address, raw.as_bytes()).await;
    assert!(
        answer.starts_with("HTTP/1.1 403 ") && answer.contains("untrusted-origin"),
        "{answer}"
    );
}
