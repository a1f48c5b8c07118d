//! The settings of every Holdfast process, as parsed and checked values.
//!
//! A value of [`Settings`] exists only if every setting in it is sound: [`super::load`] reports all faults at
//! once and returns nothing otherwise. The defaults, with their explanations, are in `defaults.toml` beside this
//! file; no default is repeated here.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

use super::allowed_host::AllowedHost;
use super::limits::QueueLimits;
use crate::encryption::Encryption;

/// Where the process runs; production refuses what is merely convenient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    Development,
    Production,
}

/// Everything a Holdfast process can be told.
#[derive(Debug, Clone)]
pub struct Settings {
    pub environment: Environment,
    /// The platform of a process in development mode whose environment was not set. It serves this machine alone.
    pub undeclared_platform: Option<&'static str>,
    pub server: ServerSettings,
    pub database: DatabaseSettings,
    pub redis: RedisSettings,
    pub cache: CacheSettings,
    pub jobs: JobsSettings,
    pub queues: BTreeMap<String, QueueSettings>,
    pub worker: WorkerSettings,
    pub beat: BeatSettings,
    /// `[schedules.NAME]`.
    pub schedules: BTreeMap<String, ScheduleSettings>,
    /// `[kinds."NAME"]`.
    pub kinds: BTreeMap<String, KindSettings>,
    pub http_request: HttpRequestSettings,
    pub audit: AuditSettings,
    /// `HOLDFAST_ENCRYPTION_KEYS`: the keys of values that are encrypted at rest.
    pub encryption: Encryption,
    pub auth: AuthSettings,
    pub rate_limit: RateLimitSettings,
    pub metrics: MetricsSettings,
    pub traces: TracesSettings,
    pub points: PointsSettings,
    pub events: EventsSettings,
    pub discovery: DiscoverySettings,
    pub reddit: RedditSettings,
    pub recommend: RecommendSettings,
    pub notifications: NotificationsSettings,
    pub smtp: SmtpSettings,
    pub log: LogSettings,
}

/// The HTTP listener of any service (`api`'s routes, `worker`'s health routes).
#[derive(Debug, Clone)]
pub struct ServerSettings {
    /// Address to bind, `[::]` (dual stack) by default.
    pub host: String,
    /// `PORT`. 0 asks the system for a free one (tests).
    pub port: u16,
    /// `HOLDFAST_API_KEY`: the bootstrap admin key.
    pub api_key: Option<SecretString>,
    /// Largest request body in bytes.
    pub max_body_bytes: usize,
    /// Most bytes of request bodies in memory, over all requests.
    pub max_body_bytes_in_flight: usize,
    /// Longest a request may take before it is answered 503/504; long polls add their own wait.
    pub request_timeout: Duration,
    /// After a stop signal: how long requests and jobs may still run.
    pub grace: Duration,
    /// Longest `wait` of `GET /v1/jobs/{id}`.
    pub max_wait: Duration,
    /// The server of a worker or beat, which has health and metrics alone, binds loopback: no key guards it.
    pub health_on_loopback: bool,
    /// HTTP threads. Few are enough: handlers wait, they do not compute.
    pub http_workers: usize,
    /// Most connections at the same time; 0: derived from the limit of open files.
    pub max_connections: usize,
    /// Most connections of one address; 0: derived from the number of all.
    pub max_connections_per_address: usize,
    /// Proxies in front of it that each add an entry to `X-Forwarded-For`.
    pub trusted_proxies: usize,
    /// Networks from which they connect. Empty: private networks and this machine.
    pub trusted_proxy_networks: Vec<IpNet>,
}

impl ServerSettings {
    /// Whether a connection from this address is a trusted proxy's, so that its `X-Forwarded-For` is believed.
    pub fn is_trusted_proxy(&self, peer: IpAddr) -> bool {
        let peer = peer.to_canonical();
        let networks = &self.trusted_proxy_networks;
        self.trusted_proxies > 0
            && (networks.iter().any(|network| network.contains(&peer))
                || (networks.is_empty() && is_internal(peer)))
    }
}

