//! The workers that serve the queues.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_cache::{Class, Namespace};
use holdfast_http::problem::{Problem, ProblemKind};
use holdfast_http::responses::{CachedRoute, Lifetime};
use holdfast_http::{Call, Read, Reply, ok};
use holdfast_jobs::ledger::{LedgerError, WorkerQueueStats, WorkerRecord};
use holdfast_jobs::{JobId, WorkerId, WorkerJob};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::pull::WorkerClient;
use crate::state::ControlState;

/// The cached answers of `GET /v1/workers`.
const CACHED: CachedRoute = CachedRoute {
    namespace: Namespace::raw(Class::ApiResponse, "worker-list", 1),
    lifetime: Lifetime::List,
};

/// A worker process.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = Worker)]
pub struct WorkerView {
    #[schema(value_type = String)]
    pub id: WorkerId,
    /// A readable name: host, process and boot.
    pub name: String,
    /// Whether a recent heartbeat is stored. The jobs of a lost worker are rescued soon.
    pub alive: bool,
    pub queues: Vec<String>,
    pub started_at: DateTime<Utc>,
    pub seen_at: DateTime<Utc>,
    pub seen_seconds_ago: f64,
    /// By queue.
    pub stats: BTreeMap<String, WorkerQueueView>,
    /// Of a worker that pulls over HTTP: its name, version and language. Absent: a Rust worker.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub client: Option<WorkerClient>,
    /// It was asked to take no more jobs.
    #[serde(default)]
    pub draining: bool,
}

/// A worker's figures for one queue.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerQueue)]
pub struct WorkerQueueView {
    pub running: u64,
    pub completed: u64,
    pub failed: u64,
    pub per_second: f64,
    /// Jobs of the queue that it may run concurrently; 0 until it has reported it.
    #[serde(default)]
    pub places: u64,
}

impl WorkerView {
    pub(crate) fn new(record: WorkerRecord, alive: bool) -> Self {
        let WorkerRecord {
            id,
            name,
            queues,
            started_at,
            seen_at,
            seen_seconds_ago,
            stats,
            client,
            draining,
        } = record;
        let view = |stats: WorkerQueueStats| {
            let WorkerQueueStats {
                running,
                completed,
                failed,
                per_second,
                places,
                process_places: _,
            } = stats;
            WorkerQueueView {
                running,
                completed,
                failed,
                per_second,
                places,
            }
        };
        Self {
            id,
            name,
            alive,
            queues,
            started_at,
            seen_at,
            seen_seconds_ago,
            stats: stats
                .into_iter()
                .map(|(queue, stats)| (queue, view(stats)))
                .collect(),
            client: client.map(|pull| WorkerClient {
                name: pull.client.name,
                version: pull.client.version,
                language: pull.client.language,
            }),
            draining,
        }
    }
}

#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerList {
    pub workers: Vec<WorkerView>,
}

/// List workers
///
/// Workers, their queues and running jobs. A lost worker stays listed until its jobs are rescued.
#[utoipa::path(get, path = "/v1/workers", tag = "workers", operation_id = "list_workers",
    responses(
        (status = 200, body = WorkerList),
    ))]
pub(crate) async fn list(call: Call<Read, ControlState>) -> Reply {
    let list = |state: Arc<ControlState>| async move {
        let workers = state.jobs.workers().await?.into_iter().map(|record| {
            let alive = is_alive(&record, state.lost_after);
            WorkerView::new(record, alive)
        });
        Ok::<_, LedgerError>(WorkerList {
            workers: workers.collect(),
        })
    };
    call.cached(&CACHED, list).await
}

/// A worker with what it runs.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
pub struct WorkerDetail {
    #[serde(flatten)]
    pub worker: WorkerView,
    /// The newest first, 100 at most. Without jobs that are stored on the broker.
    pub jobs: Vec<WorkerJobView>,
}

/// A job that a worker runs, or holds to run it next.
#[derive(Debug, Serialize, Deserialize, ToSchema)]
#[schema(as = WorkerJob)]
pub struct WorkerJobView {
    #[schema(value_type = String)]
    pub id: JobId,
    pub kind: String,
    pub queue: String,
    pub attempt: u32,
    pub started_at: Option<DateTime<Utc>>,
}

impl From<WorkerJob> for WorkerJobView {
    fn from(job: WorkerJob) -> Self {
        let WorkerJob {
            id,
            kind,
            queue,
            attempt,
            started_at,
        } = job;
        Self {
            id,
            kind,
            queue,
            attempt,
            started_at,
        }
    }
}

/// Show a worker
///
/// By any id that the process has or had a moment ago, with the jobs that it runs.
#[utoipa::path(get, path = "/v1/workers/{id}", tag = "workers", operation_id = "show_worker",
    params(("id" = String, Path, description = "The worker's id")),
    responses(
        (status = 200, body = WorkerDetail),
        (status = 400, description = "invalid-id"),
        (status = 404, description = "worker-not-found: unknown, or gone"),
    ))]
pub(crate) async fn show(call: Call<Read, ControlState>) -> Reply {
    let id = call.id::<WorkerId>()?;
    let found = call.run(move |state| async move { state.jobs.worker(id).await });
    let (record, jobs) = found.await?.ok_or_else(|| {
        let reason = format!("there is no worker {id}: it has stopped, or its jobs were rescued");
        Problem::field(ProblemKind::WorkerNotFound, "id", reason)
    })?;
    let alive = is_alive(&record, call.state().lost_after);
    ok(&WorkerDetail {
        worker: WorkerView::new(record, alive),
        jobs: jobs.into_iter().map(Into::into).collect(),
    })
}

/// Whether a worker was heard of recently.
pub(crate) fn is_alive(worker: &WorkerRecord, lost_after: Duration) -> bool {
    worker.seen_seconds_ago < lost_after.as_secs_f64()
}
