//! The buffer on Redis, and the holds of those who empty it.
//!
//! | key | type | |
//! | --- | --- | --- |
//! | `{holdfast:points}:buffer` | zset | packed point → time, milliseconds |
//! | `{holdfast:points}:hold:<ulid>` | zset | what a flusher has popped and not stored yet, a batch at most |
//! | `{holdfast:points}:holds` | zset | hold → when it was taken, unix seconds |

use std::sync::LazyLock;
use std::sync::atomic::Ordering;

use holdfast_core::redis::GateError;
use redis::Script;
use ulid::Ulid;

use crate::packed::pack;
use crate::{BATCH, HOLD_LIMIT, Point, Points};

const BUFFER: &str = "{holdfast:points}:buffer";
const HOLDS: &str = "{holdfast:points}:holds";
const HOLD_PREFIX: &str = "{holdfast:points}:hold:";

/// Holds that one look takes back at most.
const HOLDS_AT_ONCE: usize = 20;

static HOLD: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/hold.lua")));
static RELEASE: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/release.lua")));

/// A flusher's own key.
#[derive(Debug, Clone)]
pub(super) struct Hold(String);

impl Hold {
    pub(super) fn fresh() -> Self {
        let id = Ulid::from_parts(holdfast_core::clock::unix_millis(), rand::random::<u128>());
        Self(format!("{HOLD_PREFIX}{id}"))
    }
}

impl Points {
    /// One round trip: a ZADD for each [`BATCH`], and how many points there are now.
    pub async fn buffer(&self, points: &[Point]) -> Result<(), GateError> {
        let mut pipe = redis::pipe();
        for batch in points.chunks(BATCH) {
            let zadd = pipe.cmd("ZADD").arg(BUFFER);
            for point in batch {
                zadd.arg(point.recorded_at.timestamp_millis())
                    .arg(&pack(point)[..]);
            }
            zadd.ignore();
        }
        pipe.cmd("ZCARD").arg(BUFFER);
        let (size,): (u64,) = self
            .0
            .gate
            .run(
                "points.buffer",
                |mut c| async move { pipe.query_async(&mut c).await },
            )
            .await?;
        self.0.buffered.store(size, Ordering::Relaxed);
        Ok(())
    }

    /// How many points wait.
    pub async fn buffered(&self) -> Result<u64, GateError> {
        let size = self
            .0
            .gate
            .run_freeing("points.size", |mut c| async move {
                redis::cmd("ZCARD").arg(BUFFER).query_async(&mut c).await
            })
            .await?;
        self.0.buffered.store(size, Ordering::Relaxed);
        Ok(size)
    }

    pub(super) async fn hold(&self, hold: &Hold) -> Result<Vec<Vec<u8>>, GateError> {
        let name = hold.0.clone();
        self.0
            .gate
            .run_freeing("points.hold", |mut c| async move {
                let mut call = HOLD.prepare_invoke();
                call.key(BUFFER).key(name).key(HOLDS).arg(BATCH);
                call.invoke_async(&mut c).await
            })
            .await
    }

    /// Its points are stored.
    pub(super) async fn release(&self, hold: &Hold) -> Result<(), GateError> {
        self.end(hold.0.clone(), "stored".to_owned()).await.map(drop)
    }

    /// Its points go back.
    pub(super) async fn give_back(&self, hold: &Hold) -> Result<u64, GateError> {
        self.end(hold.0.clone(), "back".to_owned()).await
    }

    async fn end(&self, name: String, how: String) -> Result<u64, GateError> {
        self.0
            .gate
            .run_freeing("points.release", |mut c| async move {
                let mut call = RELEASE.prepare_invoke();
                call.key(BUFFER).key(name).key(HOLDS).arg(how);
                call.invoke_async(&mut c).await
            })
            .await
    }

    /// Takes back what dead flushers held; how many points wait then.
    pub async fn take_back(&self) -> Result<u64, GateError> {
        self.take_back_older_than(HOLD_LIMIT.as_secs()).await
    }

    pub(super) async fn take_back_older_than(&self, seconds: u64) -> Result<u64, GateError> {
        let holds: Vec<String> = self
            .0
            .gate
            .run_freeing("points.holds", |mut c| async move {
                let mut command = redis::cmd("ZRANGE");
                command.arg(HOLDS).arg(0).arg(HOLDS_AT_ONCE - 1);
                command.query_async(&mut c).await
            })
            .await?;
        for hold in holds {
            let back = self.end(hold, seconds.to_string()).await?;
            if back > 0 {
                tracing::warn!(points = back, "took back what a dead flusher held");
            }
        }
        self.buffered().await
    }
}
