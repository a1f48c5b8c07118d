//! The limit keys of a queue: which of them wait or run, and what holds for one key for a time.
//!
//! # Overrides
//! An override pauses one key, or gives it another number of jobs that may run concurrently than the queue gives each key. It ends at
//! a time by the clock of the database, which claims look at; the row is deleted later. While one is in force, all claims of its queue
//! are limited claims, also if the queue has no limits: they read the overrides after they have the queue's lock.

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::Bounds;
use holdfast_core::sql::dialect::{moment, on_either, rows};
use serde::Serialize;

use super::{LimitStore, postgres};
use crate::LedgerTx;
use crate::ledger::LedgerError;
use crate::sql::millis;

/// Waiting and running jobs of one key are counted up to this.
pub const KEY_COUNT_CAP: usize = 1_000;

/// Most overrides of one queue that are in force.
pub const MAX_KEY_OVERRIDES: usize = 1_000;

/// Longest time for which an override holds.
pub const MAX_OVERRIDE_TIME: Duration = Duration::from_hours(30 * 24);

/// Longest time for a page of keys.
const LISTING: Duration = Duration::from_secs(2);

/// What holds for one key in place of the queue's limit for each key.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyRule {
    /// None of its jobs starts.
    Paused,
    /// So many of its jobs run concurrently, whatever the queue gives each key.
    MaxRunning(u32),
}

/// What holds for one key, and until when.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct KeyOverride {
    pub rule: KeyRule,
    pub expires_at: DateTime<Utc>,
}

impl KeyOverride {
    /// As a row has it; `None`: there is none.
    fn of((paused, max_running, expires_at): OverrideRow) -> Option<Self> {
        let rule = match max_running {
            _ if paused? => KeyRule::Paused,
            most => KeyRule::MaxRunning(u32::try_from(most?).ok()?),
        };
        Some(Self {
            rule,
            expires_at: moment(expires_at?),
        })
    }
}

/// A key, and how many jobs of it there are, up to [`KEY_COUNT_CAP`] and one more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueKey {
    pub key: String,
    /// Due or not.
    pub waiting: u64,
    pub running: u64,
    pub overridden: Option<KeyOverride>,
}

/// `paused`, `max_running`, and `expires_at` in milliseconds since the epoch.
type OverrideRow = (Option<bool>, Option<i64>, Option<i64>);

