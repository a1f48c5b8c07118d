//! `holdfast dead-letters`: through the HTTP API where `--url` is given, else straight to the database.

mod change;
mod read;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use holdfast_jobs::JobId;
use holdfast_jobs::dead_letters::DeadLetterFilter;

use crate::args::{OutputArgs, TargetArgs};
use holdfast_ops::Failure;
use holdfast_ops::target::Target;
use holdfast_ops::time;

#[derive(Debug, clap::Args)]
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
    /// List discarded jobs, youngest first
    List(read::List),
    /// Show one with its payload and all its errors
    Show {
        /// The job's id
        id: JobId,
    },
    /// Make discarded jobs available again
    Redrive(change::Redrive),
    /// Delete discarded jobs for good
    Delete(change::Delete),
}

/// Which dead letters.
#[derive(Debug, Clone, clap::Args)]
struct FilterArgs {
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only jobs with this text in one of their errors; case-insensitive
    #[arg(long, value_name = "TEXT")]
    error: Option<String>,
    /// Discarded at or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    from: Option<DateTime<Utc>>,
    /// Discarded before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    to: Option<DateTime<Utc>>,
}

impl FilterArgs {
    fn filter(&self) -> DeadLetterFilter {
        DeadLetterFilter {
            queue: self.queue.clone(),
            kind: self.kind.clone(),
            error: self.error.clone(),
            from: self.from,
            to: self.to,
            ids: None,
        }
    }

    fn given(&self) -> Vec<(&'static str, String)> {
        let given = [
            ("queue", self.queue.clone()),
            ("kind", self.kind.clone()),
            ("error", self.error.clone()),
            ("from", self.from.map(|at| at.to_rfc3339())),
            ("to", self.to.map(|at| at.to_rfc3339())),
        ];
        given
            .into_iter()
            .filter_map(|(name, value)| Some((name, value?)))
            .collect()
    }
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args {
        target,
        output,
        command,
    } = args;
    let target = Target::open(target.url.as_ref(), target.key.as_ref()).await?;
    match command {
        Command::List(args) => read::list(&target, &args, output).await,
        Command::Show { id } => read::show(&target, id, output).await,
        Command::Redrive(args) => change::redrive(&target, args, output).await,
        Command::Delete(args) => change::delete(&target, args, output).await,
    }
}
