//! Does anybody tick? A question of its own only where there are schedules.

use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;
use holdfast_core::config::BeatSettings;
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::schedules::{BeatRecord, Schedules, Summary};

use super::{Finding, HealthProbe, hints};

/// Inside [`super::PROBE_DEADLINE`], so that a probe can still say what did not answer.
const LOOK: Duration = Duration::from_millis(700);

/// A tick that is later than this is trouble, whatever the beats say of themselves.
const OVERDUE: Duration = Duration::from_secs(30);

/// The beats as the database knows them, and the schedules in numbers.
#[derive(Debug)]
pub struct BeatsProbe {
    schedules: Schedules,
    lost_after: Duration,
}

impl BeatsProbe {
    pub fn new(schedules: Schedules, settings: &BeatSettings) -> Self {
        Self {
            schedules,
            lost_after: settings.lost_after,
        }
    }

    async fn look(&self) -> Result<(Vec<BeatRecord>, Summary), LedgerError> {
        tokio::try_join!(self.schedules.beats(), self.schedules.summary())
    }

    fn judge(&self, beats: &[BeatRecord], summary: Summary) -> Finding {
        let alive = beats
            .iter()
            .filter(|beat| beat.seen_seconds_ago < self.lost_after.as_secs_f64())
            .count();
        let finding = if summary.enabled == 0 && alive == 0 {
            Finding::not_configured()
        } else if alive == 0 {
            Finding::degraded(
                format!("no beat is alive: {} schedules do not tick", summary.enabled),
                hints::START_BEAT,
            )
        } else if summary.overdue_seconds > OVERDUE.as_secs_f64() {
            Finding::degraded(
                format!("a tick is {:.0} s late", summary.overdue_seconds),
                hints::BEAT_LATE,
            )
        } else if summary.failing > 0 {
            Finding::degraded(
                format!("{} schedules cannot make their job", summary.failing),
                hints::BEAT_FAILING,
            )
        } else {
            Finding::healthy()
        };
        finding
            .with("count", alive)
            .with("schedules", summary.enabled)
            .with("overdue_seconds", summary.overdue_seconds)
    }
}

impl HealthProbe for BeatsProbe {
    fn name(&self) -> &'static str {
        "beat"
    }

    fn check(&self) -> BoxFuture<'_, Finding> {
        async move {
            match tokio::time::timeout(LOOK, self.look()).await {
                Ok(Ok((beats, summary))) => self.judge(&beats, summary),
                Ok(Err(error)) => Finding::degraded(error.to_string(), hints::SEE_DATABASE),
                Err(_) => Finding::degraded("the schedules could not be read in time", hints::SEE_DATABASE),
            }
        }
        .boxed()
    }
}
