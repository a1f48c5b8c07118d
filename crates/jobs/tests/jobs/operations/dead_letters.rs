//! Dead letters: found, put back once, deleted.

use std::sync::Arc;

use holdfast_core::clock;
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_jobs::bulk::{BulkError, CALL_ROWS};
use holdfast_jobs::dead_letters::{DeadLetterFilter, KEPT_ERRORS, Redrive};
use holdfast_jobs::ledger::{ErrorRecord, JobFilter, JobRecord, NewJob};
use holdfast_jobs::{Jobs, State};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, new_job, raw};

contract!(
    dead_letters_are_searched_and_paged,
    a_redrive_puts_back_once_and_keeps_what_happened,
    many_are_put_back_in_steps_under_one_entry,
    a_finished_operation_is_answered_again_and_does_nothing,
    a_rate_spreads_the_times_at_which_jobs_are_due,
    a_unique_key_that_another_job_has_is_skipped,
    an_edited_payload_and_the_newest_errors_are_kept,
    deleting_takes_what_matches_and_leaves_the_rest,
);

fn by() -> AuditContext {
    AuditContext::new(Actor::bootstrap())
}

fn dead(error: &str) -> NewJob {
    NewJob {
        attempt: 4,
        errors: vec![ErrorRecord::new(clock::now(), 4, "transient", error, "worker-1")],
        discarded: true,
        ..new_job()
    }
}

async fn bury(f: &Fixture, jobs: &[NewJob]) {
    f.ledger.insert(jobs).await.unwrap();
}

async fn available(jobs: &Jobs) -> Vec<JobRecord> {
    let filter = JobFilter {
        limit: 1_000,
        ..JobFilter::default()
    };
    let mut records = jobs.list(&filter).await.unwrap();
    records.retain(|record| !record.state.is_final());
    records
}

fn of_queue(queue: &str) -> DeadLetterFilter {
    DeadLetterFilter {
        queue: Some(queue.to_owned()),
        ..DeadLetterFilter::default()
    }
}

async fn dead_letters_are_searched_and_paged(f: Fixture) {
    let jobs = jobs_of(&f);
    let mut letters: Vec<NewJob> = (0..5).map(|n| dead(&format!("boom {n}"))).collect();
    letters.push(NewJob {
        queue: Arc::from("events"),
        kind: Arc::from("other.kind"),
        ..dead("Connection REFUSED by 100%_peer")
    });
    letters.push(new_job());
    bury(&f, &letters).await;
    let read = jobs.dead_letters();
    let count = async |filter: DeadLetterFilter| {
        let listed = read.list(&filter, None, 100).await.unwrap();
        assert_eq!(listed.len() as u64, read.count(&filter).await.unwrap());
        listed.len()
    };
    let all = DeadLetterFilter::default;
    let error = |text: &str| DeadLetterFilter {
        error: Some(text.to_owned()),
        ..all()
    };
    assert_eq!(count(all()).await, 6);
    assert_eq!(count(of_queue("events")).await, 1);
    assert_eq!(
        count(DeadLetterFilter {
            kind: Some("test.kind".to_owned()),
            ..all()
        })
        .await,
        5
    );
    assert_eq!(count(error("connection refused")).await, 1);
    assert_eq!(count(error("100%_")).await, 1);
    assert_eq!(count(error("%")).await, 1, "no wildcard");
    assert_eq!(count(error("boom")).await, 5);
    assert_eq!(count(error("worker-1")).await, 0, "only messages are searched");
    let ahead = clock::now() + chrono::Duration::hours(1);
    assert_eq!(
        count(DeadLetterFilter {
            from: Some(ahead),
            ..all()
        })
        .await,
        0
    );
    assert_eq!(
        count(DeadLetterFilter {
            to: Some(ahead),
            ..all()
        })
        .await,
        6
    );
    assert_eq!(
        count(DeadLetterFilter::of_ids([letters[0].id, letters[6].id])).await,
        1
    );

    let (mut seen, mut after) = (Vec::new(), None);
    loop {
        let page = read.list(&all(), after, 4).await.unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.iter().map(|record| record.id));
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by(|younger, older| younger > older));
    let shown = read.get(letters[0].id).await.unwrap().unwrap();
    assert_eq!(shown.errors[0].worker.as_deref(), Some("worker-1"));
    assert!(read.get(letters[6].id).await.unwrap().is_none());
}

