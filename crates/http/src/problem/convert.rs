//! From the errors of the engine to problems. The crates above convert their own errors.

use std::time::Duration;

use actix_web::http::StatusCode;
use holdfast_jobs::EditError;
use holdfast_jobs::bulk::BulkError;
use holdfast_jobs::declared::DeclareError;
use holdfast_jobs::enqueue::{EnqueueError, Fault, FaultCode};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::pull::PullError;
use holdfast_jobs::schedules::ScheduleError;

use super::{FieldFault, Problem, ProblemKind};
use crate::params::IDEMPOTENCY_KEY;

/// What a client is told to wait for a store that does not answer: an outage is rarely over sooner.
pub const RETRY_AFTER: Duration = Duration::from_secs(2);

impl From<Fault> for Problem {
    fn from(fault: Fault) -> Self {
        Self::faults(
            kind_of(fault.code),
            vec![FieldFault {
                index: fault.index,
                ..FieldFault::new(fault.field, fault.reason)
            }],
        )
    }
}

/// All faults of one document. The first one says what kind of problem they are.
impl From<Vec<Fault>> for Problem {
    fn from(faults: Vec<Fault>) -> Self {
        let kind = faults
            .first()
            .map_or(ProblemKind::InvalidField, |fault| kind_of(fault.code));
        let faults = faults
            .into_iter()
            .map(|fault| FieldFault::new(fault.field, fault.reason));
        Self::faults(kind, faults.collect())
    }
}

/// The problem of a fault that the engine found in a request.
pub const fn kind_of(code: FaultCode) -> ProblemKind {
    match code {
        FaultCode::UnknownKind => ProblemKind::UnknownKind,
        FaultCode::UnknownQueue => ProblemKind::UnknownQueue,
        FaultCode::InvalidPayload => ProblemKind::InvalidPayload,
        FaultCode::PayloadTooLarge => ProblemKind::PayloadTooLarge,
        FaultCode::PayloadTooDeep => ProblemKind::PayloadTooDeep,
        FaultCode::InvalidField => ProblemKind::InvalidField,
        FaultCode::BatchTooLarge => ProblemKind::BatchTooLarge,
        FaultCode::BatchEmpty => ProblemKind::BatchEmpty,
    }
}

impl From<EditError> for Problem {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Invalid(fault) => fault.into(),
            EditError::Ledger(error) => error.into(),
        }
    }
}

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Invalid(fault) => fault.into(),
            EnqueueError::KeyReused { id } => Self::field(
                ProblemKind::IdempotencyKeyReused,
                IDEMPOTENCY_KEY,
                format!("it was used for job {id}, which has another kind or payload; use a new key"),
            )
            .about(id),
            EnqueueError::BatchKeyReused { id } => Self::field(
                ProblemKind::IdempotencyKeyReused,
                IDEMPOTENCY_KEY,
                format!(
                    "it was used for batch {id}, which has other jobs, another name or another callback; use a new key"
                ),
            ),
            EnqueueError::Unavailable {
                certain,
                retry_after,
                source,
            } => {
                let detail = if certain {
                    "no store can take the job now; it was not accepted, try again"
                } else {
                    "no store has confirmed the job, but one may have taken it; try again with the same \
                     Idempotency-Key, which cannot enqueue it twice"
                };
                let problem = Self::unavailable(detail, retry_after);
                match source {
                    Some(source) => problem.caused_by(source),
                    None => problem,
                }
            }
            EnqueueError::KeyHeld { certain, retry_after } => {
                let detail = if certain {
                    "another transaction that is still open holds the unique_key or the Idempotency-Key; nothing was \
                     accepted, try again once it has ended"
                } else {
                    "another transaction that is still open holds the unique_key or the Idempotency-Key, and an earlier \
                     try may have been accepted; try again with the same key, which cannot enqueue it twice"
                };
                Self::unavailable(detail, retry_after)
            }
            EnqueueError::Internal(source) => Self::internal(source),
        }
    }
}

