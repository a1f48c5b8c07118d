//! The pruner's statements. Completed and cancelled jobs: see [`crate::ledger::prune`]. Discarded ones have an index of their
//! ends, which no other outcome touches.

use std::time::Duration;

use uuid::Uuid;

use super::PostgresLedger;
use super::rows::millis;
use crate::id::JobId;
use crate::ledger::prune::WINDOW;
use crate::ledger::{LedgerError, PruneReport, Retention};
use crate::sql::limit as limit_of;

/// What one step may take on the server: deleting a thousand rows takes a tenth of it.
const BOUND: Duration = Duration::from_secs(1);

const COMPLETED: &str = "
with picked as materialized (
    select id from holdfast_jobs
    where id = any (array (
              select id
              from (select id, state, finished_at from holdfast_jobs where id > $1 and id < $2 order by id limit $5) as w
              where state in ('completed', 'cancelled') and finished_at < now() - $3 * interval '1 millisecond'
              limit $4))
      and state in ('completed', 'cancelled')
    for update skip locked)
delete from holdfast_jobs where id = any (array (select id from picked))
returning id";

/// The last row of the window, if that many are left.
const WINDOW_END: &str =
    "select id from holdfast_jobs where id > $1 and id < $2 order by id offset $3 - 1 limit 1";

const DISCARDED: &str = "
delete from holdfast_jobs where id = any (array (
    select id from holdfast_jobs
    where state = 'discarded' and finished_at < now() - $1 * interval '1 millisecond'
    order by finished_at
    limit $2
    for update skip locked))";

impl PostgresLedger {
    /// See [`crate::ledger::Ledger::prune`].
    pub(super) async fn prune_jobs(
        &self,
        retention: &Retention,
        limit: usize,
    ) -> Result<PruneReport, LedgerError> {
        let mut pruned = self.prune_completed(retention, limit).await?;
        let discarded = self
            .bounded("prune dead letters", BOUND, async |on| {
                let query = self
                    .query(DISCARDED)
                    .bind(millis(retention.discarded))
                    .bind(limit_of(limit));
                Ok(query.execute(on).await?.rows_affected())
            })
            .await?
            .unwrap_or(0);
        pruned.deleted += discarded;
        pruned.has_more |= discarded >= limit as u64;
        Ok(pruned)
    }

    async fn prune_completed(&self, retention: &Retention, limit: usize) -> Result<PruneReport, LedgerError> {
        let (after, newest) = self.pruned.next(retention);
        let step = self
            .bounded("prune finished jobs", BOUND, async |on| {
                let deleted: Vec<Uuid> = self
                    .query_scalar(COMPLETED)
                    .bind(after.as_uuid())
                    .bind(newest.as_uuid())
                    .bind(millis(retention.completed))
                    .bind(limit_of(limit))
                    .bind(WINDOW)
                    .fetch_all(&mut *on)
                    .await?;
                if deleted.len() >= limit {
                    return Ok((deleted.len(), deleted.into_iter().max()));
                }
                let end: Option<Uuid> = self
                    .query_scalar(WINDOW_END)
                    .bind(after.as_uuid())
                    .bind(newest.as_uuid())
                    .bind(WINDOW)
                    .fetch_optional(&mut *on)
                    .await?;
                Ok((deleted.len(), end))
            })
            .await?;
        let Some((deleted, read)) = step else {
            self.pruned.took_too_long((after, newest));
            return Ok(PruneReport {
                deleted: 0,
                has_more: true,
            });
        };
        self.pruned.read_up_to(read.map(JobId::from_uuid));
        Ok(PruneReport {
            deleted: deleted as u64,
            has_more: read.is_some(),
        })
    }
}
