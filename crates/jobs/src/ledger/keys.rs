//! What both databases decide alike: duplicates by key, filters, and what a row's state answers to a command.

use std::cmp::Ordering;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::{
    CancelReply, ErrorRecord, InsertOutcome, NewJob, Options, QueueStats, RescueReport, ReturnReport,
    WorkerRecord,
};
use crate::batches::Tally;
use crate::follow_ups::{self, Effects};
use crate::id::{BatchId, JobId};
use crate::marks::sealed;
use crate::observer::{EndedJob, Observers};
use crate::state::{State, StoredState, UnknownState};

/// How often an insert is repeated whose obstacle was gone by the time it was looked for.
const ROUNDS: usize = 5;

pub(super) fn has_key(job: &NewJob) -> bool {
    job.unique_key.is_some() || job.idempotency_key.is_some()
}

/// The order in which new rows take their keys: by (kind, unique key), then by idempotency key; rows without a key first.
///
/// A row whose key another transaction has just written waits for that one to end. Writers that take keys in one order can
/// wait for each other in that order alone, so none waits in a circle.
pub(super) fn key_order(a: &NewJob, b: &NewJob) -> Ordering {
    let keys = |job: &NewJob| {
        let unique = job.unique_key.clone().map(|key| (Arc::clone(&job.kind), key));
        (unique, job.idempotency_key.clone())
    };
    if !has_key(a) && !has_key(b) {
        return Ordering::Equal;
    }
    keys(a).cmp(&keys(b))
}

/// A row that may stand in a new job's way.
#[derive(Debug)]
pub(super) struct ExistingJob {
    pub id: JobId,
    pub kind: String,
    pub payload: String,
    /// Only set where the row is waiting or running.
    pub unique_key: Option<String>,
    pub idempotency_key: Option<String>,
}

/// As both databases answer it: id, kind, payload, unique key, idempotency key.
pub(super) type ExistingRow = (Uuid, String, String, Option<String>, Option<String>);

impl From<ExistingRow> for ExistingJob {
    fn from((id, kind, payload, unique_key, idempotency_key): ExistingRow) -> Self {
        Self {
            id: JobId::from_uuid(id),
            kind,
            payload,
            unique_key,
            idempotency_key,
        }
    }
}

/// What to look for, for the jobs that were not written. `None`: all were.
#[derive(Debug, Default)]
pub(super) struct KeyQuery {
    pub ids: Vec<JobId>,
    pub idempotency_keys: Vec<String>,
    pub unique_kinds: Vec<String>,
    pub unique_keys: Vec<String>,
}

impl KeyQuery {
    pub(super) fn of(jobs: &[&NewJob], written: &[JobId]) -> Option<Self> {
        if written.len() == jobs.len() {
            return None;
        }
        let written: HashSet<_> = written.iter().collect();
        let mut wanted = Self::default();
        // Many producers may repeat one key: it is looked up once.
        let (mut idempotency_keys, mut unique_keys) = (HashSet::new(), HashSet::new());
        for job in jobs.iter().filter(|job| !written.contains(&job.id)) {
            wanted.ids.push(job.id);
            idempotency_keys.extend(job.idempotency_key.as_deref());
            unique_keys.extend(job.unique_key.as_deref().map(|key| (&*job.kind, key)));
        }
        wanted.idempotency_keys = idempotency_keys.into_iter().map(ToOwned::to_owned).collect();
        (wanted.unique_kinds, wanted.unique_keys) = unique_keys
            .into_iter()
            .map(|(kind, key)| (kind.to_owned(), key.to_owned()))
            .unzip();
        Some(wanted)
    }
}

/// An insert under way: which of its jobs are accepted, and as what.
#[derive(Debug)]
pub(super) struct InsertProgress<'a> {
    jobs: &'a [NewJob],
    accepted: Vec<Option<InsertOutcome>>,
    /// A job that stands under the idempotency key of one of these.
    repeated: Option<JobId>,
    rounds: usize,
}

impl<'a> InsertProgress<'a> {
    pub(super) fn new(jobs: &'a [NewJob]) -> Self {
        Self {
            jobs,
            accepted: vec![None; jobs.len()],
            repeated: None,
            rounds: 0,
        }
    }

