//! The places that the lanes of one worker share (`worker.concurrency`), handed out by the weights of their queues.
//!
//! # How
//! Each lane is charged for the time its jobs take, divided by its weight. A place that comes free goes to the waiting lane
//! that was charged least. So as long as several lanes have work, each gets a part of the places' time in proportion to its
//! weight, however long its jobs are, and none gets nothing; what a lane does not need goes to the others at once.
//!
//! - A job is charged what its lane's jobs took lately when it starts, and the rest as it goes on: a lane that is given many
//!   places in one moment is charged for all of them.
//! - A lane that had nothing to do begins level with the least charged of those that had: it does not save up.
//! - A place is not taken away. A lane whose long jobs have all places gives one up when one of them ends.
//!
//! # Invariants
//! - At most `total` places are out. A place that is dropped is handed on, or free.
//! - Nobody waits while a place is free.
//! - Within a lane the first to ask is the first to run.
//!
//! Without a bound there is nothing to share, and nothing here costs anything.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::Instant;

/// Least that a job is charged when it starts, in seconds: jobs that take no time are counted.
const LEAST: f64 = 0.000_1;

/// How much of what lately means is the job that ended last.
const LATELY: f64 = 0.2;

/// What the lanes share; `None` inside: there is no bound.
#[derive(Debug, Clone)]
pub(crate) struct Shares(Option<Arc<Mutex<Book>>>);

/// A place to run one job, given back when dropped.
#[derive(Debug)]
pub(crate) struct Place(Option<HeldPlace>);

#[derive(Debug)]
struct HeldPlace {
    book: Arc<Mutex<Book>>,
    lane: usize,
    since: Instant,
    charged: f64,
}

#[derive(Debug)]
struct Book {
    free: usize,
    total: usize,
    lanes: Vec<Account>,
    names: BTreeMap<String, usize>,
}

/// What one lane was given. Times are in seconds.
#[derive(Debug)]
struct Account {
    weight: f64,
    /// What its ended jobs took, and what it was charged to be level.
    settled: f64,
    running: usize,
    /// Of those that run: when they started, summed up, as seconds since the epoch of the book.
    starts: f64,
    /// Of those that run: what they were charged when they started.
    charged: f64,
    /// What one of its jobs took lately.
    lately: f64,
    waiting: VecDeque<oneshot::Sender<Place>>,
}

impl Account {
    fn new(weight: u32) -> Self {
        Self {
            weight: f64::from(weight.max(1)),
            settled: 0.0,
            running: 0,
            starts: 0.0,
            charged: 0.0,
            lately: LEAST,
            waiting: VecDeque::new(),
        }
    }

    /// All that it was charged, by its weight.
    fn owed(&self, now: f64) -> f64 {
        let elapsed = self.running as f64 * now - self.starts;
        (self.settled + elapsed.max(self.charged)) / self.weight
    }

    fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting.is_empty()
    }
}

impl Shares {
    /// `total`: places of all lanes; 0: no bound.
    pub(crate) fn new<'a>(total: usize, weights: impl Iterator<Item = (&'a String, u32)>) -> Self {
        if total == 0 {
            return Self(None);
        }
        let (mut lanes, mut names) = (Vec::new(), BTreeMap::new());
        for (name, weight) in weights {
            names.insert(name.clone(), lanes.len());
            lanes.push(Account::new(weight));
        }
        let book = Book {
            free: total,
            total,
            lanes,
            names,
        };
        Self(Some(Arc::new(Mutex::new(book))))
    }

    /// How many jobs a lane may claim beyond those that run: its share of the places. `None`: as many as it likes.
    pub(crate) fn ahead(&self, lane: &str) -> Option<usize> {
        let book = lock(self.0.as_ref()?);
        let weight = book.lanes.get(*book.names.get(lane)?)?.weight;
        let all: f64 = book.lanes.iter().map(|lane| lane.weight).sum();
        Some(((book.total as f64 * weight / all).ceil() as usize).max(1))
    }

    /// A place, once it is the lane's turn. May be dropped while it waits.
    pub(crate) async fn take(&self, lane: &str) -> Place {
        let Some(book) = &self.0 else {
            return Place(None);
        };
        let waiting = {
            let mut guard = lock(book);
            let Some(lane) = guard.names.get(lane).copied() else {
                return Place(None);
            };
            let (sender, receiver) = oneshot::channel();
            guard.join(lane, sender);
            hand_out(book, &mut guard);
            receiver
        };
        // A sender is dropped with the book alone, which this holds.
        waiting.await.unwrap_or(Place(None))
    }
}

