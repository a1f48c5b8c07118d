//! The gate while its server is well.
#![allow(clippy::unwrap_used, reason = "a test stops at the first surprise")]

use crate::redis_support;

use std::sync::Arc;
use std::time::{Duration, Instant};

use holdfast_core::config::RedisSettings;
use holdfast_core::failure::{Certainty, FailureClass};
use holdfast_core::mode::{DegradedReason, Mode};
use holdfast_core::redis::{BreakerState, GateError, RedisGate, Role};
use holdfast_testkit::{Authority, FaultProxy, RedisOptions, RedisServer, bytes_contain, eventually};
use redis_support::*;
use tokio::sync::Notify;
use tokio::task::JoinSet;

const POLL: Duration = Duration::from_millis(10);

async fn server() -> RedisServer {
    RedisServer::start(RedisOptions::default()).await.unwrap()
}

async fn commands_processed(server: &RedisServer) -> u64 {
    server
        .info("stats", "total_commands_processed")
        .await
        .unwrap()
        .parse()
        .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_concurrent_calls_all_succeed_over_few_connections() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    let mut calls = JoinSet::new();
    for number in 0..1_000 {
        let gate = gate.clone();
        calls.spawn(async move {
            let (key, value) = (format!("key:{number}"), format!("value:{number}"));
            set(&gate, &key, &value).await.unwrap();
            assert_eq!(get(&gate, &key).await.unwrap(), Some(value));
        });
    }
    let done = calls.join_all().await;
    assert_eq!(done.len(), 1_000);
    assert!(gate.mode().is_normal());
    let stats = gate.stats();
    assert!(stats.size <= stats.max, "{stats:?}");
    assert_eq!((stats.max, stats.in_use, stats.waiting), (8, 0, 0), "{stats:?}");
}

#[tokio::test]
async fn a_command_costs_one_round_trip() {
    const CALLS: u64 = 2_000;
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    assert_serves(&gate).await;
    let before = commands_processed(&server).await;
    for _ in 0..CALLS {
        get(&gate, "key").await.unwrap();
    }
    let commands = commands_processed(&server).await - before;
    // Probes and our own INFO are among them.
    assert!(
        commands as f64 <= CALLS as f64 * 1.05,
        "{commands} commands for {CALLS} calls"
    );
}

