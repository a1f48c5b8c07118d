//! Schedules on SQLite. A step is one transaction that holds the write lock from its first moment, so nothing can come
//! between its look and its jobs. A process that is stopped in the middle of one stops every writer of the file: that is
//! SQLite's nature, and a transaction is too short to be met often.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use holdfast_core::sql::SqliteDatabase;
use serde_json::json;
use sqlx::sqlite::{SqliteConnection, SqliteRow};
use sqlx::{AssertSqlSafe, FromRow, Row};
use uuid::Uuid;

use super::model::{BeatRecord, Schedule, ScheduleRecord, Source};
use super::rows::{Columns, StoredSchedule, owned, taken, with_observed};
use super::store::{FORGET_AFTER, Note, ScheduleStore, Step, Summary, Taken};
use crate::id::{JobId, WorkerId};
use crate::ledger::{LedgerError, SqliteLedger};

/// The database's now, in milliseconds.
macro_rules! now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}

const RECORD: &str = concat!(
    "select name, source, enabled, paused, cron, every_seconds, time_zone, kind, payload, queue, catch_up, catch_up_max,
            jitter_ms, revision, next_tick, last_tick, last_run_at, last_job, last_error, created_at, updated_at, ",
    now!(),
    " as read_at from holdfast_schedules "
);

const INSERT: &str = concat!(
    "insert into holdfast_schedules
         (name, source, enabled, cron, every_seconds, time_zone, kind, payload, queue, catch_up, catch_up_max, jitter_ms,
          next_tick, paused, created_at, updated_at)
     values (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10, ?11, ?12, ?13, ?14, ",
    now!(),
    ", ",
    now!(),
    ") on conflict (name) do nothing"
);

const REPLACE: &str = concat!(
    "update holdfast_schedules
     set source = ?2, enabled = ?3, cron = ?4, every_seconds = ?5, time_zone = ?6, kind = ?7, payload = ?8, queue = ?9,
         catch_up = ?10, catch_up_max = ?11, jitter_ms = ?12, next_tick = ?13, paused = ?14, revision = revision + 1,
         last_error = null, updated_at = ",
    now!(),
    " where name = ?1 and revision = ?15"
);

/// The steps that are this call's to take.
const MATCH: &str = "
select s.name
from json_each(?1) as step join holdfast_schedules as s on s.name = step.value ->> 0
where s.enabled and s.revision = step.value ->> 1 and s.next_tick = step.value ->> 2";

const ADVANCE: &str = concat!(
    "update holdfast_schedules as s
     set next_tick   = step.next,
         last_tick   = coalesce(step.ticked, s.last_tick),
         last_run_at = case when step.ticked is null then s.last_run_at else ",
    now!(),
    " end,
         last_job    = coalesce(step.job, s.last_job),
         last_error  = null
     from (select value ->> 0 as name, value ->> 1 as next, value ->> 2 as ticked, unhex(value ->> 3) as job
           from json_each(?1)) as step
     where s.name = step.name"
);

/// See the module.
#[derive(Debug)]
pub(super) struct SqliteSchedules {
    sql: SqliteLedger,
}

impl SqliteSchedules {
    pub(super) fn new(database: SqliteDatabase) -> Self {
        Self {
            sql: SqliteLedger::new(database),
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
        let query = sqlx::query(sql)
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
            .bind(row.catch_up_max)
            .bind(row.jitter_ms)
            .bind(row.next_tick.map(|tick| tick.timestamp_millis()))
            .bind(row.paused);
        let query = match revision {
            Some(revision) => query.bind(revision),
            None => query,
        };
        let writing = self.sql.transaction(async |tx| {
            let written = query.execute(&mut *tx).await?.rows_affected() == 1;
            if written {
                note.log
                    .record_in(&mut *tx, note.by, &note.entry(row.name))
                    .await?;
            }
            Ok(written)
        });
        self.sql.within(doing, writing).await
    }
}

fn time(row: &SqliteRow, column: &str) -> Result<Option<DateTime<Utc>>, sqlx::Error> {
    let unix_ms: Option<i64> = row.try_get(column)?;
    Ok(unix_ms.and_then(DateTime::from_timestamp_millis))
}

fn certain_time(row: &SqliteRow, column: &str) -> Result<DateTime<Utc>, sqlx::Error> {
    time(row, column)?.ok_or_else(|| sqlx::Error::Decode(format!("{column} is no time").into()))
}

fn rows(limit: usize) -> i64 {
    i64::try_from(limit).unwrap_or(i64::MAX)
}

impl FromRow<'_, SqliteRow> for ScheduleRecord {
    fn from_row(row: &SqliteRow) -> Result<Self, sqlx::Error> {
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
            catch_up_max: row.try_get("catch_up_max")?,
            jitter_ms: row.try_get("jitter_ms")?,
        };
        let (schedule, source) = stored.parsed()?;
        Ok(Self {
            schedule,
            source,
            revision: row.try_get("revision")?,
            next_tick: time(row, "next_tick")?,
            last_tick: time(row, "last_tick")?,
            last_run_at: time(row, "last_run_at")?,
            last_job: row.try_get::<Option<Uuid>, _>("last_job")?.map(JobId::from_uuid),
            last_error: row.try_get("last_error")?,
            created_at: certain_time(row, "created_at")?,
            updated_at: certain_time(row, "updated_at")?,
            read_at: certain_time(row, "read_at")?,
        })
    }
}

