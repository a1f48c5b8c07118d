//! What keeps jobs from ending is found, on both databases, with a role that has no more than the usual permissions.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::time::Duration;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_jobs::diagnosis::{Diagnosis, Fault, FaultKind, Thresholds};
use holdfast_jobs::ledger::ClaimedJob;
use holdfast_jobs::{Jobs, Registry, WorkerId};
use holdfast_testkit::PostgresOptions;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};
use support::{Fixture, Host, LOST_AFTER, new_job, postgres, sqlite};

const DEADLINE: Duration = Duration::from_secs(60);

fn diagnosis(fixture: &Fixture, thresholds: Thresholds) -> Diagnosis {
    let gate = RedisGate::open(Role::Queue, None, &fixture.settings.redis).expect("a gate");
    let jobs = Jobs::new(&fixture.settings, Registry::new(), &fixture.database, &gate);
    Diagnosis::with_thresholds(&fixture.settings, &jobs, &fixture.database, thresholds)
}

/// Looks until a fault of the kind is found.
async fn find(diagnosis: &Diagnosis, kind: FaultKind) -> Fault {
    let looking = async {
        loop {
            let report = diagnosis.look().await;
            if let Some(fault) = report.of_kind(kind).next() {
                return fault.clone();
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let found = tokio::time::timeout(DEADLINE, looking).await;
    found.unwrap_or_else(|_| panic!("no {kind} in {:?}", diagnosis.last()))
}

/// Looks until a report is complete and has no fault.
async fn assert_sound(diagnosis: &Diagnosis) {
    let looking = async {
        loop {
            let report = diagnosis.look().await;
            if !report.is_partial && report.faults.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let sound = tokio::time::timeout(DEADLINE, looking).await;
    assert!(sound.is_ok(), "{:?}", diagnosis.last());
}

async fn claim(fixture: &Fixture, worker: WorkerId, jobs: usize) -> Vec<ClaimedJob> {
    for _ in 0..jobs {
        insert(fixture).await;
    }
    let claiming = fixture.ledger.claim("default", worker, jobs, LOST_AFTER);
    claiming.await.expect("claimed")
}

async fn insert(fixture: &Fixture) {
    fixture.ledger.insert(&[new_job()]).await.expect("accepted");
}

fn url(fixture: &Fixture) -> String {
    match &fixture.host {
        Host::Postgres(host) => host.0.url(),
        Host::Sqlite(_) => panic!("PostgreSQL alone has sessions"),
    }
}

async fn session(fixture: &Fixture) -> (PgConnection, i32) {
    let mut session = PgConnection::connect(&url(fixture)).await.expect("a session");
    let pid = sqlx::query_scalar("select pg_backend_pid()")
        .fetch_one(&mut session)
        .await
        .expect("its pid");
    (session, pid)
}

async fn running_jobs_of_a_worker_without_a_row(fixture: Fixture) {
    let diagnosis = diagnosis(&fixture, Thresholds::default());
    let worker = fixture.worker().await;
    assert_eq!(claim(&fixture, worker, 3).await.len(), 3);
    assert_sound(&diagnosis).await;
    fixture
        .sql("delete from holdfast_workers", "delete from holdfast_workers")
        .await;
    let fault = find(&diagnosis, FaultKind::OrphanedJobs).await;
    assert!(
        fault.message.starts_with("3 running jobs have no worker"),
        "{}",
        fault.message
    );
    let report = diagnosis.look().await;
    assert_eq!(report.leases.as_ref().map(|leases| leases.lost.orphaned), Some(3));
    fixture
        .sql("delete from holdfast_jobs", "delete from holdfast_jobs")
        .await;
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn running_jobs_of_a_worker_without_a_row_are_counted() {
    running_jobs_of_a_worker_without_a_row(postgres().await).await;
}

#[tokio::test]
async fn running_jobs_of_a_worker_without_a_row_are_counted_on_sqlite() {
    running_jobs_of_a_worker_without_a_row(sqlite().await).await;
}

async fn silent_workers_and_jobs_beyond_their_timeout(fixture: Fixture) {
    let diagnosis = diagnosis(&fixture, Thresholds::default());
    let worker = fixture.worker().await;
    claim(&fixture, worker, 2).await;
    fixture
        .sql(
            "update holdfast_workers set seen_at = seen_at - interval '1 hour';
             update holdfast_jobs set started_at = now() - interval '1 hour'",
            "update holdfast_workers set seen_at = seen_at - 3600000;
             update holdfast_jobs set started_at = cast(unixepoch('subsec') * 1000 as integer) - 3600000",
        )
        .await;
    let silent = find(&diagnosis, FaultKind::SilentWorkers).await;
    assert!(
        silent.message.contains("2 running jobs") && silent.message.contains("60 min"),
        "{}",
        silent.message
    );
    let overdue = find(&diagnosis, FaultKind::OverdueJobs).await;
    assert!(overdue.message.contains("2 running jobs"), "{}", overdue.message);
}

#[tokio::test]
async fn silent_workers_and_jobs_beyond_their_timeout_are_counted() {
    silent_workers_and_jobs_beyond_their_timeout(postgres().await).await;
}

#[tokio::test]
async fn silent_workers_and_jobs_beyond_their_timeout_are_counted_on_sqlite() {
    silent_workers_and_jobs_beyond_their_timeout(sqlite().await).await;
}

#[tokio::test]
async fn a_queue_with_due_jobs_a_free_worker_and_no_outcome_stands_still() {
    for fixture in [postgres().await, sqlite().await] {
        let stalled = Duration::from_millis(1);
        let diagnosis = diagnosis(
            &fixture,
            Thresholds {
                stalled,
                ..Thresholds::default()
            },
        );
        insert(&fixture).await;
        let worker = support::report(holdfast_jobs::WorkerId::generate());
        fixture.ledger.register(&worker).await.expect("registered");
        // Looks are far apart where they take long: the worker lives until it is found.
        let living = async {
            loop {
                fixture.ledger.heartbeat(&worker).await.expect("a heartbeat");
                tokio::time::sleep(Duration::from_secs(1)).await;
            }
        };
        let fault = tokio::select! {
            fault = find(&diagnosis, FaultKind::StalledQueue) => fault,
            () = living => unreachable!("it lives on"),
        };
        assert_eq!(fault.queue.as_deref(), Some("default"));
        fixture.ledger.set_paused("default", true).await.expect("paused");
        assert_sound(&diagnosis).await;
    }
}

#[tokio::test]
async fn a_lock_is_shown_with_the_process_and_the_statement_that_holds_it_and_no_value() {
    let fixture = postgres().await;
    let lock_wait = Duration::from_millis(1);
    let diagnosis = diagnosis(
        &fixture,
        Thresholds {
            lock_wait,
            ..Thresholds::default()
        },
    );
    let worker = fixture.worker().await;
    claim(&fixture, worker, 1).await;
    let (mut holder, pid) = session(&fixture).await;
    holder
        .execute("begin; update holdfast_jobs set errors = '[\"a secret\"]'")
        .await
        .expect("locked");
    let (mut waiting, waiting_pid) = session(&fixture).await;
    let waits = tokio::spawn(async move {
        waiting
            .execute("update holdfast_jobs set priority = 2")
            .await
            .map(drop)
    });
    let fault = find(&diagnosis, FaultKind::LockWait).await;
    assert!(
        fault.message.contains(&format!("pid {waiting_pid} has waited")),
        "{}",
        fault.message
    );
    assert!(
        fault.message.contains(&format!("of pid {pid} (")),
        "{}",
        fault.message
    );
    assert_eq!(
        fault.statement.as_deref(),
        Some("begin; update holdfast_jobs set errors = ?")
    );
    holder.execute("rollback").await.expect("released");
    waits.await.expect("ended").expect("updated");
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn a_transaction_of_another_role_that_holds_rows_is_found_though_its_age_is_hidden() {
    let fixture = postgres().await;
    let Host::Postgres(host) = &fixture.host else {
        panic!("SQLite has no roles");
    };
    let grants = "create role narrow login; grant all on all tables in schema public to narrow";
    host.0.psql(grants).await.expect("a role");
    let (mut admin, _) = session(&fixture).await;
    let worker = fixture.worker().await;
    claim(&fixture, worker, 1).await;
    let of_admin = url(&fixture);
    let (_, behind) = of_admin.split_once('@').expect("a user in the URL");
    let settings = support::settings(&[("DATABASE_URL", &format!("postgres://narrow@{behind}"))]);
    let database = Database::open(&settings.database).expect("opened");
    let gate = RedisGate::open(Role::Queue, None, &settings.redis).expect("a gate");
    let jobs = Jobs::new(&settings, Registry::new(), &database, &gate);
    let diagnosis = Diagnosis::new(&settings, &jobs, &database);
    admin
        .execute("begin; update holdfast_jobs set priority = 2")
        .await
        .expect("locked");
    let fault = find(&diagnosis, FaultKind::LockHolder).await;
    assert!(
        fault
            .message
            .contains("no permission to see its state: grant pg_read_all_stats"),
        "{}",
        fault.message
    );
    assert_eq!(fault.statement, None);
    admin.execute("rollback").await.expect("released");
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn an_old_transaction_is_shown_with_its_age() {
    let fixture = postgres().await;
    let transaction = Duration::from_millis(1);
    let diagnosis = diagnosis(
        &fixture,
        Thresholds {
            transaction,
            ..Thresholds::default()
        },
    );
    let (mut old, pid) = session(&fixture).await;
    old.execute("begin isolation level repeatable read; select 1 from holdfast_jobs")
        .await
        .expect("a snapshot");
    let fault = find(&diagnosis, FaultKind::OldTransaction).await;
    assert!(
        fault.message.contains(&format!("the session with pid {pid}")),
        "{}",
        fault.message
    );
    assert!(fault.message.contains("idle in transaction"), "{}", fault.message);
}

#[tokio::test]
async fn a_locked_table_hides_the_jobs_and_not_who_locks_it() {
    let fixture = postgres().await;
    let diagnosis = diagnosis(&fixture, Thresholds::default());
    let (mut holder, pid) = session(&fixture).await;
    holder
        .execute("begin; lock table holdfast_jobs in access exclusive mode")
        .await
        .expect("locked");
    let report = diagnosis.look().await;
    assert!(report.is_partial && report.leases.is_none(), "{report:?}");
    let fault = find(&diagnosis, FaultKind::LockHolder).await;
    assert!(
        fault.message.contains(&format!("pid {pid} (")),
        "{}",
        fault.message
    );
}

#[tokio::test]
async fn a_statement_of_holdfast_beyond_its_deadline_is_shown_without_values() {
    let fixture = postgres().await;
    let settings = support::settings(&[
        ("DATABASE_URL", &url(&fixture)),
        ("HOLDFAST__DATABASE__STATEMENT_TIMEOUT_SECONDS", "0.1"),
    ]);
    let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
    let jobs = Jobs::new(&settings, Registry::new(), &fixture.database, &gate);
    let diagnosis = Diagnosis::new(&settings, &jobs, &fixture.database);
    let Database::Postgres(pool) = &fixture.database else {
        unreachable!()
    };
    let name: String = sqlx::query_scalar("select current_setting('application_name')")
        .fetch_one(pool)
        .await
        .unwrap();
    let (mut slow, pid) = session(&fixture).await;
    sqlx::query("select set_config('application_name', $1, false)")
        .bind(name)
        .execute(&mut slow)
        .await
        .unwrap();
    let sleeps =
        tokio::spawn(async move { slow.execute("select pg_sleep(120), 'a secret'").await.map(drop) });
    let fault = find(&diagnosis, FaultKind::SlowStatement).await;
    assert!(
        fault
            .message
            .starts_with(&format!("a statement of pid {pid} has run for ")),
        "{}",
        fault.message
    );
    assert_eq!(fault.statement.as_deref(), Some("select pg_sleep(?), ?"));
    let (mut other, _) = session(&fixture).await;
    sqlx::query("select pg_terminate_backend($1)")
        .bind(pid)
        .execute(&mut other)
        .await
        .unwrap();
    assert!(sleeps.await.unwrap().is_err());
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn dead_rows_beyond_the_live_ones_are_a_fault_until_a_vacuum() {
    let fixture = postgres().await;
    let diagnosis = diagnosis(
        &fixture,
        Thresholds {
            dead_rows: 10,
            ..Thresholds::default()
        },
    );
    for _ in 0..20 {
        insert(&fixture).await;
    }
    assert_sound(&diagnosis).await;
    let (mut session, _) = session(&fixture).await;
    // The server counts them some time after the statement, unless it is told to do so now.
    let delete = "delete from holdfast_jobs; select pg_stat_force_next_flush()";
    session.execute(delete).await.unwrap();
    let fault = find(&diagnosis, FaultKind::DeadRows).await;
    assert!(
        fault
            .message
            .starts_with("holdfast_jobs has 20 dead rows beside "),
        "{}",
        fault.message
    );
    session.execute("vacuum holdfast_jobs").await.unwrap();
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn few_connections_of_the_server_are_a_fault_before_there_are_none() {
    let fixture = support::postgres_with(PostgresOptions::fast().max_connections(40)).await;
    let diagnosis = diagnosis(&fixture, Thresholds::default());
    assert_sound(&diagnosis).await;
    // 37 are for clients, and 36 are short.
    let mut sessions = Vec::new();
    let fault = loop {
        sessions.push(session(&fixture).await);
        if sessions.len() < 33 {
            continue;
        }
        tokio::time::sleep(Duration::from_secs(1)).await;
        let report = diagnosis.look().await;
        if let Some(fault) = report.of_kind(FaultKind::ConnectionsShort).next() {
            break fault.clone();
        }
    };
    assert!(
        fault.message.ends_with("of 40 connections are in use"),
        "{}",
        fault.message
    );
    drop(sessions);
    assert_sound(&diagnosis).await;
}

#[tokio::test]
async fn a_log_of_the_embedded_database_that_is_not_folded_in_is_a_fault() {
    let fixture = sqlite().await;
    let diagnosis = diagnosis(
        &fixture,
        Thresholds {
            log_bytes: 1 << 20,
            ..Thresholds::default()
        },
    );
    assert_sound(&diagnosis).await;
    let Host::Sqlite(directory) = &fixture.host else {
        unreachable!()
    };
    // A reader keeps the log from being folded in.
    let url = format!("sqlite://{}", directory.path().join("ledger.db").display());
    let mut reader = sqlx::SqliteConnection::connect(&url).await.unwrap();
    reader
        .execute("begin; select count(*) from holdfast_jobs")
        .await
        .unwrap();
    for _ in 0..3 {
        fixture
            .sql(
                "",
                "create table if not exists filler (bytes); insert into filler values (randomblob(1000000))",
            )
            .await;
    }
    let fault = find(&diagnosis, FaultKind::LargeLog).await;
    assert!(
        fault.message.starts_with("the write-ahead log has "),
        "{}",
        fault.message
    );
    reader.execute("rollback").await.unwrap();
    let ended = async {
        loop {
            // As SQLite does after enough writes.
            fixture.sql("", "pragma wal_checkpoint(truncate)").await;
            if diagnosis.look().await.faults.is_empty() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(DEADLINE, ended).await.unwrap();
}

/// Its statements walk indexes alone, by a setting that makes the server take what has none for very expensive: compiling that
/// (PostgreSQL's JIT) takes longer than a look may.
#[tokio::test]
async fn no_statement_of_a_look_is_compiled_by_the_server() {
    let options = PostgresOptions::fast().setting("shared_preload_libraries", "pg_stat_statements");
    let fixture = support::postgres_with(options).await;
    let Host::Postgres(host) = &fixture.host else {
        unreachable!()
    };
    host.0.psql("create extension pg_stat_statements").await.unwrap();
    assert_sound(&diagnosis(&fixture, Thresholds::default())).await;
    let statements = host
        .0
        .psql(
            "select count(*) filter (where query like '%holdfast_workers%') > 0, coalesce(sum(jit_functions), 0)
             from pg_stat_statements where userid = 'holdfast'::regrole and ltrim(query, e'\\n ') like 'select%'",
        )
        .await
        .unwrap();
    assert_eq!(statements, "t|0");
}
