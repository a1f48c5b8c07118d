//! The API server as one value: [`Application::build`] binds, [`Application::run_until_stopped`] serves.
//!
//! It joins what the crates with routes have: their tables, their states, their parts of the OpenAPI document.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, LazyLock};

use actix_web::web::ServiceConfig;
use futures::FutureExt as _;
use holdfast_accounts::{
    AccountsState, Admission, AdmissionError, ApiKeys, KeysAndSessions, Sessions, SessionsProbe, Users,
    admit, generate_key,
};
use holdfast_cache::Cache;
use holdfast_console::Console;
use holdfast_control::{ControlState, coded_schemas};
use holdfast_core::config::Settings;
use holdfast_core::redis::RedisGate;
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_http::health::{self, Health};
use holdfast_http::openapi::{self, ServedDocument};
use holdfast_http::refinements::Refinements;
use holdfast_http::server::{self, BindError, Listeners, Reach};
use holdfast_http::{Route, RouteTable, ServerContext, bench_routes, docs};
use holdfast_jobs::Jobs;
use secrecy::SecretString;

use crate::UsersState;
use crate::product::{ApiProcess, HandlerState, Process, handler_state};

/// What the API needs. Opened by the process that embeds it, which may share it with a worker.
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
    #[error(transparent)]
    Admission(#[from] AdmissionError),
    #[error(transparent)]
    Bind(#[from] BindError),
}

impl StartError {
    /// 64 (`EX_USAGE`): the settings are to be changed. 69 (`EX_UNAVAILABLE`): the address is taken.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Admission(_) => 64,
            Self::Bind(_) => BindError::EXIT_CODE,
        }
    }
}

/// The tables of the API, beside those that every service serves.
fn tables() -> Vec<RouteTable> {
    let own = [
        openapi::ROUTES,
        holdfast_accounts::ROUTES,
        holdfast_control::ROUTES,
        crate::USER_ROUTES,
    ];
    let products = crate::product_routes().map(|routes| routes.table);
    own.into_iter().chain(products).collect()
}

/// Of the OpenAPI document.
const REFINEMENTS: &str = include_str!("refinements.json");

/// The OpenAPI document, with the schemas of all kinds.
fn served_document(control: &ControlState) -> ServedDocument {
    let documented = std::iter::once(health::ROUTES).chain(tables()).collect();
    let coded = coded_schemas(control.jobs.registry());
    let control = control.clone();
    let schemas_for = move |caller| {
        let control = control.clone();
        async move { control.declared_schemas(&caller).await }.boxed()
    };
    // It is part of the program; a test parses it.
    let refinements = Refinements::parse(REFINEMENTS).unwrap_or_default();
    ServedDocument::new(documented, refinements, coded, Box::new(schemas_for))
}

/// Every route of the API, beside [`HEALTH_ROUTES`].
pub static API_ROUTES: LazyLock<Vec<Route>> =
    LazyLock::new(|| tables().iter().flat_map(|table| table.routes).copied().collect());

/// What every service serves.
pub const HEALTH_ROUTES: &[Route] = health::ROUTES.routes;

/// A bound API server.
#[derive(Debug)]
pub struct Application {
    settings: Settings,
    services: Services,
    callers: KeysAndSessions,
    health: Health,
    is_keyless: bool,
    has_bench_routes: bool,
    listeners: Listeners,
}

impl Application {
    /// Decides whom to serve, and binds. It answers once it is run.
    ///
    /// The database need not be available: requests that need it are answered 503 until it is.
    pub async fn build(settings: &Settings, services: Services) -> Result<Self, StartError> {
        let keys = ApiKeys::new(services.database.clone(), settings.server.api_key.as_ref());
        let admission = admit(settings, &keys).await?;
        Ok(Self::bind(settings, services, keys, admission)?)
    }

    /// For the command line, in its own process: listens on a free port of 127.0.0.1, and accepts only the key that is made here. The
    /// audit log names the login of the operating system.
    pub fn build_for_operator(
        settings: &Settings,
        services: Services,
    ) -> Result<(Self, SecretString), StartError> {
        let mut settings = settings.clone();
        settings.server.host = Ipv4Addr::LOCALHOST.to_string();
        settings.server.port = 0;
        settings.server.http_workers = 1;
        let key = generate_key();
        let keys = ApiKeys::new(services.database.clone(), None).with_operator(&key);
        let admission = Admission {
            reach: Reach::Configured,
            is_keyless: false,
        };
        Ok((Self::bind(&settings, services, keys, admission)?, key))
    }

