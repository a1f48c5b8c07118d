//! Outcomes on their way into the ledger: those that stand for themselves, and those that something follows.

use holdfast_core::clock;

use super::finisher::FinishedJob;
use super::{WorkerState, log};
use crate::follow_ups::{self, FollowedOutcome};
use crate::id::{JobId, WorkerId};
use crate::ledger::{ErrorRecord, FreeFinish, LedgerError, Outcome};

/// Which outcomes share transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Nothing follows these: one statement.
    Plain,
    /// The next job of a chain, the count of a batch, or what an observer enqueues follows each of these.
    Tied,
}

impl Sort {
    /// Writes outcomes of one worker under their fences; answers with the ids that were still held.
    pub(super) async fn store<'f>(
        self,
        shared: &WorkerState,
        worker: WorkerId,
        finished: impl Iterator<Item = &'f FinishedJob>,
    ) -> Result<Vec<JobId>, LedgerError> {
        let finished: Vec<&FinishedJob> = finished.collect();
        log::store_last_lines(shared, worker, &finished).await?;
        if !self.is_followed(shared, &finished) {
            return shared.jobs.ledger().finish(worker, &plain(&finished)).await;
        }
        let outcomes = followed(shared, &finished).await?;
        let (held, effects) = follow_ups::finish(shared.jobs.sql(), worker, &outcomes).await?;
        shared.jobs.announce(&effects);
        Ok(held)
    }

    /// The same without waiting for what somebody has locked.
    pub(super) async fn store_free<'f>(
        self,
        shared: &WorkerState,
        worker: WorkerId,
        finished: impl Iterator<Item = &'f FinishedJob>,
    ) -> Result<FreeFinish, LedgerError> {
        let finished: Vec<&FinishedJob> = finished.collect();
        log::store_last_lines(shared, worker, &finished).await?;
        if !self.is_followed(shared, &finished) {
            return shared.jobs.ledger().finish_free(worker, &plain(&finished)).await;
        }
        let outcomes = followed(shared, &finished).await?;
        let (finish, effects) = follow_ups::finish_free(shared.jobs.sql(), worker, &outcomes).await?;
        shared.jobs.announce(&effects);
        Ok(finish)
    }

    /// An outcome may have become one that an observer wants since it was sorted: a refused one is replaced by a dead letter.
    fn is_followed(self, shared: &WorkerState, finished: &[&FinishedJob]) -> bool {
        let observers = shared.jobs.observers();
        self == Self::Tied
            || finished
                .iter()
                .any(|one| observers.may_want(&one.job.kind, &one.slot.lane().name, &one.outcome))
    }
}

fn plain(finished: &[&FinishedJob]) -> Vec<Outcome> {
    finished.iter().map(|one| one.outcome.clone()).collect()
}

/// An outcome that was replaced may have lost what followed it, and one that an observer might have wanted is perhaps not
/// wanted; they are stored in the same way nevertheless.
async fn followed(
    shared: &WorkerState,
    finished: &[&FinishedJob],
) -> Result<Vec<FollowedOutcome>, LedgerError> {
    let observers = shared.jobs.observers();
    observers.ready().await?;
    let followed = finished
        .iter()
        .map(|one| FollowedOutcome::observed(&one.job, &one.slot.lane().name, &one.outcome, observers));
    Ok(followed.collect())
}

/// In place of an outcome that the ledger refuses for good: a dead letter with the reason; if that is refused too, one that
/// says no more than that. `refusals`: how often this job's outcome was refused before. `None`: nothing is left to try.
pub(crate) fn replacement(
    outcome: &Outcome,
    refusals: u32,
    error: &LedgerError,
    worker: &str,
) -> Option<Outcome> {
    let message = match refusals {
        0 => format!("the outcome could not be stored: {error:?}"),
        1 => "the outcome could not be stored: the database refuses it".to_owned(),
        _ => return None,
    };
    let fence = *outcome.fence();
    let error = ErrorRecord::new(clock::now(), fence.attempt + 1, "permanent", &message, worker);
    Some(Outcome::Discard { fence, error })
}
