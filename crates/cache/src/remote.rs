//! The layer on Redis: one round trip a read, a change and a fill.
//!
//! A deletion leaves a tombstone that outlives every loader under way: a fill names what it has seen under the key, so
//! a value that was loaded before the deletion matches nothing after it.

use std::sync::LazyLock;
use std::time::Duration;

use bytes::Bytes;
use holdfast_core::clock;
use holdfast_core::redis::{GateError, RedisGate};
use redis::{Pipeline, Script};

use crate::changes::{CHANNEL, Change};
use crate::frame::{Content, StoredStamp, read, tombstone};
use crate::generation;
use crate::key::NamespaceId;
use crate::pending::Batch;

static FILL: LazyLock<Script> = LazyLock::new(|| Script::new(include_str!("scripts/fill.lua")));

/// How much longer than a loader a tombstone lives.
const TOMBSTONE_MARGIN: Duration = Duration::from_secs(2);

#[derive(Debug, Clone)]
pub(crate) struct Remote {
    pub(crate) gate: RedisGate,
    /// Marks this process' own announcements.
    pub(crate) origin: u64,
    max_bytes: usize,
    tombstone_ttl: Duration,
}

/// What a read has found.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) content: Option<Content>,
    pub(crate) seen: StoredStamp,
    /// The namespace's number, if it was asked for.
    pub(crate) generation: Option<u64>,
}

impl Remote {
    pub(crate) fn new(gate: RedisGate, max_bytes: usize, load_timeout: Duration) -> Self {
        Self {
            gate,
            origin: rand::random(),
            max_bytes,
            tombstone_ttl: load_timeout + TOMBSTONE_MARGIN,
        }
    }

    pub(crate) fn serves(&self) -> bool {
        self.gate.mode().is_normal()
    }

    /// Milliseconds since the Unix epoch, by the server's clock if it was ever heard.
    pub(crate) fn now_ms(&self) -> u64 {
        self.gate.server_now_ms().unwrap_or_else(clock::unix_millis)
    }

    /// Reads a value, and with it the namespace's number if `ask` is set.
    pub(crate) async fn read(&self, key: &str, ask: Option<NamespaceId>) -> Result<Answer, GateError> {
        let (raw, generation) = match ask {
            None => (self.read_value(key).await?, None),
            Some(namespace) => {
                let (number, raw) = self.read_both(key, namespace).await?;
                (raw, Some(number))
            }
        };
        let Some(raw) = raw.map(Bytes::from) else {
            return Ok(Answer {
                content: None,
                seen: StoredStamp::NOTHING,
                generation,
            });
        };
        Ok(Answer {
            seen: StoredStamp::of(&raw),
            content: Some(read(&raw, self.max_bytes)),
            generation,
        })
    }

    async fn read_value(&self, key: &str) -> Result<Option<Vec<u8>>, GateError> {
        let mut command = redis::cmd("GET");
        command.arg(key);
        self.gate
            .run("cache.get", |mut redis| async move {
                command.query_async(&mut redis).await
            })
            .await
    }

    /// Still one round trip.
    async fn read_both(
        &self,
        key: &str,
        namespace: NamespaceId,
    ) -> Result<(u64, Option<Vec<u8>>), GateError> {
        let mut pipe = redis::pipe();
        ask_generation(&mut pipe, namespace);
        pipe.cmd("GET").arg(key);
        self.gate
            .run("cache.get", |mut redis| async move {
                pipe.query_async(&mut redis).await
            })
            .await
    }

    /// The namespace's number.
    pub(crate) async fn generation(&self, namespace: NamespaceId) -> Result<u64, GateError> {
        let mut pipe = redis::pipe();
        ask_generation(&mut pipe, namespace);
        let (number,): (u64,) = self
            .gate
            .run("cache.generation", |mut redis| async move {
                pipe.query_async(&mut redis).await
            })
            .await?;
        Ok(number)
    }

    /// Stores a value whatever stood there, and tells the others.
    pub(crate) async fn set(&self, key: &str, raw: Vec<u8>, kept: Duration) -> Result<(), GateError> {
        let mut pipe = redis::pipe();
        pipe.cmd("SET")
            .arg(key)
            .arg(raw)
            .arg("PX")
            .arg(millis(kept))
            .ignore();
        self.announce(&mut pipe, &Change::Key(key));
        self.send("cache.set", pipe).await
    }

    /// Stores a loaded value, if the key is as it was seen. Nobody needs to be told: nobody has another value.
    pub(crate) async fn fill(
        &self,
        key: &str,
        seen: StoredStamp,
        raw: Vec<u8>,
        kept: Duration,
    ) -> Result<bool, GateError> {
        let mut call = FILL.prepare_invoke();
        call.key(key).arg(seen.as_bytes()).arg(raw).arg(millis(kept));
        self.gate
            .run("cache.fill", |mut redis| async move {
                call.invoke_async(&mut redis).await
            })
            .await
    }

    /// Leaves a tombstone, and tells the others.
    pub(crate) async fn delete(&self, key: &str) -> Result<(), GateError> {
        let mut pipe = redis::pipe();
        self.bury(&mut pipe, key);
        self.send("cache.delete", pipe).await
    }

    pub(crate) async fn bump(&self, namespace: NamespaceId, number: u64) -> Result<(), GateError> {
        let mut pipe = redis::pipe();
        self.renumber(&mut pipe, namespace, number);
        self.send("cache.bump", pipe).await
    }

    /// Tells Redis, and over it the others, what changed while it was away.
    pub(crate) async fn settle(&self, batch: &Batch) -> Result<(), GateError> {
        let mut pipe = redis::pipe();
        for key in &batch.keys {
            self.bury(&mut pipe, key);
        }
        for (namespace, number) in &batch.namespaces {
            self.renumber(&mut pipe, *namespace, *number);
        }
        self.send("cache.settle", pipe).await
    }

    fn bury(&self, pipe: &mut Pipeline, key: &str) {
        pipe.cmd("SET")
            .arg(key)
            .arg(tombstone().as_slice())
            .arg("PX")
            .arg(millis(self.tombstone_ttl))
            .ignore();
        self.announce(pipe, &Change::Key(key));
    }

    fn renumber(&self, pipe: &mut Pipeline, namespace: NamespaceId, number: u64) {
        pipe.cmd("SET")
            .arg(generation::key_of(namespace))
            .arg(number)
            .arg("EX")
            .arg(generation::KEPT.as_secs())
            .ignore();
        let name = namespace.to_string();
        self.announce(
            pipe,
            &Change::Namespace {
                name: &name,
                generation: number,
            },
        );
    }

    pub(crate) fn announce(&self, pipe: &mut Pipeline, change: &Change<'_>) {
        pipe.cmd("PUBLISH")
            .arg(CHANNEL)
            .arg(change.encode(self.origin))
            .ignore();
    }

    pub(crate) async fn send(&self, op: &'static str, pipe: Pipeline) -> Result<(), GateError> {
        self.gate
            .run(op, |mut redis| async move { pipe.query_async(&mut redis).await })
            .await
    }
}

/// Reads the number, and draws one where there is none.
fn ask_generation(pipe: &mut Pipeline, namespace: NamespaceId) {
    let key = generation::key_of(namespace);
    pipe.cmd("SET")
        .arg(&key)
        .arg(rand::random::<u64>())
        .arg("EX")
        .arg(generation::KEPT.as_secs())
        .arg("NX")
        .ignore();
    pipe.cmd("GET").arg(&key);
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX).max(1)
}
