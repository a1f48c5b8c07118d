//! What a snapshot of the stream says: queues, workers, Redis and the database at one moment.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::mode::Mode;
use holdfast_jobs::ledger::{QueueStats, WorkerRecord};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use utoipa::openapi::schema::{AnyOfBuilder, Type};
use utoipa::openapi::{Object, ObjectBuilder, Ref, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::workers::is_alive;

/// Queues of a snapshot: those with the most waiting jobs.
const MAX_QUEUES: usize = 200;

/// The state of an installation, as one process sees it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = Overview)]
pub struct OverviewView {
    /// When the snapshot was made.
    pub at: DateTime<Utc>,
    /// `healthy`, `degraded`: jobs are accepted, but something is wrong; `unhealthy`: no jobs are accepted.
    pub status: String,
    /// Why it is not healthy.
    pub problems: Vec<OverviewProblem>,
    pub redis: ModeView,
    pub database: ModeView,
    /// When the queues and workers were counted; null: not yet.
    pub counted_at: Option<DateTime<Utc>>,
    /// By name; of more than 200 those with the most waiting jobs.
    pub queues: Vec<OverviewQueue>,
    pub workers: OverviewWorkers,
}

/// Something that is wrong now.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OverviewProblem {
    /// `database-unavailable`, `redis-unavailable`, `no-workers` or `queue-without-workers`.
    pub code: String,
    /// Of `queue-without-workers`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub queue: Option<String>,
    pub message: String,
}

/// Whether a dependency can be used.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
#[schema(as = DependencyMode)]
pub struct ModeView {
    /// `normal`, `degraded`, or `absent`: it is not configured.
    pub mode: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub since: Option<DateTime<Utc>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OverviewQueue {
    pub name: String,
    pub paused: bool,
    pub available: u64,
    pub scheduled: u64,
    pub retryable: u64,
    pub running: u64,
    pub discarded: u64,
    pub oldest_age_seconds: f64,
    /// Living workers that serve it.
    pub workers: usize,
    /// Outcomes a second, from the workers' last heartbeats.
    pub per_second: f64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize, ToSchema)]
pub struct OverviewWorkers {
    pub alive: usize,
    /// Silent, with jobs that are not rescued yet.
    pub lost: usize,
    /// Of the living ones: asked to take no more jobs.
    pub draining: usize,
    pub running: u64,
    pub per_second: f64,
}

impl From<Mode> for ModeView {
    fn from(mode: Mode) -> Self {
        let (word, since, reason) = match mode {
            Mode::Normal => ("normal", None, None),
            Mode::Absent => ("absent", None, None),
            Mode::Degraded { since, reason } => ("degraded", Some(since), Some(reason.as_str().to_owned())),
        };
        Self {
            mode: word.to_owned(),
            since,
            reason,
        }
    }
}

/// The living workers of a queue.
#[derive(Debug, Clone, Copy, Default)]
struct QueueWorkers {
    workers: usize,
    per_second: f64,
}

/// What was read from the database last.
#[derive(Debug, Default)]
pub(crate) struct Counts {
    pub(crate) at: Option<DateTime<Utc>>,
    pub(crate) queues: Vec<QueueStats>,
    pub(crate) workers: Vec<WorkerRecord>,
}

impl OverviewView {
    pub(crate) fn new([redis, database]: [Mode; 2], counts: &Counts, lost_after: Duration) -> Self {
        let mut workers = OverviewWorkers::default();
        let mut served: BTreeMap<&str, QueueWorkers> = BTreeMap::new();
        for worker in &counts.workers {
            if !is_alive(worker, lost_after) {
                workers.lost += 1;
                continue;
            }
            workers.alive += 1;
            workers.draining += usize::from(worker.draining);
            for queue in &worker.queues {
                served.entry(queue).or_default().workers += 1;
            }
            for (queue, stats) in &worker.stats {
                served.entry(queue).or_default().per_second += stats.per_second;
                workers.running += stats.running;
                workers.per_second += stats.per_second;
            }
        }
        let queues: Vec<_> = counts
            .queues
            .iter()
            .map(|queue| OverviewQueue::new(queue, served.get(&*queue.queue).copied().unwrap_or_default()))
            .collect();
        let mut problems = problems(redis, database);
        if counts.at.is_some() && workers.alive == 0 {
            problems.push(OverviewProblem::new(
                "no-workers",
                None,
                "no worker is alive: jobs are accepted and wait",
            ));
        } else {
            problems.extend(queues.iter().filter(|queue| queue.is_unserved()).map(|queue| {
                let message = "jobs wait, and no living worker serves the queue";
                OverviewProblem::new("queue-without-workers", Some(&queue.name), message)
            }));
        }
        let status = match (database.is_degraded(), problems.is_empty()) {
            (true, _) => "unhealthy",
            (false, false) => "degraded",
            (false, true) => "healthy",
        };
        Self {
            at: clock::now(),
            status: status.to_owned(),
            problems,
            redis: redis.into(),
            database: database.into(),
            counted_at: counts.at,
            queues: bounded(queues),
            workers,
        }
    }

