//! What goes into the ledger and what comes out of it.

use std::borrow::Cow;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::encryption::Encryption;
use holdfast_core::failure::{SqlFailureKind, classify_sql};
use serde::{Deserialize, Serialize};
use serde_json::value::RawValue;

use crate::failures;
use crate::id::{BatchId, JobId, WorkerId};
use crate::link::{EndedBatch, Link, Previous};
use crate::retry::Backoff;
use crate::state::{State, StoredState, Transition};

/// Most urgent first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Priority {
    High,
    #[default]
    Normal,
    Low,
}

impl Priority {
    pub const ALL: [Self; 3] = [Self::High, Self::Normal, Self::Low];

    /// As stored: 0, 1, 2.
    pub const fn rank(self) -> i16 {
        match self {
            Self::High => 0,
            Self::Normal => 1,
            Self::Low => 2,
        }
    }

    pub const fn from_rank(rank: i16) -> Self {
        match rank {
            ..=0 => Self::High,
            1 => Self::Normal,
            _ => Self::Low,
        }
    }
}

/// When a job may first run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RunAt {
    Now,
    /// After the server's now.
    In(Duration),
    /// A time that has passed is stored as the server's now: claims have come further than that.
    At(DateTime<Utc>),
    /// A tick of a schedule. It is stored as it is, also when it has passed: ticks that are caught up with run in their order.
    Tick(DateTime<Utc>),
}

/// A checked job, ready to be written. Only [`crate::enqueue`] makes these from what producers say.
#[derive(Debug, Clone)]
pub struct NewJob {
    pub id: JobId,
    pub kind: Arc<str>,
    pub queue: Arc<str>,
    pub payload: Arc<RawValue>,
    pub priority: Priority,
    pub run_at: RunAt,
    pub max_attempts: u32,
    pub timeout: Duration,
    /// At most one job of the kind with this key is waiting or running.
    pub unique_key: Option<String>,
    /// At most one job with this key is ever accepted while its row is kept.
    pub idempotency_key: Option<String>,
    /// Whose place and tokens it takes in a queue with limits by key ([`crate::limits`]).
    pub limit_key: Option<String>,
    pub options: Options,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// Who enqueued it; see [`JobRequest::enqueued_by`](crate::enqueue::JobRequest::enqueued_by).
    pub enqueued_by: Option<Arc<str>>,
    /// Which batch counts its end.
    pub batch: Option<BatchId>,
    /// Attempts that came to an outcome before the job came here: those of a `redis` job on the broker.
    pub attempt: u32,
    pub crashes: u32,
    pub errors: Vec<ErrorRecord>,
    /// A push of this very job to the broker got no answer: it may stand there too.
    pub doubtful: bool,
    /// A dead letter from the broker: it is kept, and not run.
    pub discarded: bool,
    /// Opens the payload of the job that has the same idempotency key.
    pub encryption: Encryption,
}

/// What few jobs carry.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Options {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub backoff: Option<Backoff>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub traceparent: Option<String>,
    /// What its completion enqueues.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub then: Option<Box<Link>>,
    /// The job whose completion enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub previous: Option<Previous>,
    /// The batch whose end enqueued it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ended_batch: Option<EndedBatch>,
    /// It was enqueued by SQL, which cannot check payloads: its first attempt begins with that check.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unchecked: bool,
    /// It is cancelled if it has not begun by then ([`crate::expiry`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<DateTime<Utc>>,
}

impl Options {
    pub fn is_empty(&self) -> bool {
        let Self {
            backoff,
            traceparent,
            then,
            previous,
            ended_batch,
            unchecked,
            expires_at,
        } = self;
        !unchecked
            && expires_at.is_none()
            && backoff.is_none()
            && traceparent.is_none()
            && then.is_none()
            && previous.is_none()
            && ended_batch.is_none()
    }
}

/// What became of one job of an insert.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum InsertOutcome {
    New(JobId),
    /// A job with the same key stands already, and says the same.
    Duplicate(JobId),
    /// A job with the same idempotency key stands already, and says something else.
    Conflict(JobId),
}

impl InsertOutcome {
    pub fn id(&self) -> JobId {
        match self {
            Self::New(id) | Self::Duplicate(id) | Self::Conflict(id) => *id,
        }
    }
}

/// A leased job.
#[derive(Debug, Clone)]
pub struct ClaimedJob {
    pub id: JobId,
    pub kind: String,
    pub payload: Box<RawValue>,
    /// Outcomes before this execution.
    pub attempt: u32,
    pub crashes: u32,
    pub max_attempts: u32,
    pub timeout: Duration,
    pub options: Options,
    pub batch: Option<BatchId>,
    pub priority: Priority,
    pub run_at: DateTime<Utc>,
    /// How often it was put back by its own wish.
    pub snoozes: u32,
    pub doubtful: bool,
    /// What of its row cannot be read, and why: a newer version wrote it, or it is damaged. Such a job must not run; it is
    /// to be discarded under its fence, and its row stays as it is.
    pub unreadable: Option<String>,
    /// Its `expires_at` had passed when it was claimed: it must not run, and is to be cancelled under its fence.
    pub expired: bool,
}

