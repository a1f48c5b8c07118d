//! `holdfast jobs list`.

use holdfast_jobs::ledger::JobFilter;
use holdfast_jobs::{BatchId, JobId, State};
use serde_json::json;

use crate::args::OutputArgs;
use crate::output::{JobView, table};
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

#[derive(Debug, clap::Args)]
pub(super) struct Args {
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

pub(super) async fn run(target: &Target, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let filter = JobFilter {
        queue: args.queue,
        state: args.state,
        kind: args.kind,
        batch: args.batch,
        after: args.after,
        limit: usize::from(args.limit),
    };
    let jobs = target.list(&filter).await?;
    let rows = jobs
        .iter()
        .map(|job| Ok(row(JobView::of(job)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    output.print(&json!({ "jobs": jobs }), || {
        table(["ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "RUN AT"], &rows)
    })
}

fn row(job: JobView) -> [String; 6] {
    let attempt = format!("{}/{}", job.attempt, job.max_attempts);
    [
        job.id,
        job.state,
        job.kind,
        job.queue,
        attempt,
        job.run_at.unwrap_or_default(),
    ]
}
