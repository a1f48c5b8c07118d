//! Outcomes of a pull worker: decided by the rules of Rust workers, stored by the same statements.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::failpoint;
use holdfast_core::telemetry::catalogue;
use serde_json::value::RawValue;
use tokio::time::Instant;

use super::memory::Session;
use super::rows::{self, Fate, LeasedRow, Payloads};
use super::{MAX_OUTCOMES, PullError, PullWorkers, fence_of};
use crate::enqueue::{Fault, FaultCode, KnownKind, depth_of};
use crate::failed_attempt::FailedAttempt;
use crate::follow_ups::{self, FollowedOutcome};
use crate::id::{JobId, WorkerId};
use crate::job::JobError;
use crate::job_log::{self, Line, MAX_LINES};
use crate::ledger::{ClaimedJob, Fence, Outcome};
use crate::meters::KindMeters;
use crate::worker::replacement;

/// Outcomes of one statement at most.
const BATCH: usize = 500;

/// How long outcomes are tried whose job or batch another transaction has locked.
pub(super) const LOCK_PATIENCE: Duration = Duration::from_secs(2);

/// Between these tries.
const LOCK_PAUSE: Duration = Duration::from_millis(50);

/// How long a snooze is that names no time.
const DEFAULT_SNOOZE: Duration = Duration::from_secs(15);

/// How an attempt ended, by the client's word.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    Completed,
    /// To be tried again, as the retry policy says.
    Failed,
    /// Never to be tried again.
    Discard,
    /// To be run again later; not an attempt.
    Snooze,
    /// It gave way to a cancellation.
    Cancelled,
}

/// One outcome as a client reports it.
#[derive(Debug, Clone)]
pub struct ReportedOutcome {
    pub job: JobId,
    /// As the pull gave it.
    pub fence: String,
    pub verb: Verb,
    pub result: Option<Box<RawValue>>,
    pub error: Option<String>,
    pub retry_after: Option<Duration>,
    /// Lines for the job's log that no heartbeat has brought.
    pub log: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutcomeStatus {
    /// It is written, by this call or by an earlier one.
    Stored,
    /// The job is no longer this worker's under this fence: nothing was written.
    LeaseLost,
    /// There is no such job (any more).
    Unknown,
}

/// What became of one reported outcome.
#[derive(Debug, Clone)]
pub struct StoredOutcome {
    pub job: JobId,
    pub status: OutcomeStatus,
    /// Why a completed job was discarded: its result is too large, or not what its kind's schema describes.
    pub refused: Option<String>,
}

/// A job, its queue, and how it ended.
pub(super) type DecidedOutcome = (ClaimedJob, Arc<str>, Outcome);

/// Outcomes that are written together, and how often the ledger refused them.
struct Piece {
    outcomes: Vec<DecidedOutcome>,
    refusals: u32,
}

impl PullWorkers {
    /// Stores outcomes under their fences; one answer for each, in order. Repeatable.
    pub async fn finish(
        &self,
        owner: &str,
        worker: WorkerId,
        outcomes: Vec<ReportedOutcome>,
    ) -> Result<Vec<StoredOutcome>, PullError> {
        if outcomes.len() > MAX_OUTCOMES {
            let reason = format!(
                "{} outcomes are more than the {MAX_OUTCOMES} of one call",
                outcomes.len()
            );
            let fault = Fault::new(FaultCode::BatchTooLarge, "outcomes", reason);
            return Err(PullError::Invalid(vec![fault]));
        }
        if let Some(index) = outcomes.iter().position(|outcome| outcome.log.len() > MAX_LINES) {
            let field = format!("outcomes[{index}].log");
            let fault = Fault::field(&field, format!("must have at most {MAX_LINES} lines"));
            return Err(PullError::Invalid(vec![fault]));
        }
        let session = match self.session(owner, worker).await {
            Ok(session) => Some(session),
            // Nothing is leased to a worker that is gone; each of its outcomes has a fate nevertheless.
            Err(PullError::UnknownWorker(_)) if self.owner_of(worker).await?.is_none() => None,
            Err(error) => return Err(error),
        };
        let ids: HashSet<JobId> = outcomes.iter().map(|outcome| outcome.job).collect();
        let ids: Vec<JobId> = ids.into_iter().collect();
        let (stored, refused) = match &session {
            Some(session) => self.finish_leased(worker, session, &ids, &outcomes).await?,
            None => Default::default(),
        };
        failpoint::reach("finished");
        let void: Vec<JobId> = ids.into_iter().filter(|id| !stored.contains(id)).collect();
        let fates = rows::fates(self.0.jobs.sql(), &void).await?;
        let name = session.as_ref().map(|session| session.name.as_str());
        let answers: Vec<StoredOutcome> = outcomes
            .into_iter()
            .map(|outcome| StoredOutcome {
                job: outcome.job,
                status: if stored.contains(&outcome.job) {
                    OutcomeStatus::Stored
                } else {
                    status_of(&outcome, worker, name, fates.get(&outcome.job))
                },
                refused: refused.get(&outcome.job).cloned(),
            })
            .collect();
        let lost = answers
            .iter()
            .filter(|answer| answer.status == OutcomeStatus::LeaseLost)
            .count();
        if lost > 0 {
            catalogue::JOB_OUTCOMES_VOID.with([]).increment(lost as u64);
            tracing::warn!(jobs = lost, worker = %worker, "outcomes are ignored: their leases were lost");
        }
        Ok(answers)
    }

