//! One contract: every test here runs on PostgreSQL, on PostgreSQL behind PgBouncer in transaction mode, and on SQLite.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::ledger::{
    CancelReply, ErrorRecord, Heartbeat, InsertOutcome, JobFilter, NewJob, Options, Outcome, Priority,
    Progress, PruneReport, Retention, RetryReply, RunAt,
};
use holdfast_jobs::link::Link;
use holdfast_jobs::{JobId, State};
use support::{Fixture, LOST_AFTER, new_job, raw, report};

/// Writes each test once for each way to a database.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::support::postgres().await).await; })+
        }
        mod behind_pgbouncer {
            $(#[tokio::test] async fn $name() { super::$name(super::support::pgbouncer().await).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::support::sqlite().await).await; })+
        }
    };
}

contract!(
    an_insert_repeated_after_a_lost_reply_changes_nothing,
    a_batch_is_written_whole_and_read_back,
    an_idempotency_key_is_accepted_once_and_tells_a_changed_job,
    a_unique_key_holds_while_the_first_job_is_not_final,
    claims_follow_priority_then_time_and_never_overlap,
    a_job_is_not_claimed_before_its_time_and_peek_tells_when,
    a_paused_queue_gives_nothing_and_keeps_everything,
    a_worker_that_is_unknown_or_silent_claims_nothing,
    outcomes_are_written_under_their_fence_once,
    a_late_outcome_of_a_lost_worker_is_void,
    a_rescue_counts_a_crash_only_of_a_started_job,
    three_crashes_discard_a_job_as_poison,
    a_rescued_job_that_was_cancelled_stays_cancelled,
    a_heartbeat_renews_a_stale_lease_but_not_a_buried_one,
    deregistering_gives_everything_back_without_a_crash,
    strays_go_back_and_what_is_known_stays,
    cancel_ends_a_waiting_job_and_asks_a_running_one,
    a_running_job_that_was_asked_to_cancel_never_becomes_available_again,
    retry_revives_a_dead_letter_and_hurries_a_waiting_job,
    a_dead_letter_whose_unique_key_is_taken_stays_where_it_is,
    progress_and_results_are_kept,
    the_list_filters_and_pages,
    stats_count_every_state,
    a_time_that_has_passed_means_now,
    a_row_that_cannot_be_read_fails_no_other,
    dead_letters_that_are_kept_longer_stand_in_the_way_of_no_pruning,
    pruning_takes_only_what_is_past_its_retention,
    doubt_is_kept_until_it_is_settled,
    a_dead_letter_from_the_broker_is_kept_and_not_run,
    text_that_sql_could_misread_survives,
    json_comes_back_byte_for_byte,
);

async fn accept(fixture: &Fixture, job: NewJob) -> JobId {
    let accepted = fixture.ledger.insert(&[job]).await.unwrap();
    accepted[0].id()
}

/// What a cancellation answers; nothing hangs on the jobs here.
async fn cancel(fixture: &Fixture, id: JobId) -> Option<CancelReply> {
    let done = fixture.ledger.cancel(id).await.unwrap();
    done.map(|(reply, effects)| {
        assert!(effects.enqueued.is_empty() && effects.ended.is_empty());
        reply
    })
}

async fn state(fixture: &Fixture, id: JobId) -> State {
    fixture.ledger.get(id).await.unwrap().unwrap().state
}

fn error(class: &'static str) -> ErrorRecord {
    ErrorRecord::new(clock::now(), 1, class, "it failed", "test")
}

async fn an_insert_repeated_after_a_lost_reply_changes_nothing(f: Fixture) {
    let jobs = vec![new_job(), new_job()];
    let first = f.ledger.insert(&jobs).await.unwrap();
    let again = f.ledger.insert(&jobs).await.unwrap();
    assert_eq!(first, again);
    assert_eq!(
        first,
        jobs.iter()
            .map(|job| InsertOutcome::New(job.id))
            .collect::<Vec<_>>()
    );
    assert_eq!(
        f.list(&JobFilter {
            limit: 10,
            ..JobFilter::default()
        })
        .await
        .len(),
        2
    );
}

async fn a_batch_is_written_whole_and_read_back(f: Fixture) {
    let jobs: Vec<NewJob> = (0..2_345).map(|_| new_job()).collect();
    let accepted = f.ledger.insert(&jobs).await.unwrap();
    assert_eq!(accepted.len(), jobs.len());
    let record = f.ledger.get(jobs[2_000].id).await.unwrap().unwrap();
    assert_eq!(
        (record.kind.as_str(), record.queue.as_str()),
        ("test.kind", "default")
    );
    assert_eq!((record.attempt, record.max_attempts, record.crashes), (0, 4, 0));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(record.payload.get()).unwrap(),
        serde_json::json!({"a": 1})
    );
    assert_eq!(record.state, State::Available);
    assert_eq!(f.ledger.queue_stats().await.unwrap()[0].available, 2_345);
}

