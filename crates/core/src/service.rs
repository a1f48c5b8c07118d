//! A service as a process: from its settings to its exit code. The binaries `api`, `worker` and `beat` and the commands of the same
//! names of `holdfast` are nothing but this.

use std::error::Error;
use std::process::ExitCode;

use tokio::runtime::Builder;

use crate::config::{ConfigFaults, Settings};
use crate::telemetry;

/// The runtime cannot be started: a fault of the system that only another start may mend.
const SYSTEM_ERROR: u8 = 70;

/// Why a service ended otherwise than by being asked to.
pub trait ServiceError: Error + 'static {
    /// 64: the settings are to be changed. 69: something outside is. 70: a fault of ours.
    fn exit_code(&self) -> u8;
}

/// One service.
#[derive(Debug, Clone, Copy)]
pub struct Service {
    /// `api`, as in its logs and the name of its binary.
    pub name: &'static str,
    /// What it does, in one sentence.
    pub about: &'static str,
    /// Threads of its runtime at most; never more than there are cores, but two at least.
    pub most_threads: usize,
}

/// Below this, a task that computes would keep the health checks waiting.
const FEWEST_THREADS: usize = 2;

impl Service {
    /// Runs the service until it is told to stop. Faults of the configuration go to stderr, everything else to the log.
    pub fn main<F, E>(
        self,
        settings: Result<Settings, ConfigFaults>,
        run: impl FnOnce(Settings) -> F,
    ) -> ExitCode
    where
        F: Future<Output = Result<(), E>>,
        E: ServiceError,
    {
        let settings = match settings {
            Ok(settings) => settings,
            Err(faults) => {
                eprintln!("{faults}");
                return ExitCode::from(faults.exit_code());
            }
        };
        telemetry::start(&settings, self.name);
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        let runtime = Builder::new_multi_thread()
            .worker_threads(cores.clamp(FEWEST_THREADS, self.most_threads))
            .enable_all()
            .build();
        let runtime = match runtime {
            Ok(runtime) => runtime,
            Err(error) => {
                tracing::error!(%error, "the runtime cannot be started");
                return ExitCode::from(SYSTEM_ERROR);
            }
        };
        let ended = runtime.block_on(run(settings));
        telemetry::finish();
        match ended {
            Ok(()) => {
                tracing::info!("stopped");
                ExitCode::SUCCESS
            }
            Err(error) => {
                tracing::error!(error = &error as &dyn Error, "the service ends");
                ExitCode::from(error.exit_code())
            }
        }
    }
}
