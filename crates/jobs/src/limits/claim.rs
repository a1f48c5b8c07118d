//! The rules of the limited claim, as SQLite carries them out: read, count, choose, take, within one transaction that holds the
//! only write lock. On PostgreSQL the same rules are the function `holdfast_claim_limited_2`.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::config::Rate;
use sqlx::SqliteConnection;
use uuid::Uuid;

use super::{
    CANDIDATES, ClaimRequest, KEYS, LimitedClaim, NEXT_WALK, QueueLimits, UNKEYED_WINDOW, WALKS, WIDE_WINDOW,
    decoded, sqlite,
};
use crate::ledger::MAX_STATEMENT_ROWS;

/// The queue's row.
#[derive(Debug)]
pub(super) struct LockedQueue {
    /// Any limit is in force.
    pub limited: bool,
    /// Something holds for one of its keys.
    pub has_overrides: bool,
    pub paused: bool,
    /// Whether the worker was heard of lately.
    pub alive: bool,
    pub configured: Option<String>,
    pub overridden: Option<String>,
    pub cursor: String,
    /// How far the queue's bucket is from being full, in milliseconds.
    pub debt_ms: f64,
}

/// A key that has waiting jobs.
#[derive(Debug)]
pub(super) struct WaitingKey {
    pub key: String,
    pub running: i64,
    pub debt_ms: f64,
    pub paused: bool,
    /// In place of the queue's limit for each key.
    pub max_running: Option<u32>,
}

/// A due job that may be taken.
#[derive(Debug, Clone)]
pub(super) struct Candidate {
    pub id: Uuid,
    pub priority: i16,
    /// In the unit of the database; only compared.
    pub run_at: DateTime<Utc>,
    pub key: Option<String>,
}

/// What one claim has chosen so far.
#[derive(Debug, Default)]
struct Choice {
    taken: Vec<Candidate>,
    again: Option<Duration>,
    cursor: String,
}

impl Choice {
    fn again_in(&mut self, millis: f64) {
        let wait = Duration::from_secs_f64(millis.max(1.0) / 1_000.0);
        self.again = Some(self.again.map_or(wait, |again| again.min(wait)));
    }
}

/// How far an empty bucket is from being full, in milliseconds.
fn whole(rate: Rate) -> f64 {
    f64::from(rate.count) * rate.millis_each()
}

/// No start makes a bucket emptier than empty. It looks so after the clock was set back, or the rate was lowered. (A
/// millisecond of slack: the moments are rounded.)
fn is_emptier_than_empty(rate: Rate, debt_ms: f64) -> bool {
    debt_ms > whole(rate) + 1.0
}

/// Tokens in a bucket that is `debt_ms` from being full, and how long until the next grows if there is none.
fn tokens(rate: Rate, debt_ms: f64) -> (usize, f64) {
    let each = rate.millis_each();
    let whole = whole(rate);
    let debt_ms = debt_ms.min(whole);
    // A hair of slack: the moments are rounded to microseconds or milliseconds.
    let grown = ((whole - debt_ms) / each + 1e-6).floor();
    if grown >= 1.0 {
        (grown as usize, 0.0)
    } else {
        (0, debt_ms - (whole - each))
    }
}

pub(super) async fn claim(
    on: &mut SqliteConnection,
    asked: ClaimRequest<'_>,
) -> Result<LimitedClaim, sqlx::Error> {
    let locked = sqlite::lock(&mut *on, asked).await?;
    let Some(locked) = locked.filter(|queue| queue.limited || queue.has_overrides) else {
        return Ok(LimitedClaim::default());
    };
    let limits = decoded(locked.overridden.as_deref())?
        .or(decoded(locked.configured.as_deref())?)
        .unwrap_or_default();
    let mut claimed = LimitedClaim {
        limited: true,
        ..LimitedClaim::default()
    };
    if locked.paused || !locked.alive {
        return Ok(claimed);
    }
    let mut choice = Choice {
        cursor: locked.cursor.clone(),
        ..Choice::default()
    };
    let wanted = asked.room.min(MAX_STATEMENT_ROWS);
    let room = room_of_queue(&mut *on, asked.queue, &limits, &locked, wanted, &mut choice).await?;
    if room > 0 {
        if limits.by_key() || locked.has_overrides {
            choose_by_key(&mut *on, asked.queue, &limits, room, &mut choice).await?;
        } else {
            choice.taken = first_due(&mut *on, asked.queue, room).await?;
        }
        claimed.jobs = take(&mut *on, asked, &limits, &choice).await?;
        if choice.taken.len() < room
            && let Some(due_ms) = sqlite::next_due(&mut *on, asked.queue).await?
        {
            choice.again_in(due_ms);
        }
        if locked.has_overrides
            && choice.taken.len() < room
            && let Some(millis) = sqlite::next_override_end(&mut *on, asked.queue).await?
        {
            choice.again_in(millis);
        }
    }
    if choice.cursor != locked.cursor {
        sqlite::set_cursor(&mut *on, asked.queue, &choice.cursor).await?;
    }
    claimed.again_in = choice.again;
    Ok(claimed)
}

