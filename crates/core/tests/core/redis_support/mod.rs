//! What the gate's tests share: settings as in production, a gate on a real server, and waiting for its mode.
#![allow(dead_code, reason = "each test binary uses a part of it")]

use std::time::{Duration, Instant};

use holdfast_core::config::{RedisEndpoint, RedisSettings};
use holdfast_core::mode::{DegradedReason, Mode};
use holdfast_core::redis::{Connection, GateError, RedisGate, Role};
use redis::RedisResult;

/// An outage must be known after this time, traffic or not.
pub(crate) const NOTICED_WITHIN: Duration = Duration::from_secs(1);
/// The service must be back this long after the server.
pub(crate) const BACK_WITHIN: Duration = Duration::from_secs(2);
/// What a busy test machine may add to either.
pub(crate) const SLACK: Duration = Duration::from_secs(1);
/// What only a broken gate exceeds.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn settings() -> RedisSettings {
    RedisSettings {
        queue: None,
        cache: None,
        ca_certificate: None,
        max_connections: 8,
        connect_timeout: Duration::from_secs(1),
        command_timeout: Duration::from_millis(250),
        probe_interval: Duration::from_millis(500),
        failure_threshold: 3,
    }
}

pub(crate) fn open(url: &str) -> RedisGate {
    open_with(url, &settings())
}

pub(crate) fn open_with(url: &str, settings: &RedisSettings) -> RedisGate {
    let endpoint = RedisEndpoint {
        url: url.to_owned().into(),
    };
    RedisGate::open(Role::Queue, Some(&endpoint), settings).unwrap()
}

/// A gate that serves.
pub(crate) async fn open_ready(url: &str) -> RedisGate {
    let gate = open(url);
    becomes_normal(&gate).await;
    gate
}

/// Waits until the gate serves, and says how long that took.
pub(crate) async fn becomes_normal(gate: &RedisGate) -> Duration {
    becomes(gate, Mode::is_normal).await.1
}

/// Waits until the gate does not serve, and says why not and how long that took.
pub(crate) async fn becomes_degraded(gate: &RedisGate) -> (DegradedReason, Duration) {
    let (mode, waited) = becomes(gate, Mode::is_degraded).await;
    (mode.reason().unwrap(), waited)
}

/// Waits until the gate does not serve for this reason.
pub(crate) async fn becomes_degraded_by(gate: &RedisGate, reason: DegradedReason) -> Duration {
    becomes(gate, |mode| mode.reason() == Some(reason)).await.1
}

async fn becomes(gate: &RedisGate, met: impl FnMut(&Mode) -> bool) -> (Mode, Duration) {
    let started = Instant::now();
    let mut watch = gate.watch();
    let Ok(met) = tokio::time::timeout(LIMIT, watch.wait_for(met)).await else {
        panic!("the mode stayed {:?}", gate.mode());
    };
    (*met.unwrap(), started.elapsed())
}

pub(crate) async fn set(gate: &RedisGate, key: &str, value: &str) -> Result<(), GateError> {
    gate.run("set", |mut redis| async move {
        redis::cmd("SET")
            .arg(key)
            .arg(value)
            .query_async(&mut redis)
            .await
    })
    .await
}

pub(crate) async fn get(gate: &RedisGate, key: &str) -> Result<Option<String>, GateError> {
    gate.run("get", |redis| read(redis, key)).await
}

async fn read(mut redis: Connection, key: &str) -> RedisResult<Option<String>> {
    redis::cmd("GET").arg(key).query_async(&mut redis).await
}

/// The gate must work in both directions.
pub(crate) async fn assert_serves(gate: &RedisGate) {
    set(gate, "serves", "yes").await.unwrap();
    assert_eq!(get(gate, "serves").await.unwrap().as_deref(), Some("yes"));
}

/// A thousand refusals must not take the time of one timeout.
pub(crate) async fn assert_fails_fast(gate: &RedisGate) {
    let started = Instant::now();
    for _ in 0..1_000 {
        let refused = get(gate, "any").await.unwrap_err();
        assert!(matches!(refused, GateError::Unavailable { .. }), "{refused}");
    }
    assert!(
        started.elapsed() < gate.settings().command_timeout,
        "{:?}",
        started.elapsed()
    );
}
