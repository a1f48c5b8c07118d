//! Workers in this process over real databases: chains, batches, retries by kind and queue, dead letters of the broker, and
//! places shared by weight.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_core::config::{Durability, Settings, Sources, load_from};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::dead_letters::{DeadLetterFilter, Redrive};
use holdfast_jobs::ledger::JobRecord;
use holdfast_jobs::link::EndedBatch;
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, Registry, Resources, State};
use holdfast_testkit::{PostgresOptions, PostgresServer, RedisOptions, RedisServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::task::JoinHandle;

const DEADLINE: Duration = Duration::from_secs(60);

/// What the handlers saw, and what the test lets them do.
#[derive(Debug, Default)]
struct HandlerLog {
    ended: Mutex<Vec<EndedBatch>>,
    runs: Mutex<BTreeMap<String, u64>>,
    healed: std::sync::atomic::AtomicBool,
}

impl HandlerLog {
    fn ran(&self, queue: &str) {
        *self.runs.lock().unwrap().entry(queue.to_owned()).or_default() += 1;
    }
}

/// Adds to what the job before it returned.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Add(u64);

impl Job for Add {
    const KIND: &'static str = "test.add";
    type Output = u64;

    async fn run(self, ctx: JobContext) -> Result<u64, JobError> {
        let seen = ctx.resource::<Arc<HandlerLog>>()?;
        seen.ran(ctx.queue());
        if let Some(batch) = ctx.ended_batch() {
            seen.ended.lock().unwrap().push(batch);
        }
        Ok(self.0 + ctx.previous_result::<u64>()?.unwrap_or(0))
    }
}

/// Fails until it is healed.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Fail;

impl Job for Fail {
    const KIND: &'static str = "test.fail";
    type Output = &'static str;

    async fn run(self, ctx: JobContext) -> Result<&'static str, JobError> {
        let seen = ctx.resource::<Arc<HandlerLog>>()?;
        if seen.healed.load(std::sync::atomic::Ordering::SeqCst) {
            return Ok("healed");
        }
        Err(JobError::transient(format!("failure {}", ctx.attempt())))
    }
}

/// Asks twice to be run later, then fails once, then is done.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Later;

impl Job for Later {
    const KIND: &'static str = "test.later";
    type Output = u32;

    async fn run(self, ctx: JobContext) -> Result<u32, JobError> {
        let seen = ctx.resource::<Arc<HandlerLog>>()?;
        seen.ran("later");
        let runs = seen.runs.lock().unwrap()["later"];
        match runs {
            1 | 2 => Err(JobError::snooze(Duration::from_millis(50))),
            3 => Err(JobError::retry_after(Duration::from_millis(50), "busy")),
            _ => Ok(ctx.attempt()),
        }
    }
}

/// Takes a while.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
struct Nap;

impl Job for Nap {
    const KIND: &'static str = "test.nap";
    type Output = ();

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        tokio::time::sleep(Duration::from_millis(10)).await;
        ctx.resource::<Arc<HandlerLog>>()?.ran(ctx.queue());
        Ok(())
    }
}

struct System {
    jobs: Jobs,
    seen: Arc<HandlerLog>,
    settings: Settings,
    stop: Shutdown,
    running: Option<JoinHandle<Result<(), WorkerError>>>,
    gate: RedisGate,
    _hosts: (Option<PostgresServer>, Option<RedisServer>, tempfile::TempDir),
}

impl System {
    /// With its worker at work.
    async fn start(postgres: bool, redis: bool, file: &str) -> Self {
        let mut system = Self::idle(postgres, redis, file).await;
        system.work();
        system
    }

    async fn idle(postgres: bool, redis: bool, file: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let sqlite = format!("sqlite://{}", dir.path().join("ledger.db").display());
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
        let mut env = vec![(
            "DATABASE_URL".to_owned(),
            postgres.as_ref().map_or(sqlite, PostgresServer::url),
        )];
        env.extend(redis.as_ref().map(|redis| ("REDIS_URL".to_owned(), redis.url())));
        let file = Some(("holdfast.toml".into(), file.to_owned()));
        let settings = load_from(Sources {
            env: env.into_iter().collect(),
            file,
        })
        .expect("sound settings");
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        gate.wait_ready(Duration::from_secs(5)).await;
        let registry = Registry::new()
            .register::<Add>()
            .register::<Fail>()
            .register::<Later>()
            .register::<Nap>();
        let jobs = Jobs::new(&settings, registry, &database, &gate);
        Self {
            jobs,
            seen: Arc::default(),
            settings,
            stop: Shutdown::new(),
            running: None,
            gate,
            _hosts: (postgres, redis, dir),
        }
    }

