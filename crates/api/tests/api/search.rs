//! `GET /v1/jobs?q=`: what it answers, and what it refuses.

use holdfast_jobs::ledger::{ErrorRecord, Outcome};
use serde_json::{Value, json};

use crate::support::{TestApp, body_of, echo, problem_of};

async fn declare(app: &TestApp, kind: &str, redact: Value) {
    let body = serde_json::to_vec(&json!({"queue": "cards", "redact": redact})).unwrap();
    let headers = [("content-type", "application/json")];
    let declared = app
        .admin()
        .request("PUT", &format!("/v1/kinds/{kind}"), &headers, &body)
        .await
        .unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
}

fn encoded(search: &str) -> String {
    let bytes = search.bytes().map(|byte| format!("%{byte:02X}"));
    bytes.collect::<Vec<_>>().concat()
}

async fn get(client: &mut holdfast_testkit::http::Client, search: &str) -> holdfast_testkit::http::Response {
    client
        .get(&format!("/v1/jobs?q={}", encoded(search)))
        .await
        .unwrap()
}

#[tokio::test]
async fn a_search_lists_what_matches_whole_or_as_a_summary() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut failing = echo(json!({"customer": {"id": 42}}));
    failing["max_attempts"] = json!(1);
    let id = body_of(&admin.post_json("/v1/jobs", &failing).await.unwrap())["id"].clone();
    app.enqueue().await;
    let error = |fence| Outcome::Discard {
        fence,
        error: ErrorRecord::new(holdfast_core::clock::now(), 1, "timeout", "it timed out", "w"),
    };
    assert_eq!(app.finish_all(error).await, 2);
    let search = r#"state:discarded error:"timed out" payload.customer.id:42 -kind:debug.sleep age:<1h"#;
    let whole = body_of(&get(&mut admin, search).await);
    assert_eq!(whole["jobs"].as_array().unwrap().len(), 1, "{whole}");
    assert_eq!(whole["jobs"][0]["payload"], json!({"customer": {"id": 42}}));
    assert_eq!((&whole["next"], &whole["complete"]), (&Value::Null, &json!(true)));

    let path = format!("/v1/jobs?view=summary&limit=5&q={}", encoded(search));
    let summary = body_of(&admin.get(&path).await.unwrap());
    let job = &summary["jobs"][0];
    assert_eq!((&job["id"], &job["state"]), (&id, &json!("discarded")));
    assert_eq!(job["last_error"]["message"], json!("it timed out"));
    assert_eq!(job.get("payload"), None);

    let mut reader = app.with_scopes("reader", "read").await;
    let summary = body_of(&reader.get("/v1/jobs?view=summary").await.unwrap());
    assert_eq!(summary["jobs"][0]["last_error"]["message"], json!("[redacted]"));

    let newer = format!("/v1/jobs?view=summary&before={}", id.as_str().unwrap());
    let newer = body_of(&admin.get(&newer).await.unwrap());
    assert_eq!(newer["jobs"].as_array().unwrap().len(), 1, "{newer}");
}

#[tokio::test]
async fn a_wrong_term_is_refused_with_what_is_allowed() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (search, part) in [
        (
            "stat:done",
            "there is no field `stat`; the fields are kind, queue",
        ),
        ("state:done", "`state:done`: unknown state"),
        ("timeout", "a term is `field:value`"),
        (r#"error:"open"#, "the quotation mark is not closed"),
    ] {
        let refused = problem_of(&get(&mut admin, search).await, 400, "invalid-parameter", "q");
        let reason = refused["errors"][0]["reason"]
            .as_str()
            .unwrap_or_default()
            .to_owned();
        assert!(
            reason.contains(part) || refused["detail"].as_str().unwrap().contains(part),
            "{refused}"
        );
    }
    for (query, field) in [
        ("view=short", "view"),
        ("before=nonsense", "before"),
        (
            "before=01JD3V0S7W8Q4M2XKZC5T9R6BH&after=01JD3V0S7W8Q4M2XKZC5T9R6BH",
            "before",
        ),
    ] {
        let refused = admin.get(&format!("/v1/jobs?{query}")).await.unwrap();
        assert_eq!(refused.status, 400, "{query}");
        assert!(refused.text().contains(field), "{}", refused.text());
    }
}

