//! A small table kept in memory, so that requests need not ask the database.
//!
//! For [`SOFT_LIMIT`] the copy is simply used. For [`HARD_LIMIT`] it is used while a newer one is fetched behind the
//! request's back, so a busy server never waits. After that the request waits for a newer one: a change reaches every
//! server that reaches the database within [`HARD_LIMIT`]. An idle server asks nothing, so a database that scales to
//! zero may sleep.
//!
//! A caller that misses something in the copy waits for the next reading, of which there is at most one in [`MISS_PAUSE`]
//! whatever is asked: what is new works at once, and guessing is slow and costs the database nothing.
//!
//! While the database is away, a copy serves for [`STALE_LIMIT`], and the outage is found out by one request in
//! [`FAILURE_PAUSE`].

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::time::Instant;
use tokio_util::task::AbortOnDropHandle;

use crate::sql::StoreError;

/// How long a copy is used without a thought.
const SOFT_LIMIT: Duration = Duration::from_secs(2);

/// How long a copy is used while a newer one is fetched.
pub const HARD_LIMIT: Duration = Duration::from_secs(10);

/// How long a copy is used while the database is away.
const STALE_LIMIT: Duration = Duration::from_hours(1);

/// Between two readings that misses cause.
const MISS_PAUSE: Duration = Duration::from_millis(250);

/// Between two readings while they fail.
const FAILURE_PAUSE: Duration = Duration::from_secs(1);

/// Longest a request waits for a reading.
const READ_DEADLINE: Duration = Duration::from_secs(1);

/// What is kept in memory.
pub(crate) trait Table: Send + Sync + 'static {
    type Rows: Default + Send + Sync + 'static;

    /// How log lines call it.
    const NAME: &'static str;

    fn read(&self) -> impl Future<Output = Result<Self::Rows, StoreError>> + Send;

    /// New rows take over what the process noted in the old ones.
    fn inherit(_old: &Self::Rows, _new: &mut Self::Rows) {}

    /// After a reading; nobody waits for it.
    fn follow_up(&self, _rows: Arc<Self::Rows>) -> impl Future<Output = ()> + Send {
        std::future::ready(())
    }
}

/// A table and its copy. Cheap to clone.
pub(crate) struct Mirror<T: Table>(Arc<Inner<T>>);

struct Inner<T: Table> {
    table: T,
    copy: RwLock<Rows<T::Rows>>,
    /// One reading at a time; what came of the last one.
    reading: Mutex<Option<Reading>>,
    /// The last reading failed.
    outage: AtomicBool,
    /// When the next reading behind a request's back may begin, in milliseconds after `start`.
    next_reading_ms: AtomicU64,
    start: Instant,
    /// Connections belong to the runtime that opened them, and the HTTP threads' own runtimes end first.
    runtime: Handle,
}

struct Rows<R> {
    rows: Arc<R>,
    read_at: Option<Instant>,
}

#[derive(Clone, Copy)]
struct Reading {
    begun_at: Instant,
    ended_at: Instant,
    succeeded: bool,
}

/// What a copy says after an attempt to renew it.
pub(crate) struct Answer<A> {
    /// Nothing, if the table was never read.
    pub(crate) found: Option<A>,
    /// The copy is what the table says now.
    pub(crate) is_current: bool,
    /// The copy may still be relied on.
    pub(crate) is_usable: bool,
}

impl<T: Table> std::fmt::Debug for Mirror<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mirror({})", T::NAME)
    }
}

impl<T: Table> Clone for Mirror<T> {
    fn clone(&self) -> Self {
        Self(Arc::clone(&self.0))
    }
}

impl<T: Table> Mirror<T> {
    /// Call it inside tokio; it reaches nothing yet.
    pub(crate) fn new(table: T) -> Self {
        let copy = Rows {
            rows: Arc::default(),
            read_at: None,
        };
        Self(Arc::new(Inner {
            table,
            copy: RwLock::new(copy),
            reading: Mutex::new(None),
            outage: AtomicBool::new(false),
            next_reading_ms: AtomicU64::new(0),
            start: Instant::now(),
            runtime: Handle::current(),
        }))
    }

    pub(crate) fn table(&self) -> &T {
        &self.0.table
    }

    /// Whatever was read last.
    pub(crate) fn rows(&self) -> Arc<T::Rows> {
        let copy = self.0.copy.read().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(&copy.rows)
    }

    /// Looks at the copy if nobody has to wait for a newer one.
    pub(crate) fn look<A>(&self, look: impl FnOnce(&T::Rows) -> A) -> Option<A> {
        let copy = self.0.copy.read().unwrap_or_else(PoisonError::into_inner);
        if copy.is_within(SOFT_LIMIT) {
            return Some(look(&copy.rows));
        }
        let outage = self.0.outage.load(Ordering::Relaxed);
        if copy.is_within(HARD_LIMIT) || (outage && copy.is_within(STALE_LIMIT)) {
            self.0.read_behind_the_back();
            return Some(look(&copy.rows));
        }
        None
    }

    /// Reads the table again, unless that was done a moment ago, and looks at what is there then.
    pub(crate) async fn look_again<A>(&self, look: impl FnOnce(&T::Rows) -> A) -> Answer<A> {
        let inner = Arc::clone(&self.0);
        let reading = AbortOnDropHandle::new(self.0.runtime.spawn(async move { inner.read_once().await }));
        let is_current = reading.await.unwrap_or(false);
        let copy = self.0.copy.read().unwrap_or_else(PoisonError::into_inner);
        Answer {
            found: copy.read_at.map(|_| look(&copy.rows)),
            is_current,
            is_usable: copy.is_within(STALE_LIMIT),
        }
    }
}