fn lock(book: &Mutex<Book>) -> MutexGuard<'_, Book> {
    book.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Seconds since some moment before the process had any lane.
fn seconds(at: Instant) -> f64 {
    static EPOCH: std::sync::OnceLock<Instant> = std::sync::OnceLock::new();
    let epoch = EPOCH.get_or_init(|| at);
    match at.checked_duration_since(*epoch) {
        Some(after) => after.as_secs_f64(),
        None => -epoch.duration_since(at).as_secs_f64(),
    }
}

impl Book {
    fn join(&mut self, lane: usize, waiter: oneshot::Sender<Place>) {
        if self.lanes[lane].is_idle() {
            let now = seconds(Instant::now());
            let least = self
                .lanes
                .iter()
                .filter(|other| !other.is_idle())
                .map(|other| other.owed(now))
                .fold(f64::INFINITY, f64::min);
            let account = &mut self.lanes[lane];
            if least.is_finite() {
                account.settled = account.settled.max(least * account.weight);
            }
        }
        self.lanes[lane].waiting.push_back(waiter);
    }

    /// The waiting lane that was charged least.
    fn next(&mut self, now: f64) -> Option<usize> {
        for account in &mut self.lanes {
            account.waiting.retain(|waiter| !waiter.is_closed());
        }
        let waiting = self.lanes.iter().enumerate();
        waiting
            .filter(|(_, account)| !account.waiting.is_empty())
            .map(|(lane, account)| (lane, account.owed(now)))
            .min_by(|(_, a), (_, b)| a.total_cmp(b))
            .map(|(lane, _)| lane)
    }

    fn start(&mut self, lane: usize, now: f64) -> f64 {
        let account = &mut self.lanes[lane];
        let charge = account.lately.max(LEAST);
        account.running += 1;
        account.starts += now;
        account.charged += charge;
        self.free -= 1;
        charge
    }

    fn end(&mut self, held: &HeldPlace, took: Duration) {
        let account = &mut self.lanes[held.lane];
        let took = took.as_secs_f64().max(LEAST);
        account.running -= 1;
        account.starts -= seconds(held.since);
        account.charged -= held.charged;
        if account.running == 0 {
            // What rounding has left behind.
            (account.starts, account.charged) = (0.0, 0.0);
        }
        account.settled += took;
        account.lately += (took - account.lately) * LATELY;
        self.free += 1;
    }
}

/// Gives free places to those who wait.
fn hand_out(book: &Arc<Mutex<Book>>, guard: &mut MutexGuard<'_, Book>) {
    while guard.free > 0 {
        let since = Instant::now();
        let now = seconds(since);
        let Some(lane) = guard.next(now) else { return };
        let Some(waiter) = guard.lanes[lane].waiting.pop_front() else {
            return;
        };
        let charged = guard.start(lane, now);
        let held = HeldPlace {
            book: Arc::clone(book),
            lane,
            since,
            charged,
        };
        if let Err(mut unwanted) = waiter.send(Place(Some(held))) {
            // It went away in this very moment. Not dropped as a place: the book is locked.
            if let Some(held) = unwanted.0.take() {
                guard.end(&held, Duration::ZERO);
            }
        }
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(held) = self.0.take() else { return };
        let book = Arc::clone(&held.book);
        let mut guard = lock(&book);
        guard.end(&held, held.since.elapsed());
        hand_out(&book, &mut guard);
    }
}

#[cfg(test)]
mod tests {
    use tokio::task::JoinSet;

    use super::*;

    fn shares(total: usize, weights: &[(&str, u32)]) -> Shares {
        let weights: Vec<(String, u32)> = weights
            .iter()
            .map(|(name, weight)| ((*name).to_owned(), *weight))
            .collect();
        Shares::new(total, weights.iter().map(|(name, weight)| (name, *weight)))
    }

