//! SQL fails, alone and together with Redis.
//!
//! The same witnesses as in `chaos_redis`. While SQL is away nothing can be promised to a ledger queue, so what is
//! checked is honesty: 503 with `Retry-After`, and never "not accepted" for a job that runs nevertheless. What was
//! accepted before still runs, once: outcomes are held, and rescuers wait until contact was unbroken for a while.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not as expected must stop the test at once"
)]

use crate::chaos_support;

use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::Result;
use chaos_support::{
    Firewall, HEALTH_ANSWERS, LIMIT, QUEUES, SLACK, WARM, assert_fetching_again, figure, figures, millis,
    pids, repeated, steady, until, usual, weather,
};
use holdfast_testkit::{
    Child, Mode, PgBouncer, PostgresOptions, Receiver, binary, bytes_contain, eventually, http,
};
use holdfast_tests::{
    API_KEY, Answer, Cluster, Dependency, Expect, Load, Repeat, Report, Role, Setup, Target,
};
use serde_json::{Value, json};

const POLL: Duration = Duration::from_millis(50);

async fn conclude(cluster: &mut Cluster, scenario: &str) -> Report {
    let report = cluster.conclude(scenario, &Expect::new()).await.unwrap();
    figures(cluster, &report);
    report.assert();
    report
}

/// One job for `queue` through an API of its own connection: status, `Retry-After`, body.
async fn ask(cluster: &Cluster, api: usize, queue: &str) -> (u16, Option<String>, String) {
    let job = json!({"kind": "debug.echo", "queue": queue, "payload": {}});
    let response = cluster.client(api).post_json("/v1/jobs", &job).await.unwrap();
    (
        response.status,
        response.header("retry-after").map(str::to_owned),
        response.text(),
    )
}

async fn assert_refused_politely(cluster: &Cluster, queue: &str) {
    let began = Instant::now();
    let (status, retry_after, body) = ask(cluster, 0, queue).await;
    assert_eq!(status, 503, "{body}");
    let seconds: u64 = retry_after.expect("a Retry-After header").parse().unwrap();
    assert!((1..=60).contains(&seconds), "Retry-After: {seconds}");
    assert!(
        began.elapsed() < Duration::from_secs(10) + SLACK,
        "refused only after {:?}",
        began.elapsed()
    );
}

// --- PostgreSQL comes back --------------------------------------------------------------------------------------------

#[tokio::test]
async fn postgres_restarted_under_load_loses_and_repeats_nothing() {
    let mut cluster = usual().start().await.unwrap();
    let scenario = "PostgreSQL restarted";
    weather(
        &mut cluster,
        scenario,
        Dependency::Sql,
        Duration::ZERO,
        async |cluster| cluster.postgres().stop().await,
        async |cluster| cluster.postgres().start_again().await,
    )
    .await
    .unwrap();
    conclude(&mut cluster, scenario).await;
}

#[tokio::test]
async fn postgres_killed_under_load_loses_and_repeats_nothing() {
    let mut cluster = usual().start().await.unwrap();
    let scenario = "PostgreSQL killed";
    weather(
        &mut cluster,
        scenario,
        Dependency::Sql,
        Duration::from_secs(2),
        async |cluster| cluster.postgres().kill9().await,
        async |cluster| cluster.postgres().start_again().await,
    )
    .await
    .unwrap();
    conclude(&mut cluster, scenario).await;
}

#[tokio::test]
async fn connections_terminated_by_the_administrator_are_replaced_unnoticed() {
    let scenario = "57P01 under load";
    let mut cluster = usual().start().await.unwrap();
    let load = cluster.load(steady());
    for round in 1..=5 {
        load.wait_for_accepted(round * WARM, LIMIT).await.unwrap();
        assert!(cluster.postgres().terminate_connections().await.unwrap() > 0);
    }
    load.wait_for_accepted(6 * WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario).await;
    assert_eq!((report.refused, report.unanswered), (0, 0), "a producer noticed");
}

