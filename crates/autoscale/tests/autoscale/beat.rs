//! The duty of a beat, against a scripted API of Kubernetes and a real database.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::Duration;

use holdfast_autoscale::{AutoscaleProduct, AutoscaleSettings, DriverChoice, action};
use holdfast_core::clock;
use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::audit::AuditFilter;
use holdfast_jobs::statistics::DutyLease;
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry};
use holdfast_product::{Process, Product};
use holdfast_testkit::PostgresServer;
use holdfast_testkit::scripted_server::{Reply, Server};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tempfile::TempDir;
use tokio::task::JoinHandle;

use crate::settings;

#[derive(Serialize, Deserialize, JsonSchema)]
struct ScaledJob {}

impl Job for ScaledJob {
    const KIND: &'static str = "test.scaled";
    const QUEUE: &'static str = "default";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

/// A cluster with one Deployment.
struct Cluster {
    server: Server,
    replicas: Arc<AtomicU32>,
    /// It answers 503 to everything.
    is_down: Arc<AtomicBool>,
}

impl Cluster {
    async fn start(replicas: u32) -> Self {
        let replicas = Arc::new(AtomicU32::new(replicas));
        let is_down = Arc::new(AtomicBool::new(false));
        let (wanted, down) = (Arc::clone(&replicas), Arc::clone(&is_down));
        let server = Server::start(move |request| {
            if down.load(Ordering::SeqCst) {
                return Reply::new(503, &[], "");
            }
            if request.method == "PATCH" {
                let body: serde_json::Value = serde_json::from_str(&request.body).unwrap();
                let asked = body["spec"]["replicas"].as_u64().unwrap();
                wanted.store(u32::try_from(asked).unwrap(), Ordering::SeqCst);
            }
            let scale = serde_json::json!({"spec": {"replicas": wanted.load(Ordering::SeqCst)}});
            Reply::new(200, &[], scale.to_string())
        })
        .await;
        Self {
            server,
            replicas,
            is_down,
        }
    }

    fn replicas(&self) -> u32 {
        self.replicas.load(Ordering::SeqCst)
    }

    async fn reaches(&self, replicas: u32) {
        let reached = async {
            while self.replicas() != replicas {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let waited = tokio::time::timeout(Duration::from_secs(30), reached).await;
        assert!(waited.is_ok(), "{} replicas, and not {replicas}", self.replicas());
    }

    fn changes(&self) -> usize {
        self.server
            .seen()
            .iter()
            .filter(|request| request.method == "PATCH")
            .count()
    }

    async fn is_asked_again(&self) {
        let before = self.server.seen().len();
        let asked = async {
            while self.server.seen().len() < before + 3 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), asked)
            .await
            .unwrap();
    }
}

struct Installation {
    settings: Settings,
    database: Database,
    jobs: Jobs,
    _directory: TempDir,
}

impl Installation {
    async fn start(postgres: Option<&PostgresServer>, cluster: &Cluster) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let url = match postgres {
            Some(server) => server.url(),
            None => format!("sqlite://{}", directory.path().join("scale.db").display()),
        };
        let settings = settings(&url);
        let mut autoscale: AutoscaleSettings = settings.section();
        autoscale.driver = DriverChoice::Kubernetes;
        autoscale.services = vec!["holdfast-worker=0-20".parse().unwrap()];
        autoscale.interval = Duration::from_millis(200);
        autoscale.drain = Duration::from_secs(1);
        autoscale.cooldown = Duration::from_secs(2);
        autoscale.timeout = Duration::from_secs(2);
        autoscale.kubernetes.url = Some(cluster.server.url("").parse().unwrap());
        autoscale.kubernetes.token = Some("a-token".to_owned().into());
        "prod".clone_into(&mut autoscale.kubernetes.namespace);
        let settings = settings.with_section(autoscale);
        migrate(&settings.database).await.unwrap();
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
        let registry = Registry::new().register::<ScaledJob>();
        let jobs = Jobs::new(&settings, registry, &database, &gate);
        Self {
            settings,
            database,
            jobs,
            _directory: directory,
        }
    }

    /// The duties of a beat of it.
    fn beat(&self) -> JoinHandle<()> {
        let duties = AutoscaleProduct.beat_duties(Process {
            settings: &self.settings,
            database: &self.database,
            jobs: &self.jobs,
        });
        assert_eq!(duties.len(), 1);
        tokio::spawn(async move { drop(futures::future::join_all(duties).await) })
    }

    async fn execute(&self, text: &'static str) {
        match &self.database {
            Database::Postgres(pool) => drop(sqlx::query(text).execute(pool).await.unwrap()),
            Database::Sqlite(database) => drop(sqlx::query(text).execute(&database.writer).await.unwrap()),
        }
    }

    /// What processes with statistics do of themselves.
    async fn count(&self, minutes_ahead: i64) {
        self.jobs.statistics().flush().await.unwrap();
        let minute = clock::now().timestamp().div_euclid(60) + minutes_ahead;
        self.jobs.sum_statistics(minute).await.unwrap();
    }

