//! `holdfast`: everything in one process for development (`holdfast dev`, or no command at all), and the operator's
//! tools.
//!
//! Exit codes: 0 done; 1 it failed, or the answer is no; 2 the command line cannot be understood; 64 the configuration
//! has faults. What was asked for goes to stdout, everything else to stderr.

mod args;
mod commands;
mod output;

use std::process::ExitCode;

use clap::Parser;

use crate::args::Cli;

fn main() -> ExitCode {
    match commands::run(Cli::parse()) {
        Ok(code) => code,
        Err(failure) => {
            for (depth, text) in failure.chain().iter().enumerate() {
                let lead = if depth == 0 { "holdfast:" } else { "  because:" };
                eprintln!("{lead} {text}");
            }
            ExitCode::from(failure.exit_code())
        }
    }
}