async fn a_redrive_puts_back_once_and_keeps_what_happened(f: Fixture) {
    let jobs = jobs_of(&f);
    let letter = NewJob {
        crashes: 3,
        ..dead("boom")
    };
    bury(&f, std::slice::from_ref(&letter)).await;
    let redrive = Redrive {
        filter: DeadLetterFilter::of_ids([letter.id]),
        attempts: Some(2),
        ..Redrive::default()
    };
    let (first, second) = tokio::join!(
        async { jobs.steer(&by()).redrive(&redrive).await.unwrap() },
        async { jobs.steer(&by()).redrive(&redrive).await.unwrap() },
    );
    assert_eq!(first.affected + second.affected, 1);
    assert!(first.finished && second.finished);
    let record = jobs.get(letter.id).await.unwrap().unwrap();
    assert_eq!(record.state, State::Available);
    assert_eq!((record.attempt, record.max_attempts, record.crashes), (4, 6, 0));
    assert_eq!(record.errors.len(), 1);
    assert_eq!(record.finished_at, None);
    let worker = f.worker().await;
    let claimed = f
        .ledger
        .claim("default", worker, 10, crate::support::LOST_AFTER)
        .await
        .unwrap();
    assert_eq!(claimed.len(), 1);
}

async fn many_are_put_back_in_steps_under_one_entry(f: Fixture) {
    const MANY: u64 = 2_345;
    let jobs = jobs_of(&f);
    let letters: Vec<NewJob> = (0..MANY).map(|_| dead("boom")).collect();
    bury(&f, &letters).await;
    bury(
        &f,
        &[NewJob {
            queue: Arc::from("events"),
            ..dead("boom")
        }],
    )
    .await;
    let redrive = Redrive {
        filter: of_queue("default"),
        ..Redrive::default()
    };
    let done = jobs.steer(&by()).redrive(&redrive).await.unwrap();
    assert_eq!((done.affected, done.skipped, done.finished), (MANY, 0, true));
    let stats = jobs.queue_stats().await.unwrap();
    let of = |name: &str| stats.iter().find(|queue| queue.queue == name).unwrap();
    assert_eq!((of("default").available, of("default").discarded), (MANY, 0));
    assert_eq!((of("events").available, of("events").discarded), (0, 1));
    let entries = jobs
        .audit()
        .list(&AuditFilter {
            limit: 10,
            ..AuditFilter::default()
        })
        .await
        .unwrap();
    assert_eq!(entries.len(), 1);
    assert_eq!(Some(entries[0].id), done.operation);
    assert_eq!((entries[0].count, entries[0].finished), (Some(MANY), true));
    assert_eq!(entries[0].target.as_deref(), Some("default"));
}

