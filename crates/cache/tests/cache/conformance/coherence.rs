//! Several processes: a change anywhere is seen everywhere, and nothing old is stored after it.

use std::sync::Arc;
use std::time::Duration;

use holdfast_cache::{Cache, Class, Key, Namespace};
use holdfast_core::config::CacheSettings;
use holdfast_testkit::RedisServer;
use tokio::sync::Notify;
use tokio::task::JoinHandle;

use crate::conformance::support::*;

const UNCOPIED: Namespace<String> = Namespace::json(Class::ApiResponse, "uncopied", 1).not_copied();

async fn pair(server: &RedisServer) -> (Cache, Cache) {
    (
        ready(&server.url(), &settings()).await,
        ready(&server.url(), &settings()).await,
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_change_in_one_process_drops_the_copies_of_the_others() {
    let server = server().await;
    let (one, other) = pair(&server).await;
    let key = TEXTS.key(&["k"]);
    one.set(&key, &"first".to_owned()).await;
    assert_eq!(other.get(&key).await.as_deref(), Some("first"));

    one.set(&key, &"second".to_owned()).await;
    until("the new value is seen", || async {
        other.get(&key).await.as_deref() == Some("second")
    })
    .await;
    one.delete(&key).await;
    until("the deletion is seen", || async {
        other.get(&key).await.is_none()
    })
    .await;
    assert!(other.stats().of(Class::Static).invalidations >= 1);

    other.set(&key, &"third".to_owned()).await;
    assert_eq!(one.get(&key).await.as_deref(), Some("third"));
    one.bump(&TEXTS).await;
    until("the bump is seen", || async { other.get(&key).await.is_none() }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_announcement_costs_the_local_ttl_and_no_more() {
    let server = server().await;
    let short = CacheSettings {
        local_ttl: Duration::from_millis(300),
        ..settings()
    };
    let reader = ready(&server.url(), &short).await;
    let writer = ready(&server.url(), &settings()).await;
    let key = TEXTS.key(&["k"]);
    writer.set(&key, &"old".to_owned()).await;
    assert_eq!(reader.get(&key).await.as_deref(), Some("old"));
    // As nobody of ours would do it: without a word on the channel.
    server.command(&["DEL", key.as_str()]).await.unwrap();
    until("the copy has ended", || async {
        reader.get(&key).await.is_none()
    })
    .await;
}

/// A load that waits in the middle, after it has read its source.
fn load_slowly(cache: &Cache, key: &Key<String>, value: &str) -> (JoinHandle<String>, Loader, Arc<Notify>) {
    let (loader, release) = (Loader::default(), Arc::new(Notify::new()));
    let task = tokio::spawn({
        let (cache, key, bring, release) = (
            cache.clone(),
            key.clone(),
            loader.brings(value),
            Arc::clone(&release),
        );
        async move {
            let load = move || async move {
                let value = bring().await;
                release.notified().await;
                value
            };
            cache.get_or_load(&key, load).await.unwrap().value
        }
    });
    (task, loader, release)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_loaded_before_a_deletion_is_not_stored_after_it() {
    let server = server().await;
    let (loading, deleting) = pair(&server).await;
    for (namespace, deleter) in [(TEXTS, &loading), (TEXTS, &deleting), (UNCOPIED, &deleting)] {
        let key = namespace.key(&["k"]);
        let (task, loader, release) = load_slowly(&loading, &key, "old");
        until("the loader has read", || async { loader.runs() == 1 }).await;
        deleter.delete(&key).await;
        release.notify_one();
        assert_eq!(task.await.unwrap(), "old", "who asked before gets what was there");
        until("the flight has ended", || async {
            loading.get(&key).await.is_none()
        })
        .await;
        assert_eq!(deleting.get(&key).await, None);
        let fresh = Loader::default();
        let found = loading.get_or_load(&key, fresh.brings("new")).await.unwrap();
        assert_eq!((found.value.as_str(), fresh.runs()), ("new", 1));
        until("the new value is stored", || async {
            deleting.get(&key).await.as_deref() == Some("new")
        })
        .await;
        deleting.delete(&key).await;
        until("the deletion is heard", || async {
            loading.get(&key).await.is_none()
        })
        .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_loaded_before_its_namespace_was_forgotten_is_not_served_after_it() {
    let server = server().await;
    let (loading, bumping) = pair(&server).await;
    for bumper in [&loading, &bumping] {
        let key = TEXTS.key(&["k"]);
        let (task, loader, release) = load_slowly(&loading, &key, "old");
        until("the loader has read", || async { loader.runs() == 1 }).await;
        bumper.bump(&TEXTS).await;
        release.notify_one();
        assert_eq!(task.await.unwrap(), "old");
        until("the flight has ended and the bump is heard", || async {
            loading.get(&key).await.is_none()
        })
        .await;
        assert_eq!(bumping.get(&key).await, None);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_loaded_before_a_set_does_not_replace_it() {
    let server = server().await;
    let (loading, setting) = pair(&server).await;
    let key = TEXTS.key(&["k"]);
    let (task, loader, release) = load_slowly(&loading, &key, "old");
    until("the loader has read", || async { loader.runs() == 1 }).await;
    setting.set(&key, &"set".to_owned()).await;
    release.notify_one();
    assert_eq!(task.await.unwrap(), "old");
    until("the set value is seen", || async {
        loading.get(&key).await.as_deref() == Some("set")
    })
    .await;
    assert_eq!(setting.get(&key).await.as_deref(), Some("set"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn losing_the_channel_makes_every_copy_doubtful() {
    let server = server().await;
    let (one, other) = pair(&server).await;
    let key = TEXTS.key(&["k"]);
    one.set(&key, &"old".to_owned()).await;
    assert_eq!(other.get(&key).await.as_deref(), Some("old"));
    // Every connection is cut; the change below is heard by nobody.
    server.client_kill_all().await.unwrap();
    server.command(&["DEL", key.as_str()]).await.unwrap();
    until("the copy is doubted", || async {
        other.get(&key).await.is_none()
    })
    .await;
    becomes_ready(&other).await;
    // Whose connection was cut finds out with its first call.
    until("changes arrive again", || async {
        one.set(&key, &"new".to_owned()).await;
        other.get(&key).await.as_deref() == Some("new")
    })
    .await;
    one.set(&key, &"newer".to_owned()).await;
    until("they are heard again", || async {
        other.get(&key).await.as_deref() == Some("newer")
    })
    .await;
}
