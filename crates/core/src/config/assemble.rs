//! From the merged table to [`Settings`]: each setting with its range, then the settings [against each
//! other](super::conflicts).

use std::collections::BTreeMap;
use std::net::IpAddr;

use config::{Map, Value};
use ipnet::IpNet;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use super::allowed_host::AllowedHost;
use super::authorities::ca_certificate;
use super::conflicts;
use super::environment::variable_of;
use super::fault::{ConfigFault, ConfigFaults};
use super::limits::{MAX_RUNNING_LIMIT, QueueLimits};
use super::reader::Reader;
use super::redis;
use super::schema::DEFAULTS_ORIGIN;
use super::settings::{
    AuditSettings, AuthSettings, BeatSettings, CacheSettings, DatabaseSettings, DiscoverySettings,
    Durability, Environment, EventsSettings, HttpRequestSettings, JobsSettings, LogFormat, LogSettings,
    MetricsSettings, NotificationsSettings, PointsSettings, QueueSettings, RateLimitSettings,
    RecommendSettings, RedditSettings, RetrySettings, ServedBy, ServerSettings, Settings, SmtpSettings,
    TracesSettings, WorkerSettings,
};
use super::tables;
use crate::encryption::{Encryption, InvalidKeys};

pub(super) fn settings(
    root: &Map<String, Value>,
    faults: Vec<ConfigFault>,
) -> Result<Settings, ConfigFaults> {
    let mut reader = Reader::new(root, faults);
    let settings = read(&mut reader);
    conflicts::check(&mut reader, &settings);
    reader.finish(settings)
}

fn read(reader: &mut Reader<'_>) -> Settings {
    let environment = environment(reader);
    Settings {
        undeclared_platform: None,
        environment,
        server: server(reader),
        database: database(reader, environment),
        redis: redis::settings(reader),
        cache: cache(reader),
        jobs: jobs(reader),
        queues: queues(reader),
        worker: worker(reader),
        beat: beat(reader),
        schedules: tables::schedules(reader),
        kinds: tables::kinds(reader),
        http_request: http_request(reader),
        audit: AuditSettings {
            retain: reader.seconds("audit.retain_seconds", 3600.0..=315_360_000.0),
        },
        auth: auth(reader),
        encryption: encryption(reader),
        rate_limit: rate_limit(reader),
        metrics: MetricsSettings {
            public: reader.flag("metrics.public"),
            queue_refresh: reader.seconds("metrics.queue_refresh_seconds", 1.0..=3_600.0),
        },
        traces: traces(reader),
        points: PointsSettings {
            buffer: reader.flag("points.buffer"),
            max_buffered: reader.count("points.max_buffered", 1_000..=100_000_000),
            retain_letters: reader.seconds("points.retain_letters_seconds", 3600.0..=315_360_000.0),
        },
        events: EventsSettings {
            retain_past: reader.seconds("events.retain_past_seconds", 3600.0..=315_360_000.0),
        },
        discovery: discovery(reader),
        reddit: reddit(reader),
        recommend: RecommendSettings {
            half_life: reader.seconds("recommend.half_life_seconds", 3600.0..=315_360_000.0),
            retain_interactions: reader
                .seconds("recommend.retain_interactions_seconds", 3600.0..=315_360_000.0),
            deadline: reader.seconds("recommend.deadline_seconds", 0.01..=30.0),
        },
        notifications: notifications(reader),
        smtp: smtp(reader),
        log: log(reader, environment),
    }
}

fn encryption(reader: &mut Reader<'_>) -> Encryption {
    const PATH: &str = "encryption.keys";
    let Some(text) = reader.secret(PATH) else {
        return Encryption::default();
    };
    text.expose_secret().parse().unwrap_or_else(|fault: InvalidKeys| {
        let fix = format!(
            "set {} to ID:KEY,ID:KEY… with ids of a-z, 0-9 and -, and keys of 32 bytes in base64: openssl rand -base64 32",
            variable_of(PATH)
        );
        reader.fault_once(PATH, || (fault.to_string(), fix));
        Encryption::default()
    })
}