impl<T: Table> Inner<T> {
    /// Starts a reading, at most one in [`FAILURE_PAUSE`].
    fn read_behind_the_back(self: &Arc<Self>) {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let next = self.next_reading_ms.load(Ordering::Relaxed);
        let after = now + FAILURE_PAUSE.as_millis() as u64;
        let ours = now >= next
            && self
                .next_reading_ms
                .compare_exchange(next, after, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if ours {
            let inner = Arc::clone(self);
            self.runtime.spawn(async move { inner.read_once().await });
        }
    }

    /// Reads the table, or learns from a reading that began since. Runs on the process' own runtime.
    async fn read_once(self: &Arc<Self>) -> bool {
        let asked_at = Instant::now();
        let mut last = self.reading.lock().await;
        if let Some(reading) = *last {
            if reading.begun_at >= asked_at {
                return reading.succeeded;
            }
            if !reading.succeeded && reading.ended_at.elapsed() < FAILURE_PAUSE {
                return false;
            }
            tokio::time::sleep_until(reading.ended_at + MISS_PAUSE).await;
        }
        let begun_at = Instant::now();
        let result = tokio::time::timeout(READ_DEADLINE, self.table.read()).await;
        let result = result.unwrap_or(Err(StoreError::TimedOut { after: READ_DEADLINE }));
        let succeeded = result.is_ok();
        match result {
            Ok(rows) => self.replace(rows, begun_at),
            Err(error) => self.note_outage(&error),
        }
        *last = Some(Reading {
            begun_at,
            ended_at: Instant::now(),
            succeeded,
        });
        succeeded
    }

    /// The age of a copy counts from the beginning of its reading: what was committed meanwhile may not be in it.
    fn replace(self: &Arc<Self>, mut rows: T::Rows, read_at: Instant) {
        let rows = {
            let mut copy = self.copy.write().unwrap_or_else(PoisonError::into_inner);
            T::inherit(&copy.rows, &mut rows);
            copy.rows = Arc::new(rows);
            copy.read_at = Some(read_at);
            Arc::clone(&copy.rows)
        };
        if self.outage.swap(false, Ordering::Relaxed) {
            tracing::info!("{} can be read again", T::NAME);
        }
        let inner = Arc::clone(self);
        self.runtime
            .spawn(async move { inner.table.follow_up(rows).await });
    }

    fn note_outage(&self, error: &StoreError) {
        if !self.outage.swap(true, Ordering::Relaxed) {
            tracing::warn!(
                error = error as &dyn std::error::Error,
                "{} cannot be read: those known keep working for a while",
                T::NAME
            );
        }
    }
}

impl<R> Rows<R> {
    fn is_within(&self, limit: Duration) -> bool {
        self.read_at.is_some_and(|at| at.elapsed() < limit)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A table with one number. A reading takes its snapshot, and then as long as it is told to.
    struct Slow {
        number: Arc<AtomicU64>,
        takes: Duration,
        readings: Arc<AtomicU64>,
    }

    impl Table for Slow {
        type Rows = u64;

        const NAME: &'static str = "the number";

        async fn read(&self) -> Result<u64, StoreError> {
            self.readings.fetch_add(1, Ordering::SeqCst);
            let number = self.number.load(Ordering::SeqCst);
            tokio::time::sleep(self.takes).await;
            Ok(number)
        }
    }

    fn mirror(takes: Duration) -> (Mirror<Slow>, Arc<AtomicU64>, Arc<AtomicU64>) {
        let (number, readings) = (Arc::new(AtomicU64::new(0)), Arc::new(AtomicU64::new(0)));
        let table = Slow {
            number: Arc::clone(&number),
            takes,
            readings: Arc::clone(&readings),
        };
        (Mirror::new(table), number, readings)
    }

    /// As a request asks.
    async fn ask(mirror: &Mirror<Slow>) -> u64 {
        match mirror.look(|number| *number) {
            Some(number) => number,
            None => mirror.look_again(|number| *number).await.found.unwrap(),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_request_sees_what_was_changed_longer_ago_than_the_hard_limit() {
        // From a fast database to one at the reading's own deadline, the change at any moment of a reading, and requests from
        // very many to one at the limit.
        for takes in [1, 500, 999] {
            for changed_after in [0, 1, 250, 900, 2_500] {
                for pause in [10, 700, 3_000, 9_999, 10_000] {
                    let (mirror, number, _) = mirror(Duration::from_millis(takes));
                    let first = tokio::spawn({
                        let mirror = mirror.clone();
                        async move { ask(&mirror).await }
                    });
                    tokio::task::yield_now().await;
                    tokio::time::sleep(Duration::from_millis(changed_after)).await;
                    number.store(1, Ordering::SeqCst);
                    let changed_at = Instant::now();
                    first.await.unwrap();
                    while changed_at.elapsed() < HARD_LIMIT + Duration::from_secs(3) {
                        let asked = changed_at.elapsed();
                        let seen = ask(&mirror).await;
                        assert!(
                            seen == 1 || asked < HARD_LIMIT,
                            "{takes} ms, changed after {changed_after} ms: not seen {asked:?} later"
                        );
                        tokio::time::sleep(Duration::from_millis(pause)).await;
                    }
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_busy_server_reads_once_in_a_while_and_an_idle_one_never() {
        let (mirror, _, readings) = mirror(Duration::from_millis(5));
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(60) {
            ask(&mirror).await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let busy = readings.load(Ordering::SeqCst);
        assert!((20..=31).contains(&busy), "{busy} readings in a minute");
        tokio::time::sleep(Duration::from_hours(1)).await;
        assert_eq!(readings.load(Ordering::SeqCst), busy);
    }
}
