//! The `beat` process: schedules ticked.

use std::process::ExitCode;

use holdfast_core::{arguments, config, telemetry};
use tokio::runtime::Builder;

/// One loop and a health server: a second thread keeps one from waiting for the other.
const THREADS: usize = 2;

fn main() -> ExitCode {
    if let Some(code) = arguments::answered("beat", "Enqueues the jobs of Holdfast's schedules.") {
        return code;
    }
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(u8::try_from(faults.exit_code()).unwrap_or(64));
        }
    };
    telemetry::start(&settings, "beat");
    let runtime = match Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::from(70);
        }
    };
    let ended = runtime.block_on(holdfast_beat::run(settings));
    telemetry::finish();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the beat ends");
            ExitCode::from(error.exit_code())
        }
    }
}
