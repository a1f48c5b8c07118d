//! The cache itself: its parts, and the operations on one key.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use holdfast_core::config::CacheSettings;
use holdfast_core::redis::RedisGate;
use tokio::runtime::Handle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::changes;
use crate::class::{Class, lifetime};
use crate::entry::Entry;
use crate::flight::Flights;
use crate::frame::Frame;
use crate::generation::Generations;
use crate::key::{Key, Meta, Namespace, NamespaceId};
use crate::load::LookupAnswer;
use crate::local::Local;
use crate::lookup::Lookup;
use crate::marks::Mark;
use crate::pending::Pending;
use crate::remote::Remote;
use crate::sessions::{self, SessionStore};
use crate::stats::{CacheStats, Counters, count};

/// The cache of one process. Cheap to clone; all clones share copies, connections and counts.
///
/// Its background tasks run until the last clone is dropped.
#[derive(Clone)]
pub struct Cache {
    inner: Arc<Inner>,
    _stop_tasks: Arc<DropGuard>,
}

pub(crate) struct Inner {
    pub(crate) settings: CacheSettings,
    pub(crate) runtime: Handle,
    pub(crate) remote: Remote,
    pub(crate) local: Local,
    pub(crate) generations: Generations,
    pub(crate) pending: Pending,
    pub(crate) flights: Flights,
    pub(crate) counters: Counters,
    pub(crate) sessions: sessions::State,
    listening: AtomicBool,
}

impl Cache {
    /// Opens the cache over the gate of the `cache` role, whether or not Redis is there; without one the copies in the
    /// process are all there is. Call it inside the process' own tokio runtime: loaders run there.
    pub fn open(gate: RedisGate, settings: &CacheSettings) -> Self {
        let inner = Arc::new(Inner {
            remote: Remote::new(gate, settings.max_value_bytes, settings.load_timeout),
            local: Local::new(settings.local_max_bytes),
            generations: Generations::default(),
            pending: Pending::default(),
            flights: Flights::new(),
            counters: Counters::default(),
            sessions: sessions::State::default(),
            runtime: Handle::current(),
            listening: AtomicBool::new(false),
            settings: settings.clone(),
        });
        let stop = CancellationToken::new();
        changes::spawn(&inner, &stop);
        Self {
            inner,
            _stop_tasks: Arc::new(stop.drop_guard()),
        }
    }

    /// A fresh value, if there is one.
    pub async fn get<V>(&self, key: &Key<V>) -> Option<V> {
        let lookup = match self.inner.find(&key.id, key.meta()).await {
            // Nobody would refresh it.
            Lookup::Refreshable(..) => Lookup::Missing(crate::lookup::CacheMiss::default()),
            lookup => lookup,
        };
        match self.serve(key, lookup) {
            LookupAnswer::Fresh(found) => Some(found.value),
            LookupAnswer::Refresh(..) | LookupAnswer::Missing(_) => {
                count(&self.inner.counters.of(key.meta().id.class).miss);
                None
            }
        }
    }

    /// Whether there is a fresh value. Not counted as a read.
    pub async fn exists<V>(&self, key: &Key<V>) -> bool {
        matches!(
            self.inner.find(&key.id, key.meta()).await,
            Lookup::Fresh(entry, _) if entry.codec == key.namespace.codec.id
        )
    }

    /// Stores a value in place of any other, here and on Redis, and makes other processes drop their copies.
    ///
    /// While Redis is away it is stored here, and what Redis has is forgotten when it is back. A value that cannot be
    /// encoded or is larger than `cache.max_value_bytes` is not stored; then the key has no value.
    pub async fn set<V>(&self, key: &Key<V>, value: &V) {
        let class = key.meta().id.class;
        let payload = match (key.namespace.codec.encode)(value) {
            Ok(payload) if payload.len() <= self.inner.settings.max_value_bytes => payload,
            Ok(_too_large) => {
                count(&self.inner.counters.of(class).too_large);
                return self.delete(key).await;
            }
            Err(error) => {
                tracing::warn!(error = &error as &dyn std::error::Error, cache.key = %key.as_str(), "a value is not cached");
                return self.delete(key).await;
            }
        };
        count(&self.inner.counters.of(class).stores);
        self.inner.flights.abandon(&key.id);
        let mark = self.inner.local.forget(&key.id);
        self.inner.store(key, payload, mark).await;
    }

