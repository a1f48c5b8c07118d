//! [`App`]: an application, from its kinds to its exit code.

use std::panic::resume_unwind;
use std::process::ExitCode;
use std::thread;

use holdfast_core::redis::{RedisGate, Role as RedisRole};
use holdfast_core::sql::Database;
use holdfast_jobs::stock::{self, RedisStorage};
use holdfast_jobs::{Envelope, Job, Jobs};
use holdfast_services::{Program, Role};
use tokio::sync::oneshot;

use crate::Error;

/// As that of a process' first thread on common systems: a service's future is polled on it.
const STACK_BYTES: usize = 8 * 1024 * 1024;

/// An application: its kinds of jobs, and what their handlers share.
///
/// Its settings are those of Holdfast: `DATABASE_URL`, `REDIS_URL`, `holdfast.toml` and so on.
#[derive(Debug, Clone)]
pub struct App {
    program: Program,
    role: Option<Role>,
}

impl App {
    /// An application without kinds of its own. Reads `HOLDFAST_ROLE`: `api`, `worker`, `beat` or `dev`. The other settings are
    /// read when they are needed, because not every command needs them.
    ///
    /// # Errors
    /// `HOLDFAST_ROLE` has another value.
    pub fn from_env() -> Result<Self, Error> {
        Ok(Self {
            program: Program::default(),
            role: Role::from_env()?,
        })
    }

    /// Adds a kind of job. Two types with one `KIND`, and one that a built-in kind has, are reported by [`App::run`] and
    /// [`App::client`].
    #[must_use]
    pub fn register<J: Job>(mut self) -> Self {
        self.program = self.program.register::<J>();
        self
    }

    /// Adds a value that handlers share, such as a client or a pool. A handler gets it by its type:
    /// `ctx.resource::<T>()`. A second value of one type replaces the first.
    ///
    /// A [`Jobs`] is there already: handlers enqueue jobs with `ctx.resource::<Jobs>()`.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(mut self, resource: T) -> Self {
        self.program = self.program.with(resource);
        self
    }

    /// Does what the arguments of the process ask for. `api`, `worker` and `beat` run one service, `dev` runs all three; the
    /// other commands are those of `holdfast`, such as `migrate`, `jobs` and `validate`. Without a command it does what
    /// `HOLDFAST_ROLE` says; without either it is `dev`, which production refuses.
    ///
    /// Services run until SIGTERM or SIGINT, on threads of their own: dropping the future does not end them. `--help`, and a
    /// command line that cannot be understood, end the process.
    ///
    /// Returned are the exit codes of `holdfast`: 0 done; 1 it failed; 64 the configuration has faults; 69 a server
    /// cannot be used; 70 an internal fault.
    ///
    /// # Errors
    /// The operating system gives no thread.
    ///
    /// # Panics
    /// If the thread of the services panics.
    pub async fn run(self) -> Result<ExitCode, Error> {
        let (report, ended) = oneshot::channel();
        // Of its own, because each service and each command starts the runtime that suits it, and none can be started inside another.
        let thread = thread::Builder::new()
            .name("holdfast".to_owned())
            .stack_size(STACK_BYTES)
            .spawn(move || report.send(holdfast_cli::main(&self.program, self.role)).is_ok())?;
        if let Ok(code) = ended.await {
            return Ok(code);
        }
        match thread.join() {
            Err(panic) => resume_unwind(panic),
            // It reports before it ends.
            Ok(_) => Ok(ExitCode::FAILURE),
        }
    }

    /// A handle with which a process that runs no service enqueues the application's jobs and follows them: a web server,
    /// a script. Keep one for the process; it is cheap to clone. It opens connections when they are needed, and migrates nothing.
    ///
    /// # Errors
    /// The configuration or a registered kind has faults.
    ///
    /// # Panics
    /// Outside of a tokio runtime.
    pub fn client(&self) -> Result<Jobs, Error> {
        let settings = self.program.settings()?;
        let database = Database::open(&settings.database)?;
        let gate = RedisGate::open(RedisRole::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
        let registry = self.program.registry(&settings);
        Ok(Jobs::new(&settings, registry, &database, &gate))
    }

    /// The stock storage of apalis-redis for a queue of `redis` durability, as a producer that needs no database: push
    /// [`Envelope::of`] a job with [`TaskSink`](stock::TaskSink). It is connected when it is returned, and reconnects by itself.
    ///
    /// What [`client`](Self::client) promises does not hold here. Redis is the only place of a pushed job: a push fails while Redis
    /// is unavailable, and one whose answer was lost may have been applied. There are no delays, priorities, keys or chains.
    ///
    /// # Errors
    /// The configuration has faults, the queue is unknown or stored in the database, or Redis cannot be reached within
    /// `redis.connect_timeout_ms`.
    pub async fn redis_storage(&self, queue: &str) -> Result<RedisStorage<Envelope>, Error> {
        let settings = self.program.settings()?;
        Ok(stock::storage(&settings, queue).await?)
    }
}
