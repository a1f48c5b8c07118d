//! Users, managed over HTTP.

use holdfast_testkit::PostgresServer;
use holdfast_testkit::http::Response;
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

/// The path of the link in the mail that this invitation's job will send.
async fn path_of(app: &TestApp, invitation: &Value) -> String {
    let path = format!("/v1/jobs/{}", invitation["job"].as_str().unwrap());
    let job = body_of(&app.admin().get(&path).await.unwrap());
    let link = job["payload"]["data"]["link"].as_str().unwrap().to_owned();
    let path = link.strip_prefix("https://jobs.example.com");
    path.unwrap_or_else(|| panic!("{link}")).to_owned()
}

async fn send_password(app: &TestApp, path: &str, password: &str) -> Response {
    let headers = [("content-type", "application/x-www-form-urlencoded")];
    let body = format!("password={}", password.replace(' ', "+"));
    let sent = app
        .client()
        .request("POST", path, &headers, body.as_bytes())
        .await;
    sent.unwrap()
}

async fn invite_a_user(app: &TestApp) {
    const ADA: &str = "ada@example.com";
    let mut admin = app.admin();
    let user = json!({"name": ADA, "role": "viewer"});
    let created = admin.post_json("/v1/users", &user).await.unwrap();
    assert_eq!(created.status, 201, "{}", created.text());
    let invite = format!("/v1/users/{ADA}/invite");
    let mut links = Vec::new();
    for _ in 0..2 {
        let invited = admin.post_json(&invite, &Value::Null).await.unwrap();
        assert_eq!(invited.status, 202, "{}", invited.text());
        assert_eq!(body_of(&invited)["to"], ADA);
        links.push(path_of(app, &body_of(&invited)).await);
    }
    let [first, second] = [&links[0], &links[1]];
    let page = app.client().get(first).await.unwrap();
    assert!(page.status == 200 && page.text().contains(ADA), "{}", page.text());
    let short = send_password(app, first, "short").await;
    assert_eq!(short.status, 422, "{}", short.text());
    // Of requests that arrive together one sets the password; it ends both links.
    let both = tokio::join!(
        send_password(app, first, PASSWORD),
        send_password(app, second, PASSWORD)
    );
    let mut answers = [both.0.status, both.1.status];
    answers.sort_unstable();
    assert_eq!(answers, [200, 404]);
    assert_eq!(app.try_login(ADA, PASSWORD).await.status, 200);
    for link in [first, second] {
        problem(&app.client().get(link).await.unwrap(), 404, "link-not-found");
        problem(
            &send_password(app, link, "another long password").await,
            404,
            "link-not-found",
        );
    }
    let log = body_of(&admin.get("/v1/audit?action=user.").await.unwrap());
    let entry = &log["entries"][0];
    assert_eq!(
        entry["details"],
        json!({"changed": "password", "invited": true}),
        "{log}"
    );
    assert!(entry["actor"].as_str().unwrap().starts_with("user/"), "{log}");
}

fn with_public_url() -> TestSettings {
    TestSettings::new().with("HOLDFAST__NOTIFICATIONS__PUBLIC_URL", "https://jobs.example.com")
}

#[tokio::test]
async fn an_invited_user_sets_the_password_once_on_sqlite() {
    invite_a_user(&with_public_url().start().await).await;
}

#[tokio::test]
async fn an_invited_user_sets_the_password_once_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = with_public_url().with("DATABASE_URL", &postgres.url());
    invite_a_user(&settings.start().await).await;
}

#[tokio::test]
async fn a_link_ends_with_any_change_of_its_user_and_cannot_be_altered() {
    let app = with_public_url().start().await;
    let mut admin = app.admin();
    for name in ["ada@example.com", "grace@example.com"] {
        let user = json!({"name": name, "role": "viewer"});
        assert_eq!(admin.post_json("/v1/users", &user).await.unwrap().status, 201);
    }
    let link_of = async |name: &str| {
        let path = format!("/v1/users/{name}/invite");
        let invited = app.admin().post_json(&path, &Value::Null).await.unwrap();
        path_of(&app, &body_of(&invited)).await
    };
    let (ada, grace) = (
        link_of("ada@example.com").await,
        link_of("grace@example.com").await,
    );
    let at = ada.len() - 64;
    for altered in [
        format!("{}{}", &grace[..at], &ada[at..]),
        format!("{ada}00"),
        ada.replace(&ada[at - 16..at], "ffffffffffffffff"),
    ] {
        problem(&app.client().get(&altered).await.unwrap(), 404, "link-not-found");
    }
    assert_eq!(app.client().get(&ada).await.unwrap().status, 200);
    for verb in ["disable", "enable"] {
        let path = format!("/v1/users/ada@example.com/{verb}");
        assert_eq!(admin.post_json(&path, &Value::Null).await.unwrap().status, 200);
        problem(&app.client().get(&ada).await.unwrap(), 404, "link-not-found");
    }
}

#[tokio::test]
async fn who_cannot_be_invited_is_answered_why() {
    let app = with_public_url().start().await;
    let mut admin = app.admin();
    let nobody = admin
        .post_json("/v1/users/nobody/invite", &Value::Null)
        .await
        .unwrap();
    problem(&nobody, 404, "user-not-found");
    for name in ["ada", "grace@example.com"] {
        let user = json!({"name": name, "role": "viewer"});
        assert_eq!(admin.post_json("/v1/users", &user).await.unwrap().status, 201);
    }
    let disabled = admin
        .post_json("/v1/users/grace@example.com/disable", &Value::Null)
        .await;
    assert_eq!(disabled.unwrap().status, 200);
    for (name, reason) in [
        ("ada", "not a mail address"),
        ("grace@example.com", "is disabled"),
    ] {
        let path = format!("/v1/users/{name}/invite");
        let refused = admin.post_json(&path, &Value::Null).await.unwrap();
        problem_of(&refused, 422, "invalid-field", "id");
        assert!(refused.text().contains(reason), "{}", refused.text());
    }
    let app = TestApp::start().await;
    let user = json!({"name": "ada@example.com", "role": "viewer"});
    assert_eq!(
        app.admin().post_json("/v1/users", &user).await.unwrap().status,
        201
    );
    let unset = app
        .admin()
        .post_json("/v1/users/ada@example.com/invite", &Value::Null)
        .await
        .unwrap();
    problem_of(&unset, 422, "invalid-field", "id");
    assert!(
        unset.text().contains("notifications.public_url"),
        "{}",
        unset.text()
    );
}
