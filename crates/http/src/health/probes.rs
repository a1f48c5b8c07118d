//! The probes of the services that every Holdfast process knows.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::config::{Durability, WorkerSettings};
use holdfast_core::failure::{SqlFailureKind, classify_sql};
use holdfast_core::mode::{DegradedReason, Mode};
use holdfast_core::redis::{BreakerState, RedisGate, Role};
use holdfast_core::sql::{Database, SqlError};
use holdfast_jobs::Jobs;
use holdfast_jobs::ledger::{LedgerError, QueueStats};
use serde_json::json;

use super::{Finding, HealthProbe, hints};

/// Inside [`super::PROBE_DEADLINE`], so that a probe can still say what did not answer.
const LOOK: Duration = Duration::from_millis(700);

/// Can the database be reached? Nothing durable works without it.
#[derive(Debug)]
pub struct DatabaseProbe {
    database: Database,
    migrated: AtomicBool,
}

impl DatabaseProbe {
    pub fn new(database: Database) -> Self {
        Self {
            database,
            migrated: AtomicBool::new(false),
        }
    }

    /// Asked until it is up to date once: it does not go back.
    async fn schema(&self) -> Finding {
        if self.migrated.load(Ordering::Relaxed) {
            return Finding::healthy();
        }
        match tokio::time::timeout(LOOK, self.database.pending_migrations()).await {
            Ok(Ok(pending)) if pending.is_empty() => {
                self.migrated.store(true, Ordering::Relaxed);
                Finding::healthy()
            }
            Ok(Ok(_)) => Finding::unhealthy("its schema is not up to date", hints::MIGRATE),
            Ok(Err(error)) => Finding::unhealthy(sql_error(&error), sql_hint(&error)),
            Err(_) => {
                let error = self.database.late(LOOK);
                Finding::unhealthy(sql_error(&error), sql_hint(&error))
            }
        }
    }
}

impl HealthProbe for DatabaseProbe {
    fn name(&self) -> &'static str {
        "database"
    }

    fn is_vital(&self) -> bool {
        true
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move {
            let finding = match (self.database.ping(LOOK).await, self.database.mode().reason()) {
                (Err(error), _) => Finding::unhealthy(sql_error(&error), sql_hint(&error)),
                // It answers reads, but its gate refuses work.
                (Ok(_), Some(reason)) => {
                    Finding::unhealthy(format!("it does not serve: {reason}"), gate_hint(reason))
                }
                (Ok(_), None) => self.schema().await,
            };
            let mode = self.database.mode();
            let finding = match mode {
                Mode::Degraded { since, reason } => {
                    finding.with("since", since).with("reason", reason.as_str())
                }
                Mode::Normal | Mode::Absent => finding,
            };
            let pool = self.database.pool_stats();
            finding
                .with("kind", self.database.kind())
                .with("mode", if mode.is_normal() { "normal" } else { "degraded" })
                .with("breaker", self.database.breaker().as_str())
                .with("abandoned", self.database.abandoned())
                .with(
                    "pool",
                    json!({"size": pool.size, "idle": pool.idle, "max": pool.max}),
                )
        }
        .boxed()
    }
}

/// The class of a failure. The driver's own text may name hosts and users.
fn sql_error(error: &SqlError) -> String {
    match (error, error.driver()) {
        (SqlError::Deadline { after, .. }, _) => format!("no answer within {} ms", after.as_millis()),
        (_, Some(source)) => sql_kind(classify_sql(source).kind).to_owned(),
        _ => "the database cannot be used".to_owned(),
    }
}