#[tokio::test]
async fn postgres_away_for_twenty_seconds_is_answered_with_503_and_nothing_is_lost() {
    let scenario = "PostgreSQL away for 20 s";
    let lost_after = Duration::from_secs(6);
    let builder = usual()
        .env("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "2")
        .env("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "6");
    let mut cluster = builder.start().await.unwrap();
    let before = pids(&mut cluster);
    // Running when the ledger goes, done while it is away: their outcomes have to be held.
    cluster
        .enqueue(
            Load::new()
                .queues(&QUEUES)
                .count(20)
                .target(Target::Slow(Duration::from_secs(3))),
        )
        .await
        .unwrap();
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    cluster.postgres().stop().await.unwrap();
    let away = Instant::now();
    tokio::time::sleep(Duration::from_secs(5)).await;
    assert_refused_politely(&cluster, "default").await;
    // Redis takes what belongs to it.
    let (status, _, body) = ask(&cluster, 1, "bulk").await;
    assert_eq!(status, 202, "{body}");
    assert!(body.contains(r#""durability":"redis""#), "{body}");
    let health = cluster.client(0).get("/health").await.unwrap();
    assert_eq!(
        (health.status, health.json::<Value>().unwrap()["status"].as_str()),
        (503, Some("unhealthy"))
    );
    assert_eq!(cluster.client(0).get("/health/live").await.unwrap().status, 200);
    tokio::time::sleep(Duration::from_secs(20).saturating_sub(away.elapsed())).await;
    cluster.fault_ends();
    cluster.postgres().start_again().await.unwrap();
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    load.stop().await.unwrap();
    cluster.settle(LIMIT).await.unwrap();
    // A rescuer that believed the silence of living workers would act now.
    tokio::time::sleep(lost_after + Duration::from_secs(2)).await;
    let report = conclude(&mut cluster, scenario).await;
    assert_eq!(repeated(&cluster), []);
    assert!(report.refused > 0);
    assert_eq!(pids(&mut cluster), before);
    assert!(
        cluster.health().longest() <= HEALTH_ANSWERS + SLACK,
        "{:?}",
        cluster.health().longest()
    );
}

/// A retry belongs into the ledger. While that is away, the failed attempt is held, and neither forgotten nor repeated.
#[tokio::test]
async fn jobs_of_redis_queues_that_fail_while_sql_is_away_are_retried_when_it_is_back() {
    let scenario = "redis jobs fail while SQL is away";
    let mut cluster = usual().start().await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    cluster.postgres().stop().await.unwrap();
    let ids: Vec<String> = (0..20).map(|_| cluster.record.next_id()).collect();
    for id in &ids {
        let url = cluster.receiver.url(&format!("/fail-then-ok/1/once?id={id}"));
        let job = json!({"kind": "http.request", "queue": "bulk", "payload": {"url": url}});
        let response = cluster.client(0).post_json("/v1/jobs", &job).await.unwrap();
        assert_eq!(response.status, 202, "{}", response.text());
    }
    cluster
        .receiver
        .wait_for_distinct(ids.len(), LIMIT)
        .await
        .unwrap();
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(
        ids.iter().all(|id| cluster.receiver.count(id) == 1),
        "nobody could know of a second attempt"
    );
    cluster.fault_ends();
    cluster.postgres().start_again().await.unwrap();
    until("every second attempt", LIMIT, async || {
        ids.iter().all(|id| cluster.receiver.count(id) == 2)
    })
    .await
    .unwrap();
    conclude(&mut cluster, scenario).await;
    assert!(ids.iter().all(|id| cluster.receiver.count(id) == 2));
}

// --- PostgreSQL is there, and silent ----------------------------------------------------------------------------------

#[tokio::test]
async fn postgres_stopped_for_eight_seconds_hangs_no_request() {
    let mut cluster = usual().start().await.unwrap();
    let scenario = "PostgreSQL SIGSTOP for 8 s";
    weather(
        &mut cluster,
        scenario,
        Dependency::Sql,
        Duration::from_secs(8),
        async |cluster| cluster.postgres().sigstop().await,
        async |cluster| cluster.postgres().sigcont().await,
    )
    .await
    .unwrap();
    conclude(&mut cluster, scenario).await;
    assert!(
        cluster.health().longest() <= HEALTH_ANSWERS + SLACK,
        "{:?}",
        cluster.health().longest()
    );
}

#[tokio::test]
async fn sql_connections_that_died_silently_are_replaced_while_new_ones_work() {
    let scenario = "SQL: established connections dead, new ones live";
    let mut cluster = usual().prepare().await.unwrap();
    let firewall = Firewall::before(cluster.postgres().addr()).await.unwrap();
    cluster.env(
        "DATABASE_URL",
        &format!("postgres://holdfast@{}/holdfast", firewall.addr()),
    );
    cluster.start_all().await.unwrap();
    cluster.enqueue(steady().count(WARM)).await.unwrap();
    firewall.forget_connections();
    assert_fetching_again(&cluster, scenario, &["default"]).await;
    conclude(&mut cluster, scenario).await;
}

// --- no connection to be had ------------------------------------------------------------------------------------------

#[tokio::test]
async fn an_exhausted_server_is_answered_with_503_and_used_again_when_it_has_room() {
    let scenario = "server out of connections (53300)";
    let options = PostgresOptions::fast().max_connections(40);
    let mut cluster = usual().postgres_options(options).start().await.unwrap();
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    let hog = take_all_connections(&cluster).await.unwrap();
    until("a request to be refused", LIMIT, async || {
        ask(&cluster, 0, "default").await.0 == 503
    })
    .await
    .unwrap();
    assert_refused_politely(&cluster, "default").await;
    cluster.fault_ends();
    drop(hog);
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario).await;
}

/// Takes every connection that is free, then those of the processes as they are thrown out.
async fn take_all_connections(cluster: &Cluster) -> Result<Vec<sqlx::PgConnection>> {
    use sqlx::Connection;
    let url = cluster.postgres().url();
    let mut taken = Vec::new();
    let began = Instant::now();
    while taken.len() < 37 {
        anyhow::ensure!(
            began.elapsed() < LIMIT,
            "only {} connections could be had",
            taken.len()
        );
        if let Ok(mut connection) = sqlx::PgConnection::connect(&url).await {
            sqlx::query("SET application_name = 'hog'")
                .execute(&mut connection)
                .await?;
            taken.push(connection);
        } else {
            let others = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                          WHERE application_name = 'holdfast'";
            cluster.postgres().psql(others).await?;
        }
    }
    Ok(taken)
}

#[tokio::test]
async fn a_pool_exhausted_by_a_locked_table_hangs_no_request_and_tells_no_lie() {
    let scenario = "pool exhausted by a lock";
    let builder = usual().env("HOLDFAST__DATABASE__MAX_CONNECTIONS", "4");
    let mut cluster = builder.start().await.unwrap();
    let load = cluster.load(steady().queues(&["default"]));
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    let locked = "BEGIN; LOCK TABLE holdfast_jobs IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(12); COMMIT";
    cluster.postgres().psql(locked).await.unwrap();
    cluster.fault_ends();
    assert_fetching_again(&cluster, scenario, &["default"]).await;
    load.stop().await.unwrap();
    // What was refused as "not accepted" must not run now that the lock is gone: `conclude` looks.
    let report = conclude(&mut cluster, scenario).await;
    assert!(report.refused > 0, "the lock was not noticed");
    assert!(
        cluster.health().longest() <= HEALTH_ANSWERS + SLACK,
        "{:?}",
        cluster.health().longest()
    );
}

// --- half-accepted ----------------------------------------------------------------------------------------------------

/// The commit happens, its answer is lost, and then nobody can be asked for longer than the API is patient.
#[tokio::test]
async fn a_commit_whose_reply_is_lost_in_an_outage_is_not_called_refused() {
    let scenario = "commit applied, reply lost, outage";
    let mut cluster = usual().postgres_proxy().start().await.unwrap();
    let proxy = std::sync::Arc::clone(cluster.postgres_proxy());
    // One job at a time, one cut each time: the answer to its insert, and everything after it.
    for _ in 0..2 {
        proxy.cut_reply_when(|request| bytes_contain(request, b"http.request"), 1);
        let cuts = proxy.stats().cut_replies;
        let load = cluster.load(Load::new().producers(1).count(1));
        proxy.wait_for_cuts(cuts + 1, LIMIT).await.unwrap();
        proxy.set_mode(Mode::Refuse).await.unwrap();
        load.finish().await.unwrap();
        proxy.cut_no_more();
        proxy.set_mode(Mode::Forward).await.unwrap();
        assert_fetching_again(&cluster, scenario, &["default"]).await;
    }
    conclude(&mut cluster, scenario).await;
}

/// The claim is committed, and its worker never learns what it holds.
#[tokio::test]
async fn a_claim_whose_reply_is_cut_runs_its_jobs_once() {
    const CUTS: u64 = 4;
    let scenario = "reply cut: claim";
    // So that every statement carries its text.
    let builder = usual()
        .postgres_proxy()
        .env("HOLDFAST__DATABASE__PREPARED_STATEMENTS", "false");
    let mut cluster = builder.start().await.unwrap();
    let load = cluster.load(steady().queues(&["default"]));
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    let proxy = std::sync::Arc::clone(cluster.postgres_proxy());
    // Only the first claim of a connection carries the statement's text: so these are new ones.
    proxy.cut_reply_when(
        |request| bytes_contain(request, b"for update skip locked) as due"),
        CUTS,
    );
    proxy.set_mode(Mode::Reset).await.unwrap();
    proxy.set_mode(Mode::Forward).await.unwrap();
    proxy.wait_for_cuts(CUTS, LIMIT).await.unwrap();
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario).await;
    assert_eq!(repeated(&cluster), []);
}

/// Whatever SQL was asked for and did: nobody may build on having heard the answer.
#[tokio::test]
async fn any_sql_reply_may_be_cut_and_nothing_is_lost_or_repeated() {
    const CUTS: u64 = 40;
    let scenario = "replies cut: any SQL";
    let mut cluster = usual().postgres_proxy().start().await.unwrap();
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    let proxy = std::sync::Arc::clone(cluster.postgres_proxy());
    let asked = std::sync::atomic::AtomicU64::new(0);
    // Every seventh, so that whatever is repeated gets through.
    let every_seventh = move |_: &[u8]| {
        asked
            .fetch_add(1, std::sync::atomic::Ordering::Relaxed)
            .is_multiple_of(7)
    };
    proxy.cut_reply_when(every_seventh, CUTS);
    proxy.wait_for_cuts(CUTS, LIMIT).await.unwrap();
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario).await;
    assert_eq!(repeated(&cluster), []);
}

/// A producer that repeats with its `Idempotency-Key` gets every job accepted, once.
#[tokio::test]
async fn repeating_with_the_same_key_through_an_outage_enqueues_each_job_once() {
    let scenario = "outage, producers repeat with their key";
    let mut cluster = usual().postgres_proxy().start().await.unwrap();
    let repeat = Repeat::SameKey(LIMIT);
    let load = cluster.load(steady().queues(&["default"]).repeat(repeat));
    for round in 1..=3 {
        load.wait_for_accepted(round * WARM, LIMIT).await.unwrap();
        let proxy = cluster.postgres_proxy();
        proxy.cut_reply_when(|request| bytes_contain(request, b"http.request"), 5);
        proxy.set_mode(Mode::Reset).await.unwrap();
        tokio::time::sleep(Duration::from_secs(1)).await;
        proxy.set_mode(Mode::Forward).await.unwrap();
    }
    load.wait_for_accepted(4 * WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario).await;
    assert_eq!(repeated(&cluster), []);
    assert_eq!(
        cluster
            .ledger()
            .rows()
            .await
            .unwrap()
            .iter()
            .filter(|row| row.own.starts_with('j'))
            .count(),
        cluster.record.accepted_count()
    );
}

// --- poolers ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn everything_works_behind_pgbouncer_in_transaction_mode() {
    let scenario = "behind PgBouncer, transaction mode";
    let mut cluster = usual().prepare().await.unwrap();
    let bouncer = PgBouncer::start_with(cluster.postgres(), 6).await.unwrap();
    if !bouncer.carries_prepared_statements() {
        cluster.env("HOLDFAST__DATABASE__PREPARED_STATEMENTS", "false");
    }
    cluster.env("DATABASE_URL", &bouncer.url());
    cluster.env("DATABASE_DIRECT_URL", &cluster.postgres().url());
    cluster.start_all().await.unwrap();
    cluster
        .enqueue(steady().per_second(400.0).count(1_000))
        .await
        .unwrap();
    // The pooler is restarted like anything else.
    cluster.fault_begins(scenario, Dependency::Sql);
    bouncer.kill9().await.unwrap();
    cluster.fault_ends();
    bouncer.restart().await.unwrap();
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    cluster
        .enqueue(steady().per_second(400.0).count(400))
        .await
        .unwrap();
    let report = conclude(&mut cluster, scenario).await;
    assert_eq!((report.refused, report.unanswered), (0, 0));
}

