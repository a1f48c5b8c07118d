//! The `worker` process: jobs claimed, run and finished.

use std::process::ExitCode;

use holdfast_core::arguments;
use holdfast_services::Program;
use holdfast_services::worker::{self, SERVICE};

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| worker::main(&Program::default()))
}
