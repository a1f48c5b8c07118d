//! Claims on PostgreSQL go on from where the ones before came to, beside an old transaction too, and miss nothing for long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::sql::{Database, PostgresDatabase};
use holdfast_jobs::ledger::{self, ClaimedJob, Ledger, NewJob, Outcome, PostgresLedger};
use holdfast_jobs::{JobId, WorkerId};
use holdfast_testkit::{PostgresServer, eventually};
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use support::{Fixture, Host, LOST_AFTER, new_job};

const DEADLINE: Duration = Duration::from_secs(180);
const BACKLOG: usize = 3_000;
/// Claims on what comes in after the backlog.
const CLAIMS: usize = 20;
/// A claim scans the index once for each priority until it has enough: here high, which has none, and normal.
const SCANS: i64 = 2;

/// Entries of the index that no vacuum may remove. To walk past all of them takes several times [`BOUND`].
const DEAD: i64 = 200_000;
/// What a look may take here, so that so few entries are too many.
const BOUND: Duration = Duration::from_millis(30);

fn pool(f: &Fixture) -> &PostgresDatabase {
    let Database::Postgres(pool) = &f.database else {
        panic!("not PostgreSQL")
    };
    pool
}

async fn claim(ledger: &dyn Ledger, worker: WorkerId, most: usize) -> Vec<ClaimedJob> {
    // No worker here has a heartbeat, and the machine may be slow.
    let lost_after = LOST_AFTER * 40;
    ledger.claim("default", worker, most, lost_after).await.unwrap()
}

