//! What is refused before anything is asked of the database.

use std::time::Duration;

use holdfast_http::body::fields::Seconds;
use holdfast_http::problem::{Problem, ProblemKind};

/// Most items of one call.
pub(super) const MAX_ITEMS: usize = 1_000;

/// Longest id of a result and name of a channel, in bytes.
pub(super) const MAX_NAME: usize = 255;

/// Longest wait for news.
pub(super) const MAX_WAIT: Duration = Duration::from_secs(30);

/// How long a result and its parts live unless the client says otherwise.
pub(super) const DEFAULT_TTL_SECONDS: u32 = 86_400;

/// How long a result and its parts may live: a year.
const MAX_TTL_SECONDS: u32 = 31_536_000;

/// Last parts of paths, which would be taken for them.
const RESERVED: [&str; 3] = ["delete", "read", "write"];

pub(super) fn name(field: &str, text: &str) -> Result<(), Problem> {
    if !(1..=MAX_NAME).contains(&text.len()) || text.chars().any(char::is_control) {
        let rule = format!("must have 1 to {MAX_NAME} bytes, and no control characters");
        return Err(invalid(field, rule));
    }
    if RESERVED.contains(&text) {
        return Err(invalid(
            field,
            format!("{text:?} is the name of a route; use another one"),
        ));
    }
    Ok(())
}

/// 1 to `most` items.
pub(super) fn count(field: &str, items: usize, most: usize) -> Result<(), Problem> {
    if items == 0 {
        let rule = format!("{field} must have 1 to {most} items");
        return Err(Problem::new(ProblemKind::BatchEmpty, rule));
    }
    if items > most {
        let rule = format!("{field} has {items} items; at most {most} are allowed");
        return Err(Problem::new(ProblemKind::BatchTooLarge, rule));
    }
    Ok(())
}

/// A body that the server stores as it is.
pub(super) fn body(field: &str, text: &str, most: usize) -> Result<(), Problem> {
    if text.len() <= most {
        return Ok(());
    }
    let reason = format!(
        "has {} bytes; at most {most} are allowed (jobs.max_payload_bytes)",
        text.len()
    );
    Err(Problem::field(ProblemKind::PayloadTooLarge, field, reason))
}

pub(super) fn ttl(field: &str, seconds: Option<u32>) -> Result<Duration, Problem> {
    ttl_within(field, seconds.unwrap_or(DEFAULT_TTL_SECONDS), MAX_TTL_SECONDS)
}

pub(super) fn ttl_within(field: &str, seconds: u32, most: u32) -> Result<Duration, Problem> {
    if (1..=most).contains(&seconds) {
        return Ok(Duration::from_secs(seconds.into()));
    }
    Err(invalid(
        field,
        format!("must be a whole number of seconds from 1 to {most}"),
    ))
}

/// The wait that a body asks for, cut to the server's longest.
pub(super) fn wait(seconds: Option<Seconds>, longest: Duration) -> Result<Duration, Problem> {
    let wait = seconds.map_or(Duration::ZERO, |seconds| seconds.0);
    if wait > MAX_WAIT {
        let rule = format!("must be 0 to {}", MAX_WAIT.as_secs());
        return Err(invalid("wait_seconds", rule));
    }
    Ok(wait.min(longest))
}

pub(super) fn invalid(field: &str, reason: impl Into<String>) -> Problem {
    Problem::field(ProblemKind::InvalidField, field, reason)
}
