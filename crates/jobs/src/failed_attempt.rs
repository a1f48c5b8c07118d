//! What becomes of a job whose attempt failed: the same for Rust workers and for those that pull over HTTP.

use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::telemetry::catalogue;
use serde_json::value::RawValue;

use crate::job::JobError;
use crate::ledger::{ClaimedJob, ErrorRecord, Outcome};
use crate::marks::Marks;
use crate::retry::{self, MAX_SNOOZES, RetryPolicy, Verdict};

/// An attempt that did not complete.
#[derive(Debug)]
pub(crate) struct FailedAttempt<'a> {
    pub job: &'a ClaimedJob,
    pub error: &'a JobError,
    /// Of the job's kind on its queue.
    pub policy: RetryPolicy,
    /// The job was asked to cancel.
    pub cancelled: bool,
    /// The worker's name, for the record of the error.
    pub worker: &'a str,
    pub ran_for: Option<Duration>,
    /// The kind's secret fields, and the payload: the error is cleaned of what it repeats of them.
    pub secrets: Option<(&'a Marks, &'a RawValue)>,
}

impl FailedAttempt<'_> {
    /// The outcome, by the one rule of [`retry::verdict`]; it is counted and logged.
    pub(crate) fn outcome(&self) -> Outcome {
        let Self { job, error, .. } = self;
        let (fence, attempt) = (job.fence(), job.attempt + 1);
        let backoff = job.options.backoff.unwrap_or(self.policy.backoff);
        let message = match error {
            JobError::Snooze(_) => format!("it was snoozed {MAX_SNOOZES} times, and no more is allowed"),
            error => error.to_string(),
        };
        let message = match self.secrets {
            Some((marks, payload)) => marks.cleaned(payload, message),
            None => message,
        };
        let record = || {
            ErrorRecord::new(clock::now(), attempt, error.class(), &message, self.worker).after(self.ran_for)
        };
        catalogue::JOB_FAILURES
            .with([&job.kind, error.class()])
            .increment(1);
        match retry::verdict(
            error,
            attempt,
            job.max_attempts,
            job.snoozes,
            &backoff,
            self.cancelled,
        ) {
            Verdict::RetryIn(delay) => {
                tracing::info!(
                    job.id = %job.id, job.kind = %job.kind, job.attempt = attempt, error = message,
                    delay_ms = delay.as_millis() as u64, "an attempt failed and will be retried"
                );
                Outcome::Retry {
                    fence,
                    delay,
                    error: record(),
                }
            }
            Verdict::SnoozeFor(delay) => Outcome::Snooze { fence, delay },
            Verdict::Discard => {
                tracing::warn!(
                    job.id = %job.id, job.kind = %job.kind, job.attempt = attempt, error = message, "a job was discarded"
                );
                Outcome::Discard {
                    fence,
                    error: record().with_fingerprint(&job.kind),
                }
            }
            Verdict::Cancel => Outcome::Cancel { fence, error: None },
        }
    }
}
