//! [`AdminHandle`]: what operators do to queues and jobs, each with its entry in the audit log.
//!
//! # Invariants
//! - A change in SQL and its audit entry are one transaction. What changed nothing leaves no entry.
//! - A change of the broker alone is recorded after it was made.
//!
//! # When things fail
//! While the database is away nothing is steered. Every action may be repeated: pausing a paused queue, cancelling a
//! cancelled job and retrying a job that waits change nothing that matters.

mod edit;
mod limit_keys;
mod many;

pub use self::edit::{EditError, EditReply, JobEdit};
pub use self::many::{CancelFilter, PurgeReport};

use crate::LedgerTx;
use crate::audit::{AuditContext, AuditEntry, action};
use crate::client::Jobs;
use crate::id::JobId;
use crate::ledger::{CancelReply, LedgerError, PostgresLedger, RetryReply, SqliteLedger};
use crate::limits::QueueLimits;

/// A handle on what an operator may do, in that operator's name: [`Jobs::steer`].
#[derive(Debug, Clone, Copy)]
pub struct AdminHandle<'a> {
    pub(crate) jobs: &'a Jobs,
    pub(crate) by: &'a AuditContext,
}

impl Jobs {
    /// Steers in somebody's name: every change leaves an entry in the audit log.
    pub fn steer<'a>(&'a self, by: &'a AuditContext) -> AdminHandle<'a> {
        AdminHandle { jobs: self, by }
    }
}

impl AdminHandle<'_> {
    /// As [`Jobs::pause`].
    pub async fn pause(&self, queue: &str) -> Result<(), LedgerError> {
        self.set_paused(queue, true).await
    }

    /// As [`Jobs::resume`].
    pub async fn resume(&self, queue: &str) -> Result<(), LedgerError> {
        self.set_paused(queue, false).await?;
        self.jobs.ring(queue);
        Ok(())
    }

    async fn set_paused(&self, queue: &str, paused: bool) -> Result<(), LedgerError> {
        let name = if paused {
            action::QUEUE_PAUSE
        } else {
            action::QUEUE_RESUME
        };
        let entry = AuditEntry::new(name).target(queue);
        let sql = self.jobs.sql();
        sql.within("pause or resume a queue", async {
            let mut tx = sql.begin().await?;
            match tx.on() {
                LedgerTx::Postgres(on) => PostgresLedger::set_paused_in(on, queue, paused, sql.named).await?,
                LedgerTx::Sqlite(on) => SqliteLedger::set_paused_in(on, queue, paused).await?,
            }
            self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
            tx.commit().await
        })
        .await?;
        self.jobs.counts_changed();
        Ok(())
    }

    /// Sets what bounds a queue over all workers in place of its configured limits; `None` returns to those. Every worker keeps
    /// to it from its next claim on.
    pub async fn limit(&self, queue: &str, limits: Option<&QueueLimits>) -> Result<(), LedgerError> {
        let details = serde_json::json!({ "limits": limits });
        let entry = AuditEntry::new(action::QUEUE_LIMIT)
            .target(queue)
            .details(details);
        let sql = self.jobs.sql();
        sql.within("set a queue's limits", async {
            let mut tx = sql.begin().await?;
            self.jobs.limits().override_in(tx.on(), queue, limits).await?;
            self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
            tx.commit().await
        })
        .await?;
        self.jobs.ring(queue);
        Ok(())
    }

    /// As [`Jobs::cancel`].
    pub async fn cancel(&self, id: JobId) -> Result<Option<CancelReply>, LedgerError> {
        if let Some(reply) = self.cancel_in_ledger(id).await? {
            return Ok(Some(reply));
        }
        let reply = self.jobs.waiting().cancel_on_broker(id).await;
        if let Some(reply) = reply.filter(|reply| has_changed(*reply)) {
            self.jobs
                .audit()
                .record(self.by, &cancellation(id, reply))
                .await?;
        }
        Ok(reply)
    }

    async fn cancel_in_ledger(&self, id: JobId) -> Result<Option<CancelReply>, LedgerError> {
        let sql = self.jobs.sql();
        sql.observers.ready().await?;
        let done = sql
            .within("cancel a job", async {
                let mut tx = sql.begin().await?;
                let done = match tx.on() {
                    LedgerTx::Postgres(on) => {
                        PostgresLedger::cancel_in(on, id, sql.named, &sql.observers).await?
                    }
                    LedgerTx::Sqlite(on) => SqliteLedger::cancel_in(on, id, &sql.observers).await?,
                };
                let reply = done.as_ref().map(|(reply, _)| *reply);
                if let Some(reply) = reply.filter(|reply| has_changed(*reply)) {
                    let entry = cancellation(id, reply);
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                }
                tx.commit().await?;
                Ok(done)
            })
            .await?;
        Ok(done.map(|(reply, effects)| {
            self.jobs.announce(&effects);
            reply
        }))
    }

    /// As [`Jobs::retry`].
    pub async fn retry(&self, id: JobId) -> Result<Option<RetryReply>, LedgerError> {
        let sql = self.jobs.sql();
        let reply = sql
            .within("retry a job", async {
                let mut tx = sql.begin().await?;
                let reply = match tx.on() {
                    LedgerTx::Postgres(on) => PostgresLedger::retry_in(on, id, sql.named).await?,
                    LedgerTx::Sqlite(on) => SqliteLedger::retry_in(on, id).await?,
                };
                if let Some(RetryReply::Available { queue }) = &reply {
                    let details = serde_json::json!({ "queue": queue });
                    let entry = AuditEntry::new(action::JOB_RETRY).target(id).details(details);
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                }
                tx.commit().await?;
                Ok(reply)
            })
            .await?;
        if let Some(RetryReply::Available { queue }) = &reply {
            self.jobs.ring(queue);
        }
        Ok(reply)
    }
}

fn has_changed(reply: CancelReply) -> bool {
    !matches!(reply, CancelReply::AlreadyFinal(_))
}

fn cancellation(id: JobId, reply: CancelReply) -> AuditEntry {
    let was = match reply {
        CancelReply::Requested => "running",
        _ => "waiting",
    };
    AuditEntry::new(action::JOB_CANCEL)
        .target(id)
        .details(serde_json::json!({ "was": was }))
}