#[tokio::test]
async fn lanes_grow_with_concurrency_up_to_the_limit() {
    let server = server().await;
    let mut settings = settings();
    settings.command_timeout = LIMIT;
    let patient = open_with(&server.url(), &settings);
    becomes_normal(&patient).await;
    let stats = patient.stats();
    assert_eq!(stats.size, 2, "one lane, and the probe's connection: {stats:?}");
    let release = Arc::new(Notify::new());
    let mut held = JoinSet::new();
    for _ in 0..200 {
        let (gate, release) = (patient.clone(), Arc::clone(&release));
        held.spawn(async move {
            let waiting = |_| async move {
                release.notified().await;
                Ok(())
            };
            gate.run("hold", waiting).await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    eventually("all lanes", LIMIT, POLL, || async {
        (patient.stats().size == 8).then_some(())
    })
    .await
    .unwrap();
    release.notify_waiters();
    held.join_all().await;
    assert_eq!(patient.stats().in_use, 0);
}

#[tokio::test]
async fn calls_beyond_the_bound_wait_for_a_place() {
    const PLACES: usize = 64;
    let server = server().await;
    let mut settings = settings();
    settings.max_connections = 2;
    settings.command_timeout = LIMIT;
    let gate = open_with(&server.url(), &settings);
    becomes_normal(&gate).await;
    let release = Arc::new(Notify::new());
    let mut held = JoinSet::new();
    for _ in 0..PLACES {
        let (gate, release) = (gate.clone(), Arc::clone(&release));
        held.spawn(async move {
            let waiting = |_| async move {
                release.notified().await;
                Ok(())
            };
            gate.run("hold", waiting).await.unwrap();
        });
        tokio::task::yield_now().await;
    }
    let one_more = tokio::spawn({
        let gate = gate.clone();
        async move { get(&gate, "key").await }
    });
    eventually("a waiting call", LIMIT, POLL, || async {
        (gate.stats().waiting == 1).then_some(())
    })
    .await
    .unwrap();
    assert_eq!((gate.stats().in_use, gate.stats().available), (1, 1));
    release.notify_one();
    assert_eq!(one_more.await.unwrap().unwrap(), None);
    release.notify_waiters();
    held.join_all().await;
    assert_eq!(gate.stats().waiting, 0);
}

#[tokio::test]
async fn errors_of_the_command_leave_the_breaker_closed() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    set(&gate, "text", "x").await.unwrap();
    for _ in 0..20 {
        let wrong_type = gate
            .run("push", |mut redis| async move {
                redis::cmd("LPUSH")
                    .arg("text")
                    .arg(1)
                    .query_async::<()>(&mut redis)
                    .await
            })
            .await
            .unwrap_err();
        assert_eq!(wrong_type.class(), FailureClass::Permanent);
        assert_eq!(wrong_type.certainty(), Certainty::NotApplied);
        let script_error = gate
            .run("script", |mut redis| async move {
                redis::cmd("EVAL")
                    .arg("return nothing.at_all")
                    .arg(0)
                    .query_async::<()>(&mut redis)
                    .await
            })
            .await
            .unwrap_err();
        assert_eq!(script_error.class(), FailureClass::Permanent);
        let wrong_result = gate
            .run("get", |mut redis| async move {
                redis::cmd("GET").arg("text").query_async::<u64>(&mut redis).await
            })
            .await
            .unwrap_err();
        assert_eq!(wrong_result.class(), FailureClass::Permanent);
        assert_eq!(wrong_result.certainty(), Certainty::Unknown);
        let part_of_a_pipeline = gate
            .run("pipeline", |mut redis| async move {
                redis::pipe()
                    .cmd("SET")
                    .arg("a")
                    .arg(1)
                    .cmd("LPUSH")
                    .arg("text")
                    .arg(1)
                    .exec_async(&mut redis)
                    .await
            })
            .await
            .unwrap_err();
        assert_eq!(part_of_a_pipeline.class(), FailureClass::Permanent);
        assert_eq!(
            part_of_a_pipeline.certainty(),
            Certainty::Unknown,
            "the SET was applied"
        );
    }
    assert!(gate.mode().is_normal());
    assert_eq!(gate.breaker(), Some(BreakerState::Closed));
}

#[tokio::test]
async fn a_lost_reply_is_told_as_unknown_and_the_next_call_succeeds() {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let gate = open_ready(&proxy.url_for(&server.url())).await;
    proxy.cut_reply_when(|request| bytes_contain(request, b"fateful"), 1);
    let lost = set(&gate, "fateful", "1").await.unwrap_err();
    assert_eq!(
        (lost.class(), lost.certainty()),
        (FailureClass::Transient, Certainty::Unknown),
        "{lost}"
    );
    assert!(gate.mode().is_normal(), "one lost connection is no outage");
    assert_eq!(
        get(&gate, "fateful").await.unwrap().as_deref(),
        Some("1"),
        "it was applied"
    );
}

#[tokio::test]
async fn one_slow_command_times_out_alone() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    let started = Instant::now();
    let slow = gate
        .run("slow", |mut redis| async move {
            redis::cmd("BLPOP")
                .arg("never")
                .arg(5)
                .query_async::<()>(&mut redis)
                .await
        })
        .await
        .unwrap_err();
    assert!(
        matches!(
            slow,
            GateError::TimedOut {
                op: "slow",
                certainty: Certainty::Unknown,
                ..
            }
        ),
        "{slow}"
    );
    assert!(started.elapsed() < gate.settings().command_timeout + SLACK);
    // Its lane still waits for the reply; nobody else may be put behind it.
    for _ in 0..10 {
        assert_serves(&gate).await;
    }
    assert!(gate.mode().is_normal());
}

#[tokio::test]
async fn a_dedicated_connection_may_block_longer_than_a_command() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    let mut own = gate.dedicated("any", LIMIT).await.unwrap();
    let popped = tokio::spawn(async move {
        redis::cmd("BLPOP")
            .arg("bell")
            .arg(20)
            .query_async::<(String, String)>(&mut own)
            .await
    });
    eventually("a blocked client", LIMIT, POLL, || async {
        (server.info("clients", "blocked_clients").await.unwrap() == "1").then_some(())
    })
    .await
    .unwrap();
    tokio::time::sleep(2 * gate.settings().command_timeout).await;
    gate.run("ring", |mut redis| async move {
        redis::cmd("LPUSH")
            .arg("bell")
            .arg("x")
            .exec_async(&mut redis)
            .await
    })
    .await
    .unwrap();
    assert_eq!(
        popped.await.unwrap().unwrap(),
        ("bell".to_owned(), "x".to_owned())
    );
}

