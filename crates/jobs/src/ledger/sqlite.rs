//! The ledger on SQLite: the embedded default, in WAL mode with one writer.
//!
//! The statements mirror those of PostgreSQL. SQLite has one writer at a time, so nothing needs `SKIP LOCKED`; batches
//! travel as JSON (`json_each`), inserts as multi-row `VALUES` in power-of-two sizes, so that few statements are ever
//! prepared. Times are milliseconds since the epoch.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use holdfast_core::sql::{SqliteDatabase, measure};
use serde_json::json;
use serde_json::value::RawValue;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, Connection, FromRow, QueryBuilder, Row, Sqlite};
use uuid::Uuid;

use super::{
    Accepted, CancelReply, ClaimedJob, Doubtful, Fence, Heartbeat, JobFilter, JobRecord, Ledger, LedgerError,
    NewJob, Options, Outcome, Priority, Progress, QueueStats, RescueReport, Retention, RetryReply, RunAt,
    WorkerRecord, WorkerReport, keys,
};
use crate::client::LedgerTx;
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::outcome::OutcomeRow;
use crate::state::StoredState;
use crate::ties::{self, Aftermath};

/// The database's now, in milliseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}

/// Rows of one `VALUES` list at most; 18 variables each, of the 32,766 that SQLite allows.
const INSERT_ROWS: usize = 128;

const CLAIM: &str = concat!(
    "update holdfast_jobs set state = 'running', worker = ?2, started_at = case when crashes = 0 then ", now!(), " end
     where id in (select id from (
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 0
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         union all
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 1
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         union all
         select * from (select id from holdfast_jobs where state = 'available' and queue = ?1 and priority = 2
                        and run_at <= ", now!(), " order by run_at, id limit ?3)
         ) limit ?3)
       and exists (select 1 from holdfast_workers where id = ?2 and seen_at > ", now!(), " - ?4)
       and not exists (select 1 from holdfast_queues where name = ?1 and (paused or limited))
     returning id, kind, payload, attempt, crashes, max_attempts, timeout_ms, options, priority, run_at, snoozes, doubtful,
               batch_id"
);

const PEEK: &str = concat!(
    "select q.value as queue, min((
         select run_at from holdfast_jobs
         where state = 'available' and queue = q.value and priority = level.value order by run_at limit 1)) - ", now!(), "
         as due_ms
     from json_each(?1) as q cross join json_each('[0,1,2]') as level
     where not exists (select 1 from holdfast_queues where name = q.value and (paused or limited))
     group by q.value"
);

/// The `+` keeps SQLite from looking jobs up by their worker, all of them for each outcome, instead of by their id.
const FINISH: &str = concat!(
    "update holdfast_jobs as j
     set state            = o.state,
         attempt          = j.attempt + o.spent,
         snoozes          = j.snoozes + (o.spent = 0 and o.delay_ms is not null),
         run_at           = case when o.delay_ms is null then j.run_at else ", now!(), " + o.delay_ms end,
         started_at       = case when o.state = 'available' then null else coalesce(j.started_at, ", now!(), ") end,
         finished_at      = case when o.state = 'available' then null else ", now!(), " end,
         cancel_requested = j.cancel_requested and o.state <> 'cancelled',
         worker           = case when o.state = 'available' then null else j.worker end,
         result           = o.result,
         errors           = case when o.error is null then j.errors
                                 else json_insert(coalesce(j.errors, '[]'), '$[#]', json(o.error)) end
     from (select unhex(value ->> 0) as id, value ->> 1 as attempt, value ->> 2 as crashes, value ->> 3 as state,
                  value ->> 4 as spent, value ->> 5 as delay_ms, value ->> 6 as result, value ->> 7 as error
           from json_each(?2)) as o
     where j.id = o.id and +j.state = 'running' and +j.worker = ?1 and j.attempt = o.attempt and j.crashes = o.crashes
     returning id"
);

/// A job that may have been running gets a strike; one that only waited in the worker's buffer does not.
const RESCUE: &str = concat!(
    "update holdfast_jobs as j
     set crashes     = judged.crashes,
         state       = judged.state,
         started_at  = case when judged.state = 'available' then null else j.started_at end,
         finished_at = case when judged.state = 'available' then null else ", now!(), " end,
         worker      = case when judged.state = 'available' then null else j.worker end,
         errors      = case when judged.strike = 0 then j.errors
                            else json_insert(coalesce(j.errors, '[]'), '$[#]', json_object(
                                'at', strftime('%Y-%m-%dT%H:%M:%fZ', 'now'),
                                'attempt', j.attempt + 1, 'class', 'crash',
                                'message', 'the worker that ran the job was lost (crash ' || judged.crashes || ')',
                                'worker', coalesce((select name from holdfast_workers w where w.id = j.worker),
                                                   hex(j.worker)))) end
     from (select id, strike, crashes + strike as crashes,
                  case when cancel_requested then 'cancelled'
                       when strike = 1 and crashes + strike >= ?2 then 'discarded'
                       else 'available' end as state
           from (select id, crashes, cancel_requested, (started_at is not null) as strike
                 from holdfast_jobs
                 where state = 'running'
                   and worker in (select id from holdfast_workers where seen_at <= ", now!(), " - ?1)
                 limit ?3)) as judged
     where j.id = judged.id
     returning id, queue, state, batch_id"
);