    /// Stores those whose leases hold; which those are, and which results were refused.
    async fn finish_leased(
        &self,
        worker: WorkerId,
        session: &Session,
        ids: &[JobId],
        outcomes: &[ReportedOutcome],
    ) -> Result<(HashSet<JobId>, HashMap<JobId, String>), PullError> {
        let jobs = &self.0.jobs;
        // An error and a line are cleaned of the secret fields of the payload.
        let has_texts = |outcome: &ReportedOutcome| outcome.error.is_some() || !outcome.log.is_empty();
        let is_cleaned = outcomes.iter().any(has_texts) && jobs.has_marks();
        let payloads = if is_cleaned {
            Payloads::Read
        } else {
            Payloads::LeftOut
        };
        let mut leased = rows::leased(jobs.sql(), worker, ids, payloads).await?;
        let kinds: Vec<String> = leased.values().map(|leased| leased.job.kind.clone()).collect();
        let kinds: Vec<&str> = kinds.iter().map(String::as_str).collect();
        if let Err(error) = jobs.look_up(&kinds, &[]).await {
            tracing::debug!(error = ?error, "results are checked against the kinds as they were last known");
        }
        let (mut decided, mut refused, mut ends) = (Vec::new(), HashMap::new(), Vec::new());
        let mut chunks = Vec::new();
        for reported in outcomes {
            // Of several outcomes of one job the first counts.
            let holds = leased
                .get(&reported.job)
                .is_some_and(|leased| fence_of(reported.job, &reported.fence) == Some(leased.job.fence()));
            let Some(leased) = holds.then(|| leased.remove(&reported.job)).flatten() else {
                continue;
            };
            if !reported.log.is_empty() {
                let mut lines: Vec<Line> = reported.log.iter().map(|line| Line::new(line)).collect();
                jobs.clean_lines(&leased.job, &mut lines);
                chunks.extend(job_log::chunks(leased.job.fence(), lines));
            }
            let (outcome, reason) = self.decide(&leased, reported, &session.name);
            if let Some(reason) = reason {
                refused.insert(reported.job, reason);
            }
            ends.push((
                leased.job.kind.clone(),
                Arc::clone(&leased.queue),
                outcome.clone(),
                leased.ran_for,
            ));
            decided.push((leased.job, leased.queue, outcome));
        }
        failpoint::reach("finish");
        // Before the outcomes: after them the fences would not hold.
        job_log::append(jobs.sql(), worker, &chunks).await?;
        let stored = self.store(worker, &session.name, decided).await?;
        for (kind, queue, outcome, ran_for) in ends
            .iter()
            .filter(|(_, _, outcome, _)| stored.contains(&outcome.fence().id))
        {
            self.count(worker, kind, queue, outcome);
            jobs.statistics().ended(queue, kind, outcome, *ran_for);
        }
        self.0.memory.finished(worker, ids);
        Ok((stored, refused))
    }

    /// Counts an outcome, and wakes whoever it concerns.
    fn count(&self, worker: WorkerId, kind: &str, queue: &Arc<str>, outcome: &Outcome) {
        let jobs = &self.0.jobs;
        match jobs.producer().kind(kind) {
            Some(known) => known.meters().ended(outcome),
            None => KindMeters::of_unknown().ended(outcome),
        }
        self.0
            .memory
            .count(worker, queue, matches!(outcome, Outcome::Completed { .. }));
        if let Outcome::Retry { delay, .. } | Outcome::Snooze { delay, .. } = outcome {
            jobs.bell().ring(queue, 1, *delay);
        } else if self.0.hub.is_limited(queue) {
            // A place is free.
            jobs.bell().ring(queue, 1, Duration::ZERO);
        }
    }

