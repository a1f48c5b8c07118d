//! Limits of a queue over all of its workers: how many jobs run at once and how many start in a time, for the queue and for
//! each `limit_key`. Decided in SQL, so they hold with and without Redis.
//!
//! # States
//! A queue is *limited* while any limit is in force: one that was set over the API, or else one of the configuration,
//! which each worker declares when it starts (the last one to start wins, as it should while a deployment rolls), or what holds
//! for one of its keys for a time ([`keys`]). Jobs of other queues are claimed with [`crate::ledger::Ledger::claim`], which gives nothing for a limited queue; then a worker
//! asks [`LimitStore::is_limited`] and goes on with [`LimitStore::claim`], until that answers that there are no limits
//! any more.
//!
//! # How a claim works
//! On PostgreSQL a claim is one message: a call of `holdfast_claim_limited_2`. The function locks, counts, chooses, leases and
//! spends tokens, and the server commits at the end of the message, whether or not this process still listens. On SQLite
//! the same steps are taken by this process (`claim.rs`) in a transaction that holds the file's write lock.
//!
//! The function knows no way to read limits as people write them. The caller names the limits that it was told last, and the
//! function answers with others, and takes nothing, if others are in force.
//!
//! # Invariants
//! - **No lock waits for a client.** A lock is held while the server works on one message. A worker that is stopped or
//!   unplugged holds none, however large its answer is: an answer fits into the buffers of the connection, and
//!   payloads that do not are read after the commit.
//! - **Limited claims of a queue follow one another**, each reads after it has the lock, and none begins while an
//!   ordinary claim of that queue is under way. The lock is an advisory lock of the transaction, which ordinary claims
//!   share and limited ones hold alone. So the first claim after limits were set counts what ordinary claims took.
//! - **Running** is what the ledger calls running: claimed, and no outcome stored yet. A job whose worker died counts until
//!   it is rescued, also if the worker's row is gone. So two jobs of one key never overlap while the lease of the first lives.
//! - **The worker's row is locked** (`for key share`) until the claim commits. A worker whose row is gone, locked to be
//!   removed, or not renewed in time claims nothing.
//! - **A bucket of tokens** is one moment, when it will be full again: starting a job moves it ahead by `period / count`.
//!   Starts in any time T are at most `count + T * count / period`. A start that was handed back spends its token. A
//!   bucket is never emptier than empty: one whose moment lies further ahead than that, because the clock was set back or
//!   the rate was lowered, is an empty one.
//! - **Keys take turns.** A claim looks at up to [`KEYS`] keys of those that wait (more in up to [`WALKS`] walks), from where
//!   the last one stopped, and takes the head of each key that is free before the second of any. A key at its limit costs
//!   three index probes, however many of its jobs wait. With fewer keys than that, the order among heads is priority, then
//!   time.
//! - In a queue with limits by key, jobs without a key are not bound by them. They are looked for among the first
//!   [`UNKEYED_WINDOW`] due jobs of each priority: give every job of such a queue a key. In a queue that has no limits by key, and is
//!   limited because something holds for one of its keys, they are looked for among the first [`WIDE_WINDOW`].
//!
//! # Who wakes a worker that waits for a limit
//! A stored outcome frees a place: its worker looks again, and offers the place to others over the bell, at most every 50 ms.
//! Tokens grow by the clock: the claim says when ([`LimitedClaim::again_in`]), as it does for jobs that are due later.
//! Nothing polls for a limit beyond the safety poll that every queue has.
//!
//! # When things fail
//! - *Somebody holds the lock* (another claim, or an operator's open transaction on the queue's row): the server waits half a
//!   second, then refuses ([`LedgerError::is_contention`]). Nothing was applied, and the worker asks again soon.
//! - *A claim takes too long*: the server ends it at `database.statement_timeout`; nothing was applied.
//! - *The answer is lost, or the payloads behind it cannot be read*: the claim may have been applied. The worker retires its
//!   id, and what that id holds returns.
//! - *Workers of two versions run side by side*: a function of the old version stays, and both lock the same. Workers of a version
//!   without overrides of single keys do not know them.
//!
//! # What it costs
//! Running jobs are counted from an index, which holds an entry for each job that ran since the last vacuum. The server skips
//! entries that it knows to be dead, except while an old transaction keeps it from knowing.

mod claim;
mod keys;
mod postgres;
mod postgres_claim;
mod sqlite;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

