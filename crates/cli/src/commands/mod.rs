//! One file for each command.

pub(crate) mod audit;
pub(crate) mod autoscale;
pub(crate) mod backup;
pub(crate) mod batches;
pub(crate) mod bulk;
pub(crate) mod completions;
pub(crate) mod console;
pub(crate) mod copy;
pub(crate) mod dead_letters;
pub(crate) mod deploy;
pub(crate) mod dev;
pub(crate) mod encryption;
pub(crate) mod failures;
pub(crate) mod healthcheck;
pub(crate) mod import;
pub(crate) mod jobs;
pub(crate) mod keys;
pub(crate) mod kinds;
pub(crate) mod migrate;
pub(crate) mod monitor;
pub(crate) mod queue_keys;
pub(crate) mod queues;
pub(crate) mod redis_check;
pub(crate) mod scaling;
pub(crate) mod schedules;
pub(crate) mod signing_keys;
pub(crate) mod stats;
pub(crate) mod users;
pub(crate) mod validate;
pub(crate) mod workers;

use std::process::ExitCode;

use crate::args::{Cli, Command};
use holdfast_ops::Failure;
use holdfast_services::{Program, Role, api, beat, worker};

/// Runs what the command line says; if it says nothing, `role`, or else `dev`.
pub(crate) fn run(cli: Cli, role: Option<Role>, program: &Program) -> Result<ExitCode, Failure> {
    let done = match cli.command.unwrap_or_else(|| command_of(role)) {
        Command::Api => return Ok(api::main(program)),
        Command::Worker => return Ok(worker::main(program)),
        Command::Beat => return Ok(beat::main(program)),
        Command::Dev => dev::run(program),
        Command::Migrate(args) => briefly(migrate::run(args, program)),
        Command::Backup(args) => briefly(backup::run(args, program)),
        Command::Copy(args) => briefly(copy::run(args, program)),
        Command::Import(args) => briefly(import::run(*args, program)),
        Command::Keys(args) => briefly(keys::run(args, program)),
        Command::SigningKeys(args) => briefly(signing_keys::run(args, program)),
        Command::Encryption(args) => briefly(encryption::run(args, program)),
        Command::Users(args) => briefly(users::run(args, program)),
        Command::Jobs(args) => briefly(jobs::run(*args, program)),
        Command::Batches(args) => briefly(batches::run(args, program)),
        Command::DeadLetters(args) => briefly(dead_letters::run(*args, program)),
        Command::Failures(args) => briefly(failures::run(args, program)),
        Command::Kinds(args) => briefly(kinds::run(args, program)),
        Command::Queues(args) => briefly(queues::run(args, program)),
        Command::Workers(args) => briefly(workers::run(args, program)),
        Command::Stats(args) => briefly(stats::run(args, program)),
        Command::Scaling(args) => briefly(scaling::run(args, program)),
        Command::Autoscale(args) => briefly(autoscale::run(args, program)),
        Command::Audit(args) => briefly(audit::run(args, program)),
        Command::Schedules(args) => briefly(schedules::run(*args, program)),
        Command::Healthcheck(args) => healthcheck::run(&args),
        Command::RedisCheck(args) => briefly(redis_check::run(args, program)),
        Command::Validate(args) => at_length(validate::run(*args, program)),
        Command::Monitor(args) => at_length(monitor::run(*args)),
        Command::Console(args) => at_length(console::run(args, program)),
        Command::Completions(args) => completions::run(&args),
        Command::Deploy(args) => briefly(deploy::run(*args)),
    };
    done.map(|()| ExitCode::SUCCESS)
}

fn command_of(role: Option<Role>) -> Command {
    match role {
        Some(Role::Api) => Command::Api,
        Some(Role::Worker) => Command::Worker,
        Some(Role::Beat) => Command::Beat,
        Some(Role::Dev) | None => Command::Dev,
    }
}

/// Runs a command that asks a server or two and ends: one thread is enough.
fn briefly(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(command);
    // Nothing that is still under way is worth waiting for: what was asked for is answered.
    runtime.shutdown_background();
    outcome
}

/// Runs a command that has services of its own in this process.
fn at_length(command: impl Future<Output = Result<(), Failure>>) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let outcome = runtime.block_on(command);
    runtime.shutdown_background();
    outcome
}
