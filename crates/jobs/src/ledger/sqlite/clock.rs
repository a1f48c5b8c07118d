//! The clock, and what was written before it was set back.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use serde_json::json;

use super::SqliteLedger;
use super::rows::{decode_error, limit_of, millis};
use crate::ledger::{CLOCK_AHEAD, LedgerError, ServerClock, TimeSpan, count_by_queue};

/// A job whose time is no later than its creation has no delay.
const MAKE_DUE: &str = concat!(
    "update holdfast_jobs set run_at = ",
    now!(),
    " where id in (select id from holdfast_jobs
                   where state = 'available' and queue in (select value from json_each(?1)) and priority in (0, 1, 2)
                     and run_at > max(?2, ",
    now!(),
    ") and run_at <= ?3 and run_at <= created_at
                   limit ?4)
      returning queue"
);

impl SqliteLedger {
    /// See [`crate::ledger::Ledger::check_clock`].
    pub(super) async fn check_the_clock(&self) -> Result<ServerClock, LedgerError> {
        self.write("read the clock", async |on| {
            let (now, latest): (i64, Option<i64>) = sqlx::query_as(concat!(
                "select ",
                now!(),
                ", (select max(seen_at) from holdfast_workers)"
            ))
            .fetch_one(&self.database.reader)
            .await?;
            let clock = ServerClock {
                now: time(now)?,
                latest: time(latest.unwrap_or(now).max(now))?,
            };
            if clock.is_set_back() {
                sqlx::query(concat!(
                    "update holdfast_workers set seen_at = ",
                    now!(),
                    " where seen_at > ",
                    now!(),
                    " + ?1"
                ))
                .bind(millis(CLOCK_AHEAD))
                .execute(&mut *on)
                .await?;
            }
            Ok(clock)
        })
        .await
    }

    /// See [`crate::ledger::Ledger::make_due`].
    pub(super) async fn make_jobs_due(
        &self,
        queues: &[String],
        span: TimeSpan,
        limit: usize,
    ) -> Result<BTreeMap<String, u64>, LedgerError> {
        let moved: Vec<String> = self
            .write("make jobs due", async |on| {
                sqlx::query_scalar(MAKE_DUE)
                    .bind(json!(queues).to_string())
                    .bind(span.after.timestamp_millis())
                    .bind(span.until.timestamp_millis())
                    .bind(limit_of(limit))
                    .fetch_all(&mut *on)
                    .await
            })
            .await?;
        Ok(count_by_queue(moved))
    }
}

fn time(millis: i64) -> Result<DateTime<Utc>, sqlx::Error> {
    DateTime::from_timestamp_millis(millis).ok_or_else(|| decode_error("the clock is out of range"))
}
