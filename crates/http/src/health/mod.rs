//! Whether this process and what it needs are well: `/health`, `/health/live`, `/health/ready`. For every service
//! (`api` beside its other routes, `worker` and `beat` alone, by [`health_server`]).
//!
//! # Verdict
//! Each [`HealthProbe`] looks at one service and changes nothing. A vital one (the database) that is unhealthy makes
//! the whole *unhealthy* (503); any other trouble makes it *degraded* (200: it serves, with something lost). What is
//! not configured is no trouble.
//!
//! # When things hang
//! Probes run at the same time, each within [`PROBE_DEADLINE`], so a report takes less than a second whatever hangs.
//! It is kept for [`KEPT_FOR`], and whoever asks while one is being made gets that one: a thousand callers cost one
//! look. `/health/live` asks nothing at all.

mod beats;
mod encryption;
pub mod hints;
mod ledger;
mod probe;
mod probes;
mod routes;
mod server;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::join_all;
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::diagnosis::Diagnosis;
use holdfast_jobs::schedules::Schedules;
use serde::Serialize;
use tokio::time::{Instant, timeout};
use utoipa::ToSchema;

pub use self::beats::BeatsProbe;
pub use self::encryption::EncryptionProbe;
pub use self::ledger::LedgerProbe;
pub use self::probe::{Finding, HealthProbe, ServiceStatus};
pub use self::probes::{DatabaseProbe, QueueProbe, RedisProbe, WorkersProbe};
pub use self::routes::ROUTES;
pub use self::server::{HealthServer, health_server};
use crate::authentication::Authenticator;
use crate::monitor::{self, Monitor};
use crate::problem::{Problem, ProblemKind};
use crate::shared_response::SharedResponse;

/// Longest one probe may take.
pub const PROBE_DEADLINE: Duration = Duration::from_millis(800);

/// How long a report is served again.
pub const KEPT_FOR: Duration = Duration::from_secs(1);

/// The overall state.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Healthy,
    /// It serves, with something lost: speed, coherence, never data.
    Degraded,
    Unhealthy,
}

/// One dependency of a report.
#[derive(Debug, Clone, Serialize, ToSchema)]
pub struct ServiceHealth {
    pub status: ServiceStatus,
    pub response_time_ms: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    /// What to do next.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    #[schema(value_type = Object)]
    pub details: serde_json::Map<String, serde_json::Value>,
}

/// The response of `/health`.
#[derive(Debug, Clone, Serialize, ToSchema)]
#[schema(as = Health)]
pub struct Report {
    pub status: Verdict,
    pub version: &'static str,
    pub uptime_seconds: u64,
    pub services: BTreeMap<&'static str, ServiceHealth>,
}

impl Report {
    /// What callers without a key see in production: the status of each service, without names, figures and causes.
    pub(crate) fn in_words(&self) -> Self {
        let word = |(name, service): (&&'static str, &ServiceHealth)| {
            let shown = ServiceHealth {
                status: service.status,
                response_time_ms: service.response_time_ms,
                error: None,
                hint: None,
                details: serde_json::Map::new(),
            };
            (*name, shown)
        };
        Self {
            services: self.services.iter().map(word).collect(),
            ..self.clone()
        }
    }
}

/// The health of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Health(Arc<Inner>);

struct Inner {
    probes: Vec<Arc<dyn HealthProbe>>,
    version: &'static str,
    started: Instant,
    shared: SharedResponse<Report>,
    monitor: Option<Arc<Monitor>>,
    /// Set by the server: not ready any more.
    stopping: Mutex<Option<Shutdown>>,
}

impl fmt::Debug for Inner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inner")
            .field("probes", &self.probes)
            .finish_non_exhaustive()
    }
}

/// Puts the probes together.
#[derive(Debug, Default)]
pub struct HealthBuilder {
    probes: Vec<Arc<dyn HealthProbe>>,
    monitor: Option<Monitor>,
}

impl HealthBuilder {
    #[must_use]
    pub fn probe(mut self, probe: impl HealthProbe) -> Self {
        self.probes.push(Arc::new(probe));
        self
    }

    /// The cache of a process that has one: reported as `cache`, and measured.
    #[must_use]
    pub fn cache(mut self, cache: &Cache) -> Self {
        let gate = cache.gate().clone();
        self.monitor = self.monitor.map(|monitor| monitor.with_cache_gate(gate.clone()));
        let measured = cache.clone();
        self.gauges(move || monitor::read_cache(&measured.stats()))
            .probe(RedisProbe::new(gate))
    }

