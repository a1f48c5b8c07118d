//! Forgetting events that are over and that nobody's interactions name any more.

use holdfast_jobs::LedgerTx;
use holdfast_jobs::ledger::LedgerError;

use super::Events;

/// Most events of one step.
const PRUNE: i64 = 1_000;

const POSTGRES: &str = "
delete from holdfast_events where id = any (array (
    select id from holdfast_events as e
    where starts_at < now() - $1 * interval '1 millisecond'
      and coalesce(ends_at, starts_at) < now() - $1 * interval '1 millisecond'
      and not exists (select from holdfast_interactions as i where i.event_id = e.id)
    order by starts_at limit $2 for update skip locked))";

const SQLITE: &str = "
delete from holdfast_events where id in (
    select id from holdfast_events as e
    where starts_at < cast(unixepoch('subsec') * 1000 as integer) - ?1
      and coalesce(ends_at, starts_at) < cast(unixepoch('subsec') * 1000 as integer) - ?1
      and not exists (select 1 from holdfast_interactions as i where i.event_id = e.id)
    order by starts_at limit ?2)";

impl Events {
    /// One step; how many went. Changes no answer that anybody waits for: they are long over.
    pub async fn prune(&self) -> Result<u64, LedgerError> {
        let age = i64::try_from(self.0.retain.as_millis()).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        sql.within("prune events", async {
            let mut tx = sql.begin().await?;
            let gone = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let query = sqlx::query(POSTGRES).bind(age).bind(PRUNE);
                    query.persistent(sql.named()).execute(on).await?.rows_affected()
                }
                LedgerTx::Sqlite(on) => {
                    let query = sqlx::query(SQLITE).bind(age).bind(PRUNE);
                    query.execute(on).await?.rows_affected()
                }
            };
            tx.commit().await?;
            Ok(gone)
        })
        .await
    }
}
