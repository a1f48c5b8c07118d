//! What an outage must not do: delay, fail, or bring back what was changed during it.

use std::time::{Duration, Instant};

use holdfast_cache::{Class, Namespace, Source};
use holdfast_core::config::CacheSettings;
use holdfast_testkit::{FaultProxy, Mode as Wire};

use crate::conformance::support::*;

const UNCOPIED: Namespace<String> = Namespace::json(Class::ApiResponse, "uncopied", 1).not_copied();

/// What a loaded machine may add to a deadline.
const SLACK: Duration = Duration::from_secs(5);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hanging_server_delays_the_first_calls_to_the_deadline_and_the_others_not_at_all() {
    let server = server().await;
    let cache = open_impatient(&server.url(), &settings());
    becomes_ready(&cache).await;
    let key = UNCOPIED.key(&["k"]);
    server.sigstop().await.unwrap();
    let began = Instant::now();
    assert_eq!(cache.get(&key).await, None);
    assert!(began.elapsed() < COMMAND_TIMEOUT + SLACK, "{:?}", began.elapsed());
    becomes_degraded(&cache).await;
    let began = Instant::now();
    for number in 0..1_000 {
        cache.get(&UNCOPIED.key(&[number.to_string()])).await;
    }
    // A thousand waits would be minutes.
    assert!(began.elapsed() < SLACK, "{:?}", began.elapsed());
    let found = cache
        .get_or_load(&key, Loader::default().brings("loaded"))
        .await
        .unwrap();
    assert_eq!((found.value.as_str(), found.source), ("loaded", Source::Loaded));
    let stats = cache.stats().of(Class::ApiResponse);
    assert!(stats.degraded >= 1_001, "{stats:?}");
    server.sigcont().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_copies_serve_for_their_local_ttl_and_then_the_loader() {
    let server = server().await;
    server.kill9().await.unwrap();
    let short = CacheSettings {
        local_ttl: Duration::from_millis(200),
        ..settings()
    };
    let cache = open(&server.url(), &short);
    let (key, loader) = (TEXTS.key(&["k"]), Loader::default());
    cache.get_or_load(&key, loader.brings("first")).await.unwrap();
    until("the copy has ended", || async {
        let found = cache.get_or_load(&key, loader.brings("second")).await.unwrap();
        found.value == "second"
    })
    .await;
    assert_eq!(loader.runs(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_changed_during_an_outage_does_not_come_back_after_it() {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let url = proxy.url_for(&server.url());
    let (changing, other) = (ready(&url, &settings()).await, ready(&url, &settings()).await);
    let (deleted, replaced, bumped) = (
        TEXTS.key(&["deleted"]),
        TEXTS.key(&["replaced"]),
        ANSWERS.key(&["bumped"]),
    );
    for key in [&deleted, &replaced, &bumped] {
        changing.set(key, &"before".to_owned()).await;
        assert_eq!(other.get(key).await.as_deref(), Some("before"));
    }
    proxy.set_mode(Wire::Refuse).await.unwrap();
    becomes_degraded(&changing).await;
    becomes_degraded(&other).await;
    changing.delete(&deleted).await;
    changing.set(&replaced, &"during".to_owned()).await;
    changing.bump(&ANSWERS).await;
    assert_eq!(changing.stats().pending, 3);
    for key in [&deleted, &bumped] {
        assert_eq!(changing.get(key).await, None);
    }
    assert_eq!(changing.get(&replaced).await.as_deref(), Some("during"));
    proxy.set_mode(Wire::Forward).await.unwrap();
    becomes_ready(&changing).await;
    for key in [&deleted, &replaced, &bumped] {
        let seen = changing.get(key).await;
        assert_ne!(seen.as_deref(), Some("before"), "{key:?}");
    }
    until("Redis has been told", || async { changing.stats().pending == 0 }).await;
    for key in [&deleted, &replaced, &bumped] {
        until("the others see it too", || async {
            other.get(key).await.is_none()
        })
        .await;
        assert_eq!(changing.get(key).await, None, "{key:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copies_from_before_an_outage_are_doubted_after_it() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    let key = TEXTS.key(&["k"]);
    cache.set(&key, &"before".to_owned()).await;
    server.restart_empty().await.unwrap();
    until("the outage is over and noticed", || async {
        cache.gate().mode().is_normal() && cache.get(&key).await.is_none()
    })
    .await;
    becomes_ready(&cache).await;
    cache.set(&key, &"after".to_owned()).await;
    assert_eq!(cache.get(&key).await.as_deref(), Some("after"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_from_before_an_outage_stands_in_for_a_loader_that_fails_during_it() {
    let server = server().await;
    let cache = ready(&server.url(), &settings()).await;
    let key = ANSWERS.key(&["k"]);
    cache.set(&key, &"before".to_owned()).await;
    server.kill9().await.unwrap();
    becomes_degraded(&cache).await;
    let stale = cache.get_or_load(&key, Loader::default().fails()).await.unwrap();
    assert_eq!((stale.value.as_str(), stale.source), ("before", Source::Stale));
}
