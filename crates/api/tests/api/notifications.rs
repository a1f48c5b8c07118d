//! Webhooks, notifications, mail templates and links of mails, over HTTP.

use holdfast_services::notify::mail::Mail;
use holdfast_testkit::http::Client;
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

async fn app() -> TestApp {
    TestSettings::new()
        .with("HOLDFAST__NOTIFICATIONS__PUBLIC_URL", "https://jobs.example.com")
        .start()
        .await
}

async fn put(client: &mut Client, path: &str, body: &Value) -> holdfast_testkit::http::Response {
    let text = body.to_string();
    let json = [("content-type", "application/json")];
    client.request("PUT", path, &json, text.as_bytes()).await.unwrap()
}

#[tokio::test]
async fn a_webhook_is_made_shown_changed_rotated_and_deleted() {
    let app = app().await;
    let mut admin = app.admin();
    let wish = json!({"url": "https://example.com/hook", "events": ["order.*"], "description": "shop"});
    let made = admin.post_json("/v1/webhooks", &wish).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let body = body_of(&made);
    let secret = body["secret"].as_str().unwrap().to_owned();
    assert!(secret.starts_with("whsec_"));
    let id = body["webhook"]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/webhooks/{id}");
    assert_eq!(made.header("location"), Some(path.as_str()));
    let shown = admin.get(&path).await.unwrap();
    assert_eq!(body_of(&shown), body["webhook"]);
    let list = admin.get("/v1/webhooks").await.unwrap();
    assert_eq!(
        body_of(&list),
        json!({"webhooks": [body["webhook"]], "next": null})
    );
    for answer in [&shown, &list] {
        assert!(!answer.text().contains(&secret), "shown once");
    }
    let other = json!({"url": "https://example.org/", "events": ["*"], "enabled": false});
    let changed = put(&mut admin, &path, &other).await;
    assert_eq!(
        (&body_of(&changed)["enabled"], &body_of(&changed)["description"]),
        (&json!(false), &json!(""))
    );
    let rotate = json!({"grace_seconds": 60, "secret": "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw"});
    let rotated = admin.post_json(&format!("{path}/rotate"), &rotate).await.unwrap();
    assert_eq!(body_of(&rotated)["secret"], rotate["secret"]);
    assert!(body_of(&rotated)["webhook"]["previous_secret_until"].is_string());
    let test = admin
        .post_json(&format!("{path}/test"), &json!({}))
        .await
        .unwrap();
    assert_eq!(test.status, 202, "{}", test.text());
    assert_eq!(body_of(&test)["kind"], "notify.webhook");
    let deliveries = admin
        .get(&format!("{path}/deliveries?delivered=false"))
        .await
        .unwrap();
    assert_eq!(body_of(&deliveries), json!({"deliveries": [], "next": null}));
    assert_eq!(body_of(&admin.delete(&path).await.unwrap())["deleted"], true);
    problem_of(&admin.get(&path).await.unwrap(), 404, "webhook-not-found", "id");
}

#[tokio::test]
async fn a_bad_webhook_is_refused_and_its_field_named() {
    let app = app().await;
    let mut admin = app.admin();
    let good = json!({"url": "https://example.com/", "events": ["*"]});
    for (field, value, named) in [
        ("url", json!("example.com"), "url"),
        ("url", json!("https://user:word@example.com/"), "url"),
        ("url", json!("http://169.254.169.254/latest"), "url"),
        ("events", json!([]), "events"),
        ("events", json!(["a", "b c"]), "events[1]"),
        ("secret", json!("whsec_short"), "secret"),
        ("description", json!("a\nb"), "description"),
        ("colour", json!("red"), "colour"),
    ] {
        let mut body = good.clone();
        body[field] = value;
        let refused = admin.post_json("/v1/webhooks", &body).await.unwrap();
        problem_of(&refused, 422, "invalid-field", named);
    }
    let secret = json!({"url": "https://example.com/", "events": ["*"], "secret": ["s3cret"]});
    let refused = admin.post_json("/v1/webhooks", &secret).await.unwrap();
    assert!(
        !problem(&refused, 422, "invalid-field")
            .to_string()
            .contains("s3cret")
    );
    let long = json!({"grace_seconds": 2_592_001});
    let made = body_of(&admin.post_json("/v1/webhooks", &good).await.unwrap());
    let path = format!("/v1/webhooks/{}", made["webhook"]["id"].as_str().unwrap());
    let refused = admin.post_json(&format!("{path}/rotate"), &long).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "grace_seconds");
    for (answer, status, slug) in [
        (
            admin.get("/v1/webhooks/nonsense").await.unwrap(),
            400,
            "invalid-id",
        ),
        (
            admin.get("/v1/webhooks?after=x").await.unwrap(),
            400,
            "invalid-cursor",
        ),
        (
            admin
                .get(&format!("{path}/deliveries?delivered=maybe"))
                .await
                .unwrap(),
            400,
            "invalid-parameter",
        ),
        (
            admin
                .get(&format!("/v1/webhooks/{UNKNOWN}/deliveries"))
                .await
                .unwrap(),
            404,
            "webhook-not-found",
        ),
    ] {
        problem(&answer, status, slug);
    }
}

