//! A real master with a replica, and the Sentinels that watch them.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};

use super::{RedisOptions, RedisServer};
use crate::eventually;

/// What the Sentinels call the master.
const SERVICE: &str = "holdfast";
const SENTINELS: usize = 3;
const QUORUM: usize = 2;
/// The master is taken for down after this.
const DOWN_AFTER_MS: &str = "500";
const FAILOVER_LIMIT_MS: &str = "3000";
const LIMIT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(20);

/// Two servers, one the replica of the other, and three Sentinels. Killed and removed on drop.
#[derive(Debug)]
pub struct RedisSentinels {
    servers: [Arc<RedisServer>; 2],
    sentinels: Vec<RedisServer>,
    password: Option<String>,
    sentinel_password: Option<String>,
}

impl RedisSentinels {
    /// Starts them and waits until every Sentinel knows the others and the replica. The options are those of both
    /// servers; `sentinel_password` is what the Sentinels ask their clients for.
    pub async fn start(options: RedisOptions, sentinel_password: Option<&str>) -> Result<Self> {
        let password = options.password.clone();
        let mut options = options.config("repl-diskless-sync-delay", "0");
        if let Some(password) = &password {
            options = options.config("masterauth", password);
        }
        let master = RedisServer::start(options.clone().config("replica-priority", "100")).await?;
        let of_master = format!("127.0.0.1 {}", master.port());
        let replica = RedisServer::start(options.config("replicaof", of_master)).await?;
        eventually("the replica follows", LIMIT, POLL, || async {
            let status = replica.info("replication", "master_link_status").await;
            status.is_ok_and(|status| status == "up").then_some(())
        })
        .await?;
        let mut sentinels = Vec::new();
        for _ in 0..SENTINELS {
            let watched = |name: &str, value: &str| format!("{name} {SERVICE} {value}");
            let monitor = watched("monitor", &format!("127.0.0.1 {} {QUORUM}", master.port()));
            let mut options = RedisOptions::default()
                .sentinel()
                .config("sentinel", monitor)
                .config("sentinel", watched("down-after-milliseconds", DOWN_AFTER_MS))
                .config("sentinel", watched("failover-timeout", FAILOVER_LIMIT_MS));
            if let Some(password) = &password {
                options = options.config("sentinel", watched("auth-pass", password));
            }
            if let Some(password) = sentinel_password {
                options = options
                    .password(password)
                    .config("sentinel", format!("sentinel-pass {password}"));
            }
            sentinels.push(RedisServer::start(options).await?);
        }
        let started = Self {
            servers: [Arc::new(master), Arc::new(replica)],
            sentinels,
            password,
            sentinel_password: sentinel_password.map(str::to_owned),
        };
        started.settles().await?;
        Ok(started)
    }

    /// Waits until every running Sentinel knows the others and a replica.
    async fn settles(&self) -> Result<()> {
        for sentinel in &self.sentinels {
            eventually("the Sentinels know each other", LIMIT, POLL, || async {
                let others = field(sentinel, "num-other-sentinels").await.ok()?;
                let replicas = field(sentinel, "num-slaves").await.ok()?;
                (others == (SENTINELS - 1).to_string() && replicas == "1").then_some(())
            })
            .await?;
        }
        Ok(())
    }

    /// `redis+sentinel://` with the Sentinels, the service, and both passwords.
    pub fn url(&self) -> String {
        let login = self.password.as_ref().map(|password| format!(":{password}@"));
        let hosts: Vec<String> = self
            .sentinels
            .iter()
            .map(|node| node.addr().to_string())
            .collect();
        let query = self
            .sentinel_password
            .as_ref()
            .map(|password| format!("?sentinel_password={password}"));
        format!(
            "redis+sentinel://{}{}/{SERVICE}{}",
            login.unwrap_or_default(),
            hosts.join(","),
            query.unwrap_or_default()
        )
    }

    /// The master at first, and the replica at first.
    pub fn servers(&self) -> &[Arc<RedisServer>; 2] {
        &self.servers
    }

    pub fn sentinels(&self) -> &[RedisServer] {
        &self.sentinels
    }

    /// Waits until a Sentinel names the server with this index as the master.
    pub async fn names_master(&self, index: usize) -> Result<()> {
        let port = self.servers[index].port().to_string();
        let sentinel = self.sentinels.last().context("there are Sentinels")?;
        eventually("the Sentinels name the other server", LIMIT, POLL, || async {
            let named = field(sentinel, "port").await.ok()?;
            (named == port).then_some(())
        })
        .await
    }
}

/// One field of what a Sentinel says of the master.
async fn field(sentinel: &RedisServer, name: &str) -> Result<String> {
    let reply = sentinel.command(&["SENTINEL", "MASTER", SERVICE]).await?.ok()?;
    let flat = reply.array().context("SENTINEL MASTER answers a list")?;
    let pair = flat
        .chunks(2)
        .find(|pair| pair[0].text().as_deref() == Some(name));
    pair.and_then(|pair| pair.get(1)?.text())
        .with_context(|| format!("SENTINEL MASTER has no {name}"))
}
