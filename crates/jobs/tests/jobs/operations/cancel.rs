//! Cancelling many jobs, and purging.

use std::sync::Arc;
use std::time::Duration;

use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_jobs::ledger::{NewJob, RunAt};
use holdfast_jobs::{CancelFilter, JobId, State};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, LOST_AFTER, new_job};

contract!(
    a_purge_cancels_what_waits_in_its_queue_alone,
    a_filter_cancels_what_waits_and_asks_what_runs,
);

fn in_queue(queue: &str) -> NewJob {
    NewJob {
        queue: Arc::from(queue),
        ..new_job()
    }
}

async fn a_purge_cancels_what_waits_in_its_queue_alone(f: Fixture) {
    let jobs = jobs_of(&f);
    let by = AuditContext::new(Actor::local());
    let mut waiting: Vec<NewJob> = (0..1_500).map(|_| in_queue("events")).collect();
    waiting.push(NewJob {
        run_at: RunAt::In(Duration::from_hours(1)),
        ..in_queue("events")
    });
    f.ledger
        .insert(&[in_queue("events"), in_queue("default")])
        .await
        .unwrap();
    let worker = f.worker().await;
    assert_eq!(
        f.ledger
            .claim("events", worker, 1, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
    f.ledger.insert(&waiting).await.unwrap();

    let purged = jobs.steer(&by).purge("events", None).await.unwrap();
    assert_eq!((purged.ledger.affected, purged.ledger.finished), (1_501, true));
    assert_eq!((purged.broker, purged.broker_finished), (0, true));
    let stats = jobs.queue_stats().await.unwrap();
    let of = |name: &str| stats.iter().find(|queue| queue.queue == name).unwrap();
    assert_eq!(
        (
            of("events").available,
            of("events").scheduled,
            of("events").running
        ),
        (0, 0, 1)
    );
    assert_eq!(of("default").available, 1);
    let kept = jobs.get(waiting[7].id).await.unwrap().unwrap();
    assert_eq!(kept.state, State::Cancelled);
    assert!(kept.finished_at.is_some());

    let again = jobs.steer(&by).purge("events", None).await.unwrap();
    assert_eq!((again.ledger.affected, again.ledger.operation), (0, None));
    let entries = jobs
        .audit()
        .list(&AuditFilter {
            limit: 10,
            ..AuditFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(entries.len(), 1, "an empty purge leaves no entry");
    assert_eq!(
        (entries[0].action.as_str(), entries[0].count),
        ("queue.purge", Some(1_501))
    );
}

async fn a_filter_cancels_what_waits_and_asks_what_runs(f: Fixture) {
    let jobs = jobs_of(&f);
    let by = AuditContext::new(Actor::local());
    let steering = jobs.steer(&by);
    let worker = f.worker().await;
    let running = new_job();
    f.ledger.insert(std::slice::from_ref(&running)).await.unwrap();
    assert_eq!(
        f.ledger
            .claim("default", worker, 1, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
    let other = NewJob {
        kind: Arc::from("other.kind"),
        ..new_job()
    };
    let later = NewJob {
        run_at: RunAt::In(Duration::from_hours(1)),
        ..new_job()
    };
    f.ledger
        .insert(&[new_job(), later, other.clone(), in_queue("events")])
        .await
        .unwrap();

    let scheduled = CancelFilter {
        state: Some(State::Scheduled),
        ..CancelFilter::default()
    };
    assert_eq!(steering.count_cancellable(&scheduled).await.unwrap(), 1);
    assert_eq!(steering.cancel_many(&scheduled, None).await.unwrap().affected, 1);
    let old = CancelFilter {
        to: Some(holdfast_core::clock::now() - chrono::Duration::hours(1)),
        ..CancelFilter::default()
    };
    assert_eq!(steering.count_cancellable(&old).await.unwrap(), 0);
    let of_kind = CancelFilter {
        queue: Some("default".to_owned()),
        kind: Some("test.kind".to_owned()),
        ..CancelFilter::default()
    };
    assert_eq!(steering.count_cancellable(&of_kind).await.unwrap(), 2);
    let done = steering.cancel_many(&of_kind, None).await.unwrap();
    assert_eq!((done.affected, done.finished), (2, true));
    assert_eq!(f.ledger.cancel_requests(&[worker]).await.unwrap(), [running.id]);
    assert_eq!(jobs.get(other.id).await.unwrap().unwrap().state, State::Available);
    // What was asked to give way is not asked again.
    assert_eq!(steering.cancel_many(&of_kind, None).await.unwrap().affected, 0);
    let of_ids = CancelFilter {
        ids: Some(vec![other.id, running.id, JobId::generate()]),
        ..CancelFilter::default()
    };
    assert_eq!(steering.count_cancellable(&of_ids).await.unwrap(), 1);
    assert_eq!(steering.cancel_many(&of_ids, None).await.unwrap().affected, 1);
    assert_eq!(jobs.get(other.id).await.unwrap().unwrap().state, State::Cancelled);
    assert_eq!(
        steering
            .cancel_many(&CancelFilter::default(), None)
            .await
            .unwrap()
            .affected,
        1
    );
}
