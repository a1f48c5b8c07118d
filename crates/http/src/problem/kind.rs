//! Every type of problem this server answers with, declared once. A type is a promise to clients: its slug never changes.

use actix_web::http::StatusCode;

/// What went wrong, for programs. The `type` member is `urn:holdfast:problem:<slug>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ProblemKind {
    slug: &'static str,
    status: StatusCode,
    title: &'static str,
    remedy: &'static str,
}

impl ProblemKind {
    /// For [`problems!`](crate::problems).
    pub const fn declared(
        slug: &'static str,
        status: StatusCode,
        title: &'static str,
        remedy: &'static str,
    ) -> Self {
        Self {
            slug,
            status,
            title,
            remedy,
        }
    }

    /// The stable part of the type.
    pub const fn slug(self) -> &'static str {
        self.slug
    }

    pub const fn status(self) -> StatusCode {
        self.status
    }

    /// One line for people; the same for every occurrence.
    pub const fn title(self) -> &'static str {
        self.title
    }

    /// What a client or an operator does about it, for the documents.
    pub const fn remedy(self) -> &'static str {
        self.remedy
    }
}

/// Declares types of problems, as constants of a type and as its `ALL`: the name, the status, the slug, the title, and what to do.
/// A product declares its own with a type of its own, and gives them to `Product::problems`.
#[macro_export]
macro_rules! problems {
    ($table:ident { $( $name:ident = $status:ident $slug:literal, $title:literal, $remedy:literal; )+ }) => {
        #[allow(non_upper_case_globals, reason = "they are used like the variants of an enum")]
        impl $table {
            $(
                #[doc = $title]
                pub const $name: $crate::ProblemKind = $crate::ProblemKind::declared(
                    $slug,
                    $crate::StatusCode::$status,
                    $title,
                    $remedy,
                );
            )+

            /// All of them, in the order of their declaration.
            pub const ALL: &[$crate::ProblemKind] = &[$( Self::$name ),+];
        }
    };
}

