//! Who this worker is: a new id at each boot, and another one after its leases were lost, or became uncertain.
//!
//! A claim whose reply is lost may have been applied, now or later: then the ledger leases jobs to this worker that it
//! does not know of. So the id that claimed is *retired*: it claims no more, the worker goes on under another one, and
//! what the ledger says the retired id holds beyond what the worker knows is put back. Once it holds nothing, its row
//! goes, and a claim that arrives even later finds no worker to claim for.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError, RwLock};

use chrono::{DateTime, Utc};
use holdfast_core::clock;
use tokio::sync::Notify;

use crate::id::WorkerId;

#[derive(Debug, Clone, Copy)]
struct Current {
    id: WorkerId,
    registered: bool,
}

/// A claim under way. Until it ends, nobody can tell what its id holds.
#[derive(Debug)]
pub(crate) struct Claiming<'i> {
    identity: &'i Identity,
    pub id: WorkerId,
}

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        let mut claiming = self
            .identity
            .claiming
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(count) = claiming.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                claiming.remove(&self.id);
            }
        }
    }
}

#[derive(Debug)]
pub(crate) struct Identity {
    current: RwLock<Current>,
    retired: Mutex<Vec<WorkerId>>,
    /// Claims under way, by the id they claim for.
    claiming: Mutex<BTreeMap<WorkerId, usize>>,
    /// The current id is to be registered at once.
    pub changed: Notify,
    /// The broker's leases are lost apart from the ledger's, so they have an id of their own.
    on_broker: RwLock<WorkerId>,
    host: String,
    booted_at: DateTime<Utc>,
}

impl Identity {
    pub(crate) fn new() -> Self {
        Self {
            current: RwLock::new(Current {
                id: WorkerId::generate(),
                registered: false,
            }),
            retired: Mutex::default(),
            claiming: Mutex::default(),
            changed: Notify::new(),
            on_broker: RwLock::new(WorkerId::generate()),
            host: host_name(),
            booted_at: clock::now(),
        }
    }

    pub(crate) fn id(&self) -> WorkerId {
        self.current.read().unwrap_or_else(PoisonError::into_inner).id
    }

    pub(crate) fn is_registered(&self) -> bool {
        self.current
            .read()
            .unwrap_or_else(PoisonError::into_inner)
            .registered
    }

    pub(crate) fn registered(&self, id: WorkerId) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.id == id {
            current.registered = true;
        }
    }

    /// To be held from before a claim is sent until its jobs are known.
    pub(crate) fn begin_claim(&self) -> Claiming<'_> {
        // Under the lock, so that no claim begins for an id that is being retired.
        let current = self.current.read().unwrap_or_else(PoisonError::into_inner);
        let mut claiming = self.claiming.lock().unwrap_or_else(PoisonError::into_inner);
        *claiming.entry(current.id).or_default() += 1;
        Claiming {
            identity: self,
            id: current.id,
        }
    }

    /// A claim for `id` may have been applied without our hearing of it.
    pub(crate) fn retire(&self, id: WorkerId) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.id == id {
            *current = Current {
                id: WorkerId::generate(),
                registered: false,
            };
            self.retired
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(id);
            self.changed.notify_one();
        }
    }

    /// Ids that claim no more and are still leased to.
    pub(crate) fn retired(&self) -> Vec<WorkerId> {
        self.retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn is_claiming(&self, id: WorkerId) -> bool {
        self.claiming
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .contains_key(&id)
    }

    pub(crate) fn buried(&self, id: WorkerId) {
        self.retired
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .retain(|retired| *retired != id);
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

    /// What an operator recognises: host, process, incarnation.
    pub(crate) fn name(&self) -> String {
        named(&self.host, self.id())
    }

    pub(crate) fn booted_at(&self) -> DateTime<Utc> {
        self.booted_at
    }

    /// The leases of `lost` were taken away; whatever it still runs is void.
    pub(crate) fn renew(&self, lost: WorkerId) {
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if current.id == lost {
            *current = Current {
                id: WorkerId::generate(),
                registered: false,
            };
        }
    }
}

/// The name of a process that works under this id, as [`Identity::name`] makes it.
pub(crate) fn process_name(id: WorkerId) -> String {
    named(&host_name(), id)
}

fn named(host: &str, id: WorkerId) -> String {
    let id = id.to_string();
    format!("{host}-{}-{}", std::process::id(), &id[id.len() - 6..])
}

/// The kernel's name for this machine; a container's is its id.
fn host_name() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .ok()
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".to_owned())
}