    fn bind(
        settings: &Settings,
        services: Services,
        keys: ApiKeys,
        admission: Admission,
    ) -> Result<Self, BindError> {
        let listeners = server::bind(&settings.server, admission.reach)?;
        let users = Users::new(services.database.clone(), settings.auth.max_concurrent_hashes);
        let sessions = Sessions::new(settings, &services.database, users, services.cache.sessions());
        let callers = KeysAndSessions { keys, sessions };
        let (jobs, authenticator) = (&services.jobs, Arc::new(callers.clone()));
        let health = Health::of(settings, jobs, &services.database, &services.gate, authenticator)
            .cache(&services.cache)
            .probe(SessionsProbe::new(callers.sessions.clone()))
            .build();
        tracing::info!(address = %listeners.address(), "listening");
        Ok(Self {
            settings: settings.clone(),
            services,
            callers,
            health,
            is_keyless: admission.is_keyless,
            has_bench_routes: false,
            listeners,
        })
    }

    /// Serves the routes of `holdfast-bench http` as well. Never in production.
    #[must_use]
    pub fn with_measuring_routes(mut self) -> Self {
        self.has_bench_routes = !self.settings.is_production();
        self
    }

    pub fn port(&self) -> u16 {
        self.listeners.address().port()
    }

    /// The first address it listens on.
    pub fn address(&self) -> SocketAddr {
        self.listeners.address()
    }

    /// Serves until the switch is thrown; then requests under way have the grace period to end. Long polls end immediately.
    pub async fn run_until_stopped(self, shutdown: Shutdown) -> std::io::Result<()> {
        self.health.obey(shutdown.clone());
        let states: Arc<[HandlerState]> = self.states(&shutdown).into();
        let (with_docs, with_bench) = (!self.settings.is_production(), self.has_bench_routes);
        let api = move |config: &mut ServiceConfig| {
            states.iter().for_each(|register| register(config));
            (health::ROUTES.configure)(config);
            for table in tables() {
                (table.configure)(config);
            }
        };
        let settings = &self.settings;
        let console = settings
            .console
            .enabled
            .then(|| Console::local(&settings.console, &settings.server, api.clone()));
        let configure = move |config: &mut ServiceConfig| {
            api(config);
            if let Some(console) = &console {
                console.configure(config);
            }
            if with_docs {
                (docs::ROUTES.configure)(config);
            }
            if with_bench {
                bench_routes::configure(config);
            }
        };
        let served = server::run(self.listeners, &self.settings.server, shutdown, configure).await;
        self.callers.keys.flush_usage().await;
        served
    }

    /// The states of all handlers.
    fn states(&self, shutdown: &Shutdown) -> Vec<HandlerState> {
        let (settings, callers) = (&self.settings, &self.callers);
        let Services {
            jobs,
            database,
            gate,
            cache,
        } = &self.services;
        let authenticator = Arc::new(callers.clone());
        let http = ServerContext::new(settings, cache.clone(), authenticator, self.is_keyless, shutdown);
        let process = Process {
            settings,
            database,
            jobs,
        };
        let api = ApiProcess {
            process,
            gate,
            cache,
            http: &http,
        };
        let context = Arc::clone(&http);
        let redactor = crate::redactor(jobs.registry());
        let control = ControlState::new(&http, settings, jobs, database, redactor, crate::sealed_columns());
        let own: [HandlerState; 6] = [
            Box::new(move |config| context.register(config)),
            handler_state(self.health.clone()),
            handler_state(served_document(&control)),
            handler_state(AccountsState::new(&http, callers)),
            handler_state(control),
            handler_state(UsersState::new(api, callers.sessions.clone())),
        ];
        let products = crate::product_routes().map(|routes| (routes.state)(api));
        own.into_iter().chain(products).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_refinement_of_the_document_has_its_place() {
        let refinements = Refinements::parse(REFINEMENTS).unwrap();
        let document = serde_json::to_value(openapi::document(&tables())).unwrap();
        assert_eq!(refinements.misplaced(&document), Vec::<String>::new());
    }
}
