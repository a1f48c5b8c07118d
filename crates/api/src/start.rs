//! The `api` process from settings to exit.
//!
//! It starts whether the database is up or not, and needs no restart when it comes: the listener answers at once (503
//! where the database is needed), and the schema is brought up to date as soon as it can be. What waiting does not
//! mend (a wrong password, an edited migration) ends the process with the cause.

use std::time::Duration;

use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::{OpenError, RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{self, Database, SqlError};
use holdfast_jobs::Jobs;
use tokio::time::timeout;

use crate::app::{Application, Services, StartError};

/// How long the start waits for the database before it goes on without it.
const FIRST_TRY: Duration = Duration::from_secs(2);

/// One round of waiting for the database in the background.
const ROUND: Duration = Duration::from_mins(5);

/// Longest wait for connections in use at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// Why the process ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Start(#[from] StartError),
    #[error("the Redis settings are invalid")]
    Redis(#[from] OpenError),
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    #[error("the server failed")]
    Server(#[from] std::io::Error),
}

impl RunError {
    /// 64: the settings are to be changed. 69: something outside is. 70: a fault of ours.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Redis(_) => 64,
            Self::Database(_) => 69,
            Self::Server(_) => 70,
        }
    }
}

/// Serves the API until SIGTERM or SIGINT.
pub async fn run(settings: Settings) -> Result<(), RunError> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let database = Database::open(&settings.database)?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let cache_gate = RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis)?;
    let cache = Cache::open(cache_gate, &settings.cache);
    let first_try = prepare(&settings, &database, FIRST_TRY, &shutdown).await;
    let registry = holdfast::registry_for(&settings);
    let jobs = Jobs::new(&settings, registry, &database, &gate);
    let services = Services {
        jobs,
        database: database.clone(),
        gate,
        cache,
    };
    let ended = match first_try {
        Ok(()) => serve(&settings, services, &shutdown).await,
        Err(SqlError::Stopped) => Ok(()),
        Err(error) if error.is_transient() && !error.is_refused() => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "the database is away: starting without it"
            );
            serve_while_preparing(&settings, services, &shutdown).await
        }
        Err(error) => Err(error.into()),
    };
    database.close(CLOSE_DEADLINE).await;
    ended
}

async fn serve(settings: &Settings, services: Services, shutdown: &Shutdown) -> Result<(), RunError> {
    let application = Application::build(settings, services).await?;
    Ok(application.run_until_stopped(shutdown.clone()).await?)
}

async fn serve_while_preparing(
    settings: &Settings,
    services: Services,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let database = services.database.clone();
    let preparing = async {
        let prepared = prepare_patiently(settings, &database, shutdown).await;
        if prepared.is_err() {
            shutdown.trigger();
        }
        prepared
    };
    let (prepared, served) = tokio::join!(preparing, serve(settings, services, shutdown));
    served?;
    Ok(prepared?)
}

async fn prepare_patiently(
    settings: &Settings,
    database: &Database,
    shutdown: &Shutdown,
) -> Result<(), SqlError> {
    loop {
        match prepare(settings, database, ROUND, shutdown).await {
            Err(SqlError::Stopped) => return Ok(()),
            Err(error) if error.is_transient() && !error.is_refused() => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    "the database is still away"
                );
            }
            ended => return ended,
        }
    }
}

/// Waits for the database, and brings its schema up to date if the settings allow.
async fn prepare(
    settings: &Settings,
    database: &Database,
    patience: Duration,
    shutdown: &Shutdown,
) -> Result<(), SqlError> {
    timeout(patience, database.wait_until_ready(patience, shutdown))
        .await
        .unwrap_or(Err(SqlError::Deadline(patience)))?;
    if settings.database.migrate_at_start {
        sql::migrate(&settings.database).await?;
    }
    Ok(())
}
