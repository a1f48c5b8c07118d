//! PostgreSQL as it is in production: restarted, terminating sessions, hanging, behind a pooler.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at what it did not expect"
)]

use std::time::{Duration, Instant};

use holdfast_core::config::{DatabaseSettings, Sources, load_from};
use holdfast_core::failure::{FailureClass, classify_sql};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, MigrationReport, PostgresDatabase, SqlError, migrate, migrate_within};
use holdfast_testkit::{FaultProxy, Mode, PgBouncer, PostgresServer, free_port};
use secrecy::SecretString;
use sqlx::Connection;

const DEADLINE: Duration = Duration::from_mins(1);

fn settings_of(url: &str) -> DatabaseSettings {
    let mut settings = load_from(Sources::default()).unwrap().database;
    settings.url = SecretString::from(url);
    settings.max_connections = 4;
    settings
}

fn pool(database: &Database) -> &PostgresDatabase {
    match database {
        Database::Postgres(pool) => pool,
        Database::Sqlite(_) => panic!("embedded"),
    }
}

/// Runs a statement until it succeeds, as the callers do with idempotent ones; how many tries failed before.
async fn failures_until_success(database: &Database) -> usize {
    let trying = async {
        for failures in 0.. {
            match sqlx::query("SELECT 1").execute(pool(database)).await {
                Ok(_) => return failures,
                Err(error) => assert_eq!(classify_sql(&error).class, FailureClass::Transient, "{error:?}"),
            }
        }
        unreachable!()
    };
    tokio::time::timeout(DEADLINE, trying).await.unwrap()
}

/// Opens every connection that the pool may have.
async fn fill(database: &Database) {
    let mut held = Vec::new();
    for _ in 0..database.pool_stats().max {
        held.push(pool(database).acquire().await.unwrap());
    }
    drop(held);
    let back = || async { (database.pool_stats().idle == database.pool_stats().max).then_some(()) };
    holdfast_testkit::eventually("all came to rest", DEADLINE, Duration::from_millis(5), back)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_pool_opens_before_its_server_and_is_ready_once_that_is() {
    let postgres = PostgresServer::start().await.unwrap();
    postgres.stop().await.unwrap();
    let database = Database::open(&settings_of(&postgres.url())).unwrap();
    let error = database
        .wait_until_ready(Duration::from_millis(300), &Shutdown::new())
        .await
        .unwrap_err();
    assert!(error.is_transient(), "{error:?}");
    let shutdown = Shutdown::new();
    let (ready, started) = tokio::join!(
        database.wait_until_ready(DEADLINE, &shutdown),
        postgres.start_again()
    );
    started.unwrap();
    ready.unwrap();
    assert!(database.ping(DEADLINE).await.unwrap() < DEADLINE);
    assert_eq!(database.kind(), "postgres");
}

#[tokio::test]
async fn waiting_ends_at_once_when_the_process_stops() {
    let postgres = PostgresServer::start().await.unwrap();
    postgres.stop().await.unwrap();
    let database = Database::open(&settings_of(&postgres.url())).unwrap();
    let shutdown = Shutdown::new();
    let waiting = database.wait_until_ready(DEADLINE, &shutdown);
    let stopping = async { shutdown.trigger() };
    let (waited, ()) = tokio::join!(waiting, stopping);
    assert!(matches!(waited, Err(SqlError::Stopped)));
}

#[tokio::test]
async fn a_database_that_does_not_exist_is_told_at_once() {
    let postgres = PostgresServer::start().await.unwrap();
    let database = Database::open(&settings_of(&postgres.database_url("nowhere"))).unwrap();
    let error = database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap_err();
    assert!(error.is_refused(), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn many_processes_may_migrate_at_once_and_one_does() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = settings_of(&postgres.url());
    let pending = Database::open(&settings)
        .unwrap()
        .pending_migrations()
        .await
        .unwrap();
    assert_eq!(pending[0], "0001_jobs");
    let runs: Vec<_> = (0..8)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { migrate(&settings).await.unwrap().applied })
        })
        .collect();
    let mut working = Vec::new();
    for run in runs {
        working.extend(Some(run.await.unwrap()).filter(|applied| !applied.is_empty()));
    }
    assert_eq!(working, [pending]);
    let again = migrate(&settings).await.unwrap();
    assert_eq!(again.applied, [""; 0]);
    assert!(
        Database::open(&settings)
            .unwrap()
            .pending_migrations()
            .await
            .unwrap()
            .is_empty()
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_transaction_pooler_is_enough_to_migrate_and_to_work() {
    let postgres = PostgresServer::start().await.unwrap();
    // Two server connections for many clients: a session lock or setting would end up with a stranger.
    let bouncer = PgBouncer::start_with(&postgres, 2).await.unwrap();
    let mut settings = settings_of(&bouncer.url());
    settings.max_connections = 8;
    let runs: Vec<_> = (0..4)
        .map(|_| {
            let settings = settings.clone();
            tokio::spawn(async move { migrate(&settings).await.unwrap().applied.len() })
        })
        .collect();
    let mut working = 0;
    for run in runs {
        working += usize::from(run.await.unwrap() > 0);
    }
    assert_eq!(working, 1);
    let locks = postgres
        .psql("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'")
        .await
        .unwrap();
    assert_eq!(locks, "0");
    let database = Database::open(&settings).unwrap();
    database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap();
    for _ in 0..16 {
        assert!(database.pending_migrations().await.unwrap().is_empty());
    }
}

#[tokio::test]
async fn migrations_take_the_direct_url() {
    let postgres = PostgresServer::start().await.unwrap();
    let direct = postgres.create_database("direct").await.unwrap();
    let mut settings = settings_of(&postgres.url());
    settings.direct_url = Some(SecretString::from(direct));
    migrate(&settings).await.unwrap();
    let tables = |database: &'static str| {
        let postgres = &postgres;
        async move {
            let sql = "SELECT count(*) FROM pg_tables WHERE tablename = 'holdfast_jobs'";
            postgres.psql_in(database, sql).await.unwrap()
        }
    };
    assert_eq!(
        (tables("direct").await, tables("holdfast").await),
        ("1".to_owned(), "0".to_owned())
    );
}

