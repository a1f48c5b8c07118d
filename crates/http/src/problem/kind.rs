//! Every type of problem this server answers with. A type is a promise to clients: its slug never changes.

use actix_web::http::StatusCode;

/// What went wrong, for programs. The `type` member is `urn:holdfast:problem:<slug>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ProblemKind {
    /// The request is wrong in a way that has no type of its own.
    BadRequest,
    MalformedJson,
    InvalidHeader,
    InvalidParameter,
    InvalidCursor,
    InvalidId,
    NotASession,
    Unauthenticated,
    LoginFailed,
    MissingScope,
    KeyBound,
    UntrustedOrigin,
    RouteNotFound,
    JobNotFound,
    BatchNotFound,
    QueueNotFound,
    KindNotFound,
    WorkerNotFound,
    NothingMatched,
    ScheduleNotFound,
    KeyNotFound,
    SigningKeyNotFound,
    TrackNotFound,
    WebhookNotFound,
    MailTemplateNotFound,
    LinkNotFound,
    SourceNotFound,
    SubscriptionNotFound,
    UserNotFound,
    MethodNotAllowed,
    BodyTimedOut,
    IllegalTransition,
    ScheduleExists,
    ScheduleConfigured,
    TooManySchedules,
    TooManyWebhooks,
    TooManyMailTemplates,
    NameTaken,
    KeyRevoked,
    SigningKeyExists,
    EncryptionOff,
    TrackExists,
    TooManySources,
    TooManySubscriptions,
    KindCoded,
    TooManyKinds,
    QueueConfigured,
    QueueInUse,
    QueueOfAnotherFleet,
    TooManyQueues,
    BodyTooLarge,
    PayloadTooLarge,
    BatchTooLarge,
    UriTooLong,
    UnsupportedMediaType,
    InvalidField,
    UnknownKind,
    UnknownQueue,
    InvalidPayload,
    PayloadTooDeep,
    BatchEmpty,
    IdempotencyKeyReused,
    TooManyRequests,
    Internal,
    LoginOff,
    Unavailable,
    TimedOut,
}

impl ProblemKind {
    /// In the order of their status codes.
    pub const ALL: [Self; 67] = [
        Self::BadRequest,
        Self::MalformedJson,
        Self::InvalidHeader,
        Self::InvalidParameter,
        Self::InvalidCursor,
        Self::InvalidId,
        Self::NotASession,
        Self::Unauthenticated,
        Self::LoginFailed,
        Self::MissingScope,
        Self::KeyBound,
        Self::UntrustedOrigin,
        Self::RouteNotFound,
        Self::JobNotFound,
        Self::BatchNotFound,
        Self::QueueNotFound,
        Self::KindNotFound,
        Self::WorkerNotFound,
        Self::NothingMatched,
        Self::ScheduleNotFound,
        Self::KeyNotFound,
        Self::SigningKeyNotFound,
        Self::TrackNotFound,
        Self::WebhookNotFound,
        Self::MailTemplateNotFound,
        Self::LinkNotFound,
        Self::SourceNotFound,
        Self::SubscriptionNotFound,
        Self::UserNotFound,
        Self::MethodNotAllowed,
        Self::BodyTimedOut,
        Self::IllegalTransition,
        Self::ScheduleExists,
        Self::ScheduleConfigured,
        Self::TooManySchedules,
        Self::TooManyWebhooks,
        Self::TooManyMailTemplates,
        Self::NameTaken,
        Self::KeyRevoked,
        Self::SigningKeyExists,
        Self::EncryptionOff,
        Self::TrackExists,
        Self::TooManySources,
        Self::TooManySubscriptions,
        Self::KindCoded,
        Self::TooManyKinds,
        Self::QueueConfigured,
        Self::QueueInUse,
        Self::QueueOfAnotherFleet,
        Self::TooManyQueues,
        Self::BodyTooLarge,
        Self::PayloadTooLarge,
        Self::BatchTooLarge,
        Self::UriTooLong,
        Self::UnsupportedMediaType,
        Self::InvalidField,
        Self::UnknownKind,
        Self::UnknownQueue,
        Self::InvalidPayload,
        Self::PayloadTooDeep,
        Self::BatchEmpty,
        Self::IdempotencyKeyReused,
        Self::TooManyRequests,
        Self::Internal,
        Self::LoginOff,
        Self::Unavailable,
        Self::TimedOut,
    ];

