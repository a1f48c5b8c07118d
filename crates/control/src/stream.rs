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

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix_web::http::header::{self, HeaderName};
use actix_web::{HttpRequest, HttpResponse};
use bytes::Bytes;
use futures::stream;
use holdfast_core::clock;
use holdfast_http::authentication::still_may_read;
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::{Call, Read, Reply, ServerContext, WithQuery};
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::LedgerError;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, interval, sleep, sleep_until};

use crate::overview::{Counts, EventStream, OverviewView};
use crate::state::ControlState;

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

/// Where a client continues.
const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");

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

/// Follow what happens now
///
/// Server-sent events (`EventSource`). The event `overview` has the state of queues, workers, Redis and the database, as JSON: when it
/// changes, once a second at most, and every five seconds otherwise. The server ends a stream after four minutes, or earlier on request; clients reconnect by
/// themselves. A process serves up to 256 streams.
#[utoipa::path(get, path = "/v1/stream", tag = "stats", operation_id = "stream",
    params(
        ("topics" = Option<String>, Query, description = "`overview`, the default and the only topic"),
        ("end_after_seconds" = Option<f64>, Query, description = "The server ends the stream then: 1 to 240; default 240"),
        ("Last-Event-ID" = Option<String>, Header, description = "The `id` of the last event: it is not sent again if nothing has changed"),
    ),
    responses(
        (status = 200, body = EventStream, content_type = "text/event-stream", description = "Events until the server ends the stream"),
        (status = 400, description = "invalid-parameter"),
    ))]
pub(crate) async fn follow(call: Call<Read, ControlState, WithQuery>) -> Reply {
    let mut params = call.params(&["topics", "end_after_seconds"]);
    if params.text("topics").is_some_and(|topics| topics != "overview") {
        params.fault("topics", "unknown: expected overview".to_owned());
    }
    let length = params
        .number("end_after_seconds", 1.0, LONGEST.as_secs_f64())
        .map_or(LONGEST, Duration::from_secs_f64);
    params.finish()?;
    let (mut newest, place) = call.state().stream.subscribe(call.context())?;
    newest.mark_changed();
    let last = call.request.headers().get(LAST_EVENT_ID);
    let reader = Reader {
        newest,
        _place: place,
        last: last.and_then(|id| id.to_str().ok()).map(ToOwned::to_owned),
        ends_at: Instant::now() + length,
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
