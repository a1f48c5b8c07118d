//! Deleting dead letters.

use serde_json::json;
use sqlx::Row;
use uuid::Uuid;

use super::DeadLetterFilter;
use super::filter::{bind_postgres, bind_sqlite, postgres_filter, sqlite_filter};
use crate::LedgerTx;
use crate::admin::AdminHandle;
use crate::audit::action;
use crate::bulk::{self, BulkError, BulkPosition, BulkProgress, BulkStep, Operation, STEP_ROWS, Step};
use crate::observer::Observers;
use crate::sql::limit;

impl AdminHandle<'_> {
    /// Deletes dead letters for good, as far as one call goes. `key`: an idempotency key, behind its caller's name.
    pub async fn delete_dead_letters(
        &self,
        filter: &DeadLetterFilter,
        key: Option<String>,
    ) -> Result<BulkProgress, BulkError> {
        let operation = Operation {
            action: action::DEAD_LETTERS_DELETE,
            target: filter.queue.clone(),
            request: json!({ "filter": filter.document() }),
            key,
        };
        bulk::run(self.jobs, self.by, &operation, &Delete(filter)).await
    }
}

struct Delete<'a>(&'a DeadLetterFilter);

const POSTGRES: &str = concat!(
    "delete from holdfast_jobs where id = any (array (
         select id from holdfast_jobs
         where ",
    postgres_filter!("$9"),
    " and finished_at <= 'epoch'::timestamptz + $7 * interval '1 millisecond'
         order by id limit $8 for update))
     returning id"
);

const SQLITE: &str = concat!(
    "delete from holdfast_jobs where id in (
         select id from holdfast_jobs where ",
    sqlite_filter!("?9"),
    " and finished_at <= ?7 order by id limit ?8)
     returning id"
);

impl Step for Delete<'_> {
    async fn step(
        &self,
        on: LedgerTx<'_>,
        position: BulkPosition,
        named: bool,
        _: &Observers,
    ) -> Result<BulkStep, sqlx::Error> {
        let deleted: Vec<Uuid> = match on {
            LedgerTx::Postgres(on) => {
                let rows = bind_postgres(sqlx::query(POSTGRES), self.0)
                    .bind(position.began_ms)
                    .bind(limit(STEP_ROWS))
                    .bind(self.0.fingerprint.clone())
                    .persistent(named)
                    .fetch_all(on)
                    .await?;
                rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?
            }
            LedgerTx::Sqlite(on) => {
                let rows = bind_sqlite(sqlx::query(SQLITE), self.0)
                    .bind(position.began_ms)
                    .bind(limit(STEP_ROWS))
                    .bind(self.0.fingerprint.clone())
                    .fetch_all(on)
                    .await?;
                rows.iter().map(|row| row.try_get(0)).collect::<Result<_, _>>()?
            }
        };
        Ok(BulkStep {
            seen: deleted.len() as u64,
            affected: deleted.len() as u64,
            ..BulkStep::default()
        })
    }
}
