//! `points.flush`: from the buffer to SQL, until the buffer is empty.

use std::time::Duration;

use holdfast_core::redis::GateError;
use holdfast_jobs::{Backoff, Job, JobContext, JobError, RetryPolicy};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use crate::buffer::Hold;
use crate::packed::unpack;
use crate::{Point, Points};

/// Batches that are under way at once: while one is written, the next are popped.
const LANES: usize = 3;

/// A flush that goes on for longer ends, and another is enqueued: a job has to come to an end.
const LONGEST: Duration = Duration::from_mins(2);

/// Takes everything out of the buffer. Nothing is said in the payload: there is one buffer.
#[derive(Debug, Clone, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct PointsFlush {}

impl PointsFlush {
    /// One flush waits or runs.
    pub const KEY: &'static str = "buffer";
}

/// What a flush did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Flushed")]
pub struct FlushReport {
    /// Taken out of the buffer.
    pub flushed: u64,
    /// New rows; the others were there already.
    pub stored: u64,
    /// Without a track.
    pub dead: u64,
}

impl Job for PointsFlush {
    const KIND: &'static str = "points.flush";
    type Output = FlushReport;

    fn example() -> Option<Self> {
        Some(Self {})
    }

    fn timeout() -> Option<Duration> {
        Some(LONGEST * 2)
    }

    /// The next producer or the next look of a worker asks again.
    fn retry() -> Option<RetryPolicy> {
        Some(RetryPolicy {
            max_attempts: 20,
            backoff: Backoff::new(Duration::from_secs(1), Duration::from_secs(10)),
        })
    }

    async fn run(self, context: JobContext) -> Result<FlushReport, JobError> {
        let points = context.resource::<Points>()?;
        points.flush(&context).await
    }
}

impl Points {
    /// Empties the buffer, until it is empty, the time is up, or the job is cancelled.
    async fn flush(&self, context: &JobContext) -> Result<FlushReport, JobError> {
        let give_up = Instant::now() + LONGEST;
        let go_on = || !context.is_cancelled() && Instant::now() < give_up;
        let lanes = futures::future::join_all((0..LANES).map(|_| self.lane(&go_on))).await;
        let mut sum = FlushReport::default();
        for lane in lanes {
            let lane = lane?;
            sum.flushed += lane.flushed;
            sum.stored += lane.stored;
            sum.dead += lane.dead;
        }
        Ok(sum)
    }

    async fn lane(&self, go_on: &impl Fn() -> bool) -> Result<FlushReport, JobError> {
        let mut sum = FlushReport::default();
        while go_on() {
            let hold = Hold::fresh();
            let held = match self.hold(&hold).await {
                Ok(held) => held,
                // Nothing is buffered where there is no Redis.
                Err(GateError::NotConfigured) => break,
                // What may have been popped stays under its hold, and is taken back.
                Err(error) => return Err(error.into()),
            };
            if held.is_empty() {
                break;
            }
            let batch: Vec<Point> = held.iter().filter_map(|packed| unpack(packed)).collect();
            if batch.len() < held.len() {
                let points = held.len() - batch.len();
                tracing::error!(points, "an invalid entry was dropped from the buffer of points");
            }
            let written = match self.store(&batch).await {
                Ok(written) => written,
                Err(error) => {
                    // At once, so that another flusher need not wait for the hold's age. Best effort: it ages anyway.
                    self.give_back(&hold).await.ok();
                    return Err(error.into());
                }
            };
            sum.flushed += held.len() as u64;
            sum.stored += written.stored;
            sum.dead += written.dead;
            // A hold that cannot be ended now is taken back later, and stored again, which changes nothing.
            if let Err(error) = self.release(&hold).await {
                tracing::debug!(error = %error, "a hold of points could not be ended");
            }
        }
        Ok(sum)
    }
}
