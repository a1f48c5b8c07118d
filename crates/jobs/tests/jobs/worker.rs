//! A worker in this process over real databases: what becomes of jobs that succeed, fail, hang, panic and are cancelled.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::enqueue::JobRequest;
use holdfast_jobs::ledger::{CancelReply, JobRecord, Priority};
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{
    Backoff, Jitter, Job, JobContext, JobError, JobId, Jobs, Registry, Resources, RetryPolicy, State,
};
use holdfast_testkit::{PostgresOptions, PostgresServer, RedisOptions, RedisServer, eventually};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Connection as _;
use support::{raw, settings};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(30);

/// What a probe job shall do, and what the test sees of it.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema, PartialEq)]
#[serde(rename_all = "snake_case")]
enum Act {
    Echo(u32),
    FailTwice,
    Permanent,
    Panic,
    Hang,
    HangHeedless,
    WaitForCancel,
    Snooze,
    Progress,
    Log,
    FailWhenReleased,
    Nul,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Probe {
    act: Act,
}

#[derive(Debug, Default)]
struct RunSignals {
    runs: AtomicU32,
    started: Notify,
    release: Notify,
}

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    type Output = Option<u32>;

    fn retry() -> Option<RetryPolicy> {
        let backoff = Backoff {
            base: Duration::from_millis(20),
            cap: Duration::from_millis(50),
            jitter: Jitter::Off,
        };
        Some(RetryPolicy {
            max_attempts: 4,
            backoff,
        })
    }

    async fn run(self, ctx: JobContext) -> Result<Option<u32>, JobError> {
        let seen = ctx.resource::<Arc<RunSignals>>()?;
        seen.runs.fetch_add(1, Ordering::SeqCst);
        seen.started.notify_one();
        match self.act {
            Act::Echo(number) => Ok(Some(number)),
            Act::FailTwice if ctx.attempt() <= 2 => {
                Err(JobError::transient(format!("attempt {}", ctx.attempt())))
            }
            Act::FailTwice => Ok(Some(ctx.attempt())),
            Act::Permanent => Err(JobError::permanent("never")),
            Act::Panic => panic!("on purpose"),
            Act::Hang => {
                ctx.cancelled().await;
                Err(JobError::Cancelled)
            }
            Act::HangHeedless => std::future::pending().await,
            Act::WaitForCancel => {
                ctx.cancelled().await;
                Err(JobError::transient("a failure after the cancel"))
            }
            Act::Snooze if seen.runs.load(Ordering::SeqCst) == 1 => {
                Err(JobError::Snooze(Duration::from_millis(50)))
            }
            Act::Snooze => Ok(Some(ctx.attempt())),
            Act::Progress => {
                ctx.progress(&serde_json::json!({ "done": 7 }))?;
                seen.release.notified().await;
                Ok(None)
            }
            Act::Log => {
                ctx.log(format!("attempt {} begins", ctx.attempt()));
                if ctx.attempt() == 1 {
                    return Err(JobError::transient("once more"));
                }
                seen.release.notified().await;
                ctx.log("it ends");
                Ok(None)
            }
            Act::FailWhenReleased => {
                seen.release.notified().await;
                Err(JobError::transient("on purpose"))
            }
            Act::Nul => Err(JobError::permanent("with \0 inside")),
        }
    }
}

struct System {
    jobs: Jobs,
    seen: Arc<RunSignals>,
    stop: Shutdown,
    running: JoinHandle<Result<(), WorkerError>>,
    hosts: (Option<PostgresServer>, Option<RedisServer>, tempfile::TempDir),
}

impl System {
    async fn start(postgres: bool, redis: bool, extra: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let postgres = if postgres {
            Some(PostgresServer::start_with(PostgresOptions::fast()).await.unwrap())
        } else {
            None
        };
        let redis = if redis {
            Some(RedisServer::start(RedisOptions::default()).await.unwrap())
        } else {
            None
        };
        let sqlite = format!("sqlite://{}", dir.path().join("ledger.db").display());
        let database_url = postgres.as_ref().map_or(sqlite, PostgresServer::url);
        let redis_url = redis.as_ref().map(RedisServer::url);
        let mut env = vec![
            ("DATABASE_URL", database_url.as_str()),
            ("HOLDFAST__WORKER__CONTROL_POLL_SECONDS", "0.1"),
            ("HOLDFAST__WORKER__CANCEL_GRACE_SECONDS", "1"),
        ];
        env.extend(redis_url.as_deref().map(|url| ("REDIS_URL", url)));
        env.extend(extra);
        let settings = settings(&env);
        let (jobs, stop, seen, running) = start_worker(&settings).await;
        Self {
            jobs,
            seen,
            stop,
            running,
            hosts: (postgres, redis, dir),
        }
    }

