//! What the routes of this crate share.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_http::ServerContext;
use holdfast_jobs::schedules::Schedules;
use holdfast_jobs::{Jobs, Registry, SecretField};
use serde_json::value::RawValue;

type Redact = fn(&[SecretField], &RawValue) -> Option<Box<RawValue>>;

/// Shows payloads without the fields that their kinds mark as secret. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redactor {
    registry: Registry,
    redact: Redact,
}

impl Redactor {
    pub fn new(registry: Registry, redact: Redact) -> Self {
        Self { registry, redact }
    }

    /// `None`: the kind has no secret fields, or is not known here.
    pub fn shown(&self, kind: &str, payload: &RawValue) -> Option<Box<RawValue>> {
        let fields = self.registry.get(kind)?.secret_fields;
        (self.redact)(fields, payload)
    }
}

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct ControlState {
    pub http: Arc<ServerContext>,
    pub jobs: Jobs,
    pub schedules: Schedules,
    /// A worker that was silent for longer is not alive.
    pub lost_after: Duration,
    pub redactor: Redactor,
}

impl ControlState {
    /// It reaches nothing yet.
    pub fn new(
        http: &Arc<ServerContext>,
        settings: &Settings,
        jobs: &Jobs,
        database: &Database,
        redactor: Redactor,
    ) -> Self {
        Self {
            http: Arc::clone(http),
            jobs: jobs.clone(),
            schedules: Schedules::new(jobs.clone(), database, &settings.database),
            lost_after: settings.worker.lost_after,
            redactor,
        }
    }
}
