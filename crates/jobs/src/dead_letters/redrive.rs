//! Putting dead letters back.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::json;
use serde_json::value::RawValue;
use sha2::{Digest as _, Sha256};
use sqlx::Row;
use uuid::Uuid;

use super::DeadLetterFilter;
use super::filter::{bind_postgres, bind_sqlite, postgres_filter, sqlite_filter};
use crate::LedgerTx;
use crate::admin::AdminHandle;
use crate::audit::action;
use crate::bulk::{self, BulkError, BulkPosition, BulkProgress, BulkStep, Operation, STEP_ROWS, Step};
use crate::enqueue::{EnqueueError, JobRequest};
use crate::follow_ups;
use crate::marks::sealed;
use crate::observer::Observers;
use crate::sql::{limit, now_ms};
use crate::state::StoredState;

/// Further attempts that a redriven job gets if nobody says how many.
pub const DEFAULT_ATTEMPTS: u32 = 4;

/// Errors that a redriven job keeps, the newest ones: a job may be redriven for ever, and its row must not grow so.
pub const KEPT_ERRORS: usize = 50;

/// Bounds of a rate, in jobs a second.
pub const MIN_RATE: f64 = 0.01;
pub const MAX_RATE: f64 = 1_000_000.0;

/// What to put back, and how.
#[derive(Debug, Clone, Default)]
pub struct Redrive {
    pub filter: DeadLetterFilter,
    /// Further attempts; [`DEFAULT_ATTEMPTS`] if left out.
    pub attempts: Option<u32>,
    /// Jobs a second, kept by the times at which they are due. Left out: all of them now.
    pub rate: Option<f64>,
    /// Another payload. Only of use for one job; checked by [`AdminHandle::check_payload`] before.
    pub payload: Option<Arc<RawValue>>,
    /// An idempotency key, behind its caller's name.
    pub key: Option<String>,
}

impl AdminHandle<'_> {
    /// Makes dead letters available again, as far as one call goes.
    pub async fn redrive(&self, redrive: &Redrive) -> Result<BulkProgress, BulkError> {
        let request = json!({
            "filter": redrive.filter.document(),
            "rate": redrive.rate,
            "attempts": redrive.attempts,
            // What the payload says is nobody's business here; that it is another one is.
            "payload_sha256": redrive.payload.as_deref().map(digest),
        });
        let operation = Operation {
            action: action::DEAD_LETTERS_REDRIVE,
            target: redrive.filter.queue.clone(),
            request,
            key: redrive.key.clone(),
        };
        bulk::run(self.jobs, self.by, &operation, redrive).await
    }

    /// Checks a payload as an enqueue of this kind would.
    pub async fn check_payload(
        &self,
        kind: &str,
        payload: Box<RawValue>,
    ) -> Result<Arc<RawValue>, EnqueueError> {
        let request = JobRequest::new(kind, payload);
        self.jobs.producer().look_up([&request]).await?;
        Ok(self.jobs.producer().check_text(request)?.payload)
    }
}

/// Without what is encrypted in it, which is never encrypted in the same way twice.
fn digest(payload: &RawValue) -> String {
    Sha256::digest(&*sealed::left_out(payload.get()))
        .iter()
        .fold(String::new(), |mut hex, byte| {
            let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
            hex
        })
}

const POSTGRES: &str = concat!(
    "with picked as materialized (
         select id, queue, kind, unique_key, batch_id from holdfast_jobs
         where ", postgres_filter!("$15"), " and ($7::uuid is null or id > $7)
           and finished_at <= 'epoch'::timestamptz + $8 * interval '1 millisecond'
         order by id
         limit $9
         for update),
     judged as materialized (
         select id, queue, batch_id,
                unique_key is null
                or row_number() over (partition by kind, unique_key order by id) = 1
                   and not exists (select from holdfast_jobs as other
                                   where other.kind = picked.kind and other.unique_key = picked.unique_key
                                     and other.state in ('available', 'running')) as free
         from picked),
     placed as materialized (select id, row_number() over (order by id) - 1 as place from judged where free),
     moved as (
         update holdfast_jobs as j
         set state = 'available', finished_at = null, started_at = null, worker = null, cancel_requested = false,
             run_at = 'epoch'::timestamptz + ($10 + placed.place * $11) * interval '1 millisecond',
             crashes = 0, snoozes = 0, max_attempts = greatest(j.max_attempts, j.attempt + $12),
             payload = coalesce($13::text, j.payload::text)::json,
             errors = case when jsonb_array_length(j.errors) > $14
                           then jsonb_path_query_array(j.errors, '$[last - $keep to last]',
                                                       jsonb_build_object('keep', $14 - 1))
                           else j.errors end
         from placed
         where j.id = placed.id)
     select id, queue, free, batch_id from judged order by id"
);

const SQLITE_PICK: &str = concat!(
    "select id, queue,
            unique_key is null
            or row_number() over (partition by kind, unique_key order by id) = 1
               and not exists (select 1 from holdfast_jobs as other
                               where other.kind = picked.kind and other.unique_key = picked.unique_key
                                 and other.state in ('available', 'running')) as free,
            batch_id
     from (select id, queue, kind, unique_key, batch_id from holdfast_jobs
           where ",
    sqlite_filter!("?10"),
    " and (?7 is null or id > ?7) and finished_at <= ?8
           order by id limit ?9) as picked
     order by id"
);

