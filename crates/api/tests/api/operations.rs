//! Dead letters, purges, bulk cancellation and the audit log, over HTTP.

use holdfast_jobs::ledger::{ErrorRecord, Outcome};
use holdfast_testkit::http::Client;
use holdfast_testkit::{RedisOptions, RedisServer};
use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, echo, problem, problem_of, until};

const UNKNOWN: &str = "01JD3V0S7W8Q4M2XKZC5T9R6BH";

async fn post(client: &mut Client, path: &str, body: &Value) -> Value {
    let response = client.post_json(path, body).await.unwrap();
    assert_eq!(response.status, 200, "{path}: {}", response.text());
    body_of(&response)
}

/// Discards a `debug.echo` job; its id.
async fn dead(app: &TestApp) -> String {
    let id = app.enqueue().await;
    let error = ErrorRecord::new(holdfast_core::clock::now(), 1, "permanent", "no such user", "w");
    let ended = app
        .finish_all(|fence| Outcome::Discard {
            fence,
            error: error.clone(),
        })
        .await;
    assert_eq!(ended, 1);
    id.to_string()
}

#[tokio::test]
async fn a_dead_letter_is_not_retried_while_another_job_has_its_unique_key() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let unique = json!({"kind": "debug.echo", "payload": {"n": 1}, "unique_key": "customer-7"});
    let accepted = async |admin: &mut Client| {
        let response = admin.post_json("/v1/jobs", &unique).await.unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
        body_of(&response)["id"].as_str().unwrap().to_owned()
    };
    let first = accepted(&mut admin).await;
    let error = ErrorRecord::new(holdfast_core::clock::now(), 1, "permanent", "no such user", "w");
    app.finish_all(|fence| Outcome::Discard {
        fence,
        error: error.clone(),
    })
    .await;
    let second = accepted(&mut admin).await;
    let retry = format!("/v1/jobs/{first}/retry");
    let refused = admin.request("POST", &retry, &[], &[]).await.unwrap();
    let refused = problem(&refused, 409, "illegal-transition");
    assert_eq!(refused["job_id"], first.as_str());
    assert!(
        refused["detail"].as_str().unwrap().contains("unique_key"),
        "{refused}"
    );
    let cancel = format!("/v1/jobs/{second}/cancel");
    let cancelled = admin.request("POST", &cancel, &[], &[]).await.unwrap();
    assert_eq!(cancelled.status, 200);
    let retried = admin.request("POST", &retry, &[], &[]).await.unwrap();
    assert_eq!(retried.status, 200, "{}", retried.text());
}

