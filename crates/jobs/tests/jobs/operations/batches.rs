//! Batches: accepted whole, ended once, with counts that nothing changes any more.

use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter, action};
use holdfast_jobs::batches::{BatchFilter, BatchRecord, BatchRequest};
use holdfast_jobs::dead_letters::{DeadLetterFilter, Redrive};
use holdfast_jobs::enqueue::{EnqueueError, FaultCode, JobRequest};
use holdfast_jobs::ledger::{ErrorRecord, JobFilter, Outcome, Retention};
use holdfast_jobs::{BatchId, CancelFilter, Job, Jobs, State};
use tokio::task::JoinSet;

use crate::operations::chains::{Step, all, claim, completed, discarded, finish, jobs_of};
use crate::support::{Fixture, LOST_AFTER, raw};

contract!(
    a_batch_ends_with_its_last_job_and_tells_its_callback_the_counts,
    those_who_end_the_last_jobs_at_once_make_one_callback,
    an_outcome_of_a_lost_lease_is_not_counted,
    poison_is_counted,
    a_running_job_that_was_cancelled_is_counted_however_it_would_have_gone_back,
    a_purge_and_a_cancellation_by_filter_are_counted,
    a_running_batch_waits_for_a_redriven_dead_letter_and_an_ended_one_does_not,
    counts_outlive_the_rows_they_count,
    a_batch_is_accepted_whole_and_once_under_its_key,
    a_batch_is_cancelled_in_steps_under_one_entry,
    a_batch_that_an_older_version_left_open_is_ended,
    batches_are_paged_and_forgotten_after_their_time,
);

fn by() -> AuditContext {
    AuditContext::new(Actor::local())
}

async fn enqueue(jobs: &Jobs, size: u32) -> BatchId {
    let members = (0..size).map(|n| jobs.enqueue(Step { n }));
    let batch = jobs.batch(members).callback(jobs.enqueue(Step { n: 99 })).await;
    batch.unwrap().id
}

async fn get(jobs: &Jobs, id: BatchId) -> BatchRecord {
    jobs.batches().get(id).await.unwrap().unwrap()
}

fn counts(batch: &BatchRecord) -> [u32; 4] {
    [batch.completed, batch.discarded, batch.cancelled, batch.pending()]
}

/// The callbacks that were enqueued for a batch.
async fn callbacks(jobs: &Jobs, id: BatchId) -> usize {
    let all = all(jobs).await;
    all.iter().filter(|job| job.callback_of == Some(id)).count()
}

async fn a_batch_ends_with_its_last_job_and_tells_its_callback_the_counts(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueue(&jobs, 4).await;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 3).await;
    let (record, progress) = jobs.batches().progress(id).await.unwrap().unwrap();
    assert_eq!((counts(&record), record.percent()), ([0, 0, 0, 4], 0));
    assert_eq!((progress.running, progress.available), (3, 1));
    finish(
        &f,
        worker,
        &[
            (&claimed[0], completed(&claimed[0])),
            (&claimed[1], discarded(&claimed[1])),
        ],
    )
    .await;
    let waiting = jobs
        .list(&JobFilter {
            batch: Some(id),
            state: Some(State::Available),
            limit: 10,
            ..JobFilter::default()
        })
        .await
        .unwrap();
    jobs.cancel(waiting[0].id).await.unwrap();
    let record = get(&jobs, id).await;
    assert_eq!(
        (counts(&record), record.percent(), record.ended_at),
        ([1, 1, 1, 1], 75, None)
    );
    assert_eq!(callbacks(&jobs, id).await, 0);
    // A retry is no end.
    let again = Outcome::Snooze {
        fence: claimed[2].fence(),
        delay: Duration::ZERO,
    };
    f.ledger.finish(worker, &[again]).await.unwrap();
    let last = claim(&f, worker, 3).await;
    assert_eq!(last.len(), 1);
    let (_, effects) = finish(&f, worker, &[(&last[0], completed(&last[0]))]).await;
    assert_eq!((effects.ended, effects.enqueued.len()), (vec![id], 1));
    let (_, effects) = finish(&f, worker, &[(&last[0], completed(&last[0]))]).await;
    assert!(effects.ended.is_empty(), "said again after a lost reply");

    let record = get(&jobs, id).await;
    assert!(record.ended_at.is_some());
    assert_eq!((counts(&record), record.percent()), ([2, 1, 1, 0], 100));
    assert_eq!(callbacks(&jobs, id).await, 1);
    let callback = claim(&f, worker, 3).await;
    assert_eq!(Some(callback[0].id), record.callback.unwrap().id);
    let told = callback[0].options.ended_batch.unwrap();
    assert_eq!(
        (
            told.id,
            told.total,
            told.completed,
            told.discarded,
            told.cancelled
        ),
        (id, 4, 2, 1, 1)
    );
    let waited = jobs.batches().wait(id, Duration::from_secs(30)).await.unwrap();
    assert!(waited.unwrap().ended_at.is_some());
}