/// Addresses that no client on the Internet connects from.
fn is_internal(address: IpAddr) -> bool {
    match address {
        IpAddr::V4(address) => {
            let [first, second, ..] = address.octets();
            let is_shared = first == 100 && (64..128).contains(&second);
            address.is_loopback() || address.is_private() || address.is_link_local() || is_shared
        }
        IpAddr::V6(address) => {
            address.is_loopback() || address.is_unique_local() || address.is_unicast_link_local()
        }
    }
}

/// The SQL side. `postgres://…` or `sqlite://path`.
#[derive(Debug, Clone)]
pub struct DatabaseSettings {
    pub url: SecretString,
    /// Migrations go here when set (`DATABASE_UNPOOLED_URL`, `DATABASE_DIRECT_URL`): a pooled URL cannot hold the advisory lock.
    pub direct_url: Option<SecretString>,
    pub max_connections: u32,
    pub min_connections: u32,
    pub connect_timeout: Duration,
    /// Longest wait for a pooled connection.
    pub acquire_timeout: Duration,
    /// Longest one statement may run. The server ends it then; its caller gives up a little later.
    pub statement_timeout: Duration,
    /// Longest one statement may wait for a lock of another transaction.
    pub lock_timeout: Duration,
    /// Longest a transaction may stay open while its client sends nothing.
    pub idle_in_transaction: Duration,
    pub idle_timeout: Duration,
    pub migrate_at_start: bool,
    /// Off behind PgBouncer before 1.21 in transaction mode, which cannot carry prepared statements.
    pub prepared_statements: bool,
}

/// The Redis side: one endpoint for each role, the same server unless told otherwise.
#[derive(Debug, Clone)]
pub struct RedisSettings {
    /// `None`: Redis is not configured, and nothing ever tries to reach it.
    pub queue: Option<RedisEndpoint>,
    pub cache: Option<RedisEndpoint>,
    /// PEM text of the authorities that vouch for servers reached by TLS; `None`: the public ones.
    pub ca_certificate: Option<Arc<str>>,
    /// `REDIS_MAX_CONNECTIONS`: pooled connections of each role.
    pub max_connections: usize,
    pub connect_timeout: Duration,
    /// Longest one command (or pipeline, or script) may take; then the caller fails over.
    pub command_timeout: Duration,
    /// The background probe's period.
    pub probe_interval: Duration,
    /// Consecutive transient failures that open the breaker.
    pub failure_threshold: u32,
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

/// One Redis server.
#[derive(Debug, Clone)]
pub struct RedisEndpoint {
    pub url: SecretString,
}

/// The cache: how long values live, and how much of them is kept where.
#[derive(Debug, Clone)]
pub struct CacheSettings {
    /// How long a copy in this process is used without asking Redis: the bound of a lost invalidation.
    pub local_ttl: Duration,
    /// Bytes that the copies in this process may take.
    pub local_max_bytes: u64,
    /// Largest value that is cached, in bytes, uncompressed.
    pub max_value_bytes: usize,
    /// Values of more bytes are compressed on Redis.
    pub compress_above: usize,
    /// Longest a loader may take.
    pub load_timeout: Duration,
    /// A session that nobody uses ends after this time.
    pub session_ttl: Duration,
    /// A session ends after this time however much it is used.
    pub session_max: Duration,
    pub api_response_ttl: Duration,
    pub recommendation_ttl: Duration,
    pub static_ttl: Duration,
    /// Up to this share is added to or taken from each TTL, 0.1 for 10 %.
    pub ttl_jitter: f64,
    /// How long after its TTL a value is served while a newer one is loaded.
    pub stale_while_revalidate: Duration,
    /// How long after its TTL a value is served if no newer one can be loaded.
    pub stale_if_error: Duration,
    /// How long the answers of `GET /v1/queues` and `GET /v1/workers` are fresh; zero: not cached.
    pub lists_ttl: Duration,
}

impl RedisEndpoint {
    /// Host and port, or the path of the socket.
    fn server(&self) -> Option<String> {
        use secrecy::ExposeSecret;
        let url = Url::parse(self.url.expose_secret()).ok()?;
        Some(match url.host_str() {
            Some(host) => format!("{host}:{}", url.port().unwrap_or(DEFAULT_REDIS_PORT)),
            None => url.path().to_owned(),
        })
    }
}

const DEFAULT_REDIS_PORT: u16 = 6379;

/// How long accepted jobs are tried and kept.
#[derive(Debug, Clone)]
pub struct JobsSettings {
    pub max_payload_bytes: usize,
    /// Deepest nesting of a payload.
    pub max_payload_depth: usize,
    /// Most jobs in one batch request.
    pub max_batch: usize,
    pub retry: RetrySettings,
    /// Timeout of a kind that sets none.
    pub default_timeout: Duration,
    /// How long completed and cancelled rows are kept.
    pub retain_completed: Duration,
    /// How long discarded rows (dead letters) are kept.
    pub retain_discarded: Duration,
    /// How long batches are kept after their end.
    pub retain_batches: Duration,
    /// How long the broker remembers the outcome of a finished `redis` job.
    pub broker_result_ttl: Duration,
}

/// The default retry policy; a kind and a job may each set their own.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct RetrySettings {
    /// Largest number of attempts, the first included.
    pub max_attempts: u32,
    pub base: Duration,
    pub cap: Duration,
    /// Full jitter: the delay is drawn evenly from zero to the exponential value. Off only in tests.
    pub jitter: bool,
}

