//! What a call gets from the gate: a connection to the one server, or to every master of a cluster.
//!
//! Callers write the same code for both. On a cluster
//! - a command goes to the master of its first key; a script to that of `KEYS[1]`, so all its keys share a hash tag;
//! - a pipeline is split by master, and its replies are put together in their order. A command without a key (PUBLISH)
//!   goes with the one before it, and after it;
//! - a transaction has one slot;
//! - `SCRIPT` and `PING` go to every master, any other command without a key to one of them. Who wants every master's answer
//!   (SCAN, INFO) asks [`Connection::masters`].

use std::fmt;

use futures::future::join_all;
use redis::aio::{ConnectionLike, MultiplexedConnection};
use redis::{Cmd, Pipeline, RedisFuture, RedisResult, Value};

use super::cluster::Cluster;

/// A handle to a shared connection. Cheap to clone.
#[derive(Clone)]
pub struct Connection(Way);

#[derive(Clone)]
enum Way {
    Server(MultiplexedConnection),
    Cluster(Cluster),
}

/// One master of the role's Redis: of a cluster, or the only one.
#[derive(Clone)]
pub struct Master {
    pub connection: MultiplexedConnection,
    /// A key of this master, which never exists.
    pub(super) probe_key: String,
    pub(super) is_of_cluster: bool,
}

/// Never exists. Whoever restricts the account's keys must allow it; on a cluster, `{holdfast:*}:probe`.
const PROBE_KEY: &str = "{holdfast}:probe";

impl fmt::Debug for Master {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Master").finish_non_exhaustive()
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connection")
            .field("is_cluster", &self.is_cluster())
            .finish_non_exhaustive()
    }
}

impl From<MultiplexedConnection> for Connection {
    fn from(server: MultiplexedConnection) -> Self {
        Self(Way::Server(server))
    }
}

impl From<Cluster> for Connection {
    fn from(cluster: Cluster) -> Self {
        Self(Way::Cluster(cluster))
    }
}

impl Connection {
    pub(super) fn is_cluster(&self) -> bool {
        matches!(self.0, Way::Cluster(_))
    }

    /// Every master, in an order that lasts as long as the cluster's layout.
    pub fn masters(&self) -> Vec<Master> {
        match &self.0 {
            Way::Server(server) => vec![Master {
                connection: server.clone(),
                probe_key: PROBE_KEY.to_owned(),
                is_of_cluster: false,
            }],
            Way::Cluster(cluster) => cluster.masters(),
        }
    }

    /// The master that owns `key` now, for commands about a connection to it (`CLIENT UNBLOCK`).
    ///
    /// # Errors
    /// No master owns the key.
    pub fn owner_of(&self, key: &str) -> RedisResult<MultiplexedConnection> {
        match &self.0 {
            Way::Server(server) => Ok(server.clone()),
            Way::Cluster(cluster) => cluster.owner_of(key),
        }
    }

    /// `INFO` of the server; on a cluster, of the master that uses the most memory: the first to run out of it.
    ///
    /// # Errors
    /// A master does not answer.
    pub async fn info(&self) -> RedisResult<String> {
        let asked = self.masters().into_iter().map(|mut master| async move {
            redis::cmd("INFO")
                .query_async::<String>(&mut master.connection)
                .await
        });
        let mut fullest = String::new();
        for text in join_all(asked).await {
            let text = text?;
            if fullest.is_empty() || used_memory(&text) > used_memory(&fullest) {
                fullest = text;
            }
        }
        Ok(fullest)
    }
}

fn used_memory(info: &str) -> u64 {
    let field = info.lines().find_map(|line| line.strip_prefix("used_memory:"));
    field.and_then(|bytes| bytes.trim().parse().ok()).unwrap_or(0)
}

impl ConnectionLike for Connection {
    fn req_packed_command<'a>(&'a mut self, cmd: &'a Cmd) -> RedisFuture<'a, Value> {
        match &mut self.0 {
            Way::Server(server) => server.req_packed_command(cmd),
            Way::Cluster(cluster) => Box::pin(cluster.command(cmd)),
        }
    }

    fn req_packed_commands<'a>(
        &'a mut self,
        pipeline: &'a Pipeline,
        offset: usize,
        count: usize,
    ) -> RedisFuture<'a, Vec<Value>> {
        match &mut self.0 {
            Way::Server(server) => server.req_packed_commands(pipeline, offset, count),
            Way::Cluster(cluster) => Box::pin(cluster.pipeline(pipeline, offset, count)),
        }
    }

    fn get_db(&self) -> i64 {
        match &self.0 {
            Way::Server(server) => server.get_db(),
            Way::Cluster(_) => 0,
        }
    }
}
