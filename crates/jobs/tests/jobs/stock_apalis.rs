//! The broker's format is stock's: `apalis_redis::RedisStorage<Envelope>` pushes what we run, and runs what we push.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

use crate::broker::support;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use apalis_core::backend::WaitForCompletion;
use apalis_core::error::BoxDynError;
use apalis_core::task::builder::TaskBuilder;
use apalis_core::task::task_id::TaskId;
use apalis_core::worker::builder::WorkerBuilder;
use apalis_core::worker::context::WorkerContext;
use futures::StreamExt;
use holdfast_jobs::Envelope;
use holdfast_jobs::broker::{BrokerOutcome, EndState, Janitor, Place, Swept};
use holdfast_jobs::stock::{RedisStorage, TaskSink, config};

use support::*;

async fn stock(ground: &Ground) -> RedisStorage<Envelope> {
    let connection = apalis_redis::connect(ground.server.url()).await.unwrap();
    RedisStorage::new(connection).with_config(config(QUEUE).batch_size(50))
}

fn numbered(number: usize) -> Envelope {
    envelope("debug.echo", &number.to_string())
}

#[tokio::test]
async fn what_a_stock_producer_pushes_our_worker_runs() {
    const JOBS: usize = 120;
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let mut stock = stock(&ground).await;
    for number in 0..JOBS {
        stock.push(numbered(number)).await.unwrap();
    }
    let mut payloads = Vec::new();
    while payloads.len() < JOBS {
        let batch = ground.fetch(worker, 50).await;
        assert!(
            batch.unreadable.is_empty() && batch.evicted.is_empty(),
            "{batch:?}"
        );
        payloads.extend(
            batch
                .jobs
                .iter()
                .map(|job| job.envelope.payload.get().parse::<usize>().unwrap()),
        );
        let done: Vec<_> = batch.jobs.iter().map(|job| completed(job.id)).collect();
        assert_eq!(
            ground
                .broker
                .acknowledge(QUEUE, worker, &done)
                .await
                .unwrap()
                .len(),
            done.len()
        );
    }
    payloads.sort_unstable();
    assert_eq!(payloads, (0..JOBS).collect::<Vec<_>>());
    assert_eq!(ground.keys().await, [key("workers")]);
}

#[tokio::test]
async fn a_stock_producer_can_wait_for_what_our_worker_answers() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let mut stock = stock(&ground).await;
    let id = ulid::Ulid::generate();
    stock
        .push_task(
            TaskBuilder::new(numbered(1))
                .task_id(TaskId::from_ulid(id))
                .build(),
        )
        .await
        .unwrap();
    let ids = ground.fetch_ids(worker, 1).await;
    assert_eq!(ids[0].to_string(), id.to_string());
    let done = [finished(
        ids[0],
        BrokerOutcome::Completed(Some(raw("{\"answer\":42}"))),
    )];
    ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap();

    let mut results = WaitForCompletion::<serde_json::Value>::wait_for(&mut stock, [TaskId::from_ulid(id)]);
    let result = tokio::time::timeout(LIMIT, results.next())
        .await
        .unwrap()
        .unwrap()
        .unwrap();
    assert_eq!(
        result.result().as_ref().unwrap(),
        &serde_json::json!({"answer": 42})
    );
}

/// Runs a stock worker until it has handled so many jobs; tells which, how often.
async fn run_stock(
    ground: &Ground,
    name: &str,
    count: usize,
    fail: impl Fn(usize) -> bool + Send + Sync + 'static,
) -> BTreeMap<usize, usize> {
    let ran: Arc<Mutex<BTreeMap<usize, usize>>> = Arc::default();
    let seen = ran.clone();
    let fail = Arc::new(fail);
    let handler = move |envelope: Envelope, worker: WorkerContext| {
        let (seen, fail) = (seen.clone(), fail.clone());
        async move {
            let number: usize = envelope.payload.get().parse()?;
            let all = {
                let mut seen = seen.lock().unwrap();
                *seen.entry(number).or_default() += 1;
                seen.values().sum::<usize>()
            };
            if all == count {
                worker.stop()?;
            }
            if fail(number) {
                Err(BoxDynError::from("not today"))
            } else {
                Ok(number)
            }
        }
    };
    let worker = WorkerBuilder::new(name)
        .backend(stock(ground).await)
        .build(handler);
    let ended = tokio::time::timeout(LIMIT, worker.run()).await;
    ended.expect("the stock worker ends").unwrap();
    let ran = ran.lock().unwrap();
    ran.clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_we_push_a_stock_worker_runs_and_our_janitor_leaves_ended() {
    const JOBS: usize = 120;
    let ground = Ground::with(holdfast_testkit::RedisOptions::default(), impatient()).await;
    let mut jobs = jobs(JOBS);
    for (number, job) in jobs.iter_mut().enumerate() {
        job.envelope = serde_json::to_vec(&numbered(number)).unwrap().into();
    }
    push_all(&ground.broker, &jobs).await;

    let ran = run_stock(&ground, "rango-tango", JOBS, |_| false).await;
    assert_eq!(ran, (0..JOBS).map(|number| (number, 1)).collect());
    let record = ground.broker.job(QUEUE, jobs[7].id).await.unwrap().unwrap();
    let Place::Ended {
        outcome: EndState::Completed,
        result: Some(result),
        ..
    } = record.place
    else {
        panic!("{record:?}")
    };
    assert_eq!(result.get(), "7");

    // Stock keeps the data of what it has ended: that must not look lost.
    assert_eq!(ground.number(&["HLEN", &key("data")]).await as usize, JOBS);
    let mut janitor = Janitor::new(ground.broker.clone(), vec![QUEUE.to_owned()]);
    let until = tokio::time::Instant::now() + Duration::from_millis(2_500);
    while tokio::time::Instant::now() < until {
        assert_eq!(
            Swept {
                more: false,
                ..janitor.step().await.unwrap()
            },
            Swept::default()
        );
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let worker = ground.worker().await;
    assert!(ground.fetch(worker, 500).await.is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stock_worker_fails_at_our_worker_tries_again() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let mut job = outgoing("0");
    job.envelope = serde_json::to_vec(&numbered(0)).unwrap().into();
    push_all(&ground.broker, &[job.clone()]).await;
    assert_eq!(
        run_stock(&ground, "clumsy", 1, |_| true).await,
        BTreeMap::from([(0, 1)])
    );
    // Stock lets it rest for as many seconds as there were attempts.
    let again = holdfast_testkit::eventually("the retry", LIMIT, Duration::from_millis(50), || async {
        ground.fetch(worker, 1).await.jobs.pop()
    });
    assert_eq!(again.await.unwrap().id, job.id);
    assert_eq!(
        ground
            .broker
            .acknowledge(QUEUE, worker, &[completed(job.id)])
            .await
            .unwrap(),
        [job.id]
    );
}