pub use self::keys::{KEY_COUNT_CAP, KeyOverride, KeyRule, MAX_KEY_OVERRIDES, MAX_OVERRIDE_TIME, QueueKey};
pub(crate) use self::keys::{end_override_in, override_in, put_override_in};
pub use holdfast_core::config::QueueLimits;
use holdfast_core::config::{DatabaseSettings, QueueSettings};
use holdfast_core::sql::Database;

use crate::LedgerTx;
use crate::id::WorkerId;
use crate::ledger::{ClaimedJob, LedgerError};
use crate::sql::Sql;

/// Keys looked at in one walk.
const KEYS: usize = 500;

/// Walks of one claim at most, while it has room.
const WALKS: usize = 4;

/// Due jobs of one priority that are searched for jobs without a key.
const UNKEYED_WINDOW: usize = 1_000;

/// The same in a queue without limits by key, one of whose keys has an override: jobs of that key may come first.
const WIDE_WINDOW: usize = 5_000;

/// Heads fetched for one walk at most, over all of its keys.
const CANDIDATES: usize = 5_000;

/// A claim that did not see every key, and left places free, is worth another one after this.
const NEXT_WALK: Duration = Duration::from_millis(50);

/// Longest `limit_key`, in bytes.
pub const MAX_LIMIT_KEY_BYTES: usize = crate::enqueue::MAX_KEY_BYTES;

/// What a claim asks for.
#[derive(Debug, Clone, Copy)]
pub struct ClaimRequest<'a> {
    pub queue: &'a str,
    pub worker: WorkerId,
    /// Jobs at most.
    pub room: usize,
    pub lost_after: Duration,
}

/// What a limited claim gives.
#[derive(Debug, Default)]
pub struct LimitedClaim {
    pub jobs: Vec<ClaimedJob>,
    /// When asking again may give more, as far as the clock tells. `None`: only once a job ends or comes.
    pub again_in: Option<Duration>,
    /// False: no limit is in force (any more); the ordinary claim is open.
    pub limited: bool,
}

/// Both layers of a queue's limits.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct LimitsInForce {
    /// As the worker that started last declared them.
    pub configured: QueueLimits,
    /// As set over the API, in place of the configured ones.
    pub overridden: Option<QueueLimits>,
}

impl LimitsInForce {
    /// The limits that hold.
    pub fn effective(&self) -> QueueLimits {
        self.overridden.unwrap_or(self.configured)
    }
}

/// A queue's limits as a claim was told last, so that the next one can name them.
#[derive(Debug, Clone)]
struct KnownLimits {
    /// As the database writes them: limits are the same if their texts are.
    text: String,
    limits: QueueLimits,
}

/// The limits as they stand in SQL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LimitStore {
    sql: Sql,
    database: Database,
    /// By queue. On PostgreSQL alone.
    known: Arc<Mutex<BTreeMap<String, KnownLimits>>>,
}

