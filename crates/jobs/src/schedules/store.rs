//! Where schedules are kept: one trait over both databases, and one contract suite that both pass.

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::Database;

use super::model::{BeatRecord, Schedule, ScheduleRecord, Source};
use super::postgres::PostgresSchedules;
use super::sqlite::SqliteSchedules;
use crate::audit::{AuditEntry, AuditLog, By};
use crate::id::{JobId, WorkerId};
use crate::ledger::{LedgerError, NewJob};

/// A beat that was silent for so many times its time to be lost is forgotten.
pub(super) const FORGET_AFTER: u32 = 20;

/// One schedule's step from one tick to the next, with the jobs of the ticks in between.
#[derive(Debug, Clone)]
pub struct Step {
    pub name: String,
    /// Nothing happens unless the schedule is still this one…
    pub revision: i64,
    /// … and still waits for this tick.
    pub from: DateTime<Utc>,
    pub to: Option<DateTime<Utc>>,
    /// The newest tick that becomes a job; `None` if none does.
    pub ticked: Option<DateTime<Utc>>,
    pub jobs: Vec<NewJob>,
    /// What an observer enqueues, because the step is late.
    pub observed: Vec<NewJob>,
}

/// A step that was taken: by this call, and by no other.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub name: String,
    /// The jobs, in the order of the step's; one that stood already under its key is named as it stands.
    pub jobs: Vec<JobId>,
}

/// The schedules in numbers.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub struct Summary {
    pub enabled: u64,
    /// Enabled ones whose last tick could not become a job.
    pub failing: u64,
    /// How long the most overdue one has been waiting.
    pub overdue_seconds: f64,
}

/// The audit entry of a change: written in its transaction, if it changes anything.
#[derive(Debug, Clone)]
pub struct Note<'a> {
    pub log: &'a AuditLog,
    pub by: &'a By,
    pub action: &'static str,
    pub details: Option<serde_json::Value>,
}

impl Note<'_> {
    pub(super) fn entry(&self, schedule: &str) -> AuditEntry {
        let entry = AuditEntry::new(self.action).target(schedule);
        match &self.details {
            Some(details) => entry.details(details.clone()),
            None => entry,
        }
    }
}

/// Schedules and beats, on either database. All times are the server's.
#[async_trait]
pub trait ScheduleStore: Send + Sync + std::fmt::Debug {
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError>;

    /// By name, from the one after `after`.
    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleRecord>, LedgerError>;

    async fn get(&self, name: &str) -> Result<Option<ScheduleRecord>, LedgerError>;

    async fn count(&self) -> Result<u64, LedgerError>;

    async fn summary(&self) -> Result<Summary, LedgerError>;

    /// False: the name is taken.
    async fn insert(
        &self,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError>;

    /// False: it is not at that revision any more.
    async fn replace(
        &self,
        revision: i64,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError>;

    /// False: there is none of that name and owner.
    async fn delete(&self, name: &str, source: Source, note: &Note<'_>) -> Result<bool, LedgerError>;

    /// Deletes the configuration's schedules but for these; answers with the names of the deleted.
    async fn delete_unconfigured(&self, keep: &[String], note: &Note<'_>)
    -> Result<Vec<String>, LedgerError>;

    /// Up to `limit` enabled schedules that are due, the longest due first, without those named in `except`.
    async fn due(&self, limit: usize, except: &[String]) -> Result<Vec<ScheduleRecord>, LedgerError>;

    /// How long until the next enabled schedule is due, without those named; `None`: there is none.
    async fn until_next(&self, except: &[String]) -> Result<Option<Duration>, LedgerError>;

    /// Takes each step that is still to be taken, with its jobs, in one transaction.
    async fn advance(&self, steps: &[Step]) -> Result<Vec<Taken>, LedgerError>;

    /// Records a job that was made by hand.
    async fn note_run(&self, name: &str, job: JobId, note: &Note<'_>) -> Result<(), LedgerError>;

    /// Records why a tick could not become a job.
    async fn note_error(&self, name: &str, revision: i64, error: &str) -> Result<(), LedgerError>;

    /// Says that a beat is alive, and forgets those that have not been for long.
    async fn heartbeat(&self, id: WorkerId, name: &str, lost_after: Duration) -> Result<(), LedgerError>;

    async fn beats(&self) -> Result<Vec<BeatRecord>, LedgerError>;

    /// A beat's last word.
    async fn farewell(&self, id: WorkerId) -> Result<(), LedgerError>;
}

/// The schedules of the database that the settings name.
pub fn open(database: &Database, settings: &DatabaseSettings) -> Arc<dyn ScheduleStore> {
    match database {
        Database::Postgres(pool) => Arc::new(PostgresSchedules::new(pool.clone(), settings)),
        Database::Sqlite(database) => Arc::new(SqliteSchedules::new(database.clone())),
    }
}
