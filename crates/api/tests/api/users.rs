//! Preferences, export and deletion, by the user's own session or with the scope `admin`.

use holdfast_accounts::Role;
use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{PASSWORD, TestApp, body_of, problem};

async fn put(client: &mut Client, path: &str, body: &Value) -> Response {
    let text = body.to_string();
    let json = [("content-type", "application/json")];
    client.request("PUT", path, &json, text.as_bytes()).await.unwrap()
}

fn path(id: &impl std::fmt::Display, end: &str) -> String {
    format!("/v1/users/{id}{end}")
}

#[tokio::test]
async fn a_user_says_what_is_wanted_and_reads_it_back() {
    let app = TestApp::start().await;
    let ada = app.user("ada@example.com", Role::Viewer).await;
    let mut session = app.client().with_bearer(&app.log_in("ada@example.com").await);
    let own = path(&ada.id, "/preferences");
    let nothing = body_of(&session.get(&own).await.unwrap());
    let unsaid = json!({"language": null, "time_zone": "UTC", "address": null, "address_state": null, "quiet_hours": null,
        "digest_at": "08:00", "email": "on", "webhook": "on", "topics": {}});
    assert_eq!(nothing, unsaid);
    let wanted = json!({"language": "de-AT", "time_zone": "Europe/Vienna", "address": "lovelace@example.com",
        "quiet_hours": {"from": "22:00", "until": "07:00"}, "digest_at": "06:30", "email": "digest",
        "topics": {"events": {"email": "on", "webhook": "off"}}});
    let put = put(&mut session, &own, &wanted).await;
    assert_eq!(put.status, 200, "{}", put.text());
    let mut expected = wanted.clone();
    (expected["language"], expected["webhook"]) = (json!("de-at"), json!("on"));
    expected["address_state"] = json!("unconfirmed");
    assert_eq!(body_of(&put), expected);
    assert_eq!(body_of(&session.get(&own).await.unwrap()), expected);
    assert_eq!(body_of(&app.admin().get(&own).await.unwrap()), expected);
}

#[tokio::test]
async fn wrong_preferences_are_refused_field_by_field() {
    let app = TestApp::start().await;
    let ada = app.user("ada", Role::Viewer).await;
    let mut admin = app.admin();
    let own = path(&ada.id, "/preferences");
    let wrong = json!({"time_zone": "Mars", "address": "nowhere", "quiet_hours": {"from": "7", "until": "07:00"},
        "topics": {"A B": {}}});
    let response = put(&mut admin, &own, &wrong).await;
    problem(&response, 422, "invalid-field");
    let errors = body_of(&response)["errors"].to_string();
    for field in ["time_zone", "address", "quiet_hours.from", "topics.A B"] {
        assert!(errors.contains(field), "{field}: {errors}");
    }
    for unknown in [
        json!({"email": "sometimes"}),
        json!({"webhook": "digest"}),
        json!({"mail": "on"}),
    ] {
        let response = put(&mut admin, &own, &unknown).await;
        assert_eq!(response.status, 422, "{unknown}: {}", response.text());
    }
    let nobody = "/v1/users/01JD3V0S7W8Q4M2XKZC5T9R6BH";
    for response in [
        admin.get(&format!("{nobody}/preferences")).await.unwrap(),
        admin.get(&format!("{nobody}/export")).await.unwrap(),
        admin.delete(nobody).await.unwrap(),
    ] {
        problem(&response, 404, "user-not-found");
    }
    problem(
        &admin.get("/v1/users/ada/preferences").await.unwrap(),
        400,
        "invalid-id",
    );
    problem(&admin.delete("/v1/users/a%0Ab").await.unwrap(), 400, "invalid-id");
}

