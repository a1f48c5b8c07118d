//! `get_or_load`: serve what there is, or load it once for all who ask.

use std::any::Any;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::Instant;

use crate::cache::{Cache, Inner};
use crate::codec::{Codec, CodecError};
use crate::entry::Entry;
use crate::flight::{Crash, Landing, LandingReceiver, LoadFuture, Order};
use crate::frame::StoredStamp;
use crate::key::Key;
use crate::lookup::{CacheMiss, Layer, Lookup};
use crate::marks::Mark;
use crate::stats::count;

/// A value, and where it came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CachedValue<V> {
    pub value: V,
    pub source: Source,
    /// Since it was made.
    pub age: Duration,
    /// How long it is fresh from now on; zero for a stale one.
    pub fresh_for: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A fresh copy in this process.
    Local,
    /// A fresh value on Redis.
    Redis,
    /// Past its TTL: a newer one is being loaded, or could not be.
    Stale,
    /// Just loaded.
    Loaded,
}

/// Why there is no value. Such a failure is not cached: the next caller tries again.
pub enum LoadError<E> {
    /// What the loader said, to everybody who waited for it.
    Failed(Arc<E>),
    /// The value cannot be turned into bytes.
    Unencodable(Arc<CodecError>),
    /// The loader took longer than `cache.load_timeout_seconds`.
    TimedOut,
    /// The loader panicked, or the process is ending.
    Lost,
}

impl<E> Clone for LoadError<E> {
    fn clone(&self) -> Self {
        match self {
            Self::Failed(error) => Self::Failed(Arc::clone(error)),
            Self::Unencodable(error) => Self::Unencodable(Arc::clone(error)),
            Self::TimedOut => Self::TimedOut,
            Self::Lost => Self::Lost,
        }
    }
}

impl<E: fmt::Debug> fmt::Debug for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => f.debug_tuple("Failed").field(error).finish(),
            Self::Unencodable(error) => f.debug_tuple("Unencodable").field(error).finish(),
            Self::TimedOut => f.write_str("TimedOut"),
            Self::Lost => f.write_str("Lost"),
        }
    }
}

impl<E: fmt::Display> fmt::Display for LoadError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "the value could not be loaded: {error}"),
            Self::Unencodable(error) => error.fmt(f),
            Self::TimedOut => f.write_str("loading the value took too long"),
            Self::Lost => f.write_str("the loader of the value ended without a word"),
        }
    }
}

impl<E: std::error::Error + 'static> std::error::Error for LoadError<E> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Failed(error) => Some(&**error),
            Self::Unencodable(error) => Some(&**error),
            Self::TimedOut | Self::Lost => None,
        }
    }
}

impl Cache {
    /// The value, from the process, from Redis, or from `load`; one `load` runs for a key at a time, and all who ask
    /// meanwhile get what it brings.
    ///
    /// A value past its TTL is served at once within `stale_while_revalidate`, and refreshed behind the caller's back;
    /// within `stale_if_error` it is served if `load` fails. Failures are not cached; to cache that there is no
    /// value, let `V` be an `Option`.
    ///
    /// `load` runs in a task of the runtime that the cache was opened on, and goes on if the caller goes away.
    pub async fn get_or_load<V, E, F, Fut>(
        &self,
        key: &Key<V>,
        load: F,
    ) -> Result<CachedValue<V>, LoadError<E>>
    where
        V: 'static,
        E: Send + Sync + 'static,
        F: FnOnce() -> Fut + Send + 'static,
        Fut: Future<Output = Result<V, E>> + Send + 'static,
    {
        let inner = self.inner();
        let since = inner.flights.mark(&key.id);
        let lookup = inner.find(&key.id, key.meta()).await;
        let CacheMiss { fallback, seen } = match self.serve(key, lookup) {
            LookupAnswer::Fresh(found) => return Ok(found),
            LookupAnswer::Refresh(found, entry, layer) => {
                if entry.may_refresh(Instant::now()) && !inner.flights.is_under_way(&key.id) {
                    let start = Start {
                        seen: entry.seen,
                        since,
                        look_first: layer == Layer::Local,
                    };
                    let waiting = start_flight(inner, key, start, load);
                    note_failure(inner, entry, waiting);
                }
                return Ok(found);
            }
            LookupAnswer::Missing(missing) => missing,
        };
        let start = Start {
            seen,
            since,
            look_first: false,
        };
        let landing = landed(start_flight(inner, key, start, load)).await;
        self.arrive(key, landing, fallback)
    }

