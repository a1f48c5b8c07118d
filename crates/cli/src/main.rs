//! `holdfast`: the command line of Holdfast.

use std::process::ExitCode;

use holdfast_services::{Program, Role, UnknownRole};

fn main() -> ExitCode {
    match Role::from_env() {
        Ok(role) => holdfast_cli::main(&Program::default(), role),
        Err(error) => {
            eprintln!("holdfast: {error}");
            ExitCode::from(UnknownRole::EXIT_CODE)
        }
    }
}
