//! `holdfast jobs`: enqueued, seen, cancelled and retried.

mod cancel_many;
mod count;
mod edit;
mod enqueue;
mod history;
mod list;
mod rerun;
mod why;

pub(crate) use enqueue::{accepted_text, document, payload};

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use holdfast_control::wire::{JobView, SteeredJob};
use holdfast_jobs::{JobId, State};
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};
use holdfast_services::Program;

use crate::args::{OperatorArgs, OutputArgs};
use crate::output::job_text;

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Enqueue one job
    Enqueue(enqueue::Args),
    /// Show one job
    Show(Show),
    /// List jobs, newest first
    List(list::Args),
    /// Count jobs by state, queue or kind
    Count(count::Args),
    /// Say why a job waits
    Why(One),
    /// List the attempts of a job: worker, times, outcome, error
    Attempts(One),
    /// Show the lines that the handlers of a job wrote
    Log(history::Log),
    /// Cancel a waiting job, or ask a running one to stop
    Cancel(One),
    /// Cancel all matching jobs; running ones are asked to stop
    CancelMany(cancel_many::Args),
    /// Change a job while it waits: payload, queue, priority, time, attempts
    Edit(edit::Args),
    /// Make a discarded or delayed job available now
    Retry(One),
    /// Enqueue a job like another one, whatever its state
    Rerun(rerun::Args),
}

#[derive(Debug, ClapArgs)]
pub(crate) struct Show {
    /// The job's id
    id: JobId,
    /// Wait until the job has finished, at most this long; exit with 1 unless it completed
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "30", value_parser = time::duration)]
    wait: Option<Duration>,
}

/// One job.
#[derive(Debug, ClapArgs)]
pub(crate) struct One {
    /// The job's id
    id: JobId,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::Enqueue(args) => enqueue::run(&api, args, output).await,
        Command::Show(Show { id, wait }) => show(&api, id, wait, output).await,
        Command::List(args) => list::run(&api, args, output).await,
        Command::Count(args) => count::run(&api, args, output).await,
        Command::Why(One { id }) => why::run(&api, id, output).await,
        Command::Attempts(One { id }) => history::attempts(&api, id, output).await,
        Command::Log(args) => history::log(&api, args, output).await,
        Command::Cancel(One { id }) => steer(&api, id, "cancel", output).await,
        Command::CancelMany(args) => cancel_many::run(&api, args, output).await,
        Command::Edit(args) => edit::run(&api, args, output).await,
        Command::Retry(One { id }) => steer(&api, id, "retry", output).await,
        Command::Rerun(args) => rerun::run(&api, args, output).await,
    }
}

async fn steer(api: &Api, id: JobId, verb: &str, output: OutputArgs) -> Result<(), Failure> {
    let document = api.post(&["v1", "jobs", &id.to_string(), verb]).await?;
    let steered: SteeredJob = api.read(&document)?;
    output.print(&document, || match steered.state {
        State::Running => format!("{id} is running; it was asked to stop"),
        state => format!("{id} is {state}"),
    })
}

/// Prints a job. After a wait, a job that did not complete is a failure of the command too, so that scripts may rely
/// on the exit code.
async fn show(api: &Api, id: JobId, wait: Option<Duration>, output: OutputArgs) -> Result<(), Failure> {
    let path = ["v1", "jobs", &id.to_string()];
    let is_final = |job: &JobView| job.state.is_final();
    let (document, job) = api.wait(&path, wait.unwrap_or_default(), is_final).await?;
    output.print(&document, || job_text(&job))?;
    match job.state {
        State::Completed => Ok(()),
        _ if wait.is_none() => Ok(()),
        state if state.is_final() => Err(Failure::no(format!("job {id} was {state}"))),
        state => Err(Failure::no(format!("job {id} is still {state}"))),
    }
}
