//! Pushing: order, repetition, deadlines, lost answers, a server without memory.

use std::time::{Duration, Instant};

use holdfast_core::failure::Certainty;
use holdfast_core::mode::Mode;
use holdfast_jobs::Envelope;
use holdfast_jobs::broker::{Beat, Broker, BrokerOutcome, PushOutcome, Resolution};
use holdfast_testkit::{FaultProxy, RedisOptions, RedisServer, bytes_contain, eventually};

use crate::broker::support::*;

#[tokio::test]
async fn pushed_jobs_are_fetched_once_in_their_order_with_what_stock_needs_to_know() {
    let ground = Ground::new().await;
    let jobs = jobs(3);
    push_all(&ground.broker, &jobs).await;

    assert_eq!(
        ground.active().await,
        jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    );
    for job in &jobs {
        let stored = ground
            .text(&["HGET", &key("data"), &job.id.to_string()])
            .await
            .unwrap();
        assert_eq!(stored.as_bytes(), &*job.envelope);
        let expected = [("attempts", "0"), ("max_attempts", "4"), ("status", "Pending")];
        let expected = expected.map(|(field, value)| (field.to_owned(), value.to_owned()));
        assert_eq!(ground.hash(&meta(job.id)).await, expected.into());
    }
    assert_eq!(ground.number(&["LLEN", &key("signal")]).await, 1);

    let worker = ground.worker().await;
    let batch = ground.fetch(worker, 2).await;
    for (job, pushed) in batch.jobs.iter().zip(&jobs) {
        let sent: Envelope = serde_json::from_slice(&pushed.envelope).unwrap();
        assert_eq!(job.envelope.payload.get(), sent.payload.get());
    }
    assert_eq!(
        batch.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
        [jobs[0].id, jobs[1].id]
    );
    assert!(
        batch
            .jobs
            .iter()
            .all(|job| job.crashes == 0 && job.envelope.kind == "debug.echo")
    );
    assert_eq!(ground.fetch_ids(worker, 500).await, [jobs[2].id]);
    assert!(ground.fetch(worker, 500).await.is_empty());
}

#[tokio::test]
async fn a_large_push_goes_in_runs_of_500_and_keeps_its_order() {
    let ground = Ground::new().await;
    let jobs = jobs(1_200);
    let pushed = ground.broker.push(QUEUE, &jobs).await;
    let runs: Vec<_> = pushed.iter().map(|pushed| pushed.jobs.clone()).collect();
    assert_eq!(runs, [0..500, 500..1_000, 1_000..1_200]);
    assert!(
        pushed
            .iter()
            .all(|pushed| matches!(pushed.outcome, PushOutcome::Pushed))
    );
    assert_eq!(
        ground.active().await,
        jobs.iter().map(|job| job.id).collect::<Vec<_>>()
    );
    assert_eq!(ground.number(&["LLEN", &key("signal")]).await, 1);
}

#[tokio::test]
async fn a_repeated_push_changes_nothing_while_the_job_waits_runs_or_is_remembered() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let jobs = jobs(1);
    let id = jobs[0].id;
    push_all(&ground.broker, &jobs).await;

    push_all(&ground.broker, &jobs).await;
    assert_eq!(ground.active().await, [id]);

    assert_eq!(ground.fetch_ids(worker, 10).await, [id]);
    push_all(&ground.broker, &jobs).await;
    assert!(ground.fetch(worker, 10).await.is_empty());

    let done = [finished(id, BrokerOutcome::Completed(Some(raw("7"))))];
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap(),
        [id]
    );
    push_all(&ground.broker, &jobs).await;
    assert!(ground.fetch(worker, 10).await.is_empty());
    assert_eq!(ground.hash(&meta(id)).await["result"], "{\"Ok\":7}");

    // The same job twice in one push stands once.
    let one = outgoing("null");
    push_all(&ground.broker, &[one.clone(), one.clone()]).await;
    assert_eq!(ground.active().await, [one.id]);
}

#[tokio::test]
async fn a_push_that_reaches_a_hung_server_is_never_applied_later() {
    let ground = Ground::brisk().await;
    // The server knows the script: what it finds in its buffer when it wakes is the push itself.
    ground.push(1).await;
    let worker = ground.worker().await;
    assert_eq!(ground.drain(worker).await.len(), 1);
    let calls = script_calls(&ground.server).await;

    ground.server.sigstop().await.unwrap();
    let jobs = jobs(1_200);
    let started = Instant::now();
    let pushed = ground.broker.push(QUEUE, &jobs).await;
    assert!(
        started.elapsed() < Duration::from_millis(900),
        "one timeout: {:?}",
        started.elapsed()
    );
    assert!(
        matches!(&pushed[0].outcome, PushOutcome::Doubtful(error) if error.certainty() == Certainty::Unknown)
    );
    for later in &pushed[1..] {
        assert!(matches!(later.outcome, PushOutcome::Refused(_)), "{later:?}");
    }

    ground.server.sigcont().await.unwrap();
    eventually("the script is read", LIMIT, Duration::from_millis(20), || async {
        (script_calls(&ground.server).await > calls).then_some(())
    })
    .await
    .unwrap();
    assert_eq!(ground.number(&["EXISTS", &key("data"), &key("active")]).await, 0);
    ground.becomes(Mode::is_normal).await;
    assert_eq!(
        ground.broker.resolve(QUEUE, jobs[0].id).await.unwrap(),
        Resolution::Unknown
    );
}

