//! The pulls that wait: one listener to the bell and one look at the ledger for all of a process.
//!
//! # How a pull is woken
//! A ring for a queue wakes one pull that waits for it, in turn. A pull that was woken and found a job wakes the next, so that as many
//! are woken as there are jobs, and one more. One that was woken and goes without having claimed wakes another. Rings for later, jobs
//! that a look finds, and what a claim says of the next time are alarms of the queue.
//!
//! # Invariants
//! - A wake-up is not lost: it is a mark on the pull, which is taken off before the claim. What is rung during a claim makes another
//!   claim.
//! - Nothing depends on a ring: the ledger is looked at as often as [`LookPace`] says, one statement for all queues.
//! - A queue is *empty* while a claim that found nothing was the last news of it, and at least one pull has waited for it since
//!   then. A pull that begins, and may wait, does not claim from an empty queue: it is woken by the same rings and looks as the others.
//!   Queues with limits are never held for empty: only their claims know whether a job may start.
//! - One pull of a worker waits at a time: a newer one ends the older, which is answered with nothing. What that had claimed by then
//!   is given by the newer one.
//! - The task runs while there is a handle; it does nothing while no pull waits.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use holdfast_core::config::WorkerSettings;
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::{MAX_WAITING, PullError};
use crate::client::Jobs;
use crate::id::WorkerId;
use crate::look_pace::LookPace;

/// Longest wait for the bell in one go.
const BELL_WAIT: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Hub {
    shared: Arc<HubState>,
    jobs: Jobs,
    settings: WorkerSettings,
    started: std::sync::Once,
    stop: CancellationToken,
    _stop: DropGuard,
}

#[derive(Debug, Default)]
struct HubState {
    state: Mutex<State>,
    /// There is a queue more to listen to, or an alarm.
    changed: Notify,
}

#[derive(Debug, Default)]
struct State {
    waiting: BTreeMap<u64, WaitingPull>,
    number: u64,
    /// Which pull was woken last, by queue.
    turn: HashMap<Arc<str>, u64>,
    alarms: BTreeMap<Arc<str>, Instant>,
    limited: BTreeSet<Arc<str>>,
    /// Those that pulls wait for.
    awaited: HashMap<Arc<str>, AwaitedQueue>,
}

#[derive(Debug, Default)]
struct AwaitedQueue {
    /// Pulls that wait for it.
    pulls: usize,
    /// How often it was worth a claim.
    wakes: u64,
    empty: bool,
}

#[derive(Debug)]
struct WaitingPull {
    worker: WorkerId,
    queues: Vec<Arc<str>>,
    /// For which of them it was woken.
    woken: BTreeSet<Arc<str>>,
    superseded: bool,
    notify: Arc<Notify>,
}

/// Why a wait ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wake {
    Woken,
    Superseded,
    TimeIsUp,
}

/// A pull that may wait; it leaves when it is dropped.
#[derive(Debug)]
pub(super) struct Poll {
    shared: Arc<HubState>,
    number: u64,
    notify: Arc<Notify>,
}

impl Hub {
    pub(super) fn new(jobs: Jobs, settings: WorkerSettings) -> Self {
        let stop = CancellationToken::new();
        Self {
            shared: Arc::default(),
            jobs,
            settings,
            started: std::sync::Once::new(),
            _stop: stop.clone().drop_guard(),
            stop,
        }
    }

    /// A pull of this worker begins: it claims first, and then waits. Call it inside the process' own runtime.
    pub(super) fn enter(&self, worker: WorkerId, queues: &[Arc<str>]) -> Result<Poll, PullError> {
        self.start();
        let mut state = self.shared.state();
        state.supersede(worker);
        if state.waiting.len() >= MAX_WAITING {
            return Err(PullError::TooManyWaiting);
        }
        state.number += 1;
        let (number, notify) = (state.number, Arc::new(Notify::new()));
        let waiting = WaitingPull {
            worker,
            queues: queues.to_vec(),
            woken: BTreeSet::new(),
            superseded: false,
            notify: Arc::clone(&notify),
        };
        state.insert(number, waiting);
        self.shared.changed.notify_one();
        Ok(Poll {
            shared: Arc::clone(&self.shared),
            number,
            notify,
        })
    }

