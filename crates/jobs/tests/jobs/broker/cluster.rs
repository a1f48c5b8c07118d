//! The broker and the bell on a real cluster: slots that move and masters that die under load, every job counted.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use holdfast_jobs::bell::Bell;
use holdfast_jobs::broker::{Beat, Broker, FetchAnswer, Janitor, Place, PushOutcome, Resolution};
use holdfast_jobs::{JobId, WorkerId};
use holdfast_testkit::{RedisCluster, RedisOptions, RedisSentinels};
use tokio::time::Instant;

use crate::broker::support::*;

async fn cluster() -> RedisCluster {
    RedisCluster::start(3, RedisOptions::default()).await.unwrap()
}

#[tokio::test]
async fn a_job_goes_through_every_place_of_a_cluster() {
    let cluster = cluster().await;
    let broker = Broker::new(gate_at(&cluster.url(), &redis_settings()).await, settings());
    // Of each shard at least one.
    let queues: Vec<String> = (0..12).map(|number| format!("queue{number}")).collect();
    for queue in &queues {
        let worker = WorkerId::generate();
        broker.register(queue, worker).await.unwrap();
        let jobs = jobs(20);
        for pushed in broker.push(queue, &jobs).await {
            assert!(matches!(pushed.outcome, PushOutcome::Pushed), "{pushed:?}");
        }
        let depth = broker.depth(queue).await.unwrap();
        assert_eq!((depth.active, depth.inflight), (20, 0));
        assert_eq!(
            broker.cancel(queue, jobs[0].id).await.unwrap(),
            Resolution::Removed
        );
        let FetchAnswer::Batch(batch) = broker.fetch(queue, worker, 10).await.unwrap() else {
            panic!("{worker} is not registered");
        };
        assert_eq!(batch.jobs.len(), 10);
        let record = broker.job(queue, batch.jobs[0].id).await.unwrap().unwrap();
        assert!(matches!(record.place, Place::Running { .. }), "{record:?}");
        let held: Vec<JobId> = batch.jobs.iter().map(|job| job.id).collect();
        assert!(!matches!(
            broker.heartbeat(queue, worker, &held).await.unwrap(),
            Beat::Unregistered
        ));
        let done: Vec<_> = held.iter().map(|id| completed(*id)).collect();
        assert_eq!(broker.acknowledge(queue, worker, &done).await.unwrap().len(), 10);
        assert_eq!(broker.gone_among(queue, &held).await.unwrap().len(), 10);
        assert_eq!(broker.purge(queue).await.unwrap(), 9);
    }
    let mut janitor = Janitor::new(broker, queues);
    for _ in 0..6 {
        janitor.step().await.unwrap();
    }
}

#[tokio::test]
async fn a_bell_rings_over_a_cluster_also_after_its_slot_has_moved() {
    let cluster = cluster().await;
    let producer = Bell::new(gate_at(&cluster.url(), &brisk()).await);
    let worker = Bell::new(gate_at(&cluster.url(), &brisk()).await);
    let mut listener = worker.listener();
    hears(&producer, &mut listener, "events").await;
    // Another set of queues ends the pop under way, on the master that it blocks at.
    hears(&producer, &mut listener, "ml").await;
    let owner = cluster.owner_of("{holdfast:bell}:events").await.unwrap();
    cluster
        .move_slot_of(
            "{holdfast:bell}:events",
            (owner + 1) % 3,
            Duration::from_millis(50),
        )
        .await
        .unwrap();
    hears(&producer, &mut listener, "events").await;
    let owner = cluster.owner_of("{holdfast:bell}:events").await.unwrap();
    cluster.nodes()[owner].kill9().await.unwrap();
    hears(&producer, &mut listener, "events").await;
}

/// Rings until it is heard through Redis.
async fn hears(producer: &Bell, listener: &mut holdfast_jobs::bell::Listener, queue: &str) {
    let deadline = Instant::now() + LIMIT;
    loop {
        producer.ring(queue, 1, Duration::ZERO);
        let heard = listener
            .wait(&[queue.to_owned()], Duration::from_millis(300))
            .await;
        if heard.rings.iter().any(|ring| ring.queue == queue) {
            return;
        }
        assert!(Instant::now() < deadline, "{queue} is not heard");
    }
}

/// What became of every job.
#[derive(Default)]
struct Tally {
    /// When each was acknowledged as pushed.
    pushed: Mutex<BTreeMap<JobId, Instant>>,
    /// Neither pushed nor not: `resolve` would tell.
    doubtful: Mutex<BTreeSet<JobId>>,
    refused: Mutex<BTreeSet<JobId>>,
    /// How often each was run.
    run: Mutex<BTreeMap<JobId, u32>>,
    stop: AtomicBool,
}

