//! From the errors of the crates below to what a client is told.

use std::time::Duration;

use actix_web::http::StatusCode;
use holdfast::events::discovery::SourceError;
use holdfast::notify::mail::MailError;
use holdfast::notify::notifications::NoticeError;
use holdfast::notify::webhooks::WebhookError;
use holdfast::points::PointsError;
use holdfast_jobs::bulk::BulkError;
use holdfast_jobs::enqueue::{EnqueueError, Fault, FaultCode};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::schedules::ScheduleError;

use crate::auth::KeyError;

use super::{FieldFault, Problem, ProblemKind};

/// What a client is told to wait for a store that does not answer: an outage is rarely over sooner.
pub(crate) const RETRY_AFTER: Duration = Duration::from_secs(2);

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

const fn kind_of(code: FaultCode) -> ProblemKind {
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

impl From<EnqueueError> for Problem {
    fn from(error: EnqueueError) -> Self {
        match error {
            EnqueueError::Invalid(fault) => fault.into(),
            EnqueueError::KeyReused { id } => Self::field(
                ProblemKind::IdempotencyKeyReused,
                crate::routes::IDEMPOTENCY_KEY,
                format!("it was used for job {id}, which has another kind or payload; use a new key"),
            )
            .about(id),
            EnqueueError::BatchKeyReused { id } => Self::field(
                ProblemKind::IdempotencyKeyReused,
                crate::routes::IDEMPOTENCY_KEY,
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
                crate::routes::IDEMPOTENCY_KEY,
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
            ScheduleError::Invalid(faults) => {
                let kind = faults
                    .first()
                    .map_or(ProblemKind::InvalidField, |fault| kind_of(fault.code));
                let faults = faults
                    .into_iter()
                    .map(|fault| FieldFault::new(fault.field, fault.reason));
                Self::faults(kind, faults.collect())
            }
            ScheduleError::Unknown(_) => Self::field(ProblemKind::ScheduleNotFound, "name", text),
            ScheduleError::Exists(_) => {
                let reason = format!("{text}; PUT replaces it, or choose another name");
                Self::field(ProblemKind::ScheduleExists, "name", reason)
            }
            ScheduleError::Configured(_) => Self::field(ProblemKind::ScheduleConfigured, "name", text),
            ScheduleError::TooMany => Self::new(ProblemKind::TooManySchedules, text),
            ScheduleError::Contended(_) => Self::unavailable(format!("{text}; try again"), RETRY_AFTER),
            ScheduleError::Enqueue(error) => error.into(),
            ScheduleError::Ledger(error) => error.into(),
        }
    }
}

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

impl From<PointsError> for Problem {
    fn from(PointsError::Sql(error): PointsError) -> Self {
        if error.is_transient() {
            let detail = "neither Redis nor the database can take the points now; some may have been taken: send all of \
                          them again, which doubles none";
            return Self::unavailable(detail, RETRY_AFTER).caused_by(error);
        }
        error.into()
    }
}

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        let text = error.to_string();
        match error {
            WebhookError::Invalid(fault) => Self::field(ProblemKind::InvalidField, fault.field, fault.reason),
            WebhookError::Unknown(_) => Self::field(ProblemKind::WebhookNotFound, "id", text),
            WebhookError::TooMany => Self::new(ProblemKind::TooManyWebhooks, text),
            WebhookError::Enqueue(error) => error.into(),
            WebhookError::Sql(error) => error.into(),
        }
    }
}

impl From<MailError> for Problem {
    fn from(error: MailError) -> Self {
        let text = error.to_string();
        match error {
            MailError::Invalid { field, reason } => Self::field(ProblemKind::InvalidField, field, reason),
            MailError::UnknownTemplate(_) => Self::field(ProblemKind::MailTemplateNotFound, "name", text),
            MailError::TooManyTemplates => Self::new(ProblemKind::TooManyMailTemplates, text),
            MailError::NotSuppressed(_) => Self::field(ProblemKind::NothingMatched, "address", text),
            MailError::Enqueue(error) => error.into(),
            MailError::Sql(error) => error.into(),
        }
    }
}

impl From<NoticeError> for Problem {
    fn from(error: NoticeError) -> Self {
        let text = error.to_string();
        match error {
            NoticeError::InvalidData(reason) => Self::field(ProblemKind::InvalidField, "data", reason),
            NoticeError::TooLarge { .. } => Self::field(ProblemKind::PayloadTooLarge, "data", text),
            NoticeError::KeyReused(_) => Self::field(
                ProblemKind::IdempotencyKeyReused,
                crate::routes::IDEMPOTENCY_KEY,
                format!("{text}; use a new key"),
            ),
            NoticeError::Enqueue(error) => error.into(),
            NoticeError::Sql(error) => error.into(),
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

impl From<KeyError> for Problem {
    fn from(error: KeyError) -> Self {
        let reason = error.to_string();
        match error {
            KeyError::InvalidName => Self::field(ProblemKind::InvalidField, "name", reason),
            KeyError::NameTaken => Self::field(ProblemKind::NameTaken, "name", reason),
            KeyError::GraceTooLong => Self::field(ProblemKind::InvalidField, "grace_seconds", reason),
            KeyError::Revoked => Self::new(ProblemKind::KeyRevoked, reason),
            KeyError::TooMany => Self::new(ProblemKind::InvalidField, reason),
            KeyError::Unavailable(source) => {
                Self::unavailable("the database does not answer now; try again", RETRY_AFTER)
                    .caused_by(source)
            }
            KeyError::Failed(source) => Self::internal(source),
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
