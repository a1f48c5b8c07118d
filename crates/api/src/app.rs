//! The API server as one value: [`Application::build`] binds, [`Application::run_until_stopped`] serves.

use std::net::SocketAddr;

use actix_web::web::{Data, ServiceConfig};
use holdfast::UserData;
use holdfast::events::discovery::{Sources, Subscriptions};
use holdfast::events::recommend::Recommender;
use holdfast::notify::PreferenceStore;
use holdfast::notify::notifications::Notices;
use holdfast::points::Points;
use holdfast::product::Process;
use holdfast_cache::Cache;
use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::Jobs;
use holdfast_jobs::schedules::Schedules;
use secrecy::ExposeSecret;
use tokio::runtime::Handle;

use crate::auth::{ApiKeys, Sessions, Users};
use crate::body_budget::BodyBudget;
use crate::health::Health;
use crate::listen::{self, BindError, Listeners, Reach};
use crate::rate::RateLimits;
use crate::responses::Responses;
use crate::state::State;
use crate::{routes, serve};

/// A body has this share of a request's time, so that a slow sender is told 408 before the whole request is given up.
const BODY_SHARE: f64 = 0.9;

/// A bootstrap key below this length, in characters, can be guessed.
const SAFE_KEY: usize = 16;

/// What the API stands on. Opened by whoever embeds it, which may share it with a worker.
#[derive(Debug, Clone)]
pub struct Services {
    pub jobs: Jobs,
    pub database: Database,
    /// Of the queue role.
    pub gate: RedisGate,
    pub cache: Cache,
}

/// Why a server does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error(
        "a production server does not start without an API key: set HOLDFAST_API_KEY to a long random text \
         (openssl rand -hex 32), or make a key with `holdfast keys create`"
    )]
    NoKey,
    #[error(
        "HOLDFAST_API_KEY has fewer than {SAFE_KEY} characters, which can be guessed: set it to a long random text \
         (openssl rand -hex 32)"
    )]
    ShortKey,
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl StartError {
    /// 64 (`EX_USAGE`): the settings are to be changed. 69 (`EX_UNAVAILABLE`): the address is taken.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NoKey | Self::ShortKey => 64,
            Self::Bind(_) => 69,
        }
    }
}

/// A bound API server.
#[derive(Debug)]
pub struct Application {
    settings: Settings,
    services: Services,
    keys: ApiKeys,
    sessions: Sessions,
    health: Health,
    open: bool,
    measuring: bool,
    listeners: Listeners,
}

impl Application {
    /// Decides who may ask, and binds. It answers once it is run.
    ///
    /// The database need not be up: then requests that need it are answered 503 until it is.
    pub async fn build(settings: &Settings, services: Services) -> Result<Self, StartError> {
        let keys = ApiKeys::new(services.database.clone(), settings.server.api_key.as_ref());
        refuse_short_key(settings)?;
        let reach = reach(settings, &keys).await?;
        let is_open = reach == Reach::Loopback;
        let reach = narrowed_reach(settings, reach);
        let listeners = listen::bind(&settings.server, reach)?;
        let users = Users::new(services.database.clone(), settings.auth.max_concurrent_hashes);
        let sessions = Sessions::new(settings, &services.database, users, services.cache.sessions());
        let health = Health::of(settings, &services.jobs, &services.database, &services.gate)
            .cache(&services.cache)
            .sessions(&sessions)
            .build();
        tracing::info!(address = %listeners.address(), "listening");
        Ok(Self {
            settings: settings.clone(),
            services,
            keys,
            sessions,
            health,
            open: is_open,
            measuring: false,
            listeners,
        })
    }

    /// Serves the routes of `holdfast-bench http` as well. Not in production, whoever asks.
    #[must_use]
    pub fn with_measuring_routes(mut self) -> Self {
        self.measuring = !self.settings.is_production();
        self
    }

    pub fn port(&self) -> u16 {
        self.listeners.address().port()
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address()
    }