    /// Runs `jobs` for each lane, which take so long each, until the time is over; how many each lane has ended.
    async fn run_for(
        shares: &Shares,
        time: Duration,
        lanes: &[(&'static str, usize, Duration)],
    ) -> BTreeMap<&'static str, u64> {
        let done: Arc<Mutex<BTreeMap<&'static str, u64>>> = Arc::default();
        let mut askers = JoinSet::new();
        for (lane, at_once, takes) in lanes.iter().copied() {
            for _ in 0..at_once {
                let (shares, done) = (shares.clone(), Arc::clone(&done));
                askers.spawn(async move {
                    loop {
                        let place = shares.take(lane).await;
                        tokio::time::sleep(takes).await;
                        drop(place);
                        *done.lock().unwrap().entry(lane).or_default() += 1;
                    }
                });
            }
        }
        tokio::time::sleep(time).await;
        askers.shutdown().await;
        let done = done.lock().unwrap();
        done.clone()
    }

    const MS: Duration = Duration::from_millis(1);
    const LONG: Duration = Duration::from_secs(100);

    #[tokio::test(start_paused = true)]
    async fn without_a_bound_nobody_waits() {
        let shares = shares(0, &[("a", 1)]);
        let places: Vec<Place> = futures::future::join_all((0..1_000).map(|_| shares.take("a"))).await;
        assert_eq!((places.len(), shares.ahead("a")), (1_000, None));
    }

    #[tokio::test(start_paused = true)]
    async fn lanes_that_all_have_work_get_it_done_in_proportion_to_their_weights() {
        for total in [1, 4, 20] {
            let shares = shares(total, &[("heavy", 3), ("light", 1)]);
            let lanes = [("heavy", 50, MS * 10), ("light", 50, MS * 10)];
            let done = run_for(&shares, LONG, &lanes).await;
            let ratio = done["heavy"] as f64 / done["light"] as f64;
            assert!((2.9..3.1).contains(&ratio), "{total} places: {done:?}");
            let all = done.values().sum::<u64>() as f64;
            let possible = total as f64 * 10_000.0;
            assert!(
                all > possible * 0.98,
                "{total} places: no place stands empty: {all}"
            );
        }
    }

    #[tokio::test(start_paused = true)]
    async fn shares_are_of_time_so_that_long_jobs_do_not_starve_short_ones() {
        let shares = shares(10, &[("long", 1), ("short", 1)]);
        let lanes = [("long", 50, MS * 2_000), ("short", 50, MS * 10)];
        let done = run_for(&shares, LONG, &lanes).await;
        let (long, short) = (done["long"] as f64 * 2.0, done["short"] as f64 * 0.01);
        assert!(
            (0.85..1.15).contains(&(long / short)),
            "{long} s and {short} s of places' time"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_least_of_weights_is_not_nothing() {
        let shares = shares(2, &[("a", 100), ("b", 100), ("least", 1)]);
        let lanes = [("a", 50, MS), ("b", 50, MS), ("least", 50, MS)];
        let done = run_for(&shares, LONG, &lanes).await;
        let part = done["least"] as f64 / done.values().sum::<u64>() as f64;
        assert!((0.004..0.006).contains(&part), "{done:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_lane_leaves_its_share_to_the_others_and_does_not_save_it_up() {
        let shares = shares(4, &[("busy", 1), ("late", 1)]);
        let alone = run_for(&shares, LONG, &[("busy", 50, MS * 10)]).await;
        assert!(alone["busy"] > 39_000, "all four places were its own: {alone:?}");
        let both = run_for(&shares, LONG, &[("busy", 50, MS * 10), ("late", 50, MS * 10)]).await;
        let ratio = both["late"] as f64 / both["busy"] as f64;
        assert!((0.9..1.1).contains(&ratio), "{both:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_places_are_out_than_there_are_and_one_that_nobody_waits_for_is_free() {
        let shares = shares(2, &[("a", 1), ("b", 1)]);
        let first = shares.take("a").await;
        let _second = shares.take("b").await;
        let waits = tokio::time::timeout(MS * 50, shares.take("a")).await;
        assert!(waits.is_err(), "both places are out");
        drop(first);
        // Whoever gave up while waiting gets none.
        let third = tokio::time::timeout(MS, shares.take("b")).await;
        assert!(third.is_ok());
        assert!(tokio::time::timeout(MS * 50, shares.take("b")).await.is_err());
    }

    #[test]
    fn a_lane_claims_no_more_ahead_than_its_share() {
        let shares = shares(10, &[("heavy", 3), ("light", 1), ("other", 1)]);
        assert_eq!(
            [shares.ahead("heavy"), shares.ahead("light"), shares.ahead("none")],
            [Some(6), Some(2), None]
        );
    }
}
