//! What a probe is and what it finds.

use std::fmt;

use futures::future::BoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};
use utoipa::ToSchema;

/// The state of one dependency.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, ToSchema)]
#[serde(rename_all = "snake_case")]
pub enum ServiceStatus {
    Healthy,
    Degraded,
    Unhealthy,
    /// It is not there, and is not meant to be.
    NotConfigured,
}

/// Looks at one service, and changes nothing.
pub trait HealthProbe: Send + Sync + fmt::Debug + 'static {
    /// Its key in the report.
    fn name(&self) -> &'static str;

    /// Whether this process cannot serve without it.
    fn is_vital(&self) -> bool {
        false
    }

    /// One look. It is dropped after [`super::PROBE_DEADLINE`].
    fn check(&self) -> BoxFuture<'_, Finding>;
}

/// What a probe saw. No text in it may hold a URL or a secret: anybody can read it.
#[derive(Debug, Clone)]
pub struct Finding {
    pub status: ServiceStatus,
    pub error: Option<String>,
    pub hint: Option<String>,
    pub details: Map<String, Value>,
}

impl Finding {
    pub fn healthy() -> Self {
        Self::of(ServiceStatus::Healthy)
    }

    pub fn not_configured() -> Self {
        Self::of(ServiceStatus::NotConfigured)
    }

    pub fn degraded(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            hint: Some(hint.into()),
            ..Self::of(ServiceStatus::Degraded)
        }
    }

    pub fn unhealthy(error: impl Into<String>, hint: impl Into<String>) -> Self {
        Self {
            error: Some(error.into()),
            hint: Some(hint.into()),
            ..Self::of(ServiceStatus::Unhealthy)
        }
    }

    /// Adds a detail; one that cannot be written as JSON is left out.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Serialize) -> Self {
        if let Ok(value) = serde_json::to_value(value) {
            self.details.insert(name.to_owned(), value);
        }
        self
    }

    fn of(status: ServiceStatus) -> Self {
        Self {
            status,
            error: None,
            hint: None,
            details: Map::new(),
        }
    }
}
