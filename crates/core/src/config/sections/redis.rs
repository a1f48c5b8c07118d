//! The settings of Redis.

use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::super::declare::{certificates, count, millis, secret};
use super::super::reader::Reader;
use super::super::redis_url::RedisUrl;
use crate::settings;

settings! {
    ["redis"]
    /// Redis: one endpoint for each role, the same server unless the settings say otherwise.
    #[derive(Debug, Clone)]
    pub struct RedisSettings {
        /// The Redis that wakes workers and stores the jobs of `redis` queues: redis://, rediss:// (TLS), unix://,
        /// redis+cluster:// or redis+sentinel://. A secret.
        /// Empty: Redis is not used, and everything works without it. When it is not set but REDISHOST is, it is built from
        /// REDISHOST, REDISPORT, REDISUSER and REDISPASSWORD (or REDIS_PASSWORD).
        queue: Option<RedisEndpoint> = secret().named("url").variables(&["REDIS_URL"]).then(endpoint);
        /// The Redis for the cache, a secret. Empty: the same as `url`. A separate server may evict keys without harm to jobs.
        cache: Option<RedisEndpoint> = secret().named("cache_url").variables(&["REDIS_CACHE_URL"]).then(cache_endpoint);
        /// Certificate authority for rediss:// URLs, instead of the public ones: a PEM text, or the path of a file that holds one.
        /// For servers with a certificate of a private authority.
        ca_certificate: Option<Arc<str>> = certificates();
        /// Pooled connections for each role, {range}. Each is shared by many callers, so few are enough.
        max_connections: usize = count(8, 1..=10_000).variables(&["REDIS_MAX_CONNECTIONS"]);
        /// Longest wait for a connection to open, in milliseconds, {range}.
        connect_timeout: Duration = millis(1000, 10..=60_000);
        /// Longest duration of one command, pipeline or script before the caller fails over, in milliseconds, {range}. The cache
        /// waits for four fifths of it, so that a request is not late when the cache does not answer.
        command_timeout: Duration = millis(250, 10..=60_000);
        /// Period of the background probe, in milliseconds, {range}. It detects the recovery of Redis, within 2 s.
        probe_interval: Duration = millis(500, 50..=60_000);
        /// Consecutive transient failures that open the breaker, {range}. A single failure may be chance.
        failure_threshold: u32 = count(3, 1..=100);
    }
}

impl RedisSettings {
    /// Both roles are on one server. Its databases share their memory and their settings.
    pub fn shares_server(&self) -> bool {
        match (&self.queue, &self.cache) {
            (Some(queue), Some(cache)) => queue.server() == cache.server(),
            _ => false,
        }
    }
}

/// Where a role's Redis is: one server, a cluster, or a master that Sentinels name.
#[derive(Debug, Clone)]
pub struct RedisEndpoint {
    pub url: SecretString,
}

impl RedisEndpoint {
    /// The URL, taken apart.
    ///
    /// # Errors
    /// The problem with it, in words that contain nothing of it.
    pub fn parsed(&self) -> Result<RedisUrl, String> {
        RedisUrl::parse(self.url.expose_secret())
    }

    /// Hosts and ports, or the path of the socket.
    fn server(&self) -> Option<String> {
        self.parsed().ok().map(|url| url.server())
    }
}

const QUEUE_URL: &str = "redis.url";

/// What every fault of a Redis URL proposes.
const URL_FORMS: &str = "give redis://:password@host:6379/0, rediss://… for TLS, \
     redis+cluster://:password@host,host for a cluster, redis+sentinel://:password@host,host/service for Sentinels, \
     or unix:///path/to/socket";

fn endpoint(reader: &mut Reader<'_>, path: &str, url: Option<SecretString>) -> Option<RedisEndpoint> {
    let endpoint = RedisEndpoint { url: url? };
    if let Err(problem) = endpoint.parsed() {
        reader.fault_once(path, || (problem, URL_FORMS.to_owned()));
    }
    Some(endpoint)
}

/// Without a server of its own the cache uses the queue's.
fn cache_endpoint(reader: &mut Reader<'_>, path: &str, url: Option<SecretString>) -> Option<RedisEndpoint> {
    endpoint(reader, path, url).or_else(|| {
        let url = reader.secret(QUEUE_URL);
        endpoint(reader, QUEUE_URL, url)
    })
}
