//! One look at the target: `/health`, `/v1/queues` and `/metrics/redis`, asked at the same time.
//!
//! A look never fails: what could not be read is absent, and a target that does not answer is [`TargetState::Down`] with
//! the reason. What is absent is unknown, not zero: no rule fires or recovers on it.

use std::collections::BTreeMap;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use reqwest::Method;
use serde::Serialize;
use serde_json::Value;

use crate::checks::api::wire::{As, Wire};
use crate::checks::timing::millis;

/// How the target stands as a whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum TargetState {
    Healthy,
    Degraded,
    Unhealthy,
    /// It does not answer, or not as Holdfast does.
    Down,
}

impl TargetState {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unhealthy => "unhealthy",
            Self::Down => "down",
        }
    }
}

#[derive(Debug, Clone, Serialize)]
pub(super) struct Sample {
    pub(super) at: DateTime<Utc>,
    pub(super) standing: TargetState,
    /// Why it is not healthy, if it says so.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
    /// Why numbers that need a key are unknown, if it is the key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) refused: Option<String>,
    /// How long `/health` took.
    pub(super) latency_ms: Option<f64>,
    /// Jobs finished a second, over all workers.
    pub(super) throughput: Option<f64>,
    /// Jobs that could run now, by queue.
    pub(super) depth: BTreeMap<String, u64>,
    pub(super) dead_letters: Option<u64>,
    pub(super) workers: Option<u64>,
    /// 1 while Redis serves, 0 while it should and does not.
    pub(super) redis: Option<f64>,
    /// Share of the database pool in use.
    pub(super) pool: Option<f64>,
    pub(super) memory_mb: Option<f64>,
    /// Share of Redis' memory limit.
    pub(super) memory: Option<f64>,
    pub(super) hit_ratio: Option<f64>,
}

impl Sample {
    pub(super) async fn take(wire: &Wire) -> Self {
        let at = clock::now();
        let (health, queues, redis) = tokio::join!(
            wire.get("/health", As::Us),
            document(wire, "/v1/queues"),
            document(wire, "/metrics/redis"),
        );
        match health {
            Ok((answer, health)) => Self {
                refused: refusal(queues.status, wire.key.is_some()),
                ..Self::read(at, millis(answer.took), &health, &queues.json, &redis.json)
            },
            Err(finding) => Self::down(at, finding.summary().to_owned()),
        }
    }

    /// What there is to say beside the standing.
    pub(super) fn remark(&self) -> String {
        let parts: Vec<&str> = [&self.reason, &self.refused]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        parts.join("; ")
    }

    pub(super) fn down(at: DateTime<Utc>, reason: String) -> Self {
        Self {
            at,
            standing: TargetState::Down,
            reason: Some(reason),
            refused: None,
            latency_ms: None,
            throughput: None,
            depth: BTreeMap::new(),
            dead_letters: None,
            workers: None,
            redis: None,
            pool: None,
            memory_mb: None,
            memory: None,
            hit_ratio: None,
        }
    }

    fn read(at: DateTime<Utc>, latency_ms: f64, health: &Value, queues: &Value, redis: &Value) -> Self {
        let standing = match health.get("status").and_then(Value::as_str) {
            Some("healthy") => TargetState::Healthy,
            Some("degraded") => TargetState::Degraded,
            Some("unhealthy") => TargetState::Unhealthy,
            _ => return Self::down(at, "/health is not as documented".to_owned()),
        };
        let number = |document: &Value, path: &str| document.pointer(path).and_then(Value::as_f64);
        let listed = queues.get("queues").and_then(Value::as_array);
        let used_mb = number(redis, "/metrics/memory/used_mb").or_else(|| memory_told(health));
        let max_mb = number(redis, "/metrics/memory/max_mb").filter(|max| *max > 0.0);
        Self {
            at,
            standing,
            reason: why(health),
            refused: None,
            latency_ms: Some(latency_ms),
            throughput: listed.map(|queues| {
                queues
                    .iter()
                    .filter_map(|queue| number(queue, "/rates/per_second"))
                    .sum()
            }),
            depth: depths(health, listed),
            dead_letters: dead_letters(health, listed),
            workers: number(health, "/services/workers/details/count").map(|count| count as u64),
            redis: serves(health),
            pool: pool_share(health),
            memory_mb: used_mb,
            memory: used_mb.zip(max_mb).map(|(used, max)| used / max),
            hit_ratio: number(redis, "/metrics/performance/cache_hit_ratio"),
        }
    }

    pub(super) fn total_depth(&self) -> Option<f64> {
        (self.standing != TargetState::Down && !self.depth.is_empty())
            .then(|| self.depth.values().sum::<u64>() as f64)
    }
}

/// A document that may be missing: no key, an older version, an outage.
struct Document {
    /// Null if it is missing.
    json: Value,
    /// The status code, if there was an answer.
    status: Option<u16>,
}

async fn document(wire: &Wire, path: &str) -> Document {
    let answer = wire.ask(Method::GET, path, As::Us, None).await.ok();
    let status = answer.as_ref().map(|answer| answer.status.as_u16());
    let json = answer.filter(|answer| answer.status.is_success());
    let json = json
        .and_then(|answer| answer.json(path).ok())
        .unwrap_or(Value::Null);
    Document { json, status }
}

