//! Why a job waits.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::QueueLimits;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::diagnosis::WaitReason;
use holdfast_jobs::ledger::{NewJob, Options, Priority, RunAt};
use holdfast_jobs::limits::{ClaimRequest, KeyRule};
use holdfast_jobs::{JobId, Jobs, State};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, LOST_AFTER, new_job, report};

contract!(
    each_reason_is_named_and_the_first_decides,
    the_holders_of_a_key_are_named,
    a_running_job_names_its_worker,
    the_pause_of_a_key_is_named_with_its_end,
    the_keys_of_a_queue_are_listed_in_pages,
);

async fn codes(jobs: &Jobs, id: JobId) -> Vec<&'static str> {
    let standing = jobs.why(id, LOST_AFTER).await.unwrap().unwrap();
    standing.reasons.iter().map(WaitReason::code).collect()
}

async fn each_reason_is_named_and_the_first_decides(f: Fixture) {
    let jobs = jobs_of(&f);
    let first = new_job();
    tokio::time::sleep(Duration::from_millis(2)).await; // ids of one millisecond have no order
    let second = new_job();
    let later = NewJob {
        run_at: RunAt::In(Duration::from_hours(1)),
        ..new_job()
    };
    let expired = NewJob {
        options: Options {
            expires_at: Some(holdfast_core::clock::now() - chrono::Duration::seconds(60)),
            ..Options::default()
        },
        ..new_job()
    };
    let dead = NewJob {
        discarded: true,
        ..new_job()
    };
    for job in [&first, &second, &later, &expired, &dead] {
        f.ledger.insert(std::slice::from_ref(job)).await.unwrap();
    }
    assert_eq!(codes(&jobs, first.id).await, ["no_worker"]);
    f.worker().await;
    assert_eq!(codes(&jobs, first.id).await, ["ready"]);
    assert_eq!(codes(&jobs, second.id).await, ["jobs_ahead"]);
    assert_eq!(codes(&jobs, later.id).await, ["due_later"]);
    assert_eq!(codes(&jobs, expired.id).await, ["expired", "jobs_ahead"]);
    assert_eq!(codes(&jobs, dead.id).await, [""; 0]);
    assert!(jobs.why(JobId::generate(), LOST_AFTER).await.unwrap().is_none());
    jobs.pause("default").await.unwrap();
    assert_eq!(codes(&jobs, first.id).await, ["queue_paused"]);
    f.age_workers().await;
    assert_eq!(
        codes(&jobs, later.id).await,
        ["due_later", "queue_paused", "no_worker"]
    );
}

async fn the_holders_of_a_key_are_named(f: Fixture) {
    let jobs = jobs_of(&f);
    let limits = QueueLimits {
        max_running: Some(1),
        rate: Some("1/60s".parse().unwrap()),
        key_max_running: Some(1),
        key_rate: Some("1/60s".parse().unwrap()),
    };
    jobs.limits()
        .set_override("default", Some(&limits))
        .await
        .unwrap();
    let keyed = |key: &str| NewJob {
        limit_key: Some(key.to_owned()),
        ..new_job()
    };
    let held = keyed("a");
    f.ledger.insert(std::slice::from_ref(&held)).await.unwrap();
    let worker = f.worker().await;
    let asked = ClaimRequest {
        queue: "default",
        worker,
        room: 5,
        lost_after: LOST_AFTER,
    };
    assert_eq!(jobs.limits().claim(asked).await.unwrap().jobs.len(), 1);
    let (same, other) = (keyed("a"), keyed("b"));
    f.ledger.insert(&[same.clone(), other.clone()]).await.unwrap();
    let standing = jobs.why(same.id, LOST_AFTER).await.unwrap().unwrap();
    assert_eq!(standing.job.state, State::Available);
    let holders = standing.reasons.iter().find_map(|reason| match reason {
        WaitReason::KeyLimit {
            running,
            limit,
            holders,
        } => Some((*running, *limit, holders.clone())),
        _ => None,
    });
    assert_eq!(holders, Some((1, 1, vec![held.id])));
    let without_order = |codes: Vec<&'static str>| -> Vec<&'static str> {
        codes.into_iter().filter(|code| *code != "jobs_ahead").collect()
    };
    assert_eq!(
        without_order(codes(&jobs, same.id).await),
        ["queue_limit", "queue_rate", "key_limit", "key_rate"]
    );
    assert_eq!(
        without_order(codes(&jobs, other.id).await),
        ["queue_limit", "queue_rate"]
    );
}

