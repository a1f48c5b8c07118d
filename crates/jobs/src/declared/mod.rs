//! Kinds and queues as data: what a process is told of at run time, beside those of its code and its configuration.
//!
//! # What exists
//! A *coded* kind is in the registry of the program, a *configured* queue in its settings. A *declared* kind or queue is a row,
//! written by `PUT /v1/kinds/{name}` or `PUT /v1/queues/{name}`. Coded and configured names cannot be declared. A declared
//! queue has the durability `ledger` and is served by pull workers ([`crate::pull`]); so is every declared kind, because no Rust
//! worker has its code. A declared kind may also go to a configured queue with `served_by = "pull"`.
//!
//! # Invariants
//! - A change is one transaction with its audit entry. It raises `holdfast_declarations.version`, whose row is locked first: so
//!   changes follow one another, and the limits ([`MAX_KINDS`], [`MAX_QUEUES`], [`MAX_TEXT_BYTES`]) hold.
//! - The queue of a declared kind exists when the kind does: it is declared in the same transaction.
//! - A job is checked against what this process knows at that moment. A job that was accepted stays accepted, whatever becomes of
//!   its kind: the pull worker is given it all the same.
//!
//! # How a process learns of a change
//! It caches the rows ([`Snapshot`]) and asks for the version, one statement, at most:
//! - once in [`UNKNOWN_FOR`] for names that it does not know. So a new name is known everywhere within that time, and a producer
//!   that sends unknown names costs one statement a second, however many it sends.
//! - once in [`KNOWN_FOR`] for names that it knows: so long a change or a deletion may go unnoticed elsewhere.
//!
//! Names of the code and of the configuration never ask.
//!
//! # When things fail
//! - *The database is unavailable*: known names are used as they were. Unknown ones cannot be judged: the request is answered 503.
//! - *A change whose reply is lost* may be repeated: PUT and DELETE of the same thing change nothing twice.
//! - *A row that this version cannot read* (a newer one wrote its schema): the kind is left out, and an error is logged.

mod change;
mod check;
mod model;
pub(crate) mod schema;
mod schema_work;
mod store;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use tokio::time::Instant;

pub use change::DeclareError;
pub use model::{DeclaredKind, KindDefinition, RetryDefinition, hidden, is_kind_name};
pub use schema::MAX_SCHEMA_BYTES;
pub(crate) use schema::Schema;

use crate::ledger::LedgerError;
use crate::sql::Sql;

/// Most declared kinds.
pub const MAX_KINDS: usize = 1_000;

/// Most declared queues.
pub const MAX_QUEUES: usize = 1_000;

/// Most bytes of all definitions together: every process caches them, and compiles their schemas.
pub const MAX_TEXT_BYTES: usize = 4 * 1024 * 1024;

/// How long a name that was not found is not looked for again.
pub const UNKNOWN_FOR: Duration = Duration::from_secs(1);

/// How long what is known is used without asking.
pub const KNOWN_FOR: Duration = Duration::from_secs(5);

/// What is declared, at one version.
#[derive(Debug, Default)]
pub struct Snapshot {
    /// `None`: nothing was read yet.
    pub(crate) version: Option<i64>,
    pub kinds: BTreeMap<Arc<str>, Arc<DeclaredKind>>,
    pub queues: std::collections::BTreeSet<Arc<str>>,
}

/// A process' knowledge of what is declared. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Declarations(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    sql: Sql,
    current: RwLock<Arc<Snapshot>>,
    asked: Mutex<SnapshotAge>,
    /// One question at a time: the others wait for its answer.
    asking: tokio::sync::Mutex<()>,
}

/// How old the snapshot is.
#[derive(Debug, Default)]
struct SnapshotAge {
    /// When the question began that the database answered last. `None`: the answer does not count any more.
    at: Option<Instant>,
    /// Changes that this process has made. An answer counts only if none was made since its question began: the question may have
    /// been asked before the change was committed.
    changes: u64,
}

impl Declarations {
    pub(crate) fn new(sql: Sql) -> Self {
        Self(Arc::new(Inner {
            sql,
            current: RwLock::default(),
            asked: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }))
    }

    /// As this process knows it now.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.0.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// As the database has it now, or [`KNOWN_FOR`] ago.
    pub async fn current(&self) -> Result<Arc<Snapshot>, LedgerError> {
        self.ask_after(KNOWN_FOR).await?;
        Ok(self.snapshot())
    }

    /// Makes sure that these names were looked for lately.
    pub(crate) async fn look_up(&self, kinds: &[&str], queues: &[&str]) -> Result<(), LedgerError> {
        if kinds.is_empty() && queues.is_empty() {
            return Ok(());
        }
        let snapshot = self.snapshot();
        let known = kinds.iter().all(|kind| snapshot.kinds.contains_key(*kind))
            && queues.iter().all(|queue| snapshot.queues.contains(*queue));
        match self.ask_after(if known { KNOWN_FOR } else { UNKNOWN_FOR }).await {
            Err(error) if known => {
                tracing::debug!(error = ?error, "declared kinds are used as they were last known");
                Ok(())
            }
            asked => asked,
        }
    }

    /// This process has committed a change: nobody uses an answer to a question that began before, not even one that is still
    /// under way.
    pub(crate) fn forget(&self) {
        let mut asked = self.asked();
        asked.at = None;
        asked.changes += 1;
    }

    fn asked(&self) -> std::sync::MutexGuard<'_, SnapshotAge> {
        self.0.asked.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_older_than(&self, age: Duration) -> bool {
        self.asked().at.is_none_or(|at| at.elapsed() >= age)
    }

    async fn ask_after(&self, age: Duration) -> Result<(), LedgerError> {
        if !self.is_older_than(age) {
            return Ok(());
        }
        let _turn = self.0.asking.lock().await;
        // Whoever had the turn before may have asked for us.
        if !self.is_older_than(age) {
            return Ok(());
        }
        // A change that is committed after this is not in the answer: its age counts from here.
        let (now, changes) = (Instant::now(), self.asked().changes);
        if let Some(snapshot) = store::read_unless(&self.0.sql, self.snapshot().version).await? {
            *self.0.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(snapshot);
        }
        let mut asked = self.asked();
        if asked.changes == changes {
            asked.at = Some(now);
        }
        Ok(())
    }
}
