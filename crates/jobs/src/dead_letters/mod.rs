//! Dead letters: discarded jobs of either durability, which the ledger keeps with their payload and all their errors.
//!
//! # States
//! A dead letter is a job in the state `discarded`. It leaves it by [`AdminHandle::redrive`] (available again, now or spread
//! over time), by [`AdminHandle::delete_dead_letters`], or by the pruner after `jobs.retain_discarded_seconds`.
//!
//! # Invariants
//! - A redrive is the transition `Redrive` of `state.rs`: it takes only rows in the state `discarded`, so two redrives of
//!   one dead letter make it available once.
//! - The job keeps its id, its attempts and its errors (the newest [`KEPT_ERRORS`]); it gets further attempts, and its
//!   crashes are forgotten.
//! - A dead letter whose unique key another waiting or running job has is skipped, and counted as such.
//! - A rate is kept by `run_at` alone: no process has to live for it.
//!
//! # When things fail
//! See [`crate::bulk`]: steps are transactions, and an operation goes on under its key.
//!
//! [`AdminHandle::redrive`]: crate::AdminHandle::redrive
//! [`AdminHandle::delete_dead_letters`]: crate::AdminHandle::delete_dead_letters

mod delete;
mod filter;
mod redrive;

use sqlx::AssertSqlSafe;

pub use self::filter::DeadLetterFilter;
pub use self::redrive::{DEFAULT_ATTEMPTS, KEPT_ERRORS, MAX_RATE, MIN_RATE, Redrive};

use self::filter::{bind_postgres, bind_sqlite, postgres_filter, sqlite_filter};
use crate::LedgerTx;
use crate::bulk::COUNT_CAP;
use crate::client::Jobs;
use crate::id::JobId;
use crate::ledger::{JobRecord, LedgerError, POSTGRES_RECORD, SQLITE_RECORD, records};
use crate::sql::{Sql, limit};
use crate::state::State;

/// Dead letters as they are read: [`Jobs::dead_letters`].
#[derive(Debug, Clone)]
pub struct DeadLetters {
    sql: Sql,
    jobs: Jobs,
}

impl Jobs {
    pub fn dead_letters(&self) -> DeadLetters {
        DeadLetters {
            sql: self.sql().clone(),
            jobs: self.clone(),
        }
    }
}

impl DeadLetters {
    /// The newest jobs first (by id, which tells when a job was made); only jobs older than `after`.
    pub async fn list(
        &self,
        filter: &DeadLetterFilter,
        after: Option<JobId>,
        most: usize,
    ) -> Result<Vec<JobRecord>, LedgerError> {
        self.sql
            .within("list dead letters", async {
                let mut tx = self.sql.begin_read().await?;
                let records = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let text = format!(
                            "{POSTGRES_RECORD} where {} and ($7::uuid is null or id < $7) order by id desc limit $8",
                            postgres_filter!("$9")
                        );
                        let rows = bind_postgres(sqlx::query(AssertSqlSafe(text)), filter)
                            .bind(after.map(JobId::as_uuid))
                            .bind(limit(most))
                            .bind(filter.fingerprint.clone())
                            .persistent(self.sql.named)
                            .fetch_all(on)
                            .await?;
                        records(&rows)
                    }
                    LedgerTx::Sqlite(on) => {
                        let text = format!(
                            "{SQLITE_RECORD} where {} and (?7 is null or id < ?7) order by id desc limit ?8",
                            sqlite_filter!("?9")
                        );
                        let rows = bind_sqlite(sqlx::query(AssertSqlSafe(text)), filter)
                            .bind(after.map(JobId::as_uuid))
                            .bind(limit(most))
                            .bind(filter.fingerprint.clone())
                            .fetch_all(on)
                            .await?;
                        records(&rows)
                    }
                };
                tx.commit().await?;
                Ok(records)
            })
            .await
            .map(|found| found.into_iter().map(|record| self.jobs.readable_record(record)).collect())
    }

    /// One dead letter; `None` if there is none with this id.
    pub async fn get(&self, id: JobId) -> Result<Option<JobRecord>, LedgerError> {
        let record = self.jobs.ledger().get(id).await?;
        let dead = record.filter(|record| record.state == State::Discarded);
        Ok(dead.map(|record| self.jobs.readable_record(record)))
    }

    /// How many match, up to [`COUNT_CAP`].
    pub async fn count(&self, filter: &DeadLetterFilter) -> Result<u64, LedgerError> {
        const POSTGRES: &str = concat!(
            "select count(*) from (select from holdfast_jobs where ",
            postgres_filter!("$8"),
            " limit $7) as matching"
        );
        const SQLITE: &str = concat!(
            "select count(*) from (select 1 from holdfast_jobs where ",
            sqlite_filter!("?8"),
            " limit ?7) as matching"
        );
        let most = i64::try_from(COUNT_CAP).unwrap_or(i64::MAX);
        self.sql
            .within("count dead letters", async {
                let mut tx = self.sql.begin_read().await?;
                let count: i64 = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        let counting = bind_postgres(sqlx::query(POSTGRES), filter)
                            .bind(most)
                            .bind(filter.fingerprint.clone());
                        let row = counting.persistent(self.sql.named).fetch_one(on).await?;
                        sqlx::Row::try_get(&row, 0)?
                    }
                    LedgerTx::Sqlite(on) => {
                        let counting = bind_sqlite(sqlx::query(SQLITE), filter)
                            .bind(most)
                            .bind(filter.fingerprint.clone());
                        sqlx::Row::try_get(&counting.fetch_one(on).await?, 0)?
                    }
                };
                tx.commit().await?;
                Ok(count.unsigned_abs())
            })
            .await
    }
}
