//! What is written in the caller's transaction: acceptance, outcomes, cancellation, retries, pauses.

use std::collections::HashSet;

use chrono::{DateTime, Utc};
use sqlx::Row;
use sqlx::postgres::PgConnection;
use uuid::Uuid;

use super::PostgresLedger;
use super::rows::{count, decode_error, from_count, millis, stored_state};
use crate::LedgerTx;
use crate::follow_ups::{self, Effects};
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::outcome::{FreeRows, OutcomeRow, WrittenOutcome};
use crate::ledger::{
    CancelReply, Fence, InsertOutcome, MAX_STATEMENT_ROWS, NewJob, Outcome, RetryReply, RunAt, keys,
};
use crate::observer::Observers;
use crate::state::StoredState;

const INSERT: &str = "
insert into holdfast_jobs
    (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key, idempotency_key, options,
     attempt, crashes, errors, doubtful, limit_key, state, finished_at, batch_id, expires_at,
     tags, enqueued_by)
select id, queue, kind, payload::json, priority,
       case when delay_ms < 0 then run_at
            else greatest(coalesce(run_at, now() + delay_ms * interval '1 millisecond'), now()) end,
       max_attempts, timeout_ms, unique_key, idempotency_key, options::json, attempt, crashes, errors::jsonb, doubtful,
       limit_key, case when discarded then 'discarded' else 'available' end, case when discarded then now() end, $19, expires_at,
       tags, enqueued_by
from unnest($1::uuid[], $2::text[], $3::text[], $4::text[], $5::smallint[], $6::timestamptz[], $7::bigint[],
            $8::integer[], $9::bigint[], $10::text[], $11::text[], $12::text[], $13::integer[], $14::integer[],
            $15::text[], $16::boolean[], $17::boolean[], $18::text[], $20::timestamptz[],
            $21::text[], $22::text[])
  as t(id, queue, kind, payload, priority, run_at, delay_ms, max_attempts, timeout_ms, unique_key, idempotency_key,
       options, attempt, crashes, errors, doubtful, discarded, limit_key, expires_at, tags, enqueued_by)
on conflict do nothing
returning id";

/// A delay that says: store the time as it is, also if it has passed.
const AS_IT_IS: i64 = -1;

// By id, never by `holdfast_jobs_running`: until a vacuum that index holds an entry for every job that the worker has ever run,
// and a plan that reads them all gets slower with each. An expression keeps the planner from it (as in SQLite's `+j.state`).
//
// A job that was asked to cancel does not become available again: it is cancelled, whatever put it back. The columns follow the
// state that the row gets, so the row's own `cancel_requested` is read, never what the worker knew of it.
macro_rules! finish {
    ($only:literal) => {
        concat!(
            "
update holdfast_jobs as j
set state            = case when o.state = 'available' and j.cancel_requested then 'cancelled' else o.state end,
    attempt          = j.attempt + o.spent,
    snoozes          = j.snoozes + (o.spent = 0 and o.delay_ms is not null)::int,
    run_at           = case when o.delay_ms is null or j.cancel_requested then j.run_at
                            else now() + o.delay_ms * interval '1 millisecond' end,
    started_at       = case when o.state = 'available' and not j.cancel_requested then null
                            else coalesce(j.started_at, now()) end,
    finished_at      = case when o.state = 'available' and not j.cancel_requested then null else now() end,
    cancel_requested = j.cancel_requested and o.state in ('completed', 'discarded'),
    worker           = case when o.state = 'available' and not j.cancel_requested then null else j.worker end,
    result           = o.result::json,
    errors           = case when o.error is null then j.errors
                            else coalesce(j.errors, '[]'::jsonb) || o.error::jsonb end,
    fingerprint      = case when o.state = 'discarded' then o.error::json ->> 'fingerprint' end
from unnest($2::uuid[], $3::integer[], $4::integer[], $5::text[], $6::integer[], $7::bigint[], $8::text[], $9::text[])
  as o(id, attempt, crashes, state, spent, delay_ms, result, error)
where j.id = o.id and j.state || '' = 'running' and j.worker = $1 and j.attempt = o.attempt and j.crashes = o.crashes
",
            $only,
            "
returning j.id, j.state"
        )
    };
}

