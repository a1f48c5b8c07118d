//! What the server loses, the janitor repairs: every key in turn, and nothing ever runs twice.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_jobs::broker::{Batch, Beat, Broker, FetchAnswer, Janitor, Swept};
use holdfast_jobs::{JobId, WorkerId};
use holdfast_testkit::RedisOptions;
use tokio::time::Instant;

use crate::broker::leases::schedule;
use crate::broker::support::*;

const WAITING: usize = 40;
const SCHEDULED: usize = 10;
const RUNNING: usize = 10;
/// Longer than a worker may be silent, and than a suspect has to wait.
const HELD_FOR: Duration = Duration::from_secs(3);
const SWEPT_FOR: Duration = Duration::from_secs(2);

/// A queue with jobs in every place: waiting, scheduled, held by a worker that lives, and by one that died.
struct Scene {
    ground: Ground,
    live: WorkerId,
    dead: WorkerId,
    held: Vec<JobId>,
    all: Vec<JobId>,
}

async fn scene() -> Scene {
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    let (live, dead) = (ground.worker().await, ground.worker().await);
    let mut all = ground.push(2 * RUNNING + WAITING).await;
    let held = ground.fetch_ids(live, RUNNING).await;
    assert_eq!(ground.fetch_ids(dead, RUNNING).await.len(), RUNNING);
    let scheduled = jobs(SCHEDULED);
    schedule(&ground, &scheduled, 1).await;
    all.extend(scheduled.iter().map(|job| job.id));
    Scene {
        ground,
        live,
        dead,
        held,
        all: sorted(all),
    }
}