impl LimitStore {
    pub fn new(database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            sql: Sql::new(database, settings),
            database: database.clone(),
            known: Arc::default(),
        }
    }

    /// Leases due jobs within the limits; the counterpart of the ledger's claim, with the same guards.
    ///
    /// # Errors
    /// [`LedgerError::is_contention`] if other claims of the queue, or anybody who has locked its row, took longer than
    /// `database.lock_timeout_ms`: nothing was claimed, and another try may succeed at once.
    pub async fn claim(&self, asked: ClaimRequest<'_>) -> Result<LimitedClaim, LedgerError> {
        self.sql
            .within("claim jobs within limits", async {
                match &self.database {
                    Database::Postgres(pool) => {
                        let before = self.known().get(asked.queue).cloned();
                        let mut known = before.clone();
                        let claimed = postgres_claim::claim(pool, asked, &mut known).await?;
                        if let Some(known) =
                            known.filter(|known| before.is_none_or(|before| before.text != known.text))
                        {
                            self.known().insert(asked.queue.to_owned(), known);
                        }
                        Ok(claimed)
                    }
                    Database::Sqlite(database) => {
                        let mut tx = database.begin().await?;
                        let claimed = claim::claim(&mut tx, asked).await?;
                        tx.commit().await?;
                        Ok(claimed)
                    }
                }
            })
            .await
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, KnownLimits>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether any limit is in force.
    pub async fn is_limited(&self, queue: &str) -> Result<bool, LedgerError> {
        self.sql
            .within("ask for a queue's limits", async {
                let mut tx = self.sql.begin_read().await?;
                let limited = match tx.on() {
                    LedgerTx::Postgres(on) => postgres::is_limited(on, self.sql.named, queue).await?,
                    LedgerTx::Sqlite(on) => sqlite::is_limited(on, queue).await?,
                };
                tx.commit().await?;
                Ok(limited)
            })
            .await
    }

    /// Makes the limits of this process' configuration known; what they were before is forgotten.
    pub async fn declare(&self, queues: &BTreeMap<String, QueueSettings>) -> Result<(), LedgerError> {
        self.sql
            .within("declare the configured limits", async {
                let standing = self.read_all().await?;
                let changed: Vec<_> = queues
                    .iter()
                    .filter(|(name, queue)| {
                        standing.get(*name).copied().unwrap_or_default().configured != queue.limits
                    })
                    .collect();
                if changed.is_empty() {
                    return Ok(());
                }
                let mut tx = self.sql.begin().await?;
                for (name, queue) in changed {
                    let limits = encoded(&queue.limits);
                    let limited = !queue.limits.is_empty();
                    match tx.on() {
                        LedgerTx::Postgres(on) => {
                            postgres::configure(on, self.sql.named, name, &limits, limited).await?;
                        }
                        LedgerTx::Sqlite(on) => sqlite::configure(on, name, &limits, limited).await?,
                    }
                }
                tx.commit().await
            })
            .await
    }

    /// Sets or removes (`None`) the limits that stand in place of the configured ones, in the caller's transaction.
    pub(crate) async fn override_in(
        &self,
        on: LedgerTx<'_>,
        queue: &str,
        limits: Option<&QueueLimits>,
    ) -> Result<(), sqlx::Error> {
        let text = limits.map(encoded);
        let limited = limits.map(|limits| !limits.is_empty());
        match on {
            LedgerTx::Postgres(on) => {
                postgres::set_override(on, self.sql.named, queue, text.as_deref(), limited).await
            }
            LedgerTx::Sqlite(on) => sqlite::set_override(on, queue, text.as_deref(), limited).await,
        }
    }

    /// Sets or removes the limits that stand in place of the configured ones.
    pub async fn set_override(&self, queue: &str, limits: Option<&QueueLimits>) -> Result<(), LedgerError> {
        self.sql
            .within("set a queue's limits", async {
                let mut tx = self.sql.begin().await?;
                self.override_in(tx.on(), queue, limits).await?;
                tx.commit().await
            })
            .await
    }

    /// The limits of every queue that has or had any.
    pub async fn all(&self) -> Result<BTreeMap<String, LimitsInForce>, LedgerError> {
        self.sql.within("read the limits", self.read_all()).await
    }

    async fn read_all(&self) -> Result<BTreeMap<String, LimitsInForce>, sqlx::Error> {
        let mut tx = self.sql.begin_read().await?;
        let rows = match tx.on() {
            LedgerTx::Postgres(on) => postgres::all(on, self.sql.named).await?,
            LedgerTx::Sqlite(on) => sqlite::all(on).await?,
        };
        tx.commit().await?;
        rows.into_iter()
            .map(|(queue, configured, overridden)| {
                let limits = LimitsInForce {
                    configured: decoded(configured.as_deref())?.unwrap_or_default(),
                    overridden: decoded(overridden.as_deref())?,
                };
                Ok((queue, limits))
            })
            .collect()
    }

    /// Forgets up to `most` buckets that are full, and as many overrides that have expired: they say nothing.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn prune(&self, most: usize) -> Result<u64, LedgerError> {
        self.sql
            .within("forget full buckets", async {
                let mut tx = self.sql.begin().await?;
                let pruned = match tx.on() {
                    LedgerTx::Postgres(on) => postgres::prune(on, self.sql.named, most).await?,
                    LedgerTx::Sqlite(on) => sqlite::prune(on, most).await?,
                };
                let expired = keys::prune_in(tx.on(), self.sql.named, most).await?;
                tx.commit().await?;
                // A step that did as much as it may is repeated.
                Ok(pruned.max(expired))
            })
            .await
    }
}

fn encoded(limits: &QueueLimits) -> String {
    // Numbers and short texts: nothing in them can fail to encode.
    serde_json::to_string(limits).unwrap_or_else(|_| "{}".to_owned())
}

fn decoded(text: Option<&str>) -> Result<Option<QueueLimits>, sqlx::Error> {
    text.map(serde_json::from_str)
        .transpose()
        .map_err(crate::sql::decode_error)
}