async fn those_who_end_the_last_jobs_at_once_make_one_callback(f: Fixture) {
    let jobs = jobs_of(&f);
    let f = std::sync::Arc::new(f);
    for _ in 0..5 {
        let (one, other) = (enqueue(&jobs, 24).await, enqueue(&jobs, 24).await);
        let mut finishers = JoinSet::new();
        for _ in 0..8 {
            let worker = f.worker().await;
            let claimed = claim(&f, worker, 6).await;
            assert_eq!(claimed.len(), 6);
            let f = std::sync::Arc::clone(&f);
            finishers.spawn(async move {
                let ends: Vec<_> = claimed.iter().map(|job| (job, completed(job))).collect();
                let mut ended = 0;
                for pair in ends.chunks(2) {
                    ended += finish(&f, worker, pair).await.1.ended.len();
                }
                ended
            });
        }
        let ended: usize = finishers.join_all().await.iter().sum();
        assert_eq!(ended, 2);
        for id in [one, other] {
            let record = get(&jobs, id).await;
            assert_eq!(counts(&record), [24, 0, 0, 0]);
            assert_eq!(callbacks(&jobs, id).await, 1);
        }
        jobs.steer(&by()).purge("default", None).await.unwrap();
    }
}

async fn an_outcome_of_a_lost_lease_is_not_counted(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueue(&jobs, 1).await;
    let lost = f.worker().await;
    let late = claim(&f, lost, 1).await;
    f.age_workers().await;
    f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    let (held, effects) = finish(&f, lost, &[(&late[0], completed(&late[0]))]).await;
    assert!(held.is_empty() && effects.ended.is_empty());
    assert_eq!(counts(&get(&jobs, id).await), [0, 0, 0, 1]);
}

async fn poison_is_counted(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueue(&jobs, 2).await;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 2).await;
    finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    f.age_workers().await;
    let report = f.ledger.rescue(LOST_AFTER, 1, 10).await.unwrap();
    assert_eq!(report.poisoned, [claimed[1].id]);
    assert_eq!(
        (report.effects.ended, report.effects.enqueued.len()),
        (vec![id], 1)
    );
    assert_eq!(counts(&get(&jobs, id).await), [1, 1, 0, 0]);
    assert_eq!(callbacks(&jobs, id).await, 1);
}

/// Its attempt failed, its worker handed it back, was ended, was lost, or has no row: it is cancelled, and its batch ends.
async fn a_running_job_that_was_cancelled_is_counted_however_it_would_have_gone_back(f: Fixture) {
    let jobs = jobs_of(&f);
    for way in ["failed", "handed back", "ended", "stray", "lost"] {
        let id = enqueue(&jobs, 1).await;
        let worker = f.worker().await;
        let claimed = claim(&f, worker, 1).await.remove(0);
        jobs.cancel(claimed.id).await.unwrap();
        let fence = claimed.fence();
        let effects = match way {
            "failed" => {
                let error = ErrorRecord::new(clock::now(), 1, "transient", "it failed", "test");
                let delay = Duration::from_secs(60);
                finish(&f, worker, &[(&claimed, Outcome::Retry { fence, delay, error })])
                    .await
                    .1
            }
            "handed back" => {
                finish(&f, worker, &[(&claimed, Outcome::HandBack { fence })])
                    .await
                    .1
            }
            "ended" => f.ledger.deregister(worker).await.unwrap().effects,
            "stray" => f.ledger.return_suspects(worker, &[fence]).await.unwrap().effects,
            _ => {
                f.age_workers().await;
                f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap().effects
            }
        };
        assert_eq!(effects.ended, [id], "{way}");
        assert_eq!(counts(&get(&jobs, id).await), [0, 0, 1, 0], "{way}");
        assert_eq!(callbacks(&jobs, id).await, 1, "{way}");
        jobs.steer(&by()).purge("default", None).await.unwrap();
    }
}

