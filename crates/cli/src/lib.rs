//! The command line of a program on Holdfast: everything in one process for development (`dev`, or no command at all), the services
//! one by one, and the operator's tools.
//!
//! The binary `holdfast` is this library with the kinds of Holdfast alone. The binary of an application is this library with the
//! kinds of the application: `holdfast::App::run` calls [`main`].
//!
//! Exit codes: 0 done; 1 it failed, or the answer is no; 2 the command line cannot be understood; 64 the configuration
//! has faults, or there is no terminal to ask for a confirmation. What was asked for goes to stdout, everything else to stderr.

mod args;
mod commands;
mod confirm;
mod output;

use std::process::ExitCode;

use clap::Parser;
use holdfast_services::{Program, Role};

use crate::args::Cli;

/// Does what the arguments of this process ask for, or runs `role` if they name no command; without either, as
/// [`Role::Dev`]. Call it outside of any async runtime.
///
/// A command line that cannot be understood, `--help` and `--version` end the process.
pub fn main(program: &Program, role: Option<Role>) -> ExitCode {
    match commands::run(Cli::parse(), role, program) {
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