pub(crate) const RECORD: &str = concat!(
    "select id, kind, queue, state, priority, payload, attempt, max_attempts, crashes, timeout_ms, unique_key, limit_key, run_at,
            run_at > ", now!(), " as ahead, created_at, started_at, finished_at, result, progress, errors, worker,
            cancel_requested, batch_id, child_id, options -> '$.then' as \"then\",
            options ->> '$.previous.id' as parent_id, options ->> '$.ended_batch.id' as callback_of
     from holdfast_jobs "
);

/// See the module.
#[derive(Debug, Clone)]
pub struct SqliteLedger {
    database: SqliteDatabase,
    deadline: Duration,
}

impl SqliteLedger {
    pub fn new(database: SqliteDatabase, statement_timeout: Duration) -> Self {
        Self {
            database,
            deadline: statement_timeout,
        }
    }

    pub(crate) fn database(&self) -> &SqliteDatabase {
        &self.database
    }

    pub(crate) async fn within<T>(
        &self,
        doing: &'static str,
        work: impl Future<Output = Result<T, sqlx::Error>> + Send,
    ) -> Result<T, LedgerError> {
        let in_time = async {
            match tokio::time::timeout(self.deadline, work).await {
                Ok(result) => result.map_err(|source| LedgerError::Sql { doing, source }),
                Err(_) => Err(LedgerError::TimedOut {
                    doing,
                    after: self.deadline,
                }),
            }
        };
        measure(doing, LedgerError::class, in_time).await
    }

    /// One transaction, which holds the write lock from its first moment. A connection that failed in one is closed:
    /// SQLite may have rolled back by itself (a full disk), and the pool's idea of it would be wrong.
    pub(crate) async fn transaction<T>(
        &self,
        work: impl AsyncFnOnce(&mut SqliteConnection) -> Result<T, sqlx::Error>,
    ) -> Result<T, sqlx::Error> {
        let mut connection = self.database.writer.acquire().await?;
        let done = async {
            let mut tx = connection.begin_with("BEGIN IMMEDIATE").await?;
            let done = work(&mut tx).await?;
            tx.commit().await?;
            Ok(done)
        }
        .await;
        if done.is_err() {
            connection.close_on_drop();
        }
        done
    }

    /// Inserts inside the caller's transaction; see [`Ledger::insert`].
    pub async fn insert_in(
        connection: &mut SqliteConnection,
        jobs: &[NewJob],
    ) -> Result<Vec<Accepted>, sqlx::Error> {
        let mut settled = keys::Settled::new(jobs);
        while let Some(pending) = settled.pending()? {
            let mut written = Vec::with_capacity(pending.len());
            for chunk in power_of_two_chunks(&pending) {
                written.extend(insert_rows(&mut *connection, chunk).await?);
            }
            let standing = existing(&mut *connection, &pending, &written).await?;
            settled.record(&written, &standing);
        }
        Ok(settled.into_accepted())
    }

