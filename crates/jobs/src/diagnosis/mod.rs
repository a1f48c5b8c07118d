//! Looks for what keeps accepted jobs from ending: running jobs without a living worker, locks, old transactions, dead rows,
//! queues that stand still. Of a single job it says why it waits ([`standing`]). It reads alone, and needs no more than the permissions of the role that runs Holdfast.
//!
//! # A look
//! Three units of work, each in a transaction of its own with bounds on the server: the server's sessions and tables
//! ([`postgres`]), the running jobs, the queues. One that fails leaves its figures absent and the others as they are. All
//! together take [`LOOK`] at most.
//!
//! # Invariants
//! - A process makes one look at a time and one in [`KEPT_FOR`] at most; whoever asks meanwhile gets the last report. After an
//!   expensive look the next one is later: looks take one part in [`SHARE`] of the time, so that walking past entries that no
//!   vacuum may remove costs a bounded share of the server.
//! - Every walk has a limit: rows, workers, sessions.
//! - A fault is logged once when it begins and once when it has been absent for [`OVER_AFTER`].
//! - No message holds a statement or a value of one; statements are apart, cut and without values ([`statement`]).
//!
//! # When things fail
//! With the database away nothing is known, which the health of the database says. A look that is too slow while the database answers
//! is a fault of its own once it has happened for [`UNREADABLE_AFTER`].

mod fault;
mod figures;
mod judge;
mod postgres;
mod sqlite;
mod standing;
mod statement;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::{Bounds, Database};
use tokio::time::Instant;

pub use self::fault::{Fault, FaultKind};
pub use self::figures::{
    Connections, FileFigures, Holder, LeaseFigures, LostWork, OldTransaction, Overdue, ServerFigures,
    SlowStatement, TableFigures, Wait,
};
use self::judge::Memory;
pub use self::standing::{JobDiagnosis, MAX_AHEAD, WaitReason};
use crate::LedgerTx;
use crate::client::Jobs;
use crate::ledger::LedgerError;
use crate::sql::Sql;

/// Longest look. Inside the health probe's deadline, so that it can still say what did not answer.
pub const LOOK: Duration = Duration::from_millis(600);

/// Longest single statement of a look, and its longest wait for a lock.
const STATEMENT: Duration = Duration::from_millis(250);

/// How long a report is given again.
const KEPT_FOR: Duration = Duration::from_secs(1);

/// Looks take one part in this many of the time.
const SHARE: u32 = 20;

/// How often a process looks by itself, for its log.
const WATCH_EVERY: Duration = Duration::from_secs(15);

/// A fault that was absent for this long is over.
const OVER_AFTER: Duration = Duration::from_secs(20);

/// Statements that were given up and that the server does not end for this long are a fault.
const ABANDONED_AFTER: Duration = Duration::from_secs(5);

/// Looks that fail for this long are a fault.
const UNREADABLE_AFTER: Duration = Duration::from_secs(10);

/// From when on something is a fault.
#[derive(Debug, Clone, Copy)]
pub struct Thresholds {
    /// Silence or overtime beyond what a rescue takes: the rescuer looks every few seconds.
    pub rescue_grace: Duration,
    /// A queue with due jobs and no outcome.
    pub stalled: Duration,
    /// A wait for a lock.
    pub lock_wait: Duration,
    /// An open transaction.
    pub transaction: Duration,
    /// Transactions that began since a snapshot that is kept.
    pub xmin_age: i32,
    /// Dead rows of one table, where they are more than its live ones.
    pub dead_rows: i64,
    /// The embedded database's log, in bytes.
    pub log_bytes: u64,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            rescue_grace: Duration::from_secs(30),
            stalled: Duration::from_mins(5),
            lock_wait: Duration::from_secs(2),
            transaction: Duration::from_mins(5),
            xmin_age: 1_000_000,
            dead_rows: 200_000,
            log_bytes: 256 << 20,
        }
    }
}