// --- both -------------------------------------------------------------------------------------------------------------

/// Who comes back first.
enum First {
    Redis,
    Sql,
}

async fn both_away(scenario: &str, first: First) {
    let mut cluster = usual().redis_proxy().start().await.unwrap();
    cluster
        .enqueue(
            Load::new()
                .queues(&QUEUES)
                .count(10)
                .target(Target::Slow(Duration::from_secs(2))),
        )
        .await
        .unwrap();
    let load = cluster.load(steady());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Redis);
    // A network outage: Redis keeps its memory.
    cluster.redis_proxy().set_mode(Mode::Refuse).await.unwrap();
    cluster.postgres().stop().await.unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    tokio::join!(
        assert_refused_politely(&cluster, QUEUES[0]),
        assert_refused_politely(&cluster, QUEUES[1])
    );
    match first {
        First::Redis => {
            cluster.fault_ends();
            cluster.redis_proxy().set_mode(Mode::Forward).await.unwrap();
            cluster.wait_until_back(LIMIT).await.unwrap();
            until("redis queues to be accepted", LIMIT, async || {
                ask(&cluster, 0, "bulk").await.0 == 202
            })
            .await
            .unwrap();
            cluster.postgres().start_again().await.unwrap();
        }
        First::Sql => {
            cluster.postgres().start_again().await.unwrap();
            until("both queues to be accepted", LIMIT, async || {
                ask(&cluster, 0, "bulk").await.0 == 202 && ask(&cluster, 1, "default").await.0 == 202
            })
            .await
            .unwrap();
            cluster.fault_ends();
            cluster.redis_proxy().set_mode(Mode::Forward).await.unwrap();
            cluster.wait_until_back(LIMIT).await.unwrap();
        }
    }
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario).await;
    assert_eq!(repeated(&cluster), []);
}

