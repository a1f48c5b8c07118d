//! What answers look like. These are the wire format: the crates below may change their types without changing it.

use chrono::{DateTime, Utc};
use holdfast::redacted;
use holdfast_core::config::Durability;
use holdfast_jobs::enqueue::Enqueued;
use holdfast_jobs::ledger::{ErrorRecord, JobRecord, Priority, QueueStats, WorkerQueueStats, WorkerRecord};
use holdfast_jobs::limits::LimitsInForce;
use holdfast_jobs::link::Link;
use holdfast_jobs::{BatchId, JobId, State, WorkerId};

use super::enqueue::JobBody;
use super::limits::LimitsView;
use serde::Serialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;
use utoipa::ToSchema;

/// An accepted job.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedJob {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: JobId,
    kind: String,
    queue: String,
    #[schema(value_type = String, example = "available")]
    state: State,
    /// `ledger`: committed in SQL. `redis`: on the broker.
    #[schema(value_type = String, example = "ledger")]
    durability: &'static str,
    /// It stood already, under the same key; `id` is the first one's.
    duplicate: bool,
}

impl From<Enqueued> for AcceptedJob {
    fn from(job: Enqueued) -> Self {
        Self {
            id: job.id,
            kind: job.kind,
            queue: job.queue,
            state: job.state,
            durability: durability_name(job.durability),
            duplicate: job.duplicate,
        }
    }
}

pub(crate) const fn durability_name(durability: Durability) -> &'static str {
    match durability {
        Durability::Ledger => "ledger",
        Durability::Redis => "redis",
    }
}

/// An accepted batch.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct AcceptedBatch {
    accepted: usize,
    /// In the order of the request's `jobs`.
    #[schema(value_type = Vec<String>)]
    ids: Vec<JobId>,
}

impl From<Vec<Enqueued>> for AcceptedBatch {
    fn from(jobs: Vec<Enqueued>) -> Self {
        Self {
            accepted: jobs.len(),
            ids: jobs.into_iter().map(|job| job.id).collect(),
        }
    }
}

/// A job.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Job)]
pub(crate) struct JobView {
    #[schema(value_type = String, example = "01JD3V0S7W8Q4M2XKZC5T9R6BH")]
    id: JobId,
    kind: String,
    queue: String,
    /// scheduled, available, running, retryable, completed, discarded or cancelled.
    #[schema(value_type = String, example = "completed")]
    state: State,
    #[schema(value_type = String, example = "normal")]
    priority: Priority,
    #[schema(value_type = String, example = "ledger")]
    durability: &'static str,
    #[schema(value_type = Value)]
    payload: Box<RawValue>,
    /// Executions that came to an outcome.
    attempt: u32,
    max_attempts: u32,
    /// Executions that ended with their worker.
    crashes: u32,
    timeout_seconds: f64,
    unique_key: Option<String>,
    limit_key: Option<String>,
    /// When it may run, or might have first.
    run_at: DateTime<Utc>,
    created_at: DateTime<Utc>,
    started_at: Option<DateTime<Utc>>,
    finished_at: Option<DateTime<Utc>>,
    /// What the handler returned.
    #[schema(value_type = Option<Value>)]
    result: Option<Box<RawValue>>,
    /// What the running handler reported last.
    #[schema(value_type = Option<Value>)]
    progress: Option<Box<RawValue>>,
    /// One for each failed attempt and crash.
    errors: Vec<ErrorView>,
    /// Who runs it, or ran it last.
    #[schema(value_type = Option<String>)]
    worker: Option<WorkerId>,
    cancel_requested: bool,
    /// The batch that it is part of.
    #[schema(value_type = Option<String>)]
    batch: Option<BatchId>,
    /// What its completion enqueues, or has enqueued.
    #[schema(value_type = Option<JobBody>)]
    then: Option<Box<Link>>,
    /// The job that its completion has enqueued.
    #[schema(value_type = Option<String>)]
    child: Option<JobId>,
    /// The job whose completion enqueued it.
    #[schema(value_type = Option<String>)]
    parent: Option<JobId>,
    /// The batch whose callback it is.
    #[schema(value_type = Option<String>)]
    callback_of: Option<BatchId>,
}

