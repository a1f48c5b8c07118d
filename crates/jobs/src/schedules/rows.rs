//! Rows of schedules, as both databases write and read them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::on_either;
use serde_json::value::RawValue;
use sqlx::postgres::PgRow;
use sqlx::sqlite::SqliteRow;
use sqlx::{FromRow, Row};
use uuid::Uuid;

use super::model::{CatchUp, Rhythm, Schedule, ScheduleRecord, Source};
use super::store::{Step, TakenStep};
use crate::LedgerTx;
use crate::id::JobId;
use crate::ledger::NewJob;
use crate::sql::decode_error;

/// A schedule as both databases store it.
pub(super) struct Columns<'a> {
    pub name: &'a str,
    pub source: &'static str,
    /// Whether it ticks.
    pub enabled: bool,
    pub paused: bool,
    pub cron: Option<&'a str>,
    pub every_seconds: Option<i64>,
    pub time_zone: &'a str,
    pub kind: &'a str,
    pub payload: &'a str,
    pub queue: Option<&'a str>,
    pub catch_up: &'static str,
    pub catch_up_max: u32,
    pub jitter_ms: i64,
    pub next_tick: Option<DateTime<Utc>>,
}

impl<'a> Columns<'a> {
    pub(super) fn of(schedule: &'a Schedule, source: Source, next_tick: Option<DateTime<Utc>>) -> Self {
        let (cron, every_seconds, time_zone) = match &schedule.rhythm {
            Rhythm::Cron {
                expression,
                time_zone,
            } => (Some(expression.as_str()), None, time_zone.as_str()),
            Rhythm::Every { seconds } => (None, Some(i64::from(*seconds)), "UTC"),
        };
        Self {
            name: &schedule.name,
            source: source.name(),
            enabled: schedule.ticks(),
            paused: schedule.paused,
            cron,
            every_seconds,
            time_zone,
            kind: &schedule.kind,
            payload: schedule.payload.get(),
            queue: schedule.queue.as_deref(),
            catch_up: schedule.catch_up.name(),
            catch_up_max: schedule.catch_up.max(),
            jitter_ms: i64::try_from(schedule.jitter.as_millis()).unwrap_or(i64::MAX),
            next_tick,
        }
    }

    /// Runs a statement that takes the columns in this order, and the revision; how many rows it has changed.
    pub(super) async fn write(
        &self,
        on: LedgerTx<'_>,
        text: &str,
        revision: i64,
        named: bool,
    ) -> Result<u64, sqlx::Error> {
        on_either!(
            on,
            named,
            query(text),
            [
                self.name,
                self.source,
                self.enabled,
                self.cron,
                self.every_seconds,
                self.time_zone,
                self.kind,
                self.payload,
                self.queue,
                self.catch_up,
                i32::try_from(self.catch_up_max).unwrap_or(i32::MAX),
                self.jitter_ms,
                self.next_tick.map(|tick| tick.timestamp_millis()),
                self.paused,
                revision,
            ],
            execute
        )
    }
}

/// Both databases answer in the same types.
macro_rules! from_rows {
    ($($row:ty),+) => {$(
        impl FromRow<'_, $row> for ScheduleRecord {
            fn from_row(row: &$row) -> Result<Self, sqlx::Error> {
                let time = |column| {
                    let millis: Option<i64> = row.try_get(column)?;
                    Ok::<_, sqlx::Error>(millis.and_then(DateTime::from_timestamp_millis))
                };
                let always = |column| time(column)?.ok_or_else(|| odd(column));
                let rhythm = match row.try_get("cron")? {
                    Some(expression) => Rhythm::Cron {
                        expression,
                        time_zone: row.try_get("time_zone")?,
                    },
                    None => Rhythm::Every {
                        seconds: row
                            .try_get::<Option<i64>, _>("every_seconds")?
                            .and_then(|seconds| u32::try_from(seconds).ok())
                            .ok_or_else(|| odd("interval"))?,
                    },
                };
                let payload = RawValue::from_string(row.try_get("payload")?).map_err(|_| odd("payload"))?;
                let catch_up_max = u32::try_from(row.try_get::<i32, _>("catch_up_max")?).unwrap_or(1);
                let catch_up = CatchUp::stored(row.try_get("catch_up")?, catch_up_max);
                let paused: bool = row.try_get("paused")?;
                let schedule = Schedule {
                    name: row.try_get("name")?,
                    rhythm,
                    kind: row.try_get("kind")?,
                    payload: payload.into(),
                    queue: row.try_get("queue")?,
                    catch_up: catch_up.ok_or_else(|| odd("catch_up"))?,
                    jitter: Duration::from_millis(row.try_get::<i64, _>("jitter_ms")?.unsigned_abs()),
                    // Only an enabled schedule is paused.
                    enabled: paused || row.try_get("enabled")?,
                    paused,
                };
                Ok(Self {
                    schedule,
                    source: Source::stored(row.try_get("source")?).ok_or_else(|| odd("source"))?,
                    revision: row.try_get("revision")?,
                    next_tick: time("next_ms")?,
                    last_tick: time("last_ms")?,
                    last_run_at: time("run_ms")?,
                    last_job: row.try_get::<Option<Uuid>, _>("last_job")?.map(JobId::from_uuid),
                    last_error: row.try_get("last_error")?,
                    created_at: always("created_ms")?,
                    updated_at: always("updated_ms")?,
                    read_at: always("read_ms")?,
                })
            }
        }
    )+};
}

from_rows!(PgRow, SqliteRow);

fn odd(column: &str) -> sqlx::Error {
    decode_error(format_args!("a schedule's {column} cannot be read"))
}

/// The steps whose schedule is among the locked ones.
pub(super) fn owned<'s>(steps: &'s [Step], names: &[String]) -> Vec<&'s Step> {
    let names: HashSet<&str> = names.iter().map(String::as_str).collect();
    steps
        .iter()
        .filter(|step| names.contains(step.name.as_str()))
        .collect()
}

/// The jobs of all steps in their order, and what observers enqueue behind them.
pub(super) fn with_observed(steps: &[&Step]) -> Vec<NewJob> {
    let jobs = steps.iter().flat_map(|step| &step.jobs);
    jobs.chain(steps.iter().flat_map(|step| &step.observed))
        .cloned()
        .collect()
}

/// Deals the ids of all jobs out to their steps.
pub(super) fn taken(steps: &[&Step], mut ids: impl Iterator<Item = JobId>) -> Vec<TakenStep> {
    steps
        .iter()
        .map(|step| TakenStep {
            name: step.name.clone(),
            jobs: ids.by_ref().take(step.jobs.len()).collect(),
        })
        .collect()
}
