//! What this process' own beat adds to the health report.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_http::health::{Finding, HealthProbe};

use super::Progress;

/// A round takes a statement or two. Longer than this without one means that it waits for the database, or hangs.
const SILENT: Duration = Duration::from_secs(15);

/// Has the beat of this process begun, and does it go round? A process that cannot tick yet is not ready.
#[derive(Debug)]
pub struct BeatProbe {
    progress: Progress,
    /// The longest it may sleep by itself.
    poll: Duration,
}

impl BeatProbe {
    pub fn new(progress: &Progress, poll: Duration) -> Self {
        Self {
            progress: progress.clone(),
            poll,
        }
    }

    fn look(&self) -> Finding {
        let Some(vitals) = self.progress.view() else {
            return Finding::unhealthy(
                "it has not begun: it waits for the database, or for its schema",
                "See the service `database` of this report; where database.migrate_at_start is off, run `holdfast migrate`.",
            );
        };
        let finding = if vitals.silence() > SILENT + self.poll {
            Finding::unhealthy(
                "it does not tick: the database does not answer it",
                "See the service `database` of this report, and the log of this process.",
            )
        } else {
            Finding::healthy()
        };
        finding
            .with("name", vitals.name())
            .with("jobs", vitals.jobs())
            .with("refused", vitals.refused())
            .with("seconds_since_round", vitals.silence().as_secs())
    }
}

impl HealthProbe for BeatProbe {
    fn name(&self) -> &'static str {
        "this_beat"
    }

    fn is_vital(&self) -> bool {
        true
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move { self.look() }.boxed()
    }
}