#[tokio::test]
async fn an_application_sets_preferences_for_its_own_user_ids() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    // The second one has the form of an account's id.
    for id in ["user%2017%2F%C3%A4", "01JD3V0S7W8Q4M2XKZC5T9R6BH"] {
        let own = path(&id, "/preferences");
        let put = put(
            &mut admin,
            &own,
            &json!({"address": "zoe@example.com", "email": "digest"}),
        )
        .await;
        assert_eq!(put.status, 200, "{}", put.text());
        assert_eq!(body_of(&put)["address_state"], "confirmed");
        assert_eq!(body_of(&admin.get(&own).await.unwrap()), body_of(&put));
        let export = body_of(&admin.get(&path(&id, "/export")).await.unwrap());
        assert_eq!(
            (&export["account"], &export["preferences"]["email"]),
            (&Value::Null, &json!("digest"))
        );
        let gone = body_of(&admin.delete(&path(&id, "")).await.unwrap());
        assert_eq!(
            (&gone["account"], &gone["preferences"]),
            (&json!(false), &json!(true))
        );
        problem(
            &admin.delete(&path(&id, "")).await.unwrap(),
            404,
            "user-not-found",
        );
    }
}

#[tokio::test]
async fn nobody_acts_for_another_user_without_the_scope_admin() {
    let app = TestApp::start().await;
    let ada = app.user("ada", Role::Operator).await;
    app.user("bob", Role::Operator).await;
    let mut bob = app.client().with_bearer(&app.log_in("bob").await);
    let mut key = app.with_scopes("key", "read,produce").await;
    for client in [&mut bob, &mut key] {
        for end in ["/preferences", "/export"] {
            problem(
                &client.get(&path(&ada.id, end)).await.unwrap(),
                403,
                "missing-scope",
            );
        }
        let put = put(client, &path(&ada.id, "/preferences"), &json!({})).await;
        problem(&put, 403, "missing-scope");
        problem(
            &client.delete(&path(&ada.id, "")).await.unwrap(),
            403,
            "missing-scope",
        );
    }
}

#[tokio::test]
async fn a_user_takes_everything_along_and_goes() {
    let app = TestApp::start().await;
    let ada = app.user("ada@example.com", Role::Viewer).await;
    let token = app.log_in("ada@example.com").await;
    let mut session = app.client().with_bearer(&token);
    let mut admin = app.admin();
    let event = json!({"uid": "1", "title": "Jazz", "starts_at": "2090-01-01T20:00:00Z"});
    let stored = body_of(&admin.post_json("/v1/events", &json!([event])).await.unwrap());
    let saved = json!({"user": ada.id.to_string(), "event": stored["events"][0]["id"], "action": "save"});
    let response = admin
        .post_json("/v1/interactions", &json!([saved]))
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let wish = json!({"user": ada.id.to_string(), "category": "music"});
    assert_eq!(
        admin.post_json("/v1/subscriptions", &wish).await.unwrap().status,
        201
    );
    let export = session.get(&path(&ada.id, "/export")).await.unwrap();
    assert_eq!(export.status, 200, "{}", export.text());
    assert_eq!(export.header("cache-control"), Some("no-store"));
    let told = body_of(&export);
    assert_eq!(told["account"]["name"], "ada@example.com");
    assert_eq!(told["interactions"].as_array().unwrap().len(), 1);
    assert_eq!(told["subscriptions"][0]["filter"], json!({"category": "music"}));
    assert!(!export.text().contains("argon2"), "{}", export.text());

    let gone = session.delete(&path(&ada.id, "")).await.unwrap();
    assert_eq!(gone.status, 200, "{}", gone.text());
    let gone = body_of(&gone);
    assert_eq!(
        (&gone["deleted"], &gone["account"], &gone["subscriptions"]),
        (&json!(true), &json!(true), &json!(1))
    );
    problem(&app.me(&token).await, 401, "unauthenticated");
    assert_eq!(app.try_login("ada@example.com", PASSWORD).await.status, 401);
    problem(
        &admin.delete(&path(&ada.id, "")).await.unwrap(),
        404,
        "user-not-found",
    );
    let audit = body_of(&admin.get("/v1/audit?action=user.delete").await.unwrap());
    let entry = &audit["entries"][0];
    assert_eq!(
        (&entry["actor"], &entry["target"]),
        (&json!("user/deleted"), &json!("deleted"))
    );
    let all: Value = body_of(&admin.get("/v1/audit").await.unwrap());
    let all = all.to_string();
    assert!(
        !all.contains("ada@example.com") && !all.contains(&ada.id.to_string()),
        "{all}"
    );
    // The name is free again, and means somebody else.
    let other = app.user("ada@example.com", Role::Viewer).await;
    assert_ne!(other.id, ada.id);
}
