//! `holdfast jobs edit`.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_control::wire::{Attempts, EditBody, EditedJob, Urgency};
use holdfast_http::wire::{Moment, Seconds};
use holdfast_jobs::JobId;
use holdfast_jobs::ledger::Priority;
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};

use super::enqueue::{payload, priority};
use crate::args::OutputArgs;
use crate::output::shown;

/// What is to be different from the job as it is.
#[derive(Debug, clap::Args)]
#[group(id = "change", multiple = true)]
pub(super) struct Changes {
    /// Another payload: JSON, @FILE, or - for stdin
    #[arg(long)]
    pub(super) payload: Option<String>,
    /// Another queue
    #[arg(long)]
    pub(super) queue: Option<String>,
    /// Delay the start by this long from now (seconds, or 500ms, 5m, 2h, 1d)
    #[arg(long, value_parser = time::duration, conflicts_with = "run_at")]
    pub(super) delay: Option<Duration>,
    /// At or after this time (RFC 3339)
    #[arg(long, value_parser = time::instant)]
    pub(super) run_at: Option<DateTime<Utc>>,
    /// high, normal or low
    #[arg(long, value_parser = priority)]
    pub(super) priority: Option<Priority>,
    /// Largest number of attempts, the first included
    #[arg(long)]
    pub(super) max_attempts: Option<u32>,
}

#[derive(Debug, clap::Args)]
#[command(mut_group("change", |group| group.required(true)))]
pub(crate) struct Args {
    /// The job's id
    id: JobId,
    #[command(flatten)]
    changes: Changes,
}

pub(super) async fn run(api: &Api, Args { id, changes }: Args, output: OutputArgs) -> Result<(), Failure> {
    let body = EditBody {
        payload: changes.payload.as_deref().map(payload).transpose()?,
        queue: changes.queue,
        run_at: changes.run_at.map(Moment),
        delay_seconds: changes.delay.map(Seconds),
        priority: changes.priority.map(Urgency),
        max_attempts: changes.max_attempts.map(Attempts),
    };
    let document = api.patch_json(&["v1", "jobs", &id.to_string()], &body).await?;
    let job: EditedJob = api.read(&document)?;
    output.print(&document, || {
        format!(
            "{id} is {} in {}, due {}",
            job.state,
            job.queue,
            shown(job.run_at)
        )
    })
}
