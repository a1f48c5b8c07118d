//! Schedules on PostgreSQL.
//!
//! A step locks its rows for the few round trips of its transaction. A beat that is stopped in the middle of one would
//! hold them for as long as it sleeps, so the server ends a transaction that stays idle for `database.idle_in_transaction_seconds`, and other
//! beats pass locked rows by. Both are settings of the transaction alone, so a transaction pooler carries them.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::PostgresDatabase;
use sqlx::postgres::PgRow;
use sqlx::{AssertSqlSafe, Connection, FromRow, Row};
use uuid::Uuid;

use super::model::{BeatRecord, Schedule, ScheduleRecord, Source};
use super::rows::{Columns, StoredSchedule, owned, taken, with_observed};
use super::store::{FORGET_AFTER, Note, ScheduleStore, Step, Summary, Taken};
use crate::id::{JobId, WorkerId};
use crate::ledger::{LedgerError, PostgresLedger};

const RECORD: &str = "
select name, source, enabled, paused, cron, every_seconds, time_zone, kind, payload::text as payload, queue, catch_up,
       catch_up_max, jitter_ms, revision, next_tick, last_tick, last_run_at, last_job, last_error, created_at,
       updated_at, now() as read_at
from holdfast_schedules ";

const INSERT: &str = "
insert into holdfast_schedules
    (name, source, enabled, cron, every_seconds, time_zone, kind, payload, queue, catch_up, catch_up_max, jitter_ms,
     next_tick, paused)
values ($1, $2, $3, $4, $5, $6, $7, $8::json, $9, $10, $11, $12, $13, $14)
on conflict (name) do nothing";

const REPLACE: &str = "
update holdfast_schedules
set source = $2, enabled = $3, cron = $4, every_seconds = $5, time_zone = $6, kind = $7, payload = $8::json,
    queue = $9, catch_up = $10, catch_up_max = $11, jitter_ms = $12, next_tick = $13, paused = $14, revision = revision + 1,
    last_error = null, updated_at = now()
where name = $1 and revision = $15";

/// The steps that are this call's to take.
const LOCK: &str = "
select s.name
from unnest($1::text[], $2::bigint[], $3::timestamptz[]) as step(name, revision, was)
join holdfast_schedules as s on s.name = step.name
where s.enabled and s.revision = step.revision and s.next_tick = step.was
order by s.name
for update of s skip locked";

const ADVANCE: &str = "
update holdfast_schedules as s
set next_tick   = step.next,
    last_tick   = coalesce(step.ticked, s.last_tick),
    last_run_at = case when step.ticked is null then s.last_run_at else now() end,
    last_job    = coalesce(step.job, s.last_job),
    last_error  = null
from unnest($1::text[], $2::timestamptz[], $3::timestamptz[], $4::uuid[]) as step(name, next, ticked, job)
where s.name = step.name";

/// See the module.
#[derive(Debug)]
pub(super) struct PostgresSchedules {
    sql: PostgresLedger,
    named_statements: bool,
}

impl PostgresSchedules {
    pub(super) fn new(database: PostgresDatabase, settings: &DatabaseSettings) -> Self {
        Self {
            sql: PostgresLedger::new(database, settings),
            named_statements: settings.prepared_statements,
        }
    }

    async fn write(
        &self,
        doing: &'static str,
        sql: &'static str,
        row: &Columns<'_>,
        revision: Option<i64>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError> {
        self.sql
            .within(doing, async |on| {
                let mut tx = on.begin().await?;
                let query = self
                    .sql
                    .query(sql)
                    .bind(row.name)
                    .bind(row.source)
                    .bind(row.enabled)
                    .bind(row.cron)
                    .bind(row.every_seconds)
                    .bind(row.time_zone)
                    .bind(row.kind)
                    .bind(row.payload)
                    .bind(row.queue)
                    .bind(row.catch_up)
                    .bind(i32::try_from(row.catch_up_max).unwrap_or(i32::MAX))
                    .bind(row.jitter_ms)
                    .bind(row.next_tick)
                    .bind(row.paused);
                let query = match revision {
                    Some(revision) => query.bind(revision),
                    None => query,
                };
                let written = query.execute(&mut *tx).await?.rows_affected() == 1;
                if written {
                    note.log
                        .record_in(&mut tx, note.by, &note.entry(row.name))
                        .await?;
                }
                tx.commit().await?;
                Ok(written)
            })
            .await
    }
}

impl FromRow<'_, PgRow> for ScheduleRecord {
    fn from_row(row: &PgRow) -> Result<Self, sqlx::Error> {
        let stored = StoredSchedule {
            name: row.try_get("name")?,
            source: row.try_get("source")?,
            enabled: row.try_get("enabled")?,
            paused: row.try_get("paused")?,
            cron: row.try_get("cron")?,
            every_seconds: row.try_get("every_seconds")?,
            time_zone: row.try_get("time_zone")?,
            kind: row.try_get("kind")?,
            payload: row.try_get("payload")?,
            queue: row.try_get("queue")?,
            catch_up: row.try_get("catch_up")?,
            catch_up_max: row.try_get::<i32, _>("catch_up_max")?.into(),
            jitter_ms: row.try_get("jitter_ms")?,
        };
        let (schedule, source) = stored.parsed()?;
        Ok(Self {
            schedule,
            source,
            revision: row.try_get("revision")?,
            next_tick: row.try_get("next_tick")?,
            last_tick: row.try_get("last_tick")?,
            last_run_at: row.try_get("last_run_at")?,
            last_job: row.try_get::<Option<Uuid>, _>("last_job")?.map(JobId::from_uuid),
            last_error: row.try_get("last_error")?,
            created_at: row.try_get("created_at")?,
            updated_at: row.try_get("updated_at")?,
            read_at: row.try_get("read_at")?,
        })
    }
}