/// What one look found. Absent figures could not be read.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// Those that keep jobs from ending first.
    pub faults: Vec<Fault>,
    /// Of PostgreSQL.
    pub server: Option<ServerFigures>,
    /// Of SQLite.
    pub file: Option<FileFigures>,
    pub leases: Option<LeaseFigures>,
    /// The queues that stand still.
    pub stalled: Option<Vec<String>>,
    /// The look answered in part or not at all.
    pub is_partial: bool,
}

impl Report {
    pub fn of_kind(&self, kind: FaultKind) -> impl Iterator<Item = &Fault> {
        self.faults.iter().filter(move |fault| fault.kind == kind)
    }
}

/// Looks for faults, and remembers what it saw. Cheap to clone; clones share the memory.
#[derive(Debug, Clone)]
pub struct Diagnosis(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    database: Database,
    thresholds: Thresholds,
    lost_after: Duration,
    /// What the client allows a statement, and a little more.
    statement_deadline: Duration,
    /// The places of one worker process in each queue.
    places: BTreeMap<String, u64>,
    /// Those of one worker process in all queues; 0: not limited.
    places_of_all: u64,
    last: Mutex<Option<Last>>,
    turn: tokio::sync::Mutex<Memory>,
}

#[derive(Debug, Clone)]
struct Last {
    report: Arc<Report>,
    keep_until: Instant,
}

/// How the three units came out.
#[derive(Debug, Default)]
struct Readings {
    server: Option<ServerFigures>,
    file: Option<FileFigures>,
    leases: Option<LeaseFigures>,
    queues: Option<(Vec<figures::QueueLook>, Vec<figures::WorkerLook>)>,
    /// One of them took too long, or waited for a lock.
    is_slow: bool,
}

impl Diagnosis {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, jobs: &Jobs, database: &Database) -> Self {
        Self::with_thresholds(settings, jobs, database, Thresholds::default())
    }

    pub fn with_thresholds(
        settings: &Settings,
        jobs: &Jobs,
        database: &Database,
        thresholds: Thresholds,
    ) -> Self {
        let places = jobs.queues().iter();
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            database: database.clone(),
            thresholds,
            lost_after: settings.worker.lost_after,
            statement_deadline: settings.database.statement_timeout + Duration::from_secs(1),
            places: places
                .map(|(name, queue)| (name.clone(), queue.concurrency as u64))
                .collect(),
            places_of_all: settings.worker.concurrency as u64,
            last: Mutex::new(None),
            turn: tokio::sync::Mutex::default(),
        }))
    }

    /// The report of a look that is a second old at most, or older if looks are expensive now.
    pub async fn look(&self) -> Arc<Report> {
        if let Some(report) = self.0.kept() {
            return report;
        }
        let mut memory = self.0.turn.lock().await;
        // Somebody else may have looked meanwhile.
        if let Some(report) = self.0.kept() {
            return report;
        }
        let began = Instant::now();
        let seen = self.0.look().await;
        let report = Arc::new(self.0.judge(&mut memory, seen));
        memory.log(&report);
        let pause = (began.elapsed() * SHARE).max(KEPT_FOR);
        self.0.keep(&report, began + pause);
        report
    }

    /// What was found last, without a look.
    pub fn last(&self) -> Option<Arc<Report>> {
        let last = self.0.last.lock().unwrap_or_else(PoisonError::into_inner);
        last.as_ref().map(|last| Arc::clone(&last.report))
    }

    /// Looks now and then for as long as somebody else holds the diagnosis, so that faults are in the log though nobody
    /// asks. Call it inside tokio.
    pub fn watch(&self) {
        let watched = Arc::downgrade(&self.0);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(WATCH_EVERY).await;
                let Some(inner) = watched.upgrade() else {
                    return;
                };
                Self(inner).look().await;
            }
        });
    }

    /// Settings of the server that decide whether accepted jobs survive and queues stay fast, by name; with `standbys`,
    /// `standbys_sync` and `standbys_hidden` (counts), and `table_options` of `holdfast_jobs`. `None`: no PostgreSQL.
    pub async fn server_settings(&self) -> Result<Option<BTreeMap<String, String>>, LedgerError> {
        let sql = &self.0.sql;
        sql.within("read the server's settings", async {
            let mut tx = sql.begin_read().await?;
            match tx.on() {
                LedgerTx::Postgres(on) => postgres::settings(on, sql.named()).await.map(Some),
                LedgerTx::Sqlite(_) => Ok(None),
            }
        })
        .await
    }
}

