//! Finished jobs leave the broker.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::failpoint;
use holdfast_core::failure::FailureClass;
use holdfast_core::telemetry::catalogue;
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use super::WorkerState;
use super::finisher::FinishedJob;
use crate::broker::{Broker, BrokerError, BrokerOutcome, FinishedExecution as BrokerFinished};
use crate::id::{JobId, WorkerId};
use crate::ledger::Outcome;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// What the broker is to be told of a batch.
#[derive(Debug)]
pub(super) struct Departure {
    queue: Arc<str>,
    worker: WorkerId,
    ended: Vec<BrokerFinished>,
    back: Vec<JobId>,
}

impl Departure {
    pub(super) fn of(queue: &Arc<str>, worker: WorkerId, finished: &[FinishedJob]) -> Self {
        let mut departure = Self {
            queue: Arc::clone(queue),
            worker,
            ended: Vec::with_capacity(finished.len()),
            back: Vec::new(),
        };
        for one in finished {
            let outcome = match &one.outcome {
                Outcome::HandBack { .. } => {
                    departure.back.push(one.job.id);
                    continue;
                }
                Outcome::Completed { result, .. } => BrokerOutcome::Completed(result.clone()),
                Outcome::Cancel { .. } => BrokerOutcome::Cancelled,
                _ => BrokerOutcome::Moved,
            };
            let (id, kind, attempt) = (one.job.id, one.job.kind.clone(), one.job.attempt + 1);
            departure.ended.push(BrokerFinished {
                id,
                kind,
                attempt,
                outcome,
            });
        }
        departure
    }

    fn jobs(&self) -> usize {
        self.ended.len() + self.back.len()
    }

    /// Tells the broker; how many of the leases it had lost.
    async fn tell(&self, broker: &Broker) -> Result<usize, BrokerError> {
        let mut void = 0;
        if !self.ended.is_empty() {
            failpoint::reach("acknowledge");
            let held = broker.acknowledge(&self.queue, self.worker, &self.ended).await?;
            failpoint::reach("acknowledged");
            void = self.ended.len() - held.len();
        }
        if !self.back.is_empty() {
            broker.hand_back(&self.queue, self.worker, &self.back).await?;
        }
        Ok(void)
    }

    fn forget_leases(&self, shared: &WorkerState) {
        let ids = self
            .ended
            .iter()
            .map(|one| one.id)
            .chain(self.back.iter().copied());
        shared.leased.remove(&self.queue, self.worker, ids);
    }
}

/// Takes finished jobs off the broker. If it is away, their places are freed at once (the lane's jobs come from the
/// ledger now, and no more can come from the broker), and the outcomes are held, with the last chances among them: a
/// crash would still count against these jobs.
pub(super) async fn leave_broker(
    shared: &Arc<WorkerState>,
    departure: Departure,
    places: Vec<FinishedJob>,
    holding: &TaskTracker,
) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    match departure.tell(broker).await {
        Ok(void) => {
            departure.forget_leases(shared);
            if void > 0 {
                catalogue::JOB_OUTCOMES_VOID.with([]).increment(void as u64);
                tracing::warn!(jobs = void, queue = %departure.queue, "outcomes are ignored: the broker lost their leases");
            }
        }
        Err(error) => {
            let last_chances: Vec<_> = places.into_iter().filter_map(|one| one.last_chance).collect();
            let shared = Arc::clone(shared);
            holding.spawn(async move {
                hold(&shared, departure, error).await;
                drop(last_chances);
            });
        }
    }
}

/// Tries until the broker is back. What it held when it went away bounds what is held here. If it gave the leases up
/// meanwhile, or lost its memory, it takes nothing, and that is that.
///
/// What the broker refuses is tried for as long as a lease lives too, and given up only then: a refusal may be how an
/// outage begins. To whoever has not given the new password, a server calls a long command a protocol error.
async fn hold(shared: &WorkerState, departure: Departure, error: BrokerError) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    let (jobs, queue) = (departure.jobs(), &departure.queue);
    // The gate has said that Redis is away; this happens for every batch of an outage.
    tracing::debug!(jobs, queue = %queue, error = %error, "outcomes are held until the broker recovers");
    let mut error = error;
    let mut failures = 0;
    let mut refused: Option<Instant> = None;
    loop {
        if error.class() == FailureClass::Transient {
            refused = None;
        } else if refused.get_or_insert_with(Instant::now).elapsed() >= shared.settings.worker.lost_after {
            break;
        }
        failures += 1;
        tokio::time::sleep(BACKOFF.delay(failures)).await;
        match departure.tell(broker).await {
            Ok(_) => {
                tracing::debug!(jobs, queue = %queue, failures, "held outcomes are stored");
                return departure.forget_leases(shared);
            }
            Err(again) => error = again,
        }
    }
    tracing::error!(jobs, queue = %queue, error = %error, "the broker refuses outcomes; it may run their jobs again");
    departure.forget_leases(shared);
}
