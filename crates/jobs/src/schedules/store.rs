//! The tables of schedules and beats, on either database. All times are the server's.
//!
//! A step locks its rows for the few round trips of its transaction. A beat that is stopped in the middle of one would
//! hold them for as long as it sleeps, so PostgreSQL ends a transaction that stays idle for
//! `database.idle_in_transaction_seconds`, and other beats pass locked rows by. On SQLite the transaction holds the write
//! lock from its first moment: a process that is stopped in the middle of one stops every writer of the file.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::Database;
use holdfast_core::sql::dialect::{moment, on_either, read_either, rows, write_either};
use serde_json::{Value, json};

use super::model::{BeatRecord, Schedule, ScheduleRecord, Source};
use super::rows::{Columns, owned, taken, with_observed};
use crate::LedgerTx;
use crate::audit::{AuditContext, AuditEntry, AuditLog};
use crate::id::{JobId, WorkerId};
use crate::ledger::{self, InsertOutcome, LedgerError, NewJob};
use crate::sql::{Sql, millis};

/// A beat that was silent for so many times its time to be lost is forgotten.
const FORGET_AFTER: u32 = 20;

const FIRST_REVISION: i64 = 1;

/// Every column of the schedules that the rest of the statement names.
macro_rules! select {
    ($rest:literal) => {
        concat!(
            "select name, source, enabled, paused, cron, every_seconds, time_zone, kind, @text(payload) as payload, queue,
                    catch_up, catch_up_max, jitter_ms, revision, @ms(next_tick) as next_ms, @ms(last_tick) as last_ms,
                    @ms(last_run_at) as run_ms, last_job, last_error, @ms(created_at) as created_ms,
                    @ms(updated_at) as updated_ms, @now_ms as read_ms
             from holdfast_schedules ",
            $rest
        )
    };
}

const LIST: &str = select!("where cast($1 as text) is null or name > $1 order by name limit $2");
const GET: &str = select!("where name = $1");
const DUE: &str =
    select!("where enabled and next_tick <= @now and name not in (@names($1)) order by next_tick limit $2");

const SUMMARY: &str = "
select ticking, failing, coalesce(@now_ms - @ms(oldest), 0)
from (select count(*) as ticking, count(last_error) as failing, min(next_tick) as oldest
      from holdfast_schedules where enabled) as due";

const UNTIL_NEXT: &str = "
select @ms(earliest) - @now_ms
from (select min(next_tick) as earliest from holdfast_schedules
      where enabled and name not in (@names($1))) as others";

const INSERT: &str = "
insert into holdfast_schedules
    (name, source, enabled, cron, every_seconds, time_zone, kind, payload, queue, catch_up, catch_up_max, jitter_ms,
     next_tick, paused, revision, created_at, updated_at)
values ($1, $2, $3, $4, $5, $6, $7, cast($8 as @json), $9, $10, $11, $12, @at($13), $14, $15, @now, @now)
on conflict (name) do nothing";

/// Nothing where it is not at revision $15 any more.
const REPLACE: &str = "
update holdfast_schedules
set source = $2, enabled = $3, cron = $4, every_seconds = $5, time_zone = $6, kind = $7, payload = cast($8 as @json),
    queue = $9, catch_up = $10, catch_up_max = $11, jitter_ms = $12, next_tick = @at($13), paused = $14,
    revision = revision + 1, last_error = null, updated_at = @now
where name = $1 and revision = $15";

const DELETE: &str = "delete from holdfast_schedules where name = $1 and source = $2";

const DELETE_UNCONFIGURED: &str = "
delete from holdfast_schedules where source = 'config' and name not in (@names($1)) returning name";

/// The steps that are this call's to take: $1 is an array of [name, revision, tick]. Ticks are whole seconds.
const LOCK: &str = "
select s.name
from (select value ->> 0 as name, cast(value ->> 1 as bigint) as revision, cast(value ->> 2 as bigint) as tick
      from @each($1)) as step
join holdfast_schedules as s on s.name = step.name
where s.enabled and s.revision = step.revision and @ms(s.next_tick) = step.tick
order by s.name @skip_locked";

/// $1 is an array of [name, next tick, newest tick that became a job, its job].
const ADVANCE: &str = "
update holdfast_schedules as s
set next_tick   = @at(step.next),
    last_tick   = coalesce(@at(step.ticked), s.last_tick),
    last_run_at = case when step.ticked is null then s.last_run_at else @now end,
    last_job    = coalesce(step.job, s.last_job),
    last_error  = null
from (select value ->> 0 as name, cast(value ->> 1 as bigint) as next, cast(value ->> 2 as bigint) as ticked,
             @id(value ->> 3) as job
      from @each($1)) as step
where s.name = step.name";

const NOTE_RUN: &str = "update holdfast_schedules set last_job = $2, last_run_at = @now where name = $1";

const NOTE_ERROR: &str = "update holdfast_schedules set last_error = $3 where name = $1 and revision = $2";