const FINISH: &str = finish!("");

/// The same for the rows whose locks are free at this moment: it waits for nobody.
const FINISH_FREE: &str = finish!(
    "  and j.id = any (array (select id from holdfast_jobs where id = any ($2) and state || '' = 'running' and worker = $1
                          order by id for update skip locked))"
);

/// Which outcomes' fences hold, without a lock.
const FENCED: &str = "
select j.id from holdfast_jobs as j
join unnest($2::uuid[], $3::integer[], $4::integer[]) as o (id, attempt, crashes) on j.id = o.id
where j.state || '' = 'running' and j.worker = $1 and j.attempt = o.attempt and j.crashes = o.crashes";

impl PostgresLedger {
    /// Inserts any number of jobs inside the caller's transaction, in as many statements as it takes; one answer for each, in
    /// order. An [`InsertOutcome::Conflict`] writes nothing; what becomes of the others is the caller's to decide.
    pub async fn insert_in(
        connection: &mut PgConnection,
        jobs: &[NewJob],
        named_statements: bool,
    ) -> Result<Vec<InsertOutcome>, sqlx::Error> {
        let settled = Self::settle_in(connection, jobs, named_statements).await?;
        Ok(settled.into_accepted())
    }

    pub(super) async fn settle_in<'j>(
        connection: &mut PgConnection,
        jobs: &'j [NewJob],
        named_statements: bool,
    ) -> Result<keys::InsertProgress<'j>, sqlx::Error> {
        let mut settled = keys::InsertProgress::new(jobs);
        while let Some(pending) = settled.pending()? {
            let mut written = Vec::with_capacity(pending.len());
            for same in pending.chunk_by(|a, b| a.batch == b.batch) {
                for jobs in same.chunks(MAX_STATEMENT_ROWS) {
                    written.extend(insert_rows(&mut *connection, jobs, named_statements).await?);
                }
            }
            let standing = existing(&mut *connection, &pending, &written, named_statements).await?;
            settled.record(&written, &standing);
        }
        Ok(settled)
    }

    /// Writes outcomes on the caller's connection: the rows that were still held, each with the state that it got;
    /// see [`Ledger::finish`](crate::ledger::Ledger::finish).
    pub(crate) async fn finish_in(
        connection: &mut PgConnection,
        worker: WorkerId,
        outcomes: &[&Outcome],
        named_statements: bool,
    ) -> Result<Vec<WrittenOutcome>, sqlx::Error> {
        finish_rows(connection, FINISH, worker, outcomes, named_statements).await
    }

    /// Writes those outcomes whose rows nobody has locked;
    /// see [`Ledger::finish_free`](crate::ledger::Ledger::finish_free).
    pub(crate) async fn finish_free_in(
        connection: &mut PgConnection,
        worker: WorkerId,
        outcomes: &[&Outcome],
        named_statements: bool,
    ) -> Result<FreeRows, sqlx::Error> {
        let written = finish_rows(&mut *connection, FINISH_FREE, worker, outcomes, named_statements).await?;
        let ids: HashSet<JobId> = written.iter().map(|row| row.id).collect();
        let left: Vec<&Fence> = outcomes
            .iter()
            .map(|outcome| outcome.fence())
            .filter(|fence| !ids.contains(&fence.id))
            .collect();
        if left.is_empty() {
            return Ok(FreeRows {
                written,
                locked: Vec::new(),
            });
        }
        let locked: Vec<Uuid> = sqlx::query_scalar(FENCED)
            .bind(worker.as_uuid())
            .bind(left.iter().map(|fence| fence.id.as_uuid()).collect::<Vec<_>>())
            .bind(left.iter().map(|fence| count(fence.attempt)).collect::<Vec<_>>())
            .bind(left.iter().map(|fence| count(fence.crashes)).collect::<Vec<_>>())
            .persistent(named_statements)
            .fetch_all(connection)
            .await?;
        let locked = locked.into_iter().map(JobId::from_uuid).collect();
        Ok(FreeRows { written, locked })
    }

    /// Notes with each completed job which one its completion enqueued.
    pub(crate) async fn note_children_in(
        connection: &mut PgConnection,
        parents: &[JobId],
        children: &[JobId],
        named_statements: bool,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "update holdfast_jobs as j set child_id = c.child
             from unnest($1::uuid[], $2::uuid[]) as c (parent, child) where j.id = c.parent",
        )
        .bind(parents.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .bind(children.iter().map(|id| id.as_uuid()).collect::<Vec<_>>())
        .persistent(named_statements)
        .execute(connection)
        .await?;
        Ok(())
    }

    /// Cancels inside the caller's transaction, and counts it; see [`Ledger::cancel`](crate::ledger::Ledger::cancel).
    pub(crate) async fn cancel_in(
        connection: &mut PgConnection,
        id: JobId,
        named_statements: bool,
        observers: &Observers,
    ) -> Result<Option<(CancelReply, Effects)>, sqlx::Error> {
        let row = sqlx::query(
            "with before as materialized (
                     select id, state from holdfast_jobs where id = $1 for update)
                 update holdfast_jobs as j
                 set state = case before.state when 'available' then 'cancelled' else before.state end,
                     finished_at = case before.state when 'available' then now() else j.finished_at end,
                     cancel_requested = j.cancel_requested or before.state = 'running'
                 from before where j.id = before.id
                 returning before.state as state, j.batch_id",
        )
        .bind(id.as_uuid())
        .persistent(named_statements)
        .fetch_optional(&mut *connection)
        .await?;
        let Some(row) = row else { return Ok(None) };
        let reply = keys::cancel_reply(stored_state(&row)?);
        let mut effects = Effects::default();
        if reply == CancelReply::Cancelled {
            let tallies = follow_ups::tallied([(row.try_get("batch_id")?, StoredState::Cancelled)], 1);
            effects = follow_ups::count(
                LedgerTx::Postgres(connection),
                &tallies,
                named_statements,
                Some(observers),
            )
            .await?;
        }
        Ok(Some((reply, effects)))
    }

    /// Retries inside the caller's transaction, and takes it out of its batch's count;
    /// see [`Ledger::retry_now`](crate::ledger::Ledger::retry_now).
    pub(crate) async fn retry_in(
        connection: &mut PgConnection,
        id: JobId,
        named_statements: bool,
    ) -> Result<Option<RetryReply>, sqlx::Error> {
        let row = sqlx::query(
                "with before as materialized (
                     select id, state, run_at > now() as ahead, attempt, queue, batch_id from holdfast_jobs
                     where id = $1 for update),
                 moved as (
                     update holdfast_jobs as j
                     set state = 'available', run_at = now(), finished_at = null, started_at = null, worker = null,
                         cancel_requested = false,
                         crashes = case before.state when 'discarded' then 0 else j.crashes end,
                         snoozes = case before.state when 'discarded' then 0 else j.snoozes end,
                         max_attempts = case before.state
                             when 'discarded' then greatest(j.max_attempts, j.attempt + 1) else j.max_attempts end
                     from before
                     where j.id = before.id and (before.state = 'discarded' or before.state = 'available')
                     returning j.id)
                 select state, ahead, attempt, queue, batch_id, exists (select from moved) as moved from before",
            )
            .bind(id.as_uuid())
            .persistent(named_statements)
            .fetch_optional(&mut *connection)
            .await;
        let row = match row {
            Ok(Some(row)) => row,
            Ok(None) => return Ok(None),
            Err(error) => return RetryReply::unless_taken(error),
        };
        if row.try_get("moved")? {
            let tallies = follow_ups::tallied([(row.try_get("batch_id")?, stored_state(&row)?)], -1);
            follow_ups::count(LedgerTx::Postgres(connection), &tallies, named_statements, None).await?;
            return Ok(Some(RetryReply::Available {
                queue: row.try_get("queue")?,
            }));
        }
        let attempt = from_count(row.try_get("attempt")?);
        Ok(Some(RetryReply::Refused(
            stored_state(&row)?.seen_as(row.try_get("ahead")?, attempt),
        )))
    }

    /// Pauses or resumes inside the caller's transaction; see [`Ledger::set_paused`](crate::ledger::Ledger::set_paused).
    pub(crate) async fn set_paused_in(
        connection: &mut PgConnection,
        queue: &str,
        paused: bool,
        named_statements: bool,
    ) -> Result<(), sqlx::Error> {
        sqlx::query(
            "insert into holdfast_queues (name, paused) values ($1, $2)
                 on conflict (name) do update set paused = excluded.paused, updated_at = now()",
        )
        .bind(queue)
        .bind(paused)
        .persistent(named_statements)
        .execute(&mut *connection)
        .await?;
        Ok(())
    }
}