    /// Pauses or resumes inside the caller's transaction; see [`Ledger::set_paused`].
    pub(crate) async fn set_paused_in(
        connection: &mut SqliteConnection,
        queue: &str,
        paused: bool,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(concat!(
            "insert into holdfast_queues (name, paused, updated_at) values (?1, ?2, ",
            now!(),
            ")
             on conflict (name) do update set paused = excluded.paused, updated_at = excluded.updated_at"
        ))
        .bind(queue)
        .bind(paused)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Writes outcomes on the caller's connection; see [`Ledger::finish`].
    pub(crate) async fn finish_in(
        connection: &mut SqliteConnection,
        worker: WorkerId,
        outcomes: &[&Outcome],
    ) -> Result<Vec<JobId>, sqlx::Error> {
        let rows: Vec<_> = outcomes
            .iter()
            .map(|outcome| OutcomeRow::of(outcome))
            .map(|row| {
                json!([
                    hex(row.fence.id.as_uuid()),
                    row.fence.attempt,
                    row.fence.crashes,
                    row.state.as_str(),
                    row.spent,
                    row.delay.map(millis),
                    row.result,
                    row.error
                ])
            })
            .collect();
        let held: Vec<Uuid> = sqlx::query_scalar(FINISH)
            .bind(worker.as_uuid())
            .bind(json!(rows).to_string())
            .fetch_all(connection)
            .await?;
        Ok(held.into_iter().map(JobId::from_uuid).collect())
    }

    /// Notes with each completed job which one its completion enqueued.
    pub(crate) async fn note_children_in(
        connection: &mut SqliteConnection,
        parents: &[JobId],
        children: &[JobId],
    ) -> Result<(), sqlx::Error> {
        let pairs: Vec<_> = parents
            .iter()
            .zip(children)
            .map(|(parent, child)| [hex(parent.as_uuid()), hex(child.as_uuid())])
            .collect();
        sqlx::query(
            "update holdfast_jobs as j set child_id = c.child
             from (select unhex(value ->> 0) as parent, unhex(value ->> 1) as child from json_each(?1)) as c
             where j.id = c.parent",
        )
        .bind(json!(pairs).to_string())
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Cancels inside the caller's transaction, and counts it; see [`Ledger::cancel`].
    pub(crate) async fn cancel_in(
        connection: &mut SqliteConnection,
        id: JobId,
    ) -> Result<Option<(CancelReply, Aftermath)>, sqlx::Error> {
        let row = sqlx::query("select state, batch_id from holdfast_jobs where id = ?1")
            .bind(id.as_uuid())
            .fetch_optional(&mut *connection)
            .await?;
        let Some(row) = row else { return Ok(None) };
        sqlx::query(concat!(
            "update holdfast_jobs
                 set finished_at = case state when 'available' then ",
            now!(),
            " else finished_at end,
                     cancel_requested = cancel_requested or state = 'running',
                     state = case state when 'available' then 'cancelled' else state end
                 where id = ?1"
        ))
        .bind(id.as_uuid())
        .execute(&mut *connection)
        .await?;
        let reply = keys::cancel_reply(stored_state(&row)?);
        let mut aftermath = Aftermath::default();
        if reply == CancelReply::Cancelled {
            let tallies = ties::tallied([(row.try_get("batch_id")?, StoredState::Cancelled)], 1);
            aftermath = ties::count(LedgerTx::Sqlite(connection), &tallies, true).await?;
        }
        Ok(Some((reply, aftermath)))
    }

    /// Retries inside the caller's transaction, and takes it out of its batch's count; see [`Ledger::retry_now`].
    pub(crate) async fn retry_in(
        connection: &mut SqliteConnection,
        id: JobId,
    ) -> Result<Option<RetryReply>, sqlx::Error> {
        let row = sqlx::query(concat!(
            "select state, run_at > ",
            now!(),
            " as ahead, attempt, queue, batch_id from holdfast_jobs where id = ?1"
        ))
        .bind(id.as_uuid())
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let state = stored_state(&row)?;
        if !matches!(state, StoredState::Discarded | StoredState::Available) {
            return Ok(Some(RetryReply::Refused(
                state.seen_as(row.try_get("ahead")?, row.try_get("attempt")?),
            )));
        }
        let moved = sqlx::query(concat!(
            "update holdfast_jobs
                 set run_at = ",
            now!(),
            ", finished_at = null, started_at = null, worker = null, cancel_requested = 0,
                     crashes = case state when 'discarded' then 0 else crashes end,
                     snoozes = case state when 'discarded' then 0 else snoozes end,
                     max_attempts = case state when 'discarded' then max(max_attempts, attempt + 1)
                                    else max_attempts end,
                     state = 'available'
                 where id = ?1"
        ))
        .bind(id.as_uuid())
        .execute(&mut *connection)
        .await;
        if let Err(error) = moved {
            return RetryReply::unless_taken(error);
        }
        let tallies = ties::tallied([(row.try_get("batch_id")?, state)], -1);
        ties::count(LedgerTx::Sqlite(connection), &tallies, true).await?;
        Ok(Some(RetryReply::Available {
            queue: row.try_get("queue")?,
        }))
    }
}

/// Splits into chunks of 128, then 64, 32, … 1.
fn power_of_two_chunks<T>(rows: &[T]) -> impl Iterator<Item = &[T]> {
    let mut rest = rows;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        let size = INSERT_ROWS.min(1 << rest.len().ilog2());
        let (chunk, tail) = rest.split_at(size);
        rest = tail;
        Some(chunk)
    })
}