    /// Forgets a value, everywhere. What a loader under way brings is not stored.
    pub async fn delete<V>(&self, key: &Key<V>) {
        let meta = key.meta();
        count(&self.inner.counters.of(meta.id.class).deletes);
        self.inner.flights.abandon(&key.id);
        self.inner.local.forget(&key.id);
        if self.inner.remote.delete(&key.id).await.is_err() {
            self.inner.remember(&key.id, meta);
        }
    }

    /// Forgets every value of a namespace, everywhere, however many there are.
    pub async fn bump<V>(&self, namespace: &Namespace<V>) {
        let meta = &namespace.meta;
        count(&self.inner.counters.of(meta.id.class).deletes);
        let number = rand::random();
        self.inner.generations.replace(meta.id, number);
        match self.inner.remote.bump(meta.id, number).await {
            Ok(()) => self
                .inner
                .generations
                .confirm(meta.id, number, self.inner.local.epoch(), number),
            Err(_known_to_the_gate) => {
                self.inner.count_degraded(meta);
                self.inner.remember_namespace(meta.id, number);
            }
        }
    }

    /// The sessions of users, on the same Redis.
    pub fn sessions(&self) -> SessionStore {
        SessionStore::new(self.clone())
    }

    pub fn stats(&self) -> CacheStats {
        let (local_entries, local_bytes) = self.inner.local.size();
        CacheStats {
            classes: self.inner.counters.snapshot(),
            local_entries,
            local_bytes,
            pending: self.inner.pending.count(),
            mode: self.inner.remote.gate.mode(),
        }
    }

    /// Whether changes made by other processes are heard at the moment. Without it their effect here is late by
    /// `cache.local_ttl` at most.
    pub fn is_listening(&self) -> bool {
        self.inner.listening.load(Ordering::SeqCst)
    }

    /// The gate of the `cache` role.
    pub fn gate(&self) -> &RedisGate {
        &self.inner.remote.gate
    }

    pub(crate) fn inner(&self) -> &Arc<Inner> {
        &self.inner
    }
}

impl fmt::Debug for Cache {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cache")
            .field("mode", &self.inner.remote.gate.mode())
            .finish_non_exhaustive()
    }
}

impl Inner {
    async fn store<V>(&self, key: &Key<V>, payload: bytes::Bytes, mark: Mark) {
        let meta = key.meta();
        let codec = key.namespace.codec.id;
        let times = lifetime(meta.id.class, meta.overrides, &self.settings);
        let mut stamp = None;
        let stored = async {
            let generation = self.generation(meta).await?;
            let frame = Frame {
                codec,
                generation,
                made_ms: self.remote.now_ms(),
                fresh: times.fresh,
                payload: payload.clone(),
            };
            let (raw, seen) = frame.encode(self.settings.compress_above);
            stamp = Some(seen);
            self.remote.set(&key.id, raw, times.kept()).await
        };
        if stored.await.is_err() {
            stamp = None;
            self.count_degraded(meta);
            self.remember(&key.id, meta);
        }
        if self.copies(meta) {
            let entry = Entry::made_here(payload, codec, times, stamp, self.now(meta));
            self.local.keep(&key.id, &Arc::new(entry), mark);
        }
    }

    /// Redis may have an old value under this key: it is forgotten there as soon as that is possible.
    fn remember(&self, key: &Arc<str>, meta: &Meta) {
        if !self.remote.gate.is_configured() {
            return;
        }
        for namespace in self.pending.add_key(key, meta.id) {
            let number = rand::random();
            self.generations.replace(namespace, number);
            self.remember_namespace(namespace, number);
        }
    }

    fn remember_namespace(&self, namespace: NamespaceId, number: u64) {
        if self.remote.gate.is_configured() {
            self.pending.add_namespace(namespace, number);
        }
    }

    /// The class of a key whose copy is here.
    pub(crate) fn class_of_copy(&self, key: &str) -> Option<Class> {
        self.local.get(key)?;
        let word = key.strip_prefix("holdfast:cache:")?.split(':').next()?;
        Class::ALL.into_iter().find(|class| class.as_str() == word)
    }

    pub(crate) fn listening(&self, now: bool) {
        self.listening.store(now, Ordering::SeqCst);
    }
}
