//! The `beat` process: schedules ticked.

use std::process::ExitCode;

use holdfast_beat::SERVICE;
use holdfast_core::arguments;

fn main() -> ExitCode {
    arguments::answered(SERVICE.name, SERVICE.about).unwrap_or_else(|| SERVICE.main(holdfast_beat::run))
}
