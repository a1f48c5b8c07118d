//! The small server of a process that has nothing else to serve.

use std::net::SocketAddr;

use actix_web::web::{Data, ServiceConfig};
use holdfast_core::config::{ServerSettings, Settings};
use holdfast_core::shutdown::Shutdown;

use super::Health;
use crate::server::{self, BindError, Listeners, Reach};

/// Serves `/health`, `/health/live` and `/health/ready`, and nothing else.
#[derive(Debug)]
pub struct HealthServer {
    listeners: Listeners,
    settings: ServerSettings,
    health: Health,
}

/// Binds the address of the settings. It answers once it is run.
pub fn health_server(settings: &Settings, health: Health) -> Result<HealthServer, BindError> {
    settings.report_undeclared_platform();
    let settings = &settings.server;
    let reach = if settings.health_on_loopback {
        Reach::Loopback
    } else {
        Reach::Configured
    };
    let listeners = server::bind(settings, reach)?;
    tracing::info!(address = %listeners.address(), "listening for health checks");
    // One thread is plenty.
    let settings = ServerSettings {
        http_workers: 1,
        ..settings.clone()
    };
    Ok(HealthServer {
        listeners,
        settings,
        health,
    })
}

impl HealthServer {
    pub fn port(&self) -> u16 {
        self.listeners.address().port()
    }

    pub fn address(&self) -> SocketAddr {
        self.listeners.address()
    }

    /// Serves until the switch is thrown, and requests under way have ended or the grace period has.
    pub async fn run_until_stopped(self, shutdown: Shutdown) -> std::io::Result<()> {
        self.health.obey(shutdown.clone());
        let health = Data::new(self.health);
        let configure = move |config: &mut ServiceConfig| {
            config.app_data(health.clone()).configure(super::ROUTES.configure);
        };
        server::run(self.listeners, &self.settings, shutdown, configure).await
    }
}
