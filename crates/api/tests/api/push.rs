//! Signing keys over HTTP, and addresses that are refused wherever a payload or a URL is given.

use holdfast_testkit::http::{Client, Response};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

#[tokio::test]
async fn a_signing_key_is_shown_once_and_only_to_admins() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let list = admin.get("/v1/signing-keys").await.unwrap();
    assert_eq!(body_of(&list), json!({"keys": []}));
    let made = admin.post_json("/v1/signing-keys", &json!({})).await.unwrap();
    assert_eq!(made.status, 201, "{}", made.text());
    let first = body_of(&made);
    assert!(first["secret"].as_str().unwrap().starts_with("whsec_"));
    assert_eq!(first["key"]["signs_until"], Value::Null);
    let again = admin.post_json("/v1/signing-keys", &json!({})).await.unwrap();
    problem(&again, 409, "signing-key-exists");
    let own = "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw";
    let wish = json!({"secret": own, "grace_seconds": 60});
    let rotated = admin.post_json("/v1/signing-keys/rotate", &wish).await.unwrap();
    assert_eq!((rotated.status, &body_of(&rotated)["secret"]), (200, &json!(own)));
    let list = admin.get("/v1/signing-keys").await.unwrap();
    let keys = body_of(&list)["keys"].as_array().unwrap().clone();
    assert_eq!(keys.len(), 2);
    assert_eq!(
        (&keys[0], &keys[1]["id"]),
        (&body_of(&rotated)["key"], &first["key"]["id"])
    );
    assert!(keys[1]["signs_until"].is_string());
    for secret in [own, first["secret"].as_str().unwrap()] {
        assert!(!list.text().contains(secret));
    }
    for (body, field) in [
        (json!({"secret": "whsec_short"}), "secret"),
        (json!({"grace_seconds": 2_592_001}), "grace_seconds"),
    ] {
        let refused = admin.post_json("/v1/signing-keys/rotate", &body).await.unwrap();
        problem_of(&refused, 422, "invalid-field", field);
    }
    let path = format!("/v1/signing-keys/{}", first["key"]["id"].as_str().unwrap());
    for scopes in ["read", "produce", "work"] {
        let mut other = app.with_scopes(scopes, scopes).await;
        assert_eq!(
            other.get("/v1/signing-keys").await.unwrap().status,
            403,
            "{scopes}"
        );
        for path in ["/v1/signing-keys", "/v1/signing-keys/rotate"] {
            assert_eq!(
                other.post_json(path, &json!({})).await.unwrap().status,
                403,
                "{scopes} {path}"
            );
        }
        assert_eq!(
            other.request("DELETE", &path, &[], b"").await.unwrap().status,
            403
        );
    }
    let deleted = admin.request("DELETE", &path, &[], b"").await.unwrap();
    assert_eq!(deleted.status, 200, "{}", deleted.text());
    let deleted = admin.request("DELETE", &path, &[], b"").await.unwrap();
    problem(&deleted, 404, "signing-key-not-found");
    let audit = body_of(&admin.get("/v1/audit?action=signing_key.delete").await.unwrap());
    assert_eq!(audit["entries"].as_array().unwrap().len(), 1, "{audit}");
}

const REFUSED: [&str; 12] = [
    "http://10.0.0.1/",
    "http://127.0.0.1:9/",
    "http://0x7f.1/",
    "http://2130706433/",
    "http://017700000001/",
    "http://[::1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://169.254.169.254/latest/meta-data/",
    "http://localhost:9/",
    "http://LOCALHOST./",
    "http://a.localhost/",
    "http://user:word@192.168.1.1/",
];

fn request(url: &str) -> Value {
    json!({"kind": "http.request", "payload": {"url": url}})
}

#[track_caller]
fn refused(response: &Response, kind: &str, field: &str) {
    problem_of(response, 422, kind, field);
    let text = response.text();
    assert!(
        text.contains("http_request.allow_hosts") && text.contains("http_request.allow_private"),
        "{text}"
    );
    assert!(!text.contains("word@"), "{text}");
}

async fn jobs(admin: &mut Client) -> usize {
    let list = body_of(&admin.get("/v1/jobs").await.unwrap());
    list["jobs"].as_array().unwrap().len()
}

#[tokio::test]
async fn an_address_that_is_never_allowed_is_refused_wherever_a_payload_is_taken() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let good = json!({"kind": "debug.echo", "payload": 1});
    for url in REFUSED {
        let job = request(url);
        let one = admin.post_json("/v1/jobs", &job).await.unwrap();
        refused(&one, "invalid-payload", "payload.url");
        let many = json!({"jobs": [good, job]});
        let bulk = admin.post_json("/v1/jobs/batch", &many).await.unwrap();
        refused(&bulk, "invalid-payload", "payload.url");
        let chain = json!({"kind": "debug.echo", "payload": 1, "then": {"kind": "debug.echo", "payload": 2, "then": job}});
        let chain = admin.post_json("/v1/jobs", &chain).await.unwrap();
        refused(&chain, "invalid-payload", "then.then.payload.url");
        let batch = admin.post_json("/v1/batches", &many).await.unwrap();
        refused(&batch, "invalid-payload", "payload.url");
        let called = json!({"jobs": [good], "callback": job});
        let called = admin.post_json("/v1/batches", &called).await.unwrap();
        refused(&called, "invalid-payload", "callback.payload.url");
        let schedule =
            json!({"name": "s", "every_seconds": 60, "kind": "http.request", "payload": {"url": url}});
        let schedule = admin.post_json("/v1/schedules", &schedule).await.unwrap();
        refused(&schedule, "invalid-payload", "payload.url");
        if !url.contains('@') {
            let webhook = json!({"url": url, "events": ["a.b"]});
            let webhook = admin.post_json("/v1/webhooks", &webhook).await.unwrap();
            refused(&webhook, "invalid-field", "url");
            let source = json!({"name": "s", "kind": "rss", "url": url});
            let source = admin.post_json("/v1/sources", &source).await.unwrap();
            refused(&source, "invalid-field", "url");
        }
    }
    assert_eq!(jobs(&mut admin).await, 0);
    // A typed enqueue is checked as well.
    let typed = holdfast_services::kinds::HttpRequest::to("http://10.0.0.1/");
    let error = app.jobs.enqueue(typed).await.unwrap_err().to_string();
    assert!(error.contains("http_request.allow_hosts"), "{error}");
}

#[tokio::test]
async fn listed_hosts_are_accepted_and_others_stay_refused() {
    let app = TestSettings::new()
        .with(
            "HOLDFAST__HTTP_REQUEST__ALLOW_HOSTS",
            "*.railway.internal, localhost, 10.0.0.5, fd12::/16",
        )
        .start()
        .await;
    let mut admin = app.admin();
    for url in [
        "http://api.railway.internal:8080/",
        "http://localhost:9/",
        "http://10.0.0.5/",
        "http://0x0a000005/",
        "http://[fd12::7]/",
        "https://example.com/",
    ] {
        let accepted = admin.post_json("/v1/jobs", &request(url)).await.unwrap();
        assert_eq!(accepted.status, 202, "{url}: {}", accepted.text());
    }
    for url in [
        "http://10.0.0.6/",
        "http://127.0.0.1/",
        "http://[fd13::1]/",
        "http://a.localhost/",
    ] {
        refused(
            &admin.post_json("/v1/jobs", &request(url)).await.unwrap(),
            "invalid-payload",
            "payload.url",
        );
    }
    assert_eq!(jobs(&mut admin).await, 6);
}
