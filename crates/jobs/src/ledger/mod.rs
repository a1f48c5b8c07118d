//! The ledger: the SQL table of jobs, and the truth for every durable job.
//!
//! # Invariants
//! - A job is accepted when its row is committed, and not before. Its id is made before the first write, so an
//!   insert repeated after a lost reply changes nothing.
//! - A running row names its worker. The lease is the worker's own heartbeat row: it lives while the server's clock
//!   says that the worker was heard of within `lost_after`. The claim locks that row, and nobody deletes it while a claim may
//!   still commit (`docs/adr/0008-the-lease-is-a-lock.md`). The fence of a lease is (worker, attempt, crashes).
//! - A running job that was asked to cancel ends completed, discarded or cancelled; nothing makes it available again.
//! - Every outcome is written under that fence. A worker that lost the lease changes nothing.
//! - A job returned by the rescuer has `crashes` one higher only if it may have been running: a first claim counts as
//!   started at once; a job that crashed before is marked started just before it runs ([`Ledger::mark_started`]), so a
//!   job that merely waited in a crashing worker's buffer cannot be taken for poison.
//! - All times come from the server's clock.
//!
//! # When things fail
//! Every statement is idempotent (keyed by id, fenced, or both), so callers repeat it after a transient failure.
//! [`LedgerError::is_transient`] tells; nothing else may.

mod decode;
mod error;
mod keys;
pub mod model;
mod outcome;
mod postgres;
mod prune;
mod sqlite;
mod workers;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use holdfast_core::sql::Database;

pub(crate) use decode::{UNREADABLE, records};
pub use error::LedgerError;
pub use model::*;
pub(crate) use outcome::{FreeRows, WrittenOutcome};
pub use postgres::PostgresLedger;
pub(crate) use postgres::RECORD as POSTGRES_RECORD;
pub(crate) use sqlite::RECORD as SQLITE_RECORD;
pub use sqlite::SqliteLedger;
pub use workers::*;

use crate::LedgerTx;
use crate::follow_ups::Effects;
use crate::id::{JobId, WorkerId};
use crate::observer::Observers;

/// Most rows one statement writes or claims; callers split what is larger.
pub const MAX_STATEMENT_ROWS: usize = 1_000;

/// Inserts jobs inside the caller's transaction: see [`PostgresLedger::insert_in`].
pub(crate) async fn insert_in(
    on: LedgerTx<'_>,
    jobs: &[NewJob],
    named: bool,
) -> Result<Vec<InsertOutcome>, sqlx::Error> {
    match on {
        LedgerTx::Postgres(on) => PostgresLedger::insert_in(on, jobs, named).await,
        LedgerTx::Sqlite(on) => SqliteLedger::insert_in(on, jobs).await,
    }
}

/// The job table, on either database. One contract suite runs against both.
#[async_trait]
pub trait Ledger: Send + Sync + std::fmt::Debug {
    /// Accepts the jobs of one request, all or nothing, in one transaction. One answer for each job, in order; if one of them
    /// is an [`InsertOutcome::Conflict`], nothing was written.
    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<InsertOutcome>, LedgerError> {
        self.insert_as(jobs, Insertion::WHOLE).await
    }

    /// Accepts jobs in one transaction, as `how` says.
    async fn insert_as(&self, jobs: &[NewJob], how: Insertion) -> Result<Vec<InsertOutcome>, LedgerError>;

    /// Leases up to `limit` due jobs of a queue to a worker, most urgent first. A job that was put where others have been
    /// claimed long since may be passed over until [`Self::look_again_in`] is over. Nothing if the queue is paused, if it has
    /// limits (then [`crate::limits::LimitStore::claim`] is the way), or if the worker's own heartbeat is older than
    /// `lost_after`.
    async fn claim(
        &self,
        queue: &str,
        worker: WorkerId,
        limit: usize,
        lost_after: Duration,
    ) -> Result<Vec<ClaimedJob>, LedgerError>;

    /// How soon [`Self::claim`] is to be asked again although nothing rings, where the last one has not looked at all of the
    /// queue. `None`: it has.
    fn look_again_in(&self, _queue: &str) -> Option<Duration> {
        None
    }

    /// For each queue without limits that has a waiting job: how long until the earliest is due (zero if it is).
    async fn peek(&self, queues: &[String]) -> Result<BTreeMap<String, Duration>, LedgerError>;

