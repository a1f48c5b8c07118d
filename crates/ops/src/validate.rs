//! Is this system as it should be? Configuration, database, Redis, API, workers, queues.
//!
//! What the configuration names (DATABASE_URL, REDIS_URL) is checked directly; with a URL the API is checked as well, and
//! queues and workers are read through it. Each function adds its outcomes to a [`Run`]; a check that fails is an
//! outcome, and an error means that the checks could not be run.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::{ConfigFaults, Durability, RedisEndpoint, RedisSettings, Settings, Sources};
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::diagnosis::Diagnosis;
use holdfast_services::Program;
use secrecy::{ExposeSecret, SecretString};
use url::Url;

use crate::checks::api::wire::Wire;
use crate::checks::api::{self, ApiSubject, HealthSubject};
use crate::checks::configuration::{self, ConfigSubject};
use crate::checks::database::{self, DatabaseSubject, FEWEST_PROCESSES};
use crate::checks::files::{self, Deployment};
use crate::checks::ledger::{self, LedgerSubject};
use crate::checks::redis::{self, RedisSubject};
use crate::checks::system::{self, SystemSubject};
use crate::checks::{Run, Verdict, drill};
use crate::client::Api;
use crate::failure::Failure;
use crate::in_process::InProcess;

/// What is checked beside what the configuration names.
#[derive(Debug, Default)]
pub struct Options {
    /// An API to check; queues and workers are then read through it.
    pub url: Option<Url>,
    pub key: Option<SecretString>,
    /// Cut Redis off from a private API and worker for five seconds.
    pub drill: bool,
    /// How many processes share the database and Redis. `None`: the live workers and two.
    pub processes: Option<u64>,
    /// Whose settings and kinds are checked.
    pub program: Program,
}

/// The deployment files of a directory, and nothing else.
pub async fn check_files(run: &mut Run, directory: &std::path::Path) -> Result<(), Failure> {
    if !directory.is_dir() {
        return Err(Failure::Misused(format!(
            "--files: {} is not a directory",
            directory.display()
        )));
    }
    let file = directory.join("holdfast.toml");
    let text = std::fs::read_to_string(&file).ok();
    let sources = Sources {
        file: text.map(|text| (file, text)),
        ..Sources::default()
    };
    // A file with faults is told by a check of its own.
    let settings = match holdfast_services::load_from(sources) {
        Ok(settings) => settings,
        Err(_) => holdfast_services::load_from(Sources::default())?,
    };
    let deployment = Deployment::new(directory.to_owned(), settings.server.grace);
    run.all("files", &deployment, files::CHECKS).await;
    Ok(())
}

/// Everything that the configuration and the options name.
pub async fn check_system(run: &mut Run, options: &Options) -> Result<(), Failure> {
    let loaded = options.program.settings();
    check_configuration(run, loaded.clone()).await;
    let database = check_database(run, loaded.as_ref().ok(), options).await?;
    let processes = match &database {
        Some(database) if passed(run, "database.schema") => database.processes().await,
        _ => options.processes.unwrap_or(FEWEST_PROCESSES),
    };
    check_redis(run, loaded.as_ref().ok(), processes).await;
    let api = check_api(run, loaded.as_ref().ok(), options).await?;
    check_jobs(run, api.as_ref(), database.as_ref()).await?;
    check_answers(run, api.as_ref()).await;
    if options.drill {
        let settings = match loaded {
            Ok(settings) => settings,
            Err(_) => holdfast_services::load_from(Sources::default())?,
        };
        run.all("drill", &settings, drill::CHECKS).await;
    } else {
        run.skip("drill", drill::CHECKS, "ask for it with --drill");
    }
    Ok(())
}

/// What a deployment has made reachable, asked as `--url` asks and by nothing else: the key opens workers and queues.
/// The service is taken for public even on this machine.
pub(crate) async fn check_deployed(
    run: &mut Run,
    url: Url,
    key: Option<SecretString>,
) -> Result<(), Failure> {
    let wire = Wire::new(url, key).map_err(|error| Failure::service(NO_CLIENT, error))?;
    let subject = ApiSubject {
        wire: Arc::new(wire.taken_for_public()),
        settings: None,
    };
    run.all("api", &subject, api::API).await;
    check_jobs(run, Some(&subject), None).await?;
    check_answers(run, Some(&subject)).await;
    Ok(())
}

/// One Redis server in one role, whatever the configuration names.
pub async fn check_redis_server(run: &mut Run, endpoint: RedisEndpoint, settings: RedisSettings, role: Role) {
    let mut subject = RedisSubject::new(role, endpoint, settings);
    subject.shared = role == Role::Queue;
    run.all("redis", &subject, redis::CHECKS).await;
}

async fn check_configuration(run: &mut Run, loaded: Result<Settings, ConfigFaults>) {
    let directory = PathBuf::from(".");
    run.all(
        "configuration",
        &ConfigSubject {
            loaded,
            directory: directory.clone(),
        },
        configuration::CHECKS,
    )
    .await;
    let deployment = Deployment::new(directory, Duration::ZERO);
    run.all("configuration", &deployment, configuration::CUTOFF).await;
}

