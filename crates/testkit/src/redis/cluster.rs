//! A real cluster: masters that share the slots, and a replica of each.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use super::{RedisOptions, RedisServer};
use crate::eventually;
use crate::ports::PortLease;
use crate::resp::RespValue;

/// A node is taken for failed after this; a failover takes about twice as long.
const NODE_TIMEOUT: &str = "1000";
const SLOTS: usize = 16_384;
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);
/// Keys moved in one MIGRATE.
const KEYS_AT_ONCE: &str = "100";
const MIGRATE_LIMIT_MS: &str = "5000";

/// `masters` nodes that share the slots evenly, in order, and as many replicas: node `n + masters` is the replica of
/// node `n` at first. Killed and removed on drop.
#[derive(Debug)]
pub struct RedisCluster {
    nodes: Vec<Arc<RedisServer>>,
    masters: usize,
    buses: Vec<PortLease>,
}

impl RedisCluster {
    /// Starts the nodes and waits until the cluster serves and every master has its replica.
    ///
    /// The options are those of every node; a password is also what they log in with at each other.
    pub async fn start(masters: usize, options: RedisOptions) -> Result<Self> {
        let (mut nodes, mut buses) = (Vec::new(), Vec::new());
        for _ in 0..2 * masters {
            let bus = PortLease::acquire()?;
            let mut options = options
                .clone()
                .config("cluster-enabled", "yes")
                .config("cluster-node-timeout", NODE_TIMEOUT)
                .config("cluster-port", bus.port().to_string())
                .config("repl-diskless-sync-delay", "0")
                .config("repl-ping-replica-period", "1");
            if let Some(password) = &options.password {
                let password = password.clone();
                options = options.config("masterauth", password);
            }
            nodes.push(Arc::new(RedisServer::start(options).await?));
            buses.push(bus);
        }
        let cluster = Self {
            nodes,
            masters,
            buses,
        };
        cluster.join().await?;
        Ok(cluster)
    }

    async fn join(&self) -> Result<()> {
        for (index, node) in self.masters().iter().enumerate() {
            let first = index * SLOTS / self.masters;
            let last = (index + 1) * SLOTS / self.masters - 1;
            node.done(&["CLUSTER", "ADDSLOTSRANGE", &first.to_string(), &last.to_string()])
                .await?;
        }
        let Some((first, others)) = self.nodes.split_first() else {
            bail!("a cluster needs nodes");
        };
        for (index, node) in self.nodes.iter().enumerate() {
            node.done(&["CLUSTER", "SET-CONFIG-EPOCH", &(index + 1).to_string()])
                .await?;
        }
        for (node, bus) in others.iter().zip(self.buses.iter().skip(1)) {
            let (port, bus) = (node.port().to_string(), bus.port().to_string());
            first.done(&["CLUSTER", "MEET", "127.0.0.1", &port, &bus]).await?;
        }
        self.all("every node knows all others", |node| async move {
            Ok(node.cluster_info("cluster_known_nodes").await? == self.nodes.len().to_string())
        })
        .await?;
        for (replica, master) in self.nodes.iter().skip(self.masters).zip(self.masters()) {
            let id = master.node_id().await?;
            replica.done(&["CLUSTER", "REPLICATE", &id]).await?;
        }
        self.serves().await
    }

    /// Waits until every running node says that the cluster is whole, and every replica follows its master.
    pub async fn serves(&self) -> Result<()> {
        self.all("the cluster serves", |node| async move {
            let whole = node.cluster_info("cluster_state").await? == "ok";
            let linked = node.info("replication", "role").await? == "master"
                || node.info("replication", "master_link_status").await? == "up";
            Ok(whole && linked)
        })
        .await
    }

