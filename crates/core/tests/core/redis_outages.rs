//! The gate in every outage we know how to cause: it notices, stays quick, and comes back by itself.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::redis_support;

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use holdfast_core::failure::{Certainty, FailureClass};
use holdfast_core::mode::DegradedReason;
use holdfast_core::redis::{GateError, RedisGate};
use holdfast_testkit::{Eviction, FaultProxy, Mode as Wire, RedisOptions, RedisServer, eventually};
use redis_support::*;
use tokio::task::JoinSet;

const POLL: Duration = Duration::from_millis(10);
/// Callers who never stop calling.
const CALLERS: u64 = 200;

async fn server() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

/// A serving gate behind a proxy.
async fn behind_proxy() -> (RedisServer, FaultProxy, RedisGate) {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let gate = open_ready(&proxy.url_for(&server.url())).await;
    (server, proxy, gate)
}

/// Waits for the outage without any traffic, checks that it was noticed in time, and that calls fail fast and hold no
/// connection.
async fn notices(gate: &RedisGate, expected: &[DegradedReason]) {
    let (reason, waited) = becomes_degraded(gate).await;
    assert!(expected.contains(&reason), "{reason}");
    assert!(waited < NOTICED_WITHIN + SLACK, "noticed after {waited:?}");
    assert!(
        gate.stats().size <= 1,
        "only the probe may be connected: {:?}",
        gate.stats()
    );
    assert_fails_fast(gate).await;
}

/// Waits until the gate is back, checks that it was in time and that it works.
async fn comes_back(gate: &RedisGate) {
    let waited = becomes_normal(gate).await;
    assert!(waited < BACK_WITHIN + SLACK, "back after {waited:?}");
    assert_serves(gate).await;
}

#[tokio::test]
async fn notices_a_killed_server_without_traffic_and_returns_with_it() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.kill9().await.unwrap();
    notices(&gate, &[DegradedReason::Refused]).await;
    server.restart_empty().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_restart_between_two_probes_is_survived() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    for _ in 0..3 {
        server.restart_empty().await.unwrap();
        let back = eventually("a call that succeeds", BACK_WITHIN + SLACK, POLL, || async {
            set(&gate, "key", "value").await.ok()
        });
        back.await.unwrap();
    }
    becomes_normal(&gate).await;
    for _ in 0..20 {
        assert_serves(&gate).await;
    }
}

