//! `debug.sleep`: sleeps for `milliseconds` or `seconds`, reports progress, and gives way to a cancellation.
//!
//! Progress is `{"slept_ms", "of_ms"}`, reported [`REPORTS`] times at even distances, yet never more often than
//! every [`MIN_PERIOD`]: a job of a few milliseconds reports none, and costs what its sleep costs.
//! A cancelled job ends at once with [`JobError::Cancelled`].

use std::pin::pin;
use std::time::Duration;

use holdfast_jobs::{Job, JobContext, JobError, PayloadFault};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::time::{Instant, sleep_until};

/// Longest sleep.
const MAX_SLEEP: Duration = Duration::from_hours(24);
const REPORTS: u32 = 20;
const MIN_PERIOD: Duration = Duration::from_millis(100);

/// A sleep. Exactly one of the two fields is given.
#[derive(Debug, Clone, Default, Serialize, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
#[schemars(extend("oneOf" = [
    {"required": ["milliseconds"], "properties": {"milliseconds": {"type": "integer"}}},
    {"required": ["seconds"], "properties": {"seconds": {"type": "number"}}},
]))]
pub struct DebugSleep {
    #[schemars(range(max = MAX_SLEEP.as_millis() as u64))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub milliseconds: Option<u64>,
    /// May have a fraction.
    #[schemars(range(min = 0, max = MAX_SLEEP.as_secs()))]
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub seconds: Option<f64>,
}

/// The result, and the shape of the progress.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Slept {
    pub slept_ms: u64,
    pub of_ms: u64,
}

impl DebugSleep {
    pub fn milliseconds(milliseconds: u64) -> Self {
        Self {
            milliseconds: Some(milliseconds),
            seconds: None,
        }
    }

    fn duration(&self) -> Result<Duration, PayloadFault> {
        let (field, duration) = match (self.milliseconds, self.seconds) {
            (Some(milliseconds), None) => ("milliseconds", Duration::from_millis(milliseconds)),
            (None, Some(seconds)) => {
                let duration = Duration::try_from_secs_f64(seconds)
                    .map_err(|_| PayloadFault::new("seconds", "must be a number from 0 to 86400"))?;
                ("seconds", duration)
            }
            (None, None) => return Err(PayloadFault::new("milliseconds", "is missing; or give `seconds`")),
            (Some(_), Some(_)) => {
                return Err(PayloadFault::new(
                    "seconds",
                    "give `milliseconds` or `seconds`, not both",
                ));
            }
        };
        if duration > MAX_SLEEP {
            return Err(PayloadFault::new(field, "must not exceed one day"));
        }
        Ok(duration)
    }
}

impl Job for DebugSleep {
    const KIND: &'static str = "debug.sleep";
    type Output = Slept;

    fn example() -> Option<Self> {
        Some(Self {
            milliseconds: None,
            seconds: Some(0.5),
        })
    }

    fn validate(&self) -> Result<(), PayloadFault> {
        self.duration().map(drop)
    }

    async fn run(self, ctx: JobContext) -> Result<Slept, JobError> {
        let total = self.duration().map_err(JobError::permanent)?;
        sleep(total, ctx.cancelled(), |slept| ctx.progress(&slept)).await
    }
}

async fn sleep(
    total: Duration,
    cancelled: impl Future<Output = ()>,
    mut report: impl FnMut(Slept) -> Result<(), JobError>,
) -> Result<Slept, JobError> {
    let started = Instant::now();
    let end = started + total;
    let slept = || Slept {
        slept_ms: started.elapsed().as_millis() as u64,
        of_ms: total.as_millis() as u64,
    };
    let period = (total / REPORTS).max(MIN_PERIOD);
    let mut next = started + period;
    let mut cancelled = pin!(cancelled);
    loop {
        tokio::select! {
            () = sleep_until(next.min(end)) => {}
            () = &mut cancelled => return Err(JobError::Cancelled),
        }
        if next >= end {
            return Ok(slept());
        }
        report(slept())?;
        next += period;
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_sleep_reports_at_even_distances() {
        let mut reports = Vec::new();
        let slept = sleep(Duration::from_secs(10), std::future::pending(), |slept| {
            reports.push(slept.slept_ms);
            Ok(())
        });
        assert_eq!(
            slept.await.unwrap(),
            Slept {
                slept_ms: 10_000,
                of_ms: 10_000
            }
        );
        assert_eq!(reports, (1..20).map(|part| part * 500).collect::<Vec<u64>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_sleep_reports_nothing() {
        let slept = sleep(Duration::from_millis(100), std::future::pending(), |_| {
            panic!("too short to report")
        });
        assert_eq!(slept.await.unwrap().slept_ms, 100);
        let none = sleep(Duration::ZERO, std::future::pending(), |_| {
            panic!("too short to report")
        });
        assert_eq!(none.await.unwrap().slept_ms, 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_cancelled_sleep_ends_at_once() {
        let (cancel, cancelled) = oneshot::channel::<()>();
        let mut cancel = Some(cancel);
        let started = Instant::now();
        let outcome = sleep(
            Duration::from_hours(1),
            async {
                let _ = cancelled.await;
            },
            // Cancels at the first report, after three minutes.
            |_| {
                cancel.take();
                Ok(())
            },
        );
        assert!(matches!(outcome.await, Err(JobError::Cancelled)));
        assert_eq!(started.elapsed(), Duration::from_mins(3));
    }
}