    /// Sets gauges that only this process knows, whenever `/metrics` is asked.
    #[must_use]
    pub fn gauges(mut self, source: impl Fn() + Send + Sync + 'static) -> Self {
        if let Some(monitor) = &mut self.monitor {
            monitor.add_source(Box::new(source));
        }
        self
    }

    /// Uptime counts from here. Call it inside tokio.
    pub fn build(self) -> Health {
        Health(Arc::new(Inner {
            probes: self.probes,
            version: holdfast_core::build::version(),
            started: Instant::now(),
            shared: SharedResponse::new(KEPT_FOR),
            monitor: self.monitor.map(Arc::new),
            stopping: Mutex::new(None),
        }))
    }
}

impl Health {
    /// Empty: no probe, no metrics.
    pub fn builder() -> HealthBuilder {
        HealthBuilder::default()
    }

    /// What every service reports and measures. The process adds what is its own. `authenticator` decides who may read the details and
    /// the metrics. Call it inside tokio.
    pub fn of(
        settings: &Settings,
        jobs: &Jobs,
        database: &Database,
        gate: &RedisGate,
        authenticator: Arc<dyn Authenticator>,
    ) -> HealthBuilder {
        let diagnosis = Diagnosis::new(settings, jobs, database);
        diagnosis.watch();
        let monitor =
            Monitor::new(settings, jobs, database, gate, authenticator).with_diagnosis(diagnosis.clone());
        let schedules = Schedules::new(jobs.clone(), database, &settings.database);
        let builder = HealthBuilder {
            probes: Vec::new(),
            monitor: Some(monitor),
        };
        builder
            .probe(DatabaseProbe::new(database.clone()))
            .probe(RedisProbe::new(gate.clone()))
            .probe(QueueProbe::new(jobs.clone()))
            .probe(LedgerProbe::new(diagnosis))
            .probe(WorkersProbe::new(jobs.clone(), &settings.worker))
            .probe(BeatsProbe::new(schedules, &settings.beat))
            .probe(EncryptionProbe::new(jobs.encryption().clone()))
    }

    /// The report, a second old at most.
    pub async fn report(&self) -> Arc<Report> {
        let inner = Arc::clone(&self.0);
        let report = self.0.shared.get(|| async move { inner.look().await }).await;
        report.unwrap_or_else(|| Arc::new(self.0.blind()))
    }

    /// Whether this process should get traffic: it can do what it is for, and has not been asked to stop.
    pub async fn is_ready(&self) -> bool {
        !self.is_stopping() && self.report().await.status != Verdict::Unhealthy
    }

    pub fn uptime(&self) -> Duration {
        self.0.started.elapsed()
    }

    /// From this switch on the process is not ready.
    pub fn obey(&self, shutdown: Shutdown) {
        *self.0.stopping.lock().unwrap_or_else(PoisonError::into_inner) = Some(shutdown);
    }

    pub(crate) fn is_stopping(&self) -> bool {
        let stopping = self.0.stopping.lock().unwrap_or_else(PoisonError::into_inner);
        stopping.as_ref().is_some_and(Shutdown::is_triggered)
    }

    /// What machines ask for.
    pub(crate) fn monitor(&self) -> Result<&Arc<Monitor>, Problem> {
        self.0
            .monitor
            .as_ref()
            .ok_or_else(|| Problem::new(ProblemKind::RouteNotFound, "this process counts nothing"))
    }
}

impl Inner {
    async fn look(&self) -> Report {
        let services: BTreeMap<_, _> = join_all(self.probes.iter().map(|probe| look_at(&**probe)))
            .await
            .into_iter()
            .collect();
        let vital = |name: &str| {
            self.probes
                .iter()
                .any(|probe| probe.name() == name && probe.is_vital())
        };
        let status = services
            .iter()
            .map(|(name, health)| match health.status {
                ServiceStatus::Healthy | ServiceStatus::NotConfigured => Verdict::Healthy,
                ServiceStatus::Unhealthy if vital(name) => Verdict::Unhealthy,
                ServiceStatus::Degraded | ServiceStatus::Unhealthy => Verdict::Degraded,
            })
            .max()
            .unwrap_or(Verdict::Healthy);
        self.report(status, services)
    }

    /// The look itself failed: a panic, or a runtime that is shutting down.
    fn blind(&self) -> Report {
        self.report(Verdict::Unhealthy, BTreeMap::new())
    }

