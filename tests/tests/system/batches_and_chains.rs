//! Batches and chains seen from outside: a worker dies between an outcome and its commit, and just after it.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use holdfast_tests::{Cluster, Role, Setup};
use serde_json::{Value, json};

const SIGKILL: i32 = 9;
const LIMIT: Duration = Duration::from_secs(60);

fn call(cluster: &Cluster, name: &str) -> Value {
    json!({"kind": "http.request", "payload": {"url": cluster.receiver.hit_url(name)}})
}

async fn post(cluster: &Cluster, path: &str, body: &Value) -> Value {
    let response = cluster.client(0).post_json(path, body).await.unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    serde_json::from_str(&response.text()).unwrap()
}

/// One worker that dies at `point`; a chain and a batch whose only job is its last. In the end: one child, one callback.
async fn one_child_and_one_callback(setup: Setup, point: &str, midway: impl AsyncFnOnce(&Cluster)) {
    let mut cluster = Cluster::builder(setup)
        .short_leases()
        .env_of(Role::Worker, 0, "HOLDFAST_FAILPOINT", &format!("{point}:1"))
        .start()
        .await
        .unwrap();
    let mut chain = call(&cluster, "parent");
    chain["then"] = call(&cluster, "child");
    let parent = post(&cluster, "/v1/jobs", &chain).await;
    let batch = json!({"jobs": [call(&cluster, "member")], "callback": call(&cluster, "callback")});
    let batch = post(&cluster, "/v1/batches", &batch).await;
    midway(&cluster).await;

    let process = cluster.process(Role::Worker, 0);
    let pid = process.pid().expect("it was started");
    let status = process.wait_exit(LIMIT).await.unwrap();
    assert_eq!(status.signal(), Some(SIGKILL), "not dead at {point}");
    cluster.note_crash(Role::Worker, 0, pid);
    cluster.env_of(Role::Worker, 0, "HOLDFAST_FAILPOINT", "none");
    cluster.start_again(Role::Worker, 0).await.unwrap();

    cluster.receiver.wait_for_distinct(4, LIMIT).await.unwrap();
    let id = batch["id"].as_str().unwrap();
    let ended = cluster
        .client(0)
        .get(&format!("/v1/batches/{id}?wait=30"))
        .await
        .unwrap();
    let ended: Value = serde_json::from_str(&ended.text()).unwrap();
    assert_eq!(
        (&ended["state"], &ended["completed"]),
        (&json!("ended"), &json!(1)),
        "{ended}"
    );
    for (job, what) in [
        (&ended["callback"]["id"], "callback"),
        (&child_of(&cluster, &parent).await, "child"),
    ] {
        let path = format!("/v1/jobs/{}?wait=30", job.as_str().unwrap());
        let shown = cluster.client(0).get(&path).await.unwrap();
        let shown: Value = serde_json::from_str(&shown.text()).unwrap();
        assert_eq!(shown["state"], "completed", "{what}: {shown}");
        assert_eq!(cluster.receiver.hits(what).len(), 1, "{what} ran once");
    }
    let recorded = cluster.receiver.recorded();
    let request = |name: &str| {
        recorded
            .iter()
            .find(|request| request.path == format!("/hit/{name}"))
    };
    let counts = format!("{id}; total=1; completed=1; discarded=0; cancelled=0");
    let told = |name: &str, header: &str| request(name).and_then(|request| request.header(header));
    assert_eq!(told("callback", "holdfast-batch"), Some(counts.as_str()));
    assert_eq!(told("child", "holdfast-parent"), parent["id"].as_str());
    let states = cluster.ledger().states().await.unwrap();
    assert_eq!(
        states,
        [("completed".to_owned(), 4)].into(),
        "nothing was enqueued twice"
    );
}

async fn child_of(cluster: &Cluster, parent: &Value) -> Value {
    let path = format!("/v1/jobs/{}?wait=30", parent["id"].as_str().unwrap());
    let shown = cluster.client(0).get(&path).await.unwrap();
    let shown: Value = serde_json::from_str(&shown.text()).unwrap();
    assert_eq!(shown["state"], "completed", "{shown}");
    shown["child"].clone()
}

#[tokio::test]
async fn a_worker_killed_before_the_commit_makes_one_child_and_one_callback_on_postgres() {
    one_child_and_one_callback(Setup::Postgres, "tied", async |_| {}).await;
}

#[tokio::test]
async fn a_worker_killed_before_the_commit_makes_one_child_and_one_callback_on_sqlite() {
    one_child_and_one_callback(Setup::Sqlite, "tied", async |_| {}).await;
}

#[tokio::test]
async fn a_worker_killed_after_the_commit_makes_one_child_and_one_callback() {
    one_child_and_one_callback(Setup::Postgres, "finished", async |_| {}).await;
}

#[tokio::test]
async fn a_worker_killed_while_redis_stops_makes_one_child_and_one_callback() {
    let stop = async |cluster: &Cluster| cluster.redis().kill9().await.unwrap();
    one_child_and_one_callback(Setup::PostgresRedis, "tied", stop).await;
}