async fn produce(broker: Broker, tally: Arc<Tally>) {
    while !tally.stop.load(Ordering::Relaxed) {
        let batch = jobs(20);
        for report in broker.push(QUEUE, &batch).await {
            for id in batch[report.jobs.clone()].iter().map(|job| job.id) {
                match &report.outcome {
                    PushOutcome::Pushed => {
                        tally.pushed.lock().unwrap().insert(id, Instant::now());
                    }
                    PushOutcome::Doubtful(_) => {
                        tally.doubtful.lock().unwrap().insert(id);
                    }
                    PushOutcome::Refused(_) => {
                        tally.refused.lock().unwrap().insert(id);
                    }
                }
            }
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A worker that does as the engine's does: registers again, returns what it does not know, repeats its outcomes.
async fn work(broker: Broker, tally: Arc<Tally>) {
    let worker = WorkerId::generate();
    let (mut registered, mut reconcile) = (false, false);
    let mut unfinished: Vec<JobId> = Vec::new();
    let mut idle_since = Instant::now();
    loop {
        if tally.stop.load(Ordering::Relaxed) && idle_since.elapsed() > Duration::from_secs(2) {
            return;
        }
        if !registered {
            registered = broker.register(QUEUE, worker).await.is_ok();
        }
        if !unfinished.is_empty() {
            let done: Vec<_> = unfinished.iter().map(|id| completed(*id)).collect();
            if broker.acknowledge(QUEUE, worker, &done).await.is_ok() {
                unfinished.clear();
            }
        }
        if !unfinished.is_empty() || !registered {
            tokio::time::sleep(Duration::from_millis(20)).await;
            continue;
        }
        if reconcile {
            reconcile = broker.reconcile(QUEUE, worker, &[]).await.is_err();
        }
        match broker.fetch(QUEUE, worker, 50).await {
            Ok(FetchAnswer::Batch(batch)) if !batch.jobs.is_empty() => {
                idle_since = Instant::now();
                let mut run = tally.run.lock().unwrap();
                for job in &batch.jobs {
                    *run.entry(job.id).or_default() += 1;
                    unfinished.push(job.id);
                }
            }
            Ok(FetchAnswer::Batch(_)) => tokio::time::sleep(Duration::from_millis(10)).await,
            Ok(_) => registered = false,
            Err(error) => {
                idle_since = Instant::now();
                reconcile |= error.certainty() == holdfast_core::failure::Certainty::Unknown;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    }
}

/// Load, the fault in the middle of it, and the count: jobs that were accepted and never ran, and repeats.
async fn under_load<Fut>(url: &str, fault: impl FnOnce() -> Fut) -> (Arc<Tally>, Vec<JobId>, u32)
where
    Fut: Future<Output = ()>,
{
    let gate = gate_at(url, &brisk()).await;
    let broker = Broker::new(gate, settings());
    let tally = Arc::new(Tally::default());
    let mut tasks = Vec::new();
    for _ in 0..2 {
        tasks.push(tokio::spawn(produce(broker.clone(), Arc::clone(&tally))));
        tasks.push(tokio::spawn(work(broker.clone(), Arc::clone(&tally))));
    }
    tokio::time::sleep(Duration::from_secs(1)).await;
    fault().await;
    becomes(&broker, holdfast_core::mode::Mode::is_normal).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    tally.stop.store(true, Ordering::Relaxed);
    for task in tasks {
        task.await.unwrap();
    }
    let pushed = tally.pushed.lock().unwrap().clone();
    let run = tally.run.lock().unwrap().clone();
    let lost: Vec<JobId> = pushed
        .keys()
        .filter(|id| !run.contains_key(*id))
        .copied()
        .collect();
    let repeats = run.values().map(|times| times - 1).sum();
    eprintln!(
        "{} accepted, {} lost, {repeats} repeated, {} doubtful, {} refused",
        pushed.len(),
        lost.len(),
        tally.doubtful.lock().unwrap().len(),
        tally.refused.lock().unwrap().len()
    );
    assert!(pushed.len() > 200, "there was load");
    (tally, lost, repeats)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_slot_moves_under_load_loses_and_repeats_nothing() {
    let cluster = cluster().await;
    let key = key("data");
    let (tally, lost, repeats) = under_load(&cluster.url(), || async {
        for _ in 0..4 {
            let owner = cluster.owner_of(&key).await.unwrap();
            cluster
                .move_slot_of(&key, (owner + 1) % 3, Duration::from_millis(50))
                .await
                .unwrap();
        }
    })
    .await;
    assert!(lost.is_empty(), "{lost:?}");
    assert_eq!(repeats, 0);
    assert!(tally.doubtful.lock().unwrap().is_empty());
}

/// Longer than a replica is behind its master on one machine. What was acknowledged within it may be forgotten.
const REPLICATION: Duration = Duration::from_millis(500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_master_dies_under_load_loses_only_what_was_not_replicated() {
    let cluster = cluster().await;
    let killed = Mutex::new(Instant::now());
    let (tally, lost, _) = under_load(&cluster.url(), || async {
        let owner = cluster.owner_of(&key("data")).await.unwrap();
        cluster.nodes()[owner].kill9().await.unwrap();
        *killed.lock().unwrap() = Instant::now();
        tokio::time::sleep(Duration::from_secs(1)).await;
    })
    .await;
    only_just_before(&tally, &lost, *killed.lock().unwrap());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_whose_master_fails_over_by_sentinels_loses_only_what_was_not_replicated() {
    let group = RedisSentinels::start(RedisOptions::default(), None)
        .await
        .unwrap();
    let killed = Mutex::new(Instant::now());
    let (tally, lost, _) = under_load(&group.url(), || async {
        group.servers()[0].kill9().await.unwrap();
        *killed.lock().unwrap() = Instant::now();
        group.names_master(1).await.unwrap();
    })
    .await;
    only_just_before(&tally, &lost, *killed.lock().unwrap());
}

fn only_just_before(tally: &Tally, lost: &[JobId], killed: Instant) {
    let pushed = tally.pushed.lock().unwrap();
    for id in lost {
        let at = pushed[id];
        assert!(
            at + REPLICATION > killed && at < killed + REPLICATION,
            "{id} was acknowledged {:?} before the death",
            killed.saturating_duration_since(at)
        );
    }
}