#[tokio::test]
async fn a_failed_migration_leaves_nothing_of_itself_behind_and_those_before_it_applied() {
    let postgres = PostgresServer::start().await.unwrap();
    // A table of that name is in the way of what 0002 does last but one.
    let (create, drop) = (
        "CREATE TABLE public.holdfast_users (id int)",
        "DROP TABLE public.holdfast_users",
    );
    postgres.psql(create).await.unwrap();
    let settings = settings_of(&postgres.url());
    let error = migrate(&settings).await.unwrap_err();
    assert!(
        matches!(
            error,
            SqlError::Migration {
                migration: "0002_accounts",
                ..
            }
        ) && !error.is_transient(),
        "{error:?}"
    );
    let applied = "SELECT string_agg(name, ',') FROM holdfast_migrations";
    assert_eq!(postgres.psql(applied).await.unwrap(), "0001_jobs");
    let column = "SELECT count(*) FROM information_schema.columns WHERE column_name = 'rotated_at'";
    assert_eq!(postgres.psql(column).await.unwrap(), "0");
    postgres.psql(drop).await.unwrap();
    let report = migrate(&settings).await.unwrap();
    assert_eq!(
        (report.applied[0].as_str(), report.already_applied),
        ("0002_accounts", 1)
    );
}

#[tokio::test]
async fn a_lock_that_is_held_delays_the_migration_and_nobody_else() {
    let postgres = PostgresServer::start().await.unwrap();
    migrated_to(&postgres, 11).await;
    let settings = settings_of(&postgres.url());
    let database = Database::open(&settings).unwrap();
    let mut writing = pool(&database).begin().await.unwrap();
    sqlx::raw_sql("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *writing)
        .await
        .unwrap();
    sqlx::query("LOCK TABLE holdfast_jobs IN ROW EXCLUSIVE MODE")
        .execute(&mut *writing)
        .await
        .unwrap();
    let migrating = tokio::spawn({
        let settings = settings.clone();
        async move { migrate(&settings).await }
    });
    // It asks for the lock, gives up, and asks again: writes go through in between, however long the transaction is open.
    for _ in 0..2 {
        until_waiting(&database, true).await;
        sqlx::query("UPDATE holdfast_jobs SET attempt = attempt")
            .execute(pool(&database))
            .await
            .unwrap();
        until_waiting(&database, false).await;
    }
    assert!(!migrating.is_finished());
    writing.rollback().await.unwrap();
    let report = migrating.await.unwrap().unwrap();
    assert_eq!(report.applied[0], "0012_cancelling");
}

#[tokio::test]
async fn another_process_migrates_once_the_lease_of_one_that_stopped_has_ended() {
    let postgres = PostgresServer::start().await.unwrap();
    migrated_to(&postgres, 11).await;
    let settings = settings_of(&postgres.url());
    let database = Database::open(&settings).unwrap();
    postgres
        .psql_at(
            &postgres.url(),
            "CREATE TABLE holdfast_migrator (id smallint PRIMARY KEY CHECK (id = 1), holder text NOT NULL,
                 held_until timestamptz NOT NULL, version bigint, position text);
             INSERT INTO holdfast_migrator VALUES (1, 'frozen', now() + interval '1 hour')",
        )
        .await
        .unwrap();
    let waited = migrate_within(&settings, Duration::from_secs(2))
        .await
        .unwrap_err();
    assert!(matches!(waited, SqlError::Deadline { .. }), "{waited:?}");
    assert_eq!(database.pending_migrations().await.unwrap()[0], "0012_cancelling");
    postgres
        .psql("UPDATE holdfast_migrator SET held_until = now() - interval '1 second'")
        .await
        .unwrap();
    assert_eq!(migrate(&settings).await.unwrap().applied[0], "0012_cancelling");
}

