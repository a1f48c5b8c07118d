//! Caches over one real server, and waiting for what they notice.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_cache::{Cache, Class, Namespace};
use holdfast_core::config::{CacheSettings, RedisEndpoint, RedisSettings};
use holdfast_core::mode::Mode;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_testkit::{RedisOptions, RedisServer, eventually};

/// What only a broken cache exceeds.
pub(crate) const LIMIT: Duration = Duration::from_secs(60);
pub(crate) const POLL: Duration = Duration::from_millis(5);
/// As in the defaults.
pub(crate) const COMMAND_TIMEOUT: Duration = Duration::from_millis(250);

pub(crate) const TEXTS: Namespace<String> = Namespace::json(Class::Static, "texts", 1);
pub(crate) const ANSWERS: Namespace<String> = Namespace::json(Class::ApiResponse, "answers", 1);

/// As in the defaults, but a busy machine is no outage.
fn redis_settings() -> RedisSettings {
    RedisSettings {
        queue: None,
        cache: None,
        ca_certificate: None,
        max_connections: 8,
        connect_timeout: LIMIT,
        command_timeout: LIMIT,
        probe_interval: Duration::from_millis(500),
        failure_threshold: 3,
    }
}

/// As in the defaults, but copies are used for longer than any test waits: what it sees is no expiry.
pub(crate) fn settings() -> CacheSettings {
    CacheSettings {
        local_ttl: 10 * LIMIT,
        local_max_bytes: 16 << 20,
        max_value_bytes: 1 << 20,
        compress_above: 4_096,
        load_timeout: Duration::from_secs(30),
        session_ttl: Duration::from_mins(30),
        session_max: Duration::from_hours(24),
        api_response_ttl: Duration::from_mins(5),
        recommendation_ttl: Duration::from_hours(1),
        static_ttl: Duration::from_hours(24),
        ttl_jitter: 0.0,
        stale_while_revalidate: Duration::from_secs(30),
        stale_if_error: Duration::from_mins(10),
        lists_ttl: Duration::from_secs(1),
    }
}

pub(crate) async fn server() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

/// A cache on this address, as one more process would have it. It may not be connected yet.
pub(crate) fn open(url: &str, settings: &CacheSettings) -> Cache {
    open_with(url, settings, &redis_settings())
}

/// A cache that waits for Redis no longer than the defaults say.
pub(crate) fn open_impatient(url: &str, settings: &CacheSettings) -> Cache {
    let impatient = RedisSettings {
        command_timeout: COMMAND_TIMEOUT,
        ..redis_settings()
    };
    open_with(url, settings, &impatient)
}

fn open_with(url: &str, settings: &CacheSettings, redis: &RedisSettings) -> Cache {
    let endpoint = RedisEndpoint {
        url: url.to_owned().into(),
    };
    let gate = RedisGate::open(Role::Cache, Some(&endpoint), redis).unwrap();
    Cache::open(gate, settings)
}

/// A cache that serves and listens.
pub(crate) async fn ready(url: &str, settings: &CacheSettings) -> Cache {
    let cache = open(url, settings);
    becomes_ready(&cache).await;
    cache
}

/// A cache in a process without any Redis.
pub(crate) fn without_redis(settings: &CacheSettings) -> Cache {
    let gate = RedisGate::open(Role::Cache, None, &redis_settings()).unwrap();
    Cache::open(gate, settings)
}

pub(crate) async fn becomes_ready(cache: &Cache) {
    becomes(cache, Mode::is_normal).await;
    until("the cache listens", || async { cache.is_listening() }).await;
}

pub(crate) async fn becomes_degraded(cache: &Cache) {
    becomes(cache, Mode::is_degraded).await;
    until("the cache hears no more", || async { !cache.is_listening() }).await;
}

async fn becomes(cache: &Cache, met: impl FnMut(&Mode) -> bool) {
    let mut mode = cache.gate().watch();
    let waiting = tokio::time::timeout(LIMIT, mode.wait_for(met));
    drop(waiting.await.expect("the mode does not change").unwrap());
}

pub(crate) async fn until<F, Fut>(what: &str, mut met: F)
where
    F: FnMut() -> Fut,
    Fut: Future<Output = bool>,
{
    eventually(what, LIMIT, POLL, || {
        let met = met();
        async move { met.await.then_some(()) }
    })
    .await
    .unwrap();
}

/// A loader that counts its runs.
#[derive(Clone, Default)]
pub(crate) struct Loader(Arc<AtomicUsize>);

impl Loader {
    pub(crate) fn runs(&self) -> usize {
        self.0.load(Ordering::SeqCst)
    }

    /// Brings a text at once.
    pub(crate) fn brings(
        &self,
        text: &str,
    ) -> impl FnOnce() -> futures::future::Ready<Result<String, SourceRefusal>> + Send + use<> {
        let (runs, text) = (Arc::clone(&self.0), text.to_owned());
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
            futures::future::ready(Ok(text))
        }
    }

    pub(crate) fn fails(
        &self,
    ) -> impl FnOnce() -> futures::future::Ready<Result<String, SourceRefusal>> + Send + use<> {
        let runs = Arc::clone(&self.0);
        move || {
            runs.fetch_add(1, Ordering::SeqCst);
            futures::future::ready(Err(SourceRefusal))
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the source refused")]
pub(crate) struct SourceRefusal;
