//! `holdfast completions`: a script that lets a shell complete commands and options.

use std::io::{self, Write as _};
use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::Shell;
use holdfast_ops::Failure;

use crate::args::Cli;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// bash, zsh, fish, elvish or powershell
    shell: Shell,
}

/// The script is for the name that this program was called by: an application's binary has another one.
pub(crate) fn run(args: &Args) -> Result<(), Failure> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), called(), &mut script);
    io::stdout().lock().write_all(&script)?;
    Ok(())
}

fn called() -> String {
    let program = std::env::args_os().next();
    let name = program
        .as_deref()
        .and_then(|program| Path::new(program).file_stem()?.to_str());
    name.unwrap_or("holdfast").to_owned()
}
