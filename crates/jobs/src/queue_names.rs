//! Names of queues in filters. A filter by a queue that does not exist would match nothing and look like an empty queue, so it is refused.

use holdfast_core::sql::dialect::read_either;

use crate::client::Jobs;
use crate::enqueue::Fault;
use crate::ledger::LedgerError;

/// Newest jobs that are looked at for one of an old queue: no index finds those that have ended by their queue.
const NEWEST: i64 = 20_000;

/// How far the sums of the days may be behind the minutes ([`crate::statistics`]), in minutes.
const UNSUMMED: i64 = 120;

/// Whether a queue has a row: a job, a pause, limits, a declaration of another process, or statistics. Each look is short: by an index,
/// or over a bounded number of rows.
const HAS_ROWS: &str = "select 1 where
        exists (select 1 from holdfast_queues where name = $1)
        or exists (select 1 from holdfast_jobs where state = 'available' and queue = $1)
        or exists (select 1 from holdfast_jobs where state = 'running' and queue = $1)
        or exists (select 1 from holdfast_jobs where state = 'discarded' and queue = $1)
        or exists (select 1 from holdfast_stats where span = 1440 and queue = $1)
        or exists (select 1 from holdfast_stats where span = 1 and queue = $1
            and slot >= (select max(slot) from holdfast_stats where span = 1) - $2)
        or exists (select 1 from (select queue from holdfast_jobs order by id desc limit $3) as newest where queue = $1)";

impl Jobs {
    /// The fault of the first name that is not a queue's; `field` is where the names stand in the request. A queue is one that an
    /// enqueue accepts, or one that has rows.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable, so that a name cannot be judged.
    pub async fn unknown_queue<S: AsRef<str>>(
        &self,
        field: &str,
        names: &[S],
    ) -> Result<Option<Fault>, LedgerError> {
        let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
        self.look_up(&[], &names).await?;
        for name in names {
            if self.fleet_of(name).is_none() && !self.queue_has_rows(name).await? {
                return Ok(Some(self.producer().unknown_queue(field, name)));
            }
        }
        Ok(None)
    }

    async fn queue_has_rows(&self, name: &str) -> Result<bool, LedgerError> {
        let sql = self.sql();
        let found = read_either!(
            sql,
            "look for rows of a queue",
            query_as::<(i32,)>(HAS_ROWS),
            [name, UNSUMMED, NEWEST],
            fetch_optional
        )?;
        Ok(found.is_some())
    }
}
