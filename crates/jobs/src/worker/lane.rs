//! One queue in one worker process: how much it may hold, and who wakes its fetchers.
//!
//! A lane holds at most `concurrency` jobs that run and a few that wait in its buffer. The buffer is what the lane
//! finished in the last [`WINDOW`]: a queue of long jobs buffers nothing, so that no job waits here while another
//! worker idles; a queue of no-ops buffers a thousand, so that the database is never waited for.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use holdfast_core::config::Durability;
use holdfast_core::telemetry::catalogue;
use metrics::Histogram;
use tokio::sync::Notify;
use tokio::time::Instant;

use crate::ledger::WorkerQueueStats;

/// The buffer holds what was finished in this time.
const WINDOW: Duration = Duration::from_millis(100);

/// A place that a limit had taken is offered to other workers at most this often, and once more after the last. The worker
/// whose job has left it looks at once in any case, so what is offered seldom is only what it cannot use.
const OFFER_EVERY: Duration = Duration::from_millis(50);

/// The buffer holds this many batches at most.
const BUFFERED_BATCHES: usize = 3;

#[derive(Debug)]
pub(crate) struct Lane {
    pub name: Arc<str>,
    pub durability: Durability,
    concurrency: usize,
    batch: usize,
    /// Where lanes share their places: how many jobs it may hold beyond those that run.
    ahead: OnceLock<usize>,
    /// Claimed or fetched, and not yet finished.
    held: AtomicUsize,
    /// Handed to the runner so far, of those held.
    running: AtomicUsize,
    freed: Notify,
    /// The queue has limits over all workers: nothing is claimed that could not run at once.
    limited: AtomicBool,
    /// When free places may be offered to other workers again.
    next_offer: Mutex<Instant>,
    /// Jobs of the ledger may be due.
    pub ledger_alarm: Alarm,
    /// Jobs on the broker may wait.
    pub broker_alarm: Alarm,
    /// The broker leases more to this worker than the worker knows of.
    pub strays: AtomicBool,
    completed: AtomicU64,
    failed: AtomicU64,
    pickup: Histogram,
    meter: Mutex<Meter>,
}

/// A place in a lane, freed when dropped: after the job's outcome is stored.
#[derive(Debug)]
pub(crate) struct Slot {
    lane: Arc<Lane>,
    freed: bool,
}

#[derive(Debug)]
struct Meter {
    window_began: Instant,
    in_window: usize,
    /// Finished in the last whole window.
    last: usize,
    reported_at: Instant,
    reported: u64,
}

impl Lane {
    pub(crate) fn new(name: &str, durability: Durability, concurrency: usize, batch: usize) -> Arc<Self> {
        let now = Instant::now();
        Arc::new(Self {
            name: Arc::from(name),
            durability,
            concurrency,
            batch,
            ahead: OnceLock::new(),
            held: AtomicUsize::new(0),
            running: AtomicUsize::new(0),
            freed: Notify::new(),
            limited: AtomicBool::new(false),
            next_offer: Mutex::new(now),
            ledger_alarm: Alarm::default(),
            broker_alarm: Alarm::default(),
            strays: AtomicBool::new(false),
            completed: AtomicU64::new(0),
            failed: AtomicU64::new(0),
            pickup: catalogue::JOB_PICKUP.with([name]),
            meter: Mutex::new(Meter {
                window_began: now,
                in_window: 0,
                last: 0,
                reported_at: now,
                reported: 0,
            }),
        })
    }

    pub(crate) fn concurrency(&self) -> usize {
        self.concurrency
    }

    /// The most jobs this lane can ever hold: the size of its channel.
    pub(crate) fn most(&self) -> usize {
        self.concurrency + self.batch * BUFFERED_BATCHES
    }

    pub(crate) fn is_limited(&self) -> bool {
        self.limited.load(Ordering::Acquire)
    }

    pub(crate) fn set_limited(&self, limited: bool) {
        self.limited.store(limited, Ordering::Release);
    }

    /// Places under a limit have become free: how soon other workers should look. `None`: they were told to already, for a
    /// time that is still to come.
    pub(crate) fn offer_places(&self) -> Option<Duration> {
        let now = Instant::now();
        let mut next = self.next_offer.lock().unwrap_or_else(PoisonError::into_inner);
        let wait = next.saturating_duration_since(now);
        if wait > OFFER_EVERY {
            return None;
        }
        *next = now + wait + OFFER_EVERY;
        Some(wait)
    }

    /// Said once, before the lane is used.
    pub(crate) fn set_ahead(&self, ahead: usize) {
        self.ahead.set(ahead).ok();
    }

    /// How many jobs it may hold to be run at once: all that its concurrency allows, or where lanes share their places
    /// as many as could be given to it soon. What it held beyond that would wait here while other workers idle.
    fn places(&self) -> usize {
        match self.ahead.get() {
            None => self.concurrency,
            Some(ahead) => self.concurrency.min(self.running.load(Ordering::Acquire) + ahead),
        }
    }

