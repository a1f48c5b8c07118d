//! What the chaos scenarios share: the usual cluster, the usual load, one way to let the weather change, and figures.
//!
//! A *figure* is one line `figure | scenario | what | value` on stdout: docs/reliability.md quotes them. The bounds in
//! the tests are those that the documentation promises, plus [`SLACK`] for a machine of two busy cores and debug builds.
#![allow(dead_code, reason = "each test binary uses a part of it")]

mod firewall;

use std::fmt::Display;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
#[allow(unused_imports, reason = "as above")]
pub(crate) use firewall::Firewall;
use holdfast_testkit::eventually;
use holdfast_tests::{Cluster, ClusterBuilder, Dependency, Durability, Expect, Load, Report, Setup, Target};
use serde_json::json;

/// One queue of each durability.
pub(crate) const QUEUES: [&str; 2] = ["default", "bulk"];
/// What a bound gets on top where the machine, and not Holdfast, may be slow.
pub(crate) const SLACK: Duration = Duration::from_secs(1);
/// Breaker open after Redis dies or hangs.
pub(crate) const DETECTED: Duration = Duration::from_secs(1);
/// Normal mode after Redis answers again.
pub(crate) const NORMAL_AGAIN: Duration = Duration::from_secs(2);
/// A worker takes jobs again after its dependencies are back.
pub(crate) const FETCHING_AGAIN: Duration = Duration::from_secs(5);
/// `/health` answers whatever hangs.
pub(crate) const HEALTH_ANSWERS: Duration = Duration::from_secs(1);
/// Whatever is waited for comes sooner, or never.
pub(crate) const LIMIT: Duration = Duration::from_secs(40);
/// Jobs accepted before the weather changes, and after it has cleared.
pub(crate) const WARM: usize = 200;

/// Prints one figure.
pub(crate) fn figure(scenario: &str, what: &str, value: impl Display) {
    println!("figure | {scenario} | {what} | {value}");
}

pub(crate) fn millis(duration: Duration) -> String {
    format!("{:.1} ms", duration.as_secs_f64() * 1_000.0)
}

/// `long` with `HOLDFAST_CHAOS_LONG=1`, `short` otherwise.
#[allow(
    clippy::disallowed_methods,
    reason = "a switch of the suite, not a setting of the product"
)]
pub(crate) fn length<T>(short: T, long: T) -> T {
    if std::env::var_os("HOLDFAST_CHAOS_LONG").is_some() {
        long
    } else {
        short
    }
}

/// Two APIs and two workers before PostgreSQL and Redis, with a queue of each durability.
pub(crate) fn usual() -> ClusterBuilder {
    Cluster::builder(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .queue("bulk", Durability::Redis)
}

/// Both queues, 200 requests a second; every twentieth job takes 300 ms, so that jobs run whenever something happens.
pub(crate) fn steady() -> Load {
    Load::new()
        .queues(&QUEUES)
        .producers(8)
        .per_second(200.0)
        .target(Target::Mixed {
            every: 20,
            slow: Duration::from_millis(300),
        })
}

/// Steady load, then a dependency is away for `away`, then it is back and the load goes on for a while.
///
/// The end of the fault is noted before `mend`, so that what is measured from there is never too short.
pub(crate) async fn weather<S, M>(
    cluster: &mut Cluster,
    what: &str,
    dependency: Dependency,
    away: Duration,
    strike: S,
    mend: M,
) -> Result<()>
where
    S: AsyncFnOnce(&Cluster) -> Result<()>,
    M: AsyncFnOnce(&Cluster) -> Result<()>,
{
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await?;
    cluster.fault_begins(what, dependency);
    strike(cluster).await.context("the strike")?;
    tokio::time::sleep(away).await;
    cluster.fault_ends();
    mend(cluster).await.context("the repair")?;
    if dependency == Dependency::Redis {
        cluster.wait_until_back(LIMIT).await?;
    }
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM, LIMIT).await?;
    load.stop().await
}

/// Holds the accounts against each other, checks the times of a Redis outage, and prints what was measured.
pub(crate) async fn conclude_redis_outage(cluster: &mut Cluster, scenario: &str, expect: &Expect) -> Report {
    let mut report = cluster.conclude(scenario, expect).await.unwrap();
    check_times(&mut report);
    check_health_while_degraded(cluster, &mut report);
    figures(cluster, &report);
    report.assert();
    report
}

/// Prints what every scenario measures.
pub(crate) fn figures(cluster: &Cluster, report: &Report) {
    let scenario = &report.scenario;
    if let Some(detection) = report.detection {
        figure(scenario, "detected by the slowest process", millis(detection));
    }
    if let Some(back) = report.back {
        figure(scenario, "normal again in the slowest process", millis(back));
    }
    if let Some(fault) = cluster.faults().first() {
        let until = fault.ended.unwrap_or_else(Instant::now);
        let during = |quantile| cluster.record.latency(quantile, fault.began, until);
        figure(scenario, "enqueue p50 while away", millis(during(0.5)));
        figure(scenario, "enqueue p99 while away", millis(during(0.99)));
    }
    figure(scenario, "longest request", millis(report.longest_request));
    figure(scenario, "slowest /health", millis(cluster.health().longest()));
}