    async fn all<'a, Fut>(&'a self, what: &str, met: impl Fn(&'a RedisServer) -> Fut) -> Result<()>
    where
        Fut: Future<Output = Result<bool>>,
    {
        for node in &self.nodes {
            if node.is_running().await? {
                eventually(what, LIMIT, POLL, || {
                    let met = met(node);
                    async move { met.await.unwrap_or(false).then_some(()) }
                })
                .await?;
            }
        }
        Ok(())
    }

    /// `redis+cluster://[:password@]` and the masters it began with.
    pub fn url(&self) -> String {
        let mut url = "redis+cluster://".to_owned();
        if let Some(password) = self.nodes.first().and_then(|node| node.options.password.clone()) {
            let _ = write!(url, ":{password}@");
        }
        let hosts: Vec<String> = self
            .masters()
            .iter()
            .map(|node| node.addr().to_string())
            .collect();
        url + &hosts.join(",")
    }

    /// All of them: first those that were masters at first, then their replicas.
    pub fn nodes(&self) -> &[Arc<RedisServer>] {
        &self.nodes
    }

    /// Those that were masters at first.
    pub fn masters(&self) -> &[Arc<RedisServer>] {
        &self.nodes[..self.masters]
    }

    /// The index of the node that owns `key` now, by what the running nodes say.
    pub async fn owner_of(&self, key: &str) -> Result<usize> {
        for node in &self.nodes {
            if !node.is_running().await? {
                continue;
            }
            let slot = node.slot_of(key).await?;
            let reply = node.command(&["CLUSTER", "SLOTS"]).await?.ok()?;
            for row in reply.array().unwrap_or_default() {
                let row = row.array().unwrap_or_default();
                let [RespValue::Integer(first), RespValue::Integer(last), master, ..] = row else {
                    bail!("CLUSTER SLOTS answered {row:?}");
                };
                if (*first..=*last).contains(&slot) {
                    let port = master.array().and_then(|master| master.get(1)?.integer());
                    let owner = self
                        .nodes
                        .iter()
                        .position(|node| Some(i64::from(node.port())) == port);
                    return owner.context("the owner is a node of ours");
                }
            }
        }
        bail!("no running node knows the owner of {key}")
    }

    /// Moves the slot of `key`, its keys one batch after the other, to another master, as `redis-cli --cluster reshard`
    /// does it; `pause` between the steps.
    pub async fn move_slot_of(&self, key: &str, to: usize, pause: Duration) -> Result<()> {
        let from = self.owner_of(key).await?;
        ensure!(from != to, "node {to} owns the slot already");
        let (source, target) = (&self.nodes[from], &self.nodes[to]);
        let slot = source.slot_of(key).await?.to_string();
        let (source_id, target_id) = (source.node_id().await?, target.node_id().await?);
        target
            .done(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &source_id])
            .await?;
        source
            .done(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &target_id])
            .await?;
        let port = target.port().to_string();
        loop {
            tokio::time::sleep(pause).await;
            let found = source
                .command(&["CLUSTER", "GETKEYSINSLOT", &slot, KEYS_AT_ONCE])
                .await?
                .ok()?;
            let keys: Vec<String> = found
                .array()
                .unwrap_or_default()
                .iter()
                .filter_map(RespValue::text)
                .collect();
            if keys.is_empty() {
                break;
            }
            let mut migrate = vec!["MIGRATE", "127.0.0.1", &port, "", "0", MIGRATE_LIMIT_MS];
            if let Some(password) = &source.options.password {
                migrate.extend(["AUTH", password]);
            }
            migrate.push("KEYS");
            migrate.extend(keys.iter().map(String::as_str));
            source.command(&migrate).await?.ok()?;
        }
        tokio::time::sleep(pause).await;
        target
            .done(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id])
            .await?;
        source
            .done(&["CLUSTER", "SETSLOT", &slot, "NODE", &target_id])
            .await?;
        Ok(())
    }
}

impl RedisServer {
    /// Gives a cluster of this node alone every slot that it does not own yet, and waits until it serves.
    pub(super) async fn own_every_slot(&self) -> Result<()> {
        if self.cluster_info("cluster_slots_assigned").await? == "0" {
            self.done(&["CLUSTER", "ADDSLOTSRANGE", "0", "16383"]).await?;
        }
        eventually("the cluster of one node serves", LIMIT, POLL, || async {
            let state = self.cluster_info("cluster_state").await;
            state.is_ok_and(|state| state == "ok").then_some(())
        })
        .await
    }

    async fn cluster_info(&self, field: &str) -> Result<String> {
        let reply = self.command(&["CLUSTER", "INFO"]).await?.ok()?;
        let text = reply.text().context("CLUSTER INFO answers text")?;
        let line = text
            .lines()
            .find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
        line.map(str::to_owned)
            .with_context(|| format!("CLUSTER INFO has no {field}"))
    }

    async fn node_id(&self) -> Result<String> {
        let id = self.command(&["CLUSTER", "MYID"]).await?.ok()?;
        id.text().context("CLUSTER MYID answers text")
    }

    async fn slot_of(&self, key: &str) -> Result<i64> {
        let slot = self.command(&["CLUSTER", "KEYSLOT", key]).await?.ok()?;
        slot.integer().context("CLUSTER KEYSLOT answers a number")
    }
}
