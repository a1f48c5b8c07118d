//! Why a job was not accepted.

use std::fmt;
use std::time::Duration;

use crate::id::{BatchId, JobId};
use crate::ledger::LedgerError;

/// What is wrong, for programs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum FaultCode {
    UnknownKind,
    UnknownQueue,
    /// The payload is not one that the kind can run.
    InvalidPayload,
    PayloadTooLarge,
    PayloadTooDeep,
    /// A field's value is of no use.
    InvalidField,
    BatchTooLarge,
    BatchEmpty,
}

/// One fault of one request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    pub code: FaultCode,
    /// The field's path in the request, such as `payload.url`.
    pub field: String,
    /// What is wrong and what would be right.
    pub reason: String,
    /// Which job of a batch, from 0.
    pub index: Option<usize>,
}

impl Fault {
    pub(crate) fn new(code: FaultCode, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            code,
            field: field.into(),
            reason: reason.into(),
            index: None,
        }
    }

    /// The same fault, of something that stands under this field.
    pub(crate) fn under(self, field: &str) -> Self {
        Self {
            field: format!("{field}.{}", self.field),
            ..self
        }
    }

    pub(crate) fn field(field: &str, reason: impl Into<String>) -> Self {
        Self::new(FaultCode::InvalidField, field, reason)
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(index) = self.index {
            write!(f, "jobs[{index}].")?;
        }
        write!(f, "{}: {}", self.field, self.reason)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum EnqueueError {
    /// The request is wrong; the same request will be wrong again. Nothing was accepted.
    #[error("{0}")]
    Invalid(Fault),
    /// The idempotency key was used for another job. Nothing was accepted.
    #[error("the idempotency key belongs to job {id}, which has another kind or payload")]
    KeyReused { id: JobId },
    /// The same for a batch.
    #[error("the idempotency key belongs to another batch, {id}")]
    BatchKeyReused { id: BatchId },
    /// No store could take the job now. It was not accepted, unless `certain` is false: then a store may have taken it
    /// and its answer was lost; a repeat with an idempotency key is safe.
    #[error("no store can take the job now")]
    Unavailable {
        certain: bool,
        retry_after: Duration,
        #[source]
        source: Option<LedgerError>,
    },
    /// Another transaction that is still open has written a job with the same unique key, or a job or batch with the same
    /// idempotency key: whether this one is a duplicate is known once that transaction ends. `certain` as above.
    #[error("another open transaction holds the job's unique key or idempotency key")]
    KeyHeld { certain: bool, retry_after: Duration },
    /// A fault of this program or its database.
    #[error("the job could not be stored")]
    Internal(#[source] LedgerError),
}