fn ids(jobs: &[ClaimedJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

async fn finish(ledger: &dyn Ledger, worker: WorkerId, jobs: &[ClaimedJob]) {
    let outcomes: Vec<Outcome> = jobs
        .iter()
        .map(|job| Outcome::Completed {
            fence: job.fence(),
            result: None,
        })
        .collect();
    assert_eq!(ledger.finish(worker, &outcomes).await.unwrap().len(), jobs.len());
}

/// Enqueues a job that has been due for so many seconds.
async fn insert_due_ago(f: &Fixture, seconds: u64) -> JobId {
    let job = new_job();
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    f.set_due_ago(job.id, Duration::from_secs(seconds)).await;
    job.id
}

/// The ledger as another process has it, which knows nothing of this one's claims.
fn elsewhere(f: &Fixture) -> Arc<dyn Ledger> {
    ledger::open(&f.database, &f.settings.database)
}

/// The same, whose looks may take [`BOUND`].
fn bounded(f: &Fixture) -> Arc<dyn Ledger> {
    let ledger = PostgresLedger::new(pool(f).clone(), &f.settings.database);
    Arc::new(ledger.with_look_bound(BOUND))
}

fn server(f: &Fixture) -> &PostgresServer {
    let Host::Postgres(host) = &f.host else {
        panic!("not PostgreSQL")
    };
    &host.0
}

/// A connection without the bounds of the services, for statements that prepare a test.
async fn unbounded(f: &Fixture) -> PgConnection {
    PgConnection::connect(&server(f).url()).await.unwrap()
}

/// Looks that the server has ended at [`BOUND`]. None: a look at the whole queue ends in time, so the test shows nothing.
fn looks_that_were_ended(f: &Fixture) -> usize {
    let log = server(f).log().unwrap();
    log.matches("canceling statement due to statement timeout")
        .count()
}

/// A report that runs for hours: what was deleted or updated since it began is kept for it.
async fn old_transaction(f: &Fixture) -> PgConnection {
    let mut connection = unbounded(f).await;
    for statement in [
        "begin isolation level repeatable read",
        "select count(*) from holdfast_jobs",
    ] {
        connection.execute(statement).await.unwrap();
    }
    connection
}

/// [`DEAD`] jobs with times all over the last hour, claimed and finished beside an old transaction.
async fn an_hour_of_claimed_jobs(f: &Fixture) -> PgConnection {
    unbounded(f)
        .await
        .execute(
            "insert into holdfast_jobs (id, queue, kind, run_at, max_attempts, timeout_ms, payload)
             select gen_random_uuid(), 'default', 'test.kind', now() - random() * interval '1 hour', 1, 1000, '{}'
             from generate_series(1, 200000)",
        )
        .await
        .unwrap();
    let report = old_transaction(f).await;
    let done = sqlx::query(
        "update holdfast_jobs set state = 'completed', finished_at = now() where state = 'available'",
    )
    .execute(&mut unbounded(f).await)
    .await
    .unwrap();
    assert_eq!(i64::try_from(done.rows_affected()).unwrap(), DEAD);
    report
}

/// Claims as a worker does, whenever the ledger says so, until all of these were claimed; each once.
async fn claim_until(ledger: &dyn Ledger, worker: WorkerId, wanted: &[JobId]) {
    let wanted: BTreeSet<JobId> = wanted.iter().copied().collect();
    let mut claimed = BTreeSet::new();
    let deadline = tokio::time::Instant::now() + DEADLINE;
    while claimed != wanted {
        assert!(
            tokio::time::Instant::now() < deadline,
            "{} of {} were claimed",
            claimed.len(),
            wanted.len()
        );
        let jobs = claim(ledger, worker, 500).await;
        for id in ids(&jobs) {
            assert!(wanted.contains(&id) && claimed.insert(id), "{id}");
        }
        if jobs.len() < 500 && claimed != wanted {
            let pause = ledger
                .look_again_in("default")
                .unwrap_or(Duration::from_millis(50));
            tokio::time::sleep(pause.min(Duration::from_secs(5))).await;
        }
    }
}

/// Scans of the claim's index, and entries that they have read.
async fn reads(f: &Fixture) -> (i64, i64) {
    sqlx::query_as(
        "select idx_scan, idx_tup_read from pg_stat_user_indexes where indexrelname = 'holdfast_jobs_claim'",
    )
    .fetch_one(pool(f))
    .await
    .unwrap()
}

/// The same once `scans` more of them than `before` are reported: the server adds them up about once a second.
async fn reads_after(f: &Fixture, before: i64, scans: i64) -> (i64, i64) {
    let told = async || {
        let now = reads(f).await;
        (now.0 >= before + scans).then_some(now)
    };
    eventually(
        "the scans are reported",
        DEADLINE,
        Duration::from_millis(100),
        told,
    )
    .await
    .unwrap()
}

#[tokio::test]
async fn a_claim_does_not_walk_past_the_backlog_that_was_claimed_before_it() {
    let f = support::postgres().await;
    let mut report = old_transaction(&f).await;
    let worker = f.worker().await;
    let jobs: Vec<NewJob> = (0..BACKLOG).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();

    let (before, _) = reads(&f).await;
    let mut scans = 0;
    let mut left = BACKLOG;
    while left > 0 {
        let claimed = claim(&*f.ledger, worker, 500).await;
        assert_eq!(claimed.len(), 500);
        left -= claimed.len();
        finish(&*f.ledger, worker, &claimed).await;
        scans += SCANS;
    }
    let (before, read_before) = reads_after(&f, before, scans).await;

    // One after the other, on what came in meanwhile; one of them or two may have looked at the whole queue.
    for _ in 0..CLAIMS {
        let fresh = new_job();
        f.ledger.insert(std::slice::from_ref(&fresh)).await.unwrap();
        assert_eq!(ids(&claim(&*f.ledger, worker, 1).await), [fresh.id]);
    }
    let (before, read) = reads_after(&f, before, CLAIMS as i64 * SCANS).await;
    let walked = read - read_before;

    // The yardstick: a process that has claimed nothing yet walks past everything, once.
    assert!(claim(&*elsewhere(&f), worker, 1).await.is_empty());
    let (_, read_after) = reads_after(&f, before, 3).await;
    let whole = read_after - read;
    assert!(whole >= BACKLOG as i64, "{whole}: the old transaction keeps them");
    assert!(
        walked < whole * 10,
        "{CLAIMS} claims read {walked} entries, one whole walk {whole}"
    );
    report.execute("commit").await.unwrap();
}

#[tokio::test]
async fn what_comes_to_lie_before_the_frontier_is_claimed_soon() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    let other = elsewhere(&f);
    let gone = f.worker().await;

    // Committed with a time long past, and put back by a worker that stops, each by another process.
    let first = insert_due_ago(&f, 9_000).await;
    assert_eq!(ids(&claim(&*other, gone, 1).await), [first]);
    insert_due_ago(&f, 100).await;
    assert_eq!(claim(&*f.ledger, worker, 10).await.len(), 1);
    let late = insert_due_ago(&f, 5_000).await;
    assert_eq!(other.deregister(gone).await.unwrap().jobs(), 1);

    let mut found: Vec<JobId> = Vec::new();
    for _ in 0..3 {
        // As a worker does: again when the ledger says so.
        found.extend(ids(&claim(&*f.ledger, worker, 10).await));
        let Some(rest) = f.ledger.look_again_in("default") else {
            break;
        };
        assert!(rest <= Duration::from_secs(5), "{rest:?}");
        tokio::time::sleep(rest).await;
    }
    assert_eq!(found, [first, late], "in the order of their times");
}

#[tokio::test]
async fn what_this_process_puts_back_is_claimed_soon() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    for way in ["strays", "a worker that stops", "a worker that is lost"] {
        let gone = f.worker().await;
        let old = insert_due_ago(&f, 9_000).await;
        claim_until(&*f.ledger, gone, &[old]).await;
        let newer = insert_due_ago(&f, 100).await;
        claim_until(&*f.ledger, worker, &[newer]).await;
        let returned = match way {
            "strays" => f.ledger.return_strays(gone, &[]).await.unwrap().jobs(),
            "a worker that stops" => f.ledger.deregister(gone).await.unwrap().jobs(),
            _ => {
                f.age_workers().await;
                f.ledger.heartbeat(&support::report(worker)).await.unwrap();
                let rescued = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
                rescued.jobs()
            }
        };
        assert_eq!(returned, 1, "{way}");
        claim_until(&*f.ledger, worker, &[old]).await;
    }
}

