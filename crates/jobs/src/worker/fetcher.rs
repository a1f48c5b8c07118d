//! The way in: claims from the ledger, and fetches from the broker, as long as the lane has room.
//!
//! A full batch means that more is waiting, so the next claim follows at once, without a bell.
//!
//! A claimed job may be *doubtful*: its push to the broker was never answered, so it may stand there too. The broker is
//! asked before it runs. Waiting there: it is taken out and runs from here. Running there: it rests, and the broker is
//! asked again, so that a broker that loses its memory meanwhile loses no job. Done there: the ledger takes the result
//! over. While the broker cannot be asked the job rests, for [`DOUBT_PATIENCE`] at most; then it runs, and the mark
//! stays, so that [`purge_doubts`] removes the other copy before anyone fetches from a broker that came back.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::clock;
use holdfast_core::config::Durability;
use holdfast_core::failpoint;
use holdfast_core::failure::Certainty;
use holdfast_core::telemetry::catalogue;
use tokio::sync::mpsc;

use super::WorkerState;
use super::finisher::{FinishedJob, Lease};
use super::lane::Lane;
use super::last_chances::{self, Suspect};
use super::runner::Delivery;
use crate::broker::{
    Batch, Broker, BrokerError, BrokerRecord, EndState, FetchAnswer, Place, Registration, Resolution,
    Unreadable,
};
use crate::claiming;
use crate::envelope::Envelope;
use crate::expiry;
use crate::id::{JobId, WorkerId};
use crate::ledger::{ClaimedJob, ErrorRecord, LedgerError, Options, Outcome, Priority, UNREADABLE};
use crate::limits::ClaimRequest;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// Before a claim that met a lock is tried again: it has waited for that lock already, for as long as the server lets it.
const CONTENTION_REST: Duration = Duration::from_millis(20);

/// How long a doubtful job waits for a broker that cannot be asked, counted from when its id was made: as long as a
/// worker that had taken it there would keep its lease.
const DOUBT_PATIENCE: Duration = Duration::from_secs(15);

/// How long it rests in between.
const DOUBT_REST: Duration = Duration::from_secs(1);

/// Doubtful rows looked at in one step.
const DOUBTS: usize = 500;

type Deliveries = mpsc::Sender<Delivery>;

/// Claims this lane's due jobs from the ledger until the worker stops.
pub(crate) async fn run_ledger(shared: Arc<WorkerState>, lane: Arc<Lane>, deliveries: Deliveries) {
    let mut failures = 0;
    lane.ledger_alarm.now();
    while shared
        .stop
        .token()
        .run_until_cancelled(lane.ledger_alarm.due())
        .await
        .is_some()
    {
        match claim_while_full(&shared, &lane, &deliveries).await {
            Ok(()) => {
                failures = 0;
            }
            // Somebody else claims from the queue, or has locked its row. The server has waited, so it is asked again soon.
            Err(error) if error.is_contention() => lane.ledger_alarm.after(CONTENTION_REST),
            Err(error) => {
                // An outage is told once, by the one place that sees every statement.
                if error.is_transient() {
                    tracing::debug!(queue = %lane.name, error = ?error, "cannot claim");
                } else if failures == 0 {
                    tracing::error!(queue = %lane.name, error = ?error, "the ledger refuses a claim");
                }
                failures += 1;
                lane.ledger_alarm
                    .after(BACKOFF.delay(failures).max(Duration::from_millis(20)));
            }
        }
    }
}

async fn claim_while_full(
    shared: &WorkerState,
    lane: &Arc<Lane>,
    deliveries: &Deliveries,
) -> Result<(), LedgerError> {
    shared.declare_limits().await?;
    loop {
        let Some(room) = shared.stop.token().run_until_cancelled(lane.has_room()).await else {
            return Ok(());
        };
        let claimed = claim(shared, lane, room).await;
        shared.vitals.looked();
        let (worker, claimed) = claimed?;
        match claimed {
            ClaimResult::OtherwiseClaimed => {}
            ClaimResult::Jobs { jobs, more } => {
                take(shared, lane, deliveries, worker, jobs).await;
                if !more {
                    return Ok(());
                }
            }
        }
    }
}

