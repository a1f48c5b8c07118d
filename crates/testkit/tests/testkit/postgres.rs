//! Each fault of the PostgreSQL server, and of PgBouncer before it, really happens.
#![allow(clippy::unwrap_used, reason = "test helpers")]

use std::time::Duration;

use holdfast_testkit::{PgBouncer, PostgresOptions, PostgresServer, eventually};

const SOON: Duration = Duration::from_secs(20);
const POLL: Duration = Duration::from_millis(5);
/// Only ever waited out where nothing may answer.
const SILENCE: Duration = Duration::from_millis(500);

async fn postgres() -> PostgresServer {
    PostgresServer::start_with(PostgresOptions::fast()).await.unwrap()
}

/// Waits until somebody else sleeps in a query.
async fn until_somebody_sleeps(postgres: &PostgresServer) {
    let sql =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE '%pg_sleep%' AND pid <> pg_backend_pid()";
    let sleeping = || async { (postgres.psql(sql).await.unwrap() == "1").then_some(()) };
    eventually("the sleeping session", SOON, POLL, sleeping)
        .await
        .unwrap();
}

#[tokio::test]
async fn the_default_is_as_durable_as_production() {
    let postgres = PostgresServer::start().await.unwrap();
    let settings = "SELECT string_agg(name || '=' || setting, ' ' ORDER BY name) FROM pg_settings \
                    WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes', 'max_connections')";
    assert_eq!(
        postgres.psql(settings).await.unwrap(),
        "fsync=on full_page_writes=on max_connections=100 synchronous_commit=on"
    );
}

#[tokio::test]
async fn options_reach_the_server() {
    let options = PostgresOptions::fast()
        .max_connections(7)
        .setting("statement_timeout", "1234");
    let postgres = PostgresServer::start_with(options).await.unwrap();
    let shown = postgres
        .psql("SHOW fsync; SHOW max_connections; SHOW statement_timeout")
        .await
        .unwrap();
    assert_eq!(shown, "off\n7\n1234ms");
}

#[tokio::test]
async fn tests_connect_as_an_ordinary_role_that_owns_its_database() {
    let postgres = postgres().await;
    let whoami =
        "SELECT current_user, current_database(), rolsuper FROM pg_roles WHERE rolname = current_user";
    assert_eq!(
        postgres.psql_at(&postgres.url(), whoami).await.unwrap(),
        "holdfast|holdfast|f"
    );
    let other = postgres.create_database("other").await.unwrap();
    postgres.psql_at(&other, "CREATE TABLE t (x int)").await.unwrap();
    assert_eq!(
        postgres.psql_in("other", "SELECT count(*) FROM t").await.unwrap(),
        "0"
    );
    postgres.psql("SELECT * FROM t").await.unwrap_err();
}

#[tokio::test]
async fn kill_loses_nothing_that_was_committed() {
    let postgres = postgres().await;
    let port = postgres.port();
    postgres
        .psql("CREATE TABLE t (x int); INSERT INTO t SELECT generate_series(1, 1000)")
        .await
        .unwrap();
    postgres.kill9().await.unwrap();
    assert!(!postgres.is_running().await.unwrap());
    let refused = postgres.psql("SELECT 1").await.unwrap_err().to_string();
    assert!(refused.contains("Connection refused"), "{refused}");
    postgres.start_again().await.unwrap();
    assert_eq!(postgres.psql("SELECT count(*) FROM t").await.unwrap(), "1000");
    assert_eq!(postgres.port(), port);
}

#[tokio::test]
async fn restart_ends_sessions_and_keeps_data() {
    let postgres = postgres().await;
    postgres.psql("CREATE TABLE t AS SELECT 1 AS x").await.unwrap();
    let url = postgres.url();
    let (slept, ()) = tokio::join!(postgres.psql_at(&url, "SELECT pg_sleep(600)"), async {
        until_somebody_sleeps(&postgres).await;
        postgres.restart().await.unwrap();
    });
    let error = slept.unwrap_err().to_string();
    assert!(error.contains("57P01"), "{error}");
    assert_eq!(postgres.psql("SELECT x FROM t").await.unwrap(), "1");
}