#[tokio::test]
async fn a_fresh_worker_beside_an_old_transaction_takes_every_job_although_no_look_at_the_whole_queue_ends() {
    let f = support::postgres().await;
    let mut report = an_hour_of_claimed_jobs(&f).await;
    let jobs: Vec<NewJob> = (0..BACKLOG).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    let mut wanted: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    // And some that wait among what was claimed.
    for seconds in [70, 1_800, 3_500] {
        wanted.push(insert_due_ago(&f, seconds).await);
    }
    let worker = f.worker().await;
    claim_until(&*bounded(&f), worker, &wanted).await;
    assert!(looks_that_were_ended(&f) > 0);
    report.execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_job_that_comes_to_lie_behind_the_frontier_is_found_in_slices_beside_an_old_transaction() {
    let f = support::postgres().await;
    let mut report = an_hour_of_claimed_jobs(&f).await;
    let worker = f.worker().await;
    let ledger = bounded(&f);
    let fresh = new_job();
    f.ledger.insert(std::slice::from_ref(&fresh)).await.unwrap();
    claim_until(&*ledger, worker, &[fresh.id]).await;
    for seconds in [3, 20] {
        let late = insert_due_ago(&f, seconds).await;
        claim_until(&*ledger, worker, &[late]).await;
    }
    assert!(looks_that_were_ended(&f) > 0);
    report.execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_new_process_goes_on_from_the_frontier_that_another_has_published() {
    let f = support::postgres().await;
    unbounded(&f)
        .await
        .execute(
            "insert into holdfast_frontiers (queue, priority, run_at, job)
             values ('default', 1, now() - interval '1 minute', '00000000-0000-0000-0000-000000000000')",
        )
        .await
        .unwrap();
    let mut report = an_hour_of_claimed_jobs(&f).await;
    let worker = f.worker().await;
    let ledger = bounded(&f);
    let jobs: Vec<NewJob> = (0..3).map(|_| new_job()).collect();
    f.ledger.insert(&jobs).await.unwrap();
    f.set_due_ago(jobs[0].id, Duration::from_secs(50)).await;
    let wanted: Vec<JobId> = jobs.iter().map(|job| job.id).collect();
    // One look at the whole queue that is ended by its bound, then a claim from there on: all that is due, oldest first.
    let claimed = claim(&*ledger, worker, 10).await;
    assert_eq!(claimed[0].id, wanted[0]);
    assert_eq!(claimed.len(), 3, "{claimed:?}");
    report.execute("commit").await.unwrap();
}

#[tokio::test]
async fn a_peek_beside_an_old_transaction_answers_and_fails_no_lookout() {
    let f = support::postgres().await;
    let mut report = an_hour_of_claimed_jobs(&f).await;
    let ledger = bounded(&f);
    let queues = ["default".to_owned(), "other".to_owned()];
    let due = ledger.peek(&queues).await.unwrap();
    assert_eq!(
        due.get("default"),
        Some(&Duration::ZERO),
        "what cannot be told is for the claim to find out"
    );
    let worker = f.worker().await;
    let fresh = new_job();
    f.ledger.insert(std::slice::from_ref(&fresh)).await.unwrap();
    claim_until(&*ledger, worker, &[fresh.id]).await;
    ledger.peek(&queues).await.unwrap();
    report.execute("commit").await.unwrap();
}

#[tokio::test]
async fn claims_go_on_after_a_million_waiting_jobs_ahead_of_the_frontier_were_cancelled() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    let ledger = bounded(&f);
    let first = new_job();
    f.ledger.insert(std::slice::from_ref(&first)).await.unwrap();
    claim_until(&*ledger, worker, &[first.id]).await;
    // Scaled to the bound: they are in front of every claim from now on, and no vacuum may remove them.
    let mut report = an_hour_of_claimed_jobs(&f).await;
    unbounded(&f)
        .await
        .execute(
            "insert into holdfast_jobs (id, queue, kind, run_at, max_attempts, timeout_ms, payload)
             select gen_random_uuid(), 'default', 'test.kind', now(), 1, 1000, '{}' from generate_series(1, 200000)",
        )
        .await
        .unwrap();
    unbounded(&f)
        .await
        .execute(
            "update holdfast_jobs set state = 'cancelled', finished_at = now() where state = 'available'",
        )
        .await
        .unwrap();
    let fresh: Vec<NewJob> = (0..10).map(|_| new_job()).collect();
    f.ledger.insert(&fresh).await.unwrap();
    let wanted: Vec<JobId> = fresh.iter().map(|job| job.id).collect();
    claim_until(&*ledger, worker, &wanted).await;
    report.execute("commit").await.unwrap();
}
