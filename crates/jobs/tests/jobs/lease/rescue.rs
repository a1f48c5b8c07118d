//! The ledger's part: jobs of workers that are lost, or have no row, and clocks that are set.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_core::sql::Database;
use holdfast_jobs::ledger::{CancelReply, IdRange, NewJob, Priority, RunAt, TimeSpan};
use holdfast_jobs::{BatchId, JobId, State, WorkerId};

use crate::support::{Fixture, LOST_AFTER, new_job, report};

contract!(
    jobs_without_a_workers_row_are_rescued_like_those_of_a_lost_one,
    a_worker_that_is_seen_in_the_future_is_lost_no_later,
    jobs_without_a_delay_are_due_after_the_clock_was_set_back,
    a_job_that_ran_is_due_when_it_goes_back_after_the_clock_was_set_back,
    a_stray_that_was_asked_to_cancel_is_cancelled,
    suspects_go_back_under_their_fences_alone,
    leases_are_renewed_together,
    the_rows_of_one_process_are_one_worker,
);

async fn state(f: &Fixture, id: JobId) -> State {
    f.ledger.get(id).await.unwrap().unwrap().state
}

async fn jobs_without_a_workers_row_are_rescued_like_those_of_a_lost_one(f: Fixture) {
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job(), new_job()]).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 2, LOST_AFTER).await.unwrap();
    let living = f.worker().await;
    let kept = f.ledger.claim("default", living, 1, LOST_AFTER).await.unwrap();
    let cancelled = f
        .ledger
        .cancel(claimed[0].id)
        .await
        .unwrap()
        .map(|(reply, _)| reply);
    assert_eq!(cancelled, Some(CancelReply::Requested));
    let none = f.ledger.rescue_orphans(IdRange::ALL, 3, 10).await.unwrap();
    assert_eq!(none.jobs(), 0);
    match f.database {
        Database::Postgres(ref pool) => {
            sqlx::query("delete from holdfast_workers where id = $1")
                .bind(worker.as_uuid())
                .execute(pool)
                .await
                .unwrap();
        }
        Database::Sqlite(ref database) => {
            sqlx::query("delete from holdfast_workers where id = $1")
                .bind(worker.as_uuid())
                .execute(&database.writer)
                .await
                .unwrap();
        }
    }
    let elsewhere = IdRange {
        from_ms: 0,
        to_ms: Some(worker.created_ms()),
    };
    assert_eq!(f.ledger.rescue_orphans(elsewhere, 3, 10).await.unwrap().jobs(), 0);
    let here = IdRange {
        from_ms: worker.created_ms(),
        to_ms: Some(worker.created_ms() + 1),
    };
    let rescued = f.ledger.rescue_orphans(here, 3, 10).await.unwrap();
    assert_eq!(
        (rescued.returned["default"], rescued.cancelled, rescued.jobs()),
        (1, 1, 2)
    );
    assert_eq!(state(&f, claimed[0].id).await, State::Cancelled);
    let back = f.ledger.get(claimed[1].id).await.unwrap().unwrap();
    assert_eq!(
        (back.state, back.crashes, back.worker, back.errors.len()),
        (State::Available, 1, None, 1)
    );
    assert_eq!(state(&f, kept[0].id).await, State::Running);
}

/// The clock was set back by ten minutes after the last heartbeat of a worker that is gone.
async fn a_worker_that_is_seen_in_the_future_is_lost_no_later(f: Fixture) {
    let lost = f.worker().await;
    f.sql(
        "update holdfast_workers set seen_at = now() + interval '10 minutes'",
        "update holdfast_workers set seen_at = seen_at + 600000",
    )
    .await;
    f.ledger.check_clock().await.unwrap();
    let seen = f.ledger.workers().await.unwrap().remove(0);
    assert!(seen.seen_seconds_ago >= 0.0, "{seen:?}");
    f.age_workers().await;
    assert_eq!(
        f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap().workers_lost,
        [lost]
    );
}

/// Ten minutes: all that was written lies ahead.
async fn set_back_the_clock(f: &Fixture) {
    f.sql(
        "update holdfast_jobs set run_at = run_at + interval '10 minutes', created_at = created_at + interval '10 minutes'",
        "update holdfast_jobs set run_at = run_at + 600000, created_at = created_at + 600000",
    )
    .await;
    f.sql(
        "update holdfast_workers set seen_at = seen_at + interval '10 minutes'",
        "update holdfast_workers set seen_at = seen_at + 600000",
    )
    .await;
}

