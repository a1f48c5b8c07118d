//! `holdfast batches`: seen and cancelled.

use std::time::Duration;

use clap::Subcommand;
use holdfast_control::wire::{BatchPage, BatchView, CancelledView};
use holdfast_jobs::BatchId;
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};
use holdfast_services::Program;
use serde_json::json;

use crate::args::{OperatorArgs, OutputArgs, query};
use crate::confirm::{ConfirmArgs, counted};
use crate::output::{line, shown, table};

pub(crate) type Args = OperatorArgs<Command>;

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
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
        #[command(flatten)]
        confirm: ConfirmArgs,
    },
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let (api, output, command) = args.open(program).await?;
    match command {
        Command::List { state, after, limit } => {
            let query = query([
                ("limit", Some(limit.to_string())),
                ("state", state),
                ("after", after.map(|id| id.to_string())),
            ]);
            list(&api, &query, output).await
        }
        Command::Show { id, wait } => show(&api, id, wait, output).await,
        Command::Cancel { id, confirm } => {
            confirm
                .agree(async || {
                    let document = api.get(&["v1", "batches", &id.to_string()], &[]).await?;
                    let batch: BatchView = api.read(&document)?;
                    Ok(format!(
                        "Cancel {} of batch {id}",
                        counted(batch.pending.into(), "remaining job")
                    ))
                })
                .await?;
            cancel(&api, id, output).await
        }
    }
}

async fn list(api: &Api, query: &[(&str, String)], output: OutputArgs) -> Result<(), Failure> {
    const HEADER: [&str; 8] = [
        "ID",
        "STATE",
        "FINAL",
        "JOBS",
        "COMPLETED",
        "DISCARDED",
        "CANCELLED",
        "NAME",
    ];
    let document = api.get(&["v1", "batches"], query).await?;
    let page: BatchPage = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = page.batches.into_iter().map(row).collect();
        table(HEADER, &rows)
    })
}

fn row(batch: BatchView) -> [String; 8] {
    [
        batch.id.to_string(),
        batch.state.into_owned(),
        format!("{} %", batch.percent),
        batch.total.to_string(),
        batch.completed.to_string(),
        batch.discarded.to_string(),
        batch.cancelled.to_string(),
        batch.name.unwrap_or_default(),
    ]
}

fn text(batch: &BatchView) -> String {
    let mut lines = vec![
        line("id", batch.id),
        line("state", &batch.state),
        line(
            "jobs",
            format!(
                "{} of {} final ({} %): {} completed, {} discarded, {} cancelled",
                batch.total - batch.pending.min(batch.total),
                batch.total,
                batch.percent,
                batch.completed,
                batch.discarded,
                batch.cancelled
            ),
        ),
        line("created", shown(batch.created_at)),
    ];
    lines.extend(batch.name.as_ref().map(|name| line("name", name)));
    lines.extend(batch.ended_at.map(|at| line("ended", shown(at))));
    lines.extend(batch.callback.as_ref().map(|callback| match &callback.id {
        Some(id) => line("callback", format!("{} ({id})", callback.kind)),
        None => line("callback", &callback.kind),
    }));
    lines.join("\n")
}

async fn show(api: &Api, id: BatchId, wait: Option<Duration>, output: OutputArgs) -> Result<(), Failure> {
    let path = ["v1", "batches", &id.to_string()];
    let has_ended = |batch: &BatchView| batch.state == "ended";
    let (document, batch) = api.wait(&path, wait.unwrap_or_default(), has_ended).await?;
    output.print(&document, || text(&batch))?;
    if wait.is_some() && !has_ended(&batch) {
        return Err(Failure::no(format!("batch {id} is still {}", batch.state)));
    }
    Ok(())
}

/// Asks again until nothing is left to cancel.
async fn cancel(api: &Api, id: BatchId, output: OutputArgs) -> Result<(), Failure> {
    let mut affected = 0;
    loop {
        let document = api.post(&["v1", "batches", &id.to_string(), "cancel"]).await?;
        let step: CancelledView = api.read(&document)?;
        affected += step.affected;
        // A call that found nothing more has nothing left to do, whatever it says of itself.
        if step.finished || step.affected == 0 || step.batch.state == "ended" {
            let document = json!({ "affected": affected, "batch": step.batch });
            return output.print(&document, || format!("cancelled {affected} jobs of batch {id}"));
        }
    }
}
