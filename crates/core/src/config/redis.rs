//! The settings of Redis.

use secrecy::ExposeSecret;
use url::Url;

use super::authorities::ca_certificate;
use super::reader::Reader;
use super::settings::{RedisEndpoint, RedisSettings};

pub(super) fn settings(reader: &mut Reader<'_>) -> RedisSettings {
    let queue = redis_endpoint(reader, "redis.url");
    let cache = redis_endpoint(reader, "redis.cache_url").or_else(|| queue.clone());
    RedisSettings {
        queue,
        cache,
        ca_certificate: ca_certificate(reader, "redis.ca_certificate"),
        max_connections: reader.count("redis.max_connections", 1..=10_000),
        connect_timeout: reader.millis("redis.connect_timeout_ms", 10..=60_000),
        command_timeout: reader.millis("redis.command_timeout_ms", 10..=60_000),
        probe_interval: reader.millis("redis.probe_interval_ms", 50..=60_000),
        failure_threshold: reader.count("redis.failure_threshold", 1..=100),
    }
}

fn redis_endpoint(reader: &mut Reader<'_>, path: &str) -> Option<RedisEndpoint> {
    let url = reader.secret(path)?;
    if let Err(problem) = check_redis_url(url.expose_secret()) {
        let fix =
            "give redis://:password@host:6379/0, rediss://… for TLS, or unix:///path/to/socket".to_owned();
        reader.fault_once(path, || (problem, fix));
    }
    Some(RedisEndpoint { url })
}

fn check_redis_url(url: &str) -> Result<(), String> {
    let url = Url::parse(url).map_err(|error| format!("the Redis URL cannot be used: {error}"))?;
    let database = url.path().trim_start_matches('/');
    match url.scheme() {
        "redis" | "rediss" if url.host_str().is_none_or(str::is_empty) => {
            Err("the Redis URL names no host".to_owned())
        }
        "redis" | "rediss" if !database.is_empty() && database.parse::<u16>().is_err() => {
            Err("the path of the Redis URL is not a database number".to_owned())
        }
        "unix" if database.is_empty() => Err("the Redis URL names no socket".to_owned()),
        "redis" | "rediss" | "unix" => Ok(()),
        _ => Err("the Redis URL must start with redis://, rediss:// or unix://".to_owned()),
    }
}