    fn report(&self, status: Verdict, services: BTreeMap<&'static str, ServiceHealth>) -> Report {
        Report {
            status,
            version: self.version,
            uptime_seconds: self.started.elapsed().as_secs(),
            services,
        }
    }
}

async fn look_at(probe: &dyn HealthProbe) -> (&'static str, ServiceHealth) {
    let started = Instant::now();
    let finding = timeout(PROBE_DEADLINE, probe.check()).await.unwrap_or_else(|_| {
        let error = format!("no answer within {} ms", PROBE_DEADLINE.as_millis());
        Finding::unhealthy(error, hints::HANGS)
    });
    let response_time_ms = started.elapsed().as_secs_f64() * 1_000.0;
    let Finding {
        status,
        error,
        hint,
        details,
    } = finding;
    (
        probe.name(),
        ServiceHealth {
            status,
            response_time_ms,
            error,
            hint,
            details,
        },
    )
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use futures::FutureExt;
    use futures::future::BoxFuture;

    use super::*;

    #[derive(Debug)]
    struct Fake {
        name: &'static str,
        vital: bool,
        finding: Finding,
        hangs: bool,
        asked: Arc<AtomicUsize>,
    }

    impl Fake {
        fn new(name: &'static str, finding: Finding) -> Self {
            Self {
                name,
                vital: name == "database",
                finding,
                hangs: false,
                asked: Arc::default(),
            }
        }
    }

    impl HealthProbe for Fake {
        fn name(&self) -> &'static str {
            self.name
        }

        fn is_vital(&self) -> bool {
            self.vital
        }

        fn check(&self) -> BoxFuture<'_, Finding> {
            self.asked.fetch_add(1, Ordering::Relaxed);
            async move {
                if self.hangs {
                    futures::future::pending::<()>().await;
                }
                self.finding.clone()
            }
            .boxed()
        }
    }

    fn sick() -> Finding {
        Finding::unhealthy("away", "start it")
    }

    async fn verdict(probes: Vec<Fake>) -> Verdict {
        let builder = probes.into_iter().fold(Health::builder(), HealthBuilder::probe);
        builder.build().report().await.status
    }

    #[tokio::test]
    async fn only_a_vital_service_makes_the_whole_unhealthy() {
        use Verdict::{Degraded, Healthy, Unhealthy};
        let healthy = || Fake::new("database", Finding::healthy());
        assert_eq!(verdict(vec![healthy()]).await, Healthy);
        assert_eq!(
            verdict(vec![healthy(), Fake::new("redis", Finding::not_configured())]).await,
            Healthy
        );
        assert_eq!(
            verdict(vec![healthy(), Fake::new("redis", sick())]).await,
            Degraded
        );
        assert_eq!(
            verdict(vec![Fake::new("database", sick()), Fake::new("redis", sick())]).await,
            Unhealthy
        );
    }

    #[tokio::test]
    async fn a_hanging_service_does_not_hang_the_report() {
        let hanging = Fake {
            hangs: true,
            ..Fake::new("redis", Finding::healthy())
        };
        let health = Health::builder()
            .probe(Fake::new("database", Finding::healthy()))
            .probe(hanging)
            .build();
        let started = Instant::now();
        let report = health.report().await;
        assert!(
            started.elapsed() < Duration::from_secs(1),
            "{:?}",
            started.elapsed()
        );
        assert_eq!(report.status, Verdict::Degraded);
        assert_eq!(
            report.services["redis"].error.as_deref(),
            Some("no answer within 800 ms")
        );
    }

    #[tokio::test]
    async fn a_burst_of_callers_costs_one_look() {
        let fake = Fake::new("database", Finding::healthy());
        let asked = Arc::clone(&fake.asked);
        let health = Health::builder().probe(fake).build();
        let reports = join_all((0..100).map(|_| health.report())).await;
        assert_eq!(asked.load(Ordering::Relaxed), 1);
        assert!(reports.iter().all(|report| Arc::ptr_eq(report, &reports[0])));
    }

    #[tokio::test]
    async fn a_stopping_process_is_not_ready() {
        let health = Health::builder()
            .probe(Fake::new("database", Finding::healthy()))
            .build();
        let shutdown = Shutdown::new();
        health.obey(shutdown.clone());
        assert!(health.is_ready().await);
        shutdown.trigger();
        assert!(!health.is_ready().await);
    }
}