/// Which execution of a job speaks. With the worker's id it fences every outcome.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Fence {
    pub id: JobId,
    pub attempt: u32,
    pub crashes: u32,
}

impl ClaimedJob {
    pub fn fence(&self) -> Fence {
        Fence {
            id: self.id,
            attempt: self.attempt,
            crashes: self.crashes,
        }
    }

    /// The time after which it must not begin; `None` also for a job that has begun before.
    pub(crate) fn expires_at(&self) -> Option<DateTime<Utc>> {
        let is_fresh = self.attempt == 0 && self.crashes == 0 && self.snoozes == 0;
        self.options.expires_at.filter(|_| is_fresh)
    }

    /// Whether its payload is still to be checked. A job that was tried once was accepted then, also if its schema has changed.
    pub(crate) fn is_unchecked(&self) -> bool {
        self.options.unchecked && self.attempt == 0
    }
}

/// What becomes of a running job.
#[derive(Debug, Clone)]
pub enum Outcome {
    Completed {
        fence: Fence,
        result: Option<Arc<RawValue>>,
    },
    Retry {
        fence: Fence,
        delay: Duration,
        error: ErrorRecord,
    },
    /// Not an attempt: the handler asked to be run later.
    Snooze {
        fence: Fence,
        delay: Duration,
    },
    Discard {
        fence: Fence,
        error: ErrorRecord,
    },
    Cancel {
        fence: Fence,
        error: Option<ErrorRecord>,
    },
    /// A stopping worker gives back what it did not finish; not an attempt, not a crash.
    HandBack {
        fence: Fence,
    },
}

impl Outcome {
    pub(crate) const fn transition(&self) -> Transition {
        match self {
            Self::Completed { .. } => Transition::Complete,
            Self::Retry { .. } | Self::Snooze { .. } => Transition::Retry,
            Self::Discard { .. } => Transition::Discard,
            Self::Cancel { .. } => Transition::Cancel,
            Self::HandBack { .. } => Transition::Return,
        }
    }

    /// The state that it leaves the job in.
    pub(crate) fn state(&self) -> StoredState {
        // Every transition above is legal from `running`; state.rs has the test.
        StoredState::Running
            .after(self.transition())
            .unwrap_or(StoredState::Available)
    }

    /// The word of metrics and traces.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Completed { .. } => "completed",
            Self::Retry { .. } => "retry",
            Self::Snooze { .. } => "snoozed",
            Self::Discard { .. } => "discarded",
            Self::Cancel { .. } => "cancelled",
            Self::HandBack { .. } => "handed_back",
        }
    }

    pub fn fence(&self) -> &Fence {
        match self {
            Self::Completed { fence, .. }
            | Self::Retry { fence, .. }
            | Self::Snooze { fence, .. }
            | Self::Discard { fence, .. }
            | Self::Cancel { fence, .. }
            | Self::HandBack { fence } => fence,
        }
    }
}

/// One failed attempt or crash, as kept with the job.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ErrorRecord {
    pub at: DateTime<Utc>,
    /// 1-based attempt that failed; for a crash, the attempt that was under way.
    pub attempt: u32,
    /// `transient`, `permanent`, `timeout`, `panic`, `crash`, …
    pub class: Cow<'static, str>,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub worker: Option<String>,
    /// Of an error that discards its job: what it has in common with others ([`crate::failures`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    /// When the attempt began. `None`: it did not, or a release before wrote the error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub started_at: Option<DateTime<Utc>>,
}

/// Longest error message that is kept, in bytes. A job keeps one error for each attempt and crash, and both are bounded.
pub const MAX_ERROR_BYTES: usize = 4_096;

impl ErrorRecord {
    /// Cuts the message to [`MAX_ERROR_BYTES`] and drops NUL characters, which PostgreSQL cannot hold.
    pub fn new(at: DateTime<Utc>, attempt: u32, class: &'static str, message: &str, worker: &str) -> Self {
        let mut message = message.replace('\0', "");
        let mut end = MAX_ERROR_BYTES.min(message.len());
        while !message.is_char_boundary(end) {
            end -= 1;
        }
        message.truncate(end);
        Self {
            at,
            attempt,
            class: Cow::Borrowed(class),
            message,
            worker: Some(worker.to_owned()),
            fingerprint: None,
            started_at: None,
        }
    }

    /// Of an attempt that ran for so long.
    #[must_use]
    pub fn after(mut self, ran_for: Option<Duration>) -> Self {
        let ran_for = ran_for.and_then(|ran_for| chrono::Duration::from_std(ran_for).ok());
        self.started_at = ran_for.and_then(|ran_for| self.at.checked_sub_signed(ran_for));
        self
    }

    /// Of an error that discards a job of this kind.
    #[must_use]
    pub fn with_fingerprint(mut self, kind: &str) -> Self {
        self.fingerprint = Some(failures::fingerprint(kind, &self.class, &self.message));
        self
    }
}

