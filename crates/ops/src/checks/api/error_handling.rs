//! How the API treats what it should not take, and how fast it is.

use std::time::Instant;

use futures::future::join_all;
use holdfast_core::config::Settings;
use reqwest::Method;
use serde_json::Value;

use super::ApiSubject;
use super::wire::{Answer, As};
use crate::checks::timing::{Percentiles, shown};
use crate::checks::{CheckResult, Finding, either};

/// Requests of the performance check, so many at once.
const REQUESTS: usize = 400;
const AT_ONCE: usize = 8;

/// A page that asks ten such things one after the other still feels at once.
const SLOW_P99_MS: f64 = 100.0;

pub(super) async fn error_format(subject: &ApiSubject) -> Finding {
    either(errors_are_problems(subject).await)
}

/// A route that is none and a body that is none: both get a problem (RFC 9457) with a stable type.
async fn errors_are_problems(subject: &ApiSubject) -> CheckResult<Finding> {
    let wire = &subject.wire;
    let nowhere = wire.ask(Method::GET, "/v1/no-such-route", As::Us, None).await?;
    is_problem(&nowhere, "an unknown route", &[401, 404])?;
    let half = wire
        .ask(Method::POST, "/v1/jobs", As::Us, Some("{\"kind\":"))
        .await?;
    is_problem(&half, "a malformed body", &[400, 401, 403])?;
    Ok(Finding::pass("errors are application/problem+json with a type"))
}

fn is_problem(answer: &Answer, what: &str, statuses: &[u16]) -> CheckResult<()> {
    let status = answer.status.as_u16();
    let hint = "Something between replaces the API's errors, or another service answers: connect directly.";
    let wrong = |how: String| Finding::fail(format!("{what} is answered {status}, {how}"), hint);
    if !statuses.contains(&status) {
        return Err(wrong(format!("instead of {}", statuses[statuses.len() - 1])));
    }
    if !answer.is_problem() {
        return Err(wrong(format!(
            "as {:?} instead of application/problem+json",
            answer.content_type
        )));
    }
    let problem = answer.json(what)?;
    let has_type = problem.get("type").and_then(Value::as_str).is_some();
    if !has_type || problem.get("status").and_then(Value::as_u64) != Some(u64::from(status)) {
        return Err(wrong("without its type or status in the body".to_owned()));
    }
    Ok(())
}

pub(super) async fn key_demanded(subject: &ApiSubject) -> Finding {
    either(nobody_is_refused(subject).await)
}

async fn nobody_is_refused(subject: &ApiSubject) -> CheckResult<Finding> {
    let answer = subject
        .wire
        .ask(Method::GET, "/v1/jobs", As::Nobody, None)
        .await?;
    let hint = "Set HOLDFAST_API_KEY (openssl rand -hex 32), or make one with `holdfast keys create`, and start again.";
    Ok(match answer.status.as_u16() {
        401 => Finding::pass("without a key: 401"),
        status if answer.status.is_success() && subject.wire.is_local() => Finding::warn(
            format!("no API key is required ({status}); the API serves this machine only"),
            hint,
        ),
        status if answer.status.is_success() => Finding::fail(
            format!("no API key is required: every client may enqueue ({status})"),
            hint,
        ),
        503 => Finding::skipped("503: the API cannot reach what it needs"),
        status => Finding::fail(
            format!("without a key: {status} instead of 401"),
            "Something between answers for the API: connect directly.",
        ),
    })
}

pub(super) async fn wrong_key(subject: &ApiSubject) -> Finding {
    either(strangers_are_refused(subject).await)
}

async fn strangers_are_refused(subject: &ApiSubject) -> CheckResult<Finding> {
    let answer = subject
        .wire
        .ask(
            Method::GET,
            "/v1/jobs",
            As::Key("holdfast-validate-wrong-key"),
            None,
        )
        .await?;
    Ok(match answer.status.as_u16() {
        401 => Finding::pass("with a wrong key: 401"),
        200 if subject.wire.is_local() => Finding::skipped("the API serves this machine without a key"),
        503 => Finding::skipped("503: the API cannot reach what it needs"),
        status => Finding::fail(
            format!("with a wrong key: {status} instead of 401"),
            "Something between answers for the API: connect directly.",
        ),
    })
}

pub(super) async fn docs(subject: &ApiSubject) -> Finding {
    either(docs_are_off(subject).await)
}

async fn docs_are_off(subject: &ApiSubject) -> CheckResult<Finding> {
    let known_production = subject.settings.as_ref().is_some_and(Settings::is_production);
    if subject.wire.is_local() && !known_production {
        return Ok(Finding::skipped("a development server shows its docs"));
    }
    let answer = subject.wire.ask(Method::GET, "/docs", As::Us, None).await?;
    if answer.status.as_u16() == 404 {
        return Ok(Finding::pass("/docs is off"));
    }
    Ok(Finding::fail(
        format!(
            "/docs answers {}: this is no production server",
            answer.status.as_u16()
        ),
        "Set HOLDFAST_ENV=production.",
    ))
}

pub(super) async fn requests(subject: &ApiSubject) -> Finding {
    either(many_requests(subject).await)
}

async fn many_requests(subject: &ApiSubject) -> CheckResult<Finding> {
    let started = Instant::now();
    let asked = join_all((0..AT_ONCE).map(|_| client(subject))).await;
    let rate = REQUESTS as f64 / started.elapsed().as_secs_f64();
    let mut took = Vec::with_capacity(REQUESTS);
    for client in asked {
        took.extend(client?);
    }
    let Some(took) = Percentiles::of(took) else {
        return Ok(Finding::skipped("nothing was measured"));
    };
    let summary = format!(
        "{rate:.0} requests/s, {AT_ONCE} concurrent: p50 {}, p95 {}, p99 {}",
        shown(took.p50_ms),
        shown(took.p95_ms),
        shown(took.p99_ms)
    );
    let finding = if took.p99_ms > SLOW_P99_MS && subject.wire.is_local() {
        Finding::warn(
            summary,
            "The machine is overloaded: give the API more of it, or set server.http_workers higher.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding
        .with("requests_per_second", rate)
        .with("p50_ms", took.p50_ms)
        .with("p95_ms", took.p95_ms)
        .with("p99_ms", took.p99_ms))
}

async fn client(subject: &ApiSubject) -> CheckResult<Vec<std::time::Duration>> {
    let mut took = Vec::with_capacity(REQUESTS / AT_ONCE);
    for _ in 0..REQUESTS / AT_ONCE {
        let answer = subject
            .wire
            .ask(Method::GET, "/health/live", As::Nobody, None)
            .await?;
        if !answer.status.is_success() {
            return Err(Finding::fail(
                format!(
                    "with {AT_ONCE} concurrent requests one was answered {}",
                    answer.status.as_u16()
                ),
                "See the log of the API, and what is in front of it (rate limits?).",
            ));
        }
        took.push(answer.took);
    }
    Ok(took)
}
