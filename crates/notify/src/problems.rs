//! From the errors of this crate to problems.

use holdfast_http::params::IDEMPOTENCY_KEY;
use holdfast_http::problem::{FieldFault, Problem, ProblemKind};

use crate::PreferenceError;
use crate::mail::MailError;
use crate::notifications::NoticeError;
use crate::webhooks::WebhookError;

/// The types of problems of this product alone.
#[derive(Debug)]
pub(crate) struct NotifyProblem;

holdfast_http::problems!(NotifyProblem {
    WebhookNotFound = NOT_FOUND "webhook-not-found", "There is no such webhook",
        "See `GET /v1/webhooks`.";
    MailTemplateNotFound = NOT_FOUND "mail-template-not-found", "There is no such mail template",
        "See `GET /v1/mail/templates`.";
    TooManyWebhooks = CONFLICT "too-many-webhooks", "The limit of stored webhooks is reached",
        "Delete webhooks that are not needed.";
    TooManyMailTemplates = CONFLICT "too-many-mail-templates", "The limit of stored mail templates is reached",
        "Delete mail templates that are not needed.";
});

impl From<WebhookError> for Problem {
    fn from(error: WebhookError) -> Self {
        let text = error.to_string();
        match error {
            WebhookError::Invalid(fault) => Self::field(ProblemKind::InvalidField, fault.field, fault.reason),
            WebhookError::Unknown(_) => Self::field(NotifyProblem::WebhookNotFound, "id", text),
            WebhookError::TooMany => Self::new(NotifyProblem::TooManyWebhooks, text),
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
            MailError::UnknownTemplate(_) => Self::field(NotifyProblem::MailTemplateNotFound, "name", text),
            MailError::TooManyTemplates => Self::new(NotifyProblem::TooManyMailTemplates, text),
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
            NoticeError::Reserved(_) => Self::field(ProblemKind::InvalidField, "type", text),
            NoticeError::InvalidData(reason) => Self::field(ProblemKind::InvalidField, "data", reason),
            NoticeError::TooLarge { .. } => Self::field(ProblemKind::PayloadTooLarge, "data", text),
            NoticeError::KeyReused(_) => Self::field(
                ProblemKind::IdempotencyKeyReused,
                IDEMPOTENCY_KEY,
                format!("{text}; use a new key"),
            ),
            NoticeError::Enqueue(error) => error.into(),
            NoticeError::Sql(error) => error.into(),
        }
    }
}

impl From<PreferenceError> for Problem {
    fn from(error: PreferenceError) -> Self {
        let text = error.to_string();
        match error {
            PreferenceError::Unknown(_) => Self::field(ProblemKind::UserNotFound, "id", text),
            PreferenceError::NameOfAccount { .. } => Self::field(ProblemKind::InvalidId, "id", text),
            PreferenceError::Invalid(faults) => {
                let faults = faults
                    .into_iter()
                    .map(|fault| FieldFault::new(fault.field, fault.reason));
                Self::faults(ProblemKind::InvalidField, faults.collect())
            }
            PreferenceError::Sql(error) => error.into(),
            PreferenceError::Enqueue(error) => error.into(),
        }
    }
}
