//! Rows as PostgreSQL has them, and how they are read.

use std::time::Duration;

use sqlx::postgres::PgRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::decode::DecodedRow;
use crate::ledger::{ClaimedJob, JobRecord, Options, Priority, WorkerRecord};
use crate::state::StoredState;

pub(crate) const RECORD: &str = "
select id, kind, queue, state, priority, payload::text as payload, attempt, max_attempts, crashes, timeout_ms, unique_key,
       limit_key, run_at, run_at > now() as ahead, created_at, started_at, finished_at, result::text as result,
       progress::text as progress, errors::text as errors, worker, cancel_requested, batch_id, child_id,
       options::text as options, tags, enqueued_by
from holdfast_jobs ";

pub(super) fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

pub(super) fn count(number: u32) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

pub(super) fn from_count(number: i32) -> u32 {
    u32::try_from(number).unwrap_or(0)
}

pub(super) fn decode_error(message: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(message.to_string().into())
}

pub(super) fn stored_state(row: &PgRow) -> Result<StoredState, sqlx::Error> {
    row.try_get::<&str, _>("state")?.parse().map_err(decode_error)
}

impl FromRow<'_, PgRow> for WorkerRecord {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        Ok(Self {
            id: WorkerId::from_uuid(row.try_get("id")?),
            name: row.try_get("name")?,
            queues: serde_json::from_value(row.try_get("queues")?).map_err(decode_error)?,
            started_at: row.try_get("started_at")?,
            seen_at: row.try_get("seen_at")?,
            seen_seconds_ago: row.try_get("ago")?,
            stats: serde_json::from_value(row.try_get("stats")?).map_err(decode_error)?,
            client: row
                .try_get::<Option<&str>, _>("client")?
                .map(serde_json::from_str)
                .transpose()
                .map_err(decode_error)?,
            draining: row.try_get("draining")?,
        })
    }
}

/// Reads whatever the row holds: what cannot be read is noted in the job, and fails no other job of the statement.
impl FromRow<'_, PgRow> for ClaimedJob {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let timeout: i64 = row.try_get("timeout_ms")?;
        let mut decoded = DecodedRow::default();
        Ok(Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            payload: decoded.raw("payload", row.try_get("payload")),
            attempt: from_count(row.try_get("attempt")?),
            crashes: from_count(row.try_get("crashes")?),
            max_attempts: from_count(row.try_get("max_attempts")?),
            timeout: Duration::from_millis(timeout.unsigned_abs()),
            options: decoded.json("options", row.try_get("options")),
            priority: Priority::from_rank(row.try_get("priority")?),
            run_at: row.try_get("run_at")?,
            snoozes: from_count(row.try_get("snoozes")?),
            doubtful: row.try_get("doubtful")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
            unreadable: decoded.faults(),
            expired: false,
        })
    }
}

impl FromRow<'_, PgRow> for JobRecord {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let attempt = from_count(row.try_get("attempt")?);
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
            max_attempts: from_count(row.try_get("max_attempts")?),
            crashes: from_count(row.try_get("crashes")?),
            timeout_seconds: timeout as f64 / 1_000.0,
            unique_key: row.try_get("unique_key")?,
            limit_key: row.try_get("limit_key")?,
            run_at: row.try_get("run_at")?,
            created_at: row.try_get("created_at")?,
            started_at: row.try_get("started_at")?,
            finished_at: row.try_get("finished_at")?,
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