#[tokio::test]
async fn a_dead_letter_is_found_edited_and_put_back() {
    let app = TestApp::start().await;
    let (first, second) = (dead(&app).await, dead(&app).await);
    let mut admin = app.admin();
    let page = body_of(
        &admin
            .get("/v1/dead-letters?error=NO%20SUCH&limit=1")
            .await
            .unwrap(),
    );
    assert_eq!(page["dead_letters"][0]["id"], second.as_str());
    assert_eq!(page["dead_letters"][0]["errors"][0]["worker"], "w");
    let next = format!(
        "/v1/dead-letters?limit=1&after={}",
        page["next"].as_str().unwrap()
    );
    let page = body_of(&admin.get(&next).await.unwrap());
    assert_eq!(
        (&page["dead_letters"][0]["id"], &page["next"]),
        (&json!(first), &Value::Null)
    );
    let shown = body_of(&admin.get(&format!("/v1/dead-letters/{first}")).await.unwrap());
    assert_eq!(shown["payload"], json!({"n": 1}));

    let preview = post(
        &mut admin,
        "/v1/dead-letters/redrive",
        &json!({"all": true, "dry_run": true}),
    )
    .await;
    assert_eq!(
        (&preview["matched"], preview["sample"].as_array().unwrap().len()),
        (&json!(2), 2)
    );
    let edited = json!({"id": first, "payload": {"n": 2}, "attempts": 2});
    let done = post(&mut admin, "/v1/dead-letters/redrive", &edited).await;
    assert_eq!((&done["affected"], &done["finished"]), (&json!(1), &json!(true)));
    let job = body_of(&admin.get(&format!("/v1/jobs/{first}")).await.unwrap());
    assert_eq!(
        (&job["state"], &job["payload"]),
        (&json!("available"), &json!({"n": 2}))
    );
    let again = admin
        .post_json("/v1/dead-letters/redrive", &edited)
        .await
        .unwrap();
    let again = problem(&again, 409, "illegal-transition");
    assert_eq!(again["job_id"], first.as_str());

    let rest = json!({"filter": {"queue": "default", "error": "such user"}});
    let deleted = post(&mut admin, "/v1/dead-letters/delete", &rest).await;
    assert_eq!(deleted["affected"], 1);
    problem(
        &admin.get(&format!("/v1/dead-letters/{second}")).await.unwrap(),
        404,
        "job-not-found",
    );
    let none = admin.post_json("/v1/dead-letters/delete", &rest).await.unwrap();
    problem_of(&none, 404, "nothing-matched", "filter");

    let log = body_of(&admin.get("/v1/audit?action=dead_letters.").await.unwrap());
    let said: Vec<_> = log["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| &entry["action"])
        .collect();
    assert_eq!(said, ["dead_letters.delete", "dead_letters.redrive"]);
    assert_eq!(log["entries"][0]["actor"], "bootstrap");
    assert!(log["entries"][0]["request_id"].is_string());
    assert!(
        !log.to_string().contains("\"n\""),
        "no payload is in the audit log"
    );
}

#[tokio::test]
async fn a_repeat_under_the_same_key_does_nothing_and_another_request_under_it_is_refused() {
    let app = TestApp::start().await;
    dead(&app).await;
    let mut keyed = app.admin().with_header("idempotency-key", "monday");
    let done = post(&mut keyed, "/v1/dead-letters/redrive", &json!({"all": true})).await;
    assert_eq!(
        (&done["affected"], &done["duplicate"]),
        (&json!(1), &json!(false))
    );
    let again = post(&mut keyed, "/v1/dead-letters/redrive", &json!({"all": true})).await;
    assert_eq!(
        (&again["affected"], &again["duplicate"]),
        (&json!(1), &json!(true))
    );
    assert_eq!(again["operation"], done["operation"]);
    let other = json!({"filter": {"queue": "ml"}});
    let refused = keyed.post_json("/v1/dead-letters/redrive", &other).await.unwrap();
    problem_of(&refused, 422, "idempotency-key-reused", "Idempotency-Key");
}

#[tokio::test]
async fn what_is_not_meant_or_not_sound_is_refused_by_its_field() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for (path, body, field) in [
        ("redrive", json!({}), "filter"),
        ("redrive", json!({"filter": {}}), "filter"),
        ("redrive", json!({"id": UNKNOWN, "all": true}), "filter"),
        ("redrive", json!({"ids": []}), "ids"),
        ("redrive", json!({"all": true, "rate": 0}), "rate"),
        ("redrive", json!({"all": true, "attempts": 0}), "attempts"),
        ("redrive", json!({"all": true, "payload": {}}), "payload"),
        ("redrive", json!({"filter": {"queu": "x"}}), "filter.queu"),
        ("redrive", json!({"filter": {"from": "yesterday"}}), "filter.from"),
        ("redrive", json!({"filter": {"error": ""}}), "filter.error"),
        ("delete", json!({"all": false}), "filter"),
        ("delete", json!({"all": true, "rate": 1}), "rate"),
    ] {
        let path = format!("/v1/dead-letters/{path}");
        let response = admin.post_json(&path, &body).await.unwrap();
        problem_of(&response, 422, "invalid-field", field);
    }
    let one = admin
        .post_json("/v1/dead-letters/redrive", &json!({"id": UNKNOWN}))
        .await
        .unwrap();
    problem_of(&one, 404, "job-not-found", "id");
    for (body, field) in [
        (json!({}), "filter"),
        (json!({"filter": {}}), "filter"),
        (json!({"filter": {"state": "completed"}}), "filter.state"),
        (json!({"filter": {"state": "asleep"}}), "filter.state"),
        (json!({"filter": {"queue": ""}}), "filter.queue"),
    ] {
        let response = admin.post_json("/v1/jobs/cancel", &body).await.unwrap();
        problem_of(&response, 422, "invalid-field", field);
    }
    let response = admin
        .post_json("/v1/queues/default/purge", &json!({"confirm": "defalt"}))
        .await
        .unwrap();
    problem_of(&response, 422, "invalid-field", "confirm");
    let response = admin
        .post_json("/v1/queues/nope/purge", &json!({"confirm": "nope"}))
        .await
        .unwrap();
    problem_of(&response, 404, "queue-not-found", "name");
    for query in ["from=monday", "limit=0", "colour=red"] {
        let response = admin.get(&format!("/v1/dead-letters?{query}")).await.unwrap();
        problem(&response, 400, "invalid-parameter");
        let response = admin.get(&format!("/v1/audit?{query}")).await.unwrap();
        problem(&response, 400, "invalid-parameter");
    }
    problem(
        &admin.get("/v1/dead-letters?after=x").await.unwrap(),
        400,
        "invalid-cursor",
    );
}

