//! Keys that are bound to queues and kinds, and keys that read without payloads.

use holdfast_http::{Binding, Scopes};
use holdfast_jobs::ledger::{ErrorRecord, Outcome};
use holdfast_testkit::http::Client;
use secrecy::ExposeSecret;
use serde_json::{Value, json};

use crate::auth::{SCOPES, concrete};
use crate::support::{TestApp, body_of, by, problem, problem_of};

/// Routes that keep to a binding. Every other one refuses bound keys.
const KEPT: &[(&str, &str)] = &[
    ("GET", "/v1/auth/me"),
    ("GET", "/v1/jobs"),
    ("POST", "/v1/jobs"),
    ("POST", "/v1/jobs/batch"),
    ("GET", "/v1/jobs/counts"),
    ("GET", "/v1/jobs/{id}"),
    ("PATCH", "/v1/jobs/{id}"),
    ("GET", "/v1/jobs/{id}/attempts"),
    ("GET", "/v1/jobs/{id}/log"),
    ("GET", "/v1/jobs/{id}/why"),
    ("POST", "/v1/jobs/{id}/rerun"),
    ("POST", "/v1/jobs/{id}/cancel"),
    ("POST", "/v1/jobs/{id}/retry"),
    ("POST", "/v1/batches"),
    ("GET", "/v1/kinds"),
    ("GET", "/v1/kinds/{name}"),
    ("GET", "/v1/scaling"),
    ("GET", "/v1/stats"),
    ("GET", "/v1/queues"),
    ("GET", "/v1/queues/{name}"),
    ("POST", "/v1/queues/{name}/ring"),
    ("POST", "/v1/workers"),
    ("DELETE", "/v1/workers/{id}"),
    ("POST", "/v1/workers/{id}/pull"),
    ("POST", "/v1/workers/{id}/finish"),
    ("POST", "/v1/workers/{id}/heartbeat"),
];

async fn bound(app: &TestApp, name: &str, scopes: &str, queues: &[&str], kinds: &[&str]) -> Client {
    let scopes: Scopes = scopes.parse().unwrap();
    let set = |names: &[&str]| names.iter().map(ToString::to_string).collect();
    let binding = Binding {
        queues: set(queues),
        kinds: set(kinds),
    };
    let key = app.keys.create_bound(name, scopes, Some(binding), &by()).await;
    app.client().with_bearer(key.unwrap().secret.expose_secret())
}

async fn declare(app: &TestApp, kind: &str, queue: &str) {
    let body = serde_json::to_vec(&json!({ "queue": queue })).unwrap();
    let headers = [("content-type", "application/json")];
    let path = format!("/v1/kinds/{kind}");
    let mut admin = app.admin();
    let declared = admin.request("PUT", &path, &headers, &body).await.unwrap();
    assert_eq!(declared.status, 201, "{}", declared.text());
}

async fn post(client: &mut Client, path: &str, body: Value) -> holdfast_testkit::http::Response {
    client.post_json(path, &body).await.unwrap()
}

fn worker(queues: &[&str]) -> Value {
    json!({"name": "w", "queues": queues, "concurrency": 1,
        "client": {"name": "test", "version": "1", "language": "rust"}})
}

#[tokio::test]
async fn a_route_that_does_not_keep_to_a_binding_refuses_bound_keys() {
    let app = TestApp::start().await;
    let mut client = bound(&app, "bound", "produce,work,read:payload", &["media"], &[]).await;
    for (method, path, scope) in SCOPES {
        let response = client.request(method, &concrete(path), &[], &[]).await.unwrap();
        if *scope == "admin" {
            // Of what its own user may do too, the handler would decide; a bound key does not come so far.
            assert_eq!(response.status, 403, "{method} {path}: {}", response.text());
        } else if KEPT.contains(&(*method, *path)) {
            let slug = body_of_type(&response.text());
            let about_a_name = concrete(path) != *path || path.contains("{name}");
            assert!(
                response.status != 403 || (about_a_name && slug.ends_with("key-bound")),
                "{method} {path}: {}",
                response.text()
            );
        } else {
            problem(&response, 403, "key-bound");
        }
    }
}

