//! An installation is copied from SQLite to PostgreSQL: whole, resumed, compared; and goes on there.

mod fill;

use std::time::Duration;

use holdfast_testkit::place::{CommandOutput, Dev, Place};
use holdfast_testkit::{Child, PostgresServer, Receiver};
use serde_json::Value;
use sqlx::{AssertSqlSafe, Connection as _};

use crate::until;

use self::fill::{PAYLOAD, WAITING, installation, installation_in};

pub(super) const DEADLINE: Duration = Duration::from_mins(2);

/// Raises an error at the insert of the job of the lost worker: a copy fails there, with what it copied by then.
const FAIL_AT_A_JOB: &str = "
create function fail_here() returns trigger language plpgsql as $$ begin
    if new.id = 'abababab-abab-abab-abab-abababababab' then raise exception 'hunter2'; end if;
    return new;
end $$;
create trigger fail_here before insert on holdfast_jobs for each row execute function fail_here()";

async fn copy(place: &Place, to: &str, more: &[&str]) -> CommandOutput {
    let from = fill::url(place);
    place
        .run(&[&["copy", "--from", &from, "--to", to], more].concat())
        .await
}

async fn report(place: &Place, to: &str) -> Vec<Value> {
    let from = fill::url(place);
    let report = place.json(&["copy", "--from", &from, "--to", to]).await;
    report["tables"].as_array().unwrap().clone()
}

async fn migrate(to: &str) {
    let place = Place::new().with_env("DATABASE_URL", to);
    assert_eq!(place.run(&["migrate"]).await.code, Some(0));
}

fn sum(report: &[Value], field: &str) -> u64 {
    report.iter().map(|table| table[field].as_u64().unwrap()).sum()
}

#[tokio::test]
async fn every_table_is_copied_and_the_target_runs_what_waits_exactly_once() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let before = std::fs::read(fill::database(&place)).unwrap();
    let tables = report(&place, &postgres.url()).await;
    assert_eq!(
        before,
        std::fs::read(fill::database(&place)).unwrap(),
        "the source is only read"
    );

    let mut source = fill::open(&place).await;
    let mut expected = fill::tables(&mut source).await;
    expected.retain(|table| table != "holdfast_migrations");
    let mut copied: Vec<&str> = tables
        .iter()
        .map(|table| table["table"].as_str().unwrap())
        .collect();
    copied.sort_unstable();
    assert_eq!(copied, expected);
    for table in &tables {
        let name = table["table"].as_str().unwrap();
        let rows: i64 = sqlx::query_scalar(AssertSqlSafe(format!("select count(*) from {name}")))
            .fetch_one(&mut source)
            .await
            .unwrap();
        let there = postgres
            .psql(&format!("select count(*) from {name}"))
            .await
            .unwrap();
        for count in [&table["rows"], &table["copied"], &table["verified"]] {
            assert_eq!(count, &Value::from(rows), "{table}");
        }
        assert_eq!(there.trim(), rows.to_string(), "{name}");
    }
    source.close().await.unwrap();
    compare_by_hand(&postgres).await;

    let moved = Place::new().with_env("DATABASE_URL", postgres.url());
    runs_out(moved, &postgres, &receiver).await;
}

/// Services on the copy run everything that waits, each job once.
async fn runs_out(mut moved: Place, postgres: &PostgresServer, receiver: &Receiver) {
    receiver.clear();
    let dev = Dev::start(&mut moved).await;
    let resumed = moved.run(&["queues", "resume", "ml"]).await;
    assert_eq!(resumed.code, Some(0), "{}", resumed.text);
    receiver.wait_for_distinct(WAITING.len(), DEADLINE).await.unwrap();
    until("nothing runs any more", async || {
        let running = "select count(*) from holdfast_jobs where state = 'running' or state = 'available' and run_at < now()";
        postgres.psql(running).await.unwrap().trim() == "0"
    })
    .await;
    dev.stop().await;
    let mut ids = receiver.ids();
    ids.sort_unstable();
    assert_eq!(ids, WAITING);
    assert_eq!(receiver.duplicates(), []);
}

