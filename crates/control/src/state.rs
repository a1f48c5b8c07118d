//! What the routes of this crate share.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_http::ServerContext;
use holdfast_jobs::Jobs;
use holdfast_jobs::schedules::Schedules;
use serde_json::value::RawValue;

/// Shows a payload of a kind without its secrets; `None`: the kind has none.
pub type Redactor = fn(kind: &str, payload: &RawValue) -> Option<Box<RawValue>>;

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