async fn the_pause_of_a_key_is_named_with_its_end(f: Fixture) {
    let jobs = jobs_of(&f);
    let job = NewJob {
        limit_key: Some("customer 17".to_owned()),
        ..new_job()
    };
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    let worker = f.worker().await;
    let by = AuditContext::new(Actor::local());
    let put = async |rule| {
        let admin = jobs.steer(&by);
        let put = admin.override_key("default", "customer 17", rule, Duration::from_hours(1));
        put.await.unwrap().unwrap()
    };
    let until = put(KeyRule::Paused).await.expires_at;
    let standing = jobs.why(job.id, LOST_AFTER).await.unwrap().unwrap();
    let key = "customer 17".to_owned();
    assert_eq!(standing.reasons, [WaitReason::KeyPaused { key, until }]);
    assert_eq!(
        standing.reasons[0].to_string(),
        format!("its limit key customer 17 is paused until {until}")
    );
    put(KeyRule::MaxRunning(1)).await;
    assert_eq!(codes(&jobs, job.id).await, ["ready"]);
    let asked = ClaimRequest {
        queue: "default",
        worker,
        room: 5,
        lost_after: LOST_AFTER,
    };
    assert_eq!(jobs.limits().claim(asked).await.unwrap().jobs.len(), 1);
    let same = NewJob {
        id: JobId::generate(),
        ..job
    };
    f.ledger.insert(std::slice::from_ref(&same)).await.unwrap();
    assert_eq!(codes(&jobs, same.id).await, ["key_limit"]);
}

async fn a_running_job_names_its_worker(f: Fixture) {
    let jobs = jobs_of(&f);
    let job = NewJob {
        queue: Arc::from("default"),
        ..new_job()
    };
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    let worker = report(holdfast_jobs::WorkerId::generate());
    f.ledger.register(&worker).await.unwrap();
    f.ledger.claim("default", worker.id, 1, LOST_AFTER).await.unwrap();
    let standing = jobs.why(job.id, LOST_AFTER).await.unwrap().unwrap();
    assert_eq!(standing.reasons, [WaitReason::Runs { worker: worker.id }]);
    jobs.cancel(job.id).await.unwrap();
    assert_eq!(codes(&jobs, job.id).await, ["stopping"]);
    f.age_workers().await;
    assert_eq!(codes(&jobs, job.id).await, ["worker_lost"]);
}

async fn the_keys_of_a_queue_are_listed_in_pages(f: Fixture) {
    let jobs = jobs_of(&f);
    let keyed = |key: &str| NewJob {
        limit_key: Some(key.to_owned()),
        ..new_job()
    };
    let urgent = || NewJob {
        priority: Priority::High,
        ..keyed("a")
    };
    let later = NewJob {
        run_at: RunAt::In(Duration::from_hours(1)),
        ..keyed("b")
    };
    let elsewhere = NewJob {
        queue: Arc::from("events"),
        ..keyed("z")
    };
    let all = [
        urgent(),
        urgent(),
        later,
        keyed("Ä"),
        keyed("B"),
        new_job(),
        elsewhere,
    ];
    for job in &all {
        f.ledger.insert(std::slice::from_ref(job)).await.unwrap();
    }
    let worker = f.worker().await;
    f.ledger.claim("default", worker, 2, LOST_AFTER).await.unwrap();
    let seen = async |after: &str, most: usize| -> Vec<(String, u64, u64)> {
        let keys = jobs.limits().keys("default", after, most).await.unwrap();
        keys.into_iter()
            .map(|key| (key.key, key.waiting, key.running))
            .collect()
    };
    let key = |key: &str, waiting, running| (key.to_owned(), waiting, running);
    let by = AuditContext::new(Actor::local());
    let time = Duration::from_hours(1);
    for (key, queue) in [("a", "default"), ("y", "default"), ("c", "events")] {
        let put = jobs.steer(&by);
        put.override_key(queue, key, KeyRule::MaxRunning(2), time)
            .await
            .unwrap();
    }
    // In the order of their bytes, on either database.
    assert_eq!(
        seen("", 10).await,
        [
            key("B", 1, 0),
            key("a", 0, 2),
            key("b", 1, 0),
            key("y", 0, 0),
            key("Ä", 1, 0)
        ]
    );
    assert_eq!(seen("", 1).await, [key("B", 1, 0)]);
    assert_eq!(seen("a", 1).await, [key("b", 1, 0)]);
    assert_eq!(seen("Ä", 5).await, []);
    assert!(jobs.limits().keys("nowhere", "", 5).await.unwrap().is_empty());
    let keys = jobs.limits().keys("default", "B", 3).await.unwrap();
    let rules: Vec<_> = keys
        .iter()
        .map(|key| key.overridden.map(|found| found.rule))
        .collect();
    let own = Some(KeyRule::MaxRunning(2));
    assert_eq!(rules, [own, None, own]);
}
