//! One execution: from a delivery to what the ledger shall be told of it.
//!
//! An execution runs in a task of its own, so handlers share the cores. A panic is caught and is a failed attempt; dropping
//! the handler's future is how a timeout, a cancellation or the end of the grace period stops it, at its next await. A
//! handler that computes for long without an await cannot be stopped before it yields: it belongs on `spawn_blocking`.
//!
//! A job that crashed before is marked as started before it runs, so that only crashes of a started job are held
//! against it. The run that could make it poison happens under the process' one last-chance permit, which comes with the
//! delivery ([`super::last_chances`]) and is kept until the run's outcome is stored: two suspects never share a process, so
//! neither can be discarded for the other's crash, not even one that has ended and is not yet written down.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use futures::future::BoxFuture;

use holdfast_core::backoff::Backoff;
use holdfast_core::encryption::OpenFailure;
use holdfast_core::failpoint;
use holdfast_core::failure::FailureClass;
use holdfast_core::telemetry::traces;
use serde_json::value::RawValue;
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use super::WorkerState;
use super::finisher::{FinishedJob, Lease};
use super::lane::Slot;
use super::weighted_permits::Place;
use crate::broker::BrokerError;
use crate::failed_attempt::FailedAttempt;
use crate::job::{JobContext, JobError, Origin, PayloadFault, Reports};
use crate::ledger::{ClaimedJob, LedgerError, Outcome};
use crate::meters::KindMeters;
use crate::registry::Kind;

/// A kind that this worker does not know (an older version beside a newer one) is left for another worker.
const UNKNOWN_KIND_REST: Duration = Duration::from_secs(15);

/// How long a job waits whose encryption key this process does not have; then it is looked for again.
pub(crate) const MISSING_KEY_PAUSE: Duration = Duration::from_mins(1);

/// How long a job may take to give way once the grace period is over.
const ABORT_GRACE: Duration = Duration::from_millis(500);

const MARK_BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// A leased job on its way to the runner.
#[derive(Debug)]
pub(crate) struct Delivery {
    pub job: ClaimedJob,
    pub lease: Lease,
    pub slot: Slot,
    /// Of a job whose next crash would make it poison.
    pub last_chance: Option<OwnedSemaphorePermit>,
}

impl Delivery {
    /// Gives an unstarted job back.
    pub(crate) fn hand_back(self, shared: &WorkerState) {
        let outcome = Outcome::HandBack {
            fence: self.job.fence(),
        };
        let finished = FinishedJob::unrun(self.lease, self.job, outcome, self.slot);
        shared.outcomes.send(finished);
    }
}

/// Runs a delivery to its end. Every path but a lost lease sends an outcome.
pub(crate) async fn execute(shared: &WorkerState, delivery: Delivery) {
    if shared.stop.is_triggered() {
        return delivery.hand_back(shared);
    }
    let lane = delivery.slot.lane();
    // Held until the handler has ended.
    let Some(_place) = place(shared, &lane.name).await else {
        return delivery.hand_back(shared);
    };
    lane.started();
    let waited = lane.picked_up(delivery.job.run_at);
    let statistics = shared.jobs.statistics();
    statistics.started(&lane.name, &delivery.job.kind, waited);
    match prepare(shared, &delivery).await {
        Preparation::Run => {}
        Preparation::HandBack => {
            delivery.slot.stopped_running();
            return delivery.hand_back(shared);
        }
        Preparation::LeaseLost => return forget(shared, &delivery),
    }
    let Delivery {
        job,
        lease,
        slot,
        last_chance,
    } = delivery;
    let job = Arc::new(job);
    let reports = Reports::default();
    let outcome = match shared.jobs.registry().get(&job.kind) {
        Some(kind) => {
            let started = Instant::now();
            let mut trace = begin_trace(&job, &slot);
            let logged = span_of(&job, &slot);
            let outcome = opened_attempt(shared, kind, &job, &lease, &slot, &reports)
                .instrument(logged)
                .await;
            let outcome = unless_cancelled(shared, &lease, outcome).await;
            let took = started.elapsed();
            kind.meters.executed(&outcome, took);
            statistics.ended(&slot.lane().name, &job.kind, &outcome, Some(took));
            end_trace(&mut trace, &outcome);
            outcome
        }
        None => leave_unknown_kind(&job),
    };
    slot.stopped_running();
    slot.lane().ended(matches!(outcome, Outcome::Completed { .. }));
    let reports = with_lines(&lease, &job, reports);
    shared.outcomes.send(FinishedJob {
        lease,
        job,
        outcome,
        slot,
        last_chance,
        reports,
    });
}

