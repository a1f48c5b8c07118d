//! The states of a job and every legal transition between them. The SQL and the Lua follow this file.
//!
//! A row stores one of five states. Two more names are views of `available`: a row whose `run_at` lies ahead
//! is called `scheduled` before its first attempt and `retryable` after one. Nothing moves such a row when it
//! becomes due; it is simply claimable, so no process has to be alive for a job to become due.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// What a row stores.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StoredState {
    Available,
    Running,
    Completed,
    Discarded,
    Cancelled,
}

/// What users see.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    Scheduled,
    Available,
    Running,
    Retryable,
    Completed,
    Discarded,
    Cancelled,
}

/// Everything that can happen to a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Transition {
    /// A worker takes a due job.
    Claim,
    /// The handler returned a result.
    Complete,
    /// The attempt failed and another is due later; or the handler asked to be run again later.
    Retry,
    /// Attempts spent, permanent error, or poison.
    Discard,
    /// Somebody asked for it, and the job was not running or has given way.
    Cancel,
    /// The lease expired, or a stopping worker gave the job back.
    Return,
    /// An operator puts a dead letter back.
    Redrive,
}

impl StoredState {
    pub const ALL: [Self; 5] = [
        Self::Available,
        Self::Running,
        Self::Completed,
        Self::Discarded,
        Self::Cancelled,
    ];

    /// The state after `transition`, or `None` where it is not legal.
    pub const fn after(self, transition: Transition) -> Option<Self> {
        use StoredState::{Available, Cancelled, Completed, Discarded, Running};
        match (self, transition) {
            (Available, Transition::Claim) => Some(Running),
            (Running, Transition::Complete) => Some(Completed),
            (Running, Transition::Retry | Transition::Return) => Some(Available),
            (Running, Transition::Discard) => Some(Discarded),
            (Available | Running, Transition::Cancel) => Some(Cancelled),
            (Discarded, Transition::Redrive) => Some(Available),
            _ => None,
        }
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Discarded | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Available => "available",
            Self::Running => "running",
            Self::Completed => "completed",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }

    /// The name users see, given whether `run_at` lies ahead and how many attempts came to an outcome.
    pub const fn seen_as(self, run_at_lies_ahead: bool, attempt: u32) -> State {
        match self {
            Self::Available if run_at_lies_ahead && attempt == 0 => State::Scheduled,
            Self::Available if run_at_lies_ahead => State::Retryable,
            Self::Available => State::Available,
            Self::Running => State::Running,
            Self::Completed => State::Completed,
            Self::Discarded => State::Discarded,
            Self::Cancelled => State::Cancelled,
        }
    }
}

impl State {
    pub const ALL: [Self; 7] = [
        Self::Scheduled,
        Self::Available,
        Self::Running,
        Self::Retryable,
        Self::Completed,
        Self::Discarded,
        Self::Cancelled,
    ];

    /// What a row in this state stores.
    pub const fn stored(self) -> StoredState {
        match self {
            Self::Scheduled | Self::Available | Self::Retryable => StoredState::Available,
            Self::Running => StoredState::Running,
            Self::Completed => StoredState::Completed,
            Self::Discarded => StoredState::Discarded,
            Self::Cancelled => StoredState::Cancelled,
        }
    }

    pub const fn is_final(self) -> bool {
        matches!(self, Self::Completed | Self::Discarded | Self::Cancelled)
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Scheduled => "scheduled",
            Self::Available => "available",
            Self::Running => "running",
            Self::Retryable => "retryable",
            Self::Completed => "completed",
            Self::Discarded => "discarded",
            Self::Cancelled => "cancelled",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for StoredState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text names no state.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "unknown state {0:?}: expected one of scheduled, available, running, retryable, completed, discarded, cancelled"
)]
pub struct UnknownState(pub String);

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.chars().take(40).collect()))
    }
}

impl FromStr for StoredState {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL
            .into_iter()
            .find(|state| state.as_str() == text)
            .ok_or_else(|| UnknownState(text.chars().take(40).collect()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRANSITIONS: [Transition; 7] = [
        Transition::Claim,
        Transition::Complete,
        Transition::Retry,
        Transition::Discard,
        Transition::Cancel,
        Transition::Return,
        Transition::Redrive,
    ];

    #[test]
    fn a_final_state_is_left_by_redrive_alone_and_only_from_discarded() {
        for state in StoredState::ALL.into_iter().filter(|state| state.is_final()) {
            for transition in TRANSITIONS {
                let legal = state == StoredState::Discarded && transition == Transition::Redrive;
                assert_eq!(state.after(transition).is_some(), legal, "{state} {transition:?}");
            }
        }
    }

    #[test]
    fn only_a_running_job_has_outcomes() {
        for transition in [
            Transition::Complete,
            Transition::Retry,
            Transition::Discard,
            Transition::Return,
        ] {
            for state in StoredState::ALL {
                assert_eq!(state.after(transition).is_some(), state == StoredState::Running);
            }
        }
    }

    #[test]
    fn an_available_row_ahead_of_its_time_is_scheduled_or_retryable() {
        assert_eq!(StoredState::Available.seen_as(true, 0), State::Scheduled);
        assert_eq!(StoredState::Available.seen_as(true, 1), State::Retryable);
        assert_eq!(StoredState::Available.seen_as(false, 1), State::Available);
        assert_eq!(StoredState::Running.seen_as(true, 1), State::Running);
    }

    #[test]
    fn names_survive_text() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert!("done".parse::<State>().is_err());
    }
}
