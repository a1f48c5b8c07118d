//! Nothing is down, and something is late: rows that somebody locks, processes and servers that freeze and go on, statements
//! that take longer than anyone waits, connections that are used up, a clock that steps back.
//!
//! The witnesses are those of the other scenarios. Beyond them: while the fault lasts, every queue whose jobs are not concerned
//! goes on (each scenario keeps its fault until it has seen that), and the server never has more connections than the pools
//! of all processes together may have ([`most_connections`]).
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not as expected must stop the test at once"
)]

use crate::chaos_support;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use chaos_support::{
    HEALTH_ANSWERS, LIMIT, SLACK, WARM, assert_fetching_again, figure, figures, millis, probe, repeated,
    until,
};
use holdfast_testkit::{PostgresOptions, PostgresServer};
use holdfast_tests::{
    Cluster, ClusterBuilder, Dependency, Durability, Expect, Load, Report, Role, Setup, StallingDisk,
    SteppingClock, Target,
};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tokio::task::JoinHandle;

/// Queues of the ledger.
const THREE: [&str; 3] = ["default", "second", "third"];
/// Connections of each process' pool.
const POOL: usize = 6;
/// The fault lasts at least so long: longer than any bound of the client or the server.
const WHILE: Duration = Duration::from_secs(6);
/// Jobs of each queue that must be executed while a fault lasts.
const GOES_ON: usize = 25;
/// Two APIs and two workers.
const PROCESSES: usize = 4;
const POLL: Duration = Duration::from_millis(50);

fn three_queues() -> ClusterBuilder {
    Cluster::builder(Setup::PostgresRedis)
        .apis(2)
        .workers(2)
        .queue("second", Durability::Ledger)
        .queue("third", Durability::Ledger)
        .short_leases()
        .env("HOLDFAST__DATABASE__MAX_CONNECTIONS", &POOL.to_string())
}

/// Some jobs are running whenever something happens.
fn on_three_queues() -> Load {
    Load::new()
        .queues(&THREE)
        .producers(6)
        .per_second(90.0)
        .target(Target::Mixed {
            every: 5,
            slow: Duration::from_millis(400),
        })
}

async fn conclude(cluster: &mut Cluster, scenario: &str, expect: &Expect) -> Report {
    let report = cluster.conclude(scenario, expect).await.unwrap();
    figures(cluster, &report);
    report.assert();
    report
}

/// A session of somebody else, as superuser.
async fn foreigner(postgres: &PostgresServer) -> PgConnection {
    let url = format!("postgres://postgres@{}/holdfast", postgres.addr());
    PgConnection::connect(&url).await.unwrap()
}

async fn run(on: &mut PgConnection, sql: &str) {
    sqlx::raw_sql(AssertSqlSafe(sql.to_owned()))
        .execute(on)
        .await
        .unwrap();
}

/// What the pools of all processes may have open together, with one connection each that asks whether the server is there
/// and ends what was given up.
const fn most_connections() -> usize {
    PROCESSES * (POOL + 1)
}

/// Counts the connections of Holdfast's role, all the time.
struct ConnectionWatch {
    most: Arc<AtomicUsize>,
    watching: JoinHandle<()>,
}

impl ConnectionWatch {
    async fn start(postgres: &PostgresServer) -> Self {
        let most = Arc::new(AtomicUsize::new(0));
        let seen = Arc::clone(&most);
        let mut on = foreigner(postgres).await;
        let watching = tokio::spawn(async move {
            let sql = "select count(*) from pg_stat_activity where usename = 'holdfast'";
            // Ends with the server.
            while let Ok(count) = sqlx::query_scalar::<_, i64>(sql).fetch_one(&mut on).await {
                seen.fetch_max(usize::try_from(count).unwrap_or_default(), Ordering::Relaxed);
                tokio::time::sleep(POLL).await;
            }
        });
        Self { most, watching }
    }

    fn assert(self, scenario: &str) {
        self.watching.abort();
        let most = self.most.load(Ordering::Relaxed);
        figure(scenario, "connections at most", most);
        assert!(most <= most_connections(), "{scenario}: {most} connections");
    }
}

/// Jobs of the load that were executed, by queue.
fn executed(cluster: &Cluster) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for (id, accepted) in cluster.record.accepted() {
        *counts.entry(accepted.queue).or_default() += usize::from(cluster.receiver.count(&id) > 0);
    }
    counts
}