/// The reports, if they have lines that are stored before the outcome. Those of a job that is not in the ledger go to the log of the
/// process.
fn with_lines(lease: &Lease, job: &ClaimedJob, reports: Reports) -> Option<Reports> {
    if reports.log().is_empty() {
        return None;
    }
    if matches!(lease, Lease::Ledger { .. }) {
        return Some(reports);
    }
    for line in reports.log().drain() {
        tracing::info!(job.id = %job.id, job.kind = %job.kind, line = line.text, "a handler says");
    }
    None
}

/// One of the places that the lanes share, once it is this lane's turn. `None`: the worker stops.
async fn place(shared: &WorkerState, lane: &str) -> Option<Place> {
    tokio::select! {
        biased;
        place = shared.shares.take(lane) => Some(place),
        () = shared.stop.wait() => None,
    }
}

/// What every line of a handler's log carries.
fn span_of(job: &ClaimedJob, slot: &Slot) -> tracing::Span {
    let trace = job.options.traceparent.as_deref().and_then(traces::trace_id);
    tracing::info_span!(
        "job",
        job.id = %job.id,
        job.kind = &*job.kind,
        queue = &*slot.lane().name,
        trace_id = trace
    )
}

fn begin_trace(job: &ClaimedJob, slot: &Slot) -> traces::Span {
    if !traces::is_on() {
        return traces::Span::none();
    }
    let parent = job.options.traceparent.as_deref();
    let mut span = traces::begin(traces::Kind::Consumer, format!("run {}", job.kind), parent);
    span.set("job.id", job.id.to_string());
    span.set("job.queue", slot.lane().name.to_string());
    span.set("job.attempt", i64::from(job.attempt) + 1);
    span
}

fn end_trace(span: &mut traces::Span, outcome: &Outcome) {
    span.set("job.outcome", outcome.word());
    if let Outcome::Retry { error, .. } | Outcome::Discard { error, .. } = outcome {
        // The class alone: a handler's text may hold anything, and goes to the job's own record.
        span.fail(error.class.clone());
    }
}

/// The lease is somebody else's now: the job is not run, and no outcome is due.
fn forget(shared: &WorkerState, delivery: &Delivery) {
    delivery.slot.stopped_running();
    shared.leased.remove(
        &delivery.slot.lane().name,
        delivery.lease.worker(),
        std::iter::once(delivery.job.id),
    );
}

/// A broker's job that failed goes on in the ledger, which knows nothing of a cancellation: the broker is asked for one.
/// (The ledger's own statement looks at the row.)
async fn unless_cancelled(shared: &WorkerState, lease: &Lease, outcome: Outcome) -> Outcome {
    let (Lease::Broker { queue, .. }, Some(broker)) = (lease, shared.jobs.broker()) else {
        return outcome;
    };
    let fence = match &outcome {
        Outcome::Retry { fence, .. } | Outcome::Snooze { fence, .. } => *fence,
        _ => return outcome,
    };
    match broker.is_cancel_requested(queue, fence.id).await {
        Ok(true) => Outcome::Cancel { fence, error: None },
        Ok(false) => outcome,
        Err(error) => {
            tracing::debug!(job.id = %fence.id, error = %error, "cannot ask the broker for a cancellation");
            outcome
        }
    }
}

enum Preparation {
    Run,
    HandBack,
    LeaseLost,
}

/// What must happen before a job runs that crashed before; nothing for any other.
async fn prepare(shared: &WorkerState, delivery: &Delivery) -> Preparation {
    let job = &delivery.job;
    if job.crashes == 0 {
        return Preparation::Run;
    }
    let mut failures = 0;
    loop {
        match mark_started(shared, delivery).await {
            Ok(true) => return Preparation::Run,
            Ok(false) => return Preparation::LeaseLost,
            Err(FailureClass::Transient) => failures += 1,
            Err(FailureClass::Permanent) => return Preparation::HandBack,
        }
        tokio::select! {
            () = tokio::time::sleep(MARK_BACKOFF.delay(failures)) => {}
            () = shared.stop.wait() => return Preparation::HandBack,
        }
    }
}