#[tokio::test]
async fn a_notification_is_published_once_under_its_key() {
    let app = app().await;
    let mut admin = app.admin();
    for events in [json!(["order.*"]), json!(["*"]), json!(["invoice.paid"])] {
        let wish = json!({"url": "https://example.com/", "events": events});
        assert_eq!(admin.post_json("/v1/webhooks", &wish).await.unwrap().status, 201);
    }
    let mut producer = app.with_scopes("shop", "produce").await;
    let text = json!({"type": "order.paid", "data": {"order": 42}}).to_string();
    let headers = [
        ("content-type", "application/json"),
        ("idempotency-key", "order-42"),
    ];
    let first = producer
        .request("POST", "/v1/notifications", &headers, text.as_bytes())
        .await
        .unwrap();
    assert_eq!(first.status, 202, "{}", first.text());
    assert_eq!(
        (&body_of(&first)["webhooks"], &body_of(&first)["duplicate"]),
        (&json!(2), &json!(false))
    );
    let again = producer
        .request("POST", "/v1/notifications", &headers, text.as_bytes())
        .await
        .unwrap();
    assert_eq!(
        (again.status, &body_of(&again)["id"]),
        (200, &body_of(&first)["id"])
    );
    let jobs = body_of(&admin.get("/v1/jobs?kind=notify.webhook").await.unwrap());
    assert_eq!(jobs["jobs"].as_array().unwrap().len(), 2, "{jobs}");
    let other = text.replace("42", "43");
    let reused = producer
        .request("POST", "/v1/notifications", &headers, other.as_bytes())
        .await
        .unwrap();
    problem_of(&reused, 422, "idempotency-key-reused", "Idempotency-Key");
    // Another producer's key is another key.
    let theirs = admin
        .request("POST", "/v1/notifications", &headers, other.as_bytes())
        .await
        .unwrap();
    assert_eq!(theirs.status, 202, "{}", theirs.text());
    for (body, field) in [
        (json!({"type": "order paid", "data": 1}), "type"),
        (json!({"type": "a"}), "data"),
    ] {
        let refused = producer.post_json("/v1/notifications", &body).await.unwrap();
        problem_of(&refused, 422, "invalid-field", field);
    }
    // Data is stored as the text that was sent, so the escape of U+0000 is data like any other.
    let with_nul = json!({"type": "a", "data": "x\u{0}"});
    let accepted = producer.post_json("/v1/notifications", &with_nul).await.unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let large = json!({"type": "a", "data": "x".repeat(300_000)});
    let refused = producer.post_json("/v1/notifications", &large).await.unwrap();
    problem_of(&refused, 413, "payload-too-large", "data");
}

#[tokio::test]
async fn a_mail_template_is_put_shown_and_deleted() {
    let app = app().await;
    let mut admin = app.admin();
    let path = "/v1/mail-templates/welcome";
    let template = json!({"subject": "Hi {{ name }}", "text": "Dear {{ name }}", "html": null});
    let made = put(&mut admin, path, &template).await;
    assert_eq!(made.status, 200, "{}", made.text());
    let mut reader = app.with_scopes("reader", "read").await;
    assert_eq!(body_of(&reader.get(path).await.unwrap()), body_of(&made));
    let page = body_of(&reader.get("/v1/mail-templates?limit=1").await.unwrap());
    assert_eq!(
        (&page["templates"][0]["name"], &page["next"]),
        (&json!("welcome"), &Value::Null)
    );
    let broken = json!({"subject": "", "text": "a\n{{ name", "html": null});
    let refused = put(&mut admin, path, &broken).await;
    let body = problem_of(&refused, 422, "invalid-field", "text");
    assert!(body["detail"].as_str().unwrap().contains("line 2"), "{body}");
    let refused = put(&mut admin, "/v1/mail-templates/Not%20a%20name", &template).await;
    problem_of(&refused, 422, "invalid-field", "name");
    assert_eq!(body_of(&admin.delete(path).await.unwrap())["deleted"], true);
    problem_of(
        &admin.get(path).await.unwrap(),
        404,
        "mail-template-not-found",
        "name",
    );
    // The kind's payload is checked at the border.
    let job =
        json!({"kind": "notify.email", "payload": {"to": "a@b.c\r\nBcc: x@y.z", "template": "welcome"}});
    let refused = admin.post_json("/v1/jobs", &job).await.unwrap();
    problem_of(&refused, 422, "invalid-payload", "payload.to");
}

