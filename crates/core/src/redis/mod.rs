//! The way to Redis, and the only code that decides whether Redis serves.
//!
//! A [`RedisGate`] stands for one role (queue or cache). Callers hand it an operation; it answers with the result
//! or, within the command timeout at the latest, with a [`GateError`]. It never waits at start, never gives up,
//! and needs no restart: when the server is back, so is the gate.
//!
//! # States
//!
//! The breaker ([`crate::breaker`]) is closed, open or half-open; the [`Mode`](crate::mode::Mode) follows it: `Normal`
//! exactly while it is closed, `Degraded` otherwise, `Absent` if no Redis is configured. The mode is published on a
//! watch channel, an outage and its end are logged once, and nobody else decides.
//!
//! # Parts
//!
//! - `connect.rs` makes connections (deadpool, socket options, TLS); nothing outside this folder names deadpool.
//! - `connection.rs` is what a call gets: a connection to a server, or (`cluster.rs`, `topology.rs`, `slot.rs`) to every
//!   master of a cluster. `sentinel.rs` finds the master that Sentinels name, `mistaken.rs` a server that is not what
//!   its URL says. `outside.rs` has ways beside the gate.
//! - `lanes.rs` keeps a few long-lived connections that all calls share: one round trip a command.
//! - `probe.rs` runs the background probe and keeps the lanes.
//! - [`crate::outage`] sees to it that the gates of a process tell an outage once.
//! - `gate.rs` is what callers hold, `shared.rs` what happens in it.
//! - What an error means stands in [`crate::failure`].
//!
//! # When things fail
//!
//! - *Refusing, dead, demoted, full, loading server*: the next probe (500 ms) opens the breaker; a failing call
//!   makes the probe look at once. Calls then fail within microseconds, and the lanes are dropped.
//! - *Hanging server, lost packets*: calls under way end at their deadline, and the third of them, or the probe,
//!   whichever is first, opens the breaker. A lane whose reply was late is not used again.
//! - *The server is back*: the next probe connects, logs in, writes, opens a lane and closes the breaker.
//! - *A failover of Sentinels or of a shard*: an outage as any other, until the new master takes the probe's write. The
//!   next connection asks the Sentinels or the cluster anew, so no address is ever known for longer than a connection.
//! - *A slot of a cluster moves*: followed within the call.
//! - *A shard of a cluster is away*: an outage of the role, whose other shards are not used until it is back.
//! - *Too many calls at once*: they wait for a place, within their deadline, and fail as `Saturated`. That is our
//!   doing and does not count against the server.
//! - *A caller goes away in the middle of a call*: its place is free at once; the reply, when it comes, is dropped.

mod cluster;
mod connect;
mod connection;
mod error;
mod gate;
mod lanes;
mod meter;
pub(crate) mod mistaken;
mod outside;
mod probe;
mod redirection;
mod sentinel;
mod shared;
mod slot;
mod subscription;
mod topology;

use std::fmt;

pub(crate) use deadpool_redis::{PoolError, TimeoutType};
pub use redis::aio::MultiplexedConnection;
use serde::Serialize;

use crate::config::RedisSettings;

pub use self::connection::{Connection, Master};
pub use self::error::{GateError, OpenError};
pub use self::gate::{PoolStats, RedisGate};
pub use self::lanes::IDLE as IDLE_CONNECTION;
pub use self::outside::{client, connect, connect_to_owner, subscribe};
pub use self::subscription::Subscription;
pub use crate::breaker::BreakerState;

/// What a Redis server is used for. Each role has its own gate, breaker and mode, even on the same server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Bells and broker queues.
    Queue,
    /// Cache, sessions and their invalidations.
    Cache,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queue => "queue",
            Self::Cache => "cache",
        }
    }

    /// The settings as they hold for this role.
    ///
    /// A request that asks the cache still has its own work to do when a hanging server has been given up, and is to
    /// be over within the command timeout itself: the cache waits for four fifths of it.
    fn settings(self, all: &RedisSettings) -> RedisSettings {
        let command_timeout = match self {
            Self::Queue => all.command_timeout,
            Self::Cache => all.command_timeout * 4 / 5,
        };
        RedisSettings {
            command_timeout,
            ..all.clone()
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
