//! Acknowledging and handing back: fences, outcomes, order.

use std::time::Duration;

use holdfast_jobs::WorkerId;
use holdfast_jobs::broker::{BrokerOutcome, BrokerSettings};
use holdfast_testkit::RedisOptions;

use crate::broker::support::*;

#[tokio::test]
async fn a_finished_job_leaves_only_its_outcome_and_that_expires() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(3).await;
    assert_eq!(ground.fetch_ids(worker, 10).await, ids);
    let done = [
        finished(ids[0], BrokerOutcome::Completed(Some(raw("{\"sent\":true}")))),
        finished(ids[1], BrokerOutcome::Cancelled),
        finished(ids[2], BrokerOutcome::Moved),
    ];
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap(),
        ids
    );
    assert_eq!(ground.keys().await, [key("workers")]);

    let completed = ground.hash(&meta(ids[0])).await;
    let told = ["status", "outcome", "kind", "attempts", "result"].map(|field| completed[field].as_str());
    assert_eq!(
        told,
        ["Done", "completed", "debug.echo", "1", "{\"Ok\":{\"sent\":true}}"]
    );
    let left = ground.number(&["PTTL", &meta(ids[0])]).await;
    assert!((3_590_000..=3_600_000).contains(&left), "{left}");
    let cancelled = ground.hash(&meta(ids[1])).await;
    assert_eq!(
        ["status", "outcome"].map(|field| cancelled[field].as_str()),
        ["Killed", "cancelled"]
    );
    assert_eq!(
        ground.number(&["EXISTS", &meta(ids[2])]).await,
        0,
        "the ledger tells the rest"
    );
}

#[tokio::test]
async fn with_a_result_ttl_of_zero_nothing_is_left() {
    let ground = Ground::with(
        RedisOptions::default(),
        BrokerSettings::new(Duration::ZERO, LIMIT),
    )
    .await;
    let worker = ground.worker().await;
    let ids = ground.push(700).await;
    assert_eq!(ground.drain(worker).await, ids);
    assert_eq!(ground.server.keys("{events}:*").await.unwrap(), [key("workers")]);
}

#[tokio::test]
async fn only_the_holder_ends_a_job_and_only_once() {
    let ground = Ground::new().await;
    let (holder, other) = (ground.worker().await, ground.worker().await);
    let ids = ground.push(1).await;
    assert_eq!(ground.fetch_ids(holder, 1).await, ids);
    let done = [completed(ids[0])];
    assert_eq!(ground.broker.acknowledge(QUEUE, other, &done).await.unwrap(), []);
    assert_eq!(ground.number(&["HLEN", &key("data")]).await, 1);
    assert_eq!(
        ground.broker.acknowledge(QUEUE, holder, &done).await.unwrap(),
        ids
    );
    assert_eq!(
        ground.broker.acknowledge(QUEUE, holder, &done).await.unwrap(),
        [],
        "as after a lost answer"
    );
}

#[tokio::test]
async fn twelve_hundred_outcomes_are_written_in_one_call() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(1_200).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.extend(ground.fetch_ids(worker, 500).await);
    }
    let done: Vec<_> = held.iter().map(|id| completed(*id)).collect();
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap(),
        ids
    );
    assert_eq!(ground.keys().await, [key("workers")]);
}

#[tokio::test]
async fn jobs_handed_back_stand_at_the_head_in_their_order_and_are_no_crashes() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(1_210).await;
    let mut held = Vec::new();
    for _ in 0..3 {
        held.extend(ground.fetch_ids(worker, 400).await);
    }
    assert_eq!(
        ground.broker.hand_back(QUEUE, worker, &held).await.unwrap(),
        1_200
    );
    assert_eq!(
        ground.broker.hand_back(QUEUE, worker, &held).await.unwrap(),
        0,
        "as after a lost answer"
    );
    assert_eq!(ground.active().await, ids);
    assert_eq!(
        ground
            .number(&["EXISTS", &key("crashes"), &inflight(worker)])
            .await,
        0
    );
    assert_eq!(
        ground
            .broker
            .hand_back(QUEUE, WorkerId::generate(), &ids)
            .await
            .unwrap(),
        0
    );
}

#[tokio::test]
async fn reconciling_returns_what_the_worker_does_not_know_and_nothing_else() {
    let ground = Ground::brisk().await;
    let worker = ground.worker().await;
    let ids = ground.push(1_000).await;
    ground.fetch(worker, 500).await;
    ground.fetch(worker, 500).await;
    assert_eq!(
        ground.broker.reconcile(QUEUE, worker, &ids[..100]).await.unwrap(),
        900
    );
    assert_eq!(ground.active().await, ids[100..]);
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 100);
    assert_eq!(ground.broker.reconcile(QUEUE, worker, &[]).await.unwrap(), 100);
    assert_eq!(ground.active().await, ids);
    assert!(ground.broker.deregister(QUEUE, worker).await.unwrap());
    assert_eq!(ground.number(&["EXISTS", &key("workers")]).await, 0);
}
