//! `holdfast workers`: seen, and drained.

use clap::Subcommand;
use holdfast_control::wire::{DrainedWorker, WorkerDetail, WorkerJobView, WorkerList, WorkerView};
use holdfast_ops::Failure;
use holdfast_services::Program;

use crate::args::OperatorArgs;
use crate::output::{shown, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// List workers with their queues and running jobs
    List,
    /// Show one worker with the jobs that it runs
    Show {
        /// The worker's id
        id: String,
    },
    /// Let a pull worker take no more jobs, finish what it has, and leave
    Drain {
        /// The worker's id
        id: String,
    },
}

const HEADER: [&str; 6] = ["ID", "NAME", "STATE", "QUEUES", "RUNNING", "CLIENT"];

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List => {
            let document = api.get(&["v1", "workers"], &[]).await?;
            let list: WorkerList = api.read(&document)?;
            output.print(&document, || {
                let rows: Vec<_> = list.workers.into_iter().map(row).collect();
                table(HEADER, &rows)
            })
        }
        Command::Show { id } => {
            let document = api.get(&["v1", "workers", &id], &[]).await?;
            let WorkerDetail { worker, jobs } = api.read(&document)?;
            output.print(&document, || {
                let worker = table(HEADER, &[row(worker)]);
                let jobs: Vec<_> = jobs.into_iter().map(job_row).collect();
                format!(
                    "{worker}\n\n{}",
                    table(["JOB", "KIND", "QUEUE", "ATTEMPT", "STARTED"], &jobs)
                )
            })
        }
        Command::Drain { id } => {
            let document = api.post(&["v1", "workers", &id, "drain"]).await?;
            let DrainedWorker { id, .. } = api.read(&document)?;
            output.print(&document, || format!("{id} is draining"))
        }
    }
}

fn job_row(job: WorkerJobView) -> [String; 5] {
    let started = job.started_at.map_or_else(|| "-".to_owned(), shown);
    [
        job.id.to_string(),
        job.kind,
        job.queue,
        job.attempt.to_string(),
        started,
    ]
}

fn row(worker: WorkerView) -> [String; 6] {
    let running: u64 = worker.stats.values().map(|stats| stats.running).sum();
    let state = match (worker.alive, worker.draining) {
        (false, _) => "lost",
        (true, true) => "draining",
        (true, false) => "alive",
    };
    let client = worker.client.map_or("rust".to_owned(), |client| {
        format!("{} {} ({})", client.name, client.version, client.language)
    });
    [
        worker.id.to_string(),
        worker.name,
        state.to_owned(),
        worker.queues.join(", "),
        running.to_string(),
        client,
    ]
}
