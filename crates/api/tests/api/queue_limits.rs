//! What bounds a queue over all workers, set over the API.

use serde_json::{Value, json};

use crate::support::{TestApp, TestSettings, body_of, problem, problem_of};

const PATH: &str = "/v1/queues/default/limits";

async fn put(app: &TestApp, path: &str, body: &Value) -> holdfast_testkit::http::Response {
    let headers = [("content-type", "application/json")];
    app.admin()
        .request("PUT", path, &headers, body.to_string().as_bytes())
        .await
        .unwrap()
}

async fn queue(app: &TestApp, name: &str) -> Value {
    let list = body_of(&app.admin().get("/v1/queues").await.unwrap());
    let queues = list["queues"].as_array().unwrap();
    queues.iter().find(|queue| queue["name"] == name).unwrap().clone()
}

#[tokio::test]
async fn limits_are_set_shown_audited_and_taken_back() {
    let app = TestApp::start().await;
    let none = json!({"max_running": null, "rate": null, "key_max_running": null, "key_rate": null,
                      "source": "configuration"});
    assert_eq!(queue(&app, "default").await["limits"], none);
    let response = put(&app, PATH, &json!({"key_max_running": 1, "rate": "100/1m"})).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let set = json!({"max_running": null, "rate": "100/60s", "key_max_running": 1, "key_rate": null, "source": "api"});
    assert_eq!(body_of(&response), json!({"name": "default", "limits": set}));
    assert_eq!(queue(&app, "default").await["limits"], set);
    assert_eq!(queue(&app, "events").await["limits"], none);

    let audit = body_of(&app.admin().get("/v1/audit?action=queue.limit").await.unwrap());
    assert_eq!(audit["entries"][0]["target"], "default");
    assert_eq!(audit["entries"][0]["details"]["limits"]["rate"], "100/60s");

    let response = app.admin().delete(PATH).await.unwrap();
    assert_eq!(body_of(&response)["limits"], none);
    assert_eq!(queue(&app, "default").await["limits"], none);
}

#[tokio::test]
async fn a_limit_of_zero_and_other_nonsense_names_its_field() {
    let app = TestApp::start().await;
    for (body, field) in [
        (json!({"max_running": 0}), "max_running"),
        (json!({"key_max_running": 0}), "key_max_running"),
        (json!({"max_running": 1.5}), "max_running"),
        (json!({"rate": "0/60s"}), "rate"),
        (json!({"rate": 5}), "rate"),
        (json!({"key_rate": "5/0s"}), "key_rate"),
        (json!({"speed": 5}), "speed"),
    ] {
        let response = put(&app, PATH, &body).await;
        problem_of(&response, 422, "invalid-field", field);
    }
    problem(
        &put(&app, "/v1/queues/nowhere/limits", &json!({})).await,
        404,
        "queue-not-found",
    );
    assert_eq!(queue(&app, "default").await["limits"]["source"], "configuration");
}

#[tokio::test]
async fn a_redis_queue_takes_limits_only_where_its_configuration_names_some() {
    let app = TestSettings::new()
        .with("HOLDFAST__QUEUES__BULK__DURABILITY", "redis")
        .with("HOLDFAST__QUEUES__SLOW__DURABILITY", "redis")
        .with("HOLDFAST__QUEUES__SLOW__MAX_RUNNING", "3")
        .start()
        .await;
    let limits = json!({"max_running": 1});
    let refused = put(&app, "/v1/queues/bulk/limits", &limits).await;
    problem_of(&refused, 422, "invalid-field", "name");
    assert_eq!(put(&app, "/v1/queues/slow/limits", &limits).await.status, 200);
}

#[tokio::test]
async fn a_limit_key_is_taken_shown_and_bounded() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let job = |key: &str| json!({"kind": "debug.echo", "payload": {}, "limit_key": key});
    let response = admin.post_json("/v1/jobs", &job("customer-7")).await.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    let shown = admin.get(response.header("location").unwrap()).await.unwrap();
    assert_eq!(body_of(&shown)["limit_key"], "customer-7");
    for odd in ["", "a\u{7}b", &"k".repeat(256)] {
        let response = admin.post_json("/v1/jobs", &job(odd)).await.unwrap();
        problem_of(&response, 422, "invalid-field", "limit_key");
    }
}

#[tokio::test]
async fn the_time_to_drain_is_told_where_it_can_be_known() {
    let app = TestApp::start().await;
    assert_eq!(queue(&app, "default").await["drain_seconds"], 0.0);
    app.enqueue().await;
    assert_eq!(
        queue(&app, "default").await["drain_seconds"],
        Value::Null,
        "nobody works"
    );
}