    /// The jobs that still have no answer, in [`key_order`]; `None` once all have.
    pub(super) fn pending(&mut self) -> Result<Option<Vec<&'a NewJob>>, sqlx::Error> {
        let mut pending: Vec<_> = self
            .jobs
            .iter()
            .zip(&self.accepted)
            .filter(|(_, accepted)| accepted.is_none())
            .map(|(job, _)| job)
            .collect();
        if pending.is_empty() {
            return Ok(None);
        }
        self.rounds += 1;
        if self.rounds > ROUNDS {
            // Each round, another job took the key and ended again: the producer may well try once more.
            return Err(sqlx::Error::PoolTimedOut);
        }
        pending.sort_by(|a, b| key_order(a, b));
        Ok(Some(pending))
    }

    pub(super) fn record(&mut self, written: &[JobId], standing: &[ExistingJob]) {
        let written: HashSet<_> = written.iter().collect();
        let by_id: HashMap<_, _> = standing.iter().map(|row| (row.id, row)).collect();
        let by_idempotency: HashMap<_, _> = standing
            .iter()
            .filter_map(|row| Some((row.idempotency_key.as_deref()?, row)))
            .collect();
        let by_unique: HashMap<_, _> = standing
            .iter()
            .filter_map(|row| Some(((row.kind.as_str(), row.unique_key.as_deref()?), row)))
            .collect();
        for (job, accepted) in self
            .jobs
            .iter()
            .zip(&mut self.accepted)
            .filter(|(_, slot)| slot.is_none())
        {
            // A row with the very id is this job, written by an attempt whose reply was lost.
            if written.contains(&job.id) || by_id.contains_key(&job.id) {
                *accepted = Some(InsertOutcome::New(job.id));
            } else if let Some(row) = job
                .idempotency_key
                .as_deref()
                .and_then(|key| by_idempotency.get(key))
            {
                let same = row.kind == *job.kind
                    && sealed::same(&job.encryption, &job.kind, &row.payload, job.payload.get());
                self.repeated.get_or_insert(row.id);
                *accepted = Some(if same {
                    InsertOutcome::Duplicate(row.id)
                } else {
                    InsertOutcome::Conflict(row.id)
                });
            } else if let Some(row) = job
                .unique_key
                .as_deref()
                .and_then(|key| by_unique.get(&(&*job.kind, key)))
            {
                *accepted = Some(InsertOutcome::Duplicate(row.id));
            }
        }
    }

    pub(super) fn into_accepted(self) -> Vec<InsertOutcome> {
        self.accepted.into_iter().flatten().collect()
    }

    /// `one_key`: see [`Insertion::one_key`](super::Insertion::one_key).
    pub(super) fn answers(self, one_key: bool) -> Vec<InsertOutcome> {
        let repeated = self.repeated.filter(|_| one_key);
        let mut accepted = self.into_accepted();
        if let Some(id) = repeated {
            for one in &mut accepted {
                if matches!(one, InsertOutcome::New(_)) {
                    *one = InsertOutcome::Conflict(id);
                }
            }
        }
        accepted
    }
}

pub(super) fn options_text(options: &Options) -> Option<String> {
    if options.is_empty() {
        None
    } else {
        serde_json::to_string(options).ok()
    }
}

/// A JSON array of texts.
pub(super) fn tags_text(tags: &[String]) -> Option<String> {
    if tags.is_empty() {
        None
    } else {
        serde_json::to_string(tags).ok()
    }
}

pub(super) fn errors_text(errors: &[ErrorRecord]) -> Option<String> {
    if errors.is_empty() {
        None
    } else {
        serde_json::to_string(errors).ok()
    }
}

/// A row that the rescuer has moved: id, queue, state, batch, kind, attempts before, crashes.
pub(super) type RescuedRow = (Uuid, String, String, Option<Uuid>, String, i32, i32);

/// What the rescuer's ends are to the batches of the jobs.
pub(super) fn tallies_of(rows: &[RescuedRow]) -> Result<BTreeMap<BatchId, Tally>, UnknownState> {
    let ends: Vec<_> = rows
        .iter()
        .filter(|row| row.3.is_some())
        .map(|(_, _, state, batch, ..)| Ok((*batch, state.parse()?)))
        .collect::<Result<_, UnknownState>>()?;
    Ok(follow_ups::tallied(ends, 1))
}

