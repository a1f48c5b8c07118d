//! What a key is bound to: the only queues and kinds that it may be used for.
//!
//! # Invariant
//! A route refuses bound keys unless its handler says that it keeps to the binding, with [`Bound`](crate::Bound) in its first argument:
//! `Call<Bound<Produce>, …>`. So a route that nobody thought about refuses them.

use std::collections::BTreeSet;
use std::fmt;

use crate::problem::{Problem, ProblemKind, quote};

/// The queues and kinds of a bound key. An empty set binds to nothing: any queue, or any kind, will do.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Binding {
    pub queues: BTreeSet<String>,
    pub kinds: BTreeSet<String>,
}

impl Binding {
    pub fn is_empty(&self) -> bool {
        self.queues.is_empty() && self.kinds.is_empty()
    }

    pub fn allows_queue(&self, queue: &str) -> bool {
        self.queues.is_empty() || self.queues.contains(queue)
    }

    pub fn allows_kind(&self, kind: &str) -> bool {
        self.kinds.is_empty() || self.kinds.contains(kind)
    }

    /// Whether jobs of this kind on this queue are the key's.
    pub fn allows(&self, kind: &str, queue: &str) -> bool {
        self.allows_kind(kind) && self.allows_queue(queue)
    }

    /// Refuses another queue; `field` is where it stands in the request.
    pub fn permit_queue(&self, field: &str, queue: &str) -> Result<(), Problem> {
        permit(self.allows_queue(queue), field, queue, "queues", &self.queues)
    }

    /// Refuses another kind.
    pub fn permit_kind(&self, field: &str, kind: &str) -> Result<(), Problem> {
        permit(self.allows_kind(kind), field, kind, "kinds", &self.kinds)
    }

    /// The answer of a route that does not keep to bindings.
    pub(crate) fn refuse(&self) -> Problem {
        let reason = format!("this key is bound to {self}, and this route takes only keys without a binding");
        Problem::new(ProblemKind::KeyBound, reason)
    }
}

fn permit(
    is_allowed: bool,
    field: &str,
    name: &str,
    sort: &str,
    allowed: &BTreeSet<String>,
) -> Result<(), Problem> {
    if is_allowed {
        return Ok(());
    }
    let reason = format!(
        "this key is bound to the {sort} {}, not {}",
        listed(allowed),
        quote(name)
    );
    Err(Problem::field(ProblemKind::KeyBound, field, reason))
}

fn listed(names: &BTreeSet<String>) -> String {
    names.iter().map(String::as_str).collect::<Vec<_>>().join(", ")
}

impl fmt::Display for Binding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (self.queues.is_empty(), self.kinds.is_empty()) {
            (false, false) => write!(
                f,
                "the queues {} and the kinds {}",
                listed(&self.queues),
                listed(&self.kinds)
            ),
            (false, true) => write!(f, "the queues {}", listed(&self.queues)),
            (true, false) => write!(f, "the kinds {}", listed(&self.kinds)),
            (true, true) => f.write_str("nothing"),
        }
    }
}
