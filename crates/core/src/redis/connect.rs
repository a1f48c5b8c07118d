//! How a connection to one endpoint is made: socket options, TLS, deadlines, and the deadpool pool that makes and
//! counts connections.
//!
//! The URL holds a password: nothing here prints it, and errors name the role instead.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolConfig, Runtime, Timeouts};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError,
    RedisResult, TlsCertificates,
};
use tokio::time::timeout;
use url::Url;

use super::cluster::Cluster;
use super::connection::Connection;
use super::error::timed_out;
use super::topology::{Address, Topology, down};
use super::{OpenError, PoolError, Role, TimeoutType, sentinel};
use crate::config::{RedisEndpoint, RedisLayout, RedisSettings, RedisUrl};

/// An idle connection is asked for a sign of life this often, well within the idle limits of NATs (350 s and up).
const KEEPALIVE_AFTER: Duration = Duration::from_secs(15);
const KEEPALIVE_EVERY: Duration = Duration::from_secs(5);
const KEEPALIVE_PROBES: u32 = 3;
/// Sent bytes that nobody acknowledges for this long end the connection (Linux; elsewhere the deadlines alone
/// notice).
const UNACKNOWLEDGED_FOR: Duration = Duration::from_secs(5);
/// One connection for the probe, one for traffic.
const FEWEST_CONNECTIONS: usize = 2;

/// Makes connections: pooled ones for lanes and probe, and dedicated ones beside the pool.
///
/// What a connection leads to follows from the URL: its one server, the master that the Sentinels name now, or every
/// master of the cluster. deadpool makes and counts the connections to each server apart.
pub(super) struct Connector {
    url: RedisUrl,
    /// Login, TLS and socket options of the servers that hold the data.
    data: ConnectionInfo,
    /// Who is asked first: the server itself, nodes of the cluster, or the Sentinels.
    seeds: Vec<ConnectionInfo>,
    /// By address. Only those of servers that are in use.
    pools: Mutex<HashMap<String, Pool>>,
    /// The masters of the cluster when it was last asked: they know the others when no host of the URL is left.
    known: Mutex<Vec<Address>>,
    max_connections: usize,
    connect_timeout: Duration,
    command_timeout: Duration,
}

impl Connector {
    /// Checks the URL; connects to nothing.
    pub(super) fn new(
        role: Role,
        endpoint: &RedisEndpoint,
        settings: &RedisSettings,
    ) -> Result<Arc<Self>, OpenError> {
        Self::build(endpoint, settings).map_err(|_| OpenError::InvalidUrl { role })
    }

    pub(super) fn build(endpoint: &RedisEndpoint, settings: &RedisSettings) -> RedisResult<Arc<Self>> {
        install_crypto_provider();
        let url = parsed(endpoint)?;
        let data = connection_info(url.data(), settings)?;
        let seeds = url.hosts().iter().map(|host| connection_info(host, settings));
        Ok(Arc::new(Self {
            seeds: seeds.collect::<RedisResult<_>>()?,
            data,
            url,
            pools: Mutex::default(),
            known: Mutex::default(),
            max_connections: settings.max_connections.max(FEWEST_CONNECTIONS),
            connect_timeout: settings.connect_timeout,
            command_timeout: settings.command_timeout,
        }))
    }

    /// Host and port or the socket's path: the server, or the hosts of the URL, without credentials.
    pub(super) fn server(&self) -> String {
        self.url.server()
    }

    /// The URL is that of one server, so what answers must not be a part of something else.
    pub(super) fn wants_single_server(&self) -> bool {
        *self.url.layout() == RedisLayout::Server
    }

    pub(super) fn connect_timeout(&self) -> Duration {
        self.connect_timeout
    }

    pub(super) fn command_timeout(&self) -> Duration {
        self.command_timeout
    }

    /// Connections the pool of each server may hold.
    pub(super) fn max_size(&self) -> usize {
        self.max_connections
    }

    /// Connections the pool holds now; in a cluster, those to the master that has most.
    pub(super) fn size(&self) -> usize {
        self.pools()
            .values()
            .map(|pool| pool.status().size)
            .max()
            .unwrap_or(0)
    }

    /// A new pooled connection. It never waits for a place: without one it fails at once with a `Wait` timeout.
    ///
    /// Whoever is done with it drops it: a used connection goes back to nobody, so checkouts never have to PING.
    pub(super) async fn pooled(self: &Arc<Self>, limit: Duration) -> Result<PooledConnection, PoolError> {
        let connecting = async {
            let server = match self.url.layout() {
                RedisLayout::Server => self.server_of(&self.data, limit).await?,
                RedisLayout::Sentinel { .. } => self.server_of(&self.master(limit).await?, limit).await?,
                RedisLayout::Cluster => {
                    return Cluster::open(self, limit).await.map(|cluster| PooledConnection {
                        handle: cluster.into(),
                        _server: None,
                    });
                }
            };
            Ok(PooledConnection {
                handle: server.handle().into(),
                _server: Some(server),
            })
        };
        timeout(limit, connecting)
            .await
            .unwrap_or(Err(PoolError::Timeout(TimeoutType::Create)))
    }