async fn jobs_without_a_delay_are_due_after_the_clock_was_set_back(f: Fixture) {
    let worker = f.worker().await;
    let delayed = NewJob {
        run_at: RunAt::In(Duration::from_secs(60)),
        ..new_job()
    };
    let high = NewJob {
        priority: Priority::High,
        ..new_job()
    };
    let elsewhere = NewJob {
        queue: "elsewhere".into(),
        ..new_job()
    };
    let immediate = [new_job(), high, new_job()];
    f.ledger.insert(&immediate).await.unwrap();
    f.ledger.insert(&[delayed, elsewhere]).await.unwrap();
    let before = f.ledger.check_clock().await.unwrap();
    assert!(!before.is_set_back(), "{before:?}");
    set_back_the_clock(&f).await;
    let after = f.ledger.check_clock().await.unwrap();
    assert!(after.is_set_back(), "{after:?}");
    let none = f.ledger.claim("default", worker, 9, LOST_AFTER).await.unwrap();
    assert!(none.is_empty(), "{none:?}");
    let span = TimeSpan {
        after: after.now,
        until: after.latest + chrono::Duration::minutes(2),
    };
    let queues = ["default".to_owned(), "no such queue".to_owned()];
    let one = f.ledger.make_due(&queues, span, 1).await.unwrap();
    assert_eq!(
        one,
        BTreeMap::from([("default".to_owned(), 1)]),
        "the limit holds"
    );
    let others = f.ledger.make_due(&queues, span, 9).await.unwrap();
    assert_eq!(others, BTreeMap::from([("default".to_owned(), 2)]));
    assert_eq!(
        f.ledger.make_due(&queues, span, 9).await.unwrap(),
        BTreeMap::new()
    );
    let mut claimed: Vec<JobId> = f
        .ledger
        .claim("default", worker, 9, LOST_AFTER)
        .await
        .unwrap()
        .iter()
        .map(|job| job.id)
        .collect();
    claimed.sort();
    let mut expected: Vec<JobId> = immediate.iter().map(|job| job.id).collect();
    expected.sort();
    assert_eq!(claimed, expected);
}

async fn a_job_that_ran_is_due_when_it_goes_back_after_the_clock_was_set_back(f: Fixture) {
    let (lost, leaving, next) = (f.worker().await, f.worker().await, f.worker().await);
    f.ledger.insert(&[new_job(), new_job(), new_job()]).await.unwrap();
    for worker in [lost, leaving, leaving] {
        let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
        assert_eq!(claimed.len(), 1);
    }
    set_back_the_clock(&f).await;
    f.ledger.check_clock().await.unwrap();
    let returned = f.ledger.return_strays(leaving, &[]).await.unwrap();
    assert_eq!(returned.returned["default"], 2);
    f.age_workers().await;
    f.ledger.renew(&[next], &[]).await.unwrap();
    assert_eq!(f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap().jobs(), 1);
    assert_eq!(
        f.ledger
            .claim("default", next, 9, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        3
    );
}

async fn a_stray_that_was_asked_to_cancel_is_cancelled(f: Fixture) {
    for ended in [false, true] {
        let worker = f.worker().await;
        f.ledger.insert(&[new_job(), new_job()]).await.unwrap();
        let claimed = f.ledger.claim("default", worker, 2, LOST_AFTER).await.unwrap();
        f.ledger.cancel(claimed[0].id).await.unwrap();
        let report = if ended {
            f.ledger.deregister(worker).await.unwrap()
        } else {
            f.ledger.return_strays(worker, &[]).await.unwrap()
        };
        assert_eq!(
            (report.cancelled, report.returned["default"], report.gone),
            (1, 1, ended)
        );
        assert_eq!(state(&f, claimed[0].id).await, State::Cancelled);
        assert_eq!(state(&f, claimed[1].id).await, State::Available);
        f.ledger.cancel(claimed[1].id).await.unwrap();
    }
}

async fn suspects_go_back_under_their_fences_alone(f: Fixture) {
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job(), new_job()]).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let listed = f
        .ledger
        .unknown_to_worker(worker, &[claimed[0].id])
        .await
        .unwrap();
    assert_eq!(listed.len(), 2);
    let mut stale = claimed[1].fence();
    stale.attempt += 1;
    let report = f
        .ledger
        .return_suspects(worker, &[stale, claimed[2].fence()])
        .await
        .unwrap();
    assert_eq!(report.jobs(), 1);
    assert_eq!(state(&f, claimed[1].id).await, State::Running);
    assert_eq!(state(&f, claimed[2].id).await, State::Available);
}