#[tokio::test]
async fn the_servers_clock_is_known_after_the_first_probe() {
    let server = server().await;
    let gate = open(&server.url());
    assert_eq!(gate.server_now_ms(), None);
    assert!(gate.wait_ready(LIMIT).await.is_normal());
    let offset = gate.server_time_offset().unwrap();
    assert!(
        offset.abs() < 250_000,
        "the same host's clock, yet {offset} µs away"
    );
    let host = holdfast_core::clock::unix_millis();
    assert!(gate.server_now_ms().unwrap().abs_diff(host) < 250);
}

#[tokio::test]
async fn probing_changes_nothing_on_the_server() {
    let server = server().await;
    let mut settings = settings();
    settings.probe_interval = POLL;
    let gate = open_with(&server.url(), &settings);
    becomes_normal(&gate).await;
    let before = commands_processed(&server).await;
    eventually("more probes", LIMIT, POLL, || async {
        (commands_processed(&server).await > before + 100).then_some(())
    })
    .await
    .unwrap();
    assert!(server.keys("*").await.unwrap().is_empty());
    let changes = server
        .info("persistence", "rdb_changes_since_last_save")
        .await
        .unwrap();
    assert_eq!(changes, "0", "a probe must not start snapshots of an idle server");
}

#[tokio::test]
async fn killed_connections_cost_one_call_and_no_outage() {
    let server = server().await;
    let gate = open_ready(&server.url()).await;
    eventually("several lanes", LIMIT, POLL, || async {
        let crowd: Vec<_> = (0..100).map(|_| get(&gate, "key")).collect();
        assert!(futures::future::join_all(crowd).await.iter().all(Result::is_ok));
        (gate.stats().size > 3).then_some(())
    })
    .await
    .unwrap();
    server.client_kill_all().await.unwrap();
    let mut lost = 0;
    for _ in 0..50 {
        lost += usize::from(get(&gate, "key").await.is_err());
    }
    assert!(lost <= 1, "{lost} calls failed");
    assert!(gate.mode().is_normal());
}

#[tokio::test]
async fn dropping_the_last_clone_ends_the_tasks_and_closes_the_connections() {
    let server = server().await;
    let proxy = FaultProxy::for_redis(&server).await.unwrap();
    let tasks = || tokio::runtime::Handle::current().metrics().num_alive_tasks();
    let before = tasks();
    let gate = open_ready(&proxy.url_for(&server.url())).await;
    let clone = gate.clone();
    drop(gate);
    assert_serves(&clone).await;
    assert!(tasks() > before);
    drop(clone);
    proxy.wait_for_open(0, LIMIT).await.unwrap();
    eventually("the tasks to end", LIMIT, POLL, || async {
        (tasks() == before).then_some(())
    })
    .await
    .unwrap();
}