    async fn enqueue(&self, act: Act) -> JobId {
        self.jobs.enqueue(Probe { act }).await.unwrap().id
    }

    async fn end_of(&self, id: JobId) -> JobRecord {
        let record = self.jobs.wait(id, DEADLINE).await.unwrap().expect("a job");
        assert!(record.state.is_final(), "{record:?}");
        record
    }

    async fn stop(self) {
        self.stop.trigger();
        tokio::time::timeout(DEADLINE, self.running)
            .await
            .expect("a stop in time")
            .unwrap()
            .unwrap();
    }
}

async fn start_worker(
    settings: &Settings,
) -> (
    Jobs,
    Shutdown,
    Arc<RunSignals>,
    JoinHandle<Result<(), WorkerError>>,
) {
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    gate.wait_ready(Duration::from_secs(5)).await;
    let jobs = Jobs::new(settings, Registry::new().register::<Probe>(), &database, &gate);
    let seen = Arc::new(RunSignals::default());
    let stop = Shutdown::new();
    let parts = WorkerParts {
        settings: settings.clone(),
        jobs: jobs.clone(),
        gate,
        resources: Resources::default().with(Arc::clone(&seen)),
    };
    let worker = Worker::new(parts, stop.clone()).unwrap();
    (jobs, stop, seen, tokio::spawn(worker.run()))
}

#[tokio::test]
async fn an_expired_job_never_runs_on_either_durability() {
    let ago = holdfast_core::clock::now() - chrono::Duration::minutes(1);
    for extra in [&[][..], &[("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis")]] {
        let system = System::start(false, true, extra).await;
        let act = Act::Echo(1);
        let expired = system.jobs.enqueue(Probe { act }).expires_at(ago).await.unwrap();
        assert_eq!(expired.durability, holdfast_core::config::Durability::Ledger);
        let record = system.end_of(expired.id).await;
        assert_eq!(
            (record.state, &*record.errors[0].class),
            (State::Cancelled, "expired")
        );
        let other = system.enqueue(Act::Echo(2)).await;
        assert_eq!(system.end_of(other).await.state, State::Completed);
        assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
        system.stop().await;
    }
}

