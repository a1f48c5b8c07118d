//! Sessions, with Redis there, away, and back.

use std::time::Duration;

use holdfast_cache::sessions::{MAX_DATA, MAX_SESSIONS, Reach, Session, SessionCheck};
use holdfast_core::config::CacheSettings;
use holdfast_testkit::{FaultProxy, Mode as Wire, RespValue};
use serde_json::json;

use crate::conformance::support::*;

async fn is_live(checked: SessionCheck, session: &Session) -> bool {
    checked == SessionCheck::Live(session.clone())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_holds_until_it_is_revoked_in_every_process() {
    let server = server().await;
    let (one, other) = (
        ready(&server.url(), &settings()).await.sessions(),
        ready(&server.url(), &settings()).await.sessions(),
    );
    let session = one.create("ann", json!({"roles": ["admin"]})).await.unwrap();
    for store in [&one, &other] {
        assert!(is_live(store.check("ann", &session.id).await, &session).await);
        assert_eq!(store.check("bob", &session.id).await, SessionCheck::Gone);
    }
    assert_eq!(one.revoke("ann", &session.id).await, Reach::Everywhere);
    for store in [&one, &other] {
        assert_eq!(store.check("ann", &session.id).await, SessionCheck::Gone);
    }
    assert!(!one.is_degraded());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_sessions_of_a_user_end_at_once_and_a_new_one_holds() {
    let server = server().await;
    let store = ready(&server.url(), &settings()).await.sessions();
    let mut old = Vec::new();
    for number in 0..5 {
        old.push(store.create("ann", json!(number)).await.unwrap());
    }
    let bob = store.create("bob", json!(null)).await.unwrap();
    let listed = store.list("ann").await.unwrap();
    assert_eq!(listed.len(), 5);
    assert!(
        listed
            .iter()
            .all(|session| session.expires_at > session.created_at)
    );
    assert_eq!(store.revoke_all("ann").await, Reach::Everywhere);
    let new = store.create("ann", json!("new")).await.unwrap();
    for session in &old {
        assert_eq!(store.check("ann", &session.id).await, SessionCheck::Gone);
    }
    assert!(is_live(store.check("ann", &new.id).await, &new).await);
    assert!(is_live(store.check("bob", &bob.id).await, &bob).await);
    assert_eq!(store.list("ann").await.unwrap().len(), 1);
}

fn lasting(idle: Duration, most: Duration) -> CacheSettings {
    CacheSettings {
        session_ttl: idle,
        session_max: most,
        ..settings()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn use_moves_the_end_of_a_session_on() {
    let server = server().await;
    let long = lasting(LIMIT, Duration::from_hours(1));
    let store = ready(&server.url(), &long).await.sessions();
    let session = store.create("ann", json!(1)).await.unwrap();
    let end = async || store.list("ann").await.unwrap()[0].expires_at;
    let first = end().await;
    // By a twentieth of the idle time at least, so not with every use.
    until("its end has moved on", || async {
        assert!(is_live(store.check("ann", &session.id).await, &session).await);
        end().await > first
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_ends_when_nobody_uses_it_and_at_its_longest_life_whoever_does() {
    let server = server().await;
    let second = Duration::from_secs(1);
    let idle = ready(&server.url(), &lasting(second, LIMIT)).await.sessions();
    let unused = idle.create("ann", json!(1)).await.unwrap();
    until("the unused one ends", || async {
        idle.get("ann", &unused.id).await == SessionCheck::Gone
    })
    .await;
    let capped = ready(&server.url(), &lasting(second, second)).await.sessions();
    let used = capped.create("ann", json!(2)).await.unwrap();
    until("the used one ends too", || async {
        capped.check("ann", &used.id).await == SessionCheck::Gone
    })
    .await;
    assert!(server.keys("holdfast:sessions:*").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_on_redis_names_a_user_or_an_id_and_everything_expires() {
    let server = server().await;
    let store = ready(&server.url(), &settings()).await.sessions();
    let session = store.create("ann@example.com", json!({})).await.unwrap();
    let keys = server.keys("holdfast:sessions:*").await.unwrap();
    assert_eq!(keys.len(), 1);
    let RespValue::Integer(left) = server.command(&["PTTL", &keys[0]]).await.unwrap() else {
        panic!("no TTL");
    };
    assert!(left > 0);
    let content = format!("{:?}", server.command(&["HGETALL", &keys[0]]).await.unwrap());
    for secret in ["ann", &session.id.to_string()] {
        assert!(!keys[0].contains(secret) && !content.contains(secret), "{secret}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_user_has_so_many_sessions_and_a_session_so_many_bytes() {
    let server = server().await;
    let store = ready(&server.url(), &settings()).await.sessions();
    let first = store.create("ann", json!("first")).await.unwrap();
    until("the clock moves on", || async {
        store
            .create("clock", json!(0))
            .await
            .unwrap()
            .created_at
            .gt(&first.created_at)
    })
    .await;
    let mut last = None;
    for _ in 0..MAX_SESSIONS {
        last = Some(store.create("ann", json!(0)).await.unwrap());
    }
    assert_eq!(store.list("ann").await.unwrap().len(), MAX_SESSIONS);
    assert_eq!(store.check("ann", &first.id).await, SessionCheck::Gone);
    let last = last.unwrap();
    assert!(is_live(store.check("ann", &last.id).await, &last).await);
    store
        .create("ann", json!("x".repeat(MAX_DATA)))
        .await
        .unwrap_err();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn while_redis_is_away_the_token_decides_but_for_what_was_revoked() {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let url = proxy.url_for(&server.url());
    let (one, other) = (ready(&url, &settings()).await, ready(&url, &settings()).await);
    let (here, there) = (one.sessions(), other.sessions());
    let mut made = Vec::new();
    for user in ["kept", "before", "during", "all"] {
        made.push(here.create(user, json!(user)).await.unwrap());
    }
    let [kept, before, during, all] = made.try_into().unwrap();
    let marker = TEXTS.key(&["marker"]);
    one.set(&marker, &"old".to_owned()).await;
    assert_eq!(other.get(&marker).await.as_deref(), Some("old"));
    here.revoke("before", &before.id).await;
    // Announcements arrive in their order: once this one is heard, so is the revocation.
    one.set(&marker, &"new".to_owned()).await;
    until("the announcements are heard", || async {
        other.get(&marker).await.as_deref() == Some("new")
    })
    .await;
    proxy.set_mode(Wire::Refuse).await.unwrap();
    becomes_degraded(&one).await;
    becomes_degraded(&other).await;
    assert!(here.is_degraded());
    assert_eq!(here.check("kept", &kept.id).await, SessionCheck::CannotTell);
    for store in [&here, &there] {
        assert_eq!(store.check("before", &before.id).await, SessionCheck::Gone);
    }
    assert_eq!(
        here.revoke("during", &during.id).await,
        Reach::HereUntilRedisReturns
    );
    assert_eq!(here.revoke_all("all").await, Reach::HereUntilRedisReturns);
    assert_eq!(here.check("during", &during.id).await, SessionCheck::Gone);
    assert_eq!(here.check("all", &all.id).await, SessionCheck::Gone);
    assert_eq!(there.check("during", &during.id).await, SessionCheck::CannotTell);
    let new = here.create("new", json!("new")).await.unwrap();
    assert!(is_live(here.check("new", &new.id).await, &new).await);
    assert_eq!(there.check("new", &new.id).await, SessionCheck::CannotTell);
    assert_eq!(here.list("kept").await, None);

    proxy.set_mode(Wire::Forward).await.unwrap();
    becomes_ready(&one).await;
    becomes_ready(&other).await;
    assert!(is_live(here.check("kept", &kept.id).await, &kept).await);
    for store in [&here, &there] {
        until("the new session is everywhere", || async {
            is_live(store.check("new", &new.id).await, &new).await
        })
        .await;
        for (user, session) in [("during", &during), ("all", &all), ("before", &before)] {
            until("the revocation is everywhere", || async {
                store.check(user, &session.id).await == SessionCheck::Gone
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_redis_sessions_of_this_process_hold_and_can_be_revoked() {
    let store = without_redis(&settings()).sessions();
    let (kept, revoked) = (
        store.create("ann", json!(1)).await.unwrap(),
        store.create("ann", json!(2)).await.unwrap(),
    );
    store.revoke("ann", &revoked.id).await;
    assert!(is_live(store.check("ann", &kept.id).await, &kept).await);
    assert_eq!(store.check("ann", &revoked.id).await, SessionCheck::Gone);
    assert!(!store.is_degraded());
}
