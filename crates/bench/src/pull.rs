//! `holdfast-bench pull`: the pull protocol over HTTP, beside a Rust worker on the same jobs and LPUSH on the same Redis.
//!
//! The API is the built program, in a process of its own, so that what 200 idle long polls cost can be read from `/proc`. The client is
//! a few lines over a socket: one connection, which pulls 100 no-ops, reports 100 outcomes, and begins again.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use serde::Deserialize;
use serde_json::json;
use tokio::task::JoinSet;

use super::failed;
use super::idle::{self, cpu_seconds};
use super::load::Connection;
use super::report::{Figure, Report};
use super::scenario::{self, latency, scaled};
use super::system::{PAYLOAD_BYTES, Setup, System};

const PART: &str = "pull";
const QUEUE: &str = "bench-pull";
const KIND: &str = "bench.pull";

/// Jobs that are drained, by either worker.
const JOBS: usize = 50_000;
/// Jobs of one request that enqueues them.
const BULK: usize = 1_000;
/// Jobs of one pull, and outcomes of one report.
const BATCH: usize = 100;
/// Jobs whose pick-up is measured, and the pause before each.
const SAMPLES: usize = 300;
const PAUSE: Duration = Duration::from_millis(20);

const POLLS: usize = 200;
/// For the looks and heartbeats of what was done before.
const SETTLE: Duration = Duration::from_secs(5);
const WATCH: Duration = Duration::from_secs(20);

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let mut system = System::open(setup).await?;
    let count = scaled(JOBS, scale);
    scenario::enqueue_bulk(&system, count).await?;
    let of_rust = scenario::drain(&mut system, count).await?;
    report.figure(PART, "drain by a Rust worker", Figure::Rate(of_rust.rate), None);

    let Some(api) = idle::sibling("api") else {
        report.skipped(PART, "api is not built beside this program");
        return system.close().await;
    };
    let mut api = idle::start(&api, setup)?;
    let address = idle::listening(&mut api).await?;
    idle::ready(&address).await?;
    let address: SocketAddr = address.parse().map_err(failed)?;
    let mut client = Client::open(address).await?;
    client.declare().await?;

    let pulled = drain(&mut client, count).await?;
    report.figure(
        PART,
        "drain over one connection, 100 a call",
        Figure::Rate(pulled),
        Some(Figure::Rate(8_000.0)),
    );
    report.figure(
        PART,
        "  of the Rust worker",
        Figure::Share(100.0 * pulled / of_rust.rate),
        None,
    );
    let times = pick_up(address, &mut client).await?;
    latency(report, PART, "pick-up, idle worker", &times, (5.0, f64::INFINITY));
    idle_polls(&api, address, &mut client, report).await?;

    api.kill().await?;
    for table in [
        "holdfast_jobs where queue",
        "holdfast_kinds where queue",
        "holdfast_queues where name",
    ] {
        system.sql(&format!("delete from {table} = '{QUEUE}'")).await?;
    }
    system.close().await
}

/// What is read of a pull's answer.
#[derive(Debug, Deserialize)]
struct PullAnswer {
    jobs: Vec<PulledJob>,
}

#[derive(Debug, Deserialize)]
struct PulledJob {
    id: String,
    fence: String,
}

/// A worker and its connection.
struct Client {
    connection: Connection,
    worker: String,
}

impl Client {
    /// Not yet registered.
    async fn open(address: SocketAddr) -> Result<Self, Failure> {
        let connection = Connection::open(address).await.map_err(failed)?;
        Ok(Self {
            connection,
            worker: String::new(),
        })
    }

    async fn call(&mut self, method: &str, path: &str, body: &serde_json::Value) -> Result<&[u8], Failure> {
        let body = body.to_string();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}",
            body.len()
        );
        self.connection
            .exchange(request.as_bytes(), b"HTTP/1.1 20")
            .await
            .map_err(failed)
    }

    async fn declare(&mut self) -> Result<(), Failure> {
        let kind = json!({ "queue": QUEUE });
        self.call("PUT", &format!("/v1/kinds/{KIND}"), &kind)
            .await
            .map(drop)
    }

    async fn enqueue(&mut self, count: usize) -> Result<(), Failure> {
        let job = json!({ "kind": KIND, "payload": "x".repeat(PAYLOAD_BYTES - 2) });
        if count == 1 {
            return self.call("POST", "/v1/jobs", &job).await.map(drop);
        }
        let jobs = json!({ "jobs": vec![job; count] });
        self.call("POST", "/v1/jobs/batch", &jobs).await.map(drop)
    }

    async fn register(&mut self) -> Result<(), Failure> {
        #[derive(Deserialize)]
        struct RegisterAnswer {
            id: String,
        }
        let worker = json!({
            "name": "bench", "queues": [QUEUE], "concurrency": BATCH,
            "client": {"name": "holdfast-bench", "version": "1", "language": "rust"},
        });
        let answer = self.call("POST", "/v1/workers", &worker).await?;
        self.worker = serde_json::from_slice::<RegisterAnswer>(answer)?.id;
        Ok(())
    }

    async fn pull(&mut self, wait: Duration) -> Result<Vec<PulledJob>, Failure> {
        let path = format!("/v1/workers/{}/pull", self.worker);
        let asked = json!({ "max": BATCH, "wait_seconds": wait.as_secs() });
        let answer = self.call("POST", &path, &asked).await?;
        Ok(serde_json::from_slice::<PullAnswer>(answer)?.jobs)
    }

    async fn finish(&mut self, jobs: &[PulledJob]) -> Result<(), Failure> {
        let outcomes: Vec<_> = jobs
            .iter()
            .map(|job| json!({ "job": job.id, "fence": job.fence, "outcome": "completed" }))
            .collect();
        let path = format!("/v1/workers/{}/finish", self.worker);
        let answer = self.call("POST", &path, &json!({ "outcomes": outcomes })).await?;
        let stored = String::from_utf8_lossy(answer).matches("\"stored\"").count();
        if stored == jobs.len() {
            return Ok(());
        }
        Err(Failure::msg(format!(
            "{stored} of {} outcomes were stored",
            jobs.len()
        )))
    }

    async fn leave(mut self) -> Result<(), Failure> {
        let path = format!("/v1/workers/{}", self.worker);
        self.call("DELETE", &path, &json!({})).await.map(drop)
    }
}

