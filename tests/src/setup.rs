//! What a cluster consists of.

use std::sync::Arc;

use anyhow::{Result, ensure};
use holdfast_testkit::{PostgresOptions, PostgresServer, RedisOptions, RedisServer};

use crate::cluster::Cluster;
use crate::process::Role;

/// Where jobs are kept and who rings.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    /// `holdfast dev`: API, worker and beat in one process on embedded SQLite.
    Dev,
    /// `api` and `worker` processes on one SQLite file.
    Sqlite,
    Postgres,
    PostgresRedis,
}

impl Setup {
    pub fn name(self) -> &'static str {
        match self {
            Self::Dev => "sqlite, one process",
            Self::Sqlite => "sqlite",
            Self::Postgres => "postgres",
            Self::PostgresRedis => "postgres+redis",
        }
    }

    pub(crate) fn has_postgres(self) -> bool {
        matches!(self, Self::Postgres | Self::PostgresRedis)
    }

    pub(crate) fn has_redis(self) -> bool {
        self == Self::PostgresRedis
    }
}

/// `durability` of a queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Durability {
    Ledger,
    Redis,
}

impl Durability {
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Ledger => "ledger",
            Self::Redis => "redis",
        }
    }
}

/// Before whom a fault proxy stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum ProxiedClient {
    Everybody,
    One(Role, usize),
}

/// How to start a [`Cluster`]. The default: one `api`, one `worker`, the queue `default` on the ledger, timings of
/// production but for the retries, which come soon.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    pub(crate) setup: Setup,
    pub(crate) apis: usize,
    pub(crate) workers: usize,
    pub(crate) queues: Vec<(String, Durability)>,
    pub(crate) env: Vec<(String, String)>,
    pub(crate) env_of: Vec<(Role, usize, String, String)>,
    pub(crate) redis: RedisOptions,
    pub(crate) postgres: PostgresOptions,
    /// Of a Redis that the scenario brings along.
    pub(crate) redis_servers: Vec<Arc<RedisServer>>,
    pub(crate) redis_proxies: Vec<ProxiedClient>,
    pub(crate) postgres_proxies: Vec<ProxiedClient>,
}

impl ClusterBuilder {
    pub(crate) fn new(setup: Setup) -> Self {
        Self {
            setup,
            apis: 1,
            workers: 1,
            queues: vec![("default".to_owned(), Durability::Ledger)],
            env: Vec::new(),
            env_of: Vec::new(),
            redis: RedisOptions::default(),
            postgres: PostgresOptions::fast(),
            redis_servers: Vec::new(),
            redis_proxies: Vec::new(),
            postgres_proxies: Vec::new(),
        }
    }

    pub fn apis(mut self, count: usize) -> Self {
        self.apis = count;
        self
    }

    pub fn workers(mut self, count: usize) -> Self {
        self.workers = count;
        self
    }

    /// One more queue, in every process; or another durability for one named before. Names are one lower-case word.
    pub fn queue(mut self, name: &str, durability: Durability) -> Self {
        self.queues.retain(|(known, _)| known != name);
        self.queues.push((name.to_owned(), durability));
        self
    }

    /// A variable of every process. What is said last wins.
    pub fn env(mut self, name: &str, value: &str) -> Self {
        self.env.push((name.to_owned(), value.to_owned()));
        self
    }

    /// A variable of one process; it wins over those of all.
    pub fn env_of(mut self, role: Role, index: usize, name: &str, value: &str) -> Self {
        self.env_of.push((role, index, name.to_owned(), value.to_owned()));
        self
    }

    /// Leases that are lost soon: heartbeat 0.5 s, lost after 2 s, maintenance every 0.5 s. For scenarios that wait for
    /// a rescue.
    pub fn short_leases(self) -> Self {
        self.env("HOLDFAST__WORKER__HEARTBEAT_SECONDS", "0.5")
            .env("HOLDFAST__WORKER__LOST_AFTER_SECONDS", "2")
            .env("HOLDFAST__WORKER__MAINTENANCE_SECONDS", "0.5")
    }

    pub fn redis_options(mut self, options: RedisOptions) -> Self {
        self.redis = options;
        self
    }

    /// A Redis that the scenario brings along, of these servers: a cluster, or a master that Sentinels watch. For set-ups
    /// without one of their own.
    pub fn redis_of(self, url: &str, servers: &[Arc<RedisServer>]) -> Self {
        let mut builder = self.env("REDIS_URL", url);
        builder.redis_servers = servers.to_vec();
        builder
    }

    /// [`PostgresOptions::fast`] unless set.
    pub fn postgres_options(mut self, options: PostgresOptions) -> Self {
        self.postgres = options;
        self
    }

    /// A fault proxy between Redis and all processes that have none of their own.
    pub fn redis_proxy(mut self) -> Self {
        self.redis_proxies.push(ProxiedClient::Everybody);
        self
    }

    /// A fault proxy between Redis and this process alone.
    pub fn redis_proxy_of(mut self, role: Role, index: usize) -> Self {
        self.redis_proxies.push(ProxiedClient::One(role, index));
        self
    }

    /// A fault proxy between PostgreSQL and all processes that have none of their own.
    pub fn postgres_proxy(mut self) -> Self {
        self.postgres_proxies.push(ProxiedClient::Everybody);
        self
    }

    /// A fault proxy between PostgreSQL and this process alone.
    pub fn postgres_proxy_of(mut self, role: Role, index: usize) -> Self {
        self.postgres_proxies.push(ProxiedClient::One(role, index));
        self
    }

    /// Servers, proxies and the receiver, but no process yet: go on with [`Cluster::start_all`]. For scenarios that
    /// begin with something broken, or that put something of their own in between ([`Cluster::env`]).
    pub async fn prepare(self) -> Result<Cluster> {
        ensure!(
            self.setup != Setup::Dev || (self.apis, self.workers) == (1, 1),
            "`holdfast dev` is one process"
        );
        let alone = Cluster::alone().await;
        let redis = if self.setup.has_redis() {
            Some(Arc::new(RedisServer::start(self.redis.clone()).await?))
        } else {
            None
        };
        let postgres = if self.setup.has_postgres() {
            Some(Arc::new(PostgresServer::start_with(self.postgres.clone()).await?))
        } else {
            None
        };
        Cluster::assemble(self, redis, postgres, alone).await
    }

    /// Starts everything and waits until every process is ready.
    pub async fn start(self) -> Result<Cluster> {
        let mut cluster = self.prepare().await?;
        cluster.start_all().await?;
        Ok(cluster)
    }
}
