//! apalis-redis as it comes from its authors: the names of its keys, which the [broker](crate::broker) shares, and its storage
//! as a producer for queues of `redis` durability.
//!
//! [`config`] is the one place that forms a queue's name on Redis. The broker takes the names of its keys from it, so both
//! sides use the same keys whatever version of apalis-redis is linked.
//!
//! # When things fail
//! The [storage] writes to Redis and to nothing else: it has neither the database behind it nor a check of what is
//! pushed. While Redis is unavailable a push fails, and a push whose answer was lost may have been applied; pushing again can then
//! run the job twice. A worker that cannot run an envelope (unknown kind, invalid payload) stores it as a dead letter.

use apalis_redis::ConnectionManager;
use holdfast_core::config::{Durability, RedisLayout, Settings};
use holdfast_core::redis::{self as gate, OpenError, Role};
use redis::RedisError;
use redis::aio::ConnectionManagerConfig;

pub use apalis_core::backend::TaskSink;
pub use apalis_redis::{Config, RedisStorage};

use crate::envelope::Envelope;

/// How apalis-redis is to be configured for the jobs of a queue. The braces make all keys of a queue share a slot of Redis Cluster.
pub fn config(queue: &str) -> Config {
    Config::default().queue(format!("{{{queue}}}"))
}

/// Why a queue has no storage of apalis-redis. No text contains the URL of Redis.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StorageError {
    /// No setting and no registered kind names the queue.
    #[error(
        "there is no queue {0:?}: register a kind that names it, or add [queues.{0}] to the configuration"
    )]
    UnknownQueue(String),
    /// The queue's jobs are rows of the database; its workers run nothing that is on Redis alone.
    #[error(
        "the queue {0:?} is stored in the database: set queues.{0}.durability to \"redis\", or enqueue with a client"
    )]
    NotOnRedis(String),
    /// There is no Redis.
    #[error("no Redis is configured: set REDIS_URL")]
    NotConfigured,
    /// The storage of apalis-redis connects to one server.
    #[error(
        "apalis-redis does not speak to a cluster or to Sentinels: enqueue with a client, or give redis.url as redis://"
    )]
    SeveralServers,
    /// The URL of Redis is not one.
    #[error(transparent)]
    InvalidUrl(#[from] OpenError),
    /// Redis could not be reached.
    #[error("Redis cannot be reached")]
    Unreachable(#[source] RedisError),
}

/// The storage of apalis-redis for a queue of `redis` durability, connected as the settings say: push [`Envelope`]s with
/// [`TaskSink`]. It reconnects by itself.
///
/// # Errors
/// See [`StorageError`]. An unreachable Redis is reported after `redis.connect_timeout_ms`, not retried.
pub async fn storage(settings: &Settings, queue: &str) -> Result<RedisStorage<Envelope>, StorageError> {
    let known = settings.queues.get(queue);
    match known.map(|queue| queue.durability) {
        None => return Err(StorageError::UnknownQueue(queue.to_owned())),
        Some(Durability::Ledger) => return Err(StorageError::NotOnRedis(queue.to_owned())),
        Some(Durability::Redis) => {}
    }
    let endpoint = settings.redis.queue.as_ref().ok_or(StorageError::NotConfigured)?;
    if endpoint
        .parsed()
        .is_ok_and(|url| *url.layout() != RedisLayout::Server)
    {
        return Err(StorageError::SeveralServers);
    }
    let client =
        gate::client(endpoint, &settings.redis).map_err(|_| OpenError::InvalidUrl { role: Role::Queue })?;
    let terms = ConnectionManagerConfig::new()
        .set_connection_timeout(Some(settings.redis.connect_timeout))
        .set_response_timeout(Some(settings.redis.command_timeout))
        .set_number_of_retries(0);
    let connection = ConnectionManager::new_with_config(client, terms)
        .await
        .map_err(StorageError::Unreachable)?;
    Ok(RedisStorage::new(connection).with_config(config(queue)))
}