    /// The stable part of the type.
    pub const fn slug(self) -> &'static str {
        self.row().0
    }

    pub const fn status(self) -> StatusCode {
        self.row().1
    }

    /// One line for people; the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.row().2
    }

    const fn row(self) -> (&'static str, StatusCode, &'static str) {
        use StatusCode as S;
        match self {
            Self::BadRequest => ("bad-request", S::BAD_REQUEST, "The request is not acceptable"),
            Self::MalformedJson => ("malformed-json", S::BAD_REQUEST, "The body is not JSON"),
            Self::InvalidHeader => ("invalid-header", S::BAD_REQUEST, "A header is invalid"),
            Self::InvalidParameter => (
                "invalid-parameter",
                S::BAD_REQUEST,
                "A query parameter is invalid",
            ),
            Self::InvalidCursor => ("invalid-cursor", S::BAD_REQUEST, "The cursor is invalid"),
            Self::InvalidId => ("invalid-id", S::BAD_REQUEST, "This is not an id"),
            Self::NotASession => ("not-a-session", S::BAD_REQUEST, "Only a session can do this"),
            Self::Unauthenticated => (
                "unauthenticated",
                S::UNAUTHORIZED,
                "An API key or a session is needed",
            ),
            Self::LoginFailed => (
                "login-failed",
                S::UNAUTHORIZED,
                "The name or the password is wrong",
            ),
            Self::MissingScope => ("missing-scope", S::FORBIDDEN, "The API key lacks a scope"),
            Self::KeyBound => (
                "key-bound",
                S::FORBIDDEN,
                "The API key is bound to other queues or kinds",
            ),
            Self::UntrustedOrigin => (
                "untrusted-origin",
                S::FORBIDDEN,
                "Without API keys only this machine is served",
            ),
            Self::RouteNotFound => ("route-not-found", S::NOT_FOUND, "There is no such route"),
            Self::JobNotFound => ("job-not-found", S::NOT_FOUND, "There is no such job"),
            Self::BatchNotFound => ("batch-not-found", S::NOT_FOUND, "There is no such batch"),
            Self::QueueNotFound => ("queue-not-found", S::NOT_FOUND, "There is no such queue"),
            Self::TrackNotFound => ("track-not-found", S::NOT_FOUND, "There is no such track"),
            Self::SigningKeyNotFound => (
                "signing-key-not-found",
                S::NOT_FOUND,
                "There is no such signing key",
            ),
            Self::WebhookNotFound => ("webhook-not-found", S::NOT_FOUND, "There is no such webhook"),
            Self::MailTemplateNotFound => (
                "mail-template-not-found",
                S::NOT_FOUND,
                "There is no such mail template",
            ),
            Self::LinkNotFound => ("link-not-found", S::NOT_FOUND, "The link is invalid"),
            Self::SourceNotFound => ("source-not-found", S::NOT_FOUND, "There is no such source"),
            Self::SubscriptionNotFound => (
                "subscription-not-found",
                S::NOT_FOUND,
                "There is no such subscription",
            ),
            Self::UserNotFound => ("user-not-found", S::NOT_FOUND, "There is no such user"),
            Self::TooManySources => (
                "too-many-sources",
                S::CONFLICT,
                "The limit of stored sources is reached",
            ),
            Self::TooManySubscriptions => (
                "too-many-subscriptions",
                S::CONFLICT,
                "The limit of stored subscriptions is reached",
            ),
            Self::KindNotFound => ("kind-not-found", S::NOT_FOUND, "There is no such kind"),
            Self::WorkerNotFound => (
                "worker-not-found",
                S::NOT_FOUND,
                "There is no such worker of this key",
            ),
            Self::KindCoded => ("kind-coded", S::CONFLICT, "The kind is part of the program"),
            Self::TooManyKinds => (
                "too-many-kinds",
                S::CONFLICT,
                "The limit of declared kinds is reached",
            ),
            Self::QueueConfigured => (
                "queue-configured",
                S::CONFLICT,
                "The queue belongs to the configuration",
            ),
            Self::QueueInUse => ("queue-in-use", S::CONFLICT, "The queue is in use"),
            Self::QueueOfAnotherFleet => (
                "queue-of-another-fleet",
                S::CONFLICT,
                "The queue is served by other workers",
            ),
            Self::TooManyQueues => (
                "too-many-queues",
                S::CONFLICT,
                "The limit of declared queues is reached",
            ),
            Self::NothingMatched => ("nothing-matched", S::NOT_FOUND, "The filter matches nothing"),
            Self::ScheduleNotFound => ("schedule-not-found", S::NOT_FOUND, "There is no such schedule"),
            Self::KeyNotFound => ("key-not-found", S::NOT_FOUND, "There is no such API key"),
            Self::MethodNotAllowed => (
                "method-not-allowed",
                S::METHOD_NOT_ALLOWED,
                "The route has no such method",
            ),
            Self::BodyTimedOut => (
                "body-timed-out",
                S::REQUEST_TIMEOUT,
                "The body did not arrive in time",
            ),
            Self::IllegalTransition => (
                "illegal-transition",
                S::CONFLICT,
                "The job's state does not allow it",
            ),
            Self::ScheduleExists => ("schedule-exists", S::CONFLICT, "A schedule with this name exists"),
            Self::ScheduleConfigured => (
                "schedule-configured",
                S::CONFLICT,
                "The schedule belongs to the configuration",
            ),
            Self::TooManySchedules => (
                "too-many-schedules",
                S::CONFLICT,
                "The limit of stored schedules is reached",
            ),
            Self::TooManyWebhooks => (
                "too-many-webhooks",
                S::CONFLICT,
                "The limit of stored webhooks is reached",
            ),
            Self::TooManyMailTemplates => (
                "too-many-mail-templates",
                S::CONFLICT,
                "The limit of stored mail templates is reached",
            ),
            Self::NameTaken => ("name-taken", S::CONFLICT, "The name is taken"),
            Self::KeyRevoked => ("key-revoked", S::CONFLICT, "The API key is revoked"),
            Self::SigningKeyExists => (
                "signing-key-exists",
                S::CONFLICT,
                "The installation has a signing key",
            ),
            Self::EncryptionOff => ("encryption-off", S::CONFLICT, "There are no encryption keys"),
            Self::TrackExists => ("track-exists", S::CONFLICT, "Another track has this id"),
            Self::BodyTooLarge => ("body-too-large", S::PAYLOAD_TOO_LARGE, "The body is too large"),
            Self::PayloadTooLarge => (
                "payload-too-large",
                S::PAYLOAD_TOO_LARGE,
                "The payload is too large",
            ),
            Self::BatchTooLarge => (
                "batch-too-large",
                S::PAYLOAD_TOO_LARGE,
                "The batch has too many jobs",
            ),
            Self::UriTooLong => ("uri-too-long", S::URI_TOO_LONG, "The query is too long"),
            Self::UnsupportedMediaType => (
                "unsupported-media-type",
                S::UNSUPPORTED_MEDIA_TYPE,
                "The body must be application/json",
            ),
            Self::InvalidField => (
                "invalid-field",
                S::UNPROCESSABLE_ENTITY,
                "A field is missing, unknown or invalid",
            ),
            Self::UnknownKind => (
                "unknown-kind",
                S::UNPROCESSABLE_ENTITY,
                "The kind is unknown to this server",
            ),
            Self::UnknownQueue => ("unknown-queue", S::UNPROCESSABLE_ENTITY, "There is no such queue"),
            Self::InvalidPayload => (
                "invalid-payload",
                S::UNPROCESSABLE_ENTITY,
                "The kind refuses the payload",
            ),
            Self::PayloadTooDeep => (
                "payload-too-deep",
                S::UNPROCESSABLE_ENTITY,
                "The payload is nested too deep",
            ),
            Self::BatchEmpty => ("batch-empty", S::UNPROCESSABLE_ENTITY, "The batch has no jobs"),
            Self::IdempotencyKeyReused => (
                "idempotency-key-reused",
                S::UNPROCESSABLE_ENTITY,
                "The Idempotency-Key belongs to another job",
            ),
            Self::TooManyRequests => ("too-many-requests", S::TOO_MANY_REQUESTS, "Too many requests"),
            Self::Internal => (
                "internal",
                S::INTERNAL_SERVER_ERROR,
                "The server failed internally",
            ),
            Self::LoginOff => ("login-off", S::NOT_IMPLEMENTED, "Login is not configured"),
            Self::Unavailable => (
                "unavailable",
                S::SERVICE_UNAVAILABLE,
                "A required store does not answer",
            ),
            Self::TimedOut => ("timed-out", S::GATEWAY_TIMEOUT, "The request took too long"),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_type_has_a_slug_of_its_own_and_an_error_status() {
        let slugs: BTreeSet<_> = ProblemKind::ALL.iter().map(|kind| kind.slug()).collect();
        assert_eq!(slugs.len(), ProblemKind::ALL.len());
        for kind in ProblemKind::ALL {
            assert!(
                kind.status().is_client_error() || kind.status().is_server_error(),
                "{kind:?}"
            );
        }
        assert!(ProblemKind::ALL.is_sorted_by_key(|kind| kind.status()));
    }
}
