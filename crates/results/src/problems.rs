//! From the errors of this crate to problems.

use holdfast_http::problem::{Problem, ProblemKind, RETRY_AFTER};

use crate::ResultsError;

impl From<ResultsError> for Problem {
    fn from(error: ResultsError) -> Self {
        let text = error.to_string();
        match error {
            ResultsError::Sql(error) => error.into(),
            ResultsError::TooManyWaiters(_) => {
                Self::unavailable(format!("{text}; ask again, or without wait_seconds"), RETRY_AFTER)
            }
            ResultsError::TooManyParts => Self::field(ProblemKind::InvalidField, "parts", text),
        }
    }
}
