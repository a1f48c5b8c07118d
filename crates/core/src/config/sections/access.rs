//! The settings of who may ask and how often: logins, rate limits, metrics.

use std::time::Duration;

use secrecy::{ExposeSecret, SecretString};

use super::super::declare::{count, flag, seconds, secret};
use super::super::reader::Reader;
use crate::settings;

/// The bounds of a class' limit.
const PER_MINUTE: std::ops::RangeInclusive<u32> = 0..=100_000_000;

/// Shorter than the hash it keys, and an attacker who holds one token could search for it.
const MIN_JWT_SECRET: usize = 32;

settings! {
    ["auth"]
    /// People who log in with a password (`holdfast users`).
    #[derive(Debug, Clone)]
    pub struct AuthSettings {
        /// Signs session tokens, a secret of 32 bytes or more, the same for every API process. In production there are
        /// no logins without it; a development server generates one, so its sessions end with the process.
        jwt_secret: Option<SecretString> = secret().variables(&["JWT_SECRET_KEY"]).then(check_jwt_secret);
        /// How long one access token is valid, in seconds, {range}. While Redis is unavailable a logout reaches other processes
        /// only when the token expires, so keep it short.
        access_token: Duration = seconds(900.0, 60.0..=86_400.0);
        /// Password hashes computed concurrently, {range}. Each takes 19 MiB of memory and some ten milliseconds of one core.
        max_concurrent_hashes: usize = count(2, 1..=64);
        /// Login attempts for one account in a minute, {range}, successful ones included; further ones are answered 429.
        login_per_account_per_minute: u32 = count(5, 1..=10_000);
        /// Login attempts from one address in a minute, {range}. Behind a proxy set `server.trusted_proxies`, or all clients share
        /// it.
        login_per_address_per_minute: u32 = count(30, 1..=100_000);
    }
}

settings! {
    ["rate_limit"]
    /// Requests of one key or user (without one: of one address). The classes are the scopes that routes need.
    #[derive(Debug, Clone)]
    pub struct RateLimitSettings {
        /// Requests in a minute to routes that need `produce`, {range}. 0: no limit.
        produce_per_minute: u32 = count(0, PER_MINUTE);
        /// Requests in a minute to routes that need `work`, {range}. A pull worker sends a few in a second.
        work_per_minute: u32 = count(0, PER_MINUTE);
        /// Requests in a minute to routes that need `read`, {range}. 0: no limit.
        read_per_minute: u32 = count(0, PER_MINUTE);
        /// Requests in a minute to routes that need `admin`, {range}. 0: no limit.
        admin_per_minute: u32 = count(0, PER_MINUTE);
        /// Requests in a minute from one address without a key, or with an unknown one, {range}. 0: no limit.
        anonymous_per_minute: u32 = count(0, PER_MINUTE);
        /// How much of the allowance may be used immediately, in seconds, {range}; after that the rate is even.
        burst: Duration = seconds(10.0, 0.1..=60.0);
        /// Processes that share a limit, {range}. Redis counts for all of them; while it is unavailable each grants its share.
        instances: u32 = count(1, 1..=1000);
    }
}

settings! {
    ["metrics"]
    /// `/metrics` and `/metrics/redis`.
    #[derive(Debug, Clone)]
    pub struct MetricsSettings {
        /// Whether `/metrics` and `/metrics/redis` need no key. Off: they need a key with the scope `read`, except in development
        /// while there is no key. Turn it on where only the monitoring reaches the port.
        public: bool = flag(false);
        /// How long the counts of queues and workers are cached, in seconds, {range}. A scrape that finds them older queries the
        /// database: raise it to let a database that scales to zero sleep.
        queue_refresh: Duration = seconds(15.0, 1.0..=3_600.0);
    }
}

fn check_jwt_secret(
    reader: &mut Reader<'_>,
    path: &str,
    secret: Option<SecretString>,
) -> Option<SecretString> {
    let length = secret
        .as_ref()
        .map_or(MIN_JWT_SECRET, |secret| secret.expose_secret().len());
    if length < MIN_JWT_SECRET {
        let problem = format!("the secret has {length} bytes, and needs {MIN_JWT_SECRET} or more");
        reader.fault_once(path, || {
            (problem, "generate one: openssl rand -hex 32".to_owned())
        });
    }
    secret
}
