//! Changes of what is declared, each with its audit entry, in one transaction.

use std::sync::Arc;

use serde_json::json;

use super::{DeclaredKind, KindDefinition, MAX_KINDS, MAX_QUEUES, MAX_TEXT_BYTES, check, store};
use crate::admin::AdminHandle;
use crate::audit::{AuditEntry, action};
use crate::enqueue::Fault;
use crate::ledger::LedgerError;

/// Why nothing was declared.
#[derive(Debug, thiserror::Error)]
pub enum DeclareError {
    /// Every fault of the definition, at least one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    #[error("the kind {0:?} is part of the program: its code says what it is")]
    CodedKind(String),
    #[error("the queue {0:?} is part of the configuration: change [queues.{0}]")]
    ConfiguredQueue(String),
    /// The kind could never run there.
    #[error(
        "the queue {0:?} is served by Rust workers, which do not run declared kinds: name another queue, or set \
         queues.{0}.served_by = \"pull\""
    )]
    RustQueue(String),
    #[error(
        "there are already {MAX_KINDS} declared kinds, or their definitions have {MAX_TEXT_BYTES} bytes together"
    )]
    TooManyKinds,
    #[error("there are already {MAX_QUEUES} declared queues")]
    TooManyQueues,
    #[error("the queue {0:?} is in use: {1}")]
    QueueInUse(String, String),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// What a transaction found, beside failures of the database.
type Refusable<T> = Result<T, DeclareError>;

impl AdminHandle<'_> {
    /// Declares a kind, or replaces it. Its queue is declared with it. True: it is new.
    pub async fn put_kind(
        &self,
        name: &str,
        definition: KindDefinition,
    ) -> Refusable<(bool, Arc<DeclaredKind>)> {
        if self.jobs.registry().get(name).is_some() {
            return Err(DeclareError::CodedKind(name.to_owned()));
        }
        check::kind(name, &definition).map_err(DeclareError::Invalid)?;
        let queue = definition.queue.clone();
        let is_configured = self.check_fleet(&queue)?;
        let text = serde_json::to_string(&definition)
            .map_err(|error| LedgerError::Corrupt(format!("the kind {name:?} cannot be written: {error}")))?;
        let is_new = !self.jobs.declared().current().await?.kinds.contains_key(name);
        let entry = AuditEntry::new(action::KIND_PUT)
            .target(name)
            .details(json!({ "queue": queue }));
        let sql = self.jobs.sql();
        let refused = sql
            .within("declare a kind", async {
                let mut tx = sql.begin().await?;
                store::raise(tx.on(), sql.named).await?;
                let (others, bytes) = store::others(tx.on(), sql.named, name).await?;
                if exceeds(others + 1, MAX_KINDS) || exceeds(bytes + text.len() as i64, MAX_TEXT_BYTES) {
                    return Ok(Some(DeclareError::TooManyKinds));
                }
                if !is_configured {
                    let queues = store::queues(tx.on(), sql.named).await?;
                    if !queues.contains(&queue) {
                        if queues.len() >= MAX_QUEUES {
                            return Ok(Some(DeclareError::TooManyQueues));
                        }
                        store::put_queue(tx.on(), sql.named, &queue).await?;
                    }
                }
                store::put_kind(tx.on(), sql.named, name, &queue, &text).await?;
                self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                tx.commit().await?;
                Ok(None)
            })
            .await?;
        if let Some(refused) = refused {
            return Err(refused);
        }
        let snapshot = self.read_back().await?;
        let kind = snapshot.kinds.get(name).cloned().ok_or_else(|| {
            LedgerError::Corrupt(format!("the kind {name:?} was deleted while it was declared"))
        })?;
        Ok((is_new, kind))
    }

    /// Forgets a kind. Its jobs stay, and its queue; new ones are refused. False: there is none of that name.
    pub async fn delete_kind(&self, name: &str) -> Refusable<bool> {
        if self.jobs.registry().get(name).is_some() {
            return Err(DeclareError::CodedKind(name.to_owned()));
        }
        let entry = AuditEntry::new(action::KIND_DELETE).target(name);
        let sql = self.jobs.sql();
        let deleted = sql
            .within("forget a kind", async {
                let mut tx = sql.begin().await?;
                store::raise(tx.on(), sql.named).await?;
                let deleted = store::delete_kind(tx.on(), sql.named, name).await?;
                if deleted {
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                    tx.commit().await?;
                }
                Ok(deleted)
            })
            .await?;
        self.read_back().await?;
        Ok(deleted)
    }

    /// Declares a queue for pull workers. True: it is new.
    pub async fn put_queue(&self, name: &str) -> Refusable<bool> {
        check::queue(name).map_err(|fault| DeclareError::Invalid(vec![fault]))?;
        if self.jobs.queues().contains_key(name) {
            return Err(DeclareError::ConfiguredQueue(name.to_owned()));
        }
        let entry = AuditEntry::new(action::QUEUE_PUT).target(name);
        let sql = self.jobs.sql();
        let done = sql
            .within("declare a queue", async {
                let mut tx = sql.begin().await?;
                store::raise(tx.on(), sql.named).await?;
                let queues = store::queues(tx.on(), sql.named).await?;
                if queues.iter().any(|queue| queue == name) {
                    return Ok(Ok(false));
                }
                if queues.len() >= MAX_QUEUES {
                    return Ok(Err(DeclareError::TooManyQueues));
                }
                store::put_queue(tx.on(), sql.named, name).await?;
                self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                tx.commit().await?;
                Ok(Ok(true))
            })
            .await?;
        self.read_back().await?;
        done
    }

    /// Forgets a declared queue that no kind names and that has no job to run. False: there is none of that name.
    pub async fn delete_queue(&self, name: &str) -> Refusable<bool> {
        if self.jobs.queues().contains_key(name) {
            return Err(DeclareError::ConfiguredQueue(name.to_owned()));
        }
        let entry = AuditEntry::new(action::QUEUE_DELETE).target(name);
        let sql = self.jobs.sql();
        let done = sql
            .within("forget a queue", async {
                let mut tx = sql.begin().await?;
                store::raise(tx.on(), sql.named).await?;
                if let Some(user) = store::user_of(tx.on(), sql.named, name).await? {
                    return Ok(Err(DeclareError::QueueInUse(name.to_owned(), user)));
                }
                let deleted = store::delete_queue(tx.on(), sql.named, name).await?;
                if deleted {
                    self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                    tx.commit().await?;
                }
                Ok(Ok(deleted))
            })
            .await?;
        self.read_back().await?;
        done
    }

    /// Whether the configuration names the queue of a declared kind.
    fn check_fleet(&self, queue: &str) -> Refusable<bool> {
        match self.jobs.queues().get(queue) {
            Some(settings) if settings.served_by == holdfast_core::config::ServedBy::Rust => {
                Err(DeclareError::RustQueue(queue.to_owned()))
            }
            found => Ok(found.is_some()),
        }
    }

    /// The process that made a change knows it.
    async fn read_back(&self) -> Result<Arc<super::Snapshot>, LedgerError> {
        self.jobs.declared().forget();
        self.jobs.counts_changed();
        self.jobs.declared().current().await
    }
}

fn exceeds(number: i64, most: usize) -> bool {
    usize::try_from(number).is_ok_and(|number| number > most)
}
