//! Processes die, stop, come back, are rolled over, poisoned, deafened, and live in another time.
//!
//! A process that is killed takes what it ran with it: those jobs run again, which is the one repetition that Holdfast
//! permits. The harness notes at each kill what the process held, and excuses nothing else.
//!
//! **The clock of one host.** Leases, heartbeats and due times are the server's (`now()` in SQL, `TIME` in Redis), so
//! that a host whose clock is wrong neither takes leases from others nor runs delayed jobs early. libfaketime (Debian's
//! package `libfaketime`, which `scripts/test` installs) shows one worker and one API a clock five minutes off; only the
//! time of day, since no clock that runs backwards or jumps is monotonic.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not as expected must stop the test at once"
)]

use crate::chaos_support;

use std::os::unix::process::ExitStatusExt;
use std::time::{Duration, Instant};

use chaos_support::{
    FETCHING_AGAIN, LIMIT, QUEUES, SLACK, WARM, assert_fetching_again, figure, figures, final_job, millis,
    pids, probe, repeated, steady, until, usual,
};
use holdfast_testkit::{Mode, Persistence, RedisOptions, eventually};
use holdfast_tests::{
    Cluster, Expect, Load, ManagedProcess, Repeat, Report, Role, Setup, Target, clock_off_by,
};
use serde_json::json;

const SIGKILL: i32 = 9;
const SIGABRT: i32 = 6;
/// `lost_after` of [`holdfast_tests::ClusterBuilder::short_leases`].
const LEASE: Duration = Duration::from_secs(2);

async fn conclude(cluster: &mut Cluster, scenario: &str, expect: &Expect) -> Report {
    let report = cluster.conclude(scenario, expect).await.unwrap();
    figures(cluster, &report);
    figure(
        scenario,
        "ran twice: held by a killed process",
        report.twice_killed + report.twice_lease,
    );
    report.assert();
    report
}

/// Jobs that take a while on both queues, so that many are held at any moment. In threes: bells are heard in turn, and two
/// queues that alternate before two workers would give each worker a queue of its own.
fn slow_load() -> Load {
    Load::new()
        .queues(&["default", "bulk", "default"])
        .producers(8)
        .per_second(100.0)
        .target(Target::Slow(Duration::from_millis(300)))
}

// --- killed -----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_worker_killed_under_load_loses_nothing_and_repeats_only_what_it_ran() {
    let scenario = "worker SIGKILL";
    let mut cluster = usual().short_leases().start().await.unwrap();
    let load = cluster.load(slow_load());
    for (round, worker) in [0, 1, 0].into_iter().enumerate() {
        load.wait_for_accepted((round + 1) * WARM, LIMIT).await.unwrap();
        cluster.sigkill(Role::Worker, worker).await.unwrap();
        cluster.start_again(Role::Worker, worker).await.unwrap();
    }
    load.wait_for_accepted(4 * WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario, &Expect::new()).await;
    assert!(
        report.twice_killed + report.twice_lease > 0,
        "nothing was running when a worker was killed"
    );
}

