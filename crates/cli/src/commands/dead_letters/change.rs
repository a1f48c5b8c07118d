//! `holdfast dead-letters redrive` and `delete`.

use holdfast_jobs::JobId;
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::dead_letters::{self, DeadLetterFilter, MAX_RATE, MIN_RATE};
use serde_json::value::RawValue;
use serde_json::{Map, Value, json};

use super::FilterArgs;
use crate::args::OutputArgs;
use crate::commands::bulk::{self, Answer};
use holdfast_ops::Failure;
use holdfast_ops::target::Target;

/// Which dead letters to change: by id, by filter, or all.
#[derive(Debug, clap::Args)]
struct SelectArgs {
    /// Ids of dead letters
    #[arg(conflicts_with_all = ["queue", "kind", "error", "from", "to", "all"])]
    ids: Vec<JobId>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["queue", "kind", "error", "from", "to"])]
    all: bool,
    /// Only count the matches
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(super) struct Redrive {
    #[command(flatten)]
    select: SelectArgs,
    /// Jobs a second that become due; default: all now
    #[arg(long, value_name = "JOBS", value_parser = rate)]
    rate: Option<f64>,
    /// Further attempts of each job
    #[arg(long, default_value_t = dead_letters::DEFAULT_ATTEMPTS, value_parser = clap::value_parser!(u32).range(1..=100))]
    attempts: u32,
    /// A new payload, as JSON; only with one id
    #[arg(long, value_name = "JSON")]
    payload: Option<String>,
}

#[derive(Debug, clap::Args)]
pub(super) struct Delete {
    #[command(flatten)]
    select: SelectArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("expected jobs a second, from {MIN_RATE} to {MAX_RATE}"))
}

impl SelectArgs {
    fn filter(&self) -> Result<DeadLetterFilter, Failure> {
        if !self.ids.is_empty() {
            return Ok(DeadLetterFilter::of_ids(self.ids.iter().copied()));
        }
        if self.filter.given().is_empty() && !self.all {
            return Err(Failure::no(
                "say which dead letters: ids, --queue, --kind, --error, --from, --to, or --all",
            ));
        }
        Ok(self.filter.filter())
    }

    /// As the API reads it.
    fn body(&self) -> Value {
        match self.ids.as_slice() {
            [id] => json!({ "id": id }),
            [] if self.all => json!({ "all": true }),
            [] => {
                let given = self.filter.given().into_iter();
                let filter: Map<_, _> = given
                    .map(|(name, value)| (name.to_owned(), json!(value)))
                    .collect();
                json!({ "filter": filter })
            }
            ids => json!({ "ids": ids }),
        }
    }
}

pub(super) async fn redrive(target: &Target, args: Redrive, output: OutputArgs) -> Result<(), Failure> {
    const PATH: &[&str] = &["v1", "dead-letters", "redrive"];
    let filter = args.select.filter()?;
    let payload = parsed_payload(&args)?;
    if args.select.dry_run {
        return preview(target, PATH, &args.select, &filter, output).await;
    }
    let answer = match target {
        Target::Api(api) => {
            let mut body = args.select.body();
            body["attempts"] = json!(args.attempts);
            if let Some(rate) = args.rate {
                body["rate"] = json!(rate);
            }
            if let Some(payload) = payload {
                body["payload"] = json!(payload);
            }
            bulk::until_finished(async |key| bulk::post(api, PATH, &body, key).await).await?
        }
        Target::Database { jobs, gate } => {
            let by = By::new(Actor::cli());
            let steering = jobs.steer(&by);
            let payload = match (payload, args.select.ids.first()) {
                (Some(payload), Some(id)) => {
                    let job = jobs.get(*id).await?;
                    let job = job.ok_or_else(|| Failure::no(format!("there is no dead letter {id}")))?;
                    Some(steering.check_payload(&job.kind, payload)?)
                }
                _ => None,
            };
            let mut redrive = dead_letters::Redrive {
                filter,
                attempts: Some(args.attempts),
                rate: args.rate,
                payload,
                key: None,
            };
            let answer = bulk::until_finished(async |key| {
                redrive.key = Some(key.to_owned());
                Ok(Answer::from(&steering.redrive(&redrive).await?))
            })
            .await?;
            holdfast_ops::local::let_the_bell_ring(gate).await;
            answer
        }
    };
    bulk::print(&answer, "redriven", output)
}

fn parsed_payload(args: &Redrive) -> Result<Option<Box<RawValue>>, Failure> {
    let Some(text) = &args.payload else {
        return Ok(None);
    };
    if args.select.ids.len() != 1 {
        return Err(Failure::no(
            "a payload can be edited for one dead letter only: give its id",
        ));
    }
    serde_json::from_str(text)
        .map(Some)
        .map_err(|error| Failure::no(format!("the payload is not JSON: {error}")))
}

pub(super) async fn delete(target: &Target, args: Delete, output: OutputArgs) -> Result<(), Failure> {
    const PATH: &[&str] = &["v1", "dead-letters", "delete"];
    let filter = args.select.filter()?;
    if args.select.dry_run {
        return preview(target, PATH, &args.select, &filter, output).await;
    }
    let answer = match target {
        Target::Api(api) => {
            let body = args.select.body();
            bulk::until_finished(async |key| bulk::post(api, PATH, &body, key).await).await?
        }
        Target::Database { jobs, .. } => {
            let by = By::new(Actor::cli());
            bulk::until_finished(async |key| {
                let steering = jobs.steer(&by);
                let done = steering
                    .delete_dead_letters(&filter, Some(key.to_owned()))
                    .await?;
                Ok(Answer::from(&done))
            })
            .await?
        }
    };
    bulk::print(&answer, "deleted", output)
}

async fn preview(
    target: &Target,
    path: &[&str],
    select: &SelectArgs,
    filter: &DeadLetterFilter,
    output: OutputArgs,
) -> Result<(), Failure> {
    let document = match target {
        Target::Api(api) => bulk::preview(api, path, select.body()).await?,
        Target::Database { jobs, .. } => {
            json!({ "dry_run": true, "matched": jobs.dead_letters().count(filter).await? })
        }
    };
    bulk::print_preview(&document, output)
}