#[tokio::test]
async fn terminating_connections_ends_a_session_with_57p01() {
    let postgres = postgres().await;
    let url = postgres.url();
    let (slept, ended) = tokio::join!(postgres.psql_at(&url, "SELECT pg_sleep(600)"), async {
        until_somebody_sleeps(&postgres).await;
        postgres.terminate_connections().await.unwrap()
    });
    let error = slept.unwrap_err().to_string();
    assert!(error.contains("57P01"), "{error}");
    // The session that looked for the sleeper may still have been on its way out.
    assert!((1..=2).contains(&ended), "{ended}");
}

#[tokio::test]
async fn the_superuser_gets_in_when_ordinary_connections_are_used_up() {
    let options = PostgresOptions::fast().max_connections(4);
    let postgres = PostgresServer::start_with(options).await.unwrap();
    let url = postgres.url();
    // The one ordinary slot is refused as long as the superuser's own query holds a connection: so try until
    // it is had.
    let hold = async { while postgres.psql_at(&url, "SELECT pg_sleep(600)").await.is_err() {} };
    let check = async {
        until_somebody_sleeps(&postgres).await;
        let error = postgres.psql_at(&url, "SELECT 1").await.unwrap_err().to_string();
        assert!(
            error.contains("remaining connection slots are reserved"),
            "{error}"
        );
        assert_eq!(postgres.psql("SELECT 1").await.unwrap(), "1");
    };
    tokio::select! {
        () = hold => unreachable!("it sleeps longer than the test"),
        () = check => {}
    }
}

#[tokio::test]
async fn a_stopped_server_hangs_established_sessions_too_and_goes_on() {
    let postgres = postgres().await;
    let url = postgres.url();
    // The session is in the middle of a loop: only stopping the backend itself stops the counting.
    postgres.psql_at(&url, "CREATE SEQUENCE beats").await.unwrap();
    let beat = "DO $$ BEGIN LOOP PERFORM nextval('beats'); PERFORM pg_sleep(0.005); END LOOP; END $$";
    let session = postgres.psql_at(&url, beat);
    let check = async {
        let beats = || async {
            postgres
                .psql("SELECT last_value FROM beats")
                .await
                .unwrap()
                .parse::<u64>()
                .unwrap()
        };
        eventually("beats", SOON, POLL, || async {
            (beats().await > 3).then_some(())
        })
        .await
        .unwrap();
        postgres.sigstop().await.unwrap();
        let hangs = tokio::time::timeout(SILENCE, postgres.psql("SELECT 1")).await;
        assert!(hangs.is_err(), "a stopped server answered");
        for child in children(postgres.pid()) {
            // One that had just ended when the postmaster was stopped waits for it to be reaped.
            assert!(matches!(state(child), 'T' | 'Z'), "backend {child} runs");
        }
        postgres.sigcont().await.unwrap();
        let before = beats().await;
        eventually("more beats", SOON, POLL, || async {
            (beats().await > before).then_some(())
        })
        .await
        .unwrap();
        postgres.terminate_connections().await.unwrap();
    };
    let (ended, ()) = tokio::join!(session, check);
    ended.unwrap_err();
}

