//! Loaders: one at a time, stale values meanwhile, and what becomes of those that fail.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_cache::{Cache, Class, LoadError, Namespace, Source};
use holdfast_core::config::CacheSettings;
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinSet;

use crate::conformance::support::*;

const SHORT: Duration = Duration::from_millis(20);
/// Fresh for a moment, then served for a long time while a newer one is loaded.
const REFRESHED: Namespace<String> = Namespace::json(Class::ApiResponse, "refreshed", 1)
    .ttl(SHORT)
    .stale(LIMIT, LIMIT);
/// Fresh for a moment, then only good for a failure.
const FALLBACK: Namespace<String> = Namespace::json(Class::ApiResponse, "fallback", 1)
    .ttl(SHORT)
    .stale(Duration::ZERO, LIMIT);
const UNCOPIED: Namespace<String> = Namespace::json(Class::ApiResponse, "uncopied", 1).not_copied();
const ABSENT: Namespace<Option<String>> = Namespace::json(Class::ApiResponse, "absent", 1);

/// A thousand callers at once, of whom one loads; the loader ends when all of them ask.
async fn herd(cache: &Cache, namespace: Namespace<String>) {
    const CALLERS: usize = 1_000;
    let loads = Arc::new(AtomicUsize::new(0));
    let gate = Arc::new(Semaphore::new(0));
    let key = namespace.key(&["herd"]);
    let mut callers = JoinSet::new();
    for _ in 0..CALLERS {
        let (cache, key, loads, gate) = (cache.clone(), key.clone(), Arc::clone(&loads), Arc::clone(&gate));
        callers.spawn(async move {
            let load = move || async move {
                loads.fetch_add(1, Ordering::SeqCst);
                gate.acquire().await.unwrap().forget();
                Ok::<_, SourceRefusal>("value".to_owned())
            };
            cache.get_or_load(&key, load).await.unwrap().value
        });
    }
    until("the loader runs", || async { loads.load(Ordering::SeqCst) == 1 }).await;
    gate.add_permits(CALLERS);
    let values = callers.join_all().await;
    assert_eq!(values.len(), CALLERS);
    assert!(values.iter().all(|value| value == "value"));
    assert_eq!(loads.load(Ordering::SeqCst), 1);
    assert_eq!(cache.stats().of(namespace.key(&["x"]).class()).loads, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_misses_load_once() {
    let server = server().await;
    herd(&ready(&server.url(), &settings()).await, TEXTS).await;
    herd(&ready(&server.url(), &settings()).await, UNCOPIED).await;
    server.kill9().await.unwrap();
    let away = open(&server.url(), &settings());
    becomes_degraded(&away).await;
    herd(&away, TEXTS).await;
    herd(&without_redis(&settings()), UNCOPIED).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_goes_away_takes_no_value_along() {
    let cache = without_redis(&settings());
    let key = TEXTS.key(&["k"]);
    let release = Arc::new(Notify::new());
    let loader = Loader::default();
    let first = tokio::spawn({
        let (cache, key, release, bring) = (
            cache.clone(),
            key.clone(),
            Arc::clone(&release),
            loader.brings("value"),
        );
        async move {
            let load = move || async move {
                let value = bring().await;
                release.notified().await;
                value
            };
            cache.get_or_load(&key, load).await
        }
    });
    until("the loader runs", || async { loader.runs() == 1 }).await;
    first.abort();
    assert!(first.await.unwrap_err().is_cancelled());
    let second = tokio::spawn({
        let (cache, key, bring) = (cache.clone(), key.clone(), loader.brings("never"));
        async move { cache.get_or_load(&key, bring).await.unwrap().value }
    });
    release.notify_one();
    assert_eq!(second.await.unwrap(), "value");
    assert_eq!(loader.runs(), 1);
}

fn explodes() -> String {
    panic!("on purpose")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_loader_that_panics_or_hangs_fails_its_callers_and_nobody_after_them() {
    let quick = CacheSettings {
        load_timeout: SHORT,
        ..settings()
    };
    let cache = without_redis(&quick);
    let key = TEXTS.key(&["k"]);
    let panics = || async { Ok::<_, SourceRefusal>(explodes()) };
    let lost = cache.get_or_load(&key, panics).await.unwrap_err();
    assert!(matches!(lost, LoadError::Lost), "{lost}");
    let hangs = std::future::pending::<Result<String, SourceRefusal>>;
    let late = cache.get_or_load(&key, hangs).await.unwrap_err();
    assert!(matches!(late, LoadError::TimedOut), "{late}");
    let failed = cache
        .get_or_load(&key, Loader::default().fails())
        .await
        .unwrap_err();
    assert!(
        matches!(&failed, LoadError::Failed(error) if **error == SourceRefusal),
        "{failed}"
    );
    let loaded = cache
        .get_or_load(&key, Loader::default().brings("value"))
        .await
        .unwrap();
    assert_eq!(loaded.value, "value");
    let stats = cache.stats().of(Class::Static);
    assert_eq!((stats.loads, stats.load_errors, stats.miss), (4, 3, 4));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn that_there_is_no_value_is_cached_where_the_type_says_so() {
    let cache = without_redis(&settings());
    let key = ABSENT.key(&["k"]);
    let runs = Arc::new(AtomicUsize::new(0));
    for _ in 0..3 {
        let runs = Arc::clone(&runs);
        let load = move || async move {
            runs.fetch_add(1, Ordering::SeqCst);
            Ok::<_, SourceRefusal>(None)
        };
        assert_eq!(cache.get_or_load(&key, load).await.unwrap().value, None);
    }
    assert_eq!(runs.load(Ordering::SeqCst), 1);
}

async fn serves_stale_and_refreshes(cache: Cache) {
    let key = REFRESHED.key(&["k"]);
    let loader = Loader::default();
    cache.get_or_load(&key, loader.brings("old")).await.unwrap();
    tokio::time::sleep(2 * SHORT).await;
    let stale = cache.get_or_load(&key, loader.brings("new")).await.unwrap();
    assert_eq!((stale.value.as_str(), stale.source), ("old", Source::Stale));
    assert!(stale.age >= SHORT && stale.fresh_for.is_zero(), "{stale:?}");
    until("it is refreshed", || async {
        let found = cache.get_or_load(&key, loader.brings("newer")).await.unwrap();
        found.value != "old"
    })
    .await;
    assert!(loader.runs() >= 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn past_its_ttl_a_value_is_served_while_a_newer_one_is_loaded() {
    let server = server().await;
    serves_stale_and_refreshes(without_redis(&settings())).await;
    serves_stale_and_refreshes(ready(&server.url(), &settings()).await).await;
}

async fn serves_stale_if_loading_fails(cache: Cache) {
    let key = FALLBACK.key(&["k"]);
    let loader = Loader::default();
    cache.get_or_load(&key, loader.brings("old")).await.unwrap();
    tokio::time::sleep(2 * SHORT).await;
    for _ in 0..3 {
        let stale = cache.get_or_load(&key, loader.fails()).await.unwrap();
        assert_eq!((stale.value.as_str(), stale.source), ("old", Source::Stale));
    }
    assert_eq!(loader.runs(), 4, "each of them tried");
    let loaded = cache.get_or_load(&key, loader.brings("new")).await.unwrap();
    assert_eq!((loaded.value.as_str(), loaded.source), ("new", Source::Loaded));
    cache.delete(&key).await;
    let failed = cache.get_or_load(&key, loader.fails()).await;
    assert!(failed.is_err(), "what was deleted is no fallback: {failed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_past_its_ttl_stands_in_for_a_failed_load() {
    let server = server().await;
    serves_stale_if_loading_fails(without_redis(&settings())).await;
    serves_stale_if_loading_fails(ready(&server.url(), &settings()).await).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_fallback_may_come_from_redis_too() {
    let server = server().await;
    let (one, other) = (
        ready(&server.url(), &settings()).await,
        ready(&server.url(), &settings()).await,
    );
    let key = FALLBACK.key(&["k"]);
    one.set(&key, &"old".to_owned()).await;
    tokio::time::sleep(2 * SHORT).await;
    let stale = other.get_or_load(&key, Loader::default().fails()).await.unwrap();
    assert_eq!((stale.value.as_str(), stale.source), ("old", Source::Stale));
}