/// What one claim came to.
enum ClaimResult {
    Jobs {
        jobs: Vec<ClaimedJob>,
        /// A full batch: more may wait.
        more: bool,
    },
    /// The queue has limits now, or none any more: it is to be claimed from the other way.
    OtherwiseClaimed,
}

/// Claims within the queue's limits, if it has any; finds out when it begins or ceases to have them.
async fn claim(
    shared: &WorkerState,
    lane: &Lane,
    room: usize,
) -> Result<(WorkerId, ClaimResult), LedgerError> {
    let claim = shared.identity.begin_claim();
    let worker = claim.id;
    let asked = ClaimRequest {
        queue: &lane.name,
        worker,
        room,
        lost_after: shared.settings.worker.lost_after,
    };
    let claimed = claiming::claim(&shared.jobs, asked, lane.is_limited()).await;
    let claimed = claimed.map_err(|failure| {
        if failure.while_claiming && failure.error.certainty() == Certainty::Unknown {
            shared.identity.retire(worker);
        }
        failure.error
    })?;
    if claimed.limited != lane.is_limited() {
        lane.set_limited(claimed.limited);
        return Ok((worker, ClaimResult::OtherwiseClaimed));
    }
    if let Some(again_in) = claimed.again_in {
        lane.ledger_alarm.after(again_in);
    }
    let (jobs, more) = (claimed.jobs, claimed.more);
    shared
        .leased
        .add(&lane.name, worker, jobs.iter().map(|job| job.id));
    claim.took(jobs.len());
    drop(claim);
    Ok((worker, ClaimResult::Jobs { jobs, more }))
}

/// Each claimed job is delivered, or has an outcome. There is no other way out: this worker counts it as known, so nobody would look
/// for it.
async fn take(
    shared: &WorkerState,
    lane: &Arc<Lane>,
    deliveries: &Deliveries,
    worker: WorkerId,
    mut claimed: Vec<ClaimedJob>,
) {
    if !claimed.is_empty() {
        failpoint::reach("claim");
    }
    shared.jobs.mark_expired(&mut claimed).await;
    let (expired, claimed): (Vec<_>, Vec<_>) = claimed.into_iter().partition(|job| job.expired);
    for job in expired {
        let outcome = expiry::outcome(&job, &shared.identity.name());
        store_unrun(shared, lane, worker, job, outcome);
    }
    let (unreadable, readable): (Vec<_>, Vec<_>) =
        claimed.into_iter().partition(|job| job.unreadable.is_some());
    discard_unreadable(shared, lane, worker, unreadable);
    let (doubtful, certain): (Vec<_>, Vec<_>) = readable.into_iter().partition(|job| job.doubtful);
    deliver(shared, lane, deliveries, worker, certain).await;
    if !doubtful.is_empty() {
        let cleared = resolve_doubts(shared, lane, worker, doubtful).await;
        deliver(shared, lane, deliveries, worker, cleared).await;
    }
}

/// What this version cannot read becomes a dead letter, with the reason; its row stays as it is, for a version that can.
fn discard_unreadable(shared: &WorkerState, lane: &Arc<Lane>, worker: WorkerId, jobs: Vec<ClaimedJob>) {
    let Some(first) = jobs.first() else { return };
    let reason = first.unreadable.as_deref().unwrap_or_default();
    tracing::error!(queue = %lane.name, jobs = jobs.len(), first = %first.id, reason, "jobs cannot be read and are discarded");
    catalogue::JOBS_UNREADABLE
        .with([&lane.name])
        .increment(jobs.len() as u64);
    for job in jobs {
        let reason = job.unreadable.as_deref().unwrap_or_default();
        let worker_name = shared.identity.name();
        let error = ErrorRecord::new(clock::now(), job.attempt + 1, UNREADABLE, reason, &worker_name);
        let outcome = Outcome::Discard {
            fence: job.fence(),
            error,
        };
        store_unrun(shared, lane, worker, job, outcome);
    }
}

async fn deliver(
    shared: &WorkerState,
    lane: &Arc<Lane>,
    deliveries: &Deliveries,
    worker: WorkerId,
    jobs: Vec<ClaimedJob>,
) {
    for job in jobs {
        deliver_one(shared, lane, deliveries, Lease::Ledger { worker }, job).await;
    }
}

