//! An API in this process, for one command: what the configuration names is reached through the same routes as from
//! anywhere else.
//!
//! It listens on a free port of 127.0.0.1 and serves the holder of a key that is made for the run, is never printed, and
//! ends with the process. Entries of the audit log name the login of the operating system (`cli/<login>`).
//!
//! # When things fail
//! A database that does not exist, is not migrated or does not answer is an error that says what to run. Without Redis the
//! database serves alone. A port cannot be taken: the system picks it.

use std::io;
use std::time::Duration;

use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::{Connection, RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_services::Program;
use holdfast_services::api::{Application, Services};
use secrecy::SecretString;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;
use url::Url;

use crate::failure::Failure;

/// Longest wait for the database's first answer.
const DATABASE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for Redis' first answer. A job of a `redis` queue goes to the ledger if it does not come.
const REDIS_DEADLINE: Duration = Duration::from_secs(1);

/// A served API. It ends with this value.
#[derive(Debug)]
pub struct InProcess {
    address: Url,
    key: SecretString,
    gate: RedisGate,
    serving: JoinHandle<()>,
}

/// The settings of this directory and environment, for a program.
pub fn settings(program: &Program) -> Result<Settings, Failure> {
    log_to_stderr(LevelFilter::ERROR);
    Ok(program.settings()?)
}

/// The same for a command that may take long and says how far it is.
pub fn settings_with_progress(program: &Program) -> Result<Settings, Failure> {
    log_to_stderr(LevelFilter::INFO);
    Ok(program.settings()?)
}

/// Stdout is for the answer. A second call changes nothing.
fn log_to_stderr(level: LevelFilter) {
    let to_stderr = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr);
    to_stderr.without_time().with_target(false).try_init().ok();
}

impl InProcess {
    /// Over what the configuration names. Call it inside tokio.
    pub async fn open(program: &Program) -> Result<Self, Failure> {
        let mut settings = settings(program)?;
        // As `holdfast dev`, whose worker probably runs what is enqueued here; each worker checks again what it calls.
        settings.http_request.allow_private |= !settings.is_production();
        // SQLite would make an empty one, and then complain about it.
        if let Some(path) = settings.embedded_path().filter(|path| !path.exists()) {
            return Err(Failure::no(format!(
                "there is no database at {}: run `holdfast dev` or `holdfast migrate` there first, set DATABASE_URL, or give --url",
                path.display()
            )));
        }
        let database = Database::open(&settings.database)?;
        let pending = timeout(DATABASE_DEADLINE, database.pending_migrations())
            .await
            .unwrap_or_else(|_| Err(database.late(DATABASE_DEADLINE)))?;
        if !pending.is_empty() {
            let names = pending.join(", ");
            return Err(Failure::no(format!(
                "the database lacks {names}: run `holdfast migrate` first"
            )));
        }
        let redis = &settings.redis;
        let gate = RedisGate::open(Role::Queue, redis.queue.as_ref(), redis)?;
        let jobs = Jobs::new(&settings, program.registry(&settings), &database, &gate);
        Self::start(&settings, database, jobs, gate).await
    }

    /// Over open connections.
    pub async fn start(
        settings: &Settings,
        database: Database,
        jobs: Jobs,
        gate: RedisGate,
    ) -> Result<Self, Failure> {
        let redis = &settings.redis;
        let cache_gate = RedisGate::open(Role::Cache, redis.cache.as_ref(), redis)?;
        tokio::join!(
            gate.wait_ready(REDIS_DEADLINE),
            cache_gate.wait_ready(REDIS_DEADLINE)
        );
        let services = Services {
            jobs,
            database,
            gate: gate.clone(),
            cache: Cache::open(cache_gate, &settings.cache),
        };
        let unserved = |error| Failure::service("the API of this process cannot be served", error);
        let (application, key) = Application::build_for_operator(settings, services).map_err(unserved)?;
        let address = format!("http://{}", application.address());
        let address = Url::parse(&address).map_err(|error| Failure::service(address, error))?;
        let serving = tokio::spawn(async move {
            if let Err(error) = application.run_until_stopped(Shutdown::new()).await {
                tracing::error!(
                    error = &error as &dyn std::error::Error,
                    "the API of this process failed"
                );
            }
        });
        Ok(Self {
            address,
            key,
            gate,
            serving,
        })
    }

    pub(crate) fn address(&self) -> &Url {
        &self.address
    }

    pub(crate) fn key(&self) -> &SecretString {
        &self.key
    }

    /// Lets a ring of the bell leave before the process ends. Without it the job would run all the same, at the next
    /// safety poll: nothing here is worth more than one round trip, or an error.
    pub(crate) async fn let_the_bell_ring(&self) {
        if !self.gate.mode().is_normal() {
            return;
        }
        tokio::task::yield_now().await;
        let behind_the_ring =
            self.gate.run(
                "cli.ping",
                |mut connection| async move { ping(&mut connection).await },
            );
        behind_the_ring.await.ok();
    }
}

impl Drop for InProcess {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

async fn ping(connection: &mut Connection) -> redis::RedisResult<()> {
    redis::cmd("PING").query_async(connection).await
}