    /// Of what it says, without when it was made.
    pub(crate) fn hash(&self) -> String {
        let content = Self {
            at: DateTime::UNIX_EPOCH,
            counted_at: None,
            ..self.clone()
        };
        let digest = Sha256::digest(serde_json::to_vec(&content).unwrap_or_default());
        let first: [u8; 8] = std::array::from_fn(|at| digest[at]);
        format!("{:016x}", u64::from_be_bytes(first))
    }
}

fn problems(redis: Mode, database: Mode) -> Vec<OverviewProblem> {
    let of = |mode: Mode, code: &str, effect: &str| {
        let reason = mode.reason()?;
        let message = format!("{effect} ({})", reason.as_str());
        Some(OverviewProblem::new(code, None, &message))
    };
    let database = of(
        database,
        "database-unavailable",
        "the database is unavailable: ledger queues accept nothing",
    );
    let redis = of(
        redis,
        "redis-unavailable",
        "Redis is unavailable: workers poll, and nothing is lost",
    );
    database.into_iter().chain(redis).collect()
}

fn bounded(mut queues: Vec<OverviewQueue>) -> Vec<OverviewQueue> {
    if queues.len() > MAX_QUEUES {
        queues.sort_by_key(|queue| std::cmp::Reverse(queue.available));
        queues.truncate(MAX_QUEUES);
        queues.sort_by(|one, other| one.name.cmp(&other.name));
    }
    queues
}

impl OverviewProblem {
    fn new(code: &str, queue: Option<&str>, message: &str) -> Self {
        Self {
            code: code.to_owned(),
            queue: queue.map(ToOwned::to_owned),
            message: message.to_owned(),
        }
    }
}

impl OverviewQueue {
    fn new(stats: &QueueStats, served: QueueWorkers) -> Self {
        Self {
            name: stats.queue.clone(),
            paused: stats.paused,
            available: stats.available,
            scheduled: stats.scheduled,
            retryable: stats.retryable,
            running: stats.running,
            discarded: stats.discarded,
            oldest_age_seconds: stats.oldest_age_seconds,
            workers: served.workers,
            per_second: served.per_second,
        }
    }

    fn is_unserved(&self) -> bool {
        self.available > 0 && self.workers == 0 && !self.paused
    }
}

/// The body of the stream, as the document describes it.
#[derive(Debug)]
pub struct EventStream;

/// Some readers of documents take the schema of `text/event-stream` for that of the whole text, others for that of each event.
impl PartialSchema for EventStream {
    fn schema() -> RefOr<Schema> {
        let either = AnyOfBuilder::new()
            .item(Object::with_type(Type::String))
            .item(Ref::from_schema_name(StreamEvent::name()))
            .description(Some("Events of the stream."));
        Schema::AnyOf(either.build()).into()
    }
}

impl ToSchema for EventStream {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((StreamEvent::name().into_owned(), StreamEvent::schema()));
        StreamEvent::schemas(schemas);
    }
}

/// One event of the stream, as the document describes it. `data` is JSON, whose schema is in `refinements.json`.
#[derive(Debug)]
pub struct StreamEvent;

impl PartialSchema for StreamEvent {
    fn schema() -> RefOr<Schema> {
        let fields = [
            ("event", "`overview`"),
            ("id", "For `Last-Event-ID`"),
            ("data", "JSON, as `event` says: an `Overview`"),
        ];
        let event = fields
            .into_iter()
            .fold(ObjectBuilder::new(), |object, (name, text)| {
                let field = ObjectBuilder::new()
                    .schema_type(Type::String)
                    .description(Some(text));
                object.property(name, field).required(name)
            });
        event.description(Some("An event of the stream.")).into()
    }
}

impl ToSchema for StreamEvent {
    fn schemas(schemas: &mut Vec<(String, RefOr<Schema>)>) {
        schemas.push((OverviewView::name().into_owned(), OverviewView::schema()));
        OverviewView::schemas(schemas);
    }
}
