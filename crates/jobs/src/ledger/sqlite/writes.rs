//! What is written in the caller's transaction: acceptance, outcomes, cancellation, retries, pauses.

use serde_json::json;
use sqlx::sqlite::SqliteConnection;
use sqlx::{QueryBuilder, Row, Sqlite};
use uuid::Uuid;

use super::SqliteLedger;
use super::rows::{decode_error, hex, millis, stored_state};
use crate::LedgerTx;
use crate::follow_ups::{self, Effects};
use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::outcome::{OutcomeRow, WrittenOutcome};
use crate::ledger::{CancelReply, InsertOutcome, NewJob, Outcome, RetryReply, RunAt, keys};
use crate::observer::Observers;
use crate::state::StoredState;

/// Rows of one `VALUES` list at most; 22 variables each, of the 32,766 that SQLite allows.
const INSERT_ROWS: usize = 128;

/// The `+` keeps SQLite from looking jobs up by their worker, all of them for each outcome, instead of by their id. As on
/// PostgreSQL, a job that was asked to cancel does not become available again.
const FINISH: &str = concat!(
    "update holdfast_jobs as j
     set state            = case when o.state = 'available' and j.cancel_requested then 'cancelled' else o.state end,
         attempt          = j.attempt + o.spent,
         snoozes          = j.snoozes + (o.spent = 0 and o.delay_ms is not null),
         run_at           = case when o.delay_ms is null or j.cancel_requested then j.run_at
                                 else ", now!(), " + o.delay_ms end,
         started_at       = case when o.state = 'available' and not j.cancel_requested then null
                                 else coalesce(j.started_at, ", now!(), ") end,
         finished_at      = case when o.state = 'available' and not j.cancel_requested then null else ", now!(), " end,
         cancel_requested = j.cancel_requested and o.state in ('completed', 'discarded'),
         worker           = case when o.state = 'available' and not j.cancel_requested then null else j.worker end,
         result           = o.result,
         errors           = case when o.error is null then j.errors
                                 else json_insert(case when json_valid(j.errors) then j.errors else '[]' end, '$[#]', json(o.error)) end,
         fingerprint      = case when o.state = 'discarded' then o.error ->> 'fingerprint' end
     from (select unhex(value ->> 0) as id, value ->> 1 as attempt, value ->> 2 as crashes, value ->> 3 as state,
                  value ->> 4 as spent, value ->> 5 as delay_ms, value ->> 6 as result, value ->> 7 as error
           from json_each(?2)) as o
     where j.id = o.id and +j.state = 'running' and +j.worker = ?1 and j.attempt = o.attempt and j.crashes = o.crashes
     returning id, state"
);

impl SqliteLedger {
    /// Inserts inside the caller's transaction; see [`Ledger::insert`](crate::ledger::Ledger::insert).
    pub async fn insert_in(
        connection: &mut SqliteConnection,
        jobs: &[NewJob],
    ) -> Result<Vec<InsertOutcome>, sqlx::Error> {
        Ok(Self::settle_in(connection, jobs).await?.into_accepted())
    }

    pub(super) async fn settle_in<'j>(
        connection: &mut SqliteConnection,
        jobs: &'j [NewJob],
    ) -> Result<keys::InsertProgress<'j>, sqlx::Error> {
        let mut settled = keys::InsertProgress::new(jobs);
        while let Some(pending) = settled.pending()? {
            let mut written = Vec::with_capacity(pending.len());
            for chunk in power_of_two_chunks(&pending) {
                written.extend(insert_rows(&mut *connection, chunk).await?);
            }
            let standing = existing(&mut *connection, &pending, &written).await?;
            settled.record(&written, &standing);
        }
        Ok(settled)
    }

    /// Pauses or resumes inside the caller's transaction; see [`Ledger::set_paused`](crate::ledger::Ledger::set_paused).
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

    /// Writes outcomes on the caller's connection: the rows that were still held, each with the state that it got;
    /// see [`Ledger::finish`](crate::ledger::Ledger::finish).
    pub(crate) async fn finish_in(
        connection: &mut SqliteConnection,
        worker: WorkerId,
        outcomes: &[&Outcome],
    ) -> Result<Vec<WrittenOutcome>, sqlx::Error> {
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
        let held: Vec<(Uuid, String)> = sqlx::query_as(FINISH)
            .bind(worker.as_uuid())
            .bind(json!(rows).to_string())
            .fetch_all(connection)
            .await?;
        held.into_iter()
            .map(|(id, state)| WrittenOutcome::of(id, &state).map_err(decode_error))
            .collect()
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

    /// Cancels inside the caller's transaction, and counts it; see [`Ledger::cancel`](crate::ledger::Ledger::cancel).
    pub(crate) async fn cancel_in(
        connection: &mut SqliteConnection,
        id: JobId,
        observers: &Observers,
    ) -> Result<Option<(CancelReply, Effects)>, sqlx::Error> {
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
        let mut effects = Effects::default();
        if reply == CancelReply::Cancelled {
            let tallies = follow_ups::tallied([(row.try_get("batch_id")?, StoredState::Cancelled)], 1);
            effects =
                follow_ups::count(LedgerTx::Sqlite(connection), &tallies, true, Some(observers)).await?;
        }
        Ok(Some((reply, effects)))
    }

    /// Retries inside the caller's transaction, and takes it out of its batch's count;
    /// see [`Ledger::retry_now`](crate::ledger::Ledger::retry_now).
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
        let tallies = follow_ups::tallied([(row.try_get("batch_id")?, state)], -1);
        follow_ups::count(LedgerTx::Sqlite(connection), &tallies, true, None).await?;
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
              options, attempt, crashes, errors, doubtful, limit_key, expires_at, tags, enqueued_by, state, batch_id,
              finished_at, created_at) ",
    );
    query.push_values(jobs, |mut row, job| {
        let (run_at, delay) = match job.run_at {
            RunAt::Now => (None, 0),
            RunAt::In(delay) => (None, millis(delay)),
            RunAt::At(at) | RunAt::Tick(at) => (Some(at.timestamp_millis()), 0),
        };
        // A time that has passed is stored as now, unless it is a tick's.
        let least = if matches!(job.run_at, RunAt::Tick(_)) {
            run_at
        } else {
            None
        };
        row.push_bind(job.id.as_uuid())
            .push_bind(job.queue.to_string())
            .push_bind(job.kind.to_string())
            .push_bind(job.payload.get().to_owned())
            .push_bind(job.priority.rank())
            .push("max(coalesce(")
            .push_bind_unseparated(run_at)
            .push_unseparated(concat!(", ", now!(), " + "))
            .push_bind_unseparated(delay)
            .push_unseparated("), coalesce(")
            .push_bind_unseparated(least)
            .push_unseparated(concat!(", ", now!(), "))"))
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
            .push_bind(job.options.expires_at.map(|at| at.timestamp_millis()))
            .push_bind(keys::tags_text(&job.tags))
            .push_bind(job.enqueued_by.as_deref().map(ToOwned::to_owned))
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
) -> Result<Vec<keys::ExistingJob>, sqlx::Error> {
    let Some(wanted) = keys::KeyQuery::of(jobs, written) else {
        return Ok(Vec::new());
    };
    let unique: Vec<_> = wanted.unique_kinds.iter().zip(&wanted.unique_keys).collect();
    let rows: Vec<keys::ExistingRow> = sqlx::query_as(
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
    Ok(rows.into_iter().map(keys::ExistingJob::from).collect())
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
