//! A pause reaches every worker.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::time::{Duration, Instant};

use holdfast_testkit::eventually;
use holdfast_tests::{Cluster, Setup};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(60);
/// What is promised.
const WITHIN: Duration = Duration::from_secs(2);
const JOBS: usize = 400;

#[tokio::test]
async fn a_pause_reaches_two_workers_within_two_seconds_and_a_resume_lets_the_rest_run() {
    let cluster = Cluster::builder(Setup::PostgresRedis)
        .workers(2)
        .env("HOLDFAST__QUEUES__DEFAULT__CONCURRENCY", "2")
        .start()
        .await
        .unwrap();
    let jobs: Vec<_> = (0..JOBS)
        .map(|number| {
            let url = cluster.receiver.url(&format!("/slow/60?id=job-{number}"));
            json!({"kind": "http.request", "payload": {"url": url}})
        })
        .collect();
    let client = || cluster.client(0);
    let sent = client()
        .post_json("/v1/jobs/batch", &json!({ "jobs": jobs }))
        .await
        .unwrap();
    assert_eq!(sent.status, 202, "{}", sent.text());
    let both_work = async || (cluster.ledger().holders("default").await.unwrap().len() == 2).then_some(());
    eventually("both workers work", LIMIT, Duration::from_millis(20), both_work)
        .await
        .unwrap();

    let paused = client()
        .post_json("/v1/queues/default/pause", &json!({}))
        .await
        .unwrap();
    assert_eq!(paused.status, 200, "{}", paused.text());
    let paused_at = Instant::now();
    tokio::time::sleep(WITHIN).await;
    let ran = cluster.receiver.distinct();
    assert!((1..JOBS).contains(&ran), "{ran} jobs ran before the pause");
    // That nothing happens can only be waited for.
    tokio::time::sleep(WITHIN).await;
    assert_eq!(
        cluster.receiver.distinct(),
        ran,
        "a job started after the pause had reached everybody"
    );
    assert!(cluster.ledger().holders("default").await.unwrap().is_empty());
    let late = (0..JOBS)
        .flat_map(|number| cluster.receiver.hits(&format!("job-{number}")))
        .filter(|hit| hit.at > paused_at + WITHIN)
        .count();
    assert_eq!(late, 0);

    let resumed = client()
        .post_json("/v1/queues/default/resume", &json!({}))
        .await
        .unwrap();
    assert_eq!(resumed.status, 200, "{}", resumed.text());
    cluster.receiver.wait_for_distinct(JOBS, LIMIT).await.unwrap();
    assert_eq!(cluster.receiver.duplicates(), []);
}
