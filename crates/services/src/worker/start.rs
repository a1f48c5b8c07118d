//! The `worker` process from settings to exit.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use holdfast_accounts::ApiKeys;
use holdfast_core::config::Settings;
use holdfast_core::redis::{OpenError, RedisGate, Role};
use holdfast_core::service::{Service, ServiceError};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError};
use holdfast_http::health::{Health, HealthServer, health_server};
use holdfast_http::server::BindError;
use holdfast_jobs::Jobs;
use holdfast_jobs::worker::WorkerParts;
use tokio::time::timeout;

use super::health::{WorkerProbe, measure};
use super::progress::Progress;
use super::service::{WorkError, run_worker};
use crate::Program;
use crate::product::ProductError;

/// How long health checks wait for the worker to begin. They could only say "not yet", and would for a second.
const FIRST_ANSWER: Duration = Duration::from_secs(2);

/// Longest wait for connections in use at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

/// The process of this service.
pub const SERVICE: Service = Service {
    name: "worker",
    about: "Runs the jobs of Holdfast.",
    // Handlers wait more than they compute, and every thread costs memory.
    most_threads: 4,
};

/// Why the process ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the Redis settings are invalid")]
    Redis(#[from] OpenError),
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    #[error(transparent)]
    Resources(#[from] ProductError),
    #[error("health cannot be served: choose another PORT")]
    Health(#[from] BindError),
    #[error("the worker failed")]
    Work(#[from] WorkError),
    #[error("the operating system refuses a resource that the service needs")]
    System(#[from] std::io::Error),
}

impl ServiceError for RunError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Redis(_)
            | Self::Work(WorkError::Redis(_))
            | Self::Database(SqlError::Configuration { .. }) => 64,
            Self::Health(_) => BindError::EXIT_CODE,
            Self::Database(_) | Self::Work(WorkError::Database(_)) => 69,
            Self::Resources(_) | Self::Work(_) | Self::System(_) => 70,
        }
    }
}

/// The `main` of a process that runs this service alone.
pub fn main(program: &Program) -> ExitCode {
    SERVICE.main(program.settings(), |settings| run(settings, program))
}

/// Works until SIGTERM or SIGINT.
pub async fn run(settings: Settings, program: &Program) -> Result<(), RunError> {
    let stop = Shutdown::new();
    stop.on_signals()?;
    let database = Database::open(&settings.database)?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let resources = program.resources(&settings)?;
    let registry = program.registry(&settings);
    let jobs = Jobs::new(&settings, registry, &database, &gate);
    let parts = WorkerParts {
        settings,
        jobs,
        gate,
        resources,
    };
    let progress = Progress::default();
    let server = health_server(&parts.settings.server, health_of(&parts, &database, &progress))?;
    let ended = work_and_answer(parts, &database, &progress, server, stop).await;
    database.close(CLOSE_DEADLINE).await;
    ended
}

fn health_of(parts: &WorkerParts, database: &Database, progress: &Progress) -> Health {
    let working = progress.clone();
    let keys = ApiKeys::new(database.clone(), parts.settings.server.api_key.as_ref());
    Health::of(
        &parts.settings,
        &parts.jobs,
        database,
        &parts.gate,
        Arc::new(keys),
    )
    .probe(WorkerProbe::new(progress))
    .gauges(move || measure(&working))
    .build()
}

/// Health is answered until the last job has ended: a worker that drains is alive. Whichever ends, ends the other.
async fn work_and_answer(
    parts: WorkerParts,
    database: &Database,
    progress: &Progress,
    server: HealthServer,
    stop: Shutdown,
) -> Result<(), RunError> {
    let drained = Shutdown::new();
    let working = async {
        let ended = run_worker(parts, database, progress, stop.clone()).await;
        drained.trigger();
        ended
    };
    let answering = async {
        // Until then connections wait in the backlog.
        timeout(
            FIRST_ANSWER,
            drained.token().run_until_cancelled(progress.begun()),
        )
        .await
        .ok();
        let ended = server.run_until_stopped(drained.clone()).await;
        stop.trigger();
        ended
    };
    let (worked, answered) = tokio::join!(working, answering);
    worked?;
    Ok(answered?)
}
