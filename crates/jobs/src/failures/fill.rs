//! Gives dead letters a fingerprint that have none.

use holdfast_core::sql::Tx as LedgerTx;
use holdfast_core::sql::dialect::{self, rows};
use sqlx::AssertSqlSafe;
use uuid::Uuid;

use super::fingerprint;
use crate::client::Jobs;
use crate::ledger::{ErrorRecord, LedgerError};
use crate::sql::hex_ids;

/// The class of a dead letter that has no error, or none that can be read.
pub(super) const UNKNOWN: &str = "unknown";

/// What another transaction has locked is left for the next time.
const PICK: &str = "select id, kind, @last(errors) from holdfast_jobs
    where state = 'discarded' and fingerprint is null limit $1 @skip_locked";

const FILL_POSTGRES: &str = "update holdfast_jobs as j set fingerprint = filled.print
    from unnest($1::uuid[], $2::text[]) as filled (id, print) where j.id = filled.id";

const FILL_SQLITE: &str = "update holdfast_jobs as j set fingerprint = filled.print
    from (select unhex(ids.value) as id, prints.value as print
          from json_each(?1) as ids join json_each(?2) as prints on prints.key = ids.key) as filled
    where j.id = filled.id";

type PickedRow = (Uuid, String, Option<String>);

impl Jobs {
    /// Fills in up to `most`; how many.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn fill_fingerprints(&self, most: usize) -> Result<u64, LedgerError> {
        let sql = self.sql();
        let fill = sql.within("fill in fingerprints", async {
            let mut tx = sql.begin().await?;
            let picked: Vec<PickedRow> = match tx.on() {
                LedgerTx::Postgres(on) => {
                    let pick = sqlx::query_as(AssertSqlSafe(dialect::postgres(PICK))).bind(rows(most));
                    pick.persistent(sql.named).fetch_all(on).await?
                }
                LedgerTx::Sqlite(on) => {
                    let pick = sqlx::query_as(AssertSqlSafe(dialect::sqlite(PICK))).bind(rows(most));
                    pick.fetch_all(on).await?
                }
            };
            if picked.is_empty() {
                return Ok(0);
            }
            let ids: Vec<Uuid> = picked.iter().map(|(id, ..)| *id).collect();
            let prints: Vec<String> = picked.iter().map(print_of).collect();
            match tx.on() {
                LedgerTx::Postgres(on) => {
                    let fill = sqlx::query(FILL_POSTGRES).bind(ids).bind(prints);
                    fill.persistent(sql.named).execute(on).await?;
                }
                LedgerTx::Sqlite(on) => {
                    let prints = serde_json::to_string(&prints).unwrap_or_default();
                    let fill = sqlx::query(FILL_SQLITE).bind(hex_ids(&ids)).bind(prints);
                    fill.execute(on).await?;
                }
            }
            tx.commit().await?;
            Ok(picked.len() as u64)
        });
        fill.await
    }
}

fn print_of((_, kind, error): &PickedRow) -> String {
    let error = error
        .as_deref()
        .and_then(|text| serde_json::from_str::<ErrorRecord>(text).ok());
    match error {
        Some(error) => fingerprint(kind, &error.class, &error.message),
        None => fingerprint(kind, UNKNOWN, ""),
    }
}
