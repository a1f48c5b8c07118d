//! `holdfast import`: what waits in the Redis of another job system.

use std::fmt::Write as _;

use clap::ValueEnum;
use holdfast_ops::Failure;
use holdfast_ops::import::{self, ImportOptions, ImportReport, System};
use holdfast_services::Program;
use secrecy::SecretString;

use crate::args::{OutputArgs, TargetArgs};
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The system whose jobs wait there
    #[arg(value_enum)]
    system: SystemName,
    /// The Redis of that system
    #[arg(
        long,
        value_name = "URL",
        env = "HOLDFAST_IMPORT_REDIS",
        hide_env_values = true
    )]
    redis: SecretString,
    /// Queues of that system, with commas between; default: all
    #[arg(long, value_delimiter = ',')]
    queues: Vec<String>,
    /// The kind of the jobs; default: celery, or the class or name of the job
    #[arg(long)]
    kind: Option<String>,
    /// The queue of the jobs; default: the name of their queue there
    #[arg(long)]
    queue: Option<String>,
    /// Count what would be imported, and change nothing
    #[arg(long)]
    dry_run: bool,
    /// Leave the entries in Redis; stop the workers there first
    #[arg(long, conflicts_with = "dry_run")]
    keep: bool,
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
}

#[derive(Debug, Clone, Copy, ValueEnum)]
enum SystemName {
    Celery,
    Sidekiq,
    Bullmq,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let api = args.target.open(program).await?;
    let options = ImportOptions {
        system: match args.system {
            SystemName::Celery => System::Celery,
            SystemName::Sidekiq => System::Sidekiq,
            SystemName::Bullmq => System::Bullmq,
        },
        redis: args.redis,
        queues: args.queues.into_iter().collect(),
        kind: args.kind,
        queue: args.queue,
        dry_run: args.dry_run,
        keep: args.keep,
    };
    let report = import::import(&api, &options).await?;
    args.output.print(&report, || text(&report))?;
    match report.left_behind() {
        0 => Ok(()),
        left => Err(Failure::no(format!(
            "{left} entries cannot be imported and stay in Redis"
        ))),
    }
}

fn text(report: &ImportReport) -> String {
    let rows: Vec<[String; 5]> = report
        .places
        .iter()
        .map(|place| {
            [
                printable(&place.place),
                place.found.to_string(),
                place.accepted.to_string(),
                place.duplicates.to_string(),
                place.left.to_string(),
            ]
        })
        .collect();
    let accepted = if report.dry_run { "TO IMPORT" } else { "IMPORTED" };
    let mut text = table(["PLACE", "FOUND", accepted, "BEFORE", "LEFT"], &rows);
    for left in &report.left {
        // Writing to a text cannot fail.
        write!(text, "\nleft in {}: {}", printable(&left.place), left.reason).ok();
    }
    for note in &report.notes {
        write!(text, "\nnote: {note}").ok();
    }
    text
}

/// Celery's priorities are behind control characters.
fn printable(place: &str) -> String {
    place.replace(|c: char| c.is_control(), "^")
}
