//! Membership, heartbeats, and the rescue of what lost members held.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use holdfast_core::mode::Mode;
use holdfast_jobs::WorkerId;
use holdfast_jobs::broker::{Beat, BrokerRescueReport, FetchAnswer, Registration, Resolution};
use holdfast_testkit::eventually;

use crate::broker::support::*;

const POLL: Duration = Duration::from_millis(20);

fn renewed() -> Beat {
    Beat::Renewed {
        reasserted: 0,
        strays: 0,
        cancel: vec![],
    }
}

#[tokio::test]
async fn a_heartbeat_renews_by_the_servers_clock_and_is_told_who_is_unknown() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    ground.age(&member(worker), 10).await;
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &[]).await.unwrap(),
        renewed()
    );
    let beat: i64 = ground
        .text(&["ZSCORE", &key("workers"), &member(worker)])
        .await
        .unwrap()
        .parse()
        .unwrap();
    let now: i64 = ground.texts(&["TIME"]).await[0].parse().unwrap();
    assert!((now - 2..=now).contains(&beat), "{beat} {now}");
    assert_eq!(
        ground
            .broker
            .heartbeat(QUEUE, WorkerId::generate(), &[])
            .await
            .unwrap(),
        Beat::Unregistered
    );
}

#[tokio::test]
async fn a_lost_workers_jobs_return_in_order_with_one_crash_and_it_can_do_no_more_harm() {
    let ground = Ground::new().await;
    let (dead, live) = (ground.worker().await, ground.worker().await);
    let ids = ground.push(30).await;
    assert_eq!(ground.fetch_ids(dead, 10).await, ids[..10]);
    ground.age(&member(dead), 14).await;
    assert_eq!(
        ground.broker.rescue(QUEUE).await.unwrap().returned,
        0,
        "not lost yet"
    );
    ground.age(&member(dead), 4).await;
    let rescued = ground.broker.rescue(QUEUE).await.unwrap();
    assert_eq!(
        (rescued.returned, rescued.members, rescued.more),
        (10, vec![member(dead)], false)
    );
    assert_eq!(ground.active().await, ids);

    let done = [completed(ids[0])];
    assert_eq!(ground.broker.acknowledge(QUEUE, dead, &done).await.unwrap(), []);
    assert!(!ground.broker.mark_started(QUEUE, dead, ids[0]).await.unwrap());
    assert!(matches!(
        ground.broker.fetch(QUEUE, dead, 1).await.unwrap(),
        FetchAnswer::Lost
    ));
    assert_eq!(
        ground.broker.heartbeat(QUEUE, dead, &ids[..10]).await.unwrap(),
        Beat::Lost
    );
    assert_eq!(
        ground.broker.register(QUEUE, dead).await.unwrap(),
        Registration::Lost
    );
    assert_eq!(ground.number(&["EXISTS", &inflight(dead)]).await, 0);

    let batch = ground.fetch(live, 500).await;
    let crashes: Vec<u32> = batch.jobs.iter().map(|job| job.crashes).collect();
    assert_eq!(crashes, [[1; 10], [0; 10], [0; 10]].concat());
    let done: Vec<_> = ids.iter().map(|id| completed(*id)).collect();
    assert_eq!(
        ground.broker.acknowledge(QUEUE, live, &done).await.unwrap().len(),
        30
    );
    assert_eq!(
        ground.keys().await,
        [key("lost"), key("workers")],
        "crash counts end with their jobs"
    );
    assert_eq!(
        ground.broker.rescue(QUEUE).await.unwrap(),
        BrokerRescueReport::default()
    );
}

#[tokio::test]
async fn many_rescuers_at_once_return_each_job_once() {
    let ground = Ground::new().await;
    let ids = ground.push(2_600).await;
    for _ in 0..2 {
        let dead = ground.worker().await;
        for _ in 0..3 {
            ground.fetch(dead, 433).await;
        }
        ground.age(&member(dead), 60).await;
    }
    let rescues = (0..6).map(|_| async { ground.broker.rescue(QUEUE).await.unwrap().returned });
    let returned: u64 = futures::future::join_all(rescues).await.into_iter().sum();
    assert_eq!(returned, 2_598);
    assert_eq!(sorted(ground.active().await), ids);
    let counts = ground.hash(&key("crashes")).await;
    assert_eq!(counts.len(), 2_598);
    assert!(counts.values().all(|count| count == "1"));
}

