//! `holdfast jobs`: through the HTTP API where `--url` is given, else straight to the database.

mod cancel;
mod cancel_many;
mod enqueue;
mod list;
mod retry;
mod show;

pub(crate) use enqueue::payload;

use clap::{Args as ClapArgs, Subcommand};
use holdfast_jobs::{JobId, State};
use serde_json::Value;

use crate::args::{OutputArgs, TargetArgs};
use crate::output::JobView;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

#[derive(Debug, ClapArgs)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Enqueue one job
    Enqueue(enqueue::Args),
    /// Show one job
    Show(show::Args),
    /// List jobs, newest first
    List(list::Args),
    /// Cancel a waiting job, or ask a running one to stop
    Cancel(One),
    /// Cancel all matching jobs; running ones are asked to stop
    CancelMany(cancel_many::Args),
    /// Make a discarded or delayed job available now
    Retry(One),
}

/// One job.
#[derive(Debug, ClapArgs)]
struct One {
    /// The job's id
    id: JobId,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args {
        target,
        output,
        command,
    } = args;
    let target = Target::open(target.url.as_ref(), target.key.as_ref()).await?;
    match command {
        Command::Enqueue(args) => enqueue::run(&target, args, output).await,
        Command::Show(args) => show::run(&target, args, output).await,
        Command::List(args) => list::run(&target, args, output).await,
        Command::Cancel(One { id }) => cancel::run(&target, id, output).await,
        Command::CancelMany(args) => cancel_many::run(&target, args, output).await,
        Command::Retry(One { id }) => retry::run(&target, id, output).await,
    }
}

/// Prints a job. After a wait, a job that did not complete is a failure of the command too, so that scripts may rely
/// on the exit code.
fn print_job(job: &Value, waited: bool, output: OutputArgs) -> Result<(), Failure> {
    let view = JobView::of(job)?;
    output.print(job, || view.text())?;
    match view.state.parse::<State>() {
        Ok(State::Completed) => Ok(()),
        Ok(state) if waited && state.is_final() => Err(Failure::no(format!("job {} was {state}", view.id))),
        _ if waited => Err(Failure::no(format!("job {} is still {}", view.id, view.state))),
        _ => Ok(()),
    }
}

fn unknown(id: JobId) -> Failure {
    Failure::no(format!("there is no job {id}"))
}