#[tokio::test]
async fn an_absent_redis_is_refused_at_once_and_never_changes() {
    let gate = RedisGate::open(Role::Cache, None, &settings()).unwrap();
    assert!(!gate.is_configured());
    assert_eq!(gate.mode(), Mode::Absent);
    assert_eq!(gate.wait_ready(LIMIT).await, Mode::Absent);
    let refused = get(&gate, "key").await.unwrap_err();
    assert!(matches!(refused, GateError::NotConfigured) && refused.is_unavailable());
    assert!(matches!(
        gate.dedicated("any", LIMIT).await.unwrap_err(),
        GateError::NotConfigured
    ));
    assert_eq!(
        (gate.breaker(), gate.server_now_ms(), gate.stats().max),
        (None, None, 0)
    );
    let mut watch = gate.watch();
    let change = tokio::time::timeout(Duration::from_millis(50), watch.changed()).await;
    assert!(change.is_err(), "watchers of an absent Redis must wait, not spin");
}

#[tokio::test]
async fn opening_waits_for_nothing_and_calls_before_the_first_verdict_are_refused() {
    let server = server().await;
    server.sigstop().await.unwrap();
    let started = Instant::now();
    let gate = open(&server.url());
    assert!(
        started.elapsed() < Duration::from_millis(100),
        "{:?}",
        started.elapsed()
    );
    assert_eq!(gate.mode().reason(), Some(DegradedReason::Connecting));
    let refused = get(&gate, "key").await.unwrap_err();
    assert!(
        matches!(
            refused,
            GateError::Unavailable {
                reason: DegradedReason::Connecting
            }
        ),
        "{refused}"
    );
    assert_eq!(
        gate.wait_ready(Duration::from_millis(10)).await.reason(),
        Some(DegradedReason::Connecting)
    );
    server.sigcont().await.unwrap();
    assert!(gate.wait_ready(LIMIT).await.is_normal());
}

#[tokio::test]
async fn no_secret_shows() {
    let server = RedisServer::start(RedisOptions::default().password("hunter2"))
        .await
        .unwrap();
    let gate = open_ready(&server.url()).await;
    assert!(!format!("{gate:?}").contains("hunter2"));
    let wrong = open(&server.url().replace("hunter2", "hunter3"));
    assert_eq!(
        wrong.wait_ready(LIMIT).await.reason(),
        Some(DegradedReason::Unauthorized)
    );
    let refused = get(&wrong, "key").await.unwrap_err();
    assert!(!format!("{wrong:?} {refused:?} {refused}").contains("hunter3"));
    let endpoint = holdfast_core::config::RedisEndpoint {
        url: "nonsense://:hunter2@host".to_owned().into(),
    };
    let invalid = RedisGate::open(Role::Queue, Some(&endpoint), &settings()).unwrap_err();
    assert_eq!(invalid.to_string(), "the Redis URL of the queue is not valid");
    assert!(!format!("{invalid:?}").contains("hunter2"));
}

/// A server whose certificate comes from an authority of its own is reached by whoever was told of that authority, under
/// the name that it vouches for, and by nobody else.
#[tokio::test]
async fn tls_trusts_the_authority_that_the_settings_name_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let authority = Authority::new().unwrap();
    let options = RedisOptions::default().password("hunter2");
    let (options, port) = authority.secure(options, "localhost", directory.path()).unwrap();
    let _server = RedisServer::start(options).await.unwrap();
    let url = format!("rediss://:hunter2@localhost:{}/0", port.port());
    let trusting = |pem: Option<String>| RedisSettings {
        ca_certificate: pem.map(Into::into),
        ..settings()
    };

    let gate = open_with(&url, &trusting(Some(authority.pem())));
    becomes_normal(&gate).await;
    set(&gate, "key", "value").await.unwrap();
    assert_eq!(get(&gate, "key").await.unwrap(), Some("value".to_owned()));

    let stranger = Authority::new().unwrap();
    let elsewhere = url.replace("localhost", "127.0.0.1");
    for (url, pem) in [
        (&url, None),
        (&url, Some(stranger.pem())),
        (&elsewhere, Some(authority.pem())),
    ] {
        let gate = open_with(url, &trusting(pem));
        becomes_degraded_by(&gate, DegradedReason::Unreachable).await;
        assert!(get(&gate, "key").await.is_err(), "{url}");
    }
}
