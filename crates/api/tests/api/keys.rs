//! API keys over HTTP: made, listed, rotated, revoked.

use std::time::Duration;

use holdfast_accounts::Role;
use holdfast_testkit::PostgresServer;
use holdfast_testkit::http::Client;
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, by, problem, problem_of, until};

/// Generous: what is bounded by ten seconds is waited for a minute.
const PATIENCE: Duration = Duration::from_mins(1);

async fn made(client: &mut Client, path: &str, body: Value, status: u16) -> Value {
    let response = client.post_json(path, &body).await.unwrap();
    assert_eq!(response.status, status, "{}", response.text());
    assert_eq!(response.header("cache-control"), Some("no-store"));
    body_of(&response)
}

async fn status(app: &TestApp, key: &Value) -> u16 {
    let mut client = app.client().with_bearer(key["key"].as_str().unwrap());
    client.get("/v1/queues").await.unwrap().status
}

async fn wait_for(app: &TestApp, key: &Value, expected: u16) {
    until(&format!("the key is answered {expected}"), PATIENCE, async || {
        (status(app, key).await == expected).then_some(())
    })
    .await;
}

async fn a_life(app: &TestApp) {
    let mut admin = app.admin();
    let first = made(
        &mut admin,
        "/v1/keys",
        json!({"name": "shop", "scopes": ["read"]}),
        201,
    )
    .await;
    assert_eq!(
        (&first["name"], &first["scopes"]),
        (&json!("shop"), &json!(["read"]))
    );
    assert_eq!(status(app, &first).await, 200, "it works at once");

    // With grace both texts work; the key is the same.
    let second = made(
        &mut admin,
        "/v1/keys/shop/rotate",
        json!({"grace_seconds": 600}),
        200,
    )
    .await;
    assert_eq!(second["id"], first["id"]);
    assert_eq!(status(app, &second).await, 200);
    assert_eq!(status(app, &first).await, 200);

    // Without any, the one before ends, and the one before that too.
    let path = format!("/v1/keys/{}/rotate", first["id"].as_str().unwrap());
    let third = made(&mut admin, &path, json!({"grace_seconds": 0}), 200).await;
    assert_eq!(status(app, &third).await, 200);
    wait_for(app, &second, 401).await;
    wait_for(app, &first, 401).await;

    let listed = admin.get("/v1/keys").await.unwrap();
    let key = body_of(&listed)["keys"][0].clone();
    assert!(
        key["rotated_at"].is_string() && key["revoked_at"].is_null(),
        "{key}"
    );
    for text in [&first, &second, &third] {
        assert!(!listed.text().contains(text["key"].as_str().unwrap()));
    }

    let revoked = admin
        .request("POST", "/v1/keys/shop/revoke", &[], &[])
        .await
        .unwrap();
    assert!(body_of(&revoked)["revoked_at"].is_string(), "{}", revoked.text());
    wait_for(app, &third, 401).await;
    let refused = admin.post_json("/v1/keys/shop/rotate", &json!({})).await.unwrap();
    problem(&refused, 409, "key-revoked");
    let taken = json!({"name": "shop", "scopes": ["read"]});
    problem_of(
        &admin.post_json("/v1/keys", &taken).await.unwrap(),
        409,
        "name-taken",
        "name",
    );
    // What was refused, and what changed nothing, is no deed.
    let again = admin.request("POST", "/v1/keys/shop/revoke", &[], &[]).await;
    assert_eq!(again.unwrap().status, 200);
    let entries = audit(app, "key.").await;
    assert_eq!(
        actions(&entries),
        ["key.revoke", "key.rotate", "key.rotate", "key.create"]
    );
    for entry in &entries {
        assert_eq!(entry["target"], first["id"], "{entry}");
        assert_eq!(entry["actor"], "bootstrap");
        assert!(entry["request_id"].is_string());
    }
    assert_eq!(entries[3]["details"], json!({"name": "shop", "scopes": ["read"]}));
}

