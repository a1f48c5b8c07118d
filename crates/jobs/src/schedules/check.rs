//! From a definition to a schedule: every check, whether it came over HTTP, from the command line or from
//! `holdfast.toml`. All faults are told at once, each with its field.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde_json::value::RawValue;

use super::model::{CatchUp, Definition, Rhythm, Schedule};
use super::timing::{self, MAX_INTERVAL_SECONDS, Timing};
use crate::client::Jobs;
use crate::enqueue::{EnqueueError, Fault, FaultCode, JobRequest};

/// Longest name: it becomes part of a key and of paths.
pub const MAX_NAME: usize = 63;

/// `POST /v1/schedules/preview` has this address.
const RESERVED_NAME: &str = "preview";

/// Most missed ticks that one schedule may ask to be run.
pub const MAX_CATCH_UP: u32 = 1_000;

/// `catch_up = "all"` without a number.
pub const DEFAULT_CATCH_UP_MAX: u32 = 100;

/// Ticks that a jitter is held against.
const JITTER_SAMPLE: usize = 50;

/// Whether it can be a schedule's name.
pub fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_lowercase() || c.is_ascii_digit())
        && name
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '_' | '-' | '.'))
}

/// The schedule that a definition means, or everything that is wrong with it.
pub(super) fn check(definition: Definition, jobs: &Jobs, now: DateTime<Utc>) -> Result<Schedule, Vec<Fault>> {
    let mut faults = Vec::new();
    if definition.name == RESERVED_NAME {
        let reason = "is the address of a preview: choose another name";
        faults.push(Fault::field("name", reason));
    }
    if !is_name(&definition.name) {
        let rule =
            format!("must be 1 to {MAX_NAME} of a-z, 0-9, _ - and ., and begin with a letter or a digit");
        faults.push(Fault::field("name", rule));
    }
    let (cron, zone) = (definition.cron.as_deref(), definition.time_zone.as_deref());
    let rhythm = collect(rhythm(cron, definition.every, zone), &mut faults);
    let catch_up = collect(catch_up(&definition), &mut faults);
    let timing = rhythm.as_ref().and_then(|rhythm: &Rhythm| rhythm.timing().ok());
    let jitter = collect(jitter(&definition, timing.as_ref(), now), &mut faults);
    let payload = collect(job(&definition, jobs), &mut faults);
    match (rhythm, catch_up, jitter, payload) {
        (Some(rhythm), Some(catch_up), Some(jitter), Some(payload)) if faults.is_empty() => Ok(Schedule {
            name: definition.name,
            rhythm,
            kind: definition.kind,
            payload,
            queue: definition.queue,
            catch_up,
            jitter,
            enabled: definition.enabled,
            paused: false,
        }),
        _ => Err(faults),
    }
}

fn collect<T>(checked: Result<T, Fault>, faults: &mut Vec<Fault>) -> Option<T> {
    checked.map_err(|fault| faults.push(fault)).ok()
}

/// When a schedule ticks, checked.
///
/// # Errors
/// The field that is wrong: `cron`, `every_seconds` or `time_zone`.
pub fn rhythm(cron: Option<&str>, every: Option<Duration>, time_zone: Option<&str>) -> Result<Rhythm, Fault> {
    match (cron, every) {
        (Some(_), Some(_)) => Err(Fault::field(
            "cron",
            "give either cron or every_seconds, not both",
        )),
        (None, None) => Err(Fault::field(
            "cron",
            "give cron, such as \"0 3 * * *\", or every_seconds",
        )),
        (Some(expression), None) => {
            let name = time_zone.unwrap_or("UTC");
            let zone = timing::zone(name).map_err(|fault| Fault::field("time_zone", fault.to_string()))?;
            Timing::cron(expression, zone).map_err(|fault| Fault::field("cron", fault.to_string()))?;
            Ok(Rhythm::Cron {
                expression: expression.trim().to_owned(),
                time_zone: name.to_owned(),
            })
        }
        (None, Some(every)) => {
            if time_zone.is_some() {
                let reason = "an interval is the same everywhere; leave it out, or give cron";
                return Err(Fault::field("time_zone", reason));
            }
            let seconds = u32::try_from(every.as_secs()).unwrap_or(u32::MAX);
            if every.subsec_nanos() == 0 && (1..=MAX_INTERVAL_SECONDS).contains(&seconds) {
                return Ok(Rhythm::Every { seconds });
            }
            let rule = format!(
                "{} is not a whole number of seconds from 1 to {MAX_INTERVAL_SECONDS}",
                every.as_secs_f64()
            );
            Err(Fault::field("every_seconds", rule))
        }
    }
}

fn catch_up(definition: &Definition) -> Result<CatchUp, Fault> {
    let max = match definition.catch_up_max {
        Some(max) if !(1..=MAX_CATCH_UP).contains(&max) => {
            let reason = format!("{max} is not between 1 and {MAX_CATCH_UP}");
            return Err(Fault::field("catch_up_max", reason));
        }
        max => max,
    };
    match (definition.catch_up.as_deref().unwrap_or("latest"), max) {
        ("all", max) => Ok(CatchUp::All {
            max: max.unwrap_or(DEFAULT_CATCH_UP_MAX),
        }),
        ("skip" | "latest", Some(_)) => Err(Fault::field(
            "catch_up_max",
            "belongs to catch_up \"all\"; leave it out",
        )),
        ("skip", None) => Ok(CatchUp::Skip),
        ("latest", None) => Ok(CatchUp::Latest),
        (other, _) => {
            let other: String = other.chars().take(80).collect();
            let reason = format!("{other:?} is not \"skip\", \"latest\" or \"all\"");
            Err(Fault::field("catch_up", reason))
        }
    }
}

/// A tick's job must not run after the next tick's.
fn jitter(definition: &Definition, timing: Option<&Timing>, now: DateTime<Utc>) -> Result<Duration, Fault> {
    let jitter = definition.jitter.unwrap_or_default();
    let Some(timing) = timing.filter(|_| !jitter.is_zero()) else {
        return Ok(jitter);
    };
    let ticks = timing.next_ticks(now, JITTER_SAMPLE);
    let gaps = ticks
        .windows(2)
        .filter_map(|pair| (pair[1] - pair[0]).to_std().ok());
    let shortest = gaps
        .min()
        .unwrap_or(Duration::from_secs(u64::from(MAX_INTERVAL_SECONDS)));
    if jitter < shortest {
        return Ok(jitter);
    }
    let reason = format!(
        "{} is not less than the {} s from one tick to the next",
        jitter.as_secs_f64(),
        shortest.as_secs_f64()
    );
    Err(Fault::field("jitter_seconds", reason))
}

/// The payload as it is stored; or what a producer of this job would be told.
fn job(definition: &Definition, jobs: &Jobs) -> Result<Arc<RawValue>, Fault> {
    let request = JobRequest {
        queue: definition.queue.clone(),
        ..JobRequest::new(definition.kind.clone(), definition.payload.clone())
    };
    match jobs.producer().check_text(request) {
        Err(EnqueueError::Invalid(fault)) => Err(fault),
        Err(other) => Err(Fault::new(FaultCode::InvalidField, "kind", other.to_string())),
        Ok(job) => Ok(job.payload),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_short_and_plain() {
        for name in ["a", "nightly", "0", "a.b-c_d", &"n".repeat(63)] {
            assert!(is_name(name), "{name}");
        }
        for name in [
            "",
            "Nightly",
            "-a",
            ".a",
            "a b",
            "a/b",
            "ä",
            "a:b",
            &"n".repeat(64),
        ] {
            assert!(!is_name(name), "{name}");
        }
    }
}
