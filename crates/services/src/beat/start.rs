//! The `beat` process from settings to exit.

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
use holdfast_jobs::schedules::Schedules;

use super::Progress;
use super::health::BeatProbe;
use super::service::{BeatError, run_beat};
use crate::Program;
use crate::answering::{CLOSE_DEADLINE, work_and_answer};

/// The process of this service.
pub const SERVICE: Service = Service {
    name: "beat",
    about: "Enqueues the jobs of Holdfast's schedules.",
    // One loop and a health server: a second thread keeps one from waiting for the other.
    most_threads: 2,
};

/// Why the process ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error("the Redis settings are invalid")]
    Redis(#[from] OpenError),
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    #[error("health cannot be served: choose another PORT")]
    Health(#[from] BindError),
    #[error(transparent)]
    Beat(#[from] BeatError),
    #[error("the operating system refuses a resource that the service needs")]
    System(#[from] std::io::Error),
}

impl ServiceError for RunError {
    fn exit_code(&self) -> u8 {
        match self {
            Self::Redis(_) | Self::Database(SqlError::Configuration { .. }) => 64,
            Self::Beat(BeatError::Configured(_)) => 64,
            Self::Health(_) => BindError::EXIT_CODE,
            Self::Database(_) | Self::Beat(BeatError::Database(_)) => 69,
            Self::Beat(_) | Self::System(_) => 70,
        }
    }
}

/// The `main` of a process that runs this service alone.
pub fn main(program: &Program) -> ExitCode {
    SERVICE.main(program.settings(), |settings| run(settings, program))
}

/// Ticks until SIGTERM or SIGINT.
pub async fn run(settings: Settings, program: &Program) -> Result<(), RunError> {
    let stop = Shutdown::new();
    stop.on_signals()?;
    let database = Database::open(&settings.database)?;
    // For ringing alone: no tick needs Redis.
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let registry = program.registry(&settings);
    let jobs = Jobs::new(&settings, registry, &database, &gate);
    let schedules = Schedules::new(jobs.clone(), &database, &settings.database);
    let progress = Progress::default();
    let keys = ApiKeys::new(database.clone(), settings.server.api_key.as_ref());
    let health = Health::of(&settings, &jobs, &database, &gate, Arc::new(keys))
        .probe(BeatProbe::new(&progress, settings.beat.poll))
        .build();
    let server = health_server(&settings, health)?;
    let ticking = run_beat(schedules, &settings, &database, &progress, stop.clone());
    let ended = work_and_answer(ticking, &progress, server, stop).await;
    database.close(CLOSE_DEADLINE).await;
    ended
}
