//! A request's JSON body, bounded in size and time, and what is wrong with it if it is of no use.
//!
//! A good body is parsed once, without a trace of where the parser is. A bad one is parsed again with one, so that
//! the answer can name the field's path; only senders of bad bodies pay for that.
//!
//! Bytes count against the process' [budget](BodyBudget) as they arrive.

mod budget;
pub mod fields;
pub mod items;
pub mod objects;

use actix_web::dev::Payload;
use actix_web::error::PayloadError;
use actix_web::http::header::{self, HeaderValue};
use actix_web::{HttpMessage, HttpRequest, web};
use bytes::{Bytes, BytesMut};
use futures::StreamExt;
use serde::de::{DeserializeOwned, IgnoredAny};
use serde_path_to_error::{Path, Segment};

pub use self::budget::BodyBudget;
use self::budget::BodyPermit;
use self::objects::Objects;
use crate::context::ServerContext;
use crate::nul;
use crate::problem::{FieldFault, Problem, ProblemKind};

/// How large a body may be.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BodySize {
    /// A name and a password.
    Login,
    /// One document about one thing.
    Document,
    /// What carries payloads or lists: as large as the settings say.
    Bulk,
}

/// In bytes: a name of 254 characters and a password of 1,024 bytes, each escaped.
const LOGIN_BYTES: usize = 4_096;

/// In bytes.
const DOCUMENT_BYTES: usize = 1_048_576;

/// A longer body, in bytes, is parsed on a blocking thread, so that other requests do not wait for it.
const OFF_THREAD_BYTES: usize = 262_144;

impl BodySize {
    fn bytes(self, context: &ServerContext) -> usize {
        match self {
            Self::Login => LOGIN_BYTES.min(context.max_body),
            Self::Document => DOCUMENT_BYTES.min(context.max_body),
            Self::Bulk => context.max_body,
        }
    }
}

/// Reads and parses the body of one document. Called by handlers, not extracted beside the caller: actix runs extractors side by
/// side, and nobody's body is looked at before it is known who sends it.
pub async fn json_body<T: DeserializeOwned + Send + 'static>(
    request: &HttpRequest,
    payload: web::Payload,
    context: &ServerContext,
) -> Result<T, Problem> {
    json_body_of(request, payload, context, BodySize::Document).await
}

/// The same, of this size.
pub async fn json_body_of<T: DeserializeOwned + Send + 'static>(
    request: &HttpRequest,
    payload: web::Payload,
    context: &ServerContext,
    size: BodySize,
) -> Result<T, Problem> {
    let bytes = body_bytes(request, payload, context, size, &[]).await?;
    parse_off_thread(context, bytes, |bytes| {
        nul::check_json(bytes, "body")?;
        parse_object(bytes)
    })
    .await
}

/// Reads a body of JSON, or of one of the `other` media types, and leaves the parsing to the caller.
pub async fn body_bytes(
    request: &HttpRequest,
    payload: web::Payload,
    context: &ServerContext,
    size: BodySize,
    other: &[&str],
) -> Result<Bytes, Problem> {
    let declared = check_head(request, other)?;
    let mut taken = BodyPermit::default();
    let limit = size.bytes(context);
    let bytes = read(payload.into_inner(), declared, limit, context, &mut taken).await?;
    taken.hold_with(request);
    Ok(bytes)
}

/// Parses on this thread, or on a blocking thread if the body is long.
pub async fn parse_off_thread<T: Send + 'static>(
    context: &ServerContext,
    bytes: Bytes,
    parse: impl FnOnce(&Bytes) -> Result<T, Problem> + Send + 'static,
) -> Result<T, Problem> {
    if bytes.len() <= OFF_THREAD_BYTES {
        return parse(&bytes);
    }
    let parsing = context.runtime.spawn_blocking(move || parse(&bytes));
    parsing.await.map_err(Problem::internal)?
}

