//! The built `worker` binary, from outside: how it starts, what it waits for, and how it ends.
#![allow(
    clippy::unwrap_used,
    reason = "test code: what is not there must fail the test"
)]

use std::collections::BTreeSet;
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use holdfast_core::config::{Settings, Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::ledger::JobFilter;
use holdfast_jobs::{JobId, Jobs, State};
use holdfast_services::kinds::{DebugEcho, DebugSleep};
use holdfast_services::notify::webhooks::{WebhookDraft, Webhooks};
use holdfast_testkit::{
    Child, PostgresServer, Receiver, RedisOptions, RedisServer, eventually, free_port, http,
};
use serde_json::Value;
use tempfile::TempDir;

const DEADLINE: Duration = Duration::from_mins(1);
const POLL: Duration = Duration::from_millis(20);

/// A worker process, and a producer of its jobs.
struct Bench {
    directory: TempDir,
    env: Vec<(&'static str, String)>,
    port: u16,
}

impl Bench {
    fn new(database_url: &str) -> Self {
        let port = free_port().unwrap();
        let env = vec![
            ("DATABASE_URL", database_url.to_owned()),
            ("PORT", port.to_string()),
        ];
        Self {
            directory: TempDir::new().unwrap(),
            env,
            port,
        }
    }

    fn with(mut self, name: &'static str, value: impl Into<String>) -> Self {
        self.env.push((name, value.into()));
        self
    }

    fn worker(&self) -> Child {
        let env = self.env.iter().map(|(name, value)| (name, value));
        Child::binary("worker")
            .envs(env)
            .current_dir(self.directory.path())
            .start()
            .unwrap()
    }

    fn settings(&self) -> Settings {
        let env = self
            .env
            .iter()
            .map(|(name, value)| ((*name).to_owned(), value.clone()))
            .collect();
        load_from(Sources { env, file: None }).unwrap()
    }

    fn jobs(&self) -> Jobs {
        let settings = self.settings();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        Jobs::new(
            &settings,
            holdfast_services::registry_for(&settings),
            &database,
            &gate,
        )
    }

    async fn status_of(&self, path: &str) -> Option<u16> {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        http::get(address, path)
            .await
            .ok()
            .map(|response| response.status)
    }

    async fn waits_for(&self, path: &str, status: u16) {
        let what = format!("{path} to answer {status}");
        let answers = async || (self.status_of(path).await == Some(status)).then_some(());
        eventually(&what, DEADLINE, POLL, answers).await.unwrap();
    }

    async fn health(&self) -> Value {
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        http::get(address, "/health").await.unwrap().json().unwrap()
    }

    async fn runs_a_job(&self) {
        let payload = serde_json::from_str("[1]").unwrap();
        let jobs = self.jobs();
        let accepted = jobs.enqueue(DebugEcho(payload)).await.unwrap();
        let job = jobs.wait(accepted.id, DEADLINE).await.unwrap().unwrap();
        assert_eq!(job.state, State::Completed);
    }
}

#[tokio::test]
async fn a_worker_begins_once_its_database_is_there() {
    let postgres = PostgresServer::start().await.unwrap();
    postgres.stop().await.unwrap();
    let bench = Bench::new(&postgres.url());
    let mut worker = bench.worker();
    bench.waits_for("/health/live", 200).await;
    bench.waits_for("/health", 503).await;
    assert_eq!(bench.status_of("/health/ready").await, Some(503));
    assert!(worker.is_running().unwrap());
    postgres.start_again().await.unwrap();
    bench.waits_for("/health/ready", 200).await;
    bench.runs_a_job().await;
}

#[tokio::test]
async fn a_worker_begins_without_its_redis_and_says_that_it_is_degraded() {
    let (postgres, redis) = tokio::try_join!(
        PostgresServer::start(),
        RedisServer::start(RedisOptions::default())
    )
    .unwrap();
    redis.kill9().await.unwrap();
    let bench = Bench::new(&postgres.url()).with("REDIS_URL", redis.url());
    let _worker = bench.worker();
    bench.waits_for("/health/ready", 200).await;
    bench.runs_a_job().await;
    assert_eq!(bench.health().await["status"], "degraded");
    redis.restart().await.unwrap();
    let what = "a healthy report after Redis came back";
    let healthy = async || (bench.health().await["status"] == "healthy").then_some(());
    eventually(what, DEADLINE, POLL, healthy).await.unwrap();
    bench.runs_a_job().await;
}

#[tokio::test]
async fn a_worker_that_may_not_migrate_waits_for_somebody_who_does() {
    let postgres = PostgresServer::start().await.unwrap();
    let bench = Bench::new(&postgres.url()).with("HOLDFAST__DATABASE__MIGRATE_AT_START", "false");
    let worker = bench.worker();
    worker
        .wait_for_line("run `holdfast migrate`", DEADLINE)
        .await
        .unwrap();
    bench.waits_for("/health/ready", 503).await;
    assert_eq!(bench.health().await["services"]["worker"]["status"], "unhealthy");
    migrate(&bench.settings().database).await.unwrap();
    bench.waits_for("/health/ready", 200).await;
    bench.runs_a_job().await;
}

#[tokio::test]
async fn a_stopped_worker_finishes_what_runs_leaves_no_trace_and_exits_0() {
    let postgres = PostgresServer::start().await.unwrap();
    let bench = Bench::new(&postgres.url());
    for signal in [Child::sigterm, Child::sigint] {
        let mut worker = bench.worker();
        worker.wait_for_line("working", DEADLINE).await.unwrap();
        let jobs = bench.jobs();
        let running = jobs.enqueue(DebugSleep::milliseconds(4_000)).await.unwrap();
        // A job that is claimed and has not begun is handed back; this one says how far it is.
        let is_running = async || {
            let job = jobs.get(running.id).await.unwrap().unwrap();
            (job.state == State::Running && job.progress.is_some()).then_some(())
        };
        eventually("the job to run", DEADLINE, POLL, is_running)
            .await
            .unwrap();
        signal(&mut worker).unwrap();
        assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
        assert_eq!(
            jobs.get(running.id).await.unwrap().unwrap().state,
            State::Completed
        );
        assert_eq!(
            postgres
                .psql("select count(*) from holdfast_workers")
                .await
                .unwrap()
                .trim(),
            "0"
        );
    }
}

#[tokio::test]
async fn a_worker_that_waits_for_its_database_can_be_stopped() {
    let postgres = PostgresServer::start().await.unwrap();
    postgres.stop().await.unwrap();
    let bench = Bench::new(&postgres.url());
    let mut worker = bench.worker();
    bench.waits_for("/health/live", 200).await;
    worker.sigterm().unwrap();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn a_worker_of_an_embedded_database_runs_jobs_of_other_processes() {
    let bench = Bench::new("sqlite://jobs.db");
    let mut worker = bench.worker();
    bench.waits_for("/health/ready", 200).await;
    let path = bench.directory.path().join("jobs.db");
    let elsewhere = Bench::new(&format!("sqlite://{}", path.display()));
    elsewhere.runs_a_job().await;
    worker.sigterm().unwrap();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(0));
}

#[tokio::test]
async fn every_fault_of_the_configuration_is_told_and_the_exit_code_is_64() {
    let bench = Bench::new("mysql://nowhere").with("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "no");
    let mut worker = bench.worker();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(64));
    let printed = worker.printed(DEADLINE).await.unwrap().text;
    for setting in ["database.url", "worker.heartbeat_seconds"] {
        assert!(printed.contains(setting), "{setting} is not in {printed}");
    }
}

#[tokio::test]
async fn a_taken_port_ends_the_worker_with_an_error_that_names_it() {
    let taken = TcpListener::bind("[::]:0").unwrap();
    let port = taken.local_addr().unwrap().port();
    let bench = Bench::new("sqlite://jobs.db").with("PORT", port.to_string());
    let mut worker = bench.worker();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(69));
    let printed = worker.printed(DEADLINE).await.unwrap().text;
    assert!(
        printed.contains("PORT") && printed.contains(&port.to_string()),
        "{printed}"
    );
}

#[tokio::test]
async fn a_database_that_lets_nobody_in_ends_the_worker() {
    let postgres = PostgresServer::start().await.unwrap();
    let bench = Bench::new(&postgres.database_url("no_such_database"));
    let mut worker = bench.worker();
    assert_eq!(worker.wait_exit(DEADLINE).await.unwrap().code(), Some(69));
}

/// The outcomes that are committed, and the events that are.
async fn outcomes_and_events(jobs: &Jobs) -> (Vec<JobId>, Vec<String>) {
    let all_of = async |kind: &str| {
        let filter = JobFilter {
            kind: Some(kind.to_owned()),
            limit: 1_000,
            ..JobFilter::default()
        };
        jobs.list(&filter).await.unwrap()
    };
    let echoed = all_of("debug.echo").await;
    let completed = echoed.into_iter().filter(|job| job.state == State::Completed);
    let mut completed: Vec<JobId> = completed.map(|job| job.id).collect();
    let deliveries = all_of("notify.webhook").await;
    let told = deliveries.iter().map(|delivery| {
        let payload: Value = serde_json::from_str(delivery.payload.get()).unwrap();
        payload["data"]["job"].as_str().unwrap().to_owned()
    });
    let mut told: Vec<String> = told.collect();
    completed.sort();
    told.sort();
    (completed, told)
}

/// The failpoint lies behind what an outcome enqueues, and before the commit of both.
#[tokio::test]
async fn a_worker_that_is_killed_before_its_commit_leaves_one_event_for_each_committed_outcome() {
    let postgres = PostgresServer::start().await.unwrap();
    let receiver = Receiver::start().await.unwrap();
    let bench = Bench::new(&postgres.url())
        .with("HOLDFAST__HTTP_REQUEST__ALLOW_PRIVATE", "true")
        .with("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "0.3")
        .with("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "2")
        .with("HOLDFAST__WORKER__MAINTENANCE_SECONDS", "0.3")
        .with("HOLDFAST__WORKER__BATCH_SIZE", "20");
    let settings = bench.settings();
    migrate(&settings.database).await.unwrap();
    let jobs = bench.jobs();
    let database = Database::open(&settings.database).unwrap();
    let webhooks = Webhooks::new(&settings, &database, jobs.clone());
    let events = ["job.*".to_owned()];
    let draft = WebhookDraft::parse(&receiver.url("/events"), None, &events, true).unwrap();
    webhooks
        .create(&AuditContext::new(Actor::system()), &draft, None)
        .await
        .unwrap();
    let echo = || DebugEcho(serde_json::from_str("[1]").unwrap());
    let requests: Vec<DebugEcho> = (0..200).map(|_| echo()).collect();
    jobs.enqueue_all(&requests).await.unwrap();
    for times in [1, 3] {
        let dying = Bench {
            directory: TempDir::new().unwrap(),
            env: bench.env.clone(),
            port: bench.port,
        };
        let mut worker = dying.with("HOLDFAST_FAILPOINT", format!("tied:{times}")).worker();
        assert!(!worker.wait_exit(DEADLINE).await.unwrap().success());
        let (completed, told) = outcomes_and_events(&jobs).await;
        let completed: Vec<String> = completed.iter().map(ToString::to_string).collect();
        assert_eq!(told, completed, "events of exactly the committed outcomes");
        assert!(completed.len() < 200, "it died before the end");
    }
    let _worker = bench.worker();
    let what = "an event of each job, delivered";
    // Deliveries of the killed workers are made again, under the same id.
    let ids = || -> BTreeSet<String> {
        let recorded = receiver.recorded();
        let ids = recorded
            .iter()
            .map(|request| request.header("webhook-id").unwrap());
        ids.map(str::to_owned).collect()
    };
    let delivered = async || {
        let (completed, told) = outcomes_and_events(&jobs).await;
        (completed.len() == 200 && ids().len() >= 200).then_some(told)
    };
    let told = eventually(what, DEADLINE * 2, POLL * 10, delivered)
        .await
        .unwrap();
    assert_eq!((told.len(), ids().len()), (200, 200), "one event for each job");
}