/// What the audit log has of actions that begin so, newest first.
async fn audit(app: &TestApp, beginning: &str) -> Vec<Value> {
    let path = format!("/v1/audit?action={beginning}");
    let log = body_of(&app.admin().get(&path).await.unwrap());
    log["entries"].as_array().unwrap().clone()
}

fn actions(entries: &[Value]) -> Vec<&str> {
    entries
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect()
}

async fn a_user_leaves_traces(app: &TestApp) {
    app.user("ada", Role::Viewer).await;
    let password = secrecy::SecretString::from("another long password");
    app.users.set_password("ada", &password, &by()).await.unwrap();
    app.users.set_role("ada", Role::Admin, &by()).await.unwrap();
    app.users.set_enabled("ada", false, &by()).await.unwrap();
    let again = app.users.set_enabled("ada", true, &by()).await.unwrap().unwrap();
    assert_eq!((again.role, again.disabled_at), (Role::Admin, None));
    assert!(
        app.users
            .set_enabled("nobody", false, &by())
            .await
            .unwrap()
            .is_none()
    );
    let entries = audit(app, "user.").await;
    let told: Vec<_> = entries
        .iter()
        .map(|entry| (entry["action"].as_str().unwrap(), entry["details"].clone()))
        .collect();
    assert_eq!(
        told,
        [
            ("user.update", json!({"enabled": true})),
            ("user.update", json!({"enabled": false})),
            ("user.update", json!({"role": "admin"})),
            ("user.update", json!({"changed": "password"})),
            ("user.create", json!({"role": "viewer"})),
        ]
    );
    assert!(entries.iter().all(|entry| entry["target"] == "ada"));
}

#[tokio::test]
async fn what_is_done_to_a_user_is_in_the_audit_log_on_sqlite() {
    a_user_leaves_traces(&TestApp::start().await).await;
}

#[tokio::test]
async fn what_is_done_to_a_user_is_in_the_audit_log_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = TestSettings::new().with("DATABASE_URL", &postgres.url());
    a_user_leaves_traces(&settings.start().await).await;
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked_on_sqlite() {
    a_life(&TestApp::start().await).await;
}

#[tokio::test]
async fn a_key_is_made_rotated_and_revoked_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    a_life(
        &TestSettings::new()
            .with("DATABASE_URL", &postgres.url())
            .start()
            .await,
    )
    .await;
}

#[tokio::test]
async fn the_text_before_a_rotation_ends_with_its_grace() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let old = made(
        &mut admin,
        "/v1/keys",
        json!({"name": "shop", "scopes": ["read"]}),
        201,
    )
    .await;
    let new = made(
        &mut admin,
        "/v1/keys/shop/rotate",
        json!({"grace_seconds": 1}),
        200,
    )
    .await;
    wait_for(&app, &old, 401).await;
    assert_eq!(status(&app, &new).await, 200);
}

#[tokio::test]
async fn what_is_wrong_with_a_key_is_told() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut post = async |path: &str, body: Value| admin.post_json(path, &body).await.unwrap();
    let cases = [
        (json!({"name": "", "scopes": ["read"]}), "name"),
        (json!({"name": "a", "scopes": []}), "scopes"),
        (json!({"name": "a", "scopes": ["root"]}), "scopes"),
        (json!({"name": "a"}), "scopes"),
        (json!({"name": "a", "scopes": ["read"], "colour": 1}), "colour"),
    ];
    for (body, field) in cases {
        problem_of(&post("/v1/keys", body).await, 422, "invalid-field", field);
    }
    post("/v1/keys", json!({"name": "a", "scopes": ["read"]})).await;
    for grace in [json!(-1), json!(2_592_001), json!("an hour")] {
        let body = json!({"grace_seconds": grace});
        problem_of(
            &post("/v1/keys/a/rotate", body).await,
            422,
            "invalid-field",
            "grace_seconds",
        );
    }
    problem_of(
        &post("/v1/keys/nobody/rotate", json!({})).await,
        404,
        "key-not-found",
        "id",
    );
    problem_of(
        &post("/v1/keys/nobody/revoke", json!({})).await,
        404,
        "key-not-found",
        "id",
    );
}
