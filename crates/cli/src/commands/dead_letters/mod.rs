//! `holdfast dead-letters`: searched, shown, redriven and deleted.

mod change;
mod read;

use chrono::{DateTime, Utc};
use clap::Subcommand;
use holdfast_control::wire::DeadLetterFilterBody;
use holdfast_http::wire::Moment;
use holdfast_jobs::JobId;

use crate::args::OperatorArgs;
use holdfast_ops::{Failure, time};
use holdfast_services::Program;

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
    /// Only this group of `holdfast failures`
    #[arg(long)]
    fingerprint: Option<String>,
}

impl FilterArgs {
    /// `None`: no filter was given.
    fn body(self) -> Option<DeadLetterFilterBody> {
        let is_given = self.queue.is_some()
            || self.kind.is_some()
            || self.error.is_some()
            || self.from.is_some()
            || self.to.is_some()
            || self.fingerprint.is_some();
        is_given.then_some(DeadLetterFilterBody {
            queue: self.queue,
            kind: self.kind,
            error: self.error,
            from: self.from.map(Moment),
            to: self.to.map(Moment),
            fingerprint: self.fingerprint,
        })
    }
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List(args) => read::list(&api, args, output).await,
        Command::Show { id } => read::show(&api, id, output).await,
        Command::Redrive(args) => change::redrive(&api, args, output).await,
        Command::Delete(args) => change::delete(&api, args, output).await,
    }
}