async fn a_purge_and_a_cancellation_by_filter_are_counted(f: Fixture) {
    let jobs = jobs_of(&f);
    let purged = enqueue(&jobs, 3).await;
    jobs.steer(&by()).purge("default", None).await.unwrap();
    assert_eq!(counts(&get(&jobs, purged).await), [0, 0, 3, 0]);
    assert_eq!(callbacks(&jobs, purged).await, 1);
    let filtered = enqueue(&jobs, 3).await;
    let filter = CancelFilter {
        kind: Some(Step::KIND.to_owned()),
        ..CancelFilter::default()
    };
    jobs.steer(&by()).cancel_many(&filter, None).await.unwrap();
    assert_eq!(counts(&get(&jobs, filtered).await), [0, 0, 3, 0]);
    assert_eq!(callbacks(&jobs, filtered).await, 1);
}

async fn a_running_batch_waits_for_a_redriven_dead_letter_and_an_ended_one_does_not(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueue(&jobs, 3).await;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 3).await;
    finish(
        &f,
        worker,
        &[
            (&claimed[0], discarded(&claimed[0])),
            (&claimed[1], discarded(&claimed[1])),
        ],
    )
    .await;
    assert_eq!(counts(&get(&jobs, id).await), [0, 2, 0, 1]);
    // One by one, and by filter.
    jobs.steer(&by()).retry(claimed[0].id).await.unwrap();
    assert_eq!(counts(&get(&jobs, id).await), [0, 1, 0, 2]);
    let all_of_them = Redrive {
        filter: DeadLetterFilter {
            queue: Some("default".to_owned()),
            ..DeadLetterFilter::default()
        },
        ..Redrive::default()
    };
    jobs.steer(&by()).redrive(&all_of_them).await.unwrap();
    assert_eq!(counts(&get(&jobs, id).await), [0, 0, 0, 3]);
    finish(&f, worker, &[(&claimed[2], completed(&claimed[2]))]).await;
    let again = claim(&f, worker, 3).await;
    assert_eq!(again.len(), 2);
    finish(&f, worker, &[(&again[0], completed(&again[0]))]).await;
    assert_eq!(get(&jobs, id).await.ended_at, None);
    finish(&f, worker, &[(&again[1], discarded(&again[1]))]).await;
    let ended = get(&jobs, id).await;
    assert_eq!(counts(&ended), [2, 1, 0, 0]);
    assert_eq!(callbacks(&jobs, id).await, 1);

    // It has ended: the job runs, and nothing is counted or called a second time.
    jobs.steer(&by()).retry(again[1].id).await.unwrap();
    let last = claim(&f, worker, 3).await;
    let last = last.iter().find(|job| job.id == again[1].id).unwrap();
    let (held, effects) = finish(&f, worker, &[(last, completed(last))]).await;
    assert_eq!((held.len(), effects.ended.len()), (1, 0));
    let after = get(&jobs, id).await;
    assert_eq!((counts(&after), after.ended_at), ([2, 1, 0, 0], ended.ended_at));
    assert_eq!(callbacks(&jobs, id).await, 1);
}

