//! The settings of Redis: its URLs, and who vouches for its servers.

use std::sync::Arc;

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::PemObject as _;
use secrecy::ExposeSecret;
use url::Url;

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

/// Certificates as a setting gives them: the PEM text itself, or the path of its file. `None`: neither.
fn ca_certificate(reader: &mut Reader<'_>, path: &str) -> Option<Arc<str>> {
    let told = reader.text(path);
    if told.is_empty() {
        return None;
    }
    let pem = if told.starts_with("-----BEGIN") {
        Ok(told)
    } else {
        std::fs::read_to_string(&told).map_err(|error| format!("the file {told:?} cannot be read: {error}"))
    };
    match pem.and_then(|pem| check_certificates(&pem).map(|()| pem)) {
        Ok(pem) => Some(pem.into()),
        Err(problem) => {
            let fix = "give a PEM text that begins with -----BEGIN CERTIFICATE-----, or the path of a file with one";
            reader.fault_once(path, || (problem, fix.to_owned()));
            None
        }
    }
}

fn check_certificates(pem: &str) -> Result<(), String> {
    let mut authorities = RootCertStore::empty();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        let certificate = certificate.map_err(|error| format!("it is not PEM: {error}"))?;
        authorities
            .add(certificate)
            .map_err(|error| format!("a certificate in it cannot be used: {error}"))?;
    }
    if authorities.is_empty() {
        return Err("it holds no certificate".to_owned());
    }
    Ok(())
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
