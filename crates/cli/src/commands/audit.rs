//! `holdfast audit`: who did what.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_jobs::audit::{AuditFilter, AuditId};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::args::{OutputArgs, TargetArgs};
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::target::Target;
use holdfast_ops::time;

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

/// What the text form shows.
#[derive(Debug, Deserialize)]
struct EntryView {
    at: DateTime<Utc>,
    actor: String,
    action: String,
    target: Option<String>,
    count: Option<u64>,
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args { target, output, .. } = &args;
    let target = Target::open(target.url.as_ref(), target.key.as_ref()).await?;
    let filter = AuditFilter {
        actor: args.actor.clone(),
        action: args.action.clone(),
        target: args.on.clone(),
        from: args.from,
        to: args.to,
        after: args.after,
        limit: usize::from(args.limit),
    };
    let entries = entries(&target, &filter).await?;
    let rows = entries.iter().map(row).collect::<Result<Vec<_>, _>>()?;
    output.print(&json!({ "entries": entries }), || {
        table(["AT", "ACTOR", "ACTION", "TARGET", "COUNT"], &rows)
    })
}

async fn entries(target: &Target, filter: &AuditFilter) -> Result<Vec<Value>, Failure> {
    match target {
        Target::Api(api) => {
            let page = api
                .get(&["v1", "audit"], &query_of(filter), Duration::ZERO)
                .await?;
            match page.and_then(|mut page| page.get_mut("entries").map(Value::take)) {
                Some(Value::Array(entries)) => Ok(entries),
                _ => Err(Failure::no("the answer is not a page of the audit log")),
            }
        }
        Target::Database { jobs, .. } => {
            let records = jobs.audit().list(filter).await?;
            records
                .iter()
                .map(|record| {
                    serde_json::to_value(record)
                        .map_err(|error| Failure::no(format!("an entry cannot be shown: {error}")))
                })
                .collect()
        }
    }
}

fn query_of(filter: &AuditFilter) -> Vec<(&'static str, String)> {
    let given = [
        ("actor", filter.actor.clone()),
        ("action", filter.action.clone()),
        ("target", filter.target.clone()),
        ("from", filter.from.map(|at| at.to_rfc3339())),
        ("to", filter.to.map(|at| at.to_rfc3339())),
        ("after", filter.after.map(|id| id.to_string())),
        ("limit", Some(filter.limit.to_string())),
    ];
    given
        .into_iter()
        .filter_map(|(name, value)| Some((name, value?)))
        .collect()
}

fn row(entry: &Value) -> Result<[String; 5], Failure> {
    let view = EntryView::deserialize(entry)
        .map_err(|error| Failure::no(format!("the answer is not an entry: {error}")))?;
    Ok([
        view.at.format("%Y-%m-%d %H:%M:%S").to_string(),
        view.actor,
        view.action,
        view.target.unwrap_or_else(|| "-".to_owned()),
        view.count
            .map_or_else(|| "-".to_owned(), |count| count.to_string()),
    ])
}