const SQLITE_MOVE: &str = "
update holdfast_jobs as j
set state = 'available', finished_at = null, started_at = null, worker = null, cancel_requested = 0,
    run_at = placed.run_at, crashes = 0, snoozes = 0, max_attempts = max(j.max_attempts, j.attempt + ?2),
    payload = coalesce(?3, j.payload),
    errors = case when json_array_length(j.errors) > ?4
                  then (select json_group_array(json(value)) from (
                            select value from json_each(j.errors)
                            where key >= json_array_length(j.errors) - ?4 order by key))
                  else j.errors end
from (select unhex(value ->> 0) as id, value ->> 1 as run_at from json_each(?1)) as placed
where j.id = placed.id and j.state = 'discarded'";

impl Step for Redrive {
    async fn step(
        &self,
        mut on: LedgerTx<'_>,
        position: BulkPosition,
        named: bool,
        _: &Observers,
    ) -> Result<BulkStep, sqlx::Error> {
        let now = now_ms(on.reborrow(), named).await?;
        let spacing = self.rate.map_or(0.0, |rate| 1_000.0 / rate);
        let first = position.next_ms.max(now as f64);
        let picked = match on.reborrow() {
            LedgerTx::Postgres(on) => self.step_postgres(on, position, first, spacing, named).await?,
            LedgerTx::Sqlite(on) => self.step_sqlite(on, position, first, spacing).await?,
        };
        let free = picked.iter().filter(|(_, _, free, _)| *free);
        let back = free.map(|(.., batch)| (*batch, StoredState::Discarded));
        follow_ups::count(on, &follow_ups::tallied(back, -1), named, None).await?;
        Ok(stepped(&picked, first, spacing))
    }
}

/// A row that was looked at: its id, its queue, whether it could be put back, and its batch.
type RedriveRow = (Uuid, String, bool, Option<Uuid>);

fn stepped(picked: &[RedriveRow], first: f64, spacing: f64) -> BulkStep {
    let mut stepped = BulkStep {
        seen: picked.len() as u64,
        cursor: picked.last().map(|(id, ..)| *id),
        ..BulkStep::default()
    };
    for (_, queue, free, _) in picked {
        if *free {
            stepped.affected += 1;
            *stepped.available.entry(queue.clone()).or_default() += 1;
        } else {
            stepped.skipped += 1;
        }
    }
    stepped.next_ms = if spacing > 0.0 {
        first + stepped.affected as f64 * spacing
    } else {
        0.0
    };
    stepped
}

impl Redrive {
    fn attempts(&self) -> i32 {
        i32::try_from(self.attempts.unwrap_or(DEFAULT_ATTEMPTS)).unwrap_or(i32::MAX)
    }

    async fn step_postgres(
        &self,
        on: &mut sqlx::PgConnection,
        position: BulkPosition,
        first: f64,
        spacing: f64,
        named: bool,
    ) -> Result<Vec<RedriveRow>, sqlx::Error> {
        let rows = bind_postgres(sqlx::query(POSTGRES), &self.filter)
            .bind(position.cursor)
            .bind(position.began_ms)
            .bind(limit(STEP_ROWS))
            .bind(first)
            .bind(spacing)
            .bind(self.attempts())
            .bind(self.payload.as_ref().map(|payload| payload.get().to_owned()))
            .bind(i32::try_from(KEPT_ERRORS).unwrap_or(i32::MAX))
            .bind(self.filter.fingerprint.clone())
            .persistent(named)
            .fetch_all(on)
            .await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))
            .collect()
    }

    async fn step_sqlite(
        &self,
        on: &mut sqlx::SqliteConnection,
        position: BulkPosition,
        first: f64,
        spacing: f64,
    ) -> Result<Vec<RedriveRow>, sqlx::Error> {
        let rows = bind_sqlite(sqlx::query(SQLITE_PICK), &self.filter)
            .bind(position.cursor)
            .bind(position.began_ms)
            .bind(limit(STEP_ROWS))
            .bind(self.filter.fingerprint.clone())
            .fetch_all(&mut *on)
            .await?;
        let picked: Vec<RedriveRow> = rows
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?, row.try_get(3)?)))
            .collect::<Result<_, sqlx::Error>>()?;
        let placed: Vec<(String, i64)> = picked
            .iter()
            .filter(|(_, _, free, _)| *free)
            .enumerate()
            .map(|(place, (id, ..))| (id.simple().to_string(), (first + place as f64 * spacing) as i64))
            .collect();
        sqlx::query(SQLITE_MOVE)
            .bind(serde_json::to_string(&placed).map_err(crate::sql::decode_error)?)
            .bind(self.attempts())
            .bind(self.payload.as_ref().map(|payload| payload.get().to_owned()))
            .bind(limit(KEPT_ERRORS))
            .execute(on)
            .await?;
        Ok(picked)
    }
}
