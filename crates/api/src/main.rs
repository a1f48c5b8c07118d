//! The `api` process: HTTP in, jobs accepted.

use std::process::ExitCode;

use holdfast_core::{arguments, config, telemetry};

fn main() -> ExitCode {
    if let Some(code) = arguments::answered("api", "Serves the HTTP API of Holdfast.") {
        return code;
    }
    let settings = match config::load() {
        Ok(settings) => settings,
        Err(faults) => {
            eprintln!("{faults}");
            return ExitCode::from(u8::try_from(faults.exit_code()).unwrap_or(64));
        }
    };
    telemetry::start(&settings, "api");
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "the runtime cannot be started");
            return ExitCode::from(70);
        }
    };
    let ended = runtime.block_on(holdfast_api::run(settings));
    telemetry::finish();
    match ended {
        Ok(()) => {
            tracing::info!("stopped");
            ExitCode::SUCCESS
        }
        Err(error) => {
            tracing::error!(error = &error as &dyn std::error::Error, "the API ends");
            ExitCode::from(error.exit_code())
        }
    }
}