#[tokio::test]
async fn starts_without_a_server_and_finds_it_later() {
    let server = server().await;
    server.kill9().await.unwrap();
    let gate = open(&server.url());
    assert_eq!(
        gate.wait_ready(LIMIT).await.reason(),
        Some(DegradedReason::Refused)
    );
    assert_fails_fast(&gate).await;
    server.restart_empty().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn notices_a_frozen_server_without_traffic_and_returns_with_it() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.sigstop().await.unwrap();
    notices(&gate, &[DegradedReason::TimedOut]).await;
    server.sigcont().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn notices_each_fault_of_the_wire_and_returns_after_it() {
    let (_server, proxy, gate) = behind_proxy().await;
    for (fault, reasons) in [
        (
            Wire::Refuse,
            [DegradedReason::Refused, DegradedReason::ConnectionLost],
        ),
        (
            Wire::Reset,
            [DegradedReason::ConnectionLost, DegradedReason::Unreachable],
        ),
        (Wire::BlackHole, [DegradedReason::TimedOut; 2]),
        (Wire::HalfOpen, [DegradedReason::TimedOut; 2]),
        (
            Wire::Latency(Duration::from_secs(5)),
            [DegradedReason::TimedOut; 2],
        ),
    ] {
        proxy.set_mode(fault).await.unwrap();
        notices(&gate, &reasons).await;
        proxy.set_mode(Wire::Forward).await.unwrap();
        comes_back(&gate).await;
    }
}

#[tokio::test]
async fn a_slow_wire_is_no_outage() {
    let (_server, proxy, gate) = behind_proxy().await;
    proxy
        .set_mode(Wire::Latency(Duration::from_millis(100)))
        .await
        .unwrap();
    for _ in 0..15 {
        assert_serves(&gate).await;
    }
    assert!(gate.mode().is_normal());
}

/// Counts what the callers of a frozen server met.
#[derive(Default)]
struct Tally {
    answered: AtomicU64,
    timed_out: AtomicU64,
    refused: AtomicU64,
    longest_us: AtomicU64,
}

impl Tally {
    async fn call(&self, gate: &RedisGate, caller: u64) {
        let (key, value) = (format!("caller:{caller}"), format!("value of {caller}"));
        let started = Instant::now();
        match get(gate, &key).await {
            Ok(answer) => {
                assert_eq!(answer, Some(value), "an answer to somebody else's question");
                self.answered.fetch_add(1, Ordering::Relaxed);
            }
            Err(GateError::TimedOut { .. }) => {
                self.timed_out.fetch_add(1, Ordering::Relaxed);
            }
            Err(GateError::Unavailable { .. }) => {
                self.refused.fetch_add(1, Ordering::Relaxed);
            }
            Err(other) => panic!("{other}"),
        }
        let elapsed = u64::try_from(started.elapsed().as_micros()).unwrap();
        self.longest_us.fetch_max(elapsed, Ordering::Relaxed);
    }
}

/// Waits until as many calls as there are callers have ended this way.
async fn all_callers_meet(tally: &AtomicU64, what: &str) {
    let before = tally.load(Ordering::Relaxed);
    let met = || async { (tally.load(Ordering::Relaxed) >= before + CALLERS).then_some(()) };
    eventually(what, LIMIT, POLL, met).await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_freeze_under_load_costs_each_caller_one_deadline_and_mixes_no_replies() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    for caller in 0..CALLERS {
        set(&gate, &format!("caller:{caller}"), &format!("value of {caller}"))
            .await
            .unwrap();
    }
    let tally = Arc::new(Tally::default());
    let stop = tokio_util::sync::CancellationToken::new();
    let mut callers = JoinSet::new();
    for caller in 0..CALLERS {
        let (gate, tally, stop) = (gate.clone(), Arc::clone(&tally), stop.clone());
        callers.spawn(async move {
            while !stop.is_cancelled() {
                tally.call(&gate, caller).await;
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
        });
    }
    for _ in 0..3 {
        server.sigstop().await.unwrap();
        let (reason, waited) = becomes_degraded(&gate).await;
        assert_eq!(reason, DegradedReason::TimedOut);
        assert!(waited < NOTICED_WITHIN + SLACK, "noticed after {waited:?}");
        all_callers_meet(&tally.refused, "refusals").await;
        server.sigcont().await.unwrap();
        comes_back(&gate).await;
        all_callers_meet(&tally.answered, "answers").await;
    }
    stop.cancel();
    callers.join_all().await;
    let timed_out = tally.timed_out.load(Ordering::Relaxed);
    assert!(
        timed_out <= 3 * CALLERS,
        "{timed_out} calls waited in vain: more than those under way at each freeze"
    );
    let longest = Duration::from_micros(tally.longest_us.load(Ordering::Relaxed));
    assert!(
        longest < gate.settings().command_timeout + SLACK,
        "a caller waited {longest:?}"
    );
}

#[tokio::test]
async fn traffic_opens_the_breaker_before_the_next_probe() {
    let server = server().await;
    let mut settings = settings();
    settings.probe_interval = LIMIT;
    let gate = open_with(&server.url(), &settings);
    becomes_normal(&gate).await;
    server.sigstop().await.unwrap();
    let calls: Vec<_> = (0..3).map(|_| get(&gate, "key")).collect();
    let results = futures::future::join_all(calls).await;
    assert!(results.iter().all(Result::is_err));
    let (reason, _) = becomes_degraded(&gate).await;
    assert_eq!(reason, DegradedReason::TimedOut);
    server.sigcont().await.unwrap();
}

#[tokio::test]
async fn a_demoted_master_is_degraded_until_it_is_promoted() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.make_replica_of_nobody_reachable().await.unwrap();
    notices(&gate, &[DegradedReason::ReadOnly, DegradedReason::ClusterDown]).await;
    server.promote().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_refused_write_says_so_and_opens_the_breaker() {
    let server = server().await;
    let mut settings = settings();
    settings.probe_interval = LIMIT;
    settings.failure_threshold = 1;
    let gate = open_with(&server.url(), &settings);
    becomes_normal(&gate).await;
    server.make_replica_of_nobody_reachable().await.unwrap();
    let refused = set(&gate, "key", "value").await.unwrap_err();
    let GateError::Failed { failure, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(failure.outage, Some(DegradedReason::ReadOnly));
    assert_eq!(
        (refused.class(), refused.certainty()),
        (FailureClass::Transient, Certainty::NotApplied)
    );
    assert_eq!(gate.mode().reason(), Some(DegradedReason::ReadOnly));
}

#[tokio::test]
async fn a_changed_password_degrades_until_it_is_changed_back() {
    let server = RedisServer::start(RedisOptions::default().password("first"))
        .await
        .unwrap();
    let gate = open_ready(&server.url()).await;
    server.set_password("second").await.unwrap();
    notices(&gate, &[DegradedReason::Unauthorized]).await;
    server.set_password("first").await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_password_that_we_do_not_have_degrades_until_it_is_removed() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.set_password("secret").await.unwrap();
    notices(&gate, &[DegradedReason::Unauthorized]).await;
    server.clear_password().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_loading_server_is_degraded_until_it_has_loaded() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.loading(LIMIT).await.unwrap();
    becomes_degraded_by(&gate, DegradedReason::Loading).await;
    assert_fails_fast(&gate).await;
    server.finish_loading().await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_full_server_takes_only_what_makes_room() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    set(&gate, "old", "x").await.unwrap();
    server.run_out_of_memory().await.unwrap();
    notices(&gate, &[DegradedReason::OutOfMemory]).await;
    let deleted = gate.run_freeing("delete", |mut redis| async move {
        redis::cmd("DEL").arg("old").query_async::<u64>(&mut redis).await
    });
    assert_eq!(deleted.await.unwrap(), 1);
    let refused = gate.run_freeing("set", |mut redis| async move {
        redis::pipe()
            .cmd("GET")
            .arg("a")
            .cmd("SET")
            .arg("new")
            .arg("x")
            .exec_async(&mut redis)
            .await
    });
    let refused = refused.await.unwrap_err();
    let GateError::Failed { failure, .. } = &refused else {
        panic!("{refused}")
    };
    assert_eq!(failure.outage, Some(DegradedReason::OutOfMemory));
    assert_eq!(
        failure.certainty,
        Certainty::Unknown,
        "other commands of a pipeline may have been applied"
    );
    server.set_maxmemory(0, Eviction::NoEviction).await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_full_cache_that_evicts_is_no_outage() {
    let server = server().await;
    let used = server.memory_used().await.unwrap();
    server
        .set_maxmemory(used + 4 * 1024 * 1024, Eviction::AllKeysLru)
        .await
        .unwrap();
    let gate = open_ready(&server.url()).await;
    let filled = server.fill(16 * 1024 * 1024).await.unwrap();
    assert_eq!(filled.refused, 0);
    for _ in 0..10 {
        assert_serves(&gate).await;
    }
    assert!(gate.mode().is_normal());
}

#[tokio::test]
async fn too_few_replicas_degrade_until_they_are_enough() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.config_set("min-replicas-to-write", "1").await.unwrap();
    notices(&gate, &[DegradedReason::WritesRefused]).await;
    server.config_set("min-replicas-to-write", "0").await.unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn a_server_stuck_in_a_script_is_degraded_until_the_script_is_killed() {
    let server = server().await;
    server.config_set("busy-reply-threshold", "50").await.unwrap();
    let gate = open_ready(&server.url()).await;
    let mut culprit = server.connect().await.unwrap();
    culprit.send(&["EVAL", "while true do end", "0"]).await.unwrap();
    becomes_degraded_by(&gate, DegradedReason::Busy).await;
    assert_fails_fast(&gate).await;
    server.command(&["SCRIPT", "KILL"]).await.unwrap().ok().unwrap();
    comes_back(&gate).await;
}

#[tokio::test]
async fn no_dedicated_connection_is_made_while_the_breaker_is_open() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    server.sigstop().await.unwrap();
    becomes_degraded(&gate).await;
    let started = Instant::now();
    let refused = gate.dedicated("any", LIMIT).await.unwrap_err();
    assert!(
        matches!(
            refused,
            GateError::Unavailable {
                reason: DegradedReason::TimedOut
            }
        ),
        "{refused}"
    );
    assert!(started.elapsed() < Duration::from_millis(100));
    server.sigcont().await.unwrap();
}

#[tokio::test]
async fn tls_to_a_server_without_it_degrades() {
    let server = server().await;
    let gate = open(&server.url().replace("redis://", "rediss://"));
    let (reason, _) = becomes_degraded(&gate).await;
    assert_eq!(reason, DegradedReason::Connecting);
    let reason = gate.wait_ready(LIMIT).await.reason().unwrap();
    assert_ne!(reason, DegradedReason::Connecting);
    assert_fails_fast(&gate).await;
}

#[tokio::test]
async fn flapping_leaks_neither_connections_nor_tasks() {
    const ROUNDS: usize = 12;
    let (server, proxy, gate) = behind_proxy().await;
    assert_serves(&gate).await;
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    for round in 0..ROUNDS {
        let fault = [Wire::Refuse, Wire::Reset, Wire::BlackHole][round % 3];
        proxy.set_mode(fault).await.unwrap();
        let calls: Vec<_> = (0..50).map(|_| get(&gate, "key")).collect();
        assert!(futures::future::join_all(calls).await.iter().all(Result::is_err));
        becomes_degraded(&gate).await;
        proxy.set_mode(Wire::Forward).await.unwrap();
        comes_back(&gate).await;
    }
    let max = gate.stats().max;
    eventually("old connections to be closed", LIMIT, POLL, || async {
        // One of them is the question's own.
        let clients: usize = server
            .info("clients", "connected_clients")
            .await
            .unwrap()
            .parse()
            .unwrap();
        (clients <= max + 1 && proxy.stats().open <= max).then_some(())
    })
    .await
    .unwrap();
    // A lane has one task; there may be as many more as there are lanes now.
    eventually("old tasks to end", LIMIT, POLL, || async {
        (tasks() <= before + max).then_some(())
    })
    .await
    .unwrap();
}

/// Collects log lines.
#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn containing(&self, needle: &str) -> usize {
        String::from_utf8_lossy(&self.0.lock().unwrap())
            .lines()
            .filter(|line| line.contains(needle))
            .count()
    }
}

impl io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn an_outage_is_logged_once_and_its_end_once() {
    let lines = Lines::default();
    let writer = lines.clone();
    let log = tracing_subscriber::fmt()
        .with_writer(move || writer.clone())
        .with_ansi(false)
        .finish();
    let _guard = tracing::subscriber::set_default(log);
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    assert_eq!(lines.containing("Redis is connected"), 1);
    server.kill9().await.unwrap();
    becomes_degraded(&gate).await;
    assert_fails_fast(&gate).await;
    assert_eq!(lines.containing("WARN"), 1);
    server.restart_empty().await.unwrap();
    becomes_normal(&gate).await;
    assert_eq!(
        (lines.containing("WARN"), lines.containing("Redis has recovered")),
        (1, 1)
    );
    assert_eq!(lines.containing("redis.role=\"queue\""), 3);
    assert_eq!(lines.containing("outage_ms="), 1);
}