/// Whether a rescue has discarded a job.
pub(super) fn is_any_poisoned(rows: &[RescuedRow]) -> bool {
    rows.iter().any(|row| row.2 == StoredState::Discarded.as_str())
}

/// What observers enqueue for the jobs that a rescue has discarded.
pub(super) fn observed(rows: &[RescuedRow], observers: &Observers) -> Vec<NewJob> {
    let poisoned = rows.iter().filter(|row| row.2 == StoredState::Discarded.as_str());
    let jobs = poisoned.map(|(id, queue, _, batch, kind, attempt, crashes)| {
        observers.on_job(&EndedJob {
            id: JobId::from_uuid(*id),
            kind,
            queue,
            state: StoredState::Discarded,
            // The attempt that was under way.
            attempt: attempt.unsigned_abs() + 1,
            crashes: crashes.unsigned_abs(),
            batch: batch.map(BatchId::from_uuid),
            error_class: Some("crash"),
            may_repeat: false,
        })
    });
    jobs.flatten().collect()
}

/// What a rescue came to: the rows that it moved, and what the ends brought about.
pub(super) fn rescue_report(rows: &[RescuedRow], effects: Effects) -> RescueReport {
    let mut report = RescueReport {
        effects,
        ..RescueReport::default()
    };
    for (id, queue, state, ..) in rows {
        if *state == StoredState::Discarded.as_str() {
            report.poisoned.push(JobId::from_uuid(*id));
        } else if *state == StoredState::Cancelled.as_str() {
            report.cancelled += 1;
        } else {
            *report.returned.entry(queue.clone()).or_default() += 1;
        }
    }
    report
}

/// What an id gave back.
pub(super) fn return_report(rows: &[RescuedRow], effects: Effects) -> ReturnReport {
    let rescued = rescue_report(rows, effects);
    ReturnReport {
        returned: rescued.returned,
        cancelled: rescued.cancelled,
        gone: false,
        effects: rescued.effects,
    }
}

/// The rows of one process as one, in the order in which the processes started. The newest id is the one that claims: what it
/// says counts, and the process was heard of when any of its ids was.
pub(super) fn by_process(rows: Vec<WorkerRecord>) -> Vec<WorkerRecord> {
    let mut processes: Vec<WorkerRecord> = Vec::new();
    let mut places: HashMap<(String, chrono::DateTime<chrono::Utc>), usize> = HashMap::new();
    for row in rows {
        let place = *places
            .entry((row.name.clone(), row.started_at))
            .or_insert(processes.len());
        let Some(process) = processes.get_mut(place) else {
            processes.push(row);
            continue;
        };
        let (seen_at, ago) = if row.seen_at > process.seen_at {
            (row.seen_at, row.seen_seconds_ago)
        } else {
            (process.seen_at, process.seen_seconds_ago)
        };
        if row.id > process.id {
            *process = row;
        }
        process.seen_at = seen_at;
        process.seen_seconds_ago = ago;
    }
    processes
}

/// A queue as both databases count it: name, paused, available, scheduled, retryable, running, discarded, age of the oldest.
pub(super) type StatsRow = (String, bool, i64, i64, i64, i64, i64, f64);

pub(super) fn queue_stats(row: StatsRow) -> QueueStats {
    let (queue, paused, available, scheduled, retryable, running, discarded, oldest_age_seconds) = row;
    QueueStats {
        queue,
        paused,
        available: available.unsigned_abs(),
        scheduled: scheduled.unsigned_abs(),
        retryable: retryable.unsigned_abs(),
        running: running.unsigned_abs(),
        discarded: discarded.unsigned_abs(),
        oldest_age_seconds,
    }
}

/// The answer to a cancel, given the state the row had.
pub(super) fn cancel_reply(before: StoredState) -> CancelReply {
    match before {
        StoredState::Available => CancelReply::Cancelled,
        StoredState::Running => CancelReply::Requested,
        StoredState::Completed => CancelReply::AlreadyFinal(State::Completed),
        StoredState::Discarded => CancelReply::AlreadyFinal(State::Discarded),
        StoredState::Cancelled => CancelReply::AlreadyFinal(State::Cancelled),
    }
}
