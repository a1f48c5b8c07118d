//! A Redis Cluster and a master with Sentinels fail over, and slots move, before a whole Holdfast under load.
//!
//! As in [`chaos_redis`](crate::chaos_redis): real processes, a receiver outside that counts, no restart. The queue
//! `default` is in the ledger and `bulk` on Redis.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not as expected must stop the test at once"
)]

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use holdfast_testkit::{RedisCluster, RedisOptions, RedisSentinels, RedisServer};
use holdfast_tests::{Cluster, Dependency, Durability, Expect, Setup};

use crate::chaos_support::{LIMIT, WARM, figures, steady};

/// The keys of `bulk` and of the bells.
const BULK: &str = "{bulk}:data";
const BELLS: &str = "{holdfast:bell}:default";

async fn started(url: &str, servers: &[Arc<RedisServer>]) -> Cluster {
    Cluster::builder(Setup::Postgres)
        .apis(2)
        .workers(2)
        .queue("bulk", Durability::Redis)
        .redis_of(url, servers)
        .start()
        .await
        .unwrap()
}

/// Steady load, what happens to Redis in the middle of it, and the load after it.
async fn weathered(
    cluster: &mut Cluster,
    scenario: &str,
    happens: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await?;
    cluster.fault_begins(scenario, Dependency::Redis);
    happens().await?;
    cluster.fault_ends();
    cluster.wait_until_back(LIMIT).await?;
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM, LIMIT).await?;
    load.stop().await
}

async fn concluded(mut cluster: Cluster, scenario: &str, expect: &Expect) {
    let report = cluster.conclude(scenario, expect).await.unwrap();
    figures(&cluster, &report);
    report.assert();
}

#[tokio::test]
async fn the_slots_of_a_queue_and_of_the_bells_move_under_load_and_nothing_is_lost_or_repeated() {
    let scenario = "Redis Cluster moves slots";
    let redis = RedisCluster::start(3, RedisOptions::default()).await.unwrap();
    let mut cluster = started(&redis.url(), redis.nodes()).await;
    weathered(&mut cluster, scenario, async || {
        for key in [BULK, BELLS, BULK, BELLS] {
            let owner = redis.owner_of(key).await?;
            redis
                .move_slot_of(key, (owner + 1) % 3, Duration::from_millis(20))
                .await?;
        }
        Ok(())
    })
    .await
    .unwrap();
    concluded(cluster, scenario, &Expect::new()).await;
}

#[tokio::test]
async fn the_master_of_a_redis_queue_is_killed_and_its_replica_takes_over() {
    let scenario = "Redis Cluster, master killed";
    let redis = RedisCluster::start(3, RedisOptions::default()).await.unwrap();
    let mut cluster = started(&redis.url(), redis.nodes()).await;
    weathered(&mut cluster, scenario, async || {
        let owner = redis.owner_of(BULK).await?;
        redis.nodes()[owner].kill9().await?;
        redis.serves().await
    })
    .await
    .unwrap();
    concluded(cluster, scenario, &Expect::new().redis_data_loss()).await;
}

#[tokio::test]
async fn sentinels_replace_a_master_that_is_killed() {
    let scenario = "Sentinels, master killed";
    let redis = RedisSentinels::start(RedisOptions::default(), None)
        .await
        .unwrap();
    let mut cluster = started(&redis.url(), redis.servers()).await;
    weathered(&mut cluster, scenario, async || {
        redis.servers()[0].kill9().await?;
        redis.names_master(1).await
    })
    .await
    .unwrap();
    concluded(cluster, scenario, &Expect::new().redis_data_loss()).await;
}