#[tokio::test]
async fn both_away_and_redis_back_first_loses_nothing() {
    both_away("both away, Redis back first", First::Redis).await;
}

#[tokio::test]
async fn both_away_and_sql_back_first_loses_nothing() {
    both_away("both away, SQL back first", First::Sql).await;
}

// --- SQLite -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_sqlite_file_that_another_process_holds_is_refused_with_503_and_used_again_when_it_is_free() {
    use sqlx::Connection;
    use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
    let scenario = "SQLite held by another process";
    let mut cluster = Cluster::builder(Setup::Sqlite)
        .apis(2)
        .workers(2)
        .start()
        .await
        .unwrap();
    let path = cluster
        .ledger()
        .query("select file from pragma_database_list where name = 'main'")
        .await
        .unwrap();
    let load = cluster.load(steady().queues(&["default"]).per_second(100.0));
    for round in 1..=2 {
        load.wait_for_accepted(round * WARM, LIMIT).await.unwrap();
        let options = SqliteConnectOptions::new().filename(&path).busy_timeout(LIMIT);
        let mut other = SqliteConnection::connect_with(&options).await.unwrap();
        sqlx::query("BEGIN IMMEDIATE").execute(&mut other).await.unwrap();
        for api in 0..2 {
            until("the API to refuse jobs", LIMIT, async || {
                ask(&cluster, api, "default").await.0 == 503
            })
            .await
            .unwrap();
        }
        assert_refused_politely(&cluster, "default").await;
        sqlx::query("COMMIT").execute(&mut other).await.unwrap();
        assert_fetching_again(&cluster, scenario, &["default"]).await;
    }
    load.wait_for_accepted(3 * WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario).await;
    assert_eq!(report.unanswered, 0);
}