    /// The outcome of a leased job, and why its result was refused.
    fn decide(
        &self,
        leased: &LeasedRow,
        reported: &ReportedOutcome,
        worker: &str,
    ) -> (Outcome, Option<String>) {
        let jobs = &self.0.jobs;
        let kind = jobs.producer().kind(&leased.job.kind);
        let message = || {
            reported
                .error
                .clone()
                .unwrap_or_else(|| "the worker gave no reason".to_owned())
        };
        let mut refused = None;
        let error = match reported.verb {
            Verb::Completed => match self.check_result(kind.as_ref(), reported.result.as_deref()) {
                Ok(()) => {
                    let result = reported.result.as_deref().filter(|result| result.get() != "null");
                    let outcome = Outcome::Completed {
                        fence: leased.job.fence(),
                        result: result.map(|result| result.to_owned().into()),
                    };
                    return (outcome, None);
                }
                Err(reason) => {
                    refused = Some(reason.clone());
                    JobError::permanent(reason)
                }
            },
            Verb::Failed => match reported.retry_after {
                Some(after) => JobError::retry_after(after, message()),
                None => JobError::transient(message()),
            },
            Verb::Discard => JobError::permanent(message()),
            Verb::Snooze => JobError::Snooze(reported.retry_after.unwrap_or(DEFAULT_SNOOZE)),
            Verb::Cancelled => JobError::Cancelled,
        };
        let policy = match &kind {
            Some(kind) => kind.policy(jobs.retries(), &leased.queue),
            None => jobs.retries().of(&leased.job.kind, None, &leased.queue),
        };
        let payload = jobs.readable(&leased.job.kind, leased.job.payload.clone());
        let outcome = FailedAttempt {
            job: &leased.job,
            error: &error,
            policy,
            cancelled: leased.cancel_requested,
            worker,
            ran_for: leased.ran_for,
            secrets: kind.as_ref().map(|kind| (kind.marks(), &*payload)),
        }
        .outcome();
        (outcome, refused)
    }

    fn check_result(&self, kind: Option<&KnownKind<'_>>, result: Option<&RawValue>) -> Result<(), String> {
        let limits = &self.0.settings.jobs;
        if let Some(result) = result {
            let (bytes, depth) = (result.get().len(), depth_of(result.get()));
            if bytes > limits.max_payload_bytes {
                return Err(format!(
                    "the result has {bytes} bytes; {} are the most",
                    limits.max_payload_bytes
                ));
            }
            if depth > limits.max_payload_depth {
                return Err(format!(
                    "the result is nested {depth} deep; {} is the most",
                    limits.max_payload_depth
                ));
            }
        }
        let Some(KnownKind::Declared(kind)) = kind else {
            return Ok(());
        };
        kind.check_result(result)
            .map_err(|fault| match fault.field.as_str() {
                "" => format!("result: {}", fault.reason),
                field => format!("result.{field}: {}", fault.reason),
            })
    }

    /// Writes outcomes under their fences; which of them were still held. What the ledger refuses for good becomes a dead letter
    /// with the reason, as from a Rust worker.
    pub(super) async fn store(
        &self,
        worker: WorkerId,
        name: &str,
        outcomes: Vec<DecidedOutcome>,
    ) -> Result<HashSet<JobId>, PullError> {
        let (followed, plain): (Vec<_>, Vec<_>) = outcomes
            .into_iter()
            .partition(|outcome| self.is_followed(outcome));
        let mut pieces: Vec<Piece> = [followed, plain].into_iter().flat_map(pieces_of).collect();
        let mut stored = HashSet::new();
        while let Some(mut piece) = pieces.pop() {
            match self.write(worker, &piece.outcomes).await {
                Ok(written) => stored.extend(written),
                Err(PullError::Ledger(error)) if !error.is_transient() => {
                    if piece.outcomes.len() > 1 {
                        let outcomes = piece.outcomes.split_off(piece.outcomes.len() / 2);
                        pieces.push(Piece {
                            outcomes,
                            refusals: piece.refusals,
                        });
                        pieces.push(piece);
                    } else {
                        let replaced = piece.outcomes.into_iter().filter_map(|(job, queue, outcome)| {
                            let outcome = replacement(&outcome, piece.refusals, &error, name)?;
                            Some((job, queue, outcome))
                        });
                        let outcomes: Vec<_> = replaced.collect();
                        if outcomes.is_empty() {
                            return Err(error.into());
                        }
                        pieces.push(Piece {
                            outcomes,
                            refusals: piece.refusals + 1,
                        });
                    }
                }
                Err(error) => return Err(error),
            }
        }
        Ok(stored)
    }

