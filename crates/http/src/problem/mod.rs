//! Every error is `application/problem+json` (RFC 9457).
//!
//! # Form
//! `type` is `urn:holdfast:problem:<slug>` (the slugs are in [`ProblemKind`] and never change), `title` and `status`
//! belong to the type, `detail` says what is wrong this time and what would be right, `instance` is the path that was
//! asked for and `request_id` what the log calls the request. Where they fit: `field` (the path of what is wrong, such
//! as `payload.url`; for a header or a query parameter its name), `index` (which job of a batch, from 0), `errors`
//! (every fault that was found, each with `field`, `reason` and `index`), `line` and `column` of malformed JSON, and
//! `job_id`.
//!
//! # Which status
//! 400: what cannot be read (JSON, a query parameter, a header, an id). 422: what was read and cannot be accepted.
//! 413: what is too large. 401, 403, 404, 405, 408, 409, 414, 415 as HTTP means them. 503 with `Retry-After`: a store
//! is away; nothing was accepted unless `detail` says so. 504: no answer in time. 500: our fault.
//!
//! # Invariants
//! No text of a database, a URL or a secret is in an answer: causes go to the log, once, in the middleware, under the
//! request's id. `detail` may quote what the client itself sent, shortened.

mod body;
mod convert;
mod kind;

use std::error::Error as StdError;
use std::fmt;
use std::time::Duration;

use actix_web::http::StatusCode;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpResponse, ResponseError};
use holdfast_jobs::JobId;
use serde::Serialize;

pub use self::body::{FaultBody, ProblemBody};
pub(crate) use self::convert::of_status;
pub use self::convert::{RETRY_AFTER, kind_of};
pub use self::kind::ProblemKind;

/// The media type of every error.
pub const PROBLEM_JSON: &str = "application/problem+json";

/// The prefix of every `type`.
pub const TYPE_PREFIX: &str = "urn:holdfast:problem:";

/// Longest piece of a client's own text that an answer repeats, in characters.
const QUOTE_LIMIT: usize = 80;

type Cause = Box<dyn StdError + Send + Sync>;

/// One fault of one request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FieldFault {
    pub field: String,
    pub reason: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub index: Option<usize>,
    /// In a body of lines (NDJSON), from 1.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<usize>,
    /// The field is a path from the document on, and not from the item that `index` names.
    #[serde(skip)]
    pub names_item: bool,
}

impl FieldFault {
    pub fn new(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            field: field.into(),
            reason: reason.into(),
            index: None,
            line: None,
            names_item: false,
        }
    }
}

/// An error as its client is told. Built once, where it is found, and rendered by the middleware. Boxed, because every
/// handler's `Result` carries it and hardly any uses it.
#[derive(Debug)]
pub struct Problem(Box<Content>);

#[derive(Debug)]
struct Content {
    kind: ProblemKind,
    detail: String,
    faults: Vec<FieldFault>,
    position: Option<(usize, usize)>,
    job: Option<JobId>,
    retry_after: Option<Duration>,
    header: Option<(header::HeaderName, HeaderValue)>,
    request_id: Option<HeaderValue>,
    cause: Option<Cause>,
}

impl Problem {
    pub fn new(kind: ProblemKind, detail: impl Into<String>) -> Self {
        Self(Box::new(Content {
            kind,
            detail: detail.into(),
            faults: Vec::new(),
            position: None,
            job: None,
            retry_after: None,
            header: None,
            request_id: None,
            cause: None,
        }))
    }

    /// A fault of one field, header or parameter.
    pub fn field(kind: ProblemKind, field: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::faults(kind, vec![FieldFault::new(field, reason)])
    }

    /// Several faults of one request; the first is the headline.
    pub fn faults(kind: ProblemKind, faults: Vec<FieldFault>) -> Self {
        let detail = faults.iter().map(described).collect::<Vec<_>>().join("; ");
        let mut problem = Self::new(kind, detail);
        problem.0.faults = faults;
        problem
    }

    /// Our own fault; `cause` is for the log alone.
    pub fn internal(cause: impl Into<Cause>) -> Self {
        Self::new(
            ProblemKind::Internal,
            "the server could not do it; its log says why, under this request_id",
        )
        .caused_by(cause)
    }

    /// A store does not answer.
    pub fn unavailable(detail: impl Into<String>, retry_after: Duration) -> Self {
        let mut problem = Self::new(ProblemKind::Unavailable, detail);
        problem.0.retry_after = Some(retry_after);
        problem
    }

    pub fn at(mut self, line: usize, column: usize) -> Self {
        self.0.position = Some((line, column));
        self
    }

    pub fn about(mut self, job: JobId) -> Self {
        self.0.job = Some(job);
        self
    }

