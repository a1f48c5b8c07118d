//! The public address after a deployment: it must become healthy, and then pass what `holdfast validate --url` asks.

use std::time::{Duration, Instant};

use reqwest::{Client, StatusCode, redirect};
use serde::{Serialize, Serializer};
use serde_json::Value;
use tokio::time::sleep;
use url::Url;

use super::Options;
use crate::checks::report::{self, Report};
use crate::checks::{Outcome, Run, Verdict};
use crate::failure::Failure;
use crate::validate;

/// Longest wait for one answer.
const REQUEST_DEADLINE: Duration = Duration::from_secs(10);
const CONNECT_DEADLINE: Duration = Duration::from_secs(5);
/// Between two looks at an address that is not healthy yet.
const RETRY_PAUSE: Duration = Duration::from_millis(500);
/// Most of an answer that is read.
const MAX_ANSWER_BYTES: usize = 1024 * 1024;

/// The check of the key that was given here: it may be another system's, which is no fault of the deployment.
const KEY: &str = "api.key";
/// The one that measures.
const SPEED: &str = "performance.requests";

/// What was found at the address.
#[derive(Debug, Serialize)]
pub(super) struct LiveReport {
    url: Url,
    version: String,
    status: String,
    /// As `holdfast validate --json` prints it.
    #[serde(rename = "validation", serialize_with = "as_report")]
    outcomes: Vec<Outcome>,
}

fn as_report<S: Serializer>(outcomes: &[Outcome], serializer: S) -> Result<S::Ok, S::Error> {
    Report::of(outcomes).serialize(serializer)
}

impl LiveReport {
    /// What must not be, if there is any: a check that failed, or 95 % of requests slower than the aim, in milliseconds.
    pub(crate) fn verdict(&self, aim: f64) -> Result<(), Failure> {
        let url = &self.url;
        let failed = self.failed().filter(|outcome| outcome.full_name() != KEY);
        let failed: Vec<String> = failed
            .map(|outcome| format!("{}: {}", outcome.full_name(), outcome.summary))
            .collect();
        if !failed.is_empty() {
            return Err(Failure::no(format!(
                "{url} does not pass its checks: {}",
                failed.join("; ")
            )));
        }
        let measured = self.outcomes.iter().find(|outcome| outcome.full_name() == SPEED);
        let p95 = measured.and_then(|speed| speed.numbers.get("p95_ms")?.as_f64());
        match p95 {
            Some(p95) if p95 > aim => Err(Failure::no(format!(
                "{url} is slow: 95 % of requests within {p95:.1} ms, the aim is {aim} ms"
            ))),
            Some(_) => Ok(()),
            None => Err(Failure::no(format!("the speed of {url} could not be measured"))),
        }
    }

    /// The deployment stands, but a key that it does not take has left workers and queues unchecked.
    pub(crate) fn all_was_asked(&self) -> Result<(), Failure> {
        match self.failed().find(|outcome| outcome.full_name() == KEY) {
            Some(key) => Err(Failure::no(format!(
                "deployed, but its workers and queues were not checked ({}): correct --key or HOLDFAST_API_KEY, then \
                 run `holdfast validate --url {}`",
                key.summary, self.url
            ))),
            None => Ok(()),
        }
    }

    fn failed(&self) -> impl Iterator<Item = &Outcome> {
        self.outcomes
            .iter()
            .filter(|outcome| outcome.verdict == Verdict::Fail)
    }
}

/// Waits until the address is healthy, then asks it everything.
pub(crate) async fn check(url: Url, options: &Options) -> Result<LiveReport, Failure> {
    let patience = options.live_deadline;
    rustls::crypto::ring::default_provider().install_default().ok();
    let client = Client::builder()
        .connect_timeout(CONNECT_DEADLINE)
        .timeout(REQUEST_DEADLINE.min(patience))
        // A sign-in page is no answer of ours.
        .redirect(redirect::Policy::none())
        .build()
        .map_err(|error| Failure::service("the HTTP client cannot be built", error))?;
    let health = healthy(&client, &url, patience).await?;
    let text = |name: &str| {
        health
            .get(name)
            .and_then(Value::as_str)
            .unwrap_or("unknown")
            .to_owned()
    };
    let (version, status) = (text("version"), text("status"));
    options.say(&format!("  {status}, version {version}"));
    let mut run = Run::new(printer(options.progress));
    validate::check_deployed(&mut run, url.clone(), options.key.clone()).await?;
    Ok(LiveReport {
        url,
        version,
        status,
        outcomes: run.into_outcomes(),
    })
}

/// Passes the lines of each outcome on.
fn printer(progress: fn(&str)) -> impl Fn(&Outcome) {
    move |outcome| {
        for line in report::line(outcome, false).lines() {
            progress(&format!("  {line}"));
        }
    }
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
            "something that is not JSON"
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

fn at(url: &Url, path: &str) -> Url {
    let mut url = url.clone();
    url.set_path(path);
    url
}
