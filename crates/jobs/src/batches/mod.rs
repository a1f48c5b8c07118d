//! Batches: jobs that belong together, with their progress, and a callback when all of them are final.
//!
//! # States
//! `running` until every job of the batch is final (completed, discarded or cancelled), then `ended`, for good. The
//! callback, if there is one, is enqueued in the transaction that ends the batch, whatever became of the jobs: it is told
//! the counts ([`crate::JobContext::ended_batch`]).
//!
//! # Invariants
//! - A batch and its jobs are accepted in one transaction: all or nothing. Its jobs are the ones it was made with; what
//!   follows one of them in a chain is not in it.
//! - Its jobs live in the ledger, whatever the durability of their queues: durability only goes up.
//! - `completed + discarded + cancelled` are the jobs that are final. They are counted on the batch's own row
//!   ([`crate::follow_ups`]), so that pruning finished jobs, or deleting dead letters, changes no count.
//! - A dead letter that is redriven while its batch runs is pending again, and the batch waits for it. Once the batch has
//!   ended it stays as it was: a redriven job runs, and is not counted a second time.
//!
//! # When things fail
//! The counts cannot be lost apart from the outcomes they count. The [sweep](upkeep::sweep) ends a batch whose last jobs
//! were finished by a process of a version that knew no batches, from the states of their rows.

mod builder;
mod cancel;
mod model;
pub(crate) mod read;
pub(crate) mod store;
mod upkeep;

use std::time::Duration;

pub use self::builder::BatchBuilder;
pub use self::cancel::CancelledBatch;
pub use self::model::{BatchFilter, BatchRecord, BatchRequest, CallbackRecord, EnqueuedBatch, Progress};
pub(crate) use self::model::{NewBatch, Tally};

use crate::client::Jobs;
use crate::enqueue::{Enqueue, EnqueueError};
use crate::id::BatchId;
use crate::ledger::LedgerError;
use crate::sql::Sql;
use crate::wait::Followable;

/// Batches as they are read: [`Jobs::batches`].
#[derive(Debug, Clone)]
pub struct Batches {
    sql: Sql,
    jobs: Jobs,
}

impl Jobs {
    /// Starts a batch of typed jobs; await it to enqueue them.
    pub fn batch(&self, jobs: impl IntoIterator<Item = Enqueue>) -> BatchBuilder {
        BatchBuilder::new(self.clone(), jobs)
    }

    /// Enqueues a batch worded by an outside producer; a fault names the job's index.
    pub async fn enqueue_batch(&self, request: BatchRequest) -> Result<EnqueuedBatch, EnqueueError> {
        let requests = request.jobs.iter().chain(request.callback.as_ref());
        self.producer().look_up(requests).await?;
        let checked = self.producer().check_group(request, false)?;
        self.producer().store_group(checked).await
    }

    /// To read batches.
    pub fn batches(&self) -> Batches {
        Batches {
            sql: self.sql().clone(),
            jobs: self.clone(),
        }
    }
}

impl Batches {
    /// The batch; `None`: unknown, or no longer kept.
    pub async fn get(&self, id: BatchId) -> Result<Option<BatchRecord>, LedgerError> {
        self.sql
            .within("read a batch", async {
                let mut tx = self.sql.begin_read().await?;
                let found = read::get(tx.on(), id, self.sql.named).await?;
                tx.commit().await?;
                Ok(found)
            })
            .await
    }

    /// The batch once it has ended, or as it stands after `limit`.
    pub async fn wait(&self, id: BatchId, limit: Duration) -> Result<Option<BatchRecord>, LedgerError> {
        let ended = self.jobs.waiting().join(Followable::Batch(id));
        match self.get(id).await? {
            Some(record) if record.ended_at.is_none() => {}
            known => return Ok(known),
        }
        // Either way the batch is read again.
        let _ = tokio::time::timeout(limit, ended.notified()).await;
        self.get(id).await
    }

    /// Where the jobs of a batch stand; those whose rows were pruned are counted as what they were.
    pub async fn progress(&self, id: BatchId) -> Result<Option<(BatchRecord, Progress)>, LedgerError> {
        self.sql
            .within("count a batch", async {
                let mut tx = self.sql.begin_read().await?;
                let found = match read::get(tx.on(), id, self.sql.named).await? {
                    Some(record) => {
                        let progress = read::progress(tx.on(), &record, self.sql.named).await?;
                        Some((record, progress))
                    }
                    None => None,
                };
                tx.commit().await?;
                Ok(found)
            })
            .await
    }

    /// Newest first.
    pub async fn list(&self, filter: &BatchFilter) -> Result<Vec<BatchRecord>, LedgerError> {
        self.sql
            .within("list batches", async {
                let mut tx = self.sql.begin_read().await?;
                let records = read::list(tx.on(), filter, self.sql.named).await?;
                tx.commit().await?;
                Ok(records)
            })
            .await
    }

    /// Forgets up to `most` batches that ended longer than `retain` ago.
    pub async fn prune(&self, retain: Duration, most: usize) -> Result<u64, LedgerError> {
        self.sql
            .within("prune batches", async {
                let mut tx = self.sql.begin().await?;
                let pruned = upkeep::prune(tx.on(), retain, most, self.sql.named).await?;
                tx.commit().await?;
                Ok(pruned)
            })
            .await
    }

    /// Ends up to `most` batches that nobody has ended though all of their jobs are final; see the module.
    pub async fn sweep(&self, most: usize) -> Result<u64, LedgerError> {
        let look = self.sql.within("look for batches that should have ended", async {
            let mut tx = self.sql.begin_read().await?;
            let left = upkeep::left_open(tx.on(), most, self.sql.named).await?;
            tx.commit().await?;
            Ok(left)
        });
        let left = look.await?;
        if left.is_empty() {
            return Ok(0);
        }
        self.sql.observers.ready().await?;
        let end = self.sql.within("end batches that were left open", async {
            let mut tx = self.sql.begin().await?;
            let missing = upkeep::sweep(tx.on(), &left, self.sql.named).await?;
            let observers = Some(&self.sql.observers);
            let effects = crate::follow_ups::count(tx.on(), &missing, self.sql.named, observers).await?;
            tx.commit().await?;
            Ok((missing.len() as u64, effects))
        });
        let (swept, effects) = end.await?;
        self.jobs.announce(&effects);
        Ok(swept)
    }
}
