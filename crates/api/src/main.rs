//! The `api` process: HTTP in, jobs accepted.

use std::process::ExitCode;

use holdfast_core::arguments;
use holdfast_services::Program;
use holdfast_services::api::{self, SERVICE};

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| api::main(&Program::default()))
}
