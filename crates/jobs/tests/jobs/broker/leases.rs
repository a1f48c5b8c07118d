//! Fetching: registration, evicted and unreadable envelopes, foreign ids, the scheduled set, lost answers.

use std::collections::HashSet;
use std::time::Duration;

use holdfast_core::failure::Certainty;
use holdfast_core::mode::Mode;
use holdfast_jobs::broker::{Broker, BrokerOutcome, FetchAnswer};
use holdfast_jobs::{JobId, WorkerId};
use holdfast_testkit::{FaultProxy, RedisOptions, RedisServer, bytes_contain};

use crate::broker::support::*;

#[tokio::test]
async fn only_a_registered_worker_gets_jobs() {
    let ground = Ground::new().await;
    let ids = ground.push(1).await;
    let stranger = WorkerId::generate();
    let answer = ground.broker.fetch(QUEUE, stranger, 10).await.unwrap();
    assert!(matches!(answer, FetchAnswer::Unregistered), "{answer:?}");
    assert_eq!(ground.active().await, ids);
    ground.broker.register(QUEUE, stranger).await.unwrap();
    assert_eq!(ground.fetch_ids(stranger, 10).await, ids);
}

#[tokio::test]
async fn a_fetch_takes_no_more_than_its_limit_and_never_more_than_500() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(1_100).await;
    assert!(ground.fetch(worker, 0).await.is_empty());
    assert_eq!(ground.fetch_ids(worker, 7).await, ids[..7]);
    assert_eq!(ground.fetch_ids(worker, 100_000).await, ids[7..507]);
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 507);
    assert_eq!(ground.number(&["LLEN", &key("signal")]).await, 1, "there is more");
    assert_eq!(ground.fetch_ids(worker, 500).await.len(), 500);
    assert_eq!(ground.fetch_ids(worker, 500).await.len(), 93);
    assert_eq!(ground.number(&["EXISTS", &key("signal")]).await, 0);
}

#[tokio::test]
async fn large_envelopes_come_in_several_fetches_in_their_order() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        let job = outgoing(&format!("\"{}\"", "x".repeat(300_000)));
        ids.push(job.id);
        push_all(&ground.broker, &[job]).await;
    }
    assert_eq!(ground.fetch_ids(worker, 500).await, ids[..3]);
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 3);
    assert_eq!(ground.active().await, ids[3..]);
    assert_eq!(ground.fetch_ids(worker, 500).await, ids[3..6]);
}

#[tokio::test]
async fn a_job_whose_envelope_was_evicted_is_reported_and_not_held() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(3).await;
    assert_eq!(
        ground.number(&["HDEL", &key("data"), &ids[1].to_string()]).await,
        1
    );
    let batch = ground.fetch(worker, 10).await;
    assert_eq!(batch.evicted, [ids[1].to_string()]);
    assert_eq!(
        batch.jobs.iter().map(|job| job.id).collect::<Vec<_>>(),
        [ids[0], ids[2]]
    );
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 2);
}

#[tokio::test]
async fn an_unreadable_envelope_is_held_until_it_is_ended() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(2).await;
    ground
        .number(&["HSET", &key("data"), &ids[0].to_string(), "{\"kind\":7}"])
        .await;
    let batch = ground.fetch(worker, 10).await;
    assert_eq!(batch.jobs.len(), 1);
    let [unreadable] = &batch.unreadable[..] else {
        panic!("{batch:?}")
    };
    assert_eq!(
        (unreadable.id, &unreadable.raw[..]),
        (ids[0], &b"{\"kind\":7}"[..])
    );
    let moved = [finished(ids[0], BrokerOutcome::Moved), completed(ids[1])];
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &moved).await.unwrap(),
        ids
    );
    assert_eq!(ground.keys().await, [key("workers")]);
    assert_eq!(ground.number(&["EXISTS", &meta(ids[0])]).await, 0);
}

#[tokio::test]
async fn a_job_with_a_foreign_id_gets_one_of_ours_and_can_be_ended() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let envelope = serde_json::to_string(&envelope("debug.echo", "1")).unwrap();
    // One is no ULID; the other is, in a spelling that we would not find again.
    let lower = JobId::generate().to_string().to_lowercase();
    for id in ["order-17", &lower] {
        ground.number(&["HSET", &key("data"), id, &envelope]).await;
        ground
            .number(&["HSET", &key(&format!("meta:{id}")), "status", "Pending"])
            .await;
        ground.number(&["RPUSH", &key("active"), id]).await;
    }
    let ids = ground.fetch_ids(worker, 10).await;
    assert_eq!(ids.len(), 2);
    let held: HashSet<String> = ground
        .texts(&["SMEMBERS", &inflight(worker)])
        .await
        .into_iter()
        .collect();
    assert_eq!(held, ids.iter().map(ToString::to_string).collect());
    assert_eq!(ground.number(&["HLEN", &key("data")]).await, 2);
    let done: Vec<_> = ids.iter().map(|id| completed(*id)).collect();
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap(),
        ids
    );
    assert_eq!(ground.keys().await, [key("workers")]);
    assert_eq!(ground.number(&["EXISTS", &key("meta:order-17")]).await, 0);
}

