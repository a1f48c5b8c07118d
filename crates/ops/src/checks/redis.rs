//! What a Redis server is asked, for one role.
//!
//! | check | fails | is to be looked at |
//! | --- | --- | --- |
//! | `connect` | nobody listens, no such host | |
//! | `login` | TLS, user or password refused, no answer, still loading, full | |
//! | `server` | older than 6.2, a replica | older than 7 |
//! | `latency` | an operation fails | p99 of 1,000 over 10 ms |
//! | `pipelining` | an operation fails | less than twice as fast |
//! | `cache` | what was set is not got, or lives on | slower than 10 ms |
//! | `queue` | a blocked pop does not hear a push, scripts are refused | |
//! | `pubsub` | a message does not arrive | |
//! | `pool` | a call of 1,000 at once fails | |
//! | `policy` | it may evict jobs of `redis` queues | it may evict bells; a cache that cannot evict |
//! | `persistence` | | jobs of `redis` queues would not survive a restart |
//! | `pools` | the pools of all processes exceed `maxclients` | they take over 80 % of it |
//! | `memory` | | over 80 % of `maxmemory`; no limit where one is needed |
//! | `hit_ratio` | | under 80 % |
//!
//! Everything written is under [`PREFIX`] and expires.

mod connection;
mod exchange;
mod server;
mod speed;

use std::collections::BTreeMap;

use holdfast_core::config::{RedisEndpoint, RedisSettings};
use holdfast_core::redis::{Connection, Role};
use tokio::sync::OnceCell;

use super::database::FEWEST_PROCESSES;
use super::{Check, check};

/// Keys of checks are below this, and expire within [`KEY_LIFETIME_MS`].
const PREFIX: &str = "holdfast:check";
const KEY_LIFETIME_MS: u64 = 60_000;

/// Slower than this is to be looked at: a tenth of what a user notices.
const SLOW_MS: f64 = 10.0;

/// One server in one role.
#[derive(Debug)]
pub(crate) struct RedisSubject {
    pub(crate) role: Role,
    pub(crate) endpoint: RedisEndpoint,
    pub(crate) settings: RedisSettings,
    /// Queues whose jobs live on this server; they are lost with its memory.
    pub(crate) job_queues: Vec<String>,
    /// The other role uses this server too.
    pub(crate) shared: bool,
    /// How many open their pools here.
    pub(crate) processes: u64,
    connection: OnceCell<Connection>,
    info: OnceCell<BTreeMap<String, String>>,
}

impl RedisSubject {
    pub(crate) fn new(role: Role, endpoint: RedisEndpoint, settings: RedisSettings) -> Self {
        Self {
            role,
            endpoint,
            settings,
            job_queues: Vec::new(),
            shared: true,
            processes: FEWEST_PROCESSES,
            connection: OnceCell::new(),
            info: OnceCell::new(),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{{{PREFIX}}}:{}:{}:{name}", self.role, ulid::Ulid::generate())
    }
}

/// Can it be used at all, for anything? What writes, and the pool, need a server that takes writes.
pub(crate) const CHECKS: &[Check<RedisSubject>] = &[
    check!("connect", needs [], within 10, connection::connect),
    check!("login", needs ["connect"], within 10, connection::login),
    check!("server", needs ["login"], within 10, server::server),
    check!("latency", needs ["login"], within 60, speed::latency),
    check!("pipelining", needs ["server"], within 60, speed::pipelining),
    check!("cache", needs ["server"], within 20, exchange::cache),
    check!("queue", needs ["server"], within 20, exchange::queue),
    check!("pubsub", needs ["login"], within 20, exchange::pubsub),
    check!("pool", needs ["server"], within 60, speed::pool),
    check!("pools", needs ["login"], within 10, server::pools),
    check!("policy", needs ["login"], within 10, server::policy),
    check!("persistence", needs ["login"], within 10, server::persistence),
    check!("memory", needs ["login"], within 10, server::memory),
    check!("hit_ratio", needs ["login"], within 10, server::hit_ratio),
];