    fn work(&mut self) {
        let parts = WorkerParts {
            settings: self.settings.clone(),
            jobs: self.jobs.clone(),
            gate: self.gate.clone(),
            resources: Resources::default().with(Arc::clone(&self.seen)),
        };
        let worker = Worker::new(parts, self.stop.clone()).unwrap();
        self.running = Some(tokio::spawn(worker.run()));
    }

    async fn end_of(&self, id: JobId) -> JobRecord {
        let record = self.jobs.wait(id, DEADLINE).await.unwrap().expect("a job");
        assert!(record.state.is_final(), "{record:?}");
        record
    }

    async fn stop(mut self) {
        self.stop.trigger();
        let running = self.running.take().expect("it works");
        tokio::time::timeout(DEADLINE, running)
            .await
            .expect("a stop in time")
            .unwrap()
            .unwrap();
    }
}

/// Writes each test for both databases, without Redis and with it.
macro_rules! everywhere {
    ($($name:ident($redis:literal)),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
              async fn $name() { super::$name(true, $redis).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
              async fn $name() { super::$name(false, $redis).await; })+
        }
    };
}

everywhere!(
    a_chain_hands_its_results_on(false),
    a_batch_of_a_redis_queue_lives_in_the_ledger_and_calls_back_once(true),
    a_retry_policy_of_the_kind_counts_before_that_of_the_queue(false),
    a_snooze_spends_no_attempt_and_a_rest_that_is_asked_for_is_kept(false),
    a_dead_letter_of_the_broker_is_seen_redriven_and_completed(true),
);

const REDIS_QUEUE: &str = "[queues.events]\ndurability = \"redis\"\n";

async fn a_chain_hands_its_results_on(postgres: bool, redis: bool) {
    let system = System::start(postgres, redis, "").await;
    let jobs = &system.jobs;
    let chain = jobs.enqueue(Add(1)).then(Add(20)).then_enqueue(
        jobs.enqueue(Add(300))
            .queue("events")
            .delay(Duration::from_millis(100)),
    );
    let first = system.end_of(chain.await.unwrap().id).await;
    let second = system.end_of(first.child.unwrap()).await;
    let third = system.end_of(second.child.unwrap()).await;
    let results = [&first, &second, &third].map(|job| job.result.as_ref().unwrap().get().to_owned());
    assert_eq!(results, ["1", "21", "321"]);
    assert_eq!((second.parent, third.parent), (Some(first.id), Some(second.id)));
    assert_eq!((third.queue.as_str(), third.child), ("events", None));
    system.stop().await;
}

async fn a_batch_of_a_redis_queue_lives_in_the_ledger_and_calls_back_once(postgres: bool, redis: bool) {
    let system = System::start(postgres, redis, REDIS_QUEUE).await;
    let jobs = &system.jobs;
    let members = (0..600).map(|n| jobs.enqueue(Add(n)).queue("events"));
    let batch = jobs
        .batch(members)
        .name("six hundred")
        .callback(jobs.enqueue(Add(7)).queue("events"))
        .await
        .unwrap();
    assert!(batch.jobs.iter().all(|job| job.durability == Durability::Ledger));
    let ended = jobs.batches().wait(batch.id, DEADLINE).await.unwrap().unwrap();
    assert!(ended.ended_at.is_some());
    assert_eq!((ended.completed, ended.percent()), (600, 100));
    system.end_of(ended.callback.unwrap().id.unwrap()).await;
    let told = system.seen.ended.lock().unwrap().clone();
    assert_eq!(told.len(), 1);
    assert_eq!(
        (told[0].id, told[0].total, told[0].completed),
        (batch.id, 600, 600)
    );
    assert_eq!(system.seen.runs.lock().unwrap()["events"], 601);
    system.stop().await;
}

async fn a_retry_policy_of_the_kind_counts_before_that_of_the_queue(postgres: bool, redis: bool) {
    let file = r#"
        [queues.events.retry]
        max_attempts = 5
        base_seconds = 0.01
        cap_seconds = 0.02
        jitter = false
        [kinds."test.fail".retry]
        max_attempts = 3
    "#;
    let system = System::start(postgres, redis, file).await;
    let id = system.jobs.enqueue(Fail).queue("events").await.unwrap().id;
    let record = system.end_of(id).await;
    assert_eq!(
        (record.state, record.attempt, record.max_attempts),
        (State::Discarded, 3, 3)
    );
    // The rests are the queue's: with those of `[jobs.retry]` it would not have ended in a minute.
    let messages: Vec<_> = record.errors.iter().map(|error| error.message.as_str()).collect();
    assert_eq!(messages, ["failure 1", "failure 2", "failure 3"]);
    let own = system
        .jobs
        .enqueue(Fail)
        .queue("events")
        .max_attempts(2)
        .await
        .unwrap()
        .id;
    assert_eq!(
        system.end_of(own).await.attempt,
        2,
        "the job's own word counts before both"
    );
    system.stop().await;
}