async fn insert_rows(connection: &mut SqliteConnection, jobs: &[&NewJob]) -> Result<Vec<JobId>, sqlx::Error> {
    let mut query = QueryBuilder::<Sqlite>::new(
        "insert into holdfast_jobs
             (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key, idempotency_key,
              options, attempt, crashes, errors, doubtful, limit_key, state, batch_id, finished_at, created_at) ",
    );
    query.push_values(jobs, |mut row, job| {
        let (run_at, delay) = match job.run_at {
            RunAt::Now => (None, 0),
            RunAt::In(delay) => (None, millis(delay)),
            RunAt::At(at) => (Some(at.timestamp_millis()), 0),
        };
        row.push_bind(job.id.as_uuid())
            .push_bind(job.queue.to_string())
            .push_bind(job.kind.to_string())
            .push_bind(job.payload.get().to_owned())
            .push_bind(job.priority.rank())
            .push("coalesce(")
            .push_bind_unseparated(run_at)
            .push_unseparated(concat!(", ", now!(), " + "))
            .push_bind_unseparated(delay)
            .push_unseparated(")")
            .push_bind(job.max_attempts)
            .push_bind(millis(job.timeout))
            .push_bind(job.unique_key.clone())
            .push_bind(job.idempotency_key.clone())
            .push_bind(keys::options_text(&job.options))
            .push_bind(job.attempt)
            .push_bind(job.crashes)
            .push_bind(keys::errors_text(&job.errors))
            .push_bind(job.doubtful)
            .push_bind(job.limit_key.clone())
            .push_bind(
                if job.discarded {
                    StoredState::Discarded
                } else {
                    StoredState::Available
                }
                .as_str(),
            )
            .push_bind(job.batch.map(BatchId::as_uuid))
            .push(if job.discarded { now!() } else { "null" })
            .push(now!());
    });
    query.push(" on conflict do nothing returning id");
    let rows: Vec<Uuid> = query.build_query_scalar().fetch_all(connection).await?;
    Ok(rows.into_iter().map(JobId::from_uuid).collect())
}

/// The rows that stand in the way of those that were not written.
async fn existing(
    connection: &mut SqliteConnection,
    jobs: &[&NewJob],
    written: &[JobId],
) -> Result<Vec<keys::Standing>, sqlx::Error> {
    let Some(wanted) = keys::Wanted::of(jobs, written) else {
        return Ok(Vec::new());
    };
    let unique: Vec<_> = wanted.unique_kinds.iter().zip(&wanted.unique_keys).collect();
    let rows = sqlx::query(
        "select id, kind, payload, unique_key, idempotency_key from holdfast_jobs
         where id in (select unhex(value) from json_each(?1))
            or idempotency_key in (select value from json_each(?2))
         union
         select id, kind, payload, unique_key, idempotency_key from holdfast_jobs
         where unique_key is not null and state in ('available', 'running')
           and (kind, unique_key) in (select value ->> 0, value ->> 1 from json_each(?3))",
    )
    .bind(json!(wanted.ids.iter().map(|id| hex(id.as_uuid())).collect::<Vec<_>>()).to_string())
    .bind(json!(wanted.idempotency_keys).to_string())
    .bind(json!(unique).to_string())
    .fetch_all(connection)
    .await?;
    rows.iter()
        .map(|row| {
            Ok(keys::Standing {
                id: JobId::from_uuid(row.try_get("id")?),
                kind: row.try_get("kind")?,
                payload: row.try_get("payload")?,
                unique_key: row.try_get("unique_key")?,
                idempotency_key: row.try_get("idempotency_key")?,
            })
        })
        .collect()
}

fn hex(id: Uuid) -> String {
    id.simple().to_string()
}

fn hex_array(ids: &[JobId]) -> String {
    json!(ids.iter().map(|id| hex(id.as_uuid())).collect::<Vec<_>>()).to_string()
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

fn limit_of(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

fn decode_error(message: impl std::fmt::Display) -> sqlx::Error {
    sqlx::Error::Decode(message.to_string().into())
}

fn raw(text: String) -> Result<Box<RawValue>, sqlx::Error> {
    RawValue::from_string(text).map_err(decode_error)
}

fn time(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>, sqlx::Error> {
    let unix_ms: i64 = row.try_get(column)?;
    DateTime::from_timestamp_millis(unix_ms).ok_or_else(|| decode_error(format!("{column} is out of range")))
}

fn optional_time(row: &SqliteRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let unix_ms: Option<i64> = row.try_get(column)?;
    Ok(unix_ms.and_then(DateTime::from_timestamp_millis))
}

fn parsed<T: serde::de::DeserializeOwned>(row: &SqliteRow, column: &str) -> Result<T, sqlx::Error> {
    serde_json::from_str(row.try_get(column)?).map_err(decode_error)
}

fn stored_state(row: &SqliteRow) -> Result<StoredState, sqlx::Error> {
    row.try_get::<&str, _>("state")?.parse().map_err(decode_error)
}

impl FromRow<'_, SqliteRow> for ClaimedJob {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let timeout: i64 = row.try_get("timeout_ms")?;
        let options: Option<&str> = row.try_get("options")?;
        Ok(Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            payload: raw(row.try_get("payload")?)?,
            attempt: row.try_get("attempt")?,
            crashes: row.try_get("crashes")?,
            max_attempts: row.try_get("max_attempts")?,
            timeout: Duration::from_millis(timeout.unsigned_abs()),
            options: options
                .map_or(Ok(Options::default()), serde_json::from_str)
                .map_err(decode_error)?,
            priority: Priority::from_rank(row.try_get("priority")?),
            run_at: time(row, "run_at")?,
            snoozes: row.try_get("snoozes")?,
            doubtful: row.try_get("doubtful")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
        })
    }
}