fn discovery(reader: &mut Reader<'_>) -> DiscoverySettings {
    DiscoverySettings {
        timeout: reader.seconds("discovery.timeout_seconds", 0.1..=300.0),
        max_bytes: reader.bytes("discovery.max_bytes", 65_536..=268_435_456),
        max_entries: reader.count("discovery.max_entries", 1..=1_000_000),
        past: reader.seconds("discovery.past_seconds", 0.0..=315_360_000.0),
        ahead: reader.seconds("discovery.ahead_seconds", 86_400.0..=315_360_000.0),
        min_interval: reader.seconds("discovery.min_interval_seconds", 1.0..=86_400.0),
        max_backoff: reader.seconds("discovery.max_backoff_seconds", 1.0..=2_592_000.0),
    }
}

fn reddit(reader: &mut Reader<'_>) -> RedditSettings {
    let mut base = |path: &str| {
        let text = reader.text(path);
        let sound = url::Url::parse(&text).is_ok_and(|url| matches!(url.scheme(), "http" | "https"));
        if !sound {
            let fix = "give a base URL such as \"https://oauth.reddit.com\"".to_owned();
            reader.fault_once(path, || (format!("{text:?} is not an http or https URL"), fix));
        }
        text
    };
    let (auth_url, api_url) = (base("reddit.auth_url"), base("reddit.api_url"));
    RedditSettings {
        client_id: reader.secret("reddit.client_id"),
        client_secret: reader.secret("reddit.client_secret"),
        auth_url,
        api_url,
    }
}

fn environment(reader: &mut Reader<'_>) -> Environment {
    let choices = [
        ("development", Environment::Development),
        ("production", Environment::Production),
    ];
    reader
        .choice("environment", &choices)
        .unwrap_or(Environment::Production)
}

fn server(reader: &mut Reader<'_>) -> ServerSettings {
    ServerSettings {
        host: host(reader),
        port: reader.count("server.port", 0..=u16::MAX),
        api_key: api_key(reader),
        max_body_bytes: reader.bytes("server.max_body_bytes", 1024..=1_073_741_824),
        max_body_bytes_in_flight: reader
            .bytes("server.max_body_bytes_in_flight", 1_048_576..=1_099_511_627_776),
        request_timeout: reader.seconds("server.request_timeout_seconds", 0.1..=300.0),
        grace: reader.seconds("server.grace_seconds", 0.0..=3600.0),
        max_wait: reader.seconds("server.max_wait_seconds", 0.0..=300.0),
        health_on_loopback: false,
        http_workers: reader.count("server.http_workers", 1..=256),
        max_connections: reader.count("server.max_connections", 0..=1_000_000),
        max_connections_per_address: reader.count("server.max_connections_per_address", 0..=1_000_000),
        trusted_proxies: reader.count("server.trusted_proxies", 0..=10),
        trusted_proxy_networks: networks(reader, "server.trusted_proxy_networks"),
    }
}

/// Networks in CIDR notation, or single addresses.
fn networks(reader: &mut Reader<'_>, path: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for text in reader.list(path) {
        let address = || text.parse::<IpAddr>().map(IpNet::from);
        match text.parse::<IpNet>().or_else(|_| address()) {
            Ok(network) => networks.push(network),
            Err(_) => reader.fault_once(path, || {
                (
                    format!("{text:?} is no network"),
                    "give addresses or networks such as [\"10.0.0.0/8\"]".to_owned(),
                )
            }),
        }
    }
    networks
}

fn host(reader: &mut Reader<'_>) -> String {
    const PATH: &str = "server.host";
    let host = reader.text(PATH);
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(&host);
    let is_name = !bare.is_empty()
        && bare
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-'));
    if bare.parse::<IpAddr>().is_err() && !is_name {
        let fix = "give an address without a port, such as \"[::]\" or \"127.0.0.1\"".to_owned();
        reader.fault_once(PATH, || {
            (format!("{host:?} is neither an address nor a host name"), fix)
        });
    }
    host
}

fn api_key(reader: &mut Reader<'_>) -> Option<SecretString> {
    const PATH: &str = "server.api_key";
    let key = reader.secret(PATH)?;
    // It travels in a header, where nothing else would arrive.
    if !key.expose_secret().chars().all(|c| c.is_ascii_graphic()) {
        let problem = "the key has blanks or characters beyond ASCII".to_owned();
        reader.fault_once(PATH, || {
            (problem, "generate one: openssl rand -hex 32".to_owned())
        });
    }
    Some(key)
}

