//! One contract under three conditions: what a caller sees of one process must not depend on Redis.

use holdfast_cache::{Cache, Source};
use holdfast_testkit::FaultProxy;
use holdfast_testkit::Mode as Wire;

use crate::conformance::support::*;

/// Everything that holds for one process, whatever Redis does meanwhile.
async fn honours_the_contract(cache: &Cache) {
    let (one, other) = (TEXTS.key(&["one"]), TEXTS.key(&["other"]));
    assert_eq!(cache.get(&one).await, None);
    assert!(!cache.exists(&one).await);

    cache.set(&one, &"first".to_owned()).await;
    assert_eq!(cache.get(&one).await.as_deref(), Some("first"));
    assert!(cache.exists(&one).await);
    assert_eq!(cache.get(&other).await, None);

    cache.set(&one, &"second".to_owned()).await;
    assert_eq!(cache.get(&one).await.as_deref(), Some("second"));

    cache.delete(&one).await;
    assert_eq!(cache.get(&one).await, None);
    assert!(!cache.exists(&one).await);

    let loader = Loader::default();
    let loaded = cache.get_or_load(&other, loader.brings("loaded")).await.unwrap();
    assert_eq!((loaded.value.as_str(), loaded.source), ("loaded", Source::Loaded));
    let again = cache.get_or_load(&other, loader.brings("never")).await.unwrap();
    assert_eq!(again.value, "loaded");
    assert!(matches!(again.source, Source::Local | Source::Redis), "{again:?}");
    assert_eq!(loader.runs(), 1);

    let elsewhere = ANSWERS.key(&["other"]);
    cache.set(&elsewhere, &"kept".to_owned()).await;
    cache.bump(&TEXTS).await;
    assert_eq!(cache.get(&other).await, None, "its namespace is forgotten");
    assert_eq!(
        cache.get(&elsewhere).await.as_deref(),
        Some("kept"),
        "and no other"
    );
    let reloaded = cache.get_or_load(&other, loader.brings("anew")).await.unwrap();
    assert_eq!((reloaded.value.as_str(), loader.runs()), ("anew", 2));

    let failing = TEXTS.key(&["failing"]);
    for run in 1..=2 {
        let failed = Loader::default();
        cache.get_or_load(&failing, failed.fails()).await.unwrap_err();
        assert_eq!(failed.runs(), 1, "run {run}: a failure is not cached");
    }
    for key in [&one, &other, &failing] {
        cache.delete(key).await;
    }
    cache.delete(&elsewhere).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_there() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    honours_the_contract(&cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_away() {
    let server = server().await;
    server.kill9().await.unwrap();
    let cache = open(&server.url(), &settings());
    honours_the_contract(&cache).await;
    becomes_degraded(&cache).await;
    honours_the_contract(&cache).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_not_configured() {
    honours_the_contract(&without_redis(&settings())).await;
}

/// The contract over and over while the wire refuses, hangs and heals. A change of the mode in the middle may cost a
/// value (it is doubted then), so what may be lost is not asserted here; what was replaced or deleted must not return.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn redis_coming_and_going() {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let cache = open_impatient(&proxy.url_for(&server.url()), &settings());
    becomes_ready(&cache).await;
    let reader = ready(&server.url(), &settings()).await;
    let key = TEXTS.key(&["changing"]);
    let mut last = None;
    for round in 0..6 {
        let wire = [Wire::Refuse, Wire::BlackHole, Wire::Refuse][round % 3];
        for step in 0..20 {
            let value = format!("{round}.{step}");
            if step == 5 {
                proxy.set_mode(wire).await.unwrap();
            }
            if step == 10 {
                becomes_degraded(&cache).await;
            }
            if step == 15 {
                proxy.set_mode(Wire::Forward).await.unwrap();
            }
            cache.set(&key, &value).await;
            let seen = cache.get(&key).await;
            assert!(
                seen.is_none() || seen.as_ref() == Some(&value),
                "{seen:?} after {value}"
            );
            cache.delete(&key).await;
            assert_eq!(cache.get(&key).await, None, "{value} is back");
            last = Some(value);
        }
        becomes_ready(&cache).await;
        until("Redis knows what it missed", || async {
            cache.stats().pending == 0
        })
        .await;
        assert_eq!(cache.get(&key).await, None, "{last:?} is back");
        assert_eq!(reader.get(&key).await, None, "{last:?} is back elsewhere");
    }
}
