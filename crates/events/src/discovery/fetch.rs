//! Fetching what a source publishes: conditional, bounded, unpacked.

use std::io::Read;
use std::time::Duration;

use flate2::read::MultiGzDecoder;
use holdfast_jobs::JobError;
use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue,
    IF_MODIFIED_SINCE, IF_NONE_MATCH, LAST_MODIFIED,
};
use reqwest::{Method, StatusCode};
use url::Url;

use super::source::{SourceKind, SourceRecord};
use holdfast_outbound::{Answer, Call, Outbound, shown};

/// Longest validator that is kept, in bytes.
const MAX_VALIDATOR: usize = 1_024;

/// What gzip begins with.
const GZIP: [u8; 2] = [0x1f, 0x8b];

/// Why a source could not be read.
#[derive(Debug, thiserror::Error)]
#[error("{reason}")]
pub(super) struct Failure {
    pub(super) reason: String,
    /// The server asked for it.
    pub(super) rest: Option<Duration>,
}

impl Failure {
    pub(super) fn new(reason: impl Into<String>) -> Self {
        Self {
            reason: reason.into(),
            rest: None,
        }
    }
}

impl From<JobError> for Failure {
    fn from(error: JobError) -> Self {
        let rest = match &error {
            JobError::RetryAfter(rest, _) => Some(*rest),
            _ => None,
        };
        Self {
            reason: error.to_string(),
            rest,
        }
    }
}

/// What a server answered.
#[derive(Debug)]
pub(super) enum FetchAnswer {
    /// Nothing new since the last time.
    NotModified,
    Body(Body),
}

/// An answer, unpacked.
#[derive(Debug)]
pub(super) struct Body {
    pub(super) bytes: Vec<u8>,
    pub(super) content_type: Option<String>,
    pub(super) etag: Option<String>,
    pub(super) last_modified: Option<String>,
    /// Where it came from in the end.
    pub(super) url: Url,
}

/// Asks for what has changed since the source was read last.
pub(super) async fn fetch(
    outbound: &Outbound,
    source: &SourceRecord,
    timeout: Duration,
    max_bytes: usize,
) -> Result<FetchAnswer, Failure> {
    let url = source
        .definition
        .address()
        .ok_or_else(|| Failure::new("the source has no address"))?;
    let mut headers = HeaderMap::new();
    headers.insert(ACCEPT, HeaderValue::from_static(accepted(source.definition.kind)));
    headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
    let validators = [
        (IF_NONE_MATCH, &source.etag),
        (IF_MODIFIED_SINCE, &source.last_modified),
    ];
    for (name, value) in validators {
        if let Some(value) = value
            .as_deref()
            .and_then(|value| HeaderValue::from_str(value).ok())
        {
            headers.insert(name, value);
        }
    }
    let call = Call {
        method: Method::GET,
        url,
        headers,
        body: None,
        timeout,
        accept: vec![
            StatusCode::OK,
            StatusCode::NON_AUTHORITATIVE_INFORMATION,
            StatusCode::NOT_MODIFIED,
        ],
    };
    let answer = outbound.send(call).await?;
    if answer.status == StatusCode::NOT_MODIFIED {
        return Ok(FetchAnswer::NotModified);
    }
    // Unpacking a bomb takes a moment of a core.
    tokio::task::spawn_blocking(move || unpacked(&answer, max_bytes).map(FetchAnswer::Body))
        .await
        .map_err(|_| Failure::new("the answer could not be unpacked"))?
}

fn accepted(kind: SourceKind) -> &'static str {
    match kind {
        SourceKind::Ical => "text/calendar, */*;q=0.1",
        SourceKind::Rss => {
            "application/atom+xml, application/rss+xml, application/feed+json, application/xml;q=0.9, */*;q=0.1"
        }
        SourceKind::Json | SourceKind::Reddit => "application/json, */*;q=0.1",
    }
}

/// An answer's whole body, of a bounded size before and after it is unpacked.
pub(super) fn unpacked(answer: &Answer, max_bytes: usize) -> Result<Body, Failure> {
    let target = shown(&answer.url);
    if answer.truncated {
        return Err(Failure::new(format!(
            "{target} answered with more than {max_bytes} bytes (discovery.max_bytes)"
        )));
    }
    let header = |name: HeaderName| {
        let value = answer.headers.get(name)?.to_str().ok()?;
        (value.len() <= MAX_VALIDATOR).then(|| value.to_owned())
    };
    let encoding = header(CONTENT_ENCODING)
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let bytes = match encoding.as_str() {
        // Some servers pack files and say nothing of it.
        "" | "identity" if !answer.body.starts_with(&GZIP) => answer.body.to_vec(),
        "" | "identity" | "gzip" | "x-gzip" => gunzip(&answer.body, max_bytes, &target)?,
        other => {
            let other: String = other.chars().take(40).collect();
            return Err(Failure::new(format!(
                "{target} answered in the encoding {other:?}, which was not asked for"
            )));
        }
    };
    Ok(Body {
        bytes,
        content_type: header(CONTENT_TYPE),
        etag: header(ETAG),
        last_modified: header(LAST_MODIFIED),
        url: answer.url.clone(),
    })
}

pub(super) fn gunzip(packed: &[u8], max_bytes: usize, target: &str) -> Result<Vec<u8>, Failure> {
    // An empty body may be labelled so, too.
    if packed.is_empty() {
        return Ok(Vec::new());
    }
    let mut bytes = Vec::new();
    let limit = u64::try_from(max_bytes).unwrap_or(u64::MAX).saturating_add(1);
    MultiGzDecoder::new(packed)
        .take(limit)
        .read_to_end(&mut bytes)
        .map_err(|error| Failure::new(format!("{target} answered with broken gzip: {error}")))?;
    if bytes.len() > max_bytes {
        return Err(Failure::new(format!(
            "{target} answered with {} bytes that unpack to more than {max_bytes} (discovery.max_bytes)",
            packed.len()
        )));
    }
    Ok(bytes)
}
