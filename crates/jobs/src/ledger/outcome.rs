//! An outcome as both databases write it: the columns of one row of the finish statement, and what the row became.

use std::time::Duration;

use uuid::Uuid;

use super::{Fence, FreeFinish, Outcome};
use crate::id::JobId;
use crate::state::{StoredState, UnknownState};

/// A row that the finish statement has written. Its state may differ from the outcome's own: a job that was asked to cancel is
/// cancelled where it would have become available again.
#[derive(Debug, Clone, Copy)]
pub(crate) struct WrittenOutcome {
    pub id: JobId,
    pub state: StoredState,
}

impl WrittenOutcome {
    pub(super) fn of(id: Uuid, state: &str) -> Result<Self, UnknownState> {
        Ok(Self {
            id: JobId::from_uuid(id),
            state: state.parse()?,
        })
    }
}

/// What became of outcomes that were written without waiting for a lock; see [`FreeFinish`].
#[derive(Debug)]
pub(crate) struct FreeRows {
    pub written: Vec<WrittenOutcome>,
    pub locked: Vec<JobId>,
}

impl From<FreeRows> for FreeFinish {
    fn from(rows: FreeRows) -> Self {
        Self {
            stored: rows.written.into_iter().map(|row| row.id).collect(),
            locked: rows.locked,
        }
    }
}

#[derive(Debug)]
pub(super) struct OutcomeRow<'a> {
    pub fence: Fence,
    pub state: StoredState,
    /// Attempts this outcome spends: 1, or 0 for what is no attempt.
    pub spent: i32,
    /// When an available row is due again; `None` leaves its `run_at` as it was.
    pub delay: Option<Duration>,
    pub result: Option<&'a str>,
    pub error: Option<String>,
}

impl<'a> OutcomeRow<'a> {
    pub(super) fn of(outcome: &'a Outcome) -> Self {
        let (spent, delay, result, error) = match outcome {
            Outcome::Completed { result, .. } => (
                1,
                None,
                result.as_deref().map(serde_json::value::RawValue::get),
                None,
            ),
            Outcome::Retry { delay, error, .. } => (1, Some(*delay), None, Some(error)),
            Outcome::Snooze { delay, .. } => (0, Some(*delay), None, None),
            Outcome::Discard { error, .. } => (1, None, None, Some(error)),
            Outcome::Cancel { error, .. } => (1, None, None, error.as_ref()),
            Outcome::HandBack { .. } => (0, None, None, None),
        };
        Self {
            fence: *outcome.fence(),
            state: outcome.state(),
            spent,
            delay,
            result,
            error: error.and_then(|error| serde_json::to_string(error).ok()),
        }
    }
}