/// Every set-up runs every job of the list to its end.
async fn jobs_come_to_their_ends(postgres: bool, redis: bool, extra: &[(&str, &str)]) {
    let system = System::start(postgres, redis, extra).await;
    let echo = system.end_of(system.enqueue(Act::Echo(7)).await).await;
    assert_eq!(
        (echo.state, echo.attempt, echo.result.unwrap().get()),
        (State::Completed, 1, "7")
    );

    let flaky = system.end_of(system.enqueue(Act::FailTwice).await).await;
    assert_eq!(
        (flaky.state, flaky.attempt, flaky.result.unwrap().get()),
        (State::Completed, 3, "3")
    );
    let messages: Vec<_> = flaky.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages, ["attempt 1", "attempt 2"]);

    let permanent = system.end_of(system.enqueue(Act::Permanent).await).await;
    assert_eq!(
        (permanent.state, permanent.attempt, permanent.errors.len()),
        (State::Discarded, 1, 1)
    );

    let panic = system.end_of(system.enqueue(Act::Panic).await).await;
    assert_eq!(
        (panic.state, panic.attempt, panic.crashes),
        (State::Discarded, 4, 0)
    );
    assert!(
        panic
            .errors
            .iter()
            .all(|error| error.class == "panic" && error.message.contains("on purpose"))
    );

    let nul = system.end_of(system.enqueue(Act::Nul).await).await;
    assert_eq!(
        (nul.state, nul.errors[0].message.as_str()),
        (State::Discarded, "with  inside")
    );

    let mut slow = JobRequest::new(Probe::KIND, raw(r#"{"act":"hang_heedless"}"#));
    slow.timeout = Some(Duration::from_millis(100));
    slow.max_attempts = Some(2);
    let timed_out = system
        .end_of(system.jobs.enqueue_request(slow).await.unwrap().id)
        .await;
    assert_eq!((timed_out.state, timed_out.attempt), (State::Discarded, 2));
    assert!(timed_out.errors.iter().all(|error| error.class == "timeout"));
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_come_to_their_ends_on_sqlite_alone() {
    jobs_come_to_their_ends(false, false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_come_to_their_ends_on_postgres_alone() {
    jobs_come_to_their_ends(true, false, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_come_to_their_ends_on_postgres_with_redis() {
    jobs_come_to_their_ends(true, true, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_of_a_redis_queue_come_to_their_ends() {
    jobs_come_to_their_ends(true, true, &[("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis")]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_snooze_spends_no_attempt() {
    let system = System::start(false, false, &[]).await;
    let record = system.end_of(system.enqueue(Act::Snooze).await).await;
    assert_eq!(
        (record.state, record.attempt, record.errors.len()),
        (State::Completed, 1, 0)
    );
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 2);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_payload_from_sql_is_checked_before_it_runs() {
    let system = System::start(true, false, &[]).await;
    assert_eq!(system.jobs.try_publish_catalogue().await.unwrap(), None);
    let server = system.hosts.0.as_ref().unwrap();
    let enqueue = async |payload: &str| -> JobId {
        let sql = format!("select holdfast.job_id(holdfast.enqueue('test.probe', '{payload}'))");
        server.psql(&sql).await.unwrap().trim().parse().unwrap()
    };
    let (bad, good) = (
        enqueue(r#"{"act":{"echo":"x"}}"#).await,
        enqueue(r#"{"act":{"echo":7}}"#).await,
    );
    let (bad, good) = (system.end_of(bad).await, system.end_of(good).await);
    assert_eq!((bad.state, bad.attempt), (State::Discarded, 1));
    assert!(
        bad.errors[0].message.starts_with("payload.act.echo: "),
        "{:?}",
        bad.errors
    );
    assert_eq!((good.state, good.result.unwrap().get()), (State::Completed, "7"));
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
    system.stop().await;
}

/// A running job is asked, and one that does not listen is dropped after its grace.
async fn a_running_job_is_cancelled(extra: &[(&str, &str)]) {
    let system = System::start(true, true, extra).await;
    for act in [Act::Hang, Act::WaitForCancel, Act::HangHeedless] {
        let id = system.enqueue(act.clone()).await;
        tokio::time::timeout(DEADLINE, system.seen.started.notified())
            .await
            .unwrap();
        assert_eq!(
            system.jobs.cancel(id).await.unwrap(),
            Some(CancelReply::Requested),
            "{act:?}"
        );
        let record = system.end_of(id).await;
        assert_eq!(record.state, State::Cancelled, "{act:?}");
    }
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_ledger_job_is_cancelled() {
    a_running_job_is_cancelled(&[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_broker_job_is_cancelled() {
    let extra = [
        ("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis"),
        ("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "1"),
    ];
    a_running_job_is_cancelled(&extra).await;
}

/// Its worker does not hear of it in time; it goes on in the ledger only if nobody wanted it cancelled.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_job_that_fails_before_it_is_asked_to_cancel_is_cancelled() {
    let extra = [
        ("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis"),
        ("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "300"),
        ("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "600"),
        ("HOLDFAST__WORKER__WATCHDOG_SECONDS", "700"),
    ];
    let system = System::start(true, true, &extra).await;
    let id = system.enqueue(Act::FailWhenReleased).await;
    system.seen.started.notified().await;
    assert_eq!(
        system.jobs.cancel(id).await.unwrap(),
        Some(CancelReply::Requested)
    );
    system.seen.release.notify_one();
    assert_eq!(system.end_of(id).await.state, State::Cancelled);
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
    system.stop().await;
}

async fn lines_are_stored_while_a_job_runs_and_before_its_outcome(postgres: bool) {
    let system = System::start(postgres, false, &[]).await;
    let id = system.enqueue(Act::Log).await;
    let lines = async || -> Vec<(u32, String)> {
        let log = system.jobs.log_of(id).await.unwrap();
        log.lines
            .into_iter()
            .map(|line| (line.attempt, line.text))
            .collect()
    };
    let (first, second) = (
        (1, "attempt 1 begins".to_owned()),
        (2, "attempt 2 begins".to_owned()),
    );
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while lines().await != [first.clone(), second.clone()] {
        assert!(tokio::time::Instant::now() < deadline, "{:?}", lines().await);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    system.seen.release.notify_one();
    assert_eq!(system.end_of(id).await.state, State::Completed);
    assert_eq!(lines().await, [first, second, (2, "it ends".to_owned())]);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_handlers_are_stored_on_sqlite() {
    lines_are_stored_while_a_job_runs_and_before_its_outcome(false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lines_of_handlers_are_stored_on_postgres() {
    lines_are_stored_while_a_job_runs_and_before_its_outcome(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn progress_is_seen_while_the_job_runs() {
    let system = System::start(false, false, &[]).await;
    let id = system.enqueue(Act::Progress).await;
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        let record = system.jobs.get(id).await.unwrap().unwrap();
        if let Some(progress) = record.progress {
            assert_eq!((record.state, progress.get()), (State::Running, r#"{"done":7}"#));
            break;
        }
        assert!(tokio::time::Instant::now() < deadline, "no progress was seen");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    system.seen.release.notify_one();
    assert_eq!(system.end_of(id).await.state, State::Completed);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_the_broker_refuses_for_a_while_is_held_and_the_job_runs_once() {
    let system = System::start(true, true, &[("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis")]).await;
    let redis = system.hosts.1.as_ref().unwrap();
    let id = system.enqueue(Act::Progress).await;
    system.seen.started.notified().await;
    let held = redis.keys("*:inflight:*").await.unwrap();
    assert_eq!(held.len(), 1, "{held:?}");
    // A key of another type: to that Redis says no, and it is no outage.
    redis.command(&["RENAME", &held[0], "aside"]).await.unwrap();
    redis.command(&["SET", &held[0], "in the way"]).await.unwrap();
    system.seen.release.notify_one();
    let refused = async || {
        let said = redis.info("errorstats", "errorstat_WRONGTYPE").await.ok()?;
        (!said.is_empty()).then_some(())
    };
    eventually("a refusal", DEADLINE, Duration::from_millis(20), refused)
        .await
        .unwrap();
    redis.command(&["RENAME", "aside", &held[0]]).await.unwrap();
    assert_eq!(system.end_of(id).await.state, State::Completed);
    assert_eq!(redis.keys("*:inflight:*").await.unwrap(), Vec::<String>::new());
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
    system.stop().await;
}

/// Two jobs whose next crash would be their last: the one runs only when the other's outcome is written down, for until
/// then a crash would count against both.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_last_chance_lasts_until_the_outcome_is_stored() {
    let system = System::start(true, false, &[]).await;
    let postgres = system.hosts.0.as_ref().unwrap();
    let crashed_twice = async |act: &str| {
        let mut request = JobRequest::new(Probe::KIND, raw(&format!(r#"{{"act":{act}}}"#)));
        request.delay = Some(Duration::from_hours(1));
        let id = system.jobs.enqueue_request(request).await.unwrap().id;
        let due = format!(
            "update holdfast_jobs set crashes = 2, state = 'available', run_at = now() where id = '{}'",
            id.as_uuid()
        );
        postgres.psql(&due).await.unwrap();
        system.jobs.bell().ring("default", 1, Duration::ZERO);
        id
    };
    let first = crashed_twice(r#""progress""#).await;
    system.seen.started.notified().await;
    let second = crashed_twice(r#"{"echo":2}"#).await;
    let ask = |sql: String| async move { (postgres.psql(&sql).await.ok()?.trim() == "1").then_some(()) };
    let claimed = format!(
        "select count(*) from holdfast_jobs where id = '{}' and state = 'running'",
        second.as_uuid()
    );
    eventually("the claim", DEADLINE, Duration::from_millis(20), || {
        ask(claimed.clone())
    })
    .await
    .unwrap();

    let mut other = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    let lock =
        "begin; select 1 from holdfast_jobs where state = 'running' and started_at is not null for update";
    sqlx::raw_sql(lock).execute(&mut other).await.unwrap();
    system.seen.release.notify_one();
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'".to_owned();
    eventually("the outcome to wait", DEADLINE, Duration::from_millis(20), || {
        ask(waits.clone())
    })
    .await
    .unwrap();
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(
        system.seen.runs.load(Ordering::SeqCst),
        1,
        "the second did not wait"
    );
    sqlx::raw_sql("commit").execute(&mut other).await.unwrap();

    for id in [first, second] {
        let record = system.end_of(id).await;
        assert_eq!(
            (record.state, record.crashes),
            (State::Completed, 2),
            "{record:?}"
        );
    }
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 2);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stopping_worker_hands_back_what_does_not_end_in_time() {
    for redis in ["ledger", "redis"] {
        let extra = [
            ("HOLDFAST__QUEUES__DEFAULT__DURABILITY", redis),
            ("HOLDFAST__SERVER__GRACE_SECONDS", "4"),
        ];
        let system = System::start(true, true, &extra).await;
        let id = system.enqueue(Act::HangHeedless).await;
        let heeding = system.enqueue(Act::Hang).await;
        for _ in 0..2 {
            tokio::time::timeout(DEADLINE, system.seen.started.notified())
                .await
                .unwrap();
        }
        let jobs = system.jobs.clone();
        system.stop.trigger();
        tokio::time::timeout(DEADLINE, system.running)
            .await
            .unwrap()
            .unwrap()
            .unwrap();
        for id in [id, heeding] {
            let record = jobs.get(id).await.unwrap().unwrap();
            assert_eq!(
                (record.state, record.attempt, record.crashes),
                (State::Available, 0, 0),
                "{redis}"
            );
        }
        assert!(jobs.workers().await.unwrap().is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delays_priorities_and_keys_of_a_redis_queue_live_in_the_ledger() {
    let system = System::start(true, true, &[("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis")]).await;
    let probe = || Probe { act: Act::Echo(1) };
    let plain = system.jobs.enqueue(probe()).await.unwrap();
    assert_eq!(plain.durability, holdfast_core::config::Durability::Redis);
    let delayed = system
        .jobs
        .enqueue(probe())
        .delay(Duration::from_millis(300))
        .await
        .unwrap();
    assert_eq!(
        (delayed.durability, delayed.state),
        (holdfast_core::config::Durability::Ledger, State::Scheduled)
    );
    let urgent = system
        .jobs
        .enqueue(probe())
        .priority(Priority::High)
        .await
        .unwrap();
    let keyed = system.jobs.enqueue(probe()).idempotency_key("k").await.unwrap();
    let again = system.jobs.enqueue(probe()).idempotency_key("k").await.unwrap();
    assert_eq!((again.id, again.duplicate), (keyed.id, true));
    for id in [plain.id, delayed.id, urgent.id, keyed.id] {
        assert_eq!(system.end_of(id).await.state, State::Completed);
    }
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 4);
    system.stop().await;
}

/// A claim goes on from where the one before came to; what lies before that is looked for though nothing rings for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_nothing_rings_for_is_found_behind_those_that_came_later() {
    // No poll within the deadline.
    let extra = [
        ("HOLDFAST__WORKER__SAFETY_POLL_SECONDS", "3600"),
        ("HOLDFAST__WORKER__DEGRADED_POLL_MIN_MS", "60000"),
        ("HOLDFAST__WORKER__DEGRADED_POLL_MAX_MS", "60000"),
    ];
    let system = System::start(true, true, &extra).await;
    let first = system.enqueue(Act::Echo(1)).await;
    system.end_of(first).await;

    let mut elsewhere = sqlx::PgConnection::connect(&system.hosts.0.as_ref().unwrap().url())
        .await
        .unwrap();
    let unheard = JobId::generate();
    sqlx::query(
        "insert into holdfast_jobs (id, queue, kind, payload, run_at, max_attempts, timeout_ms)
         values ($1, 'default', 'test.probe', $2, now() - interval '1 hour', 1, 30000)",
    )
    .bind(unheard.as_uuid())
    .bind(serde_json::to_value(Probe { act: Act::Echo(2) }).unwrap())
    .execute(&mut elsewhere)
    .await
    .unwrap();
    let last = system.enqueue(Act::Echo(3)).await;
    for id in [last, unheard] {
        assert_eq!(system.end_of(id).await.state, State::Completed);
    }
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 3);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_enqueued_in_a_transaction_exists_only_after_its_commit() {
    let system = System::start(true, false, &[]).await;
    let url = system.hosts.0.as_ref().unwrap().url();
    let settings = settings(&[("DATABASE_URL", &url)]);
    let Database::Postgres(pool) = Database::open(&settings.database).unwrap() else {
        panic!("postgres")
    };
    let mut tx = pool.begin().await.unwrap();
    let undone = system
        .jobs
        .enqueue_in(&mut tx, system.jobs.enqueue(Probe { act: Act::Echo(1) }))
        .await
        .unwrap();
    tx.rollback().await.unwrap();
    assert!(system.jobs.get(undone.id).await.unwrap().is_none());
    let mut tx = pool.begin().await.unwrap();
    let done = system
        .jobs
        .enqueue_in(&mut tx, system.jobs.enqueue(Probe { act: Act::Echo(2) }))
        .await
        .unwrap();
    assert!(system.jobs.get(done.id).await.unwrap().is_none());
    tx.commit().await.unwrap();
    system.jobs.ring("default");
    assert_eq!(system.end_of(done.id).await.state, State::Completed);
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_jobs_run_exactly_once_in_every_set_up() {
    for (postgres, redis, durability) in [
        (false, false, "ledger"),
        (true, false, "ledger"),
        (true, true, "ledger"),
        (true, true, "redis"),
    ] {
        let system = System::start(
            postgres,
            redis,
            &[("HOLDFAST__QUEUES__DEFAULT__DURABILITY", durability)],
        )
        .await;
        let batch: Vec<Probe> = (0..3_000)
            .map(|number| Probe {
                act: Act::Echo(number),
            })
            .collect();
        let accepted = system.jobs.enqueue_all(&batch).await.unwrap();
        for enqueued in accepted.iter().rev().step_by(100) {
            assert_eq!(system.end_of(enqueued.id).await.state, State::Completed);
        }
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let stats = system.jobs.queue_stats().await.unwrap();
            let left: u64 = stats.iter().map(|queue| queue.available + queue.running).sum();
            if left == 0 {
                break;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{left} jobs left with {durability}"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        assert_eq!(system.seen.runs.load(Ordering::SeqCst), 3_000);
        system.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unconfirmed_job_whose_mark_cannot_be_removed_runs_once_it_can() {
    let system = System::start(true, false, &[]).await;
    let server = system.hosts.0.as_ref().unwrap();
    // A restart of the server between the claim and the removal of the mark.
    server
        .psql(
            "create sequence removals;
             create function fail_once() returns trigger language plpgsql as $f$
             begin
                 if nextval('removals') = 1 then
                     raise exception using errcode = '57P01', message = 'terminating connection';
                 end if;
                 return new;
             end $f$;
             grant usage on sequence removals to public;
             create trigger fail_once before update on holdfast_jobs for each row
                 when (old.doubtful and not new.doubtful) execute function fail_once()",
        )
        .await
        .unwrap();
    let id = JobId::generate();
    let payload = serde_json::to_string(&Probe { act: Act::Echo(7) }).unwrap();
    let insert = format!(
        "insert into holdfast_jobs (id, queue, kind, payload, run_at, max_attempts, timeout_ms, doubtful)
         values ('{}', 'default', 'test.probe', '{payload}', now(), 4, 30000, true)",
        id.as_uuid()
    );
    server.psql(&insert).await.unwrap();
    let record = system.end_of(id).await;
    assert_eq!((record.state, record.attempt), (State::Completed, 1));
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 1);
    assert_eq!(server.psql("select last_value from removals").await.unwrap(), "2");
    system.stop().await;
}

/// A newer version wrote the row, or it is damaged.
async fn a_job_that_cannot_be_read_is_a_dead_letter(postgres: bool) {
    let system = System::start(postgres, false, &[]).await;
    let unreadable = JobId::generate();
    let payload = serde_json::to_string(&Probe { act: Act::Echo(7) }).unwrap();
    if let Some(server) = &system.hosts.0 {
        let mut elsewhere = sqlx::PgConnection::connect(&server.url()).await.unwrap();
        sqlx::query(
            "insert into holdfast_jobs (id, queue, kind, payload, options, run_at, max_attempts, timeout_ms)
             values ($1, 'default', 'test.probe', $2::jsonb, '{\"backoff\": [7]}', now(), 4, 30000)",
        )
        .bind(unreadable.as_uuid())
        .bind(&payload)
        .execute(&mut elsewhere)
        .await
        .unwrap();
    } else {
        let url = format!("sqlite://{}", system.hosts.2.path().join("ledger.db").display());
        let mut elsewhere = sqlx::SqliteConnection::connect(&url).await.unwrap();
        sqlx::query(
            "insert into holdfast_jobs
                 (id, queue, kind, payload, options, run_at, created_at, max_attempts, timeout_ms)
             values (?1, 'default', 'test.probe', ?2, '{\"backoff\": [7', 1, 1, 4, 30000)",
        )
        .bind(unreadable.as_uuid())
        .bind(&payload)
        .execute(&mut elsewhere)
        .await
        .unwrap();
    }
    let batch: Vec<Probe> = (0..49)
        .map(|number| Probe {
            act: Act::Echo(number),
        })
        .collect();
    for enqueued in system.jobs.enqueue_all(&batch).await.unwrap() {
        assert_eq!(system.end_of(enqueued.id).await.state, State::Completed);
    }
    let record = system.end_of(unreadable).await;
    assert_eq!(record.state, State::Discarded);
    assert!(record.errors[0].message.contains("options"), "{record:?}");
    assert_eq!(
        (record.errors[0].class.as_ref(), record.attempt),
        ("unreadable", 1)
    );
    let kept: Probe = serde_json::from_str(record.payload.get()).unwrap();
    assert_eq!(kept.act, Act::Echo(7));
    assert_eq!(system.seen.runs.load(Ordering::SeqCst), 49);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_this_version_cannot_read_is_a_dead_letter_and_its_neighbours_run() {
    a_job_that_cannot_be_read_is_a_dead_letter(true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_job_that_cannot_be_read_is_a_dead_letter_on_sqlite() {
    a_job_that_cannot_be_read_is_a_dead_letter(false).await;
}

/// How often this process has read one job from the ledger.
fn jobs_read() -> u64 {
    let text = holdfast_core::telemetry::metrics::render();
    let line = "holdfast_sql_statement_duration_seconds_count{operation=\"read_a_job\"} ";
    let count = text.lines().find_map(|all| all.strip_prefix(line));
    count.map_or(0, |count| count.parse().unwrap())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_who_wait_for_jobs_of_redis_queues_share_one_poll() {
    const WAITERS: u64 = 200;
    let extra = [("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis")];
    let system = System::start(true, true, &extra).await;
    let id = system.enqueue(Act::Progress).await;
    let waiters: Vec<_> = (0..WAITERS)
        .map(|_| {
            let jobs = system.jobs.clone();
            tokio::spawn(async move { jobs.wait(id, DEADLINE).await.unwrap().unwrap().state })
        })
        .collect();
    let client = redis::Client::open(system.hosts.1.as_ref().unwrap().url()).unwrap();
    let mut redis = client.get_multiplexed_async_connection().await.unwrap();
    let mut polls = async || {
        let stats: String = redis::cmd("INFO")
            .arg("commandstats")
            .query_async(&mut redis)
            .await
            .unwrap();
        let calls = stats
            .lines()
            .find_map(|line| line.strip_prefix("cmdstat_hexists:calls="));
        calls.map_or(0_u64, |calls| calls.split(',').next().unwrap().parse().unwrap())
    };
    // Each reads the job when it begins to wait, at most twice: it may find it where it did not look first.
    let began = jobs_read();
    let mut last = began;
    loop {
        let target = polls().await + 20;
        while polls().await < target {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        let now = jobs_read();
        if now == last && now >= WAITERS {
            break;
        }
        last = now;
    }
    assert!(jobs_read() - began <= WAITERS * 4, "{}", jobs_read());
    system.seen.release.notify_one();
    for waiter in waiters {
        assert_eq!(waiter.await.unwrap(), State::Completed);
    }
    system.stop().await;
}