const fn sql_kind(kind: SqlFailureKind) -> &'static str {
    match kind {
        SqlFailureKind::Connection => "it cannot be connected to",
        SqlFailureKind::Exhausted => "no connection is free, or the server has too many",
        SqlFailureKind::Restarting => "it is starting or stopping",
        SqlFailureKind::Contention => "it is locked",
        SqlFailureKind::Timeout => "the statement was cut off",
        SqlFailureKind::ReadOnly => "it is read-only",
        SqlFailureKind::Storage => "it cannot read or write its files",
        SqlFailureKind::Refused => "it does not let us in",
        SqlFailureKind::Unmigrated => "its schema is not up to date",
        _ => "the statement failed",
    }
}

fn sql_hint(error: &SqlError) -> &'static str {
    let Some(source) = error.driver() else {
        return hints::DATABASE_SLOW;
    };
    match classify_sql(source).kind {
        SqlFailureKind::Connection => hints::DATABASE_CONNECT,
        SqlFailureKind::Exhausted => hints::DATABASE_EXHAUSTED,
        SqlFailureKind::Restarting => hints::DATABASE_RESTARTING,
        SqlFailureKind::ReadOnly => hints::DATABASE_READ_ONLY,
        SqlFailureKind::Storage => hints::DATABASE_STORAGE,
        SqlFailureKind::Refused => hints::DATABASE_REFUSED,
        _ => hints::DATABASE_OTHER,
    }
}

/// What to do about a gate that is open.
const fn gate_hint(reason: DegradedReason) -> &'static str {
    match reason {
        DegradedReason::Refused | DegradedReason::Unreachable => hints::DATABASE_CONNECT,
        DegradedReason::TooManyConnections => hints::DATABASE_EXHAUSTED,
        DegradedReason::Loading | DegradedReason::ConnectionLost => hints::DATABASE_RESTARTING,
        DegradedReason::Unauthorized => hints::DATABASE_REFUSED,
        DegradedReason::TimedOut => hints::DATABASE_SLOW,
        DegradedReason::Locked => hints::DATABASE_LOCKED,
        _ => hints::DATABASE_OTHER,
    }
}

/// Does Redis serve? Nothing is lost if it does not, but speed. `redis` is the queue's, `cache` the cache's.
#[derive(Debug)]
pub struct RedisProbe {
    gate: RedisGate,
}

impl RedisProbe {
    pub fn new(gate: RedisGate) -> Self {
        Self { gate }
    }

    /// What the server says of itself.
    async fn info(&self) -> Option<String> {
        let asking = self
            .gate
            .run("health.info", |connection| async move { connection.info().await });
        asking.await.ok()
    }
}

impl HealthProbe for RedisProbe {
    fn name(&self) -> &'static str {
        match self.gate.role() {
            Role::Queue => "redis",
            Role::Cache => "cache",
        }
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move {
            let mode = self.gate.mode();
            let finding = match mode {
                Mode::Absent => return Finding::not_configured().with("mode", "absent"),
                Mode::Normal => match self.info().await {
                    Some(info) => server_details(Finding::healthy(), &info),
                    None => Finding::healthy(),
                },
                Mode::Degraded { since, reason } => {
                    Finding::degraded(format!("it does not serve: {reason}"), reason.hint())
                        .with("since", since)
                }
            };
            let mode = if mode.is_normal() { "normal" } else { "degraded" };
            finding
                .with("mode", mode)
                .with("breaker", self.gate.breaker().map(BreakerState::as_str))
                .with("pool", self.gate.stats())
        }
        .boxed()
    }
}

fn server_details(finding: Finding, info: &str) -> Finding {
    let lines: BTreeMap<&str, &str> = info.lines().filter_map(|line| line.split_once(':')).collect();
    let text = |name: &str| lines.get(name).map(|value| value.trim());
    let number = |name: &str| text(name).and_then(|value| value.parse::<u64>().ok());
    finding
        .with("version", text("redis_version"))
        .with("memory_used", text("used_memory_human"))
        .with("connected_clients", number("connected_clients"))
        .with("uptime_days", number("uptime_in_days"))
}

/// How full the queues are.
#[derive(Debug)]
pub struct QueueProbe {
    jobs: Jobs,
}

