//! Outcomes that the database does not take at once: a locked row, a locked batch, a transaction left open, a row that it
//! refuses for good. Each delays itself, and nothing else; each job runs once.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::ledger::JobFilter;
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, Registry, Resources, State};
use holdfast_testkit::{PostgresOptions, PostgresServer, RedisOptions, RedisServer, eventually};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use support::settings;
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(30);

/// Connections of the process' pool.
const POOL: i64 = 8;

/// How often each job ran, and the way on for those that wait.
#[derive(Debug)]
struct RunLog {
    runs: Mutex<BTreeMap<u32, u32>>,
    gate: Semaphore,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
enum Act {
    Return,
    /// Runs until the test lets it go on.
    Wait,
    Fail,
}

#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Probe {
    n: u32,
    act: Act,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    poison: Option<u32>,
}

impl Job for Probe {
    const KIND: &'static str = "test.probe";
    type Output = String;

    async fn run(self, ctx: JobContext) -> Result<String, JobError> {
        let seen = ctx.resource::<Arc<RunLog>>()?;
        *seen.runs.lock().unwrap().entry(self.n).or_default() += 1;
        match self.act {
            Act::Return => Ok(format!("done {}", self.n)),
            Act::Wait => {
                seen.gate.acquire().await.unwrap().forget();
                Ok(format!("done {}", self.n))
            }
            Act::Fail => Err(JobError::permanent("on purpose")),
        }
    }
}

fn returns(n: u32) -> Probe {
    Probe {
        n,
        act: Act::Return,
        poison: None,
    }
}

fn waits(n: u32) -> Probe {
    Probe {
        act: Act::Wait,
        ..returns(n)
    }
}

struct System {
    server: PostgresServer,
    jobs: Jobs,
    seen: Arc<RunLog>,
    stop: Shutdown,
    running: JoinHandle<Result<(), WorkerError>>,
    _redis: Option<RedisServer>,
}

impl System {
    async fn start(redis: bool) -> Self {
        let options = PostgresOptions::fast().setting("lock_timeout", "500ms");
        let server = PostgresServer::start_with(options).await.unwrap();
        let redis = if redis {
            Some(RedisServer::start(RedisOptions::default()).await.unwrap())
        } else {
            None
        };
        let (database_url, pool) = (server.url(), POOL.to_string());
        let redis_url = redis.as_ref().map(RedisServer::url);
        let mut env = vec![
            ("DATABASE_URL", database_url.as_str()),
            ("HOLDFAST__DATABASE__MAX_CONNECTIONS", &pool),
            ("HOLDFAST__QUEUES__DEFAULT__CONCURRENCY", "10"),
            ("HOLDFAST__QUEUES__A__CONCURRENCY", "10"),
            ("HOLDFAST__QUEUES__B__CONCURRENCY", "10"),
            ("HOLDFAST__QUEUES__C__CONCURRENCY", "10"),
        ];
        if let Some(url) = redis_url.as_deref() {
            env.push(("REDIS_URL", url));
            env.push(("HOLDFAST__QUEUES__DEFAULT__DURABILITY", "redis"));
        }
        let settings = settings(&env);
        let (jobs, seen, stop, running) = start_worker(&settings).await;
        Self {
            server,
            jobs,
            seen,
            stop,
            running,
            _redis: redis,
        }
    }

    /// A connection of somebody else's.
    async fn foreigner(&self) -> PgConnection {
        let mut connection = PgConnection::connect(&self.server.url()).await.unwrap();
        sqlx::raw_sql("set application_name = 'foreigner'; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0")
            .execute(&mut connection)
            .await
            .unwrap();
        connection
    }

    async fn run_sql(&self, sql: &'static str) {
        let mut connection = self.foreigner().await;
        sqlx::raw_sql(sql).execute(&mut connection).await.unwrap();
    }

    async fn enqueue(&self, queue: &str, job: Probe) -> JobId {
        self.jobs.enqueue(job).queue(queue).await.unwrap().id
    }

    async fn state(&self, id: JobId) -> State {
        self.jobs.get(id).await.unwrap().unwrap().state
    }