// What every service, the engine and the accounts answer with.
problems!(ProblemKind {
    BadRequest = BAD_REQUEST "bad-request", "The request is not acceptable",
        "Read `detail`: the request is wrong in a way that has no type of its own.";
    MalformedJson = BAD_REQUEST "malformed-json", "The body is not JSON",
        "Send valid JSON in UTF-8; `line` and `column` name the place.";
    InvalidHeader = BAD_REQUEST "invalid-header", "A header is invalid",
        "Correct the header that `field` names.";
    InvalidParameter = BAD_REQUEST "invalid-parameter", "A query parameter is invalid",
        "Correct the query parameter that `field` names.";
    InvalidCursor = BAD_REQUEST "invalid-cursor", "The cursor is invalid",
        "Send the `next` of the page before as `after`, or leave it out for the first page.";
    InvalidId = BAD_REQUEST "invalid-id", "This is not an id",
        "Send an id that the API returned: a ULID of 26 characters.";
    NotASession = BAD_REQUEST "not-a-session", "Only a session can do this",
        "Log in with `POST /v1/auth/login` and send the token; an API key belongs to no user.";
    Unauthenticated = UNAUTHORIZED "unauthenticated", "An API key or a session is needed",
        "Send `Authorization: Bearer` with an API key that is not revoked, or with the token of a session that has not ended.";
    LoginFailed = UNAUTHORIZED "login-failed", "The name or the password is wrong",
        "Check the name and the password, and that the user is enabled.";
    MissingScope = FORBIDDEN "missing-scope", "The API key lacks a scope",
        "Use a key with the scope that `detail` names, or a user with a role that includes it.";
    KeyBound = FORBIDDEN "key-bound", "The API key is bound to other queues or kinds",
        "Use a key for this queue or kind, or a key without a binding.";
    UntrustedOrigin = FORBIDDEN "untrusted-origin", "Without API keys only this machine is served",
        "Create an API key (`HOLDFAST_API_KEY`), or call from this machine.";
    RouteNotFound = NOT_FOUND "route-not-found", "There is no such route",
        "See `/openapi.json` for all routes.";
    JobNotFound = NOT_FOUND "job-not-found", "There is no such job",
        "Check the id; finished jobs are deleted after `jobs.retain_completed_seconds`.";
    BatchNotFound = NOT_FOUND "batch-not-found", "There is no such batch",
        "Check the id; batches are deleted `jobs.retain_batches_seconds` after their end.";
    QueueNotFound = NOT_FOUND "queue-not-found", "There is no such queue",
        "See `GET /v1/queues`, or declare the queue.";
    KindNotFound = NOT_FOUND "kind-not-found", "There is no such kind",
        "See `GET /v1/kinds`, or declare the kind.";
    FailureNotFound = NOT_FOUND "failure-not-found", "No dead letter has this fingerprint",
        "List the groups with `GET /v1/failures`: the jobs of this one were redriven or deleted.";
    WorkerNotFound = NOT_FOUND "worker-not-found", "There is no such worker of this key",
        "Pull again to register a new worker: this one is lost, has stopped or belongs to another key.";
    NothingMatched = NOT_FOUND "nothing-matched", "The filter matches nothing",
        "Check the filter with `dry_run`.";
    ScheduleNotFound = NOT_FOUND "schedule-not-found", "There is no such schedule",
        "See `GET /v1/schedules`.";
    KeyNotFound = NOT_FOUND "key-not-found", "There is no such API key",
        "See `GET /v1/keys`.";
    LinkNotFound = NOT_FOUND "link-not-found", "The link is invalid",
        "Request a new link: this one is incomplete, was used or has expired.";
    UserNotFound = NOT_FOUND "user-not-found", "There is no such user",
        "See `GET /v1/users`.";
    MethodNotAllowed = METHOD_NOT_ALLOWED "method-not-allowed", "The route has no such method",
        "Use a method that the header `Allow` names.";
    BodyTimedOut = REQUEST_TIMEOUT "body-timed-out", "The body did not arrive in time",
        "Send the body faster, or in smaller parts.";
    IllegalTransition = CONFLICT "illegal-transition", "The job's state does not allow it",
        "Read the state of the job, and do what it allows.";
    ScheduleExists = CONFLICT "schedule-exists", "A schedule with this name exists",
        "Replace it with PUT, or choose another name.";
    ScheduleConfigured = CONFLICT "schedule-configured", "The schedule belongs to the configuration",
        "Change the configuration file that declares the schedule.";
    TooManySchedules = CONFLICT "too-many-schedules", "The limit of stored schedules is reached",
        "Delete schedules that are not needed.";
    NameTaken = CONFLICT "name-taken", "The name is taken",
        "Choose another name.";
    KeyRevoked = CONFLICT "key-revoked", "The API key is revoked",
        "Create a new key: a revoked one stays revoked.";
    EncryptionOff = CONFLICT "encryption-off", "There are no encryption keys",
        "Set `encryption.keys`.";
    KindCoded = CONFLICT "kind-coded", "The kind is part of the program",
        "Choose another name: kinds of the program cannot be changed over the API.";
    TooManyKinds = CONFLICT "too-many-kinds", "The limit of declared kinds is reached",
        "Delete declared kinds that are not needed.";
    QueueConfigured = CONFLICT "queue-configured", "The queue belongs to the configuration",
        "Change the configuration: it declares the queue.";
    QueueInUse = CONFLICT "queue-in-use", "The queue is in use",
        "Wait until no job, kind or schedule uses the queue.";
    QueueOfAnotherFleet = CONFLICT "queue-of-another-fleet", "The queue is served by other workers",
        "Use a queue with the `served_by` that is needed.";
    TooManyQueues = CONFLICT "too-many-queues", "The limit of declared queues is reached",
        "Delete declared queues that are not needed.";
    BodyTooLarge = PAYLOAD_TOO_LARGE "body-too-large", "The body is too large",
        "Send less at a time, or raise `server.max_body_bytes`.";
    PayloadTooLarge = PAYLOAD_TOO_LARGE "payload-too-large", "The payload is too large",
        "Store large data elsewhere and send its address, or raise `jobs.max_payload_bytes`.";
    BatchTooLarge = PAYLOAD_TOO_LARGE "batch-too-large", "The batch has too many jobs",
        "Send several batches, or raise `jobs.max_batch`.";
    UriTooLong = URI_TOO_LONG "uri-too-long", "The query is too long",
        "Send fewer or shorter query parameters.";
    UnsupportedMediaType = UNSUPPORTED_MEDIA_TYPE "unsupported-media-type", "The body must be application/json",
        "Send `Content-Type: application/json`.";
    InvalidField = UNPROCESSABLE_ENTITY "invalid-field", "A field is missing, unknown or invalid",
        "Correct the fields that `errors` names.";
    UnknownKind = UNPROCESSABLE_ENTITY "unknown-kind", "The kind is unknown to this server",
        "See `GET /v1/kinds`: check the spelling, or declare the kind.";
    UnknownQueue = UNPROCESSABLE_ENTITY "unknown-queue", "There is no such queue",
        "See `GET /v1/queues`: check the spelling, or declare the queue.";
    InvalidPayload = UNPROCESSABLE_ENTITY "invalid-payload", "The kind refuses the payload",
        "Correct the fields that `errors` names; `GET /v1/kinds` has the schema of the payload.";
    PayloadTooDeep = UNPROCESSABLE_ENTITY "payload-too-deep", "The payload is nested too deep",
        "Nest the payload less, or raise `jobs.max_payload_depth`.";
    BatchEmpty = UNPROCESSABLE_ENTITY "batch-empty", "The batch has no jobs",
        "Send at least one job.";
    IdempotencyKeyReused = UNPROCESSABLE_ENTITY "idempotency-key-reused", "The Idempotency-Key belongs to another job",
        "Use a new key for another request; repeat a request unchanged under its key.";
    TooManyRequests = TOO_MANY_REQUESTS "too-many-requests", "Too many requests",
        "Wait for the time that `Retry-After` names.";
    Internal = INTERNAL_SERVER_ERROR "internal", "The server failed internally",
        "Report it with the `request_id`, under which the log of the server has the cause.";
    LoginOff = NOT_IMPLEMENTED "login-off", "Login is not configured",
        "Set `JWT_SECRET_KEY`; API keys work without it.";
    Unavailable = SERVICE_UNAVAILABLE "unavailable", "A required store does not answer",
        "Repeat the request after `Retry-After`, with the same Idempotency-Key. Nothing was accepted unless `detail` says so.";
    TimedOut = GATEWAY_TIMEOUT "timed-out", "The request took too long",
        "Repeat the request with the same Idempotency-Key: it may have been applied.";
});