impl FromRow<'_, SqliteRow> for JobRecord {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
        let attempt = row.try_get("attempt")?;
        let timeout: i64 = row.try_get("timeout_ms")?;
        let errors: Option<&str> = row.try_get("errors")?;
        Ok(Self {
            id: JobId::from_uuid(row.try_get("id")?),
            kind: row.try_get("kind")?,
            queue: row.try_get("queue")?,
            state: stored_state(row)?.seen_as(row.try_get("ahead")?, attempt),
            priority: Priority::from_rank(row.try_get("priority")?),
            payload: raw(row.try_get("payload")?)?,
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
            result: row.try_get::<Option<String>, _>("result")?.map(raw).transpose()?,
            progress: row
                .try_get::<Option<String>, _>("progress")?
                .map(raw)
                .transpose()?,
            errors: errors
                .map_or(Ok(Vec::new()), serde_json::from_str)
                .map_err(decode_error)?,
            worker: row.try_get::<Option<Uuid>, _>("worker")?.map(WorkerId::from_uuid),
            cancel_requested: row.try_get("cancel_requested")?,
            batch: row
                .try_get::<Option<Uuid>, _>("batch_id")?
                .map(BatchId::from_uuid),
            then: keys::then_of(row.try_get::<Option<&str>, _>("then")?).map_err(decode_error)?,
            child: row.try_get::<Option<Uuid>, _>("child_id")?.map(JobId::from_uuid),
            parent: keys::id_of(row.try_get("parent_id")?).map_err(decode_error)?,
            callback_of: keys::id_of(row.try_get("callback_of")?).map_err(decode_error)?,
        })
    }
}

#[async_trait]
impl Ledger for SqliteLedger {
    async fn insert(&self, jobs: &[NewJob]) -> Result<Vec<Accepted>, LedgerError> {
        if jobs.is_empty() {
            return Ok(Vec::new());
        }
        self.within("accept jobs", async {
            self.transaction(async |tx| Self::insert_in(tx, jobs).await).await
        })
        .await
    }

    async fn claim(
        &self,
        queue: &str,
        worker: WorkerId,
        limit: usize,
        lost_after: Duration,
    ) -> Result<Vec<ClaimedJob>, LedgerError> {
        let mut jobs: Vec<ClaimedJob> = self
            .within("claim jobs", async {
                sqlx::query_as(CLAIM)
                    .bind(queue)
                    .bind(worker.as_uuid())
                    .bind(limit_of(limit.min(super::MAX_STATEMENT_ROWS)))
                    .bind(millis(lost_after))
                    .fetch_all(&self.database.writer)
                    .await
            })
            .await?;
        // UPDATE … RETURNING has no order of its own.
        jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
        Ok(jobs)
    }

    async fn peek(&self, queues: &[String]) -> Result<BTreeMap<String, Duration>, LedgerError> {
        self.within("look for due jobs", async {
            let rows: Vec<(String, Option<i64>)> = sqlx::query_as(PEEK)
                .bind(json!(queues).to_string())
                .fetch_all(&self.database.reader)
                .await?;
            Ok(rows
                .into_iter()
                .filter_map(|(queue, due_ms)| {
                    Some((queue, Duration::from_millis(u64::try_from(due_ms?).unwrap_or(0))))
                })
                .collect())
        })
        .await
    }

    async fn finish(&self, worker: WorkerId, outcomes: &[Outcome]) -> Result<Vec<JobId>, LedgerError> {
        let outcomes: Vec<&Outcome> = outcomes.iter().collect();
        self.within("record outcomes", async {
            let mut writer = self.database.writer.acquire().await?;
            Self::finish_in(&mut writer, worker, &outcomes).await
        })
        .await
    }