    /// A pooled connection to a server that a cluster's node named.
    pub(super) async fn server_at(
        &self,
        address: &Address,
        limit: Duration,
    ) -> Result<PooledServer, PoolError> {
        self.server_of(&self.info_at(&address.host, address.port), limit)
            .await
    }

    async fn server_of(&self, info: &ConnectionInfo, limit: Duration) -> Result<PooledServer, PoolError> {
        let timeouts = Timeouts {
            wait: Some(Duration::ZERO),
            create: Some(limit.min(self.connect_timeout)),
            recycle: Some(limit),
        };
        let pool = self.pool_of(info)?;
        let pooled = pool.timeout_get(&timeouts).await?;
        Ok(PooledServer {
            handle: deadpool_redis::Connection::as_ref(&pooled).clone(),
            pooled: Some(pooled),
        })
    }

    fn pool_of(&self, info: &ConnectionInfo) -> Result<Pool, PoolError> {
        let mut pools = self.pools();
        let address = info.addr().to_string();
        if let Some(pool) = pools.get(&address) {
            return Ok(pool.clone());
        }
        let config = connection_config(self.connect_timeout, self.command_timeout);
        let manager = Manager::new_with_config(info.clone(), config)?;
        let pool = Pool::builder(manager)
            .config(PoolConfig::new(self.max_connections))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| PoolError::NoRuntimeSpecified)?;
        pools.insert(address, pool.clone());
        Ok(pool)
    }

    /// The layout of the cluster, of the first node that is in touch with its majority.
    pub(super) async fn topology(&self, limit: Duration) -> RedisResult<Topology> {
        let known = self.known().clone();
        let mut asked = self.seeds.clone();
        let known = known.iter().map(|node| self.info_at(&node.host, node.port));
        asked.extend(known.filter(|node| self.seeds.iter().all(|seed| seed.addr() != node.addr())));
        let topology = Topology::ask_seeds(&asked, limit).await?;
        self.known().clone_from(&topology.masters);
        self.forget_others(&topology.masters);
        Ok(topology)
    }

    /// Drops the pools of servers that are not among these and have no connection left.
    fn forget_others(&self, addresses: &[Address]) {
        let named: Vec<String> = addresses.iter().map(Address::to_string).collect();
        self.pools()
            .retain(|address, pool| named.contains(address) || pool.status().size > 0);
    }

    /// A connection beside the pool to the server that owns `key`, for commands that block there.
    pub(super) async fn dedicated(
        &self,
        key: &str,
        response_timeout: Duration,
    ) -> RedisResult<MultiplexedConnection> {
        let connecting = async {
            let info = self.owner(key).await?;
            let config = connection_config(self.connect_timeout, response_timeout);
            Client::open(info)?
                .get_multiplexed_async_connection_with_config(&config)
                .await
        };
        timeout(self.connect_timeout, connecting)
            .await
            .unwrap_or_else(|_elapsed| Err(timed_out()))
    }

    /// A connection beside the pool that hears one channel. In a cluster what is published at any node is heard at all.
    pub(super) async fn subscribed(&self, channel: &str) -> RedisResult<PubSub> {
        let subscribing = async {
            let info = self.owner(channel).await?;
            let mut connection = Client::open(info)?.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            Ok(connection)
        };
        timeout(self.connect_timeout, subscribing)
            .await
            .unwrap_or_else(|_elapsed| Err(timed_out()))
    }

    /// The server that holds `key` now.
    async fn owner(&self, key: &str) -> RedisResult<ConnectionInfo> {
        match self.url.layout() {
            RedisLayout::Server => Ok(self.data.clone()),
            RedisLayout::Sentinel { .. } => self.master(self.connect_timeout).await,
            RedisLayout::Cluster => {
                let topology = self.topology(self.connect_timeout).await?;
                let owner = topology.owner_of(key).ok_or_else(down)?;
                Ok(self.info_at(&owner.host, owner.port))
            }
        }
    }

    /// The master that the Sentinels name now. Half of the time is theirs, the rest is for the connection to it.
    async fn master(&self, limit: Duration) -> RedisResult<ConnectionInfo> {
        let RedisLayout::Sentinel { service } = self.url.layout() else {
            return Ok(self.data.clone());
        };
        let (host, port) = sentinel::master(&self.seeds, service, limit / 2).await?;
        let info = self.info_at(&host, port);
        self.forget_others(&[Address { host, port }]);
        Ok(info)
    }

    /// How another server that holds data is connected to: with the same login, TLS and socket options.
    fn info_at(&self, host: &str, port: u16) -> ConnectionInfo {
        let host = host.to_owned();
        let addr = match self.data.addr() {
            ConnectionAddr::TcpTls {
                insecure, tls_params, ..
            } => ConnectionAddr::TcpTls {
                host,
                port,
                insecure: *insecure,
                tls_params: tls_params.clone(),
            },
            _ => ConnectionAddr::Tcp(host, port),
        };
        self.data.clone().set_addr(addr)
    }

    fn known(&self) -> MutexGuard<'_, Vec<Address>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn pools(&self) -> MutexGuard<'_, HashMap<String, Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A connection that counts in its pools until it is dropped, and is closed then.