/// Where a queue's jobs live.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Durability {
    /// SQL is the queue; Redis only wakes the workers.
    Ledger,
    /// The job lives on the broker; losing Redis' memory loses it.
    Redis,
}

/// Which fleet of workers runs a queue's jobs. A claim takes whatever is due, of any kind, so a queue has one fleet.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum ServedBy {
    /// Worker processes of Holdfast.
    Rust,
    /// Clients of `POST /v1/workers/{id}/pull`, in any language.
    Pull,
}

impl ServedBy {
    pub const fn name(self) -> &'static str {
        match self {
            Self::Rust => "rust",
            Self::Pull => "pull",
        }
    }
}

#[derive(Debug, Clone)]
pub struct QueueSettings {
    pub durability: Durability,
    pub served_by: ServedBy,
    /// Jobs of this queue that one worker process runs at once.
    pub concurrency: usize,
    /// Its share of the worker's places where `worker.concurrency` bounds them.
    pub weight: u32,
    /// `[queues.NAME.retry]`.
    pub retry: RetryOverride,
    /// What bounds the queue over all workers, unless the API says otherwise.
    pub limits: QueueLimits,
}

/// What one kind or one queue says about retries. Unset parts are decided elsewhere: `retry.rs` of the jobs crate says
/// where.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RetryOverride {
    pub max_attempts: Option<u32>,
    pub base: Option<Duration>,
    pub cap: Option<Duration>,
    pub jitter: Option<bool>,
}

/// What the configuration says about one kind.
#[derive(Debug, Clone, Default)]
pub struct KindSettings {
    pub retry: RetryOverride,
}

/// A schedule as the configuration words it. Whether its expression, its kind and its payload are of any use, the jobs
/// crate knows: a beat checks that before it starts.
#[derive(Debug, Clone, PartialEq)]
pub struct ScheduleSettings {
    pub cron: Option<String>,
    pub every_seconds: Option<f64>,
    pub time_zone: Option<String>,
    pub kind: String,
    /// The TOML table or value, as JSON; `{}` if absent.
    pub payload: serde_json::Value,
    pub queue: Option<String>,
    pub catch_up: Option<String>,
    pub catch_up_max: Option<u32>,
    pub jitter_seconds: Option<f64>,
    pub enabled: bool,
}