#[tokio::test]
async fn both_workers_killed_at_once_leave_nothing_behind() {
    let scenario = "both workers SIGKILL";
    let mut cluster = usual().short_leases().start().await.unwrap();
    let load = cluster.load(slow_load());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.sigkill(Role::Worker, 0).await.unwrap();
    cluster.sigkill(Role::Worker, 1).await.unwrap();
    load.wait_for_accepted(2 * WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    cluster.start_again(Role::Worker, 0).await.unwrap();
    cluster.start_again(Role::Worker, 1).await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

/// Waits until the process has died of its failpoint, notes it, and starts it again unarmed.
async fn dies_at(cluster: &mut Cluster, role: Role, point: &str) {
    let process = cluster.process(role, 0);
    let pid = process.pid().expect("it was started");
    let status = process
        .wait_exit(LIMIT)
        .await
        .unwrap_or_else(|error| panic!("not dead at {point}: {error:#}"));
    assert_eq!(status.signal(), Some(SIGKILL), "{point}");
    cluster.note_crash(role, 0, pid);
}

async fn restart_armed(cluster: &mut Cluster, role: Role, failpoint: &str) {
    cluster.sigterm(role, 0).await.unwrap();
    cluster.env_of(role, 0, "HOLDFAST_FAILPOINT", failpoint);
    cluster.start_again(role, 0).await.unwrap();
    cluster.env_of(role, 0, "HOLDFAST_FAILPOINT", "none");
}

async fn killed_at(role: Role, point: &str) {
    let scenario = format!("{role:?} SIGKILL at `{point}`");
    let mut cluster = usual().short_leases().start().await.unwrap();
    restart_armed(&mut cluster, role, &format!("{point}:3")).await;
    let load = cluster.load(slow_load());
    dies_at(&mut cluster, role, point).await;
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + 20, LIMIT).await.unwrap();
    cluster.start_again(role, 0).await.unwrap();
    load.wait_for_accepted(accepted + 60, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, &scenario, &Expect::new()).await;
    if role == Role::Api {
        assert_eq!(
            repeated(&cluster),
            [],
            "an API runs nothing, so its death repeats nothing"
        );
        assert_eq!(report.refused, 0);
    }
}

/// One named test for each step.
macro_rules! killed_at {
    ($($name:ident: $role:ident at $point:literal;)*) => {$(
        #[tokio::test]
        async fn $name() {
            killed_at(Role::$role, $point).await;
        }
    )*};
}

killed_at! {
    an_api_killed_before_its_insert_loses_nothing: Api at "insert";
    an_api_killed_between_commit_and_ring_loses_nothing: Api at "commit";
    an_api_killed_between_ring_and_answer_loses_nothing: Api at "ring";
    an_api_killed_after_a_push_loses_nothing: Api at "broker.push";
    a_worker_killed_after_a_claim_loses_nothing: Worker at "claim";
    a_worker_killed_when_a_handler_starts_loses_nothing: Worker at "run";
    a_worker_killed_before_outcomes_are_written_loses_nothing: Worker at "finish";
    a_worker_killed_after_outcomes_were_written_loses_nothing: Worker at "finished";
    a_worker_killed_after_a_fetch_loses_nothing: Worker at "broker.fetch";
    a_worker_killed_before_an_acknowledgement_loses_nothing: Worker at "acknowledge";
    a_worker_killed_after_an_acknowledgement_loses_nothing: Worker at "acknowledged";
}

/// The producer is never told, repeats with its key at the other API, and gets the first id.
#[tokio::test]
async fn a_job_whose_api_died_between_commit_and_ring_runs_once_for_who_repeats() {
    let scenario = "API SIGKILL between commit and ring, producers repeat";
    let mut cluster = usual().short_leases().start().await.unwrap();
    restart_armed(&mut cluster, Role::Api, "commit:20").await;
    let repeating = steady().queues(&["default"]).repeat(Repeat::SameKey(LIMIT));
    let load = cluster.load(repeating);
    dies_at(&mut cluster, Role::Api, "commit").await;
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + 50, LIMIT).await.unwrap();
    cluster.start_again(Role::Api, 0).await.unwrap();
    load.wait_for_accepted(accepted + WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario, &Expect::new()).await;
    assert!(report.unanswered > 0, "a request must have died with its API");
    assert_eq!(repeated(&cluster), []);
    let rows = cluster.ledger().rows().await.unwrap();
    let own = rows.iter().filter(|row| row.own.starts_with('j')).count();
    assert_eq!(own, report.accepted, "one row for each job that was asked for");
}

