//! The rows.

use std::collections::HashMap;

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::read_either;
use serde_json::json;
use uuid::Uuid;

use super::{Line, LogChunk, MAX_BYTES, MAX_LINES};
use crate::LedgerTx;
use crate::client::Jobs;
use crate::id::{JobId, WorkerId};
use crate::ledger::LedgerError;
use crate::sql::{Sql, hex_ids};

/// The fence is looked at by the statement's snapshot: what it finds held was held when it began. By primary key: see
/// `pull::rows`.
const POSTGRES_APPEND: &str = "
insert into holdfast_job_logs (job, id, attempt, number, line_count, bytes, lines)
select j.id, c.id, j.attempt + 1,
       coalesce((select max(l.number + l.line_count) from holdfast_job_logs as l where l.job = j.id), 1) + c.before,
       c.line_count, c.bytes, c.lines::json
from unnest($2::uuid[], $3::integer[], $4::integer[], $5::uuid[], $6::integer[], $7::integer[], $8::integer[], $9::text[])
  as c(job, attempt, crashes, id, before, line_count, bytes, lines)
join holdfast_jobs as j on j.id = c.job
where j.state || '' = 'running' and j.worker = $1 and j.attempt = c.attempt and j.crashes = c.crashes
on conflict (job, id) do nothing";

const SQLITE_APPEND: &str = "
insert into holdfast_job_logs (job, id, attempt, number, line_count, bytes, lines)
select j.id, c.id, j.attempt + 1,
       coalesce((select max(l.number + l.line_count) from holdfast_job_logs as l where l.job = j.id), 1) + c.before,
       c.line_count, c.bytes, c.lines
from (select unhex(value ->> 0) as job, value ->> 1 as attempt, value ->> 2 as crashes, unhex(value ->> 3) as id,
             value ->> 4 as before, value ->> 5 as line_count, value ->> 6 as bytes, value ->> 7 as lines
      from json_each(?2)) as c
join holdfast_jobs as j on j.id = c.job
where +j.state = 'running' and +j.worker = ?1 and j.attempt = c.attempt and j.crashes = c.crashes
on conflict (job, id) do nothing";

/// `$2` lines and `$3` bytes of each job stay, the newest.
macro_rules! trim {
    ($jobs:literal) => {
        concat!(
            "delete from holdfast_job_logs where (job, id) in (
                 select job, id
                 from (select job, id, sum(line_count) over newest as line_count, sum(bytes) over newest as bytes
                       from holdfast_job_logs where job ",
            $jobs,
            " window newest as (partition by job order by number desc, id desc)) as counted
                 where line_count > $2 or bytes > $3)"
        )
    };
}
const POSTGRES_TRIM: &str = trim!("= any ($1)");
const SQLITE_TRIM: &str = trim!("in (select unhex(value) from json_each($1))");

const READ: &str =
    "select attempt, number, @text(lines) from holdfast_job_logs where job = $1 order by number, id";

/// One line of a job's log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LoggedLine {
    /// Its number among all lines that the job has ever written, from 1.
    pub number: u32,
    /// The attempt that wrote it, from 1.
    pub attempt: u32,
    pub at: DateTime<Utc>,
    pub text: String,
}

/// The lines of a job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobLog {
    /// The oldest first.
    pub lines: Vec<LoggedLine>,
    /// Lines before the first, which were dropped.
    pub dropped: u32,
}

/// A chunk as a statement takes it.
struct Row<'c> {
    chunk: &'c LogChunk,
    /// Lines of the same job in the chunks before it, those that were dropped included.
    before: i32,
    lines: String,
}

impl Row<'_> {
    fn line_count(&self) -> i32 {
        count(self.chunk.lines.len())
    }

    fn bytes(&self) -> i32 {
        count(self.chunk.bytes())
    }
}

fn count(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

fn rows_of(chunks: &[LogChunk]) -> Result<Vec<Row<'_>>, LedgerError> {
    let mut before: HashMap<JobId, i32> = HashMap::new();
    let mut rows = Vec::with_capacity(chunks.len());
    for chunk in chunks {
        let lines = serde_json::to_string(&chunk.lines)
            .map_err(|error| LedgerError::Corrupt(format!("lines cannot be written: {error}")))?;
        let so_far = before.entry(chunk.fence.id).or_default();
        *so_far += count(chunk.dropped);
        rows.push(Row {
            chunk,
            before: *so_far,
            lines,
        });
        *so_far += count(chunk.lines.len());
    }
    Ok(rows)
}