/// Values that a conversion could spoil, as another client reads them.
async fn compare_by_hand(postgres: &PostgresServer) {
    let cases = [
        (
            "select payload::text from holdfast_jobs where id = 'eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee'",
            PAYLOAD,
        ),
        (
            "select extract(epoch from created_at)::numeric(20, 6) from holdfast_jobs where id = 'eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee'",
            "1700000000.123000",
        ),
        (
            "select extract(epoch from recorded_at)::numeric(20, 6) || ' ' || lat || ' ' || lon from holdfast_points",
            "1780308000.123456 0.1 -11.4",
        ),
        (
            "select extract(epoch from full_at)::numeric(20, 6) from holdfast_limit_buckets",
            "1700000000.123457",
        ),
        ("select words @> array['jazz', 'donau'] from holdfast_events", "t"),
        ("select paused from holdfast_queues where name = 'ml'", "t"),
    ];
    for (sql, expected) in cases {
        assert_eq!(postgres.psql(sql).await.unwrap().trim(), expected, "{sql}");
    }
}

#[tokio::test]
async fn encrypted_values_are_copied_as_they_are_and_open_with_the_same_keys() {
    const KEYS: &str = "one:AAECAwQFBgcICQoLDA0ODxAREhMUFRYXGBkaGxwdHh8=";
    let keys = |place: Place| place.with_env("HOLDFAST_ENCRYPTION_KEYS", KEYS);
    let receiver = Receiver::start().await.unwrap();
    let place = installation_in(keys(Place::new()), &receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    // The copy opens nothing, so it needs no keys.
    let from = fill::url(&place);
    let to = postgres.url();
    let copied = Place::new().run(&["copy", "--from", &from, "--to", &to]).await;
    assert_eq!(copied.code, Some(0), "{}", copied.text);

    let sealed = "select count(*) from holdfast_jobs where {} like '%$sealed:1:one:%'";
    let there = postgres
        .psql(&sealed.replace("{}", "payload::text"))
        .await
        .unwrap();
    let mut source = fill::open(&place).await;
    let here: i64 = sqlx::query_scalar(AssertSqlSafe(sealed.replace("{}", "payload")))
        .fetch_one(&mut source)
        .await
        .unwrap();
    source.close().await.unwrap();
    assert!(here > 0, "the URLs of `http.request` are encrypted");
    assert_eq!(there.trim(), here.to_string());

    let moved = keys(Place::new().with_env("DATABASE_URL", &to));
    runs_out(moved, &postgres, &receiver).await;
}

#[tokio::test]
async fn an_interrupted_copy_goes_on_and_a_row_that_was_changed_since_is_named() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let to = postgres.url();
    migrate(&to).await;
    postgres.psql(FAIL_AT_A_JOB).await.unwrap();

    let failed = copy(&place, &to, &[]).await;
    assert_eq!(failed.code, Some(1), "{}", failed.text);
    assert!(
        failed
            .text
            .contains("holdfast_jobs: the target refuses row id=abababab"),
        "{}",
        failed.text
    );
    assert!(!failed.text.contains("hunter2"), "{}", failed.text);
    let earlier: u64 = postgres
        .psql("select count(*) from holdfast_jobs")
        .await
        .unwrap()
        .trim()
        .parse()
        .unwrap();
    assert!(earlier > 0, "the rows before it are there");

    postgres
        .psql("drop trigger fail_here on holdfast_jobs")
        .await
        .unwrap();
    let tables = report(&place, &to).await;
    let jobs = tables
        .iter()
        .find(|table| table["table"] == "holdfast_jobs")
        .unwrap();
    assert_eq!(
        jobs["copied"].as_u64().unwrap(),
        jobs["rows"].as_u64().unwrap() - earlier
    );
    assert_eq!(sum(&tables, "verified"), sum(&tables, "rows"));
    let again = report(&place, &to).await;
    assert_eq!(sum(&again, "copied"), 0, "a copy that is done writes nothing");

    let secret =
        "update holdfast_jobs set payload = '\"hunter2\"' where id = 'eeeeeeee-eeee-eeee-eeee-eeeeeeeeeeee'";
    postgres.psql(secret).await.unwrap();
    let found = copy(&place, &to, &[]).await;
    assert_eq!(found.code, Some(1), "{}", found.text);
    let named = format!(
        "holdfast_jobs, row id={}: column payload differs",
        "ee".repeat(16)
    );
    assert!(found.text.contains(&named), "{}", found.text);
    assert!(!found.text.contains("hunter2"), "{}", found.text);
}

