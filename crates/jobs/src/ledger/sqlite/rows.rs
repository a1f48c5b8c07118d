//! Rows as SQLite has them, and how they are read.

use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::json;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::decode::DecodedRow;
use crate::ledger::{ClaimedJob, JobRecord, Options, Priority, WorkerRecord};
use crate::state::StoredState;

/// The database's now, in milliseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}

pub(crate) const RECORD: &str = concat!(
    "select id, kind, queue, state, priority, payload, attempt, max_attempts, crashes, timeout_ms, unique_key, limit_key, run_at,
            run_at > ", now!(), " as ahead, created_at, started_at, finished_at, result, progress, errors, worker,
            cancel_requested, batch_id, child_id, options, tags, enqueued_by
     from holdfast_jobs "
);

pub(super) fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

pub(super) fn hex_array(ids: &[JobId]) -> String {
    json!(ids.iter().map(|id| hex(id.as_uuid())).collect::<Vec<_>>()).to_string()
}

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

pub(super) fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

pub(super) fn decode_error(message: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(message.to_string().into())
}

pub(super) fn time(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>, sqlx::Error> {
    let unix_ms: i64 = row.try_get(column)?;
    DateTime::from_timestamp_millis(unix_ms).ok_or_else(|| decode_error(format!("{column} is out of range")))
}

pub(super) fn optional_time(row: &SqliteRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let unix_ms: Option<i64> = row.try_get(column)?;
    Ok(unix_ms.and_then(DateTime::from_timestamp_millis))
}

pub(super) fn parsed<T: serde::de::DeserializeOwned>(
    row: &SqliteRow,
    column: &str,
) -> Result<T, sqlx::Error> {
    serde_json::from_str(row.try_get(column)?).map_err(decode_error)
}

pub(super) fn stored_state(row: &SqliteRow) -> Result<StoredState, sqlx::Error> {
    row.try_get::<&str, _>("state")?.parse().map_err(decode_error)
}

/// Reads whatever the row holds: what cannot be read is noted in the job, and fails no other job of the statement.
impl FromRow<'_, SqliteRow> for ClaimedJob {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let timeout: i64 = row.try_get("timeout_ms")?;
        let mut decoded = DecodedRow::default();
        Ok(Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            payload: decoded.raw("payload", row.try_get("payload")),
            attempt: row.try_get("attempt")?,
            crashes: row.try_get("crashes")?,
            max_attempts: row.try_get("max_attempts")?,
            timeout: Duration::from_millis(timeout.unsigned_abs()),
            options: decoded.json("options", row.try_get("options")),
            priority: Priority::from_rank(row.try_get("priority")?),
            run_at: time(row, "run_at")?,
            snoozes: row.try_get("snoozes")?,
            doubtful: row.try_get("doubtful")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
            unreadable: decoded.faults(),
            expired: false,
        })
    }
}

impl FromRow<'_, SqliteRow> for WorkerRecord {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: WorkerId::from_uuid(row.try_get("id")?),
            name: row.try_get("name")?,
            queues: parsed(row, "queues")?,
            started_at: time(row, "started_at")?,
            seen_at: time(row, "seen_at")?,
            seen_seconds_ago: row.try_get("ago")?,
            stats: parsed(row, "stats")?,
            client: row
                .try_get::<Option<&str>, _>("client")?
                .map(serde_json::from_str)
                .transpose()
                .map_err(decode_error)?,
            draining: row.try_get("draining")?,
        })
    }
}

impl FromRow<'_, SqliteRow> for JobRecord {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let attempt = row.try_get("attempt")?;
        let timeout: i64 = row.try_get("timeout_ms")?;
        let mut decoded = DecodedRow::default();
        let options: Options = decoded.json("options", row.try_get("options"));
        let mut record = Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            queue: row.try_get("queue")?,
            state: stored_state(row)?.seen_as(row.try_get("ahead")?, attempt),
            priority: Priority::from_rank(row.try_get("priority")?),
            payload: decoded.raw("payload", row.try_get("payload")),
            attempt,
            max_attempts: row.try_get("max_attempts")?,
            crashes: row.try_get("crashes")?,
            timeout_seconds: timeout as f64 / 1_000.0,
            unique_key: row.try_get("unique_key")?,
            limit_key: row.try_get("limit_key")?,
            run_at: time(row, "run_at")?,
            created_at: time(row, "created_at")?,
            started_at: optional_time(row, "started_at")?,
            finished_at: optional_time(row, "finished_at")?,
            result: decoded.optional_raw("result", row.try_get("result")),
            progress: decoded.optional_raw("progress", row.try_get("progress")),
            errors: decoded.json("errors", row.try_get("errors")),
            worker: row.try_get::<Option<Uuid>, _>("worker")?.map(WorkerId::from_uuid),
            cancel_requested: row.try_get("cancel_requested")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
            then: options.then,
            expires_at: options.expires_at,
            child: row.try_get::<Option<Uuid>, _>("child_id")?.map(JobId::from_uuid),
            parent: options.previous.map(|previous| previous.id),
            callback_of: options.ended_batch.map(|batch| batch.id),
            tags: decoded.json("tags", row.try_get("tags")),
            enqueued_by: row.try_get("enqueued_by")?,
        };
        decoded.note_in(&mut record);
        Ok(record)
    }
}
