//! Jobs whose next crash would make them poison, held outside the lanes until the process' one permit is free.
//!
//! The run that could make a job poison happens alone in its process, so that a crash in it is the job's own ([`super::runner`]).
//! Such jobs wait here, without a place in their lane: those that never crashed neither wait for them nor for their places. The
//! permit goes to the job that waits longest, and with it the job to its lane, as any other.
//!
//! # Invariants
//! - At most [`MOST`] wait here, in the order in which they were claimed. What comes beyond that is put back for [`REST`]: another
//!   worker may have a permit for it.
//! - In a queue with limits none waits here: it would hold a place that another job of the queue could use. It is put back unless the
//!   permit is free.
//! - After the stop signal nothing waits here: all is handed back.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{Notify, mpsc};

use super::WorkerState;
use super::finisher::{FinishedJob, Lease};
use super::lane::Lane;
use super::runner::Delivery;
use crate::ledger::{ClaimedJob, Outcome};

/// Jobs that wait here at most; few, because each is kept from other workers.
pub(crate) const MOST: usize = 32;

/// How long a job is put back that finds no room here.
const REST: Duration = Duration::from_secs(5);

/// A leased job that waits for its last chance.
#[derive(Debug)]
pub(crate) struct Suspect {
    pub job: ClaimedJob,
    pub lease: Lease,
    pub lane: Arc<Lane>,
    pub deliveries: mpsc::Sender<Delivery>,
}

impl Suspect {
    fn put_back(self, shared: &WorkerState) {
        let fence = self.job.fence();
        let outcome = if shared.stop.is_triggered() {
            Outcome::HandBack { fence }
        } else {
            Outcome::Snooze { fence, delay: REST }
        };
        let slot = self.lane.take_slot();
        shared
            .outcomes
            .send(FinishedJob::unrun(self.lease, self.job, outcome, slot));
    }
}

#[derive(Debug, Default)]
pub(crate) struct LastChances {
    waiting: Mutex<SuspectQueue>,
    arrived: Notify,
}

#[derive(Debug, Default)]
struct SuspectQueue {
    suspects: VecDeque<Suspect>,
    closed: bool,
}

impl LastChances {
    fn waiting(&self) -> MutexGuard<'_, SuspectQueue> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives the job back if it may not wait here.
    fn hold(&self, suspect: Suspect, most: usize) -> Option<Suspect> {
        let mut waiting = self.waiting();
        if waiting.closed || waiting.suspects.len() >= most {
            return Some(suspect);
        }
        waiting.suspects.push_back(suspect);
        self.arrived.notify_one();
        None
    }

    /// Where the one that waits longest is to be sent, once there is one. It stays the first: others are added behind it.
    async fn first(&self) -> mpsc::Sender<Delivery> {
        loop {
            let arrived = self.arrived.notified();
            if let Some(first) = self.waiting().suspects.front() {
                return first.deliveries.clone();
            }
            arrived.await;
        }
    }
}

/// Whether the job's next crash would be its last.
pub(crate) fn is_suspect(shared: &WorkerState, job: &ClaimedJob) -> bool {
    job.crashes > 0 && job.crashes + 1 >= shared.settings.worker.max_crashes
}

/// Takes a suspect in, or puts it back.
pub(crate) fn hold(shared: &WorkerState, suspect: Suspect) {
    let idle = shared.last_chance.available_permits() > 0;
    let most = match (suspect.lane.is_limited(), idle) {
        (false, _) => MOST,
        (true, true) => 1,
        (true, false) => 0,
    };
    if let Some(suspect) = shared.last_chances.hold(suspect, most) {
        suspect.put_back(shared);
    }
}

/// Hands the permit to one suspect after the other, until the worker stops.
pub(crate) async fn run(shared: Arc<WorkerState>) {
    shared.stop.token().run_until_cancelled(hand_out(&shared)).await;
    let left = {
        let mut waiting = shared.last_chances.waiting();
        waiting.closed = true;
        std::mem::take(&mut waiting.suspects)
    };
    for suspect in left {
        suspect.put_back(&shared);
    }
}

/// May be dropped at any await: a suspect is taken out only when it can be sent.
async fn hand_out(shared: &WorkerState) {
    loop {
        let deliveries = shared.last_chances.first().await;
        let Ok(permit) = Arc::clone(&shared.last_chance).acquire_owned().await else {
            return;
        };
        let place = deliveries.reserve_owned().await;
        let Some(suspect) = shared.last_chances.waiting().suspects.pop_front() else {
            continue;
        };
        // There is room for another one.
        suspect.lane.ledger_alarm.now();
        match place {
            Ok(place) => drop(place.send(Delivery {
                slot: suspect.lane.take_slot(),
                job: suspect.job,
                lease: suspect.lease,
                last_chance: Some(permit),
            })),
            // The runner of its lane has stopped.
            Err(_) => suspect.put_back(shared),
        }
    }
}
