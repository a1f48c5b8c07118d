//! The attempts of a job, and its log.

use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::attempts::{Attempt, AttemptOutcome};
use holdfast_jobs::job_log::{MAX_BYTES, MAX_LINES};
use holdfast_jobs::ledger::{ErrorRecord, Fence, IdRange, NewJob, Options, Outcome, Retention};
use holdfast_jobs::{JobId, Jobs, WorkerId};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, LOST_AFTER, new_job};

contract!(
    each_attempt_has_its_worker_its_times_and_its_outcome,
    a_cancelled_execution_is_an_attempt_and_a_job_that_never_began_has_none,
    the_newest_lines_of_a_job_are_stored_and_numbered,
    an_execution_that_has_lost_its_lease_writes_no_line,
    lines_go_with_the_job,
);

async fn enqueued(f: &Fixture) -> JobId {
    let job = new_job();
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    job.id
}

async fn claimed(f: &Fixture, worker: WorkerId) -> Fence {
    f.sql(
        "update holdfast_jobs set run_at = now() - interval '1 second' where state = 'available'",
        "update holdfast_jobs set run_at = run_at - 3600000 where state = 'available'",
    )
    .await;
    let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    claimed[0].fence()
}

fn failure(fence: &Fence) -> ErrorRecord {
    let error = ErrorRecord::new(
        clock::now(),
        fence.attempt + 1,
        "transient",
        "it failed",
        "web-1-17-9R6BHX",
    );
    error.after(Some(Duration::from_millis(1_500)))
}

async fn attempts(jobs: &Jobs, id: JobId) -> Vec<Attempt> {
    jobs.attempts(id).await.unwrap().unwrap().1
}

fn outcomes(attempts: &[Attempt]) -> Vec<(u32, AttemptOutcome)> {
    attempts.iter().map(|one| (one.attempt, one.outcome)).collect()
}

async fn each_attempt_has_its_worker_its_times_and_its_outcome(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f).await;
    assert_eq!(attempts(&jobs, id).await, []);
    let worker = f.worker().await;
    let fence = claimed(&f, worker).await;
    let running = attempts(&jobs, id).await;
    assert_eq!(outcomes(&running), [(1, AttemptOutcome::Running)]);
    assert!(running[0].started_at.is_some() && running[0].ended_at.is_none());
    assert_eq!(running[0].worker_id, Some(worker));
    assert_eq!(running[0].worker.as_deref(), Some(&*format!("test-{worker}")));

    let retry = Outcome::Retry {
        fence,
        delay: Duration::ZERO,
        error: failure(&fence),
    };
    f.ledger.finish(worker, &[retry]).await.unwrap();
    let failed = attempts(&jobs, id).await;
    assert_eq!(outcomes(&failed), [(1, AttemptOutcome::Failed)]);
    assert_eq!(failed[0].host(), Some("web-1"));
    let took = failed[0].ended_at.unwrap() - failed[0].started_at.unwrap();
    assert_eq!(took.num_milliseconds(), 1_500);

    // A crash counts as no attempt: the next execution has its number.
    claimed(&f, worker).await;
    f.age_workers().await;
    f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    let second = f.worker().await;
    let fence = claimed(&f, second).await;
    assert!(f.ledger.mark_started(second, &fence).await.unwrap());
    let completed = Outcome::Completed { fence, result: None };
    f.ledger.finish(second, &[completed]).await.unwrap();
    let all = attempts(&jobs, id).await;
    assert_eq!(
        outcomes(&all),
        [
            (1, AttemptOutcome::Failed),
            (2, AttemptOutcome::Crashed),
            (2, AttemptOutcome::Completed)
        ]
    );
    let crash = &all[1];
    assert!(crash.started_at.unwrap() <= crash.ended_at.unwrap(), "{crash:?}");
    assert_eq!(crash.worker.as_deref(), Some(&*format!("test-{worker}")));
    assert!(all[2].started_at.is_some() && all[2].ended_at.is_some() && all[2].error.is_none());
    assert!(jobs.attempts(JobId::generate()).await.unwrap().is_none());
}

async fn a_cancelled_execution_is_an_attempt_and_a_job_that_never_began_has_none(f: Fixture) {
    let jobs = jobs_of(&f);
    let worker = f.worker().await;
    let id = enqueued(&f).await;
    let fence = claimed(&f, worker).await;
    f.ledger.cancel(id).await.unwrap();
    let cancel = Outcome::Cancel { fence, error: None };
    f.ledger.finish(worker, &[cancel]).await.unwrap();
    assert_eq!(
        outcomes(&attempts(&jobs, id).await),
        [(1, AttemptOutcome::Cancelled)]
    );

    let last = enqueued(&f).await;
    let fence = claimed(&f, worker).await;
    let discard = Outcome::Discard {
        fence,
        error: failure(&fence),
    };
    f.ledger.finish(worker, &[discard]).await.unwrap();
    assert_eq!(
        outcomes(&attempts(&jobs, last).await),
        [(1, AttemptOutcome::Discarded)]
    );

    let waiting = enqueued(&f).await;
    f.ledger.cancel(waiting).await.unwrap();
    assert_eq!(attempts(&jobs, waiting).await, []);
    let expired = NewJob {
        options: Options {
            expires_at: Some(clock::now() - chrono::Duration::seconds(1)),
            ..Options::default()
        },
        ..new_job()
    };
    f.ledger.insert(std::slice::from_ref(&expired)).await.unwrap();
    assert_eq!(jobs.cancel_expired(10).await.unwrap(), 1);
    assert_eq!(attempts(&jobs, expired.id).await, []);

    // It was asked to stop, and its worker died: one execution.
    let id = enqueued(&f).await;
    claimed(&f, worker).await;
    f.ledger.cancel(id).await.unwrap();
    f.age_workers().await;
    f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    f.ledger.rescue_orphans(IdRange::ALL, 3, 10).await.unwrap();
    assert_eq!(
        outcomes(&attempts(&jobs, id).await),
        [(1, AttemptOutcome::Crashed)]
    );
}