#[async_trait]
impl ScheduleStore for PostgresSchedules {
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        self.sql
            .within("tell the time", async |on| {
                self.sql.query_scalar("select now()").fetch_one(&mut *on).await
            })
            .await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleRecord>, LedgerError> {
        self.sql
            .within("list schedules", async |on| {
                self.sql
                    .query_as(AssertSqlSafe(format!(
                        "{RECORD} where $1::text is null or name > $1 order by name limit $2"
                    )))
                    .bind(after)
                    .bind(rows(limit))
                    .fetch_all(&mut *on)
                    .await
            })
            .await
    }

    async fn get(&self, name: &str) -> Result<Option<ScheduleRecord>, LedgerError> {
        self.sql
            .within("read a schedule", async |on| {
                self.sql
                    .query_as(AssertSqlSafe(format!("{RECORD} where name = $1")))
                    .bind(name)
                    .fetch_optional(&mut *on)
                    .await
            })
            .await
    }

    async fn count(&self) -> Result<u64, LedgerError> {
        self.sql
            .within("count schedules", async |on| {
                let count: i64 = self
                    .sql
                    .query_scalar("select count(*) from holdfast_schedules")
                    .fetch_one(&mut *on)
                    .await?;
                Ok(count.unsigned_abs())
            })
            .await
    }

    async fn summary(&self) -> Result<Summary, LedgerError> {
        self.sql
            .within("count schedules", async |on| {
                let (enabled, failing, overdue): (i64, i64, f64) = self
                    .sql
                    .query_as(
                        "select count(*), count(last_error),
                                greatest(coalesce(extract(epoch from now() - min(next_tick)), 0), 0)::float8
                         from holdfast_schedules where enabled",
                    )
                    .fetch_one(&mut *on)
                    .await?;
                Ok(Summary {
                    enabled: enabled.unsigned_abs(),
                    failing: failing.unsigned_abs(),
                    overdue_seconds: overdue,
                })
            })
            .await
    }