#[tokio::test]
async fn a_push_whose_answer_is_lost_is_doubtful_and_stands_there_once() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let broker = Broker::new(gate_at(&proxy.url_for(&server.url()), &brisk()).await, settings());
    push_all(&broker, &jobs(1)).await;

    let jobs = jobs(2);
    let needle = jobs[0].id.to_string().into_bytes();
    proxy.cut_reply_when(move |request| bytes_contain(request, &needle), 1);
    let pushed = broker.push(QUEUE, &jobs).await;
    assert!(
        matches!(pushed[0].outcome, PushOutcome::Doubtful(_)),
        "{pushed:?}"
    );

    becomes(&broker, Mode::is_normal).await;
    assert_eq!(
        broker.resolve(QUEUE, jobs[0].id).await.unwrap(),
        Resolution::Removed
    );
    assert_eq!(
        broker.resolve(QUEUE, jobs[0].id).await.unwrap(),
        Resolution::Unknown
    );
    assert_eq!(broker.depth(QUEUE).await.unwrap().active, 2);
}

#[tokio::test]
async fn without_redis_a_push_is_refused_at_once() {
    let broker = Broker::new(absent_gate(), settings());
    let pushed = broker.push(QUEUE, &jobs(3)).await;
    assert!(matches!(&pushed[..], [only] if only.jobs == (0..3)));
    assert!(
        matches!(&pushed[0].outcome, PushOutcome::Refused(error) if error.is_unavailable()),
        "{pushed:?}"
    );
}

#[tokio::test]
async fn without_memory_pushes_are_refused_whole_and_jobs_are_still_fetched_ended_and_rescued() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let dead = ground.worker().await;
    let ids = ground.push(40).await;
    assert_eq!(ground.fetch_ids(dead, 10).await, ids[..10]);
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &[]).await.unwrap(),
        renewed()
    );
    ground.age(&member(dead), 20).await;

    ground.server.run_out_of_memory().await.unwrap();
    ground.becomes(Mode::is_degraded).await;
    assert!(ground.broker.serves());
    let fresh = jobs(10);
    for pushed in ground.broker.push(QUEUE, &fresh).await {
        assert!(matches!(pushed.outcome, PushOutcome::Refused(_)), "{pushed:?}");
    }
    assert_eq!(ground.number(&["HLEN", &key("data")]).await, 40);

    // All that makes room, and all that keeps a worker alive meanwhile.
    assert_eq!(
        ground.broker.heartbeat(QUEUE, worker, &[]).await.unwrap(),
        renewed()
    );
    assert_eq!(ground.broker.rescue(QUEUE).await.unwrap().returned, 10);
    let again = ground.fetch(worker, 5).await;
    let crashes: Vec<_> = again.jobs.iter().map(|job| (job.id, job.crashes)).collect();
    assert_eq!(crashes, ids[..5].iter().map(|id| (*id, 1)).collect::<Vec<_>>());
    assert!(ground.broker.mark_started(QUEUE, worker, ids[0]).await.unwrap());
    assert_eq!(
        ground.broker.hand_back(QUEUE, worker, &ids[..5]).await.unwrap(),
        5
    );
    assert_eq!(ground.drain(worker).await, ids);
    assert!(ground.broker.deregister(QUEUE, worker).await.unwrap());
    ground.worker().await;
}

fn renewed() -> Beat {
    Beat::Renewed {
        reasserted: 0,
        strays: 0,
        cancel: vec![],
    }
}

#[tokio::test]
async fn a_queued_job_of_200_bytes_costs_at_most_800_bytes() {
    const JOBS: usize = 100_000;
    let ground = Ground::new().await;
    let payload = format!("\"{}\"", "x".repeat(198));
    ground.push(1).await;
    let before = ground.server.memory_used().await.unwrap();
    for _ in 0..JOBS / 5_000 {
        let jobs: Vec<_> = (0..5_000).map(|_| outgoing(&payload)).collect();
        push_all(&ground.broker, &jobs).await;
    }
    let each = (ground.server.memory_used().await.unwrap() - before) as usize / JOBS;
    println!("memory of a queued job with a payload of 200 bytes: {each} bytes");
    assert!(each <= 800, "{each} bytes");
    assert_eq!(ground.number(&["LLEN", &key("active")]).await as usize, JOBS + 1);
}

/// Scripts that the server has run so far.
async fn script_calls(server: &RedisServer) -> u64 {
    let stat = server.info("commandstats", "cmdstat_evalsha").await.unwrap();
    let calls = stat
        .split(',')
        .find_map(|part| part.strip_prefix("calls="))
        .unwrap();
    calls.parse().unwrap()
}
