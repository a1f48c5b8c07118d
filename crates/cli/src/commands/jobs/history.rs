//! `holdfast jobs attempts` and `holdfast jobs log`.

use std::time::Duration;

use chrono::SecondsFormat;
use clap::Args as ClapArgs;
use holdfast_control::wire::{AttemptView, AttemptsView, LogView, LoggedLineView};
use holdfast_jobs::JobId;
use holdfast_ops::Failure;
use holdfast_ops::client::Api;

use crate::args::OutputArgs;
use crate::output::{shown, table};

/// Between two requests of `--follow`.
const FOLLOW_EVERY: Duration = Duration::from_secs(1);

#[derive(Debug, ClapArgs)]
pub(crate) struct Log {
    /// The job's id
    id: JobId,
    /// Print what is written from now on too, until the job has finished
    #[arg(long)]
    follow: bool,
}

pub(super) async fn attempts(api: &Api, id: JobId, output: OutputArgs) -> Result<(), Failure> {
    let document = api.get(&["v1", "jobs", &id.to_string(), "attempts"], &[]).await?;
    let view: AttemptsView = api.read(&document)?;
    output.print(&document, || {
        let rows: Vec<_> = view.attempts.iter().map(row).collect();
        table(
            ["ATTEMPT", "OUTCOME", "STARTED", "SECONDS", "WORKER", "ERROR"],
            &rows,
        )
    })
}

fn row(attempt: &AttemptView) -> [String; 6] {
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    let error = attempt
        .error
        .as_ref()
        .map(|error| format!("{}: {}", error.class, error.message));
    [
        attempt.attempt.to_string(),
        attempt.outcome.to_string(),
        or_dash(attempt.started_at.map(shown)),
        or_dash(attempt.duration_seconds.map(|seconds| format!("{seconds:.3}"))),
        or_dash(attempt.worker.clone()),
        or_dash(error),
    ]
}

pub(super) async fn log(api: &Api, Log { id, follow }: Log, output: OutputArgs) -> Result<(), Failure> {
    let mut after: Option<u32> = None;
    loop {
        let query: Vec<_> = after
            .map(|after| ("after", after.to_string()))
            .into_iter()
            .collect();
        let document = api.get(&["v1", "jobs", &id.to_string(), "log"], &query).await?;
        let log: LogView = api.read(&document)?;
        if !follow {
            return output.print(&document, || text(&log));
        }
        if !log.lines.is_empty() {
            output.print(&document, || lines(&log.lines))?;
        }
        if log.state.is_final() {
            return Ok(());
        }
        after = log.lines.last().map(|line| line.number).or(after);
        tokio::time::sleep(FOLLOW_EVERY).await;
    }
}

fn text(log: &LogView) -> String {
    match (log.dropped, log.lines.is_empty()) {
        (_, true) => "the job has written no lines".to_owned(),
        (0, false) => lines(&log.lines),
        (dropped, false) => format!("({dropped} earlier lines were dropped)\n{}", lines(&log.lines)),
    }
}

fn lines(lines: &[LoggedLineView]) -> String {
    let lines: Vec<String> = lines
        .iter()
        .map(|line| {
            let at = line.at.to_rfc3339_opts(SecondsFormat::Millis, true);
            format!("{at} [{}] {}", line.attempt, line.line)
        })
        .collect();
    lines.join("\n")
}
