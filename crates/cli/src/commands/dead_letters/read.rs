//! `holdfast dead-letters list` and `show`.

use std::time::Duration;

use holdfast_jobs::JobId;
use serde_json::{Value, json};

use super::FilterArgs;
use crate::args::OutputArgs;
use crate::output::{JobView, table};
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

#[derive(Debug, clap::Args)]
pub(super) struct List {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only jobs older than this one, for the next page
    #[arg(long, value_name = "ID")]
    after: Option<JobId>,
    /// Largest number of jobs to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(super) async fn list(target: &Target, args: &List, output: OutputArgs) -> Result<(), Failure> {
    let letters = letters(target, args).await?;
    let rows = letters
        .iter()
        .map(|letter| Ok(row(JobView::of(letter)?)))
        .collect::<Result<Vec<_>, Failure>>()?;
    output.print(&json!({ "dead_letters": letters }), || {
        table(
            ["ID", "KIND", "QUEUE", "ATTEMPTS", "DISCARDED", "LAST ERROR"],
            &rows,
        )
    })
}

async fn letters(target: &Target, args: &List) -> Result<Vec<Value>, Failure> {
    match target {
        Target::Api(api) => {
            let mut query = args.filter.given();
            query.push(("limit", args.limit.to_string()));
            query.extend(args.after.map(|id| ("after", id.to_string())));
            let page = api.get(&["v1", "dead-letters"], &query, Duration::ZERO).await?;
            match page.and_then(|mut page| page.get_mut("dead_letters").map(Value::take)) {
                Some(Value::Array(letters)) => Ok(letters),
                _ => Err(Failure::no("the answer is not a page of dead letters")),
            }
        }
        Target::Database { jobs, .. } => {
            let limit = usize::from(args.limit);
            let records = jobs
                .dead_letters()
                .list(&args.filter.filter(), args.after, limit)
                .await?;
            records.iter().map(document).collect()
        }
    }
}

pub(super) async fn show(target: &Target, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let letter = match target {
        Target::Api(api) => {
            let path = ["v1", "dead-letters", &id.to_string()];
            api.get(&path, &[], Duration::ZERO).await?
        }
        Target::Database { jobs, .. } => jobs
            .dead_letters()
            .get(id)
            .await?
            .as_ref()
            .map(document)
            .transpose()?,
    };
    let letter = letter.ok_or_else(|| Failure::no(format!("there is no dead letter {id}")))?;
    let view = JobView::of(&letter)?;
    output.print(&letter, || {
        format!("{}\npayload   {}", view.text(), letter["payload"])
    })
}

fn document(record: &holdfast_jobs::ledger::JobRecord) -> Result<Value, Failure> {
    serde_json::to_value(record).map_err(|error| Failure::no(format!("the job cannot be shown: {error}")))
}

fn row(job: JobView) -> [String; 6] {
    const WIDTH: usize = 60;
    let error = job.errors.last().map(|error| {
        let line = error.message.lines().next().unwrap_or_default();
        line.chars().take(WIDTH).collect()
    });
    [
        job.id,
        job.kind,
        job.queue,
        job.attempt.to_string(),
        job.finished_at.unwrap_or_default(),
        error.unwrap_or_default(),
    ]
}
