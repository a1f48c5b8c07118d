//! What became of broker jobs and must live on: retries and dead letters move into the ledger, then leave the broker.
//!
//! # Invariants
//! - A job leaves the broker only after its row is written.
//! - A row that the ledger refuses for good holds up no other: the statement is halved down to it. It is then kept as it came,
//!   as a dead letter in a form that can be stored: its payload as text, then as hexadecimal ([`storable`]), with the reason
//!   among its errors.
//! - A row that is refused even so gives its place in the lane up and is tried every [`REFUSED_AGAIN`]. Its job stays leased on
//!   the broker, so when this worker ends, another one rescues it: nothing is lost, and nothing runs meanwhile.
//!
//! # When things fail
//! Transient failures are repeated until the ledger takes the rows. Their jobs keep their places, which bounds how many can
//! wait here.

use std::fmt::Write as _;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::clock;
use holdfast_core::encryption::Encryption;
use serde_json::json;
use serde_json::value::{RawValue, to_raw_value};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::WorkerState;
use super::departure::{Departure, leave_broker};
use super::finisher::{FinishedJob, arm_alarms};
use super::held::{REFUSED_AGAIN, is_slow};
use crate::id::WorkerId;
use crate::ledger::{ErrorRecord, LedgerError, NewJob, Options, Outcome, RunAt};

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(50), Duration::from_secs(1));

/// A job on its way, and the row it is to become.
struct Move {
    finished: FinishedJob,
    row: NewJob,
    /// What an observer enqueues.
    observed: Vec<NewJob>,
    /// How often the ledger refused it.
    refusals: u32,
}

/// Retries and dead letters live in the ledger.
pub(super) fn is_for_ledger(outcome: &Outcome) -> bool {
    matches!(
        outcome,
        Outcome::Retry { .. } | Outcome::Snooze { .. } | Outcome::Discard { .. }
    )
}

/// Repeats until the ledger has taken them all, or until `ending` for what it refuses in every form.
pub(super) async fn move_to_ledger(
    shared: &Arc<WorkerState>,
    queue: &Arc<str>,
    worker: WorkerId,
    finished: Vec<FinishedJob>,
    holding: &TaskTracker,
    ending: &CancellationToken,
) {
    let observers = shared.jobs.observers();
    if finished
        .iter()
        .any(|one| matches!(one.outcome, Outcome::Discard { .. }))
    {
        observers.nearly_ready().await;
    }
    let moves: Vec<Move> = finished
        .into_iter()
        .filter_map(|finished| {
            Some(Move {
                row: ledger_row(queue, &finished)?,
                observed: observers.on_outcome(&finished.job, queue, &finished.outcome, true),
                finished,
                refusals: 0,
            })
        })
        .collect();
    let mut refused = Vec::new();
    let mut pieces = vec![moves];
    while let Some(piece) = pieces.pop() {
        match write(shared, &piece).await {
            Ok(()) => leave(shared, queue, worker, piece, holding).await,
            Err(_) if piece.len() > 1 => {
                let mut piece = piece;
                let rest = piece.split_off(piece.len() / 2);
                pieces.extend([rest, piece]);
            }
            Err(error) => {
                for one in piece {
                    match storable(&one, &error, &shared.identity.name()) {
                        Some(row) => pieces.push(vec![Move {
                            row,
                            observed: one.observed,
                            refusals: one.refusals + 1,
                            finished: one.finished,
                        }]),
                        None => refused.push(one),
                    }
                }
            }
        }
    }
    for one in refused {
        let (shared, queue, tracker) = (Arc::clone(shared), Arc::clone(queue), holding.clone());
        let ending = ending.clone();
        holding.spawn(async move { set_aside(&shared, &queue, worker, one, &tracker, &ending).await });
    }
}

/// Writes the rows, through transient failures. An error: the ledger refuses them for good, or (of several) takes too long.
async fn write(shared: &WorkerState, piece: &[Move]) -> Result<(), LedgerError> {
    let rows: Vec<NewJob> = piece
        .iter()
        .flat_map(|one| std::iter::once(&one.row).chain(&one.observed))
        .cloned()
        .collect();
    write_rows(shared, &rows, piece.len() > 1).await
}

async fn write_rows(shared: &WorkerState, rows: &[NewJob], is_divisible: bool) -> Result<(), LedgerError> {
    let mut failures = 0;
    loop {
        let Err(error) = shared.jobs.ledger().insert(rows).await else {
            return Ok(());
        };
        if !error.is_transient() || is_divisible && is_slow(&error) {
            return Err(error);
        }
        if failures == 0 {
            tracing::debug!(jobs = rows.len(), error = ?error, "failed broker jobs are held until the ledger stores them");
        }
        failures += 1;
        tokio::time::sleep(BACKOFF.delay(failures)).await;
    }
}

async fn leave(
    shared: &Arc<WorkerState>,
    queue: &Arc<str>,
    worker: WorkerId,
    piece: Vec<Move>,
    holding: &TaskTracker,
) {
    let moved: Vec<FinishedJob> = piece.into_iter().map(|one| one.finished).collect();
    arm_alarms(&moved);
    leave_broker(shared, Departure::of(queue, worker, &moved), moved, holding).await;
}

/// Jobs that leave the broker once what an observer enqueues for them is in the ledger.
pub(super) struct ObservedEnds {
    pub finished: Vec<FinishedJob>,
    pub observed: Vec<NewJob>,
}

