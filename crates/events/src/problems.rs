//! From the errors of this crate to problems.

use holdfast_http::problem::{FieldFault, Problem, ProblemKind};

use crate::discovery::SourceError;

/// The types of problems of this product alone.
#[derive(Debug)]
pub(crate) struct EventsProblem;

holdfast_http::problems!(EventsProblem {
    SourceNotFound = NOT_FOUND "source-not-found", "There is no such source",
        "See `GET /v1/sources`.";
    SubscriptionNotFound = NOT_FOUND "subscription-not-found", "There is no such subscription",
        "See the subscriptions of the user.";
    TooManySources = CONFLICT "too-many-sources", "The limit of stored sources is reached",
        "Delete sources that are not needed.";
    TooManySubscriptions = CONFLICT "too-many-subscriptions", "The limit of stored subscriptions is reached",
        "Delete subscriptions that are not needed.";
});

impl From<SourceError> for Problem {
    fn from(error: SourceError) -> Self {
        let text = error.to_string();
        match error {
            SourceError::Invalid(faults) => {
                let faults = faults
                    .into_iter()
                    .map(|fault| FieldFault::new(fault.field, fault.reason));
                Self::faults(ProblemKind::InvalidField, faults.collect())
            }
            SourceError::Unknown(_) => Self::field(EventsProblem::SourceNotFound, "id", text),
            SourceError::NameTaken(_) => {
                let reason = format!("{text}; PUT replaces it, or choose another name");
                Self::field(ProblemKind::NameTaken, "name", reason)
            }
            SourceError::TooMany => Self::new(EventsProblem::TooManySources, text),
            SourceError::Enqueue(error) => error.into(),
            SourceError::Ledger(error) => error.into(),
        }
    }
}
