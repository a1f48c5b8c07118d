//! Points: where something was, when. Bulk ingest that takes a competition's traffic.
//!
//! # States
//! `accepted` (in the Redis buffer, or at once in SQL) → `held` (popped by a flusher, under its own key) → `stored` (a row), or
//! `dead` (a row among the point letters, with the reason) until its track exists and it is redriven.
//!
//! # Invariants
//! - Accepted means: Redis has answered, or the row is committed. A buffered point is as durable as Redis: with AOF
//!   (`everysec`) a crash of Redis costs a second at most, without persistence a restart costs what was not flushed yet.
//!   `points.buffer = false` writes every point to SQL before it is accepted.
//! - A point is (track, time). The same point again changes nothing, in the buffer or in SQL; the first one stored stands.
//! - At every moment a buffered point is in the buffer or under exactly one hold: popping and holding are one script. A hold
//!   goes only after its points are committed, so a flusher may die anywhere: what it held is flushed again.
//! - A point is stored only if its track exists; the others become point letters, in the same transaction.
//!
//! # Who flushes
//! The kind `points.flush`, enqueued by the process that buffers (coalesced: at most one waits or runs, and a producer asks at most
//! every [`TRIGGER_PAUSE`]). Every worker also looks every [`WATCH_PERIOD`]: it takes back the holds of dead flushers and
//! enqueues a flush for what was left, so no point depends on its producer's life.
//!
//! # When things fail
//! - *Redis is away, refuses, or the buffer is full*: points go straight to SQL. An unanswered ZADD may have been applied;
//!   then the point is stored twice, which is once.
//! - *SQL is away*: points are still buffered. A flush fails and is tried again by its retry policy; its hold goes back.
//! - *A flusher dies*: its hold is taken back once it is [`HOLD_LIMIT`] old.

mod buffer;
mod flush;
mod letters;
mod packed;
mod problems;
mod product;
mod routes;
mod settings;
mod state;
mod store;
mod tracks;

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use serde::Serialize;
use tokio::runtime::Handle;

pub use self::flush::{FlushReport, PointsFlush};
pub use self::letters::{LetterFilter, PointLetter};
pub use self::product::{PointsProduct, action};
pub use self::routes::ROUTES;
pub use self::settings::PointsSettings;
pub use self::state::PointsState;
pub use self::tracks::{Track, TrackMade};

/// Most points that are written by one ZADD or one SQL statement.
pub const BATCH: usize = 1_000;

/// A producer asks for a flush at most this often.
pub const TRIGGER_PAUSE: Duration = Duration::from_millis(50);

/// How often a worker looks for what nobody flushes.
pub const WATCH_PERIOD: Duration = Duration::from_secs(5);

/// A hold of this age belongs to a flusher that is dead: a living one renews it with each batch, and its statements end
/// by their deadlines long before.
pub const HOLD_LIMIT: Duration = Duration::from_secs(30);

holdfast_core::ids! {
    /// Names a track; a ULID.
    TrackId;
}

/// Where something was, when. Checked: the numbers are finite and within their ranges.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Point {
    pub track_id: TrackId,
    /// To the microsecond.
    pub recorded_at: DateTime<Utc>,
    /// Degrees, -90 to 90.
    pub lat: f64,
    /// Degrees, -180 to 180.
    pub lon: f64,
    /// Metres above the sea.
    pub altitude: Option<f64>,
    /// Metres a second.
    pub speed: Option<f64>,
}

/// Why points could not be accepted.
#[derive(Debug, thiserror::Error)]
pub enum PointsError {
    #[error(transparent)]
    Sql(#[from] LedgerError),
}

/// The points of one database and one Redis. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Points(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    gate: RedisGate,
    jobs: Jobs,
    settings: PointsSettings,
    /// A flush will be asked for.
    triggered: AtomicBool,
    /// Points in the buffer when it was last seen.
    buffered: AtomicU64,
    /// Connections belong to the runtime that opened them.
    runtime: Handle,
}

impl Points {
    /// Call it inside tokio; it reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, gate: &RedisGate, jobs: Jobs) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            gate: gate.clone(),
            jobs,
            settings: settings.section(),
            triggered: AtomicBool::new(false),
            buffered: AtomicU64::new(0),
            runtime: Handle::current(),
        }))
    }

    /// Accepts points: into the buffer, or into SQL where there is none to be had.
    pub async fn accept(&self, points: &[Point]) -> Result<(), PointsError> {
        if self.may_buffer() {
            match self.buffer(points).await {
                Ok(()) => {
                    self.trigger();
                    return Ok(());
                }
                Err(error) => tracing::debug!(error = %error, "points go straight to the database"),
            }
        }
        for batch in points.chunks(BATCH) {
            self.store(batch).await?;
        }
        Ok(())
    }

    fn may_buffer(&self) -> bool {
        let full = self.0.buffered.load(Ordering::Relaxed) >= self.0.settings.max_buffered;
        self.0.settings.buffer && self.0.gate.mode().is_normal() && !full
    }

    /// Asks for a flush, soon. Calls meanwhile are answered by the same one.
    fn trigger(&self) {
        if self.0.triggered.swap(true, Ordering::AcqRel) {
            return;
        }
        let points = self.clone();
        self.0.runtime.spawn(async move {
            tokio::time::sleep(TRIGGER_PAUSE).await;
            // Before it is asked for: who buffers from now on must ask anew.
            points.0.triggered.store(false, Ordering::Release);
            points.ask_for_flush().await;
        });
    }

    async fn ask_for_flush(&self) {
        let asked = self.0.jobs.enqueue(PointsFlush {}).unique(PointsFlush::KEY).await;
        if let Err(error) = asked {
            // A worker's next look will find the points.
            tracing::debug!(
                error = &error as &dyn std::error::Error,
                "no flush of points could be enqueued"
            );
        }
    }

    /// Looks after the buffer for as long as it is polled: a worker's duty.
    pub async fn watch(&self) {
        loop {
            tokio::time::sleep(WATCH_PERIOD).await;
            if self.0.gate.is_configured() && self.0.gate.mode().is_normal() {
                match self.take_back().await {
                    Ok(waiting) if waiting > 0 => self.ask_for_flush().await,
                    Ok(_) => {}
                    Err(error) => tracing::debug!(error = %error, "cannot maintain the buffer of points"),
                }
            }
            if let Err(error) = self.prune_letters().await {
                tracing::debug!(error = ?error, "cannot prune point letters");
            }
        }
    }
}