async fn an_idempotency_key_is_accepted_once_and_tells_a_changed_job(f: Fixture) {
    let keyed = || NewJob {
        idempotency_key: Some("order-1".into()),
        ..new_job()
    };
    let first = accept(&f, keyed()).await;
    assert_eq!(
        f.ledger.insert(&[keyed()]).await.unwrap(),
        [InsertOutcome::Duplicate(first)]
    );
    let respelt = NewJob {
        payload: Arc::from(raw(r#"{ "a" : 1.0e0 }"#)),
        ..keyed()
    };
    assert_eq!(
        f.ledger.insert(&[respelt]).await.unwrap(),
        [InsertOutcome::Duplicate(first)],
        "the same value"
    );
    let other = NewJob {
        payload: Arc::from(raw("[2]")),
        ..keyed()
    };
    assert_eq!(
        f.ledger.insert(&[other]).await.unwrap(),
        [InsertOutcome::Conflict(first)]
    );
    // Two of a kind in one batch: the first is new, the second its duplicate.
    let twin = || NewJob {
        idempotency_key: Some("order-2".into()),
        ..new_job()
    };
    let twins = [twin(), twin()];
    let accepted = f.ledger.insert(&twins).await.unwrap();
    assert_eq!(
        accepted,
        [
            InsertOutcome::New(twins[0].id),
            InsertOutcome::Duplicate(twins[0].id)
        ]
    );
}

async fn a_unique_key_holds_while_the_first_job_is_not_final(f: Fixture) {
    let unique = || NewJob {
        unique_key: Some("customer-7".into()),
        ..new_job()
    };
    let first = accept(&f, unique()).await;
    assert_eq!(
        f.ledger.insert(&[unique()]).await.unwrap(),
        [InsertOutcome::Duplicate(first)]
    );
    let other_kind = NewJob {
        kind: Arc::from("test.other"),
        ..unique()
    };
    assert_eq!(
        f.ledger.insert(std::slice::from_ref(&other_kind)).await.unwrap(),
        [InsertOutcome::New(other_kind.id)]
    );
    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(
        f.ledger.insert(&[unique()]).await.unwrap(),
        [InsertOutcome::Duplicate(first)],
        "also while it runs"
    );
    let outcomes: Vec<Outcome> = claimed
        .iter()
        .map(|job| Outcome::Completed {
            fence: job.fence(),
            result: None,
        })
        .collect();
    f.ledger.finish(worker, &outcomes).await.unwrap();
    let next = unique();
    assert_eq!(
        f.ledger.insert(std::slice::from_ref(&next)).await.unwrap(),
        [InsertOutcome::New(next.id)]
    );
}

async fn claims_follow_priority_then_time_and_never_overlap(f: Fixture) {
    let with = |priority| NewJob {
        priority,
        ..new_job()
    };
    let jobs = [Priority::Low, Priority::Normal, Priority::Normal, Priority::High].map(with);
    f.ledger.insert(&jobs).await.unwrap();
    for (job, seconds) in jobs.iter().zip([90, 10, 50, 1]) {
        f.set_due_ago(job.id, Duration::from_secs(seconds)).await;
    }
    let worker = f.worker().await;
    let order = [jobs[3].id, jobs[2].id, jobs[1].id, jobs[0].id];
    let first = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    assert_eq!(first.iter().map(|job| job.id).collect::<Vec<_>>(), order[..3]);
    let rest = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    assert_eq!(rest.iter().map(|job| job.id).collect::<Vec<_>>(), order[3..]);
    assert_eq!(state(&f, order[0]).await, State::Running);
    assert!(
        f.ledger
            .claim("other", worker, 3, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );

    // Many workers at once: each job goes to exactly one.
    let jobs: Vec<NewJob> = (0..400).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    let mut claims = Vec::new();
    for _ in 0..8 {
        let (ledger, worker) = (Arc::clone(&f.ledger), f.worker().await);
        claims.push(tokio::spawn(async move {
            let mut mine = Vec::new();
            loop {
                let batch = ledger.claim("default", worker, 17, LOST_AFTER).await.unwrap();
                if batch.is_empty() {
                    return mine;
                }
                mine.extend(batch.into_iter().map(|job| job.id));
            }
        }));
    }
    let mut taken = Vec::new();
    for claim in claims {
        taken.extend(claim.await.unwrap());
    }
    let mut expected: Vec<_> = jobs.iter().map(|job| job.id).collect();
    taken.sort();
    expected.sort();
    assert_eq!(taken, expected);
}

async fn a_job_is_not_claimed_before_its_time_and_peek_tells_when(f: Fixture) {
    let worker = f.worker().await;
    let queues = ["default".to_owned(), "empty".to_owned()];
    assert!(f.ledger.peek(&queues).await.unwrap().is_empty());
    let id = accept(
        &f,
        NewJob {
            run_at: RunAt::In(Duration::from_secs(40)),
            ..new_job()
        },
    )
    .await;
    assert_eq!(state(&f, id).await, State::Scheduled);
    assert!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
    let due = f.ledger.peek(&queues).await.unwrap();
    assert_eq!(due.len(), 1);
    assert!((30..=40).contains(&due["default"].as_secs()), "{due:?}");
    accept(&f, new_job()).await;
    assert_eq!(f.ledger.peek(&queues).await.unwrap()["default"], Duration::ZERO);
    assert_eq!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_paused_queue_gives_nothing_and_keeps_everything(f: Fixture) {
    let worker = f.worker().await;
    accept(&f, new_job()).await;
    f.ledger.set_paused("default", true).await.unwrap();
    assert!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
    assert!(f.ledger.peek(&["default".to_owned()]).await.unwrap().is_empty());
    assert_eq!(f.ledger.paused_queues().await.unwrap(), ["default"]);
    assert!(f.ledger.queue_stats().await.unwrap()[0].paused);
    f.ledger.set_paused("default", false).await.unwrap();
    assert_eq!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn a_worker_that_is_unknown_or_silent_claims_nothing(f: Fixture) {
    accept(&f, new_job()).await;
    let unknown = holdfast_jobs::WorkerId::generate();
    assert!(
        f.ledger
            .claim("default", unknown, 10, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
    let worker = f.worker().await;
    f.age_workers().await;
    assert!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
    assert_eq!(
        f.ledger.heartbeat(&report(worker)).await.unwrap(),
        Heartbeat::Renewed
    );
    assert_eq!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
}

async fn outcomes_are_written_under_their_fence_once(f: Fixture) {
    let worker = f.worker().await;
    let jobs: Vec<NewJob> = (0..6).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    let fence = |at: usize| claimed[at].fence();
    let outcomes = [
        Outcome::Completed {
            fence: fence(0),
            result: Some(Arc::from(raw(r#"{"ok":true}"#))),
        },
        Outcome::Retry {
            fence: fence(1),
            delay: Duration::from_secs(60),
            error: error("transient"),
        },
        Outcome::Snooze {
            fence: fence(2),
            delay: Duration::from_secs(60),
        },
        Outcome::Discard {
            fence: fence(3),
            error: error("permanent"),
        },
        Outcome::Cancel {
            fence: fence(4),
            error: None,
        },
        Outcome::HandBack { fence: fence(5) },
    ];
    let mut held = f.ledger.finish(worker, &outcomes).await.unwrap();
    held.sort();
    let mut all: Vec<_> = claimed.iter().map(|job| job.id).collect();
    all.sort();
    assert_eq!(held, all);
    assert!(
        f.ledger.finish(worker, &outcomes).await.unwrap().is_empty(),
        "a repeat finds nothing"
    );
    let mut seen = Vec::new();
    for job in &claimed {
        let record = f.ledger.get(job.id).await.unwrap().unwrap();
        seen.push((
            record.state,
            record.attempt,
            record.errors.len(),
            record.finished_at.is_some(),
        ));
    }
    assert_eq!(
        seen,
        [
            (State::Completed, 1, 0, true),
            (State::Retryable, 1, 1, false),
            (State::Scheduled, 0, 0, false),
            (State::Discarded, 1, 1, true),
            (State::Cancelled, 1, 0, true),
            (State::Available, 0, 0, false),
        ]
    );
    let completed = f.ledger.get(claimed[0].id).await.unwrap().unwrap();
    assert_eq!(completed.worker, Some(worker));
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(completed.result.unwrap().get()).unwrap(),
        serde_json::json!({"ok": true})
    );
    let failed = f.ledger.get(claimed[3].id).await.unwrap().unwrap();
    assert_eq!(
        (failed.errors[0].class.as_ref(), failed.errors[0].message.as_str()),
        ("permanent", "it failed")
    );
}

async fn a_late_outcome_of_a_lost_worker_is_void(f: Fixture) {
    let lost = f.worker().await;
    let id = accept(&f, new_job()).await;
    let first = f
        .ledger
        .claim("default", lost, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    f.age_workers().await;
    let rescued = f.ledger.rescue(LOST_AFTER, 3, 100).await.unwrap();
    assert_eq!(
        (rescued.returned["default"], rescued.workers_lost.as_slice()),
        (1, &[lost][..])
    );
    let other = f.worker().await;
    let second = f
        .ledger
        .claim("default", other, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    assert_eq!((second.id, second.attempt, second.crashes), (id, 0, 1));
    let late = [Outcome::Completed {
        fence: first.fence(),
        result: None,
    }];
    assert!(f.ledger.finish(lost, &late).await.unwrap().is_empty());
    assert_eq!(state(&f, id).await, State::Running);
    let real = [Outcome::Completed {
        fence: second.fence(),
        result: None,
    }];
    assert_eq!(f.ledger.finish(other, &real).await.unwrap(), [id]);
    // The crash is part of the job's record.
    let record = f.ledger.get(id).await.unwrap().unwrap();
    assert_eq!(
        record.errors.iter().map(|e| e.class.as_ref()).collect::<Vec<_>>(),
        ["crash"]
    );
}

async fn a_rescue_counts_a_crash_only_of_a_started_job(f: Fixture) {
    let id = accept(&f, new_job()).await;
    let mut crashes = Vec::new();
    for _ in 0..5 {
        let worker = f.worker().await;
        let job = f
            .ledger
            .claim("default", worker, 1, LOST_AFTER)
            .await
            .unwrap()
            .remove(0);
        crashes.push(job.crashes);
        f.age_workers().await;
        f.ledger.rescue(LOST_AFTER, 3, 100).await.unwrap();
    }
    assert_eq!(
        crashes,
        [0, 1, 1, 1, 1],
        "claimed, but after the first crash never marked as started"
    );
    assert_eq!(state(&f, id).await, State::Available);
}

async fn three_crashes_discard_a_job_as_poison(f: Fixture) {
    let id = accept(&f, new_job()).await;
    for crash in 0..3 {
        let worker = f.worker().await;
        let job = f
            .ledger
            .claim("default", worker, 1, LOST_AFTER)
            .await
            .unwrap()
            .remove(0);
        if crash > 0 {
            assert!(f.ledger.mark_started(worker, &job.fence()).await.unwrap());
        }
        f.age_workers().await;
        let report = f.ledger.rescue(LOST_AFTER, 3, 100).await.unwrap();
        assert_eq!(report.poisoned, if crash == 2 { vec![id] } else { vec![] });
    }
    let record = f.ledger.get(id).await.unwrap().unwrap();
    assert_eq!(
        (record.state, record.crashes, record.attempt, record.errors.len()),
        (State::Discarded, 3, 0, 3)
    );
}

async fn a_rescued_job_that_was_cancelled_stays_cancelled(f: Fixture) {
    let id = accept(&f, new_job()).await;
    let worker = f.worker().await;
    f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    assert_eq!(cancel(&f, id).await, Some(CancelReply::Requested));
    f.age_workers().await;
    f.ledger.rescue(LOST_AFTER, 3, 100).await.unwrap();
    assert_eq!(state(&f, id).await, State::Cancelled);
}

async fn a_heartbeat_renews_a_stale_lease_but_not_a_buried_one(f: Fixture) {
    let worker = f.worker().await;
    f.age_workers().await;
    assert_eq!(
        f.ledger.heartbeat(&report(worker)).await.unwrap(),
        Heartbeat::Renewed
    );
    assert!(
        f.ledger
            .rescue(LOST_AFTER, 3, 100)
            .await
            .unwrap()
            .workers_lost
            .is_empty()
    );
    f.age_workers().await;
    assert_eq!(
        f.ledger.rescue(LOST_AFTER, 3, 100).await.unwrap().workers_lost,
        [worker]
    );
    assert_eq!(
        f.ledger.heartbeat(&report(worker)).await.unwrap(),
        Heartbeat::Lost
    );
    assert!(f.ledger.workers().await.unwrap().is_empty());
}

async fn deregistering_gives_everything_back_without_a_crash(f: Fixture) {
    let worker = f.worker().await;
    let id = accept(&f, new_job()).await;
    f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    let report = f.ledger.deregister(worker).await.unwrap();
    assert_eq!((report.jobs(), report.gone), (1, true));
    let record = f.ledger.get(id).await.unwrap().unwrap();
    assert_eq!(
        (record.state, record.crashes, record.worker),
        (State::Available, 0, None)
    );
    assert!(f.ledger.workers().await.unwrap().is_empty());
}

async fn strays_go_back_and_what_is_known_stays(f: Fixture) {
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job(), new_job()]).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let strays = f.ledger.return_strays(worker, &[claimed[1].id]).await.unwrap();
    assert_eq!(strays.jobs(), 2);
    let mut states = Vec::new();
    for job in &claimed {
        let record = f.ledger.get(job.id).await.unwrap().unwrap();
        states.push((record.state, record.crashes));
    }
    assert_eq!(
        states,
        [(State::Available, 0), (State::Running, 0), (State::Available, 0)]
    );
    assert_eq!(f.ledger.return_strays(worker, &[]).await.unwrap().jobs(), 1);
}

async fn cancel_ends_a_waiting_job_and_asks_a_running_one(f: Fixture) {
    assert_eq!(cancel(&f, JobId::generate()).await, None);
    let waiting = accept(&f, new_job()).await;
    assert_eq!(cancel(&f, waiting).await, Some(CancelReply::Cancelled));
    assert_eq!(
        cancel(&f, waiting).await,
        Some(CancelReply::AlreadyFinal(State::Cancelled))
    );
    let running = accept(&f, new_job()).await;
    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.len(), 1, "a cancelled job is never claimed");
    assert!(f.ledger.cancel_requests(&[worker]).await.unwrap().is_empty());
    assert_eq!(cancel(&f, running).await, Some(CancelReply::Requested));
    assert_eq!(f.ledger.cancel_requests(&[worker]).await.unwrap(), [running]);
    let outcome = [Outcome::Cancel {
        fence: claimed[0].fence(),
        error: None,
    }];
    f.ledger.finish(worker, &outcome).await.unwrap();
    assert_eq!(state(&f, running).await, State::Cancelled);
}

/// Whatever the outcome says: what would be put back is cancelled, and what has ended has ended.
async fn a_running_job_that_was_asked_to_cancel_never_becomes_available_again(f: Fixture) {
    let worker = f.worker().await;
    f.ledger
        .insert(&std::iter::repeat_with(new_job).take(5).collect::<Vec<_>>())
        .await
        .unwrap();
    let claimed = f.ledger.claim("default", worker, 5, LOST_AFTER).await.unwrap();
    for job in &claimed {
        assert_eq!(cancel(&f, job.id).await, Some(CancelReply::Requested));
    }
    let delay = Duration::from_secs(60);
    let fence = |index: usize| claimed[index].fence();
    let outcomes = [
        Outcome::Retry {
            fence: fence(0),
            delay,
            error: error("transient"),
        },
        Outcome::Snooze {
            fence: fence(1),
            delay,
        },
        Outcome::HandBack { fence: fence(2) },
        Outcome::Completed {
            fence: fence(3),
            result: None,
        },
        Outcome::Discard {
            fence: fence(4),
            error: error("permanent"),
        },
    ];
    assert_eq!(f.ledger.finish(worker, &outcomes).await.unwrap().len(), 5);
    let mut ends = Vec::new();
    for job in &claimed {
        let record = f.ledger.get(job.id).await.unwrap().unwrap();
        assert!(
            record.finished_at.is_some() && record.started_at.is_some(),
            "{record:?}"
        );
        assert_eq!(record.worker, Some(worker));
        assert!(record.run_at <= record.finished_at.unwrap(), "{record:?}");
        ends.push((record.state, record.attempt, record.errors.len()));
    }
    assert_eq!(
        ends,
        [
            (State::Cancelled, 1, 1),
            (State::Cancelled, 0, 0),
            (State::Cancelled, 0, 0),
            (State::Completed, 1, 0),
            (State::Discarded, 1, 1),
        ]
    );
    assert!(
        f.ledger
            .claim("default", worker, 5, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
}

async fn retry_revives_a_dead_letter_and_hurries_a_waiting_job(f: Fixture) {
    assert_eq!(f.ledger.retry_now(JobId::generate()).await.unwrap(), None);
    let worker = f.worker().await;
    let id = accept(
        &f,
        NewJob {
            max_attempts: 1,
            ..new_job()
        },
    )
    .await;
    let job = f
        .ledger
        .claim("default", worker, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        f.ledger.retry_now(id).await.unwrap(),
        Some(RetryReply::Refused(State::Running))
    );
    f.ledger
        .finish(
            worker,
            &[Outcome::Discard {
                fence: job.fence(),
                error: error("permanent"),
            }],
        )
        .await
        .unwrap();
    let available = Some(RetryReply::Available {
        queue: "default".into(),
    });
    assert_eq!(f.ledger.retry_now(id).await.unwrap(), available);
    let revived = f
        .ledger
        .claim("default", worker, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(
        (revived.attempt, revived.max_attempts),
        (1, 2),
        "one more attempt than it has had"
    );
    f.ledger
        .finish(
            worker,
            &[Outcome::Completed {
                fence: revived.fence(),
                result: None,
            }],
        )
        .await
        .unwrap();
    assert_eq!(
        f.ledger.retry_now(id).await.unwrap(),
        Some(RetryReply::Refused(State::Completed))
    );
    let later = accept(
        &f,
        NewJob {
            run_at: RunAt::In(Duration::from_secs(900)),
            ..new_job()
        },
    )
    .await;
    assert_eq!(f.ledger.retry_now(later).await.unwrap(), available);
    assert_eq!(
        f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap()[0].id,
        later
    );
}

async fn a_dead_letter_whose_unique_key_is_taken_stays_where_it_is(f: Fixture) {
    let unique = || NewJob {
        unique_key: Some("customer-7".into()),
        ..new_job()
    };
    let dead = accept(&f, unique()).await;
    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    let fence = claimed[0].fence();
    let outcome = Outcome::Discard {
        fence,
        error: error("permanent"),
    };
    f.ledger.finish(worker, &[outcome]).await.unwrap();
    let next = accept(&f, unique()).await;
    assert_eq!(
        f.ledger.retry_now(dead).await.unwrap(),
        Some(RetryReply::UniqueKeyTaken)
    );
    assert_eq!(state(&f, dead).await, State::Discarded);
    f.ledger.cancel(next).await.unwrap();
    assert!(matches!(
        f.ledger.retry_now(dead).await.unwrap(),
        Some(RetryReply::Available { .. })
    ));
}

async fn progress_and_results_are_kept(f: Fixture) {
    let worker = f.worker().await;
    let id = accept(&f, new_job()).await;
    let job = f
        .ledger
        .claim("default", worker, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    let progress = Progress {
        fence: job.fence(),
        value: Arc::from(raw(r#"{"done":3}"#)),
    };
    f.ledger
        .store_progress(worker, std::slice::from_ref(&progress))
        .await
        .unwrap();
    let other = f.worker().await;
    let foreign = Progress {
        value: Arc::from(raw("9")),
        ..progress
    };
    f.ledger.store_progress(other, &[foreign]).await.unwrap();
    let seen = f.ledger.get(id).await.unwrap().unwrap().progress.unwrap();
    assert_eq!(
        serde_json::from_str::<serde_json::Value>(seen.get()).unwrap(),
        serde_json::json!({"done": 3})
    );
    assert!(f.ledger.final_among(&[id]).await.unwrap().is_empty());
    f.ledger
        .finish(
            worker,
            &[Outcome::Completed {
                fence: job.fence(),
                result: None,
            }],
        )
        .await
        .unwrap();
    assert_eq!(
        f.ledger.final_among(&[id, JobId::generate()]).await.unwrap(),
        [id]
    );
}

async fn the_list_filters_and_pages(f: Fixture) {
    let mut ids = Vec::new();
    for number in 0..7 {
        let queue = if number % 2 == 0 { "default" } else { "ml" };
        ids.push(
            accept(
                &f,
                NewJob {
                    queue: Arc::from(queue),
                    ..new_job()
                },
            )
            .await,
        );
        tokio::time::sleep(Duration::from_millis(2)).await; // ids of one millisecond have no order
    }
    ids.reverse();
    let page = async |filter: JobFilter| {
        let records = f.list(&filter).await;
        records.into_iter().map(|record| record.id).collect::<Vec<_>>()
    };
    let first = page(JobFilter {
        limit: 3,
        ..JobFilter::default()
    })
    .await;
    assert_eq!(first, ids[..3]);
    assert_eq!(
        page(JobFilter {
            limit: 9,
            after: Some(first[2]),
            ..JobFilter::default()
        })
        .await,
        ids[3..]
    );
    let ml = JobFilter {
        queue: Some("ml".into()),
        limit: 9,
        ..JobFilter::default()
    };
    assert_eq!(page(ml).await.len(), 3);
    let scheduled = JobFilter {
        state: Some(State::Scheduled),
        limit: 9,
        ..JobFilter::default()
    };
    assert!(page(scheduled).await.is_empty());
    let available = JobFilter {
        state: Some(State::Available),
        limit: 9,
        ..JobFilter::default()
    };
    assert_eq!(page(available).await.len(), 7);
    let other = JobFilter {
        kind: Some("nope".into()),
        limit: 9,
        ..JobFilter::default()
    };
    assert!(page(other).await.is_empty());
}

async fn stats_count_every_state(f: Fixture) {
    let worker = f.worker().await;
    let jobs: Vec<NewJob> = (0..4).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let retry = Outcome::Retry {
        fence: claimed[0].fence(),
        delay: Duration::from_secs(60),
        error: error("transient"),
    };
    let discard = Outcome::Discard {
        fence: claimed[1].fence(),
        error: error("permanent"),
    };
    f.ledger.finish(worker, &[retry, discard]).await.unwrap();
    accept(
        &f,
        NewJob {
            run_at: RunAt::In(Duration::from_secs(60)),
            ..new_job()
        },
    )
    .await;
    f.ledger.set_paused("idle", true).await.unwrap();
    let stats = f.ledger.queue_stats().await.unwrap();
    assert_eq!(stats.len(), 2);
    let queue = &stats[0];
    assert_eq!(queue.queue, "default");
    let counts = (
        queue.available,
        queue.scheduled,
        queue.retryable,
        queue.running,
        queue.discarded,
    );
    assert_eq!(counts, (1, 1, 1, 1, 1));
    assert!(queue.oldest_age_seconds >= 0.0 && queue.oldest_age_seconds < 60.0);
    assert!(stats[1].paused && stats[1].queue == "idle");
}

/// Rows made by SQL, older than any other: `front` dead letters that are kept, then `ended` completed jobs.
async fn old_rows(f: &Fixture) {
    f.sql(
        "insert into holdfast_jobs (id, queue, kind, state, run_at, max_attempts, timeout_ms, payload, finished_at)
         select ('00000000-0000-0000-0000-' || lpad(to_hex(n), 12, '0'))::uuid, 'default', 'test.kind',
                case when n <= 45000 then 'discarded' else 'completed' end, now(), 1, 1000, '{}',
                now() - interval '1 day'
         from generate_series(1, 46500) as n",
        "with recursive numbers (n) as (select 1 union all select n + 1 from numbers where n < 46500)
         insert into holdfast_jobs (id, queue, kind, state, run_at, max_attempts, timeout_ms, payload, finished_at,
                                    created_at)
         select unhex(printf('%032x', n)), 'default', 'test.kind',
                case when n <= 45000 then 'discarded' else 'completed' end, 0, 1, 1000, '{}',
                cast(unixepoch('subsec') * 1000 as integer) - 86400000, 0
         from numbers",
    )
    .await;
}

async fn dead_letters_that_are_kept_longer_stand_in_the_way_of_no_pruning(f: Fixture) {
    old_rows(&f).await;
    let keep = Retention {
        completed: Duration::from_secs(3_600),
        discarded: Duration::from_hours(30 * 24),
    };
    let (mut deleted, mut in_vain) = (Vec::new(), 0);
    loop {
        let step = f.ledger.prune(&keep, 1_000).await.unwrap();
        match step.deleted {
            0 if step.has_more => in_vain += 1,
            0 => break,
            rows => deleted.push(rows),
        }
    }
    assert_eq!(deleted.iter().sum::<u64>(), 1_500);
    assert_eq!(
        in_vain, 2,
        "windows of 20,000 rows without anything to delete are read once"
    );
    let later = Retention {
        discarded: Duration::from_secs(3_600),
        ..keep
    };
    let step = f.ledger.prune(&later, 1_000).await.unwrap();
    assert_eq!((step.deleted, step.has_more), (1_000, true));
}

/// What a newer version wrote, and what is damaged.
async fn a_row_that_cannot_be_read_fails_no_other(f: Fixture) {
    let worker = f.worker().await;
    let jobs: Vec<NewJob> = (0..5).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    let newer = jobs[2].id;
    let (postgres, sqlite) = (
        format!(
            "update holdfast_jobs set options = '{{\"backoff\": {{\"kind\": 7}}, \"then\": [1]}}' where id = '{}'",
            newer.as_uuid()
        ),
        format!(
            "update holdfast_jobs set options = '{{\"backoff\": {{\"kind\": 7' where id = unhex('{}')",
            newer.as_uuid().simple()
        ),
    );
    f.sql_text(&postgres, &sqlite).await;

    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.len(), 5, "its neighbours are claimed with it");
    for job in &claimed {
        assert_eq!(job.unreadable.is_some(), job.id == newer, "{job:?}");
    }
    let job = claimed.iter().find(|job| job.id == newer).unwrap();
    assert!(job.unreadable.as_deref().unwrap().contains("options"), "{job:?}");
    let outcome = Outcome::Discard {
        fence: job.fence(),
        error: error("unreadable"),
    };
    assert_eq!(f.ledger.finish(worker, &[outcome]).await.unwrap(), [newer]);
    let filter = JobFilter {
        limit: 10,
        ..JobFilter::default()
    };
    assert_eq!(f.list(&filter).await.len(), 5);
    let record = f.ledger.get(newer).await.unwrap().unwrap();
    let payload: serde_json::Value = serde_json::from_str(record.payload.get()).unwrap();
    assert_eq!(
        (record.state, payload),
        (State::Discarded, serde_json::json!({ "a": 1 }))
    );
    assert!(matches!(
        f.ledger.retry_now(newer).await.unwrap(),
        Some(RetryReply::Available { .. })
    ));
}

async fn a_time_that_has_passed_means_now(f: Fixture) {
    let past = NewJob {
        run_at: RunAt::At(clock::now() - chrono::Duration::hours(9)),
        ..new_job()
    };
    f.ledger.insert(std::slice::from_ref(&past)).await.unwrap();
    let record = f.ledger.get(past.id).await.unwrap().unwrap();
    assert!(record.run_at >= record.created_at, "{record:?}");
}

async fn pruning_takes_only_what_is_past_its_retention(f: Fixture) {
    let worker = f.worker().await;
    // Created three hours ago: the pruner walks by the time of the ids.
    let created = clock::unix_millis() - 3 * 3_600_000;
    let jobs: Vec<NewJob> = (0..4)
        .map(|number| NewJob {
            id: JobId::first_of_ms(created + number),
            ..new_job()
        })
        .collect();
    f.ledger.insert(&jobs).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let outcomes = [
        Outcome::Completed {
            fence: claimed[0].fence(),
            result: None,
        },
        Outcome::Discard {
            fence: claimed[1].fence(),
            error: error("permanent"),
        },
    ];
    f.ledger.finish(worker, &outcomes).await.unwrap();
    let keep = Retention {
        completed: Duration::from_secs(3_600),
        discarded: Duration::from_secs(7_200),
    };
    assert_eq!(f.ledger.prune(&keep, 100).await.unwrap(), PruneReport::default());
    f.sql(
        "update holdfast_jobs set finished_at = finished_at - interval '90 minutes'",
        "update holdfast_jobs set finished_at = finished_at - 5400000",
    )
    .await;
    assert_eq!(f.ledger.prune(&keep, 100).await.unwrap().deleted, 1);
    assert!(f.ledger.get(claimed[0].id).await.unwrap().is_none());
    assert_eq!(state(&f, claimed[1].id).await, State::Discarded);
    assert_eq!(
        f.list(&JobFilter {
            limit: 10,
            ..JobFilter::default()
        })
        .await
        .len(),
        3
    );
}

async fn doubt_is_kept_until_it_is_settled(f: Fixture) {
    let worker = f.worker().await;
    let jobs = [
        NewJob {
            doubtful: true,
            ..new_job()
        },
        NewJob {
            doubtful: true,
            ..new_job()
        },
        new_job(),
    ];
    f.ledger.insert(&jobs).await.unwrap();
    assert_eq!(f.ledger.doubtful(10).await.unwrap().len(), 2);
    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.iter().filter(|job| job.doubtful).count(), 2);
    f.ledger.settle(&[jobs[0].id]).await.unwrap();
    assert_eq!(
        f.ledger
            .doubtful(10)
            .await
            .unwrap()
            .iter()
            .map(|one| one.id)
            .collect::<Vec<_>>(),
        [jobs[1].id]
    );
    let outcome = [Outcome::Completed {
        fence: claimed[0].fence(),
        result: None,
    }];
    f.ledger.finish(worker, &outcome).await.unwrap();
    f.ledger.settle(&[jobs[0].id, jobs[1].id]).await.unwrap();
    assert!(
        f.ledger.doubtful(10).await.unwrap().is_empty(),
        "whatever the state"
    );
}

async fn a_dead_letter_from_the_broker_is_kept_and_not_run(f: Fixture) {
    let worker = f.worker().await;
    let letter = NewJob {
        discarded: true,
        attempt: 2,
        errors: vec![error("permanent")],
        ..new_job()
    };
    let id = accept(&f, letter).await;
    assert!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .is_empty()
    );
    let record = f.ledger.get(id).await.unwrap().unwrap();
    assert_eq!(
        (record.state, record.attempt, record.errors.len()),
        (State::Discarded, 2, 1)
    );
    assert!(record.finished_at.is_some());
}

async fn text_that_sql_could_misread_survives(f: Fixture) {
    let payload = r#"{"text":"'; drop table holdfast_jobs; -- \"\\ ü 🦀 \t","n":-1.5,"deep":[[[null]]]}"#;
    let job = NewJob {
        payload: Arc::from(raw(payload)),
        kind: Arc::from("it's.a\"kind"),
        unique_key: Some("{a,b}\\\"'".into()),
        ..new_job()
    };
    let id = accept(&f, job).await;
    let record = f.ledger.get(id).await.unwrap().unwrap();
    let parse = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
    assert_eq!(parse(record.payload.get()), parse(payload));
    assert_eq!(record.kind, "it's.a\"kind");
    assert_eq!(record.unique_key.as_deref(), Some("{a,b}\\\"'"));
    let worker = f.worker().await;
    let claimed = f
        .ledger
        .claim("default", worker, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(parse(claimed.payload.get()), parse(payload));
    let failure = ErrorRecord::new(clock::now(), 1, "transient", "nul \0 and 'quote' \\ \"", "w");
    let retry = Outcome::Retry {
        fence: claimed.fence(),
        delay: Duration::ZERO,
        error: failure,
    };
    assert_eq!(f.ledger.finish(worker, &[retry]).await.unwrap(), [id]);
    let errors = f.ledger.get(id).await.unwrap().unwrap().errors;
    assert_eq!(errors[0].message, "nul  and 'quote' \\ \"");
}

/// Legal JSON that `jsonb`, a float or a map would change or refuse.
const SENT: &str = r#"{"z":1,"a":2,"amount":1e2,"neg":-0,"d":1,"d":2,"tiny":1e-20000,"nought":0e-99999,"zero":0e3000000000,"huge":1e999,"id":1234567890123456789012345678901234567890,"nul":"a\u0000b","half":"\ud800","pair":"\ud83d\ude00", "space" : [ 1 , 2 ]}"#;

async fn json_comes_back_byte_for_byte(f: Fixture) {
    let next: Link = serde_json::from_str(&format!(
        r#"{{"kind":"test.kind","queue":"default","payload":{SENT},"max_attempts":1,"timeout_seconds":30.0}}"#
    ))
    .unwrap();
    let keyed = || NewJob {
        payload: Arc::from(raw(SENT)),
        idempotency_key: Some("sent".into()),
        options: Options {
            then: Some(Box::new(next.clone())),
            ..Options::default()
        },
        ..new_job()
    };
    let id = accept(&f, keyed()).await;
    assert_eq!(
        f.ledger.insert(&[keyed()]).await.unwrap(),
        [InsertOutcome::Duplicate(id)]
    );
    let other = NewJob {
        payload: Arc::from(raw(&SENT.replace("1e-20000", "0"))),
        ..keyed()
    };
    assert_eq!(
        f.ledger.insert(&[other]).await.unwrap(),
        [InsertOutcome::Conflict(id)]
    );
    let worker = f.worker().await;
    let job = f
        .ledger
        .claim("default", worker, 1, LOST_AFTER)
        .await
        .unwrap()
        .remove(0);
    assert_eq!(job.payload.get(), SENT);
    assert_eq!(job.options.then.as_ref().unwrap().payload.get(), SENT);
    let progress = Progress {
        fence: job.fence(),
        value: Arc::from(raw(SENT)),
    };
    f.ledger.store_progress(worker, &[progress]).await.unwrap();
    assert_eq!(
        f.ledger.get(id).await.unwrap().unwrap().progress.unwrap().get(),
        SENT
    );
    let completed = Outcome::Completed {
        fence: job.fence(),
        result: Some(Arc::from(raw(SENT))),
    };
    assert_eq!(f.ledger.finish(worker, &[completed]).await.unwrap(), [id]);
    let record = f.ledger.get(id).await.unwrap().unwrap();
    assert_eq!((record.payload.get(), record.result.unwrap().get()), (SENT, SENT));
}