/// The fault is there, and stays for [`WHILE`] and until each of these queues has executed [`GOES_ON`] more jobs; how long
/// the slowest of them stood still at most is a figure.
async fn assert_goes_on(cluster: &Cluster, scenario: &str, queues: &[&str]) {
    let began = Instant::now();
    let before = executed(cluster);
    let of = |counts: &BTreeMap<String, usize>, queue: &str| counts.get(queue).copied().unwrap_or_default();
    let mut last: BTreeMap<&str, (usize, Instant)> = queues
        .iter()
        .map(|queue| (*queue, (of(&before, queue), began)))
        .collect();
    let mut standstill = Duration::ZERO;
    loop {
        let now = executed(cluster);
        for queue in queues {
            let (count, since) = last[queue];
            standstill = standstill.max(since.elapsed());
            if of(&now, queue) > count {
                last.insert(queue, (of(&now, queue), Instant::now()));
            }
        }
        let all = queues
            .iter()
            .all(|queue| of(&now, queue) >= of(&before, queue) + GOES_ON);
        if all && began.elapsed() >= WHILE {
            break;
        }
        assert!(
            began.elapsed() < LIMIT,
            "{scenario}: a queue stands still while the fault lasts: {before:?} → {now:?}"
        );
        tokio::time::sleep(POLL).await;
    }
    figure(
        scenario,
        "longest standstill of a queue not concerned",
        millis(standstill),
    );
}

async fn post(cluster: &Cluster, path: &str, body: &Value) -> Value {
    let response = cluster.client(0).post_json(path, body).await.unwrap();
    assert!(
        matches!(response.status, 200 | 202),
        "{path}: {} {}",
        response.status,
        response.text()
    );
    response.json().unwrap()
}

/// A batch of slow jobs with a callback.
async fn batch(cluster: &Cluster, queue: &str, jobs: usize) -> String {
    let jobs: Vec<Value> = (0..jobs)
        .map(|number| {
            let url = cluster
                .receiver
                .url(&format!("/slow/300?id=member-{queue}-{number}"));
            json!({"kind": "http.request", "queue": queue, "payload": {"url": url}})
        })
        .collect();
    let url = cluster.receiver.hit_url(&format!("callback-{queue}"));
    let callback = json!({"kind": "http.request", "queue": queue, "payload": {"url": url}});
    let made = post(
        cluster,
        "/v1/batches",
        &json!({"jobs": jobs, "callback": callback}),
    )
    .await;
    made["id"].as_str().unwrap().to_owned()
}

/// Every job of the batch is counted as completed, and its callback ran once.
async fn assert_batch_ends(cluster: &Cluster, id: &str, queue: &str, jobs: usize) {
    until("the batch to end", LIMIT, async || {
        let shown = cluster.client(0).get(&format!("/v1/batches/{id}")).await;
        shown.is_ok_and(|shown| shown.json::<Value>().is_ok_and(|shown| shown["state"] == "ended"))
    })
    .await
    .unwrap();
    let shown: Value = cluster
        .client(0)
        .get(&format!("/v1/batches/{id}"))
        .await
        .unwrap()
        .json()
        .unwrap();
    assert_eq!(shown["completed"], json!(jobs), "{shown}");
    let callback = format!("callback-{queue}");
    cluster.receiver.wait_for_hits(&callback, 1, LIMIT).await.unwrap();
    assert_eq!(cluster.receiver.count(&callback), 1);
}

async fn ask(cluster: &Cluster, sql: &str) -> String {
    cluster.postgres().psql(sql).await.unwrap()
}

const ORPHANS: &str = "select count(*) from holdfast_jobs as j where j.state = 'running'
                       and not exists (select from holdfast_workers as w where w.id = j.worker)";

// --- locked -----------------------------------------------------------------------------------------------------------

/// Somebody's open transaction holds one running job and one batch. Their outcomes wait; nothing else does.
#[tokio::test]
async fn a_foreign_transaction_on_one_job_and_one_batch_delays_these_alone() {
    let scenario = "a foreign lock on a job and a batch";
    let mut cluster = three_queues().start().await.unwrap();
    let watch = ConnectionWatch::start(cluster.postgres()).await;
    let load = cluster.load(on_three_queues());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    let id = batch(&cluster, "second", 20).await;
    let mut other = foreigner(cluster.postgres()).await;
    run(&mut other, "begin; select from holdfast_batches for update").await;
    let locked = async || {
        let rows = sqlx::query(
            "select id from holdfast_jobs where state = 'running' and batch_id is null limit 1 for update skip locked",
        );
        rows.fetch_optional(&mut other).await.unwrap().is_some()
    };
    until("a running job to lock", LIMIT, locked).await.unwrap();
    assert_goes_on(&cluster, scenario, &THREE).await;
    run(&mut other, "rollback").await;
    load.stop().await.unwrap();
    assert_batch_ends(&cluster, &id, "second", 20).await;
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(repeated(&cluster), [], "the locked job's lease was never lost");
    watch.assert(scenario);
}

