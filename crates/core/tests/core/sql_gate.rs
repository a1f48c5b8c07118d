//! Bounds, cancellation and the gate of the database, on real servers.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::time::{Duration, Instant};

use futures::FutureExt as _;
use holdfast_core::config::{DatabaseSettings, Sources, load_from};
use holdfast_core::failure::{SqlFailureKind, classify_sql};
use holdfast_core::mode::{DegradedReason, Mode};
use holdfast_core::sql::{Bounds, BreakerState, Database, PostgresDatabase, UnitError};
use holdfast_testkit::{FaultProxy, Mode as Wire, PgBouncer, PostgresOptions, PostgresServer, eventually};
use secrecy::SecretString;
use sqlx::{Connection, PgConnection};

const DEADLINE: Duration = Duration::from_mins(1);
const TICK: Duration = Duration::from_millis(20);

fn settings_of(url: &str) -> DatabaseSettings {
    let mut settings = load_from(Sources::default()).unwrap().database;
    settings.url = SecretString::from(url);
    settings.max_connections = 4;
    settings
}

fn open(settings: &DatabaseSettings) -> (Database, PostgresDatabase) {
    let database = Database::open(settings).unwrap();
    let Database::Postgres(postgres) = &database else {
        panic!("embedded");
    };
    let postgres = postgres.clone();
    (database, postgres)
}

async fn run(database: &PostgresDatabase, sql: &'static str) -> Result<String, UnitError> {
    run_with(database, Bounds::SETTINGS, sql).await
}

/// One statement that answers with one text.
async fn run_with(
    database: &PostgresDatabase,
    bounds: Bounds,
    sql: &'static str,
) -> Result<String, UnitError> {
    let work = async |on: &mut PgConnection| sqlx::query_scalar::<_, String>(sql).fetch_one(on).await;
    database.run("test a statement", bounds, true, work).await
}

fn kind(error: &UnitError) -> SqlFailureKind {
    match error {
        UnitError::Sql(source) => classify_sql(source).kind,
        other => panic!("no error of the server: {other:?}"),
    }
}

async fn until_serving(database: &Database) {
    let serving = || async { database.mode().is_normal().then_some(()) };
    eventually("the gate is closed", DEADLINE, TICK, serving)
        .await
        .unwrap();
}

async fn until_refusing(database: &Database, postgres: &PostgresDatabase) -> DegradedReason {
    let refusing = || async {
        let _failed = run(postgres, "select '1'").await;
        database.mode().reason()
    };
    eventually("the gate is open", DEADLINE, TICK, refusing)
        .await
        .unwrap()
}

/// Sessions of the database, as the server counts them, without the one that asks.
async fn sessions(postgres: &PostgresServer) -> usize {
    let count = "select count(*) from pg_stat_activity \
                 where backend_type = 'client backend' and application_name = 'holdfast'";
    postgres.psql(count).await.unwrap().parse().unwrap()
}

const SETTINGS: &str = "select current_setting('statement_timeout') || ' ' || current_setting('lock_timeout') || ' ' \
                        || current_setting('idle_in_transaction_session_timeout')";

#[tokio::test]
async fn the_bounds_are_in_force_on_a_direct_connection_and_behind_a_transaction_pooler() {
    let postgres = PostgresServer::start().await.unwrap();
    let bouncer = PgBouncer::start_with(&postgres, 2).await.unwrap();
    for (url, pooled) in [(postgres.url(), false), (bouncer.url(), true)] {
        let (_database, on) = open(&settings_of(&url));
        let bounds = Bounds::SETTINGS
            .statement(Duration::from_millis(250))
            .lock(Duration::from_millis(100));
        assert_eq!(run(&on, SETTINGS).await.unwrap(), "4s 500ms 3s", "{url}");
        assert_eq!(run_with(&on, bounds, SETTINGS).await.unwrap(), "250ms 100ms 3s");
        assert_eq!(
            run(&on, SETTINGS).await.unwrap(),
            "4s 500ms 3s",
            "of that unit alone"
        );
        assert_eq!(on.is_pooled(), pooled);
        let mut tx = on.begin().await.unwrap();
        let inside: String = sqlx::query_scalar(SETTINGS).fetch_one(&mut *tx).await.unwrap();
        assert_eq!(inside, "4s 500ms 3s");
        tx.rollback().await.unwrap();
    }
}

#[tokio::test]
async fn a_direct_session_has_keepalives_and_a_check_for_clients_that_are_gone() {
    let postgres = PostgresServer::start().await.unwrap();
    let (_database, on) = open(&settings_of(&postgres.url()));
    let wanted = "select string_agg(name || '=' || setting, ' ' order by name) from pg_settings \
                  where name in ('tcp_keepalives_idle', 'client_connection_check_interval', 'tcp_user_timeout') \
                  and source = 'client'";
    let text = run(&on, wanted).await.unwrap();
    assert!(text.contains("client_connection_check_interval=1000"), "{text}");
}