    fn is_followed(&self, (job, queue, outcome): &DecidedOutcome) -> bool {
        FollowedOutcome::is_tied(job, outcome) || self.0.jobs.observers().may_want(&job.kind, queue, outcome)
    }

    /// Writes a piece; in one statement if nothing follows any of it.
    async fn write(&self, worker: WorkerId, outcomes: &[DecidedOutcome]) -> Result<Vec<JobId>, PullError> {
        let jobs = &self.0.jobs;
        if !outcomes.iter().any(|outcome| self.is_followed(outcome)) {
            let outcomes: Vec<Outcome> = outcomes.iter().map(|(.., outcome)| outcome.clone()).collect();
            return match jobs.ledger().finish(worker, &outcomes).await {
                Err(error) if error.is_contention() => Err(PullError::Locked),
                written => Ok(written?),
            };
        }
        let observers = jobs.observers();
        observers.ready().await?;
        let followed: Vec<FollowedOutcome> = outcomes
            .iter()
            .map(|(job, queue, outcome)| FollowedOutcome::observed(job, queue, outcome, observers))
            .collect();
        match follow_ups::finish(jobs.sql(), worker, &followed).await {
            Ok((held, effects)) => {
                jobs.announce(&effects);
                Ok(held)
            }
            Err(error) if error.is_contention() || error.is_statement_timeout() => {
                self.write_free(worker, followed).await
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Somebody has locked a job or a batch: the others are stored now, and these once they are free.
    async fn write_free(
        &self,
        worker: WorkerId,
        mut followed: Vec<FollowedOutcome>,
    ) -> Result<Vec<JobId>, PullError> {
        let jobs = &self.0.jobs;
        let began = Instant::now();
        let mut stored = Vec::new();
        loop {
            match follow_ups::finish_free(jobs.sql(), worker, &followed).await {
                Ok((finish, effects)) => {
                    jobs.announce(&effects);
                    stored.extend(finish.stored);
                    followed.retain(|one| finish.locked.contains(&one.outcome.fence().id));
                }
                Err(error) if error.is_contention() => {}
                Err(error) => return Err(error.into()),
            }
            if followed.is_empty() {
                return Ok(stored);
            }
            if began.elapsed() > LOCK_PATIENCE {
                return Err(PullError::Locked);
            }
            tokio::time::sleep(LOCK_PAUSE).await;
        }
    }
}

fn pieces_of(mut outcomes: Vec<DecidedOutcome>) -> Vec<Piece> {
    let mut pieces = Vec::new();
    while !outcomes.is_empty() {
        let rest = outcomes.split_off(outcomes.len().min(BATCH));
        pieces.push(Piece {
            outcomes: std::mem::replace(&mut outcomes, rest),
            refusals: 0,
        });
    }
    pieces
}

/// What a void outcome is answered. One that this worker stored before under this very fence was stored: a job that has ended
/// names its worker, and a failed attempt names it in its error. (A snooze leaves no trace, and is answered `lease_lost`.)
fn status_of(
    reported: &ReportedOutcome,
    worker: WorkerId,
    name: Option<&str>,
    fate: Option<&Fate>,
) -> OutcomeStatus {
    let Some(fate) = fate else {
        return OutcomeStatus::Unknown;
    };
    let Some(Fence { attempt, crashes, .. }) = fence_of(reported.job, &reported.fence) else {
        return OutcomeStatus::LeaseLost;
    };
    let ended_here = fate.state.is_final()
        && fate.worker == Some(worker)
        && fate.attempt == attempt + 1
        && fate.crashes == crashes;
    let failed_here = fate.crashes == crashes
        && fate
            .error
            .as_ref()
            .is_some_and(|(author, at)| Some(author.as_str()) == name && *at == attempt + 1);
    if ended_here || failed_here {
        OutcomeStatus::Stored
    } else {
        OutcomeStatus::LeaseLost
    }
}
