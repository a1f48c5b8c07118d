//! The leases of this worker: registered at the start, renewed every `heartbeat`, given up at the end.
//!
//! A heartbeat that fails is tried again soon, so that a ledger that comes back hears of its workers before any rescuer
//! may act on their silence (see [`crate::maintenance`]).

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use holdfast_core::config::Durability;

use super::Shared;
use crate::broker::{Beat, Registration};
use crate::id::WorkerId;
use crate::ledger::{Heartbeat, LedgerError, WorkerReport};

/// The rest after a heartbeat that failed.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for the last word of a stopping worker; without it, the rescuer acts after `lost_after`.
const FAREWELL: Duration = Duration::from_secs(2);

fn report(shared: &Shared, id: WorkerId) -> WorkerReport {
    WorkerReport {
        id,
        name: shared.identity.name(),
        queues: shared.lanes.keys().map(ToString::to_string).collect(),
        started_at: shared.identity.booted_at(),
        stats: shared
            .lanes
            .values()
            .map(|lane| (lane.name.to_string(), lane.stats()))
            .collect(),
    }
}

/// The first registration, tried once: a ledger that is away is no reason not to start.
pub(crate) async fn register_once(shared: &Shared) {
    match register(shared).await {
        Ok(()) => shared.vitals.heartbeat(),
        Err(error) => {
            tracing::debug!(error = ?error, "not registered yet; trying until the ledger answers");
        }
    }
}

async fn register(shared: &Shared) -> Result<(), LedgerError> {
    let id = shared.identity.id();
    shared.jobs.ledger().register(&report(shared, id)).await?;
    shared.identity.registered(id);
    // What this worker could not claim while it was unknown, it may claim now.
    shared.lanes.values().for_each(|lane| lane.ledger_alarm.now());
    Ok(())
}

/// Renews the leases until the task is dropped; it outlives the stop signal, for what still runs.
pub(crate) async fn run(shared: Arc<Shared>) {
    let ledger_beats = async {
        let mut failures = 0_u32;
        loop {
            match beat_ledger(&shared).await {
                Ok(()) => {
                    if failures > 0 {
                        tracing::debug!(failures, "heartbeats reach the ledger again");
                    }
                    failures = 0;
                    shared.vitals.heartbeat();
                    tokio::select! {
                        () = tokio::time::sleep(shared.settings.worker.heartbeat) => {}
                        () = shared.identity.changed.notified() => {}
                    }
                }
                Err(error) => {
                    if failures == 0 {
                        tracing::debug!(error = ?error, "a heartbeat did not reach the ledger; trying on");
                    }
                    failures = failures.saturating_add(1);
                    tokio::time::sleep(RETRY).await;
                }
            }
        }
    };
    let broker_beats = async {
        // Queues where the last heartbeat found strays: those of a fetch under way are none, so it takes two.
        let mut suspected = HashSet::new();
        loop {
            beat_broker(&shared, &mut suspected).await;
            tokio::time::sleep(shared.settings.worker.heartbeat).await;
        }
    };
    tokio::join!(ledger_beats, broker_beats);
}

async fn beat_ledger(shared: &Shared) -> Result<(), LedgerError> {
    if !shared.identity.is_registered() {
        register(shared).await?;
    }
    for retired in shared.identity.retired() {
        wind_up(shared, retired).await?;
    }
    let id = shared.identity.id();
    if shared.jobs.ledger().heartbeat(&report(shared, id)).await? == Heartbeat::Renewed {
        return Ok(());
    }
    tracing::warn!(worker = %shared.identity.name(), "this worker was given up as lost; it goes on under a new id");
    shared.identity.renew(id);
    register(shared).await
}

/// Keeps the leases of an id that claims no more, puts back what it holds unknowingly, and buries it once it holds nothing.
async fn wind_up(shared: &Shared, retired: WorkerId) -> Result<(), LedgerError> {
    let ledger = shared.jobs.ledger();
    if ledger.heartbeat(&report(shared, retired)).await? == Heartbeat::Lost {
        shared.identity.buried(retired);
        return Ok(());
    }
    if shared.identity.is_claiming(retired) {
        return Ok(());
    }
    let known = shared.leased.of_worker(retired);
    let returned = if known.is_empty() {
        let returned = ledger.deregister(retired).await?;
        shared.identity.buried(retired);
        returned
    } else {
        ledger.return_strays(retired, &known).await?
    };
    if returned > 0 {
        tracing::warn!(jobs = returned, "put jobs back whose claim was never answered");
        shared.lanes.values().for_each(|lane| lane.ledger_alarm.now());
    }
    Ok(())
}

async fn beat_broker(shared: &Shared, suspected: &mut HashSet<Arc<str>>) {
    let Some(broker) = shared.jobs.broker() else {
        return;
    };
    if !broker.serves() {
        return;
    }
    for lane in shared
        .lanes
        .values()
        .filter(|lane| lane.durability == Durability::Redis)
    {
        let worker = shared.identity.broker_id();
        let held = shared.leased.of(&lane.name, worker);
        match broker.heartbeat(&lane.name, worker, &held).await {
            Ok(Beat::Renewed { cancel, strays, .. }) => {
                for id in cancel {
                    shared.running.cancel(id);
                }
                if strays == 0 {
                    suspected.remove(&lane.name);
                } else if !suspected.insert(Arc::clone(&lane.name)) {
                    lane.strays.store(true, Ordering::Release);
                    lane.broker_alarm.now();
                }
            }
            Ok(Beat::Unregistered) => {
                if let Ok(Registration::Lost) = broker.register(&lane.name, worker).await {
                    shared.identity.renew_on_broker(worker);
                }
            }
            Ok(Beat::Lost) => {
                tracing::warn!(queue = %lane.name, "the broker gave this worker up as lost; it goes on under a new id");
                shared.identity.renew_on_broker(worker);
            }
            // The gate tells of outages; the fetcher registers again where needed.
            Err(error) => {
                tracing::debug!(queue = %lane.name, error = %error, "a heartbeat did not reach the broker");
            }
        }
    }
}

/// The last word. What is still held goes back at once instead of after `lost_after`.
pub(crate) async fn deregister(shared: &Shared) {
    let farewell = async {
        match shared.jobs.ledger().deregister(shared.identity.id()).await {
            Ok(0) => {}
            Ok(jobs) => tracing::warn!(jobs, "handed back what was still held"),
            Err(error) => tracing::warn!(error = ?error, "could not deregister; the rescuer will notice"),
        }
        for retired in shared.identity.retired() {
            if let Err(error) = shared.jobs.ledger().deregister(retired).await {
                tracing::warn!(error = ?error, "could not deregister; the rescuer will notice");
            }
        }
        let Some(broker) = shared.jobs.broker() else {
            return;
        };
        let worker = shared.identity.broker_id();
        for lane in shared
            .lanes
            .values()
            .filter(|lane| lane.durability == Durability::Redis)
        {
            if !broker.serves() {
                return;
            }
            let gone = async {
                if !broker.deregister(&lane.name, worker).await? {
                    broker.reconcile(&lane.name, worker, &[]).await?;
                    broker.deregister(&lane.name, worker).await?;
                }
                Ok::<(), crate::broker::BrokerError>(())
            };
            if let Err(error) = gone.await {
                tracing::warn!(queue = %lane.name, error = %error, "could not leave the broker; the rescuer will notice");
            }
        }
    };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("could not deregister in time; the rescuer will notice");
    }
}
