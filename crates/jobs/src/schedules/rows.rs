//! Rows of schedules, as both databases write and read them.

use std::collections::HashSet;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::model::{CatchUp, Rhythm, Schedule, Source};
use super::store::{Step, Taken};
use crate::id::JobId;
use crate::ledger::NewJob;

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
}

/// The stored words of a schedule, as values.
pub(super) struct StoredSchedule {
    pub name: String,
    pub source: String,
    pub enabled: bool,
    pub paused: bool,
    pub cron: Option<String>,
    pub every_seconds: Option<i64>,
    pub time_zone: String,
    pub kind: String,
    pub payload: String,
    pub queue: Option<String>,
    pub catch_up: String,
    pub catch_up_max: i64,
    pub jitter_ms: i64,
}

impl StoredSchedule {
    pub(super) fn parsed(self) -> Result<(Schedule, Source), sqlx::Error> {
        let odd = |what: &str| sqlx::Error::Decode(format!("a schedule's {what} cannot be read").into());
        let rhythm = match (self.cron, self.every_seconds) {
            (Some(expression), _) => Rhythm::Cron {
                expression,
                time_zone: self.time_zone,
            },
            (None, seconds) => Rhythm::Every {
                seconds: seconds
                    .and_then(|seconds| u32::try_from(seconds).ok())
                    .ok_or_else(|| odd("interval"))?,
            },
        };
        let max = u32::try_from(self.catch_up_max).unwrap_or(1);
        let payload = RawValue::from_string(self.payload).map_err(|_| odd("payload"))?;
        let schedule = Schedule {
            name: self.name,
            rhythm,
            kind: self.kind,
            payload: payload.into(),
            queue: self.queue,
            catch_up: CatchUp::stored(&self.catch_up, max).ok_or_else(|| odd("catch_up"))?,
            jitter: Duration::from_millis(self.jitter_ms.unsigned_abs()),
            // Only an enabled schedule is paused.
            enabled: self.enabled || self.paused,
            paused: self.paused,
        };
        let source = Source::stored(&self.source).ok_or_else(|| odd("source"))?;
        Ok((schedule, source))
    }
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
pub(super) fn taken(steps: &[&Step], mut ids: impl Iterator<Item = JobId>) -> Vec<Taken> {
    steps
        .iter()
        .map(|step| Taken {
            name: step.name.clone(),
            jobs: ids.by_ref().take(step.jobs.len()).collect(),
        })
        .collect()
}
