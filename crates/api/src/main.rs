//! The `api` process: HTTP in, jobs accepted.

use std::process::ExitCode;

use holdfast_api::SERVICE;
use holdfast_core::arguments;

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| SERVICE.main(holdfast_api::run))
}