#[tokio::test]
async fn a_release_that_migrates_in_one_transaction_and_this_one_take_turns() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = settings_of(&postgres.url());
    let database = Database::open(&settings).unwrap();
    // As releases before 0013 do it: all of it under this lock.
    let mut old = pool(&database).begin().await.unwrap();
    sqlx::raw_sql("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *old)
        .await
        .unwrap();
    sqlx::raw_sql("SELECT pg_advisory_xact_lock(x'686f6c6466617374'::bigint)")
        .execute(&mut *old)
        .await
        .unwrap();
    let migrating = tokio::spawn({
        let settings = settings.clone();
        async move { migrate(&settings).await }
    });
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'advisory'";
    until(&database, waits, 1).await;
    assert_eq!(database.pending_migrations().await.unwrap()[0], "0001_jobs");
    old.rollback().await.unwrap();
    assert_eq!(migrating.await.unwrap().unwrap().applied[0], "0001_jobs");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_backfill_that_was_cut_is_continued_and_no_write_fails_meanwhile() {
    let postgres = PostgresServer::start().await.unwrap();
    migrated_to(&postgres, 14).await;
    let settings = settings_of(&postgres.url());
    let database = Database::open(&settings).unwrap();
    let rows = "INSERT INTO holdfast_jobs (id, queue, kind, run_at, max_attempts, timeout_ms, payload)
         SELECT gen_random_uuid(), 'default', 'notify.email', now(), 1, 1000, jsonb_build_object('user', 'u' || n)
         FROM generate_series(1, 20000) AS n";
    sqlx::query(rows).execute(pool(&database)).await.unwrap();
    let cut = tokio::spawn(migrating(&settings));
    let begun = "SELECT count(*) FROM holdfast_migrator WHERE version = 16 AND position IS NOT NULL";
    until(&database, begun, 1).await;
    cut.abort();
    assert!(cut.await.unwrap_err().is_cancelled());
    let left = "SELECT count(*) FROM holdfast_jobs WHERE payload_json IS NULL";
    let left: i64 = sqlx::query_scalar(left).fetch_one(pool(&database)).await.unwrap();
    assert!(left > 0, "it was cut in the middle");
    // What the process that was cut leaves is its lease.
    sqlx::query("UPDATE holdfast_migrator SET held_until = now()")
        .execute(pool(&database))
        .await
        .unwrap();
    let again = tokio::spawn(migrating(&settings));
    let mut written = 0;
    let mut client = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    sqlx::raw_sql("SET lock_timeout = '5s'")
        .execute(&mut client)
        .await
        .unwrap();
    while !again.is_finished() || written == 0 {
        sqlx::query(
            "INSERT INTO holdfast_jobs (id, queue, kind, run_at, max_attempts, timeout_ms, payload)
             VALUES (gen_random_uuid(), 'default', 'k', now(), 1, 1000, '{\"user\": \"late\"}'::jsonb)",
        )
        .execute(&mut client)
        .await
        .unwrap();
        written += 1;
    }
    let report = again.await.unwrap().unwrap();
    assert_eq!(
        (report.already_applied, report.applied[0].as_str()),
        (15, "0016_json_jobs")
    );
    let whole = "SELECT count(*) FROM holdfast_jobs WHERE json_typeof(payload -> 'user') = 'string'";
    until(&database, whole, 20_000 + written).await;
    until(&database, INVALID_INDEXES, 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_index_build_that_was_cut_ends_on_the_server_and_the_next_run_builds_it_anew() {
    let postgres = PostgresServer::start().await.unwrap();
    migrated_to(&postgres, 14).await;
    let settings = settings_of(&postgres.url());
    let database = Database::open(&settings).unwrap();
    // A build waits for every snapshot that is older than it.
    let mut client = sqlx::PgConnection::connect(&postgres.url()).await.unwrap();
    let mut old = client.begin().await.unwrap();
    sqlx::raw_sql("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        .execute(&mut *old)
        .await
        .unwrap();
    let cut = tokio::spawn(migrating(&settings));
    until(&database, INVALID_INDEXES, 1).await;
    cut.abort();
    assert!(cut.await.unwrap_err().is_cancelled());
    let builds =
        "SELECT count(*) FROM pg_stat_activity WHERE state = 'active' AND query LIKE 'create index%'";
    until(&database, builds, 0).await;
    until(&database, INVALID_INDEXES, 1).await;
    old.rollback().await.unwrap();
    sqlx::query("UPDATE holdfast_migrator SET held_until = now()")
        .execute(pool(&database))
        .await
        .unwrap();
    assert_eq!(migrate(&settings).await.unwrap().applied[0], "0018_json_indexes");
    until(&database, INVALID_INDEXES, 0).await;
    let built =
        "SELECT count(*) FROM pg_indexes WHERE indexname IN ('holdfast_jobs_user', 'holdfast_jobs_address')";
    until(&database, built, 2).await;
}

const INVALID_INDEXES: &str = "SELECT count(*) FROM pg_index WHERE NOT indisvalid";

fn migrating(
    settings: &DatabaseSettings,
) -> impl Future<Output = Result<MigrationReport, SqlError>> + Send + 'static {
    let settings = settings.clone();
    async move { migrate(&settings).await }
}

/// The role has a schema of its name, which would be first in its search path.
#[tokio::test]
async fn later_migrations_and_the_release_before_make_tables_beside_the_others_although_the_role_has_a_schema()
 {
    let postgres = PostgresServer::start().await.unwrap();
    migrate(&settings_of(&postgres.url())).await.unwrap();
    // As the release before looks for its tables, and makes those that it does not find.
    let url = postgres.url();
    let as_before = "create table if not exists holdfast_migrations (version bigint primary key)";
    postgres.psql_at(&url, as_before).await.unwrap();
    let refused = postgres
        .psql_at(&url, "create table holdfast.other (id bigint)")
        .await;
    assert!(
        refused
            .unwrap_err()
            .to_string()
            .contains("permission denied for schema holdfast")
    );
    // A migration is applied again, now that the schema is there; on a connection that has it first.
    let undo = "alter role holdfast in database holdfast reset search_path";
    postgres.psql(undo).await.unwrap();
    let undo = "drop table holdfast_catalogue; drop function holdfast_install_enqueue_1();
                delete from holdfast_migrations where version = 30";
    postgres.psql(undo).await.unwrap();
    migrate(&settings_of(&postgres.url())).await.unwrap();
    let elsewhere =
        "select count(*) from pg_tables where tablename like 'holdfast\\_%' and schemaname <> 'public'";
    assert_eq!(postgres.psql(elsewhere).await.unwrap(), "0");
    let made = "select to_regclass('public.holdfast_catalogue') is not null";
    assert_eq!(postgres.psql(made).await.unwrap(), "t");
}

/// Applies the first migrations as an older release did, and records them.
async fn migrated_to(postgres: &PostgresServer, last: usize) {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../../migrations/postgres");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    postgres
        .psql_at(
            &postgres.url(),
            "CREATE TABLE holdfast_migrations (version bigint PRIMARY KEY, name text NOT NULL, checksum text NOT NULL,
                 applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP)",
        )
        .await
        .unwrap();
    for (file, version) in files[..last].iter().zip(1..) {
        let sql = std::fs::read_to_string(file).unwrap();
        let name = file.file_stem().unwrap().to_string_lossy();
        let entry = format!(
            "INSERT INTO holdfast_migrations (version, name, checksum)
             VALUES ({version}, '{name}', encode(sha256(convert_to($file${sql}$file$, 'UTF8')), 'hex'))"
        );
        postgres.psql_at(&postgres.url(), &sql).await.unwrap();
        postgres.psql_at(&postgres.url(), &entry).await.unwrap();
    }
}

async fn until_waiting(database: &Database, waiting: bool) {
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted AND relation = 'holdfast_jobs'::regclass";
    until(database, waits, i64::from(waiting)).await;
}

/// Waits until a statement counts so many.
async fn until(database: &Database, sql: &'static str, count: i64) {
    holdfast_testkit::eventually(sql, DEADLINE, Duration::from_millis(5), || async {
        let found: i64 = sqlx::query_scalar(sql).fetch_one(pool(database)).await.ok()?;
        (found == count).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn connections_terminated_while_in_use_cost_at_most_one_failure_each() {
    let postgres = PostgresServer::start().await.unwrap();
    let database = Database::open(&settings_of(&postgres.url())).unwrap();
    fill(&database).await;
    assert_eq!(postgres.terminate_connections().await.unwrap(), 4);
    let failures = failures_until_success(&database).await;
    assert!(failures <= 4, "{failures}");
}

#[tokio::test]
async fn connections_terminated_while_idle_cost_nobody_a_failure() {
    let postgres = PostgresServer::start().await.unwrap();
    let database = Database::open(&settings_of(&postgres.url())).unwrap();
    fill(&database).await;
    postgres.restart().await.unwrap();
    // Time is what makes a connection idle: there is nothing else to wait for.
    tokio::time::sleep(Duration::from_millis(1100)).await;
    assert_eq!(failures_until_success(&database).await, 0);
}

#[tokio::test]
async fn abandoned_statements_on_a_cut_wire_do_not_hold_the_pool() {
    let postgres = PostgresServer::start().await.unwrap();
    let proxy = FaultProxy::for_postgres(&postgres).await.unwrap();
    let database = Database::open(&settings_of(&proxy.url_for(&postgres.url()))).unwrap();
    fill(&database).await;
    proxy.set_mode(Mode::BlackHole).await.unwrap();
    let statement = || {
        let query = sqlx::query("SELECT 1").execute(pool(&database));
        tokio::time::timeout(Duration::from_millis(200), query)
    };
    let abandoned = tokio::join!(statement(), statement(), statement(), statement());
    assert!(abandoned.0.is_err() && abandoned.1.is_err() && abandoned.2.is_err() && abandoned.3.is_err());
    // As after a failover: what was sent into the hole is never answered, but new connections are.
    let freed = holdfast_testkit::eventually(
        "every place is free",
        DEADLINE,
        Duration::from_millis(20),
        || async { (database.pool_stats().size == 0).then_some(()) },
    );
    freed.await.unwrap();
    proxy.set_mode(Mode::Forward).await.unwrap();
    assert_eq!(failures_until_success(&database).await, 0);
}

#[tokio::test]
async fn a_hanging_server_is_met_within_the_deadline_and_forgiven() {
    let postgres = PostgresServer::start().await.unwrap();
    let database = Database::open(&settings_of(&postgres.url())).unwrap();
    fill(&database).await;
    postgres.sigstop().await.unwrap();
    let started = Instant::now();
    let error = database.ping(Duration::from_millis(300)).await.unwrap_err();
    assert!(
        matches!(error, SqlError::Deadline { .. }) && error.is_transient(),
        "{error:?}"
    );
    assert!(started.elapsed() < Duration::from_secs(3));
    postgres.sigcont().await.unwrap();
    database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap();
}

#[tokio::test]
async fn a_wrong_password_is_told_without_showing_it() {
    let postgres = PostgresServer::start().await.unwrap();
    // The server trusts loopback, so the wrong half is the user; the password must not surface either way.
    let url = postgres.url().replace("holdfast@", "nobody:hunter2@");
    let settings = settings_of(&url);
    let database = Database::open(&settings).unwrap();
    let error = database
        .wait_until_ready(DEADLINE, &Shutdown::new())
        .await
        .unwrap_err();
    assert!(error.is_refused(), "{error:?}");
    let shown = format!("{error} {error:?} {database:?} {settings:?}");
    assert!(!shown.contains("hunter2"), "{shown}");
    let expected = format!(
        "the database at 127.0.0.1:{} (DATABASE_URL) does not accept the user, the password or the name of the database",
        postgres.port()
    );
    assert_eq!(error.to_string(), expected);
}

#[tokio::test]
async fn a_server_that_cannot_be_reached_is_named_with_its_setting() {
    let closed = free_port().unwrap();
    let url = format!("postgres://holdfast:hunter2@127.0.0.1:{closed}/holdfast");
    let settings = settings_of(&url);
    let refuses = format!("the database at 127.0.0.1:{closed} (DATABASE_URL) refuses the connection");
    let database = Database::open(&settings).unwrap();
    assert_eq!(database.ping(DEADLINE).await.unwrap_err().to_string(), refuses);
    assert_eq!(
        database.pending_migrations().await.unwrap_err().to_string(),
        refuses
    );
    let unknown = Database::open(&settings_of("postgres://holdfast@no-such-host.invalid/holdfast")).unwrap();
    assert_eq!(
        unknown.ping(DEADLINE).await.unwrap_err().to_string(),
        "the database at no-such-host.invalid:5432 (DATABASE_URL) cannot be found or reached"
    );
    // Migrations go to the direct URL, where there is one.
    let settings = DatabaseSettings {
        direct_url: Some(settings.url.clone()),
        ..settings_of("postgres://holdfast@127.0.0.1:1/holdfast")
    };
    let error = migrate_within(&settings, Duration::from_secs(2))
        .await
        .unwrap_err();
    let shown = error.to_string();
    assert!(
        shown.starts_with(&format!(
            "the database at 127.0.0.1:{closed} (DATABASE_UNPOOLED_URL)"
        )),
        "{shown}"
    );
    assert!(!format!("{error:?}").contains("hunter2"));
}
