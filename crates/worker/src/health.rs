//! What this process' own worker adds to the health report.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_api::health::{Finding, HealthProbe, hints};
use holdfast_core::telemetry::catalogue;

use crate::progress::Progress;

/// Has the worker of this process begun, and what does it do? A process that cannot work yet is not ready.
#[derive(Debug)]
pub struct WorkerProbe {
    progress: Progress,
}

impl WorkerProbe {
    pub fn new(progress: &Progress) -> Self {
        Self {
            progress: progress.clone(),
        }
    }

    fn look(&self) -> Finding {
        let Some(watchdog) = self.progress.watchdog() else {
            return Finding::unhealthy(
                "it has not begun: it waits for the database, or for its schema",
                hints::WORKER_WAITS,
            );
        };
        Finding::healthy()
            .with("name", watchdog.worker_name())
            .with("queues", watchdog.queues())
            .with("running", watchdog.running())
            .with("seconds_since_contact", watchdog.silence().as_secs())
    }
}

/// The gauges of this process' worker, once it has begun.
pub(crate) fn measure(progress: &Progress) {
    if let Some(watchdog) = progress.watchdog() {
        catalogue::WORKER_RUNNING.with([]).set(watchdog.running() as f64);
        catalogue::WORKER_SILENCE
            .with([])
            .set(watchdog.silence().as_secs_f64());
    }
}

impl HealthProbe for WorkerProbe {
    fn name(&self) -> &'static str {
        "worker"
    }

    fn is_vital(&self) -> bool {
        true
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move { self.look() }.boxed()
    }
}
