//! The `worker` process: jobs claimed, run and finished.

use std::process::ExitCode;

use holdfast_core::arguments;
use holdfast_services::worker::{SERVICE, run};

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| SERVICE.main(run))
}
