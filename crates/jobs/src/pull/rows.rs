//! What this module reads of jobs and workers. It moves no job: that is the ledger's.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::sql::dialect::on_either;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::PullClient;
use super::memory::Session;
use crate::LedgerTx;
use crate::id::{JobId, WorkerId};
use crate::ledger::{ClaimedJob, ErrorRecord, LedgerError};
use crate::sql::{Sql, decode_error, hex_ids};
use crate::state::StoredState;

const SESSION: &str = "select name, @text(queues), @text(client), draining from holdfast_workers where id = $1 and client is not null";

const DRAIN: &str = "update holdfast_workers set draining = true where id = $1 and client is not null";

/// By primary key, and never by the index of running jobs: until a vacuum that holds an entry for each job that the worker ever
/// ran. An expression keeps the planner from it.
macro_rules! leased {
    ($payload:literal, $options:literal, $ran:literal, $where:literal) => {
        concat!(
            "select id, kind, ",
            $payload,
            " as payload, attempt, crashes, max_attempts, timeout_ms, ",
            $options,
            " as options, priority, run_at, snoozes, doubtful, batch_id, queue, cancel_requested,
             started_at is not null as started, ",
            $ran,
            " as ran_ms from holdfast_jobs where ",
            $where
        )
    };
}

const POSTGRES_WHOLE: &str = leased!(
    "payload::text",
    "options::text",
    "(extract(epoch from now() - started_at) * 1000)::bigint",
    "id = any ($1) and state || '' = 'running' and worker = $2"
);
const POSTGRES_BARE: &str = leased!(
    "'null'",
    "options::text",
    "(extract(epoch from now() - started_at) * 1000)::bigint",
    "id = any ($1) and state || '' = 'running' and worker = $2"
);
const SQLITE_WHOLE: &str = leased!(
    "payload",
    "options",
    "cast(unixepoch('subsec') * 1000 as integer) - started_at",
    "id in (select unhex(value) from json_each(?1)) and +state = 'running' and worker = ?2"
);
const SQLITE_BARE: &str = leased!(
    "'null'",
    "options",
    "cast(unixepoch('subsec') * 1000 as integer) - started_at",
    "id in (select unhex(value) from json_each(?1)) and +state = 'running' and worker = ?2"
);

const POSTGRES_FATES: &str = "select id, state, worker, attempt, crashes, (errors -> -1)::text as error
    from holdfast_jobs where id = any ($1)";
const SQLITE_FATES: &str = "select id, state, worker, attempt, crashes, errors -> '$[#-1]' as error
    from holdfast_jobs where id in (select unhex(value) from json_each(?1))";

/// The class of the errors that rescues leave.
const CRASH: &str = "crash";

/// A job that is leased to a worker.
#[derive(Debug)]
pub(super) struct LeasedRow {
    pub job: ClaimedJob,
    pub queue: Arc<str>,
    pub cancel_requested: bool,
    pub started: bool,
    /// Since when it was claimed.
    pub ran_for: Option<Duration>,
}

/// How a job is now that a worker has not, or no longer.
#[derive(Debug)]
pub(super) struct Fate {
    pub state: StoredState,
    pub worker: Option<WorkerId>,
    pub attempt: u32,
    pub crashes: u32,
    /// Of the last error, unless that is a crash: which worker recorded it, and for which attempt.
    pub error: Option<(String, u32)>,
}

/// Whether the payloads are read too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Payloads {
    Read,
    LeftOut,
}

pub(super) async fn session(sql: &Sql, worker: WorkerId) -> Result<Option<Session>, LedgerError> {
    type SessionRow = (String, String, String, bool);
    let found: Option<SessionRow> = sql
        .within("read a worker", async {
            let mut tx = sql.begin_read().await?;
            let id = worker.as_uuid();
            let found = on_either!(
                tx.on(),
                sql.named,
                query_as::<SessionRow>(SESSION),
                [id],
                fetch_optional
            )?;
            tx.commit().await?;
            Ok(found)
        })
        .await?;
    found
        .map(|(name, queues, client, draining)| {
            let queues: Vec<String> = serde_json::from_str(&queues)?;
            let client: PullClient = serde_json::from_str(&client)?;
            Ok(Session {
                name,
                queues: queues.into_iter().map(Arc::from).collect(),
                client,
                draining,
            })
        })
        .transpose()
        .map_err(|error: serde_json::Error| LedgerError::Corrupt(format!("worker {worker}: {error}")))
}

