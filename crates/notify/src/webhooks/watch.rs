//! Notices what no outcome tells of: ticks that no beat takes, and queues that stand still.
//!
//! Every worker and every beat does this, so it goes on while one of them is gone. Each event has an id made of the slot, or of the
//! time since when the oldest job is due; its delivery has a key, so an endpoint is sent it once, however many processes notice it and
//! however long it lasts. A beat that takes a missed tick itself enqueues the same event with it.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_jobs::Jobs;
use holdfast_jobs::diagnosis::Diagnosis;
use holdfast_jobs::ledger::{LedgerError, NewJob};
use holdfast_jobs::observer::Observer as _;
use holdfast_jobs::schedules::Schedules;

use super::engine_events::EngineEvents;
use super::model::{QUEUE_STALLED, SCHEDULE_MISSED};

/// Between two looks.
const PAUSE: Duration = Duration::from_secs(15);

/// Most missed schedules of one look.
const MOST: usize = 100;

/// Who looks, and how often.
#[derive(Debug)]
pub struct Watch {
    pub events: Arc<EngineEvents>,
    pub jobs: Jobs,
    pub schedules: Schedules,
    pub diagnosis: Diagnosis,
    /// See `beat.missed_after_seconds`.
    pub missed_after: Duration,
    /// Between two looks.
    pub pause: Duration,
}

impl Watch {
    /// With the usual pause and thresholds. It reaches nothing yet.
    pub fn of(process: holdfast_product::Process<'_>, events: Arc<EngineEvents>) -> Self {
        let holdfast_product::Process {
            settings,
            database,
            jobs,
        } = process;
        Self {
            events,
            jobs: jobs.clone(),
            schedules: Schedules::new(jobs.clone(), database, &settings.database),
            diagnosis: Diagnosis::new(settings, jobs, database),
            missed_after: settings.beat.missed_after,
            pause: PAUSE,
        }
    }

    /// Never ends by itself.
    pub async fn run(self) {
        let mut stalled = BTreeSet::new();
        loop {
            tokio::time::sleep(self.pause).await;
            if let Err(error) = self.look(&mut stalled).await {
                tracing::debug!(error = ?error, "cannot look for missed schedules and stalled queues");
            }
        }
    }

    /// `stalled`: the queues of which this process has said that they stand still.
    async fn look(&self, stalled: &mut BTreeSet<String>) -> Result<(), LedgerError> {
        self.events.refresh().await?;
        let mut deliveries = Vec::new();
        if self.events.wants(SCHEDULE_MISSED) {
            for tick in self.schedules.missed(self.missed_after, MOST).await? {
                deliveries.extend(self.events.on_missed(&tick));
            }
        }
        if self.events.wants(QUEUE_STALLED) {
            deliveries.extend(self.of_stalled_queues(stalled).await?);
        }
        self.enqueue(&deliveries).await
    }

    async fn of_stalled_queues(&self, before: &mut BTreeSet<String>) -> Result<Vec<NewJob>, LedgerError> {
        let report = self.diagnosis.look().await;
        let Some(now) = &report.stalled else {
            return Ok(Vec::new());
        };
        before.retain(|queue| now.contains(queue));
        let mut deliveries = Vec::new();
        for queue in now {
            if before.contains(queue) {
                continue;
            }
            let since: Option<DateTime<Utc>> = self.jobs.oldest_due(queue).await?;
            if let Some(since) = since {
                deliveries.extend(self.events.stalled(queue, since));
            }
            before.insert(queue.clone());
        }
        Ok(deliveries)
    }

    async fn enqueue(&self, deliveries: &[NewJob]) -> Result<(), LedgerError> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.jobs.ledger().insert(deliveries).await?;
        for job in deliveries {
            self.jobs.ring(&job.queue);
        }
        Ok(())
    }
}
