//! What is put in comes out: the cache's way, the queue's way, and a subscriber's.

use std::time::{Duration, Instant};

use holdfast_core::redis::Connection;
use redis::RedisError;
use tokio::time::timeout;

use super::connection::failed;
use super::{KEY_LIFETIME_MS, RedisSubject, SLOW_MS};
use crate::checks::timing::{Percentiles, shown};
use crate::checks::{CheckResult, Finding, either};

/// Round trips of the cache check.
const CACHE_ROUNDS: usize = 50;

/// Longest wait for what another connection sent.
const DELIVERY: Duration = Duration::from_secs(5);

/// How long a popper waits before it is rung for, so that it is blocked by then.
const SETTLE: Duration = Duration::from_millis(50);

pub(super) async fn cache(subject: &RedisSubject) -> Finding {
    either(set_get_delete(subject).await)
}

async fn set_get_delete(subject: &RedisSubject) -> CheckResult<Finding> {
    let mut connection = subject.connection().await?;
    let key = subject.key("cache");
    let mut took = Vec::with_capacity(CACHE_ROUNDS);
    for round in 0..CACHE_ROUNDS {
        let value = format!("value-{round}");
        let started = Instant::now();
        let (got, life, deleted, gone) = cache_round(&mut connection, &key, &value)
            .await
            .map_err(|error| failed("a cache operation", &error))?;
        took.push(started.elapsed() / 4);
        let expires = life > 0 && life.unsigned_abs() <= KEY_LIFETIME_MS;
        if got.as_deref() != Some(value.as_str()) || !expires || deleted != 1 || gone {
            return Err(Finding::fail(
                "what was set was not got back, did not expire, or was not deleted",
                "Something between us and Redis changes commands: connect to the server directly.",
            ));
        }
    }
    let p99 = Percentiles::of(took).map_or(0.0, |took| took.p99_ms);
    let summary = format!("set, get, expire and delete work; {} each (p99)", shown(p99));
    let finding = if p99 > SLOW_MS {
        Finding::warn(
            summary,
            "Bring the service and its Redis into one region and one private network.",
        )
    } else {
        Finding::pass(summary)
    };
    Ok(finding.with("p99_ms", p99))
}

/// What was got, its life in milliseconds, how many were deleted, whether it is still there.
async fn cache_round(
    connection: &mut Connection,
    key: &str,
    value: &str,
) -> Result<(Option<String>, i64, u64, bool), RedisError> {
    redis::cmd("SET")
        .arg(key)
        .arg(value)
        .arg("PX")
        .arg(KEY_LIFETIME_MS)
        .exec_async(connection)
        .await?;
    let (got, life) = redis::pipe()
        .cmd("GET")
        .arg(key)
        .cmd("PTTL")
        .arg(key)
        .query_async(connection)
        .await?;
    let deleted = redis::cmd("DEL").arg(key).query_async(connection).await?;
    let gone = redis::cmd("EXISTS").arg(key).query_async(connection).await?;
    Ok((got, life, deleted, gone))
}

pub(super) async fn queue(subject: &RedisSubject) -> Finding {
    either(push_wakes_pop(subject).await)
}

/// A popper that is blocked hears a push of another connection, through a script, as a worker's does.
async fn push_wakes_pop(subject: &RedisSubject) -> CheckResult<Finding> {
    let mut pusher = subject.connection().await?;
    let key = subject.key("queue");
    let mut popper = subject
        .blocking(&key)
        .await
        .map_err(|error| failed("a second connection", &error))?;
    let waiting = key.clone();
    let popping = async move {
        let popped: Result<Option<(String, String)>, RedisError> = redis::cmd("BLPOP")
            .arg(waiting)
            .arg(3)
            .query_async(&mut popper)
            .await;
        (popped, Instant::now())
    };
    let pushing = async {
        tokio::time::sleep(SETTLE).await;
        let pushed = Instant::now();
        redis::Script::new(
            "redis.call('RPUSH', KEYS[1], ARGV[1]) return redis.call('PEXPIRE', KEYS[1], ARGV[2])",
        )
        .key(&key)
        .arg("job")
        .arg(KEY_LIFETIME_MS)
        .invoke_async::<()>(&mut pusher)
        .await
        .map(|()| pushed)
    };
    let ((popped, heard), pushed) = tokio::join!(popping, pushing);
    let pushed = pushed.map_err(|error| failed("a script that pushes", &error))?;
    match popped {
        Ok(Some((_, job))) if job == "job" => {
            let took = heard.saturating_duration_since(pushed);
            let ms = took.as_secs_f64() * 1_000.0;
            Ok(Finding::pass(format!("a waiting worker is woken after {}", shown(ms))).with("wake_ms", ms))
        }
        Ok(_) => Err(Finding::fail(
            "a blocked pop did not receive the push",
            "A proxy in between may break blocking commands: connect to the server directly.",
        )),
        Err(error) => Err(failed("a blocked pop", &error)),
    }
}

pub(super) async fn pubsub(subject: &RedisSubject) -> Finding {
    either(message_arrives(subject).await)
}

async fn message_arrives(subject: &RedisSubject) -> CheckResult<Finding> {
    let mut publisher = subject.connection().await?;
    let channel = subject.key("pubsub");
    let mut subscriber = timeout(DELIVERY, subject.listening(&channel))
        .await
        .map_err(|_| not_delivered())?
        .map_err(|error| failed("SUBSCRIBE", &error))?;
    let started = Instant::now();
    redis::cmd("PUBLISH")
        .arg(&channel)
        .arg("hello")
        .exec_async(&mut publisher)
        .await
        .map_err(|error| failed("PUBLISH", &error))?;
    let received = timeout(DELIVERY, subscriber.next()).await;
    if received.ok().flatten().as_deref() != Some(b"hello") {
        return Err(not_delivered());
    }
    let ms = started.elapsed().as_secs_f64() * 1_000.0;
    Ok(Finding::pass(format!("a message arrives after {}", shown(ms))).with("delivery_ms", ms))
}

fn not_delivered() -> Finding {
    Finding::fail(
        "a published message did not arrive",
        "Caches would not be invalidated: see whether the provider allows pub/sub.",
    )
}
