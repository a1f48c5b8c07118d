//! The `api` process: HTTP in, jobs accepted.

use std::process::ExitCode;

use holdfast_core::arguments;
use holdfast_services::api::{SERVICE, run};

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| SERVICE.main(run))
}
