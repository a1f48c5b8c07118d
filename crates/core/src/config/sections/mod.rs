//! The settings of the engine and of its services, a file for each part. Those of a product are declared in its crate.

mod access;
mod cache;
mod console;
mod database;
mod http_request;
mod jobs;
mod queues;
mod redis;
mod server;
mod telemetry;

pub use access::{AuthSettings, MetricsSettings, RateLimitSettings};
pub use cache::CacheSettings;
pub use console::{ConsoleSettings, LabelColor};
pub use database::DatabaseSettings;
pub use http_request::HttpRequestSettings;
pub use jobs::{AuditSettings, BeatSettings, JobsSettings, RetrySettings, WorkerSettings};
pub(super) use queues::queues;
pub use queues::{Durability, KindSettings, QueueSettings, RetryOverride, ScheduleSettings, ServedBy};
pub use redis::{RedisEndpoint, RedisSettings};
pub use server::ServerSettings;
pub use telemetry::{LogFormat, LogSettings, TracesSettings};