pub(super) struct PooledConnection {
    handle: Connection,
    /// `None` for a cluster, which holds those to its masters.
    _server: Option<PooledServer>,
}

impl PooledConnection {
    /// Another handle to the same connection, which stays open until the last one is dropped.
    pub(super) fn handle(&self) -> Connection {
        self.handle.clone()
    }
}

/// A connection to one server that counts in its pool until it is dropped, and is closed then.
pub(super) struct PooledServer {
    handle: MultiplexedConnection,
    pooled: Option<deadpool_redis::Connection>,
}

impl PooledServer {
    /// Another handle to the same connection.
    pub(super) fn handle(&self) -> MultiplexedConnection {
        self.handle.clone()
    }
}

impl Drop for PooledServer {
    fn drop(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            drop(deadpool_redis::Connection::take(pooled));
        }
    }
}

/// What the pool failed with, as the driver would say it.
pub(super) fn of_pool(error: PoolError) -> RedisError {
    match error {
        PoolError::Backend(error) => error,
        _ => timed_out(),
    }
}

pub(super) fn parsed(endpoint: &RedisEndpoint) -> RedisResult<RedisUrl> {
    endpoint.parsed().map_err(|_| {
        (
            redis::ErrorKind::InvalidClientConfig,
            "it is not the URL of a Redis",
        )
            .into()
    })
}

/// Of one host of the URL.
pub(super) fn connection_info(url: &Url, settings: &RedisSettings) -> RedisResult<ConnectionInfo> {
    let info = url.as_str().into_connection_info()?;
    let info = match (&settings.ca_certificate, info.addr()) {
        (Some(pem), ConnectionAddr::TcpTls { .. }) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.as_bytes().to_vec()),
            };
            Client::build_with_tls(info, certificates)?
                .get_connection_info()
                .clone()
        }
        _ => info,
    };
    let redis = info
        .redis_settings()
        .clone()
        .set_lib_name("holdfast", env!("CARGO_PKG_VERSION"));
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp_settings()))
}

pub(super) fn connection_config(
    connect_timeout: Duration,
    response_timeout: Duration,
) -> AsyncConnectionConfig {
    AsyncConnectionConfig::new()
        .set_connection_timeout(Some(connect_timeout))
        .set_response_timeout(Some(response_timeout))
}

fn tcp_settings() -> TcpSettings {
    let keepalive = TcpKeepalive::new()
        .with_time(KEEPALIVE_AFTER)
        .with_interval(KEEPALIVE_EVERY)
        .with_retries(KEEPALIVE_PROBES);
    let settings = TcpSettings::default().set_nodelay(true).set_keepalive(keepalive);
    #[cfg(target_os = "linux")]
    let settings = settings.set_user_timeout(UNACKNOWLEDGED_FOR);
    settings
}

/// rustls wants one provider of cryptography for the process. Another part may have installed it already.
pub(super) fn install_crypto_provider() {
    let _already_installed = rustls::crypto::ring::default_provider()
        .install_default()
        .is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(url: &str) -> RedisResult<ConnectionInfo> {
        let settings = crate::config::load_from(crate::config::Sources::default())
            .unwrap()
            .redis;
        let endpoint = RedisEndpoint { url: url.into() };
        connection_info(parsed(&endpoint)?.data(), &settings)
    }

    #[test]
    fn sockets_do_not_delay_and_notice_dead_peers() {
        let info = info("redis://localhost").unwrap();
        assert!(info.tcp_settings().nodelay());
        assert!(info.tcp_settings().keepalive().is_some());
        #[cfg(target_os = "linux")]
        assert_eq!(info.tcp_settings().user_timeout(), Some(UNACKNOWLEDGED_FOR));
    }

    #[test]
    fn the_url_keeps_its_login_database_and_tls() {
        let info = info("rediss://user:pass@host:6380/3").unwrap();
        let redis = info.redis_settings();
        assert_eq!(
            (redis.username(), redis.password(), redis.db()),
            (Some("user"), Some("pass"), 3)
        );
        assert!(matches!(
            info.addr(),
            redis::ConnectionAddr::TcpTls { insecure: false, .. }
        ));
    }

    #[test]
    fn what_is_no_redis_url_is_refused() {
        for url in [
            "",
            "nonsense",
            "http://localhost",
            "redis://localhost/not-a-number",
        ] {
            assert!(info(url).is_err(), "{url}");
        }
    }
}