async fn a_snooze_spends_no_attempt_and_a_rest_that_is_asked_for_is_kept(postgres: bool, redis: bool) {
    let system = System::start(postgres, redis, "").await;
    let record = system.end_of(system.jobs.enqueue(Later).await.unwrap().id).await;
    assert_eq!(
        (record.state, record.attempt, record.errors.len()),
        (State::Completed, 2, 1)
    );
    assert_eq!(record.errors[0].message, "busy");
    assert_eq!(record.result.unwrap().get(), "2");
    assert_eq!(system.seen.runs.lock().unwrap()["later"], 4);
    system.stop().await;
}

async fn a_dead_letter_of_the_broker_is_seen_redriven_and_completed(postgres: bool, redis: bool) {
    let system = System::start(postgres, redis, REDIS_QUEUE).await;
    let accepted = system
        .jobs
        .enqueue(Fail)
        .queue("events")
        .max_attempts(1)
        .await
        .unwrap();
    assert_eq!(
        accepted.durability,
        Durability::Redis,
        "it lives and dies on the broker"
    );
    assert_eq!(system.end_of(accepted.id).await.state, State::Discarded);
    let letters = system.jobs.dead_letters();
    let filter = DeadLetterFilter {
        queue: Some("events".to_owned()),
        ..DeadLetterFilter::default()
    };
    let found = letters.list(&filter, None, 10).await.unwrap();
    assert_eq!(found.len(), 1);
    let letter = &found[0];
    assert_eq!((letter.id, letter.kind.as_str()), (accepted.id, Fail::KIND));
    assert_eq!((letter.payload.get(), letter.attempt), ("null", 1));
    assert_eq!(letter.errors.len(), 1);
    assert_eq!(
        (letter.errors[0].message.as_str(), letter.errors[0].attempt),
        ("failure 1", 1)
    );
    assert!(
        letter.errors[0]
            .worker
            .as_ref()
            .is_some_and(|worker| !worker.is_empty())
    );
    assert!(letter.finished_at.is_some());

    system
        .seen
        .healed
        .store(true, std::sync::atomic::Ordering::SeqCst);
    let redrive = Redrive {
        filter,
        ..Redrive::default()
    };
    let by = AuditContext::new(Actor::local());
    let done = system.jobs.steer(&by).redrive(&redrive).await.unwrap();
    assert_eq!((done.affected, done.finished), (1, true));
    let record = system.end_of(accepted.id).await;
    assert_eq!((record.state, record.attempt), (State::Completed, 2));
    assert_eq!(record.result.unwrap().get(), "\"healed\"");
    assert_eq!(record.errors.len(), 1, "what had happened is kept");
    assert!(
        letters
            .list(&DeadLetterFilter::default(), None, 10)
            .await
            .unwrap()
            .is_empty()
    );
    system.stop().await;
}

/// Six places for three queues that all have more to do than they can: by weight 4, 1 and 1.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_share_the_places_of_a_worker_by_their_weights() {
    let file = "[worker]\nconcurrency = 6\n[queues.default]\nweight = 4\n";
    let mut system = System::idle(true, false, file).await;
    let queues = ["default", "events", "ml"];
    let naps: Vec<_> = (0..1_500)
        .map(|n: usize| system.jobs.enqueue(Nap).queue(queues[n % 3]))
        .collect();
    let batch = system.jobs.batch(naps).await.unwrap();
    assert_eq!(batch.total, 1_500);
    system.work();
    // While every queue has work: before the heaviest has run out of it.
    let deadline = tokio::time::Instant::now() + DEADLINE;
    let runs = loop {
        let runs = system.seen.runs.lock().unwrap().clone();
        if runs.get("default").is_some_and(|runs| *runs >= 400) {
            break runs;
        }
        assert!(tokio::time::Instant::now() < deadline, "{runs:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    };
    for light in ["events", "ml"] {
        let ratio = runs["default"] as f64 / runs[light] as f64;
        assert!((2.5..6.0).contains(&ratio), "four times as much, about: {runs:?}");
    }
    // What the heaviest no longer needs the others use.
    let ended = system
        .jobs
        .batches()
        .wait(batch.id, DEADLINE)
        .await
        .unwrap()
        .unwrap();
    assert_eq!(ended.completed, 1_500);
    system.stop().await;
}
