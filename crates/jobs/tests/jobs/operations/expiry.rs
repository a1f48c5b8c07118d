//! Jobs that have not begun when they expire are cancelled, and never run.

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_jobs::enqueue::{EnqueueError, JobRequest};
use holdfast_jobs::expiry::EXPIRED;
use holdfast_jobs::ledger::JobRecord;
use holdfast_jobs::{JobId, Jobs, State};

use crate::operations::chains::{Step, all, claim, jobs_of};
use crate::support::{Fixture, raw};

contract!(
    what_has_expired_is_cancelled_with_its_reason_and_counted_in_its_batch,
    what_has_begun_or_expires_later_stays,
    a_follow_up_has_no_expiry_of_its_own,
);

fn ago() -> DateTime<Utc> {
    clock::now() - chrono::Duration::minutes(1)
}

async fn get(jobs: &Jobs, id: JobId) -> JobRecord {
    jobs.get(id).await.unwrap().unwrap()
}

async fn what_has_expired_is_cancelled_with_its_reason_and_counted_in_its_batch(f: Fixture) {
    let jobs = jobs_of(&f);
    let single = jobs
        .enqueue(Step { n: 1 })
        .expires_at(ago())
        .then(Step { n: 2 })
        .await
        .unwrap();
    let members = [
        jobs.enqueue(Step { n: 3 }).expires_at(ago()),
        jobs.enqueue(Step { n: 4 }).expires_at(ago()),
    ];
    let batch = jobs
        .batch(members)
        .callback(jobs.enqueue(Step { n: 9 }))
        .await
        .unwrap();
    assert_eq!(jobs.cancel_expired(1).await.unwrap(), 1, "in steps");
    assert_eq!(jobs.cancel_expired(10).await.unwrap(), 2);
    assert_eq!(jobs.cancel_expired(10).await.unwrap(), 0);
    let record = get(&jobs, single.id).await;
    assert_eq!((record.state, record.attempt), (State::Cancelled, 0));
    assert_eq!((record.errors.len(), &*record.errors[0].class), (1, EXPIRED));
    assert!(record.finished_at.is_some() && record.expires_at.is_some_and(|at| at < clock::now()));
    let ended = jobs.batches().get(batch.id).await.unwrap().unwrap();
    assert_eq!((ended.cancelled, ended.ended_at.is_some()), (2, true));
    let waiting: Vec<_> = all(&jobs)
        .await
        .into_iter()
        .filter(|job| !job.state.is_final())
        .collect();
    assert_eq!(waiting.len(), 1, "the callback, and nothing that was to follow");
    assert_eq!(waiting[0].callback_of, Some(batch.id));
}

async fn what_has_begun_or_expires_later_stays(f: Fixture) {
    let jobs = jobs_of(&f);
    let begun = jobs.enqueue(Step { n: 1 }).expires_at(ago()).await.unwrap().id;
    let worker = f.worker().await;
    assert_eq!(claim(&f, worker, 1).await.len(), 1);
    let later = clock::now() + chrono::Duration::hours(1);
    let later = jobs.enqueue(Step { n: 2 }).expires_at(later).await.unwrap().id;
    let never = jobs.enqueue(Step { n: 3 }).await.unwrap().id;
    assert_eq!(jobs.cancel_expired(10).await.unwrap(), 0);
    // It has crashed, and waits again.
    f.sql(
        "update holdfast_jobs set state = 'available', worker = null, crashes = 1 where state = 'running'",
        "update holdfast_jobs set state = 'available', worker = null, crashes = 1 where state = 'running'",
    )
    .await;
    assert_eq!(jobs.cancel_expired(10).await.unwrap(), 0);
    for id in [begun, later, never] {
        assert_eq!(get(&jobs, id).await.state, State::Available);
    }
}

async fn a_follow_up_has_no_expiry_of_its_own(f: Fixture) {
    let jobs = jobs_of(&f);
    let refused = jobs
        .enqueue(Step { n: 1 })
        .then_enqueue(jobs.enqueue(Step { n: 2 }).expires_at(ago()))
        .await;
    match refused {
        Err(EnqueueError::Invalid(fault)) => assert_eq!(fault.field, "then.expires_at"),
        other => panic!("{other:?}"),
    }
    let far = clock::now() + chrono::Duration::days(3_650);
    let request = JobRequest {
        expires_at: Some(far),
        ..JobRequest::new("test.step", raw("{\"n\":1}"))
    };
    match jobs.enqueue_request(request).await {
        Err(EnqueueError::Invalid(fault)) => assert_eq!(fault.field, "expires_at"),
        other => panic!("{other:?}"),
    }
}
