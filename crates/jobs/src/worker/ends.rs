//! Outcomes on their way into the ledger: those that stand for themselves, and those that something follows.

use holdfast_core::clock;

use super::Shared;
use super::finisher::Finished;
use crate::follow_ups::{self, FollowedOutcome};
use crate::id::{JobId, WorkerId};
use crate::ledger::{ErrorRecord, FreeFinish, LedgerError, Outcome};

/// Which outcomes share transactions.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sort {
    /// Nothing follows these: one statement.
    Plain,
    /// The next job of a chain, or the count of a batch, follows each of these.
    Tied,
}

impl Sort {
    /// Writes outcomes of one worker under their fences; answers with the ids that were still held.
    pub(super) async fn store<'f>(
        self,
        shared: &Shared,
        worker: WorkerId,
        finished: impl Iterator<Item = &'f Finished>,
    ) -> Result<Vec<JobId>, LedgerError> {
        match self {
            Self::Plain => shared.jobs.ledger().finish(worker, &plain(finished)).await,
            Self::Tied => {
                let (held, effects) = follow_ups::finish(shared.jobs.sql(), worker, &tied(finished)).await?;
                shared.jobs.announce(&effects);
                Ok(held)
            }
        }
    }

    /// The same without waiting for what somebody has locked.
    pub(super) async fn store_free<'f>(
        self,
        shared: &Shared,
        worker: WorkerId,
        finished: impl Iterator<Item = &'f Finished>,
    ) -> Result<FreeFinish, LedgerError> {
        match self {
            Self::Plain => shared.jobs.ledger().finish_free(worker, &plain(finished)).await,
            Self::Tied => {
                let (finish, effects) =
                    follow_ups::finish_free(shared.jobs.sql(), worker, &tied(finished)).await?;
                shared.jobs.announce(&effects);
                Ok(finish)
            }
        }
    }
}

fn plain<'f>(finished: impl Iterator<Item = &'f Finished>) -> Vec<Outcome> {
    finished.map(|one| one.outcome.clone()).collect()
}

/// An outcome that was replaced may have lost what followed it; it is stored in the same way nevertheless.
fn tied<'f>(finished: impl Iterator<Item = &'f Finished>) -> Vec<FollowedOutcome> {
    finished
        .map(|one| {
            FollowedOutcome::of(&one.job, &one.outcome).unwrap_or_else(|| FollowedOutcome {
                outcome: one.outcome.clone(),
                batch: None,
                next: None,
            })
        })
        .collect()
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
