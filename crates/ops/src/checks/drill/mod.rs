//! The degraded-mode drill: an API and a worker of their own, whose Redis is the configured one, behind a wire that is
//! cut for five seconds.
//!
//! It proves accept → execute → recover: while Redis is cut off every enqueue is answered 202 and every job runs; when
//! it is back the mode is normal again, without a restart; every job has run exactly once.
//!
//! # What it touches
//! The database is an embedded one in a scratch directory. On Redis it uses a queue with a name of its own, whose bells
//! expire within seconds: the system that runs there notices nothing.

mod cut;
mod system;

use std::time::{Duration, Instant};

use holdfast_core::config::Settings;
use redis::{ConnectionAddr, IntoConnectionInfo};
use reqwest::Method;
use secrecy::ExposeSecret;
use serde_json::{Value, json};
use url::Url;

use self::cut::Wire;
use self::system::System;
use super::timing::{millis, shown};
use super::{Check, CheckResult, Finding, check, either};
use crate::checks::api::wire::{As, Wire as Http};

/// How long Redis is away.
const OUTAGE: Duration = Duration::from_secs(5);
/// Between the jobs that are enqueued meanwhile.
const PACE: Duration = Duration::from_millis(250);
/// Longest wait for a job, on a busy machine.
const PATIENCE: Duration = Duration::from_secs(30);
/// Promised, on an idle machine, is two seconds.
const RECOVERY: Duration = Duration::from_secs(10);
const PROMISED_RECOVERY_MS: f64 = 2_500.0;
/// Enqueueing while Redis is away may cost a commit, not a wait for Redis.
const PROMISED_ACCEPT_MS: f64 = 1_000.0;

pub(crate) const CHECKS: &[Check<Settings>] =
    &[check!("redis_outage", needs ["redis.login", "configuration.settings"], within 120, outage)];

async fn outage(settings: &Settings) -> Finding {
    either(drill(settings).await)
}

async fn drill(settings: &Settings) -> CheckResult<Finding> {
    let Some(endpoint) = &settings.redis.queue else {
        return Ok(Finding::skipped("no Redis is configured"));
    };
    let url = endpoint.url.expose_secret();
    let info = url
        .into_connection_info()
        .map_err(|_| broken("the Redis URL cannot be read"))?;
    let upstream = match info.addr() {
        ConnectionAddr::Tcp(host, port) => (host.clone(), *port),
        ConnectionAddr::TcpTls { .. } => {
            return Ok(Finding::skipped(
                "through TLS no wire can be put: the certificate names the host",
            ));
        }
        _ => return Ok(Finding::skipped("no wire can be put before a Unix socket")),
    };
    let wire = Wire::to(upstream)
        .await
        .map_err(|error| broken(&error.to_string()))?;
    let through = through(url, &wire).ok_or_else(|| broken("the Redis URL cannot be rewritten"))?;
    let system = System::start(settings, through).await?;
    let finding = rehearse(&system, &wire).await;
    system.stop().await;
    finding
}

fn through(url: &str, wire: &Wire) -> Option<String> {
    let mut url = Url::parse(url).ok()?;
    url.set_ip_host(wire.address().ip()).ok()?;
    url.set_port(Some(wire.address().port())).ok()?;
    Some(url.into())
}

async fn rehearse(system: &System, wire: &Wire) -> CheckResult<Finding> {
    let http = Http::new(system.address(), None).map_err(|error| broken(&error.to_string()))?;
    if !system.redis_serves(RECOVERY).await {
        return Err(broken("the private API does not reach Redis through the wire"));
    }
    let before = enqueue(&http, system.queue()).await?.0;
    ran_once(&http, &before).await?;

    wire.cut();
    let cut_at = Instant::now();
    let mut accepted = Vec::new();
    let mut slowest = 0.0_f64;
    while cut_at.elapsed() < OUTAGE {
        let (id, took) = enqueue(&http, system.queue()).await?;
        slowest = slowest.max(took);
        accepted.push(id);
        tokio::time::sleep(PACE).await;
    }
    if system.redis_serves(Duration::ZERO).await {
        return Err(broken("the cut was not noticed within five seconds"));
    }
    for id in &accepted {
        ran_once(&http, id).await?;
    }

    let joined_at = Instant::now();
    wire.join();
    if !system.redis_serves(RECOVERY).await {
        return Err(Finding::fail(
            format!(
                "Redis has recovered, and is not used again after {} s",
                RECOVERY.as_secs()
            ),
            "See the log: whether the server accepts new connections.",
        ));
    }
    let recovered = millis(joined_at.elapsed());
    let after = enqueue(&http, system.queue()).await?.0;
    ran_once(&http, &after).await?;
    Ok(verdict(accepted.len(), slowest, recovered))
}

fn verdict(accepted: usize, slowest: f64, recovered: f64) -> Finding {
    let summary = format!(
        "Redis cut off for {} s: {accepted} of {accepted} jobs accepted (slowest {}) and run once; normal again {} after",
        OUTAGE.as_secs(),
        shown(slowest),
        shown(recovered)
    );
    let finding = if slowest > PROMISED_ACCEPT_MS || recovered > PROMISED_RECOVERY_MS {
        Finding::warn(
            summary,
            "Slower than promised: the machine is overloaded, or Redis is far away.",
        )
    } else {
        Finding::pass(summary)
    };
    finding
        .with("accepted", accepted)
        .with("slowest_accept_ms", slowest)
        .with("recovered_ms", recovered)
}

/// The id, and how long the answer took.
async fn enqueue(http: &Http, queue: &str) -> CheckResult<(String, f64)> {
    let body = json!({"kind": "holdfast.probe", "payload": {}, "queue": queue}).to_string();
    let answer = http
        .ask(Method::POST, "/v1/jobs", As::Nobody, Some(&body))
        .await?;
    let id = answer
        .json("/v1/jobs")?
        .get("id")
        .and_then(Value::as_str)
        .map(str::to_owned);
    match id {
        Some(id) if answer.status.as_u16() == 202 => Ok((id, millis(answer.took))),
        _ => Err(Finding::fail(
            format!(
                "an enqueue was answered {} instead of 202",
                answer.status.as_u16()
            ),
            "This is a fault of Holdfast: run it again with LOG_LEVEL=debug, and report what it says.",
        )),
    }
}

/// Completed, at the first attempt, without a crash.
async fn ran_once(http: &Http, id: &str) -> CheckResult<()> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let (_, job) = http.get(&format!("/v1/jobs/{id}"), As::Nobody).await?;
        let number = |field: &str| job.get(field).and_then(Value::as_u64);
        match job.get("state").and_then(Value::as_str) {
            Some("completed") if number("attempt") == Some(1) && number("crashes") == Some(0) => {
                return Ok(());
            }
            Some("available" | "running" | "scheduled") if Instant::now() < deadline => {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            state => {
                return Err(Finding::fail(
                    format!("an accepted job is {} and not completed", state.unwrap_or("lost")),
                    "This is a fault of Holdfast: run it again with LOG_LEVEL=debug, and report what it says.",
                ));
            }
        }
    }
}

fn broken(what: &str) -> Finding {
    Finding::fail(
        format!("the drill cannot be held: {what}"),
        "See the checks above; run it where the services run.",
    )
}