#[tokio::test]
async fn a_second_crash_counts_only_for_the_job_that_had_started() {
    let ground = Ground::new().await;
    let ids = ground.push(2).await;
    let mut seen = Vec::new();
    for round in 0..4 {
        let worker = ground.worker().await;
        let batch = ground.fetch(worker, 10).await;
        seen.push(batch.jobs.iter().map(|job| job.crashes).collect::<Vec<_>>());
        if round > 0 {
            // The first job runs, and takes the worker with it; the second only waits behind it.
            assert!(ground.broker.mark_started(QUEUE, worker, ids[0]).await.unwrap());
            assert!(
                ground.broker.mark_started(QUEUE, worker, ids[0]).await.unwrap(),
                "as after a lost answer"
            );
        }
        ground.age(&member(worker), 60).await;
        assert_eq!(ground.broker.rescue(QUEUE).await.unwrap().returned, 2);
    }
    assert_eq!(seen, [[0, 0], [1, 1], [2, 1], [3, 1]]);
}

#[tokio::test]
async fn a_job_handed_back_after_its_start_was_recorded_is_no_crash() {
    let ground = Ground::new().await;
    let ids = ground.push(1).await;
    let (dead, stopping, next) = (
        ground.worker().await,
        ground.worker().await,
        ground.worker().await,
    );
    ground.fetch(dead, 1).await;
    ground.age(&member(dead), 60).await;
    ground.broker.rescue(QUEUE).await.unwrap();
    ground.fetch(stopping, 1).await;
    assert!(ground.broker.mark_started(QUEUE, stopping, ids[0]).await.unwrap());
    assert_eq!(ground.broker.hand_back(QUEUE, stopping, &ids).await.unwrap(), 1);
    assert_eq!(ground.fetch(next, 1).await.jobs[0].crashes, 1);
    ground.age(&member(next), 60).await;
    ground.broker.rescue(QUEUE).await.unwrap();
    assert_eq!(
        ground.hash(&key("crashes")).await,
        HashMap::from([(ids[0].to_string(), "1".to_owned())])
    );
}

#[tokio::test]
async fn a_stock_worker_is_given_its_own_longer_time() {
    let ground = Ground::new().await;
    let ids = ground.push(2).await;
    let now: i64 = ground.texts(&["TIME"]).await[0].parse().unwrap();
    let stock = "rango-tango";
    ground
        .number(&["ZADD", &key("workers"), &(now - 100).to_string(), stock])
        .await;
    ground.texts(&["LPOP", &key("active"), "1"]).await;
    ground
        .number(&["SADD", &key("inflight:rango-tango"), &ids[0].to_string()])
        .await;
    assert_eq!(ground.broker.rescue(QUEUE).await.unwrap().returned, 0);
    ground.age(stock, 300).await;
    assert_eq!(ground.broker.rescue(QUEUE).await.unwrap().returned, 1);
    assert_eq!(ground.active().await, ids);
    // Its name comes back with its next start, and is not refused.
    assert_eq!(ground.number(&["EXISTS", &key("lost")]).await, 0);
}

#[tokio::test]
async fn a_heartbeat_rebuilds_an_evicted_inflight_set_and_nothing_that_has_ended() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(1_200).await;
    for _ in 0..3 {
        ground.fetch(worker, 400).await;
    }
    let ended: Vec<_> = ids[..100].iter().map(|id| completed(*id)).collect();
    ground.broker.acknowledge(QUEUE, worker, &ended).await.unwrap();
    assert!(ground.delete(&inflight(worker)).await);

    // The worker has not yet heard that the first hundred are through.
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &ids).await.unwrap(),
        renewed()
    );
    let beat = ground.broker.heartbeat(QUEUE, worker, &ids).await.unwrap();
    assert_eq!(
        beat,
        Beat::Renewed {
            reasserted: 1_100,
            strays: 0,
            cancel: vec![]
        }
    );
    let rest: Vec<_> = ids[100..].iter().map(|id| completed(*id)).collect();
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &rest).await.unwrap(),
        ids[100..]
    );
}

