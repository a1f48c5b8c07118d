//! What the queues were given and did in the last minutes, and how deep they were last: what decides how many workers they need.
//!
//! Two statements over rows of statistics, bounded by the minutes of the window. No job is looked at.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::{moment, on_either};

use super::read::{CountsRow, Gauge, count, counts_of};
use super::{Counts, Statistics, columns};
use crate::LedgerTx;
use crate::ledger::LedgerError;
use crate::sql::now_ms;

/// Whole minutes before the current one that rates are taken over.
const WINDOW_MINUTES: i64 = 5;

/// Depths that are older are no figures at all.
const OLDEST_DEPTHS_MINUTES: i64 = 60;

/// One queue.
#[derive(Debug, Clone, Default)]
pub struct QueueLoad {
    /// Of the window.
    pub counts: Counts,
    /// `None`: its depth is not stored.
    pub gauge: Option<Gauge>,
}

/// The load of all queues.
#[derive(Debug, Clone)]
pub struct LoadReport {
    /// By the database's clock.
    pub now: DateTime<Utc>,
    /// The minute of the depths; `None`: there are none of the last hour.
    pub depths_at: Option<DateTime<Utc>>,
    /// From the start of the window until now.
    pub window: Duration,
    pub queues: BTreeMap<String, QueueLoad>,
}

impl Statistics {
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn load(&self) -> Result<LoadReport, LedgerError> {
        let sql = &self.0.sql;
        let read = sql.within("read the load of the queues", async {
            let mut tx = sql.begin_read().await?;
            let now = now_ms(tx.on(), sql.named()).await?;
            let minute = now.div_euclid(60_000);
            let from = minute - WINDOW_MINUTES;
            let counts = counts(tx.on(), sql.named(), from).await?;
            let depths = depths(tx.on(), sql.named(), minute - OLDEST_DEPTHS_MINUTES).await?;
            tx.commit().await?;
            Ok(LoadReport::new(now, from, counts, depths))
        });
        read.await
    }
}

impl LoadReport {
    fn new(now: i64, from: i64, counts: Vec<CountsRow>, depths: Vec<DepthRow>) -> Self {
        let mut queues: BTreeMap<String, QueueLoad> = BTreeMap::new();
        for (_, queue, counts) in counts.into_iter().map(counts_of) {
            queues.entry(queue).or_default().counts = counts;
        }
        let depths_at = depths.first().map(|(slot, ..)| moment(slot * 60_000));
        for (_, queue, available, running, oldest_age_ms) in depths {
            queues.entry(queue).or_default().gauge = Some(Gauge {
                available: count(available),
                running: count(running),
                oldest_age: Duration::from_millis(count(oldest_age_ms)),
            });
        }
        Self {
            now: moment(now),
            depths_at,
            window: Duration::from_millis(count(now - from * 60_000)),
            queues,
        }
    }
}

async fn counts(on: LedgerTx<'_>, named: bool, from: i64) -> Result<Vec<CountsRow>, sqlx::Error> {
    let text = format!(
        "select min(slot), queue, {} from holdfast_stats where span = 1 and slot >= $1
         group by queue order by queue limit 1000",
        columns::sums()
    );
    on_either!(on, named, query_as::<CountsRow>(&text), [from], fetch_all)
}

type DepthRow = (i64, String, i64, i64, i64);

/// Those of the newest minute that has any.
async fn depths(on: LedgerTx<'_>, named: bool, from: i64) -> Result<Vec<DepthRow>, sqlx::Error> {
    const TEXT: &str = "select slot, queue, available, running, oldest_age_ms from holdfast_stat_gauges
        where span = 1 and slot = (select max(slot) from holdfast_stat_gauges where span = 1 and slot >= $1)
        order by queue";
    on_either!(on, named, query_as::<DepthRow>(TEXT), [from], fetch_all)
}
