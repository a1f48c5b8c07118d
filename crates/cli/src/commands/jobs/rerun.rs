//! `holdfast jobs rerun`.

use std::time::Duration;

use holdfast_control::wire::{AcceptedJob, Attempts, RerunBody, Urgency};
use holdfast_http::wire::{Moment, Seconds};
use holdfast_jobs::JobId;
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};

use super::edit::Changes;
use super::enqueue::{accepted_text, payload};
use crate::args::OutputArgs;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's id
    id: JobId,
    #[command(flatten)]
    changes: Changes,
    /// Timeout of one attempt (seconds, or with a unit)
    #[arg(long, value_parser = time::duration)]
    timeout: Option<Duration>,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let Args { id, changes, timeout } = args;
    let body = RerunBody {
        payload: changes.payload.as_deref().map(payload).transpose()?,
        queue: changes.queue,
        run_at: changes.run_at.map(Moment),
        delay_seconds: changes.delay.map(Seconds),
        priority: changes.priority.map(Urgency),
        max_attempts: changes.max_attempts.map(Attempts),
        timeout_seconds: timeout.map(Seconds),
    };
    let path = ["v1", "jobs", &id.to_string(), "rerun"];
    let document = api.post_json(&path, &body, None).await?;
    let accepted: AcceptedJob = api.read(&document)?;
    output.print(&document, || accepted_text(&accepted))
}
