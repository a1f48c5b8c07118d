//! What happens now, as server-sent events.
//!
//! One snapshot a second is made for all readers of a process, and none while there is no reader. It costs one statement a second,
//! however many look.
//!
//! # Invariants
//! - A snapshot is one text that all readers share. A reader that is slower than a second misses snapshots and gets the newest; one that
//!   takes nothing for 30 s is disconnected by the server, like any client.
//! - A stream ends after [`LONGEST`], before proxies of platforms cut it; the client reconnects with `Last-Event-ID`. The id is a hash of
//!   the snapshot, so it means the same to every process, and a client that has the newest snapshot is not sent it again.
//! - A caller that may no longer read is disconnected within [`RECHECK`] after the process knows.
//!
//! # When things fail
//! While the database is unavailable the snapshot says so, with the last counts and when they were made.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use chrono::{DateTime, Utc};
use futures::stream;
use holdfast_core::clock;
use holdfast_core::mode::Mode;
use holdfast_http::authentication::still_may_read;
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Call, Read, Reply, ServerContext, WithQuery};
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::{LedgerError, QueueStats, WorkerRecord};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, interval, sleep, sleep_until};
use utoipa::openapi::schema::Type;
use utoipa::openapi::{ObjectBuilder, RefOr, Schema};
use utoipa::{PartialSchema, ToSchema};

use crate::state::ControlState;
use crate::workers::is_alive;

/// Between two snapshots.
const PERIOD: Duration = Duration::from_secs(1);

/// A snapshot that says nothing new is sent after this long, so that a reader knows how old it is.
const REPEAT: Duration = Duration::from_secs(5);

/// Longest stream. Proxies of platforms cut responses after five minutes.
const LONGEST: Duration = Duration::from_mins(4);

/// How often it is checked that a caller may still read.
const RECHECK: Duration = Duration::from_secs(2);

/// Readers of one process.
const MAX_READERS: usize = 256;

/// What a reader that finds no place is told to wait.
const RETRY_AFTER: Duration = Duration::from_secs(10);

/// Queues of a snapshot: those with the most waiting jobs.
const MAX_QUEUES: usize = 200;

/// Where a client continues.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

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
struct Served {
    workers: usize,
    per_second: f64,
}

/// What was read from the database last.
#[derive(Debug, Default)]
struct Counts {
    at: Option<DateTime<Utc>>,
    queues: Vec<QueueStats>,
    workers: Vec<WorkerRecord>,
}

