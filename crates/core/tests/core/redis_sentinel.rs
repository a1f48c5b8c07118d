//! The gate on a real master that Sentinels watch.

use std::time::{Duration, Instant};

use holdfast_core::mode::DegradedReason;
use holdfast_testkit::{RedisOptions, RedisSentinels};

use crate::redis_support::{
    BACK_WITHIN, SLACK, assert_fails_fast, assert_serves, becomes_degraded, becomes_degraded_by,
    becomes_normal, get, open, open_ready, set,
};

/// Waits until the server with this index takes writes.
async fn takes_writes(group: &RedisSentinels, index: usize) -> Instant {
    group.names_master(index).await.unwrap();
    loop {
        let reply = group.servers()[index].command(&["SET", "able", "1"]).await;
        if reply.is_ok_and(|reply| reply.error_kind().is_none()) {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn the_gate_follows_the_master_over_two_failovers() {
    let options = RedisOptions::default().password("data");
    let group = RedisSentinels::start(options, Some("guard")).await.unwrap();
    let gate = open_ready(&group.url()).await;
    set(&gate, "kept", "yes").await.unwrap();
    for victim in [0, 1] {
        let (lost, heir) = (&group.servers()[victim], 1 - victim);
        lost.kill9().await.unwrap();
        let (reason, noticed) = becomes_degraded(&gate).await;
        assert!(
            noticed < Duration::from_secs(1) + SLACK,
            "noticed after {noticed:?} ({reason})"
        );
        assert_fails_fast(&gate).await;
        let able = takes_writes(&group, heir).await;
        becomes_normal(&gate).await;
        let late = able.elapsed();
        eprintln!(
            "failover to {heir}: noticed after {noticed:?} as {reason}, back {late:?} after the master"
        );
        assert!(late < BACK_WITHIN + SLACK, "{late:?}");
        assert_serves(&gate).await;
        assert_eq!(get(&gate, "kept").await.unwrap().as_deref(), Some("yes"));
        lost.restart().await.unwrap();
        becomes_replica(&group, victim).await;
        assert!(
            gate.mode().is_normal(),
            "a master that returns as a replica is no outage"
        );
        assert_serves(&gate).await;
    }
}

#[tokio::test]
async fn a_master_that_thaws_after_its_failover_gets_no_call() {
    let group = RedisSentinels::start(RedisOptions::default(), None)
        .await
        .unwrap();
    let gate = open_ready(&group.url()).await;
    let old = &group.servers()[0];
    old.sigstop().await.unwrap();
    let (reason, _) = becomes_degraded(&gate).await;
    assert_eq!(reason, DegradedReason::TimedOut);
    takes_writes(&group, 1).await;
    becomes_normal(&gate).await;
    set(&gate, "after", "failover").await.unwrap();
    old.sigcont().await.unwrap();
    becomes_replica(&group, 0).await;
    assert_eq!(get(&gate, "after").await.unwrap().as_deref(), Some("failover"));
    assert!(gate.mode().is_normal());
}

#[tokio::test]
async fn sentinels_that_hang_or_are_gone_do_not_matter_while_one_answers() {
    let group = RedisSentinels::start(RedisOptions::default(), None)
        .await
        .unwrap();
    group.sentinels()[0].sigstop().await.unwrap();
    group.sentinels()[1].kill9().await.unwrap();
    let gate = open(&group.url());
    let took = becomes_normal(&gate).await;
    assert!(took < Duration::from_secs(2) + SLACK, "{took:?}");
    assert_serves(&gate).await;
    group.sentinels()[0].sigcont().await.unwrap();
}

#[tokio::test]
async fn a_sentinel_by_the_url_of_a_server_and_an_unknown_service_are_named() {
    let group = RedisSentinels::start(RedisOptions::default(), None)
        .await
        .unwrap();
    let plain = format!("redis://{}", group.sentinels()[0].addr());
    becomes_degraded_by(&open(&plain), DegradedReason::Sentinel).await;
    let unknown = group.url().replace("/holdfast", "/nothing");
    becomes_degraded_by(&open(&unknown), DegradedReason::NoMaster).await;
    let replica = group.servers()[1].url();
    becomes_degraded_by(&open(&replica), DegradedReason::ReadOnly).await;
}

/// Waits until the server follows the other and has its data.
async fn becomes_replica(group: &RedisSentinels, index: usize) {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        let link = group.servers()[index]
            .info("replication", "master_link_status")
            .await;
        if link.is_ok_and(|link| link == "up") {
            return;
        }
        assert!(Instant::now() < deadline, "it stays a master");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
