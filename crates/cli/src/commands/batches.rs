//! `holdfast batches`: seen and cancelled, through the HTTP API where `--url` is given, else straight in the database.

use std::time::Duration;

use clap::Subcommand;
use holdfast_control::batches::BatchView;
use holdfast_jobs::BatchId;
use holdfast_jobs::audit::{Actor, By};
use holdfast_jobs::batches::{BatchFilter, BatchRecord, Progress};
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::time::Instant;

use crate::args::{OutputArgs, TargetArgs};
use crate::output::table;
use holdfast_ops::Failure;
use holdfast_ops::target::{LONGEST_POLL, Target};
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
    /// List batches, newest first
    List {
        /// Only batches in this state: running, ended
        #[arg(long, value_parser = ["running", "ended"])]
        state: Option<String>,
        /// Only batches older than this one: the next page begins after the last id of this one
        #[arg(long, value_name = "ID")]
        after: Option<BatchId>,
        /// Most batches to list
        #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
    /// Show one batch and its progress
    Show {
        /// The batch's id
        id: BatchId,
        /// Wait until the batch has ended, at most this long; exit with 1 unless it has
        #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "30", value_parser = time::duration)]
        wait: Option<Duration>,
    },
    /// Cancel the remaining jobs of a batch; running ones are asked to stop
    Cancel {
        /// The batch's id
        id: BatchId,
    },
}

pub(crate) async fn run(args: Args) -> Result<(), Failure> {
    let Args {
        target,
        output,
        command,
    } = args;
    let target = Target::open(target.url.as_ref(), target.key.as_ref()).await?;
    match command {
        Command::List { state, after, limit } => list(&target, state, after, limit, output).await,
        Command::Show { id, wait } => show(&target, id, wait, output).await,
        Command::Cancel { id } => cancel(&target, id, output).await,
    }
}

/// What the text forms show.
#[derive(Debug, Deserialize)]
struct Shown {
    id: String,
    name: Option<String>,
    state: String,
    total: u32,
    pending: u32,
    completed: u32,
    discarded: u32,
    cancelled: u32,
    percent: u32,
    created_at: String,
    ended_at: Option<String>,
    callback: Option<ShownCallback>,
}

#[derive(Debug, Deserialize)]
struct ShownCallback {
    kind: String,
    id: Option<String>,
}

impl Shown {
    fn of(batch: &Value) -> Result<Self, Failure> {
        Self::deserialize(batch).map_err(|error| Failure::no(format!("the answer is not a batch: {error}")))
    }

    fn row(self) -> [String; 8] {
        [
            self.id,
            self.state,
            format!("{} %", self.percent),
            self.total.to_string(),
            self.completed.to_string(),
            self.discarded.to_string(),
            self.cancelled.to_string(),
            self.name.unwrap_or_default(),
        ]
    }

    fn text(&self) -> String {
        let mut lines = vec![
            format!("id        {}", self.id),
            format!("state     {}", self.state),
            format!(
                "jobs      {} of {} final ({} %): {} completed, {} discarded, {} cancelled",
                self.total - self.pending.min(self.total),
                self.total,
                self.percent,
                self.completed,
                self.discarded,
                self.cancelled
            ),
            format!("created   {}", self.created_at),
        ];
        lines.extend(self.name.as_ref().map(|name| format!("name      {name}")));
        lines.extend(self.ended_at.as_ref().map(|at| format!("ended     {at}")));
        lines.extend(self.callback.as_ref().map(|callback| match &callback.id {
            Some(id) => format!("callback  {} ({id})", callback.kind),
            None => format!("callback  {}", callback.kind),
        }));
        lines.join("\n")
    }
}