impl OverviewView {
    fn new([redis, database]: [Mode; 2], counts: &Counts, lost_after: Duration) -> Self {
        let mut workers = OverviewWorkers::default();
        let mut served: BTreeMap<&str, Served> = BTreeMap::new();
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
    fn hash(&self) -> String {
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
    fn new(stats: &QueueStats, served: Served) -> Self {
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

/// A snapshot as it is sent.
#[derive(Debug)]
struct Frame {
    id: String,
    text: Bytes,
}

impl Frame {
    fn new(overview: &OverviewView) -> Self {
        let id = overview.hash();
        let data = serde_json::to_string(overview).unwrap_or_default();
        let text = Bytes::from(format!("event: overview\nid: {id}\ndata: {data}\n\n"));
        Self { id, text }
    }
}

type Newest = Option<Arc<Frame>>;

/// The readers of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct StreamHub(Arc<Hub>);

#[derive(Debug)]
struct Hub {
    newest: watch::Sender<Newest>,
    places: Arc<Semaphore>,
    is_running: Mutex<bool>,
    jobs: Jobs,
    lost_after: Duration,
}

impl StreamHub {
    pub(crate) fn new(jobs: &Jobs, lost_after: Duration) -> Self {
        Self(Arc::new(Hub {
            newest: watch::Sender::new(None),
            places: Arc::new(Semaphore::new(MAX_READERS)),
            is_running: Mutex::new(false),
            jobs: jobs.clone(),
            lost_after,
        }))
    }

    /// A reader; the first one begins the snapshots.
    fn subscribe(
        &self,
        context: &ServerContext,
    ) -> Result<(watch::Receiver<Newest>, OwnedSemaphorePermit), Problem> {
        let place = Arc::clone(&self.0.places).try_acquire_owned().map_err(|_| {
            let detail = format!("this process serves {MAX_READERS} streams already: try again later");
            Problem::new(ProblemKind::TooManyRequests, detail).retry_after(RETRY_AFTER)
        })?;
        let mut is_running = self.0.is_running();
        let reader = self.0.newest.subscribe();
        if !*is_running {
            *is_running = true;
            context
                .runtime
                .spawn(Arc::clone(&self.0).run(context.stopping.clone()));
        }
        Ok((reader, place))
    }
}

impl Hub {
    fn is_running(&self) -> MutexGuard<'_, bool> {
        self.is_running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Makes snapshots until there is no reader.
    async fn run(self: Arc<Self>, stopping: tokio_util::sync::CancellationToken) {
        let counts = Mutex::new(Counts::default());
        tokio::select! {
            () = self.make_frames(&counts) => {}
            // It never ends by itself.
            () = self.count(&counts) => {}
            () = stopping.cancelled() => *self.is_running() = false,
        }
    }

    async fn make_frames(&self, counts: &Mutex<Counts>) {
        let mut ticks = interval(PERIOD);
        let mut sent_at = Instant::now();
        loop {
            ticks.tick().await;
            if self.has_ended() {
                return;
            }
            let frame = {
                let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
                let modes = self.jobs.statistics().modes();
                Frame::new(&OverviewView::new(modes, &counts, self.lost_after))
            };
            self.newest.send_if_modified(|newest| {
                let is_new = newest.as_ref().is_none_or(|newest| newest.id != frame.id);
                if !is_new && sent_at.elapsed() < REPEAT {
                    return false;
                }
                sent_at = Instant::now();
                *newest = Some(Arc::new(frame));
                true
            });
        }
    }

    /// Whether there is no reader: then nothing is left that the next one could be sent.
    fn has_ended(&self) -> bool {
        let mut is_running = self.is_running();
        if self.newest.receiver_count() > 0 {
            return false;
        }
        *is_running = false;
        self.newest.send_replace(None);
        true
    }

    /// Counts queues and workers in turns, one statement a second.
    async fn count(&self, counts: &Mutex<Counts>) {
        loop {
            let counted = async {
                let queues = self.jobs.queue_stats().await?;
                // The first snapshot waits for both.
                if counts.lock().unwrap_or_else(PoisonError::into_inner).at.is_some() {
                    sleep(PERIOD).await;
                }
                Ok::<_, LedgerError>((queues, self.jobs.workers().await?))
            };
            match counted.await {
                Ok((queues, workers)) => {
                    *counts.lock().unwrap_or_else(PoisonError::into_inner) = Counts {
                        at: Some(clock::now()),
                        queues,
                        workers,
                    };
                }
                Err(error) => tracing::debug!(error = ?error, "queues cannot be counted for streams"),
            }
            sleep(PERIOD).await;
        }
    }
}

/// One reader.
struct Reader {
    newest: watch::Receiver<Newest>,
    _place: OwnedSemaphorePermit,
    request: HttpRequest,
    /// What the client has.
    last: Option<String>,
    ends_at: Instant,
    recheck: tokio::time::Interval,
    stopping: tokio_util::sync::CancellationToken,
    has_begun: bool,
}

impl Reader {
    /// What is sent next; `None`: the stream ends.
    async fn next(&mut self) -> Option<Bytes> {
        if !self.has_begun {
            self.has_begun = true;
            // The headers reach the client with it, before the first snapshot is there.
            return Some(Bytes::from_static(b"retry: 2000\n\n"));
        }
        loop {
            tokio::select! {
                biased;
                () = self.stopping.cancelled() => return None,
                () = sleep_until(self.ends_at) => return None,
                _ = self.recheck.tick() => {
                    if !still_may_read(&self.request).await {
                        return None;
                    }
                }
                changed = self.newest.changed() => {
                    changed.ok()?;
                    let newest = self.newest.borrow_and_update().clone();
                    let is_known = |frame: &Arc<Frame>| self.last.as_deref() == Some(&frame.id);
                    // Only the first one may be what the client has from another stream.
                    let newest = newest.filter(|frame| !is_known(frame));
                    self.last = None;
                    if let Some(frame) = newest {
                        return Some(frame.text.clone());
                    }
                }
            }
        }
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

/// Follow what happens now
///
/// Server-sent events (`EventSource`). The event `overview` has the state of queues, workers, Redis and the database, as JSON: when it
/// changes, once a second at most, and every five seconds otherwise. The server ends a stream after four minutes; clients reconnect by
/// themselves. A process serves up to 256 streams.
#[utoipa::path(get, path = "/v1/stream", tag = "stats", operation_id = "stream",
    params(
        ("topics" = Option<String>, Query, description = "`overview`, the default and the only topic"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event: it is not sent again if nothing has changed"),
    ),
    responses(
        (status = 200, body = StreamEvent, content_type = "text/event-stream", description = "Events until the server ends the stream"),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn follow(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["topics"]);
    if params.text("topics").is_some_and(|topics| topics != "overview") {
        params.fault("topics", "unknown: expected overview".to_owned());
    }
    params.finish()?;
    let (mut newest, place) = call.state().stream.subscribe(call.context())?;
    newest.mark_changed();
    let last = call.request.headers().get(LAST_EVENT_ID);
    let reader = Reader {
        newest,
        _place: place,
        last: last.and_then(|id| id.to_str().ok()).map(ToOwned::to_owned),
        ends_at: Instant::now() + LONGEST,
        recheck: tokio::time::interval_at(Instant::now() + RECHECK, RECHECK),
        stopping: call.context().stopping.clone(),
        request: call.request.clone(),
        has_begun: false,
    };
    let events = stream::unfold(reader, |mut reader| async move {
        let sent = reader.next().await?;
        Some((Ok::<_, actix_web::Error>(sent), reader))
    });
    Ok(HttpResponse::Ok()
        .content_type("text/event-stream")
        .insert_header((header::CACHE_CONTROL, "no-store"))
        // Proxies that gather responses are not to.
        .insert_header(("X-Accel-Buffering", "no"))
        .streaming(events))
}