async fn the_newest_lines_of_a_job_are_stored_and_numbered(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f).await;
    let worker = f.worker().await;
    let fence = claimed(&f, worker).await;
    jobs.write_log(worker, fence, &["first", "second\n", "{\"nul\": \"\0\"}"])
        .await
        .unwrap();
    let log = jobs.log_of(id).await.unwrap();
    let seen: Vec<_> = log
        .lines
        .iter()
        .map(|line| (line.number, line.attempt, line.text.as_str()))
        .collect();
    assert_eq!(
        seen,
        [(1, 1, "first"), (2, 1, "second"), (3, 1, "{\"nul\": \"\"}")]
    );
    assert_eq!(log.dropped, 0);
    for round in 0..3 {
        let lines: Vec<String> = (0..450).map(|number| format!("{round}.{number}")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        jobs.write_log(worker, fence, &lines).await.unwrap();
    }
    let log = jobs.log_of(id).await.unwrap();
    assert!(
        (MAX_LINES - 100..=MAX_LINES).contains(&log.lines.len()),
        "{}",
        log.lines.len()
    );
    let last = log.lines.last().unwrap();
    assert_eq!((last.number, last.text.as_str()), (1_353, "2.449"));
    assert_eq!(log.dropped as usize + log.lines.len(), 1_353);
    let numbers: Vec<u32> = log.lines.iter().map(|line| line.number).collect();
    assert!(numbers.windows(2).all(|pair| pair[1] == pair[0] + 1));

    let long = "x".repeat(5_000);
    for _ in 0..3 {
        jobs.write_log(worker, fence, &[long.as_str(); 40]).await.unwrap();
    }
    let log = jobs.log_of(id).await.unwrap();
    let bytes: usize = log.lines.iter().map(|line| line.text.len()).sum();
    assert!(bytes <= MAX_BYTES && bytes > MAX_BYTES / 2, "{bytes}");
    assert_eq!(log.lines.last().unwrap().number, 1_473);
}

async fn an_execution_that_has_lost_its_lease_writes_no_line(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f).await;
    let (worker, other) = (f.worker().await, f.worker().await);
    let fence = claimed(&f, worker).await;
    jobs.write_log(other, fence, &["of a stranger"]).await.unwrap();
    jobs.write_log(worker, fence, &["of the first execution"])
        .await
        .unwrap();
    let retry = Outcome::Retry {
        fence,
        delay: Duration::ZERO,
        error: failure(&fence),
    };
    f.ledger.finish(worker, &[retry]).await.unwrap();
    jobs.write_log(worker, fence, &["after its end"]).await.unwrap();
    let second = claimed(&f, worker).await;
    jobs.write_log(worker, fence, &["while the next one runs"])
        .await
        .unwrap();
    jobs.write_log(worker, second, &["of the second"]).await.unwrap();
    let log = jobs.log_of(id).await.unwrap();
    let seen: Vec<_> = log
        .lines
        .iter()
        .map(|line| (line.attempt, line.text.as_str()))
        .collect();
    assert_eq!(seen, [(1, "of the first execution"), (2, "of the second")]);
}

async fn lines_go_with_the_job(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f).await;
    let worker = f.worker().await;
    let fence = claimed(&f, worker).await;
    jobs.write_log(worker, fence, &["a line"]).await.unwrap();
    let completed = Outcome::Completed { fence, result: None };
    f.ledger.finish(worker, &[completed]).await.unwrap();
    f.sql(
        "update holdfast_jobs set finished_at = now() - interval '2 hours', id = '00000000-0000-0000-0000-000000000001';
         update holdfast_job_logs set job = '00000000-0000-0000-0000-000000000001'",
        "update holdfast_jobs set finished_at = finished_at - 7200000, id = unhex('00000000000000000000000000000001');
         update holdfast_job_logs set job = unhex('00000000000000000000000000000001')",
    )
    .await;
    let old = JobId::from_uuid(uuid::Uuid::from_u128(1));
    assert_eq!(jobs.log_of(id).await.unwrap().lines.len(), 0);
    assert_eq!(jobs.log_of(old).await.unwrap().lines.len(), 1);
    let retention = Retention {
        completed: Duration::from_hours(1),
        discarded: Duration::from_hours(1),
    };
    assert_eq!(f.ledger.prune(&retention, 100).await.unwrap().deleted, 1);
    assert_eq!(jobs.log_of(old).await.unwrap().lines.len(), 0);
}