#[derive(Debug, Clone)]
pub struct WorkerSettings {
    /// Queues this process serves; empty means every queue.
    pub queues: Vec<String>,
    /// Jobs of all queues together that this process runs at once; 0: as many as the queues allow.
    pub concurrency: usize,
    /// Largest claim.
    pub batch_size: usize,
    pub heartbeat: Duration,
    /// A worker that has not been heard of for this long is lost, and its jobs are rescued.
    pub lost_after: Duration,
    /// How often an idle worker looks at the ledger while the bell works.
    pub safety_poll: Duration,
    /// Bounds of the adaptive poll while there is no bell.
    pub degraded_poll_min: Duration,
    pub degraded_poll_max: Duration,
    /// How often an idle worker looks at a broker queue for jobs that a stock producer pushed.
    pub broker_poll: Duration,
    /// How often a worker with running jobs asks whether one was cancelled.
    pub control_poll: Duration,
    /// Deaf for this long while its dependencies answer: the process exits non-zero.
    pub watchdog: Duration,
    /// Crashes that discard a job as poison.
    pub max_crashes: u32,
    /// Period of the maintenance duties (rescuer, pruner, janitor).
    pub maintenance: Duration,
    /// How long a cancelled job may go on before its future is dropped.
    pub cancel_grace: Duration,
}

#[derive(Debug, Clone)]
pub struct BeatSettings {
    /// Longest sleep: within this time a beat notices a new or changed schedule.
    pub poll: Duration,
    /// A tick that is later than this counts as missed.
    pub missed_after: Duration,
    /// Most schedules of one look.
    pub batch_size: usize,
    pub heartbeat: Duration,
    /// A beat that was silent for longer is not alive.
    pub lost_after: Duration,
}

#[derive(Debug, Clone)]
pub struct HttpRequestSettings {
    /// Private, loopback and link-local targets are refused unless this is set.
    pub allow_private: bool,
    /// The private hosts that may be reached nevertheless.
    pub allow_hosts: Vec<AllowedHost>,
    pub max_response_bytes: usize,
    pub max_redirects: usize,
}

/// The log of administrative actions.
#[derive(Debug, Clone)]
pub struct AuditSettings {
    /// How long entries are kept; an idempotent bulk operation is remembered as long.
    pub retain: Duration,
}

/// People: logins and sessions.
#[derive(Debug, Clone)]
pub struct AuthSettings {
    /// `JWT_SECRET_KEY`: signs session tokens, 32 bytes at least. `None` turns logins off in production.
    pub jwt_secret: Option<SecretString>,
    /// How long one access token is good for.
    pub access_token: Duration,
    /// Password hashes computed at once.
    pub max_concurrent_hashes: usize,
    pub login_per_account_per_minute: u32,
    pub login_per_address_per_minute: u32,
}

/// Requests per minute, by class; 0 is no limit.
#[derive(Debug, Clone)]
pub struct RateLimitSettings {
    pub produce_per_minute: u32,
    pub work_per_minute: u32,
    pub read_per_minute: u32,
    pub admin_per_minute: u32,
    /// Requests without a key that is known, per address.
    pub anonymous_per_minute: u32,
    /// How much of a minute's allowance may be used at once.
    pub burst: Duration,
    /// Processes that share a limit: while Redis is away each grants its share.
    pub instances: u32,
}

/// `/metrics` and `/metrics/redis`.
#[derive(Debug, Clone)]
pub struct MetricsSettings {
    /// Anybody may read them; else it takes a key with the scope `read`.
    pub public: bool,
    /// How long the counts of queues and workers are served again.
    pub queue_refresh: Duration,
}

/// OpenTelemetry traces.
#[derive(Debug, Clone)]
pub struct TracesSettings {
    /// Base URL of an OTLP/HTTP collector; `None`: no traces.
    pub endpoint: Option<Url>,
    /// `name=value` pairs that are sent with every export: they may hold a token.
    pub headers: Option<SecretString>,
    /// Part of the traces that begin here which is recorded, 0 to 1. A trace that arrives is followed as its sampled flag says.
    pub sample_ratio: f64,
}

