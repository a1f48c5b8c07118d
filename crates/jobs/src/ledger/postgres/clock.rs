//! The server's clock, and what was written before it was set back.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::sql::Bounds;

use super::PostgresLedger;
use super::rows::millis;
use crate::ledger::{CLOCK_AHEAD, LedgerError, ServerClock, TimeSpan, count_by_queue};
use crate::sql::limit as limit_of;

/// What one search for jobs that are to be due may take on the server.
const MAKE_DUE_BOUND: Duration = Duration::from_secs(1);

/// A job whose time is no later than its creation has no delay. By the claim's index, in its order.
const MAKE_DUE: &str = "
with late as materialized (
    select job.id
    from unnest($1::text[]) as q(queue)
    cross join (values (0::smallint), (1::smallint), (2::smallint)) as level(priority)
    cross join lateral (
        select id from holdfast_jobs
        where state = 'available' and queue = q.queue and priority = level.priority
          and run_at > greatest($2, now()) and run_at <= $3 and run_at <= created_at
        order by run_at, id
        limit $4
        for update skip locked) as job
    limit $4)
update holdfast_jobs set run_at = now() where id = any (array (select id from late))
returning queue";

impl PostgresLedger {
    /// See [`crate::ledger::Ledger::check_clock`].
    pub(super) async fn check_the_clock(&self) -> Result<ServerClock, LedgerError> {
        self.within("read the clock", async |on| {
            let (now, latest): (DateTime<Utc>, DateTime<Utc>) = self
                .query_as("select now(), greatest(now(), (select max(seen_at) from holdfast_workers))")
                .fetch_one(&mut *on)
                .await?;
            let clock = ServerClock { now, latest };
            if clock.is_set_back() {
                self.query(
                    "update holdfast_workers set seen_at = now()
                     where id = any (array (select id from holdfast_workers
                                            where seen_at > now() + $1 * interval '1 millisecond'
                                            for no key update skip locked))",
                )
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
        let bounds = Bounds::SETTINGS.statement(MAKE_DUE_BOUND);
        let moved: Vec<String> = self
            .within_bounds("make jobs due", bounds, async |on| {
                self.query_scalar(MAKE_DUE)
                    .bind(queues)
                    .bind(span.after)
                    .bind(span.until)
                    .bind(limit_of(limit))
                    .fetch_all(on)
                    .await
            })
            .await?;
        Ok(count_by_queue(moved))
    }
}
