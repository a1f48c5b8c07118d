//! The table `holdfast_audit`, on either database.

use std::time::Duration;

use chrono::DateTime;
use holdfast_core::clock;
use holdfast_core::config::DatabaseSettings;
use holdfast_core::sql::Database;
use holdfast_core::sql::dialect::on_either;
use serde_json::value::RawValue;
use uuid::Uuid;

use super::{Actor, AuditContext, AuditEntry, AuditFilter, AuditId, AuditRecord};
use crate::LedgerTx;
use crate::ledger::LedgerError;
use crate::sql::{Sql, decode_error, limit, sqlite_now};

/// A host's clock, which makes the ids, may be this wrong without hiding rows from the pruner for long.
const CLOCK_SLACK: Duration = Duration::from_mins(5);

const RENAME_ACTOR: &str = "update holdfast_audit set actor = $2, operation_key = null where actor = $1";

const RENAME_USER: &str = "update holdfast_audit set target = $2
     where action in ('user.create', 'user.update', 'user.delete') and target = $1";

/// The audit log of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct AuditLog {
    sql: Sql,
}

type Row = (
    Uuid,
    i64,
    String,
    String,
    Option<String>,
    Option<i64>,
    Option<String>,
    Option<String>,
    bool,
);

impl AuditLog {
    pub fn new(database: &Database, settings: &DatabaseSettings) -> Self {
        Self {
            sql: Sql::new(database, settings),
        }
    }

    /// Records an action inside the transaction that does it.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn record_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        by: &AuditContext,
        entry: &AuditEntry,
    ) -> Result<AuditId, sqlx::Error> {
        insert(tx.into(), by, entry, self.sql.named).await
    }

    /// Puts another name in the place of an actor's, inside a transaction; returns how many entries name it now.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn rename_actor<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        actor: &Actor,
        name: &Actor,
    ) -> Result<u64, sqlx::Error> {
        let (actor, name) = (actor.as_str(), name.as_str());
        on_either!(
            tx.into(),
            self.sql.named(),
            query(RENAME_ACTOR),
            [actor, name],
            execute
        )
    }

    /// Puts another name in the place of a user's, where a user is the target; returns how many entries name it now.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn rename_user<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        user: &str,
        name: &str,
    ) -> Result<u64, sqlx::Error> {
        on_either!(
            tx.into(),
            self.sql.named(),
            query(RENAME_USER),
            [user, name],
            execute
        )
    }

    /// Records an action that is no change in SQL, in a transaction of its own.
    pub async fn record(&self, by: &AuditContext, entry: &AuditEntry) -> Result<AuditId, LedgerError> {
        self.sql
            .within("record an action", async {
                let mut tx = self.sql.begin().await?;
                let id = self.record_in(tx.on(), by, entry).await?;
                tx.commit().await?;
                Ok(id)
            })
            .await
    }

    /// Newest first.
    pub async fn list(&self, filter: &AuditFilter) -> Result<Vec<AuditRecord>, LedgerError> {
        let rows = self.sql.within("list the audit log", self.rows(filter)).await?;
        rows.into_iter()
            .map(record)
            .collect::<Result<_, _>>()
            .map_err(|source| LedgerError::Sql {
                doing: "list the audit log",
                source,
            })
    }

    async fn rows(&self, filter: &AuditFilter) -> Result<Vec<Row>, sqlx::Error> {
        let (exact, prefix) = match filter.action.as_deref() {
            Some(action) if action.ends_with('.') => (None, Some(action)),
            action => (action, None),
        };
        let millis = |at: Option<DateTime<chrono::Utc>>| at.map(|at| at.timestamp_millis());
        let mut tx = self.sql.begin_read().await?;
        let rows: Vec<Row> = match tx.on() {
            LedgerTx::Postgres(on) => {
                sqlx::query_as(
                    "select id, (extract(epoch from at) * 1000)::bigint, actor, action, target, count, request_id,
                            details::text, finished
                     from holdfast_audit
                     where ($1::text is null or actor = $1) and ($2::text is null or action = $2)
                       and ($3::text is null or starts_with(action, $3)) and ($4::text is null or target = $4)
                       and ($5::bigint is null or at >= 'epoch'::timestamptz + $5 * interval '1 millisecond')
                       and ($6::bigint is null or at < 'epoch'::timestamptz + $6 * interval '1 millisecond')
                       and ($7::uuid is null or id < $7)
                     order by id desc limit $8",
                )
                .bind(filter.actor.as_deref())
                .bind(exact)
                .bind(prefix)
                .bind(filter.target.as_deref())
                .bind(millis(filter.from))
                .bind(millis(filter.to))
                .bind(filter.after.map(AuditId::as_uuid))
                .bind(limit(filter.limit))
                .persistent(self.sql.named)
                .fetch_all(on)
                .await?
            }
            LedgerTx::Sqlite(on) => {
                sqlx::query_as(
                    "select id, at, actor, action, target, count, request_id, details, finished
                     from holdfast_audit
                     where (?1 is null or actor = ?1) and (?2 is null or action = ?2)
                       and (?3 is null or substr(action, 1, length(?3)) = ?3) and (?4 is null or target = ?4)
                       and (?5 is null or at >= ?5) and (?6 is null or at < ?6) and (?7 is null or id < ?7)
                     order by id desc limit ?8",
                )
                .bind(filter.actor.as_deref())
                .bind(exact)
                .bind(prefix)
                .bind(filter.target.as_deref())
                .bind(millis(filter.from))
                .bind(millis(filter.to))
                .bind(filter.after.map(AuditId::as_uuid))
                .bind(limit(filter.limit))
                .fetch_all(on)
                .await?
            }
        };
        tx.commit().await?;
        Ok(rows)
    }

    /// Deletes up to `most` entries that are older than `retention`; how many.
    pub async fn prune(&self, retention: Duration, most: usize) -> Result<u64, LedgerError> {
        let age = i64::try_from(retention.as_millis()).unwrap_or(i64::MAX);
        let shortest = retention.saturating_sub(CLOCK_SLACK).as_millis();
        let newest = u128::from(clock::unix_millis()).saturating_sub(shortest);
        let newest = AuditId::first_of_ms(u64::try_from(newest).unwrap_or(u64::MAX)).as_uuid();
        self.sql
            .within("prune the audit log", async {
                let mut tx = self.sql.begin().await?;
                let deleted = match tx.on() {
                    LedgerTx::Postgres(on) => sqlx::query(
                        "delete from holdfast_audit where id = any (array (
                             select id from holdfast_audit
                             where id < $1 and at < now() - $2 * interval '1 millisecond'
                             order by id limit $3 for update skip locked))",
                    )
                    .bind(newest)
                    .bind(age)
                    .bind(limit(most))
                    .persistent(self.sql.named)
                    .execute(on)
                    .await?
                    .rows_affected(),
                    LedgerTx::Sqlite(on) => sqlx::query(concat!(
                        "delete from holdfast_audit where id in (
                             select id from holdfast_audit where id < ?1 and at < ",
                        sqlite_now!(),
                        " - ?2
                             order by id limit ?3)"
                    ))
                    .bind(newest)
                    .bind(age)
                    .bind(limit(most))
                    .execute(on)
                    .await?
                    .rows_affected(),
                };
                tx.commit().await?;
                Ok(deleted)
            })
            .await
    }
}

