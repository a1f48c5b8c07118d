//! `holdfast jobs cancel-many`.

use chrono::{DateTime, Utc};
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::{CancelFilter, State};
use serde_json::{Map, Value, json};

use crate::args::OutputArgs;
use crate::commands::bulk::{self, Answer};
use holdfast_ops::Failure;
use holdfast_ops::target::Target;
use holdfast_ops::time;

const PATH: &[&str] = &["v1", "jobs", "cancel"];

#[derive(Debug, clap::Args)]
pub(super) struct Args {
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
    /// Every job that has not ended
    #[arg(long, conflicts_with_all = ["queue", "kind", "state", "from", "to"])]
    all: bool,
    /// Only count the matches
    #[arg(long)]
    dry_run: bool,
}

pub(super) async fn run(target: &Target, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let body = body(&args);
    let filter = CancelFilter {
        queue: args.queue,
        kind: args.kind,
        state: args.state,
        from: args.from,
        to: args.to,
    };
    if filter == CancelFilter::default() && !args.all {
        return Err(Failure::no(
            "say which jobs: --queue, --kind, --state, --from, --to, or --all",
        ));
    }
    if filter.state.is_some_and(State::is_final) {
        return Err(Failure::no("only jobs that have not ended can be cancelled"));
    }
    let by = By::new(Actor::cli());
    if args.dry_run {
        let document = match target {
            Target::Api(api) => bulk::preview(api, PATH, body).await?,
            Target::Database { jobs, .. } => {
                json!({ "dry_run": true, "matched": jobs.steer(&by).count_cancellable(&filter).await? })
            }
        };
        return bulk::print_preview(&document, output);
    }
    let answer = bulk::until_finished(async |key| match target {
        Target::Api(api) => bulk::post(api, PATH, &body, key).await,
        Target::Database { jobs, .. } => {
            let steering = jobs.steer(&by);
            Ok(Answer::from(
                &steering.cancel_many(&filter, Some(key.to_owned())).await?,
            ))
        }
    })
    .await?;
    bulk::print(&answer, "cancelled", output)
}

fn body(args: &Args) -> Value {
    if args.all {
        return json!({ "all": true });
    }
    let given = [
        ("queue", json!(args.queue)),
        ("kind", json!(args.kind)),
        ("state", json!(args.state)),
        ("from", json!(args.from)),
        ("to", json!(args.to)),
    ];
    let given = given.into_iter().filter(|(_, value)| !value.is_null());
    let filter: Map<_, _> = given.map(|(name, value)| (name.to_owned(), value)).collect();
    json!({ "filter": filter })
}
