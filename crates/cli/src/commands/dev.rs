//! `holdfast dev`: API, worker and beat in one process, for the first five minutes and for every day after.
//!
//! An embedded database under `.holdfast/`, unless `DATABASE_URL` names another; Redis where `REDIS_URL` names one. The
//! three share the database, the gate and the bell, so a job is picked up without Redis or a poll. Unlike production,
//! `http.request` may call this machine.

use std::io::{self, Write as _};
use std::time::Duration;

use holdfast_accounts::ApiKeys;
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_core::telemetry;
use holdfast_jobs::Jobs;
use holdfast_jobs::schedules::Schedules;
use holdfast_jobs::worker::WorkerParts;
use holdfast_services::Program;
use holdfast_services::api::{Application, Services, StartError};
use holdfast_services::beat::{self, BeatError, run_beat};
use holdfast_services::worker::{Progress, run_worker};

use holdfast_ops::Failure;

/// Longest wait for connections in use at the end.
const CLOSE_DEADLINE: Duration = Duration::from_secs(3);

pub(crate) fn run(program: &Program) -> Result<(), Failure> {
    let settings = for_development(program.settings()?)?;
    telemetry::start(&settings, "dev");
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let ended = runtime.block_on(serve(settings, program));
    telemetry::finish();
    ended
}

/// How long a database may take to come up.
const DATABASE_PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

fn for_development(mut settings: Settings) -> Result<Settings, Failure> {
    if settings.is_production() {
        return Err(Failure::Misused(
            "`holdfast dev` is not for production: run `api`, `worker` and `beat`, each by its command or \
             HOLDFAST_ROLE, or set HOLDFAST_ENV=development"
                .to_owned(),
        ));
    }
    settings.http_request.allow_private = true;
    Ok(settings)
}

async fn serve(settings: Settings, program: &Program) -> Result<(), Failure> {
    let stop = Shutdown::new();
    stop.on_signals()?;
    let database = Database::open(&settings.database)?;
    // Nothing is served before the schema is there. A server of one's own has this long to come up.
    database.wait_until_ready(DATABASE_PATIENCE, &stop).await?;
    holdfast_core::sql::migrate(&settings.database).await?;
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis)?;
    let cache_gate = RedisGate::open(Role::Cache, settings.redis.cache.as_ref(), &settings.redis)?;
    let cache = Cache::open(cache_gate, &settings.cache);
    let registry = program.registry(&settings);
    let resources = program
        .resources(&settings)
        .map_err(|error| Failure::service("what the jobs share cannot be built", error))?;
    let jobs = Jobs::new(&settings, registry, &database, &gate);
    // One cache: what jobs put there the API finds, and what they change it forgets, with Redis or without.
    let resources = resources.with(cache.clone());
    let services = Services {
        jobs: jobs.clone(),
        database: database.clone(),
        gate: gate.clone(),
        cache,
    };
    let api = Application::build(&settings, services)
        .await
        .map_err(|error| unbound(&settings, error))?;
    let parts = WorkerParts {
        settings,
        jobs,
        gate,
        resources,
    };
    let ended = run_all(api, parts, &database, stop).await;
    database.close(CLOSE_DEADLINE).await;
    ended
}

fn unbound(settings: &Settings, error: StartError) -> Failure {
    let port = settings.server.port;
    let doing = format!(
        "cannot serve on port {port}: set PORT to a free one, such as PORT={}",
        port.saturating_add(1)
    );
    Failure::service(doing, error)
}

/// Whichever ends by itself ends the others.
async fn run_all(
    api: Application,
    parts: WorkerParts,
    database: &Database,
    stop: Shutdown,
) -> Result<(), Failure> {
    let progress = Progress::default();
    let settings = parts.settings.clone();
    let schedules = Schedules::new(parts.jobs.clone(), database, &settings.database);
    let welcome = Welcome::of(&parts.settings, api.port());
    let greeting = async {
        if stop.token().run_until_cancelled(progress.begun()).await.is_some() {
            welcome.print(database).await?;
        }
        Ok::<_, Failure>(())
    };
    let serving = async {
        let ended = api.run_until_stopped(stop.clone()).await;
        stop.trigger();
        ended.map_err(|error| Failure::service("the API failed", error))
    };
    let working = async {
        let ended = run_worker(parts, database, &progress, stop.clone()).await;
        stop.trigger();
        ended.map_err(|error| Failure::service("the worker failed", error))
    };
    let ticking = async {
        let begun = beat::Progress::default();
        let ended = run_beat(schedules, &settings, database, &begun, stop.clone()).await;
        stop.trigger();
        ended.map_err(|error| match error {
            BeatError::Configured(_) => Failure::Misused(error.to_string()),
            error => Failure::service("the beat failed", error),
        })
    };
    let (greeted, served, worked, ticked) = tokio::join!(greeting, serving, working, ticking);
    ticked.and(worked).and(served).and(greeted)
}

/// What is printed once everything runs.
struct Welcome {
    address: String,
    database: String,
    redis: &'static str,
    bootstrap: Option<secrecy::SecretString>,
    /// The path of the web console, where it is served.
    console: Option<String>,
}

impl Welcome {
    fn of(settings: &Settings, port: u16) -> Self {
        let database = match settings.embedded_path() {
            Some(path) => format!("{} (SQLite)", path.display()),
            None => "PostgreSQL, as configured".to_owned(),
        };
        let redis = match settings.redis.queue {
            Some(_) => "as configured",
            None => "none (REDIS_URL is not set)",
        };
        let bootstrap = settings.server.api_key.clone();
        Self {
            address: format!("http://127.0.0.1:{port}"),
            database,
            redis,
            bootstrap,
            console: settings.console.enabled.then(|| settings.console.path.clone()),
        }
    }

    async fn print(&self, database: &Database) -> Result<(), Failure> {
        let keys = ApiKeys::new(database.clone(), self.bootstrap.as_ref());
        let text = self.text(keys.any().await?);
        let mut stdout = io::stdout().lock();
        stdout.write_all(text.as_bytes())?;
        stdout.flush()?;
        Ok(())
    }

    /// Lines that work as pasted.
    fn text(&self, needs_key: bool) -> String {
        let Self {
            address,
            database,
            redis,
            ..
        } = self;
        let key = if needs_key {
            " -H \"authorization: Bearer $HOLDFAST_API_KEY\""
        } else {
            ""
        };
        let enqueue = format!(
            "curl -s {address}/v1/jobs{key} -H 'content-type: application/json' \
             -d '{{\"kind\":\"debug.echo\",\"payload\":{{\"hello\":\"world\"}}}}'"
        );
        let console = match &self.console {
            Some(path) => format!("\x20 console   {address}{path}\n"),
            None => String::new(),
        };
        // An id is 26 characters of Crockford's base 32, and nothing else in the answer is.
        let show = format!("curl -s{key} \"{address}/v1/jobs/$id?wait=10\"");
        format!(
            "\nHoldfast {version}: API, worker and beat at {address}\n\
             \x20 database  {database}\n\
             \x20 redis     {redis}\n\
             {console}\
             \x20 docs      {address}/docs\n\n\
             Enqueue a job:\n\
             \x20 {enqueue}\n\
             Enqueue one and wait for its result:\n\
             \x20 id=$({enqueue} | grep -oE '[0-9A-Z]{{26}}') && {show}\n\n",
            version = env!("CARGO_PKG_VERSION"),
        )
    }
}
