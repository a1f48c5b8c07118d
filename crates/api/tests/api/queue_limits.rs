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