async fn deliver_one(
    shared: &WorkerState,
    lane: &Arc<Lane>,
    deliveries: &Deliveries,
    lease: Lease,
    job: ClaimedJob,
) {
    if last_chances::is_suspect(shared, &job) {
        let suspect = Suspect {
            job,
            lease,
            lane: Arc::clone(lane),
            deliveries: deliveries.clone(),
        };
        return last_chances::hold(shared, suspect);
    }
    let delivery = Delivery {
        job,
        lease,
        slot: lane.take_slot(),
        last_chance: None,
    };
    // The channel holds as many as the lane has slots; it is closed only by a runner that stopped.
    if let Err(error) = deliveries.send(delivery).await {
        error.0.hand_back(shared);
    }
}

/// The doubtful jobs that may run from here now.
async fn resolve_doubts(
    shared: &WorkerState,
    lane: &Arc<Lane>,
    worker: WorkerId,
    jobs: Vec<ClaimedJob>,
) -> Vec<ClaimedJob> {
    let (mut cleared, mut settled) = (Vec::new(), Vec::new());
    for job in jobs {
        let resolved = match shared.jobs.broker() {
            Some(broker) => broker.resolve(&lane.name, job.id).await,
            None => Ok(Resolution::Unknown),
        };
        match resolved {
            Ok(Resolution::Removed | Resolution::Unknown) => settled.push(job),
            Ok(Resolution::Done) => take_over_result(shared, lane, worker, job).await,
            Ok(Resolution::Running) => rest(shared, lane, worker, job),
            Err(_) if age_of(&job) > DOUBT_PATIENCE => cleared.push(job),
            Err(_) => rest(shared, lane, worker, job),
        }
    }
    let ids: Vec<JobId> = settled.iter().map(|job| job.id).collect();
    if ids.is_empty() {
        return cleared;
    }
    match shared.jobs.ledger().settle(&ids).await {
        Ok(()) => cleared.extend(settled),
        // They keep their mark, and the broker is asked again.
        Err(error) => {
            tracing::debug!(queue = %lane.name, jobs = ids.len(), error = ?error, "unconfirmed jobs could not be settled");
            for job in settled {
                rest(shared, lane, worker, job);
            }
        }
    }
    cleared
}

fn age_of(job: &ClaimedJob) -> Duration {
    Duration::from_millis(clock::unix_millis().saturating_sub(job.id.created_ms()))
}

/// Puts a doubtful job back for a moment.
fn rest(shared: &WorkerState, lane: &Arc<Lane>, worker: WorkerId, job: ClaimedJob) {
    let outcome = Outcome::Snooze {
        fence: job.fence(),
        delay: DOUBT_REST,
    };
    store_unrun(shared, lane, worker, job, outcome);
}

/// The job ran on the broker after all: what came of it there is what came of it.
async fn take_over_result(shared: &WorkerState, lane: &Arc<Lane>, worker: WorkerId, job: ClaimedJob) {
    let Some(broker) = shared.jobs.broker() else {
        return rest(shared, lane, worker, job);
    };
    let fence = job.fence();
    let outcome = match broker.job(&lane.name, job.id).await {
        Ok(Some(BrokerRecord {
            place:
                Place::Ended {
                    outcome: EndState::Completed,
                    result,
                    ..
                },
            ..
        })) => Outcome::Completed {
            fence,
            result: result.map(Arc::from),
        },
        Ok(Some(BrokerRecord {
            place:
                Place::Ended {
                    outcome: EndState::Cancelled,
                    ..
                },
            ..
        })) => Outcome::Cancel { fence, error: None },
        _ => return rest(shared, lane, worker, job),
    };
    store_unrun(shared, lane, worker, job, outcome);
}

/// An outcome without an execution here.
fn store_unrun(shared: &WorkerState, lane: &Arc<Lane>, worker: WorkerId, job: ClaimedJob, outcome: Outcome) {
    let slot = lane.take_slot();
    let lease = Lease::Ledger { worker };
    shared
        .outcomes
        .send(FinishedJob::unrun(lease, job, outcome, slot));
}