    pub(super) fn supersede(&self, worker: WorkerId) {
        self.shared.state().supersede(worker);
    }

    /// A pull of the worker has left jobs behind: the one that waits is to give them.
    pub(super) fn wake_worker(&self, worker: WorkerId) {
        let mut state = self.shared.state();
        let waits = |waiting: &&mut WaitingPull| waiting.worker == worker && !waiting.superseded;
        if let Some(waiting) = state.waiting.values_mut().find(waits) {
            waiting.woken.extend(waiting.queues.first().cloned());
            waiting.notify.notify_one();
        }
    }

    /// There may be more for others who wait for this queue.
    pub(super) fn wake(&self, queue: &str) {
        self.shared.state().wake(queue);
    }

    /// The queue is worth another claim then.
    pub(super) fn alarm(&self, queue: &str, after: Duration) {
        self.shared.state().alarm(queue, after);
        self.shared.changed.notify_one();
    }

    pub(super) fn is_limited(&self, queue: &str) -> bool {
        self.shared.state().limited.contains(queue)
    }

    pub(super) fn set_limited(&self, queue: &str, limited: bool) {
        let mut state = self.shared.state();
        if limited {
            state.limited.insert(Arc::from(queue));
        } else {
            state.limited.remove(queue);
        }
    }

    /// Whether a claim from the queue would find nothing, for all that this process knows.
    pub(super) fn is_empty(&self, queue: &str) -> bool {
        self.shared.state().is_empty(queue)
    }

    /// To be read before a claim, for [`Hub::found_empty`].
    pub(super) fn wakes(&self, queue: &str) -> u64 {
        self.shared.state().wakes(queue)
    }

    /// A claim that began at `wakes` found nothing.
    pub(super) fn found_empty(&self, queue: &str, wakes: u64) {
        self.shared.state().found_empty(queue, wakes);
    }

    fn start(&self) {
        self.started.call_once(|| {
            let task = run(Arc::clone(&self.shared), self.jobs.clone(), self.settings.clone());
            tokio::spawn(self.stop.clone().run_until_cancelled_owned(task));
        });
    }
}

impl HubState {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    fn supersede(&mut self, worker: WorkerId) {
        for waiting in self
            .waiting
            .values_mut()
            .filter(|waiting| waiting.worker == worker)
        {
            waiting.superseded = true;
            waiting.notify.notify_one();
        }
    }

    fn is_empty(&self, queue: &str) -> bool {
        self.awaited.get(queue).is_some_and(|awaited| awaited.empty)
    }

    fn wakes(&self, queue: &str) -> u64 {
        self.awaited.get(queue).map_or(0, |awaited| awaited.wakes)
    }

    fn found_empty(&mut self, queue: &str, wakes: u64) {
        if let Some(awaited) = self.awaited.get_mut(queue) {
            awaited.empty = awaited.wakes == wakes;
        }
    }

    fn insert(&mut self, number: u64, waiting: WaitingPull) {
        for queue in &waiting.queues {
            self.awaited.entry(Arc::clone(queue)).or_default().pulls += 1;
        }
        self.waiting.insert(number, waiting);
    }

    fn remove(&mut self, number: u64) -> Option<WaitingPull> {
        let waiting = self.waiting.remove(&number)?;
        for queue in &waiting.queues {
            if let Some(awaited) = self.awaited.get_mut(queue) {
                awaited.pulls -= 1;
                if awaited.pulls == 0 {
                    self.awaited.remove(queue);
                }
            }
        }
        Some(waiting)
    }

