//! What machines ask of a process: `/metrics` (Prometheus text) and `/metrics/redis` (the Redis server, with advice).
//! Every service answers both, with what its own process counts.
//!
//! # Cost
//! Counters are read from memory. What must be asked for (queues and workers in the database, `INFO` of Redis) is asked
//! for once in a period, whoever scrapes, and given up within the probe's deadline; then its figures are absent, and the
//! text is served without them.
//!
//! # Who may ask
//! Queue names, kinds and volumes are nobody else's business, and the API's port is a public one. So it needs a key with
//! the scope `read`, as any GET does, unless `metrics.public` says otherwise, or there is no key at all (development).
//! An API key alone, no session: whoever scrapes has no password.

mod advice;
mod faults;
mod info;
mod redis;
pub(crate) mod routes;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use actix_web::HttpRequest;
use actix_web::http::header::AUTHORIZATION;
use holdfast_cache::CacheStats;
use holdfast_core::config::Settings;
use holdfast_core::mode::Mode;
use holdfast_core::redis::{BreakerState, RedisGate};
use holdfast_core::sql::Database;
use holdfast_core::telemetry::catalogue;
use holdfast_core::telemetry::metrics::{self, OTHER};
use holdfast_jobs::Jobs;
use holdfast_jobs::diagnosis::Diagnosis;
use holdfast_jobs::ledger::QueueStats;
use tokio::time::timeout;

pub use self::advice::{Advice, AdviceCode, Severity};
pub use self::redis::RedisReport;
use crate::authentication::{Authenticator, may_read};
use crate::problem::Problem;
use crate::shared_response::SharedResponse;

/// Longest that a scrape waits for the database.
const FIGURES_DEADLINE: Duration = Duration::from_millis(700);

/// How long a report on Redis is served again.
const REDIS_KEPT_FOR: Duration = Duration::from_secs(1);

/// Sets gauges of a part that only the process around it knows.
type Source = Box<dyn Fn() + Send + Sync>;

/// The sources of both documents.
pub(crate) struct Monitor {
    jobs: Jobs,
    database: Database,
    queue_gate: RedisGate,
    /// The cache's gate, where the process has one.
    cache_gate: Option<RedisGate>,
    /// Both roles are on one server.
    shared_server: bool,
    authenticator: Arc<dyn Authenticator>,
    public: bool,
    /// Development without the bootstrap key: while there is no other, everybody may ask.
    keyless: bool,
    production: bool,
    lost_after: Duration,
    /// What keeps jobs from ending.
    diagnosis: Option<Diagnosis>,
    figures: SharedResponse<Option<Figures>>,
    redis: SharedResponse<RedisReport>,
    sources: Vec<Source>,
}

/// What the database counts.
struct Figures {
    queues: Vec<QueueStats>,
    workers_alive: usize,
}

impl Monitor {
    /// Call it inside tokio.
    pub(crate) fn new(
        settings: &Settings,
        jobs: &Jobs,
        database: &Database,
        gate: &RedisGate,
        authenticator: Arc<dyn Authenticator>,
    ) -> Self {
        Self {
            jobs: jobs.clone(),
            database: database.clone(),
            queue_gate: gate.clone(),
            cache_gate: None,
            shared_server: settings.redis.shares_server(),
            authenticator,
            public: settings.metrics.public,
            production: settings.is_production(),
            keyless: !settings.is_production() && settings.server.api_key.is_none(),
            lost_after: settings.worker.lost_after,
            diagnosis: None,
            figures: SharedResponse::new(settings.metrics.queue_refresh),
            redis: SharedResponse::new(REDIS_KEPT_FOR),
            sources: Vec::new(),
        }
    }

    pub(crate) fn with_diagnosis(mut self, diagnosis: Diagnosis) -> Self {
        self.diagnosis = Some(diagnosis);
        self
    }

    pub(crate) fn with_cache_gate(mut self, gate: RedisGate) -> Self {
        self.cache_gate = Some(gate);
        self
    }

    pub(crate) fn add_source(&mut self, source: Source) {
        self.sources.push(source);
    }

    /// Whether this request may see the figures.
    pub(crate) async fn authorize(&self, request: &HttpRequest) -> Result<(), Problem> {
        if self.public {
            return Ok(());
        }
        may_read(request, &*self.authenticator, self.keyless).await
    }

    /// Whether a health report is shown to this request with names, figures and causes.
    pub(crate) async fn shows_details(&self, request: &HttpRequest) -> bool {
        let is_named = request.headers().contains_key(AUTHORIZATION);
        !self.production || (is_named && may_read(request, &*self.authenticator, false).await.is_ok())
    }

    /// The Prometheus text.
    pub(crate) async fn exposition(self: &Arc<Self>) -> String {
        self.read_queues().await;
        self.read_faults().await;
        self.read_pools();
        self.gates().for_each(read_gate);
        self.sources.iter().for_each(|source| source());
        metrics::render()
    }

    /// What is known of Redis, and what should be done about it.
    pub(crate) async fn redis(self: &Arc<Self>) -> Option<Arc<RedisReport>> {
        let monitor = Arc::clone(self);
        self.redis
            .get(|| async move { monitor.look_at_redis().await })
            .await
    }

    fn gates(&self) -> impl Iterator<Item = &RedisGate> {
        std::iter::once(&self.queue_gate).chain(&self.cache_gate)
    }