    /// An entry is written after its change.
    async fn audits(&self, entries: usize) {
        let written = async {
            while self.audited().await != entries {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), written)
            .await
            .unwrap();
    }

    async fn audited(&self) -> usize {
        let filter = AuditFilter {
            action: Some(action::AUTOSCALE_SET.to_owned()),
            limit: 100,
            ..AuditFilter::default()
        };
        self.jobs.audit().list(&filter).await.unwrap().len()
    }
}

async fn a_backlog_raises_and_its_end_lowers_after_the_cooldown(postgres: Option<&PostgresServer>) {
    let cluster = Cluster::start(0).await;
    let installation = Installation::start(postgres, &cluster).await;
    let beat = installation.beat();
    cluster.is_asked_again().await;
    assert_eq!((cluster.replicas(), cluster.changes()), (0, 0));

    // A waiting job is found before anything is counted.
    installation.jobs.enqueue(ScaledJob {}).await.unwrap();
    cluster.reaches(1).await;
    // 500 jobs of an assumed second, to be gone in a second, on workers of 50 places: ten, and one for what arrives. By steps.
    let backlog: Vec<_> = (0..500).map(|_| ScaledJob {}).collect();
    installation.jobs.enqueue_all(&backlog).await.unwrap();
    installation.count(0).await;
    cluster.reaches(11).await;
    assert_eq!(cluster.changes(), 4, "1, 5, 10 and 11");
    installation.audits(4).await;
    cluster.is_asked_again().await;
    assert_eq!(cluster.replicas(), 11);

    // The platform is unavailable for a while, and the beat goes on.
    cluster.is_down.store(true, Ordering::SeqCst);
    installation.execute("delete from holdfast_jobs").await;
    installation.execute("delete from holdfast_stats").await;
    installation.count(1).await;
    cluster.is_asked_again().await;
    cluster.is_down.store(false, Ordering::SeqCst);
    let up = std::time::Instant::now();
    cluster.reaches(0).await;
    assert!(
        up.elapsed() >= Duration::from_millis(1_500),
        "after {:?}",
        up.elapsed()
    );
    assert!(!beat.is_finished());
    beat.abort();
}

async fn one_process_leads_until_it_is_silent(postgres: Option<&PostgresServer>) {
    let cluster = Cluster::start(0).await;
    let installation = Installation::start(postgres, &cluster).await;
    let period = Duration::from_millis(500);
    let (mut one, mut other) = (DutyLease::new("test", period), DutyLease::new("test", period));
    assert!(one.claim(&installation.jobs).await.unwrap());
    for _ in 0..6 {
        // The period is its own, or the next one is: it goes on leading.
        one.claim(&installation.jobs).await.unwrap();
        assert!(one.is_held());
        assert!(!other.claim(&installation.jobs).await.unwrap());
        tokio::time::sleep(period / 4).await;
    }
    tokio::time::sleep(period * 3).await;
    assert!(other.claim(&installation.jobs).await.unwrap());
    assert!(!one.claim(&installation.jobs).await.unwrap());
    assert!(!one.is_held());
}

#[tokio::test]
async fn a_backlog_raises_and_its_end_lowers_on_sqlite() {
    a_backlog_raises_and_its_end_lowers_after_the_cooldown(None).await;
}

#[tokio::test]
async fn a_backlog_raises_and_its_end_lowers_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    a_backlog_raises_and_its_end_lowers_after_the_cooldown(Some(&postgres)).await;
}

#[tokio::test]
async fn one_process_leads_on_sqlite() {
    one_process_leads_until_it_is_silent(None).await;
}

#[tokio::test]
async fn one_process_leads_on_postgres() {
    let postgres = PostgresServer::start().await.unwrap();
    one_process_leads_until_it_is_silent(Some(&postgres)).await;
}

#[tokio::test]
async fn a_dry_run_decides_and_changes_nothing() {
    let cluster = Cluster::start(0).await;
    let mut installation = Installation::start(None, &cluster).await;
    let mut autoscale: AutoscaleSettings = installation.settings.section();
    autoscale.dry_run = true;
    installation.settings = installation.settings.clone().with_section(autoscale.clone());
    installation.jobs.enqueue(ScaledJob {}).await.unwrap();
    let lost_after = installation.settings.worker.lost_after;
    let scaler = holdfast_autoscale::Autoscaler::new(autoscale, lost_after, &installation.jobs);
    let round = scaler.unwrap().unwrap().round().await;
    let found = &round.services[0];
    assert_eq!(
        (
            found.decision,
            found.current,
            found.target,
            found.done,
            found.fault.as_deref()
        ),
        ("raise", Some(0), Some(1), false, None)
    );
    assert_eq!((cluster.changes(), installation.audited().await), (0, 0));
}