fn database(reader: &mut Reader<'_>, environment: Environment) -> DatabaseSettings {
    let url = reader.secret("database.url").unwrap_or_default();
    let embedded_by_default = reader.origin("database.url") == DEFAULTS_ORIGIN;
    if environment == Environment::Production && embedded_by_default {
        // In a container the embedded file would be gone with the next deployment, and no two services share it.
        let problem = "a production service needs the URL of its database".to_owned();
        let fix = format!(
            "set {} to postgres://… (or to a sqlite:// file, on purpose)",
            variable_of("database.url")
        );
        reader.fault_once("database.url", || (problem, fix));
    }
    check_database_url(reader, "database.url", &url);
    let direct_url = reader.secret("database.direct_url");
    if let Some(direct_url) = &direct_url {
        check_database_url(reader, "database.direct_url", direct_url);
    }
    DatabaseSettings {
        url,
        direct_url,
        max_connections: reader.count("database.max_connections", 1..=1000),
        min_connections: reader.count("database.min_connections", 0..=1000),
        connect_timeout: reader.seconds("database.connect_timeout_seconds", 0.1..=120.0),
        acquire_timeout: reader.seconds("database.acquire_timeout_seconds", 0.1..=120.0),
        statement_timeout: reader.seconds("database.statement_timeout_seconds", 0.1..=600.0),
        lock_timeout: reader.millis("database.lock_timeout_ms", 10..=60_000),
        idle_in_transaction: reader.seconds("database.idle_in_transaction_seconds", 0.1..=600.0),
        idle_timeout: reader.seconds("database.idle_timeout_seconds", 1.0..=86_400.0),
        migrate_at_start: reader.flag("database.migrate_at_start"),
        prepared_statements: reader.flag("database.prepared_statements"),
    }
}

fn check_database_url(reader: &mut Reader<'_>, path: &str, url: &SecretString) {
    if let Err(error) = crate::sql::check_url(url) {
        let fix = "give postgres://user:password@host:5432/name or sqlite://path/to/file.db".to_owned();
        reader.fault_once(path, || (error.to_string(), fix));
    }
}

fn cache(reader: &mut Reader<'_>) -> CacheSettings {
    CacheSettings {
        local_ttl: reader.seconds("cache.local_ttl_seconds", 0.0..=3600.0),
        local_max_bytes: reader.count("cache.local_max_bytes", 0..=68_719_476_736),
        max_value_bytes: reader.bytes("cache.max_value_bytes", 1..=67_108_864),
        compress_above: reader.bytes("cache.compress_above_bytes", 64..=67_108_864),
        load_timeout: reader.seconds("cache.load_timeout_seconds", 0.05..=300.0),
        session_ttl: reader.seconds("cache.session_ttl_seconds", 1.0..=31_536_000.0),
        session_max: reader.seconds("cache.session_max_seconds", 1.0..=31_536_000.0),
        api_response_ttl: reader.seconds("cache.api_response_ttl_seconds", 1.0..=31_536_000.0),
        recommendation_ttl: reader.seconds("cache.recommendation_ttl_seconds", 1.0..=31_536_000.0),
        static_ttl: reader.seconds("cache.static_ttl_seconds", 1.0..=31_536_000.0),
        ttl_jitter: f64::from(reader.count::<u8>("cache.ttl_jitter_percent", 0..=50)) / 100.0,
        stale_while_revalidate: reader.seconds("cache.stale_while_revalidate_seconds", 0.0..=31_536_000.0),
        stale_if_error: reader.seconds("cache.stale_if_error_seconds", 0.0..=31_536_000.0),
        lists_ttl: reader.seconds("cache.lists_ttl_seconds", 0.0..=60.0),
    }
}

fn jobs(reader: &mut Reader<'_>) -> JobsSettings {
    JobsSettings {
        max_payload_bytes: reader.bytes("jobs.max_payload_bytes", 1..=67_108_864),
        max_payload_depth: reader.count("jobs.max_payload_depth", 1..=120),
        max_batch: reader.count("jobs.max_batch", 1..=100_000),
        retry: RetrySettings {
            max_attempts: reader.count("jobs.retry.max_attempts", 1..=100),
            base: reader.seconds("jobs.retry.base_seconds", 0.0..=86_400.0),
            cap: reader.seconds("jobs.retry.cap_seconds", 0.0..=604_800.0),
            jitter: reader.flag("jobs.retry.jitter"),
        },
        default_timeout: reader.seconds("jobs.default_timeout_seconds", 0.1..=86_400.0),
        retain_completed: reader.seconds("jobs.retain_completed_seconds", 0.0..=31_536_000.0),
        retain_discarded: reader.seconds("jobs.retain_discarded_seconds", 0.0..=315_360_000.0),
        retain_batches: reader.seconds("jobs.retain_batches_seconds", 0.0..=315_360_000.0),
        broker_result_ttl: reader.seconds("jobs.broker_result_ttl_seconds", 1.0..=86_400.0),
    }
}