/// Fetches this lane's jobs from the broker until the worker stops.
pub(crate) async fn run_broker(shared: Arc<WorkerState>, lane: Arc<Lane>, deliveries: Deliveries) {
    let Some(broker) = shared.jobs.broker().cloned() else {
        return;
    };
    debug_assert_eq!(lane.durability, Durability::Redis);
    let mut source = BrokerSource {
        shared: &shared,
        lane: &lane,
        broker: &broker,
        reconcile: false,
        purged: false,
    };
    lane.broker_alarm.now();
    while shared
        .stop
        .token()
        .run_until_cancelled(lane.broker_alarm.due())
        .await
        .is_some()
    {
        // A broker that is full takes no jobs and must all the more be drained.
        if !broker.serves() {
            source.purged = false;
            wait_until_it_serves(&shared, &broker).await;
            lane.broker_alarm.now();
            continue;
        }
        // The gate has said why it is degraded; what fails in between is told at the debug level.
        match source.fetch_while_any(&deliveries).await {
            Ok(()) => lane.broker_alarm.after(shared.settings.worker.broker_poll),
            Err(error) => {
                tracing::debug!(queue = %lane.name, error = %error, "cannot fetch from the broker");
                source.reconcile |= error.certainty() == Certainty::Unknown;
                lane.broker_alarm
                    .after(BACKOFF.delay(2).max(Duration::from_millis(20)));
            }
        }
    }
}

async fn wait_until_it_serves(shared: &WorkerState, broker: &Broker) {
    let mut modes = shared.gate.watch();
    while !broker.serves() && !shared.stop.is_triggered() {
        tokio::select! {
            // A gate that is gone changes no more; the process is ending.
            changed = modes.changed() => if changed.is_err() { return },
            () = shared.stop.wait() => {}
        }
    }
}

/// The broker side of one lane.
struct BrokerSource<'a> {
    shared: &'a WorkerState,
    lane: &'a Arc<Lane>,
    broker: &'a Broker,
    /// A fetch got no answer: the broker may hold jobs under our name that nobody runs.
    reconcile: bool,
    /// The ledger's doubtful jobs were taken off the broker since it came back.
    purged: bool,
}