    fn capacity(&self) -> usize {
        let places = self.places();
        if self.is_limited() {
            // A place under a limit that a job in a buffer would take is one that no other worker could use.
            return places;
        }
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.roll(Instant::now());
        places + meter.last.max(meter.in_window).min(self.batch * BUFFERED_BATCHES)
    }

    pub(crate) fn held(&self) -> usize {
        self.held.load(Ordering::Acquire)
    }

    /// How many jobs to ask for now; zero if asking would not pay.
    ///
    /// A lane with something left in its buffer waits until a quarter of it is free, so that claims are not made one by one.
    pub(crate) fn room(&self) -> usize {
        let capacity = self.capacity();
        let held = self.held();
        let room = capacity.saturating_sub(held).min(self.batch);
        let buffered = held.saturating_sub(self.running.load(Ordering::Acquire));
        if buffered == 0 || room >= (capacity / 4).clamp(1, self.batch) {
            room
        } else {
            0
        }
    }

    /// Waits until [`Self::room`] is not zero.
    pub(crate) async fn has_room(&self) -> usize {
        loop {
            let freed = self.freed.notified();
            let room = self.room();
            if room > 0 {
                return room;
            }
            // The buffer's size moves with time, so look again even if nothing is freed.
            let _ = tokio::time::timeout(WINDOW, freed).await;
        }
    }

    pub(crate) fn take_slot(self: &Arc<Self>) -> Slot {
        self.held.fetch_add(1, Ordering::AcqRel);
        Slot {
            lane: Arc::clone(self),
            freed: false,
        }
    }

    /// A job that was due at this time starts; how long it has waited.
    pub(crate) fn picked_up(&self, run_at: DateTime<Utc>) -> Duration {
        let waited = waited_since(run_at);
        self.pickup.record(waited);
        waited
    }

    pub(crate) fn started(&self) {
        self.running.fetch_add(1, Ordering::AcqRel);
        self.freed.notify_waiters();
    }

    /// The handler has ended; the outcome is yet to be stored.
    pub(crate) fn ended(&self, succeeded: bool) {
        let counter = if succeeded { &self.completed } else { &self.failed };
        counter.fetch_add(1, Ordering::Relaxed);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        meter.roll(Instant::now());
        meter.in_window += 1;
    }

    /// `process_places`: jobs that all lanes together may run concurrently.
    pub(crate) fn stats(&self, process_places: usize) -> WorkerQueueStats {
        let completed = self.completed.load(Ordering::Relaxed);
        let failed = self.failed.load(Ordering::Relaxed);
        let mut meter = self.meter.lock().unwrap_or_else(PoisonError::into_inner);
        let since = meter.reported_at.elapsed().as_secs_f64().max(0.001);
        let per_second = (completed + failed - meter.reported) as f64 / since;
        meter.reported = completed + failed;
        meter.reported_at = Instant::now();
        WorkerQueueStats {
            running: self.held() as u64,
            completed,
            failed,
            per_second,
            places: self.concurrency.min(process_places) as u64,
            process_places: process_places as u64,
        }
    }
}

/// How long a job has waited that was due at this time; nothing if the clocks of two hosts disagree.
pub(crate) fn waited_since(run_at: DateTime<Utc>) -> Duration {
    let waited = clock::now().signed_duration_since(run_at).to_std();
    waited.unwrap_or_default()
}

impl Meter {
    fn roll(&mut self, now: Instant) {
        let age = now.saturating_duration_since(self.window_began);
        if age >= WINDOW {
            self.last = if age < WINDOW * 2 { self.in_window } else { 0 };
            self.in_window = 0;
            self.window_began = now;
        }
    }
}

impl Slot {
    pub(crate) fn lane(&self) -> &Arc<Lane> {
        &self.lane
    }

    /// Gives the place up before the outcome is stored.
    pub(crate) fn free(&mut self) {
        if !std::mem::replace(&mut self.freed, true) {
            self.lane.held.fetch_sub(1, Ordering::AcqRel);
            self.lane.freed.notify_waiters();
        }
    }

    /// To be called once, after [`Lane::started`] was: the job no longer runs.
    pub(crate) fn stopped_running(&self) {
        self.lane.running.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.free();
    }
}

/// Says when to look: any number of times ahead, on a grid of [`GRID`], bounded by [`MAX_ALARMS`].
#[derive(Debug)]
pub(crate) struct Alarm {
    epoch: Instant,
    /// Grid steps since the epoch.
    set: Mutex<BTreeSet<u64>>,
    changed: Notify,
}

/// Times this close together are one time, the later one.
const GRID: Duration = Duration::from_millis(10);

/// More times ahead than this are dropped, the latest first: the safety poll finds those jobs.
const MAX_ALARMS: usize = 512;

/// Longest sleep in one go. What is due later is slept for again, so that no time is too far ahead for the timer.
const LONGEST_SLEEP: Duration = Duration::from_hours(1);

impl Default for Alarm {
    fn default() -> Self {
        Self {
            epoch: Instant::now(),
            set: Mutex::default(),
            changed: Notify::new(),
        }
    }
}

impl Alarm {
    pub(crate) fn now(&self) {
        self.insert(0);
    }

