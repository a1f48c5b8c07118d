//! The `worker` process: jobs claimed, run and finished.

use std::process::ExitCode;

use holdfast_core::{arguments, config, telemetry};
use tokio::runtime::Builder;

/// Handlers wait more than they compute, and every thread costs memory.
const MOST_THREADS: usize = 4;

fn main() -> ExitCode {
    if let Some(code) = arguments::answered("worker", "Runs the jobs of Holdfast.") {
        return code;
    }
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(u8::try_from(faults.exit_code()).unwrap_or(64));
        }
    };
    telemetry::start(&settings, "worker");
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let runtime = match Builder::new_multi_thread()
        .worker_threads(cores.min(MOST_THREADS))
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::from(70);
        }
    };
    let ended = runtime.block_on(holdfast_worker::run(settings));
    telemetry::finish();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the worker ends");
            ExitCode::from(error.exit_code())
        }
    }
}