    async fn mark_started(&self, worker: WorkerId, fence: &Fence) -> Result<bool, LedgerError> {
        self.within("record a start", async {
            let done = sqlx::query(concat!(
                "update holdfast_jobs set started_at = ",
                now!(),
                "
                 where id = ?1 and state = 'running' and worker = ?2 and attempt = ?3 and crashes = ?4"
            ))
            .bind(fence.id.as_uuid())
            .bind(worker.as_uuid())
            .bind(fence.attempt)
            .bind(fence.crashes)
            .execute(&self.database.writer)
            .await?;
            Ok(done.rows_affected() == 1)
        })
        .await
    }

    async fn store_progress(&self, worker: WorkerId, progress: &[Progress]) -> Result<(), LedgerError> {
        let rows: Vec<_> = progress
            .iter()
            .map(|p| {
                json!([
                    hex(p.fence.id.as_uuid()),
                    p.fence.attempt,
                    p.fence.crashes,
                    p.value.get()
                ])
            })
            .collect();
        self.within("store progress", async {
            sqlx::query(
                "update holdfast_jobs as j set progress = p.value
                 from (select unhex(value ->> 0) as id, value ->> 1 as attempt, value ->> 2 as crashes,
                              value ->> 3 as value
                       from json_each(?2)) as p
                 where j.id = p.id and +j.state = 'running' and +j.worker = ?1
                   and j.attempt = p.attempt and j.crashes = p.crashes",
            )
            .bind(worker.as_uuid())
            .bind(json!(rows).to_string())
            .execute(&self.database.writer)
            .await?;
            Ok(())
        })
        .await
    }

    async fn register(&self, report: &WorkerReport) -> Result<(), LedgerError> {
        self.within("register the worker", async {
            sqlx::query(concat!(
                "insert into holdfast_workers (id, name, queues, stats, started_at, seen_at)
                 values (?1, ?2, ?3, ?4, ?5, ",
                now!(),
                ")
                 on conflict (id) do update set seen_at = excluded.seen_at"
            ))
            .bind(report.id.as_uuid())
            .bind(&report.name)
            .bind(json!(report.queues).to_string())
            .bind(json!(report.stats).to_string())
            .bind(report.started_at.timestamp_millis())
            .execute(&self.database.writer)
            .await?;
            Ok(())
        })
        .await
    }

    async fn heartbeat(&self, report: &WorkerReport) -> Result<Heartbeat, LedgerError> {
        self.within("record a heartbeat", async {
            let renewed = sqlx::query(concat!(
                "update holdfast_workers set seen_at = ",
                now!(),
                ", stats = ?2 where id = ?1"
            ))
            .bind(report.id.as_uuid())
            .bind(json!(report.stats).to_string())
            .execute(&self.database.writer)
            .await?;
            Ok(if renewed.rows_affected() == 1 {
                Heartbeat::Renewed
            } else {
                Heartbeat::Lost
            })
        })
        .await
    }

    async fn cancel_requests(&self, worker: WorkerId) -> Result<Vec<JobId>, LedgerError> {
        self.within("look for cancelled jobs", async {
            let ids: Vec<Uuid> = sqlx::query_scalar(
                "select id from holdfast_jobs where state = 'running' and worker = ?1 and cancel_requested limit 1000",
            )
            .bind(worker.as_uuid())
            .fetch_all(&self.database.reader)
            .await?;
            Ok(ids.into_iter().map(JobId::from_uuid).collect())
        })
        .await
    }

    async fn return_strays(&self, worker: WorkerId, known: &[JobId]) -> Result<u64, LedgerError> {
        self.within("put stray jobs back", async {
            let returned = sqlx::query(
                "update holdfast_jobs set state = 'available', worker = null, started_at = null
                 where state = 'running' and worker = ?1 and id not in (select unhex(value) from json_each(?2))",
            )
            .bind(worker.as_uuid())
            .bind(hex_array(known))
            .execute(&self.database.writer)
            .await?;
            Ok(returned.rows_affected())
        })
        .await
    }

    async fn deregister(&self, worker: WorkerId) -> Result<u64, LedgerError> {
        self.within(
            "deregister the worker",
            self.transaction(async |tx| {
                let returned = sqlx::query(
                    "update holdfast_jobs set state = 'available', worker = null, started_at = null
                 where state = 'running' and worker = ?1",
                )
                .bind(worker.as_uuid())
                .execute(&mut *tx)
                .await?;
                sqlx::query("delete from holdfast_workers where id = ?1")
                    .bind(worker.as_uuid())
                    .execute(&mut *tx)
                    .await?;
                Ok(returned.rows_affected())
            }),
        )
        .await
    }

    async fn rescue(
        &self,
        lost_after: Duration,
        max_crashes: u32,
        limit: usize,
    ) -> Result<RescueReport, LedgerError> {
        self.within(
            "rescue jobs",
            self.transaction(async |tx| {
                let rows: Vec<keys::Rescued> = sqlx::query_as(RESCUE)
                    .bind(millis(lost_after))
                    .bind(max_crashes)
                    .bind(limit_of(limit))
                    .fetch_all(&mut *tx)
                    .await?;
                let tallies = keys::tallies_of(&rows).map_err(decode_error)?;
                let aftermath = ties::count(LedgerTx::Sqlite(&mut *tx), &tallies, true).await?;
                let buried: Vec<Uuid> = sqlx::query_scalar(concat!(
                    "delete from holdfast_workers
                 where seen_at <= ",
                    now!(),
                    " - ?1
                   and not exists (select 1 from holdfast_jobs
                                   where state = 'running' and worker = holdfast_workers.id)
                 returning id"
                ))
                .bind(millis(lost_after))
                .fetch_all(&mut *tx)
                .await?;
                let mut report = RescueReport {
                    workers_lost: buried.into_iter().map(WorkerId::from_uuid).collect(),
                    aftermath,
                    ..RescueReport::default()
                };
                for (id, queue, state, _) in rows {
                    if state == StoredState::Discarded.as_str() {
                        report.poisoned.push(JobId::from_uuid(id));
                    } else {
                        *report.returned.entry(queue).or_default() += 1;
                    }
                }
                Ok(report)
            }),
        )
        .await
    }

    async fn prune(&self, retention: &Retention, limit: usize) -> Result<u64, LedgerError> {
        self.within("prune finished jobs", async {
            let deleted = sqlx::query(concat!(
                "delete from holdfast_jobs where id in (
                     select id from holdfast_jobs
                     where id < ?1
                       and (state in ('completed', 'cancelled') and finished_at < ",
                now!(),
                " - ?2
                         or state = 'discarded' and finished_at < ",
                now!(),
                " - ?3)
                     order by id limit ?4)"
            ))
            .bind(keys::newest_prunable(retention).as_uuid())
            .bind(millis(retention.completed))
            .bind(millis(retention.discarded))
            .bind(limit_of(limit))
            .execute(&self.database.writer)
            .await?;
            Ok(deleted.rows_affected())
        })
        .await
    }

    async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        self.within("read a job", async {
            sqlx::query_as(AssertSqlSafe(format!("{RECORD} where id = ?1")))
                .bind(id.as_uuid())
                .fetch_optional(&self.database.reader)
                .await
        })
        .await
    }