/// `statement`: [`FINISH`] or [`FINISH_FREE`].
async fn finish_rows(
    connection: &mut PgConnection,
    statement: &'static str,
    worker: WorkerId,
    outcomes: &[&Outcome],
    named_statements: bool,
) -> Result<Vec<WrittenOutcome>, sqlx::Error> {
    let mut rows: Vec<OutcomeRow<'_>> = outcomes.iter().map(|outcome| OutcomeRow::of(outcome)).collect();
    // The update takes its locks in this order, as everything else does that changes several jobs.
    rows.sort_unstable_by_key(|row| row.fence.id);
    let held: Vec<(Uuid, String)> = sqlx::query_as(statement)
        .bind(worker.as_uuid())
        .bind(rows.iter().map(|row| row.fence.id.as_uuid()).collect::<Vec<_>>())
        .bind(
            rows.iter()
                .map(|row| count(row.fence.attempt))
                .collect::<Vec<_>>(),
        )
        .bind(
            rows.iter()
                .map(|row| count(row.fence.crashes))
                .collect::<Vec<_>>(),
        )
        .bind(rows.iter().map(|row| row.state.as_str()).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.spent).collect::<Vec<i32>>())
        .bind(rows.iter().map(|row| row.delay.map(millis)).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.result).collect::<Vec<_>>())
        .bind(rows.iter().map(|row| row.error.as_deref()).collect::<Vec<_>>())
        .persistent(named_statements)
        .fetch_all(connection)
        .await?;
    held.into_iter()
        .map(|(id, state)| WrittenOutcome::of(id, &state).map_err(decode_error))
        .collect()
}

