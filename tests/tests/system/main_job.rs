//! The main job: what an API accepted runs in a worker, in every set-up, whatever happens to the worker.
//!
//! Each test ends with the same account ([`Cluster::conclude`]): executions counted by the receiver against what the
//! producers were told, and both against SQL and Redis. The long versions of the backlogs (1,000,000 jobs on Redis,
//! 200,000 on the ledger) are measured by `holdfast-bench`.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test code")]

use std::time::{Duration, Instant};

use holdfast_testkit::Mode;
use holdfast_tests::{Cluster, Durability, Expect, Load, Report, Role, Setup, Target};
use serde_json::json;

const JOBS: usize = 10_000;
const PRODUCERS: usize = 16;
const LIMIT: Duration = Duration::from_mins(1);
/// Running when something happens, and still short of every grace period.
const SLOW: Target = Target::Mixed {
    every: 20,
    slow: Duration::from_millis(400),
};

// --- every job, once ------------------------------------------------------------------------------------------------

async fn ten_thousand_jobs_run_once(mut cluster: Cluster, scenario: &str, queues: &[&str]) {
    cluster
        .enqueue(Load::new().count(JOBS).producers(PRODUCERS).queues(queues))
        .await
        .unwrap();
    let report = cluster.conclude(scenario, &Expect::new()).await.unwrap();
    report.assert();
    assert_eq!(report.accepted, JOBS);
    assert_eq!(cluster.receiver.duplicates(), []);
    if let Some(completed) = report.states.get("completed") {
        assert_eq!(
            report.states.len(),
            1,
            "{:?} ({completed} completed)",
            report.states
        );
    }
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_sqlite_in_one_process() {
    let cluster = Cluster::builder(Setup::Dev).start().await.unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, one process", &["default"]).await;
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_sqlite_with_two_workers() {
    let cluster = Cluster::builder(Setup::Sqlite).workers(2).start().await.unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, two workers", &["default"]).await;
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_postgres_without_redis() {
    let cluster = Cluster::builder(Setup::Postgres).start().await.unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, one worker", &["default"]).await;
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_postgres_with_two_workers() {
    let cluster = Cluster::builder(Setup::Postgres)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, two workers", &["default"]).await;
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_postgres_with_redis_and_two_workers() {
    let cluster = Cluster::builder(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, two workers", &["default"]).await;
}

#[tokio::test]
async fn ten_thousand_jobs_run_once_on_a_redis_queue_with_two_workers() {
    let cluster = two_queues(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    ten_thousand_jobs_run_once(cluster, "10,000 jobs, redis queue, two workers", &["bulk"]).await;
}

fn two_queues(setup: Setup) -> holdfast_tests::ClusterBuilder {
    Cluster::builder(setup).queue("bulk", Durability::Redis)
}

// --- a worker is killed ---------------------------------------------------------------------------------------------

/// Kills one of two workers in the middle of the load; returns the report and how long after the kill all was done.
async fn kill_a_worker_in_the_middle(
    mut cluster: Cluster,
    scenario: &str,
    queues: &[&str],
) -> (Report, Duration) {
    let load = cluster.load(
        Load::new()
            .count(JOBS)
            .producers(PRODUCERS)
            .queues(queues)
            .target(SLOW),
    );
    cluster.receiver.wait_for_distinct(JOBS / 3, LIMIT).await.unwrap();
    let killed = Instant::now();
    cluster.sigkill(Role::Worker, 0).await.unwrap();
    load.finish().await.unwrap();
    cluster.settle(LIMIT).await.unwrap();
    let done = killed.elapsed();
    // Its place is taken again, so that the account finds every process.
    cluster.start_again(Role::Worker, 0).await.unwrap();
    let report = cluster.conclude(scenario, &Expect::new()).await.unwrap();
    report.assert();
    assert_eq!(report.accepted, JOBS);
    let held: usize = cluster.excuses().await.unwrap().iter().map(held_by).sum();
    assert!(held > 0, "the worker was to be killed while it ran jobs");
    assert!(
        report.twice_killed <= held,
        "{} jobs ran twice, {held} were held",
        report.twice_killed
    );
    (report, done)
}

fn held_by(excuse: &holdfast_tests::Excuse) -> usize {
    let on_redis: usize = excuse.on_redis.values().map(std::collections::HashSet::len).sum();
    excuse
        .on_ledger
        .as_ref()
        .map_or(0, std::collections::HashSet::len)
        + on_redis
}

/// With the timings of production: a worker is lost after 15 s.
#[tokio::test]
async fn jobs_of_a_killed_worker_run_again_within_thirty_seconds() {
    let cluster = two_queues(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    let (report, done) = kill_a_worker_in_the_middle(cluster, "worker killed", &["default", "bulk"]).await;
    assert!(done < Duration::from_secs(30), "{done:?}");
    println!(
        "all done {:.1} s after the kill, {} jobs ran twice",
        done.as_secs_f64(),
        report.twice_killed
    );
}

#[tokio::test]
async fn jobs_of_a_killed_worker_run_again_on_postgres_alone() {
    let cluster = Cluster::builder(Setup::Postgres)
        .workers(2)
        .short_leases()
        .start()
        .await
        .unwrap();
    kill_a_worker_in_the_middle(cluster, "worker killed, short leases", &["default"]).await;
}

#[tokio::test]
async fn jobs_of_a_killed_worker_run_again_on_sqlite() {
    let cluster = Cluster::builder(Setup::Sqlite)
        .workers(2)
        .short_leases()
        .start()
        .await
        .unwrap();
    kill_a_worker_in_the_middle(cluster, "worker killed, short leases", &["default"]).await;
}

#[tokio::test]
async fn jobs_run_on_after_the_only_process_was_killed_and_started_again() {
    let mut cluster = Cluster::builder(Setup::Dev).short_leases().start().await.unwrap();
    let load = cluster.load(Load::new().count(JOBS).producers(PRODUCERS).target(SLOW));
    cluster.receiver.wait_for_distinct(JOBS / 3, LIMIT).await.unwrap();
    cluster.sigkill(Role::Dev, 0).await.unwrap();
    cluster.start_again(Role::Dev, 0).await.unwrap();
    load.finish().await.unwrap();
    let report = cluster
        .conclude("the only process killed", &Expect::new())
        .await
        .unwrap();
    report.assert();
    assert!(report.accepted > JOBS / 2, "{report:?}");
}

// --- workers are told to stop ---------------------------------------------------------------------------------------

/// Stops and starts both workers, one after the other, in the middle of the load.
#[tokio::test]
async fn a_rolling_restart_of_the_workers_loses_and_repeats_nothing() {
    let mut cluster = two_queues(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    let queues = ["default", "bulk"];
    let load = cluster.load(
        Load::new()
            .count(JOBS)
            .producers(PRODUCERS)
            .queues(&queues)
            .target(SLOW),
    );
    for worker in [0, 1] {
        cluster
            .receiver
            .wait_for_distinct(JOBS / 4 * (worker + 1), LIMIT)
            .await
            .unwrap();
        let status = cluster.sigterm(Role::Worker, worker).await.unwrap();
        assert_eq!(status.code(), Some(0), "{status}");
        cluster.start_again(Role::Worker, worker).await.unwrap();
    }
    load.finish().await.unwrap();
    let report = cluster
        .conclude("workers restarted one by one", &Expect::new())
        .await
        .unwrap();
    report.assert();
    assert_eq!(report.accepted, JOBS);
    assert_eq!(cluster.receiver.duplicates(), []);
}

#[tokio::test]
async fn the_only_process_stops_and_starts_again_without_repeating_a_job() {
    let mut cluster = Cluster::builder(Setup::Dev).start().await.unwrap();
    let load = cluster.load(Load::new().count(JOBS).producers(PRODUCERS).target(SLOW));
    cluster.receiver.wait_for_distinct(JOBS / 3, LIMIT).await.unwrap();
    let status = cluster.sigterm(Role::Dev, 0).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    cluster.start_again(Role::Dev, 0).await.unwrap();
    load.finish().await.unwrap();
    cluster
        .conclude("the only process restarted", &Expect::new())
        .await
        .unwrap()
        .assert();
    assert_eq!(cluster.receiver.duplicates(), []);
}

/// Longer than any fixed patience, and well within the grace period of 25 s.
const SQL_AWAY: Duration = Duration::from_secs(6);

#[tokio::test]
async fn a_worker_that_stops_while_sql_is_away_holds_its_outcomes_until_sql_is_back() {
    let builder = Cluster::builder(Setup::Postgres).workers(2);
    let mut cluster = builder.postgres_proxy_of(Role::Worker, 0).start().await.unwrap();
    let slow = Target::Slow(Duration::from_millis(500));
    let load = cluster.load(Load::new().count(400).batch(50).producers(1).target(slow));
    load.finish().await.unwrap();
    cluster.receiver.wait_for_distinct(100, LIMIT).await.unwrap();
    let wire = cluster.postgres_proxy_of(Role::Worker, 0).clone();
    wire.set_mode(Mode::Refuse).await.unwrap();
    cluster.begin_sigterm(Role::Worker, 0).unwrap();
    tokio::time::sleep(SQL_AWAY).await;
    wire.set_mode(Mode::Forward).await.unwrap();
    let status = cluster.worker(0).wait_exit(LIMIT).await.unwrap();
    assert_eq!(status.code(), Some(0), "{status}");
    cluster.start_again(Role::Worker, 0).await.unwrap();
    let report = cluster
        .conclude("worker stopped while SQL is away", &Expect::new())
        .await
        .unwrap();
    report.assert();
    assert_eq!(cluster.receiver.duplicates(), []);
}

// --- backlogs -------------------------------------------------------------------------------------------------------

const BACKLOG: usize = 20_000;
const BATCH: usize = 1_000;

/// Lets a backlog pile up behind a paused queue, and drains it: the last jobs as fast as the first.
async fn a_backlog_drains_evenly(mut cluster: Cluster, scenario: &str, queue: &str) {
    let mut client = cluster.client(0);
    let steered = client
        .post_json(&format!("/v1/queues/{queue}/pause"), &json!({}))
        .await
        .unwrap();
    assert_eq!(steered.status, 200, "{}", steered.text());
    wait_until_paused(&cluster, queue).await;
    cluster
        .enqueue(
            Load::new()
                .count(BACKLOG)
                .batch(BATCH)
                .producers(2)
                .queues(&[queue]),
        )
        .await
        .unwrap();
    let before = cluster.receiver.total();
    let steered = client
        .post_json(&format!("/v1/queues/{queue}/resume"), &json!({}))
        .await
        .unwrap();
    assert_eq!(steered.status, 200, "{}", steered.text());
    cluster
        .conclude(scenario, &Expect::new().settle(LIMIT * 2))
        .await
        .unwrap()
        .assert();
    assert!(
        before < BACKLOG as u64 / 10,
        "{before} jobs ran while the queue was paused"
    );

    let mut times: Vec<Instant> = cluster
        .record
        .accepted_ids()
        .iter()
        .map(|id| cluster.receiver.hits(id)[0].at)
        .collect();
    times.sort();
    assert_eq!(times.len(), BACKLOG);
    let quarter = BACKLOG / 4;
    let rate = |from: usize| quarter as f64 / (times[from + quarter - 1] - times[from]).as_secs_f64();
    let (first, last) = (rate(0), rate(3 * quarter));
    println!("{scenario}: {first:.0}/s at the beginning, {last:.0}/s at the end");
    assert!(
        last > first / 2.0,
        "slows down: {first:.0}/s at the beginning, {last:.0}/s at the end"
    );
}

/// Workers learn of a pause with their next look: one job may still slip through, then none.
async fn wait_until_paused(cluster: &Cluster, queue: &str) {
    let probes = async {
        loop {
            if cluster.probe(0, queue, Duration::from_secs(1)).await.is_err() {
                return;
            }
        }
    };
    tokio::time::timeout(LIMIT, probes)
        .await
        .expect("the queue to be paused");
}

#[tokio::test]
async fn a_backlog_on_the_ledger_drains_evenly() {
    let cluster = Cluster::builder(Setup::PostgresRedis)
        .workers(2)
        .start()
        .await
        .unwrap();
    a_backlog_drains_evenly(cluster, "backlog of 20,000, ledger", "default").await;
}

#[tokio::test]
async fn a_backlog_on_redis_drains_evenly() {
    let cluster = two_queues(Setup::PostgresRedis).workers(2).start().await.unwrap();
    a_backlog_drains_evenly(cluster, "backlog of 20,000, redis", "bulk").await;
}

// --- poison ---------------------------------------------------------------------------------------------------------

const POISONED: usize = 2_000;

/// Runs a job that kills its worker amid ordinary ones, and starts the worker again each time, as a platform would.
async fn poison_is_discarded(queue: &str, scenario: &str) {
    let mut cluster = two_queues(Setup::PostgresRedis)
        .short_leases()
        .start()
        .await
        .unwrap();
    let load = Load::new()
        .count(POISONED)
        .per_second(250.0)
        .queues(&[queue])
        .target(SLOW);
    let load = cluster.load(load);
    cluster
        .receiver
        .wait_for_distinct(POISONED / 10, LIMIT)
        .await
        .unwrap();
    let poison = json!({"kind": "debug.fail", "queue": queue, "payload": {"mode": "abort"}});
    let accepted = cluster.post(&poison).await.unwrap();
    let id = accepted["id"].as_str().unwrap().to_owned();
    for _ in 0..3 {
        let pid = cluster.worker(0).pid().unwrap();
        let status = cluster.worker(0).wait_exit(LIMIT).await.unwrap();
        assert_eq!(status.code(), None, "an abort, not an exit: {status}");
        cluster.note_crash(Role::Worker, 0, pid);
        cluster.start_again(Role::Worker, 0).await.unwrap();
    }
    load.finish().await.unwrap();
    let report = cluster.conclude(scenario, &Expect::new()).await.unwrap();
    report.assert();
    assert_eq!(report.accepted, POISONED);
    let job = cluster.job(&id).await.unwrap();
    assert_eq!(
        (job["state"].as_str(), job["crashes"].as_u64()),
        (Some("discarded"), Some(3)),
        "{job}"
    );
    assert_eq!(report.states.get("discarded"), Some(&1), "{:?}", report.states);
}

#[tokio::test]
async fn a_job_that_kills_its_worker_is_discarded_after_three_crashes() {
    poison_is_discarded("default", "poison, ledger").await;
}

#[tokio::test]
async fn a_job_of_a_redis_queue_that_kills_its_worker_is_discarded_after_three_crashes() {
    poison_is_discarded("bulk", "poison, redis").await;
}
