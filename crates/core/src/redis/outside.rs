//! Ways to a role's Redis beside its gate, for those who ask whether it serves at all: checks, watchdogs, benches.

use std::time::Duration;

use redis::aio::MultiplexedConnection;
use redis::{Client, RedisResult};

use super::connect::{Connector, connection_info, install_crypto_provider, of_pool, parsed};
use super::{Connection, Subscription, mistaken};
use crate::config::{RedisEndpoint, RedisLayout, RedisSettings};

/// A connection of one's own, outside the gate (checks, watchdogs): to what the gate would reach, with the same socket
/// options and TLS. `patience` bounds its opening and each reply.
///
/// # Errors
/// The URL is none, the server cannot be reached, or it is not what the URL says.
pub async fn connect(
    endpoint: &RedisEndpoint,
    settings: &RedisSettings,
    patience: Duration,
) -> RedisResult<Connection> {
    let connector = Connector::build(endpoint, &patient(settings, patience))?;
    let pooled = connector.pooled(patience).await;
    let connection = pooled.map_err(of_pool)?.handle();
    if connector.wants_single_server() {
        for mut master in connection.masters() {
            mistaken::check_server(&mut master.connection).await?;
        }
    }
    Ok(connection)
}

/// As [`connect`], for commands that block at the owner of `key`.
///
/// # Errors
/// As [`connect`].
pub async fn connect_to_owner(
    endpoint: &RedisEndpoint,
    settings: &RedisSettings,
    key: &str,
    patience: Duration,
) -> RedisResult<MultiplexedConnection> {
    let connector = Connector::build(endpoint, &patient(settings, patience))?;
    connector.dedicated(key, patience).await
}

/// As [`connect`], to hear one channel.
///
/// # Errors
/// As [`connect`].
pub async fn subscribe(
    endpoint: &RedisEndpoint,
    settings: &RedisSettings,
    channel: &str,
    patience: Duration,
) -> RedisResult<Subscription> {
    let connector = Connector::build(endpoint, &patient(settings, patience))?;
    connector.subscribed(channel).await.map(Subscription::new)
}

fn patient(settings: &RedisSettings, patience: Duration) -> RedisSettings {
    RedisSettings {
        connect_timeout: patience,
        command_timeout: patience,
        ..settings.clone()
    }
}

/// A client for one server, as redis-rs has it: with the same socket options and TLS. Connects to nothing.
///
/// # Errors
/// The URL is none, or that of a cluster or of Sentinels, which no single client stands for.
pub fn client(endpoint: &RedisEndpoint, settings: &RedisSettings) -> RedisResult<Client> {
    install_crypto_provider();
    let url = parsed(endpoint)?;
    match url.layout() {
        RedisLayout::Server => Client::open(connection_info(url.data(), settings)?),
        RedisLayout::Cluster | RedisLayout::Sentinel { .. } => Err((
            redis::ErrorKind::InvalidClientConfig,
            "it is the URL of several servers",
        )
            .into()),
    }
}