pub(super) async fn drain(on: LedgerTx<'_>, named: bool, worker: WorkerId) -> Result<bool, sqlx::Error> {
    let changed: u64 = on_either!(on, named, query(DRAIN), [worker.as_uuid()], execute)?;
    Ok(changed > 0)
}

/// Those of the jobs that are leased to the worker.
pub(super) async fn leased(
    sql: &Sql,
    worker: WorkerId,
    jobs: &[JobId],
    payloads: Payloads,
) -> Result<HashMap<JobId, LeasedRow>, LedgerError> {
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.as_uuid()).collect();
    sql.within("read the jobs of a worker", async {
        let mut tx = sql.begin_read().await?;
        let leased: Vec<LeasedRow> = match tx.on() {
            LedgerTx::Postgres(on) => {
                let text = if payloads == Payloads::Read {
                    POSTGRES_WHOLE
                } else {
                    POSTGRES_BARE
                };
                let rows = sqlx::query(text).bind(ids).bind(worker.as_uuid());
                let rows = rows.persistent(sql.named).fetch_all(on).await?;
                rows.iter().map(leased_of).collect::<Result<_, _>>()?
            }
            LedgerTx::Sqlite(on) => {
                let text = if payloads == Payloads::Read {
                    SQLITE_WHOLE
                } else {
                    SQLITE_BARE
                };
                let rows = sqlx::query(text).bind(hex_ids(&ids)).bind(worker.as_uuid());
                let rows = rows.fetch_all(on).await?;
                rows.iter().map(leased_of).collect::<Result<_, _>>()?
            }
        };
        tx.commit().await?;
        Ok(leased.into_iter().map(|leased| (leased.job.id, leased)).collect())
    })
    .await
}

fn leased_of<R>(row: &R) -> Result<LeasedRow, sqlx::Error>
where
    R: Row,
    ClaimedJob: for<'r> FromRow<'r, R>,
    for<'r> &'r str: sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database> + sqlx::ColumnIndex<R>,
    bool: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
    i64: for<'r> sqlx::Decode<'r, R::Database> + sqlx::Type<R::Database>,
{
    Ok(LeasedRow {
        job: ClaimedJob::from_row(row)?,
        queue: Arc::from(row.try_get::<&str, _>("queue")?),
        cancel_requested: row.try_get("cancel_requested")?,
        started: row.try_get("started")?,
        ran_for: row
            .try_get::<Option<i64>, _>("ran_ms")?
            .and_then(|millis| u64::try_from(millis).ok())
            .map(Duration::from_millis),
    })
}

/// What became of these jobs; those that are not in the answer are unknown.
pub(super) async fn fates(sql: &Sql, jobs: &[JobId]) -> Result<HashMap<JobId, Fate>, LedgerError> {
    type FateRow = (Uuid, String, Option<Uuid>, i32, i32, Option<String>);
    if jobs.is_empty() {
        return Ok(HashMap::new());
    }
    let ids: Vec<Uuid> = jobs.iter().map(|job| job.as_uuid()).collect();
    sql.within("read what became of jobs", async {
        let mut tx = sql.begin_read().await?;
        let rows: Vec<FateRow> = match tx.on() {
            LedgerTx::Postgres(on) => {
                let query = sqlx::query_as(POSTGRES_FATES).bind(ids);
                query.persistent(sql.named).fetch_all(on).await?
            }
            LedgerTx::Sqlite(on) => {
                sqlx::query_as(SQLITE_FATES)
                    .bind(hex_ids(&ids))
                    .fetch_all(on)
                    .await?
            }
        };
        tx.commit().await?;
        rows.into_iter()
            .map(|(id, state, worker, attempt, crashes, error)| {
                let fate = Fate {
                    state: state.parse().map_err(decode_error)?,
                    worker: worker.map(WorkerId::from_uuid),
                    attempt: u32::try_from(attempt).unwrap_or(0),
                    crashes: u32::try_from(crashes).unwrap_or(0),
                    error: error.as_deref().and_then(author_of),
                };
                Ok((JobId::from_uuid(id), fate))
            })
            .collect()
    })
    .await
}

fn author_of(error: &str) -> Option<(String, u32)> {
    let error: ErrorRecord = serde_json::from_str(error).ok()?;
    // The rescuer names the lost worker too.
    (error.class != CRASH).then_some((error.worker?, error.attempt))
}