    async fn insert(
        &self,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError> {
        let row = Columns::of(schedule, source, next_tick);
        self.write("store a schedule", INSERT, &row, None, note).await
    }

    async fn replace(
        &self,
        revision: i64,
        schedule: &Schedule,
        source: Source,
        next_tick: Option<DateTime<Utc>>,
        note: &Note<'_>,
    ) -> Result<bool, LedgerError> {
        let row = Columns::of(schedule, source, next_tick);
        self.write("change a schedule", REPLACE, &row, Some(revision), note)
            .await
    }

    async fn delete(&self, name: &str, source: Source, note: &Note<'_>) -> Result<bool, LedgerError> {
        self.sql
            .within("delete a schedule", async |on| {
                let mut tx = on.begin().await?;
                let deleted = self
                    .sql
                    .query("delete from holdfast_schedules where name = $1 and source = $2")
                    .bind(name)
                    .bind(source.name())
                    .execute(&mut *tx)
                    .await?;
                let deleted = deleted.rows_affected() == 1;
                if deleted {
                    note.log.record_in(&mut tx, note.by, &note.entry(name)).await?;
                }
                tx.commit().await?;
                Ok(deleted)
            })
            .await
    }

    async fn delete_unconfigured(
        &self,
        keep: &[String],
        note: &Note<'_>,
    ) -> Result<Vec<String>, LedgerError> {
        self.sql
            .within("delete schedules that are not configured any more", async |on| {
                let mut tx = on.begin().await?;
                let deleted: Vec<String> = self
                    .sql
                    .query_scalar(
                        "delete from holdfast_schedules where source = 'config' and name <> all($1) returning name",
                    )
                    .bind(keep)
                    .fetch_all(&mut *tx)
                    .await?;
                for name in &deleted {
                    note.log.record_in(&mut tx, note.by, &note.entry(name)).await?;
                }
                tx.commit().await?;
                Ok(deleted)
            })
            .await
    }

    async fn due(&self, limit: usize, except: &[String]) -> Result<Vec<ScheduleRecord>, LedgerError> {
        self.sql
            .within("look for due schedules", async |on| {
                self.sql
                    .query_as(AssertSqlSafe(format!(
                        "{RECORD} where enabled and next_tick <= now() and name <> all($1) order by next_tick limit $2"
                    )))
                    .bind(except)
                    .bind(rows(limit))
                    .fetch_all(&mut *on)
                    .await
            })
            .await
    }

    async fn until_next(&self, except: &[String]) -> Result<Option<Duration>, LedgerError> {
        self.sql
            .within("look for the next schedule", async |on| {
                let seconds: Option<f64> = self
                    .sql
                    .query_scalar(
                        "select extract(epoch from min(next_tick) - clock_timestamp())::float8
                         from holdfast_schedules where enabled and name <> all($1)",
                    )
                    .bind(except)
                    .fetch_one(&mut *on)
                    .await?;
                Ok(seconds.map(|seconds| Duration::try_from_secs_f64(seconds).unwrap_or_default()))
            })
            .await
    }

    async fn advance(&self, steps: &[Step]) -> Result<Vec<Taken>, LedgerError> {
        self.sql
            .within("take a tick", async |on| {
                let mut tx = on.begin().await?;
                let ours: Vec<String> = self
                    .sql
                    .query_scalar(LOCK)
                    .bind(steps.iter().map(|step| step.name.as_str()).collect::<Vec<_>>())
                    .bind(steps.iter().map(|step| step.revision).collect::<Vec<_>>())
                    .bind(steps.iter().map(|step| step.from).collect::<Vec<_>>())
                    .fetch_all(&mut *tx)
                    .await?;
                let ours = owned(steps, &ours);
                let jobs = with_observed(&ours);
                let accepted = PostgresLedger::insert_in(&mut tx, &jobs, self.named_statements).await?;
                let taken = taken(&ours, accepted.iter().map(crate::ledger::Accepted::id));
                let last_jobs: Vec<Option<Uuid>> = taken
                    .iter()
                    .map(|one| one.jobs.last().map(|id| id.as_uuid()))
                    .collect();
                self.sql
                    .query(ADVANCE)
                    .bind(ours.iter().map(|step| step.name.as_str()).collect::<Vec<_>>())
                    .bind(ours.iter().map(|step| step.to).collect::<Vec<_>>())
                    .bind(ours.iter().map(|step| step.ticked).collect::<Vec<_>>())
                    .bind(last_jobs)
                    .execute(&mut *tx)
                    .await?;
                tx.commit().await?;
                Ok(taken)
            })
            .await
    }

    async fn note_run(&self, name: &str, job: JobId, note: &Note<'_>) -> Result<(), LedgerError> {
        self.sql
            .within("record a run", async |on| {
                let mut tx = on.begin().await?;
                self.sql
                    .query("update holdfast_schedules set last_job = $2, last_run_at = now() where name = $1")
                    .bind(name)
                    .bind(job.as_uuid())
                    .execute(&mut *tx)
                    .await?;
                note.log.record_in(&mut tx, note.by, &note.entry(name)).await?;
                tx.commit().await
            })
            .await
    }

    async fn note_error(&self, name: &str, revision: i64, error: &str) -> Result<(), LedgerError> {
        self.sql
            .within("record a refused tick", async |on| {
                self.sql
                    .query("update holdfast_schedules set last_error = $3 where name = $1 and revision = $2")
                    .bind(name)
                    .bind(revision)
                    .bind(error)
                    .execute(&mut *on)
                    .await?;
                Ok(())
            })
            .await
    }

    async fn heartbeat(&self, id: WorkerId, name: &str, lost_after: Duration) -> Result<(), LedgerError> {
        let forget = lost_after.saturating_mul(FORGET_AFTER).as_secs_f64();
        self.sql
            .within("record a beat", async |on| {
                self.sql
                    .query(
                        "with forgotten as (
                             delete from holdfast_beats where seen_at < now() - $3 * interval '1 second' and id <> $1)
                         insert into holdfast_beats (id, name) values ($1, $2)
                         on conflict (id) do update set seen_at = now()",
                    )
                    .bind(id.as_uuid())
                    .bind(name)
                    .bind(forget)
                    .execute(&mut *on)
                    .await?;
                Ok(())
            })
            .await
    }

    async fn beats(&self) -> Result<Vec<BeatRecord>, LedgerError> {
        self.sql
            .within("list beats", async |on| {
                let rows = self
                    .sql
                    .query(
                        "select name, started_at, seen_at, extract(epoch from now() - seen_at)::float8 as ago
                         from holdfast_beats order by started_at, id limit 1000",
                    )
                    .fetch_all(&mut *on)
                    .await?;
                rows.iter()
                    .map(|row| {
                        Ok(BeatRecord {
                            name: row.try_get("name")?,
                            started_at: row.try_get("started_at")?,
                            seen_at: row.try_get("seen_at")?,
                            seen_seconds_ago: row.try_get("ago")?,
                        })
                    })
                    .collect()
            })
            .await
    }

    async fn farewell(&self, id: WorkerId) -> Result<(), LedgerError> {
        self.sql
            .within("forget a beat", async |on| {
                self.sql
                    .query("delete from holdfast_beats where id = $1")
                    .bind(id.as_uuid())
                    .execute(&mut *on)
                    .await?;
                Ok(())
            })
            .await
    }
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}