fn check_times(report: &mut Report) {
    let mut promise = |what: &str, took: Option<Duration>, limit: Duration| match took {
        None => report.broken.push(format!("it was never {what}")),
        Some(took) if took > limit + SLACK => report.broken.push(format!("{what} only after {took:?}")),
        Some(_) => {}
    };
    let (detection, back) = (report.detection, report.back);
    promise("noticed", detection, DETECTED);
    promise("back to normal", back, NORMAL_AGAIN);
}

/// While Redis was away each API said `degraded` with 200, never `unhealthy`, and always said something in time.
fn check_health_while_degraded(cluster: &Cluster, report: &mut Report) {
    let fault = cluster.faults().last().expect("a fault has begun").clone();
    let ended = fault.ended.expect("the fault has ended");
    let samples = cluster.health().samples();
    for addr in cluster.apis() {
        let own = samples
            .iter()
            .filter(|sample| sample.addr == addr && (fault.began..ended).contains(&sample.at));
        let own: Vec<_> = own.collect();
        if !own.iter().any(|sample| sample.status == "degraded") {
            report
                .broken
                .push(format!("/health of {addr} never said degraded"));
        }
        if let Some(bad) = own.iter().find(|sample| sample.http_status != Some(200)) {
            report.broken.push(format!("/health of {addr}: {bad:?}"));
        }
    }
    if cluster.health().longest() > HEALTH_ANSWERS + SLACK {
        report
            .broken
            .push(format!("/health took {:?}", cluster.health().longest()));
    }
}

/// One job on `queue` through the n-th API; the time from the request to its execution. Safe while load runs.
pub(crate) async fn probe(
    cluster: &Cluster,
    api: usize,
    queue: &str,
    deadline: Duration,
) -> Result<Duration> {
    let id = cluster.record.next_id().replace('j', "probe");
    let job =
        json!({"kind": "http.request", "queue": queue, "payload": {"url": cluster.receiver.hit_url(&id)}});
    let began = Instant::now();
    let response = cluster.client(api).post_json("/v1/jobs", &job).await?;
    ensure!(response.status == 202, "{}: {}", response.status, response.text());
    let what = format!("{id} on {queue} to be executed");
    eventually(&what, deadline, Duration::from_millis(2), async || {
        cluster.receiver.hits(&id).first().map(|hit| hit.at - began)
    })
    .await
}

/// The same, asked again while it is refused: the time until something that was asked for was executed.
pub(crate) async fn persistent_probe(
    cluster: &Cluster,
    api: usize,
    queue: &str,
    deadline: Duration,
) -> Result<Duration> {
    let began = Instant::now();
    loop {
        let left = deadline.saturating_sub(began.elapsed());
        match probe(cluster, api, queue, left).await {
            Ok(_) => return Ok(began.elapsed()),
            Err(error) if began.elapsed() >= deadline => return Err(error),
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

/// A job on each queue through each API is executed within [`FETCHING_AGAIN`]: both kinds of fetching work.
pub(crate) async fn assert_fetching_again(cluster: &Cluster, scenario: &str, queues: &[&str]) {
    let mut slowest = Duration::ZERO;
    for api in 0..cluster.apis().len() {
        for queue in queues {
            let took = persistent_probe(cluster, api, queue, FETCHING_AGAIN + SLACK).await;
            slowest = slowest
                .max(took.unwrap_or_else(|error| panic!("{scenario}, {queue} through api-{api}: {error:#}")));
        }
    }
    figure(
        scenario,
        "accepted and executed again at most after",
        millis(slowest),
    );
}

/// Ids of the load that were executed more than once, and how often. (The harness gives its bursts other names.)
pub(crate) fn repeated(cluster: &Cluster) -> Vec<(String, u32)> {
    let all = cluster.receiver.duplicates();
    all.into_iter().filter(|(id, _)| id.starts_with('j')).collect()
}

/// Pids of all processes, by name.
pub(crate) fn pids(cluster: &mut Cluster) -> Vec<(String, Option<u32>)> {
    cluster
        .processes()
        .iter()
        .map(|process| (process.name(), process.pid()))
        .collect()
}

/// Waits until the log of this worker says `text`.
pub(crate) async fn wait_for_log(
    cluster: &mut Cluster,
    worker: usize,
    text: &str,
    limit: Duration,
) -> Result<()> {
    let child = cluster.worker(worker).child();
    child.wait_for_line(text, limit).await.map(drop)
}

/// Waits until `holds` is true.
pub(crate) async fn until(what: &str, limit: Duration, mut holds: impl AsyncFnMut() -> bool) -> Result<()> {
    let began = Instant::now();
    while !holds().await {
        ensure!(began.elapsed() < limit, "waited {limit:?} in vain for: {what}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Ok(())
}

/// The final state of a job, over the API.
pub(crate) async fn final_job(cluster: &Cluster, id: &str, limit: Duration) -> Result<serde_json::Value> {
    eventually(
        &format!("{id} to be final"),
        limit,
        Duration::from_millis(50),
        async || {
            let job = cluster.job(id).await.ok()?;
            let state = job["state"].as_str()?.to_owned();
            ["completed", "discarded", "cancelled"]
                .contains(&state.as_str())
                .then_some(job)
        },
    )
    .await
}
