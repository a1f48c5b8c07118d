//! The `worker` process from settings to exit.

use std::process::ExitCode;
use std::sync::Arc;

use holdfast_accounts::ApiKeys;
use holdfast_core::config::Settings;
use holdfast_core::redis::{OpenError, RedisGate, Role};
use holdfast_core::service::{Service, ServiceError};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError};
use holdfast_http::health::{Health, health_server};
use holdfast_http::server::BindError;
use holdfast_jobs::Jobs;
use holdfast_jobs::worker::WorkerParts;

use super::Progress;
use super::health::{WorkerProbe, measure};
use super::service::{WorkError, run_worker};
use crate::Program;
use crate::answering::{CLOSE_DEADLINE, work_and_answer};
use crate::product::ProductError;

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
    let server = health_server(&parts.settings, health_of(&parts, &database, &progress))?;
    let working = run_worker(parts, &database, &progress, stop.clone());
    let ended = work_and_answer(working, &progress, server, stop).await;
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