    async fn read_queues(self: &Arc<Self>) {
        let monitor = Arc::clone(self);
        let figures = self.figures.get(|| async move { monitor.count().await }).await;
        let Some(Some(figures)) = figures.as_deref() else {
            return;
        };
        catalogue::WORKERS_ALIVE
            .with([])
            .set(figures.workers_alive as f64);
        for (name, stats) in self.by_label(&figures.queues) {
            let states = [
                ("available", stats.available),
                ("scheduled", stats.scheduled),
                ("retryable", stats.retryable),
                ("running", stats.running),
                ("discarded", stats.discarded),
            ];
            for (state, jobs) in states {
                catalogue::QUEUE_JOBS.with([name, state]).set(jobs as f64);
            }
            catalogue::QUEUE_OLDEST.with([name]).set(stats.oldest_age_seconds);
            catalogue::QUEUE_PAUSED
                .with([name])
                .set(f64::from(u8::from(stats.paused)));
        }
    }

    async fn read_faults(&self) {
        catalogue::HELD_KEYS.with([]).set(self.jobs.held_keys() as f64);
        if let Some(diagnosis) = &self.diagnosis {
            let report = diagnosis.look().await;
            faults::read(&report, self.jobs.queues().keys().map(String::as_str));
        }
    }

    async fn count(&self) -> Option<Figures> {
        let counting = async {
            let queues = self.jobs.queue_stats().await.ok()?;
            let workers = self.jobs.workers().await.ok()?;
            let lost_after = self.lost_after.as_secs_f64();
            let workers_alive = workers
                .iter()
                .filter(|worker| worker.seen_seconds_ago < lost_after)
                .count();
            Some(Figures {
                queues,
                workers_alive,
            })
        };
        timeout(FIGURES_DEADLINE, counting).await.ok().flatten()
    }

    /// The configured queues; what lies in others, which once were, is added up as one.
    fn by_label<'a>(&self, queues: &'a [QueueStats]) -> Vec<(&'a str, QueueStats)> {
        let (known, unknown): (Vec<_>, Vec<_>) = queues
            .iter()
            .partition(|stats| self.jobs.queues().contains_key(&stats.queue));
        let mut labelled: Vec<_> = known
            .into_iter()
            .map(|stats| (stats.queue.as_str(), stats.clone()))
            .collect();
        if !unknown.is_empty() {
            let sum = unknown.into_iter().fold(QueueStats::default(), add);
            labelled.push((OTHER, sum));
        }
        labelled
    }

    fn read_pools(&self) {
        let pool = self.database.pool_stats();
        let in_use = pool.size.saturating_sub(pool.idle);
        catalogue::SQL_POOL.with(["idle"]).set(pool.idle);
        catalogue::SQL_POOL.with(["in_use"]).set(in_use);
        catalogue::SQL_POOL_MAX.with([]).set(pool.max);
        catalogue::SQL_ABANDONED_NOW
            .with([])
            .set(self.database.abandoned() as f64);
        let position = self.database.breaker();
        for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
            catalogue::SQL_BREAKER
                .with([state.as_str()])
                .set(u8::from(state == position));
        }
    }
}

/// The cache counts for itself; it is read, not told.
pub(crate) fn read_cache(stats: &CacheStats) {
    for (class, counts) in &stats.classes {
        let class = class.as_str();
        let reads = [
            ("hit_local", counts.hit_local),
            ("hit_redis", counts.hit_redis),
            ("stale", counts.stale),
            ("miss", counts.miss),
        ];
        for (outcome, count) in reads {
            catalogue::CACHE_READS.with([class, outcome]).absolute(count);
        }
        let failed = counts.load_errors;
        catalogue::CACHE_LOADS.with([class, "failed"]).absolute(failed);
        catalogue::CACHE_LOADS
            .with([class, "ok"])
            .absolute(counts.loads.saturating_sub(failed));
        catalogue::CACHE_DEGRADED.with([class]).absolute(counts.degraded);
    }
    catalogue::CACHE_LOCAL.with([]).set(stats.local_bytes as f64);
    catalogue::CACHE_PENDING.with([]).set(stats.pending as f64);
}

fn add(sum: QueueStats, more: &QueueStats) -> QueueStats {
    QueueStats {
        queue: sum.queue,
        paused: sum.paused || more.paused,
        available: sum.available + more.available,
        scheduled: sum.scheduled + more.scheduled,
        retryable: sum.retryable + more.retryable,
        running: sum.running + more.running,
        discarded: sum.discarded + more.discarded,
        oldest_age_seconds: sum.oldest_age_seconds.max(more.oldest_age_seconds),
    }
}

fn read_gate(gate: &RedisGate) {
    let role = gate.role().as_str();
    let mode = gate.mode();
    let modes = [
        ("normal", mode.is_normal()),
        ("degraded", mode.is_degraded()),
        ("absent", matches!(mode, Mode::Absent)),
    ];
    for (name, is) in modes {
        catalogue::REDIS_MODE
            .with([role, name])
            .set(f64::from(u8::from(is)));
    }
    let Some(position) = gate.breaker() else {
        return;
    };
    for state in [BreakerState::Closed, BreakerState::Open, BreakerState::HalfOpen] {
        let is = f64::from(u8::from(state == position));
        catalogue::REDIS_BREAKER.with([role, state.as_str()]).set(is);
    }
    let pool = gate.stats();
    catalogue::REDIS_POOL
        .with([role, "available"])
        .set(pool.available as f64);
    catalogue::REDIS_POOL
        .with([role, "in_use"])
        .set(pool.in_use as f64);
    catalogue::REDIS_POOL_MAX.with([role]).set(pool.max as f64);
    catalogue::REDIS_POOL_WAITING
        .with([role])
        .set(pool.waiting as f64);
}

impl fmt::Debug for Monitor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Monitor")
            .field("public", &self.public)
            .finish_non_exhaustive()
    }
}