// --- frozen -----------------------------------------------------------------------------------------------------------

/// The state letter of a process, as the kernel tells it.
fn is_stopped(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| rest.starts_with('T'))
}

/// More than the places of one worker, so that each of the two gets some.
const MEMBERS: usize = 120;

/// The first worker stops itself at `point`; the queues go on without it, and it goes on later.
async fn a_worker_stops_itself(
    scenario: &str,
    point: &str,
    builder: ClusterBuilder,
    prepare: impl AsyncFnOnce(&Cluster),
) -> Cluster {
    let mut cluster = builder
        .env_of(Role::Worker, 0, "HOLDFAST_FAILPOINT", &format!("stop@{point}"))
        .start()
        .await
        .unwrap();
    let watch = ConnectionWatch::start(cluster.postgres()).await;
    let load = cluster.load(on_three_queues());
    prepare(&cluster).await;
    let pid = cluster.worker(0).pid().unwrap();
    until("the worker to stop itself", LIMIT, async || is_stopped(pid))
        .await
        .unwrap();
    // It is stopped already: what it holds is noted.
    cluster.sigstop(Role::Worker, 0).await.unwrap();
    assert_goes_on(&cluster, scenario, &THREE).await;
    cluster.sigcont(Role::Worker, 0).unwrap();
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    watch.assert(scenario);
    cluster
}

/// Between the count of a batch and the commit: it holds the rows of the batch and of the jobs.
#[tokio::test]
async fn a_worker_frozen_between_count_and_commit_stops_no_queue_and_counts_once() {
    let scenario = "SIGSTOP between count and commit";
    let mut id = String::new();
    let made = &mut id;
    let prepare = async |cluster: &Cluster| *made = batch(cluster, "default", MEMBERS).await;
    let mut cluster = a_worker_stops_itself(scenario, "tied:1", three_queues(), prepare).await;
    assert_batch_ends(&cluster, &id, "default", MEMBERS).await;
    conclude(&mut cluster, scenario, &Expect::new().lease_loss()).await;
}

/// With the places of a limited queue in its hands.
#[tokio::test]
async fn a_worker_frozen_with_the_places_of_a_limited_queue_stops_it_no_longer_than_a_lease() {
    let scenario = "SIGSTOP after a limited claim";
    // One worker cannot take all places: that both hold jobs shows at the end that neither is deaf.
    let builder = three_queues()
        .env("HOLDFAST__QUEUES__SECOND__MAX_RUNNING", "12")
        .env("HOLDFAST__QUEUES__SECOND__CONCURRENCY", "8");
    let mut cluster = a_worker_stops_itself(scenario, "claim:20", builder, async |_| {}).await;
    conclude(&mut cluster, scenario, &Expect::new().lease_loss()).await;
    // Those of the final burst too.
    cluster.settle_idle(LIMIT).await.unwrap();
}

// --- late -------------------------------------------------------------------------------------------------------------

/// Case E1, seen from outside: claims of ten jobs take five seconds, and their client waits four. Another queue, whose
/// statements are as quick as ever, goes on.
#[tokio::test]
async fn claims_that_take_longer_than_their_client_waits_lose_no_job() {
    let scenario = "claims slower than their deadline";
    let mut cluster = three_queues().start().await.unwrap();
    let watch = ConnectionWatch::start(cluster.postgres()).await;
    let quick = ["second", "third"];
    let load = cluster.load(on_three_queues().queues(&quick));
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    post(&cluster, "/v1/queues/default/pause", &json!({})).await;
    let jobs: Vec<Value> = (0..10)
        .map(|number| json!({"kind": "http.request", "payload": {"url": cluster.receiver.hit_url(&format!("late-{number}"))}}))
        .collect();
    post(&cluster, "/v1/jobs/batch", &json!({ "jobs": jobs })).await;
    ask(
        &cluster,
        "create function slow() returns trigger language plpgsql as
         $$ begin perform pg_sleep(0.5); return new; end $$;
         create trigger slow before update on holdfast_jobs for each row
         when (new.state = 'running' and new.queue = 'default') execute function slow()",
    )
    .await;
    post(&cluster, "/v1/queues/default/resume", &json!({})).await;
    let began = Instant::now();
    while began.elapsed() < Duration::from_secs(7) {
        assert_eq!(
            ask(&cluster, ORPHANS).await,
            "0",
            "running without a worker's row"
        );
        tokio::time::sleep(Duration::from_millis(300)).await;
    }
    assert_goes_on(&cluster, scenario, &quick).await;
    ask(&cluster, "drop trigger slow on holdfast_jobs").await;
    for number in 0..10 {
        let id = format!("late-{number}");
        cluster.receiver.wait_for_hits(&id, 1, LIMIT).await.unwrap();
    }
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(cluster.receiver.duplicates(), [], "each job ran once");
    watch.assert(scenario);
}

