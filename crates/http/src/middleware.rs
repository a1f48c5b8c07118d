//! The middleware around all routes.
//!
//! It gives the request an id (the client's `X-Request-Id` if that is sane), bounds its time, turns every error,
//! whoever raised it, into a problem that carries the id, and logs what must be logged, once: a failure of ours with
//! its causes as an error; an outage or a timeout as a warning, one a minute at most, since an outage fails every
//! request alike; every request at debug level.

use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use actix_web::body::{BoxBody, MessageBody};
use actix_web::dev::{ServiceRequest, ServiceResponse};
use actix_web::http::header::{self, HeaderName, HeaderValue};
use actix_web::middleware::Next;
use actix_web::{Error, HttpMessage, HttpRequest, web};
use holdfast_core::telemetry::traces::{self, Kind, Span};
use tracing::{Instrument, Level};
use ulid::Ulid;

use crate::mailed_link::PAGE_TYPE;
use crate::problem::{PROBLEM_JSON, Problem, ProblemKind, of_status};
use crate::rate::BucketStatus;
use crate::request_metrics::RequestMeter;
use crate::sliced_body::sliced;

/// The header that carries a request's id, both ways.
pub(crate) const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

const TRACEPARENT: HeaderName = HeaderName::from_static("traceparent");

/// Longest id of a client's own, in bytes.
const MAX_REQUEST_ID: usize = 128;

/// Longest query, in bytes: every parameter there is, at its longest, takes less.
const MAX_QUERY: usize = 4_096;

/// Refusals with less time between them than this are one burst, and warned of once. That the database or Redis is
/// away, and back, is told where it is known.
const WARNING_PERIOD: Duration = Duration::from_mins(1);

/// How long requests may take.
#[derive(Debug)]
pub(crate) struct Limits {
    pub(crate) request: Duration,
    /// What a long poll adds to it.
    pub(crate) wait: Duration,
    warnings: Throttle,
}

impl Limits {
    pub(crate) fn new(request: Duration, wait: Duration) -> Self {
        Self {
            request,
            wait,
            warnings: Throttle::new(),
        }
    }

    fn of(&self, request: &ServiceRequest) -> Duration {
        let (path, query) = (request.path(), request.query_string());
        let waits = ["wait=", "wait_seconds="].iter().any(|name| query.contains(name))
            || ["/pull", "/read"].iter().any(|end| path.ends_with(end));
        if waits {
            self.request + self.wait
        } else {
            self.request
        }
    }
}

/// Every request enters and leaves through here.
pub(crate) async fn around_all<B: MessageBody + 'static>(
    mut request: ServiceRequest,
    next: Next<B>,
) -> Result<ServiceResponse<BoxBody>, Error> {
    let started = Instant::now();
    let id = request_id(&request);
    let limits = match request.app_data::<web::Data<Limits>>() {
        Some(limits) => limits.clone(),
        None => return Ok(request.error_response(Problem::internal("the application has no limits"))),
    };
    if request.query_string().len() > MAX_QUERY {
        let detail = format!("a query has at most {MAX_QUERY} bytes");
        let problem = Problem::new(ProblemKind::UriTooLong, detail).with_request_id(id);
        return Ok(request.error_response(problem));
    }
    if let Err(problem) = crate::nul::check_uri(request.path(), request.query_string()) {
        return Ok(request.error_response(problem.with_request_id(id)));
    }
    let span = tracing::debug_span!("request", request.id = id.to_str().unwrap_or_default());
    request.extensions_mut().insert(RequestId(id.clone()));
    let limit = limits.of(&request);
    let measured = RequestMeter::begin(&request, started);
    let mut trace = begin_trace(&mut request, &measured, &id);
    let handled = next.call(request).instrument(span);
    let Ok(response) = tokio::time::timeout(limit, handled).await else {
        let problem = timed_out(&limits, limit, &id);
        measured.end(actix_web::ResponseError::status_code(&problem));
        trace.fail("timed out");
        return Err(problem.into());
    };
    let response =
        finish(response?.map_into_boxed_body(), id, &limits, started).map_body(|_, body| sliced(body));
    measured.end(response.status());
    trace.set("http.response.status_code", i64::from(response.status().as_u16()));
    if response.status().is_server_error() {
        trace.fail(response.status().as_str().to_owned());
    }
    Ok(response)
}

/// Under which id the log and the answer name a request.
#[derive(Debug)]
struct RequestId(HeaderValue);

/// The id of a request that has passed the middleware.
pub fn id_of(request: &HttpRequest) -> Option<String> {
    let extensions = request.extensions();
    let RequestId(id) = extensions.get::<RequestId>()?;
    id.to_str().ok().map(ToOwned::to_owned)
}

/// The request's span. Handlers hand on the context of the `traceparent` header, so it takes the client's place there.
fn begin_trace(request: &mut ServiceRequest, measured: &RequestMeter, id: &HeaderValue) -> Span {
    if !traces::is_on() || !measured.is_traced() {
        return Span::none();
    }
    let name = format!("{} {}", measured.method(), measured.route());
    let parent = request
        .headers()
        .get(TRACEPARENT)
        .and_then(|value| value.to_str().ok());
    let mut span = traces::begin(Kind::Server, name, parent);
    span.set("http.request.method", measured.method());
    span.set("http.route", measured.route().to_owned());
    span.set("request.id", id.to_str().unwrap_or_default().to_owned());
    if let Some(Ok(own)) = span.traceparent().map(|context| HeaderValue::from_str(&context)) {
        request.headers_mut().insert(TRACEPARENT, own);
    }
    span
}