impl QueueProbe {
    pub fn new(jobs: Jobs) -> Self {
        Self { jobs }
    }

    fn details(&self, stats: Vec<QueueStats>) -> Finding {
        let queues: BTreeMap<String, _> = stats
            .into_iter()
            .map(|queue| {
                let durability = match self.jobs.queues().get(&queue.queue).map(|queue| queue.durability) {
                    Some(Durability::Ledger) => Some("ledger"),
                    Some(Durability::Redis) => Some("redis"),
                    None => None,
                };
                let view = json!({
                    "durability": durability,
                    "paused": queue.paused,
                    "available": queue.available,
                    "scheduled": queue.scheduled,
                    "retryable": queue.retryable,
                    "running": queue.running,
                    "discarded": queue.discarded,
                    "oldest_age_seconds": queue.oldest_age_seconds,
                });
                (queue.queue, view)
            })
            .collect();
        Finding::healthy().with("queues", queues)
    }
}

impl HealthProbe for QueueProbe {
    fn name(&self) -> &'static str {
        "queue"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move {
            match tokio::time::timeout(LOOK, self.jobs.queue_stats()).await {
                Ok(Ok(stats)) => self.details(stats),
                Ok(Err(error)) => ledger_away(&error),
                // Counting a long backlog takes its time; that is no fault of the queue.
                Err(_) => Finding::healthy().with("counted", false),
            }
        }
        .boxed()
    }
}

/// Is anybody there to run jobs?
#[derive(Debug)]
pub struct WorkersProbe {
    jobs: Jobs,
    lost_after: Duration,
}

impl WorkersProbe {
    pub fn new(jobs: Jobs, settings: &WorkerSettings) -> Self {
        Self {
            jobs,
            lost_after: settings.lost_after,
        }
    }
}

impl WorkersProbe {
    /// The configured and declared queues that no living worker names.
    fn unserved(&self, served: &BTreeMap<&str, usize>) -> Vec<String> {
        let declared = self.jobs.declared().snapshot();
        let declared = declared.queues.iter().map(ToString::to_string);
        let queues = self.jobs.queues().keys().cloned().chain(declared);
        queues
            .filter(|queue| !served.contains_key(queue.as_str()))
            .collect()
    }
}

impl HealthProbe for WorkersProbe {
    fn name(&self) -> &'static str {
        "workers"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move {
            let workers = match tokio::time::timeout(LOOK, self.jobs.workers()).await {
                Ok(Ok(workers)) => workers,
                Ok(Err(error)) => return ledger_away(&error),
                Err(_) => {
                    return Finding::degraded("the workers could not be read in time", hints::SEE_DATABASE);
                }
            };
            let alive: Vec<_> = workers
                .iter()
                .filter(|worker| worker.seen_seconds_ago < self.lost_after.as_secs_f64())
                .collect();
            let mut queues: BTreeMap<&str, usize> = BTreeMap::new();
            for queue in alive.iter().flat_map(|worker| &worker.queues) {
                *queues.entry(queue).or_default() += 1;
            }
            let finding = if alive.is_empty() {
                Finding::degraded(
                    "no worker is alive: jobs are accepted and wait",
                    hints::START_WORKER,
                )
            } else {
                Finding::healthy()
            };
            let finding = finding.with("count", alive.len()).with("queues", &queues);
            let unserved = self.unserved(&queues);
            if unserved.is_empty() {
                return finding;
            }
            // Its jobs are accepted and wait. That is no fault while its workers are on their way, so the status stays.
            let warning = format!("no worker serves {}: their jobs wait", unserved.join(", "));
            finding.with("unserved", unserved).with("warning", warning)
        }
        .boxed()
    }
}

/// The ledger's own text says what it was to do, and nothing of the driver's.
fn ledger_away(error: &LedgerError) -> Finding {
    Finding::degraded(error.to_string(), hints::SEE_DATABASE)
}
