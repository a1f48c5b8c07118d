//! Claims on PostgreSQL go on from where the ones before came to, and miss nothing for long.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

mod support;

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::sql::Database;
use holdfast_jobs::ledger::{self, ClaimedJob, Ledger, NewJob, Outcome, RunAt};
use holdfast_jobs::{JobId, WorkerId};
use holdfast_testkit::eventually;
use sqlx::postgres::PgConnection;
use sqlx::{Connection as _, Executor as _};
use support::{Fixture, Host, LOST_AFTER, new_job};

const DEADLINE: Duration = Duration::from_secs(30);
const BACKLOG: usize = 3_000;
/// Claims on what comes in after the backlog.
const CLAIMS: usize = 20;
/// A claim scans the index once for each priority until it has enough: here high, which has none, and normal.
const SCANS: i64 = 2;

/// A job whose time was so many seconds ago.
fn past(seconds: usize) -> NewJob {
    let seconds = i64::try_from(seconds).unwrap();
    NewJob {
        run_at: RunAt::At(clock::now() - chrono::Duration::seconds(seconds)),
        ..new_job()
    }
}

async fn claim(ledger: &dyn Ledger, worker: WorkerId, most: usize) -> Vec<ClaimedJob> {
    // No worker here has a heartbeat, and the machine may be slow.
    let lost_after = LOST_AFTER * 40;
    ledger.claim("default", worker, most, lost_after).await.unwrap()
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

/// The ledger as another process has it, which knows nothing of this one's claims.
fn elsewhere(f: &Fixture) -> Arc<dyn Ledger> {
    ledger::open(&f.database, &f.settings.database)
}

/// A report that runs for hours: what was deleted or updated since it began is kept for it.
async fn old_transaction(f: &Fixture) -> PgConnection {
    let Host::Postgres(host) = &f.host else {
        panic!("not PostgreSQL")
    };
    let mut connection = PgConnection::connect(&host.0.url()).await.unwrap();
    for statement in [
        "begin isolation level repeatable read",
        "select count(*) from holdfast_jobs",
    ] {
        connection.execute(statement).await.unwrap();
    }
    connection
}

/// Scans of the claim's index, and entries that they have read.
async fn reads(f: &Fixture) -> (i64, i64) {
    let Database::Postgres(pool) = &f.database else {
        panic!("not PostgreSQL")
    };
    sqlx::query_as(
        "select idx_scan, idx_tup_read from pg_stat_user_indexes where indexrelname = 'holdfast_jobs_claim'",
    )
    .fetch_one(pool)
    .await
    .unwrap()
}

/// The same once `scans` more of them than `before` are told of: the server adds them up about once a second.
async fn reads_after(f: &Fixture, before: i64, scans: i64) -> (i64, i64) {
    let told = async || {
        let now = reads(f).await;
        (now.0 >= before + scans).then_some(now)
    };
    eventually(
        "the scans are told of",
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
    let jobs: Vec<NewJob> = (0..BACKLOG).map(|number| past(100_000 - number)).collect();
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
    let fresh: Vec<NewJob> = (0..CLAIMS).map(|number| past(50_000 - number)).collect();
    f.ledger.insert(&fresh).await.unwrap();
    for expected in &fresh {
        let claimed = claim(&*f.ledger, worker, 1).await;
        assert_eq!(
            claimed.iter().map(|job| job.id).collect::<Vec<_>>(),
            [expected.id]
        );
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

    // Enqueued for a time long past, and put back by a worker that stops, each by another process.
    f.ledger.insert(&[past(9_000)]).await.unwrap();
    let held = claim(&*other, gone, 1).await;
    f.ledger.insert(&[past(100)]).await.unwrap();
    assert_eq!(claim(&*f.ledger, worker, 10).await.len(), 1);
    let late = past(5_000);
    other.insert(std::slice::from_ref(&late)).await.unwrap();
    assert_eq!(other.deregister(gone).await.unwrap().jobs(), 1);

    let wanted = [held[0].id, late.id];
    let mut found: Vec<JobId> = Vec::new();
    for _ in 0..3 {
        // As a worker does: again when the ledger says so.
        found.extend(claim(&*f.ledger, worker, 10).await.iter().map(|job| job.id));
        let Some(rest) = f.ledger.look_again_in("default") else {
            break;
        };
        assert!(rest <= Duration::from_secs(5), "{rest:?}");
        tokio::time::sleep(rest).await;
    }
    assert_eq!(found, wanted, "in the order of their times");
}

#[tokio::test]
async fn what_this_process_puts_back_is_claimed_at_once() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    for way in ["strays", "a worker that stops", "a worker that is lost"] {
        let gone = f.worker().await;
        f.ledger.insert(&[past(9_000)]).await.unwrap();
        let held = claim(&*f.ledger, gone, 1).await;
        f.ledger.insert(&[past(100)]).await.unwrap();
        assert_eq!(claim(&*f.ledger, worker, 1).await.len(), 1);
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
        let again = claim(&*f.ledger, worker, 10).await;
        assert_eq!(
            again.iter().map(|job| job.id).collect::<Vec<_>>(),
            [held[0].id],
            "{way}"
        );
    }
}
