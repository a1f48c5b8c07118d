//! Users, managed over HTTP.

use holdfast_testkit::PostgresServer;
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

const PASSWORD: &str = "correct horse battery staple";

async fn manage_a_user(app: &TestApp) {
    let mut admin = app.admin();
    let ada = json!({"name": "Ada", "role": "operator", "password": PASSWORD});
    let made = admin.post_json("/v1/users", &ada).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let user = body_of(&made);
    assert_eq!(
        (&user["name"], &user["role"]),
        (&json!("ada"), &json!("operator"))
    );
    assert_eq!(app.try_login("ada", PASSWORD).await.status, 200);

    // By name and by id; each answers with the current user.
    let by_id = format!("/v1/users/{}", user["id"].as_str().unwrap());
    for path in [by_id.as_str(), "/v1/users/ada", "/v1/users/ADA"] {
        let shown = admin.get(path).await.unwrap();
        assert_eq!((shown.status, body_of(&shown)), (200, user.clone()), "{path}");
    }
    let mut call = async |method: &str, path: String, body: &Value| {
        let body = serde_json::to_vec(body).unwrap();
        let headers = [("content-type", "application/json")];
        let response = admin.request(method, &path, &headers, &body).await.unwrap();
        assert_eq!(response.status, 200, "{path}: {}", response.text());
        assert!(!response.text().contains("argon2"), "{}", response.text());
        body_of(&response)
    };
    let other = "another long password";
    call(
        "PUT",
        "/v1/users/ada/password".to_owned(),
        &json!({"password": other}),
    )
    .await;
    assert_eq!(app.try_login("ada", PASSWORD).await.status, 401);
    assert_eq!(app.try_login("ada", other).await.status, 200);
    let changed = call("PUT", format!("{by_id}/role"), &json!({"role": "viewer"})).await;
    assert_eq!(changed["role"], "viewer");
    let disabled = call("POST", "/v1/users/ada/disable".to_owned(), &Value::Null).await;
    assert!(disabled["disabled_at"].is_string(), "{disabled}");
    assert_eq!(app.try_login("ada", other).await.status, 401);
    let enabled = call("POST", format!("{by_id}/enable"), &Value::Null).await;
    assert_eq!(enabled["disabled_at"], Value::Null);
    let listed = body_of(&app.admin().get("/v1/users").await.unwrap());
    assert_eq!(listed["users"].as_array().unwrap().len(), 1, "{listed}");

    let log = body_of(&app.admin().get("/v1/audit?action=user.").await.unwrap());
    let entries = log["entries"].as_array().unwrap();
    let details: Vec<_> = entries.iter().map(|entry| &entry["details"]).collect();
    assert_eq!(
        details,
        [
            &json!({"enabled": true}),
            &json!({"enabled": false}),
            &json!({"role": "viewer"}),
            &json!({"changed": "password"}),
            &json!({"role": "operator"}),
        ]
    );
    assert!(entries.iter().all(|entry| entry["actor"] == "bootstrap"), "{log}");
    assert!(!log.to_string().contains(other), "{log}");
}

#[tokio::test]
async fn a_user_is_created_changed_and_disabled_on_sqlite() {
    manage_a_user(&TestApp::start().await).await;
}

#[tokio::test]
async fn a_user_is_created_changed_and_disabled_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = TestSettings::new().with("DATABASE_URL", &postgres.url());
    manage_a_user(&settings.start().await).await;
}

#[tokio::test]
async fn a_refused_user_is_answered_with_the_field() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let user = |name: &str, password: &str| json!({"name": name, "role": "viewer", "password": password});
    let short = admin.post_json("/v1/users", &user("ada", "short")).await.unwrap();
    problem_of(&short, 422, "invalid-field", "password");
    let blank = admin
        .post_json("/v1/users", &user("a b", PASSWORD))
        .await
        .unwrap();
    problem_of(&blank, 422, "invalid-field", "name");
    let first = admin
        .post_json("/v1/users", &user("ada", PASSWORD))
        .await
        .unwrap();
    assert_eq!(first.status, 201, "{}", first.text());
    let second = admin
        .post_json("/v1/users", &user("ADA", PASSWORD))
        .await
        .unwrap();
    problem_of(&second, 409, "name-taken", "name");
    for (method, path, body) in [
        ("PUT", "password", json!({"password": PASSWORD})),
        ("PUT", "role", json!({"role": "viewer"})),
        ("POST", "enable", Value::Null),
        ("POST", "disable", Value::Null),
    ] {
        let headers = [("content-type", "application/json")];
        let body = serde_json::to_vec(&body).unwrap();
        let path = format!("/v1/users/nobody/{path}");
        let response = admin.request(method, &path, &headers, &body).await.unwrap();
        problem(&response, 404, "user-not-found");
    }
    problem(
        &admin.get("/v1/users/nobody").await.unwrap(),
        404,
        "user-not-found",
    );
}

#[tokio::test]
async fn no_answer_repeats_a_password_of_the_wrong_type() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let body = json!({"name": "ada", "role": "viewer", "password": 1_234_567_890_123_u64});
    let refused = admin.post_json("/v1/users", &body).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "password");
    assert!(!refused.text().contains("1234567890123"), "{}", refused.text());
}

#[tokio::test]
async fn users_and_keys_are_found_by_names_with_signs() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let (name, encoded) = ("a/b+c%2f?#@x", "a%2Fb%2Bc%252f%3F%23@x");
    let user = json!({"name": name, "role": "viewer", "password": PASSWORD});
    let created = admin.post_json("/v1/users", &user).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    let shown = admin.get(&format!("/v1/users/{encoded}")).await.unwrap();
    assert_eq!(body_of(&shown)["name"], name, "{}", shown.text());
    let disabled = admin
        .post_json(&format!("/v1/users/{encoded}/disable"), &Value::Null)
        .await
        .unwrap();
    assert_eq!(disabled.status, 200, "{}", disabled.text());
    let key = json!({"name": name, "scopes": ["read"]});
    assert_eq!(admin.post_json("/v1/keys", &key).await.unwrap().status, 201);
    let revoked = admin
        .post_json(&format!("/v1/keys/{encoded}/revoke"), &Value::Null)
        .await
        .unwrap();
    assert_eq!(body_of(&revoked)["name"], name, "{}", revoked.text());
}
