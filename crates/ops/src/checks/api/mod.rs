//! What an API is asked over HTTP.

mod error_handling;
mod health;
pub(crate) mod wire;

use std::sync::Arc;

use holdfast_core::config::Settings;
use reqwest::Method;
use serde_json::Value;

use self::wire::{As, Wire};
use super::{Check, CheckResult, Finding, Outcome, check, either};

/// An API, and what is known of it.
#[derive(Debug)]
pub(crate) struct ApiSubject {
    pub(crate) wire: Arc<Wire>,
    /// The configuration here, if it is that of the API.
    pub(crate) settings: Option<Settings>,
}

/// An API whose faults were looked for by other checks already.
#[derive(Debug)]
pub(crate) struct HealthSubject {
    pub(crate) wire: Arc<Wire>,
    pub(crate) told: Vec<Outcome>,
}

/// The way in.
pub(crate) const API: &[Check<ApiSubject>] = &[
    check!("reach", needs [], within 15, reach),
    check!("key", needs ["reach"], within 15, key),
];

/// The documents that platforms and monitors read.
pub(crate) const HEALTH: &[Check<HealthSubject>] = &[
    check!("report", needs ["api.reach"], within 15, health::report),
    check!("services", needs ["report"], within 15, health::services),
    check!("redis_metrics", needs ["api.reach"], within 15, health::redis_metrics),
];

pub(crate) const BEAT: &[Check<HealthSubject>] =
    &[check!("ticking", needs ["api.reach"], within 15, health::beat)];

pub(crate) const ERRORS: &[Check<ApiSubject>] =
    &[check!("format", needs ["api.reach"], within 15, error_handling::error_format)];

pub(crate) const SECURITY: &[Check<ApiSubject>] = &[
    check!("key_demanded", needs ["api.reach"], within 15, error_handling::key_demanded),
    check!("wrong_key", needs ["key_demanded"], within 15, error_handling::wrong_key),
    check!("docs", needs ["api.reach"], within 15, error_handling::docs),
];

pub(crate) const PERFORMANCE: &[Check<ApiSubject>] =
    &[check!("requests", needs ["api.reach"], within 60, error_handling::requests)];

async fn reach(subject: &ApiSubject) -> Finding {
    either(answers_as_holdfast(subject).await)
}

async fn answers_as_holdfast(subject: &ApiSubject) -> CheckResult<Finding> {
    const PATH: &str = "/health/live";
    let answer = subject.wire.ask(Method::GET, PATH, As::Nobody, None).await?;
    if matches!(answer.status.as_u16(), 401 | 403) {
        return Err(Finding::fail(
            format!(
                "{PATH} answers {}: something before the API wants a login",
                answer.status.as_u16()
            ),
            "Let health checks through: a proxy's or platform's access protection is in front of the API.",
        ));
    }
    let word = answer.json(PATH)?;
    if !answer.status.is_success() || word.get("status").and_then(Value::as_str) != Some("alive") {
        return Err(Finding::fail(
            format!(
                "{PATH} answers {}, but not as Holdfast does",
                answer.status.as_u16()
            ),
            "Another service listens there: check --url.",
        ));
    }
    let uptime = word.get("uptime_seconds").and_then(Value::as_u64).unwrap_or(0);
    Ok(Finding::pass(format!("alive for {uptime} s")))
}

async fn key(subject: &ApiSubject) -> Finding {
    either(key_is_accepted(subject).await)
}

async fn key_is_accepted(subject: &ApiSubject) -> CheckResult<Finding> {
    const PATH: &str = "/v1/queues";
    let given = subject.wire.key.is_some();
    let answer = subject.wire.ask(Method::GET, PATH, As::Us, None).await?;
    Ok(match (answer.status.as_u16(), given) {
        (200, true) => {
            answer.json(PATH)?;
            Finding::pass("the key is accepted")
        }
        (200, false) => {
            answer.json(PATH)?;
            Finding::pass("no key is needed")
        }
        (401, false) => {
            Finding::skipped("the API demands a key: give --key or HOLDFAST_API_KEY to check more")
        }
        (401, true) => Finding::fail(
            "401: the key is not accepted",
            "Give --key one of `holdfast keys list`, or the API's HOLDFAST_API_KEY.",
        ),
        (403, _) => Finding::fail(
            "403: the key lacks the scope `read`",
            "Make one with `holdfast keys create --name validate --scopes produce,read`.",
        ),
        (503, _) => Finding::skipped("503: the API cannot reach what it needs; see health.services"),
        (status, _) => {
            answer.json(PATH)?;
            Finding::fail(format!("{PATH} answers {status}"), "See the log of the API.")
        }
    })
}