/// Why the target does not let this key read the queues.
fn refusal(status: Option<u16>, has_key: bool) -> Option<String> {
    let text = match (status?, has_key) {
        (401, true) => "the key is not accepted (401): give another one as --key or HOLDFAST_API_KEY",
        (401, false) => {
            "the API demands a key (401), without which only /health is read: give --key or HOLDFAST_API_KEY"
        }
        (403, _) => "the key may not read queues (403): it needs the scope `read`",
        _ => return None,
    };
    Some(text.to_owned())
}

/// Why it makes no sense to begin: a key was given, and the target does not know it.
pub(super) async fn unknown_key(wire: &Wire) -> Option<String> {
    let status = document(wire, "/v1/queues").await.status;
    refusal(status, true).filter(|_| status == Some(401) && wire.key.is_some())
}

/// The first service that is not well, in its own words; the database before others, whom it takes along.
fn why(health: &Value) -> Option<String> {
    let services = health.get("services")?.as_object()?;
    let is_ill = |service: &Value| {
        matches!(
            service.get("status").and_then(Value::as_str),
            Some("degraded" | "unhealthy")
        )
    };
    let mut ill: Vec<_> = services.iter().filter(|(_, service)| is_ill(service)).collect();
    ill.sort_by_key(|(name, _)| (*name != "database", *name != "redis"));
    let (name, service) = ill.first()?;
    let error = service.get("error").and_then(Value::as_str).unwrap_or("not well");
    Some(format!("{name}: {error}"))
}

/// From the list of queues if the key may read it, else from the health document.
fn depths(health: &Value, listed: Option<&Vec<Value>>) -> BTreeMap<String, u64> {
    let available = |value: &Value| value.get("available").and_then(Value::as_u64);
    if let Some(queues) = listed {
        let depth = |queue: &Value| {
            let name = queue.get("name")?.as_str()?.to_owned();
            Some((name, available(queue.get("depth")?)?))
        };
        return queues.iter().filter_map(depth).collect();
    }
    let queues = health
        .pointer("/services/queue/details/queues")
        .and_then(Value::as_object);
    let depths = queues.into_iter().flatten();
    depths
        .filter_map(|(name, queue)| Some((name.clone(), available(queue)?)))
        .collect()
}

fn dead_letters(health: &Value, listed: Option<&Vec<Value>>) -> Option<u64> {
    let discarded = |value: Option<&Value>| value?.get("discarded")?.as_u64();
    if let Some(queues) = listed {
        let counts = queues.iter().filter_map(|queue| discarded(queue.get("depth")));
        return Some(counts.sum());
    }
    let queues = health.pointer("/services/queue/details/queues")?.as_object()?;
    let counts = queues.values().filter_map(|queue| discarded(Some(queue)));
    Some(counts.sum())
}

fn serves(health: &Value) -> Option<f64> {
    match health.pointer("/services/redis/status")?.as_str()? {
        "healthy" => Some(1.0),
        "not_configured" => None,
        _ => Some(0.0),
    }
}

fn pool_share(health: &Value) -> Option<f64> {
    let pool = health.pointer("/services/database/details/pool")?;
    let number = |name: &str| pool.get(name)?.as_f64();
    Some((number("size")? - number("idle")?) / number("max").filter(|max| *max > 0.0)?)
}

/// `1.25M` of the health document, where `/metrics/redis` is not served.
fn memory_told(health: &Value) -> Option<f64> {
    let text = health.pointer("/services/redis/details/memory_used")?.as_str()?;
    let (number, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let megabytes = match unit {
        "B" => 1.0 / 1_048_576.0,
        "K" => 1.0 / 1_024.0,
        "M" => 1.0,
        "G" => 1_024.0,
        _ => return None,
    };
    Some(number.parse::<f64>().ok()? * megabytes)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_sample_reads_what_is_there_and_invents_nothing() {
        let health = json!({"status": "degraded", "services": {
            "database": {"status": "healthy", "details": {"pool": {"size": 4, "idle": 1, "max": 10}}},
            "redis": {"status": "degraded", "error": "it does not serve: refused", "details": {"memory_used": "2.50M"}},
            "queue": {"status": "healthy", "details": {"queues": {"default": {"available": 7, "discarded": 2}}}},
            "workers": {"status": "healthy", "details": {"count": 2}}}});
        let sample = Sample::read(clock::now(), 3.0, &health, &Value::Null, &Value::Null);
        assert_eq!(sample.standing, TargetState::Degraded);
        assert_eq!(
            sample.reason.as_deref(),
            Some("redis: it does not serve: refused")
        );
        assert_eq!(
            (sample.total_depth(), sample.dead_letters, sample.workers),
            (Some(7.0), Some(2), Some(2))
        );
        assert_eq!(
            (sample.pool, sample.memory_mb, sample.redis),
            (Some(0.3), Some(2.5), Some(0.0))
        );
        assert_eq!(
            (sample.throughput, sample.memory, sample.hit_ratio),
            (None, None, None)
        );
    }

    #[test]
    fn what_is_no_health_document_is_a_target_that_is_down() {
        let sample = Sample::read(
            clock::now(),
            3.0,
            &json!({"ok": true}),
            &Value::Null,
            &Value::Null,
        );
        assert_eq!((sample.standing, sample.total_depth()), (TargetState::Down, None));
    }
}