fn queues(reader: &mut Reader<'_>) -> BTreeMap<String, QueueSettings> {
    // Read for its own sake too, so that a fault in the template is told although every queue overrides it.
    let _template = queue(reader, "queue_defaults");
    let mut queues = BTreeMap::new();
    for name in reader.names("queues") {
        let path = format!("queues.{name}");
        let settings = queue(reader, &path);
        queues.insert(name, settings);
    }
    queues
}

fn queue(reader: &mut Reader<'_>, path: &str) -> QueueSettings {
    let durability = reader.either(&format!("{path}.durability"), "queue_defaults.durability");
    let concurrency = reader.either(&format!("{path}.concurrency"), "queue_defaults.concurrency");
    let weight = reader.either(&format!("{path}.weight"), "queue_defaults.weight");
    let served_by = reader.either(&format!("{path}.served_by"), "queue_defaults.served_by");
    let choices = [("ledger", Durability::Ledger), ("redis", Durability::Redis)];
    let fleets = [ServedBy::Rust, ServedBy::Pull].map(|fleet| (fleet.name(), fleet));
    let limits = limits(reader, path);
    QueueSettings {
        limits,
        durability: reader.choice(&durability, &choices).unwrap_or(Durability::Ledger),
        served_by: reader.choice(&served_by, &fleets).unwrap_or(ServedBy::Rust),
        concurrency: reader.count(&concurrency, 1..=10_000),
        weight: reader.count(&weight, 1..=MAX_WEIGHT),
        retry: tables::retry(reader, path),
    }
}

/// Most that one queue may weigh: a share of less than a hundredth is better a queue with few places.
const MAX_WEIGHT: u32 = 100;

fn limits(reader: &mut Reader<'_>, path: &str) -> QueueLimits {
    let at = |reader: &Reader<'_>, key: &str| {
        reader.either(&format!("{path}.{key}"), &format!("queue_defaults.{key}"))
    };
    let (max_running, key_max_running) = (at(reader, "max_running"), at(reader, "key_max_running"));
    let (rate, key_rate) = (at(reader, "rate"), at(reader, "key_rate"));
    QueueLimits {
        max_running: reader.optional_count(&max_running, 1..=MAX_RUNNING_LIMIT),
        rate: reader.optional_parsed(&rate),
        key_max_running: reader.optional_count(&key_max_running, 1..=MAX_RUNNING_LIMIT),
        key_rate: reader.optional_parsed(&key_rate),
    }
}

fn worker(reader: &mut Reader<'_>) -> WorkerSettings {
    WorkerSettings {
        queues: reader.list("worker.queues"),
        concurrency: reader.count("worker.concurrency", 0..=100_000),
        batch_size: reader.count("worker.batch_size", 1..=10_000),
        heartbeat: reader.seconds("worker.heartbeat_seconds", 0.1..=300.0),
        lost_after: reader.seconds("worker.lost_after_seconds", 0.2..=3600.0),
        safety_poll: reader.seconds("worker.safety_poll_seconds", 0.05..=3600.0),
        degraded_poll_min: reader.millis("worker.degraded_poll_min_ms", 1..=60_000),
        degraded_poll_max: reader.millis("worker.degraded_poll_max_ms", 1..=60_000),
        broker_poll: reader.seconds("worker.broker_poll_seconds", 0.05..=3600.0),
        control_poll: reader.seconds("worker.control_poll_seconds", 0.05..=3600.0),
        watchdog: reader.seconds("worker.watchdog_seconds", 1.0..=86_400.0),
        max_crashes: reader.count("worker.max_crashes", 1..=100),
        maintenance: reader.seconds("worker.maintenance_seconds", 0.05..=3600.0),
        cancel_grace: reader.seconds("worker.cancel_grace_seconds", 0.0..=3600.0),
    }
}

fn beat(reader: &mut Reader<'_>) -> BeatSettings {
    BeatSettings {
        poll: reader.seconds("beat.poll_seconds", 0.05..=3600.0),
        missed_after: reader.seconds("beat.missed_after_seconds", 0.1..=86_400.0),
        batch_size: reader.count("beat.batch_size", 1..=1000),
        heartbeat: reader.seconds("beat.heartbeat_seconds", 0.1..=300.0),
        lost_after: reader.seconds("beat.lost_after_seconds", 0.2..=3600.0),
    }
}

