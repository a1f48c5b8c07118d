//! Claims that come late: after their client has given them up, after their worker was ended.

use std::process::Command;
use std::time::{Duration, Instant};

use holdfast_jobs::State;
use holdfast_jobs::ledger::Heartbeat;
use holdfast_testkit::eventually;
use sqlx::Connection as _;

use crate::lease::system::{Act, DEADLINE, POLL, System};
use crate::support::{self, Fixture, Host, LOST_AFTER, new_job, report};

const WAITING_CLAIM: &str = "select coalesce(min(pid), 0) from pg_stat_activity
                             where wait_event = 'advisory' and query like '%picked%'";

fn signal(name: &str, pid: &str) {
    let done = Command::new("kill").args([name, pid]).status().unwrap();
    assert!(done.success(), "kill {name} {pid}");
}

/// The server process that executes a claim is stopped, its client gives up, and it goes on: its jobs run, once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_is_stopped_past_the_deadline_of_its_client_loses_no_job() {
    let system = System::start(&[("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "1")]).await;
    let mut gate = system.slow_claims().await;
    let ids = system.enqueue(Act::Echo, 0..50).await;
    let claims = async || {
        let pid = system.ask(WAITING_CLAIM).await;
        (pid != "0").then_some(pid)
    };
    let pid = eventually("a claim", DEADLINE, POLL, claims).await.unwrap();
    signal("-STOP", &pid);
    // The client's deadline, and as long again for what the worker does about it.
    tokio::time::sleep(Duration::from_secs(5)).await;
    system.assert_no_orphans().await;
    sqlx::raw_sql("select pg_advisory_unlock_all()")
        .execute(&mut gate)
        .await
        .unwrap();
    signal("-CONT", &pid);
    while system
        .ask("select count(*) from holdfast_jobs where state <> 'completed'")
        .await
        != "0"
    {
        system.assert_no_orphans().await;
        tokio::time::sleep(POLL).await;
    }
    for record in system.ends_of(&ids).await {
        assert_eq!(
            (record.state, record.crashes),
            (State::Completed, 0),
            "{record:?}"
        );
    }
    assert!(system.witness.runs().values().all(|runs| *runs == 1));
    assert_eq!(system.witness.runs().len(), 50);
    system.stop().await;
}

/// Case E1: claims of ten jobs take five seconds, and their client waits four.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn jobs_whose_claims_take_longer_than_their_deadline_all_run() {
    let system = System::start(&[]).await;
    system.jobs.pause("default").await.unwrap();
    let ids = system.enqueue(Act::Echo, 0..10).await;
    system
        .ask(
            "create function slow() returns trigger language plpgsql as
             $$ begin perform pg_sleep(0.5); return new; end $$;
             create trigger slow before update on holdfast_jobs for each row
             when (new.state = 'running') execute function slow()",
        )
        .await;
    let began = Instant::now();
    system.jobs.resume("default").await.unwrap();
    while began.elapsed() < Duration::from_secs(7) {
        system.assert_no_orphans().await;
        tokio::time::sleep(POLL).await;
    }
    system.ask("drop trigger slow on holdfast_jobs").await;
    while system
        .ask("select count(*) from holdfast_jobs where state <> 'completed'")
        .await
        != "0"
    {
        assert!(began.elapsed() < DEADLINE, "jobs are left");
        system.assert_no_orphans().await;
        tokio::time::sleep(POLL).await;
    }
    for record in system.ends_of(&ids).await {
        assert_eq!(
            (record.state, record.crashes),
            (State::Completed, 0),
            "{record:?}"
        );
    }
    assert!(system.witness.runs().values().all(|runs| *runs == 1));
    system.stop().await;
}

/// A database that is too slow for claims is no reason to end the process: heartbeats arrive.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn claims_that_time_out_are_not_deafness() {
    let system = System::start(&[("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "1")]).await;
    let began = Instant::now();
    let mut gate = system.slow_claims().await;
    let ids = system.enqueue(Act::Echo, 0..5).await;
    // Each claim is given up after a second.
    while began.elapsed() < Duration::from_secs(12) {
        tokio::time::sleep(POLL).await;
        assert!(system.witness.started().is_empty());
    }
    let silence = system.watchdog.silence();
    assert!(silence < began.elapsed() / 2, "{silence:?}");
    sqlx::raw_sql("select pg_advisory_unlock_all()")
        .execute(&mut gate)
        .await
        .unwrap();
    for record in system.ends_of(&ids).await {
        assert_eq!((record.state, record.crashes), (State::Completed, 0));
    }
    assert!(system.witness.runs().values().all(|runs| *runs == 1));
    system.stop().await;
}

async fn connect(f: &Fixture) -> sqlx::PgConnection {
    let Host::Postgres(host) = &f.host else {
        panic!("PostgreSQL")
    };
    sqlx::PgConnection::connect(&host.0.url()).await.unwrap()
}

async fn run(on: &mut sqlx::PgConnection, sql: &str) {
    sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()))
        .execute(on)
        .await
        .unwrap();
}

async fn waits(f: &Fixture, query: &str) {
    let Host::Postgres(host) = &f.host else {
        panic!("PostgreSQL")
    };
    let sql = format!(
        "select count(*) from pg_stat_activity
         where wait_event_type = 'Lock' and pid <> pg_backend_pid() and query like '%{query}%'"
    );
    let asked = async || {
        let said = host.0.psql(&sql).await.ok()?;
        (said.trim() != "0").then_some(())
    };
    eventually(query, DEADLINE, POLL, asked).await.unwrap();
}

/// The claim has found its jobs and comes to the worker's row while that is being deleted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_that_finds_its_worker_deleted_takes_nothing() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job()]).await.unwrap();
    let mut other = connect(&f).await;
    run(&mut other, "begin; delete from holdfast_workers").await;
    let ledger = std::sync::Arc::clone(&f.ledger);
    let claim = tokio::spawn(async move { ledger.claim("default", worker, 10, LOST_AFTER).await });
    waits(&f, "picked").await;
    run(&mut other, "commit").await;
    // Given up by the server for the lock, or finished and empty.
    if let Ok(claimed) = claim.await.unwrap() {
        assert!(claimed.is_empty());
    }
    f.ledger.register(&report(worker)).await.unwrap();
    assert_eq!(
        f.ledger
            .claim("default", worker, 10, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        2
    );
}

/// Whoever ends a worker waits for its claims; and while one is under way, the worker's row stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_is_not_ended_while_a_claim_for_it_is_under_way() {
    let f = support::postgres().await;
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job()]).await.unwrap();
    let mut gate = connect(&f).await;
    run(
        &mut gate,
        "create function wait_at_gate() returns trigger language plpgsql as $$
         begin perform pg_advisory_xact_lock_shared(42); return new; end $$;
         create trigger wait_at_gate before update on holdfast_jobs for each row
         when (old.state = 'available' and new.state = 'running') execute function wait_at_gate();
         select pg_advisory_lock(42)",
    )
    .await;
    let mut claiming = connect(&f).await;
    run(
        &mut claiming,
        "begin; set local statement_timeout = 0; set local lock_timeout = 0",
    )
    .await;
    // As the ledger claims, in a transaction that stays open.
    let claim = tokio::spawn(async move {
        sqlx::query(
            "with lease as materialized (select id from holdfast_workers where id = $1 for key share)
             update holdfast_jobs set state = 'running', worker = $1, started_at = now()
             where state = 'available' and exists (select from lease)",
        )
        .bind(worker.as_uuid())
        .execute(&mut claiming)
        .await
        .unwrap();
        claiming
    });
    waits(&f, "lease").await;
    // It cannot have the row: it is told so, or waits until its client gives up.
    assert!(f.ledger.deregister(worker).await.is_err());
    f.age_workers().await;
    let report_of = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert!(report_of.workers_lost.is_empty(), "{report_of:?}");
    assert_eq!(
        f.ledger.heartbeat(&report(worker)).await.unwrap(),
        Heartbeat::Renewed
    );
    run(&mut gate, "select pg_advisory_unlock_all()").await;
    let mut claiming = claim.await.unwrap();
    run(&mut claiming, "commit").await;
    let ended = async || {
        f.ledger
            .deregister(worker)
            .await
            .ok()
            .filter(|report| report.gone)
    };
    eventually("the end", DEADLINE, POLL, ended).await.unwrap();
    let mut other = connect(&f).await;
    let running: i64 = sqlx::query_scalar("select count(*) from holdfast_jobs where state = 'running'")
        .fetch_one(&mut other)
        .await
        .unwrap();
    assert_eq!(running, 0);
}
