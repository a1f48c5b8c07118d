//! `holdfast validate` against PostgreSQL servers whose settings may cost accepted jobs, or make claims slow.

use std::time::Duration;

use holdfast_testkit::{Persistence, RedisOptions, eventually};

use super::support::DEADLINE;
use super::system::System;

/// Runs a statement as the server's administrator, and lets the server read its settings again.
async fn configure(system: &System, statement: &str) {
    system.postgres.psql(statement).await.unwrap();
    system.postgres.psql("select pg_reload_conf()").await.unwrap();
}

/// What `validate` says of one check.
async fn judged(system: &System, check: &str) -> (String, String) {
    let checks = system.place.checks(&["validate"]).await;
    let verdict = checks.verdicts()[check].clone();
    (verdict, checks.said(check).clone())
}

#[tokio::test]
async fn standbys_that_lag_that_are_in_step_and_that_are_gone() {
    let system =
        System::without_worker(RedisOptions::default().persistence(Persistence::AofEverysec), &[]).await;
    let count = async |condition: &str, number: &str| {
        let query = format!("select count(*) from pg_stat_replication where {condition}");
        eventually(condition, DEADLINE, Duration::from_millis(50), async || {
            (system.postgres.psql(&query).await.ok()? == number).then_some(())
        })
        .await
        .unwrap();
    };
    let standby = system.postgres.standby().await.unwrap();
    count("state = 'streaming'", "1").await;
    let (verdict, said) = judged(&system, "ledger.durability").await;
    assert!(
        verdict == "warn" && said.contains("1 standbys replicate asynchronously"),
        "{verdict}: {said}"
    );

    system
        .postgres
        .psql("grant pg_read_all_stats to holdfast")
        .await
        .unwrap();
    configure(&system, "alter system set synchronous_standby_names = '*'").await;
    count("sync_state = 'sync'", "1").await;
    let (verdict, said) = judged(&system, "ledger.durability").await;
    assert!(
        verdict == "pass" && said.contains("synchronous_commit is on; 1 standbys"),
        "{verdict}: {said}"
    );

    drop(standby);
    count("true", "0").await;
    let (verdict, said) = judged(&system, "ledger.durability").await;
    assert!(
        verdict == "fail" && said.contains("none is connected: commits wait for one"),
        "{verdict}: {said}"
    );
}

#[tokio::test]
async fn vacuums_that_are_off_and_a_table_that_lost_its_settings() {
    let system =
        System::without_worker(RedisOptions::default().persistence(Persistence::AofEverysec), &[]).await;
    let expect = async |verdict: &str, text: &str| {
        let (found, said) = judged(&system, "ledger.vacuum").await;
        assert!(found == verdict && said.contains(text), "{found}: {said}");
    };
    configure(&system, "alter system set autovacuum = off").await;
    expect("fail", "autovacuum is off").await;
    configure(&system, "alter system reset autovacuum").await;
    configure(
        &system,
        "alter table holdfast_jobs set (autovacuum_enabled = false)",
    )
    .await;
    expect("fail", "autovacuum is off").await;
    configure(
        &system,
        "alter table holdfast_jobs reset (autovacuum_enabled, autovacuum_vacuum_scale_factor)",
    )
    .await;
    expect("warn", "lost its settings for autovacuum").await;
    configure(
        &system,
        "alter table holdfast_jobs set (autovacuum_vacuum_scale_factor = 0.02)",
    )
    .await;
    expect("pass", "dead rows").await;
}