fn http_request(reader: &mut Reader<'_>) -> HttpRequestSettings {
    HttpRequestSettings {
        allow_private: reader.flag("http_request.allow_private"),
        allow_hosts: allowed_hosts(reader, "http_request.allow_hosts"),
        max_response_bytes: reader.bytes("http_request.max_response_bytes", 0..=67_108_864),
        max_redirects: reader.count("http_request.max_redirects", 0..=20),
    }
}

fn allowed_hosts(reader: &mut Reader<'_>, path: &str) -> Vec<AllowedHost> {
    const MOST: usize = 100;
    let texts = reader.list(path);
    if texts.len() > MOST {
        reader.fault_once(path, || {
            let problem = format!("{} entries are more than {MOST}", texts.len());
            (problem, "give networks, or suffixes of names".to_owned())
        });
    }
    let mut hosts = Vec::with_capacity(texts.len());
    for text in texts {
        match text.parse() {
            Ok(host) => hosts.push(host),
            Err(error) => reader.fault_once(path, || {
                let fix = "give hosts such as [\"*.railway.internal\", \"reports\", \"10.0.0.5\", \"10.1.0.0/16\"], without \
                           scheme, port and path; allow_private = true allows all of them";
                (format!("{text:?} is refused: {error}"), fix.to_owned())
            }),
        }
    }
    hosts
}

fn auth(reader: &mut Reader<'_>) -> AuthSettings {
    AuthSettings {
        jwt_secret: jwt_secret(reader),
        access_token: reader.seconds("auth.access_token_seconds", 60.0..=86_400.0),
        max_concurrent_hashes: reader.count("auth.max_concurrent_hashes", 1..=64),
        login_per_account_per_minute: reader.count("auth.login_per_account_per_minute", 1..=10_000),
        login_per_address_per_minute: reader.count("auth.login_per_address_per_minute", 1..=100_000),
    }
}

/// Shorter than the hash it keys, and an attacker who holds one token could search for it.
const MIN_JWT_SECRET: usize = 32;

fn jwt_secret(reader: &mut Reader<'_>) -> Option<SecretString> {
    const PATH: &str = "auth.jwt_secret";
    let secret = reader.secret(PATH)?;
    let length = secret.expose_secret().len();
    if length < MIN_JWT_SECRET {
        let problem = format!("the secret has {length} bytes, and needs {MIN_JWT_SECRET} or more");
        reader.fault_once(PATH, || {
            (problem, "generate one: openssl rand -hex 32".to_owned())
        });
    }
    Some(secret)
}

fn rate_limit(reader: &mut Reader<'_>) -> RateLimitSettings {
    const RANGE: std::ops::RangeInclusive<u32> = 0..=100_000_000;
    RateLimitSettings {
        produce_per_minute: reader.count("rate_limit.produce_per_minute", RANGE),
        work_per_minute: reader.count("rate_limit.work_per_minute", RANGE),
        read_per_minute: reader.count("rate_limit.read_per_minute", RANGE),
        admin_per_minute: reader.count("rate_limit.admin_per_minute", RANGE),
        anonymous_per_minute: reader.count("rate_limit.anonymous_per_minute", RANGE),
        burst: reader.seconds("rate_limit.burst_seconds", 0.1..=60.0),
        instances: reader.count("rate_limit.instances", 1..=1000),
    }
}

/// An `http` or `https` URL, or empty: not set.
fn base_url(reader: &mut Reader<'_>, path: &str, fix: &str) -> Option<Url> {
    let text = reader.text(path);
    if text.is_empty() {
        return None;
    }
    let url = Url::parse(&text)
        .ok()
        .filter(|url| matches!(url.scheme(), "http" | "https") && url.has_host());
    if url.is_none() {
        let problem = "it is not an http:// or https:// URL".to_owned();
        reader.fault_once(path, || (problem, fix.to_owned()));
    }
    url
}

fn traces(reader: &mut Reader<'_>) -> TracesSettings {
    TracesSettings {
        endpoint: base_url(
            reader,
            "traces.endpoint",
            "give the base URL of an OTLP/HTTP collector, such as http://localhost:4318",
        ),
        headers: reader.secret("traces.headers"),
        sample_ratio: f64::from(reader.count::<u32>("traces.sample_percent", 0..=100)) / 100.0,
    }
}