async fn leases_are_renewed_together(f: Fixture) {
    let (busy, idle, silent) = (f.worker().await, f.worker().await, f.worker().await);
    f.ledger.insert(&[new_job()]).await.unwrap();
    let claimed = f.ledger.claim("default", busy, 1, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.len(), 1);
    f.age_workers().await;
    let unknown = holdfast_jobs::WorkerId::generate();
    let has_jobs = async |ids: &[WorkerId], asked: &[WorkerId]| {
        let found = f.ledger.renew(ids, asked).await.unwrap();
        let found = found.into_iter().map(|lease| (lease.worker, lease.has_jobs));
        found.collect::<BTreeMap<_, _>>()
    };
    let found = has_jobs(&[busy, unknown, idle], &[busy, idle]).await;
    assert_eq!(found, BTreeMap::from([(busy, true), (idle, false)]));
    assert_eq!(
        has_jobs(&[busy], &[]).await,
        BTreeMap::from([(busy, false)]),
        "it was not asked"
    );
    let rescued = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert_eq!(rescued.workers_lost, [silent]);
}

async fn the_rows_of_one_process_are_one_worker(f: Fixture) {
    let mut first = report(holdfast_jobs::WorkerId::generate());
    "host-1-ABCDEF".clone_into(&mut first.name);
    f.ledger.register(&first).await.unwrap();
    f.age_workers().await;
    let mut next = first.clone();
    next.id =
        holdfast_jobs::WorkerId::from_uuid(holdfast_jobs::WorkerId::first_of_ms(u64::MAX >> 16).as_uuid());
    next.queues = vec!["other".to_owned()];
    f.ledger.register(&next).await.unwrap();
    let another = f.worker().await;
    let workers = f.ledger.workers().await.unwrap();
    assert_eq!(
        workers.iter().map(|worker| worker.id).collect::<Vec<_>>(),
        [next.id, another]
    );
    assert_eq!(workers[0].queues, ["other"]);
    assert!(
        workers[0].seen_seconds_ago < 30.0,
        "the newest heartbeat of any id counts"
    );
}

/// Of a batch, under a lost worker: one was asked to cancel, the other goes on. Both come back, the first one once it can be
/// counted.
#[tokio::test]
async fn a_batch_that_somebody_holds_delays_the_rescue_of_its_ended_members_alone() {
    let f = crate::support::postgres().await;
    let batch = BatchId::generate();
    f.sql_text(
        &format!(
            "insert into holdfast_batches (id, total) values ('{}', 2)",
            batch.as_uuid()
        ),
        "",
    )
    .await;
    let member = || NewJob {
        batch: Some(batch),
        ..new_job()
    };
    f.ledger
        .insert(&[member(), member(), new_job(), new_job()])
        .await
        .unwrap();
    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 4, LOST_AFTER).await.unwrap();
    let ends = claimed.iter().find(|job| job.batch.is_some()).unwrap().id;
    f.ledger.cancel(ends).await.unwrap();
    let Database::Postgres(pool) = &f.database else {
        unreachable!()
    };
    let mut other = pool.begin().await.unwrap();
    sqlx::query("select from holdfast_batches for update")
        .execute(&mut *other)
        .await
        .unwrap();
    f.age_workers().await;
    let rescued = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert_eq!((rescued.returned["default"], rescued.cancelled), (3, 0));
    assert!(
        rescued.workers_lost.is_empty(),
        "it still holds the job that ends"
    );
    other.rollback().await.unwrap();
    let rescued = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert_eq!((rescued.jobs(), rescued.cancelled), (1, 1));
    assert_eq!(state(&f, ends).await, State::Cancelled);
    assert_eq!(rescued.workers_lost, [worker]);
}
