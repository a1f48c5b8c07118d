//! Bounds and the gate of an embedded database whose file another process locks.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::path::Path;
use std::time::Duration;

use holdfast_core::config::{DatabaseSettings, Sources, load_from};
use holdfast_core::failure::{SqlFailureKind, classify_sql};
use holdfast_core::mode::DegradedReason;
use holdfast_core::sql::{Bounds, Database, SqliteDatabase, UnitError};
use holdfast_testkit::eventually;
use secrecy::SecretString;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{Connection, SqlSafeStr};

const DEADLINE: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(20);

/// Counts to a number that no test waits for.
const ENDLESS: &str =
    "with recursive c(n) as (select 1 union all select n + 1 from c where n < 1e12) select max(n) from c";

fn open(file: &Path, statement_timeout: Duration) -> (Database, SqliteDatabase) {
    let mut settings: DatabaseSettings = load_from(Sources::default()).unwrap().database;
    settings.url = SecretString::from(format!("sqlite://{}", file.display()));
    settings.statement_timeout = statement_timeout;
    settings.acquire_timeout = DEADLINE;
    let database = Database::open(&settings).unwrap();
    let Database::Sqlite(embedded) = &database else {
        panic!("not embedded");
    };
    let embedded = embedded.clone();
    (database, embedded)
}

async fn write(on: &SqliteDatabase, statement: &'static str) -> Result<(), UnitError> {
    let work = on.write(async |tx| sqlx::raw_sql(statement).execute(tx).await.map(drop));
    on.run_any("test a write", Bounds::SETTINGS, work).await
}

async fn read(on: &SqliteDatabase, statement: &'static str) -> Result<i64, UnitError> {
    let work = sqlx::query_scalar(statement.into_sql_str()).fetch_one(&on.reader);
    on.run_any("test a read", Bounds::SETTINGS, work).await
}

#[tokio::test]
async fn a_lock_that_another_process_keeps_opens_the_gate_for_writers_alone() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("holdfast.db");
    let (database, on) = open(&file, DEADLINE);
    write(&on, "create table t (n integer)").await.unwrap();
    let mut foreign = SqliteConnection::connect_with(&SqliteConnectOptions::new().filename(&file))
        .await
        .unwrap();
    let lock = foreign.begin_with("BEGIN IMMEDIATE").await.unwrap();
    let waiting = (0..4).map(|_| write(&on, "insert into t values (1)"));
    for told in futures::future::join_all(waiting).await {
        assert!(matches!(told, Err(UnitError::Unavailable { .. })), "{told:?}");
    }
    assert_eq!(database.mode().reason(), Some(DegradedReason::Locked));
    assert_eq!(
        read(&on, "select count(*) from t").await.unwrap(),
        0,
        "reads go on"
    );
    lock.rollback().await.unwrap();
    let serving = || async { database.mode().is_normal().then_some(()) };
    eventually("the gate is closed", DEADLINE, TICK, serving)
        .await
        .unwrap();
    write(&on, "insert into t values (2)").await.unwrap();
    assert_eq!(
        read(&on, "select sum(n) from t").await.unwrap(),
        2,
        "what was refused was not written"
    );
}

#[tokio::test]
async fn a_statement_that_runs_too_long_is_interrupted_and_rolled_back() {
    let directory = tempfile::tempdir().unwrap();
    let (database, on) = open(&directory.path().join("holdfast.db"), Duration::from_millis(300));
    write(&on, "create table t (n integer)").await.unwrap();
    for ended in [
        read(&on, ENDLESS).await.map(drop),
        write(&on, "insert into t with recursive c(n) as (select 1 union all select n + 1 from c where n < 1e12) select n from c")
            .await,
    ] {
        match ended.unwrap_err() {
            UnitError::Sql(error) => assert_eq!(classify_sql(&error).kind, SqlFailureKind::Timeout),
            other => panic!("the database's answer comes first: {other:?}"),
        }
    }
    assert_eq!(read(&on, "select count(*) from t").await.unwrap(), 0);
    assert!(database.mode().is_normal());
    write(&on, "insert into t values (1)").await.unwrap();
}

#[tokio::test]
async fn a_write_whose_caller_leaves_is_interrupted_and_never_committed() {
    let directory = tempfile::tempdir().unwrap();
    let (_database, on) = open(&directory.path().join("holdfast.db"), DEADLINE);
    write(&on, "create table t (n integer)").await.unwrap();
    let endless = write(
        &on,
        "insert into t with recursive c(n) as (select 1 union all select n + 1 from c where n < 1e12) select n from c",
    );
    assert!(
        tokio::time::timeout(Duration::from_millis(300), endless)
            .await
            .is_err()
    );
    write(&on, "insert into t values (7)").await.unwrap();
    assert_eq!(read(&on, "select sum(n) from t").await.unwrap(), 7);
    let text = holdfast_core::telemetry::metrics::render();
    assert!(
        text.contains("holdfast_sql_abandoned_total{operation=\"test_a_write\"} 1"),
        "{text}"
    );
}