#[tokio::test]
async fn a_heartbeat_that_still_names_a_job_on_its_way_back_does_not_take_it_again() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(3).await;
    ground.fetch(worker, 3).await;
    assert_eq!(
        ground.broker.hand_back(QUEUE, worker, &ids[..2]).await.unwrap(),
        2
    );
    // It was sent before the worker knew that they were back.
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &ids).await.unwrap(),
        renewed()
    );
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &ids[2..]).await.unwrap(),
        renewed()
    );
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 1);
    assert_eq!(ground.active().await, ids[..2]);
}

#[tokio::test]
async fn after_an_outage_living_workers_are_not_taken_for_lost() {
    let ground = Ground::brisk_with(impatient()).await;
    let (live, dead) = (ground.worker().await, ground.worker().await);
    let ids = ground.push(4).await;
    ground.fetch(live, 2).await;
    ground.fetch(dead, 2).await;
    let started = Instant::now();
    eventually("contact", LIMIT, POLL, || async {
        ground.broker.heartbeat(QUEUE, live, &ids[..2]).await.unwrap();
        ground.broker.heartbeat(QUEUE, dead, &ids[2..]).await.unwrap();
        let rescued = ground.broker.rescue(QUEUE).await.unwrap();
        assert_eq!(rescued, BrokerRescueReport::default());
        (started.elapsed() > Duration::from_millis(1_500)).then_some(())
    })
    .await
    .unwrap();

    // Longer than a worker may be silent.
    ground.server.sigstop().await.unwrap();
    ground.becomes(Mode::is_degraded).await;
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    ground.server.sigcont().await.unwrap();
    ground.becomes(Mode::is_normal).await;
    assert_eq!(
        ground.broker.rescue(QUEUE).await.unwrap(),
        BrokerRescueReport::default()
    );

    let rescued = eventually(
        "the rescue of the one that died meanwhile",
        LIMIT,
        POLL,
        || async {
            ground.broker.heartbeat(QUEUE, live, &ids[..2]).await.unwrap();
            let rescued = ground.broker.rescue(QUEUE).await.unwrap();
            (rescued.returned > 0).then_some(rescued)
        },
    );
    assert_eq!(rescued.await.unwrap().members, [member(dead)]);
    assert_eq!(ground.active().await, ids[2..]);
    let done: Vec<_> = ids[..2].iter().map(|id| completed(*id)).collect();
    assert_eq!(
        ground.broker.acknowledge(QUEUE, live, &done).await.unwrap(),
        ids[..2]
    );
}

#[tokio::test]
async fn a_heartbeat_tells_of_leases_the_worker_did_not_name_and_of_cancelled_jobs() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(3).await;
    ground.fetch(worker, 3).await;
    assert_eq!(
        ground.broker.cancel(QUEUE, ids[1]).await.unwrap(),
        Resolution::Running
    );
    let beat = ground.broker.heartbeat(QUEUE, worker, &ids[..2]).await.unwrap();
    assert_eq!(
        beat,
        Beat::Renewed {
            reasserted: 0,
            strays: 1,
            cancel: vec![ids[1]]
        }
    );
    let left = ground.number(&["TTL", &key("cancel")]).await;
    assert!(left > 86_000, "{left}");
}

#[tokio::test]
async fn a_worker_that_still_holds_jobs_is_not_forgotten() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(1).await;
    ground.fetch(worker, 1).await;
    assert!(!ground.broker.deregister(QUEUE, worker).await.unwrap());
    ground.broker.hand_back(QUEUE, worker, &ids).await.unwrap();
    assert!(ground.broker.deregister(QUEUE, worker).await.unwrap());
    assert!(
        ground.broker.deregister(QUEUE, worker).await.unwrap(),
        "as after a lost answer"
    );
    assert!(matches!(
        ground.broker.fetch(QUEUE, worker, 1).await.unwrap(),
        FetchAnswer::Unregistered
    ));
}