fn notifications(reader: &mut Reader<'_>) -> NotificationsSettings {
    NotificationsSettings {
        webhook_timeout: reader.seconds("notifications.webhook_timeout_seconds", 0.1..=60.0),
        webhook_disable_after: reader
            .seconds("notifications.webhook_disable_after_seconds", 60.0..=31_536_000.0),
        retain_deliveries: reader.seconds("notifications.retain_deliveries_seconds", 3600.0..=31_536_000.0),
        public_url: base_url(
            reader,
            "notifications.public_url",
            "give the URL under which people reach the API, such as https://jobs.example.com",
        ),
    }
}

fn smtp(reader: &mut Reader<'_>) -> SmtpSettings {
    let url = reader.secret("smtp.url");
    if let Some(Err(problem)) = url.as_ref().map(|url| check_smtp_url(url.expose_secret())) {
        let fix = "give smtps://user:password@host (TLS), smtp://user:password@host:587?tls=required (STARTTLS), or \
                   smtp://localhost:1025 (neither, for development)";
        reader.fault_once("smtp.url", || (problem.to_owned(), fix.to_owned()));
    }
    let from = Some(reader.text("smtp.from")).filter(|from| !from.is_empty());
    let is_sender = |from: &String| from.contains('@') && !from.chars().any(char::is_control);
    if !from.as_ref().is_none_or(is_sender) || (from.is_none() && url.is_some()) {
        let problem = "the mail server is set, so it takes the address that mails come from".to_owned();
        let fix = "give an address, such as \"Holdfast <no-reply@example.com>\"".to_owned();
        reader.fault_once("smtp.from", || (problem, fix));
    }
    SmtpSettings {
        url,
        from,
        ca_certificate: ca_certificate(reader, "smtp.ca_certificate"),
        timeout: reader.seconds("smtp.timeout_seconds", 0.1..=120.0),
    }
}

/// Never with the URL itself: it may hold a password.
fn check_smtp_url(url: &str) -> Result<(), &'static str> {
    let url = Url::parse(url).map_err(|_| "it is not a URL")?;
    if !url.has_host() {
        return Err("it names no host");
    }
    let tls = url.query_pairs().find(|(name, _)| name == "tls");
    match (url.scheme(), tls.as_ref().map(|(_, value)| &**value)) {
        ("smtps", None) | ("smtp", None | Some("required" | "opportunistic")) => Ok(()),
        ("smtps" | "smtp", _) => Err("its tls is neither required nor opportunistic"),
        _ => Err("it begins neither with smtps:// nor with smtp://"),
    }
}

fn log(reader: &mut Reader<'_>, environment: Environment) -> LogSettings {
    let level = reader.text("log.level");
    if let Err(problem) = crate::telemetry::check_level(&level) {
        let fix = "give a level (trace, debug, info, warn, error, off) and target=level pairs, with commas"
            .to_owned();
        reader.fault_once("log.level", || (problem, fix));
    }
    let by_environment = match environment {
        Environment::Production => LogFormat::Json,
        Environment::Development => LogFormat::Pretty,
    };
    let choices = [
        ("auto", by_environment),
        ("json", LogFormat::Json),
        ("pretty", LogFormat::Pretty),
    ];
    LogSettings {
        level,
        format: reader.choice("log.format", &choices).unwrap_or(by_environment),
    }
}

#[cfg(test)]
mod tests {
    use super::super::docs::settings_table;
    use super::super::layers::{Layer, merge};
    use super::super::schema::{DEFAULTS, parse_toml};
    use super::*;

    #[test]
    fn the_annotations_of_the_defaults_name_the_ranges_that_are_enforced() {
        let defaults = Layer::of_table(&parse_toml(DEFAULTS).unwrap(), DEFAULTS_ORIGIN);
        let root = merge(vec![defaults]).unwrap();
        let mut reader = Reader::new(&root, Vec::new());
        read(&mut reader);
        let table = settings_table();
        assert!(reader.limits().len() > 30);
        for (path, limits) in reader.limits() {
            let doc = table.iter().find(|doc| doc.key == *path).unwrap();
            assert!(
                doc.help.contains(limits.as_str()),
                "{path}: {limits:?} is not in {:?}",
                doc.help
            );
        }
    }
}