/// Whether the job is still ours to run.
async fn mark_started(shared: &WorkerState, delivery: &Delivery) -> Result<bool, FailureClass> {
    let job = &delivery.job;
    let (marked, class) = match (&delivery.lease, shared.jobs.broker()) {
        (Lease::Ledger { worker }, _) => {
            let marked = shared.jobs.ledger().mark_started(*worker, &job.fence()).await;
            let class = marked.as_ref().err().map(LedgerError::class);
            (marked.map_err(|error| format!("{error:?}")), class)
        }
        (Lease::Broker { worker, queue }, Some(broker)) => {
            let marked = broker.mark_started(queue, *worker, job.id).await;
            let class = marked.as_ref().err().map(BrokerError::class);
            (marked.map_err(|error| error.to_string()), class)
        }
        (Lease::Broker { .. }, None) => (Ok(false), None),
    };
    marked.map_err(|error| {
        tracing::debug!(job.id = %job.id, error, "a start could not be recorded");
        class.unwrap_or(FailureClass::Transient)
    })
}

fn leave_unknown_kind(job: &ClaimedJob) -> Outcome {
    tracing::warn!(job.id = %job.id, job.kind = %job.kind, "unknown kind: left for a worker that has it");
    let outcome = Outcome::Snooze {
        fence: job.fence(),
        delay: UNKNOWN_KIND_REST,
    };
    KindMeters::of_unknown().ended(&outcome);
    outcome
}

/// How an execution came to its end.
enum End {
    Returned(Result<Option<Box<RawValue>>, JobError>),
    /// The grace period ended first.
    Aborted,
}

/// An attempt with the payload that the producer sent. A job whose key is missing here waits for it, and no attempt is counted.
async fn opened_attempt(
    shared: &WorkerState,
    kind: &Kind,
    job: &Arc<ClaimedJob>,
    lease: &Lease,
    slot: &Slot,
    reports: &Reports,
) -> Outcome {
    let began = Instant::now();
    match shared.jobs.opened(&job.kind, &job.payload) {
        Ok(opened) => {
            let payload = opened.as_deref().unwrap_or(&job.payload);
            let attempted = AttemptedJob {
                kind,
                job,
                payload,
                began,
            };
            attempt(shared, attempted, lease, slot, reports).await
        }
        Err(unopened) if unopened.is_missing_key() => Outcome::Snooze {
            fence: job.fence(),
            delay: MISSING_KEY_PAUSE,
        },
        Err(unopened) => {
            let error = JobError::permanent(unopened);
            let attempted = AttemptedJob {
                kind,
                job,
                payload: &job.payload,
                began,
            };
            failed(shared, attempted, &slot.lane().name, &error, false)
        }
    }
}

/// What is attempted.
#[derive(Clone, Copy)]
struct AttemptedJob<'a> {
    kind: &'a Kind,
    job: &'a Arc<ClaimedJob>,
    /// As its producer sent it.
    payload: &'a RawValue,
    began: Instant,
}

async fn attempt(
    shared: &WorkerState,
    attempted: AttemptedJob<'_>,
    lease: &Lease,
    slot: &Slot,
    reports: &Reports,
) -> Outcome {
    let AttemptedJob {
        kind, job, payload, ..
    } = attempted;
    let cancel = CancellationToken::new();
    let fence = job.fence();
    let context = JobContext {
        id: job.id,
        queue: Arc::clone(&slot.lane().name),
        attempt: job.attempt + 1,
        max_attempts: job.max_attempts,
        cancel: cancel.clone(),
        reports: reports.clone(),
        resources: shared.resources.clone(),
        origin: Origin {
            previous: job.options.previous.clone(),
            ended_batch: job.options.ended_batch,
        },
    };
    let on_ledger = matches!(lease, Lease::Ledger { .. });
    shared
        .running
        .insert(lease.worker(), job, on_ledger, cancel.clone(), reports.clone());
    failpoint::reach("run");
    let handler = match check_first(attempted) {
        Ok(()) => kind.run(payload, context),
        Err(error) => Box::pin(std::future::ready(Err(error))),
    };
    let end = supervise(shared, handler, job.timeout, &cancel).await;
    shared.running.remove(&fence);
    let queue = &*slot.lane().name;
    match end {
        End::Aborted => Outcome::HandBack { fence },
        End::Returned(Ok(result)) => completed(shared, attempted, queue, result),
        // A cancelled token that was not the user's ends as `Aborted` above.
        End::Returned(Err(error)) => failed(shared, attempted, queue, &error, cancel.is_cancelled()),
    }
}

