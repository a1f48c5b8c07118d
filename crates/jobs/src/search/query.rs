//! What a search asks for.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::id::{BatchId, JobId, WorkerId};
use crate::ledger::{JobFilter, Priority};
use crate::marks::FieldPath;
use crate::state::{State, StoredState};

/// Conditions that all hold for a job. The default holds for every job.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct JobQuery {
    pub(super) terms: Vec<Term>,
}

/// One condition, or its opposite.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Term {
    pub(super) is_negated: bool,
    pub(super) condition: Condition,
}

/// Of several values one is enough.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Condition {
    Kind(Vec<String>),
    Queue(Vec<String>),
    State(Vec<State>),
    Priority(Vec<Priority>),
    LimitKey(Vec<String>),
    UniqueKey(Vec<String>),
    /// One of its tags.
    Tag(Vec<String>),
    EnqueuedBy(Vec<String>),
    Batch(Vec<BatchId>),
    Worker(Vec<WorkerId>),
    /// The ids from the first to the last of each pair.
    Id(Vec<(JobId, JobId)>),
    Attempt(Comparison, i64),
    Crashes(Comparison, i64),
    /// Time since the job's id was made.
    Age(Comparison, Duration),
    /// A piece of the class or of the message of one of its errors; case does not matter.
    Error(Vec<String>),
    /// A piece of the payload's text; case does not matter.
    PayloadText(Vec<String>),
    /// A value in the payload.
    PayloadValue(FieldPath, Vec<String>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Comparison {
    Less,
    AtMost,
    Equal,
    AtLeast,
    More,
}

impl Comparison {
    /// As SQL writes it.
    pub(super) const fn sign(self) -> &'static str {
        match self {
            Self::Less => "<",
            Self::AtMost => "<=",
            Self::Equal => "=",
            Self::AtLeast => ">=",
            Self::More => ">",
        }
    }
}

impl Condition {
    /// Whether only the contents of a job tell: its payload or its errors.
    pub(super) fn is_about_contents(&self) -> bool {
        matches!(
            self,
            Self::Error(_) | Self::PayloadText(_) | Self::PayloadValue(..)
        )
    }
}

impl JobQuery {
    /// Whether it holds for every job.
    pub fn is_empty(&self) -> bool {
        self.terms.is_empty()
    }

    pub(super) fn push(&mut self, condition: Condition) {
        self.terms.push(Term {
            is_negated: false,
            condition,
        });
    }

    /// Jobs of one of these queues alone.
    pub fn only_queues(&mut self, queues: impl IntoIterator<Item = String>) {
        self.push(Condition::Queue(queues.into_iter().collect()));
    }

    /// Jobs of one of these kinds alone.
    pub fn only_kinds(&mut self, kinds: impl IntoIterator<Item = String>) {
        self.push(Condition::Kind(kinds.into_iter().collect()));
    }

    /// Jobs in this state alone.
    pub fn only_state(&mut self, state: State) {
        self.push(Condition::State(vec![state]));
    }

    /// Jobs of this batch alone.
    pub fn only_batch(&mut self, batch: BatchId) {
        self.push(Condition::Batch(vec![batch]));
    }

    /// The queues that it names, other than to leave them out.
    pub fn queues(&self) -> impl Iterator<Item = &str> {
        self.positive()
            .flat_map(|condition| match condition {
                Condition::Queue(names) => names.as_slice(),
                _ => &[],
            })
            .map(String::as_str)
    }

    /// The queues that it names, also those that it leaves out.
    pub fn named_queues(&self) -> impl Iterator<Item = &str> {
        self.terms
            .iter()
            .flat_map(|term| match &term.condition {
                Condition::Queue(names) => names.as_slice(),
                _ => &[],
            })
            .map(String::as_str)
    }

    /// The kinds that it names, other than to leave them out.
    pub fn kinds(&self) -> impl Iterator<Item = &str> {
        self.positive()
            .flat_map(|condition| match condition {
                Condition::Kind(names) => names.as_slice(),
                _ => &[],
            })
            .map(String::as_str)
    }

    /// The fields of the payload that it compares.
    pub fn payload_paths(&self) -> impl Iterator<Item = &FieldPath> {
        self.terms.iter().filter_map(|term| match &term.condition {
            Condition::PayloadValue(path, _) => Some(path),
            _ => None,
        })
    }

    /// Whether only payloads or errors tell which jobs match.
    pub fn is_about_contents(&self) -> bool {
        self.terms.iter().any(|term| term.condition.is_about_contents())
    }

    pub(super) fn positive(&self) -> impl Iterator<Item = &Condition> {
        self.terms
            .iter()
            .filter(|term| !term.is_negated)
            .map(|term| &term.condition)
    }

    /// The stored states that a match may have.
    pub(super) fn stored_states(&self) -> Vec<StoredState> {
        let all: BTreeSet<State> = State::ALL.into_iter().collect();
        let left = self.terms.iter().fold(all, |left, term| {
            let Condition::State(named) = &term.condition else {
                return left;
            };
            left.into_iter()
                .filter(|state| named.contains(state) != term.is_negated)
                .collect()
        });
        let stored = |state: &StoredState| left.iter().any(|seen| seen.stored() == *state);
        StoredState::ALL.into_iter().filter(stored).collect()
    }
}

impl From<&JobFilter> for JobQuery {
    fn from(filter: &JobFilter) -> Self {
        let mut query = Self::default();
        if let Some(queue) = &filter.queue {
            query.only_queues([queue.clone()]);
        }
        if let Some(kind) = &filter.kind {
            query.only_kinds([kind.clone()]);
        }
        if let Some(state) = filter.state {
            query.only_state(state);
        }
        if let Some(batch) = filter.batch {
            query.only_batch(batch);
        }
        query
    }
}