    pub fn caused_by(mut self, cause: impl Into<Cause>) -> Self {
        self.0.cause = Some(cause.into());
        self
    }

    /// A header that this answer needs: `Allow`, `WWW-Authenticate`.
    pub fn with_header(mut self, name: header::HeaderName, value: HeaderValue) -> Self {
        self.0.header = Some((name, value));
        self
    }

    /// The same, for one more request that ran into it. The causes go along as text.
    pub fn for_another(&self) -> Self {
        let content = &*self.0;
        Self(Box::new(Content {
            kind: content.kind,
            detail: content.detail.clone(),
            faults: content.faults.clone(),
            position: content.position,
            job: content.job,
            retry_after: content.retry_after,
            header: content.header.clone(),
            request_id: None,
            cause: content.cause.as_ref().map(|cause| cause.to_string().into()),
        }))
    }

    /// What the client is told to wait.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.0.retry_after = Some(after);
        self
    }

    /// For an answer that does not pass the middleware, which would add it.
    pub fn with_request_id(mut self, id: HeaderValue) -> Self {
        self.0.request_id = Some(id);
        self
    }

    pub fn kind(&self) -> ProblemKind {
        self.0.kind
    }

    /// What happened, for the log.
    pub fn cause(&self) -> Option<&(dyn StdError + 'static)> {
        self.0
            .cause
            .as_ref()
            .map(|cause| &**cause as &(dyn StdError + 'static))
    }

    /// The answer, for the request that was asked under this id at this path.
    pub fn response(&self, request_id: Option<&HeaderValue>, instance: Option<&str>) -> HttpResponse {
        let content = &*self.0;
        let body = Body {
            kind: format!("{TYPE_PREFIX}{}", content.kind.slug()),
            title: content.kind.title(),
            status: content.kind.status().as_u16(),
            detail: &content.detail,
            instance,
            field: content.faults.first().map(|fault| &*fault.field),
            index: content.faults.first().and_then(|fault| fault.index),
            errors: &content.faults,
            line: content.position.map(|(line, _)| line),
            column: content.position.map(|(_, column)| column),
            job_id: content.job,
            request_id: request_id.and_then(|id| id.to_str().ok()),
        };
        let mut response = HttpResponse::build(content.kind.status());
        response.insert_header((header::CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON)));
        if let Some((name, value)) = &content.header {
            response.insert_header((name.clone(), value.clone()));
        }
        if let Some(after) = content.retry_after {
            let seconds = after.as_secs() + u64::from(after.subsec_nanos() > 0);
            response.insert_header((header::RETRY_AFTER, seconds.max(1)));
        }
        if let Some(id) = request_id {
            response.insert_header((crate::middleware::REQUEST_ID, id.clone()));
        }
        response.body(serde_json::to_vec(&body).unwrap_or_default())
    }
}

fn described(fault: &FieldFault) -> String {
    match (fault.line, fault.index) {
        (Some(line), _) => format!("line {line}: {}: {}", fault.field, fault.reason),
        (None, Some(index)) if !fault.names_item => {
            format!("jobs[{index}].{}: {}", fault.field, fault.reason)
        }
        _ => format!("{}: {}", fault.field, fault.reason),
    }
}

/// A filter that matches nothing is more often a mistake than intended.
pub fn nothing_matched(what: &str) -> Problem {
    Problem::field(
        ProblemKind::NothingMatched,
        "filter",
        format!("no {what} matches; nothing was changed (ask with dry_run to see what would be)"),
    )
}

/// The text of an `after` parameter is not the `next` of another page.
pub fn bad_cursor(text: &str) -> Problem {
    let reason = format!("{} is no cursor; use the `next` of the page before", quote(text));
    Problem::field(ProblemKind::InvalidCursor, "after", reason)
}

/// A client's own text, short enough to be repeated to it.
pub fn quote(text: &str) -> String {
    let mut short: String = text.chars().take(QUOTE_LIMIT).collect();
    if short.len() < text.len() {
        short.push('…');
    }
    format!("{short:?}")
}

#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: String,
    title: &'static str,
    status: u16,
    detail: &'a str,
    #[serde(skip_serializing_if = "Option::is_none")]
    instance: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    field: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<usize>,
    #[serde(skip_serializing_if = "<[_]>::is_empty")]
    errors: &'a [FieldFault],
    #[serde(skip_serializing_if = "Option::is_none")]
    line: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    job_id: Option<JobId>,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.0.kind.title(), self.0.detail)
    }
}

impl StdError for Problem {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.cause()
    }
}

impl ResponseError for Problem {
    fn status_code(&self) -> StatusCode {
        self.0.kind.status()
    }

    /// The middleware renders it again with what only it knows.
    fn error_response(&self) -> HttpResponse {
        self.response(self.0.request_id.as_ref(), None)
    }
}
