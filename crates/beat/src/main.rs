//! The `beat` process: schedules ticked.

use std::process::ExitCode;

use holdfast_core::arguments;
use holdfast_services::Program;
use holdfast_services::beat::{self, SERVICE};

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| beat::main(&Program::default()))
}
