//! The `api` process from settings to exit.
//!
//! It starts whether the database is up or not, and needs no restart when it comes: the listener answers at once (503
//! where the database is needed), and the schema is brought up to date as soon as it can be. What waiting does not
//! mend (a wrong password, an edited migration) ends the process with the cause.

use std::process::ExitCode;
use std::time::Duration;

use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::{OpenError, RedisGate, Role};
use holdfast_core::service::{Service, ServiceError};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError, wait_for_schema};
use holdfast_jobs::Jobs;
use tokio::time::timeout;

use super::app::{Application, Services, StartError};
use crate::Program;
use crate::upkeep::{finish_upkeep, spawn_upkeep};

/// How long the start waits for the database before it goes on without it.
const FIRST_TRY: Duration = Duration::from_secs(2);

/// Longest wait for connections in use at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// The process of this service.
pub const SERVICE: Service = Service {
    name: "api",
    about: "Serves the HTTP API of Holdfast.",
    most_threads: usize::MAX,
};

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

impl ServiceError for RunError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Start(error) => error.exit_code(),
            Self::Redis(_) => 64,
            Self::Database(_) => 69,
            Self::Server(_) => 70,
        }
    }
}

/// The `main` of a process that runs this service alone.
pub fn main(program: &Program) -> ExitCode {
    SERVICE.main(program.settings(), |settings| run(settings, program))
}

/// Serves the API until SIGTERM or SIGINT.
pub async fn run(settings: Settings, program: &Program) -> Result<(), RunError> {
    let shutdown = Shutdown::new();
    shutdown.on_signals()?;
    let database = Database::open(&settings.database)?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let cache_gate = RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis)?;
    let services = Services {
        jobs: Jobs::new(&settings, program.registry(&settings), &database, &gate),
        database: database.clone(),
        cache: Cache::open(cache_gate, &settings.cache),
        gate,
    };
    let ended = prepare_and_serve(&settings, services, &database, &shutdown).await;
    database.close(CLOSE_DEADLINE).await;
    ended
}

/// Serves once the schema is up to date, or after [`FIRST_TRY`] while it is still waited for.
async fn prepare_and_serve(
    settings: &Settings,
    services: Services,
    database: &Database,
    shutdown: &Shutdown,
) -> Result<(), RunError> {
    let mut preparing = Box::pin(wait_for_schema(database, &settings.database, shutdown));
    match timeout(FIRST_TRY, &mut preparing).await {
        Ok(Err(SqlError::Stopped)) => return Ok(()),
        Ok(Err(error)) => return Err(error.into()),
        Ok(Ok(())) => return serve(settings, services, shutdown).await,
        Err(_) => tracing::warn!("the database is not ready: starting without it"),
    }
    let preparing = async {
        let prepared = preparing.await;
        match prepared {
            Ok(()) => tracing::info!("the database is ready"),
            Err(_) => shutdown.trigger(),
        }
        prepared
    };
    let serving = async {
        let served = serve(settings, services, shutdown).await;
        shutdown.trigger();
        served
    };
    let (prepared, served) = tokio::join!(preparing, serving);
    served?;
    match prepared {
        Ok(()) | Err(SqlError::Stopped) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

async fn serve(settings: &Settings, services: Services, shutdown: &Shutdown) -> Result<(), RunError> {
    let jobs = services.jobs.clone();
    spawn_upkeep(&jobs, false, shutdown);
    let application = Application::build(settings, services).await?;
    let served = application.run_until_stopped(shutdown.clone()).await;
    finish_upkeep(&jobs).await;
    Ok(served?)
}