    async fn await_state(&self, id: JobId, state: State) {
        eventually(&format!("{id} is {state:?}"), DEADLINE, POLL, || async {
            let record = self.jobs.get(id).await.ok().flatten()?;
            (record.state == state).then_some(())
        })
        .await
        .unwrap();
    }

    /// Connections to the server that belong to the process under test; never more than its pool has, and one of the attendant
    /// that probes and cancels.
    async fn assert_within_the_pool(&self) {
        let mut connection = self.foreigner().await;
        let open: i64 = sqlx::query_scalar(
            "select count(*) from pg_stat_activity
             where backend_type = 'client backend' and application_name <> 'foreigner'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap();
        assert!(open <= POOL + 1, "{open} connections of a pool of {POOL}");
    }

    fn runs(&self) -> BTreeMap<u32, u32> {
        self.seen.runs.lock().unwrap().clone()
    }

    fn assert_each_ran_once(&self) {
        let runs = self.runs();
        assert!(runs.values().all(|runs| *runs == 1), "{runs:?}");
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
) -> (Jobs, Arc<RunLog>, Shutdown, JoinHandle<Result<(), WorkerError>>) {
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    gate.wait_ready(Duration::from_secs(10)).await;
    let jobs = Jobs::new(settings, Registry::new().register::<Probe>(), &database, &gate);
    let seen = Arc::new(RunLog {
        runs: Mutex::default(),
        gate: Semaphore::new(0),
    });
    let stop = Shutdown::new();
    let parts = WorkerParts {
        settings: settings.clone(),
        jobs: jobs.clone(),
        gate,
        resources: Resources::default().with(Arc::clone(&seen)),
    };
    let worker = Worker::new(parts, stop.clone()).unwrap();
    (jobs, seen, stop, tokio::spawn(worker.run()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_job_delays_its_own_outcome_and_no_other_queue() {
    let system = System::start(false).await;
    let locked = system.enqueue("default", waits(0)).await;
    system.await_state(locked, State::Running).await;
    let mut foreigner = system.foreigner().await;
    let mut tx = foreigner.begin().await.unwrap();
    sqlx::query("select from holdfast_jobs where id = $1 for update")
        .bind(locked.as_uuid())
        .execute(&mut *tx)
        .await
        .unwrap();
    system.seen.gate.add_permits(1);
    let mut others = Vec::new();
    for n in 1..=120 {
        let queue = ["a", "b", "c"][n as usize % 3];
        others.push(system.enqueue(queue, returns(n)).await);
    }
    for id in others {
        system.await_state(id, State::Completed).await;
        system.assert_within_the_pool().await;
    }
    assert_eq!(system.state(locked).await, State::Running);
    tx.commit().await.unwrap();
    system.await_state(locked, State::Completed).await;
    let record = system.jobs.get(locked).await.unwrap().unwrap();
    assert_eq!((record.attempt, record.crashes), (1, 0));
    system.assert_each_ran_once();
    assert_eq!(system.runs().len(), 121);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_locked_jobs_of_one_batch_of_outcomes_leave_the_others_to_be_stored() {
    let system = System::start(false).await;
    let mut locked = Vec::new();
    for n in 0..10 {
        locked.push(system.enqueue("a", waits(n)).await);
    }
    let mut free = Vec::new();
    for n in 10..20 {
        free.push(system.enqueue("b", waits(n)).await);
    }
    for id in locked.iter().chain(&free) {
        system.await_state(*id, State::Running).await;
    }
    let mut foreigner = system.foreigner().await;
    let mut tx = foreigner.begin().await.unwrap();
    sqlx::query("select from holdfast_jobs where queue = 'a' for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    // All twenty end at once, and share a statement.
    system.seen.gate.add_permits(20);
    for id in free {
        system.await_state(id, State::Completed).await;
    }
    for id in &locked {
        assert_eq!(system.state(*id).await, State::Running);
    }
    system.assert_within_the_pool().await;
    tx.rollback().await.unwrap();
    for id in locked {
        system.await_state(id, State::Completed).await;
    }
    system.assert_each_ran_once();
    system.stop().await;
}

/// Jobs of two batches and plain ones, while somebody holds the row of one batch.
async fn a_batch_is_held(foreigner_setting: &'static str, commits: bool) {
    let system = System::start(false).await;
    let members = |from: u32| (from..from + 5).map(|n| system.jobs.enqueue(waits(n)).queue("a"));
    let held = system
        .jobs
        .batch(members(0))
        .callback(system.jobs.enqueue(returns(900)));
    let held = held.await.unwrap();
    let other = system
        .jobs
        .batch(members(5))
        .callback(system.jobs.enqueue(returns(901)));
    let other = other.await.unwrap();
    for job in held.jobs.iter().chain(&other.jobs) {
        system.await_state(job.id, State::Running).await;
    }
    let mut foreigner = system.foreigner().await;
    sqlx::raw_sql(foreigner_setting)
        .execute(&mut foreigner)
        .await
        .unwrap();
    let mut tx = foreigner.begin().await.unwrap();
    sqlx::query("update holdfast_batches set completed = completed where id = $1")
        .bind(held.id.as_uuid())
        .execute(&mut *tx)
        .await
        .unwrap();
    system.seen.gate.add_permits(10);
    let mut plain = Vec::new();
    for n in 100..160 {
        plain.push(
            system
                .enqueue(["b", "c", "default"][n as usize % 3], returns(n))
                .await,
        );
    }
    for id in plain {
        system.await_state(id, State::Completed).await;
    }
    let ended = system
        .jobs
        .batches()
        .wait(other.id, DEADLINE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((ended.completed, ended.ended_at.is_some()), (5, true));
    system.assert_within_the_pool().await;
    if commits {
        let record = system.jobs.batches().get(held.id).await.unwrap().unwrap();
        assert_eq!((record.completed, record.ended_at), (0, None));
        tx.commit().await.unwrap();
    } else {
        std::mem::forget(tx); // its connection is the server's to end
    }
    let ended = system
        .jobs
        .batches()
        .wait(held.id, DEADLINE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!((ended.completed, ended.ended_at.is_some()), (5, true));
    eventually("both callbacks", DEADLINE, POLL, || async {
        let runs = system.runs();
        (runs.contains_key(&900) && runs.contains_key(&901)).then_some(())
    })
    .await
    .unwrap();
    system.assert_each_ran_once();
    assert_eq!(system.runs().len(), 72);
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_batch_delays_its_own_jobs_and_no_other_batch() {
    a_batch_is_held("select 1", true).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_goes_on_once_the_server_has_ended_the_transaction_of_a_frozen_worker() {
    a_batch_is_held("set idle_in_transaction_session_timeout = '3s'", false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_chain_whose_next_key_is_held_delays_no_other_chain() {
    let system = System::start(false).await;
    let mut foreigner = system.foreigner().await;
    let mut tx = foreigner.begin().await.unwrap();
    let taken = system.jobs.enqueue(returns(500)).unique("next").queue("c");
    let taken = system.jobs.enqueue_in(&mut tx, taken).await.unwrap().id;
    let blocked = system.jobs.enqueue(waits(0)).queue("a");
    let blocked = blocked.then_enqueue(system.jobs.enqueue(returns(500)).unique("next").queue("c"));
    let blocked = blocked.await.unwrap().id;
    let mut free = Vec::new();
    for n in 1..=8 {
        let first = system.jobs.enqueue(waits(n)).queue("a");
        let next = system.jobs.enqueue(returns(100 + n)).queue("b");
        free.push(first.then_enqueue(next).await.unwrap().id);
    }
    for id in std::iter::once(&blocked).chain(&free) {
        system.await_state(*id, State::Running).await;
    }
    system.seen.gate.add_permits(9);
    for id in free {
        system.await_state(id, State::Completed).await;
        let child = system.jobs.get(id).await.unwrap().unwrap().child.unwrap();
        system.await_state(child, State::Completed).await;
    }
    assert_eq!(system.state(blocked).await, State::Running);
    system.assert_within_the_pool().await;
    tx.commit().await.unwrap();
    system.await_state(blocked, State::Completed).await;
    let child = system.jobs.get(blocked).await.unwrap().unwrap().child;
    assert_eq!(child, Some(taken), "the job that has the key is what follows");
    system.await_state(taken, State::Completed).await;
    system.assert_each_ran_once();
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_outcome_that_the_ledger_refuses_is_a_dead_letter_and_its_neighbours_are_stored() {
    let system = System::start(false).await;
    system
        .run_sql(
            "create function refuse() returns trigger language plpgsql as $$
             begin
                 if new.result::text = '\"done 7\"' then raise exception 'refused'; end if;
                 return new;
             end $$;
             create trigger refuse before update on holdfast_jobs for each row execute function refuse()",
        )
        .await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(system.enqueue("a", waits(n)).await);
    }
    for id in &ids {
        system.await_state(*id, State::Running).await;
    }
    system.seen.gate.add_permits(10);
    for (n, id) in ids.iter().enumerate() {
        let state = if n == 7 {
            State::Discarded
        } else {
            State::Completed
        };
        system.await_state(*id, state).await;
    }
    let refused = system.jobs.get(ids[7]).await.unwrap().unwrap();
    assert!(
        refused.errors[0]
            .message
            .starts_with("the outcome could not be stored: "),
        "{refused:?}"
    );
    system.assert_each_ran_once();
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_that_no_outcome_may_change_holds_no_place_and_no_stop_up() {
    let system = System::start(false).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        ids.push(system.enqueue("a", waits(n)).await);
    }
    for id in &ids {
        system.await_state(*id, State::Running).await;
    }
    system
        .run_sql(
            "create function refuse() returns trigger language plpgsql as $$
             begin
                 if (old.payload::jsonb ->> 'n')::int < 10 and new.finished_at is not null then
                     raise exception 'refused';
                 end if;
                 return new;
             end $$;
             create trigger refuse before update on holdfast_jobs for each row execute function refuse()",
        )
        .await;
    // The queue runs ten at a time, and none of these ten can be stored.
    system.seen.gate.add_permits(10);
    let mut good = Vec::new();
    for n in 10..40 {
        good.push(system.enqueue("a", returns(n)).await);
    }
    for id in good {
        system.await_state(id, State::Completed).await;
    }
    for id in ids {
        assert_eq!(system.state(id).await, State::Running, "kept, and not run again");
    }
    system.assert_each_ran_once();
    system.stop().await;
}

/// Fifty jobs of a queue on Redis fail for good; the ledger refuses one of them as it comes.
async fn a_refused_dead_letter_of_a_redis_queue(constraint: &'static str, encoding: &str) {
    let system = System::start(true).await;
    system.run_sql(constraint).await;
    let mut ids = Vec::new();
    for n in 0..50 {
        let poison = (n == 31).then_some(n);
        let job = Probe {
            act: Act::Fail,
            poison,
            ..returns(n)
        };
        ids.push(system.enqueue("default", job).await);
    }
    for id in &ids {
        system.await_state(*id, State::Discarded).await;
    }
    let filter = JobFilter {
        state: Some(State::Discarded),
        limit: 100,
        ..JobFilter::default()
    };
    assert_eq!(system.jobs.list(&filter).await.unwrap().len(), 50);
    let poison = system.jobs.get(ids[31]).await.unwrap().unwrap();
    let kept: serde_json::Value = serde_json::from_str(poison.payload.get()).unwrap();
    assert_eq!(kept["unstorable"], encoding);
    if encoding == "text" {
        let came: Probe = serde_json::from_str(kept["payload"].as_str().unwrap()).unwrap();
        assert_eq!((came.n, came.poison), (31, Some(31)));
        assert_eq!(poison.errors[0].message, "on purpose");
    }
    let reason = &poison.errors.last().unwrap().message;
    assert!(
        reason.starts_with("the job could not be stored as it came"),
        "{reason}"
    );
    let neighbour = system.jobs.get(ids[30]).await.unwrap().unwrap();
    assert_eq!(neighbour.errors[0].message, "on purpose");
    let good = system.enqueue("default", returns(99)).await;
    system.await_state(good, State::Completed).await;
    system.assert_each_ran_once();
    system.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_job_that_the_ledger_refuses_is_kept_as_text() {
    a_refused_dead_letter_of_a_redis_queue(
        "alter table holdfast_jobs add check (payload::jsonb ->> 'poison' is null)",
        "text",
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_job_that_the_ledger_refuses_as_text_too_is_kept_as_hex() {
    a_refused_dead_letter_of_a_redis_queue(
        "alter table holdfast_jobs add check (payload::text not like '%poison%')",
        "hex",
    )
    .await;
}