#[tokio::test]
async fn many_jobs_are_cancelled_and_a_queue_is_purged() {
    let app = TestApp::start().await;
    for _ in 0..3 {
        app.enqueue().await;
    }
    let mut admin = app.admin();
    let filter = json!({"filter": {"kind": "debug.echo"}, "dry_run": true});
    assert_eq!(post(&mut admin, "/v1/jobs/cancel", &filter).await["matched"], 3);
    let done = post(
        &mut admin,
        "/v1/jobs/cancel",
        &json!({"filter": {"kind": "debug.echo"}}),
    )
    .await;
    assert_eq!((&done["affected"], &done["finished"]), (&json!(3), &json!(true)));
    let none = admin
        .post_json("/v1/jobs/cancel", &json!({"all": true}))
        .await
        .unwrap();
    problem(&none, 404, "nothing-matched");
    app.enqueue().await;
    let purged = post(
        &mut admin,
        "/v1/queues/default/purge",
        &json!({"confirm": "default"}),
    )
    .await;
    assert_eq!(
        (&purged["cancelled"], &purged["finished"]),
        (&json!(1), &json!(true))
    );
}

#[tokio::test]
async fn a_purge_reaches_the_broker_and_needs_it() {
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let app = TestSettings::new()
        .with("REDIS_URL", &redis.url())
        .with("HOLDFAST__QUEUES__EVENTS__DURABILITY", "redis")
        .start()
        .await;
    let limit = std::time::Duration::from_mins(1);
    until("Redis to serve", limit, async || {
        app.gate.mode().is_normal().then_some(())
    })
    .await;
    let mut admin = app.admin();
    let mut body = echo(json!({"n": 1}));
    body["queue"] = json!("events");
    let jobs: Vec<Value> = (0..1_200).map(|_| body.clone()).collect();
    let accepted = admin
        .post_json("/v1/jobs/batch", &json!({ "jobs": jobs }))
        .await
        .unwrap();
    assert_eq!(accepted.status, 202, "{}", accepted.text());
    let id = body_of(&accepted)["ids"][700].as_str().unwrap().to_owned();
    let stood = body_of(&admin.get(&format!("/v1/jobs/{id}")).await.unwrap());
    // Under load a push may be late and its jobs stand in the ledger: both sides are purged.
    assert_eq!(stood["state"], "available");
    let purged = post(
        &mut admin,
        "/v1/queues/events/purge",
        &json!({"confirm": "events"}),
    )
    .await;
    let number = |name: &str| purged[name].as_u64().unwrap();
    assert_eq!(
        number("cancelled") + number("cancelled_on_broker"),
        1_200,
        "{purged}"
    );
    assert_eq!(purged["finished"], true);
    let after = body_of(&admin.get(&format!("/v1/jobs/{id}")).await.unwrap());
    assert_eq!(after["state"], "cancelled");

    redis.kill9().await.unwrap();
    until("Redis to be missed", limit, async || {
        (!app.gate.mode().is_normal()).then_some(())
    })
    .await;
    let response = admin
        .post_json("/v1/queues/events/purge", &json!({"confirm": "events"}))
        .await
        .unwrap();
    problem(&response, 503, "unavailable");
}