// --- stalled ----------------------------------------------------------------------------------------------------------

/// The disk of the database stalls: whatever is to be read is read, and every commit waits in the kernel, where no bound and
/// no cancellation of the server ends it. Requests are answered 503 in time, `/health` answers, and once the disk goes on
/// all goes on; what committed late is neither lost nor run twice.
#[tokio::test]
async fn a_disk_that_stalls_under_the_commits_loses_and_repeats_no_job() {
    let scenario = "the disk stalls";
    let disk = StallingDisk::new().unwrap();
    let builder = three_queues().postgres_options(disk.server());
    let mut cluster = builder.start().await.unwrap();
    let watch = ConnectionWatch::start(cluster.postgres()).await;
    let load = cluster.load(on_three_queues());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    disk.stall().unwrap();
    let began = Instant::now();
    let waiting = "select count(*) from pg_stat_activity where wait_event in ('WALSync', 'WALWrite')";
    until("a commit to wait for the disk", LIMIT, async || {
        ask(&cluster, waiting).await != "0"
    })
    .await
    .unwrap();
    let mut refused = 0;
    while began.elapsed() < WHILE || refused == 0 {
        assert!(began.elapsed() < LIMIT, "no request was refused");
        let job = json!({"kind": "debug.echo", "queue": "second", "payload": {}});
        let answer = cluster.client(0).post_json("/v1/jobs", &job).await.unwrap();
        assert_eq!(answer.status, 503, "{}", answer.text());
        refused += 1;
    }
    disk.go_on().unwrap();
    cluster.fault_ends();
    assert_fetching_again(&cluster, scenario, &THREE).await;
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(repeated(&cluster), [], "no lease was lost");
    assert!(cluster.health().longest() <= HEALTH_ANSWERS + SLACK);
    watch.assert(scenario);
}

// --- used up ----------------------------------------------------------------------------------------------------------

