//! What the processes did, minute by minute, for charts: jobs enqueued and ended, how long they waited and ran, how deep the queues
//! were, and when Redis or the database could not be used.
//!
//! | rows | written by | kept |
//! | --- | --- | --- |
//! | minutes of a (queue, kind) | each process its own, every [`FLUSH_PERIOD`], as totals so far | 48 h |
//! | depths of the queues at a minute | one process of all | 48 h |
//! | hours, days | one process of all, as sums of the shorter ones; depths as the largest | 30 d, 2 y |
//! | outages | each process its own | 2 y |
//!
//! # Invariants
//! - Counting never waits for the database: counters are in memory ([`counters`]), one task writes them.
//! - A write may be repeated: it holds totals and not increments, under the name of this run of the process.
//! - Everything is bounded: the pairs of queue and kind ([`counters`]), the rows that wait ([`pending`]), the rows of a statement.
//! - A process that counted nothing for ten minutes, and is no worker, leaves the database alone: one that sleeps when it is idle sleeps.
//! - Minutes are those of the database's clock, as far as it was asked; while it is unavailable, of this host's clock, corrected by
//!   their last difference.
//!
//! # When things fail
//! - *The database is slow or unavailable*: minutes gather in memory and are written later; of very many the oldest are merged.
//! - *The process dies*: what it counted since its last write is lost, ten seconds at most while the database is available. An orderly
//!   end writes it.
//! - *The clock of the database is set back*: counts go on in the last minute for up to two minutes; if it is set back by more, the
//!   process goes on under another name, and may lose the last ten seconds.
//!
//! # What is not counted
//! Jobs that are enqueued by SQL or in a transaction of their producer's, until they run; jobs that the rescuer discards after crashes.

mod buckets;
mod columns;
mod counters;
mod duty;
mod lease;
mod load;
mod outages;
mod pending;
mod read;
mod store;

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use chrono::TimeDelta;
use holdfast_core::clock;
use holdfast_core::mode::Mode;
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::Database;
use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

pub use buckets::{BOUNDS_MS, BUCKETS, Buckets, mean, percentile};
pub use counters::Counts;
pub use lease::DutyLease;
pub use load::{LoadReport, QueueLoad};
pub use outages::{Dependency, OutageSpan};
pub use read::{Gauge, Grouping, MAX_POINTS, MAX_SERIES, Point, Range, Series, StatsFilter, StatsReport};
pub use store::Span;

use self::counters::Counters;
use self::outages::OutageLog;
use self::pending::Pending;
use crate::client::Jobs;
use crate::id::WorkerId;
use crate::ledger::{LedgerError, Outcome};
use crate::sql::Sql;
use crate::worker::process_name;

/// Between two writes.
pub const FLUSH_PERIOD: Duration = Duration::from_secs(10);

/// Rows of one statement.
const BATCH: usize = 300;

/// How long a process that counts nothing still does what is done for all.
const ACTIVE_FOR: Duration = Duration::from_mins(10);

/// A clock that goes back by less is waited for.
const MAX_MINUTES_BACK: i64 = 2;

/// The statistics of this process. Cheap to clone; clones share them.
#[derive(Debug, Clone)]
pub struct Statistics(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    counters: Counters,
    outages: Mutex<OutageLog>,
    writer: tokio::sync::Mutex<Writer>,
    sql: Sql,
    redis: watch::Receiver<Mode>,
    database: watch::Receiver<Mode>,
    is_kept: AtomicBool,
    /// It does what is done for all even while it counts nothing.
    has_worker: AtomicBool,
}

#[derive(Debug)]
struct Writer {
    /// Of this run of the process; also the key of its rows.
    process: String,
    pending: Pending,
    /// How far the database's clock is ahead of this host's, as it was found last.
    offset: TimeDelta,
    /// The minute of the last counts.
    minute: i64,
    /// When something was written last.
    wrote_at: Option<Instant>,
}

impl Statistics {
    pub(crate) fn new(sql: Sql, database: &Database, gate: &RedisGate) -> Self {
        Self(Arc::new(Inner {
            counters: Counters::default(),
            outages: Mutex::default(),
            writer: tokio::sync::Mutex::new(Writer {
                process: process_name(WorkerId::generate()),
                pending: Pending::default(),
                offset: TimeDelta::zero(),
                minute: 0,
                wrote_at: None,
            }),
            sql,
            redis: gate.watch(),
            database: database.watch(),
            is_kept: AtomicBool::new(false),
            has_worker: AtomicBool::new(false),
        }))
    }

    pub(crate) fn enqueued(&self, queue: &str, kind: &str) {
        self.0.counters.enqueued(queue, kind);
    }

    /// An attempt begins that was due so long ago.
    pub(crate) fn started(&self, queue: &str, kind: &str, waited: Duration) {
        self.0.counters.started(queue, kind, waited);
    }

    /// An attempt has ended. `took`: `None` if it is not known.
    pub(crate) fn ended(&self, queue: &str, kind: &str, outcome: &Outcome, took: Option<Duration>) {
        self.0.counters.ended(queue, kind, outcome, took);
    }