    /// Wakes the next in turn that waits for this queue and was not woken for it.
    fn wake(&mut self, queue: &str) {
        if let Some(awaited) = self.awaited.get_mut(queue) {
            awaited.wakes += 1;
            awaited.empty = false;
        }
        let last = self.turn.get(queue).copied().unwrap_or(0);
        let waits = |(_, waiting): &(&u64, &WaitingPull)| {
            !waiting.superseded
                && waiting.queues.iter().any(|name| **name == *queue)
                && !waiting.woken.contains(queue)
        };
        let next = self.waiting.range(last + 1..).find(waits);
        let next = next.or_else(|| self.waiting.range(..=last).find(waits));
        let Some(number) = next.map(|(number, _)| *number) else {
            return;
        };
        let queue: Arc<str> = Arc::from(queue);
        if let Some(waiting) = self.waiting.get_mut(&number) {
            waiting.woken.insert(Arc::clone(&queue));
            waiting.notify.notify_one();
        }
        self.turn.insert(queue, number);
    }

    fn alarm(&mut self, queue: &str, after: Duration) {
        let at = Instant::now() + after;
        let alarm = self.alarms.entry(Arc::from(queue)).or_insert(at);
        *alarm = at.min(*alarm);
    }

    fn queues(&self) -> BTreeSet<Arc<str>> {
        self.waiting
            .values()
            .flat_map(|waiting| waiting.queues.iter().cloned())
            .collect()
    }

    /// Wakes for the alarms that are due; when the next one is.
    fn fire(&mut self, now: Instant) -> Option<Instant> {
        let due: Vec<Arc<str>> = self
            .alarms
            .iter()
            .filter(|(_, at)| **at <= now)
            .map(|(queue, _)| Arc::clone(queue))
            .collect();
        for queue in due {
            self.alarms.remove(&queue);
            self.wake(&queue);
        }
        self.alarms.values().min().copied()
    }
}

impl Poll {
    /// The queues that are to be claimed from now. Rings from here on make the next wait end.
    pub(super) fn take_wakes(&self) -> BTreeSet<Arc<str>> {
        let mut state = self.shared.state();
        let waiting = state.waiting.get_mut(&self.number);
        waiting
            .map(|waiting| std::mem::take(&mut waiting.woken))
            .unwrap_or_default()
    }

    /// A newer pull of the worker has begun, or the worker has left.
    pub(super) fn is_superseded(&self) -> bool {
        let state = self.shared.state();
        state
            .waiting
            .get(&self.number)
            .is_none_or(|waiting| waiting.superseded)
    }

    pub(super) async fn wait(&self, until: Instant) -> Wake {
        loop {
            {
                let state = self.shared.state();
                match state.waiting.get(&self.number) {
                    None => return Wake::Superseded,
                    Some(waiting) if waiting.superseded => return Wake::Superseded,
                    Some(waiting) if !waiting.woken.is_empty() => return Wake::Woken,
                    Some(_) => {}
                }
            }
            if tokio::time::timeout_at(until, self.notify.notified())
                .await
                .is_err()
            {
                return Wake::TimeIsUp;
            }
        }
    }
}

impl Drop for Poll {
    fn drop(&mut self) {
        let mut state = self.shared.state();
        // Whoever goes without a claim passes its wake-ups on.
        if let Some(gone) = state.remove(self.number) {
            for queue in gone.woken {
                state.wake(&queue);
            }
        }
    }
}

async fn run(shared: Arc<HubState>, jobs: Jobs, settings: WorkerSettings) {
    let mut listener = jobs.bell().listener();
    let mut pace = LookPace::new(&settings);
    let mut looked_at = Instant::now();
    loop {
        let queues: Vec<String> = shared.state().queues().iter().map(ToString::to_string).collect();
        if queues.is_empty() {
            shared.state().alarms.clear();
            shared.changed.notified().await;
            continue;
        }
        let now = Instant::now();
        let next_alarm = shared.state().fire(now);
        let next_look = looked_at + pace.pause(jobs.bell().gate().mode().is_normal());
        if next_look <= now {
            pace.looked(look(&shared, &jobs, &queues, settings.safety_poll).await);
            looked_at = Instant::now();
            continue;
        }
        let until = next_alarm.map_or(next_look, |alarm| alarm.min(next_look));
        let wait = until.saturating_duration_since(now).min(BELL_WAIT);
        tokio::select! {
            heard = listener.wait(&queues, wait) => {
                let mut state = shared.state();
                for ring in heard.rings {
                    if ring.due_in.is_zero() {
                        state.wake(&ring.queue);
                    } else {
                        state.alarm(&ring.queue, ring.due_in);
                    }
                }
            }
            () = shared.changed.notified() => {}
        }
    }
}