#[tokio::test]
async fn a_url_with_an_ipv6_address_in_brackets_connects() {
    let options = PostgresOptions::fast().setting("listen_addresses", "127.0.0.1,::1");
    let postgres = PostgresServer::start_with(options).await.unwrap();
    let url = postgres.url().replace("127.0.0.1", "[::1]");
    let (_database, on) = open(&settings_of(&url));
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1", "{url}");
}

#[tokio::test]
async fn slow_statements_and_locks_that_cannot_be_had_are_answers_and_no_outage() {
    let postgres = PostgresServer::start().await.unwrap();
    let mut settings = settings_of(&postgres.url());
    settings.statement_timeout = Duration::from_millis(300);
    settings.lock_timeout = Duration::from_millis(100);
    let (database, on) = open(&settings);
    postgres
        .psql("create table held (id int); insert into held values (1); grant all on held to public")
        .await
        .unwrap();
    let mut foreign = PgConnection::connect(&postgres.url()).await.unwrap();
    let mut tx = foreign.begin().await.unwrap();
    sqlx::raw_sql("select 1 from held for update")
        .execute(&mut *tx)
        .await
        .unwrap();
    for _ in 0..5 {
        let locked = run(&on, "select id::text from held for update")
            .await
            .unwrap_err();
        assert_eq!(kind(&locked), SqlFailureKind::Contention);
        let slow = run(&on, "select pg_sleep(60)::text").await.unwrap_err();
        assert_eq!(kind(&slow), SqlFailureKind::Timeout);
    }
    assert_eq!(database.mode(), Mode::Normal);
    assert_eq!(database.abandoned(), 0, "the server's answer came first");
}

#[tokio::test]
async fn a_client_that_stops_inside_a_transaction_loses_it_and_its_locks() {
    let postgres = PostgresServer::start().await.unwrap();
    let mut settings = settings_of(&postgres.url());
    settings.idle_in_transaction = Duration::from_millis(300);
    let (_database, on) = open(&settings);
    postgres
        .psql("create table held (id int); insert into held values (1); grant all on held to public")
        .await
        .unwrap();
    let mut tx = on.begin().await.unwrap();
    sqlx::raw_sql("update held set id = 2")
        .execute(&mut *tx)
        .await
        .unwrap();
    let rolled_back = || async {
        let locks = "select count(*) from pg_locks where relation = 'held'::regclass";
        (postgres.psql(locks).await.unwrap() == "0").then_some(())
    };
    eventually("the server ended the transaction", DEADLINE, TICK, rolled_back)
        .await
        .unwrap();
    let error = sqlx::raw_sql("select 1").execute(&mut *tx).await.unwrap_err();
    assert_eq!(
        classify_sql(&error).class,
        holdfast_core::failure::FailureClass::Transient
    );
    assert_eq!(postgres.psql("select id from held").await.unwrap(), "1");
}

#[tokio::test]
async fn a_statement_whose_caller_leaves_is_cancelled_and_counts_until_then() {
    let postgres = PostgresServer::start().await.unwrap();
    let (database, on) = open(&settings_of(&postgres.url()));
    let mut settings = settings_of(&postgres.url());
    settings.max_connections = 2;
    drop(database);
    let (database, on_two) = open(&settings);
    drop(on);
    for _ in 0..10 {
        let leaving = tokio::time::timeout(
            Duration::from_millis(50),
            run(&on_two, "select pg_sleep(3)::text"),
        );
        assert!(leaving.await.is_err());
        assert!(sessions(&postgres).await <= 2 + 1, "the pool and the attendant");
    }
    let done = || async {
        let sleeping = "select count(*) from pg_stat_activity where state = 'active' and query like '%pg_sleep(3)%' \
                        and pid <> pg_backend_pid()";
        (postgres.psql(sleeping).await.unwrap() == "0" && database.abandoned() == 0).then_some(())
    };
    eventually("nothing is left of them", DEADLINE, TICK, done)
        .await
        .unwrap();
    assert_eq!(run(&on_two, "select '1'").await.unwrap(), "1");
    assert_eq!(database.mode(), Mode::Normal);
    let text = holdfast_core::telemetry::metrics::render();
    assert!(
        text.contains("holdfast_sql_abandoned_total{operation=\"test_a_statement\"}"),
        "{text}"
    );
}

