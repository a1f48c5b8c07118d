//! What a producer says and what it is told.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::Durability;
use serde_json::value::RawValue;

use crate::id::JobId;
use crate::ledger::Priority;
use crate::retry::Backoff;
use crate::state::State;

/// A job to be enqueued. Unset fields take the kind's or the configured default.
#[derive(Debug, Clone)]
pub struct JobRequest {
    pub kind: String,
    pub payload: Box<RawValue>,
    pub queue: Option<String>,
    pub run_at: Option<DateTime<Utc>>,
    pub delay: Option<Duration>,
    pub priority: Priority,
    pub max_attempts: Option<u32>,
    pub timeout: Option<Duration>,
    pub backoff: Option<Backoff>,
    pub unique_key: Option<String>,
    pub idempotency_key: Option<String>,
    /// Whose place and tokens the job takes in a queue with limits by key, such as a customer's.
    pub limit_key: Option<String>,
    pub traceparent: Option<String>,
    /// It is cancelled if it has not begun by then ([`crate::expiry`]).
    pub expires_at: Option<DateTime<Utc>>,
    /// Words by which it is found: at most [`MAX_TAGS`](super::MAX_TAGS), each once.
    pub tags: Vec<String>,
    /// Who enqueues it, as the audit log names them ([`crate::audit::Actor`]); never a key itself.
    pub enqueued_by: Option<Arc<str>>,
    /// Enqueued when this one completes, in the same transaction: its own `run_at`, expiry, idempotency key and trace are not
    /// its to choose.
    pub then: Option<Box<JobRequest>>,
}

impl JobRequest {
    pub fn new(kind: impl Into<String>, payload: Box<RawValue>) -> Self {
        Self {
            kind: kind.into(),
            payload,
            queue: None,
            run_at: None,
            delay: None,
            priority: Priority::Normal,
            max_attempts: None,
            timeout: None,
            backoff: None,
            unique_key: None,
            idempotency_key: None,
            limit_key: None,
            traceparent: None,
            expires_at: None,
            tags: Vec::new(),
            enqueued_by: None,
            then: None,
        }
    }
}

/// An accepted job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct EnqueuedJob {
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    pub state: State,
    /// Where the job lives: `Ledger` also for a job of a `redis` queue that the ledger took.
    pub durability: Durability,
    /// The job stood already, under the same key; `id` is the first one's.
    pub duplicate: bool,
}
