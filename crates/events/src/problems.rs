//! From the errors of this crate to problems.

use holdfast_http::problem::{FieldFault, Problem, ProblemKind};

use crate::discovery::SourceError;

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
            SourceError::Unknown(_) => Self::field(ProblemKind::SourceNotFound, "id", text),
            SourceError::NameTaken(_) => {
                let reason = format!("{text}; PUT replaces it, or choose another name");
                Self::field(ProblemKind::NameTaken, "name", reason)
            }
            SourceError::TooMany => Self::new(ProblemKind::TooManySources, text),
            SourceError::Enqueue(error) => error.into(),
            SourceError::Ledger(error) => error.into(),
        }
    }
}
