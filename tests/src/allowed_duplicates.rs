//! Which second executions are nobody's fault: those of jobs that a process held when it was killed, or stopped past
//! its lease.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Instant;

/// What a process held at one instant.
#[derive(Debug, Clone)]
pub struct Excuse {
    /// What happened: `worker-0 was killed`.
    pub what: String,
    pub at: Instant,
    /// Own ids of ledger jobs that it held. `None`: SQL could not be asked; the crashes it counts must do.
    pub on_ledger: Option<HashSet<String>>,
    /// Redis' own account at that instant: member → ids of jobs. It does not say which process a member is, so that
    /// only those members count that are gone in the end.
    pub on_redis: BTreeMap<String, HashSet<String>>,
}

impl Excuse {
    pub(crate) fn new(what: &str) -> Self {
        Self {
            what: what.to_owned(),
            at: Instant::now(),
            on_ledger: None,
            on_redis: BTreeMap::new(),
        }
    }

    /// Whether the job, known by its own id and the API's, was held then. `alive`: members that are there now.
    pub(crate) fn covers(&self, own: &str, job: &str, alive: &BTreeSet<String>) -> bool {
        let on_ledger = self.on_ledger.as_ref().is_some_and(|held| held.contains(own));
        let on_redis = || {
            self.on_redis
                .iter()
                .any(|(member, held)| !alive.contains(member) && held.contains(job))
        };
        on_ledger || on_redis()
    }
}