    async fn list(&self, filter: &JobFilter) -> Result<Vec<JobRecord>, LedgerError> {
        let (stored, ahead, tried) = keys::stored_filter(filter.state);
        self.within("list jobs", async {
            sqlx::query_as(AssertSqlSafe(format!(
                "{RECORD}
                 where (?1 is null or queue = ?1) and (?2 is null or state = ?2) and (?3 is null or kind = ?3)
                   and (?4 is null or id < ?4) and (?5 is null or (run_at > {}) = ?5)
                   and (?6 is null or (attempt > 0) = ?6) and (?8 is null or batch_id = ?8)
                 order by id desc limit ?7",
                now!()
            )))
            .bind(filter.queue.as_deref())
            .bind(stored.map(StoredState::as_str))
            .bind(filter.kind.as_deref())
            .bind(filter.after.map(JobId::as_uuid))
            .bind(ahead)
            .bind(tried)
            .bind(limit_of(filter.limit))
            .bind(filter.batch.map(BatchId::as_uuid))
            .fetch_all(&self.database.reader)
            .await
        })
        .await
    }

    async fn final_among(&self, ids: &[JobId]) -> Result<Vec<JobId>, LedgerError> {
        self.within("look for finished jobs", async {
            let found: Vec<Uuid> = sqlx::query_scalar(
                "select id from holdfast_jobs
                 where id in (select unhex(value) from json_each(?1))
                   and state in ('completed', 'discarded', 'cancelled')",
            )
            .bind(hex_array(ids))
            .fetch_all(&self.database.reader)
            .await?;
            Ok(found.into_iter().map(JobId::from_uuid).collect())
        })
        .await
    }

    async fn cancel(&self, id: JobId) -> Result<Option<(CancelReply, Aftermath)>, LedgerError> {
        let work = self.transaction(async |tx| Self::cancel_in(tx, id).await);
        self.within("cancel a job", work).await
    }

