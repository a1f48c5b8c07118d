//! The system under measurement: settings for one part, the `bench.noop` kind, and what counts its executions.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_cache::Cache;
use holdfast_core::config::{Settings, Sources};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::worker::{Worker, WorkerError, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry, Resources};
use holdfast_services::Program;
use holdfast_services::notify::webhooks::NotifyWebhook;
use schemars::JsonSchema;
use secrecy::ExposeSecret;
use serde::{Deserialize, Serialize};
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use super::failed;

/// The payload of the figures this bench is compared with.
pub(super) const PAYLOAD_BYTES: usize = 200;

pub(super) const QUEUE: &str = "bench";

/// A job that does nothing but say when it began.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
pub(super) struct Noop {
    /// Microseconds since the bench began, at enqueue; 0 where nobody asks.
    pub at: u64,
    pub fill: String,
}

impl Noop {
    pub(super) fn at(at: u64) -> Self {
        Self {
            at,
            fill: "x".repeat(PAYLOAD_BYTES - 20),
        }
    }
}

impl Job for Noop {
    const KIND: &'static str = "bench.noop";
    const QUEUE: &'static str = QUEUE;
    type Output = ();

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        ctx.resource::<Arc<Tally>>()?.count(self.at);
        Ok(())
    }
}

/// Counts executions, and keeps the pick-up times of those that ask.
#[derive(Debug)]
pub(super) struct Tally {
    epoch: Instant,
    count: AtomicU64,
    /// The waiting task is woken at this count and not at each one before: a wake-up for every job would be measured, too.
    awaited: AtomicU64,
    waits: Mutex<Vec<f64>>,
    counted: Notify,
}

impl Tally {
    fn new() -> Self {
        Self {
            epoch: Instant::now(),
            count: AtomicU64::new(0),
            awaited: AtomicU64::new(u64::MAX),
            waits: Mutex::default(),
            counted: Notify::new(),
        }
    }

    pub(super) fn now(&self) -> u64 {
        u64::try_from(self.epoch.elapsed().as_micros())
            .unwrap_or(u64::MAX)
            .max(1)
    }

    fn count(&self, at: u64) {
        if at > 0 {
            let waited = self.now().saturating_sub(at) as f64 / 1_000.0;
            self.waits
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(waited);
        }
        let total = self.count.fetch_add(1, Ordering::SeqCst) + 1;
        if total >= self.awaited.load(Ordering::SeqCst) {
            self.counted.notify_waiters();
        }
    }

    pub(super) fn total(&self) -> u64 {
        self.count.load(Ordering::SeqCst)
    }

    pub(super) async fn reaches(&self, total: u64, limit: Duration) -> Result<(), Failure> {
        let deadline = tokio::time::Instant::now() + limit;
        self.awaited.store(total, Ordering::SeqCst);
        loop {
            let counted = self.counted.notified();
            if self.total() >= total {
                break;
            }
            if tokio::time::timeout_at(deadline, counted).await.is_err() {
                return Err(Failure::msg(format!("only {} of {total} jobs ran", self.total())));
            }
        }
        Ok(())
    }

    pub(super) fn take_waits(&self) -> Vec<f64> {
        let mut waits = std::mem::take(&mut *self.waits.lock().unwrap_or_else(PoisonError::into_inner));
        waits.sort_by(f64::total_cmp);
        waits
    }
}

/// The servers of the configuration.
#[derive(Debug)]
pub(super) struct Servers {
    pub postgres: Option<String>,
    pub redis: Option<String>,
}

impl Servers {
    pub(super) fn from_config() -> Result<Self, Failure> {
        let settings = Program::default().settings().map_err(Failure::from)?;
        let database = settings.database.url.expose_secret().to_owned();
        Ok(Self {
            postgres: database.starts_with("postgres").then_some(database),
            redis: settings
                .redis
                .queue
                .map(|endpoint| endpoint.url.expose_secret().to_owned()),
        })
    }

    /// `None` where a server is missing.
    pub(super) fn setup(&self, with_postgres: bool, with_redis: bool, durability: &str) -> Option<Setup> {
        let mut env = BTreeMap::new();
        if with_postgres {
            env.insert("DATABASE_URL".to_owned(), self.postgres.clone()?);
        }
        if with_redis {
            env.insert("REDIS_URL".to_owned(), self.redis.clone()?);
        }
        Some(Setup::new(env, durability))
    }
}

#[derive(Debug, Clone)]
pub(super) struct Setup {
    pub env: BTreeMap<String, String>,
}

impl Setup {
    fn new(mut env: BTreeMap<String, String>, durability: &str) -> Self {
        env.insert(
            "HOLDFAST__QUEUES__BENCH__DURABILITY".to_owned(),
            durability.to_owned(),
        );
        env.insert(
            "HOLDFAST__QUEUES__BENCH__CONCURRENCY".to_owned(),
            "100".to_owned(),
        );
        env.insert("HOLDFAST__WORKER__QUEUES".to_owned(), QUEUE.to_owned());
        Self { env }
    }