#[tokio::test]
async fn the_keys_of_a_queue_are_listed_with_their_jobs() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    for key in ["b", "a", "a"] {
        let mut job = crate::support::echo(json!({}));
        job["limit_key"] = json!(key);
        assert_eq!(admin.post_json("/v1/jobs", &job).await.unwrap().status, 202);
    }
    let page = body_of(&admin.get("/v1/queues/default/keys?limit=1").await.unwrap());
    let first = json!({"key": "a", "waiting": 2, "running": 0, "is_capped": false, "overridden": null});
    assert_eq!(page, json!({"keys": [first], "next": "a"}));
    let page = body_of(&admin.get("/v1/queues/default/keys?after=a").await.unwrap());
    assert_eq!(
        (&page["keys"][0]["key"], &page["next"]),
        (&json!("b"), &json!(null))
    );
    problem(
        &admin.get("/v1/queues/nowhere/keys").await.unwrap(),
        404,
        "queue-not-found",
    );
    problem_of(
        &admin.get("/v1/queues/default/keys?limit=0").await.unwrap(),
        400,
        "invalid-parameter",
        "limit",
    );
}

#[tokio::test]
async fn one_key_is_paused_or_limited_for_a_time() {
    let app = TestApp::start().await;
    let mut admin = app.admin();
    let mut job = crate::support::echo(json!({}));
    job["limit_key"] = json!("customer/17");
    let id = body_of(&admin.post_json("/v1/jobs", &job).await.unwrap())["id"].clone();
    let path = "/v1/queues/default/keys/customer%2F17";
    let response = put(&app, path, &json!({"paused": true, "ttl_seconds": 3600})).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let set = body_of(&response);
    assert_eq!(
        (&set["queue"], &set["key"]),
        (&json!("default"), &json!("customer/17"))
    );
    let found = &set["overridden"];
    assert_eq!(
        (&found["paused"], &found["max_running"]),
        (&json!(true), &json!(null))
    );
    let keys = body_of(&admin.get("/v1/queues/default/keys").await.unwrap());
    assert_eq!(&keys["keys"][0]["overridden"], found);
    let why = format!("/v1/jobs/{}/why", id.as_str().unwrap());
    let why = body_of(&admin.get(&why).await.unwrap());
    let reasons = why["reasons"].as_array().unwrap();
    let paused = reasons
        .iter()
        .find(|reason| reason["code"] == "key_paused")
        .unwrap();
    assert_eq!(paused["until"], found["expires_at"]);

    let response = put(&app, path, &json!({"max_running": 2, "ttl_seconds": 60})).await;
    assert_eq!(body_of(&response)["overridden"]["max_running"], 2);
    let audit = body_of(&admin.get("/v1/audit?action=queue.key").await.unwrap());
    let details = json!({"key": "customer/17", "rule": {"max_running": 2}, "seconds": 60});
    assert_eq!(audit["entries"][0]["details"], details);

    for _ in 0..2 {
        let ended = body_of(&admin.delete(path).await.unwrap());
        assert_eq!(ended["overridden"], json!(null));
    }
    let audit = body_of(&admin.get("/v1/audit?action=queue.key").await.unwrap());
    assert_eq!(
        audit["entries"].as_array().unwrap().len(),
        3,
        "what changed nothing leaves no entry"
    );
}

#[tokio::test]
async fn what_cannot_hold_for_a_key_names_its_field() {
    let app = TestApp::start().await;
    let path = "/v1/queues/default/keys/a";
    for (body, field) in [
        (json!({"paused": true}), "ttl_seconds"),
        (json!({"paused": true, "ttl_seconds": 0}), "ttl_seconds"),
        (json!({"paused": true, "ttl_seconds": 2_592_001}), "ttl_seconds"),
        (json!({"ttl_seconds": 60}), "paused"),
        (json!({"paused": false, "ttl_seconds": 60}), "paused"),
        (
            json!({"paused": true, "max_running": 1, "ttl_seconds": 60}),
            "max_running",
        ),
        (json!({"max_running": 0, "ttl_seconds": 60}), "max_running"),
        (json!({"rate": "1/1s", "ttl_seconds": 60}), "rate"),
    ] {
        let response = put(&app, path, &body).await;
        problem_of(&response, 422, "invalid-field", field);
    }
    let pause = json!({"paused": true, "ttl_seconds": 60});
    let long = format!("/v1/queues/default/keys/{}", "x".repeat(256));
    problem_of(&put(&app, &long, &pause).await, 422, "invalid-field", "key");
    let control = "/v1/queues/default/keys/a%0Ab";
    problem_of(&put(&app, control, &pause).await, 422, "invalid-field", "key");
    problem(
        &put(&app, "/v1/queues/nowhere/keys/a", &pause).await,
        404,
        "queue-not-found",
    );
    problem(
        &app.admin().delete("/v1/queues/nowhere/keys/a").await.unwrap(),
        404,
        "queue-not-found",
    );
}