#[derive(Debug, Clone)]
pub struct Progress {
    pub fence: Fence,
    pub value: Arc<RawValue>,
}

/// What one step of the pruner came to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct PruneReport {
    pub deleted: u64,
    /// Whether the next step may find more immediately.
    pub has_more: bool,
}

#[derive(Debug, Clone, Copy)]
pub struct Retention {
    pub completed: Duration,
    pub discarded: Duration,
}

/// A job as its users see it.
#[derive(Debug, Clone, Serialize)]
pub struct JobRecord {
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    pub state: State,
    pub priority: Priority,
    pub payload: Box<RawValue>,
    pub attempt: u32,
    pub max_attempts: u32,
    pub crashes: u32,
    pub timeout_seconds: f64,
    pub unique_key: Option<String>,
    pub limit_key: Option<String>,
    pub run_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub result: Option<Box<RawValue>>,
    pub progress: Option<Box<RawValue>>,
    pub errors: Vec<ErrorRecord>,
    /// The worker that runs it, or ran it last.
    pub worker: Option<WorkerId>,
    pub cancel_requested: bool,
    pub batch: Option<BatchId>,
    /// The follow-up job that its completion enqueues or enqueued.
    pub then: Option<Box<Link>>,
    /// The job that its completion enqueued.
    pub child: Option<JobId>,
    /// The job whose completion enqueued it.
    pub parent: Option<JobId>,
    /// The batch whose callback the job is.
    pub callback_of: Option<BatchId>,
    /// It is cancelled if it has not begun by then.
    pub expires_at: Option<DateTime<Utc>>,
    /// Words by which it is found.
    pub tags: Vec<String>,
    /// Who enqueued it. `None`: the program itself, another job's end, or a release before.
    pub enqueued_by: Option<String>,
}

/// Which jobs to list.
#[derive(Debug, Clone, Default)]
pub struct JobFilter {
    pub queue: Option<String>,
    pub state: Option<State>,
    pub kind: Option<String>,
    pub batch: Option<BatchId>,
    /// Only jobs older than this one.
    pub after: Option<JobId>,
    pub limit: usize,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelReply {
    /// It will never run.
    Cancelled,
    /// It runs; it has been asked to give way.
    Requested,
    /// It had ended before, in this state.
    AlreadyFinal(State),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RetryReply {
    Available {
        queue: String,
    },
    /// It is running, or has ended in a state that is never left.
    Refused(State),
    /// It stays discarded: another job of its kind with its unique key waits or runs.
    UniqueKeyTaken,
}

impl RetryReply {
    /// What to tell whoever met [`Self::UniqueKeyTaken`].
    pub const UNIQUE_KEY_TAKEN: &str =
        "another job of its kind with its unique_key waits or runs; end that one first";

    /// The reply to a statement that would have made two jobs with one unique key wait or run.
    pub(super) fn unless_taken(error: sqlx::Error) -> Result<Option<Self>, sqlx::Error> {
        match classify_sql(&error).kind {
            SqlFailureKind::Unique => Ok(Some(Self::UniqueKeyTaken)),
            _ => Err(error),
        }
    }
}

/// One queue, counted.
#[derive(Debug, Clone, Default, PartialEq, Serialize)]
pub struct QueueStats {
    pub queue: String,
    pub paused: bool,
    pub available: u64,
    pub scheduled: u64,
    pub retryable: u64,
    pub running: u64,
    pub discarded: u64,
    /// Age of the oldest job that is due and waits, in seconds.
    pub oldest_age_seconds: f64,
}

/// How jobs are accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Insertion {
    /// The jobs are one request: if one of them is an [`InsertOutcome::Conflict`], none is accepted, whatever the answers say of the
    /// others. Otherwise each job is a request of its own, and a conflict leaves out itself alone.
    pub whole: bool,
    /// Their idempotency keys were made of one: a repeat must find all of them or none, or it is another request, and a
    /// [`InsertOutcome::Conflict`].
    pub one_key: bool,
    /// How long to wait for a key that another open transaction holds, where the connection's own bound is too long.
    pub lock_wait: Option<Duration>,
    /// Nothing is kept: the answer tells whether the keys are free.
    pub dry: bool,
}

impl Insertion {
    /// Whether the transaction that gave these answers is to be committed.
    pub(super) fn keeps(&self, accepted: &[InsertOutcome]) -> bool {
        let conflicts = accepted
            .iter()
            .any(|one| matches!(one, InsertOutcome::Conflict(_)));
        !(self.dry || self.whole && conflicts)
    }

    pub const WHOLE: Self = Self {
        whole: true,
        one_key: false,
        lock_wait: None,
        dry: false,
    };
}

/// What became of outcomes that were written without waiting for a lock. Those in neither list are void: their leases were
/// lost.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FreeFinish {
    pub stored: Vec<JobId>,
    /// Their fences hold, and somebody has locked their rows.
    pub locked: Vec<JobId>,
}

/// A row whose push to the broker was never answered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Doubtful {
    pub id: JobId,
    pub queue: String,
}