/// The driver counts a transaction from the answer to `BEGIN` on. If a caller leaves before it, the transaction must not stay open: what
/// the connection's next user writes would be answered as written, and lost when the session ends.
#[tokio::test]
async fn a_begin_whose_caller_leaves_leaves_no_transaction_open() {
    const ROUNDS: usize = 20;
    let postgres = PostgresServer::start().await.unwrap();
    let bouncer = PgBouncer::start_with(&postgres, 2).await.unwrap();
    for url in [postgres.url(), bouncer.url()] {
        postgres
            .psql(
                "drop table if exists written; create table written (n int); grant all on written to public",
            )
            .await
            .unwrap();
        // Each user has the connection of the one before.
        let mut settings = settings_of(&url);
        settings.max_connections = 1;
        let (_database, on) = open(&settings);
        let write = async || {
            run(&on, "insert into written values (1) returning 'written'")
                .await
                .unwrap()
        };
        let mut left = 0;
        for round in 1..=ROUNDS {
            write().await;
            left += usize::from(on.begin().now_or_never().is_none());
            write().await;
            let seen = postgres.psql("select count(*) from written").await.unwrap();
            assert_eq!(
                seen,
                (2 * round).to_string(),
                "{url}: what was answered is committed"
            );
        }
        assert!(left > 0, "no caller left before the answer");
    }
}

#[tokio::test]
async fn a_refusing_server_opens_the_gate_and_a_returning_one_closes_it() {
    let postgres = PostgresServer::start().await.unwrap();
    let (database, on) = open(&settings_of(&postgres.url()));
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1");
    postgres.stop().await.unwrap();
    until_refusing(&database, &on).await;
    let before = Instant::now();
    for _ in 0..1_000 {
        let refused = run(&on, "select '1'").await.unwrap_err();
        assert!(matches!(refused, UnitError::Unavailable { .. }), "{refused:?}");
    }
    assert!(
        before.elapsed() < Duration::from_secs(20),
        "{:?} for 1,000",
        before.elapsed()
    );
    assert_ne!(database.breaker(), BreakerState::Closed);
    postgres.start_again().await.unwrap();
    until_serving(&database).await;
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1");
}

#[tokio::test]
async fn a_frozen_postmaster_and_frozen_sessions_open_the_gate_and_release_who_waits() {
    let postgres = PostgresServer::start().await.unwrap();
    let mut settings = settings_of(&postgres.url());
    // So long that only the gate can release a caller in this test.
    settings.statement_timeout = Duration::from_mins(10);
    settings.acquire_timeout = Duration::from_mins(10);
    let (database, on) = open(&settings);
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1");
    postgres.sigstop().await.unwrap();
    let waiting = (0..8).map(|_| run(&on, "select '1'"));
    for ended in futures::future::join_all(waiting).await {
        let error = ended.unwrap_err();
        let released = matches!(error, UnitError::Unavailable { .. } | UnitError::TimedOut { .. });
        assert!(released, "{error:?}");
    }
    assert_eq!(database.mode().reason(), Some(DegradedReason::TimedOut));
    postgres.sigcont().await.unwrap();
    until_serving(&database).await;
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1");
    let settled = || async { (database.abandoned() == 0).then_some(()) };
    eventually("nothing is left behind", DEADLINE, TICK, settled)
        .await
        .unwrap();
    assert!(sessions(&postgres).await <= 4 + 1);
}

#[tokio::test]
async fn a_black_hole_opens_the_gate_and_the_wires_it_cut_are_replaced() {
    let postgres = PostgresServer::start().await.unwrap();
    let proxy = FaultProxy::for_postgres(&postgres).await.unwrap();
    let (database, on) = open(&settings_of(&proxy.url_for(&postgres.url())));
    assert_eq!(run(&on, "select '1'").await.unwrap(), "1");
    proxy.set_mode(Wire::BlackHole).await.unwrap();
    let error = run(&on, "select '1'").await.unwrap_err();
    assert!(!matches!(error, UnitError::Sql(_)), "{error:?}");
    assert_eq!(until_refusing(&database, &on).await, DegradedReason::TimedOut);
    proxy.set_mode(Wire::Forward).await.unwrap();
    until_serving(&database).await;
    let served = || async { run(&on, "select '1'").await.ok() };
    eventually("it serves", DEADLINE, TICK, served).await.unwrap();
}

#[tokio::test]
async fn a_server_that_is_full_is_an_outage_only_for_who_has_no_connection() {
    let options = PostgresOptions::fast()
        .max_connections(8)
        .setting("superuser_reserved_connections", "0");
    let postgres = PostgresServer::start_with(options).await.unwrap();
    let (connected, on_connected) = open(&settings_of(&postgres.url()));
    assert_eq!(run(&on_connected, "select '1'").await.unwrap(), "1");
    let (late, on_late) = open(&settings_of(&postgres.url()));
    let mut others = Vec::new();
    while let Ok(one) = PgConnection::connect(&postgres.url()).await {
        others.push(one);
    }
    let waiting = (0..8).map(|_| run(&on_connected, "select '1'"));
    for answered in futures::future::join_all(waiting).await {
        assert_eq!(answered.unwrap(), "1", "one connection serves all");
    }
    assert_eq!(connected.mode(), Mode::Normal);
    assert_eq!(
        until_refusing(&late, &on_late).await,
        DegradedReason::TooManyConnections
    );
    drop(others);
    until_serving(&late).await;
    assert_eq!(run(&on_late, "select '1'").await.unwrap(), "1");
}
