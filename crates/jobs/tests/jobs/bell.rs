//! The bell against a real Redis server, two processes played by two bells.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test stops at the first surprise"
)]

use crate::broker::support;

use std::time::Duration;

use holdfast_core::mode::Mode;
use holdfast_jobs::bell::{Bell, EXPIRY, Heard, Listener, MAX_ENTRIES, Ring};
use holdfast_testkit::{RedisOptions, RedisServer, eventually};
use tokio::time::{Instant, timeout};

use support::{LIMIT, absent_gate, brisk, gate_at};

const BELL: &str = "{holdfast:bell}:events";
const POLL: Duration = Duration::from_millis(5);

struct Ground {
    server: RedisServer,
    /// Of the process that enqueues.
    producer: Bell,
    /// Of the process that works.
    worker: Bell,
}

impl Ground {
    async fn new() -> Self {
        let server = RedisServer::start(RedisOptions::default()).await.unwrap();
        let producer = Bell::new(gate_at(&server.url(), &brisk()).await);
        let worker = Bell::new(gate_at(&server.url(), &brisk()).await);
        Self {
            server,
            producer,
            worker,
        }
    }

    /// A listener whose blocking pop has reached the server.
    async fn listener(&self, queues: &[String]) -> Listener {
        let before = self.blocked().await;
        let mut listener = self.worker.listener();
        self.block(&mut listener, queues, before + 1).await;
        listener
    }

    /// Waits, and drops the wait, once so many pops block.
    async fn block(&self, listener: &mut Listener, queues: &[String], blocked: i64) {
        let reached = eventually("the pop blocks", LIMIT, POLL, || async {
            (self.blocked().await == blocked).then_some(())
        });
        tokio::select! {
            heard = listener.wait(queues, LIMIT) => panic!("{heard:?}"),
            reached = reached => reached.unwrap(),
        }
    }

    async fn blocked(&self) -> i64 {
        self.server
            .info("clients", "blocked_clients")
            .await
            .unwrap()
            .parse()
            .unwrap()
    }

    async fn entries(&self, bell: &str) -> Vec<String> {
        let reply = self
            .server
            .command(&["LRANGE", bell, "0", "-1"])
            .await
            .unwrap()
            .ok()
            .unwrap();
        reply
            .array()
            .unwrap()
            .iter()
            .map(|entry| entry.text().unwrap())
            .collect()
    }

    /// Waits until the bell holds so many entries.
    async fn rung(&self, bell: &str, count: usize) -> Vec<String> {
        eventually("the ring", LIMIT, POLL, || async {
            let entries = self.entries(bell).await;
            (entries.len() == count).then_some(entries)
        })
        .await
        .unwrap()
    }
}

fn queues(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

fn ring(queue: &str, due_in: Duration) -> Ring {
    Ring {
        queue: queue.to_owned(),
        due_in,
    }
}

/// What only a lost ring exceeds: less than one blocking pop.
async fn hears(listener: &mut Listener, names: &[&str]) -> Vec<Ring> {
    let started = Instant::now();
    let Heard { rings, listening } = listener.wait(&queues(names), LIMIT).await;
    assert!(listening);
    assert!(
        started.elapsed() < Duration::from_millis(1_500),
        "{:?}",
        started.elapsed()
    );
    rings
}

async fn becomes(bell: &Bell, listener: &mut Listener, listening: bool) {
    let deadline = Instant::now() + LIMIT;
    while listener
        .wait(&queues(&["events"]), Duration::from_millis(20))
        .await
        .listening
        != listening
    {
        assert!(Instant::now() < deadline, "{bell:?}");
    }
}

#[tokio::test]
async fn a_ring_wakes_a_worker_of_another_process_with_its_delay() {
    let ground = Ground::new().await;
    let mut listener = ground.listener(&queues(&["events", "ml"])).await;
    ground.producer.ring("events", 1, Duration::ZERO);
    assert_eq!(
        hears(&mut listener, &["events", "ml"]).await,
        [ring("events", Duration::ZERO)]
    );
    ground.producer.ring("ml", 3, Duration::from_millis(2_500));
    assert_eq!(
        hears(&mut listener, &["events", "ml"]).await,
        [ring("ml", Duration::from_millis(2_500))]
    );
    ground.producer.ring("other", 1, Duration::ZERO);
    ground.producer.ring("events", 0, Duration::ZERO);
    let heard = listener
        .wait(&queues(&["events", "ml"]), Duration::from_millis(300))
        .await;
    assert_eq!(
        heard,
        Heard {
            rings: vec![],
            listening: true
        }
    );
}

#[tokio::test]
async fn many_jobs_wake_several_workers() {
    let ground = Ground::new().await;
    let names = queues(&["events"]);
    let mut listeners = Vec::new();
    for _ in 0..MAX_ENTRIES {
        listeners.push(ground.listener(&names).await);
    }
    ground.producer.ring("events", 1_000, Duration::ZERO);
    for mut listener in listeners {
        assert_eq!(
            hears(&mut listener, &["events"]).await,
            [ring("events", Duration::ZERO)]
        );
    }
}

#[tokio::test]
async fn a_storm_of_rings_is_coalesced_and_a_bell_stays_small_and_expires() {
    let ground = Ground::new().await;
    let started = Instant::now();
    for _ in 0..100_000 {
        ground.producer.ring("events", 500, Duration::ZERO);
    }
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "ringing waits for nobody: {:?}",
        started.elapsed()
    );
    assert_eq!(ground.rung(BELL, MAX_ENTRIES).await, ["0"; MAX_ENTRIES]);
    let pushes = ground.server.info("commandstats", "cmdstat_lpush").await.unwrap();
    assert!(
        pushes.starts_with("calls=1,") || pushes.starts_with("calls=2,"),
        "{pushes}"
    );
    let left = ground
        .server
        .command(&["PTTL", BELL])
        .await
        .unwrap()
        .integer()
        .unwrap();
    assert!((1..=EXPIRY.as_millis() as i64).contains(&left), "{left}");
}