/// A copy that waits before its first job, having copied the tables before, until the connection lets go of the lock.
async fn halted(place: &Place, to: &str) -> (Child, sqlx::PgConnection) {
    migrate(to).await;
    let mut lock = sqlx::PgConnection::connect(to).await.unwrap();
    sqlx::raw_sql("begin; lock table holdfast_jobs in exclusive mode")
        .execute(&mut lock)
        .await
        .unwrap();
    let from = fill::url(place);
    let child = place.start(&["copy", "--from", &from, "--to", to]);
    child.wait_for_line("trying again", DEADLINE).await.unwrap();
    (child, lock)
}

#[tokio::test]
async fn a_copy_whose_process_is_killed_goes_on() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let (mut child, mut lock) = halted(&place, &postgres.url()).await;
    child.sigkill().await.unwrap();
    sqlx::raw_sql("rollback").execute(&mut lock).await.unwrap();

    let tables = report(&place, &postgres.url()).await;
    assert!(
        sum(&tables, "copied") < sum(&tables, "rows"),
        "the first run had copied something"
    );
    assert_eq!(sum(&tables, "verified"), sum(&tables, "rows"));
}

#[tokio::test]
async fn a_source_that_is_written_during_the_copy_is_an_error_at_its_end() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let (mut child, mut lock) = halted(&place, &postgres.url()).await;
    let mut source = fill::open(&place).await;
    sqlx::query("update holdfast_tracks set name = 'renamed'")
        .execute(&mut source)
        .await
        .unwrap();
    source.close().await.unwrap();
    sqlx::raw_sql("rollback").execute(&mut lock).await.unwrap();
    let status = child.wait_exit(DEADLINE).await.unwrap();
    let printed = child.printed(DEADLINE).await.unwrap().text;
    assert_eq!(status.code(), Some(1), "{printed}");
    assert!(
        printed.contains("something wrote to the source while it was copied"),
        "{printed}"
    );
}

#[tokio::test]
async fn a_value_that_the_target_changes_is_found_by_the_comparison() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let to = postgres.url();
    migrate(&to).await;
    postgres
        .psql("create function spoil() returns trigger language plpgsql as $$ begin new.name := 'spoilt'; return new; end $$;
               create trigger spoil before insert on holdfast_tracks for each row execute function spoil()")
        .await
        .unwrap();
    let found = copy(&place, &to, &[]).await;
    assert_eq!(found.code, Some(1), "{}", found.text);
    assert!(
        found
            .text
            .contains("the copy differs from the source: holdfast_tracks, row id="),
        "{}",
        found.text
    );
    assert!(found.text.contains("column name differs"), "{}", found.text);

    let mut dropping = sqlx::PgConnection::connect(&to).await.unwrap();
    sqlx::raw_sql(
        "drop trigger spoil on holdfast_tracks; delete from holdfast_points; delete from holdfast_tracks;
         create function lose() returns trigger language plpgsql as $$ begin return null; end $$;
         create trigger lose before insert on holdfast_tracks for each row execute function lose();
         alter table holdfast_points drop constraint holdfast_points_track_id_fkey",
    )
    .execute(&mut dropping)
    .await
    .unwrap();
    let found = copy(&place, &to, &[]).await;
    assert_eq!(found.code, Some(1), "{}", found.text);
    assert!(
        found.text.contains("holdfast_tracks: the target has no row id="),
        "{}",
        found.text
    );
}