/// Writes jobs of one batch, or of none.
async fn insert_rows(
    connection: &mut PgConnection,
    jobs: &[&NewJob],
    named_statements: bool,
) -> Result<Vec<JobId>, sqlx::Error> {
    let column = Columns::of(jobs);
    let rows = sqlx::query_scalar::<_, Uuid>(INSERT)
        .bind(column.ids)
        .bind(column.queues)
        .bind(column.kinds)
        .bind(column.payloads)
        .bind(column.priorities)
        .bind(column.run_ats)
        .bind(column.delays)
        .bind(column.max_attempts)
        .bind(column.timeouts)
        .bind(column.unique_keys)
        .bind(column.idempotency_keys)
        .bind(column.options)
        .bind(column.attempts)
        .bind(column.crashes)
        .bind(column.errors)
        .bind(column.doubtful)
        .bind(column.discarded)
        .bind(column.limit_keys)
        .bind(jobs.first().and_then(|job| job.batch).map(BatchId::as_uuid))
        .bind(column.expires_ats)
        .bind(column.tags)
        .bind(column.enqueued_by)
        .persistent(named_statements)
        .fetch_all(connection)
        .await?;
    Ok(rows.into_iter().map(JobId::from_uuid).collect())
}

/// The rows that stand in the way of those that were not written.
async fn existing(
    connection: &mut PgConnection,
    jobs: &[&NewJob],
    written: &[JobId],
    named_statements: bool,
) -> Result<Vec<keys::ExistingJob>, sqlx::Error> {
    let Some(wanted) = keys::KeyQuery::of(jobs, written) else {
        return Ok(Vec::new());
    };
    let ids: Vec<Uuid> = wanted.ids.iter().map(|id| id.as_uuid()).collect();
    let rows: Vec<keys::ExistingRow> = sqlx::query_as(
        // Each arm looks its rows up in one index; an OR over all three reads every job that has a unique key.
        "select id, kind, payload::text as payload, unique_key, idempotency_key from holdfast_jobs where id = any($1)
         union all
         select id, kind, payload::text, unique_key, idempotency_key from holdfast_jobs where idempotency_key = any($2)
         union all
         select j.* from unnest($3::text[], $4::text[]) as w (kind, unique_key)
         cross join lateral (
             select id, kind, payload::text, unique_key, idempotency_key from holdfast_jobs
             where kind = w.kind and unique_key = w.unique_key and state in ('available', 'running') limit 1) as j",
    )
    .bind(ids)
    .bind(wanted.idempotency_keys)
    .bind(wanted.unique_kinds)
    .bind(wanted.unique_keys)
    .persistent(named_statements)
    .fetch_all(connection)
    .await?;
    Ok(rows.into_iter().map(keys::ExistingJob::from).collect())
}

