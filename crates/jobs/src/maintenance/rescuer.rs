//! Returns the jobs of workers that were not heard of for `lost_after`, and those that run without a worker's row.
//!
//! A worker's silence proves something only if the ledger could have heard it. After an outage of the ledger every worker
//! looks silent, so a rescuer acts only once the ledger has answered *it* without a break for `lost_after`: by then each
//! living worker, which retries its heartbeat every half second, has been heard of again. The same holds after this very
//! process was stopped for a while, and after the server's clock was set: a step ahead makes every worker look silent.
//!
//! A ledger may answer questions and store nothing: a disk that stalls lets reads go on. So answers do not suffice; this worker's own
//! heartbeats must have been stored for as long (`Vitals::heartbeats_for`).

use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::config::Durability;
use holdfast_core::telemetry::catalogue;
use tokio::time::Instant;

use super::set_back::SetBack;
use crate::ledger::{IdRange, RescueReport};
use crate::meters::maintained;
use crate::worker::WorkerState;
use crate::worker::heartbeat::wake;

/// Jobs returned in one statement.
const BATCH: usize = 500;

/// The search for orphans takes one part in this many of the time.
const ORPHAN_SHARE: u32 = 100;

/// Pause between two steps of the search for orphans.
const ORPHAN_STEP_PAUSE: Duration = Duration::from_millis(200);

/// Ids of workers are stamped with the clocks of their hosts: one made up to so much later than now may exist.
const CLOCKS_DIFFER_BY_MS: u64 = 24 * 60 * 60 * 1_000;

/// Since when the ledger has answered without a break.
#[derive(Debug)]
struct Contact {
    since: Option<Instant>,
    last: Instant,
    /// The server's clock at the last answer that told it.
    server: Option<(Instant, DateTime<Utc>)>,
    /// A longer pause than this is a break, and so is a step of the server's clock by as much.
    gap: Duration,
}

impl Contact {
    fn new(gap: Duration) -> Self {
        Self {
            since: None,
            last: Instant::now(),
            server: None,
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

    /// The server has told the time. If its clock was set, every worker's silence is as long as the step.
    fn answered_at(&mut self, time: DateTime<Utc>) {
        let now = Instant::now();
        if let Some((before, told)) = self.server.replace((now, time)) {
            let here =
                chrono::Duration::from_std(now.duration_since(before)).unwrap_or(chrono::Duration::MAX);
            let step = (time - told - here).abs();
            if step.to_std().unwrap_or(Duration::MAX) > self.gap {
                self.lost();
            }
        }
        self.answered();
    }

    fn lost(&mut self) {
        self.since = None;
    }

    fn unbroken_for(&self, duration: Duration) -> bool {
        self.since
            .is_some_and(|since| self.last.duration_since(since) >= duration)
    }
}

pub(super) async fn run(shared: &WorkerState) {
    let settings = &shared.settings.worker;
    let mut contact = Contact::new(settings.maintenance * 2 + settings.lost_after / 3);
    let mut set_back = SetBack::default();
    loop {
        tokio::time::sleep(settings.maintenance).await;
        match shared.jobs.ledger().check_clock().await {
            Ok(clock) => {
                contact.answered_at(clock.now);
                set_back.observe(clock, settings.lost_after);
                set_back.make_due(shared).await;
            }
            Err(_) => contact.lost(),
        }
        let is_heard = || shared.vitals.heartbeats_for() >= settings.lost_after;
        while contact.unbroken_for(settings.lost_after) && is_heard() {
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
                    // A step looks after a few lost workers; while it finds something, others may wait.
                    if report.jobs() == 0 && report.workers_lost.is_empty() {
                        break;
                    }
                }
                // The server answers; a lock is held, or there is much to walk past.
                Err(error) if error.is_contention() || error.is_statement_timeout() => {
                    tracing::debug!(error = ?error, "cannot rescue now");
                    contact.answered();
                    break;
                }
                Err(error) => {
                    tracing::debug!(error = ?error, "cannot rescue");
                    contact.lost();
                }
            }
        }
    }
}

/// Returns jobs whose worker has no row: of a row that was deleted by hand, of a worker of an older version, or in a
/// database that was restored. That the row is missing is proof enough: a claim takes nothing without it.
pub(super) async fn run_orphans(shared: &WorkerState) {
    let mut search = OrphanSearch::new();
    loop {
        let began = Instant::now();
        search.run(shared).await;
        let pause = shared.settings.worker.lost_after;
        tokio::time::sleep(pause.max(began.elapsed() * ORPHAN_SHARE)).await;
    }
}

