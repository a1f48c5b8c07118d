//! What a job kind is: a serialisable type with a stable name and a `run`.
//!
//! ```
//! use holdfast_jobs::{Job, JobContext, JobError};
//! use schemars::JsonSchema;
//! use serde::{Deserialize, Serialize};
//!
//! #[derive(Serialize, Deserialize, JsonSchema)]
//! struct SendInvite {
//!     to: String,
//! }
//!
//! impl Job for SendInvite {
//!     const KIND: &'static str = "invite.send";
//!     type Output = ();
//!
//!     async fn run(self, ctx: JobContext) -> Result<(), JobError> {
//!         println!("attempt {} for {}", ctx.attempt(), self.to);
//!         Ok(())
//!     }
//! }
//! ```

use std::any::{Any, TypeId};
use std::collections::HashMap;
use std::fmt;
use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use schemars::JsonSchema;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;
use tokio_util::sync::CancellationToken;

use crate::id::JobId;
use crate::job_log::LogBuffer;
use crate::link::{EndedBatch, Previous};
use crate::retry::RetryPolicy;

/// A job kind. One file each, and one line in the registry.
///
/// # Schemas
/// Payload and result derive [`JsonSchema`], from which `GET /v1/kinds` and the OpenAPI document describe them, and by which payloads
/// are checked when they are enqueued over HTTP. The derive follows serde's attributes; `#[schemars(range(max = 100))]` and
/// `#[schemars(length(min = 1))]` add bounds. For a field whose type has no schema, `#[schemars(with = "String")]` names one that has
/// the same JSON; `#[schemars(with = "serde_json::Value")]` is any JSON.
pub trait Job: Serialize + DeserializeOwned + JsonSchema + Send + Sync + 'static {
    /// The stable name on the wire, such as `notify.email`.
    const KIND: &'static str;
    /// The queue a job of this kind goes to when the producer names none.
    const QUEUE: &'static str = "default";

    /// What `run` returns; stored as the job's result.
    type Output: Serialize + JsonSchema + Send;

    /// A payload to be shown with the schema. None by default.
    fn example() -> Option<Self> {
        None
    }

    /// Longest one attempt may take. `None`: the configured default.
    fn timeout() -> Option<Duration> {
        None
    }

    /// The kind's own retry policy. `None`: the configured default. The configuration of the kind or of its queue counts
    /// before it (see [`crate::retry`]).
    fn retry() -> Option<RetryPolicy> {
        None
    }

    /// The fields of the payload that only callers with the scope `admin` are shown, in jobs, dead letters, schedules, and what follows a
    /// job; that errors are cleaned of; and that are encrypted at rest where `HOLDFAST_ENCRYPTION_KEYS` is set. By their paths, such as
    /// `token`, `login.token` and `items[].secret` (see [`FieldPath`](crate::marks::FieldPath)). None by default.
    ///
    /// A path that cannot be read is a fault of the program: [`Registry::register`](crate::Registry::register) panics.
    fn secret_fields() -> &'static [SecretField] {
        &[]
    }

    /// Checked at enqueue, after the payload has parsed: a producer hears of a bad payload at once.
    fn validate(&self) -> Result<(), PayloadFault> {
        Ok(())
    }

    /// One attempt. It may be dropped at any await: after the timeout, a cancellation, or the end of the grace period.
    fn run(self, ctx: JobContext) -> impl Future<Output = Result<Self::Output, JobError>> + Send;
}

/// A field of a payload, by its path, and which part of it is secret.
pub type SecretField = (&'static str, SecretPart);

/// Which part of a field is secret.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SecretPart {
    /// All of it.
    Whole,
    /// Of a URL: the user, the password, the fragment and the values of the query.
    Url,
    /// Of an object of HTTP headers: the values of those that are not known to be public.
    Headers,
}

/// What is wrong with a payload, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {reason}")]
pub struct PayloadFault {
    /// Path from the payload's root, such as `headers.accept`; empty for the payload itself.
    pub field: String,
    pub reason: String,
}

impl PayloadFault {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
        }
    }

    /// The failure of a job whose payload was not checked when it was enqueued: `payload.headers.accept: …`.
    pub(crate) fn of_job(self) -> JobError {
        let Self { field, reason } = self;
        JobError::permanent(if field.is_empty() {
            format!("payload: {reason}")
        } else {
            format!("payload.{field}: {reason}")
        })
    }
}

