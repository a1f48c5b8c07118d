//! What a schedule is, as its author words it and as it is kept.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::timing::{self, Timing, TimingFault};
use crate::id::JobId;

/// A schedule as its author words it; nothing is checked yet.
#[derive(Debug, Clone)]
pub struct Definition {
    pub name: String,
    /// Either this…
    pub cron: Option<String>,
    /// … or this.
    pub every: Option<Duration>,
    /// An IANA name; UTC if absent. Of a cron expression only.
    pub time_zone: Option<String>,
    pub kind: String,
    pub payload: Box<RawValue>,
    /// The kind's own if absent.
    pub queue: Option<String>,
    /// `skip`, `latest` (if absent) or `all`.
    pub catch_up: Option<String>,
    /// Of `all`: the most missed ticks that are run.
    pub catch_up_max: Option<u32>,
    /// Each tick's job runs up to this much later.
    pub jitter: Option<Duration>,
    pub enabled: bool,
}

/// A checked schedule.
#[derive(Debug, Clone)]
pub struct Schedule {
    pub name: String,
    pub rhythm: Rhythm,
    pub kind: String,
    pub payload: Arc<RawValue>,
    pub queue: Option<String>,
    pub catch_up: CatchUp,
    pub jitter: Duration,
    /// What its owner says.
    pub enabled: bool,
    /// Disabled by an administrator, though the configuration enables it.
    pub paused: bool,
}

impl Schedule {
    pub fn ticks(&self) -> bool {
        self.enabled && !self.paused
    }
}

/// When it ticks, as it was written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Rhythm {
    Cron { expression: String, time_zone: String },
    Every { seconds: u32 },
}

impl Rhythm {
    pub fn timing(&self) -> Result<Timing, TimingFault> {
        match self {
            Self::Cron {
                expression,
                time_zone,
            } => Timing::cron(expression, timing::zone(time_zone)?),
            Self::Every { seconds } => Ok(Timing::every(*seconds)),
        }
    }

    /// In English, such as `Every 15 minutes.`; a cron expression without its time zone.
    ///
    /// # Errors
    /// It is no expression.
    pub fn in_words(&self) -> Result<String, TimingFault> {
        match self {
            Self::Cron { expression, .. } => timing::in_words(expression),
            Self::Every { seconds } => {
                let units = [(86_400, "day"), (3_600, "hour"), (60, "minute"), (1, "second")];
                let (unit, name) = units
                    .into_iter()
                    .find(|(unit, _)| seconds % unit == 0)
                    .unwrap_or((1, "second"));
                Ok(match seconds / unit {
                    1 => format!("Every {name}."),
                    count => format!("Every {count} {name}s."),
                })
            }
        }
    }
}

/// What becomes of ticks that no beat was there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CatchUp {
    /// They are dropped.
    Skip,
    /// The newest one is run.
    Latest,
    /// The newest `max` are run, oldest first.
    All { max: u32 },
}

impl CatchUp {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Skip => "skip",
            Self::Latest => "latest",
            Self::All { .. } => "all",
        }
    }

    /// As stored; for `all`, the most.
    pub const fn max(self) -> u32 {
        match self {
            Self::Skip | Self::Latest => 1,
            Self::All { max } => max,
        }
    }

    pub(super) fn stored(name: &str, max: u32) -> Option<Self> {
        match name {
            "skip" => Some(Self::Skip),
            "latest" => Some(Self::Latest),
            "all" => Some(Self::All { max }),
            _ => None,
        }
    }
}

/// Who owns a schedule.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// Whoever may use the API.
    Api,
    /// `holdfast.toml`: every beat restores it at its start. Over the API it can be paused, and not changed.
    Config,
}

impl Source {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Api => "api",
            Self::Config => "config",
        }
    }

    pub(super) fn stored(name: &str) -> Option<Self> {
        match name {
            "api" => Some(Self::Api),
            "config" => Some(Self::Config),
            _ => None,
        }
    }
}

/// A schedule as it is kept.
#[derive(Debug, Clone)]
pub struct ScheduleRecord {
    pub schedule: Schedule,
    pub source: Source,
    /// One higher with each edit.
    pub revision: i64,
    /// `None`: disabled, or there is none any more.
    pub next_tick: Option<DateTime<Utc>>,
    /// The newest tick that became a job.
    pub last_tick: Option<DateTime<Utc>>,
    /// When the last job was made: by a tick or by hand.
    pub last_run_at: Option<DateTime<Utc>>,
    pub last_job: Option<JobId>,
    /// Why the last tick could not become a job, if it could not.
    pub last_error: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    /// The server's now, when this was read.
    pub read_at: DateTime<Utc>,
}

impl ScheduleRecord {
    /// The first ticks from now on; none of a disabled schedule.
    pub fn next_ticks(&self, count: usize) -> Vec<DateTime<Utc>> {
        match self.schedule.rhythm.timing() {
            Ok(timing) if self.schedule.ticks() => timing.next_ticks(self.read_at, count),
            _ => Vec::new(),
        }
    }
}

/// A beat that is, or was, alive.
#[derive(Debug, Clone)]
pub struct BeatRecord {
    pub name: String,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub seen_seconds_ago: f64,
}