    /// Whether Redis and the database can be used, as this process sees it.
    pub fn modes(&self) -> [Mode; 2] {
        [*self.0.redis.borrow(), *self.0.database.borrow()]
    }

    /// This process counts the depths of the queues each minute, unless another one does, even if it has nothing else to count.
    pub fn count_depths(&self) {
        self.0.has_worker.store(true, Ordering::Relaxed);
    }

    fn outages(&self) -> MutexGuard<'_, OutageLog> {
        self.0.outages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Writes everything that was counted and is not written; whether there was anything.
    ///
    /// # Errors
    /// The database is slow or unavailable: what was counted waits for the next call.
    pub async fn flush(&self) -> Result<bool, LedgerError> {
        let mut writer = self.0.writer.lock().await;
        let taken = self.0.counters.take();
        let outages = self.outages().rows();
        if taken.is_empty() && outages.is_empty() && !writer.pending.has_new() {
            return Ok(false);
        }
        let now = store::now(&self.0.sql).await;
        if let Ok(now) = now {
            writer.offset = TimeDelta::milliseconds(now - clock::now().timestamp_millis());
        }
        let minute = writer.now();
        writer.reach(minute);
        let current = writer.minute;
        writer.pending.add(current, taken);
        now?;
        loop {
            let rows = writer.pending.send(BATCH);
            if rows.is_empty() {
                break;
            }
            store::write(&self.0.sql, &writer.process, &rows).await?;
            writer.pending.stored(&rows, current);
            duty::add_up_late(&self.0.sql, rows.iter().map(|row| row.minute), current).await?;
        }
        if !outages.is_empty() {
            store::write_outages(&self.0.sql, &writer.process, &outages, writer.offset).await?;
            self.outages().stored(&outages);
        }
        writer.wrote_at = Some(Instant::now());
        Ok(true)
    }

    /// The last write of a process, within `limit`.
    pub async fn flush_last(&self, limit: Duration) {
        let ended = tokio::time::timeout(limit, self.flush()).await;
        if !matches!(ended, Ok(Ok(_))) {
            tracing::debug!("the last statistics of this process could not be written");
        }
    }

    /// The minute that this process is to do the common duty for, if it is.
    async fn duty_minute(&self) -> Option<i64> {
        let writer = self.0.writer.lock().await;
        let is_active = writer.wrote_at.is_some_and(|at| at.elapsed() < ACTIVE_FOR);
        (is_active || self.0.has_worker.load(Ordering::Relaxed)).then(|| writer.now())
    }

    async fn watch_modes(&self) {
        let watched = [
            (Dependency::Redis, self.0.redis.clone()),
            (Dependency::Database, self.0.database.clone()),
        ];
        let watching = watched.map(|(dependency, mut mode)| async move {
            loop {
                let now = *mode.borrow_and_update();
                self.outages().observe(dependency, now, clock::now());
                if mode.changed().await.is_err() {
                    return;
                }
            }
        });
        futures::future::join_all(watching).await;
    }

    async fn write_periodically(&self, jobs: &Jobs) {
        let mut ticks = tokio::time::interval_at(Instant::now() + FLUSH_PERIOD, FLUSH_PERIOD);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut done = 0;
        loop {
            ticks.tick().await;
            if let Err(error) = self.flush().await {
                tracing::debug!(error = ?error, "statistics wait for the database");
                continue;
            }
            let Some(minute) = self.duty_minute().await.filter(|minute| *minute != done) else {
                continue;
            };
            done = minute;
            if let Err(error) = jobs.sum_statistics(minute).await {
                tracing::debug!(error = ?error, "statistics of a minute are left out");
            }
        }
    }
}

impl Writer {
    /// Minutes since the epoch.
    fn now(&self) -> i64 {
        (clock::now() + self.offset).timestamp().div_euclid(60)
    }

    /// Counts belong to this minute from now on, unless the clock went back.
    fn reach(&mut self, minute: i64) {
        if minute + MAX_MINUTES_BACK < self.minute {
            self.process = process_name(WorkerId::generate());
            self.pending.forget_sent();
            self.minute = minute;
        }
        self.minute = self.minute.max(minute);
    }
}

impl Jobs {
    /// Does for this minute what one process of all does, unless another one has.
    ///
    /// # Errors
    /// The database is slow or unavailable: this minute has no depths of queues, and the next one adds up.
    pub async fn sum_statistics(&self, minute: i64) -> Result<(), LedgerError> {
        duty::step(self, &self.statistics().0.sql, minute).await
    }

    /// Writes the statistics of this process until `stop`. The first call of a process does it, any other returns immediately.
    /// `is_worker`: this process runs jobs.
    pub async fn keep_statistics(&self, is_worker: bool, stop: &CancellationToken) {
        let statistics = self.statistics();
        statistics.0.has_worker.fetch_or(is_worker, Ordering::Relaxed);
        if statistics.0.is_kept.swap(true, Ordering::Relaxed) {
            return;
        }
        let keeping = async { tokio::join!(statistics.watch_modes(), statistics.write_periodically(self)) };
        stop.run_until_cancelled(keeping).await;
    }
}