impl From<BulkError> for Problem {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::KeyReused { operation } => Self::field(
                ProblemKind::IdempotencyKeyReused,
                IDEMPOTENCY_KEY,
                format!("the operation {operation} was asked for under this key, and it was another one"),
            ),
            BulkError::Ledger(error) => error.into(),
            BulkError::Unavailable { what } => Self::unavailable(
                format!("{what} does not answer now, and is needed for this; nothing was done, try again"),
                RETRY_AFTER,
            ),
        }
    }
}

impl From<ScheduleError> for Problem {
    fn from(error: ScheduleError) -> Self {
        let text = error.to_string();
        match error {
            ScheduleError::Invalid(faults) => faults.into(),
            ScheduleError::Unknown(_) => Self::field(ProblemKind::ScheduleNotFound, "name", text),
            ScheduleError::Exists(_) => {
                let reason = format!("{text}; PUT replaces it, or choose another name");
                Self::field(ProblemKind::ScheduleExists, "name", reason)
            }
            ScheduleError::Configured(_) => Self::field(ProblemKind::ScheduleConfigured, "name", text),
            ScheduleError::TooMany => Self::new(ProblemKind::TooManySchedules, text),
            ScheduleError::Sealed(reason) => {
                Self::unavailable(format!("the schedule cannot be run: {reason}"), RETRY_AFTER)
            }
            ScheduleError::Contended(_) => Self::unavailable(format!("{text}; try again"), RETRY_AFTER),
            ScheduleError::Enqueue(error) => error.into(),
            ScheduleError::Ledger(error) => error.into(),
        }
    }
}

impl From<PullError> for Problem {
    fn from(error: PullError) -> Self {
        let text = error.to_string();
        match error {
            PullError::Invalid(faults) => faults.into(),
            PullError::RustQueue(_) => Self::field(ProblemKind::QueueOfAnotherFleet, "queues", text),
            PullError::UnknownWorker(_) => Self::field(ProblemKind::WorkerNotFound, "id", text),
            PullError::TooManyWaiting => Self::unavailable(format!("{text}; pull again later"), RETRY_AFTER),
            PullError::Locked => Self::unavailable(format!("{text}; send them again"), RETRY_AFTER),
            PullError::Ledger(error) => error.into(),
        }
    }
}

impl From<DeclareError> for Problem {
    fn from(error: DeclareError) -> Self {
        let text = error.to_string();
        match error {
            DeclareError::Invalid(faults) => faults.into(),
            DeclareError::CodedKind(_) => Self::field(ProblemKind::KindCoded, "name", text),
            DeclareError::ConfiguredQueue(_) => Self::field(ProblemKind::QueueConfigured, "name", text),
            DeclareError::RustQueue(_) => Self::field(ProblemKind::QueueOfAnotherFleet, "queue", text),
            DeclareError::QueueInUse(..) => Self::field(ProblemKind::QueueInUse, "name", text),
            DeclareError::TooManyKinds => Self::new(ProblemKind::TooManyKinds, text),
            DeclareError::TooManyQueues => Self::new(ProblemKind::TooManyQueues, text),
            DeclareError::Ledger(error) => error.into(),
        }
    }
}

impl From<LedgerError> for Problem {
    fn from(error: LedgerError) -> Self {
        if error.is_transient() {
            Self::unavailable("the database does not answer now; try again", RETRY_AFTER).caused_by(error)
        } else {
            Self::internal(error)
        }
    }
}

/// What actix itself answers with: only its status is of use.
pub(crate) fn of_status(status: StatusCode) -> Problem {
    match status {
        StatusCode::NOT_FOUND => Problem::new(ProblemKind::RouteNotFound, "see /openapi.json for all routes"),
        StatusCode::METHOD_NOT_ALLOWED => Problem::new(ProblemKind::MethodNotAllowed, "see /openapi.json"),
        StatusCode::PAYLOAD_TOO_LARGE => Problem::new(ProblemKind::BodyTooLarge, "the body is too large"),
        StatusCode::REQUEST_TIMEOUT => Problem::new(ProblemKind::BodyTimedOut, "the request came too slowly"),
        status if status.is_client_error() => Problem::new(
            ProblemKind::BadRequest,
            status
                .canonical_reason()
                .unwrap_or("the request is not acceptable"),
        ),
        status => Problem::internal(format!("a part of the server answered {status}")),
    }
}
