//! The API and the worker of a drill, in this process.

use std::collections::BTreeMap;
use std::time::Duration;

use holdfast_cache::Cache;
use holdfast_core::config::{
    Durability, Environment, QueueLimits, QueueSettings, RedisEndpoint, RetryOverride, ServedBy, Settings,
};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{self, Database};
use holdfast_jobs::Jobs;
use holdfast_jobs::worker::WorkerParts;
use holdfast_services::api::{Application, Services};
use holdfast_services::worker::{Progress, run_worker};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use url::Url;

use super::broken;
use crate::checks::CheckResult;

const START: Duration = Duration::from_secs(30);
const END: Duration = Duration::from_secs(10);

pub(super) struct System {
    queue: String,
    address: Url,
    gate: RedisGate,
    stop: Shutdown,
    running: JoinHandle<()>,
    directory: std::path::PathBuf,
}

impl System {
    pub(super) async fn start(settings: &Settings, redis_url: String) -> CheckResult<Self> {
        let name = ulid::Ulid::generate().to_string().to_lowercase();
        let directory = std::env::temp_dir().join(format!("holdfast-drill-{name}"));
        let queue = format!("drill-{name}");
        let settings = private(settings, &directory, &queue, redis_url);
        let fault = |error: &dyn std::error::Error| broken(&error.to_string());
        sql::migrate(&settings.database)
            .await
            .map_err(|error| fault(&error))?;
        let database = Database::open(&settings.database).map_err(|error| fault(&error))?;
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)
            .map_err(|error| fault(&error))?;
        let cache_gate =
            RedisGate::open(Role::Cache, None, &settings.redis).map_err(|error| fault(&error))?;
        let resources = holdfast_services::resources(&settings).map_err(|error| fault(&error))?;
        let jobs = Jobs::new(
            &settings,
            holdfast_services::registry_for(&settings),
            &database,
            &gate,
        );
        let services = Services {
            jobs: jobs.clone(),
            database: database.clone(),
            gate: gate.clone(),
            cache: Cache::open(cache_gate, &settings.cache),
        };
        let api = Application::build(&settings, services)
            .await
            .map_err(|error| fault(&error))?;
        let address =
            Url::parse(&format!("http://127.0.0.1:{}", api.port())).map_err(|error| fault(&error))?;
        let (stop, progress) = (Shutdown::new(), Progress::default());
        let parts = WorkerParts {
            settings,
            jobs,
            gate: gate.clone(),
            resources,
        };
        let running = tokio::spawn(serve(api, parts, database, progress.clone(), stop.clone()));
        let system = Self {
            queue,
            address,
            gate,
            stop,
            running,
            directory,
        };
        if timeout(START, progress.begun()).await.is_err() {
            system.stop().await;
            return Err(broken("the private worker did not start"));
        }
        Ok(system)
    }

    pub(super) fn queue(&self) -> &str {
        &self.queue
    }

    pub(super) fn address(&self) -> Url {
        self.address.clone()
    }

    /// Whether the mode is normal, or becomes so within `limit`.
    pub(super) async fn redis_serves(&self, limit: Duration) -> bool {
        let mut mode = self.gate.watch();
        let normal = mode.wait_for(holdfast_core::mode::Mode::is_normal);
        timeout(limit, normal).await.is_ok_and(|mode| mode.is_ok())
    }

    pub(super) async fn stop(self) {
        self.stop.trigger();
        timeout(END, self.running).await.ok();
        // Scratch: what cannot be removed now is the system's to remove.
        std::fs::remove_dir_all(&self.directory).ok();
    }
}

/// The configured settings, on a database and a queue of their own, for this machine only.
fn private(settings: &Settings, directory: &std::path::Path, queue: &str, redis_url: String) -> Settings {
    let mut own = settings.clone();
    own.environment = Environment::Development;
    "127.0.0.1".clone_into(&mut own.server.host);
    own.server.port = 0;
    own.server.api_key = None;
    own.database.url = format!("sqlite://{}", directory.join("drill.db").display()).into();
    own.database.direct_url = None;
    own.redis.queue = Some(RedisEndpoint {
        url: redis_url.into(),
    });
    own.redis.cache = None;
    let template = QueueSettings {
        served_by: ServedBy::Rust,
        durability: Durability::Ledger,
        concurrency: 4,
        weight: 1,
        retry: RetryOverride::default(),
        limits: QueueLimits::default(),
    };
    own.queues = BTreeMap::from([(queue.to_owned(), template)]);
    own.worker.queues = Vec::new();
    own
}

async fn serve(api: Application, parts: WorkerParts, database: Database, progress: Progress, stop: Shutdown) {
    let serving = api.run_until_stopped(stop.clone());
    let working = run_worker(parts, &database, &progress, stop.clone());
    let (served, worked) = tokio::join!(serving, working);
    // Either would show as a job that does not run; its cause is here.
    if let Err(error) = served {
        tracing::error!(error = &error as &dyn std::error::Error, "the drill's API failed");
    }
    if let Err(error) = worked {
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "the drill's worker failed"
        );
    }
    database.close(END).await;
}
