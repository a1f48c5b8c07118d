//! The record of an operation: its row in the audit log.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use uuid::Uuid;

use super::{BulkPosition, BulkProgress, BulkStep, Operation};
use crate::LedgerTx;
use crate::audit::{AuditContext, AuditId};
use crate::sql::{decode_error, sqlite_now};

/// An operation as it is stored.
#[derive(Debug, Clone)]
pub(super) struct Record {
    pub(super) id: AuditId,
    pub(super) affected: u64,
    pub(super) finished: bool,
    action: String,
    /// It has a row.
    kept: bool,
    details: Details,
}

/// What `details` holds.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Details {
    request: Value,
    skipped: u64,
    began_ms: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    cursor: Option<Uuid>,
    #[serde(default, skip_serializing_if = "is_zero")]
    next_ms: f64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_zero(number: &f64) -> bool {
    *number == 0.0
}

impl Record {
    pub(super) fn new(now_ms: i64) -> Self {
        Self {
            id: AuditId::next(),
            affected: 0,
            finished: false,
            action: String::new(),
            kept: false,
            details: Details {
                began_ms: now_ms,
                ..Details::default()
            },
        }
    }

    pub(super) fn is_of(&self, operation: &Operation) -> bool {
        self.action == operation.action && self.details.request == operation.request
    }

    pub(super) fn position(&self) -> BulkPosition {
        BulkPosition {
            began_ms: self.details.began_ms,
            cursor: self.details.cursor,
            next_ms: self.details.next_ms,
        }
    }

    pub(super) fn after(&self, stepped: &BulkStep) -> Self {
        let mut next = self.clone();
        next.affected += stepped.affected;
        next.finished = stepped.seen == 0;
        next.details.skipped += stepped.skipped;
        next.details.cursor = stepped.cursor.or(next.details.cursor);
        next.details.next_ms = stepped.next_ms;
        next.kept = next.is_worth_keeping();
        next
    }

    pub(super) fn is_worth_keeping(&self) -> bool {
        self.kept || self.affected > 0
    }

    pub(super) fn done(&self, duplicate: bool) -> BulkProgress {
        BulkProgress {
            operation: self.kept.then_some(self.id),
            affected: self.affected,
            skipped: self.details.skipped,
            finished: self.finished,
            duplicate,
        }
    }
}

type Row = (Uuid, String, Option<i64>, Option<String>, bool);

pub(super) async fn find(on: LedgerTx<'_>, key: &str, named: bool) -> Result<Option<Record>, sqlx::Error> {
    let row: Option<Row> = match on {
        LedgerTx::Postgres(on) => sqlx::query_as(
            "select id, action, count, details::text, finished from holdfast_audit where operation_key = $1",
        )
        .bind(key)
        .persistent(named)
        .fetch_optional(on)
        .await?,
        LedgerTx::Sqlite(on) => {
            sqlx::query_as(
                "select id, action, count, details, finished from holdfast_audit where operation_key = ?1",
            )
            .bind(key)
            .fetch_optional(on)
            .await?
        }
    };
    row.map(|(id, action, count, details, finished)| {
        Ok(Record {
            id: AuditId::from_uuid(id),
            affected: count.unwrap_or(0).unsigned_abs(),
            finished,
            action,
            kept: true,
            details: serde_json::from_str(details.as_deref().unwrap_or("{}")).map_err(decode_error)?,
        })
    })
    .transpose()
}

/// Writes the record after a step. Counts are added, not set, so that two calls at once count every row.
pub(super) async fn save(
    on: LedgerTx<'_>,
    by: &AuditContext,
    operation: &Operation,
    record: &Record,
    stepped: &BulkStep,
    named: bool,
) -> Result<(), sqlx::Error> {
    let details = Details {
        request: operation.request.clone(),
        ..record.details.clone()
    };
    let details = serde_json::to_string(&details).map_err(decode_error)?;
    let count = i64::try_from(stepped.affected).unwrap_or(i64::MAX);
    match on {
        LedgerTx::Postgres(on) => {
            sqlx::query(
                "insert into holdfast_audit
                     (id, actor, action, target, count, request_id, details, operation_key, finished)
                 values ($1, $2, $3, $4, $5, $6, $7::text::jsonb, $8, $9)
                 on conflict (id) do update set count = holdfast_audit.count + excluded.count,
                     details = excluded.details, finished = excluded.finished",
            )
            .bind(record.id.as_uuid())
            .bind(by.actor.as_str())
            .bind(operation.action)
            .bind(operation.target.as_deref())
            .bind(count)
            .bind(by.request_id.as_deref())
            .bind(details)
            .bind(operation.key.as_deref())
            .bind(record.finished)
            .persistent(named)
            .execute(on)
            .await?;
        }
        LedgerTx::Sqlite(on) => {
            sqlx::query(concat!(
                "insert into holdfast_audit
                     (id, at, actor, action, target, count, request_id, details, operation_key, finished)
                 values (?1, ",
                sqlite_now!(),
                ", ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9)
                 on conflict (id) do update set count = holdfast_audit.count + excluded.count,
                     details = excluded.details, finished = excluded.finished"
            ))
            .bind(record.id.as_uuid())
            .bind(by.actor.as_str())
            .bind(operation.action)
            .bind(operation.target.as_deref())
            .bind(count)
            .bind(by.request_id.as_deref())
            .bind(details)
            .bind(operation.key.as_deref())
            .bind(record.finished)
            .execute(on)
            .await?;
        }
    }
    Ok(())
}