/// Somebody takes every connection that is free. What cannot be taken is refused with 503, and all goes on once they
/// are given back.
#[tokio::test]
async fn connections_used_up_by_somebody_else_cost_503_and_no_job() {
    let scenario = "max_connections reached by a foreign client";
    let options = PostgresOptions::fast().max_connections(40);
    let mut cluster = three_queues().postgres_options(options).start().await.unwrap();
    let load = cluster.load(on_three_queues());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    let url = cluster.postgres().url();
    let mut taken = Vec::new();
    let began = Instant::now();
    while began.elapsed() < WHILE {
        match PgConnection::connect(&url).await {
            Ok(connection) => taken.push(connection),
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    figure(scenario, "connections taken", taken.len());
    cluster.fault_ends();
    drop(taken);
    assert_fetching_again(&cluster, scenario, &THREE).await;
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(repeated(&cluster), []);
}

// --- another time -----------------------------------------------------------------------------------------------------

/// The clock of the database's host is set back by ten minutes: heartbeats, times of rates and due times lie ahead of it.
#[tokio::test]
async fn a_clock_of_the_database_that_steps_back_ten_minutes_stops_no_queue() {
    let scenario = "the database's clock steps back";
    let clock = SteppingClock::new().unwrap();
    let builder = three_queues().env("HOLDFAST__QUEUES__THIRD__RATE", "100/s");
    let builder = builder.postgres_options(clock.server());
    let mut cluster = builder.start().await.unwrap();
    let load = cluster.load(on_three_queues());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    let time = "select extract(epoch from clock_timestamp())::bigint";
    let before: i64 = ask(&cluster, time).await.parse().unwrap();
    clock.set(-600).unwrap();
    let after: i64 = ask(&cluster, time).await.parse().unwrap();
    assert!(
        before - after > 500,
        "the clock has not stepped back: {before} → {after}"
    );
    assert_goes_on(&cluster, scenario, &THREE).await;
    // A worker that dies now is noticed, although its last heartbeat may lie ahead.
    cluster.sigkill(Role::Worker, 0).await.unwrap();
    cluster.start_again(Role::Worker, 0).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

// --- an earlier state -------------------------------------------------------------------------------------------------

/// Jobs that run when the standby receives its last bytes, and whose outcomes only the lost primary has.
const UNREPORTED: usize = 12;

/// An asynchronous standby takes over that lacks the last outcomes: there, jobs that have ended are still running, under
/// workers that live on and know nothing of them. They run again, and neither their queue nor their unique keys stay taken.
#[tokio::test]
async fn a_promoted_standby_that_lacks_the_last_outcomes_leaves_no_job_running() {
    let scenario = "an asynchronous standby is promoted";
    let mut cluster = three_queues().start().await.unwrap();
    let standby = cluster.postgres().standby().await.unwrap();
    let job = |number: usize| {
        let url = cluster
            .receiver
            .url(&format!("/slow/4000?id=unreported-{number}"));
        json!({"kind": "http.request", "queue": "second", "unique_key": format!("key-{number}"), "payload": {"url": url}})
    };
    let jobs: Vec<Value> = (0..UNREPORTED).map(job).collect();
    post(&cluster, "/v1/jobs/batch", &json!({ "jobs": jobs })).await;
    let completed =
        "select count(*) from holdfast_jobs where unique_key like 'key-%' and state = 'completed'";
    let states = async |cluster: &Cluster| {
        ask(
            cluster,
            "select count(*) filter (where state = 'running') || ' ' || count(*) filter (where state = 'completed')
             from holdfast_jobs where unique_key like 'key-%'",
        )
        .await
    };
    let (all_running, all_completed) = (format!("{UNREPORTED} 0"), format!("0 {UNREPORTED}"));
    until("every job to run", LIMIT, async || {
        states(&cluster).await == all_running
    })
    .await
    .unwrap();
    cluster.postgres().wait_for_standby(&standby).await.unwrap();
    standby.detach().await.unwrap();
    until("every job to be completed on the primary", LIMIT, async || {
        states(&cluster).await == all_completed
    })
    .await
    .unwrap();
    cluster.fault_begins(scenario, Dependency::Sql);
    cluster.postgres().fail_over_to(standby).await.unwrap();
    cluster.fault_ends();
    // They may be on their way back already.
    assert_eq!(
        ask(&cluster, completed).await,
        "0",
        "the new primary does not know that they ended"
    );
    until("every job to be completed again", LIMIT, async || {
        states(&cluster).await == all_completed
    })
    .await
    .unwrap();
    for number in 0..UNREPORTED {
        assert_eq!(
            cluster.receiver.count(&format!("unreported-{number}")),
            2,
            "once on each primary"
        );
        let again = json!({"kind": "debug.echo", "queue": "second", "unique_key": format!("key-{number}"), "payload": {}});
        let accepted = cluster.client(0).post_json("/v1/jobs", &again).await.unwrap();
        assert_eq!(accepted.status, 202, "{}", accepted.text());
    }
    assert_fetching_again(&cluster, scenario, &THREE).await;
    cluster.settle_idle(LIMIT).await.unwrap();
}

// --- what cannot be vacuumed ------------------------------------------------------------------------------------------

/// A transaction of somebody else stays open while thousands of jobs come and go: every entry that they leave stays too.
#[tokio::test]
async fn an_old_transaction_and_a_burst_of_finished_jobs_stop_no_queue() {
    let scenario = "an old transaction and a burst";
    let mut cluster = three_queues().start().await.unwrap();
    let watch = ConnectionWatch::start(cluster.postgres()).await;
    let mut old = foreigner(cluster.postgres()).await;
    run(
        &mut old,
        "begin isolation level repeatable read; select count(*) from holdfast_jobs",
    )
    .await;
    // Entries as they are left by jobs that were claimed and ended: inserted due, running, completed.
    ask(
        &cluster,
        "insert into holdfast_jobs (id, queue, kind, state, run_at, max_attempts, timeout_ms, payload)
         select gen_random_uuid(), (array['default', 'second', 'third'])[1 + n % 3], 'debug.echo', 'available',
                now() - random() * interval '1 hour', 4, 30000, '{}' from generate_series(1, 20000) as n;
         update holdfast_jobs set state = 'running', worker = (select id from holdfast_workers limit 1) where kind = 'debug.echo';
         update holdfast_jobs set state = 'completed', finished_at = now() where kind = 'debug.echo'",
    )
    .await;
    let load = cluster.load(on_three_queues());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    assert_goes_on(&cluster, scenario, &THREE).await;
    for queue in THREE {
        probe(&cluster, 0, queue, LIMIT).await.unwrap();
    }
    load.stop().await.unwrap();
    run(&mut old, "rollback").await;
    let report = conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!((report.refused, report.unanswered), (0, 0));
    assert_eq!(repeated(&cluster), []);
    assert!(report.longest_request < Duration::from_secs(5) + SLACK);
    watch.assert(scenario);
}
