//! What the routes of this crate share.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_http::ServerContext;
use holdfast_jobs::declared::{Declarations, hidden};
use holdfast_jobs::pull::PullWorkers;
use holdfast_jobs::schedules::Schedules;
use holdfast_jobs::{Jobs, Registry, SecretField};
use serde_json::value::RawValue;

type Redact = fn(&[SecretField], &RawValue) -> Option<Box<RawValue>>;

/// Shows payloads without the fields that their kinds mark as secret. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Redactor {
    registry: Registry,
    redact: Redact,
    declared: Option<Declarations>,
}

impl Redactor {
    pub fn new(registry: Registry, redact: Redact) -> Self {
        Self {
            registry,
            redact,
            declared: None,
        }
    }

    /// That knows the declared kinds too.
    #[must_use]
    pub fn knowing(self, declared: &Declarations) -> Self {
        Self {
            declared: Some(declared.clone()),
            ..self
        }
    }

    /// `None`: the kind has no secret fields, or is not known here. Before it was read what is declared, all of a payload is hidden
    /// whose kind is not part of the program.
    pub fn shown(&self, kind: &str, payload: &RawValue) -> Option<Box<RawValue>> {
        if let Some(kind) = self.registry.get(kind) {
            return (self.redact)(kind.secret_fields, payload);
        }
        let declared = self.declared.as_ref()?.snapshot();
        if declared.is_read() {
            return declared.kinds.get(kind)?.redacted(payload);
        }
        Some(hidden())
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
    /// The pull protocol.
    pub pull: PullWorkers,
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
            redactor: redactor.knowing(jobs.declared()),
            pull: PullWorkers::new(jobs, settings),
        }
    }
}

impl ControlState {
    /// Learns what is declared, so that it is known what to hide. To be called before secrets are hidden.
    pub(crate) async fn learn(&self) {
        let jobs = self.jobs.clone();
        let learnt = self
            .http
            .on_runtime(async move { jobs.declared().current().await })
            .await;
        if let Err(problem) = learnt {
            tracing::debug!(error = %problem, "declared kinds are used as they were last known");
        }
    }
}
