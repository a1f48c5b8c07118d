//! Straight to the database, as the configuration names it: for operators, and where no API runs.

use std::io;
use std::time::Duration;

use holdfast_core::config::{self, Settings};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, SqlError};
use holdfast_jobs::Jobs;
use tokio::time::timeout;
use tracing_subscriber::filter::LevelFilter;

use crate::failure::Failure;

/// Longest wait for the database's first answer.
const DATABASE_DEADLINE: Duration = Duration::from_secs(10);

/// Longest wait for Redis' first answer. A job of a `redis` queue goes to the ledger if it does not come.
pub const REDIS_DEADLINE: Duration = Duration::from_secs(1);

/// What one command needs of a process: the settings and an open database with an up-to-date schema.
#[derive(Debug)]
pub struct Local {
    pub settings: Settings,
    pub database: Database,
}

/// The settings of this directory and environment.
pub fn settings() -> Result<Settings, Failure> {
    log_to_stderr(LevelFilter::WARN);
    Ok(config::load()?)
}

/// The same for a command that may take long and says how far it is.
pub fn settings_with_progress() -> Result<Settings, Failure> {
    log_to_stderr(LevelFilter::INFO);
    Ok(config::load()?)
}

/// Stdout is for the answer. A second call changes nothing.
fn log_to_stderr(level: LevelFilter) {
    let to_stderr = tracing_subscriber::fmt()
        .with_max_level(level)
        .with_writer(io::stderr);
    to_stderr.without_time().with_target(false).try_init().ok();
}

impl Local {
    pub async fn open() -> Result<Self, Failure> {
        let settings = settings()?;
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
            .unwrap_or(Err(SqlError::Deadline(DATABASE_DEADLINE)))?;
        if !pending.is_empty() {
            let names = pending.join(", ");
            return Err(Failure::no(format!(
                "the database lacks {names}: run `holdfast migrate` first"
            )));
        }
        Ok(Self { settings, database })
    }

    /// The jobs of this database, and of Redis if it answers.
    pub async fn jobs(&self) -> Result<(Jobs, RedisGate), Failure> {
        let redis = &self.settings.redis;
        let gate = RedisGate::open(Role::Queue, redis.queue.as_ref(), redis)?;
        gate.wait_ready(REDIS_DEADLINE).await;
        let registry = holdfast::registry_for(&self.settings);
        Ok((Jobs::new(&self.settings, registry, &self.database, &gate), gate))
    }
}

/// Lets a ring of the bell leave before the process ends. Without it the job would run all the same, at the next safety
/// poll: nothing here is worth more than one round trip, or an error.
pub async fn let_the_bell_ring(gate: &RedisGate) {
    if !gate.mode().is_normal() {
        return;
    }
    tokio::task::yield_now().await;
    let behind_the_ring = gate.run("cli.ping", |mut connection| async move {
        redis_ping(&mut connection).await
    });
    behind_the_ring.await.ok();
}

async fn redis_ping(connection: &mut holdfast_core::redis::MultiplexedConnection) -> redis::RedisResult<()> {
    redis::cmd("PING").query_async(connection).await
}
