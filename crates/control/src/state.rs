//! What the routes of this crate share.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_http::{Problem, ServerContext};
use holdfast_jobs::declared::{Declarations, Snapshot, hidden};
use holdfast_jobs::marks::FieldPath;
use holdfast_jobs::pull::PullWorkers;
use holdfast_jobs::rotation::{Rotation, SealedColumn};
use holdfast_jobs::schedules::Schedules;
use holdfast_jobs::{Jobs, Marks, Registry};
use serde_json::value::RawValue;

use crate::stream::StreamHub;

type Redact = fn(&Marks, &RawValue) -> Option<Box<RawValue>>;

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

    /// `None`: the kind has no secret fields. Of a kind that is not known here (it was deleted, or declared a moment ago by way of
    /// another process) all of the payload is hidden.
    pub fn shown(&self, kind: &str, payload: &RawValue) -> Option<Box<RawValue>> {
        if is_unstorable(payload.get()) {
            return Some(hidden());
        }
        if let Some(kind) = self.registry.get(kind) {
            return (self.redact)(&kind.marks, payload);
        }
        let declared = self.declared.as_ref().map(Declarations::snapshot);
        match declared.as_ref().and_then(|declared| declared.kinds.get(kind)) {
            Some(kind) => (self.redact)(kind.marks(), payload),
            None => Some(hidden()),
        }
    }

    /// Whether the kind marks what the path leads to, or a part of it, as secret.
    pub fn hides(&self, kind: &str, path: &FieldPath) -> bool {
        if let Some(kind) = self.registry.get(kind) {
            return kind.marks.cover(path);
        }
        let declared = self.declared.as_ref().map(Declarations::snapshot);
        let declared = declared.as_ref().and_then(|declared| declared.kinds.get(kind));
        declared.is_some_and(|kind| kind.marks().cover(path))
    }
}

/// Of a job that the ledger refused, payload and follow-ups are kept as texts inside another document, where no path finds a secret field.
fn is_unstorable(payload: &str) -> bool {
    #[derive(serde::Deserialize)]
    struct Unstorable {
        #[serde(rename = "unstorable")]
        _encoding: serde::de::IgnoredAny,
    }
    payload.contains("\"unstorable\"") && serde_json::from_str::<Unstorable>(payload).is_ok()
}

/// The state of [`ROUTES`](crate::ROUTES).
#[derive(Debug, Clone)]
pub struct ControlState {
    pub http: Arc<ServerContext>,
    pub jobs: Jobs,
    pub schedules: Schedules,
    /// A worker that was silent for longer is not alive.
    pub lost_after: Duration,
    /// The same of beats.
    pub beat_lost_after: Duration,
    pub redactor: Redactor,
    /// The pull protocol.
    pub pull: PullWorkers,
    /// Of `GET /v1/stream`.
    pub stream: StreamHub,
    /// Of encryption keys.
    pub rotation: Rotation,
}

impl ControlState {
    /// It reaches nothing yet. `sealed_columns` are those of the products.
    pub fn new(
        http: &Arc<ServerContext>,
        settings: &Settings,
        jobs: &Jobs,
        database: &Database,
        redactor: Redactor,
        sealed_columns: impl IntoIterator<Item = SealedColumn>,
    ) -> Self {
        Self {
            http: Arc::clone(http),
            jobs: jobs.clone(),
            schedules: Schedules::new(jobs.clone(), database, &settings.database),
            lost_after: settings.worker.lost_after,
            beat_lost_after: settings.beat.lost_after,
            redactor: redactor.knowing(jobs.declared()),
            pull: PullWorkers::new(jobs, settings),
            stream: StreamHub::new(jobs, settings.worker.lost_after),
            rotation: Rotation::new(jobs, sealed_columns),
        }
    }
}

impl ControlState {
    /// What is declared, five seconds old at most.
    pub(crate) async fn declared(&self) -> Result<Arc<Snapshot>, Problem> {
        let jobs = self.jobs.clone();
        self.http
            .on_runtime(async move { jobs.declared().current().await })
            .await
    }

    /// Learns what is declared, so that it is known what to hide. To be called before secrets are hidden.
    pub(crate) async fn learn(&self) {
        if let Err(problem) = self.declared().await {
            tracing::debug!(error = %problem, "declared kinds are used as they were last known");
        }
    }
}