#[tokio::test]
async fn addresses_are_suppressed_listed_and_released() {
    let app = app().await;
    let mut admin = app.admin();
    for body in [
        json!({"address": "Bob@example.com"}),
        json!({"address": "ada@example.com", "list": "news", "reason": "asked by phone"}),
    ] {
        let done = admin.post_json("/v1/mail-suppressions", &body).await.unwrap();
        assert_eq!(done.status, 200, "{}", done.text());
    }
    let first = body_of(&admin.get("/v1/mail-suppressions?limit=1").await.unwrap());
    assert_eq!(first["suppressions"][0]["address"], "ada@example.com");
    assert_eq!(first["suppressions"][0]["list"], "news");
    let next = format!(
        "/v1/mail-suppressions?limit=1&after={}",
        first["next"].as_str().unwrap()
    );
    let second = body_of(&admin.get(&next).await.unwrap());
    assert_eq!(
        (
            &second["suppressions"][0]["address"],
            &second["suppressions"][0]["list"],
            &second["next"]
        ),
        (&json!("bob@example.com"), &Value::Null, &Value::Null)
    );
    let release = json!({"address": "bob@example.com"});
    let path = "/v1/mail-suppressions/release";
    assert_eq!(admin.post_json(path, &release).await.unwrap().status, 200);
    problem_of(
        &admin.post_json(path, &release).await.unwrap(),
        404,
        "nothing-matched",
        "address",
    );
    for (body, field) in [
        (json!({"address": "nobody"}), "address"),
        (json!({"address": "a@b.c", "list": "A B"}), "list"),
    ] {
        let refused = admin.post_json("/v1/mail-suppressions", &body).await.unwrap();
        problem_of(&refused, 422, "invalid-field", field);
    }
}

/// Opening the link changes nothing, the button and the mail program's POST do; nobody needs a key.
#[tokio::test]
async fn whoever_holds_a_link_may_unsubscribe() {
    let app = app().await;
    let mail = Mail::new(&app.settings, &app.database, app.jobs.clone());
    let link = mail
        .unsubscribe_link("ada@example.com", "news")
        .await
        .unwrap()
        .unwrap();
    let path = link.strip_prefix("https://jobs.example.com").unwrap();
    let mut anybody = app.client();
    let page = anybody.get(path).await.unwrap();
    assert_eq!(page.status, 200, "{}", page.text());
    assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
    assert!(
        page.header("content-security-policy")
            .unwrap()
            .contains("default-src 'none'")
    );
    assert!(
        page.text().contains("<form method=\"post\">") && !page.text().contains("ada"),
        "{}",
        page.text()
    );
    assert!(mail.suppressions(None, 10).await.unwrap().is_empty());
    let form = [("content-type", "application/x-www-form-urlencoded")];
    for _ in 0..2 {
        let done = anybody
            .request("POST", path, &form, b"List-Unsubscribe=One-Click")
            .await
            .unwrap();
        assert_eq!(done.status, 200, "{}", done.text());
    }
    let listed = mail.suppressions(None, 10).await.unwrap();
    assert_eq!(
        (
            listed.len(),
            listed[0].address.as_str(),
            listed[0].list.as_deref()
        ),
        (1, "ada@example.com", Some("news"))
    );
    for odd in ["/v1/unsubscribe/nonsense", "/v1/unsubscribe/%3Cb%3E"] {
        problem(&anybody.get(odd).await.unwrap(), 404, "link-not-found");
        problem(
            &anybody.request("POST", odd, &form, b"").await.unwrap(),
            404,
            "link-not-found",
        );
    }
}
