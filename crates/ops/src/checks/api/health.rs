//! The health documents: are they what monitors expect, and what do they say?

use holdfast_http::health::KEPT_FOR;
use serde_json::Value;

use super::HealthSubject;
use super::wire::As;
use crate::checks::timing::{millis, shown};
use crate::checks::{CheckResult, Finding, Outcome, Verdict, either};

/// `/health` promises an answer within this, whatever hangs.
const PROMISED_MS: f64 = 1_000.0;

pub(super) async fn report(subject: &HealthSubject) -> Finding {
    either(document(subject).await)
}

async fn document(subject: &HealthSubject) -> CheckResult<Finding> {
    let (answer, health) = subject.wire.get("/health", As::Us).await?;
    let status = health.get("status").and_then(Value::as_str).unwrap_or_default();
    let expected = match status {
        "healthy" | "degraded" => 200,
        "unhealthy" => 503,
        _ => return Err(malformed("its status is none of healthy, degraded, unhealthy")),
    };
    if answer.status.as_u16() != expected {
        return Err(malformed(&format!(
            "{status} with status code {}",
            answer.status.as_u16()
        )));
    }
    let services = health.get("services").and_then(Value::as_object);
    let Some(services) = services.filter(|services| services.contains_key("database")) else {
        return Err(malformed("it has no services"));
    };
    let bare = services.iter().find(|(_, service)| {
        service.get("status").and_then(Value::as_str).is_none() || service.get("response_time_ms").is_none()
    });
    if let Some((name, _)) = bare {
        return Err(malformed(&format!("{name} has no status or response_time_ms")));
    }
    let took = millis(answer.took);
    let summary = format!("{status}, {} services, in {}", services.len(), shown(took));
    if status == "unhealthy" {
        return Err(
            if subject
                .told
                .iter()
                .any(|outcome| outcome.verdict == Verdict::Fail)
            {
                Finding::skipped(format!("{summary}: the checks above report the faults"))
            } else {
                Finding::fail(summary, "The services below say why.")
            },
        );
    }
    if took > PROMISED_MS {
        return Ok(Finding::warn(
            summary,
            "It promises an answer within a second: the process is overloaded.",
        ));
    }
    Ok(Finding::pass(summary).with("status", status))
}

fn malformed(what: &str) -> Finding {
    Finding::fail(
        format!("/health is not as documented: {what}"),
        "Another version, or another service, answers: check --url and what is deployed.",
    )
}

pub(super) async fn services(subject: &HealthSubject) -> Finding {
    either(each_service(subject).await)
}

/// What is not well, unless a check has told it already, or it follows from the database being away.
async fn each_service(subject: &HealthSubject) -> CheckResult<Finding> {
    let first = ill_services(subject).await?;
    if first.iter().all(|service| service.told) {
        let what = if first.is_empty() {
            "all are well"
        } else {
            "the checks above report the faults"
        };
        return Ok(Finding::pass(what));
    }
    a_new_document().await;
    let services = ill_services(subject).await?;
    let untold: Vec<&IllService> = services.iter().filter(|service| !service.told).collect();
    if untold.is_empty() {
        return Ok(Finding::pass("healthy by now, or reported above"));
    }
    let join = |texts: Vec<String>, with: &str| texts.join(with);
    let summary = join(untold.iter().map(|service| service.error.clone()).collect(), "; ");
    let hint = join(untold.iter().map(|service| service.hint.clone()).collect(), " ");
    if untold.iter().any(|service| service.unhealthy) {
        return Err(Finding::fail(summary, hint));
    }
    Ok(Finding::warn(summary, hint))
}

/// The document may be a second old, and have missed a worker's start, or a schedule.
async fn a_new_document() {
    tokio::time::sleep(KEPT_FOR.mul_f64(1.2)).await;
}

struct IllService {
    error: String,
    hint: String,
    unhealthy: bool,
    /// Another check has told it, or it follows from one that will be.
    told: bool,
}