/// Refuses what the headers already give away; the declared length, if there is one.
fn check_head(request: &HttpRequest, other: &[&str]) -> Result<Option<usize>, Problem> {
    let is_identity = |value: &HeaderValue| value.as_bytes().eq_ignore_ascii_case(b"identity");
    if !request
        .headers()
        .get_all(header::CONTENT_ENCODING)
        .all(is_identity)
    {
        let detail = "compressed bodies are not read; send it without Content-Encoding";
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    let media = request.content_type();
    let json = media.eq_ignore_ascii_case("application/json")
        || (media.starts_with("application/") && media.ends_with("+json"));
    if !json && !other.contains(&media) {
        let detail = match media {
            "" => "send the header `Content-Type: application/json`".to_owned(),
            other => format!("{} is not application/json", crate::problem::quote(other)),
        };
        return Err(Problem::new(ProblemKind::UnsupportedMediaType, detail));
    }
    Ok(request
        .headers()
        .get(header::CONTENT_LENGTH)
        .and_then(|length| length.to_str().ok())
        .and_then(|length| length.parse().ok()))
}

async fn read(
    mut payload: Payload,
    declared: Option<usize>,
    limit: usize,
    context: &ServerContext,
    taken: &mut BodyPermit,
) -> Result<Bytes, Problem> {
    if declared.is_some_and(|length| length > limit) {
        return Err(too_large(limit));
    }
    let (budget, deadline) = (&context.body_budget, context.body_deadline);
    let reading = async {
        let first = match payload.next().await {
            None => return Ok(Bytes::new()),
            Some(chunk) => chunk.map_err(|error| broken_off(&error))?,
        };
        budget.take(taken, first.len())?;
        // Most bodies come in one piece, which needs no copy.
        if declared == Some(first.len()) {
            return Ok(first);
        }
        // Reserve only what has arrived: the declared length may never come.
        let mut whole = BytesMut::with_capacity(first.len());
        let mut chunk = first;
        loop {
            if whole.len() + chunk.len() > limit {
                return Err(too_large(limit));
            }
            whole.extend_from_slice(&chunk);
            match payload.next().await {
                None => return Ok(whole.freeze()),
                Some(next) => chunk = next.map_err(|error| broken_off(&error))?,
            }
            budget.take(taken, chunk.len())?;
        }
    };
    tokio::time::timeout(deadline, reading).await.map_err(|_| {
        let detail = format!("the body was not complete within {} s", deadline.as_secs_f64());
        Problem::new(ProblemKind::BodyTimedOut, detail)
    })?
}

fn too_large(limit: usize) -> Problem {
    Problem::new(
        ProblemKind::BodyTooLarge,
        format!("a body has at most {limit} bytes"),
    )
}

fn broken_off(error: &PayloadError) -> Problem {
    match error {
        PayloadError::Overflow => Problem::new(ProblemKind::BodyTooLarge, "the body is too large"),
        _ => Problem::new(
            ProblemKind::BadRequest,
            "the body broke off, or its framing is wrong",
        ),
    }
}

/// Parses a body that is an object. Serde would read a list too, as the fields in their order.
fn parse_object<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    if items::is_list(bytes) && serde_json::from_slice::<IgnoredAny>(bytes).is_ok() {
        let fault = FieldFault::new("body", "must be a JSON object, not a list");
        return Err(Problem::faults(ProblemKind::InvalidField, vec![fault]));
    }
    parse(bytes)
}

/// Parses a body, or says what is wrong with it and where.
pub fn parse<T: DeserializeOwned>(bytes: &[u8]) -> Result<T, Problem> {
    objects::from_slice(bytes).map_err(|error| {
        if bytes.iter().all(u8::is_ascii_whitespace) {
            let detail = "the body is empty; a JSON object is needed";
            return Problem::new(ProblemKind::MalformedJson, detail).at(1, 1);
        }
        if std::str::from_utf8(bytes).is_err() {
            return malformed(&error);
        }
        // The error's own category does not tell: serde_json calls a number in place of an enum a syntax error.
        match serde_json::from_slice::<IgnoredAny>(bytes) {
            Err(error) => malformed(&error),
            Ok(_) => diagnosed::<T>(bytes, &error),
        }
    })
}

fn malformed(error: &serde_json::Error) -> Problem {
    Problem::new(ProblemKind::MalformedJson, error.to_string()).at(error.line(), error.column())
}

/// Parses again, now following the path.
fn diagnosed<T: DeserializeOwned>(bytes: &[u8], first: &serde_json::Error) -> Problem {
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let fault = match serde_path_to_error::deserialize::<_, T>(Objects(&mut deserializer)) {
        Err(error) => located(error.path(), error.inner()),
        Ok(_) => located_at_root(first),
    };
    Problem::faults(ProblemKind::InvalidField, vec![fault])
}

fn located_at_root(error: &serde_json::Error) -> FieldFault {
    FieldFault::new("body", without_position(error))
}

/// The field as a path, taken out of `jobs[i]` if it is in a batch.
fn located(path: &Path, error: &serde_json::Error) -> FieldFault {
    let reason = without_position(error);
    let mut segments: Vec<&Segment> = path
        .iter()
        .filter(|segment| !matches!(segment, Segment::Unknown))
        .collect();
    let index = match segments.as_slice() {
        [Segment::Map { key }, Segment::Seq { index }, ..] if key == "jobs" => Some(*index),
        _ => None,
    };
    if index.is_some() {
        segments.drain(..2);
    }
    let mut field = segments.iter().fold(String::new(), |mut field, segment| {
        if !field.is_empty() && !matches!(segment, Segment::Seq { .. }) {
            field.push('.');
        }
        field + &segment.to_string()
    });
    // These are found at the end of the object, so the path is the object's.
    let named = ["missing field `", "duplicate field `", "unknown field `"]
        .iter()
        .find_map(|start| reason.strip_prefix(start))
        .and_then(|rest| rest.split('`').next());
    if let Some(name) = named
        && field.rsplit('.').next() != Some(name)
    {
        field = if field.is_empty() {
            name.to_owned()
        } else {
            format!("{field}.{name}")
        };
    }
    let field = match (field.is_empty(), index) {
        (false, _) => field,
        (true, None) => "body".to_owned(),
        (true, Some(_)) => "jobs".to_owned(),
    };
    FieldFault {
        index,
        ..FieldFault::new(field, reason)
    }
}

