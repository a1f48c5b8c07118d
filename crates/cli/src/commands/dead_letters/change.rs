//! `holdfast dead-letters redrive` and `delete`.

use holdfast_control::wire::{Attempts, DeadLetterFilterBody, DeleteBody, RedriveBody};
use holdfast_jobs::JobId;
use holdfast_jobs::dead_letters::{self, MAX_RATE, MIN_RATE};
use holdfast_ops::Failure;
use holdfast_ops::client::Api;
use serde_json::value::RawValue;

use super::FilterArgs;
use crate::args::OutputArgs;
use crate::commands::bulk;
use crate::confirm::{ConfirmArgs, counted};

/// Which dead letters to change: by id, by filter, or all.
#[derive(Debug, clap::Args)]
struct SelectArgs {
    /// Ids of dead letters
    #[arg(conflicts_with_all = ["queue", "kind", "error", "from", "to", "fingerprint", "all"])]
    ids: Vec<JobId>,
    #[command(flatten)]
    filter: FilterArgs,
    /// Every dead letter
    #[arg(long, conflicts_with_all = ["queue", "kind", "error", "from", "to", "fingerprint"])]
    all: bool,
    /// Only count the matches
    #[arg(long)]
    dry_run: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Redrive {
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
pub(crate) struct Delete {
    #[command(flatten)]
    select: SelectArgs,
    #[command(flatten)]
    confirm: ConfirmArgs,
}

fn rate(text: &str) -> Result<f64, String> {
    text.parse()
        .ok()
        .filter(|rate| (MIN_RATE..=MAX_RATE).contains(rate))
        .ok_or_else(|| format!("expected jobs a second, from {MIN_RATE} to {MAX_RATE}"))
}

/// One of the four ways to say which.
struct Selection {
    id: Option<JobId>,
    ids: Option<Vec<JobId>>,
    filter: Option<DeadLetterFilterBody>,
}

impl SelectArgs {
    fn selection(&mut self) -> Result<Selection, Failure> {
        let ids = std::mem::take(&mut self.ids);
        let filter = self.filter.clone().body();
        if ids.is_empty() && filter.is_none() && !self.all {
            return Err(Failure::no(
                "say which dead letters: ids, --queue, --kind, --error, --from, --to, --fingerprint, or --all",
            ));
        }
        let (id, ids) = match ids.as_slice() {
            [] => (None, None),
            [id] => (Some(*id), None),
            _ => (None, Some(ids)),
        };
        Ok(Selection { id, ids, filter })
    }
}

pub(super) async fn redrive(api: &Api, mut args: Redrive, output: OutputArgs) -> Result<(), Failure> {
    const PATH: &[&str] = &["v1", "dead-letters", "redrive"];
    let payload = parsed_payload(&args)?;
    let Selection { id, ids, filter } = args.select.selection()?;
    let dry_run = args.select.dry_run;
    let body = RedriveBody {
        id,
        ids,
        filter,
        all: args.select.all,
        dry_run,
        rate: args.rate,
        attempts: Some(Attempts(args.attempts)),
        payload,
    };
    if dry_run {
        return bulk::preview(api, PATH, &body, output).await;
    }
    bulk::run(api, PATH, &body, "redriven", output).await
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

pub(super) async fn delete(api: &Api, mut args: Delete, output: OutputArgs) -> Result<(), Failure> {
    const PATH: &[&str] = &["v1", "dead-letters", "delete"];
    let Selection { id, ids, filter } = args.select.selection()?;
    let dry_run = args.select.dry_run;
    let mut body = DeleteBody {
        id,
        ids,
        filter,
        all: args.select.all,
        dry_run,
    };
    if dry_run {
        return bulk::preview(api, PATH, &body, output).await;
    }
    let question = async || {
        body.dry_run = true;
        let matched = bulk::matched(api, PATH, &body).await;
        body.dry_run = false;
        let letters = counted(matched?, "dead letter");
        Ok(format!("Delete {letters}"))
    };
    args.confirm.agree(question).await?;
    bulk::run(api, PATH, &body, "deleted", output).await
}
