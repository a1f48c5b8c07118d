//! What a Redis server says of itself (of a cluster, the fullest master): `INFO`, and of its settings those that matter here.

use std::collections::HashMap;
use std::time::Duration;

use holdfast_core::redis::RedisGate;
use tokio::time::Instant;

/// The settings that are asked for. An account may lack the right to; then they are unknown.
const SETTINGS: &[&str] = &["save", "appendonly", "timeout", "maxmemory-policy"];

/// One reading.
#[derive(Debug, Clone, Default)]
pub(super) struct ServerInfo {
    fields: HashMap<String, String>,
    settings: HashMap<String, String>,
    /// One round trip.
    pub(super) latency: Duration,
}

impl ServerInfo {
    /// `None`: Redis does not answer.
    pub(super) async fn read(gate: &RedisGate) -> Option<Self> {
        let sent = Instant::now();
        let ping = gate.run("monitor.ping", |mut connection| async move {
            ::redis::cmd("PING").query_async::<()>(&mut connection).await
        });
        ping.await.ok()?;
        let latency = sent.elapsed();
        let info = gate.run(
            "monitor.info",
            |connection| async move { connection.info().await },
        );
        let fields = parse(&info.await.ok()?);
        let asking = gate.run("monitor.config", |mut connection| async move {
            let mut command = ::redis::cmd("CONFIG");
            command.arg("GET").arg(SETTINGS);
            command
                .query_async::<HashMap<String, String>>(&mut connection)
                .await
        });
        let settings = asking.await.unwrap_or_default();
        Some(Self {
            fields,
            settings,
            latency,
        })
    }

    #[cfg(test)]
    pub(super) fn of(info: &str, settings: &[(&str, &str)]) -> Self {
        let settings = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
            .collect();
        Self {
            fields: parse(info),
            settings,
            latency: Duration::ZERO,
        }
    }

    pub(super) fn text(&self, name: &str) -> Option<&str> {
        self.fields.get(name).map(String::as_str)
    }

    pub(super) fn number(&self, name: &str) -> Option<f64> {
        self.text(name)?.parse().ok()
    }

    pub(super) fn setting(&self, name: &str) -> Option<&str> {
        self.settings.get(name).map(String::as_str)
    }

    pub(super) fn eviction_policy(&self) -> Option<&str> {
        self.setting("maxmemory-policy")
            .or_else(|| self.text("maxmemory_policy"))
    }

    /// Of the reads since the server started; `None` before the first.
    pub(super) fn hit_ratio(&self) -> Option<f64> {
        let reads = self.reads()?;
        (reads > 0.0).then(|| self.number("keyspace_hits").unwrap_or_default() / reads)
    }

    pub(super) fn reads(&self) -> Option<f64> {
        Some(self.number("keyspace_hits")? + self.number("keyspace_misses")?)
    }

    /// Major and minor version.
    pub(super) fn version(&self) -> Option<(u32, u32)> {
        let mut parts = self.text("redis_version")?.split('.');
        Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
    }
}

fn parse(info: &str) -> HashMap<String, String> {
    info.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
        .collect()
}