/// The client's own id if it can stand in a log line, or a fresh one.
fn request_id(request: &ServiceRequest) -> HeaderValue {
    let sane = |value: &&HeaderValue| {
        (1..=MAX_REQUEST_ID).contains(&value.len())
            && value
                .as_bytes()
                .iter()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_.:/+=".contains(byte))
    };
    request
        .headers()
        .get(&REQUEST_ID)
        .filter(sane)
        .cloned()
        .unwrap_or_else(fresh_id)
}

fn fresh_id() -> HeaderValue {
    let id = Ulid::from_parts(holdfast_core::clock::unix_millis(), rand::random::<u128>());
    let mut text = [0; ulid::ULID_LEN];
    HeaderValue::from_str(id.array_to_str(&mut text)).unwrap_or_else(|_| HeaderValue::from_static("-"))
}

fn timed_out(limits: &Limits, after: Duration, id: &HeaderValue) -> Problem {
    if limits.warnings.permits() {
        tracing::warn!(
            request.id = id.to_str().unwrap_or_default(),
            limit_ms = after.as_millis() as u64,
            "a request took too long and was given up"
        );
    }
    let detail = format!(
        "there was no result within {} s; what was asked for may still have been done: a POST with an \
         Idempotency-Key can be repeated without harm",
        after.as_secs_f64()
    );
    Problem::new(ProblemKind::TimedOut, detail).with_request_id(id.clone())
}

fn finish(
    response: ServiceResponse<BoxBody>,
    id: HeaderValue,
    limits: &Limits,
    started: Instant,
) -> ServiceResponse<BoxBody> {
    let mut response = if response.status().is_client_error() || response.status().is_server_error() {
        as_problem(response, &id, limits)
    } else {
        response
    };
    if tracing::enabled!(Level::DEBUG) {
        tracing::debug!(
            request.id = id.to_str().unwrap_or_default(),
            http.method = response.request().method().as_str(),
            http.path = response.request().path(),
            http.status = response.status().as_u16(),
            elapsed_us = started.elapsed().as_micros() as u64,
            "answered"
        );
    }
    let limited = response.request().extensions().get::<BucketStatus>().copied();
    let headers = response.headers_mut();
    headers.insert(REQUEST_ID, id);
    for (name, value) in limited.iter().flat_map(BucketStatus::headers) {
        if let Some(value) = value {
            headers.insert(name, value);
        }
    }
    headers.insert(
        header::X_CONTENT_TYPE_OPTIONS,
        HeaderValue::from_static("nosniff"),
    );
    // The console's own forms need `same-origin`: with `no-referrer` browsers send `Origin: null`.
    if !headers.contains_key(header::REFERRER_POLICY) {
        headers.insert(header::REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    }
    if !headers.contains_key(header::CACHE_CONTROL) {
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    }
    response
}

/// Renders an error anew, with the request's id and path. What is not one of our problems becomes one.
fn as_problem(
    response: ServiceResponse<BoxBody>,
    id: &HeaderValue,
    limits: &Limits,
) -> ServiceResponse<BoxBody> {
    let path = response.request().path().to_owned();
    let rendered = match response
        .response()
        .error()
        .and_then(|error| error.as_error::<Problem>())
    {
        Some(problem) => {
            log(problem, id, limits);
            problem.response(Some(id), Some(&path))
        }
        None if is_shaped(&response) => return response,
        None => {
            let problem = of_status(response.status());
            log(&problem, id, limits);
            problem.response(Some(id), Some(&path))
        }
    };
    response.into_response(rendered)
}

/// A body that a route made on purpose: a problem, a health report with status 503, or a page.
fn is_shaped(response: &ServiceResponse<BoxBody>) -> bool {
    response
        .headers()
        .get(header::CONTENT_TYPE)
        .is_some_and(|value| value == PROBLEM_JSON || value == "application/json" || value == PAGE_TYPE)
}

fn log(problem: &Problem, id: &HeaderValue, limits: &Limits) {
    let request_id = id.to_str().unwrap_or_default();
    let cause = problem.cause();
    let kind = problem.kind();
    if kind == ProblemKind::Internal {
        tracing::error!(request.id = request_id, error = cause, "a request failed");
    } else if kind == ProblemKind::Unavailable && limits.warnings.permits() {
        tracing::warn!(
            request.id = request_id,
            error = cause,
            "requests are refused: {problem}"
        );
    }
}

/// Lets the first of a burst through: one that comes when there was none for a [`WARNING_PERIOD`].
#[derive(Debug)]
struct Throttle {
    start: Instant,
    /// Milliseconds after `start` until which a further one belongs to the burst.
    burst_until: AtomicU64,
}

impl Throttle {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            burst_until: AtomicU64::new(0),
        }
    }

    fn permits(&self) -> bool {
        let now = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        let until = now.saturating_add(WARNING_PERIOD.as_millis() as u64);
        self.burst_until.swap(until, Ordering::Relaxed) <= now
    }
}

#[cfg(test)]
mod tests {
    use actix_web::test::TestRequest;

    use super::*;

    #[test]
    fn a_sane_request_id_is_kept_and_any_other_replaced() {
        let kept = TestRequest::default()
            .insert_header(("x-request-id", "abc-123"))
            .to_srv_request();
        assert_eq!(request_id(&kept), "abc-123");
        for odd in ["", "two words", "x\"y", &"a".repeat(129)] {
            let request = TestRequest::default()
                .insert_header(("x-request-id", odd))
                .to_srv_request();
            let id = request_id(&request);
            assert_ne!(id, *odd);
            assert_eq!(id.len(), 26);
        }
    }

    #[test]
    fn only_the_first_of_a_burst_of_warnings_passes() {
        let throttle = Throttle::new();
        assert!(throttle.permits());
        assert!(!throttle.permits());
    }
}
