//! `holdfast jobs cancel-many`.

use chrono::{DateTime, Utc};
use holdfast_control::wire::{CancelBody, CancelFilterBody};
use holdfast_http::wire::Moment;
use holdfast_jobs::{JobId, State};
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};

use crate::args::OutputArgs;
use crate::commands::bulk;
use crate::confirm::{ConfirmArgs, counted};

const PATH: &[&str] = &["v1", "jobs", "cancel"];

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// Only jobs of this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only jobs of this kind
    #[arg(long)]
    kind: Option<String>,
    /// Only jobs in this state: scheduled, available, retryable, running
    #[arg(long)]
    state: Option<State>,
    /// Accepted not before this moment (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    from: Option<DateTime<Utc>>,
    /// Accepted before this moment (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    to: Option<DateTime<Utc>>,
    /// Only this job; may be repeated
    #[arg(long = "id", value_name = "ID", conflicts_with_all = ["queue", "kind", "state", "from", "to", "all"])]
    ids: Vec<JobId>,
    /// Every job that has not ended
    #[arg(long, conflicts_with_all = ["queue", "kind", "state", "from", "to"])]
    all: bool,
    /// Only count the matches
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let is_filtered = args.queue.is_some()
        || args.kind.is_some()
        || args.state.is_some()
        || args.from.is_some()
        || args.to.is_some();
    if !is_filtered && !args.all && args.ids.is_empty() {
        return Err(Failure::no(
            "say which jobs: --queue, --kind, --state, --from, --to, --id, or --all",
        ));
    }
    let mut body = CancelBody {
        ids: (!args.ids.is_empty()).then_some(args.ids),
        filter: is_filtered.then_some(CancelFilterBody {
            queue: args.queue,
            kind: args.kind,
            state: args.state,
            from: args.from.map(Moment),
            to: args.to.map(Moment),
        }),
        all: args.all,
        dry_run: args.dry_run,
    };
    if args.dry_run {
        return bulk::preview(api, PATH, &body, output).await;
    }
    let question = async || {
        body.dry_run = true;
        let matched = bulk::matched(api, PATH, &body).await;
        body.dry_run = false;
        Ok(format!("Cancel {}", counted(matched?, "job")))
    };
    args.confirm.agree(question).await?;
    bulk::run(api, PATH, &body, "cancelled", output).await
}