/// Those of the jobs that an observer wants, and the others.
pub(super) async fn observed_ends(
    shared: &WorkerState,
    queue: &str,
    finished: Vec<FinishedJob>,
) -> (ObservedEnds, Vec<FinishedJob>) {
    let observers = shared.jobs.observers();
    let mut ends = ObservedEnds {
        finished: Vec::new(),
        observed: Vec::new(),
    };
    if !finished.is_empty() {
        observers.nearly_ready().await;
    }
    let mut others = Vec::with_capacity(finished.len());
    for one in finished {
        let observed = observers.on_outcome(&one.job, queue, &one.outcome, true);
        if observed.is_empty() {
            others.push(one);
        } else {
            ends.observed.extend(observed);
            ends.finished.push(one);
        }
    }
    (ends, others)
}

/// Repeats until the ledger has taken what is enqueued for them; the jobs end then. They end without it if the ledger refuses it
/// for good.
pub(super) async fn end_observed(
    shared: &Arc<WorkerState>,
    queue: &Arc<str>,
    worker: WorkerId,
    ends: ObservedEnds,
    holding: &TaskTracker,
) {
    match write_rows(shared, &ends.observed, false).await {
        Ok(()) => {
            for job in &ends.observed {
                shared.jobs.ring(&job.queue);
            }
        }
        Err(error) => {
            tracing::error!(queue = %queue, error = ?error, "events of broker jobs cannot be stored; the jobs end without them");
        }
    }
    let departure = Departure::of(queue, worker, &ends.finished);
    leave_broker(shared, departure, ends.finished, holding).await;
}

/// A job that the ledger refuses in every form.
async fn set_aside(
    shared: &Arc<WorkerState>,
    queue: &Arc<str>,
    worker: WorkerId,
    mut one: Move,
    holding: &TaskTracker,
    ending: &CancellationToken,
) {
    let id = one.finished.job.id;
    tracing::error!(job.id = %id, queue = %queue, "the ledger refuses a job in every form: it is set aside");
    let place = shared.aside.try_acquire();
    if place.is_ok() {
        one.finished.slot.free();
        one.finished.last_chance = None;
    }
    let moves = vec![one];
    loop {
        tokio::select! {
            () = tokio::time::sleep(REFUSED_AGAIN) => {}
            () = ending.cancelled() => {
                tracing::error!(job.id = %id, "a job that the ledger refuses stays on the broker; it will be rescued");
                return;
            }
        }
        if write(shared, &moves).await.is_ok() {
            return leave(shared, queue, worker, moves, holding).await;
        }
    }
}

fn ledger_row(queue: &Arc<str>, one: &FinishedJob) -> Option<NewJob> {
    let (run_at, attempt, error, discarded) = match &one.outcome {
        Outcome::Retry { delay, error, fence } => (RunAt::In(*delay), fence.attempt + 1, Some(error), false),
        Outcome::Snooze { delay, fence } => (RunAt::In(*delay), fence.attempt, None, false),
        Outcome::Discard { error, fence } => (RunAt::Now, fence.attempt + 1, Some(error), true),
        Outcome::Completed { .. } | Outcome::Cancel { .. } | Outcome::HandBack { .. } => return None,
    };
    let job = &one.job;
    Some(NewJob {
        id: job.id,
        kind: Arc::from(job.kind.as_str()),
        queue: Arc::clone(queue),
        payload: Arc::from(job.payload.clone()),
        priority: job.priority,
        run_at,
        max_attempts: job.max_attempts,
        timeout: job.timeout,
        unique_key: None,
        idempotency_key: None,
        limit_key: None,
        options: job.options.clone(),
        // A job with tags is stored in the ledger to begin with.
        tags: Vec::new(),
        enqueued_by: None,
        batch: None,
        attempt,
        crashes: job.crashes,
        errors: error.cloned().into_iter().collect(),
        doubtful: false,
        discarded,
        encryption: Encryption::default(),
    })
}

/// The dead letter that a refused row becomes. `None`: nothing is left to try.
///
/// Its payload is a document that holds what the job came with as text, which every database takes: `unstorable` names the
/// encoding (`text` or `hex`, of UTF-8), `payload` and `options` are that of the JSON text, `kind` of a JSON string.
fn storable(one: &Move, error: &LedgerError, worker: &str) -> Option<NewJob> {
    let (encoding, encode, reason): (_, fn(&str) -> String, _) = match one.refusals {
        0 => ("text", str::to_owned, format!("{error:?}")),
        1 => ("hex", hex, "the database refuses it".to_owned()),
        _ => return None,
    };
    let job = &one.finished.job;
    let options = serde_json::to_string(&job.options).unwrap_or_default();
    let kept = json!({
        "unstorable": encoding,
        "kind": encode(&json!(job.kind).to_string()),
        "payload": encode(job.payload.get()),
        "options": encode(&options),
    });
    let message =
        format!("the job could not be stored as it came, so its payload is stored as {encoding}: {reason}");
    let refused = ErrorRecord::new(clock::now(), one.row.attempt, "permanent", &message, worker);
    let mut errors = vec![refused];
    if encoding == "text" {
        errors.splice(0..0, one.row.errors.iter().cloned());
    }
    Some(NewJob {
        // Text columns hold every character but NUL.
        kind: Arc::from(job.kind.replace('\0', "\u{fffd}")),
        payload: Arc::from(to_raw_value(&kept).unwrap_or_else(|_| RawValue::NULL.to_owned())),
        options: Options::default(),
        errors,
        run_at: RunAt::Now,
        discarded: true,
        ..one.row.clone()
    })
}

fn hex(text: &str) -> String {
    text.bytes().fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
        hex
    })
}