/// The first key after another one, through the indexes of waiting and of running jobs, whatever lies between them.
macro_rules! next_key {
    ($after:literal) => {
        concat!(
            "(select min(next.key) from (
                select * from (select limit_key as key from holdfast_jobs
                               where state = 'available' and queue = $1 and limit_key is not null and limit_key > ",
            $after,
            " order by limit_key limit 1) as waiting
                union all
                select * from (select limit_key as key from holdfast_jobs
                               where state = 'running' and queue = $1 and limit_key is not null and limit_key > ",
            $after,
            " order by limit_key limit 1) as running
                union all
                select * from (select o.key from holdfast_key_overrides as o
                               where o.queue = $1 and o.expires_at > @now and o.key > ",
            $after,
            " order by o.key limit 1) as overridden) as next)"
        )
    };
}

/// `$1` queue, `$2` the key before, `$3` keys at most, `$4` the count at most.
const KEYS: &str = concat!(
    "with recursive walk (key, n) as (
         select ",
    next_key!("$2"),
    ", 1
         union all
         select ",
    next_key!("walk.key"),
    ", n + 1 from walk where walk.key is not null and n < $3)
     select w.key,
            (select count(*) from (select 1 from holdfast_jobs
                                   where state = 'available' and queue = $1 and limit_key is not null and limit_key = w.key
                                   limit $4) as counted),
            (select count(*) from (select 1 from holdfast_jobs
                                   where state = 'running' and queue = $1 and limit_key is not null and limit_key = w.key
                                   limit $4) as counted),
            o.paused, cast(o.max_running as bigint), cast(@ms(o.expires_at) as bigint)
     from walk as w
     left join holdfast_key_overrides as o on o.queue = $1 and o.key = w.key and o.expires_at > @now
     where w.key is not null order by w.n"
);

const OVERRIDE: &str = "select paused, cast(max_running as bigint), cast(@ms(expires_at) as bigint)
    from holdfast_key_overrides where queue = $1 and key = $2 and expires_at > @now";

/// A limited claim keeps its place in this row.
const QUEUE_ROW: &str =
    "insert into holdfast_queues (name, updated_at) values ($1, @now) on conflict (name) do nothing";

const OTHERS: &str =
    "select count(*) from holdfast_key_overrides where queue = $1 and key <> $2 and expires_at > @now";

const PUT: &str = "insert into holdfast_key_overrides (queue, key, paused, max_running, expires_at)
    values ($1, $2, $3, $4, @ahead($5))
    on conflict (queue, key) do update
    set paused = excluded.paused, max_running = excluded.max_running, expires_at = excluded.expires_at
    returning paused, cast(max_running as bigint), cast(@ms(expires_at) as bigint)";

const END: &str = "delete from holdfast_key_overrides where queue = $1 and key = $2 and expires_at > @now";

const PRUNE: &str = "delete from holdfast_key_overrides where (queue, key) in (
    select queue, key from holdfast_key_overrides where expires_at <= @now order by expires_at limit $1 @skip_locked)";

impl LimitStore {
    /// Keys of a queue that wait, run or have an override, in their order, from the first one after `after` on.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn keys(&self, queue: &str, after: &str, most: usize) -> Result<Vec<QueueKey>, LedgerError> {
        type KeyRow = (String, i64, i64, Option<bool>, Option<i64>, Option<i64>);
        let (named, most, cap) = (self.sql.named(), rows(most), rows(KEY_COUNT_CAP + 1));
        let bounds = Bounds::SETTINGS.statement(LISTING);
        let listing = self.sql.within_bounds("list the keys of a queue", bounds, async {
            let mut tx = self.sql.begin_read().await?;
            if let LedgerTx::Postgres(on) = tx.on() {
                postgres::walk_indexes(on).await?;
            }
            let found = on_either!(
                tx.on(),
                named,
                query_as::<KeyRow>(KEYS),
                [queue, after, most, cap],
                fetch_all
            )?;
            tx.commit().await?;
            Ok(found)
        });
        let keys = listing.await?.into_iter();
        let keys = keys.map(
            |(key, waiting, running, paused, max_running, expires_at)| QueueKey {
                key,
                waiting: waiting.unsigned_abs(),
                running: running.unsigned_abs(),
                overridden: KeyOverride::of((paused, max_running, expires_at)),
            },
        );
        Ok(keys.collect())
    }
}

/// What holds for a key now.
pub(crate) async fn override_in(
    on: LedgerTx<'_>,
    named: bool,
    queue: &str,
    key: &str,
) -> Result<Option<KeyOverride>, sqlx::Error> {
    let row = on_either!(
        on,
        named,
        query_as::<OverrideRow>(OVERRIDE),
        [queue, key],
        fetch_optional
    )?;
    Ok(row.and_then(KeyOverride::of))
}

/// Sets what holds for a key from the commit on. `None`: the queue has [`MAX_KEY_OVERRIDES`] others.
pub(crate) async fn put_override_in(
    mut on: LedgerTx<'_>,
    named: bool,
    (queue, key): (&str, &str),
    rule: KeyRule,
    time: Duration,
) -> Result<Option<KeyOverride>, sqlx::Error> {
    let others = on_either!(
        on.reborrow(),
        named,
        query_as::<(i64,)>(OTHERS),
        [queue, key],
        fetch_optional
    )?;
    if others.is_some_and(|(others,)| others >= rows(MAX_KEY_OVERRIDES)) {
        return Ok(None);
    }
    on_either!(on.reborrow(), named, query(QUEUE_ROW), [queue], execute)?;
    let (paused, most) = match rule {
        KeyRule::Paused => (true, None),
        KeyRule::MaxRunning(most) => (false, i32::try_from(most).ok()),
    };
    let row = on_either!(
        on,
        named,
        query_as::<OverrideRow>(PUT),
        [queue, key, paused, most, millis(time)],
        fetch_optional
    )?;
    Ok(row.and_then(KeyOverride::of))
}

/// Whether there was one.
pub(crate) async fn end_override_in(
    on: LedgerTx<'_>,
    named: bool,
    queue: &str,
    key: &str,
) -> Result<bool, sqlx::Error> {
    let ended: u64 = on_either!(on, named, query(END), [queue, key], execute)?;
    Ok(ended > 0)
}

/// Forgets up to `most` overrides that have expired.
pub(super) async fn prune_in(on: LedgerTx<'_>, named: bool, most: usize) -> Result<u64, sqlx::Error> {
    on_either!(on, named, query(PRUNE), [rows(most)], execute)
}