#[tokio::test]
async fn ten_thousand_due_scheduled_jobs_do_not_wedge_the_queue() {
    const JOBS: usize = 10_000;
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let jobs = jobs(JOBS);
    schedule(&ground, &jobs, 1).await;
    let later = jobs.last().unwrap().id;
    ground
        .number(&[
            "ZADD",
            &key("scheduled"),
            "XX",
            "CH",
            "99999999999",
            &later.to_string(),
        ])
        .await;

    let ended = ground.drain(worker).await;
    assert_eq!(ended.len(), JOBS - 1);
    assert_eq!(
        ended,
        jobs[..JOBS - 1].iter().map(|job| job.id).collect::<Vec<_>>()
    );
    assert_eq!(
        ground.texts(&["ZRANGE", &key("scheduled"), "0", "-1"]).await,
        [later.to_string()]
    );
}

/// As a stock producer leaves them: data, meta, and a place in `scheduled`.
pub(crate) async fn schedule(ground: &Ground, jobs: &[holdfast_jobs::broker::OutgoingJob], due: i64) {
    let mut connection = ground.server.connect().await.unwrap();
    for jobs in jobs.chunks(500) {
        let mut commands = Vec::new();
        for job in jobs {
            let id = job.id.to_string().into_bytes();
            commands.push(vec![
                b"HSET".to_vec(),
                key("data").into_bytes(),
                id.clone(),
                job.envelope.to_vec(),
            ]);
            let scored = [
                b"ZADD".to_vec(),
                key("scheduled").into_bytes(),
                due.to_string().into_bytes(),
                id,
            ];
            commands.push(scored.to_vec());
        }
        for reply in connection.pipeline(&commands).await.unwrap() {
            reply.ok().unwrap();
        }
    }
}

#[tokio::test]
async fn a_fetch_that_reaches_a_hung_server_leases_nothing_later() {
    let ground = Ground::brisk().await;
    let worker = ground.worker().await;
    let ids = ground.push(3).await;
    assert_eq!(ground.fetch_ids(worker, 1).await, ids[..1]);

    ground.server.sigstop().await.unwrap();
    let error = ground.broker.fetch(QUEUE, worker, 10).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown);
    ground.server.sigcont().await.unwrap();
    ground.becomes(Mode::is_normal).await;
    assert_eq!(
        ground.broker.reconcile(QUEUE, worker, &ids[..1]).await.unwrap(),
        0
    );
    assert_eq!(ground.number(&["SCARD", &inflight(worker)]).await, 1);
    assert_eq!(ground.active().await, ids[1..]);
}

#[tokio::test]
async fn jobs_of_a_fetch_whose_answer_is_lost_go_back_in_order_and_uncounted() {
    let server = RedisServer::start(RedisOptions::default()).await.unwrap();
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let broker = Broker::new(gate_at(&proxy.url_for(&server.url()), &brisk()).await, settings());
    let worker = WorkerId::generate();
    broker.register(QUEUE, worker).await.unwrap();
    let jobs = jobs(700);
    push_all(&broker, &jobs).await;
    let ids: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    let held = fetch(&broker, worker, 2).await;
    assert_eq!(held.jobs.len(), 2);

    let needle = inflight(worker).into_bytes();
    proxy.cut_reply_when(move |request| bytes_contain(request, &needle), 1);
    let error = broker.fetch(QUEUE, worker, 500).await.unwrap_err();
    assert_eq!(error.certainty(), Certainty::Unknown);
    let inflight = server
        .command(&["SCARD", &inflight(worker)])
        .await
        .unwrap()
        .integer();
    assert_eq!(inflight, Some(502), "the server has leased them");

    assert_eq!(reconcile(&broker, worker, &ids[..2]).await, 500);
    let batch = fetch(&broker, worker, 500).await;
    let again: Vec<_> = batch.jobs.iter().map(|job| (job.id, job.crashes)).collect();
    assert_eq!(again, ids[2..502].iter().map(|id| (*id, 0)).collect::<Vec<_>>());
}

/// Until the gate serves again.
async fn reconcile(broker: &Broker, worker: WorkerId, held: &[JobId]) -> u64 {
    holdfast_testkit::eventually("the reconciliation", LIMIT, Duration::from_millis(10), || async {
        broker.reconcile(QUEUE, worker, held).await.ok()
    })
    .await
    .unwrap()
}