    /// Serves until the switch is thrown; then requests under way have the grace period to end. Long polls end at once.
    pub async fn run_until_stopped(self, shutdown: Shutdown) -> std::io::Result<()> {
        self.health.obey(shutdown.clone());
        let keys = self.keys.clone();
        let sources = Sources::new(
            &self.settings,
            &self.services.database,
            self.services.jobs.clone(),
        );
        let rates = RateLimits::new(&self.settings, self.services.cache.gate().clone());
        let recommender = Recommender::new(&self.settings, &self.services.database, &self.services.cache);
        let process = Process {
            settings: &self.settings,
            database: &self.services.database,
            jobs: &self.services.jobs,
        };
        let state = Data::new(State {
            user_data: UserData::new(process, &self.services.cache),
            preferences: PreferenceStore::new(
                &self.settings,
                &self.services.database,
                self.services.jobs.clone(),
            ),
            schedules: schedules_of(&self.settings, &self.services),
            recommender,
            responses: Responses::new(self.services.cache, &self.settings),
            points: Points::new(
                &self.settings,
                &self.services.database,
                &self.services.gate,
                self.services.jobs.clone(),
            ),
            notices: Notices::new(
                &self.settings,
                &self.services.database,
                self.services.jobs.clone(),
            ),
            subscriptions: Subscriptions::of(&sources),
            sources,
            jobs: self.services.jobs,
            keys: self.keys,
            rates,
            sessions: self.sessions,
            open: self.open,
            max_body: self.settings.server.max_body_bytes,
            body_budget: BodyBudget::new(self.settings.server.max_body_bytes_in_flight),
            body_deadline: self.settings.server.request_timeout.mul_f64(BODY_SHARE),
            max_wait: self.settings.server.max_wait,
            lost_after: self.settings.worker.lost_after,
            stopping: shutdown.token().clone(),
            runtime: Handle::current(),
        });
        let health = Data::new(self.health);
        let with_docs = !self.settings.is_production();
        let measuring = self.measuring;
        let configure = move |config: &mut ServiceConfig| {
            config
                .app_data(state.clone())
                .app_data(health.clone())
                .configure(routes::health)
                .configure(routes::api);
            if with_docs {
                config.configure(routes::docs);
            }
            if measuring {
                config.configure(routes::measure);
            }
        };
        let served = serve::run(self.listeners, &self.settings.server, shutdown, configure).await;
        keys.flush_usage().await;
        served
    }
}

fn schedules_of(settings: &Settings, services: &Services) -> Schedules {
    Schedules::new(services.jobs.clone(), &services.database, &settings.database)
}

fn refuse_short_key(settings: &Settings) -> Result<(), StartError> {
    let key = settings.server.api_key.as_ref();
    let is_short = key.is_some_and(|key| key.expose_secret().chars().count() < SAFE_KEY);
    if is_short && settings.is_production() {
        return Err(StartError::ShortKey);
    }
    Ok(())
}

/// Loopback alone, on a platform where the environment was not set: see `holdfast_core::config`.
fn narrowed_reach(settings: &Settings, reach: Reach) -> Reach {
    let Some(platform) = settings.undeclared_platform else {
        return reach;
    };
    tracing::warn!(
        "this process runs on {platform} and HOLDFAST_ENV is not set: it listens on loopback only; set \
         HOLDFAST_ENV=production, or HOLDFAST_ENV=development to serve other machines in development mode"
    );
    Reach::Loopback
}

/// Whom to serve: everybody who has a key; or, where there is none, this machine, and in production nobody.
async fn reach(settings: &Settings, keys: &ApiKeys) -> Result<Reach, StartError> {
    let any = keys.any().await;
    match (any, settings.is_production()) {
        (Ok(true), _) => Ok(Reach::Configured),
        (Ok(false), true) => Err(StartError::NoKey),
        (Err(error), true) => {
            tracing::warn!(
                error = &error as &dyn std::error::Error,
                "whether API keys exist cannot be read yet: until it can, every request is refused"
            );
            Ok(Reach::Configured)
        }
        (any, false) => {
            if let Err(error) = any {
                tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "API keys cannot be read yet"
                );
            }
            tracing::warn!(
                "there is no API key: only this machine is served; set HOLDFAST_API_KEY, or make a key with \
                 `holdfast keys create` and start again, to serve others"
            );
            Ok(Reach::Loopback)
        }
    }
}
