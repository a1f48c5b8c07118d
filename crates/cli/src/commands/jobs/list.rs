//! `holdfast jobs list`.

use holdfast_control::wire::{JobPage, JobView};
use holdfast_jobs::{BatchId, JobId, State};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use crate::args::{OutputArgs, query};
use crate::output::{shown, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only jobs for which every term holds: 'kind:http.request state:discarded error:"timed out" payload.customer.id:42 age:>1h'
    #[arg(long = "where", value_name = "SEARCH")]
    search: Option<String>,
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

/// Goes on until there are as many jobs as asked for, or no more: each request looks at a part of the jobs.
pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let limit = usize::from(args.limit);
    let mut filters = query([
        ("q", args.search),
        ("queue", args.queue),
        ("state", args.state.map(|state| state.to_string())),
        ("kind", args.kind),
        ("batch", args.batch.map(|id| id.to_string())),
    ]);
    let fixed = filters.len();
    let mut found = JobPage {
        jobs: Vec::new(),
        next: args.after,
        searched: 0,
        of: None,
        complete: false,
    };
    loop {
        filters.truncate(fixed);
        filters.push(("limit", (limit - found.jobs.len()).to_string()));
        filters.extend(found.next.map(|next| ("after", next.to_string())));
        let page: JobPage = api.read(&api.get(&["v1", "jobs"], &filters).await?)?;
        found.jobs.extend(page.jobs);
        found.searched += page.searched;
        (found.next, found.of, found.complete) = (page.next, page.of.or(found.of), page.complete);
        if found.jobs.len() >= limit || found.next.is_none() {
            break;
        }
    }
    output.print(&found, || {
        let rows: Vec<_> = found.jobs.iter().map(row).collect();
        table(
            ["ID", "STATE", "KIND", "QUEUE", "ATTEMPT", "RUN AT", "TAGS"],
            &rows,
        )
    })
}

fn row(job: &JobView) -> [String; 7] {
    [
        job.id.to_string(),
        job.state.to_string(),
        job.kind.clone(),
        job.queue.clone(),
        format!("{}/{}", job.attempt, job.max_attempts),
        shown(job.run_at),
        job.tags.join(", "),
    ]
}