#[tokio::test]
async fn a_stopped_server_can_be_stopped_killed_and_dropped() {
    let postgres = postgres().await;
    postgres.sigstop().await.unwrap();
    postgres.stop().await.unwrap();
    postgres.start_again().await.unwrap();
    postgres.sigstop().await.unwrap();
    postgres.kill9().await.unwrap();
    postgres.start_again().await.unwrap();
    let family = [children(postgres.pid()), vec![postgres.pid()]].concat();
    assert!(family.len() > 3);
    postgres.sigstop().await.unwrap();
    drop(postgres);
    for pid in family {
        let gone = || async { (!is_alive(pid)).then_some(()) };
        eventually("the end of the server's processes", SOON, POLL, gone)
            .await
            .unwrap();
    }
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn no_shared_memory_outlives_a_server() {
    // By the pid of their creator (fifth column): ids are used again.
    let segments_of = |pid: u32| {
        let text = std::fs::read_to_string("/proc/sysvipc/shm").unwrap();
        text.lines()
            .filter(|line| line.split_whitespace().nth(4) == Some(&pid.to_string()))
            .count()
    };
    let killed = postgres().await;
    assert_eq!(segments_of(killed.pid()), 1);
    killed.kill9().await.unwrap();
    assert_eq!(segments_of(killed.pid()), 0);
    let dropped = postgres().await;
    let pid = dropped.pid();
    assert_eq!(segments_of(pid), 1);
    drop(dropped);
    assert_eq!(segments_of(pid), 0);
}

#[tokio::test]
async fn ten_servers_start_side_by_side() {
    let mut starting = tokio::task::JoinSet::new();
    for _ in 0..10 {
        starting.spawn(PostgresServer::start_with(PostgresOptions::fast()));
    }
    for server in starting.join_all().await {
        assert_eq!(server.unwrap().psql("SELECT 1").await.unwrap(), "1");
    }
}

#[tokio::test]
async fn pgbouncer_shares_server_connections_between_transactions() {
    let postgres = postgres().await;
    let bouncer = PgBouncer::start_with(&postgres, 1).await.unwrap();
    let pid = "SELECT pg_backend_pid()";
    let url = bouncer.url();
    let (first, second) = tokio::join!(postgres.psql_at(&url, pid), postgres.psql_at(&url, pid));
    assert_eq!(first.unwrap(), second.unwrap());
    let other = postgres.create_database("other").await.unwrap();
    assert_eq!(other, postgres.database_url("other"));
    let through = bouncer.database_url("other");
    assert_eq!(
        postgres
            .psql_at(&through, "SELECT current_database()")
            .await
            .unwrap(),
        "other"
    );
}

#[tokio::test]
async fn pgbouncer_can_be_killed_and_restarted_on_its_port() {
    let postgres = postgres().await;
    let bouncer = PgBouncer::start(&postgres).await.unwrap();
    bouncer.kill9().await.unwrap();
    postgres.psql_at(&bouncer.url(), "SELECT 1").await.unwrap_err();
    bouncer.restart().await.unwrap();
    assert_eq!(postgres.psql_at(&bouncer.url(), "SELECT 1").await.unwrap(), "1");
}

fn children(parent: u32) -> Vec<u32> {
    let output = std::process::Command::new("ps")
        .args(["-A", "-o", "pid=,ppid="])
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let pairs = text.lines().map(|line| {
        let numbers: Vec<u32> = line
            .split_whitespace()
            .map(|word| word.parse().unwrap())
            .collect();
        (numbers[0], numbers[1])
    });
    pairs
        .filter(|(_, its_parent)| *its_parent == parent)
        .map(|(pid, _)| pid)
        .collect()
}

/// The first letter of ps' state: T is stopped, Z a zombie.
fn state(pid: u32) -> char {
    let output = std::process::Command::new("ps")
        .args(["-o", "stat=", "-p", &pid.to_string()])
        .output()
        .unwrap();
    String::from_utf8(output.stdout)
        .unwrap()
        .trim()
        .chars()
        .next()
        .unwrap_or('-')
}

/// An orphan that init has not reaped yet is as dead as one that it has.
fn is_alive(pid: u32) -> bool {
    !matches!(state(pid), '-' | 'Z')
}

#[tokio::test]
async fn a_standby_that_takes_over_lacks_what_was_committed_after_it_was_detached() {
    let postgres = postgres().await;
    postgres
        .psql("create table notes (n integer); insert into notes values (1)")
        .await
        .unwrap();
    let standby = postgres.standby().await.unwrap();
    postgres.psql("insert into notes values (2)").await.unwrap();
    postgres.wait_for_standby(&standby).await.unwrap();
    standby.detach().await.unwrap();
    postgres.psql("insert into notes values (3)").await.unwrap();
    postgres.fail_over_to(standby).await.unwrap();
    let notes = postgres
        .psql("insert into notes values (4); select string_agg(n::text, ' ' order by n) from notes")
        .await
        .unwrap();
    assert_eq!(notes, "1 2 4");
}
