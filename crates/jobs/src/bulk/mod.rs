//! Bulk operations: what an operator does to many rows at once, in steps.
//!
//! # States
//! `begun` (the database's clock says when) → steps, each one transaction of at most [`STEP_ROWS`] rows → `finished`, once a
//! step finds nothing more; or `unfinished`, once a call has changed [`CALL_ROWS`] rows or gone on for [`CALL_TIME`]. An
//! unfinished operation goes on when it is asked for again under the same key.
//!
//! # Invariants
//! - A step and its record are one transaction: the record counts what is done, never more and never less. The record is
//!   the operation's entry in the audit log; an operation that changes nothing has none.
//! - A row is taken only in the state that the action starts from, and only if it was there when the operation began: what
//!   fails again, or arrives, while the operation goes on is not part of it. So a repeated step does nothing twice.
//! - Under one key there is one operation. Once it is finished, asking again answers with its record and does nothing;
//!   asking for something else under its key is refused ([`BulkError::KeyReused`]).
//!
//! # When things fail
//! What was committed stands. A call that fails after its first step answers with what it has done, unfinished; one that
//! fails before fails as a whole. Both may be repeated under the same key. Two calls at once under one key: the second to
//! write its record finds the first's, and goes on with that.

mod record;

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::failure::{SqlFailureKind, classify_sql};
use serde_json::Value;
use tokio::time::Instant;
use uuid::Uuid;

use self::record::Record;
use crate::LedgerTx;
use crate::audit::{AuditContext, AuditId};
use crate::client::Jobs;
use crate::follow_ups::Effects;
use crate::ledger::LedgerError;
use crate::observer::Observers;
use crate::sql::now_ms;

/// Rows of one step, and so of one transaction.
pub const STEP_ROWS: usize = 1_000;

/// Rows that one call changes at most; it stops at the first step beyond.
pub const CALL_ROWS: u64 = 20_000;

/// A call begins no further step after this long: requests have deadlines.
pub const CALL_TIME: Duration = Duration::from_secs(4);

/// Counts go no further than this: nobody needs to know more exactly, and the database would have to read it all.
pub const COUNT_CAP: u64 = 100_000;

/// How often a call that lost the race for its key looks again.
const ATTEMPTS: usize = 3;

/// What an operation is, apart from its steps.
#[derive(Debug, Clone)]
pub struct Operation {
    /// One of [`crate::audit::action`].
    pub action: &'static str,
    /// The queue or job that it is all about, if it is about one.
    pub target: Option<String>,
    /// What was asked for: kept in the audit log, and compared when the key comes again.
    pub request: Value,
    /// An idempotency key, behind its caller's name.
    pub key: Option<String>,
}

/// What an operation has done so far.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BulkProgress {
    /// `None`: it has changed nothing, and is nowhere recorded.
    pub operation: Option<AuditId>,
    /// Rows changed, by all of its calls.
    pub affected: u64,
    /// Rows that matched and could not be changed, such as a dead letter whose unique key another job has.
    pub skipped: u64,
    /// False: there may be more; ask again under the same key.
    pub finished: bool,
    /// It was finished before this call, which did nothing.
    pub duplicate: bool,
}

