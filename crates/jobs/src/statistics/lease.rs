//! A duty that one process of all has: it leads as long as it claims each period.

use std::time::Duration;

use super::store;
use crate::client::Jobs;
use crate::ledger::LedgerError;

/// Periods that the leader must leave out before another process leads.
const LEFT_OUT: i64 = 2;

/// The part of one process in a duty. Periods are those of the database's clock.
///
/// At most one process has a period. The one that had the last one may have the next; others only once [`LEFT_OUT`] periods were left out.
#[derive(Debug)]
pub struct DutyLease {
    duty: &'static str,
    period: Duration,
    /// The last period that it had; `None`: it does not lead.
    last: Option<i64>,
}

impl DutyLease {
    pub fn new(duty: &'static str, period: Duration) -> Self {
        Self {
            duty,
            period,
            last: None,
        }
    }

    /// Whether this process leads, as far as it knows.
    pub fn is_held(&self) -> bool {
        self.last.is_some()
    }

    /// Whether this process is to do its duty now: once in a period, if it leads.
    ///
    /// # Errors
    /// The database is slow or unavailable.
    pub async fn claim(&mut self, jobs: &Jobs) -> Result<bool, LedgerError> {
        let sql = &jobs.statistics().0.sql;
        let period = i64::try_from(self.period.as_millis()).unwrap_or(i64::MAX).max(1);
        let slot = store::now(sql).await?.div_euclid(period);
        if self.last == Some(slot) {
            return Ok(false);
        }
        let left_out = if self.is_held() { 0 } else { LEFT_OUT };
        let claimed = store::claim(sql, self.duty, slot, left_out).await?;
        self.last = claimed.then_some(slot);
        Ok(claimed)
    }
}
