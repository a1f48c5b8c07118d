//! The attempts of a job, as its row tells them.
//!
//! Nothing is stored for this: each failed attempt and each crash has left its error with the job, and the last attempt is told by the
//! row itself. So a job that succeeds at its first attempt costs nothing more. An attempt that was put back without an outcome (a worker
//! that stopped, a snooze) is no attempt, and leaves no trace.

use chrono::{DateTime, Utc};
use holdfast_core::sql::dialect::read_either;

use crate::client::Jobs;
use crate::expiry::EXPIRED;
use crate::id::{JobId, WorkerId};
use crate::ledger::{ErrorRecord, JobRecord, LedgerError};
use crate::state::State;

/// The class of the errors that rescues leave.
const CRASH: &str = "crash";

/// How an attempt ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AttemptOutcome {
    /// It has not ended.
    Running,
    Completed,
    /// It failed, and was to be tried again.
    Failed,
    /// It failed, and was the last.
    Discarded,
    /// Its worker died.
    Crashed,
    Cancelled,
}

impl AttemptOutcome {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Failed => "failed",
            Self::Discarded => "discarded",
            Self::Crashed => "crashed",
            Self::Cancelled => "cancelled",
        }
    }
}

/// One execution of a job.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attempt {
    /// From 1. A crash does not count: the next execution has the same number.
    pub attempt: u32,
    pub outcome: AttemptOutcome,
    /// The name of its worker; `None`: the worker is gone, and left none.
    pub worker: Option<String>,
    /// The worker's id: of the last attempt.
    pub worker_id: Option<WorkerId>,
    /// `None`: a release before did not record it, or it has not begun yet.
    pub started_at: Option<DateTime<Utc>>,
    pub ended_at: Option<DateTime<Utc>>,
    pub error: Option<ErrorRecord>,
}

impl Attempt {
    /// The machine: what the worker's name says of it.
    pub fn host(&self) -> Option<&str> {
        self.worker.as_deref().map(host_of)
    }
}

/// Names are `host-process-boot`, with six characters for the boot; those of pull workers are what the client said and eight
/// characters.
fn host_of(name: &str) -> &str {
    let Some((rest, boot)) = name.rsplit_once('-') else {
        return name;
    };
    match rest.rsplit_once('-') {
        Some((host, process)) if boot.len() == 6 && process.bytes().all(|digit| digit.is_ascii_digit()) => {
            host
        }
        _ if boot.len() == 8 => rest,
        _ => name,
    }
}

impl Jobs {
    /// A job and its attempts, the first one first. `None`: there is no such job.
    ///
    /// # Errors
    /// The database fails, is slow or unavailable.
    pub async fn attempts(&self, id: JobId) -> Result<Option<(JobRecord, Vec<Attempt>)>, LedgerError> {
        let Some(job) = self.get(id).await? else {
            return Ok(None);
        };
        let last_worker = match job.worker {
            Some(worker) => self.worker_name(worker).await?,
            None => None,
        };
        let attempts = attempts_of(&job, last_worker);
        Ok(Some((job, attempts)))
    }

    /// The name of a worker that has a row.
    pub(crate) async fn worker_name(&self, id: WorkerId) -> Result<Option<String>, LedgerError> {
        const NAME: &str = "select name from holdfast_workers where id = $1";
        let sql = self.sql();
        let found = read_either!(
            sql,
            "read a worker's name",
            query_as::<(String,)>(NAME),
            [id.as_uuid()],
            fetch_optional
        )?;
        Ok(found.map(|(name,)| name))
    }
}

fn attempts_of(job: &JobRecord, last_worker: Option<String>) -> Vec<Attempt> {
    let errors: Vec<&ErrorRecord> = job.errors.iter().filter(|error| is_of_attempt(error)).collect();
    let mut attempts: Vec<Attempt> = errors.iter().map(|error| failed(error)).collect();
    if job.state == State::Discarded
        && let Some(last) = attempts.last_mut()
        && last.outcome == AttemptOutcome::Failed
    {
        last.outcome = AttemptOutcome::Discarded;
    }
    let last = |attempt, outcome| Attempt {
        attempt,
        outcome,
        worker: last_worker,
        worker_id: job.worker,
        started_at: job.started_at,
        ended_at: job.finished_at,
        error: None,
    };
    match job.state {
        State::Running => attempts.push(last(job.attempt + 1, AttemptOutcome::Running)),
        State::Completed => attempts.push(last(job.attempt.max(1), AttemptOutcome::Completed)),
        State::Cancelled
            if job.started_at.is_some() && job.worker.is_some() && !has_crashed_last(job, &errors) =>
        {
            let failed = errors.iter().filter(|error| error.class != CRASH);
            let before = failed.map(|error| error.attempt).max().unwrap_or(0);
            attempts.push(last(before + 1, AttemptOutcome::Cancelled));
        }
        _ => {}
    }
    attempts
}

/// Whether the cancelled job's last execution is among the errors already: its worker died while the job was to stop.
fn has_crashed_last(job: &JobRecord, errors: &[&ErrorRecord]) -> bool {
    errors
        .last()
        .is_some_and(|error| error.class == CRASH && error.attempt == job.attempt + 1)
}

/// An error that is not of an execution names no worker, or says that there was to be none.
fn is_of_attempt(error: &ErrorRecord) -> bool {
    error.class != EXPIRED && error.worker.as_deref().is_some_and(|worker| !worker.is_empty())
}

fn failed(error: &ErrorRecord) -> Attempt {
    Attempt {
        attempt: error.attempt,
        outcome: if error.class == CRASH {
            AttemptOutcome::Crashed
        } else {
            AttemptOutcome::Failed
        },
        worker: error.worker.clone(),
        worker_id: None,
        started_at: error.started_at,
        ended_at: Some(error.at),
        error: Some(error.clone()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_what_a_name_begins_with() {
        assert_eq!(host_of("web-1-4711-9R6BHX"), "web-1");
        assert_eq!(host_of("web-1-zc5t9r6b"), "web-1");
        assert_eq!(host_of("web-9R6BHX"), "web-9R6BHX");
        assert_eq!(host_of("worker"), "worker");
    }
}
