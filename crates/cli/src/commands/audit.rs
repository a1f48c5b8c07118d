//! `holdfast audit`: who did what.

use chrono::{DateTime, Utc};
use holdfast_control::wire::{AuditPage, AuditView};
use holdfast_jobs::audit::AuditId;
use holdfast_ops::{Failure, time};
use holdfast_services::Program;

use crate::args::{OutputArgs, TargetArgs, query};
use crate::output::table;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// Only this actor, such as bootstrap, cli/alice or key/ID
    #[arg(long)]
    actor: Option<String>,
    /// Only this action, such as queue.pause; with a dot at the end, all that begin so
    #[arg(long)]
    action: Option<String>,
    /// Only actions on this queue, job, key, …
    #[arg(long, value_name = "NAME")]
    on: Option<String>,
    /// At or after this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    from: Option<DateTime<Utc>>,
    /// Before this time (RFC 3339)
    #[arg(long, value_name = "TIME", value_parser = time::instant)]
    to: Option<DateTime<Utc>>,
    /// Only entries older than this one: the next page begins after the last id of this one
    #[arg(long, value_name = "ID")]
    after: Option<AuditId>,
    /// Most entries to list
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
    limit: u16,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let query = query([
        ("actor", args.actor),
        ("action", args.action),
        ("target", args.on),
        ("from", args.from.map(|at| at.to_rfc3339())),
        ("to", args.to.map(|at| at.to_rfc3339())),
        ("after", args.after.map(|id| id.to_string())),
        ("limit", Some(args.limit.to_string())),
    ]);
    let api = args.target.open(program).await?;
    let document = api.get(&["v1", "audit"], &query).await?;
    let page: AuditPage = api.read(&document)?;
    args.output.print(&document, || {
        let rows: Vec<_> = page.entries.into_iter().map(row).collect();
        table(["AT", "ACTOR", "ACTION", "TARGET", "COUNT"], &rows)
    })
}

fn row(entry: AuditView) -> [String; 5] {
    [
        entry.at.format("%Y-%m-%d %H:%M:%S").to_string(),
        entry.actor,
        entry.action,
        entry.target.unwrap_or_else(|| "-".to_owned()),
        entry
            .count
            .map_or_else(|| "-".to_owned(), |count| count.to_string()),
    ]
}