#[derive(Default)]
struct Columns<'a> {
    ids: Vec<Uuid>,
    queues: Vec<&'a str>,
    kinds: Vec<&'a str>,
    payloads: Vec<&'a str>,
    priorities: Vec<i16>,
    run_ats: Vec<Option<DateTime<Utc>>>,
    delays: Vec<i64>,
    max_attempts: Vec<i32>,
    timeouts: Vec<i64>,
    unique_keys: Vec<Option<&'a str>>,
    idempotency_keys: Vec<Option<&'a str>>,
    options: Vec<Option<String>>,
    attempts: Vec<i32>,
    crashes: Vec<i32>,
    errors: Vec<Option<String>>,
    doubtful: Vec<bool>,
    discarded: Vec<bool>,
    limit_keys: Vec<Option<&'a str>>,
    expires_ats: Vec<Option<DateTime<Utc>>>,
    tags: Vec<Option<String>>,
    enqueued_by: Vec<Option<&'a str>>,
}

impl<'a> Columns<'a> {
    fn of(jobs: &[&'a NewJob]) -> Self {
        let mut column = Self::default();
        for job in jobs {
            let (run_at, delay) = match job.run_at {
                RunAt::Now => (None, 0),
                RunAt::In(delay) => (None, millis(delay)),
                RunAt::At(at) => (Some(at), 0),
                RunAt::Tick(at) => (Some(at), AS_IT_IS),
            };
            column.ids.push(job.id.as_uuid());
            column.queues.push(&job.queue);
            column.kinds.push(&job.kind);
            column.payloads.push(job.payload.get());
            column.priorities.push(job.priority.rank());
            column.run_ats.push(run_at);
            column.delays.push(delay);
            column.max_attempts.push(count(job.max_attempts));
            column.timeouts.push(millis(job.timeout));
            column.unique_keys.push(job.unique_key.as_deref());
            column.idempotency_keys.push(job.idempotency_key.as_deref());
            column.options.push(keys::options_text(&job.options));
            column.attempts.push(count(job.attempt));
            column.crashes.push(count(job.crashes));
            column.errors.push(keys::errors_text(&job.errors));
            column.doubtful.push(job.doubtful);
            column.discarded.push(job.discarded);
            column.limit_keys.push(job.limit_key.as_deref());
            column.expires_ats.push(job.options.expires_at);
            column.tags.push(keys::tags_text(&job.tags));
            column.enqueued_by.push(job.enqueued_by.as_deref());
        }
        column
    }
}
