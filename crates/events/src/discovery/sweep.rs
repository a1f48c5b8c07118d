//! Making the jobs of sources whose moment has come: a beat's duty, in any number of beats at once.

use std::time::Duration;

use tokio::time::sleep;

use super::Sources;
use super::run::EventsDiscover;
use super::store::{DueSource, SourceError};

/// Sources of one look.
const STEP: usize = 100;

/// Share of an interval by which a run may come later: sources that were made together do not stay together.
const JITTER: f64 = 0.1;

impl Sources {
    /// Looks for due sources every `period`, for as long as it is polled.
    pub async fn sweep(&self, period: Duration) {
        loop {
            match self.make_due().await {
                // There may be more.
                Ok(made) if made == STEP => continue,
                Ok(_) => {}
                Err(error) => tracing::debug!(
                    error = &error as &dyn std::error::Error,
                    "due sources wait for the next look"
                ),
            }
            sleep(period).await;
        }
    }

    /// Makes the jobs of the sources that are due, a hundred at most. How many there were.
    ///
    /// The job first: a beat that dies in between is followed by one that makes the same job, under the same key.
    pub async fn make_due(&self) -> Result<usize, SourceError> {
        let due = self.due(STEP).await?;
        for one in &due {
            let job = EventsDiscover { source: one.id };
            self.0
                .jobs
                .enqueue(job)
                .unique(one.id.to_string())
                .idempotency_key(format!("source:{}:{}", one.id, one.tick))
                .await?;
            self.move_on(*one, jittered(*one)).await?;
        }
        Ok(due.len())
    }
}

fn jittered(due: DueSource) -> Duration {
    due.interval.mul_f64(1.0 + JITTER * rand::random::<f64>())
}
