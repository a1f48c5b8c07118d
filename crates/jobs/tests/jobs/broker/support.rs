//! What the broker's tests share: a server, a broker on it, and a look at the server that does not use the broker.
#![allow(dead_code, reason = "several test binaries each use a part of it")]

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::{RedisEndpoint, RedisSettings};
use holdfast_core::mode::Mode;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::broker::{
    Batch, Broker, BrokerOutcome, BrokerSettings, FetchAnswer, FinishedExecution, OutgoingJob, PushOutcome,
    Registration,
};
use holdfast_jobs::{Envelope, JobId, WorkerId};
use holdfast_testkit::{RedisOptions, RedisServer};
use serde_json::value::RawValue;

pub(crate) const QUEUE: &str = "events";
/// What only a broken broker exceeds.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);

pub(crate) fn redis_settings() -> RedisSettings {
    RedisSettings {
        queue: None,
        cache: None,
        ca_certificate: None,
        max_connections: 8,
        connect_timeout: Duration::from_secs(1),
        // A busy test machine may take its time.
        command_timeout: Duration::from_secs(5),
        probe_interval: Duration::from_millis(100),
        failure_threshold: 3,
    }
}

/// For tests that wait for a timeout.
pub(crate) fn brisk() -> RedisSettings {
    RedisSettings {
        command_timeout: Duration::from_millis(500),
        ..redis_settings()
    }
}

/// A gate that serves.
pub(crate) async fn gate_at(url: &str, settings: &RedisSettings) -> RedisGate {
    let endpoint = RedisEndpoint {
        url: url.to_owned().into(),
    };
    let gate = RedisGate::open(Role::Queue, Some(&endpoint), settings).unwrap();
    assert!(gate.wait_ready(LIMIT).await.is_normal());
    gate
}

pub(crate) fn absent_gate() -> RedisGate {
    RedisGate::open(Role::Queue, None, &redis_settings()).unwrap()
}

/// Outcomes are remembered for an hour, and a lost worker is lost after 15 s, at once if its heartbeat says so.
pub(crate) fn settings() -> BrokerSettings {
    let settings = BrokerSettings::new(Duration::from_hours(1), Duration::from_secs(15));
    BrokerSettings {
        contact: Duration::ZERO,
        ..settings
    }
}

/// For tests that wait for the patience to end.
pub(crate) fn impatient() -> BrokerSettings {
    BrokerSettings::new(Duration::from_hours(1), Duration::from_secs(1))
}

/// A server, and a broker on it.
pub(crate) struct Ground {
    pub(crate) server: RedisServer,
    pub(crate) broker: Broker,
}

impl Ground {
    pub(crate) async fn new() -> Self {
        Self::with(RedisOptions::default(), settings()).await
    }

    pub(crate) async fn with(options: RedisOptions, settings: BrokerSettings) -> Self {
        let server = RedisServer::start(options).await.unwrap();
        let gate = gate_at(&server.url(), &redis_settings()).await;
        Self {
            server,
            broker: Broker::new(gate, settings),
        }
    }

    /// With short timeouts.
    pub(crate) async fn brisk() -> Self {
        Self::brisk_with(settings()).await
    }

    pub(crate) async fn brisk_with(settings: BrokerSettings) -> Self {
        let server = RedisServer::start(RedisOptions::default()).await.unwrap();
        let gate = gate_at(&server.url(), &brisk()).await;
        Self {
            server,
            broker: Broker::new(gate, settings),
        }
    }

    /// The same server with other settings.
    pub(crate) fn again(&self, settings: BrokerSettings) -> Broker {
        Broker::new(self.broker.gate().clone(), settings)
    }

    pub(crate) async fn worker(&self) -> WorkerId {
        let worker = WorkerId::generate();
        assert_eq!(
            self.broker.register(QUEUE, worker).await.unwrap(),
            Registration::Registered
        );
        worker
    }

    pub(crate) async fn push(&self, count: usize) -> Vec<JobId> {
        let jobs = jobs(count);
        push_all(&self.broker, &jobs).await;
        jobs.iter().map(|job| job.id).collect()
    }

    pub(crate) async fn fetch(&self, worker: WorkerId, limit: usize) -> Batch {
        fetch(&self.broker, worker, limit).await
    }

    pub(crate) async fn fetch_ids(&self, worker: WorkerId, limit: usize) -> Vec<JobId> {
        self.fetch(worker, limit)
            .await
            .jobs
            .iter()
            .map(|job| job.id)
            .collect()
    }

    /// Fetches until nothing is due, and ends everything.
    pub(crate) async fn drain(&self, worker: WorkerId) -> Vec<JobId> {
        let mut ended = Vec::new();
        loop {
            let batch = self.fetch(worker, 500).await;
            if batch.is_empty() {
                return ended;
            }
            let done: Vec<FinishedExecution> = batch.jobs.iter().map(|job| completed(job.id)).collect();
            ended.extend(self.broker.acknowledge(QUEUE, worker, &done).await.unwrap());
        }
    }

    /// A command that answers a number.
    pub(crate) async fn number<A: AsRef<[u8]>>(&self, command: &[A]) -> i64 {
        self.server
            .command(command)
            .await
            .unwrap()
            .ok()
            .unwrap()
            .integer()
            .unwrap()
    }