/// Sets the alarms of what is due before the next look; whether anything is due now. `None`: no answer.
async fn look(shared: &HubState, jobs: &Jobs, queues: &[String], horizon: Duration) -> Option<bool> {
    let due = match jobs.ledger().peek(queues).await {
        Ok(due) => due,
        Err(error) => {
            tracing::debug!(error = ?error, "cannot look for jobs of waiting pulls");
            return None;
        }
    };
    let mut state = shared.state();
    // What is due in a queue with limits may not start all the same; its claim knows.
    let limited: Vec<Arc<str>> = state.limited.iter().cloned().collect();
    for queue in limited {
        state.wake(&queue);
    }
    let mut found = false;
    for (queue, due_in) in due {
        if due_in <= horizon {
            state.alarm(&queue, due_in);
        }
        found |= due_in.is_zero();
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn enter(shared: &Arc<HubState>, queue: &str) -> Poll {
        let mut state = shared.state();
        state.number += 1;
        let (number, notify) = (state.number, Arc::new(Notify::new()));
        let waiting = WaitingPull {
            worker: WorkerId::generate(),
            queues: vec![Arc::from(queue)],
            woken: BTreeSet::new(),
            superseded: false,
            notify: Arc::clone(&notify),
        };
        state.insert(number, waiting);
        Poll {
            shared: Arc::clone(shared),
            number,
            notify,
        }
    }

    #[test]
    fn a_queue_is_empty_until_a_wake_or_until_no_pull_waits_for_it() {
        let shared = Arc::new(HubState::default());
        let is_empty = || shared.state().is_empty("a");
        let first = enter(&shared, "a");
        let wakes = shared.state().wakes("a");
        shared.state().found_empty("a", wakes);
        assert!(is_empty());
        shared.state().wake("a");
        assert!(!is_empty());
        shared.state().found_empty("a", wakes);
        assert!(!is_empty(), "the claim began before the wake");
        let wakes = shared.state().wakes("a");
        shared.state().found_empty("a", wakes);
        let second = enter(&shared, "a");
        assert!(is_empty());
        first.take_wakes();
        drop(first);
        assert!(is_empty(), "another pull waits for it");
        drop(second);
        drop(enter(&shared, "a"));
        assert!(!is_empty(), "no pull listened for a while");
        assert!(shared.state().awaited.is_empty());
    }

    #[tokio::test(start_paused = true)]
    async fn each_ring_wakes_another_pull_and_one_that_leaves_passes_its_wake_up_on() {
        let shared = Arc::new(HubState::default());
        let (first, second, other) = (enter(&shared, "a"), enter(&shared, "a"), enter(&shared, "b"));
        let soon = || Instant::now() + Duration::from_millis(5);
        shared.state().wake("a");
        assert_eq!(first.wait(soon()).await, Wake::Woken);
        assert_eq!(second.wait(soon()).await, Wake::TimeIsUp);
        drop(first);
        assert_eq!(
            second.wait(soon()).await,
            Wake::Woken,
            "the first had not claimed"
        );
        assert_eq!(second.take_wakes().len(), 1);
        assert_eq!(second.wait(soon()).await, Wake::TimeIsUp);
        shared.state().alarm("a", Duration::from_secs(1));
        assert!(shared.state().fire(Instant::now()).is_some());
        tokio::time::advance(Duration::from_secs(2)).await;
        assert!(shared.state().fire(Instant::now()).is_none());
        assert_eq!(second.wait(soon()).await, Wake::Woken);
        assert_eq!(other.wait(soon()).await, Wake::TimeIsUp, "of another queue");
    }
}
