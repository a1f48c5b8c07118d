//! `holdfast jobs list`.

use holdfast_control::wire::{JobPage, JobView};
use holdfast_jobs::{BatchId, JobId, State};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use crate::args::{OutputArgs, query};
use crate::output::{shown, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only jobs in this state: scheduled, available, running, retryable, completed, discarded, cancelled
    #[arg(long)]
    state: Option<State>,
    /// Only jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only jobs of the batch with this id
    #[arg(long, value_name = "ID")]
    batch: Option<BatchId>,
    /// Only jobs older than this one, for the next page
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// Largest number of jobs to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let query = query([
        ("queue", args.queue),
        ("state", args.state.map(|state| state.to_string())),
        ("kind", args.kind),
        ("batch", args.batch.map(|id| id.to_string())),
        ("after", args.after.map(|id| id.to_string())),
        ("limit", Some(args.limit.to_string())),
    ]);
    let document = api.get(&["v1", "jobs"], &query).await?;
    let page: JobPage = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = page.jobs.into_iter().map(row).collect();
        table(["ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "RUN AT"], &rows)
    })
}

fn row(job: JobView) -> [String; 6] {
    [
        job.id.to_string(),
        job.state.to_string(),
        job.kind,
        job.queue,
        format!("{}/{}", job.attempt, job.max_attempts),
        shown(job.run_at),
    ]
}