#[tokio::test]
async fn a_search_tells_nobody_what_they_may_not_see() {
    let app = TestApp::start().await;
    declare(&app, "card.charge", json!(["card"])).await;
    let mut admin = app.admin();
    let body = json!({"kind": "card.charge", "payload": {"card": {"number": "4242"}, "user": "ada"}});
    let id = body_of(&admin.post_json("/v1/jobs", &body).await.unwrap())["id"].clone();
    let ids = |page: &Value| -> Vec<Value> {
        page["jobs"]
            .as_array()
            .unwrap()
            .iter()
            .map(|job| job["id"].clone())
            .collect()
    };
    let found = body_of(&get(&mut admin, "payload.card.number:4242 kind:card.charge").await);
    assert_eq!(ids(&found), std::slice::from_ref(&id));

    // Without payloads, nothing of the contents is searched.
    let mut reader = app.with_scopes("reader", "read").await;
    for search in [
        "payload.user:ada",
        "payload:ada",
        "error:refused",
        "-payload.user:ada",
    ] {
        let refused = get(&mut reader, search).await;
        assert_eq!(refused.status, 403, "{search}");
        assert!(refused.text().contains("read:payload"), "{}", refused.text());
    }
    assert_eq!(
        ids(&body_of(&get(&mut reader, "kind:card.charge").await)),
        std::slice::from_ref(&id)
    );

    // With payloads, what is hidden matches nothing, and what is known to be hidden is refused.
    let mut viewer = app.with_scopes("viewer", "read:payload").await;
    assert_eq!(
        ids(&body_of(&get(&mut viewer, "payload.user:ada").await)),
        std::slice::from_ref(&id)
    );
    for search in ["payload.card.number:4242", "payload:4242"] {
        assert!(
            ids(&body_of(&get(&mut viewer, search).await)).is_empty(),
            "{search}"
        );
    }
    for search in ["-payload.card.number:4242", "-payload.card.number:1"] {
        assert_eq!(
            ids(&body_of(&get(&mut viewer, search).await)),
            std::slice::from_ref(&id),
            "{search}"
        );
    }
    for search in [
        "kind:card.charge payload.card.number:4242",
        "kind:card.charge payload.card:x",
    ] {
        let refused = problem_of(&get(&mut viewer, search).await, 403, "missing-scope", "q");
        assert!(refused.to_string().contains("marks payload.card"), "{refused}");
    }
}

#[tokio::test]
async fn tags_and_who_enqueued_a_job_are_stored_found_and_kept_by_a_rerun() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut producer = app.with_scopes("producer", "produce").await;
    let mut tagged = echo(json!({}));
    tagged["tags"] = json!(["vip", "eu west"]);
    let id = body_of(&producer.post_json("/v1/jobs", &tagged).await.unwrap())["id"].clone();
    app.enqueue().await;
    let job = body_of(
        &admin
            .get(&format!("/v1/jobs/{}", id.as_str().unwrap()))
            .await
            .unwrap(),
    );
    assert_eq!(job["tags"], json!(["vip", "eu west"]));
    let by = job["enqueued_by"].as_str().unwrap().to_owned();
    assert!(by.starts_with("key/") && by.len() == 30, "{by}");
    for search in [
        "tag:vip",
        r#"tag:new,"eu west""#,
        &format!("by:{by}"),
        "-by:local tag:vip",
    ] {
        let found = body_of(&get(&mut admin, search).await);
        assert_eq!(found["jobs"].as_array().unwrap().len(), 1, "{search}: {found}");
        assert_eq!(found["jobs"][0]["id"], id);
    }
    let path = format!("/v1/jobs/{}/rerun", id.as_str().unwrap());
    let again = body_of(&admin.post_json(&path, &json!({})).await.unwrap())["id"].clone();
    let job = body_of(
        &admin
            .get(&format!("/v1/jobs/{}", again.as_str().unwrap()))
            .await
            .unwrap(),
    );
    assert_eq!(
        (&job["tags"], &job["enqueued_by"]),
        (&json!(["vip", "eu west"]), &json!("bootstrap"))
    );
    tagged["tags"] = json!(["a", "a"]);
    problem_of(
        &producer.post_json("/v1/jobs", &tagged).await.unwrap(),
        422,
        "invalid-field",
        "tags",
    );
}