// --- stopped ----------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_worker_stopped_past_its_lease_cannot_end_the_jobs_that_were_taken_from_it() {
    let scenario = "worker SIGSTOP past its lease";
    let mut cluster = usual().short_leases().start().await.unwrap();
    let slow = Target::Slow(Duration::from_millis(1_500));
    cluster
        .enqueue(Load::new().queues(&QUEUES).count(60).target(slow))
        .await
        .unwrap();
    cluster.receiver.wait_for_distinct(60, LIMIT).await.unwrap();
    cluster.sigstop(Role::Worker, 0).await.unwrap();
    let stopped = Instant::now();
    let twice = async || (!repeated(&cluster).is_empty()).then_some(());
    eventually(
        "its jobs to run elsewhere",
        LIMIT,
        Duration::from_millis(20),
        twice,
    )
    .await
    .unwrap();
    figure(
        scenario,
        "its jobs run elsewhere after",
        millis(stopped.elapsed()),
    );
    cluster.settle(LIMIT).await.unwrap();
    let line = cluster.worker(0).child().line_count();
    cluster.sigcont(Role::Worker, 0).unwrap();
    let child = cluster.worker(0).child();
    child
        .wait_for_line_after(line, "outcomes are ignored", LIMIT)
        .await
        .unwrap();
    let report = conclude(&mut cluster, scenario, &Expect::new().lease_loss()).await;
    // Fenced off: each row was completed by its second run alone, in one attempt and after one crash.
    let rows = cluster.ledger().rows().await.unwrap();
    let rescued: Vec<_> = rows.iter().filter(|row| row.crashes > 0).collect();
    assert!(!rescued.is_empty());
    assert!(
        rescued
            .iter()
            .all(|row| (row.state.as_str(), row.attempt, row.crashes) == ("completed", 1, 1)),
        "{rescued:?}"
    );
    assert_eq!(report.accepted, 60);
}

#[tokio::test]
async fn a_worker_stopped_within_its_lease_repeats_nothing() {
    let scenario = "worker SIGSTOP within its lease";
    let mut cluster = usual().start().await.unwrap();
    let load = cluster.load(slow_load());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    cluster.process(Role::Worker, 0).child().sigstop().unwrap();
    tokio::time::sleep(Duration::from_secs(5)).await;
    cluster.process(Role::Worker, 0).child().sigcont().unwrap();
    load.wait_for_accepted(WARM + WARM / 2, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(repeated(&cluster), []);
}

// --- rolled over ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_rolling_restart_of_everything_under_load_loses_and_repeats_nothing() {
    let scenario = "rolling restart of everything";
    let redis = RedisOptions::default().persistence(Persistence::AofAlways);
    let mut cluster = usual().redis_options(redis).start().await.unwrap();
    let load = cluster.load(slow_load());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    for (role, index) in [
        (Role::Api, 0),
        (Role::Worker, 0),
        (Role::Api, 1),
        (Role::Worker, 1),
    ] {
        let status = cluster.sigterm(role, index).await.unwrap();
        assert!(status.success(), "{role:?} {index} ended with {status}");
        cluster.start_again(role, index).await.unwrap();
    }
    cluster.redis().restart().await.unwrap();
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM / 2, LIMIT).await.unwrap();
    cluster.postgres().restart().await.unwrap();
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + WARM / 2, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(report.lost_with_redis, 0);
    assert_eq!(repeated(&cluster), []);
}

// --- poison, panic, timeout -------------------------------------------------------------------------------------------

