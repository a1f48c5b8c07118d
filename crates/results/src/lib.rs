//! Results and channels: what programs leave for one another beside their jobs, and that expires.
//!
//! - A *document* has an id of the client's choice, a text, and a version that grows with every write. Readers may wait for another
//!   version than the one they know.
//! - A *set of parts* counts each part once, however often it is added: a repeat after a lost reply changes nothing.
//! - A *channel* carries short-lived messages to all who listen. Each message has a number; a reader says the last one that it has.
//!
//! # Invariants
//! - Written means committed. What has expired is not shown from that moment on, by the clock of the database; a beat deletes it
//!   within seconds, a bounded number of rows at a time.
//! - The version of a document grows, also over its expiry, its deletion and a write under the same id: it is at least the clock of the
//!   database in microseconds. So a reader that knows a version never takes a newer document for it.
//! - A document that was written as finished is not overwritten by a write that says `unless_finished`, however late that one commits.
//! - The count of a set is exact at the moment of each change: the row of the set is the lock under which its parts come and go. Of
//!   two concurrent changes one sees the other.
//! - The messages of a channel become visible in the order of their numbers: the row of the channel is locked from the number to the
//!   commit. A reader that goes on from the last number it has skips nothing, and is told when messages after it have expired.
//!
//! # Waiting
//! All waiters of a process share one poll ([`hub`]); a write in the same process wakes them without it, and one in another process
//! over Redis, where there is Redis. Nothing depends on that: the poll finds what was not announced.
//!
//! # When things fail
//! - *The database is unavailable*: every call is answered 503 in microseconds while the gate is closed. Those who wait go on waiting.
//! - *A write is late*: its client has given it up and repeats it, and then it commits. Parts count once, `finished` protects, and the
//!   version grows once more. A message that is posted again is there twice: channels are for what may be heard twice.
//! - *Redis is unavailable*: waiters of other processes hear of a write by their poll, 50 ms later.

mod bell;
mod channels;
mod documents;
mod hub;
mod parts;
mod problems;
mod product;
mod routes;
mod state;
mod sweep;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::sql::Database;
use holdfast_core::waiters::TooManyWaiters;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::sql::Sql;
use tokio::time::Instant;

pub use self::channels::{ChannelPage, Message};
pub use self::documents::{Document, DocumentPage, DocumentWrite, WrittenDocument};
pub use self::hub::MAX_WAITED_FOR;
use self::hub::{Hub, Key};
pub use self::parts::{AddedParts, DeletedParts, MAX_PARTS, PartPage};
pub use self::product::ResultsProduct;
pub use self::routes::ROUTES;
pub use self::state::ResultsState;
pub use self::sweep::SWEEP_PERIOD;

/// Why a call failed.
#[derive(Debug, thiserror::Error)]
pub enum ResultsError {
    #[error(transparent)]
    Sql(#[from] LedgerError),
    #[error(transparent)]
    TooManyWaiters(#[from] TooManyWaiters),
    #[error("a set has at most {MAX_PARTS} parts")]
    TooManyParts,
}

/// The results and channels of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Results(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    hub: Hub,
}

impl Results {
    /// Call it inside tokio; it reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, gate: &RedisGate) -> Self {
        let sql = Sql::new(database, &settings.database);
        let hub = Hub::new(sql.clone(), gate);
        Self(Arc::new(Inner { sql, hub }))
    }

    /// Writes documents in one transaction, in their order; what became of each.
    pub async fn write(&self, writes: Vec<DocumentWrite>) -> Result<Vec<WrittenDocument>, ResultsError> {
        let written = documents::write(&self.0.sql, writes).await?;
        let stored = written.iter().filter(|one| one.is_stored);
        self.0
            .hub
            .announce(stored.map(|one| Key::Document(one.id.clone())).collect());
        Ok(written)
    }

    /// The documents whose version differs from the known one (0: none is known), as soon as there is one, or nothing after `wait`.
    pub async fn read(
        &self,
        known: &BTreeMap<String, i64>,
        wait: Duration,
    ) -> Result<DocumentPage, ResultsError> {
        let deadline = Instant::now() + wait;
        loop {
            // Joined before it is read, so that a write in between is announced.
            let keys = known
                .iter()
                .map(|(id, version)| (Key::Document(id.clone()), *version));
            let waiter = if wait.is_zero() {
                None
            } else {
                Some(self.0.hub.join(keys)?)
            };
            let page = documents::read(&self.0.sql, known).await?;
            let Some(waiter) = waiter.filter(|_| page.is_empty()) else {
                return Ok(page);
            };
            if tokio::time::timeout_at(deadline, waiter.notified())
                .await
                .is_err()
            {
                return Ok(page);
            }
        }
    }

    /// Deletes documents and sets of parts; how many documents there were.
    pub async fn delete(&self, ids: &BTreeSet<String>) -> Result<u64, ResultsError> {
        Ok(documents::delete(&self.0.sql, ids).await?)
    }

    /// Adds parts to a set.
    pub async fn add_parts(
        &self,
        set: &str,
        parts: &BTreeSet<String>,
        ttl: Duration,
    ) -> Result<AddedParts, ResultsError> {
        parts::add(&self.0.sql, set, parts, ttl).await
    }

    /// A page of the parts of a set, after the given one.
    pub async fn parts(&self, set: &str, after: &str, limit: usize) -> Result<PartPage, ResultsError> {
        Ok(parts::list(&self.0.sql, set, after, limit).await?)
    }

    /// Takes parts out of a set.
    pub async fn delete_parts(
        &self,
        set: &str,
        parts: &BTreeSet<String>,
    ) -> Result<DeletedParts, ResultsError> {
        Ok(parts::delete(&self.0.sql, set, parts).await?)
    }

    /// Posts messages; the number of the last one.
    pub async fn post(&self, channel: &str, messages: &[String], ttl: Duration) -> Result<i64, ResultsError> {
        let last = channels::post(&self.0.sql, channel, messages, ttl).await?;
        self.0.hub.announce(vec![Key::Channel(channel.to_owned())]);
        Ok(last)
    }

    /// The messages of each channel after the number that its reader has (`None`: only where to begin), as soon as there are some, or
    /// none after `wait`.
    pub async fn listen(
        &self,
        after: &BTreeMap<String, Option<i64>>,
        limit: usize,
        wait: Duration,
    ) -> Result<BTreeMap<String, ChannelPage>, ResultsError> {
        let deadline = Instant::now() + wait;
        let begins = after.values().any(Option::is_none);
        loop {
            let keys = after
                .iter()
                .map(|(name, seq)| (Key::Channel(name.clone()), seq.unwrap_or(0)));
            let waiter = if wait.is_zero() || begins {
                None
            } else {
                Some(self.0.hub.join(keys)?)
            };
            let pages = channels::read(&self.0.sql, after, limit).await?;
            let is_news = pages.values().any(ChannelPage::is_news);
            let Some(waiter) = waiter.filter(|_| !is_news) else {
                return Ok(pages);
            };
            if tokio::time::timeout_at(deadline, waiter.notified())
                .await
                .is_err()
            {
                return Ok(pages);
            }
        }
    }

    /// Deletes what has expired, up to 1,000 rows of each table; whether there may be more.
    pub async fn sweep(&self) -> Result<bool, ResultsError> {
        Ok(sweep::sweep(&self.0.sql).await?)
    }
}