async fn a_finished_operation_is_answered_again_and_does_nothing(f: Fixture) {
    let jobs = jobs_of(&f);
    bury(&f, &[dead("first"), dead("first")]).await;
    let redrive = |filter: DeadLetterFilter| Redrive {
        filter,
        key: Some("bootstrap/monday".to_owned()),
        ..Redrive::default()
    };
    let steering_by = by();
    let steering = jobs.steer(&steering_by);
    let first = steering.redrive(&redrive(of_queue("default"))).await.unwrap();
    assert_eq!(
        (first.affected, first.finished, first.duplicate),
        (2, true, false)
    );
    // They are dead again by the time that the client, who heard nothing, asks again.
    f.sql(
        "update holdfast_jobs set state = 'discarded', finished_at = now()",
        "update holdfast_jobs set state = 'discarded', finished_at = cast(unixepoch('subsec') * 1000 as integer)",
    )
    .await;
    let again = steering.redrive(&redrive(of_queue("default"))).await.unwrap();
    assert_eq!(again.operation, first.operation);
    assert_eq!((again.affected, again.finished, again.duplicate), (2, true, true));
    assert_eq!(available(&jobs).await.len(), 0);
    let other = steering.redrive(&redrive(of_queue("events"))).await;
    assert!(matches!(other, Err(BulkError::KeyReused { operation }) if Some(operation) == first.operation));
    // Another payload is another request, of the same length or not.
    let edited = Redrive {
        payload: Some(Arc::from(raw(r#"{"n":7}"#))),
        ..redrive(of_queue("default"))
    };
    assert!(matches!(
        steering.redrive(&edited).await,
        Err(BulkError::KeyReused { .. })
    ));
    let keyed = |n: u8| Redrive {
        payload: Some(Arc::from(raw(&format!(r#"{{"n":{n}}}"#)))),
        key: Some("bootstrap/wednesday".to_owned()),
        ..redrive(of_queue("default"))
    };
    let first = steering.redrive(&keyed(7)).await.unwrap();
    assert_eq!(first.affected, 2);
    let again = steering.redrive(&keyed(7)).await.unwrap();
    assert_eq!((again.operation, again.duplicate), (first.operation, true));
    assert!(matches!(
        steering.redrive(&keyed(8)).await,
        Err(BulkError::KeyReused { .. })
    ));
    // What matches nothing is not remembered: it may match later.
    let nothing = Redrive {
        key: Some("bootstrap/tuesday".to_owned()),
        ..redrive(of_queue("ml"))
    };
    let done = steering.redrive(&nothing).await.unwrap();
    assert_eq!((done.operation, done.affected, done.finished), (None, 0, true));
}

async fn a_rate_spreads_the_times_at_which_jobs_are_due(f: Fixture) {
    let jobs = jobs_of(&f);
    bury(&f, &(0..10).map(|_| dead("boom")).collect::<Vec<_>>()).await;
    let redrive = Redrive {
        rate: Some(10.0),
        ..Redrive::default()
    };
    let begun = clock::now() - chrono::Duration::seconds(2);
    jobs.steer(&by()).redrive(&redrive).await.unwrap();
    let mut due: Vec<_> = available(&jobs)
        .await
        .iter()
        .map(|record| record.run_at)
        .collect();
    due.sort();
    assert_eq!(due.len(), 10);
    assert!(due[0] >= begun, "{} {begun}", due[0]);
    for pair in due.windows(2) {
        let gap = (pair[1] - pair[0]).num_milliseconds();
        assert!((99..=101).contains(&gap), "{gap}");
    }
}

async fn a_unique_key_that_another_job_has_is_skipped(f: Fixture) {
    let jobs = jobs_of(&f);
    let keyed = |key: &str| NewJob {
        unique_key: Some(key.to_owned()),
        ..dead("boom")
    };
    let waiting = NewJob {
        unique_key: Some("taken".to_owned()),
        ..new_job()
    };
    bury(
        &f,
        &[
            keyed("twin"),
            keyed("twin"),
            keyed("taken"),
            keyed("free"),
            dead("boom"),
            waiting,
        ],
    )
    .await;
    let done = jobs.steer(&by()).redrive(&Redrive::default()).await.unwrap();
    assert_eq!((done.affected, done.skipped, done.finished), (3, 2, true));
    assert_eq!(
        jobs.dead_letters()
            .count(&DeadLetterFilter::default())
            .await
            .unwrap(),
        2
    );
}

async fn an_edited_payload_and_the_newest_errors_are_kept(f: Fixture) {
    let jobs = jobs_of(&f);
    let mut letter = dead("boom 0");
    for n in 1..KEPT_ERRORS + 20 {
        let message = format!("boom {n}");
        letter
            .errors
            .push(ErrorRecord::new(clock::now(), 4, "transient", &message, "w"));
    }
    bury(&f, std::slice::from_ref(&letter)).await;
    let redrive = Redrive {
        filter: DeadLetterFilter::of_ids([letter.id]),
        payload: Some(Arc::from(raw(r#"{"a":2}"#))),
        ..Redrive::default()
    };
    jobs.steer(&by()).redrive(&redrive).await.unwrap();
    let record = jobs.get(letter.id).await.unwrap().unwrap();
    let payload: serde_json::Value = serde_json::from_str(record.payload.get()).unwrap();
    assert_eq!(payload, serde_json::json!({"a": 2}));
    assert_eq!(record.errors.len(), KEPT_ERRORS);
    assert_eq!(
        record.errors.last().unwrap().message,
        format!("boom {}", KEPT_ERRORS + 19)
    );
    assert_eq!(record.errors[0].message, "boom 20");
}

async fn deleting_takes_what_matches_and_leaves_the_rest(f: Fixture) {
    let jobs = jobs_of(&f);
    bury(
        &f,
        &[dead("disk full"), dead("disk full"), dead("timeout"), new_job()],
    )
    .await;
    let filter = DeadLetterFilter {
        error: Some("DISK".to_owned()),
        ..DeadLetterFilter::default()
    };
    let done = jobs
        .steer(&by())
        .delete_dead_letters(&filter, Some("k".to_owned()))
        .await
        .unwrap();
    assert_eq!((done.affected, done.finished), (2, true));
    let again = jobs
        .steer(&by())
        .delete_dead_letters(&filter, Some("k".to_owned()))
        .await
        .unwrap();
    assert!(again.duplicate && again.affected == 2);
    assert_eq!(
        jobs.dead_letters()
            .count(&DeadLetterFilter::default())
            .await
            .unwrap(),
        1
    );
    assert_eq!(available(&jobs).await.len(), 1);
}

/// More than one call may do: it goes on under its key, and counts all.
#[tokio::test]
async fn a_large_operation_takes_several_calls_under_one_key() {
    let f = crate::support::sqlite().await;
    let jobs = jobs_of(&f);
    let many = CALL_ROWS + 500;
    for _ in 0..41 {
        bury(&f, &(0..many / 41).map(|_| dead("boom")).collect::<Vec<_>>()).await;
    }
    let redrive = Redrive {
        key: Some("bootstrap/all".to_owned()),
        ..Redrive::default()
    };
    let (mut calls, steering_by) = (0, by());
    let done = loop {
        calls += 1;
        let done = jobs.steer(&steering_by).redrive(&redrive).await.unwrap();
        assert!(done.affected <= many);
        if done.finished {
            break done;
        }
    };
    assert!(calls >= 2);
    assert_eq!((done.affected, done.duplicate), (many, false));
    assert_eq!(
        jobs.dead_letters()
            .count(&DeadLetterFilter::default())
            .await
            .unwrap(),
        0
    );
}