#[tokio::test]
async fn what_is_due_stands_before_what_comes_later_and_pushes_it_out() {
    let ground = Ground::new().await;
    ground.producer.ring("events", 1, Duration::from_mins(1));
    assert_eq!(ground.rung(BELL, 1).await, ["60000"]);
    ground.producer.ring("events", 1, Duration::ZERO);
    assert_eq!(ground.rung(BELL, 2).await, ["0", "60000"]);
    ground.producer.ring("events", 9, Duration::ZERO);
    assert_eq!(ground.rung(BELL, MAX_ENTRIES).await, ["0"; MAX_ENTRIES]);
}

#[tokio::test]
async fn a_dropped_wait_loses_neither_ring_nor_connection() {
    let ground = Ground::new().await;
    let names = queues(&["events"]);
    let mut listener = ground.listener(&names).await;
    let connections = ground
        .server
        .info("stats", "total_connections_received")
        .await
        .unwrap();
    for _ in 0..20 {
        // Each time the wait is dropped, then the ring comes, then the next wait hears it.
        assert!(
            timeout(Duration::from_millis(5), listener.wait(&names, LIMIT))
                .await
                .is_err()
        );
        ground.producer.ring("events", 1, Duration::ZERO);
        assert_eq!(
            hears(&mut listener, &["events"]).await,
            [ring("events", Duration::ZERO)]
        );
    }
    let more: i64 = ground
        .server
        .info("stats", "total_connections_received")
        .await
        .unwrap()
        .parse()
        .unwrap();
    // The look itself is one.
    assert_eq!(more - connections.parse::<i64>().unwrap(), 1);
}

#[tokio::test]
async fn the_queues_change_between_waits_without_a_deaf_moment() {
    let ground = Ground::new().await;
    let mut listener = ground.listener(&queues(&["events"])).await;
    for _ in 0..10 {
        ground.producer.ring("ml", 1, Duration::ZERO);
        assert_eq!(
            hears(&mut listener, &["events", "ml"]).await,
            [ring("ml", Duration::ZERO)]
        );
        ground.block(&mut listener, &queues(&["events"]), 1).await;
    }
    // Nothing to listen for, and then something again.
    let heard = listener.wait(&[], Duration::from_millis(50)).await;
    assert_eq!(
        heard,
        Heard {
            rings: vec![],
            listening: true
        }
    );
    ground.producer.ring("ml", 1, Duration::ZERO);
    assert_eq!(hears(&mut listener, &["ml"]).await, [ring("ml", Duration::ZERO)]);
}

