//! Who this worker is: a new id at each boot, and another one when its leases were lost, became uncertain, or were many.
//!
//! A claim that was not answered may have been applied, now or later: then the ledger leases jobs to this worker that it
//! does not know of. So the id that claimed is *retired*: it claims no more, the worker goes on under another one, and
//! what the ledger says the retired id holds beyond what the worker knows is put back. Once it holds nothing, its row
//! goes. A claim that is still under way then holds the row, so the row stays until the claim has come to its end; one that
//! comes later finds no row, and takes nothing. An id that has taken [`JOBS_PER_ID`] jobs is retired as well, so that what
//! the database must walk past to find what one id holds is bounded.
//!
//! The protocol with its invariants and interleavings: `docs/adr/0008-the-lease-is-a-lock.md`.
//!
//! # States of an id
//! unregistered → registered (it claims) → retired (it is kept alive, and claims no more) → gone. *Unregistered* is skipped by the
//! successor of a worn id, which is registered before it takes over.
//!
//! # Invariants
//! - One id claims at a time. No claim begins for an id that is retired.
//! - A claim is *over* when its jobs are in [`super::leased::LeaseBook`], or when it was given up and its id retired.
//! - The name is that of the process. It stays when the id changes, and is how the rows of one process are known to be one's.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use tokio::sync::Notify;

use crate::id::WorkerId;

/// Jobs that one id takes at most, about: until a vacuum the index of running jobs keeps an entry of each, and whoever looks for
/// what the id holds walks past them, at 0.25 to 5 µs each.
pub(crate) const JOBS_PER_ID: u64 = 100_000;

/// No new id is made while claims for this many older ones may still be applied: the database is to answer first.
const MAX_UNCERTAIN: usize = 32;

#[derive(Debug, Clone, Copy)]
struct Current {
    id: WorkerId,
    registered: bool,
    /// Jobs that it has taken.
    jobs: u64,
}

impl Current {
    fn new() -> Self {
        Self {
            id: WorkerId::generate(),
            registered: false,
            jobs: 0,
        }
    }
}

/// Why an id was retired.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Retirement {
    /// A claim for it got no answer.
    Uncertain,
    /// It has taken [`JOBS_PER_ID`] jobs.
    Worn,
}

#[derive(Debug)]
struct State {
    current: Current,
    retired: BTreeMap<WorkerId, Retirement>,
    /// Claims under way, numbered as they began, and the id each claims for.
    claiming: BTreeMap<u64, WorkerId>,
    claims: u64,
    jobs_per_id: u64,
}

/// A claim under way. Until it is over, nobody can tell what its id holds.
#[derive(Debug)]
pub(crate) struct PendingClaim<'i> {
    identity: &'i Identity,
    number: u64,
    pub id: WorkerId,
}

impl PendingClaim<'_> {
    /// The ledger has answered with this many jobs.
    pub(crate) fn took(&self, jobs: usize) {
        let mut state = self.identity.state();
        if state.current.id == self.id {
            state.current.jobs += jobs as u64;
            if state.current.jobs >= state.jobs_per_id {
                self.identity.changed.notify_one();
            }
        }
    }
}

impl Drop for PendingClaim<'_> {
    fn drop(&mut self) {
        self.identity.state().claiming.remove(&self.number);
    }
}

