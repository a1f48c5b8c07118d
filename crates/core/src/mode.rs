//! Whether a dependency serves, and if not, since when and why.
//!
//! The gate of a Redis role ([`crate::redis::RedisGate`]) and that of the database ([`crate::sql::Database::watch`]) decide
//! their modes and publish them on a watch channel; all other code only reads them. [`Mode::Absent`] is a configuration, not an outage: code that chooses between
//! Redis and its substitute asks [`Mode::is_normal`], the health page asks [`Mode::is_degraded`], and a process
//! without Redis is therefore healthy while it polls as it would in an outage.
//!
//! Reasons are a closed list of words. They carry no text of the server or of the URL, so they can be shown to
//! anyone.

use std::fmt;

use chrono::{DateTime, Utc};
use serde::Serialize;

/// What a dependency offers at the moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(tag = "mode", rename_all = "snake_case")]
pub enum Mode {
    /// It serves.
    Normal,
    /// It is configured and does not serve. Calls fail at once.
    Degraded {
        /// When it stopped serving, by the host's clock. A change of reason does not move it.
        since: DateTime<Utc>,
        reason: DegradedReason,
    },
    /// It is not configured. Calls fail at once, and nothing is wrong.
    Absent,
}

impl Mode {
    /// It can be used.
    pub fn is_normal(&self) -> bool {
        matches!(self, Self::Normal)
    }

    /// It should serve and does not.
    pub fn is_degraded(&self) -> bool {
        matches!(self, Self::Degraded { .. })
    }

    /// Why it does not serve, if it should.
    pub fn reason(&self) -> Option<DegradedReason> {
        match self {
            Self::Degraded { reason, .. } => Some(*reason),
            Self::Normal | Self::Absent => None,
        }
    }
}

/// Why a dependency does not serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum DegradedReason {
    /// The process has just started, and there is no verdict yet.
    Connecting,
    /// Nobody listens at the address.
    Refused,
    /// The address cannot be resolved or reached, or the TLS handshake failed.
    Unreachable,
    /// It does not answer in time: hung, overloaded, or its packets are lost.
    TimedOut,
    /// It closed an established connection.
    ConnectionLost,
    /// It does not accept our credentials, or they lack a permission.
    Unauthorized,
    /// It is a replica.
    ReadOnly,
    /// It has just started, and is reading its data.
    Loading,
    /// It has reached `maxmemory` and refuses writes.
    OutOfMemory,
    /// It refuses writes: it cannot persist them, or has too few replicas.
    WritesRefused,
    /// It is blocked by a script that runs too long.
    Busy,
    /// The cluster, or the master behind this replica, is down.
    ClusterDown,
    /// It is one node of a cluster, and the URL is that of a single server.
    ClusterNode,
    /// It is no cluster, and the URL is that of a cluster.
    NoCluster,
    /// It is a Sentinel, and the URL is that of a single server.
    Sentinel,
    /// The Sentinels do not know the service that the URL names.
    NoMaster,
    /// It grants no more connections.
    TooManyConnections,
    /// Another process holds its lock and does not let go of it (a SQLite file).
    Locked,
    /// It answers, but not as it should.
    Unexpected,
}

impl DegradedReason {
    pub const ALL: [Self; 19] = [
        Self::Connecting,
        Self::Refused,
        Self::Unreachable,
        Self::TimedOut,
        Self::ConnectionLost,
        Self::Unauthorized,
        Self::ReadOnly,
        Self::Loading,
        Self::OutOfMemory,
        Self::WritesRefused,
        Self::Busy,
        Self::ClusterDown,
        Self::ClusterNode,
        Self::NoCluster,
        Self::Sentinel,
        Self::NoMaster,
        Self::TooManyConnections,
        Self::Locked,
        Self::Unexpected,
    ];