impl JobView {
    pub(crate) fn new(record: JobRecord, durability: Durability) -> Self {
        // Taken apart by name, so that a new field cannot be forgotten here.
        let JobRecord {
            id,
            kind,
            queue,
            state,
            priority,
            payload,
            attempt,
            max_attempts,
            crashes,
            timeout_seconds,
            unique_key,
            limit_key,
            run_at,
            created_at,
            started_at,
            finished_at,
            result,
            progress,
            errors,
            worker,
            cancel_requested,
            batch,
            then,
            child,
            parent,
            callback_of,
        } = record;
        Self {
            id,
            kind,
            queue,
            state,
            priority,
            durability: durability_name(durability),
            payload,
            attempt,
            max_attempts,
            crashes,
            timeout_seconds,
            unique_key,
            limit_key,
            run_at,
            created_at,
            started_at,
            finished_at,
            result,
            progress,
            errors: errors.into_iter().map(ErrorView::from).collect(),
            worker,
            cancel_requested,
            batch,
            then,
            child,
            parent,
            callback_of,
        }
    }

    /// As it is shown to a caller who does not see secrets.
    pub(crate) fn redact(&mut self) {
        if let Some(shown) = redacted(&self.kind, &self.payload) {
            self.payload = shown;
        }
        let mut next = self.then.as_deref_mut();
        while let Some(link) = next {
            if let Some(shown) = redacted(&link.kind, &link.payload) {
                link.payload = shown;
            }
            next = link.then.as_deref_mut();
        }
    }

    /// About how many bytes it takes: what it holds of its producer's and its handler's own.
    pub(crate) fn weight(&self) -> usize {
        let raw = |value: &Option<Box<RawValue>>| value.as_ref().map_or(0, |value| value.get().len());
        let errors: usize = self.errors.iter().map(|error| error.message.len()).sum();
        let then = self.then.as_ref().map_or(0, |then| then.payload_bytes());
        self.payload.get().len() + then + raw(&self.result) + raw(&self.progress) + errors
    }

    pub(crate) fn id(&self) -> JobId {
        self.id
    }
}

/// One failed attempt, or crash.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = JobFailure)]
pub(crate) struct ErrorView {
    at: DateTime<Utc>,
    attempt: u32,
    /// transient, permanent, timeout, panic, crash, …
    #[schema(value_type = String)]
    class: Cow<'static, str>,
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    worker: Option<String>,
}

impl From<ErrorRecord> for ErrorView {
    fn from(record: ErrorRecord) -> Self {
        let ErrorRecord {
            at,
            attempt,
            class,
            message,
            worker,
        } = record;
        Self {
            at,
            attempt,
            class,
            message,
            worker,
        }
    }
}

/// One page of jobs, newest first.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct JobPage {
    pub(crate) jobs: Vec<JobView>,
    /// Ask for `after=<next>` to read on. Null: this was the last page.
    #[schema(value_type = Option<String>)]
    pub(crate) next: Option<JobId>,
}

/// What became of a request to cancel or retry.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SteeredJob {
    #[schema(value_type = String)]
    pub(crate) id: JobId,
    /// The job's state now. `running` after a cancellation: it has been asked to give way.
    #[schema(value_type = String, example = "cancelled")]
    pub(crate) state: State,
}

/// One queue, counted.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Queue)]
pub(crate) struct QueueView {
    name: String,
    /// `ledger` or `redis`; null: it holds jobs but the configuration no longer names it.
    #[schema(value_type = Option<String>)]
    durability: Option<&'static str>,
    paused: bool,
    depth: DepthView,
    /// How long the oldest job that is due has waited.
    oldest_age_seconds: f64,
    /// How long the due jobs would take at the present rate; null while nothing is done. What the limits allow is in it, what is
    /// yet to come is not.
    drain_seconds: Option<f64>,
    /// What the workers that are alive do with this queue.
    rates: RateView,
    limits: LimitsView,
}

/// Jobs by state. Completed and cancelled ones are not counted: there may be millions.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = QueueDepth)]
pub(crate) struct DepthView {
    available: u64,
    scheduled: u64,
    retryable: u64,
    running: u64,
    discarded: u64,
}

/// Sums over the workers that are alive.
#[derive(Debug, Default, Clone, Copy, Serialize, ToSchema)]
#[schema(as = QueueRates)]
pub(crate) struct RateView {
    workers: usize,
    /// Outcomes a second since the workers' last heartbeats.
    per_second: f64,
    /// Since the workers started.
    completed: u64,
    failed: u64,
}

