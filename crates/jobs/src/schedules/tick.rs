//! One due schedule's step: which ticks become jobs, and which tick it waits for then. No I/O.

use std::time::Duration;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use serde_json::value::RawValue;

use super::model::{CatchUp, Schedule, ScheduleRecord};
use super::store::Step;
use crate::client::Jobs;
use crate::enqueue::JobRequest;
use crate::ledger::{NewJob, RunAt};
use crate::observer::MissedTick;

/// The step that a schedule is due for, at the server's time at which it was read; `None` if it is not due.
///
/// # Errors
/// Why a job cannot be made, for people.
pub(super) fn step(
    record: &ScheduleRecord,
    jobs: &Jobs,
    missed_after: Duration,
) -> Result<Option<Step>, String> {
    let now = record.read_at;
    let Some(from) = record.next_tick.filter(|tick| *tick <= now) else {
        return Ok(None);
    };
    let timing = record
        .schedule
        .rhythm
        .timing()
        .map_err(|fault| fault.to_string())?;
    let most = usize::try_from(record.schedule.catch_up.max()).unwrap_or(1);
    let mut ticks = timing.due(from, now, most);
    if record.schedule.catch_up == CatchUp::Skip {
        let missed_after = TimeDelta::from_std(missed_after).unwrap_or(TimeDelta::MAX);
        ticks.retain(|tick| now - *tick <= missed_after);
    }
    let observed = missed(record, missed_after)
        .map(|tick| jobs.observers().on_missed(&tick))
        .unwrap_or_default();
    let made = ticks.iter().map(|tick| job(&record.schedule, *tick, jobs));
    Ok(Some(Step {
        name: record.schedule.name.clone(),
        revision: record.revision,
        from,
        to: timing.next_after(now),
        jobs: made.collect::<Result<_, _>>()?,
        observed,
        ticked: ticks.last().copied(),
    }))
}

/// The tick that the schedule waits for, if it is late by more than `missed_after`.
pub(super) fn missed(record: &ScheduleRecord, missed_after: Duration) -> Option<MissedTick> {
    let slot = record.next_tick?;
    let late = (record.read_at - slot).to_std().unwrap_or_default();
    (late > missed_after).then(|| MissedTick {
        schedule: record.schedule.name.clone(),
        kind: record.schedule.kind.clone(),
        queue: record.schedule.queue.clone(),
        slot,
    })
}

/// The idempotency key of a tick's job.
pub(super) fn key(schedule: &str, tick: DateTime<Utc>) -> String {
    let tick = tick.to_rfc3339_opts(SecondsFormat::Secs, true);
    format!("schedule:{schedule}:{tick}")
}

/// The job of one tick. Its key makes it the only one.
fn job(schedule: &Schedule, tick: DateTime<Utc>, jobs: &Jobs) -> Result<NewJob, String> {
    let request = JobRequest {
        queue: schedule.queue.clone(),
        idempotency_key: Some(key(&schedule.name, tick)),
        enqueued_by: Some(format!("schedule/{}", schedule.name).into()),
        ..JobRequest::new(schedule.kind.clone(), payload(schedule, jobs)?)
    };
    let job = jobs
        .producer()
        .check_text(request)
        .map_err(|error| jobs.cleaned(&schedule.kind, &schedule.payload, error.to_string()))?;
    // Ticks that are caught up with run in their order.
    let run_at = RunAt::Tick(tick + jitter(&schedule.name, tick, schedule.jitter));
    Ok(NewJob { run_at, ..job })
}

/// As the schedule's owner gave it.
pub(super) fn payload(schedule: &Schedule, jobs: &Jobs) -> Result<Box<RawValue>, String> {
    let opened = jobs.opened(&schedule.kind, &schedule.payload);
    let opened = opened.map_err(|unopened| unopened.to_string())?;
    Ok(opened.unwrap_or_else(|| (*schedule.payload).to_owned()))
}

/// A share of `most` that name and tick alone decide.
fn jitter(name: &str, tick: DateTime<Utc>, most: Duration) -> Duration {
    let bytes = name.bytes().chain(tick.timestamp().to_be_bytes());
    // FNV-1a, and the finaliser of splitmix64: neighbouring ticks must not get neighbouring shares.
    let mut hash = bytes.fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^= hash >> 31;
    let share = (hash >> 11) as f64 / (1_u64 << 53) as f64;
    most.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_jitter_is_the_same_for_everybody_and_fills_its_range() {
        let most = Duration::from_secs(60);
        let tick = |second: i64| DateTime::from_timestamp(1_800_000_000 + second, 0).unwrap();
        let shares: Vec<Duration> = (0..1_000)
            .map(|second| jitter("nightly", tick(second), most))
            .collect();
        assert_eq!(shares[7], jitter("nightly", tick(7), most));
        assert_ne!(shares[7], jitter("weekly", tick(7), most));
        assert!(shares.iter().all(|share| *share < most));
        let late = shares.iter().filter(|share| **share > most / 2).count();
        assert!((400..600).contains(&late), "{late} of 1000 are in the later half");
        assert_eq!(jitter("nightly", tick(7), Duration::ZERO), Duration::ZERO);
    }
}