/// `holdfast dev` whose files may not grow beyond a limit that the test sets: what a full disk does, without being
/// root. SIGXFSZ is ignored across exec, so that a write beyond the limit fails as it does without space.
#[tokio::test]
async fn a_full_disk_refuses_jobs_and_takes_them_again_when_there_is_room() {
    let scenario = "SQLite, no room to write";
    let dir = tempfile::tempdir().unwrap();
    let receiver = Receiver::start().await.unwrap();
    let shell = Child::program("/bin/sh")
        .args(["-c", r#"trap '' XFSZ; exec "$0" dev"#])
        .arg(binary("holdfast").unwrap())
        .current_dir(dir.path())
        .env("PORT", "0")
        .env("HOLDFAST_API_KEY", API_KEY)
        .env("HOLDFAST__SERVER__HOST", "127.0.0.1")
        .env("HOLDFAST__LOG__FORMAT", "json");
    let mut child = shell.named("holdfast dev").start().unwrap();
    let addr = child.listening_addr(LIMIT).await.unwrap();
    let enqueue = async |id: &str| {
        let job = json!({"kind": "http.request", "payload": {"url": receiver.hit_url(id)}});
        let mut client = http::Client::new(addr).with_bearer(API_KEY).with_deadline(LIMIT);
        client.post_json("/v1/jobs", &job).await.unwrap()
    };
    eventually("the first job to be accepted", LIMIT, POLL, async || {
        (enqueue("first").await.status == 202).then_some(())
    })
    .await
    .unwrap();
    receiver.wait_for_hits("first", 1, LIMIT).await.unwrap();
    limit_files(child.pid(), "1");
    let mut refused = Vec::new();
    for number in 0..2 {
        let id = format!("full{number}");
        let began = Instant::now();
        let response = enqueue(&id).await;
        assert_eq!(response.status, 503, "{}", response.text());
        assert!(response.header("retry-after").is_some());
        assert!(began.elapsed() < Duration::from_secs(10) + SLACK);
        refused.push((id, response.text()));
    }
    let health = http::get(addr, "/health/live").await.unwrap();
    assert_eq!(health.status, 200);
    let roomy = Instant::now();
    limit_files(child.pid(), "unlimited");
    eventually("jobs to be accepted again", LIMIT, POLL, async || {
        (enqueue("again").await.status == 202).then_some(())
    })
    .await
    .unwrap();
    receiver.wait_for_hits("again", 1, LIMIT).await.unwrap();
    figure(
        scenario,
        "accepting and executing again after",
        millis(roomy.elapsed()),
    );
    for (id, answer) in refused {
        let executed = receiver.count(&id);
        assert!(
            executed == 0 || !answer.contains("not accepted"),
            "{id} ran {executed} times after {answer}"
        );
    }
    assert_eq!((receiver.count("first"), receiver.count("again")), (1, 1));
    assert!(child.is_running().unwrap());
}

/// Sets the soft limit of the size of files that a process may write.
fn limit_files(pid: u32, soft: &str) {
    let status = std::process::Command::new("prlimit")
        .args([format!("--pid={pid}"), format!("--fsize={soft}:")])
        .stdin(Stdio::null())
        .status()
        .expect("prlimit of util-linux");
    assert!(status.success());
}

#[tokio::test]
async fn a_worker_that_starts_before_its_database_waits_for_it() {
    let scenario = "PostgreSQL down before start";
    let mut cluster = usual().prepare().await.unwrap();
    cluster.postgres().stop().await.unwrap();
    cluster.launch_all().unwrap();
    tokio::time::sleep(Duration::from_secs(3)).await;
    let before = pids(&mut cluster);
    cluster.postgres().start_again().await.unwrap();
    let back = Instant::now();
    cluster.wait_ready().await.unwrap();
    figure(
        scenario,
        "all processes ready after the database",
        millis(back.elapsed()),
    );
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    assert_eq!(pids(&mut cluster), before);
    conclude(&mut cluster, scenario).await;
    let answers = cluster.record.requests();
    assert!(
        answers
            .iter()
            .all(|asked| !matches!(asked.answer, Answer::Refused { status: 500, .. }))
    );
    assert_eq!(cluster.worker(0).role, Role::Worker);
}
