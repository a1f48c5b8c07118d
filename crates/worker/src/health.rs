//! What this process' own worker adds to the health report.

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_api::health::{Finding, HealthProbe};

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
                "See the service `database` of this report; where database.migrate_at_start is off, run `holdfast migrate`.",
            );
        };
        Finding::healthy()
            .with("name", watchdog.worker_name())
            .with("queues", watchdog.queues())
            .with("running", watchdog.running())
            .with("seconds_since_contact", watchdog.silence().as_secs())
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