impl Scene {
    /// What a worker does, over and over, while the rescuer and the janitor do their rounds, until nothing is left or
    /// `limit` has passed. Answers with every job that ended, and what the janitor did.
    async fn run(&mut self, limit: Duration) -> (Vec<JobId>, Swept) {
        let broker = &self.ground.broker;
        let mut janitor = Janitor::new(broker.clone(), vec![QUEUE.to_owned()]);
        let (mut ended, mut swept) = (Vec::new(), Swept::default());
        let end = Instant::now() + limit;
        while Instant::now() < end && self.ground.number(&["HLEN", &key("data")]).await > 0 {
            if broker.heartbeat(QUEUE, self.live, &self.held).await.unwrap() == Beat::Unregistered {
                broker.register(QUEUE, self.live).await.unwrap();
            }
            if let FetchAnswer::Batch(batch) = broker.fetch(QUEUE, self.live, 500).await.unwrap() {
                ended.extend(end_all(broker, self.live, batch).await);
            }
            broker.rescue(QUEUE).await.unwrap();
            add(&mut swept, janitor.step().await.unwrap());
            tokio::time::sleep(Duration::from_millis(50)).await;
            // What it held from the beginning takes the worker some time.
            if end - Instant::now() < limit.saturating_sub(HELD_FOR) && !self.held.is_empty() {
                let done: Vec<_> = self.held.drain(..).map(completed).collect();
                ended.extend(broker.acknowledge(QUEUE, self.live, &done).await.unwrap());
            }
        }
        // A round over all keys, for what nobody owns.
        let until = Instant::now() + SWEPT_FOR;
        while Instant::now() < until {
            broker.heartbeat(QUEUE, self.live, &[]).await.unwrap();
            add(&mut swept, janitor.step().await.unwrap());
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        (sorted(ended), swept)
    }

    /// Every job ended once, and nothing is left but who works and what is remembered of outcomes.
    async fn assert_all_ended_once(mut self, requeued: usize) {
        let (ended, swept) = self.run(LIMIT).await;
        assert_eq!(ended, self.all);
        assert_eq!(swept.requeued as usize, requeued);
        let left: Vec<String> = self
            .ground
            .keys()
            .await
            .into_iter()
            .filter(|left| ![key("workers"), key("lost")].contains(left))
            .collect();
        assert_eq!(left, Vec::<String>::new());
        for meta in self.ground.server.keys("{events}:meta:*").await.unwrap() {
            assert!(
                self.ground.number(&["PTTL", &meta]).await > 0,
                "{meta} would stay for ever"
            );
        }
    }
}

async fn end_all(broker: &Broker, worker: WorkerId, batch: Batch) -> Vec<JobId> {
    let done: Vec<_> = batch.jobs.iter().map(|job| completed(job.id)).collect();
    broker.acknowledge(QUEUE, worker, &done).await.unwrap()
}

fn add(sum: &mut Swept, step: Swept) {
    assert!(!step.standby);
    sum.requeued += step.requeued;
    sum.metas += step.metas;
    sum.orphans += step.orphans;
    sum.crashes += step.crashes;
}

#[tokio::test]
async fn a_sound_queue_is_left_alone() {
    scene().await.assert_all_ended_once(0).await;
}

#[tokio::test]
async fn the_list_vanishes_while_its_data_stays() {
    let scene = scene().await;
    assert!(scene.ground.delete(&key("active")).await);
    scene.assert_all_ended_once(WAITING).await;
}

#[tokio::test]
async fn the_scheduled_set_vanishes() {
    let scene = scene().await;
    assert!(scene.ground.delete(&key("scheduled")).await);
    scene.assert_all_ended_once(SCHEDULED).await;
}

#[tokio::test]
async fn the_inflight_set_of_a_living_worker_vanishes() {
    let scene = scene().await;
    assert!(scene.ground.delete(&inflight(scene.live)).await);
    scene.assert_all_ended_once(0).await;
}

#[tokio::test]
async fn the_inflight_set_of_a_dead_worker_vanishes() {
    let scene = scene().await;
    assert!(scene.ground.delete(&inflight(scene.dead)).await);
    scene.assert_all_ended_once(RUNNING).await;
}

#[tokio::test]
async fn the_workers_vanish_with_one_of_them_dead() {
    let scene = scene().await;
    assert!(scene.ground.delete(&key("workers")).await);
    scene.assert_all_ended_once(RUNNING).await;
}

#[tokio::test]
async fn workers_list_and_an_inflight_set_vanish_together() {
    let scene = scene().await;
    for lost in [key("workers"), key("active"), inflight(scene.live)] {
        assert!(scene.ground.delete(&lost).await);
    }
    scene.assert_all_ended_once(WAITING + RUNNING).await;
}

#[tokio::test]
async fn the_lost_vanish_before_their_jobs_are_returned() {
    let scene = scene().await;
    let dead = member(scene.dead);
    assert_eq!(scene.ground.number(&["ZREM", &key("workers"), &dead]).await, 1);
    scene.ground.number(&["ZADD", &key("lost"), "0", &dead]).await;
    assert!(scene.ground.delete(&key("lost")).await);
    scene.assert_all_ended_once(RUNNING).await;
}

#[tokio::test]
async fn crash_counts_signal_and_a_meta_vanish_without_harm() {
    let scene = scene().await;
    scene
        .ground
        .number(&["HSET", &key("crashes"), &scene.all[0].to_string(), "1"])
        .await;
    assert!(scene.ground.delete(&key("crashes")).await);
    assert!(scene.ground.delete(&key("signal")).await);
    assert!(scene.ground.delete(&meta(scene.all[30])).await);
    scene.assert_all_ended_once(0).await;
}

#[tokio::test]
async fn the_data_vanishes_and_all_its_traces_with_it() {
    let mut scene = scene().await;
    // Of a job that waits.
    scene
        .ground
        .number(&["HSET", &key("crashes"), &scene.all[30].to_string(), "1"])
        .await;
    assert!(scene.ground.delete(&key("data")).await);
    let fresh = scene.ground.push(1).await;

    let batch = scene.ground.fetch(scene.live, 500).await;
    assert_eq!(batch.evicted.len(), WAITING + SCHEDULED);
    assert_eq!(batch.jobs.iter().map(|job| job.id).collect::<Vec<_>>(), fresh);
    // What runs is not disturbed; its outcome counts.
    let done: Vec<_> = scene.held.drain(..).chain(fresh).map(completed).collect();
    let ended = scene
        .ground
        .broker
        .acknowledge(QUEUE, scene.live, &done)
        .await
        .unwrap();
    assert_eq!(ended.len(), RUNNING + 1);
    scene.ground.age(&member(scene.dead), 60).await;
    assert_eq!(
        scene
            .ground
            .again(settings())
            .rescue(QUEUE)
            .await
            .unwrap()
            .returned,
        0
    );
    let (_, swept) = scene.run(LIMIT).await;
    assert_eq!(swept.requeued, 0);
    assert_eq!(
        swept.metas as usize,
        WAITING + RUNNING,
        "those of scheduled jobs were made without one"
    );
    assert_eq!(swept.crashes, 1);
    assert_eq!(scene.ground.keys().await, [key("lost"), key("workers")]);
}

#[tokio::test]
async fn an_orphaned_inflight_set_is_dropped_and_a_known_one_never() {
    let mut scene = scene().await;
    scene
        .ground
        .number(&[
            "SADD",
            &key("inflight:holdfast-nobody"),
            "01JD3V0S7W8Q4M2XKZC5T9R6BH",
        ])
        .await;
    let (ended, swept) = scene.run(LIMIT).await;
    assert_eq!((ended, swept.orphans), (scene.all.clone(), 1));
}

#[tokio::test]
async fn what_a_stock_worker_has_ended_stays_ended() {
    let mut scene = scene().await;
    let data = serde_json::to_string(&envelope("debug.echo", "1")).unwrap();
    let put = async |status: &str, attempts: &str| {
        let id = JobId::generate();
        scene
            .ground
            .number(&["HSET", &key("data"), &id.to_string(), &data])
            .await;
        scene
            .ground
            .number(&["HSET", &meta(id), "status", status, "attempts", attempts])
            .await;
        id
    };
    let (done, killed, spent) = (
        put("Done", "1").await,
        put("Killed", "2").await,
        put("Failed", "25").await,
    );
    let retrying = put("Failed", "3").await;
    scene.all.push(retrying); // its place in `scheduled` is lost

    let (ended, swept) = scene.run(Duration::from_secs(10)).await;
    assert_eq!((ended, swept.requeued), (sorted(scene.all.clone()), 1));
    let left = scene.ground.texts(&["HKEYS", &key("data")]).await;
    assert_eq!(
        sorted(left.iter().map(|id| id.parse().unwrap()).collect()),
        sorted(vec![done, killed, spent])
    );
}

#[tokio::test]
async fn lost_jobs_are_told_from_the_many_that_wait_in_a_deep_queue() {
    const DEEP: usize = 25_000;
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    let dead = ground.worker().await;
    let lost = ground.push(3).await;
    ground.fetch(dead, 3).await;
    // Ids of the same millisecond are in no order.
    tokio::time::sleep(Duration::from_millis(2)).await;
    ground.push(DEEP).await;
    // Old jobs in the middle of the list look like lost ones: those of a stock producer's delayed jobs do.
    let old = jobs_made_before(lost[0], 20);
    for job in &old {
        let id = job.id.to_string();
        ground
            .server
            .command(&[
                "HSET".as_bytes(),
                key("data").as_bytes(),
                id.as_bytes(),
                &job.envelope,
            ])
            .await
            .unwrap();
        ground.number(&["RPUSH", &key("active"), &id]).await;
    }
    assert!(ground.delete(&inflight(dead)).await);

    let mut janitor = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    let mut swept = Swept::default();
    let started = Instant::now();
    while swept.requeued < 3 {
        add(&mut swept, janitor.step().await.unwrap());
        assert!(started.elapsed() < LIMIT, "{swept:?}");
    }
    for _ in 0..50 {
        add(&mut swept, janitor.step().await.unwrap());
    }
    assert_eq!(swept.requeued, 3);
    let mut scheduled = ground.texts(&["ZRANGE", &key("scheduled"), "0", "-1"]).await;
    // They may be found in one step or in several, and ids of the same millisecond are in no order.
    scheduled.sort();
    let mut lost: Vec<String> = lost.iter().map(ToString::to_string).collect();
    lost.sort();
    assert_eq!(scheduled, lost);
    assert_eq!(
        ground.number(&["LLEN", &key("active")]).await as usize,
        DEEP + old.len()
    );
}

fn jobs_made_before(id: JobId, count: u128) -> Vec<holdfast_jobs::broker::OutgoingJob> {
    (1..=count)
        .map(|back| {
            let older = id.as_uuid().as_u128() - (back << 80) - back;
            let mut job = outgoing("0");
            job.id = JobId::from_uuid(uuid::Uuid::from_u128(older));
            job
        })
        .collect()
}

#[tokio::test]
async fn a_suspect_that_got_a_place_again_is_left_there() {
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    let id = ground.push(1).await[0].to_string();
    assert_eq!(ground.number(&["LREM", &key("active"), "1", &id]).await, 1);
    let mut janitor = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    assert_eq!(
        janitor.step().await.unwrap().requeued,
        0,
        "seen nowhere for the first time"
    );
    // As a stock worker does with a job that it failed at.
    ground
        .number(&["ZADD", &key("scheduled"), "99999999999", &id])
        .await;
    let until = Instant::now() + Duration::from_millis(2_500);
    while Instant::now() < until {
        assert_eq!(janitor.step().await.unwrap().requeued, 0);
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    assert_eq!(
        ground.text(&["ZSCORE", &key("scheduled"), &id]).await.unwrap(),
        "99999999999"
    );
}

#[tokio::test]
async fn a_census_of_a_deep_sound_queue_is_all_a_step_costs() {
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    for _ in 0..10 {
        ground.push(5_000).await;
    }
    let mut janitor = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    let scans = async || ground.server.info("commandstats", "cmdstat_hscan").await.is_ok();
    for _ in 0..5 {
        assert_eq!(janitor.step().await.unwrap(), Swept::default());
    }
    assert!(!scans().await, "data was not looked through");
}

#[tokio::test]
async fn one_janitor_works_and_the_others_stand_by() {
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    let mut first = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    let mut second = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    assert!(!first.step().await.unwrap().standby);
    assert!(second.step().await.unwrap().standby);
    assert!(!first.step().await.unwrap().standby);
    assert!(ground.delete("{holdfast:janitor}").await);
    assert!(!second.step().await.unwrap().standby);
}

/// Two janitors without a lease between them, workers, producers, and a server that loses its list again and again.
#[tokio::test(flavor = "multi_thread")]
async fn nothing_runs_twice_while_janitors_workers_and_losses_race() {
    const ROUNDS: usize = 12;
    let ground = Ground::with(RedisOptions::default(), impatient()).await;
    let ran: Mutex<HashMap<JobId, usize>> = Mutex::default();
    let pushing = AtomicBool::new(true);
    let losses = AtomicUsize::new(0);

    let work = async || {
        let worker = ground.worker().await;
        loop {
            let last = !pushing.load(Ordering::SeqCst);
            ground.broker.heartbeat(QUEUE, worker, &[]).await.unwrap();
            let batch = ground.fetch(worker, 50).await;
            for job in &batch.jobs {
                *ran.lock().unwrap().entry(job.id).or_default() += 1;
            }
            end_all(&ground.broker, worker, batch).await;
            if last && ground.number(&["HLEN", &key("data")]).await == 0 {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let clean = async || {
        let mut janitor = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
        while pushing.load(Ordering::SeqCst) || ground.number(&["HLEN", &key("data")]).await > 0 {
            ground.number(&["DEL", "{holdfast:janitor}"]).await;
            janitor.step().await.unwrap();
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let produce = async {
        let mut all = Vec::new();
        for _ in 0..ROUNDS {
            all.extend(ground.push(2_000).await);
            losses.fetch_add(usize::from(ground.delete(&key("active")).await), Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(150)).await;
        }
        pushing.store(false, Ordering::SeqCst);
        all
    };
    let all = tokio::time::timeout(2 * LIMIT, async {
        tokio::join!(produce, work(), work(), clean(), clean()).0
    });
    let all = all.await.unwrap();
    let ran = ran.into_inner().unwrap();
    let twice = ran.values().filter(|runs| **runs > 1).count();
    assert_eq!((ran.len(), twice), (all.len(), 0));
    assert!(losses.into_inner() > 0, "the list was there to be lost");
}