fn names_json(names: &[String]) -> String {
    json!(names).to_string()
}

#[async_trait]
impl ScheduleStore for SqliteSchedules {
    async fn now(&self) -> Result<DateTime<Utc>, LedgerError> {
        let query = sqlx::query(concat!("select ", now!(), " as now"));
        let reader = &self.sql.database().reader;
        self.sql
            .within("tell the time", async {
                certain_time(&query.fetch_one(reader).await?, "now")
            })
            .await
    }

    async fn list(&self, after: Option<&str>, limit: usize) -> Result<Vec<ScheduleRecord>, LedgerError> {
        let sql = AssertSqlSafe(format!(
            "{RECORD} where ?1 is null or name > ?1 order by name limit ?2"
        ));
        let query = sqlx::query_as(sql).bind(after).bind(rows(limit));
        let reader = &self.sql.database().reader;
        self.sql.within("list schedules", query.fetch_all(reader)).await
    }

    async fn get(&self, name: &str) -> Result<Option<ScheduleRecord>, LedgerError> {
        let query = sqlx::query_as(AssertSqlSafe(format!("{RECORD} where name = ?1"))).bind(name);
        let reader = &self.sql.database().reader;
        self.sql
            .within("read a schedule", query.fetch_optional(reader))
            .await
    }

    async fn count(&self) -> Result<u64, LedgerError> {
        let query = sqlx::query_scalar::<_, i64>("select count(*) from holdfast_schedules");
        let reader = &self.sql.database().reader;
        let count = self
            .sql
            .within("count schedules", query.fetch_one(reader))
            .await?;
        Ok(count.unsigned_abs())
    }

    async fn summary(&self) -> Result<Summary, LedgerError> {
        let query = sqlx::query_as::<_, (i64, i64, i64)>(concat!(
            "select count(*), count(last_error), max(coalesce(",
            now!(),
            " - min(next_tick), 0), 0)
             from holdfast_schedules where enabled"
        ));
        let reader = &self.sql.database().reader;
        let (enabled, failing, overdue_ms) = self
            .sql
            .within("count schedules", query.fetch_one(reader))
            .await?;
        Ok(Summary {
            enabled: enabled.unsigned_abs(),
            failing: failing.unsigned_abs(),
            overdue_seconds: overdue_ms as f64 / 1_000.0,
        })
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
        let query = sqlx::query("delete from holdfast_schedules where name = ?1 and source = ?2")
            .bind(name)
            .bind(source.name());
        let deleting = self.sql.transaction(async |tx| {
            let deleted = query.execute(&mut *tx).await?.rows_affected() == 1;
            if deleted {
                note.log.record_in(&mut *tx, note.by, &note.entry(name)).await?;
            }
            Ok(deleted)
        });
        self.sql.within("delete a schedule", deleting).await
    }

    async fn delete_unconfigured(
        &self,
        keep: &[String],
        note: &Note<'_>,
    ) -> Result<Vec<String>, LedgerError> {
        let query = sqlx::query_scalar::<_, String>(
            "delete from holdfast_schedules
             where source = 'config' and name not in (select value from json_each(?1)) returning name",
        )
        .bind(names_json(keep));
        let deleting = self.sql.transaction(async |tx| {
            let deleted = query.fetch_all(&mut *tx).await?;
            for name in &deleted {
                note.log.record_in(&mut *tx, note.by, &note.entry(name)).await?;
            }
            Ok(deleted)
        });
        let doing = "delete schedules that are not configured any more";
        self.sql.within(doing, deleting).await
    }

    async fn due(&self, limit: usize, except: &[String]) -> Result<Vec<ScheduleRecord>, LedgerError> {
        let query = sqlx::query_as(AssertSqlSafe(format!(
            "{RECORD} where enabled and next_tick <= {} and name not in (select value from json_each(?1))
             order by next_tick limit ?2",
            now!()
        )))
        .bind(names_json(except))
        .bind(rows(limit));
        let reader = &self.sql.database().reader;
        self.sql
            .within("look for due schedules", query.fetch_all(reader))
            .await
    }