const BEAT: &str = "
insert into holdfast_beats (id, name, started_at, seen_at) values ($1, $2, @now, @now)
on conflict (id) do update set seen_at = excluded.seen_at";

const FORGET: &str = "delete from holdfast_beats where seen_at < @ago($2) and id <> $1";

const BEATS: &str = "
select name, @ms(started_at), @ms(seen_at), @now_ms - @ms(seen_at)
from holdfast_beats order by started_at, id limit 1000";

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
pub struct TakenStep {
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
    pub by: &'a AuditContext,
    pub action: &'static str,
    pub details: Option<Value>,
}

impl Note<'_> {
    async fn record_in(&self, on: LedgerTx<'_>, schedule: &str) -> Result<(), sqlx::Error> {
        let entry = AuditEntry::new(self.action).target(schedule);
        let entry = match &self.details {
            Some(details) => entry.details(details.clone()),
            None => entry,
        };
        self.log.record_in(on, self.by, &entry).await.map(drop)
    }
}

/// Schedules and beats. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ScheduleStore {
    sql: Sql,
}

impl ScheduleStore {
    pub fn new(database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            sql: Sql::new(database, settings),
        }
    }

    pub async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        let now: i64 = read_either!(
            self.sql,
            "tell the time",
            query_scalar::<i64>("select @now_ms"),
            [],
            fetch_one
        )?;
        Ok(moment(now))
    }

    /// By name, from the one after `after`.
    pub async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleRecord>, LedgerError> {
        read_either!(
            self.sql,
            "list schedules",
            query_as::<ScheduleRecord>(LIST),
            [after, rows(limit)],
            fetch_all
        )
    }

    pub async fn get(&self, name: &str) -> Result<Option<ScheduleRecord>, LedgerError> {
        read_either!(
            self.sql,
            "read a schedule",
            query_as::<ScheduleRecord>(GET),
            [name],
            fetch_optional
        )
    }

    pub async fn count(&self) -> Result<u64, LedgerError> {
        let count: i64 = read_either!(
            self.sql,
            "count schedules",
            query_scalar::<i64>("select count(*) from holdfast_schedules"),
            [],
            fetch_one
        )?;
        Ok(count.unsigned_abs())
    }

    pub async fn summary(&self) -> Result<Summary, LedgerError> {
        let counts: Option<(i64, i64, i64)> = read_either!(
            self.sql,
            "count schedules",
            query_as::<(i64, i64, i64)>(SUMMARY),
            [],
            fetch_optional
        )?;
        let (enabled, failing, overdue_ms) = counts.unwrap_or_default();
        Ok(Summary {
            enabled: enabled.unsigned_abs(),
            failing: failing.unsigned_abs(),
            overdue_seconds: overdue_ms.max(0) as f64 / 1_000.0,
        })
    }

    /// False: the name is taken.
    pub async fn insert(
        &self,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError> {
        let row = Columns::of(schedule, source, next_tick);
        self.sql
            .within("store a schedule", self.write(INSERT, &row, FIRST_REVISION, note))
            .await
    }

    /// False: it is not at that revision any more.
    pub async fn replace(
        &self,
        revision: i64,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError> {
        let row = Columns::of(schedule, source, next_tick);
        self.sql
            .within("change a schedule", self.write(REPLACE, &row, revision, note))
            .await
    }

    async fn write(
        &self,
        text: &str,
        row: &Columns<'_>,
        revision: i64,
        note: &Note<'_>,
    ) -> Result<bool, sqlx::Error> {
        let mut tx = self.sql.begin().await?;
        let written = row.write(tx.on(), text, revision, self.sql.named()).await? == 1;
        if written {
            note.record_in(tx.on(), row.name).await?;
        }
        tx.commit().await?;
        Ok(written)
    }

    /// False: there is none of that name and owner.
    pub async fn delete(&self, name: &str, source: Source, note: &Note<'_>) -> Result<bool, LedgerError> {
        self.sql
            .within("delete a schedule", async {
                let mut tx = self.sql.begin().await?;
                let deleted: u64 = on_either!(
                    tx.on(),
                    self.sql.named(),
                    query(DELETE),
                    [name, source.name()],
                    execute
                )?;
                if deleted == 1 {
                    note.record_in(tx.on(), name).await?;
                }
                tx.commit().await?;
                Ok(deleted == 1)
            })
            .await
    }

    /// Deletes the configuration's schedules but for these; answers with the names of the deleted.
    pub async fn delete_unconfigured(
        &self,
        keep: &[String],
        note: &Note<'_>,
    ) -> Result<Vec<String>, LedgerError> {
        let keep = json!(keep).to_string();
        self.sql
            .within("delete schedules that are not configured any more", async {
                let mut tx = self.sql.begin().await?;
                let deleted: Vec<String> = on_either!(
                    tx.on(),
                    self.sql.named(),
                    query_scalar::<String>(DELETE_UNCONFIGURED),
                    [&keep],
                    fetch_all
                )?;
                for name in &deleted {
                    note.record_in(tx.on(), name).await?;
                }
                tx.commit().await?;
                Ok(deleted)
            })
            .await
    }

    /// Up to `limit` enabled schedules that are due, the longest due first, without those named in `except`.
    pub async fn due(&self, limit: usize, except: &[String]) -> Result<Vec<ScheduleRecord>, LedgerError> {
        read_either!(
            self.sql,
            "look for due schedules",
            query_as::<ScheduleRecord>(DUE),
            [json!(except).to_string(), rows(limit)],
            fetch_all
        )
    }

    /// How long until the next enabled schedule is due, without those named; `None`: there is none.
    pub async fn until_next(&self, except: &[String]) -> Result<Option<Duration>, LedgerError> {
        let ms: Option<i64> = read_either!(
            self.sql,
            "look for the next schedule",
            query_scalar::<Option<i64>>(UNTIL_NEXT),
            [json!(except).to_string()],
            fetch_one
        )?;
        Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    /// Takes each step that is still to be taken, with its jobs, in one transaction.
    pub async fn advance(&self, steps: &[Step]) -> Result<Vec<TakenStep>, LedgerError> {
        self.sql.within("take a tick", self.advance_in_tx(steps)).await
    }

    async fn advance_in_tx(&self, steps: &[Step]) -> Result<Vec<TakenStep>, sqlx::Error> {
        let named = self.sql.named();
        let mut tx = self.sql.begin().await?;
        let wanted: Vec<Value> = steps
            .iter()
            .map(|step| json!([step.name, step.revision, step.from.timestamp_millis()]))
            .collect();
        let wanted = Value::from(wanted).to_string();
        let locked: Vec<String> =
            on_either!(tx.on(), named, query_scalar::<String>(LOCK), [&wanted], fetch_all)?;
        let ours = owned(steps, &locked);
        let accepted = ledger::insert_in(tx.on(), &with_observed(&ours), named).await?;
        let taken = taken(&ours, accepted.iter().map(InsertOutcome::id));
        let ms = |at: Option<DateTime<Utc>>| at.map(|at| at.timestamp_millis());
        let moves: Vec<Value> = ours
            .iter()
            .zip(&taken)
            .map(|(step, taken)| {
                let job = taken.jobs.last().map(|id| id.as_uuid().simple().to_string());
                json!([step.name, ms(step.to), ms(step.ticked), job])
            })
            .collect();
        let moves = Value::from(moves).to_string();
        on_either!(tx.on(), named, query(ADVANCE), [&moves], execute).map(|_: u64| ())?;
        tx.commit().await?;
        Ok(taken)
    }

    /// Records a job that was made by hand.
    pub async fn note_run(&self, name: &str, job: JobId, note: &Note<'_>) -> Result<(), LedgerError> {
        self.sql
            .within("record a run", async {
                let mut tx = self.sql.begin().await?;
                on_either!(
                    tx.on(),
                    self.sql.named(),
                    query(NOTE_RUN),
                    [name, job.as_uuid()],
                    execute
                )
                .map(|_: u64| ())?;
                note.record_in(tx.on(), name).await?;
                tx.commit().await
            })
            .await
    }

    /// Records why a tick could not become a job.
    pub async fn note_error(&self, name: &str, revision: i64, error: &str) -> Result<(), LedgerError> {
        write_either!(
            self.sql,
            "record a refused tick",
            query(NOTE_ERROR),
            [name, revision, error],
            execute
        )
        .map(|_: u64| ())
    }

    /// Says that a beat is alive, and forgets those that have not been for long.
    pub async fn heartbeat(&self, id: WorkerId, name: &str, lost_after: Duration) -> Result<(), LedgerError> {
        let (id, named) = (id.as_uuid(), self.sql.named());
        let forget = millis(lost_after.saturating_mul(FORGET_AFTER));
        self.sql
            .within("record a beat", async {
                let mut tx = self.sql.begin().await?;
                on_either!(tx.on(), named, query(BEAT), [id, name], execute).map(|_: u64| ())?;
                on_either!(tx.on(), named, query(FORGET), [id, forget], execute).map(|_: u64| ())?;
                tx.commit().await
            })
            .await
    }

    pub async fn beats(&self) -> Result<Vec<BeatRecord>, LedgerError> {
        let beats: Vec<(String, i64, i64, i64)> = read_either!(
            self.sql,
            "list beats",
            query_as::<(String, i64, i64, i64)>(BEATS),
            [],
            fetch_all
        )?;
        let record = |(name, started_ms, seen_ms, ago_ms)| BeatRecord {
            name,
            started_at: moment(started_ms),
            seen_at: moment(seen_ms),
            seen_seconds_ago: ago_ms as f64 / 1_000.0,
        };
        Ok(beats.into_iter().map(record).collect())
    }

    /// A beat's last word.
    pub async fn farewell(&self, id: WorkerId) -> Result<(), LedgerError> {
        write_either!(
            self.sql,
            "forget a beat",
            query("delete from holdfast_beats where id = $1"),
            [id.as_uuid()],
            execute
        )
        .map(|_: u64| ())
    }
}
