//! `holdfast jobs rerun`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_control::wire::{AcceptedJob, Attempts, RerunBody, Urgency};
use holdfast_http::wire::{Moment, Seconds};
use holdfast_jobs::JobId;
use holdfast_jobs::ledger::Priority;
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};

use super::enqueue::{accepted_text, payload, priority};
use crate::args::OutputArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id
    id: JobId,
    /// Another payload: JSON, @FILE, or - for stdin
    #[arg(long)]
    payload: Option<String>,
    /// Another queue
    #[arg(long)]
    queue: Option<String>,
    /// Delay the start by this long (seconds, or 500ms, 5m, 2h, 1d)
    #[arg(long, value_parser = time::duration, conflicts_with = "run_at")]
    delay: Option<Duration>,
    /// At or after this time (RFC 3339)
    #[arg(long, value_parser = time::instant)]
    run_at: Option<DateTime<Utc>>,
    /// high, normal or low
    #[arg(long, value_parser = priority)]
    priority: Option<Priority>,
    /// Largest number of attempts, the first included
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Timeout of one attempt (seconds, or with a unit)
    #[arg(long, value_parser = time::duration)]
    timeout: Option<Duration>,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let body = RerunBody {
        payload: args.payload.as_deref().map(payload).transpose()?,
        queue: args.queue,
        run_at: args.run_at.map(Moment),
        delay_seconds: args.delay.map(Seconds),
        priority: args.priority.map(Urgency),
        max_attempts: args.max_attempts.map(Attempts),
        timeout_seconds: args.timeout.map(Seconds),
    };
    let path = ["v1", "jobs", &args.id.to_string(), "rerun"];
    let document = api.post_json(&path, &body, None).await?;
    let accepted: AcceptedJob = api.read(&document)?;
    output.print(&document, || accepted_text(&accepted))
}