    pub(crate) fn after(&self, delay: Duration) {
        if delay.is_zero() {
            return self.now();
        }
        let due = self.epoch.elapsed().saturating_add(delay);
        self.insert(u64::try_from(due.as_millis().div_ceil(GRID.as_millis())).unwrap_or(u64::MAX));
    }

    fn insert(&self, step: u64) {
        let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
        let earliest = set.first().copied();
        if set.insert(step) && set.len() > MAX_ALARMS {
            set.pop_last();
        }
        if earliest.is_none_or(|earliest| step < earliest) {
            self.changed.notify_one();
        }
    }

    /// Waits until some time is due, and clears every time that is.
    pub(crate) async fn due(&self) {
        loop {
            let changed = self.changed.notified();
            let elapsed = self.epoch.elapsed();
            let now = u64::try_from(elapsed.as_millis() / GRID.as_millis()).unwrap_or(u64::MAX);
            let earliest = {
                let mut set = self.set.lock().unwrap_or_else(PoisonError::into_inner);
                if set.first().is_some_and(|first| *first <= now) {
                    *set = set.split_off(&now.saturating_add(1));
                    return;
                }
                set.first().copied()
            };
            match earliest {
                Some(step) => {
                    tokio::select! {
                        () = tokio::time::sleep(sleep_until_step(step, elapsed)) => {}
                        () = changed => {}
                    }
                }
                None => changed.await,
            }
        }
    }
}

/// How long to sleep now, `elapsed` after the epoch, for a time on the grid that lies ahead.
fn sleep_until_step(step: u64, elapsed: Duration) -> Duration {
    let grid = u64::try_from(GRID.as_millis()).unwrap_or(u64::MAX);
    Duration::from_millis(step.saturating_mul(grid))
        .saturating_sub(elapsed)
        .min(LONGEST_SLEEP)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lane() -> Arc<Lane> {
        Lane::new("default", Durability::Ledger, 10, 100)
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_of_slow_jobs_buffers_nothing() {
        let lane = lane();
        assert_eq!(lane.room(), 10);
        let slots: Vec<_> = (0..10).map(|_| lane.take_slot()).collect();
        (0..10).for_each(|_| lane.started());
        assert_eq!(lane.room(), 0);
        let mut slots = slots;
        if let Some(slot) = slots.pop() {
            slot.stopped_running();
        }
        assert_eq!(
            lane.room(),
            1,
            "one place free and nothing buffered: worth a claim"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_lane_of_quick_jobs_buffers_what_it_finished_lately_and_forgets_it() {
        let lane = lane();
        (0..50).for_each(|_| lane.ended(true));
        assert_eq!(lane.room(), 60);
        (0..5_000).for_each(|_| lane.ended(true));
        assert_eq!(lane.capacity(), lane.most());
        tokio::time::advance(WINDOW * 3).await;
        assert_eq!(lane.room(), 10);
    }

    #[tokio::test(start_paused = true)]
    async fn free_places_are_offered_at_once_and_then_not_for_each_job() {
        let lane = lane();
        assert_eq!(lane.offer_places(), Some(Duration::ZERO));
        assert_eq!(lane.offer_places(), Some(OFFER_EVERY), "the last one counts");
        assert_eq!(lane.offer_places(), None, "and stands for all until then");
        tokio::time::advance(OFFER_EVERY * 3).await;
        assert_eq!(lane.offer_places(), Some(Duration::ZERO));
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rings_at_each_time_it_was_set_to_and_no_more() {
        let alarm = Alarm::default();
        alarm.after(Duration::from_secs(5));
        alarm.now();
        alarm.after(Duration::from_secs(1));
        let began = Instant::now();
        let mut heard = Vec::new();
        for _ in 0..3 {
            alarm.due().await;
            heard.push(began.elapsed().as_secs());
        }
        assert_eq!(heard, [0, 1, 5]);
        assert!(
            tokio::time::timeout(Duration::from_secs(60), alarm.due())
                .await
                .is_err()
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_alarm_rests_until_its_time_after_two_years_of_uptime_and_with_a_time_centuries_ahead() {
        let day = Duration::from_hours(24);
        let alarm = Alarm::default();
        alarm.after(day * 365 * 300);
        alarm.after(Duration::MAX);
        tokio::time::advance(day * 730).await;
        alarm.after(Duration::from_secs(5));
        let began = Instant::now();
        alarm.due().await;
        assert_eq!(began.elapsed(), Duration::from_secs(5));
        assert!(tokio::time::timeout(day, alarm.due()).await.is_err());
    }

    #[test]
    fn a_time_that_lies_ahead_is_slept_for_however_far_it_is() {
        let uptime = Duration::from_hours(24) * 730;
        let step = u64::try_from(uptime.as_millis() / GRID.as_millis()).unwrap() + 1;
        assert_eq!(sleep_until_step(step, uptime), GRID);
        for far in [step + 10_000_000, u64::MAX] {
            assert_eq!(sleep_until_step(far, uptime), LONGEST_SLEEP);
        }
    }
}