    /// Turns a lookup into a value, and counts it. What does not decode was missing.
    pub(crate) fn serve<V>(&self, key: &Key<V>, lookup: Lookup) -> LookupAnswer<V> {
        let counters = self.inner().counters.of(key.meta().id.class);
        match lookup {
            Lookup::Fresh(entry, layer) => {
                let (counter, source) = match layer {
                    Layer::Local => (&counters.hit_local, Source::Local),
                    Layer::Redis => (&counters.hit_redis, Source::Redis),
                };
                match self.decode(key, &entry, source) {
                    Some(found) => {
                        count(counter);
                        LookupAnswer::Fresh(found)
                    }
                    None => LookupAnswer::undecodable(&entry),
                }
            }
            Lookup::Refreshable(entry, layer) => match self.decode(key, &entry, Source::Stale) {
                Some(found) => {
                    count(&counters.stale);
                    LookupAnswer::Refresh(found, entry, layer)
                }
                None => LookupAnswer::undecodable(&entry),
            },
            Lookup::Missing(missing) => LookupAnswer::Missing(missing),
        }
    }

    fn arrive<V, E: Send + Sync + 'static>(
        &self,
        key: &Key<V>,
        landing: Landing,
        fallback: Option<Arc<Entry>>,
    ) -> Result<CachedValue<V>, LoadError<E>> {
        let counters = self.inner().counters.of(key.meta().id.class);
        let crash = match landing {
            Ok(entry) => match self.decode(key, &entry, Source::Loaded) {
                Some(found) => {
                    count(&counters.miss);
                    return Ok(found);
                }
                None => Crash::Lost,
            },
            Err(crash) => crash,
        };
        if let Some(found) = fallback.and_then(|entry| self.decode(key, &entry, Source::Stale)) {
            count(&counters.stale);
            return Ok(found);
        }
        count(&counters.miss);
        Err(match crash {
            // Of another type only if two places load one key in two ways.
            Crash::Failed(error) => error.downcast().map_or(LoadError::Lost, LoadError::Failed),
            Crash::Unencodable(error) => LoadError::Unencodable(error),
            Crash::TimedOut => LoadError::TimedOut,
            Crash::Lost => LoadError::Lost,
        })
    }

    /// `None` if the bytes are no such value; they are forgotten here then.
    fn decode<V>(&self, key: &Key<V>, entry: &Entry, source: Source) -> Option<CachedValue<V>> {
        let codec = &key.namespace.codec;
        let value = (entry.codec == codec.id)
            .then(|| (codec.decode)(&entry.payload).ok())
            .flatten();
        let Some(value) = value else {
            count(&self.inner().counters.of(key.meta().id.class).undecodable);
            self.inner().local.forget(&key.id);
            return None;
        };
        let now = Instant::now();
        let fresh_for = match source {
            Source::Stale => Duration::ZERO,
            _ => entry.fresh_for(now),
        };
        Some(CachedValue {
            value,
            source,
            age: entry.age(now),
            fresh_for,
        })
    }
}

/// What a caller gets of a lookup.
pub(crate) enum LookupAnswer<V> {
    Fresh(CachedValue<V>),
    Refresh(CachedValue<V>, Arc<Entry>, Layer),
    Missing(CacheMiss),
}

impl<V> LookupAnswer<V> {
    /// A new value may be stored in its place.
    fn undecodable(entry: &Entry) -> Self {
        Self::Missing(CacheMiss {
            fallback: None,
            seen: entry.seen,
        })
    }
}

#[derive(Clone, Copy)]
struct Start {
    seen: Option<StoredStamp>,
    since: Mark,
    look_first: bool,
}

fn start_flight<V, E, F, Fut>(inner: &Arc<Inner>, key: &Key<V>, start: Start, load: F) -> LandingReceiver
where
    V: 'static,
    E: Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
{
    let codec = key.namespace.codec;
    let order = || Order {
        key: Arc::clone(&key.id),
        meta: *key.meta(),
        codec: codec.id,
        seen: start.seen,
        since: start.since,
        look_first: start.look_first,
        loading: loading(codec, load),
    };
    inner.board(order, &key.id, key.meta())
}

/// The loader without its types.
fn loading<V, E, F, Fut>(codec: Codec<V>, load: F) -> LoadFuture
where
    V: 'static,
    E: Send + Sync + 'static,
    F: FnOnce() -> Fut + Send + 'static,
    Fut: Future<Output = Result<V, E>> + Send + 'static,
{
    Box::pin(async move {
        let encoded: Result<Bytes, CodecError> = match load().await {
            Ok(value) => (codec.encode)(&value),
            Err(error) => return Err(Crash::Failed(Arc::new(error) as Arc<dyn Any + Send + Sync>)),
        };
        encoded.map_err(|error| Crash::Unencodable(Arc::new(error)))
    })
}

/// The outcome of a flight. Its task may end without one: it panicked outside the loader, or the runtime is ending.
async fn landed(mut waiting: LandingReceiver) -> Landing {
    match waiting.wait_for(Option::is_some).await {
        Ok(landing) => landing.clone().unwrap_or(Err(Crash::Lost)),
        Err(_gone) => Err(Crash::Lost),
    }
}

/// A refresh that fails is not tried again with every read.
fn note_failure(inner: &Arc<Inner>, entry: Arc<Entry>, waiting: LandingReceiver) {
    inner.runtime.spawn(async move {
        if landed(waiting).await.is_err() {
            entry.refresh_failed();
        }
    });
}