/// How many jobs the queue as a whole may start now.
async fn room_of_queue(
    on: &mut SqliteConnection,
    queue: &str,
    limits: &QueueLimits,
    locked: &LockedQueue,
    wanted: usize,
    choice: &mut Choice,
) -> Result<usize, sqlx::Error> {
    let mut room = wanted;
    if let Some(most) = limits.max_running {
        let running = sqlite::running(&mut *on, queue).await?;
        room = room.min(free_of(most, running));
    }
    if let (Some(rate), true) = (limits.rate, room > 0) {
        if is_emptier_than_empty(rate, locked.debt_ms) {
            sqlite::empty_bucket(&mut *on, queue, whole(rate)).await?;
        }
        let (grown, wait_ms) = tokens(rate, locked.debt_ms);
        if grown < room {
            // Whether this claim takes the last ones or finds none, the next grows after this.
            choice.again_in(if grown == 0 { wait_ms } else { rate.millis_each() });
        }
        room = room.min(grown);
    }
    Ok(room)
}

fn free_of(most: u32, running: i64) -> usize {
    usize::try_from(i64::from(most) - running).unwrap_or(0)
}

async fn first_due(
    on: &mut SqliteConnection,
    queue: &str,
    room: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let mut due = sqlite::due(&mut *on, queue, room).await?;
    due.sort_by_key(|job| (job.priority, job.run_at, job.id));
    due.truncate(room);
    Ok(due)
}

/// Walks over the keys that wait, from behind the last walk's end, until there is no room or every key was seen.
async fn choose_by_key(
    on: &mut SqliteConnection,
    queue: &str,
    limits: &QueueLimits,
    room: usize,
    choice: &mut Choice,
) -> Result<(), sqlx::Error> {
    let window = if limits.by_key() {
        UNKEYED_WINDOW
    } else {
        WIDE_WINDOW
    };
    let mut pool = unkeyed(&mut *on, queue, room, window).await?;
    let mut seen = HashSet::new();
    let mut came_round = false;
    for _ in 0..WALKS {
        let keys = sqlite::keys(&mut *on, queue, &choice.cursor, KEYS).await?;
        let from_the_start = choice.cursor.is_empty();
        let last = keys
            .last()
            .map(|key| key.key.clone())
            .filter(|_| keys.len() == KEYS);
        choice.cursor = last.unwrap_or_default();
        let fresh: Vec<WaitingKey> = keys
            .into_iter()
            .filter(|key| seen.insert(key.key.clone()))
            .collect();
        came_round = choice.cursor.is_empty() && (from_the_start || fresh.is_empty());
        if let Some(rate) = limits.key_rate {
            let overdrawn: Vec<&str> = fresh
                .iter()
                .filter(|key| is_emptier_than_empty(rate, key.debt_ms))
                .map(|key| key.key.as_str())
                .collect();
            sqlite::empty_buckets_of_keys(&mut *on, queue, &overdrawn, whole(rate)).await?;
        }
        let free = free_keys(limits, fresh, room, choice);
        pool.extend(heads(&mut *on, queue, &free).await?);
        if pool.len() >= room || came_round {
            break;
        }
    }
    choice.taken = fairest(pool, room);
    if choice.taken.len() < room && !came_round {
        choice.again_in(NEXT_WALK.as_secs_f64() * 1_000.0);
    }
    Ok(())
}

/// How many jobs each key may start now; keys that may start none are left out.
fn free_keys(
    limits: &QueueLimits,
    keys: Vec<WaitingKey>,
    room: usize,
    choice: &mut Choice,
) -> BTreeMap<String, usize> {
    let mut free = BTreeMap::new();
    for WaitingKey {
        key,
        running,
        debt_ms,
        paused,
        max_running,
    } in keys
    {
        let mut places = match max_running.or(limits.key_max_running) {
            _ if paused => 0,
            Some(most) => free_of(most, running).min(room),
            None => room,
        };
        if let (Some(rate), true) = (limits.key_rate, places > 0) {
            let (grown, wait_ms) = tokens(rate, debt_ms);
            if grown < places {
                choice.again_in(if grown == 0 { wait_ms } else { rate.millis_each() });
            }
            places = places.min(grown);
        }
        if places > 0 {
            free.insert(key, places);
        }
    }
    free
}