/// How an attempt failed. The variant decides what happens next (see [`crate::retry::verdict`]).
///
/// Any `std::error::Error` becomes [`JobError::Transient`] through `?`.
#[derive(Debug)]
pub enum JobError {
    /// Try again after the backoff.
    Transient(Cause),
    /// Try again after the given rest.
    RetryAfter(Duration, Cause),
    /// Never try again: discard.
    Permanent(Cause),
    /// Run again later, without spending an attempt.
    Snooze(Duration),
    /// The job gave way to a cancellation.
    Cancelled,
    /// Set by the runner: the attempt exceeded its timeout.
    TimedOut(Duration),
    /// Set by the runner: the handler panicked.
    Panicked(String),
}

type Cause = Box<dyn std::error::Error + Send + Sync>;

impl JobError {
    pub fn transient(cause: impl Into<Cause>) -> Self {
        Self::Transient(cause.into())
    }

    pub fn permanent(cause: impl Into<Cause>) -> Self {
        Self::Permanent(cause.into())
    }

    pub fn retry_after(delay: Duration, cause: impl Into<Cause>) -> Self {
        Self::RetryAfter(delay, cause.into())
    }

    /// Run again after `delay`, without spending an attempt; up to [`crate::retry::MAX_SNOOZES`] times.
    pub fn snooze(delay: Duration) -> Self {
        Self::Snooze(delay)
    }

    /// The class recorded with the error: `transient`, `permanent`, `timeout`, `panic`, …
    pub fn class(&self) -> &'static str {
        match self {
            Self::Transient(_) | Self::RetryAfter(..) => "transient",
            Self::Permanent(_) => "permanent",
            Self::Snooze(_) => "snooze",
            Self::Cancelled => "cancelled",
            Self::TimedOut(_) => "timeout",
            Self::Panicked(_) => "panic",
        }
    }
}

impl<E: std::error::Error + Send + Sync + 'static> From<E> for JobError {
    fn from(error: E) -> Self {
        Self::Transient(Box::new(error))
    }
}

impl fmt::Display for JobError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Transient(cause) | Self::Permanent(cause) | Self::RetryAfter(_, cause) => {
                write!(f, "{cause}")?;
                let mut source = cause.source();
                while let Some(inner) = source {
                    write!(f, ": {inner}")?;
                    source = inner.source();
                }
                Ok(())
            }
            Self::Snooze(delay) => write!(f, "snoozed for {} s", delay.as_secs_f64()),
            Self::Cancelled => f.write_str("cancelled"),
            Self::TimedOut(after) => write!(f, "timed out after {} s", after.as_secs_f64()),
            Self::Panicked(message) => write!(f, "panicked: {message}"),
        }
    }
}

/// What handlers share: clients, pools, settings, by type.
#[derive(Clone, Default)]
pub struct Resources(Arc<HashMap<TypeId, Arc<dyn Any + Send + Sync>>>);

impl fmt::Debug for Resources {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Resources({})", self.0.len())
    }
}

impl Resources {
    /// Adds `value`, replacing an earlier one of the same type.
    #[must_use]
    pub fn with<T: Send + Sync + 'static>(self, value: T) -> Self {
        let mut map = Arc::unwrap_or_clone(self.0);
        map.insert(TypeId::of::<T>(), Arc::new(value));
        Self(Arc::new(map))
    }

    /// Adds every value of `other`, replacing those of the same types.
    #[must_use]
    pub fn with_all(self, other: &Self) -> Self {
        let mut map = Arc::unwrap_or_clone(self.0);
        let values = other.0.iter().map(|(kind, value)| (*kind, Arc::clone(value)));
        map.extend(values);
        Self(Arc::new(map))
    }

    pub fn get<T: Send + Sync + 'static>(&self) -> Option<Arc<T>> {
        self.0
            .get(&TypeId::of::<T>())
            .cloned()
            .and_then(|value| value.downcast().ok())
    }
}

/// What a running handler has reported and what is not stored yet.
#[derive(Debug, Clone, Default)]
pub(crate) struct Reports(Arc<PendingReports>);

