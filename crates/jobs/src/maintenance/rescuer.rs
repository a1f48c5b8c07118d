//! Returns the jobs of workers that were not heard of for `lost_after`.
//!
//! A worker's silence proves something only if the ledger could have heard it. After an outage of the ledger every worker
//! looks silent, so a rescuer acts only once the ledger has answered *it* without a break for `lost_after`: by then each
//! living worker, which retries its heartbeat every half second, has been heard of again. The same holds after this very
//! process was stopped for a while.

use std::time::Duration;

use holdfast_core::config::Durability;
use holdfast_core::telemetry::catalogue;
use tokio::time::Instant;

use crate::ledger::RescueReport;
use crate::meters::maintained;
use crate::worker::Shared;

/// Jobs returned in one statement.
const BATCH: usize = 500;

/// Since when the ledger has answered without a break.
#[derive(Debug)]
struct Contact {
    since: Option<Instant>,
    last: Instant,
    /// A longer pause than this is a break.
    gap: Duration,
}

impl Contact {
    fn new(gap: Duration) -> Self {
        Self {
            since: None,
            last: Instant::now(),
            gap,
        }
    }

    fn answered(&mut self) {
        let now = Instant::now();
        if self.since.is_none() || now.duration_since(self.last) > self.gap {
            self.since = Some(now);
        }
        self.last = now;
    }

    fn lost(&mut self) {
        self.since = None;
    }

    fn unbroken_for(&self, duration: Duration) -> bool {
        self.since
            .is_some_and(|since| self.last.duration_since(since) >= duration)
    }
}

pub(super) async fn run(shared: &Shared) {
    let settings = &shared.settings.worker;
    let mut contact = Contact::new(settings.maintenance * 2 + settings.lost_after / 3);
    loop {
        tokio::time::sleep(settings.maintenance).await;
        match shared.jobs.ledger().paused_queues().await {
            Ok(_) => contact.answered(),
            Err(_) => contact.lost(),
        }
        while contact.unbroken_for(settings.lost_after) {
            let rescue = shared
                .jobs
                .ledger()
                .rescue(settings.lost_after, settings.max_crashes, BATCH);
            let rescued = rescue.await;
            maintained("rescue", &rescued, RescueReport::jobs);
            match rescued {
                Ok(report) => {
                    contact.answered();
                    announce(shared, &report);
                    if report.jobs() < BATCH as u64 {
                        break;
                    }
                }
                Err(error) => {
                    tracing::debug!(error = ?error, "cannot rescue");
                    contact.lost();
                }
            }
        }
    }
}

fn announce(shared: &Shared, report: &RescueReport) {
    catalogue::JOBS_RESCUED
        .with([])
        .increment(report.returned.values().sum());
    catalogue::JOBS_POISONED
        .with([])
        .increment(report.poisoned.len() as u64);
    shared.jobs.announce(&report.aftermath);
    for (queue, jobs) in &report.returned {
        tracing::warn!(queue = %queue, jobs, "rescued jobs of a lost worker");
        shared.jobs.bell().ring(
            queue,
            usize::try_from(*jobs).unwrap_or(usize::MAX),
            Duration::ZERO,
        );
        if let Some(lane) = shared.lanes.get(queue.as_str()) {
            lane.ledger_alarm.now();
        }
    }
    for id in &report.poisoned {
        tracing::error!(job.id = %id, "a job was discarded as poison: it has ended its workers too often");
    }
    for worker in &report.workers_lost {
        tracing::warn!(worker = %worker, "a worker was lost");
    }
}

/// The same on the broker, whose scripts keep their own time.
pub(super) async fn run_broker(shared: &Shared) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    loop {
        tokio::time::sleep(shared.settings.worker.maintenance).await;
        for lane in shared
            .lanes
            .values()
            .filter(|lane| lane.durability == Durability::Redis)
        {
            while broker.serves() {
                let rescued = broker.rescue(&lane.name).await;
                maintained("rescue_broker", &rescued, |rescued| rescued.returned);
                match rescued {
                    Ok(rescued) => {
                        if rescued.returned > 0 {
                            catalogue::JOBS_RESCUED.with([]).increment(rescued.returned);
                            tracing::warn!(queue = %lane.name, jobs = rescued.returned, "rescued broker jobs of lost workers");
                            lane.broker_alarm.now();
                        }
                        if !rescued.more {
                            break;
                        }
                    }
                    Err(error) => {
                        tracing::debug!(queue = %lane.name, error = %error, "cannot rescue on the broker");
                        break;
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOST_AFTER: Duration = Duration::from_secs(15);

    #[tokio::test(start_paused = true)]
    async fn silence_counts_only_after_unbroken_contact() {
        let mut contact = Contact::new(Duration::from_secs(9));
        for _ in 0..7 {
            contact.answered();
            assert!(!contact.unbroken_for(LOST_AFTER));
            tokio::time::advance(Duration::from_secs(2)).await;
        }
        contact.answered();
        tokio::time::advance(Duration::from_secs(2)).await;
        contact.answered();
        assert!(contact.unbroken_for(LOST_AFTER));
        contact.lost();
        contact.answered();
        assert!(
            !contact.unbroken_for(LOST_AFTER),
            "an outage begins the count anew"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_process_that_was_stopped_begins_anew() {
        let mut contact = Contact::new(Duration::from_secs(9));
        contact.answered();
        tokio::time::advance(Duration::from_secs(40)).await;
        contact.answered();
        assert!(!contact.unbroken_for(LOST_AFTER));
    }
}