/// Why an operation could not be done.
#[derive(Debug, thiserror::Error)]
pub enum BulkError {
    /// Another operation has this key.
    #[error("the key belongs to another operation")]
    KeyReused { operation: AuditId },
    #[error(transparent)]
    Ledger(#[from] LedgerError),
    /// What has to be asked too (the broker) does not answer; nothing was done.
    #[error("{what} does not answer")]
    Unavailable { what: &'static str },
}

/// Where an operation stands, for its next step.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BulkPosition {
    /// When it began, in milliseconds since the epoch by the database's clock.
    pub(crate) began_ms: i64,
    /// The last row that was looked at; the next step begins after it.
    pub(crate) cursor: Option<Uuid>,
    /// Where rows are spread over time: when the next one is due, in milliseconds since the epoch.
    pub(crate) next_ms: f64,
}

/// What one step did.
#[derive(Debug, Default)]
pub(crate) struct BulkStep {
    /// Rows that were looked at; none: there are no more.
    pub(crate) seen: u64,
    pub(crate) affected: u64,
    pub(crate) skipped: u64,
    pub(crate) cursor: Option<Uuid>,
    pub(crate) next_ms: f64,
    /// Rows that became available, by queue.
    pub(crate) available: BTreeMap<String, usize>,
    /// What the ends of jobs brought about.
    pub(crate) effects: Effects,
}

/// One kind of operation: how it takes its next rows.
pub(crate) trait Step: Sync {
    fn step(
        &self,
        on: LedgerTx<'_>,
        position: BulkPosition,
        named: bool,
        observers: &Observers,
    ) -> impl Future<Output = Result<BulkStep, sqlx::Error>> + Send;
}

/// Runs an operation as far as one call goes.
pub(crate) async fn run(
    jobs: &Jobs,
    by: &AuditContext,
    operation: &Operation,
    step: &impl Step,
) -> Result<BulkProgress, BulkError> {
    for _ in 1..ATTEMPTS {
        match attempt(jobs, by, operation, step).await {
            Err(BulkError::Ledger(LedgerError::Sql { source, .. }))
                if classify_sql(&source).kind == SqlFailureKind::Unique => {}
            done => return done,
        }
    }
    attempt(jobs, by, operation, step).await
}

async fn attempt(
    jobs: &Jobs,
    by: &AuditContext,
    operation: &Operation,
    step: &impl Step,
) -> Result<BulkProgress, BulkError> {
    let mut record = open(jobs, operation).await?;
    if record.finished {
        return Ok(record.done(true));
    }
    let (give_up, before) = (Instant::now() + CALL_TIME, record.affected);
    loop {
        match advance(jobs, by, operation, step, &record).await {
            Ok((next, stepped)) => {
                record = next;
                for (queue, count) in stepped.available {
                    jobs.bell().ring(&queue, count, Duration::ZERO);
                }
                jobs.announce(&stepped.effects);
            }
            Err(error) if record.affected > before => {
                tracing::warn!(action = operation.action, error = ?error, "a bulk operation stopped before its end");
                break;
            }
            Err(error) => return Err(error.into()),
        }
        if record.finished || record.affected - before >= CALL_ROWS || Instant::now() >= give_up {
            break;
        }
    }
    Ok(record.done(false))
}

/// The record under the operation's key, or a new one.
async fn open(jobs: &Jobs, operation: &Operation) -> Result<Record, BulkError> {
    let sql = jobs.sql();
    let (found, now) = sql
        .within("begin a bulk operation", async {
            let mut tx = sql.begin_read().await?;
            let found = match operation.key.as_deref() {
                Some(key) => record::find(tx.on(), key, sql.named).await?,
                None => None,
            };
            let now = now_ms(tx.on(), sql.named).await?;
            tx.commit().await?;
            Ok((found, now))
        })
        .await?;
    match found {
        Some(record) if record.is_of(operation) => Ok(record),
        Some(record) => Err(BulkError::KeyReused { operation: record.id }),
        None => Ok(Record::new(now)),
    }
}

/// One step and its record, in one transaction.
async fn advance(
    jobs: &Jobs,
    by: &AuditContext,
    operation: &Operation,
    step: &impl Step,
    record: &Record,
) -> Result<(Record, BulkStep), LedgerError> {
    let sql = jobs.sql();
    sql.observers.ready().await?;
    sql.within("do a step of a bulk operation", async {
        let mut tx = sql.begin().await?;
        let stepped = step
            .step(tx.on(), record.position(), sql.named, &sql.observers)
            .await?;
        let next = record.after(&stepped);
        if next.is_worth_keeping() {
            record::save(tx.on(), by, operation, &next, &stepped, sql.named).await?;
        }
        tx.commit().await?;
        Ok((next, stepped))
    })
    .await
}