/// The first due jobs of each free key.
async fn heads(
    on: &mut SqliteConnection,
    queue: &str,
    free: &BTreeMap<String, usize>,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let Some(most) = free.values().max().copied() else {
        return Ok(Vec::new());
    };
    let each = most.min((CANDIDATES / free.len()).max(1));
    let keys: Vec<&str> = free.keys().map(String::as_str).collect();
    let mut found = sqlite::heads(&mut *on, queue, &keys, each).await?;
    found.sort_by_key(|job| (job.priority, job.run_at, job.id));
    let mut left = free.clone();
    found.retain(|job| {
        let places = job.key.as_ref().and_then(|key| left.get_mut(key));
        places.is_some_and(|places| {
            let has = *places > 0;
            *places = places.saturating_sub(1);
            has
        })
    });
    Ok(found)
}

async fn unkeyed(
    on: &mut SqliteConnection,
    queue: &str,
    room: usize,
    window: usize,
) -> Result<Vec<Candidate>, sqlx::Error> {
    let mut found = sqlite::unkeyed(&mut *on, queue, window).await?;
    found.sort_by_key(|job| (job.priority, job.run_at, job.id));
    found.truncate(room);
    Ok(found)
}

/// By priority; within one, the first of each key before the second of any. Jobs without a key are each their own.
fn fairest(mut pool: Vec<Candidate>, room: usize) -> Vec<Candidate> {
    pool.sort_by_key(|job| (job.priority, job.run_at, job.id));
    let mut turns: BTreeMap<(i16, String), usize> = BTreeMap::new();
    let mut ranked: Vec<(i16, usize, DateTime<Utc>, Uuid, Candidate)> = pool
        .into_iter()
        .map(|job| {
            let turn = job.key.as_ref().map_or(0, |key| {
                let turn = turns.entry((job.priority, key.clone())).or_default();
                *turn += 1;
                *turn - 1
            });
            (job.priority, turn, job.run_at, job.id, job)
        })
        .collect();
    ranked.sort_by_key(|(priority, turn, run_at, id, _)| (*priority, *turn, *run_at, *id));
    ranked.truncate(room);
    ranked.into_iter().map(|(.., job)| job).collect()
}

/// Leases what was chosen, and spends its tokens. What was cancelled meanwhile is left out.
async fn take(
    on: &mut SqliteConnection,
    asked: ClaimRequest<'_>,
    limits: &QueueLimits,
    choice: &Choice,
) -> Result<Vec<crate::ledger::ClaimedJob>, sqlx::Error> {
    if choice.taken.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<Uuid> = choice.taken.iter().map(|job| job.id).collect();
    let mut jobs = sqlite::take(&mut *on, asked, &ids).await?;
    jobs.sort_by_key(|job| (job.priority, job.run_at, job.id));
    let taken: HashSet<Uuid> = jobs.iter().map(|job| job.id.as_uuid()).collect();
    if let (Some(rate), false) = (limits.rate, taken.is_empty()) {
        let spent = rate.millis_each() * taken.len() as f64;
        sqlite::spend(&mut *on, asked.queue, spent).await?;
    }
    if let Some(rate) = limits.key_rate {
        let mut spent: BTreeMap<&str, f64> = BTreeMap::new();
        for job in choice.taken.iter().filter(|job| taken.contains(&job.id)) {
            if let Some(key) = &job.key {
                *spent.entry(key).or_default() += rate.millis_each();
            }
        }
        sqlite::spend_by_key(&mut *on, asked.queue, &spent).await?;
    }
    Ok(jobs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bucket_grows_evenly_and_never_beyond_its_size() {
        let rate: Rate = "10/1s".parse().unwrap();
        assert_eq!(tokens(rate, 0.0), (10, 0.0));
        assert_eq!(tokens(rate, 100.0), (9, 0.0));
        assert_eq!(tokens(rate, 900.0), (1, 0.0));
        assert_eq!(tokens(rate, 901.0), (0, 1.0));
        assert_eq!(tokens(rate, 1_000.0), (0, 100.0));
        assert_eq!(tokens(rate, 3_600_000.0), (0, 100.0), "a clock that was set back");
    }

    #[test]
    fn the_first_of_each_key_comes_before_the_second_of_any() {
        let job = |number: u128, priority, key: Option<&str>| Candidate {
            id: Uuid::from_u128(number),
            priority,
            run_at: DateTime::from_timestamp_millis(i64::try_from(number).unwrap()).unwrap(),
            key: key.map(ToOwned::to_owned),
        };
        let pool = vec![
            job(1, 1, Some("hot")),
            job(2, 1, Some("hot")),
            job(3, 1, Some("hot")),
            job(4, 1, Some("cold")),
            job(5, 1, None),
            job(6, 1, None),
            job(7, 0, Some("hot")),
        ];
        let order: Vec<u128> = fairest(pool, 6).iter().map(|job| job.id.as_u128()).collect();
        assert_eq!(order, [7, 1, 4, 5, 6, 2]);
    }
}