/// Enqueues, then pulls and reports until nothing is left; jobs a second from the first pull on.
async fn drain(client: &mut Client, count: usize) -> Result<f64, Failure> {
    for _ in 0..count / BULK {
        client.enqueue(BULK).await?;
    }
    client.register().await?;
    let began = Instant::now();
    let mut done = 0;
    while done < count {
        let jobs = client.pull(Duration::from_secs(5)).await?;
        if jobs.is_empty() {
            return Err(Failure::msg(format!("only {done} of {count} jobs were pulled")));
        }
        client.finish(&jobs).await?;
        done += jobs.len();
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// From the sending of a job by one connection to the end of another's long poll, in milliseconds, in ascending order.
async fn pick_up(address: SocketAddr, worker: &mut Client) -> Result<Vec<f64>, Failure> {
    let mut producer = Client::open(address).await?;
    let mut times = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let sending = async {
            tokio::time::sleep(PAUSE).await;
            let sent = Instant::now();
            producer.enqueue(1).await?;
            Ok::<_, Failure>(sent)
        };
        let pulling = async {
            let jobs = worker.pull(Duration::from_secs(30)).await?;
            Ok::<_, Failure>((jobs, Instant::now()))
        };
        let (sent, (jobs, got)) = tokio::try_join!(sending, pulling)?;
        times.push(got.saturating_duration_since(sent).as_secs_f64() * 1_000.0);
        worker.finish(&jobs).await?;
    }
    times.sort_by(f64::total_cmp);
    Ok(times)
}

/// What [`POLLS`] workers cost that wait for jobs and send heartbeats: beside what the same API does without them.
async fn idle_polls(
    api: &tokio::process::Child,
    address: SocketAddr,
    client: &mut Client,
    report: &mut Report,
) -> Result<(), Failure> {
    tokio::time::sleep(SETTLE).await;
    let (_, alone) = watched(api, client).await?;
    let mut polls = JoinSet::new();
    // They leave after the second look at the API.
    let held = SETTLE + WATCH + SETTLE;
    for _ in 0..POLLS {
        let mut worker = Client::open(address).await?;
        worker.register().await?;
        polls.spawn(async move {
            worker.pull(held).await?;
            worker.leave().await
        });
    }
    tokio::time::sleep(SETTLE).await;
    let (cpu, with_polls) = watched(api, client).await?;
    report.figure(
        PART,
        "200 idle long polls: of one core",
        Figure::Percent(cpu * 100.0),
        Some(Figure::Percent(2.0)),
    );
    report.figure(
        PART,
        "the API without them: statements a second",
        Figure::Count(alone),
        None,
    );
    report.figure(
        PART,
        "200 idle long polls: statements a second more",
        Figure::Count((with_polls - alone).max(0.0)),
        Some(Figure::Count(1.0)),
    );
    while let Some(ended) = polls.join_next().await {
        ended.map_err(failed)??;
    }
    Ok(())
}

/// The share of a core that the API takes for [`WATCH`], and its statements a second.
async fn watched(api: &tokio::process::Child, client: &mut Client) -> Result<(f64, f64), Failure> {
    let before = (cpu_seconds(api)?, statements(client).await?);
    tokio::time::sleep(WATCH).await;
    let after = (cpu_seconds(api)?, statements(client).await?);
    let seconds = WATCH.as_secs_f64();
    Ok(((after.0 - before.0) / seconds, (after.1 - before.1) / seconds))
}

/// Statements of the API so far, as its metrics count them.
async fn statements(client: &mut Client) -> Result<f64, Failure> {
    let metrics = client.call("GET", "/metrics", &json!({})).await?;
    let counts = String::from_utf8_lossy(metrics)
        .lines()
        .filter(|line| line.starts_with("holdfast_sql_statement_duration_seconds_count"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum();
    Ok(counts)
}
