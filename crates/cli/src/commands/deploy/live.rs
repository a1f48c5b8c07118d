//! The public address after a deployment: does it answer, is it healthy, does it want a key, is it fast enough?

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode, redirect};
use serde::Serialize;
use serde_json::Value;
use tokio::time::sleep;
use url::Url;

use crate::failure::Failure;

/// Longest wait for one answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at an address that is not healthy yet.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Most of an answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The speed check: requests in all, and at once.
const REQUESTS: usize = 200;
const AT_ONCE: usize = 8;

#[derive(Debug, Serialize)]
pub(crate) struct Report {
    url: String,
    version: String,
    status: String,
    wants_key: bool,
    speed: Speed,
}

#[derive(Debug, Serialize)]
struct Speed {
    requests: usize,
    failed: usize,
    per_second: f64,
    p50_ms: f64,
    p95_ms: f64,
    p99_ms: f64,
}

impl Report {
    pub(crate) fn lines(&self) -> Vec<String> {
        let Speed {
            requests,
            failed,
            per_second,
            p50_ms,
            p95_ms,
            p99_ms,
        } = &self.speed;
        vec![
            format!("  {} version {}", self.status, self.version),
            format!(
                "  a request without a key is {}",
                if self.wants_key { "refused" } else { "ANSWERED" }
            ),
            format!(
                "  {requests} requests, {failed} failed, {per_second:.0}/s, p50 {p50_ms:.0} ms, p95 {p95_ms:.0} ms, p99 {p99_ms:.0} ms"
            ),
        ]
    }

    /// The first thing that must not be.
    pub(crate) fn verdict(&self, aim: f64) -> Result<(), Failure> {
        let url = &self.url;
        if !self.wants_key {
            return Err(Failure::no(format!(
                "{url} answers without an API key: set HOLDFAST_API_KEY and HOLDFAST_ENV=production"
            )));
        }
        if self.speed.failed > 0 {
            return Err(Failure::no(format!(
                "{url} failed {} of {} requests",
                self.speed.failed, self.speed.requests
            )));
        }
        if self.speed.p95_ms > aim {
            return Err(Failure::no(format!(
                "{url} is slow: 95 % of requests within {:.0} ms, the aim is {aim:.0} ms",
                self.speed.p95_ms
            )));
        }
        Ok(())
    }
}

/// Waits until the address is healthy, then measures.
pub(crate) async fn check(url: &Url, patience: Duration) -> Result<Report, Failure> {
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(REQUEST_DEADLINE.min(patience))
        // A sign-in page is no answer of ours.
        .redirect(redirect::Policy::none())
        .build()
        .map_err(|error| Failure::service("the HTTP client cannot be built", error))?;
    let health = healthy(&client, url, patience).await?;
    let text = |name: &str| {
        health
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("unknown")
            .to_owned()
    };
    let jobs = client.get(at(url, "v1/jobs")).send().await;
    let jobs = jobs.map_err(|error| unreachable(url, &error))?;
    Ok(Report {
        url: url.to_string(),
        version: text("version"),
        status: text("status"),
        wants_key: jobs.status() == StatusCode::UNAUTHORIZED,
        speed: measure(&client, &at(url, "health/live")).await,
    })
}

/// The health document, once it says that it can do its work. The last fault is the one reported.
async fn healthy(client: &Client, url: &Url, patience: Duration) -> Result<Value, Failure> {
    let begun = Instant::now();
    loop {
        match health(client, url).await {
            Ok(document) => return Ok(document),
            Err(failure) if begun.elapsed() + RETRY_PAUSE >= patience => return Err(failure),
            Err(_) => sleep(RETRY_PAUSE).await,
        }
    }
}

async fn health(client: &Client, url: &Url) -> Result<Value, Failure> {
    let response = client.get(at(url, "health")).send().await;
    let mut response = response.map_err(|error| unreachable(url, &error))?;
    let status = response.status();
    let mut body = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(|error| unreachable(url, &error))? {
        body.extend_from_slice(&chunk);
        if body.len() > MAX_ANSWER_BYTES {
            return Err(Failure::no(format!("{url} answers without end: is it Holdfast?")));
        }
    }
    let document = parse(url, status, &body)?;
    match document.get("status").and_then(Value::as_str) {
        Some("healthy" | "degraded") if status.is_success() => Ok(document),
        Some("unhealthy") => Err(Failure::no(format!("{url} is unhealthy: {}", ailing(&document)))),
        _ => Err(Failure::no(format!(
            "{url} is not Holdfast: its /health answered {status} with another document"
        ))),
    }
}

fn parse(url: &Url, status: StatusCode, body: &[u8]) -> Result<Value, Failure> {
    let text = String::from_utf8_lossy(body);
    if text.trim_start().starts_with('<') {
        return Err(Failure::no(format!(
            "{url} answered {status} with a web page instead of JSON: is this the address of api?"
        )));
    }
    serde_json::from_str(&text).map_err(|error| {
        let what = if error.is_eof() && !text.is_empty() {
            "half a JSON document"
        } else {
            "something that is no JSON"
        };
        Failure::no(format!("{url} answered {status} with {what}"))
    })
}

/// The services that are the reason.
fn ailing(document: &Value) -> String {
    let services = document.get("services").and_then(Value::as_object);
    let names = services.into_iter().flatten().filter_map(|(name, service)| {
        let status = service.get("status")?.as_str()?;
        (status == "unhealthy").then(|| name.clone())
    });
    names.collect::<Vec<_>>().join(", ")
}

fn unreachable(url: &Url, error: &reqwest::Error) -> Failure {
    let mut why: &dyn std::error::Error = error;
    while let Some(cause) = why.source() {
        why = cause;
    }
    if error.is_timeout() {
        return Failure::no(format!("{url} gave no answer in time"));
    }
    Failure::no(format!("{url} cannot be reached: {why}"))
}

async fn measure(client: &Client, url: &Url) -> Speed {
    let begun = Instant::now();
    let lanes = (0..AT_ONCE).map(|_| {
        let (client, url) = (client.clone(), url.clone());
        tokio::spawn(async move {
            let mut took = Vec::new();
            for _ in 0..REQUESTS / AT_ONCE {
                let sent = Instant::now();
                let answer = client.get(url.clone()).send().await;
                let is_good = answer.is_ok_and(|answer| answer.status().is_success());
                took.push((is_good, sent.elapsed()));
            }
            took
        })
    });
    let mut took = Vec::new();
    for lane in lanes.collect::<Vec<_>>() {
        took.extend(lane.await.unwrap_or_default());
    }
    let mut good: Vec<Duration> = took
        .iter()
        .filter(|(is_good, _)| *is_good)
        .map(|(_, took)| *took)
        .collect();
    good.sort_unstable();
    let quantile = |share: f64| {
        let at = ((good.len() as f64 * share).ceil() as usize).saturating_sub(1);
        good.get(at).map_or(0.0, |took| took.as_secs_f64() * 1000.0)
    };
    Speed {
        requests: REQUESTS,
        failed: REQUESTS - good.len(),
        per_second: good.len() as f64 / begun.elapsed().as_secs_f64(),
        p50_ms: quantile(0.5),
        p95_ms: quantile(0.95),
        p99_ms: quantile(0.99),
    }
}

fn at(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    url.set_path(path);
    url
}
