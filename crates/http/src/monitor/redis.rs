//! The document of `/metrics/redis`. It is complete in every mode: what cannot be read is null.

use std::collections::BTreeMap;

use holdfast_core::config::Durability;
use holdfast_core::mode::Mode;
use holdfast_core::redis::{PoolStats, RedisGate};
use serde::Serialize;
use utoipa::ToSchema;

use super::Monitor;
use super::advice::{Advice, Use, on_queues, on_server};
use super::info::ServerInfo;
use crate::health::ServiceStatus;

const MEGABYTE: f64 = 1_048_576.0;

/// The response of `/metrics/redis`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = RedisMetrics)]
pub struct RedisReport {
    pub status: ServiceStatus,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<&'static str>,
    /// The queues' server.
    pub metrics: Metrics,
    /// The cache's server, if it is a separate one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cache: Option<Metrics>,
    pub advice: Vec<Advice>,
}

/// One server.
#[derive(Debug, Clone, Default, Serialize, ToSchema)]
#[schema(as = RedisServerMetrics)]
pub struct Metrics {
    pub memory: Memory,
    pub connections: Connections,
    pub performance: Performance,
    /// Due jobs that wait, by queue; empty while they cannot be counted.
    pub queues: BTreeMap<String, u64>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Memory {
    pub used_mb: Option<f64>,
    pub peak_mb: Option<f64>,
    /// 0: no limit.
    pub max_mb: Option<f64>,
    pub fragmentation: Option<f64>,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Connections {
    pub connected_clients: Option<f64>,
    pub blocked_clients: Option<f64>,
    /// Of this process.
    #[schema(value_type = Object)]
    pub pool: PoolStats,
}

#[derive(Debug, Clone, Default, Serialize, ToSchema)]
pub struct Performance {
    pub ops_per_sec: Option<f64>,
    /// Share of all reads since the server started; null before the first.
    pub cache_hit_ratio: Option<f64>,
    /// One round trip from this process.
    pub latency_ms: Option<f64>,
}

impl Monitor {
    pub(super) async fn look_at_redis(&self) -> RedisReport {
        let queues = match self.count().await {
            Some(figures) => figures
                .queues
                .into_iter()
                .map(|stats| (stats.queue, stats.available))
                .collect(),
            None => BTreeMap::new(),
        };
        let mut advice = Vec::new();
        let mut metrics = self
            .server(&self.queue_gate, self.use_of_queue_server(), &mut advice)
            .await;
        advice.extend(on_queues(
            queues.iter().map(|(name, depth)| (name.as_str(), *depth)),
        ));
        metrics.queues = queues;
        let cache = match &self.cache_gate {
            Some(gate) if !self.shared_server && gate.is_configured() => {
                Some(self.server(gate, USE_OF_CACHE_SERVER, &mut advice).await)
            }
            _ => None,
        };
        let worst = self.gates().map(RedisGate::mode).find(Mode::is_degraded);
        let (status, error, hint) = match worst.unwrap_or_else(|| self.queue_gate.mode()) {
            Mode::Absent => (ServiceStatus::NotConfigured, None, None),
            Mode::Normal => (ServiceStatus::Healthy, None, None),
            Mode::Degraded { reason, .. } => {
                let error = format!("it does not serve: {reason}");
                (ServiceStatus::Degraded, Some(error), Some(reason.hint()))
            }
        };
        RedisReport {
            status,
            error,
            hint,
            metrics,
            cache,
            advice,
        }
    }

    fn use_of_queue_server(&self) -> Use {
        let mut queues = self.jobs.queues().values();
        Use {
            queue: true,
            cache: self.shared_server,
            holds_jobs: queues.any(|queue| queue.durability == Durability::Redis),
        }
    }

    async fn server(&self, gate: &RedisGate, for_what: Use, advice: &mut Vec<Advice>) -> Metrics {
        let info = ServerInfo::read(gate).await;
        if let Some(info) = &info {
            advice.extend(on_server(info, for_what));
        }
        metrics(info.as_ref(), gate.stats())
    }
}

const USE_OF_CACHE_SERVER: Use = Use {
    queue: false,
    cache: true,
    holds_jobs: false,
};

fn metrics(info: Option<&ServerInfo>, pool: PoolStats) -> Metrics {
    let number = |name| info.and_then(|info| info.number(name));
    let megabytes = |name| number(name).map(|bytes: f64| bytes / MEGABYTE);
    Metrics {
        memory: Memory {
            used_mb: megabytes("used_memory"),
            peak_mb: megabytes("used_memory_peak"),
            max_mb: megabytes("maxmemory"),
            fragmentation: number("mem_fragmentation_ratio"),
        },
        connections: Connections {
            connected_clients: number("connected_clients"),
            blocked_clients: number("blocked_clients"),
            pool,
        },
        performance: Performance {
            ops_per_sec: number("instantaneous_ops_per_sec"),
            cache_hit_ratio: info.and_then(ServerInfo::hit_ratio),
            latency_ms: info.map(|info| info.latency.as_secs_f64() * 1_000.0),
        },
        queues: BTreeMap::new(),
    }
}
