//! `holdfast dead-letters list` and `show`.

use holdfast_control::wire::{DeadLetterPage, JobView};
use holdfast_jobs::JobId;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use super::FilterArgs;
use crate::args::{OutputArgs, query};
use crate::output::{job_text, line, shown, table};

#[derive(Debug, clap::Args)]
pub(crate) struct List {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only jobs older than this one, for the next page
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// Largest number of jobs to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(super) async fn list(api: &Api, args: List, output: OutputArgs) -> Result<(), Failure> {
    const HEADER: [&str; 6] = ["ID", "KIND", "QUEUE", "ATTEMPTS", "DISCARDED", "LAST ERROR"];
    let filter = args.filter;
    let query = query([
        ("queue", filter.queue),
        ("kind", filter.kind),
        ("error", filter.error),
        ("from", filter.from.map(|at| at.to_rfc3339())),
        ("to", filter.to.map(|at| at.to_rfc3339())),
        ("limit", Some(args.limit.to_string())),
        ("after", args.after.map(|id| id.to_string())),
    ]);
    let document = api.get(&["v1", "dead-letters"], &query).await?;
    let page: DeadLetterPage = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = page.dead_letters.into_iter().map(row).collect();
        table(HEADER, &rows)
    })
}

pub(super) async fn show(api: &Api, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "dead-letters", &id.to_string()], &[]).await?;
    let job: JobView = api.read(&document)?;
    output.print(&document, || {
        format!("{}\n{}", job_text(&job), line("payload", job.payload.get()))
    })
}

fn row(job: JobView) -> [String; 6] {
    const WIDTH: usize = 60;
    let error = job.errors.last().map(|error| {
        let line = error.message.lines().next().unwrap_or_default();
        line.chars().take(WIDTH).collect()
    });
    [
        job.id.to_string(),
        job.kind,
        job.queue,
        job.attempt.to_string(),
        job.finished_at.map(shown).unwrap_or_default(),
        error.unwrap_or_default(),
    ]
}
