//! What one process of all does once a minute: the depths of the queues, the sums of hours and days, and what is past its retention.
//!
//! The first process that claims a minute does it. If that process dies meanwhile, the minute has no depths, and the duty of the next
//! minute adds up.

use super::store::{self, Span};
use crate::client::Jobs;
use crate::ledger::{LedgerError, QueueStats};
use crate::sql::Sql;

const DUTY: &str = "minute";

/// Queues whose depths are written: the deepest.
const MAX_QUEUES: usize = 200;

/// Hours that one step adds up, the oldest first. After a longer pause the next steps go on.
const MAX_HOURS: i64 = 48;

pub(super) async fn step(jobs: &Jobs, sql: &Sql, minute: i64) -> Result<(), LedgerError> {
    if !store::claim(sql, DUTY, minute, 0).await? {
        return Ok(());
    }
    let mut queues = jobs.queue_stats().await?;
    queues.sort_by_key(|queue| std::cmp::Reverse(depth(queue)));
    queues.truncate(MAX_QUEUES);
    store::write_gauges(sql, minute, &queues).await?;
    add_up(sql, minute).await?;
    store::prune(sql, minute).await?;
    Ok(())
}

fn depth(queue: &QueueStats) -> u64 {
    queue.available + queue.scheduled + queue.retryable + queue.running + queue.discarded
}

/// The hour that goes on and the one before: a process may write a minute late. An hour that was not added up, because no process ran
/// then, is added up before.
async fn add_up(sql: &Sql, minute: i64) -> Result<(), LedgerError> {
    let Some(first) = store::first_to_add_up(sql).await? else {
        return Ok(());
    };
    let (hour, day) = (Span::Hour.minutes(), Span::Day.minutes());
    let current = minute - minute.rem_euclid(hour);
    let first = (first - first.rem_euclid(hour)).min(current) - hour;
    let last = current.min(first + MAX_HOURS * hour);
    add_up_hours(sql, (first..=last).step_by(60)).await?;
    for slot in (first - first.rem_euclid(day)..=last).step_by(1_440) {
        store::add_up(sql, Span::Day, slot, Span::Hour).await?;
    }
    Ok(())
}

async fn add_up_hours(sql: &Sql, slots: impl Iterator<Item = i64>) -> Result<(), LedgerError> {
    for slot in slots {
        store::add_up(sql, Span::Hour, slot, Span::Minute).await?;
    }
    Ok(())
}

/// For minutes that a process wrote so late that no step looks at their hours again.
pub(super) async fn add_up_late(
    sql: &Sql,
    minutes: impl Iterator<Item = i64>,
    current: i64,
) -> Result<(), LedgerError> {
    let (hour, day) = (Span::Hour.minutes(), Span::Day.minutes());
    let recent = current - current.rem_euclid(hour) - hour;
    let mut hours: Vec<i64> = minutes
        .filter(|minute| *minute < recent)
        .map(|minute| minute - minute.rem_euclid(hour))
        .collect();
    hours.sort_unstable();
    hours.dedup();
    add_up_hours(sql, hours.iter().copied()).await?;
    let mut days: Vec<i64> = hours.iter().map(|slot| slot - slot.rem_euclid(day)).collect();
    days.dedup();
    for slot in days {
        store::add_up(sql, Span::Day, slot, Span::Hour).await?;
    }
    Ok(())
}
