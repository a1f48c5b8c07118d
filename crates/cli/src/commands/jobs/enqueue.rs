//! `holdfast jobs enqueue`.

use std::io::Read as _;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_control::wire::{AcceptedJob, Attempts, JobBody, Urgency};
use holdfast_http::wire::{Moment, Seconds};
use holdfast_jobs::ledger::Priority;
use holdfast_ops::client::Api;
use holdfast_ops::{Failure, time};
use serde_json::value::RawValue;

use super::show;
use crate::args::OutputArgs;

/// More is more than any configuration of `jobs.max_payload_bytes` accepts.
const MAX_INPUT_BYTES: u64 = 64 * 1024 * 1024;

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// The job's kind, such as debug.echo
    kind: String,
    /// Its payload: JSON, @FILE, or - for stdin
    #[arg(default_value = "{}")]
    payload: String,
    /// The queue; default: the kind's
    #[arg(long)]
    queue: Option<String>,
    /// Delay the start by this long (seconds, or 500ms, 5m, 2h, 1d)
    #[arg(long, value_parser = time::duration, conflicts_with = "run_at")]
    delay: Option<Duration>,
    /// At or after this time (RFC 3339)
    #[arg(long, value_parser = time::instant)]
    run_at: Option<DateTime<Utc>>,
    /// Cancel the job if it has not begun by then (RFC 3339)
    #[arg(long, value_parser = time::instant)]
    expires_at: Option<DateTime<Utc>>,
    /// high, normal or low
    #[arg(long, value_parser = priority, default_value = "normal")]
    priority: Priority,
    /// Largest number of attempts, the first included
    #[arg(long)]
    max_attempts: Option<u32>,
    /// Timeout of one attempt (seconds, or with a unit)
    #[arg(long, value_parser = time::duration)]
    timeout: Option<Duration>,
    /// If a job of the kind with this key waits or runs, return that one
    #[arg(long)]
    unique_key: Option<String>,
    /// A word by which the job is found (`tag:vip`); may be repeated
    #[arg(long = "tag", value_name = "TAG")]
    tags: Vec<String>,
    /// If a job with this key is stored, return that one
    #[arg(long)]
    idempotency_key: Option<String>,
    /// Wait until the job has finished, at most this long, and show it; exit with 1 unless it completed
    #[arg(long, value_name = "LIMIT", num_args = 0..=1, default_missing_value = "30", value_parser = time::duration)]
    wait: Option<Duration>,
}

pub(super) async fn run(api: &Api, args: Args, output: OutputArgs) -> Result<(), Failure> {
    let (wait, key) = (args.wait, args.idempotency_key.clone());
    let body = args.into_body()?;
    let document = api.post_json(&["v1", "jobs"], &body, key.as_deref()).await?;
    let accepted: AcceptedJob = api.read(&document)?;
    if wait.is_some() {
        return show(api, accepted.id, wait, output).await;
    }
    output.print(&document, || accepted_text(&accepted))
}

/// One line.
pub(crate) fn accepted_text(job: &AcceptedJob) -> String {
    let accepted = if job.duplicate {
        "already exists"
    } else {
        "accepted"
    };
    format!(
        "{} {accepted}: {} on {}, {} ({})",
        job.id, job.kind, job.queue, job.state, job.durability
    )
}

impl Args {
    fn into_body(self) -> Result<JobBody, Failure> {
        let payload = payload(&self.payload)?;
        Ok(JobBody {
            queue: self.queue,
            run_at: self.run_at.map(Moment),
            delay_seconds: self.delay.map(Seconds),
            priority: Some(Urgency(self.priority)),
            max_attempts: self.max_attempts.map(Attempts),
            timeout_seconds: self.timeout.map(Seconds),
            unique_key: self.unique_key,
            expires_at: self.expires_at.map(Moment),
            tags: self.tags,
            ..JobBody::new(self.kind, payload)
        })
    }
}

/// The payload itself, or what is in the file it names.
pub(crate) fn payload(given: &str) -> Result<Box<RawValue>, Failure> {
    document("payload", given)
}

/// A JSON document itself, or what is in the file it names (`@FILE`, `-` for stdin); `what` it is, for errors.
pub(crate) fn document(what: &str, given: &str) -> Result<Box<RawValue>, Failure> {
    let text = match given.strip_prefix('@') {
        None if given == "-" => read("stdin", std::io::stdin().lock())?,
        Some(path) => {
            let file = std::fs::File::open(path);
            read(
                path,
                file.map_err(|source| Failure::Input {
                    file: path.to_owned(),
                    source,
                })?,
            )?
        }
        None => given.to_owned(),
    };
    serde_json::from_str(text.trim()).map_err(|error| Failure::no(format!("the {what} is not JSON: {error}")))
}

fn read(name: &str, source: impl std::io::Read) -> Result<String, Failure> {
    let mut text = String::new();
    source
        .take(MAX_INPUT_BYTES)
        .read_to_string(&mut text)
        .map_err(|source| Failure::Input {
            file: name.to_owned(),
            source,
        })?;
    Ok(text)
}

pub(super) fn priority(text: &str) -> Result<Priority, String> {
    match text {
        "high" => Ok(Priority::High),
        "normal" => Ok(Priority::Normal),
        "low" => Ok(Priority::Low),
        _ => Err("expected high, normal or low".to_owned()),
    }
}