/// Stores what a worker's executions have written, as far as their fences hold. Repeatable. Lines that the database refuses for good are
/// dropped: the heartbeats and outcomes that bring them do not wait for ever.
///
/// # Errors
/// The database is slow or unavailable: the same lines may be stored later.
pub(crate) async fn append(sql: &Sql, worker: WorkerId, chunks: &[LogChunk]) -> Result<(), LedgerError> {
    if chunks.is_empty() {
        return Ok(());
    }
    let rows = rows_of(chunks)?;
    let mut jobs: Vec<Uuid> = chunks.iter().map(|chunk| chunk.fence.id.as_uuid()).collect();
    jobs.sort_unstable();
    jobs.dedup();
    let count = jobs.len();
    let stored = sql.within("write job logs", async {
        let mut tx = sql.begin().await?;
        if write(tx.on(), sql.named, worker, &rows).await? > 0 {
            trim(tx.on(), sql.named, jobs).await?;
        }
        tx.commit().await
    });
    match stored.await {
        Err(error) if !error.is_transient() => {
            tracing::error!(error = ?error, jobs = count, "the database refuses lines of jobs: they are dropped");
            Ok(())
        }
        stored => stored,
    }
}

async fn write(
    on: LedgerTx<'_>,
    named: bool,
    worker: WorkerId,
    rows: &[Row<'_>],
) -> Result<u64, sqlx::Error> {
    let fences = rows.iter().map(|row| &row.chunk.fence);
    match on {
        LedgerTx::Postgres(on) => {
            let signed = |number: u32| i32::try_from(number).unwrap_or(i32::MAX);
            let written = sqlx::query(POSTGRES_APPEND)
                .bind(worker.as_uuid())
                .bind(fences.clone().map(|fence| fence.id.as_uuid()).collect::<Vec<_>>())
                .bind(
                    fences
                        .clone()
                        .map(|fence| signed(fence.attempt))
                        .collect::<Vec<_>>(),
                )
                .bind(fences.map(|fence| signed(fence.crashes)).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.chunk.id).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.before).collect::<Vec<_>>())
                .bind(rows.iter().map(Row::line_count).collect::<Vec<_>>())
                .bind(rows.iter().map(Row::bytes).collect::<Vec<_>>())
                .bind(rows.iter().map(|row| row.lines.as_str()).collect::<Vec<_>>())
                .persistent(named)
                .execute(on)
                .await?;
            Ok(written.rows_affected())
        }
        LedgerTx::Sqlite(on) => {
            let values: Vec<_> = rows
                .iter()
                .map(|row| {
                    let fence = &row.chunk.fence;
                    json!([
                        fence.id.as_uuid().simple().to_string(),
                        fence.attempt,
                        fence.crashes,
                        row.chunk.id.simple().to_string(),
                        row.before,
                        row.line_count(),
                        row.bytes(),
                        row.lines
                    ])
                })
                .collect();
            let written = sqlx::query(SQLITE_APPEND)
                .bind(worker.as_uuid())
                .bind(json!(values).to_string())
                .execute(on)
                .await?;
            Ok(written.rows_affected())
        }
    }
}

async fn trim(on: LedgerTx<'_>, named: bool, jobs: Vec<Uuid>) -> Result<(), sqlx::Error> {
    let most = |bound: usize| i64::try_from(bound).unwrap_or(i64::MAX);
    match on {
        LedgerTx::Postgres(on) => {
            let trim = sqlx::query(POSTGRES_TRIM).bind(jobs);
            let trim = trim.bind(most(MAX_LINES)).bind(most(MAX_BYTES));
            trim.persistent(named).execute(on).await?;
        }
        LedgerTx::Sqlite(on) => {
            let trim = sqlx::query(SQLITE_TRIM).bind(hex_ids(&jobs));
            trim.bind(most(MAX_LINES))
                .bind(most(MAX_BYTES))
                .execute(on)
                .await?;
        }
    }
    Ok(())
}

impl Jobs {
    /// What the handlers of a job have written. Empty also for a job that does not exist.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn log_of(&self, id: JobId) -> Result<JobLog, LedgerError> {
        type LogRow = (i32, i32, String);
        let sql = self.sql();
        let found = read_either!(
            sql,
            "read the log of a job",
            query_as::<LogRow>(READ),
            [id.as_uuid()],
            fetch_all
        )?;
        let mut log = JobLog::default();
        for (attempt, first, lines) in found {
            let lines: Vec<Line> = serde_json::from_str(&lines)
                .map_err(|error| LedgerError::Corrupt(format!("the log of job {id}: {error}")))?;
            let numbered = (first.unsigned_abs()..)
                .zip(lines)
                .map(|(number, line)| LoggedLine {
                    number,
                    attempt: attempt.unsigned_abs(),
                    at: line.at,
                    text: line.text,
                });
            log.lines.extend(numbered);
        }
        log.dropped = log.lines.first().map_or(0, |line| line.number.saturating_sub(1));
        Ok(log)
    }
}
