//! A worker that waits for its database, works, and watches itself: what `worker` and `holdfast dev` run.

use holdfast_cache::Cache;
use holdfast_core::redis::{OpenError, RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError, wait_for_schema};
use holdfast_jobs::worker::{DEAF_EXIT_CODE, DependencyProbe, Watchdog, Worker, WorkerError, WorkerParts};

use super::Progress;
use super::probes::{RedisProbe, SqlProbe};
use crate::product::{Process, WorkerProcess};
use crate::upkeep::{finish_upkeep, spawn_upkeep};

/// Why a worker ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    #[error(transparent)]
    Worker(#[from] WorkerError),
    #[error("the Redis settings are invalid")]
    Redis(#[from] OpenError),
    #[error("no thread can be started for the watchdog")]
    Watchdog(#[source] std::io::Error),
}

/// Waits for the schema, then works until `stop`, and winds down within the grace period.
///
/// `progress` tells others when the work has begun. A deaf worker ends the whole process.
///
/// # Errors
/// What waiting does not mend: a database that does not let us in, a migration that fails, a part that ended by itself.
pub async fn run_worker(
    mut parts: WorkerParts,
    database: &Database,
    progress: &Progress,
    stop: Shutdown,
) -> Result<(), WorkError> {
    match wait_for_schema(database, &parts.settings.database, &stop).await {
        Err(SqlError::Stopped) => return Ok(()),
        ended => ended?,
    }
    spawn_upkeep(&parts.jobs, true, &stop);
    let jobs = parts.jobs.clone();
    let sql_probe = SqlProbe::new(&parts.settings.database);
    let redis_probe = RedisProbe::new(&parts.settings.redis);
    let cache = cache_of(&parts)?;
    let worker = WorkerProcess {
        process: Process {
            settings: &parts.settings,
            database,
            jobs: &parts.jobs,
        },
        gate: &parts.gate,
        cache: &cache,
    };
    let (resources, duties) = crate::worker_duties(worker, parts.resources.clone());
    // Handlers enqueue jobs too.
    parts.resources = resources.with(parts.jobs.clone());
    let worker = Worker::new(parts, stop)?;
    watch(worker.watchdog(), sql_probe, redis_probe).map_err(WorkError::Watchdog)?;
    progress.begin(worker.watchdog());
    let ended = tokio::select! {
        ended = worker.run() => ended,
        // They never end by themselves.
        () = crate::perform(duties) => Ok(()),
    };
    finish_upkeep(&jobs).await;
    Ok(ended?)
}

/// The cache that the process has already, in which an API beside the worker finds what jobs put there; or one of its own.
fn cache_of(parts: &WorkerParts) -> Result<Cache, OpenError> {
    if let Some(cache) = parts.resources.get::<Cache>() {
        return Ok(Cache::clone(&cache));
    }
    let redis = &parts.settings.redis;
    let gate = RedisGate::open(Role::Cache, redis.cache.as_ref(), redis)?;
    Ok(Cache::open(gate, &parts.settings.cache))
}

fn watch(watchdog: Watchdog, sql: SqlProbe, redis: Option<RedisProbe>) -> std::io::Result<()> {
    let redis = redis.map(|probe| Box::new(probe) as Box<dyn DependencyProbe>);
    watchdog.watch(sql, redis, |reason| {
        tracing::error!("{reason}; the process exits, for the platform to restart it");
        // Nothing orderly is left to do: the runtime may be what is stuck. Leases lapse, and jobs are rescued.
        std::process::exit(DEAF_EXIT_CODE);
    })
}
