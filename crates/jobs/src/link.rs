//! A job that is yet to be enqueued: the next of a chain, or the callback of a batch.
//!
//! It was checked when the job before it was (kind, queue, payload, bounds), so that nothing about it can fail at the time
//! when its turn comes. It is kept with that job, and becomes a job of the ledger in the very transaction that ends the
//! job before it ([`crate::follow_ups`]).

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::encryption::Encryption;
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::id::{BatchId, JobId};
use crate::ledger::{NewJob, Options, Priority, RunAt};
use crate::retry::Backoff;

/// Most links behind one job.
pub const MAX_LINKS: usize = 10;

/// A checked job that waits for another's end. Its JSON is what is kept, and what users are shown.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Link {
    pub kind: String,
    pub queue: String,
    pub payload: Box<RawValue>,
    #[serde(default)]
    pub priority: Priority,
    /// How long after the job before it has ended.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub delay_seconds: f64,
    pub max_attempts: u32,
    pub timeout_seconds: f64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub unique_key: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit_key: Option<String>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub tags: Vec<String>,
    /// Of a callback: the trace that its batch was made in. A chain hands its own on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What follows its own completion.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Box<Link>>,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde asks for a reference")]
fn is_zero(seconds: &f64) -> bool {
    *seconds <= 0.0
}

/// The job that a job of a chain comes after.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Previous {
    pub id: JobId,
    /// What it returned. Kept here too: its own row is pruned one day.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub result: Option<Box<RawValue>>,
}

/// How a batch ended, for its callback.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct EndedBatch {
    pub id: BatchId,
    pub total: u32,
    pub completed: u32,
    pub discarded: u32,
    pub cancelled: u32,
}

impl Link {
    /// Of a job that has been checked as any other.
    pub(crate) fn of(job: NewJob) -> Self {
        let delay = match job.run_at {
            RunAt::In(delay) => delay,
            // The check refuses a fixed time.
            RunAt::Now | RunAt::At(_) | RunAt::Tick(_) => Duration::ZERO,
        };
        Self {
            kind: job.kind.to_string(),
            queue: job.queue.to_string(),
            payload: (*job.payload).to_owned(),
            priority: job.priority,
            delay_seconds: delay.as_secs_f64(),
            max_attempts: job.max_attempts,
            timeout_seconds: job.timeout.as_secs_f64(),
            backoff: job.options.backoff,
            unique_key: job.unique_key,
            limit_key: job.limit_key,
            tags: job.tags,
            traceparent: job.options.traceparent,
            then: job.options.then,
        }
    }

    /// The job after `previous`, in the trace that its producer began.
    pub(crate) fn after(&self, previous: Previous, traceparent: Option<String>) -> NewJob {
        let mut job = self.job(traceparent);
        job.options.previous = Some(previous);
        job
    }

    /// The callback of a batch.
    pub(crate) fn at_end_of(&self, batch: EndedBatch) -> NewJob {
        let mut job = self.job(self.traceparent.clone());
        job.options.ended_batch = Some(batch);
        job
    }

    fn job(&self, traceparent: Option<String>) -> NewJob {
        NewJob {
            id: JobId::generate(),
            kind: Arc::from(self.kind.as_str()),
            queue: Arc::from(self.queue.as_str()),
            payload: Arc::from(self.payload.clone()),
            priority: self.priority,
            run_at: match seconds(self.delay_seconds) {
                Duration::ZERO => RunAt::Now,
                delay => RunAt::In(delay),
            },
            max_attempts: self.max_attempts,
            timeout: seconds(self.timeout_seconds),
            unique_key: self.unique_key.clone(),
            idempotency_key: None,
            limit_key: self.limit_key.clone(),
            options: Options {
                backoff: self.backoff,
                traceparent,
                then: self.then.clone(),
                ..Options::default()
            },
            tags: self.tags.clone(),
            enqueued_by: None,
            batch: None,
            attempt: 0,
            crashes: 0,
            errors: Vec::new(),
            doubtful: false,
            discarded: false,
            // It has no idempotency key.
            encryption: Encryption::default(),
        }
    }

    /// Bytes of payload, of this one and all behind it.
    pub fn payload_bytes(&self) -> usize {
        self.payload.get().len() + self.then.as_ref().map_or(0, |then| then.payload_bytes())
    }
}

/// What was a duration when it was written.
fn seconds(number: f64) -> Duration {
    Duration::try_from_secs_f64(number).unwrap_or_default()
}