    pub(super) fn sqlite(directory: &Path) -> Self {
        let url = format!("sqlite://{}", directory.join("bench.db").display());
        Self::new(BTreeMap::from([("DATABASE_URL".to_owned(), url)]), "ledger")
    }

    pub(super) fn settings(&self) -> Result<Settings, Failure> {
        holdfast_services::load_from(Sources {
            env: self.env.clone(),
            file: None,
        })
        .map_err(Failure::from)
    }
}

/// One set-up, open.
#[derive(Debug)]
pub(super) struct System {
    pub settings: Settings,
    pub jobs: Jobs,
    pub database: Database,
    pub gate: RedisGate,
    pub tally: Arc<Tally>,
    worker: Option<(Shutdown, JoinHandle<Result<(), WorkerError>>)>,
}

impl System {
    pub(super) async fn open(setup: &Setup) -> Result<Self, Failure> {
        migrate(&setup.settings()?.database).await.map_err(failed)?;
        let system = Self::assemble(setup)?;
        system.gate.wait_ready(Duration::from_secs(2)).await;
        system.clear().await?;
        Ok(system)
    }

    /// Opens everything and asks nothing: also over servers that do not answer.
    pub(super) fn assemble(setup: &Setup) -> Result<Self, Failure> {
        let settings = setup.settings()?;
        let database = Database::open(&settings.database).map_err(failed)?;
        let gate =
            RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).map_err(failed)?;
        let registry = Registry::new().register::<Noop>().register::<NotifyWebhook>();
        let jobs = Jobs::new(&settings, registry, &database, &gate);
        Ok(Self {
            settings,
            jobs,
            database,
            gate,
            tally: Arc::new(Tally::new()),
            worker: None,
        })
    }

    /// A cache on the same Redis.
    pub(super) fn cache(settings: &Settings) -> Result<Cache, Failure> {
        let endpoint = settings.redis.cache.as_ref();
        let gate = RedisGate::open(Role::Cache, endpoint, &settings.redis).map_err(failed)?;
        Ok(Cache::open(gate, &settings.cache))
    }

    /// Starts a worker in this process.
    pub(super) fn work(&mut self) -> Result<(), Failure> {
        let resources = Resources::default().with(Arc::clone(&self.tally));
        self.work_with(resources)
    }

    /// The same, with what other kinds than the bench's own need.
    pub(super) fn work_with(&mut self, resources: Resources) -> Result<(), Failure> {
        let stop = Shutdown::new();
        let parts = WorkerParts {
            settings: self.settings.clone(),
            jobs: self.jobs.clone(),
            gate: self.gate.clone(),
            resources,
        };
        let worker = Worker::new(parts, stop.clone()).map_err(failed)?;
        self.worker = Some((stop, tokio::spawn(worker.run())));
        Ok(())
    }

    pub(super) async fn stop_working(&mut self) -> Result<(), Failure> {
        if let Some((stop, running)) = self.worker.take() {
            stop.trigger();
            running.await.map_err(failed)?.map_err(failed)?;
        }
        Ok(())
    }

    pub(super) async fn close(mut self) -> Result<(), Failure> {
        self.stop_working().await?;
        self.clear().await?;
        self.database.close(Duration::from_secs(2)).await;
        Ok(())
    }

    /// Runs a statement of the bench's own, which both databases understand.
    pub(super) async fn sql(&self, statement: &str) -> Result<(), Failure> {
        let statement = sqlx::raw_sql(sqlx::AssertSqlSafe(statement.to_owned()));
        match &self.database {
            Database::Postgres(pool) => statement.execute(pool).await.map(drop).map_err(failed),
            Database::Sqlite(database) => statement
                .execute(&database.writer)
                .await
                .map(drop)
                .map_err(failed),
        }
    }

    /// Removes the bench's own jobs, and lets the database tidy up after them.
    async fn clear(&self) -> Result<(), Failure> {
        let delete = "delete from holdfast_jobs where queue = 'bench'";
        match &self.database {
            Database::Postgres(pool) => {
                // Millions of rows take longer than a statement of the services may.
                let mut session = pool.acquire().await.map_err(failed)?;
                for statement in [
                    "set statement_timeout = 0",
                    delete,
                    "vacuum analyze holdfast_jobs",
                    "reset statement_timeout",
                ] {
                    sqlx::raw_sql(statement)
                        .execute(&mut *session)
                        .await
                        .map_err(failed)?;
                }
            }
            Database::Sqlite(database) => {
                sqlx::raw_sql(delete)
                    .execute(&database.writer)
                    .await
                    .map_err(failed)?;
            }
        }
        Ok(())
    }
}