impl Inner {
    fn kept(&self) -> Option<Arc<Report>> {
        let last = self.last.lock().unwrap_or_else(PoisonError::into_inner);
        let last = last.as_ref()?;
        (Instant::now() < last.keep_until).then(|| Arc::clone(&last.report))
    }

    fn keep(&self, report: &Arc<Report>, keep_until: Instant) {
        let last = Last {
            report: Arc::clone(report),
            keep_until,
        };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(last);
    }

    /// The server's own views first: they answer though a table is locked.
    async fn look(&self) -> Readings {
        let mut seen = Readings::default();
        let looking = async {
            let (server, file) = self
                .read("look for faults of the server", &mut seen.is_slow, Self::server)
                .await
                .unzip();
            seen.server = server.flatten();
            seen.file = file.flatten();
            seen.leases = self
                .read("look for lost jobs", &mut seen.is_slow, Self::leases)
                .await;
            seen.queues = self
                .read("look for stalled queues", &mut seen.is_slow, Self::queues)
                .await;
        };
        if tokio::time::timeout(LOOK, looking).await.is_err() {
            seen.is_slow = true;
        }
        seen
    }

    /// One unit; `None` if it failed.
    async fn read<T>(
        &self,
        doing: &'static str,
        is_slow: &mut bool,
        work: impl AsyncFnOnce(&Self, LedgerTx<'_>) -> Result<T, sqlx::Error>,
    ) -> Option<T> {
        let bounds = Bounds::SETTINGS.statement(STATEMENT).lock(STATEMENT);
        let reading = self.sql.within_bounds(doing, bounds, async {
            let mut tx = self.sql.begin_read().await?;
            if let LedgerTx::Postgres(on) = tx.on() {
                postgres::walk_indexes(on).await?;
            }
            let read = work(self, tx.on()).await?;
            tx.commit().await?;
            Ok(read)
        });
        match reading.await {
            Ok(read) => Some(read),
            Err(error) => {
                tracing::debug!(error = ?error, doing, "faults cannot be looked up now");
                *is_slow |= error.is_contention()
                    || error.is_statement_timeout()
                    || matches!(error, LedgerError::TimedOut { .. });
                None
            }
        }
    }

    async fn server(
        &self,
        on: LedgerTx<'_>,
    ) -> Result<(Option<ServerFigures>, Option<FileFigures>), sqlx::Error> {
        match on {
            LedgerTx::Postgres(on) => {
                let server = postgres::server(on, self.sql.named(), self.statement_deadline).await?;
                Ok((Some(server), None))
            }
            LedgerTx::Sqlite(on) => Ok((None, Some(sqlite::file(on).await?))),
        }
    }

    async fn leases(&self, on: LedgerTx<'_>) -> Result<LeaseFigures, sqlx::Error> {
        let grace = self.thresholds.rescue_grace;
        match on {
            LedgerTx::Postgres(on) => postgres::leases(on, self.sql.named(), self.lost_after, grace).await,
            LedgerTx::Sqlite(on) => sqlite::leases(on, self.lost_after, grace).await,
        }
    }

    async fn queues(
        &self,
        on: LedgerTx<'_>,
    ) -> Result<(Vec<figures::QueueLook>, Vec<figures::WorkerLook>), sqlx::Error> {
        let names: Vec<String> = self.places.keys().cloned().collect();
        match on {
            LedgerTx::Postgres(on) => postgres::queues(on, self.sql.named(), &names, self.lost_after).await,
            LedgerTx::Sqlite(on) => sqlite::queues(on, &names, self.lost_after).await,
        }
    }
}