impl RateView {
    pub(crate) fn add(&mut self, stats: &WorkerQueueStats) {
        self.workers += 1;
        self.per_second += stats.per_second;
        self.completed += stats.completed;
        self.failed += stats.failed;
    }

    /// `None`: nothing is done, so nobody can tell.
    fn drain_seconds(&self, available: u64) -> Option<f64> {
        if available == 0 {
            return Some(0.0);
        }
        (self.per_second > 0.0).then(|| available as f64 / self.per_second)
    }
}

impl QueueView {
    pub(crate) fn new(
        stats: QueueStats,
        durability: Option<Durability>,
        rates: RateView,
        limits: LimitsInForce,
    ) -> Self {
        let QueueStats {
            queue,
            paused,
            available,
            scheduled,
            retryable,
            running,
            discarded,
            oldest_age_seconds,
        } = stats;
        Self {
            name: queue,
            durability: durability.map(durability_name),
            paused,
            depth: DepthView {
                available,
                scheduled,
                retryable,
                running,
                discarded,
            },
            oldest_age_seconds,
            drain_seconds: rates.drain_seconds(available),
            rates,
            limits: limits.into(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct QueueList {
    pub(crate) queues: Vec<QueueView>,
}

/// What became of a request to pause or resume.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct SteeredQueue {
    pub(crate) name: String,
    pub(crate) paused: bool,
}

/// A worker process.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = Worker)]
pub(crate) struct WorkerView {
    #[schema(value_type = String)]
    id: WorkerId,
    /// For people: host, process and boot.
    name: String,
    /// Heard of recently. One that is not is lost: its jobs are, or will soon be, rescued.
    alive: bool,
    queues: Vec<String>,
    started_at: DateTime<Utc>,
    seen_at: DateTime<Utc>,
    seen_seconds_ago: f64,
    /// By queue.
    stats: BTreeMap<String, WorkerQueueView>,
}

/// What a worker does with one queue.
#[derive(Debug, Serialize, ToSchema)]
#[schema(as = WorkerQueue)]
pub(crate) struct WorkerQueueView {
    running: u64,
    completed: u64,
    failed: u64,
    per_second: f64,
}

impl WorkerView {
    pub(crate) fn new(record: WorkerRecord, alive: bool) -> Self {
        let WorkerRecord {
            id,
            name,
            queues,
            started_at,
            seen_at,
            seen_seconds_ago,
            stats,
        } = record;
        let view = |stats: WorkerQueueStats| {
            let WorkerQueueStats {
                running,
                completed,
                failed,
                per_second,
            } = stats;
            WorkerQueueView {
                running,
                completed,
                failed,
                per_second,
            }
        };
        Self {
            id,
            name,
            alive,
            queues,
            started_at,
            seen_at,
            seen_seconds_ago,
            stats: stats
                .into_iter()
                .map(|(queue, stats)| (queue, view(stats)))
                .collect(),
        }
    }
}

#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct WorkerList {
    pub(crate) workers: Vec<WorkerView>,
}

/// Every error (RFC 9457). For the document; [`crate::problem::Problem`] writes it.
#[derive(Debug, ToSchema)]
#[schema(as = Problem)]
#[allow(dead_code, reason = "the schema is what it is for")]
pub(crate) struct ProblemBody {
    /// Never changes for a kind of problem.
    #[schema(rename = "type", example = "urn:holdfast:problem:unknown-kind")]
    kind: String,
    title: String,
    status: u16,
    detail: String,
    /// The path that was asked for.
    instance: Option<String>,
    /// What is wrong: the path of a field, or the name of a header or parameter.
    field: Option<String>,
    /// Which job of a batch, from 0.
    index: Option<usize>,
    /// Every fault that was found.
    errors: Option<Vec<FaultBody>>,
    /// Of malformed JSON.
    line: Option<usize>,
    column: Option<usize>,
    job_id: Option<String>,
    /// What the server's log calls this request; also in `X-Request-Id`.
    request_id: Option<String>,
}

#[derive(Debug, ToSchema)]
#[schema(as = Fault)]
#[allow(dead_code, reason = "the schema is what it is for")]
pub(crate) struct FaultBody {
    field: String,
    reason: String,
    index: Option<usize>,
}