fn without_position(error: &serde_json::Error) -> String {
    let text = error.to_string();
    let position = format!(" at line {} column {}", error.line(), error.column());
    text.strip_suffix(&position)
        .map_or_else(|| text.clone(), ToOwned::to_owned)
}

#[cfg(test)]
mod tests {
    use serde::Deserialize;
    use serde_json::value::RawValue;

    use super::*;

    fn fault<T: DeserializeOwned>(text: &str) -> (ProblemKind, serde_json::Value) {
        let problem = parse::<T>(text.as_bytes()).err().expect("a fault");
        let body = actix_web::body::MessageBody::try_into_bytes(problem.response(None, None).into_body())
            .map_err(drop)
            .unwrap();
        (problem.kind(), serde_json::from_slice(&body).unwrap())
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct JobBody {
        kind: String,
        payload: Box<RawValue>,
        max_attempts: Option<u32>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct BatchBody {
        jobs: Vec<JobBody>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Outer {
        inner: Vec<Inner>,
    }

    #[derive(Debug, Deserialize)]
    #[serde(deny_unknown_fields)]
    #[allow(dead_code)]
    struct Inner {
        size: u32,
    }

    #[test]
    fn a_list_is_no_object_though_serde_would_read_it_as_one() {
        #[derive(Debug, Deserialize)]
        #[serde(deny_unknown_fields)]
        #[expect(dead_code, reason = "it is only read")]
        struct Optional {
            grace: Option<u32>,
        }

        let refused = parse_object::<Optional>(b" [null]").unwrap_err();
        assert_eq!(refused.kind(), ProblemKind::InvalidField);
        let broken = parse_object::<Optional>(b"[null").unwrap_err();
        assert_eq!(broken.kind(), ProblemKind::MalformedJson);
        assert!(parse_object::<Optional>(b"{}").is_ok());
    }

    #[test]
    fn a_wrong_type_is_named_by_its_path() {
        let (kind, body) = fault::<Outer>(r#"{"inner":[{"size":1},{"size":"x"}]}"#);
        assert_eq!(kind, ProblemKind::InvalidField);
        assert_eq!(body["field"], "inner[1].size");
    }

    #[test]
    fn missing_unknown_and_duplicate_fields_are_named() {
        assert_eq!(fault::<Outer>(r#"{"inner":[{}]}"#).1["field"], "inner[0].size");
        assert_eq!(
            fault::<Outer>(r#"{"inner":[{"siz":1}]}"#).1["field"],
            "inner[0].siz"
        );
        assert_eq!(fault::<Outer>(r#"{"inner":[],"inner":[]}"#).1["field"], "inner");
        assert_eq!(fault::<JobBody>(r#"{"kind":"a"}"#).1["field"], "payload");
        assert_eq!(
            fault::<JobBody>(r#"{"kind":"a","payload":{},"q":1}"#).1["field"],
            "q"
        );
    }

    #[test]
    fn a_fault_in_a_batch_has_an_index_and_a_field_of_that_job() {
        let (_, body) = fault::<BatchBody>(
            r#"{"jobs":[{"kind":"a","payload":1},{"kind":"a","payload":1,"max_attempts":"x"}]}"#,
        );
        assert_eq!(body["index"], 1);
        assert_eq!(body["field"], "max_attempts");
        let (_, body) = fault::<BatchBody>(r#"{"jobs":[{"kind":"a"}]}"#);
        assert_eq!((&body["index"], &body["field"]), (&0.into(), &"payload".into()));
        let (_, body) = fault::<BatchBody>(r#"{"jobs":[7]}"#);
        assert_eq!((&body["index"], &body["field"]), (&0.into(), &"jobs".into()));
    }

    #[test]
    fn broken_json_is_located_by_line_and_column() {
        let (kind, body) = fault::<JobBody>("{\n  \"kind\": oops}");
        assert_eq!(kind, ProblemKind::MalformedJson);
        assert_eq!((&body["line"], &body["column"]), (&2.into(), &11.into()));
        assert_eq!(fault::<JobBody>("  ").0, ProblemKind::MalformedJson);
        assert_eq!(
            fault::<JobBody>(r#"{"kind":"a","payload":1} x"#).0,
            ProblemKind::MalformedJson
        );
        assert_eq!(fault::<JobBody>("[]").1["field"], "body");
    }

    #[test]
    fn a_payload_is_kept_as_it_was_written() {
        let body: JobBody = parse(br#"{"kind":"a","payload":{ "b": 1.0,"a":[] }}"#).unwrap();
        assert_eq!(body.payload.get(), r#"{ "b": 1.0,"a":[] }"#);
    }
}
