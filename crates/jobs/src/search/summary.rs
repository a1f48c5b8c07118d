//! Jobs as a list shows them.

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{AssertSqlSafe, FromRow, Row};
use uuid::Uuid;

use crate::LedgerTx;
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::{ErrorRecord, LedgerError, Priority};
use crate::sql::{Sql, decode_error, hex_ids};
use crate::state::{State, StoredState};

/// A job without its payload and its result, and with its last error alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct JobSummary {
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    pub state: State,
    pub priority: Priority,
    pub attempt: u32,
    pub max_attempts: u32,
    pub crashes: u32,
    pub limit_key: Option<String>,
    pub tags: Vec<String>,
    pub run_at: DateTime<Utc>,
    pub created_at: DateTime<Utc>,
    pub started_at: Option<DateTime<Utc>>,
    pub finished_at: Option<DateTime<Utc>>,
    pub worker: Option<WorkerId>,
    pub batch: Option<BatchId>,
    pub cancel_requested: bool,
    pub last_error: Option<ErrorRecord>,
}

const COLUMNS: &str = "id, kind, queue, state, priority, attempt, max_attempts, crashes, limit_key, tags, @ms(run_at) as run_at,
    run_at > @now as ahead, @ms(created_at) as created_at, @ms(started_at) as started_at, @ms(finished_at) as finished_at,
    worker, batch_id, cancel_requested";

pub(super) async fn read(sql: &Sql, ids: &[JobId]) -> Result<Vec<JobSummary>, LedgerError> {
    let ids: Vec<Uuid> = ids.iter().map(|id| id.as_uuid()).collect();
    let read = sql.within("read jobs", async {
        let mut tx = sql.begin_read().await?;
        let found = match tx.on() {
            LedgerTx::Postgres(on) => {
                let text = format!(
                    "select {COLUMNS}, (errors -> -1)::text as last_error from holdfast_jobs where id @among($1)"
                );
                let query = sqlx::query(AssertSqlSafe(dialect::postgres(&text))).bind(&ids);
                readable(&query.persistent(sql.named).fetch_all(on).await?)
            }
            LedgerTx::Sqlite(on) => {
                let text = format!(
                    "select {COLUMNS}, case when json_valid(errors) then json_extract(errors, '$[#-1]') end as last_error
                     from holdfast_jobs where id @among($1)"
                );
                let query = sqlx::query(AssertSqlSafe(dialect::sqlite(&text))).bind(hex_ids(&ids));
                readable(&query.fetch_all(on).await?)
            }
        };
        tx.commit().await?;
        Ok(found)
    });
    read.await
}

/// A row in a state that this version does not know is left out, as it is of a page of whole jobs.
fn readable<R: Row>(rows: &[R]) -> Vec<JobSummary>
where
    JobSummary: for<'r> FromRow<'r, R>,
{
    let read = |row: &R| {
        JobSummary::from_row(row)
            .inspect_err(
                |error| tracing::error!(error = %error, "a job cannot be read and is left out of a list"),
            )
            .ok()
    };
    rows.iter().filter_map(read).collect()
}

/// Both databases answer in the same types.
macro_rules! from_rows {
    ($($row:ty),+) => {$(
        impl FromRow<'_, $row> for JobSummary {
            fn from_row(row: &$row) -> Result<Self, sqlx::Error> {
                let count = |column| Ok::<_, sqlx::Error>(row.try_get::<i32, _>(column)?.unsigned_abs());
                let time = |column| {
                    let millis: Option<i64> = row.try_get(column)?;
                    Ok::<_, sqlx::Error>(millis.and_then(DateTime::from_timestamp_millis))
                };
                let always = |column| time(column)?.ok_or_else(|| decode_error("a time is out of range"));
                let stored: StoredState = row.try_get::<&str, _>("state")?.parse().map_err(decode_error)?;
                let attempt = count("attempt")?;
                let last_error: Option<String> = row.try_get("last_error")?;
                Ok(Self {
                    id: JobId::from_uuid(row.try_get("id")?),
                    kind: row.try_get("kind")?,
                    queue: row.try_get("queue")?,
                    state: stored.seen_as(row.try_get("ahead")?, attempt),
                    priority: Priority::from_rank(row.try_get("priority")?),
                    attempt,
                    max_attempts: count("max_attempts")?,
                    crashes: count("crashes")?,
                    limit_key: row.try_get("limit_key")?,
                    tags: row
                        .try_get::<Option<String>, _>("tags")?
                        .and_then(|tags| serde_json::from_str(&tags).ok())
                        .unwrap_or_default(),
                    run_at: always("run_at")?,
                    created_at: always("created_at")?,
                    started_at: time("started_at")?,
                    finished_at: time("finished_at")?,
                    worker: row.try_get::<Option<Uuid>, _>("worker")?.map(WorkerId::from_uuid),
                    batch: row.try_get::<Option<Uuid>, _>("batch_id")?.map(BatchId::from_uuid),
                    cancel_requested: row.try_get("cancel_requested")?,
                    // One that cannot be read is left out; the job's own page says so.
                    last_error: last_error.and_then(|error| serde_json::from_str(&error).ok()),
                })
            }
        }
    )+};
}

from_rows!(PgRow, SqliteRow);
