//! Asking for jobs and depths; resolving and cancelling.

use holdfast_jobs::JobId;
use holdfast_jobs::broker::{BrokerOutcome, Depth, EndState, Place, Resolution};

use crate::broker::leases::schedule;
use crate::broker::support::*;

#[tokio::test]
async fn resolving_removes_what_waits_and_touches_nothing_else() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(4).await;
    let scheduled = jobs(1);
    schedule(&ground, &scheduled, 99_999_999_999).await;
    assert_eq!(ground.fetch_ids(worker, 2).await, ids[..2]);
    ground
        .broker
        .acknowledge(QUEUE, worker, &[completed(ids[0])])
        .await
        .unwrap();

    let resolve = async |id| ground.broker.resolve(QUEUE, id).await.unwrap();
    assert_eq!(resolve(ids[0]).await, Resolution::Done);
    assert_eq!(resolve(ids[1]).await, Resolution::Running);
    assert_eq!(resolve(ids[2]).await, Resolution::Removed);
    assert_eq!(resolve(ids[2]).await, Resolution::Unknown, "without a trace");
    assert_eq!(resolve(scheduled[0].id).await, Resolution::Removed);
    assert_eq!(resolve(JobId::generate()).await, Resolution::Unknown);

    assert_eq!(
        ground.number(&["EXISTS", &meta(ids[2]), &key("scheduled")]).await,
        0
    );
    assert_eq!(ground.drain(worker).await, ids[3..]);
    assert_eq!(
        ground
            .broker
            .acknowledge(QUEUE, worker, &[completed(ids[1])])
            .await
            .unwrap(),
        [ids[1]]
    );
}

#[tokio::test]
async fn a_job_held_by_a_lost_or_forgotten_worker_counts_as_running() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(2).await;
    ground.fetch(worker, 1).await;
    assert!(ground.delete(&key("workers")).await);
    assert_eq!(
        ground.broker.resolve(QUEUE, ids[0]).await.unwrap(),
        Resolution::Running
    );
    // A lost member whose jobs are only about to be returned.
    ground.number(&["ZADD", &key("lost"), "0", &member(worker)]).await;
    assert_eq!(
        ground.broker.resolve(QUEUE, ids[0]).await.unwrap(),
        Resolution::Running
    );
    assert_eq!(ground.active().await, [ids[1]]);
}

#[tokio::test]
async fn cancelling_ends_a_waiting_job_and_asks_a_running_one() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let ids = ground.push(2).await;
    ground.fetch(worker, 1).await;
    assert_eq!(
        ground.broker.cancel(QUEUE, ids[0]).await.unwrap(),
        Resolution::Running
    );
    assert_eq!(
        ground.broker.cancel(QUEUE, ids[1]).await.unwrap(),
        Resolution::Removed
    );
    assert_eq!(
        ground.broker.cancel(QUEUE, ids[1]).await.unwrap(),
        Resolution::Done
    );
    assert_eq!(
        ground.broker.cancel(QUEUE, JobId::generate()).await.unwrap(),
        Resolution::Unknown
    );
    assert!(ground.fetch(worker, 10).await.is_empty());

    let record = ground.broker.job(QUEUE, ids[1]).await.unwrap().unwrap();
    assert!(
        matches!(
            record.place,
            Place::Ended {
                outcome: EndState::Cancelled,
                ..
            }
        ),
        "{record:?}"
    );
    let gave_way = [finished(ids[0], BrokerOutcome::Cancelled)];
    assert_eq!(
        ground.broker.acknowledge(QUEUE, worker, &gave_way).await.unwrap(),
        [ids[0]]
    );
}

#[tokio::test]
async fn a_job_can_be_asked_for_from_push_to_outcome() {
    let ground = Ground::new().await;
    let worker = ground.worker().await;
    let id = ground.push(1).await[0];
    let ask = async || ground.broker.job(QUEUE, id).await.unwrap().unwrap();

    let waiting = ask().await;
    assert!(matches!(waiting.place, Place::Waiting), "{waiting:?}");
    assert_eq!(waiting.envelope.unwrap().payload.get(), "{\"n\":0}");
    ground.fetch(worker, 1).await;
    let running = ask().await;
    assert!(
        matches!(running.place, Place::Running { worker: Some(by) } if by == worker),
        "{running:?}"
    );
    let done = [finished(id, BrokerOutcome::Completed(Some(raw("[1,2]"))))];
    ground.broker.acknowledge(QUEUE, worker, &done).await.unwrap();
    let ended = ask().await;
    assert_eq!(ended.kind.as_deref(), Some("debug.echo"));
    let Place::Ended {
        outcome,
        attempts,
        result,
        error,
        at,
    } = ended.place
    else {
        panic!("{ended:?}")
    };
    assert_eq!((outcome, attempts, error), (EndState::Completed, 1, None));
    assert_eq!(result.unwrap().get(), "[1,2]");
    assert!(at.is_some());

    assert!(ground.delete(&meta(id)).await);
    assert!(ground.broker.job(QUEUE, id).await.unwrap().is_none());
}

#[tokio::test]
async fn depth_counts_each_place_and_the_age_of_the_head() {
    let ground = Ground::new().await;
    assert_eq!(ground.broker.depth(QUEUE).await.unwrap(), Depth::default());
    let worker = ground.worker().await;
    ground.push(5).await;
    schedule(&ground, &jobs(3), 99_999_999_999).await;
    ground.fetch(worker, 2).await;
    let depth = ground.broker.depth(QUEUE).await.unwrap();
    assert_eq!((depth.active, depth.scheduled, depth.inflight), (3, 3, 2));
    assert!(depth.oldest_age.unwrap() < LIMIT);
}
