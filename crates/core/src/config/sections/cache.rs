//! The settings of the cache.

use std::time::Duration;

use super::super::declare::{bytes, count, percent, seconds};
use crate::settings;

settings! {
    ["cache"]
    /// The cache: copies in the process over Redis. While Redis is unavailable or not configured, the copies in the
    /// process are used.
    #[derive(Debug, Clone)]
    pub struct CacheSettings {
        /// How long a copy in the process is used without asking Redis, in seconds, {range}. Changes are announced to every
        /// process; this limits the effect of a lost announcement.
        local_ttl: Duration = seconds(5.0, 0.0..=3600.0);
        /// Memory for the copies in one process, in bytes, {range}. 64 MiB.
        local_max_bytes: u64 = count(67_108_864, 0..=68_719_476_736);
        /// Largest value that is cached at all, in bytes, {range}. 1 MiB.
        max_value_bytes: usize = bytes(1_048_576, 1..=67_108_864);
        /// Larger values are compressed on Redis, in bytes, {range}. Compressing smaller values gains too little.
        compress_above: usize = bytes(4096, 64..=67_108_864).named("compress_above_bytes");
        /// Longest duration of a loader before its callers get an error or a stale value, in seconds, {range}. Above the database's
        /// acquire and statement timeouts together, and below the request's.
        load_timeout: Duration = seconds(8.0, 0.05..=300.0);
        /// An unused session ends after this time, in seconds, {range}. Each use restarts it.
        session_ttl: Duration = seconds(1800.0, 1.0..=31_536_000.0);
        /// A session ends after this time, even if it is used, in seconds, {range}. A week.
        session_max: Duration = seconds(604_800.0, 1.0..=31_536_000.0);
        /// How long values of the class ApiResponse are fresh, in seconds, {range}. A namespace may set a shorter time.
        api_response_ttl: Duration = seconds(300.0, 1.0..=31_536_000.0);
        /// How long values of the class Recommendation are fresh, in seconds, {range}.
        recommendation_ttl: Duration = seconds(3600.0, 1.0..=31_536_000.0);
        /// How long values of the class Static are fresh, in seconds, {range}.
        static_ttl: Duration = seconds(86_400.0, 1.0..=31_536_000.0);
        /// Random variation of every TTL, in percent, {range}, so that values that were cached together do not expire together.
        ttl_jitter: f64 = percent(10, 0..=50);
        /// How long after its TTL a value is still served while a newer one is loaded, in seconds, {range}.
        stale_while_revalidate: Duration = seconds(30.0, 0.0..=31_536_000.0);
        /// How long after its TTL a value is served when loading a newer one failed, in seconds, {range}. Values are stored that
        /// much longer.
        stale_if_error: Duration = seconds(600.0, 0.0..=31_536_000.0);
        /// How long the responses of GET /v1/queues and GET /v1/workers are fresh, in seconds, {range}; 0: they are not cached. A
        /// request with `Cache-Control: no-cache` always gets a new one.
        lists_ttl: Duration = seconds(1.0, 0.0..=60.0);
    }
}