/// Bulk ingest of points.
#[derive(Debug, Clone)]
pub struct PointsSettings {
    /// Off: every point is in SQL before it is accepted.
    pub buffer: bool,
    /// Points in the buffer at most; what comes beyond goes straight to SQL.
    pub max_buffered: u64,
    /// How long points without a track are kept.
    pub retain_letters: Duration,
}

/// The event store.
#[derive(Debug, Clone)]
pub struct EventsSettings {
    /// How long an event is kept after its end, if nobody interacted with it within `recommend.retain_interactions`.
    pub retain_past: Duration,
}

/// Discovery: how sources are read.
#[derive(Debug, Clone)]
pub struct DiscoverySettings {
    /// For the whole exchange, redirects included.
    pub timeout: Duration,
    /// Of an answer, as it comes and unpacked.
    pub max_bytes: usize,
    /// Of one run.
    pub max_entries: usize,
    /// What ended longer ago is left out; not more than `EventsSettings::retain_past`.
    pub past: Duration,
    /// How far ahead what repeats is written out.
    pub ahead: Duration,
    /// Shortest interval that a source may have.
    pub min_interval: Duration,
    /// Longest rest of a source that fails, unless its interval is longer.
    pub max_backoff: Duration,
}

/// The application that Reddit knows us as.
#[derive(Debug, Clone)]
pub struct RedditSettings {
    pub client_id: Option<SecretString>,
    pub client_secret: Option<SecretString>,
    /// Where tokens are given.
    pub auth_url: String,
    /// Where listings are.
    pub api_url: String,
}

/// Recommendations.
#[derive(Debug, Clone)]
pub struct RecommendSettings {
    /// After this time an interaction counts half.
    pub half_life: Duration,
    /// How long interactions are kept, counted from when they happened.
    pub retain_interactions: Duration,
    /// Longest a request waits for its user's recommendations before it is answered by what is popular.
    pub deadline: Duration,
}

/// Webhooks, and what becomes of notifications.
#[derive(Debug, Clone)]
pub struct NotificationsSettings {
    /// Longest a receiver of a webhook may take to answer.
    pub webhook_timeout: Duration,
    /// An endpoint that has failed for this long, without a success, is disabled.
    pub webhook_disable_after: Duration,
    /// How long attempts of delivery are listed, and published notifications remembered.
    pub retain_deliveries: Duration,
    /// Where people reach the API, for the links in mails.
    pub public_url: Option<Url>,
}

/// The mail server.
#[derive(Debug, Clone)]
pub struct SmtpSettings {
    /// `None`: no mail can be sent.
    pub url: Option<SecretString>,
    /// The sender, `Name <address>` or an address alone; set wherever `url` is.
    pub from: Option<String>,
    /// PEM text of the authorities that vouch for the server; `None`: the public ones.
    pub ca_certificate: Option<Arc<str>>,
    /// Longest that the server may take for one mail.
    pub timeout: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    Json,
    Pretty,
}

#[derive(Debug, Clone)]
pub struct LogSettings {
    /// An `EnvFilter` directive, `info` by default.
    pub level: String,
    pub format: LogFormat,
}

impl Settings {
    /// The directory an embedded SQLite database lives in, if the database is embedded.
    pub fn embedded_path(&self) -> Option<PathBuf> {
        use secrecy::ExposeSecret;
        self.database
            .url
            .expose_secret()
            .strip_prefix("sqlite://")
            .map(|rest| PathBuf::from(rest.split('?').next().unwrap_or(rest)))
    }

    pub fn is_production(&self) -> bool {
        self.environment == Environment::Production
    }

    /// The queues this worker process serves, by name. Those of pull workers are none of them.
    pub fn served_queues(&self) -> impl Iterator<Item = (&String, &QueueSettings)> {
        self.queues
            .iter()
            .filter(|(_, queue)| queue.served_by == ServedBy::Rust)
            .filter(|(name, _)| self.worker.queues.is_empty() || self.worker.queues.contains(name))
    }
}