impl BrokerSource<'_> {
    async fn fetch_while_any(&mut self, deliveries: &Deliveries) -> Result<(), BrokerError> {
        if !self.purged {
            purge_doubts(self.shared, self.broker, &self.lane.name).await?;
            self.purged = true;
        }
        loop {
            if self.shared.stop.is_triggered() || self.shared.is_paused(&self.lane.name) {
                return Ok(());
            }
            let worker = self.shared.identity.broker_id();
            if self.reconcile || self.lane.strays.swap(false, Ordering::AcqRel) {
                let held = self.shared.leased.of(&self.lane.name, worker);
                self.broker.reconcile(&self.lane.name, worker, &held).await?;
                self.reconcile = false;
            }
            let Some(room) = self
                .shared
                .stop
                .token()
                .run_until_cancelled(self.lane.has_room())
                .await
            else {
                return Ok(());
            };
            match self.broker.fetch(&self.lane.name, worker, room).await? {
                FetchAnswer::Batch(batch) => {
                    self.shared.vitals.broker();
                    if batch.jobs.is_empty() && batch.unreadable.is_empty() && batch.evicted.is_empty() {
                        return Ok(());
                    }
                    failpoint::reach("broker.fetch");
                    self.take(worker, batch, deliveries).await;
                }
                FetchAnswer::Unregistered => {
                    if self.broker.register(&self.lane.name, worker).await? == Registration::Lost {
                        self.shared.identity.renew_on_broker(worker);
                    }
                }
                FetchAnswer::Lost => self.shared.identity.renew_on_broker(worker),
            }
        }
    }

    async fn take(&self, worker: WorkerId, batch: Batch, deliveries: &Deliveries) {
        let lane = self.lane;
        let ids = batch
            .jobs
            .iter()
            .map(|job| job.id)
            .chain(batch.unreadable.iter().map(|one| one.id));
        self.shared.leased.add(&lane.name, worker, ids);
        if !batch.evicted.is_empty() {
            tracing::error!(queue = %lane.name, jobs = batch.evicted.len(), "the broker has lost the payloads of jobs");
        }
        let lease = Lease::Broker {
            worker,
            queue: Arc::clone(&lane.name),
        };
        for unreadable in batch.unreadable {
            let (job, error) = self.dead_letter(&unreadable);
            let outcome = Outcome::Discard {
                fence: job.fence(),
                error,
            };
            let slot = lane.take_slot();
            let finished = FinishedJob::unrun(lease.clone(), job, outcome, slot);
            self.shared.outcomes.send(finished);
        }
        let max_crashes = self.shared.settings.worker.max_crashes;
        for job in batch.jobs {
            let crashes = job.crashes;
            let claimed = self.claimed(job.id, crashes, job.envelope);
            if crashes >= max_crashes {
                let message = format!("the workers that ran the job were lost ({crashes} crashes)");
                let error = self.error("crash", &message);
                let outcome = Outcome::Discard {
                    fence: claimed.fence(),
                    error,
                };
                let slot = lane.take_slot();
                let finished = FinishedJob::unrun(lease.clone(), claimed, outcome, slot);
                self.shared.outcomes.send(finished);
                continue;
            }
            deliver_one(self.shared, lane, deliveries, lease.clone(), claimed).await;
        }
    }

    fn claimed(&self, id: JobId, crashes: u32, envelope: Envelope) -> ClaimedJob {
        let kind = self.shared.jobs.registry().get(&envelope.kind);
        let defaults = &self.shared.settings.jobs;
        let code = kind.and_then(|kind| kind.retry);
        let policy = self
            .shared
            .jobs
            .retries()
            .of(&envelope.kind, code, &self.lane.name);
        let timeout = kind
            .and_then(|kind| kind.timeout)
            .unwrap_or(defaults.default_timeout);
        ClaimedJob {
            id,
            kind: envelope.kind,
            payload: envelope.payload,
            attempt: 0,
            crashes,
            max_attempts: envelope.max_attempts.unwrap_or(policy.max_attempts),
            timeout: envelope.timeout_ms.map_or(timeout, Duration::from_millis),
            options: Options {
                backoff: envelope.backoff,
                traceparent: envelope.traceparent,
                ..Options::default()
            },
            batch: None,
            priority: Priority::Normal,
            run_at: clock::now(),
            snoozes: 0,
            doubtful: false,
            unreadable: None,
            expired: false,
        }
    }

    /// What cannot be read is kept as text, so that somebody may find out what it was.
    fn dead_letter(&self, unreadable: &Unreadable) -> (ClaimedJob, ErrorRecord) {
        let text = String::from_utf8_lossy(&unreadable.raw).replace('\0', "");
        let payload = serde_json::value::to_raw_value(&text)
            .unwrap_or_else(|_| serde_json::value::RawValue::NULL.to_owned());
        let envelope = Envelope {
            kind: "unreadable".to_owned(),
            payload,
            max_attempts: Some(1),
            timeout_ms: None,
            backoff: None,
            traceparent: None,
        };
        let error = self.error(
            "permanent",
            &format!("the envelope cannot be read: {}", unreadable.fault),
        );
        (self.claimed(unreadable.id, unreadable.crashes, envelope), error)
    }

    fn error(&self, class: &'static str, message: &str) -> ErrorRecord {
        ErrorRecord::new(clock::now(), 1, class, message, &self.shared.identity.name())
    }
}

/// Before anyone fetches from a broker that came back: what the ledger took over in doubt leaves it.
async fn purge_doubts(shared: &WorkerState, broker: &Broker, queue: &str) -> Result<(), BrokerError> {
    let doubtful = match shared.jobs.ledger().doubtful(DOUBTS).await {
        Ok(doubtful) => doubtful,
        Err(error) => {
            // Jobs of this queue do not wait for the database; a double run is the lesser evil here.
            tracing::debug!(queue, error = ?error, "unconfirmed jobs cannot be looked up");
            return Ok(());
        }
    };
    let mut settled = Vec::new();
    for one in doubtful.iter().filter(|one| one.queue == queue) {
        if let Resolution::Removed | Resolution::Unknown = broker.resolve(queue, one.id).await? {
            settled.push(one.id);
        }
    }
    if !settled.is_empty()
        && let Err(error) = shared.jobs.ledger().settle(&settled).await
    {
        tracing::debug!(queue, error = ?error, "unconfirmed jobs could not be settled; the next claim will settle them");
    }
    Ok(())
}