fn body_of_type(text: &str) -> String {
    let body: Value = serde_json::from_str(text).unwrap_or_default();
    body["type"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_bound_key_enqueues_shows_and_pulls_what_it_is_bound_to_alone() {
    let app = TestApp::start().await;
    declare(&app, "thumb.make", "media").await;
    declare(&app, "thumb.drop", "media").await;
    declare(&app, "mail.send", "mail").await;
    let mut admin = app.admin();
    let mut client = bound(
        &app,
        "media",
        "produce,work,read:payload",
        &["media"],
        &["thumb.make"],
    )
    .await;
    let job = |kind: &str| json!({"kind": kind, "payload": {"n": 1}});
    let in_queue = |kind: &str, queue: &str| json!({"kind": kind, "payload": {}, "queue": queue});

    let own = post(&mut client, "/v1/jobs", job("thumb.make")).await;
    assert_eq!(own.status, 202, "{}", own.text());
    let own = body_of(&own)["id"].as_str().unwrap().to_owned();
    for (body, field) in [
        (job("thumb.drop"), "kind"),
        (job("mail.send"), "kind"),
        (job("debug.echo"), "kind"),
        (job("no.such"), "kind"),
        (in_queue("thumb.make", "mail"), "queue"),
        (
            json!({"kind": "thumb.make", "payload": {}, "then": {"kind": "mail.send", "payload": {}}}),
            "then.kind",
        ),
        (
            json!({"kind": "thumb.make", "payload": {}, "then": {"kind": "thumb.make", "payload": {}, "queue": "mail"}}),
            "then.queue",
        ),
    ] {
        problem_of(
            &post(&mut client, "/v1/jobs", body).await,
            403,
            "key-bound",
            field,
        );
    }
    let jobs = json!({"jobs": [job("thumb.make"), job("mail.send")]});
    problem_of(
        &post(&mut client, "/v1/jobs/batch", jobs.clone()).await,
        403,
        "key-bound",
        "jobs[1].kind",
    );
    problem_of(
        &post(&mut client, "/v1/batches", jobs).await,
        403,
        "key-bound",
        "jobs[1].kind",
    );
    let callback = json!({"jobs": [job("thumb.make")], "callback": job("mail.send")});
    problem_of(
        &post(&mut client, "/v1/batches", callback).await,
        403,
        "key-bound",
        "callback.kind",
    );
    let batch = json!({"jobs": [job("thumb.make")], "callback": job("thumb.make")});
    assert_eq!(post(&mut client, "/v1/batches", batch).await.status, 202);

    // Other jobs do not exist for it, whatever it does with their ids.
    let other = body_of(&post(&mut admin, "/v1/jobs", job("mail.send")).await)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let dropped = body_of(&post(&mut admin, "/v1/jobs", job("thumb.drop")).await)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    for id in [&other, &dropped] {
        problem(
            &client.get(&format!("/v1/jobs/{id}?wait=30")).await.unwrap(),
            404,
            "job-not-found",
        );
        for verb in ["cancel", "retry"] {
            let refused = client
                .request("POST", &format!("/v1/jobs/{id}/{verb}"), &[], &[])
                .await
                .unwrap();
            problem(&refused, 404, "job-not-found");
        }
    }
    let shown = body_of(&client.get(&format!("/v1/jobs/{own}")).await.unwrap());
    assert_eq!(shown["payload"], json!({"n": 1}));
    let list = body_of(&client.get("/v1/jobs").await.unwrap());
    let kinds: Vec<&Value> = list["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["kind"])
        .collect();
    assert_eq!(kinds, ["thumb.make", "thumb.make"]);
    problem_of(
        &client.get("/v1/jobs?queue=mail").await.unwrap(),
        403,
        "key-bound",
        "queue",
    );
    problem_of(
        &client.get("/v1/jobs?kind=mail.send").await.unwrap(),
        403,
        "key-bound",
        "kind",
    );
    let queues = body_of(&client.get("/v1/queues").await.unwrap());
    assert_eq!(queues["queues"].as_array().unwrap().len(), 1);
    let kinds = body_of(&client.get("/v1/kinds").await.unwrap());
    assert_eq!(kinds["kinds"].as_array().unwrap().len(), 1);
    let ring = client
        .request("POST", "/v1/queues/media/ring", &[], &[])
        .await
        .unwrap();
    assert_eq!(ring.status, 202, "{}", ring.text());
    let ring = client
        .request("POST", "/v1/queues/mail/ring", &[], &[])
        .await
        .unwrap();
    problem_of(&ring, 403, "key-bound", "name");
    let me = body_of(&client.get("/v1/auth/me").await.unwrap());
    assert_eq!(
        (&me["queues"], &me["kinds"]),
        (&json!(["media"]), &json!(["thumb.make"]))
    );

    // Its workers serve its queues, and are given its kinds alone.
    problem_of(
        &post(&mut client, "/v1/workers", worker(&["media", "mail"])).await,
        403,
        "key-bound",
        "queues[1]",
    );
    let mut greedy = worker(&["media"]);
    greedy["kinds"] = json!(["thumb.make", "thumb.drop"]);
    problem_of(
        &post(&mut client, "/v1/workers", greedy).await,
        403,
        "key-bound",
        "kinds",
    );
    let registered = post(&mut client, "/v1/workers", worker(&["media"])).await;
    assert_eq!(registered.status, 201, "{}", registered.text());
    let id = body_of(&registered)["id"].as_str().unwrap().to_owned();
    let pulled = post(
        &mut client,
        &format!("/v1/workers/{id}/pull"),
        json!({"max": 100}),
    )
    .await;
    let pulled = body_of(&pulled);
    let kinds: Vec<&Value> = pulled["jobs"]
        .as_array()
        .unwrap()
        .iter()
        .map(|job| &job["kind"])
        .collect();
    assert_eq!(kinds, ["thumb.make", "thumb.make"]);

    // A search does not lead out of the binding either.
    for (search, field) in [("queue:mail", "q"), ("kind:mail.send,thumb.make", "q")] {
        let refused = client.get(&format!("/v1/jobs?q={search}")).await.unwrap();
        problem_of(&refused, 403, "key-bound", field);
    }
    let rest = body_of(&client.get("/v1/jobs?q=-queue:media").await.unwrap());
    assert_eq!(rest["jobs"], json!([]));

    // With several queues a list is of all of them.
    let mut two = bound(&app, "two", "read", &["media", "mail"], &[]).await;
    let kinds_of = |page: &Value| -> Vec<String> {
        let jobs = page["jobs"].as_array().unwrap().iter();
        jobs.map(|job| job["kind"].as_str().unwrap().to_owned()).collect()
    };
    let all = kinds_of(&body_of(&two.get("/v1/jobs").await.unwrap()));
    assert_eq!(all.len(), 4, "{all:?}");
    let mail = kinds_of(&body_of(&two.get("/v1/jobs?queue=mail").await.unwrap()));
    assert_eq!(mail, ["mail.send"]);
}

#[tokio::test]
async fn a_key_is_bound_when_it_is_made_and_stays_so() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let key = |scopes: Value, bounds: Value| {
        let mut key = json!({"name": "k", "scopes": scopes});
        key.as_object_mut()
            .unwrap()
            .extend(bounds.as_object().unwrap().clone());
        key
    };
    for (scopes, bounds, field) in [
        (json!(["admin"]), json!({"queues": ["media"]}), "queues"),
        (json!(["produce", "admin"]), json!({"kinds": ["a.b"]}), "kinds"),
        (json!(["produce"]), json!({"queues": []}), "queues"),
        (
            json!(["produce"]),
            json!({"queues": ["media", "Not A Queue"]}),
            "queues[1]",
        ),
        (json!(["produce"]), json!({"kinds": ["a b"]}), "kinds[0]"),
        (json!(["produce"]), json!({"kinds": vec!["a.b"; 101]}), "kinds"),
    ] {
        problem_of(
            &post(&mut admin, "/v1/keys", key(scopes, bounds)).await,
            422,
            "invalid-field",
            field,
        );
    }
    let made = post(
        &mut admin,
        "/v1/keys",
        key(json!(["produce", "read:payload"]), json!({"queues": ["media"]})),
    )
    .await;
    assert_eq!(made.status, 201, "{}", made.text());
    let made = body_of(&made);
    assert_eq!(
        (&made["queues"], &made["scopes"], made.get("kinds")),
        (&json!(["media"]), &json!(["produce", "read:payload"]), None)
    );
    // A rotation keeps the binding, and both texts have it.
    let rotated = body_of(&post(&mut admin, "/v1/keys/k/rotate", json!({"grace_seconds": 600})).await);
    for text in [&made["key"], &rotated["key"]] {
        let mut client = app.client().with_bearer(text.as_str().unwrap());
        let refused = post(
            &mut client,
            "/v1/jobs",
            json!({"kind": "debug.echo", "payload": {}}),
        )
        .await;
        problem_of(&refused, 403, "key-bound", "queue");
    }
    let list = body_of(&admin.get("/v1/keys").await.unwrap());
    assert_eq!(list["keys"][0]["queues"], json!(["media"]));
    assert_eq!(list["keys"][0]["kinds"], Value::Null);
}

#[tokio::test]
async fn read_shows_no_payloads_results_and_texts_of_errors_and_read_payload_does() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let chain = json!({"kind": "debug.echo", "payload": {"secret": "S3CRET-1"},
        "then": {"kind": "debug.echo", "payload": {"secret": "S3CRET-2"}}});
    let id = body_of(&post(&mut admin, "/v1/jobs", chain).await)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let schedule =
        json!({"name": "s", "every_seconds": 3600, "kind": "debug.echo", "payload": {"secret": "S3CRET-3"}});
    assert_eq!(post(&mut admin, "/v1/schedules", schedule).await.status, 201);
    app.finish_all(|fence| Outcome::Discard {
        fence,
        error: ErrorRecord::new(holdfast_core::clock::now(), 1, "permanent", "no S3CRET-4", "w"),
    })
    .await;
    let done = json!({"kind": "debug.echo", "payload": {"secret": "S3CRET-5"}});
    let done = body_of(&post(&mut admin, "/v1/jobs", done).await)["id"]
        .as_str()
        .unwrap()
        .to_owned();
    let result = std::sync::Arc::from(serde_json::value::to_raw_value("S3CRET-6").unwrap());
    app.finish_all(|fence| Outcome::Completed {
        fence,
        result: Some(std::sync::Arc::clone(&result)),
    })
    .await;
    app.user("viewer", holdfast_accounts::Role::Viewer).await;
    app.user("operator", holdfast_accounts::Role::Operator).await;
    let mut blind = [
        app.with_scopes("reader", "produce,work,read").await,
        app.client().with_bearer(&app.log_in("viewer").await),
    ];
    let mut seeing = [
        app.with_scopes("payloads", "read:payload").await,
        app.client().with_bearer(&app.log_in("operator").await),
        app.admin(),
    ];
    let paths = [
        format!("/v1/jobs/{id}"),
        format!("/v1/jobs/{done}?wait=1"),
        "/v1/jobs".to_owned(),
        "/v1/dead-letters".to_owned(),
        format!("/v1/dead-letters/{id}"),
        "/v1/schedules".to_owned(),
        "/v1/schedules/s".to_owned(),
    ];
    for path in &paths {
        for client in &mut seeing {
            let text = client.get(path).await.unwrap().text();
            assert!(text.contains("S3CRET"), "{path}: {text}");
        }
        for client in &mut blind {
            let shown = client.get(path).await.unwrap();
            assert_eq!(shown.status, 200, "{}", shown.text());
            assert!(!shown.text().contains("S3CRET"), "{path}: {}", shown.text());
            assert!(shown.text().contains("[redacted]"), "{path}: {}", shown.text());
        }
    }
    let failed = body_of(&blind[0].get(&paths[0]).await.unwrap());
    assert_eq!(
        (&failed["errors"][0]["class"], &failed["state"]),
        (&json!("permanent"), &json!("discarded"))
    );
    // Nor can it be guessed piece by piece.
    for client in &mut blind {
        problem(
            &client.get("/v1/dead-letters?error=S3C").await.unwrap(),
            403,
            "missing-scope",
        );
    }
    assert_eq!(
        seeing[0].get("/v1/dead-letters?error=S3C").await.unwrap().status,
        200
    );
}