/// The search walks the index of running jobs, which until a vacuum holds every job that any worker has ever run. It does
/// so in ranges of worker ids, by when these were made, and one statement for each range has a bound. A range that takes too
/// long is halved; after one that did not, the next is twice as wide.
#[derive(Debug)]
struct OrphanSearch {
    /// Milliseconds of one range. Kept from search to search.
    width: u64,
}

impl OrphanSearch {
    fn new() -> Self {
        Self { width: u64::MAX }
    }

    /// The range that begins there, given that ids were made up to `end`.
    fn range(&self, from_ms: u64, end: u64) -> IdRange {
        let to_ms = from_ms.saturating_add(self.width);
        IdRange {
            from_ms,
            to_ms: (to_ms < end).then_some(to_ms),
        }
    }

    fn narrow(&mut self, from: u64, end: u64) {
        self.width = (self.width.min(end.saturating_sub(from)) / 2).max(1);
    }

    fn widen(&mut self) {
        self.width = self.width.saturating_mul(2);
    }

    /// Once over all ids; given up where the ledger does not answer.
    async fn run(&mut self, shared: &WorkerState) {
        let end = clock::unix_millis() + CLOCKS_DIFFER_BY_MS;
        let mut from = 0;
        loop {
            let range = self.range(from, end);
            let max_crashes = shared.settings.worker.max_crashes;
            let rescued = shared
                .jobs
                .ledger()
                .rescue_orphans(range, max_crashes, BATCH)
                .await;
            maintained("rescue_orphans", &rescued, RescueReport::jobs);
            match rescued {
                Ok(report) => {
                    announce(shared, &report);
                    if report.jobs() > 0 {
                        tracing::warn!(
                            jobs = report.jobs(),
                            "rescued jobs that were running without a worker's row"
                        );
                    }
                    if report.jobs() < BATCH as u64 {
                        self.widen();
                        let Some(next) = range.to_ms else { return };
                        from = next;
                    }
                }
                Err(error) if error.is_statement_timeout() && self.width > 1 => self.narrow(from, end),
                Err(error) if error.is_statement_timeout() => {
                    tracing::warn!(
                        worker.made_ms = from,
                        "too many entries of one worker's id to look for jobs without a worker"
                    );
                    let Some(next) = range.to_ms else { return };
                    from = next;
                }
                Err(error) => {
                    tracing::debug!(error = ?error, "cannot look for jobs without a worker");
                    return;
                }
            }
            tokio::time::sleep(ORPHAN_STEP_PAUSE).await;
        }
    }
}

fn announce(shared: &WorkerState, report: &RescueReport) {
    catalogue::JOBS_RESCUED
        .with([])
        .increment(report.returned.values().sum());
    catalogue::JOBS_POISONED
        .with([])
        .increment(report.poisoned.len() as u64);
    shared.jobs.announce(&report.effects);
    wake(shared, &report.returned);
    for (queue, jobs) in &report.returned {
        tracing::warn!(queue = %queue, jobs, "rescued jobs of a lost worker");
    }
    for id in &report.poisoned {
        tracing::error!(job.id = %id, "a job was discarded as poison: its workers crashed too often");
    }
    for worker in &report.workers_lost {
        tracing::warn!(worker = %worker, "a worker was lost");
    }
}

/// The same on the broker, whose scripts keep their own time.
pub(super) async fn run_broker(shared: &WorkerState) {
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

    #[tokio::test(start_paused = true)]
    async fn a_clock_that_was_set_begins_the_count_anew() {
        for step in [600, -600] {
            let mut contact = Contact::new(Duration::from_secs(9));
            let mut time = clock::now();
            for _ in 0..10 {
                contact.answered_at(time);
                tokio::time::advance(Duration::from_secs(2)).await;
                time += chrono::Duration::seconds(2);
            }
            contact.answered_at(time);
            assert!(contact.unbroken_for(LOST_AFTER));
            contact.answered_at(time + chrono::Duration::seconds(step));
            assert!(!contact.unbroken_for(LOST_AFTER), "{step}");
        }
    }

    #[test]
    fn a_range_that_takes_too_long_is_halved_until_it_is_one_moment() {
        let mut search = OrphanSearch::new();
        let end = 1_000;
        assert_eq!(search.range(0, end), IdRange::ALL);
        search.narrow(0, end);
        assert_eq!(search.range(0, end).to_ms, Some(500));
        search.widen();
        assert_eq!(
            search.range(500, end),
            IdRange {
                from_ms: 500,
                to_ms: None
            }
        );
        for _ in 0..20 {
            search.narrow(900, end);
        }
        assert_eq!(search.range(900, end).to_ms, Some(901));
        let range = IdRange {
            from_ms: 900,
            to_ms: Some(901),
        };
        assert!(range.first() < range.last() && range.last().created_ms() == 900);
    }
}
