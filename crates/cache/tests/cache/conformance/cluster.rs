//! The cache and the sessions on a real cluster: values of all shards, invalidation, a failover, and what was changed in it.

use holdfast_cache::sessions::{Reach, SessionCheck};
use holdfast_testkit::{RedisCluster, RedisOptions};
use serde_json::json;

use crate::conformance::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn values_sessions_and_invalidations_are_those_of_one_server() {
    let cluster = RedisCluster::start(3, RedisOptions::default()).await.unwrap();
    let (one, other) = (
        ready(&cluster.url(), &settings()).await,
        ready(&cluster.url(), &settings()).await,
    );
    let names: Vec<String> = (0..60).map(|number| number.to_string()).collect();
    for name in &names {
        one.set(&TEXTS.key(&[name.as_str()]), &format!("first {name}"))
            .await;
        let read = other.get(&TEXTS.key(&[name.as_str()])).await;
        assert_eq!(read, Some(format!("first {name}")));
    }
    for name in &names {
        one.set(&TEXTS.key(&[name.as_str()]), &format!("second {name}"))
            .await;
    }
    for name in &names {
        let key = TEXTS.key(&[name.as_str()]);
        until("the other learns the change", || async {
            other.get(&key).await == Some(format!("second {name}"))
        })
        .await;
    }
    for name in &names {
        one.delete(&TEXTS.key(&[name.as_str()])).await;
        let key = TEXTS.key(&[name.as_str()]);
        until("the other learns the deletion", || async {
            other.get(&key).await.is_none()
        })
        .await;
    }

    let (here, there) = (one.sessions(), other.sessions());
    for user in ["ann", "bob", "cem", "dee"] {
        let session = here.create(user, json!({"roles": ["admin"]})).await.unwrap();
        assert_eq!(
            there.check(user, &session.id).await,
            SessionCheck::Live(session.clone())
        );
        assert_eq!(there.list(user).await.unwrap().len(), 1);
        assert_eq!(there.revoke(user, &session.id).await, Reach::Everywhere);
        assert_eq!(here.check(user, &session.id).await, SessionCheck::Gone);
        let session = here.create(user, json!(null)).await.unwrap();
        assert_eq!(here.revoke_all(user).await, Reach::Everywhere);
        assert_eq!(there.check(user, &session.id).await, SessionCheck::Gone);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_changes_while_a_master_is_lost_is_told_afterwards() {
    let cluster = RedisCluster::start(3, RedisOptions::default()).await.unwrap();
    let (one, other) = (
        open_impatient(&cluster.url(), &settings()),
        open_impatient(&cluster.url(), &settings()),
    );
    becomes_ready(&one).await;
    becomes_ready(&other).await;
    let names: Vec<String> = (0..30).map(|number| number.to_string()).collect();
    for name in &names {
        one.set(&TEXTS.key(&[name.as_str()]), &"old".to_owned()).await;
        assert_eq!(
            other.get(&TEXTS.key(&[name.as_str()])).await.as_deref(),
            Some("old")
        );
    }
    let session = one.sessions().create("ann", json!(null)).await.unwrap();
    cluster.masters()[1].kill9().await.unwrap();
    becomes_degraded(&one).await;
    for name in &names {
        one.delete(&TEXTS.key(&[name.as_str()])).await;
    }
    assert_eq!(
        one.sessions().revoke("ann", &session.id).await,
        Reach::HereUntilRedisReturns
    );
    becomes_ready(&one).await;
    becomes_ready(&other).await;
    for name in &names {
        let key = TEXTS.key(&[name.as_str()]);
        until("the other knows of the deletion", || async {
            other.get(&key).await.is_none()
        })
        .await;
    }
    let there = other.sessions();
    until("the other knows of the revocation", || async {
        there.check("ann", &session.id).await == SessionCheck::Gone
    })
    .await;
}
