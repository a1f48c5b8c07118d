//! Outcomes on their way into the ledger: those that stand for themselves, and those that something hangs on.

use std::collections::HashSet;

use holdfast_core::clock;

use super::Shared;
use super::finisher::Finished;
use crate::id::{JobId, WorkerId};
use crate::ledger::{ErrorRecord, LedgerError, Outcome};
use crate::ties::{self, TiedOutcome};

/// Outcomes of one transaction.
#[derive(Debug)]
pub(super) enum Ends {
    /// Nothing hangs on these: one statement.
    Plain(Vec<Outcome>),
    /// The next job of a chain, or the count of a batch, hangs on each of these.
    Tied(Vec<TiedOutcome>),
}

/// What is tied, and what is plain.
pub(super) fn apart(finished: &[Finished]) -> (Ends, Ends) {
    let (mut tied, mut plain) = (Vec::new(), Vec::with_capacity(finished.len()));
    for one in finished {
        match TiedOutcome::of(&one.job, &one.outcome) {
            Some(outcome) => tied.push(outcome),
            None => plain.push(one.outcome.clone()),
        }
    }
    (Ends::Tied(tied), Ends::Plain(plain))
}

impl Ends {
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Plain(outcomes) => outcomes.len(),
            Self::Tied(outcomes) => outcomes.len(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn ids(&self) -> HashSet<JobId> {
        match self {
            Self::Plain(outcomes) => outcomes.iter().map(|outcome| outcome.fence().id).collect(),
            Self::Tied(outcomes) => outcomes.iter().map(|tied| tied.outcome.fence().id).collect(),
        }
    }

    /// Writes them; answers with the ids that were still held.
    pub(super) async fn store(&self, shared: &Shared, worker: WorkerId) -> Result<Vec<JobId>, LedgerError> {
        match self {
            Self::Plain(outcomes) => shared.jobs.ledger().finish(worker, outcomes).await,
            Self::Tied(outcomes) => {
                let (held, aftermath) = ties::finish(shared.jobs.sql(), worker, outcomes).await?;
                shared.jobs.announce(&aftermath);
                Ok(held)
            }
        }
    }

    pub(super) fn one_by_one(self) -> Vec<Self> {
        match self {
            Self::Plain(outcomes) => outcomes.into_iter().map(|one| Self::Plain(vec![one])).collect(),
            Self::Tied(outcomes) => outcomes.into_iter().map(|one| Self::Tied(vec![one])).collect(),
        }
    }

    /// In place of outcomes that the ledger refuses for good. `None`: they were discarded already.
    pub(super) fn discarded_instead(&self, error: &LedgerError, worker: &str) -> Option<Self> {
        let message = format!("the outcome could not be stored: {error:?}");
        let discarded = |outcome: &Outcome| {
            let fence = *outcome.fence();
            let error = ErrorRecord::new(clock::now(), fence.attempt + 1, "permanent", &message, worker);
            (!matches!(outcome, Outcome::Discard { .. })).then_some(Outcome::Discard { fence, error })
        };
        match self {
            Self::Plain(outcomes) => outcomes
                .iter()
                .map(discarded)
                .collect::<Option<_>>()
                .map(Self::Plain),
            Self::Tied(outcomes) => {
                let tied = |tied: &TiedOutcome| {
                    Some(TiedOutcome {
                        outcome: discarded(&tied.outcome)?,
                        batch: tied.batch,
                        next: None,
                    })
                };
                outcomes.iter().map(tied).collect::<Option<_>>().map(Self::Tied)
            }
        }
    }
}
