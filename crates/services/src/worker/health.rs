//! What this process' own worker adds to the health report.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::telemetry::catalogue;
use holdfast_http::health::{Finding, HealthProbe, hints};

use super::Progress;

/// Outcomes that are held for this long are trouble: a lock, or a database that is slow.
const HELD_AFTER: Duration = Duration::from_secs(10);

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
        let Some(watchdog) = self.progress.view() else {
            return Finding::unhealthy(
                "it has not begun: it waits for the database, or for its schema",
                hints::WORKER_WAITS,
            );
        };
        let (held, held_for) = watchdog.held_outcomes();
        let finding = if held_for < HELD_AFTER {
            Finding::healthy()
        } else {
            let error = format!(
                "{held} outcomes of jobs could not be stored for {} s",
                held_for.as_secs()
            );
            Finding::degraded(error, hints::OUTCOMES_HELD)
        };
        finding
            .with("held_outcomes", held)
            .with("name", watchdog.worker_name())
            .with("queues", watchdog.queues())
            .with("running", watchdog.running())
            .with("seconds_since_contact", watchdog.silence().as_secs())
    }
}

/// The gauges of this process' worker, once it has begun.
pub(crate) fn measure(progress: &Progress) {
    if let Some(watchdog) = progress.view() {
        let (held, _) = watchdog.held_outcomes();
        catalogue::WORKER_HELD.with([]).set(held as f64);
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