#[tokio::test]
async fn a_job_that_kills_its_process_is_discarded_after_three_crashes_and_the_queue_goes_on() {
    let scenario = "poison";
    let mut cluster = usual().short_leases().start().await.unwrap();
    let before = cluster.processes().len();
    let load = cluster.load(Load::new().producers(2).per_second(20.0));
    let poison = cluster
        .post(&json!({"kind": "debug.fail", "payload": {"mode": "abort"}}))
        .await
        .unwrap();
    let id = poison["id"].as_str().unwrap().to_owned();
    let mut deaths = 0;
    let discarded = loop {
        deaths += revive_the_dead(&mut cluster).await;
        let job = cluster.job(&id).await.unwrap();
        if job["state"] == "discarded" {
            break job;
        }
        assert!(deaths <= 3, "it killed {deaths} workers: {job}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    };
    deaths += revive_the_dead(&mut cluster).await;
    assert_eq!((deaths, &discarded["crashes"]), (3, &json!(3)), "{discarded}");
    // Nobody answered for the crashes, so no attempt was used up.
    assert_eq!(discarded["attempt"], json!(0), "{discarded}");
    assert_eq!(
        discarded["errors"].as_array().map(Vec::len),
        Some(3),
        "{discarded}"
    );
    let accepted = cluster.record.accepted_count();
    load.wait_for_accepted(accepted + 20, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    conclude(&mut cluster, scenario, &Expect::new()).await;
    assert_eq!(cluster.processes().len(), before);
}

/// Starts workers that have aborted again, as a platform does; how many there were.
async fn revive_the_dead(cluster: &mut Cluster) -> usize {
    let mut dead = 0;
    for index in 0..2 {
        let process: &mut ManagedProcess = cluster.worker(index);
        if process.is_running().unwrap() {
            continue;
        }
        let pid = process.pid().expect("it was started");
        let status = process.wait_exit(LIMIT).await.unwrap();
        assert_eq!(status.signal(), Some(SIGABRT));
        cluster.note_crash(Role::Worker, index, pid);
        cluster.start_again(Role::Worker, index).await.unwrap();
        dead += 1;
    }
    dead
}

#[tokio::test]
async fn a_panic_and_a_timeout_are_failed_attempts_and_no_crashes() {
    let scenario = "panic and timeout";
    let mut cluster = usual().start().await.unwrap();
    let before = pids(&mut cluster);
    for queue in QUEUES {
        let panicking =
            json!({"kind": "debug.fail", "queue": queue, "max_attempts": 2, "payload": {"mode": "panic"}});
        let hanging = json!({"kind": "debug.fail", "queue": queue, "max_attempts": 2, "timeout_seconds": 1,
                             "payload": {"mode": "hang"}});
        for job in [panicking, hanging] {
            let id = cluster.post(&job).await.unwrap()["id"]
                .as_str()
                .unwrap()
                .to_owned();
            let ended = final_job(&cluster, &id, LIMIT).await.unwrap();
            let facts = (
                &ended["state"],
                &ended["attempt"],
                &ended["crashes"],
                ended["errors"].as_array().map(Vec::len),
            );
            assert_eq!(
                facts,
                (&json!("discarded"), &json!(2), &json!(0), Some(2)),
                "{ended}"
            );
        }
        // One failure is no end: the second attempt is a job's good right.
        let once = json!({"kind": "debug.fail", "queue": queue, "payload": {"mode": "panic", "times": 1}});
        let id = cluster.post(&once).await.unwrap()["id"]
            .as_str()
            .unwrap()
            .to_owned();
        let ended = final_job(&cluster, &id, LIMIT).await.unwrap();
        assert_eq!(
            (&ended["state"], &ended["attempt"]),
            (&json!("completed"), &json!(2)),
            "{ended}"
        );
    }
    assert_eq!(pids(&mut cluster), before);
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

// --- deaf -------------------------------------------------------------------------------------------------------------

/// What is done to one path for a while.
#[derive(Debug, Clone, Copy)]
enum Blow {
    Redis(Mode),
    Sql(Mode),
    Both(Mode),
}

/// Whatever the sequence of faults, workers are fetching again within 5 s of the return, and are the same processes.
#[tokio::test]
async fn no_sequence_of_faults_makes_a_worker_deaf() {
    use Blow::{Both, Redis, Sql};
    let scenario = "deaf worker: sequences of faults";
    let sequences: [&[Blow]; 6] = [
        &[Redis(Mode::BlackHole), Sql(Mode::Reset)],
        &[Sql(Mode::BlackHole)],
        &[Both(Mode::BlackHole)],
        &[Redis(Mode::HalfOpen), Redis(Mode::Refuse), Sql(Mode::Refuse)],
        &[Sql(Mode::HalfOpen), Redis(Mode::Reset)],
        &[
            Both(Mode::Refuse),
            Both(Mode::Latency(Duration::from_millis(400))),
        ],
    ];
    let mut cluster = usual().redis_proxy().postgres_proxy().start().await.unwrap();
    let before = pids(&mut cluster);
    for (number, sequence) in sequences.into_iter().enumerate() {
        cluster
            .enqueue(steady().per_second(400.0).count(40))
            .await
            .unwrap();
        for blow in sequence {
            strike(&cluster, *blow).await;
            tokio::time::sleep(Duration::from_secs(2)).await;
        }
        strike(&cluster, Both(Mode::Forward)).await;
        assert_fetching_again(&cluster, &format!("{scenario}, {}", number + 1), &QUEUES).await;
    }
    assert_eq!(pids(&mut cluster), before);
    // Long enough to be given up by nobody, and short of any lease: nothing ran twice.
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

async fn strike(cluster: &Cluster, blow: Blow) {
    let (redis, sql) = match blow {
        Blow::Redis(mode) => (Some(mode), None),
        Blow::Sql(mode) => (None, Some(mode)),
        Blow::Both(mode) => (Some(mode), Some(mode)),
    };
    if let Some(mode) = redis {
        cluster.redis_proxy().set_mode(mode).await.unwrap();
    }
    if let Some(mode) = sql {
        cluster.postgres_proxy().set_mode(mode).await.unwrap();
    }
}

/// The server answers, and yet the worker can neither claim nor say that it is alive: its tables are locked. It ends,
/// non-zero, and a fresh one works.
#[tokio::test]
async fn a_worker_that_is_deaf_though_its_database_answers_ends_by_itself() {
    let scenario = "deaf worker: ends by itself";
    let builder = usual()
        .env("HOLDFAST__WORKER__WATCHDOG_SECONDS", "6")
        .short_leases();
    let mut cluster = builder.start().await.unwrap();
    let pid = cluster.worker(0).pid().unwrap();
    let other = cluster.worker(1).pid().unwrap();
    let postgres = std::sync::Arc::clone(cluster.postgres());
    let locking = tokio::spawn(async move {
        let lock =
            "BEGIN; LOCK TABLE holdfast_jobs, holdfast_workers IN ACCESS EXCLUSIVE MODE; SELECT pg_sleep(50)";
        // Ends early, with the connection, when the test has seen enough.
        let _ = postgres.psql(lock).await;
    });
    let began = Instant::now();
    let first = cluster
        .worker(0)
        .wait_exit(Duration::from_secs(60))
        .await
        .unwrap();
    let second = cluster
        .worker(1)
        .wait_exit(Duration::from_secs(60))
        .await
        .unwrap();
    figure(
        scenario,
        "ended after (watchdog 6 s)",
        format!("{:.1} s", began.elapsed().as_secs_f64()),
    );
    assert_eq!((first.code(), second.code()), (Some(70), Some(70)));
    cluster.note_crash(Role::Worker, 0, pid);
    cluster.note_crash(Role::Worker, 1, other);
    let release = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity WHERE query LIKE '%pg_sleep(50)%' \
                   AND pid <> pg_backend_pid()";
    cluster.postgres().psql(release).await.unwrap();
    locking.await.unwrap();
    for index in 0..2 {
        cluster.start_again(Role::Worker, index).await.unwrap();
    }
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

/// The watchdog blames nobody while the dependency itself is silent, and gives who was silent for that time to recover.
/// Production's proportions, ten times faster.
#[tokio::test]
async fn a_worker_whose_database_is_away_does_not_end() {
    let scenario = "silent database, short watchdog";
    let builder = usual().short_leases();
    let builder = builder
        .env("HOLDFAST__WORKER__WATCHDOG_SECONDS", "6")
        .env("HOLDFAST__WORKER__SAFETY_POLL_SECONDS", "0.5");
    let mut cluster = builder.start().await.unwrap();
    let before = pids(&mut cluster);
    cluster.postgres().sigstop().await.unwrap();
    tokio::time::sleep(Duration::from_secs(9)).await;
    cluster.postgres().sigcont().await.unwrap();
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    // Time for a watchdog to act wrongly.
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert_eq!(pids(&mut cluster), before);
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

/// A database that scales to zero is to sleep: an idle worker then looks seldom, and is not deaf for it.
#[tokio::test]
async fn an_idle_worker_with_a_long_safety_poll_is_not_taken_for_deaf() {
    let scenario = "idle, safety poll longer than the watchdog";
    let builder = usual().short_leases();
    let builder = builder
        .env("HOLDFAST__WORKER__WATCHDOG_SECONDS", "3")
        .env("HOLDFAST__WORKER__SAFETY_POLL_SECONDS", "60");
    let mut cluster = builder.start().await.unwrap();
    let before = pids(&mut cluster);
    tokio::time::sleep(Duration::from_secs(6)).await;
    assert_fetching_again(&cluster, scenario, &QUEUES).await;
    assert_eq!(pids(&mut cluster), before);
    conclude(&mut cluster, scenario, &Expect::new()).await;
}

// --- another time -----------------------------------------------------------------------------------------------------

async fn a_clock_off_by(offset: &str) {
    let scenario = format!("clock of one host {offset}");
    let mut builder = usual().short_leases();
    for role in [Role::Api, Role::Worker] {
        for (name, value) in clock_off_by(offset).unwrap() {
            builder = builder.env_of(role, 0, name, value);
        }
    }
    let mut cluster = builder.start().await.unwrap();
    assert_is_off(&mut cluster, offset).await;
    let load = cluster.load(slow_load());
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    // Delays through each API, run by either worker: all by the server's clock.
    let delay = Duration::from_secs(2);
    for api in [0, 1, 0, 1] {
        let id = format!("delayed{api}-{}", cluster.record.next_id());
        let job = json!({"kind": "http.request", "delay_seconds": 2, "payload": {"url": cluster.receiver.hit_url(&id)}});
        let asked = Instant::now();
        assert_eq!(
            cluster
                .client(api)
                .post_json("/v1/jobs", &job)
                .await
                .unwrap()
                .status,
            202
        );
        cluster.receiver.wait_for_distinct(1, LIMIT).await.unwrap();
        until("the delayed job to run", LIMIT, async || {
            cluster.receiver.count(&id) > 0
        })
        .await
        .unwrap();
        let after = cluster.receiver.hits(&id)[0].at - asked;
        figure(
            &scenario,
            &format!("a delay of 2 s through api-{api}"),
            millis(after),
        );
        assert!(
            after >= delay && after < delay + FETCHING_AGAIN,
            "{after:?} through api-{api}"
        );
    }
    // Several leases long, nobody took anything from anybody.
    tokio::time::sleep(2 * LEASE).await;
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, &scenario, &Expect::new()).await;
    assert_eq!(repeated(&cluster), []);
    assert_eq!((report.refused, report.unanswered), (0, 0));
    let lost = cluster
        .ledger()
        .rows()
        .await
        .unwrap()
        .iter()
        .filter(|row| row.crashes > 0)
        .count();
    assert_eq!(lost, 0, "a lease was lost to a clock");
}

/// The processes of the wrong host really live in another time, by their own logs.
async fn assert_is_off(cluster: &mut Cluster, offset: &str) {
    let newest = |process: &mut ManagedProcess| process.logs().last().expect("a log line").at;
    let (wrong, right) = (newest(cluster.worker(0)), newest(cluster.worker(1)));
    let minutes = (wrong - right).num_seconds() as f64 / 60.0;
    let wanted = if offset.starts_with('-') { -5.0 } else { 5.0 };
    assert!(
        (minutes - wanted).abs() < 1.0,
        "the clock is off by {minutes:.1} minutes, not by {offset}"
    );
}

#[tokio::test]
async fn a_host_five_minutes_ahead_takes_no_lease_and_runs_nothing_early() {
    a_clock_off_by("+5m").await;
}

#[tokio::test]
async fn a_host_five_minutes_behind_takes_no_lease_and_runs_nothing_late() {
    a_clock_off_by("-5m").await;
}

// --- one process ------------------------------------------------------------------------------------------------------

#[tokio::test]
async fn holdfast_dev_killed_under_load_loses_nothing() {
    let scenario = "`holdfast dev` SIGKILL";
    let mut cluster = Cluster::builder(Setup::Dev).short_leases().start().await.unwrap();
    let load = cluster.load(slow_load().queues(&["default"]));
    load.wait_for_accepted(WARM / 2, LIMIT).await.unwrap();
    cluster.sigkill(Role::Dev, 0).await.unwrap();
    cluster.start_again(Role::Dev, 0).await.unwrap();
    load.wait_for_accepted(WARM, LIMIT).await.unwrap();
    load.stop().await.unwrap();
    let report = conclude(&mut cluster, scenario, &Expect::new()).await;
    let took = probe(&cluster, 0, "default", FETCHING_AGAIN + SLACK)
        .await
        .unwrap();
    figure(scenario, "enqueue to execution afterwards", millis(took));
    assert_eq!(report.half_accepted, Vec::<String>::new());
}
