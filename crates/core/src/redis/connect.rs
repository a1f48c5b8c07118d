//! How a connection to one endpoint is made: socket options, TLS, deadlines, and the deadpool pool that makes and
//! counts connections.
//!
//! The URL holds a password: nothing here prints it, and errors name the role instead.

use std::time::Duration;

use deadpool_redis::{Manager, Pool, PoolConfig, Runtime, Timeouts};
use redis::aio::{MultiplexedConnection, PubSub};
use redis::io::tcp::{TcpSettings, socket2::TcpKeepalive};
use redis::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisResult,
    TlsCertificates,
};
use secrecy::ExposeSecret;
use tokio::time::timeout;

use super::error::timed_out;
use super::{OpenError, Role};
use crate::config::{RedisEndpoint, RedisSettings};

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
pub(super) struct Connector {
    pool: Pool,
    client: Client,
    connect_timeout: Duration,
}

impl Connector {
    /// Checks the URL; connects to nothing.
    pub(super) fn new(
        role: Role,
        endpoint: &RedisEndpoint,
        settings: &RedisSettings,
    ) -> Result<Self, OpenError> {
        Self::build(endpoint, settings).map_err(|_| OpenError::InvalidUrl { role })
    }

    fn build(endpoint: &RedisEndpoint, settings: &RedisSettings) -> RedisResult<Self> {
        let client = client(endpoint, settings)?;
        let config = connection_config(settings.connect_timeout, settings.command_timeout);
        let manager = Manager::new_with_config(client.get_connection_info().clone(), config)?;
        let pool = Pool::builder(manager)
            .config(PoolConfig::new(settings.max_connections.max(FEWEST_CONNECTIONS)))
            .runtime(Runtime::Tokio1)
            .build()
            .map_err(|_| (redis::ErrorKind::InvalidClientConfig, "the pool cannot be built"))?;
        Ok(Self {
            pool,
            client,
            connect_timeout: settings.connect_timeout,
        })
    }

    /// Host and port or the socket's path: the server without its credentials.
    pub(super) fn server(&self) -> String {
        self.client.get_connection_info().addr().to_string()
    }

    /// Connections the pool may hold.
    pub(super) fn max_size(&self) -> usize {
        self.pool.status().max_size
    }

    /// Connections the pool holds now.
    pub(super) fn size(&self) -> usize {
        self.pool.status().size
    }

    /// A new pooled connection. It never waits for a place: without one it fails at once with a `Wait` timeout.
    ///
    /// Whoever is done with it calls `take` on it, which drops it: a used connection goes back to nobody, so
    /// checkouts never have to PING.
    pub(super) async fn pooled(
        &self,
        limit: Duration,
    ) -> Result<PooledConnection, deadpool_redis::PoolError> {
        let timeouts = Timeouts {
            wait: Some(Duration::ZERO),
            create: Some(limit.min(self.connect_timeout)),
            recycle: Some(limit),
        };
        let pooled = self.pool.timeout_get(&timeouts).await?;
        Ok(PooledConnection {
            handle: deadpool_redis::Connection::as_ref(&pooled).clone(),
            pooled: Some(pooled),
        })
    }

    /// A connection beside the pool, for commands that block on the server.
    pub(super) async fn dedicated(&self, response_timeout: Duration) -> RedisResult<MultiplexedConnection> {
        let config = connection_config(self.connect_timeout, response_timeout);
        self.client
            .get_multiplexed_async_connection_with_config(&config)
            .await
    }

    /// A connection beside the pool that hears one channel.
    pub(super) async fn subscribed(&self, channel: &str) -> RedisResult<PubSub> {
        let subscribing = async {
            let mut connection = self.client.get_async_pubsub().await?;
            connection.subscribe(channel).await?;
            Ok(connection)
        };
        timeout(self.connect_timeout, subscribing)
            .await
            .unwrap_or_else(|_elapsed| Err(timed_out()))
    }
}

/// A connection that counts in the pool until it is dropped, and is closed then.
pub(super) struct PooledConnection {
    handle: MultiplexedConnection,
    pooled: Option<deadpool_redis::Connection>,
}

impl PooledConnection {
    /// Another handle to the same connection, which stays open until the last one is dropped.
    pub(super) fn handle(&self) -> MultiplexedConnection {
        self.handle.clone()
    }
}

impl Drop for PooledConnection {
    fn drop(&mut self) {
        if let Some(pooled) = self.pooled.take() {
            drop(deadpool_redis::Connection::take(pooled));
        }
    }
}

/// Whoever asks a server outside the gate (checks, probes, benches) reaches it as the gate does: the same socket options,
/// and the authorities of `redis.ca_certificate`. Connects to nothing.
pub fn client(endpoint: &RedisEndpoint, settings: &RedisSettings) -> RedisResult<Client> {
    install_crypto_provider();
    let info = connection_info(endpoint)?;
    match (&settings.ca_certificate, info.addr()) {
        (Some(pem), ConnectionAddr::TcpTls { .. }) => {
            let certificates = TlsCertificates {
                client_tls: None,
                root_cert: Some(pem.as_bytes().to_vec()),
            };
            Client::build_with_tls(info, certificates)
        }
        _ => Client::open(info),
    }
}

fn connection_info(endpoint: &RedisEndpoint) -> RedisResult<ConnectionInfo> {
    let info = endpoint.url.expose_secret().into_connection_info()?;
    let redis = info
        .redis_settings()
        .clone()
        .set_lib_name("holdfast", env!("CARGO_PKG_VERSION"));
    Ok(info.set_redis_settings(redis).set_tcp_settings(tcp_settings()))
}

fn connection_config(connect_timeout: Duration, response_timeout: Duration) -> AsyncConnectionConfig {
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
fn install_crypto_provider() {
    let _already_installed = rustls::crypto::ring::default_provider()
        .install_default()
        .is_err();
}

#[cfg(test)]
mod tests {
    use super::*;

    fn info(url: &str) -> RedisResult<ConnectionInfo> {
        connection_info(&RedisEndpoint { url: url.into() })
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
