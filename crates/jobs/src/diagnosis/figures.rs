//! What was seen, before it is judged.

use std::collections::BTreeMap;

use holdfast_core::config::QueueLimits;
use serde::Serialize;
use sqlx::FromRow;

use crate::id::JobId;
use crate::ledger::WorkerQueueStats;

/// PostgreSQL as a whole.
#[derive(Debug, Clone, Default, Serialize)]
pub struct ServerFigures {
    pub connections: Connections,
    /// The oldest first. What keeps vacuums from removing rows is among them.
    pub transactions: Vec<OldTransaction>,
    pub waits: Vec<Wait>,
    pub holders: Vec<Holder>,
    pub slow: Vec<SlowStatement>,
    pub tables: Vec<TableFigures>,
}

/// Of all databases of the server.
#[derive(Debug, Clone, Copy, Default, Serialize)]
pub struct Connections {
    pub used: i64,
    pub max: i64,
    /// Sessions of other roles whose statements this role may not see.
    pub hidden: i64,
}

/// What keeps a snapshot.
#[derive(Debug, Clone, Serialize)]
pub struct OldTransaction {
    pub what: String,
    /// How long it has been open; `None` where that is hidden or not known.
    pub seconds: Option<f64>,
    /// Transactions that began since its snapshot.
    pub xmin_age: Option<i32>,
    pub statement: Option<String>,
}

/// A session that waits for a lock, and one that holds it.
#[derive(Debug, Clone, Serialize)]
pub struct Wait {
    pub pid: i32,
    /// Since its statement began.
    pub seconds: f64,
    pub statement: Option<String>,
    pub blocked_by: String,
    pub blocker_open_seconds: Option<f64>,
    pub blocker_statement: Option<String>,
}

/// An open transaction that holds locks on the ledger's tables.
#[derive(Debug, Clone, Serialize)]
pub struct Holder {
    #[serde(skip)]
    pub(super) key: HolderKey,
    pub pid: i32,
    pub who: String,
    pub tables: String,
    /// How long it has been open; `None` where that is hidden.
    pub seconds: Option<f64>,
    pub statement: Option<String>,
}

/// Process id and virtual transaction: two looks see the same one, or another.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct HolderKey(pub(super) i32, pub(super) String);

#[derive(Debug, Clone, Serialize)]
pub struct SlowStatement {
    pub pid: i32,
    pub seconds: f64,
    pub statement: Option<String>,
}

#[derive(Debug, Clone, Serialize)]
pub struct TableFigures {
    pub table: String,
    /// Rows, as the server estimates them.
    pub live: i64,
    pub dead: i64,
    /// `None`: never, since its statistics began.
    pub vacuumed_seconds_ago: Option<f64>,
}

/// The embedded database.
#[derive(Debug, Clone, Copy, Serialize)]
pub struct FileFigures {
    pub log_bytes: u64,
}

/// Running jobs.
#[derive(Debug, Clone, Default, Serialize)]
pub struct LeaseFigures {
    pub lost: LostWork,
    pub overdue: Overdue,
}

/// Running jobs without a living worker. Up to 100 workers with up to 1,000 jobs each are counted.
#[derive(Debug, Clone, Copy, Default, PartialEq, Serialize)]
pub struct LostWork {
    /// Of workers without a row.
    pub orphaned: i64,
    pub orphaned_oldest_seconds: f64,
    /// Of workers that are silent.
    pub silent: i64,
    pub silent_oldest_seconds: f64,
}

impl LostWork {
    /// Of rows: no row of the worker, its silence, its jobs, the age of the oldest.
    pub(super) fn sum(rows: Vec<(bool, Option<f64>, i64, Option<f64>)>) -> Self {
        let mut sum = Self::default();
        for (is_gone, silence, jobs, oldest) in rows {
            if is_gone {
                sum.orphaned += jobs;
                sum.orphaned_oldest_seconds = sum.orphaned_oldest_seconds.max(oldest.unwrap_or_default());
            } else {
                sum.silent += jobs;
                sum.silent_oldest_seconds = sum.silent_oldest_seconds.max(silence.unwrap_or_default());
            }
        }
        sum
    }
}

/// Running jobs beyond their timeout, of the first 5,000.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Overdue {
    pub jobs: i64,
    #[serde(rename = "oldest_seconds")]
    pub oldest: Option<f64>,
    /// The id as the database has it.
    pub(super) example: Option<String>,
}

impl Overdue {
    /// One of the jobs, as `holdfast jobs show` takes it.
    pub fn example(&self) -> Option<JobId> {
        let id = uuid::Uuid::parse_str(self.example.as_deref()?).ok()?;
        Some(JobId::from_uuid(id))
    }
}

/// A queue as the database has it.
#[derive(Debug, Clone)]
pub(super) struct QueueLook {
    pub name: String,
    pub is_paused: bool,
    pub is_limited: bool,
    pub has_rate: bool,
    /// Of the job that has been due for the longest.
    pub oldest_seconds: Option<f64>,
}

impl<'r, R> FromRow<'r, R> for QueueLook
where
    R: sqlx::Row,
    (String, bool, bool, Option<String>, Option<f64>): FromRow<'r, R>,
{
    fn from_row(row: &'r R) -> Result<Self, sqlx::Error> {
        let (name, is_paused, is_limited, limits, oldest_seconds) = FromRow::from_row(row)?;
        let limits: Option<QueueLimits> = limits.and_then(|limits| serde_json::from_str(&limits).ok());
        Ok(Self {
            name,
            is_paused,
            is_limited,
            has_rate: limits.is_some_and(|limits| limits.rate.is_some() || limits.key_rate.is_some()),
            oldest_seconds,
        })
    }
}

/// What a living worker reported with its last heartbeat.
#[derive(Debug, Clone)]
pub(super) struct WorkerLook {
    pub queues: Vec<String>,
    pub stats: BTreeMap<String, WorkerQueueStats>,
}

impl WorkerLook {
    /// Of the texts of its queues and its stats; a newer version may write them otherwise.
    pub(super) fn parse((queues, stats): (String, String)) -> Option<Self> {
        Some(Self {
            queues: serde_json::from_str(&queues).ok()?,
            stats: serde_json::from_str(&stats).ok()?,
        })
    }
}