async fn list(
    target: &Target,
    state: Option<String>,
    after: Option<BatchId>,
    limit: u16,
    output: OutputArgs,
) -> Result<(), Failure> {
    let batches = match target {
        Target::Api(api) => {
            let mut query = vec![("limit", limit.to_string())];
            query.extend(state.map(|state| ("state", state)));
            query.extend(after.map(|id| ("after", id.to_string())));
            let page = api.get(&["v1", "batches"], &query, Duration::ZERO).await?;
            match page.and_then(|mut page| page.get_mut("batches").map(Value::take)) {
                Some(Value::Array(batches)) => batches,
                _ => return Err(Failure::no("the answer is not a page of batches")),
            }
        }
        Target::Database { jobs, .. } => {
            let filter = BatchFilter {
                ended: state.map(|state| state == "ended"),
                after,
                limit: usize::from(limit),
            };
            let found = jobs.batches().list(&filter).await?.into_iter();
            found
                .map(|record| document(record, None))
                .collect::<Result<_, _>>()?
        }
    };
    let rows = batches
        .iter()
        .map(|batch| Ok(Shown::of(batch)?.row()))
        .collect::<Result<Vec<_>, Failure>>()?;
    output.print(&json!({ "batches": batches }), || {
        let header = [
            "ID",
            "STATE",
            "FINAL",
            "JOBS",
            "COMPLETED",
            "DISCARDED",
            "CANCELLED",
            "NAME",
        ];
        table(header, &rows)
    })
}

async fn show(
    target: &Target,
    id: BatchId,
    wait: Option<Duration>,
    output: OutputArgs,
) -> Result<(), Failure> {
    let batch = find(target, id, wait.unwrap_or_default())
        .await?
        .ok_or_else(|| unknown(id))?;
    let shown = Shown::of(&batch)?;
    output.print(&batch, || shown.text())?;
    if wait.is_some() && shown.state != "ended" {
        return Err(Failure::no(format!("batch {id} is still {}", shown.state)));
    }
    Ok(())
}

/// The batch, once it has ended or the limit has passed.
async fn find(target: &Target, id: BatchId, limit: Duration) -> Result<Option<Value>, Failure> {
    match target {
        Target::Api(api) => {
            let deadline = Instant::now() + limit;
            loop {
                let left = deadline.saturating_duration_since(Instant::now());
                let wait = left.min(LONGEST_POLL);
                let query = [("wait", wait.as_secs_f64().to_string())];
                let query = if wait.is_zero() { &query[..0] } else { &query[..] };
                let batch = api.get(&["v1", "batches", &id.to_string()], query, wait).await?;
                let running = batch.as_ref().is_some_and(|batch| batch["state"] == "running");
                if !running || wait.is_zero() {
                    return Ok(batch);
                }
            }
        }
        Target::Database { jobs, .. } => {
            if !limit.is_zero() {
                jobs.batches().wait(id, limit).await?;
            }
            let found = jobs.batches().progress(id).await?;
            found
                .map(|(record, progress)| document(record, Some(progress)))
                .transpose()
        }
    }
}

/// As the API words it.
fn document(record: BatchRecord, progress: Option<Progress>) -> Result<Value, Failure> {
    serde_json::to_value(BatchView::new(record, progress))
        .map_err(|error| Failure::no(format!("the batch cannot be shown: {error}")))
}

async fn cancel(target: &Target, id: BatchId, output: OutputArgs) -> Result<(), Failure> {
    let mut affected = 0;
    loop {
        let (step, finished, batch) = match target {
            Target::Api(api) => {
                let answer = api.post(&["v1", "batches", &id.to_string(), "cancel"]).await?;
                let mut answer = answer.ok_or_else(|| unknown(id))?;
                let step = answer["affected"].as_u64().unwrap_or(0);
                (step, answer["finished"] == json!(true), answer["batch"].take())
            }
            Target::Database { jobs, .. } => {
                let by = By::new(Actor::cli());
                let cancelled = jobs.steer(&by).cancel_batch(id).await?;
                let cancelled = cancelled.ok_or_else(|| unknown(id))?;
                let Some(done) = cancelled.done else {
                    return Err(Failure::no(
                        "the batch has ended; only one that runs can be cancelled",
                    ));
                };
                (done.affected, done.finished, document(cancelled.batch, None)?)
            }
        };
        affected += step;
        // A call that found nothing more has nothing left to do, whatever it says of itself.
        if finished || step == 0 || batch["state"] == "ended" {
            let document = json!({ "affected": affected, "batch": batch });
            return output.print(&document, || format!("cancelled {affected} jobs of batch {id}"));
        }
    }
}

fn unknown(id: BatchId) -> Failure {
    Failure::no(format!("there is no batch {id}"))
}