    async fn until_next(&self, except: &[String]) -> Result<Option<Duration>, LedgerError> {
        let query = sqlx::query_scalar::<_, Option<i64>>(concat!(
            "select min(next_tick) - ",
            now!(),
            " from holdfast_schedules
             where enabled and name not in (select value from json_each(?1))"
        ))
        .bind(names_json(except));
        let reader = &self.sql.database().reader;
        let ms = self
            .sql
            .within("look for the next schedule", query.fetch_one(reader))
            .await?;
        Ok(ms.map(|ms| Duration::from_millis(u64::try_from(ms).unwrap_or(0))))
    }

    async fn advance(&self, steps: &[Step]) -> Result<Vec<Taken>, LedgerError> {
        let taking = self.sql.transaction(async |tx| {
            let wanted: Vec<_> = steps
                .iter()
                .map(|step| json!([step.name, step.revision, step.from.timestamp_millis()]))
                .collect();
            let ours: Vec<String> = sqlx::query_scalar(MATCH)
                .bind(json!(wanted).to_string())
                .fetch_all(&mut *tx)
                .await?;
            let ours = owned(steps, &ours);
            let jobs = with_observed(&ours);
            let accepted = SqliteLedger::insert_in(&mut *tx, &jobs).await?;
            let taken = taken(&ours, accepted.iter().map(crate::ledger::Accepted::id));
            let moves: Vec<_> = ours
                .iter()
                .zip(&taken)
                .map(|(step, taken)| {
                    json!([
                        step.name,
                        step.to.map(|to| to.timestamp_millis()),
                        step.ticked.map(|ticked| ticked.timestamp_millis()),
                        taken.jobs.last().map(|id| id.as_uuid().simple().to_string()),
                    ])
                })
                .collect();
            sqlx::query(ADVANCE)
                .bind(json!(moves).to_string())
                .execute(&mut *tx)
                .await?;
            Ok(taken)
        });
        self.sql.within("take a tick", taking).await
    }

    async fn note_run(&self, name: &str, job: JobId, note: &Note<'_>) -> Result<(), LedgerError> {
        let query = sqlx::query(concat!(
            "update holdfast_schedules set last_job = ?2, last_run_at = ",
            now!(),
            " where name = ?1"
        ))
        .bind(name)
        .bind(job.as_uuid());
        let noting = self.sql.transaction(async |tx| {
            query.execute(&mut *tx).await?;
            note.log.record_in(&mut *tx, note.by, &note.entry(name)).await?;
            Ok(())
        });
        self.sql.within("record a run", noting).await
    }

    async fn note_error(&self, name: &str, revision: i64, error: &str) -> Result<(), LedgerError> {
        let query =
            sqlx::query("update holdfast_schedules set last_error = ?3 where name = ?1 and revision = ?2")
                .bind(name)
                .bind(revision)
                .bind(error);
        let noting = async |on: &mut SqliteConnection| query.execute(on).await;
        self.sql.write("record a refused tick", noting).await.map(drop)
    }

    async fn heartbeat(&self, id: WorkerId, name: &str, lost_after: Duration) -> Result<(), LedgerError> {
        let forget = lost_after.saturating_mul(FORGET_AFTER).as_millis();
        let beating = self.sql.transaction(async |tx| {
            sqlx::query(concat!(
                "insert into holdfast_beats (id, name, started_at, seen_at) values (?1, ?2, ",
                now!(),
                ", ",
                now!(),
                ")
                 on conflict (id) do update set seen_at = excluded.seen_at"
            ))
            .bind(id.as_uuid())
            .bind(name)
            .execute(&mut *tx)
            .await?;
            sqlx::query(concat!(
                "delete from holdfast_beats where seen_at < ",
                now!(),
                " - ?2 and id <> ?1"
            ))
            .bind(id.as_uuid())
            .bind(i64::try_from(forget).unwrap_or(i64::MAX / 4))
            .execute(&mut *tx)
            .await?;
            Ok(())
        });
        self.sql.within("record a beat", beating).await
    }

    async fn beats(&self) -> Result<Vec<BeatRecord>, LedgerError> {
        let query = sqlx::query(concat!(
            "select name, started_at, seen_at, ",
            now!(),
            " - seen_at as ago from holdfast_beats
             order by started_at, id limit 1000"
        ));
        let reader = &self.sql.database().reader;
        let read = async {
            let rows = query.fetch_all(reader).await?;
            rows.iter()
                .map(|row| {
                    Ok(BeatRecord {
                        name: row.try_get("name")?,
                        started_at: certain_time(row, "started_at")?,
                        seen_at: certain_time(row, "seen_at")?,
                        seen_seconds_ago: row.try_get::<i64, _>("ago")? as f64 / 1_000.0,
                    })
                })
                .collect()
        };
        self.sql.within("list beats", read).await
    }

    async fn farewell(&self, id: WorkerId) -> Result<(), LedgerError> {
        let query = sqlx::query("delete from holdfast_beats where id = ?1").bind(id.as_uuid());
        let forgetting = async |on: &mut SqliteConnection| query.execute(on).await;
        self.sql.write("forget a beat", forgetting).await.map(drop)
    }
}