#[tokio::test]
async fn failures_are_groups_that_are_redriven_by_their_fingerprint() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut reader = app.with_scopes("reader", "read").await;
    let worker = app.worker().await;
    for user in [7, 8, 9] {
        let id = app.enqueue().await;
        let claimed = app
            .jobs
            .ledger()
            .claim("default", worker, 1, std::time::Duration::from_secs(15))
            .await
            .unwrap();
        assert_eq!(claimed[0].id, id);
        let message = format!("no user {user}");
        let error = ErrorRecord::new(holdfast_core::clock::now(), 1, "permanent", &message, "w");
        let error = error.with_fingerprint("debug.echo");
        let outcome = Outcome::Discard {
            fence: claimed[0].fence(),
            error,
        };
        app.jobs.ledger().finish(worker, &[outcome]).await.unwrap();
    }
    let list = body_of(&admin.get("/v1/failures").await.unwrap());
    let group = &list["failures"][0];
    assert_eq!(
        (
            &group["kind"],
            &group["class"],
            &group["message"],
            &group["count"]
        ),
        (
            &json!("debug.echo"),
            &json!("permanent"),
            &json!("no user #"),
            &json!(3)
        )
    );
    assert_eq!(
        (list["failures"].as_array().unwrap().len(), &list["has_more"]),
        (1, &json!(false))
    );
    assert_eq!(group["samples"].as_array().unwrap().len(), 3);
    assert_eq!(group["recent"].as_array().unwrap().len(), 24);
    let print = group["fingerprint"].as_str().unwrap();
    let path = format!("/v1/failures/{print}");
    assert_eq!(&body_of(&admin.get(&path).await.unwrap()), group);
    // The texts of errors need more than `read`.
    let hidden = body_of(&reader.get(&path).await.unwrap());
    assert_eq!((&hidden["message"], &hidden["count"]), (&Value::Null, &json!(3)));
    let letters = admin
        .get(&format!("/v1/dead-letters?fingerprint={print}"))
        .await
        .unwrap();
    assert_eq!(body_of(&letters)["dead_letters"].as_array().unwrap().len(), 3);
    let redrive = json!({"filter": {"fingerprint": print}, "rate": 100});
    let done = post(&mut admin, "/v1/dead-letters/redrive", &redrive).await;
    assert_eq!(done["affected"], 3, "{done}");
    problem_of(
        &admin.get(&path).await.unwrap(),
        404,
        "failure-not-found",
        "fingerprint",
    );
    problem_of(
        &admin.get("/v1/failures/x").await.unwrap(),
        404,
        "failure-not-found",
        "fingerprint",
    );
    let odd = json!({"filter": {"fingerprint": "x"}});
    let refused = admin.post_json("/v1/dead-letters/redrive", &odd).await.unwrap();
    problem_of(&refused, 422, "invalid-field", "filter.fingerprint");
}

#[tokio::test]
async fn a_worker_is_shown_with_the_jobs_that_it_runs() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let (id, worker) = (app.enqueue().await, app.worker().await);
    let lease = std::time::Duration::from_secs(15);
    app.jobs
        .ledger()
        .claim("default", worker, 1, lease)
        .await
        .unwrap();
    let shown = body_of(&admin.get(&format!("/v1/workers/{worker}")).await.unwrap());
    assert_eq!(
        (&shown["id"], &shown["alive"]),
        (&json!(worker.to_string()), &json!(true))
    );
    let job = &shown["jobs"][0];
    assert_eq!(
        (&job["id"], &job["kind"], &job["attempt"]),
        (&json!(id.to_string()), &json!("debug.echo"), &json!(1))
    );
    let unknown = admin.get(&format!("/v1/workers/{UNKNOWN}")).await.unwrap();
    problem_of(&unknown, 404, "worker-not-found", "id");
}