impl AuditEntry {
    /// Records the action inside the transaction that does it, with an unnamed statement that any pooler can carry: for
    /// tables outside the ledger.
    ///
    /// # Errors
    /// The transaction is to be rolled back.
    pub async fn record_in<'t>(
        &self,
        tx: impl Into<LedgerTx<'t>>,
        by: &AuditContext,
    ) -> Result<AuditId, sqlx::Error> {
        insert(tx.into(), by, self, false).await
    }
}

/// Writes the entry inside a transaction that is rolled back if this fails.
async fn insert(
    tx: LedgerTx<'_>,
    by: &AuditContext,
    entry: &AuditEntry,
    named: bool,
) -> Result<AuditId, sqlx::Error> {
    let id = AuditId::next();
    let count = entry.count.map(|count| i64::try_from(count).unwrap_or(i64::MAX));
    match tx {
        LedgerTx::Postgres(on) => {
            sqlx::query(
                "insert into holdfast_audit (id, actor, action, target, count, request_id, details)
                 values ($1, $2, $3, $4, $5, $6, $7::text::jsonb)",
            )
            .bind(id.as_uuid())
            .bind(by.actor.as_str())
            .bind(entry.action)
            .bind(entry.target.as_deref())
            .bind(count)
            .bind(by.request_id.as_deref())
            .bind(entry.details_text())
            .persistent(named)
            .execute(on)
            .await?;
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query(concat!(
                "insert into holdfast_audit (id, at, actor, action, target, count, request_id, details)
                 values (?1, ",
                sqlite_now!(),
                ", ?2, ?3, ?4, ?5, ?6, ?7)"
            ))
            .bind(id.as_uuid())
            .bind(by.actor.as_str())
            .bind(entry.action)
            .bind(entry.target.as_deref())
            .bind(count)
            .bind(by.request_id.as_deref())
            .bind(entry.details_text())
            .execute(on)
            .await?;
        }
    }
    Ok(id)
}

fn record(
    (id, at, actor, action, target, count, request_id, details, finished): Row,
) -> Result<AuditRecord, sqlx::Error> {
    Ok(AuditRecord {
        id: AuditId::from_uuid(id),
        at: DateTime::from_timestamp_millis(at).unwrap_or_default(),
        actor,
        action,
        target,
        count: count.map(i64::unsigned_abs),
        request_id,
        details: details
            .map(RawValue::from_string)
            .transpose()
            .map_err(decode_error)?,
        finished,
    })
}
