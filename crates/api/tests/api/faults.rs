//! A fault of the ledger, from its beginning to its end, in everything that an operator looks at.

use std::time::Duration;

use holdfast_testkit::http::Client;
use holdfast_testkit::{Child, PostgresServer};
use serde_json::{Value, json};

use crate::support::{ADMIN, body_of, until};

/// The log waits 20 s before it says that a fault has ended.
const PATIENCE: Duration = Duration::from_mins(2);

/// What a gauge of `/metrics` says; `None`: it is not set.
async fn gauge(client: &mut Client, name: &str) -> Option<f64> {
    let text = client.get("/metrics").await.unwrap().text();
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    line.trim().parse().ok()
}

/// The faults in `/health`, with its status.
async fn faults(client: &mut Client) -> (Value, Value) {
    let body = body_of(&client.get("/health").await.unwrap());
    let ledger = &body["services"]["ledger"];
    (ledger["status"].clone(), ledger["details"]["faults"].clone())
}

#[tokio::test]
async fn a_fault_begins_and_ends_in_health_metrics_and_the_log() {
    let postgres = PostgresServer::start().await.unwrap();
    let api = Child::binary("api")
        .env("DATABASE_URL", postgres.url())
        .env("PORT", "0")
        .env("HOLDFAST__SERVER__HOST", "127.0.0.1")
        .env("HOLDFAST__LOG__FORMAT", "json")
        .env("HOLDFAST_API_KEY", ADMIN)
        .start()
        .unwrap();
    let address = api.listening_addr(PATIENCE).await.unwrap();
    let mut client = Client::new(address).with_bearer(ADMIN);
    until("it is ready", PATIENCE, async || {
        (client.get("/health/ready").await.ok()?.status == 200).then_some(())
    })
    .await;
    until("the ledger is healthy", PATIENCE, async || {
        (faults(&mut client).await == (json!("healthy"), json!([]))).then_some(())
    })
    .await;
    assert_eq!(
        gauge(&mut client, "holdfast_faults{kind=\"orphaned_jobs\"}").await,
        Some(0.0)
    );

    // Three jobs of a worker that has no row.
    postgres
        .psql(
            "insert into holdfast_jobs (id, kind, queue, payload, priority, state, run_at, max_attempts, timeout_ms, worker, started_at, created_at)
             select gen_random_uuid(), 'debug.echo', 'default', '1', 1, 'running', now(), 4, 30000, gen_random_uuid(), now(), now()
             from generate_series(1, 3)",
        )
        .await
        .unwrap();
    let fault = until("the fault is in /health", PATIENCE, async || {
        let (status, faults) = faults(&mut client).await;
        let fault = faults.get(0)?.clone();
        assert_eq!(
            (status, faults.as_array()?.len()),
            (json!("degraded"), 1),
            "{fault}"
        );
        Some(fault)
    })
    .await;
    assert_eq!(fault["kind"], "orphaned_jobs");
    let message = fault["message"].as_str().unwrap();
    assert!(message.starts_with("3 running jobs have no worker"), "{message}");
    for (name, value) in [
        ("holdfast_faults{kind=\"orphaned_jobs\"}", 1.0),
        ("holdfast_faults{kind=\"silent_workers\"}", 0.0),
        ("holdfast_jobs_lost{worker=\"orphaned\"}", 3.0),
    ] {
        until(name, PATIENCE, async || {
            (gauge(&mut client, name).await == Some(value)).then_some(())
        })
        .await;
    }
    let line = api.wait_for_line(message, PATIENCE).await.unwrap();
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(
        (&entry["level"], &entry["fault"]),
        (&json!("warn"), &json!("orphaned_jobs")),
        "{line}"
    );
    assert!(
        entry["hint"].as_str().unwrap().contains("Start a worker"),
        "{line}"
    );
    // A stranger is told that there is a fault, and not which jobs.
    let stranger = body_of(&Client::new(address).get("/health").await.unwrap());
    assert_eq!(stranger["services"]["ledger"]["status"], "degraded");

    postgres.psql("delete from holdfast_jobs").await.unwrap();
    until("the fault is not in /health any more", PATIENCE, async || {
        (faults(&mut client).await == (json!("healthy"), json!([]))).then_some(())
    })
    .await;
    for name in [
        "holdfast_faults{kind=\"orphaned_jobs\"}",
        "holdfast_jobs_lost{worker=\"orphaned\"}",
    ] {
        until(name, PATIENCE, async || {
            (gauge(&mut client, name).await == Some(0.0)).then_some(())
        })
        .await;
    }
    let line = api.wait_for_line("the fault has ended", PATIENCE).await.unwrap();
    let entry: Value = serde_json::from_str(&line).unwrap();
    assert_eq!(entry["fault"], "orphaned_jobs", "{line}");
    let log = api.lines();
    let begun = log.iter().filter(|line| line.contains("have no worker")).count();
    assert_eq!(begun, 1, "a fault is logged once when it begins");
}