    async fn retry_now(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError> {
        let work = self.transaction(async |tx| Self::retry_in(tx, id).await);
        self.within("retry a job", work).await
    }

    async fn queue_stats(&self) -> Result<Vec<QueueStats>, LedgerError> {
        self.within("count the queues", async {
            let rows = sqlx::query(concat!(
                "with counted as (
                     select queue,
                            count(*) filter (where state = 'available' and run_at <= ", now!(), ") as available,
                            count(*) filter (where state = 'available' and run_at > ", now!(), "
                                             and attempt = 0) as scheduled,
                            count(*) filter (where state = 'available' and run_at > ", now!(), "
                                             and attempt > 0) as retryable,
                            count(*) filter (where state = 'running') as running,
                            0 as discarded,
                            max(0, coalesce(", now!(), " - min(run_at)
                                filter (where state = 'available' and run_at <= ", now!(), "), 0)) / 1000.0 as oldest
                     from holdfast_jobs where state = 'available' or state = 'running' group by queue
                     union all
                     select queue, 0, 0, 0, 0, count(*), 0 from holdfast_jobs where state = 'discarded' group by queue
                     union all
                     select name, 0, 0, 0, 0, 0, 0 from holdfast_queues)
                 select queue, coalesce((select paused from holdfast_queues where name = queue), 0) as paused,
                        sum(available) as available, sum(scheduled) as scheduled, sum(retryable) as retryable,
                        sum(running) as running, sum(discarded) as discarded, cast(max(oldest) as real) as oldest
                 from counted group by queue order by queue"
            ))
            .fetch_all(&self.database.reader)
            .await?;
            rows.iter().map(queue_stats).collect()
        })
        .await
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), LedgerError> {
        let work = self.transaction(async |tx| Self::set_paused_in(tx, queue, paused).await);
        self.within("pause or resume a queue", work).await
    }

    async fn paused_queues(&self) -> Result<Vec<String>, LedgerError> {
        self.within("read the paused queues", async {
            sqlx::query_scalar("select name from holdfast_queues where paused")
                .fetch_all(&self.database.reader)
                .await
        })
        .await
    }

    async fn workers(&self) -> Result<Vec<WorkerRecord>, LedgerError> {
        self.within("list workers", async {
            let rows = sqlx::query(concat!(
                "select id, name, queues, stats, started_at, seen_at, (",
                now!(),
                " - seen_at) / 1000.0 as ago
                 from holdfast_workers order by started_at, id limit 1000"
            ))
            .fetch_all(&self.database.reader)
            .await?;
            rows.iter()
                .map(|row| {
                    Ok(WorkerRecord {
                        id: WorkerId::from_uuid(row.try_get("id")?),
                        name: row.try_get("name")?,
                        queues: parsed(row, "queues")?,
                        started_at: time(row, "started_at")?,
                        seen_at: time(row, "seen_at")?,
                        seen_seconds_ago: row.try_get("ago")?,
                        stats: parsed(row, "stats")?,
                    })
                })
                .collect()
        })
        .await
    }

    async fn doubtful(&self, limit: usize) -> Result<Vec<Doubtful>, LedgerError> {
        self.within("look for doubtful jobs", async {
            let rows: Vec<(Uuid, String)> =
                sqlx::query_as("select id, queue from holdfast_jobs where doubtful order by id limit ?1")
                    .bind(limit_of(limit))
                    .fetch_all(&self.database.reader)
                    .await?;
            Ok(rows
                .into_iter()
                .map(|(id, queue)| Doubtful {
                    id: JobId::from_uuid(id),
                    queue,
                })
                .collect())
        })
        .await
    }

    async fn settle(&self, ids: &[JobId]) -> Result<(), LedgerError> {
        self.within("settle doubtful jobs", async {
            sqlx::query(
                "update holdfast_jobs set doubtful = 0
                 where doubtful and id in (select unhex(value) from json_each(?1))",
            )
            .bind(hex_array(ids))
            .execute(&self.database.writer)
            .await?;
            Ok(())
        })
        .await
    }
}

fn queue_stats(row: &SqliteRow) -> Result<QueueStats, sqlx::Error> {
    let number = |name: &str| row.try_get::<i64, _>(name).map(i64::unsigned_abs);
    Ok(QueueStats {
        queue: row.try_get("queue")?,
        paused: row.try_get("paused")?,
        available: number("available")?,
        scheduled: number("scheduled")?,
        retryable: number("retryable")?,
        running: number("running")?,
        discarded: number("discarded")?,
        oldest_age_seconds: row.try_get("oldest")?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_are_powers_of_two_and_cover_everything() {
        let rows: Vec<u32> = (0..301).collect();
        let sizes: Vec<usize> = power_of_two_chunks(&rows).map(<[u32]>::len).collect();
        assert_eq!(sizes, [128, 128, 32, 8, 4, 1]);
        assert_eq!(
            power_of_two_chunks(&rows).flatten().copied().collect::<Vec<_>>(),
            rows
        );
        assert_eq!(power_of_two_chunks(&rows[..0]).count(), 0);
    }
}