#[derive(Debug, Default)]
struct PendingReports {
    /// The newest.
    progress: Mutex<Option<Arc<RawValue>>>,
    log: LogBuffer,
}

impl Reports {
    fn put_progress(&self, value: Arc<RawValue>) {
        *self.0.progress.lock().unwrap_or_else(PoisonError::into_inner) = Some(value);
    }

    pub(crate) fn take_progress(&self) -> Option<Arc<RawValue>> {
        self.0
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take()
    }

    pub(crate) fn log(&self) -> &LogBuffer {
        &self.0.log
    }
}

/// What a running job knows of itself, and its way to report progress and to hear of a cancellation.
#[derive(Debug, Clone)]
pub struct JobContext {
    pub(crate) id: JobId,
    pub(crate) queue: Arc<str>,
    pub(crate) attempt: u32,
    pub(crate) max_attempts: u32,
    pub(crate) cancel: CancellationToken,
    pub(crate) reports: Reports,
    pub(crate) resources: Resources,
    pub(crate) origin: Origin,
}

/// What the end of another job, or of a batch, told this one.
#[derive(Debug, Clone, Default)]
pub(crate) struct Origin {
    pub(crate) previous: Option<Previous>,
    pub(crate) ended_batch: Option<EndedBatch>,
}

impl JobContext {
    /// A context outside any worker: to run a handler by hand, in a test or a tool.
    pub fn detached(id: JobId, attempt: u32, max_attempts: u32, resources: Resources) -> Self {
        Self {
            id,
            queue: Arc::from("detached"),
            attempt,
            max_attempts,
            cancel: CancellationToken::new(),
            reports: Reports::default(),
            resources,
            origin: Origin::default(),
        }
    }

    pub fn id(&self) -> JobId {
        self.id
    }

    pub fn queue(&self) -> &str {
        &self.queue
    }

    /// 1-based number of this attempt.
    pub fn attempt(&self) -> u32 {
        self.attempt
    }

    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The job whose completion enqueued this one, and what it returned. `None`: this job is the next of no chain.
    pub fn previous(&self) -> Option<&Previous> {
        self.origin.previous.as_ref()
    }

    /// What the job before this one returned, as a value.
    ///
    /// # Errors
    /// Permanent: it returned something else, and will have at every attempt.
    pub fn previous_result<T: DeserializeOwned>(&self) -> Result<Option<T>, JobError> {
        let result = self.previous().and_then(|previous| previous.result.as_deref());
        result
            .map(|raw| serde_json::from_str(raw.get()))
            .transpose()
            .map_err(|error| JobError::permanent(format!("the result of the job before: {error}")))
    }

    /// How the batch ended whose callback this job is. `None`: it is no callback.
    pub fn ended_batch(&self) -> Option<EndedBatch> {
        self.origin.ended_batch
    }

    pub fn is_cancelled(&self) -> bool {
        self.cancel.is_cancelled()
    }

    /// Resolves when somebody cancels the job or the worker's grace period ends.
    pub async fn cancelled(&self) {
        self.cancel.cancelled().await;
    }

    /// Publishes progress, any JSON value; the newest one is stored with the next control poll.
    pub fn progress(&self, value: &impl Serialize) -> Result<(), JobError> {
        let raw = serde_json::value::to_raw_value(value)?;
        self.reports.put_progress(Arc::from(raw));
        Ok(())
    }

    /// Writes a line to the log of the job, which `GET /v1/jobs/{id}/log` and the console show. It is stored with the next control
    /// poll, or with the outcome.
    ///
    /// Of one line 4,096 bytes are stored, of a job the newest 1,000 lines with 256 KiB. The values of secret fields are taken out.
    /// A job of a `redis` queue has no log in the database: its lines go to the log of the process.
    pub fn log(&self, line: impl AsRef<str>) {
        self.reports.log().write(line.as_ref());
    }

    /// A shared resource that the worker was built with.
    ///
    /// # Errors
    /// Permanent: a worker that lacks it will lack it at every attempt.
    pub fn resource<T: Send + Sync + 'static>(&self) -> Result<Arc<T>, JobError> {
        self.resources.get::<T>().ok_or_else(|| {
            JobError::permanent(format!(
                "this worker was built without a {}",
                std::any::type_name::<T>()
            ))
        })
    }
}