    pub(crate) async fn text<A: AsRef<[u8]>>(&self, command: &[A]) -> Option<String> {
        self.server.command(command).await.unwrap().ok().unwrap().text()
    }

    pub(crate) async fn texts<A: AsRef<[u8]>>(&self, command: &[A]) -> Vec<String> {
        let reply = self.server.command(command).await.unwrap().ok().unwrap();
        reply
            .array()
            .unwrap()
            .iter()
            .map(|value| value.text().unwrap())
            .collect()
    }

    pub(crate) async fn hash(&self, key: &str) -> HashMap<String, String> {
        let flat = self.texts(&["HGETALL", key]).await;
        flat.chunks(2)
            .map(|pair| (pair[0].clone(), pair[1].clone()))
            .collect()
    }

    pub(crate) async fn delete(&self, key: &str) -> bool {
        self.number(&["DEL", key]).await == 1
    }

    /// Ids in `active`, oldest first.
    pub(crate) async fn active(&self) -> Vec<JobId> {
        let texts = self.texts(&["LRANGE", &key("active"), "0", "-1"]).await;
        texts.iter().map(|id| id.parse().unwrap()).collect()
    }

    /// Waits for the gate's mode.
    pub(crate) async fn becomes(&self, wanted: impl FnMut(&Mode) -> bool) {
        becomes(&self.broker, wanted).await;
    }

    /// Moves a member's heartbeat into the past.
    pub(crate) async fn age(&self, member: &str, seconds: i64) {
        let score: i64 = self
            .text(&["ZSCORE", &key("workers"), member])
            .await
            .unwrap()
            .parse()
            .unwrap();
        let aged = (score - seconds).to_string();
        assert_eq!(
            self.number(&["ZADD", &key("workers"), "XX", "CH", &aged, member])
                .await,
            1
        );
    }

    /// What the queue occupies, outcomes and leases of the janitor aside.
    pub(crate) async fn keys(&self) -> Vec<String> {
        let keys = self.server.keys(&format!("{{{QUEUE}}}:*")).await.unwrap();
        keys.into_iter().filter(|key| !key.contains(":meta:")).collect()
    }
}

pub(crate) async fn becomes(broker: &Broker, wanted: impl FnMut(&Mode) -> bool) {
    let mut mode = broker.gate().watch();
    let met = tokio::time::timeout(LIMIT, mode.wait_for(wanted)).await;
    met.expect("the gate's mode changes").unwrap();
}

pub(crate) fn key(name: &str) -> String {
    format!("{{{QUEUE}}}:{name}")
}

pub(crate) fn meta(id: JobId) -> String {
    key(&format!("meta:{id}"))
}

pub(crate) fn member(worker: WorkerId) -> String {
    format!("holdfast-{worker}")
}

pub(crate) fn inflight(worker: WorkerId) -> String {
    key(&format!("inflight:{}", member(worker)))
}

pub(crate) fn envelope(kind: &str, payload: &str) -> Envelope {
    Envelope {
        kind: kind.to_owned(),
        payload: RawValue::from_string(payload.to_owned()).unwrap(),
        max_attempts: None,
        timeout_ms: None,
        backoff: None,
        traceparent: None,
    }
}

pub(crate) fn outgoing(payload: &str) -> OutgoingJob {
    let envelope = serde_json::to_vec(&envelope("debug.echo", payload)).unwrap();
    OutgoingJob {
        id: JobId::generate(),
        envelope: envelope.into(),
        max_attempts: 4,
    }
}

/// Jobs whose ids are in order, as those of one producer are.
pub(crate) fn jobs(count: usize) -> Vec<OutgoingJob> {
    let mut jobs: Vec<OutgoingJob> = (0..count)
        .map(|number| outgoing(&format!("{{\"n\":{number}}}")))
        .collect();
    jobs.sort_by_key(|job| job.id);
    jobs
}

pub(crate) async fn push_all(broker: &Broker, jobs: &[OutgoingJob]) {
    for pushed in broker.push(QUEUE, jobs).await {
        assert!(matches!(pushed.outcome, PushOutcome::Pushed), "{pushed:?}");
    }
}

pub(crate) async fn fetch(broker: &Broker, worker: WorkerId, limit: usize) -> Batch {
    match broker.fetch(QUEUE, worker, limit).await.unwrap() {
        FetchAnswer::Batch(batch) => batch,
        other => panic!("{worker} is not registered: {other:?}"),
    }
}

pub(crate) fn completed(id: JobId) -> FinishedExecution {
    finished(id, BrokerOutcome::Completed(None))
}

pub(crate) fn finished(id: JobId, outcome: BrokerOutcome) -> FinishedExecution {
    FinishedExecution {
        id,
        kind: "debug.echo".to_owned(),
        attempt: 1,
        outcome,
    }
}

pub(crate) fn raw(json: &str) -> Arc<RawValue> {
    Arc::from(RawValue::from_string(json.to_owned()).unwrap())
}

pub(crate) fn sorted(mut ids: Vec<JobId>) -> Vec<JobId> {
    ids.sort_unstable();
    ids
}