#[derive(Debug)]
pub(crate) struct Identity {
    state: Mutex<State>,
    /// The current id is to be registered, or to be followed by another one.
    pub changed: Notify,
    /// There is an id more to be wound up.
    pub has_retired: Notify,
    /// The broker's leases are lost apart from the ledger's, so they have an id of their own.
    on_broker: RwLock<WorkerId>,
    name: String,
    booted_at: DateTime<Utc>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        let current = Current::new();
        Self {
            name: process_name(current.id),
            state: Mutex::new(State {
                current,
                retired: BTreeMap::new(),
                claiming: BTreeMap::new(),
                claims: 0,
                jobs_per_id: JOBS_PER_ID,
            }),
            changed: Notify::new(),
            has_retired: Notify::new(),
            on_broker: RwLock::new(WorkerId::generate()),
            booted_at: clock::now(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Another bound than [`JOBS_PER_ID`], said before the worker starts.
    pub(crate) fn set_jobs_per_id(&self, jobs: u64) {
        self.state().jobs_per_id = jobs.max(1);
    }

    pub(crate) fn id(&self) -> WorkerId {
        self.state().current.id
    }

    /// The current id, if it is not registered and may be.
    pub(crate) fn to_register(&self) -> Option<WorkerId> {
        let state = self.state();
        let uncertain = |retired: &&Retirement| **retired == Retirement::Uncertain;
        let waits = state.retired.values().filter(uncertain).count() >= MAX_UNCERTAIN;
        (!state.current.registered && !waits).then_some(state.current.id)
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.state().current.registered
    }

    pub(crate) fn registered(&self, id: WorkerId) {
        let current = &mut self.state().current;
        if current.id == id {
            current.registered = true;
        }
    }

    /// The current id, if it has taken so many jobs that another one shall follow it.
    pub(crate) fn worn(&self) -> Option<WorkerId> {
        let state = self.state();
        let current = state.current;
        (current.registered && current.jobs >= state.jobs_per_id).then_some(current.id)
    }

    /// `next` is registered, and claims from now on in place of `worn`.
    pub(crate) fn succeed(&self, worn: WorkerId, next: WorkerId) {
        let mut state = self.state();
        let replaced = state.current.id == worn;
        if replaced {
            state.current = Current {
                id: next,
                registered: true,
                jobs: 0,
            };
        }
        // Where `worn` was retired meanwhile, `next` is a row that holds nothing.
        let retired = if replaced { worn } else { next };
        state.retired.entry(retired).or_insert(Retirement::Worn);
        self.has_retired.notify_one();
    }

    /// To be held from before a claim is sent until its jobs are known.
    pub(crate) fn begin_claim(&self) -> PendingClaim<'_> {
        let mut state = self.state();
        state.claims += 1;
        let (number, id) = (state.claims, state.current.id);
        state.claiming.insert(number, id);
        PendingClaim {
            identity: self,
            number,
            id,
        }
    }

    /// The number of the claim that began last.
    pub(crate) fn newest_claim(&self) -> u64 {
        self.state().claims
    }

    /// Whether every claim up to this number is over.
    pub(crate) fn claims_are_over(&self, number: u64) -> bool {
        self.state()
            .claiming
            .keys()
            .next()
            .is_none_or(|oldest| *oldest > number)
    }

    /// A claim for `id` may have been applied without our hearing of it.
    pub(crate) fn retire(&self, id: WorkerId) {
        let mut state = self.state();
        if state.current.id == id {
            state.current = Current::new();
            state.retired.insert(id, Retirement::Uncertain);
            self.changed.notify_one();
            self.has_retired.notify_one();
        } else if let Some(retirement) = state.retired.get_mut(&id) {
            *retirement = Retirement::Uncertain;
        }
    }

    /// Ids that claim no more and are still leased to.
    pub(crate) fn retired(&self) -> Vec<WorkerId> {
        self.state().retired.keys().copied().collect()
    }

    pub(crate) fn is_claiming(&self, id: WorkerId) -> bool {
        self.state().claiming.values().any(|claiming| *claiming == id)
    }

    pub(crate) fn buried(&self, id: WorkerId) {
        self.state().retired.remove(&id);
        // One that had to wait for this may be registered now.
        self.changed.notify_one();
    }

    pub(crate) fn broker_id(&self) -> WorkerId {
        *self.on_broker.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// The broker has given `lost` up. Asked twice for the same id, it is renewed once.
    pub(crate) fn renew_on_broker(&self, lost: WorkerId) {
        let mut current = self.on_broker.write().unwrap_or_else(PoisonError::into_inner);
        if *current == lost {
            *current = WorkerId::generate();
        }
    }

    /// What an operator recognises: host, process, boot.
    pub(crate) fn name(&self) -> String {
        self.name.clone()
    }

    pub(crate) fn booted_at(&self) -> DateTime<Utc> {
        self.booted_at
    }

    /// The leases of `lost` were taken away; whatever it still runs is void.
    pub(crate) fn renew(&self, lost: WorkerId) {
        let mut state = self.state();
        if state.current.id == lost {
            state.current = Current::new();
        }
    }
}

/// The name of a process that booted with this id.
pub(crate) fn process_name(id: WorkerId) -> String {
    let id = id.to_string();
    format!("{}-{}-{}", host_name(), std::process::id(), &id[id.len() - 6..])
}

/// The kernel's name for this machine; a container's is its id.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_claim_belongs_to_the_id_it_began_with_and_is_waited_for_by_its_number() {
        let identity = Identity::new();
        let first = identity.id();
        let claim = identity.begin_claim();
        let newest = identity.newest_claim();
        assert!(identity.is_claiming(first) && !identity.claims_are_over(newest));
        identity.retire(first);
        assert_eq!(identity.retired(), [first]);
        let later = identity.begin_claim();
        assert_ne!(later.id, first);
        drop(claim);
        assert!(!identity.is_claiming(first));
        assert!(
            identity.claims_are_over(newest),
            "a claim that began later is not waited for"
        );
    }

    #[test]
    fn a_worn_id_is_followed_by_one_that_is_registered_already() {
        let identity = Identity::new();
        identity.set_jobs_per_id(10);
        let first = identity.to_register().unwrap();
        identity.registered(first);
        identity.begin_claim().took(9);
        assert_eq!(identity.worn(), None);
        identity.begin_claim().took(1);
        assert_eq!(identity.worn(), Some(first));
        let next = WorkerId::generate();
        identity.succeed(first, next);
        assert_eq!(
            (identity.id(), identity.is_registered(), identity.worn()),
            (next, true, None)
        );
        assert_eq!(identity.retired(), [first]);
        // One that became uncertain while its successor was being registered: the successor's row is not forgotten.
        let unused = WorkerId::generate();
        identity.succeed(first, unused);
        assert_eq!(identity.id(), next);
        assert!(identity.retired().contains(&unused));
    }

    #[test]
    fn many_uncertain_ids_are_resolved_before_another_one_is_registered() {
        let identity = Identity::new();
        for _ in 0..MAX_UNCERTAIN {
            let id = identity.to_register().unwrap();
            identity.registered(id);
            identity.retire(id);
        }
        assert_eq!(identity.to_register(), None);
        identity.buried(identity.retired()[0]);
        assert!(identity.to_register().is_some());
    }
}