async fn ill_services(subject: &HealthSubject) -> CheckResult<Vec<IllService>> {
    let (_, health) = subject.wire.get("/health", As::Us).await?;
    let Some(services) = health.get("services").and_then(Value::as_object) else {
        return Err(malformed("it has no services"));
    };
    let status = |service: &Value| service.get("status").and_then(Value::as_str).map(str::to_owned);
    let is_ill = |service: &Value| matches!(status(service).as_deref(), Some("degraded" | "unhealthy"));
    let database_away = services.get("database").is_some_and(is_ill);
    let ill = services.iter().filter(|(_, service)| is_ill(service));
    let read = ill.map(|(name, service)| {
        let text = |field: &str| {
            service
                .get(field)
                .and_then(Value::as_str)
                .unwrap_or("see the document")
        };
        let follows = database_away && !matches!(name.as_str(), "database" | "redis");
        IllService {
            error: format!("{name}: {}", text("error")),
            hint: text("hint").to_owned(),
            unhealthy: status(service).as_deref() == Some("unhealthy"),
            told: follows || is_told(&subject.told, name),
        }
    });
    Ok(read.collect())
}

/// Whether a check of another group has already named what ails a service.
fn is_told(told: &[Outcome], service: &str) -> bool {
    let groups: &[&str] = match service {
        "database" => &["database"],
        "redis" | "cache" | "sessions" => &["redis", "redis_cache"],
        "queue" => &["queue", "database"],
        "ledger" => &["ledger", "database"],
        "workers" => &["workers", "database"],
        "beat" => &["beat", "database"],
        _ => &[],
    };
    told.iter()
        .any(|outcome| outcome.verdict >= Verdict::Warn && groups.contains(&outcome.group))
}

pub(super) async fn beat(subject: &HealthSubject) -> Finding {
    either(ticks(subject).await)
}

async fn ticks(subject: &HealthSubject) -> CheckResult<Finding> {
    let (_, mut health) = subject.wire.get("/health", As::Us).await?;
    let is_well = health.pointer("/services/beat/status").and_then(Value::as_str) == Some("healthy");
    if !is_well {
        a_new_document().await;
        (_, health) = subject.wire.get("/health", As::Us).await?;
    }
    let Some(beat) = health.pointer("/services/beat") else {
        return Ok(Finding::skipped("the API's health document has no beat"));
    };
    let text = |field: &str| beat.get(field).and_then(Value::as_str);
    Ok(match text("status") {
        Some("healthy") => Finding::pass("alive"),
        Some("not_configured") | None => Finding::skipped("no schedules are configured"),
        Some(_) if is_told(&subject.told, "database") => Finding::skipped("the database is unavailable"),
        Some(_) => Finding::warn(
            text("error")
                .unwrap_or("no beat is alive: schedules do not tick")
                .to_owned(),
            text("hint").unwrap_or("Start a beat.").to_owned(),
        ),
    })
}

pub(super) async fn redis_metrics(subject: &HealthSubject) -> Finding {
    either(advice(subject).await)
}

/// `/metrics/redis`: what the server itself advises, unless this machine has asked Redis directly.
async fn advice(subject: &HealthSubject) -> CheckResult<Finding> {
    const PATH: &str = "/metrics/redis";
    let answer = subject.wire.ask(reqwest::Method::GET, PATH, As::Us, None).await?;
    match answer.status.as_u16() {
        404 => return Ok(Finding::skipped("the API has no /metrics/redis")),
        401 | 403 => return Ok(Finding::skipped("the key may not read it")),
        503 => return Ok(Finding::skipped("the API cannot reach what it needs")),
        _ => {}
    }
    let document = answer.json(PATH)?;
    if document.get("status").and_then(Value::as_str).is_none() {
        return Err(Finding::fail(
            format!("{PATH} has no status"),
            "Another version answers: check what is deployed.",
        ));
    }
    let advice: Vec<String> = match document.get("advice") {
        Some(Value::Array(advice)) => advice.iter().map(sentence).collect(),
        _ => Vec::new(),
    };
    let asked_directly = subject
        .told
        .iter()
        .any(|outcome| outcome.group == "redis" && outcome.verdict != Verdict::Skipped);
    if advice.is_empty() || asked_directly {
        return Ok(Finding::pass(format!(
            "served, with {} pieces of advice",
            advice.len()
        )));
    }
    Ok(Finding::warn(advice.join("; "), "See docs/runbook.md."))
}

/// A text, or an object with one in it.
fn sentence(advice: &Value) -> String {
    let within = ["message", "text", "advice", "problem"]
        .iter()
        .find_map(|name| advice.get(name)?.as_str());
    match advice.as_str().or(within) {
        Some(text) => text.to_owned(),
        None => advice.to_string(),
    }
}