async fn counts_outlive_the_rows_they_count(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueue(&jobs, 3).await;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 3).await;
    finish(
        &f,
        worker,
        &[
            (&claimed[0], completed(&claimed[0])),
            (&claimed[1], discarded(&claimed[1])),
        ],
    )
    .await;
    f.sql(
        "update holdfast_jobs set finished_at = finished_at - interval '2 days' where finished_at is not null",
        "update holdfast_jobs set finished_at = finished_at - 172800000 where finished_at is not null",
    )
    .await;
    let retention = Retention {
        completed: Duration::ZERO,
        discarded: Duration::ZERO,
    };
    assert_eq!(f.ledger.prune(&retention, 10).await.unwrap().deleted, 2);
    let (record, progress) = jobs.batches().progress(id).await.unwrap().unwrap();
    assert_eq!((counts(&record), progress.running), ([1, 1, 0, 1], 1));
    finish(&f, worker, &[(&claimed[2], completed(&claimed[2]))]).await;
    assert_eq!(counts(&get(&jobs, id).await), [2, 1, 0, 0]);
    assert_eq!(callbacks(&jobs, id).await, 1);
}

async fn a_batch_is_accepted_whole_and_once_under_its_key(f: Fixture) {
    let jobs = jobs_of(&f);
    let step = |n: u32| JobRequest::new(Step::KIND, raw(&format!(r#"{{"n":{n}}}"#)));
    let batch = |members: Vec<JobRequest>| BatchRequest {
        jobs: members,
        ..BatchRequest::default()
    };
    let fault = async |request: BatchRequest| match jobs.enqueue_batch(request).await {
        Err(EnqueueError::Invalid(fault)) => (fault.code, fault.field, fault.index),
        other => panic!("{other:?}"),
    };
    let bad = batch(vec![step(1), JobRequest::new("test.none", raw("{}"))]);
    assert_eq!(
        fault(bad).await,
        (FaultCode::UnknownKind, "kind".to_owned(), Some(1))
    );
    assert_eq!(fault(batch(vec![])).await.0, FaultCode::BatchEmpty);
    let mut unique = step(1);
    unique.unique_key = Some("key".to_owned());
    assert_eq!(
        fault(batch(vec![step(0), unique])).await,
        (FaultCode::InvalidField, "unique_key".to_owned(), Some(1))
    );
    let mut callback = step(9);
    callback.queue = Some("nowhere".to_owned());
    let lost = BatchRequest {
        callback: Some(callback),
        ..batch(vec![step(1)])
    };
    assert_eq!(
        fault(lost).await,
        (FaultCode::UnknownQueue, "callback.queue".to_owned(), None)
    );
    assert_eq!(all(&jobs).await.len(), 0, "what was refused left nothing");
    assert!(
        jobs.batches()
            .list(&BatchFilter {
                limit: 10,
                ..BatchFilter::default()
            })
            .await
            .unwrap()
            .is_empty()
    );

    let keyed = |members: Vec<JobRequest>| BatchRequest {
        idempotency_key: Some("import-7".to_owned()),
        callback: Some(step(9)),
        ..batch(members)
    };
    let members: Vec<JobRequest> = (0..1_500).map(step).collect();
    let first = jobs.enqueue_batch(keyed(members.clone())).await.unwrap();
    assert_eq!(
        (first.total, first.jobs.len(), first.duplicate),
        (1_500, 1_500, false)
    );
    let again = jobs.enqueue_batch(keyed(members)).await.unwrap();
    assert_eq!((again.id, again.total, again.duplicate), (first.id, 1_500, true));
    let other = jobs.enqueue_batch(keyed(vec![step(1)])).await;
    assert!(
        matches!(other, Err(EnqueueError::BatchKeyReused { id }) if id == first.id),
        "{other:?}"
    );
    assert_eq!(
        jobs.queue_stats()
            .await
            .unwrap()
            .iter()
            .map(|queue| queue.available)
            .sum::<u64>(),
        1_500
    );
}

async fn a_batch_is_cancelled_in_steps_under_one_entry(f: Fixture) {
    let jobs = jobs_of(&f);
    let bystander = enqueue(&jobs, 2).await;
    let worker = f.worker().await;
    claim(&f, worker, 2).await;
    let id = enqueue(&jobs, 2_300).await;
    let running = claim(&f, worker, 1).await;
    let cancelled = jobs.steer(&by()).cancel_batch(id).await.unwrap().unwrap();
    let done = cancelled.done.unwrap();
    assert_eq!((done.affected, done.finished), (2_300, true));
    assert_eq!(counts(&cancelled.batch), [0, 0, 2_299, 1]);
    assert!(cancelled.batch.cancel_requested && cancelled.batch.ended_at.is_none());
    assert_eq!(
        f.ledger.cancel_requests(&[worker]).await.unwrap(),
        [running[0].id]
    );
    let again = jobs.steer(&by()).cancel_batch(id).await.unwrap().unwrap();
    assert_eq!(again.done.unwrap().affected, 0);
    let gave_way = Outcome::Cancel {
        fence: running[0].fence(),
        error: None,
    };
    finish(&f, worker, &[(&running[0], gave_way)]).await;
    assert_eq!(callbacks(&jobs, id).await, 1);
    let ended = jobs.steer(&by()).cancel_batch(id).await.unwrap().unwrap();
    assert!(ended.done.is_none() && ended.batch.ended_at.is_some());
    assert_eq!(counts(&get(&jobs, bystander).await), [0, 0, 0, 2]);
    assert!(
        jobs.steer(&by())
            .cancel_batch(BatchId::generate())
            .await
            .unwrap()
            .is_none()
    );
    let entries = jobs
        .audit()
        .list(&AuditFilter {
            action: Some(action::BATCH_CANCEL.to_owned()),
            limit: 10,
            ..AuditFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(
        (entries[0].target.as_deref(), entries[0].count),
        (Some(id.to_string().as_str()), Some(2_300))
    );
}

async fn a_batch_that_an_older_version_left_open_is_ended(f: Fixture) {
    let jobs = jobs_of(&f);
    let (left, runs) = (enqueue(&jobs, 3).await, enqueue(&jobs, 1).await);
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 3).await;
    // A version that knows no batches ends jobs as if nothing hung on them.
    let plain = [
        completed(&claimed[0]),
        discarded(&claimed[1]),
        completed(&claimed[2]),
    ];
    f.ledger.finish(worker, &plain).await.unwrap();
    assert_eq!(counts(&get(&jobs, left).await), [0, 0, 0, 3]);
    assert_eq!(jobs.batches().sweep(10).await.unwrap(), 1);
    let record = get(&jobs, left).await;
    assert_eq!(counts(&record), [2, 1, 0, 0]);
    assert!(record.ended_at.is_some());
    assert_eq!(
        (callbacks(&jobs, left).await, callbacks(&jobs, runs).await),
        (1, 0)
    );
    assert_eq!(jobs.batches().sweep(10).await.unwrap(), 0);
}

async fn batches_are_paged_and_forgotten_after_their_time(f: Fixture) {
    let jobs = jobs_of(&f);
    let (first, second, third) = (
        enqueue(&jobs, 1).await,
        enqueue(&jobs, 1).await,
        enqueue(&jobs, 1).await,
    );
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 2).await;
    for job in &claimed {
        finish(&f, worker, &[(job, completed(job))]).await;
    }
    let page = async |ended, after, limit| {
        let found = jobs
            .batches()
            .list(&BatchFilter { ended, after, limit })
            .await
            .unwrap();
        found.iter().map(|batch| batch.id).collect::<Vec<_>>()
    };
    let mut newest_first = [first, second, third];
    newest_first.sort_by(|a, b| b.cmp(a));
    assert_eq!(page(None, None, 2).await, newest_first[..2]);
    assert_eq!(page(None, Some(newest_first[1]), 2).await, newest_first[2..]);
    assert_eq!(page(Some(false), None, 10).await.len(), 1);
    assert_eq!(page(Some(true), None, 10).await.len(), 2);
    assert_eq!(
        jobs.batches()
            .prune(Duration::from_secs(3_600), 10)
            .await
            .unwrap(),
        0
    );
    assert_eq!(
        jobs.batches().prune(Duration::ZERO, 1).await.unwrap(),
        1,
        "bounded"
    );
    assert_eq!(jobs.batches().prune(Duration::ZERO, 10).await.unwrap(), 1);
    assert_eq!(
        page(None, None, 10).await.len(),
        1,
        "one that runs is kept however old"
    );
    let _ = third;
}
