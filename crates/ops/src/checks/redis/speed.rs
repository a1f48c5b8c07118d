//! How fast it is, alone, in a pipeline, and under many callers at once.

use std::time::{Duration, Instant};

use futures::future::join_all;
use holdfast_core::redis::{PoolStats, RedisGate};
use redis::RedisError;

use super::connection::failed;
use super::{KEY_LIFETIME_MS, RedisSubject, SLOW_MS};
use crate::checks::timing::{Percentiles, shown};
use crate::checks::{CheckResult, Finding, either};

const OPERATIONS: usize = 1_000;
/// One pipeline's share of them.
const PIPELINE: usize = 100;
/// Less gain than this means that something answers each command by itself.
const LEAST_GAIN: f64 = 2.0;
/// Callers of the pool at once, each with so many calls in a row.
const CALLERS: usize = 50;
const CALLS_EACH: usize = 20;
/// How long a fresh gate may take to connect.
const CONNECT: Duration = Duration::from_secs(5);

pub(super) async fn latency(subject: &RedisSubject) -> Finding {
    either(one_by_one(subject).await)
}

async fn one_by_one(subject: &RedisSubject) -> CheckResult<Finding> {
    let mut connection = subject.connection().await?;
    let mut took = Vec::with_capacity(OPERATIONS);
    for _ in 0..OPERATIONS {
        let started = Instant::now();
        redis::cmd("PING")
            .exec_async(&mut connection)
            .await
            .map_err(|error| failed("PING", &error))?;
        took.push(started.elapsed());
    }
    let Some(took) = Percentiles::of(took) else {
        return Ok(Finding::skipped("nothing was measured"));
    };
    let summary = format!(
        "{OPERATIONS} operations: p50 {}, p99 {}",
        shown(took.p50_ms),
        shown(took.p99_ms)
    );
    let finding = if took.p99_ms > SLOW_MS {
        Finding::warn(
            summary,
            "Bring the service and its Redis into one region; see SLOWLOG GET for slow commands.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("p50_ms", took.p50_ms).with("p99_ms", took.p99_ms))
}

pub(super) async fn pipelining(subject: &RedisSubject) -> Finding {
    either(in_pipelines(subject).await)
}

async fn in_pipelines(subject: &RedisSubject) -> CheckResult<Finding> {
    let fault = |error: RedisError| failed("SET", &error);
    let mut connection = subject.connection().await?;
    let key = subject.key("pipeline");
    let set = || {
        let mut set = redis::cmd("SET");
        set.arg(&key).arg("v").arg("PX").arg(KEY_LIFETIME_MS);
        set
    };
    let started = Instant::now();
    for _ in 0..OPERATIONS {
        set().exec_async(&mut connection).await.map_err(fault)?;
    }
    let alone = started.elapsed();
    let started = Instant::now();
    for _ in 0..OPERATIONS / PIPELINE {
        let mut pipeline = redis::pipe();
        for _ in 0..PIPELINE {
            pipeline.add_command(set());
        }
        pipeline.exec_async(&mut connection).await.map_err(fault)?;
    }
    let together = started.elapsed();
    redis::cmd("DEL")
        .arg(&key)
        .exec_async(&mut connection)
        .await
        .map_err(fault)?;
    let gain = alone.as_secs_f64() / together.as_secs_f64().max(f64::EPSILON);
    let summary = format!("{gain:.1} times as fast, {PIPELINE} commands a round trip");
    let finding = if gain < LEAST_GAIN {
        Finding::warn(
            summary,
            "A proxy in between may undo pipelines, or the machine is overloaded: connect directly.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("gain", gain))
}

pub(super) async fn pool(subject: &RedisSubject) -> Finding {
    either(many_at_once(subject).await)
}

/// The gate that the services use, with its own deadlines.
async fn many_at_once(subject: &RedisSubject) -> CheckResult<Finding> {
    let gate = RedisGate::open(subject.role, Some(&subject.endpoint), &subject.settings)
        .map_err(|error| Finding::fail(error.to_string(), "Correct the URL."))?;
    let mode = gate.wait_ready(CONNECT).await;
    if let Some(reason) = mode.reason() {
        return Err(Finding::fail(
            format!("the pool does not open: {}", reason.as_str()),
            reason.hint(),
        ));
    }
    let started = Instant::now();
    let failures: usize = join_all((0..CALLERS).map(|_| caller(&gate)))
        .await
        .into_iter()
        .sum();
    let rate = (CALLERS * CALLS_EACH) as f64 / started.elapsed().as_secs_f64();
    let PoolStats { size, max, .. } = gate.stats();
    if failures > 0 {
        return Err(Finding::fail(
            format!("{failures} of {} concurrent calls failed", CALLERS * CALLS_EACH),
            "Raise redis.command_timeout_ms or redis.max_connections, or see what slows the server down.",
        ));
    }
    Ok(Finding::pass(format!(
        "{CALLERS} concurrent callers: {rate:.0} calls/s over {size} of {max} connections"
    ))
    .with("calls_per_second", rate)
    .with("connections", size)
    .with("max_connections", max))
}

/// How many of its calls failed.
async fn caller(gate: &RedisGate) -> usize {
    let mut failures = 0;
    for _ in 0..CALLS_EACH {
        let call = gate.run("check.ping", |mut connection| async move {
            redis::cmd("PING").exec_async(&mut connection).await
        });
        failures += usize::from(call.await.is_err());
    }
    failures
}