/// The check of a payload that was enqueued by SQL; every other was checked before it was accepted.
fn check_first(
    AttemptedJob {
        kind, job, payload, ..
    }: AttemptedJob<'_>,
) -> Result<(), JobError> {
    if !job.is_unchecked() {
        return Ok(());
    }
    kind.check(payload).map_err(PayloadFault::of_job)
}

/// Waits for the handler, its timeout, a cancellation that it does not heed, or the end of the grace period.
async fn supervise(
    shared: &WorkerState,
    handler: Handler,
    limit: Duration,
    cancel: &CancellationToken,
) -> End {
    let handler = AssertUnwindSafe(handler)
        .catch_unwind()
        .map(|caught| caught.unwrap_or_else(|panic| Err(JobError::Panicked(panic_message(panic.as_ref())))));
    tokio::pin!(handler);
    let heedless = async {
        cancel.cancelled().await;
        tokio::time::sleep(shared.settings.worker.cancel_grace).await;
    };
    // The handler first: one that ends at once costs no timer and no place in a list of waiters.
    let first = tokio::select! {
        biased;
        returned = &mut handler => Some(returned),
        () = tokio::time::sleep(limit) => Some(Err(JobError::TimedOut(limit))),
        () = shared.abort.cancelled() => None,
        () = heedless => Some(Err(JobError::Cancelled)),
    };
    if let Some(returned) = first {
        return End::Returned(returned);
    }
    let asked_by_user = cancel.is_cancelled();
    cancel.cancel();
    match tokio::time::timeout(ABORT_GRACE, handler).await {
        Ok(Ok(result)) => End::Returned(Ok(result)),
        Ok(Err(error)) if asked_by_user => End::Returned(Err(error)),
        // It gave way because the worker stops, not because anybody wanted it cancelled.
        _ => End::Aborted,
    }
}

type Handler = BoxFuture<'static, Result<Option<Box<RawValue>>, JobError>>;

fn panic_message(panic: &(dyn std::any::Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "with something that is not text".to_owned())
}

fn completed(
    shared: &WorkerState,
    attempted: AttemptedJob<'_>,
    queue: &str,
    result: Option<Box<RawValue>>,
) -> Outcome {
    let limit = shared.settings.jobs.max_payload_bytes;
    match &result {
        Some(raw) if raw.get().len() > limit => {
            let error = JobError::permanent(format!(
                "the result has {} bytes; {limit} are the most",
                raw.get().len()
            ));
            failed(shared, attempted, queue, &error, false)
        }
        _ => Outcome::Completed {
            fence: attempted.job.fence(),
            result: result.map(Arc::from),
        },
    }
}

fn failed(
    shared: &WorkerState,
    attempted: AttemptedJob<'_>,
    queue: &str,
    error: &JobError,
    cancelled: bool,
) -> Outcome {
    let job = attempted.job;
    match unopened_column(error) {
        Some(OpenFailure::MissingKey(_)) => {
            return Outcome::Snooze {
                fence: job.fence(),
                delay: MISSING_KEY_PAUSE,
            };
        }
        Some(OpenFailure::NotAuthentic) => {
            let error = &JobError::permanent(error.to_string());
            return outcome_of(shared, attempted, queue, error, cancelled);
        }
        None => {}
    }
    outcome_of(shared, attempted, queue, error, cancelled)
}

/// Why an encrypted column that the handler needed was not opened.
fn unopened_column(error: &JobError) -> Option<&OpenFailure> {
    let JobError::Transient(cause) = error else {
        return None;
    };
    let first: &(dyn std::error::Error + 'static) = &**cause;
    std::iter::successors(Some(first), |error| error.source()).find_map(|error| error.downcast_ref())
}

fn outcome_of(
    shared: &WorkerState,
    AttemptedJob {
        kind,
        job,
        payload,
        began,
    }: AttemptedJob<'_>,
    queue: &str,
    error: &JobError,
    cancelled: bool,
) -> Outcome {
    FailedAttempt {
        job,
        error,
        policy: shared.jobs.retries().of(kind.name, kind.retry, queue),
        cancelled,
        worker: &shared.identity.name(),
        ran_for: Some(began.elapsed()),
        secrets: Some((&kind.marks, payload)),
    }
    .outcome()
}
