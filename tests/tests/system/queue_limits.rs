//! Limits over all workers, seen from outside: the receiver's clock says what overlapped.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::time::{Duration, Instant};

use holdfast_tests::{Cluster, Setup};
use serde_json::json;

const LIMIT: Duration = Duration::from_secs(90);
/// How far the clock of the database and that of this process may part meanwhile.
const CLOCKS: Duration = Duration::from_millis(100);
const CUSTOMERS: usize = 4;
const JOBS_EACH: usize = 25;
const JOBS: usize = CUSTOMERS * JOBS_EACH;

/// One job at a time for each customer, two workers; `midway` happens when half of the jobs have run.
async fn one_at_a_time_for_each_customer(cluster: &Cluster, midway: impl AsyncFnOnce(&Cluster)) {
    let jobs: Vec<_> = (0..JOBS)
        .map(|number| {
            let customer = number % CUSTOMERS;
            let url = cluster
                .receiver
                .url(&format!("/slow/40?id=job-{number}&key=customer-{customer}"));
            json!({"kind": "http.request", "payload": {"url": url}, "limit_key": format!("customer-{customer}")})
        })
        .collect();
    let response = cluster
        .client(0)
        .post_json("/v1/jobs/batch", &json!({ "jobs": jobs }))
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    cluster.receiver.wait_for_distinct(JOBS / 2, LIMIT).await.unwrap();
    midway(cluster).await;
    cluster.receiver.wait_for_distinct(JOBS, LIMIT).await.unwrap();
    assert_eq!(cluster.receiver.duplicates(), []);
    let mut together = 0;
    for customer in 0..CUSTOMERS {
        let most = cluster.receiver.max_concurrent(&format!("customer-{customer}"));
        assert_eq!(most, 1, "customer {customer} had {most} jobs at a time");
        together += most;
    }
    assert_eq!(together, CUSTOMERS);
    assert!(
        cluster.receiver.max_concurrent_total() > 1,
        "customers do not wait for one another"
    );
}

#[tokio::test]
async fn jobs_of_one_key_never_overlap_while_redis_stops_in_the_middle() {
    let cluster = Cluster::builder(Setup::PostgresRedis)
        .workers(2)
        .env("HOLDFAST__QUEUES__DEFAULT__KEY_MAX_RUNNING", "1")
        .start()
        .await
        .unwrap();
    one_at_a_time_for_each_customer(&cluster, async |cluster| cluster.redis().kill9().await.unwrap()).await;
}

#[tokio::test]
async fn jobs_of_one_key_never_overlap_on_sqlite() {
    let cluster = Cluster::builder(Setup::Sqlite)
        .workers(2)
        .env("HOLDFAST__QUEUES__DEFAULT__KEY_MAX_RUNNING", "1")
        .start()
        .await
        .unwrap();
    one_at_a_time_for_each_customer(&cluster, async |_| {}).await;
}

/// Set while both workers work: they keep to it from their next claim on.
#[tokio::test]
async fn limits_set_over_the_api_reach_both_workers_and_a_rate_holds() {
    let cluster = Cluster::builder(Setup::PostgresRedis)
        .workers(2)
        .start()
        .await
        .unwrap();
    cluster.probe(0, "default", LIMIT).await.unwrap();
    let headers = [("content-type", "application/json")];
    let body = json!({"rate": "20/4s"}).to_string();
    let limited = cluster
        .client(0)
        .request("PUT", "/v1/queues/default/limits", &headers, body.as_bytes())
        .await
        .unwrap();
    assert_eq!(limited.status, 200, "{}", limited.text());
    cluster.receiver.clear();
    let jobs: Vec<_> = (0..50)
        .map(|number| {
            json!({"kind": "http.request", "payload": {"url": cluster.receiver.hit_url(&format!("rated-{number}"))}})
        })
        .collect();
    let sent = Instant::now();
    let response = cluster
        .client(0)
        .post_json("/v1/jobs/batch", &json!({ "jobs": jobs }))
        .await
        .unwrap();
    assert_eq!(response.status, 202, "{}", response.text());
    cluster.receiver.wait_for_distinct(50, LIMIT).await.unwrap();
    let mut arrivals: Vec<_> = (0..50)
        .map(|number| cluster.receiver.hits(&format!("rated-{number}"))[0].at)
        .collect();
    arrivals.sort();
    // 20 at once, then 5 a second, by the database's clock: job k cannot start sooner than this after all of them were sent. A slow
    // machine only makes it later.
    for (k, at) in arrivals.iter().enumerate().skip(20) {
        let earliest = Duration::from_millis((k as u64 + 1 - 20) * 200).saturating_sub(CLOCKS);
        let after = *at - sent;
        assert!(
            after >= earliest,
            "start {k} came {after:?} after the first could, not {earliest:?}"
        );
    }
}
