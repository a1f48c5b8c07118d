//! What bounds a queue over all of its workers: how many jobs run at once and how many start in a time, for the queue and
//! for each `limit_key`. Decided in SQL, so it holds whether Redis is there or not.
//!
//! # States
//! A queue without limits is claimed from as ever ([`crate::ledger::Ledger::claim`]), which costs one flag in a row that
//! is looked at anyway. A queue with any limit is `limited`: that claim gives nothing then, and [`LimitStore::claim`] is
//! the only way in. The worker learns which from the claim itself: one that gives nothing asks for the flag.
//!
//! The limits in force are those set over the API, or else those of the configuration, which each worker declares when it
//! starts (the last one to start wins, as it should while a deployment rolls).
//!
//! # Invariants
//! - A limited claim holds the lock of its queue's row from its first read to its commit, and reads after it has the
//!   lock. So claims of one queue follow one another, and none counts what another is about to change.
//! - *Running* is what the ledger calls running: claimed, and no outcome stored yet. A job whose worker died counts until it
//!   is rescued. So two jobs of one key never overlap while the lease of the first lives.
//! - A bucket of tokens is one moment, when it will be full again: starting a job moves it ahead by `period / count`.
//!   Starts in any time T are at most `count + T · count / period`. A start that was handed back spends its token.
//! - Keys take turns: a claim looks at up to [`KEYS`] keys of those that wait (more in up to [`WALKS`] walks), from where
//!   the last one stopped, and takes the head of each key that is free before the second of any. A key at its limit costs three
//!   index probes, however many of its jobs wait. With fewer keys than that, the order among heads is priority, then time.
//! - In a queue with limits by key, jobs without a key are not bound by them. They are looked for among the first
//!   [`UNKEYED_WINDOW`] due jobs of each priority: give every job of such a queue a key.
//!
//! # Who wakes a worker that waits for a limit
//! A stored outcome frees a place: the finisher looks again and rings the bell for others. Tokens grow by the clock: the
//! claim says when ([`LimitedClaim::again_in`]), as it does for jobs that are due later. Nothing polls for a limit beyond the
//! safety poll that every queue has.
//!
//! # When things fail
//! A claim is one transaction: a worker that dies in it leaves nothing. A reply that was lost is met as for any
//! claim: the worker retires its id, and what it may hold returns.

mod claim;
mod postgres;
mod sqlite;

use std::collections::BTreeMap;
use std::time::Duration;

pub use holdfast_core::config::QueueLimits;
use holdfast_core::config::{DatabaseSettings, QueueSettings};
use holdfast_core::sql::Database;

use crate::client::LedgerTx;
use crate::id::WorkerId;
use crate::ledger::{ClaimedJob, LedgerError};
use crate::sql::Sql;

/// Keys looked at in one walk.
const KEYS: usize = 500;

/// Walks of one claim at most, while it has room.
const WALKS: usize = 4;

/// Due jobs of one priority that are searched for jobs without a key.
const UNKEYED_WINDOW: usize = 1_000;

/// Heads fetched for one walk at most, over all of its keys.
const CANDIDATES: usize = 5_000;

/// Longest `limit_key`, in bytes.
pub const MAX_LIMIT_KEY_BYTES: usize = crate::enqueue::MAX_KEY_BYTES;

/// What a claim asks for.
#[derive(Debug, Clone, Copy)]
pub struct Asked<'a> {
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

/// The limits as they stand in SQL. Cheap to clone.
#[derive(Debug, Clone)]
pub struct LimitStore {
    sql: Sql,
}

impl LimitStore {
    pub fn new(database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            sql: Sql::new(database, settings),
        }
    }

    /// Leases due jobs within the limits; the counterpart of the ledger's claim, with the same guards.
    pub async fn claim(&self, asked: Asked<'_>) -> Result<LimitedClaim, LedgerError> {
        self.sql
            .within("claim jobs within limits", async {
                let mut tx = self.sql.begin().await?;
                let claimed = claim::claim(&mut tx, self.sql.named, asked).await?;
                tx.commit().await?;
                Ok(claimed)
            })
            .await
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

    /// Forgets up to `most` buckets that are full: they say nothing.
    pub(crate) async fn prune(&self, most: usize) -> Result<u64, LedgerError> {
        self.sql
            .within("forget full buckets", async {
                let mut tx = self.sql.begin().await?;
                let pruned = match tx.on() {
                    LedgerTx::Postgres(on) => postgres::prune(on, self.sql.named, most).await?,
                    LedgerTx::Sqlite(on) => sqlite::prune(on, most).await?,
                };
                tx.commit().await?;
                Ok(pruned)
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