    /// Writes outcomes under their fences; answers with the ids that were still held. Outcomes that something hangs on go
    /// through [`crate::follow_ups::finish`].
    async fn finish(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Vec<JobId>, LedgerError>;

    /// Whether a transaction can hold single rows and keys, and so delay statements that need these alone.
    fn locks_rows(&self) -> bool {
        true
    }

    /// The same as [`Self::finish`] without waiting for a lock: what somebody has locked is told apart from what is void. For outcomes that a
    /// [`Self::finish`] could not store.
    async fn finish_free(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<FreeFinish, LedgerError>;

    /// Records the start of a job that crashed before. False: the lease is lost, do not run it.
    async fn mark_started(&self, worker: WorkerId, fence: &Fence) -> Result<bool, LedgerError>;

    /// Stores the newest progress of running jobs, under their fences.
    async fn store_progress(&self, worker: WorkerId, progress: &[Progress]) -> Result<(), LedgerError>;

    /// The time by the server's clock. Heartbeats that lie ahead of it were written before the clock was set back: they are
    /// set to now, so that a worker that was lost before is noticed `lost_after` from now on, and not later.
    async fn check_clock(&self) -> Result<ServerClock, LedgerError>;

    /// Jobs of these queues that were accepted without a delay, and whose time lies ahead of the server's clock, in that span:
    /// they are due now. At most `limit`; answers with how many of each queue. Rows that somebody holds are left for the next
    /// time.
    async fn make_due(
        &self,
        queues: &[String],
        span: TimeSpan,
        limit: usize,
    ) -> Result<BTreeMap<String, u64>, LedgerError>;

    /// First word of a worker. Repeatable.
    async fn register(&self, report: &WorkerReport) -> Result<(), LedgerError>;

    /// Renews the worker's lease, even a stale one: each job that was rescued meanwhile is fenced by itself.
    async fn heartbeat(&self, report: &WorkerReport) -> Result<Heartbeat, LedgerError>;

    /// Renews the leases of several workers, as far as no other transaction holds their rows; answers with those that have a
    /// row. For those in `idle` it also reads whether they have running jobs.
    async fn renew(&self, ids: &[WorkerId], idle: &[WorkerId]) -> Result<Vec<RenewedLease>, LedgerError>;

    /// Which running jobs of these ids somebody wants cancelled.
    async fn cancel_requests(&self, workers: &[WorkerId]) -> Result<Vec<JobId>, LedgerError>;

    /// What runs under an id by the ledger, beyond what is known: up to [`MAX_STATEMENT_ROWS`].
    async fn unknown_to_worker(&self, worker: WorkerId, known: &[JobId]) -> Result<Vec<Fence>, LedgerError>;

    /// Puts back, without a crash, what an id holds beyond what is known, up to [`MAX_STATEMENT_ROWS`]. Only for an id that
    /// claims no more. A row that another transaction holds is left for the next time.
    async fn return_strays(&self, worker: WorkerId, known: &[JobId]) -> Result<ReturnReport, LedgerError>;

    /// Puts back, without a crash, these jobs as far as they still run under the id and these fences. For an id that claims.
    async fn return_suspects(&self, worker: WorkerId, fences: &[Fence]) -> Result<ReturnReport, LedgerError>;

    /// Ends an id that claims no more: what it holds goes back, and its row goes if nothing is left under it. Waits for a claim
    /// that is under way for it, as long as the server waits for a lock; then it is to be tried again.
    async fn deregister(&self, worker: WorkerId) -> Result<ReturnReport, LedgerError>;

    /// Returns, cancels or discards up to `limit` jobs whose worker has no row, among the ids of `range`. Bounded in
    /// time: it fails as [`LedgerError::is_statement_timeout`] if the range has too many entries to walk past.
    async fn rescue_orphans(
        &self,
        range: IdRange,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError>;

    /// Returns, cancels or discards up to `limit` jobs of workers not heard of for `lost_after`, and deletes the rows of those
    /// that hold nothing.
    async fn rescue(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError>;

    /// Deletes final rows past their retention: up to `limit` completed and cancelled ones, and up to `limit` discarded ones.
    /// A row that ended long after it was created may be left for some minutes.
    async fn prune(&self, retention: &Retention, limit: usize) -> Result<PruneReport, LedgerError>;

    async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError>;

    /// The final ones among `ids`.
    async fn final_among(&self, ids: &[JobId]) -> Result<Vec<JobId>, LedgerError>;

    /// Cancels a waiting job at once and asks a running one to give way. `None`: unknown id.
    async fn cancel(&self, id: JobId) -> Result<Option<(CancelReply, Effects)>, LedgerError>;

    /// Makes a discarded or delayed job available now. `None`: unknown id.
    async fn retry_now(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError>;

    async fn queue_stats(&self) -> Result<Vec<QueueStats>, LedgerError>;

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), LedgerError>;

    async fn paused_queues(&self) -> Result<Vec<String>, LedgerError>;

    /// The worker processes, each once.
    async fn workers(&self) -> Result<Vec<WorkerRecord>, LedgerError>;

    /// Up to `limit` rows that may also stand on the broker, whatever their state.
    async fn doubtful(&self, limit: usize) -> Result<Vec<Doubtful>, LedgerError>;

    /// The broker no longer knows these jobs: the ledger's rows are the only ones.
    async fn settle(&self, ids: &[JobId]) -> Result<(), LedgerError>;
}

/// The ledger on the database that the settings name.
pub fn open(database: &Database, settings: &holdfast_core::config::DatabaseSettings) -> Arc<dyn Ledger> {
    open_observed(database, settings, Observers::default())
}

/// The same, with whom it asks when it ends jobs or batches itself.
pub(crate) fn open_observed(
    database: &Database,
    settings: &holdfast_core::config::DatabaseSettings,
    observers: Observers,
) -> Arc<dyn Ledger> {
    match database {
        Database::Postgres(pool) => Arc::new(PostgresLedger::new(pool.clone(), settings).observed(observers)),
        Database::Sqlite(database) => Arc::new(SqliteLedger::new(database.clone()).observed(observers)),
    }
}