    /// The word that logs and JSON use.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connecting => "connecting",
            Self::Refused => "refused",
            Self::Unreachable => "unreachable",
            Self::TimedOut => "timed_out",
            Self::ConnectionLost => "connection_lost",
            Self::Unauthorized => "unauthorized",
            Self::ReadOnly => "read_only",
            Self::Loading => "loading",
            Self::OutOfMemory => "out_of_memory",
            Self::WritesRefused => "writes_refused",
            Self::Busy => "busy",
            Self::ClusterDown => "cluster_down",
            Self::ClusterNode => "cluster_node",
            Self::NoCluster => "no_cluster",
            Self::Sentinel => "sentinel",
            Self::NoMaster => "no_master",
            Self::TooManyConnections => "too_many_connections",
            Self::Locked => "locked",
            Self::Unexpected => "unexpected",
        }
    }

    /// What an operator of Redis should do next, in one sentence. None of it needs a restart of Holdfast.
    pub fn hint(self) -> &'static str {
        match self {
            Self::Connecting => "Wait for the first probe; it takes less than two seconds.",
            Self::Refused => "Start the server, or correct the host and port in the URL.",
            Self::Unreachable => {
                "Check the host name, the network between the services, and TLS (`rediss://`, `redis.ca_certificate`)."
            }
            Self::TimedOut => {
                "See whether the server hangs or is overloaded: `redis-cli --latency`, `SLOWLOG GET`."
            }
            Self::ConnectionLost => "See the server's log for a restart, a crash or a killed client.",
            Self::Unauthorized => {
                "Correct the user and password, or grant the account the permissions it lacks."
            }
            Self::ReadOnly => {
                "Point the URL at the master, write `redis+sentinel://`, or finish the failover."
            }
            Self::Loading => "Wait until the server has loaded its data.",
            Self::OutOfMemory => {
                "Raise `maxmemory`, or make room; a cache wants `maxmemory-policy allkeys-lru`."
            }
            Self::WritesRefused => {
                "Fix persistence (disk space, `INFO persistence`) or the missing replicas."
            }
            Self::Busy => "Find the script with `SLOWLOG GET`; `SCRIPT KILL` ends one that has not written.",
            Self::ClusterDown => "Restore the cluster's slots, or the replica's link to its master.",
            Self::ClusterNode => {
                "The server is a node of a Redis Cluster: write `redis+cluster://` in the URL."
            }
            Self::NoCluster => "The server is not part of a Redis Cluster: write `redis://` in the URL.",
            Self::Sentinel => {
                "The server is a Sentinel: write `redis+sentinel://`, and the service's name as the path."
            }
            Self::NoMaster => {
                "The Sentinels know no service of this name: correct the path of the URL (`SENTINEL MASTERS`)."
            }
            Self::TooManyConnections => "Close idle clients, or raise the server's `maxclients`.",
            Self::Locked => "Find the process that holds the lock.",
            Self::Unexpected => "Check that the URL names a Redis server, version 6.2 or later.",
        }
    }
}

impl fmt::Display for DegradedReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn absent_redis_is_neither_normal_nor_degraded() {
        assert!(!Mode::Absent.is_normal());
        assert!(!Mode::Absent.is_degraded());
        assert_eq!(Mode::Absent.reason(), None);
    }

    #[test]
    fn mode_serializes_with_its_reason_and_time() {
        let since = DateTime::from_timestamp(1_700_000_000, 0).unwrap();
        let mode = Mode::Degraded {
            since,
            reason: DegradedReason::TimedOut,
        };
        assert_eq!(
            serde_json::to_value(mode).unwrap(),
            serde_json::json!({"mode": "degraded", "since": "2023-11-14T22:13:20Z", "reason": "timed_out"})
        );
        assert_eq!(
            serde_json::to_value(Mode::Normal).unwrap(),
            serde_json::json!({"mode": "normal"})
        );
    }

    #[test]
    fn the_word_in_logs_is_the_word_in_json() {
        for reason in DegradedReason::ALL {
            assert_eq!(serde_json::to_value(reason).unwrap(), reason.as_str());
        }
    }
}
