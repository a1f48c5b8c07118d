//! How a call can fail, and whether it is worth a retry: the one table.
//!
//! | fault | retry |
//! | --- | --- |
//! | the address is refused, in the URL, behind its name, or after a redirect | no |
//! | a redirect without end, or to what is no URL | no |
//! | not a URL that can be requested | no |
//! | cannot resolve, connect, or agree on TLS; reset, cut off, not HTTP | yes |
//! | no answer, or no whole answer, within the timeout | yes |
//! | 408, 425, 429, 5xx | yes, after `Retry-After` if given |
//! | any other status that is not accepted | no |
//!
//! A certificate that does not verify counts as a network fault: operators mend it while jobs wait.

use std::borrow::Cow;
use std::error::Error;
use std::time::Duration;

use holdfast_jobs::JobError;
use reqwest::StatusCode;
use reqwest::header::{CONTENT_TYPE, HeaderMap};

use super::address::RefusedAddress;
use super::hop::Hop;
use super::retry_after::retry_after;
use super::shown;

/// Characters of an error answer that the job's error repeats.
const EXCERPT_CHARS: usize = 200;

/// Why a call brought no accepted answer. Texts name origin and path of the URL, never its secrets.
#[derive(Debug, thiserror::Error)]
pub(super) enum CallFault {
    #[error("{target} leads to {refused}")]
    Refused { target: String, refused: RefusedAddress },
    #[error("{target} cannot be requested")]
    Unusable { target: String, source: reqwest::Error },
    #[error("{target} answered {status} and redirects to {reason}")]
    Astray {
        target: String,
        status: StatusCode,
        reason: &'static str,
    },
    #[error("{target} redirects more than {limit} times")]
    TooManyRedirects { target: String, limit: usize },
    #[error("{target} cannot be reached")]
    Unreachable { target: String, source: reqwest::Error },
    #[error("{target} ended the exchange without an answer")]
    CutOff { target: String, source: reqwest::Error },
    #[error("{target} did not answer within {} s", after.as_secs_f64())]
    NoAnswer { target: String, after: Duration },
    #[error("{target} answered {status}, but broke off")]
    BrokenOff {
        target: String,
        status: StatusCode,
        source: reqwest::Error,
    },
    #[error("{target} answered {status}, but did not end within {} s", after.as_secs_f64())]
    Endless {
        target: String,
        status: StatusCode,
        after: Duration,
    },
    #[error("{target} answered {status}{excerpt}")]
    Status {
        target: String,
        status: StatusCode,
        excerpt: String,
        retry_after: Option<Duration>,
    },
}

impl CallFault {
    /// The fault of a request that was not answered.
    pub(super) fn of_exchange(target: String, error: reqwest::Error) -> Self {
        // The client's own texts repeat the URL with everything in it.
        let source = error.without_url();
        if let Some(&refused) = find::<RefusedAddress>(&source) {
            Self::Refused { target, refused }
        } else if source.is_builder() {
            Self::Unusable { target, source }
        } else if source.is_connect() {
            Self::Unreachable { target, source }
        } else {
            Self::CutOff { target, source }
        }
    }

    pub(super) fn broken_off(target: String, status: StatusCode, error: reqwest::Error) -> Self {
        Self::BrokenOff {
            target,
            status,
            source: error.without_url(),
        }
    }

    /// The fault of an answer that is not accepted.
    pub(super) fn of_status(hop: &Hop, status: StatusCode, headers: &HeaderMap, text: &[u8]) -> Self {
        let target = shown(&hop.url);
        Self::Status {
            target,
            status,
            excerpt: excerpt(hop, headers, text),
            retry_after: retry_after(headers),
        }
    }

    pub(super) fn into_job_error(self) -> JobError {
        match &self {
            Self::Status {
                status, retry_after, ..
            } if is_worth_a_retry(*status) => match *retry_after {
                Some(rest) => JobError::retry_after(rest, self),
                None => JobError::transient(self),
            },
            Self::Refused { .. }
            | Self::Unusable { .. }
            | Self::Astray { .. }
            | Self::TooManyRedirects { .. }
            | Self::Status { .. } => JobError::permanent(self),
            Self::Unreachable { .. }
            | Self::CutOff { .. }
            | Self::NoAnswer { .. }
            | Self::BrokenOff { .. }
            | Self::Endless { .. } => JobError::transient(self),
        }
    }
}

fn is_worth_a_retry(status: StatusCode) -> bool {
    matches!(status.as_u16(), 408 | 425 | 429) || status.is_server_error()
}

/// The first error of type `T` in a chain of causes.
fn find<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    std::iter::successors(Some(error), |error| (*error).source()).find_map(|error| error.downcast_ref())
}

/// The beginning of what the server said, on one line, for the operator who reads the error. Servers repeat
/// requests in their complaints, so what the request kept to itself is taken out again.
fn excerpt(hop: &Hop, headers: &HeaderMap, text: &[u8]) -> String {
    let is_text = headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .is_some_and(|value| value.starts_with("text/") || value.contains("json"));
    let text = String::from_utf8_lossy(text);
    if !is_text || text.trim().is_empty() {
        return String::new();
    }
    let text = without_secrets(hop, &text);
    let mut line: String = text
        .split(|c: char| c.is_whitespace() || c.is_control())
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ");
    if let Some((end, _)) = line.char_indices().nth(EXCERPT_CHARS) {
        line.truncate(end);
        line.push('…');
    }
    format!(": {line}")
}

fn without_secrets(hop: &Hop, text: &str) -> String {
    /// Shorter values are words such as `*/*`, and no secrets.
    const SHORTEST_SECRET: usize = 6;
    let headers = hop
        .headers
        .values()
        .filter(|value| value.is_sensitive())
        .filter_map(|value| value.to_str().ok());
    // Of `Bearer abc`, `abc` is the secret.
    let headers = headers.flat_map(|value| std::iter::once(value).chain(value.split_whitespace().last()));
    let query = hop.url.query().into_iter().map(Cow::Borrowed);
    headers
        .map(Cow::Borrowed)
        .chain(query)
        .chain(hop.url.query_pairs().map(|(_, value)| value))
        .filter(|secret| secret.len() >= SHORTEST_SECRET)
        .fold(text.to_owned(), |text, secret| {
            text.replace(&*secret, "[redacted]")
        })
}
