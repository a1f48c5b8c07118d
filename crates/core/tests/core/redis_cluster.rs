//! The gate on a real cluster: three masters and their replicas.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use holdfast_core::mode::DegradedReason;
use holdfast_core::redis::{GateError, RedisGate, connect, connect_to_owner};
use holdfast_testkit::{RedisCluster, RedisOptions, RedisServer};
use redis::{RedisResult, Script};

use crate::redis_support::{
    BACK_WITHIN, LIMIT, SLACK, assert_fails_fast, assert_serves, becomes_degraded, becomes_degraded_by,
    becomes_normal, get, open, open_ready, open_with, set, settings,
};

async fn cluster() -> RedisCluster {
    RedisCluster::start(3, RedisOptions::default()).await.unwrap()
}

async fn write_to_every_shard(gate: &RedisGate, value: &str) -> Result<(), GateError> {
    for number in 0..32 {
        set(gate, &format!("shard:{number}"), value).await?;
    }
    Ok(())
}

/// Waits until a plain client, which knows nothing of the gate, can write to every shard.
async fn takes_writes(cluster: &RedisCluster) -> Instant {
    loop {
        let mut taken = 0;
        for number in 0..32 {
            let key = format!("able:{number}");
            let Ok(owner) = cluster.owner_of(&key).await else {
                continue;
            };
            let node = &cluster.nodes()[owner];
            if node.is_running().await.unwrap() {
                let reply = node.command(&["SET", &key, "1"]).await;
                taken += usize::from(reply.is_ok_and(|reply| reply.error_kind().is_none()));
            }
        }
        if taken == 32 {
            return Instant::now();
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[tokio::test]
async fn a_cluster_is_used_as_one_server_is() {
    let cluster = RedisCluster::start(3, RedisOptions::default().password("secret"))
        .await
        .unwrap();
    let gate = open_ready(&cluster.url()).await;
    let values: Vec<String> = (0..300).map(|number| number.to_string()).collect();
    let key = |value: &String| format!("key:{value}");
    let mut pipeline = redis::pipe();
    for value in &values {
        pipeline.cmd("SET").arg(key(value)).arg(value).ignore();
        pipeline.cmd("PUBLISH").arg("channel").arg(value).ignore();
        pipeline.cmd("GET").arg(key(value));
    }
    let mut subscription = gate.subscribe("channel").await.unwrap();
    let got: Vec<String> = gate
        .run(
            "pipeline",
            |mut c| async move { pipeline.query_async(&mut c).await },
        )
        .await
        .unwrap();
    assert_eq!(got, values, "the replies come in the order of the commands");
    for _ in &values {
        assert!(
            subscription.next().await.is_some(),
            "every node's messages are heard"
        );
    }

    let mut transaction = redis::pipe();
    transaction.atomic();
    transaction.cmd("INCR").arg("{tag}:a");
    transaction.cmd("INCRBY").arg("{tag}:b").arg(5);
    let sums: (i64, i64) = gate
        .run(
            "atomic",
            |mut c| async move { transaction.query_async(&mut c).await },
        )
        .await
        .unwrap();
    assert_eq!(sums, (1, 5));

    let script = Script::new("return redis.call('INCR', KEYS[1]) + redis.call('INCR', KEYS[2])");
    for number in 0..8 {
        let (a, b) = (format!("{{{number}}}:a"), format!("{{{number}}}:b"));
        let mut call = script.key(a);
        call.key(b);
        let sum: i64 = gate
            .run("script", |mut c| async move { call.invoke_async(&mut c).await })
            .await
            .unwrap();
        assert_eq!(sum, 2, "the script is loaded where it is called");
    }

    let mut crossing = redis::cmd("EVAL");
    crossing
        .arg("return redis.call('GET', KEYS[1])")
        .arg(2)
        .arg("a")
        .arg("b");
    let refused = gate
        .run(
            "crossing",
            |mut c| async move { crossing.exec_async(&mut c).await },
        )
        .await;
    assert!(
        refused.is_err(),
        "keys of two slots have no common master: {refused:?}"
    );
    assert!(gate.mode().is_normal(), "and that is the caller's fault");

    let masters = gate
        .run("masters", |c| async move { Ok(c.masters().len()) })
        .await
        .unwrap();
    assert_eq!(masters, 3);
    let info = gate.run("info", |c| async move { c.info().await }).await.unwrap();
    assert!(info.contains("redis_mode:cluster"), "{info}");
    let stats = gate.stats();
    assert!(stats.size >= 2 && stats.size <= stats.max, "{stats:?}");

    let mut popper = gate.dedicated("{bell}:x", LIMIT).await.unwrap();
    let popping = tokio::spawn(async move {
        let popped: RedisResult<(String, String)> = redis::cmd("BLPOP")
            .arg("{bell}:x")
            .arg(10)
            .query_async(&mut popper)
            .await;
        popped.unwrap()
    });
    gate.run("push", |mut c| async move {
        redis::cmd("LPUSH")
            .arg("{bell}:x")
            .arg("rung")
            .exec_async(&mut c)
            .await
    })
    .await
    .unwrap();
    assert_eq!(popping.await.unwrap().1, "rung");
}

/// One caller's writes, each acknowledged once and counted by the server once.
struct WriteCounts {
    acknowledged: AtomicU64,
    failed: AtomicU64,
    stop: AtomicBool,
}

async fn count(gate: RedisGate, counts: Arc<WriteCounts>, worker: usize) {
    let script = Script::new("redis.call('INCR', KEYS[1]) return redis.call('INCR', KEYS[2])");
    let mut number = worker;
    while !counts.stop.load(Ordering::Relaxed) {
        number += 1;
        let pair = number % 40;
        let mut call = script.key(format!("{{moving}}:{pair}"));
        call.key(format!("{{moving}}:twin:{pair}"));
        let counted = gate
            .run(
                "count",
                |mut c| async move { call.invoke_async::<u64>(&mut c).await },
            )
            .await;
        let mut pipeline = redis::pipe();
        for other in 0..4 {
            pipeline
                .cmd("INCR")
                .arg(format!("{{moving}}:single:{}", (number + other) % 40))
                .ignore();
            pipeline.cmd("INCR").arg(format!("elsewhere:{other}")).ignore();
        }
        let piped = gate
            .run(
                "pipe",
                |mut c| async move { pipeline.query_async::<()>(&mut c).await },
            )
            .await;
        for (outcome, writes) in [(counted.map(drop), 2), (piped, 8)] {
            match outcome {
                Ok(()) => counts.acknowledged.fetch_add(writes, Ordering::Relaxed),
                Err(error) => {
                    eprintln!("{error}");
                    tokio::time::sleep(Duration::from_millis(10)).await;
                    counts.failed.fetch_add(1, Ordering::Relaxed)
                }
            };
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_slot_that_moves_under_load_fails_no_call_and_repeats_none() {
    let cluster = cluster().await;
    let mut patient = settings();
    patient.command_timeout = Duration::from_secs(5);
    let gate = open_with(&cluster.url(), &patient);
    becomes_normal(&gate).await;
    let counts = Arc::new(WriteCounts {
        acknowledged: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        stop: AtomicBool::new(false),
    });
    let callers: Vec<_> = (0..8)
        .map(|worker| tokio::spawn(count(gate.clone(), Arc::clone(&counts), worker)))
        .collect();
    let first = cluster.owner_of("{moving}:0").await.unwrap();
    for step in 0..6 {
        let to = (first + 1 + step) % 3;
        cluster
            .move_slot_of("{moving}:0", to, Duration::from_millis(100))
            .await
            .unwrap();
    }
    counts.stop.store(true, Ordering::Relaxed);
    for caller in callers {
        caller.await.unwrap();
    }
    let mut stored = 0;
    let keys = (0..40).flat_map(|n| ["", "twin:", "single:"].map(|kind| format!("{{moving}}:{kind}{n}")));
    for key in keys.chain((0..4).map(|n| format!("elsewhere:{n}"))) {
        let value = get(&gate, &key).await.unwrap();
        stored += value.map_or(0, |value| value.parse::<u64>().unwrap());
    }
    let acknowledged = counts.acknowledged.load(Ordering::Relaxed);
    let failed = counts.failed.load(Ordering::Relaxed);
    eprintln!("{acknowledged} writes acknowledged, {stored} stored, {failed} calls failed, 6 moves");
    assert_eq!(failed, 0);
    assert_eq!(stored, acknowledged, "each write was applied once");
    assert!(acknowledged > 100, "{acknowledged}");
    assert!(gate.mode().is_normal(), "{:?}", gate.mode());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_killed_master_is_an_outage_until_its_replica_takes_over() {
    let cluster = cluster().await;
    let gate = open_ready(&cluster.url()).await;
    write_to_every_shard(&gate, "before").await.unwrap();
    for victim in 0..2 {
        let master = &cluster.masters()[victim];
        master.kill9().await.unwrap();
        let (reason, noticed) = becomes_degraded(&gate).await;
        assert!(
            noticed < Duration::from_secs(1) + SLACK,
            "noticed after {noticed:?} ({reason})"
        );
        assert_fails_fast(&gate).await;
        let able = takes_writes(&cluster).await;
        becomes_normal(&gate).await;
        let late = able.elapsed();
        eprintln!("shard {victim}: noticed after {noticed:?} as {reason}, back {late:?} after the cluster");
        assert!(late < BACK_WITHIN + SLACK, "{late:?}");
        write_to_every_shard(&gate, "after").await.unwrap();
        master.restart().await.unwrap();
        cluster.serves().await.unwrap();
        assert!(
            gate.mode().is_normal(),
            "a master that returns as a replica is no outage"
        );
        write_to_every_shard(&gate, "again").await.unwrap();
    }
}

#[tokio::test]
async fn a_promoted_replica_without_a_death_is_followed_within_the_call() {
    let cluster = cluster().await;
    let gate = open_ready(&cluster.url()).await;
    write_to_every_shard(&gate, "before").await.unwrap();
    let replica = &cluster.nodes()[3];
    replica
        .command(&["CLUSTER", "FAILOVER"])
        .await
        .unwrap()
        .ok()
        .unwrap();
    let deadline = Instant::now() + LIMIT;
    while replica.info("replication", "role").await.unwrap() != "master" {
        assert!(Instant::now() < deadline, "the replica is not promoted");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    write_to_every_shard(&gate, "after").await.unwrap();
    assert!(gate.mode().is_normal(), "{:?}", gate.mode());
}

#[tokio::test]
async fn a_lost_majority_is_an_outage_until_it_is_back() {
    let cluster = cluster().await;
    let gate = open_ready(&cluster.url()).await;
    let frozen = [1, 2, 4, 5].map(|index| &cluster.nodes()[index]);
    for node in frozen {
        node.sigstop().await.unwrap();
    }
    let (_, noticed) = becomes_degraded(&gate).await;
    assert!(
        noticed < Duration::from_secs(1) + SLACK,
        "noticed after {noticed:?}"
    );
    becomes_degraded_by(&gate, DegradedReason::ClusterDown).await;
    for node in frozen {
        node.sigcont().await.unwrap();
    }
    let able = takes_writes(&cluster).await;
    becomes_normal(&gate).await;
    assert!(able.elapsed() < BACK_WITHIN + SLACK, "{:?}", able.elapsed());
    write_to_every_shard(&gate, "after").await.unwrap();
}

#[tokio::test]
async fn the_cluster_is_found_when_no_host_of_the_url_is_left() {
    let cluster = cluster().await;
    let only = &cluster.masters()[0];
    let gate = open_ready(&format!("redis+cluster://{}", only.addr())).await;
    only.kill9().await.unwrap();
    becomes_degraded(&gate).await;
    becomes_normal(&gate).await;
    write_to_every_shard(&gate, "after").await.unwrap();
}

#[tokio::test]
async fn a_url_that_does_not_say_what_the_server_is_is_named() {
    let cluster = cluster().await;
    let node = cluster.masters()[0].url();
    becomes_degraded_by(&open(&node), DegradedReason::ClusterNode).await;
    let endpoint = |url: &str| holdfast_core::config::RedisEndpoint {
        url: url.to_owned().into(),
    };
    let patience = Duration::from_secs(2);
    let error = connect(&endpoint(&node), &settings(), patience)
        .await
        .unwrap_err();
    assert_eq!(
        holdfast_core::failure::classify_connect(&error).outage,
        Some(DegradedReason::ClusterNode)
    );
    connect_to_owner(&endpoint(&cluster.url()), &settings(), "key", patience)
        .await
        .unwrap();

    let alone = RedisServer::start(RedisOptions::default()).await.unwrap();
    if alone.url().starts_with("redis://") {
        let as_cluster = format!("redis+cluster://{}", alone.addr());
        becomes_degraded_by(&open(&as_cluster), DegradedReason::NoCluster).await;
    }
    let gate = open_ready(&alone.url()).await;
    assert_serves(&gate).await;
}