#[tokio::test]
async fn what_must_not_be_copied_is_refused_before_a_row_is_written() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let refused = async |to: &str, expected: &str| {
        let ended = copy(&place, to, &[]).await;
        assert_eq!(ended.code, Some(1), "{}", ended.text);
        assert!(ended.text.contains(expected), "{}", ended.text);
        assert!(!ended.text.contains("copied"), "{}", ended.text);
    };

    let used = postgres.create_database("used").await.unwrap();
    migrate(&used).await;
    postgres
        .psql_in("used", "insert into holdfast_queues (name) values ('theirs')")
        .await
        .unwrap();
    refused(&used, "the target is not empty: holdfast_queues has 1 rows").await;

    let differs = postgres.create_database("differs").await.unwrap();
    migrate(&differs).await;
    postgres
        .psql_in("differs", "alter table holdfast_tracks add column colour text; create table holdfast_more (id uuid primary key)")
        .await
        .unwrap();
    refused(&differs, "the source has no column holdfast_tracks.colour").await;
    refused(&differs, "the source has no table holdfast_more").await;

    refused("sqlite:///tmp/other.db", "--to must be a postgres:// URL").await;
    let missing = place
        .run(&["copy", "--from", "sqlite:///nowhere/holdfast.db", "--to", &used])
        .await;
    assert!(
        missing
            .text
            .contains("there is no database at /nowhere/holdfast.db"),
        "{}",
        missing.text
    );

    let fresh = "update holdfast_workers set seen_at = cast(unixepoch('subsec') * 1000 as integer) + 3600000";
    let mut source = fill::open(&place).await;
    sqlx::query(fresh).execute(&mut source).await.unwrap();
    refused(&postgres.url(), "worker lost of the source sent a heartbeat").await;
    let forced = copy(&place, &postgres.url(), &["--force"]).await;
    assert_eq!(forced.code, Some(0), "{}", forced.text);

    sqlx::query("delete from holdfast_migrations where version = 25")
        .execute(&mut source)
        .await
        .unwrap();
    let behind = copy(&place, &used, &["--force"]).await;
    assert!(
        behind
            .text
            .contains("run `holdfast migrate` on it first (lacks 0025)"),
        "{}",
        behind.text
    );
    source.close().await.unwrap();
}

#[tokio::test]
async fn a_table_that_a_later_migration_adds_is_copied_and_its_sequence_goes_on() {
    let receiver = Receiver::start().await.unwrap();
    let place = installation(&receiver).await;
    let postgres = PostgresServer::start().await.unwrap();
    let to = postgres.url();
    migrate(&to).await;
    let mut source = fill::open(&place).await;
    sqlx::raw_sql(
        "create table holdfast_added (id integer primary key, note text);
         with recursive n (id) as (select 1 union all select id + 1 from n where id < 1200)
         insert into holdfast_added select id, 'note ' || id from n",
    )
    .execute(&mut source)
    .await
    .unwrap();
    source.close().await.unwrap();
    // Made by the owner, as a migration would.
    let mut owner = sqlx::PgConnection::connect(&to).await.unwrap();
    sqlx::raw_sql(
        "create table public.holdfast_added (id bigint generated always as identity primary key, note text)",
    )
    .execute(&mut owner)
    .await
    .unwrap();
    let tables = report(&place, &to).await;
    let added = tables
        .iter()
        .find(|table| table["table"] == "holdfast_added")
        .unwrap();
    assert_eq!(added["verified"], 1200);
    let next: i64 =
        sqlx::query_scalar("insert into public.holdfast_added (note) values ('next') returning id")
            .fetch_one(&mut owner)
            .await
            .unwrap();
    assert_eq!(next, 1201);
}

#[tokio::test]
async fn the_tables_that_are_not_copied_exist_and_hold_nothing_of_the_source() {
    let postgres = PostgresServer::start().await.unwrap();
    migrate(&postgres.url()).await;
    for (table, reason) in holdfast_ops::copy::NOT_COPIED {
        let there = format!("select to_regclass('{table}') is not null");
        assert_eq!(
            postgres.psql(&there).await.unwrap().trim(),
            "t",
            "{table}: {reason}"
        );
    }
}