#[tokio::test]
async fn a_ring_for_a_queue_without_room_is_passed_on() {
    let ground = Ground::new().await;
    let mut full = ground.listener(&queues(&["events", "ml"])).await;
    ground.producer.ring("events", 1, Duration::from_millis(7));
    // Its pop takes the ring; by now it listens for another queue.
    let heard = full.wait(&queues(&["ml"]), Duration::from_millis(300)).await;
    assert_eq!(
        heard,
        Heard {
            rings: vec![],
            listening: true
        }
    );
    assert_eq!(ground.rung(BELL, 1).await, ["7"]);
}

#[tokio::test]
async fn a_busy_queue_does_not_drown_another() {
    let ground = Ground::new().await;
    ground.producer.ring("events", 4, Duration::ZERO);
    ground.producer.ring("ml", 4, Duration::ZERO);
    ground.rung(BELL, MAX_ENTRIES).await;
    let mut listener = ground.worker.listener();
    let mut heard = Vec::new();
    for _ in 0..4 {
        heard.extend(
            hears(&mut listener, &["events", "ml"])
                .await
                .into_iter()
                .map(|ring| ring.queue),
        );
    }
    heard.sort();
    assert_eq!(heard, ["events", "events", "ml", "ml"]);
}

#[tokio::test]
async fn an_outage_ends_the_wait_and_the_listener_finds_back() {
    let ground = Ground::new().await;
    let names = queues(&["events"]);
    let mut listener = ground.listener(&names).await;

    ground.server.kill9().await.unwrap();
    let started = Instant::now();
    let heard = listener.wait(&names, LIMIT).await;
    assert_eq!(
        heard,
        Heard {
            rings: vec![],
            listening: false
        }
    );
    assert!(
        started.elapsed() < Duration::from_secs(2),
        "{:?}",
        started.elapsed()
    );
    let started = Instant::now();
    for _ in 0..1_000 {
        ground.producer.ring("events", 1, Duration::ZERO);
    }
    let heard = listener.wait(&names, Duration::from_millis(100)).await;
    assert_eq!(
        heard,
        Heard {
            rings: vec![],
            listening: false
        }
    );
    assert!(
        (100..1_000).contains(&started.elapsed().as_millis()),
        "{:?}",
        started.elapsed()
    );

    ground.server.restart_empty().await.unwrap();
    becomes(&ground.worker, &mut listener, true).await;
    let mut mode = ground.gate_mode();
    timeout(LIMIT, mode.wait_for(Mode::is_normal))
        .await
        .unwrap()
        .unwrap();
    ground.producer.ring("events", 1, Duration::ZERO);
    assert_eq!(
        hears(&mut listener, &["events"]).await,
        [ring("events", Duration::ZERO)]
    );
}

impl Ground {
    fn gate_mode(&self) -> tokio::sync::watch::Receiver<Mode> {
        self.producer.gate().watch()
    }
}

#[tokio::test]
async fn a_hung_server_is_no_bell() {
    let ground = Ground::new().await;
    let names = queues(&["events"]);
    let mut listener = ground.listener(&names).await;
    ground.server.sigstop().await.unwrap();
    let started = Instant::now();
    assert_eq!(
        listener.wait(&names, LIMIT).await,
        Heard {
            rings: vec![],
            listening: false
        }
    );
    assert!(
        started.elapsed() < Duration::from_secs(3),
        "{:?}",
        started.elapsed()
    );
    ground.server.sigcont().await.unwrap();
    becomes(&ground.worker, &mut listener, true).await;
}

#[tokio::test]
async fn inside_one_process_the_bell_needs_no_redis() {
    let bell = Bell::new(absent_gate());
    let mut first = bell.listener();
    let mut second = bell.listener();
    let names = queues(&["events"]);
    let quiet = first.wait(&names, Duration::from_millis(20)).await;
    assert_eq!(
        quiet,
        Heard {
            rings: vec![],
            listening: false
        }
    );

    let (heard, ()) = tokio::join!(first.wait(&names, LIMIT), async {
        bell.ring("events", 1, Duration::ZERO);
    });
    assert_eq!(heard.rings, [ring("events", Duration::ZERO)]);
    // One that did not wait just then hears it too, once.
    assert_eq!(
        second.wait(&names, LIMIT).await.rings,
        [ring("events", Duration::ZERO)]
    );
    assert_eq!(second.wait(&names, Duration::from_millis(20)).await, quiet);
    bell.ring("ml", 1, Duration::ZERO);
    assert_eq!(second.wait(&names, Duration::from_millis(20)).await, quiet);
}