/// The database of this configuration, if there is one.
async fn check_database(
    run: &mut Run,
    settings: Option<&Settings>,
    options: &Options,
) -> Result<Option<DatabaseSubject>, Failure> {
    const GROUP: &str = "database";
    let Some(settings) = settings else {
        run.skip(GROUP, database::CHECKS, "configuration.settings failed");
        run.skip("ledger", ledger::CHECKS, "configuration.settings failed");
        return Ok(None);
    };
    // SQLite would make an empty one.
    if settings.embedded_path().is_some_and(|path| !path.exists()) {
        run.skip(GROUP, database::CHECKS, "no database is configured here");
        run.skip("ledger", ledger::CHECKS, "no database is configured here");
        return Ok(None);
    }
    let opened = Database::open(&settings.database)?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let jobs = Jobs::new(settings, options.program.registry(settings), &opened, &gate);
    let subject = DatabaseSubject {
        settings: settings.clone(),
        database: opened,
        jobs,
        gate,
        processes: options.processes,
    };
    run.all(GROUP, &subject, database::CHECKS).await;
    let ledger = LedgerSubject::new(Diagnosis::new(settings, &subject.jobs, &subject.database));
    run.all("ledger", &ledger, ledger::CHECKS).await;
    Ok(Some(subject))
}

async fn check_redis(run: &mut Run, settings: Option<&Settings>, processes: u64) {
    let Some(settings) = settings else {
        return run.skip("redis", redis::CHECKS, "configuration.settings failed");
    };
    let Some(queue) = &settings.redis.queue else {
        return run.skip("redis", redis::CHECKS, "no Redis is configured here");
    };
    let cache = settings.redis.cache.as_ref();
    let separate = cache.filter(|cache| cache.url.expose_secret() != queue.url.expose_secret());
    let mut subject = RedisSubject::new(Role::Queue, queue.clone(), settings.redis.clone());
    subject.shared = separate.is_none();
    subject.processes = processes;
    let on_redis = settings
        .queues
        .iter()
        .filter(|(_, queue)| queue.durability == Durability::Redis);
    subject.job_queues = on_redis.map(|(name, _)| name.clone()).collect();
    run.all("redis", &subject, redis::CHECKS).await;
    if let Some(cache) = separate {
        let mut subject = RedisSubject::new(Role::Cache, cache.clone(), settings.redis.clone());
        subject.shared = false;
        subject.processes = processes;
        run.all("redis_cache", &subject, redis::CHECKS).await;
    }
}

async fn check_api(
    run: &mut Run,
    settings: Option<&Settings>,
    options: &Options,
) -> Result<Option<ApiSubject>, Failure> {
    let Some(url) = &options.url else {
        run.skip("api", api::API, NO_URL);
        return Ok(None);
    };
    let wire =
        Wire::new(url.clone(), options.key.clone()).map_err(|error| Failure::service(NO_CLIENT, error))?;
    let subject = ApiSubject {
        wire: Arc::new(wire),
        settings: settings.cloned(),
    };
    run.all("api", &subject, api::API).await;
    Ok(Some(subject))
}

const NO_URL: &str = "no API was named: give --url";
const NO_CLIENT: &str = "the HTTP client cannot be built";

/// Workers and queues: through the API if one was named, else through an API of this process.
async fn check_jobs(
    run: &mut Run,
    api: Option<&ApiSubject>,
    database: Option<&DatabaseSubject>,
) -> Result<(), Failure> {
    let way = match (api, database) {
        (Some(api), _) if passed(run, "api.key") => {
            Ok(Api::new(api.wire.base.clone(), api.wire.key.as_ref())?)
        }
        (Some(_), _) => Err("the API does not let us ask (api.key)"),
        (None, Some(database)) if passed(run, "database.schema") => {
            let (jobs, gate) = (database.jobs.clone(), database.gate.clone());
            let server = InProcess::start(&database.settings, database.database.clone(), jobs, gate).await?;
            Ok(Api::in_process(server)?)
        }
        (None, Some(_)) => Err("the database cannot be asked"),
        (None, None) => Err("neither an API (--url) nor a database is configured here"),
    };
    match way {
        Ok(api) => {
            let subject = SystemSubject::new(api);
            run.all("workers", &subject, system::WORKERS).await;
            run.all("queue", &subject, system::QUEUE).await;
        }
        Err(why) => {
            run.skip("workers", system::WORKERS, why);
            run.skip("queue", system::QUEUE, why);
        }
    }
    Ok(())
}

fn passed(run: &Run, name: &str) -> bool {
    let is_it = |outcome: &&crate::checks::Outcome| outcome.full_name() == name;
    let found = run.outcomes().iter().find(is_it);
    found.is_some_and(|outcome| matches!(outcome.verdict, Verdict::Pass | Verdict::Warn))
}

/// The documents of the API, its manners, its speed.
async fn check_answers(run: &mut Run, api: Option<&ApiSubject>) {
    let Some(subject) = api else {
        run.skip("beat", api::BEAT, NO_URL);
        run.skip("health", api::HEALTH, NO_URL);
        run.skip("errors", api::ERRORS, NO_URL);
        run.skip("security", api::SECURITY, NO_URL);
        run.skip("performance", api::PERFORMANCE, NO_URL);
        return;
    };
    for (group, checks) in [("beat", api::BEAT), ("health", api::HEALTH)] {
        let health = HealthSubject {
            wire: Arc::clone(&subject.wire),
            told: run.outcomes().to_vec(),
        };
        run.all(group, &health, checks).await;
    }
    run.all("errors", subject, api::ERRORS).await;
    run.all("security", subject, api::SECURITY).await;
    run.all("performance", subject, api::PERFORMANCE).await;
}
