//! The leases of this worker: registered at the start, renewed every `heartbeat`, given up at the end.
//!
//! Five tasks, so that nothing that concerns one id delays another: the heartbeat of the id that claims; one statement that
//! keeps all retired ids alive; the end of each retired id ([`wind_up`]); the search for what the ledger calls running under
//! the current id and this process does not know ([`return_strays`]); the heartbeats of the broker. Each has its own failures. The
//! protocol: `docs/adr/0008-the-lease-is-a-lock.md`.
//!
//! A heartbeat that fails is tried again soon, so that a ledger that comes back hears of its workers before any rescuer
//! may act on their silence (see [`crate::maintenance`]).

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use holdfast_core::config::Durability;
use tokio::time::Instant;

use super::WorkerState;
use crate::broker::{Beat, Registration};
use crate::id::WorkerId;
use crate::ledger::{Heartbeat, LedgerError, MAX_STATEMENT_ROWS, ReturnReport, WorkerReport};

/// The pause after a heartbeat that failed, and between two looks at the ids that are to be wound up.
const RETRY: Duration = Duration::from_millis(500);

/// Longest wait for the last word of a stopping worker; without it, the rescuer acts after `lost_after`.
const FAREWELL: Duration = Duration::from_secs(2);

/// The pause before a farewell that found the worker's row, or a job's, locked is tried again.
const FAREWELL_RETRY: Duration = Duration::from_millis(100);

/// Longest pause between two searches for strays of a retired id that still runs jobs.
const MAX_STRAY_PAUSE: Duration = Duration::from_secs(60);

/// The search for strays takes one part in this many of the time.
const STRAY_SHARE: u32 = 100;

/// Ids that are wound up at the same time; each takes a connection.
const WINDING_UP: usize = 2;

fn report(shared: &WorkerState, id: WorkerId) -> WorkerReport {
    let places: usize = shared.lanes.values().map(|lane| lane.concurrency()).sum();
    let places = match shared.settings.worker.concurrency {
        0 => places,
        bound => places.min(bound),
    };
    WorkerReport {
        id,
        name: shared.identity.name(),
        queues: shared.lanes.keys().map(ToString::to_string).collect(),
        started_at: shared.identity.booted_at(),
        stats: shared
            .lanes
            .values()
            .map(|lane| (lane.name.to_string(), lane.stats(places)))
            .collect(),
        client: None,
    }
}

/// The first registration, tried once: a ledger that is away is no reason not to start.
pub(crate) async fn register_once(shared: &WorkerState) {
    match register(shared, shared.identity.id()).await {
        Ok(()) => shared.vitals.heartbeat(),
        Err(error) => {
            tracing::debug!(error = ?error, "not registered yet; trying until the ledger answers");
        }
    }
}

async fn register(shared: &WorkerState, id: WorkerId) -> Result<(), LedgerError> {
    shared.jobs.ledger().register(&report(shared, id)).await?;
    shared.identity.registered(id);
    // What this worker could not claim while it was unknown, it may claim now.
    shared.lanes.values().for_each(|lane| lane.ledger_alarm.now());
    Ok(())
}

/// Renews the leases until the task is dropped; it outlives the stop signal, for what still runs.
pub(crate) async fn run(shared: Arc<WorkerState>) {
    tokio::join!(
        beat_current(&shared),
        beat_retired(&shared),
        wind_up_retired(&shared),
        return_strays(&shared),
        beat_brokers(&shared)
    );
}

/// Heartbeats of the id that claims.
async fn beat_current(shared: &WorkerState) {
    let mut failures = 0_u32;
    // Kept while its registration is repeated, so that a lost reply leaves no row behind.
    let mut successor = None;
    loop {
        match beat_ledger(shared, &mut successor).await {
            Ok(()) => {
                if failures > 0 {
                    tracing::debug!(failures, "heartbeats are stored again");
                }
                failures = 0;
                tokio::select! {
                    () = tokio::time::sleep(shared.settings.worker.heartbeat) => {}
                    () = shared.identity.changed.notified() => {}
                }
            }
            Err(error) => {
                if failures == 0 {
                    tracing::debug!(error = ?error, "a heartbeat was not stored; trying again");
                }
                failures = failures.saturating_add(1);
                tokio::time::sleep(RETRY).await;
            }
        }
    }
}

async fn beat_ledger(shared: &WorkerState, successor: &mut Option<WorkerId>) -> Result<(), LedgerError> {
    if let Some(id) = shared.identity.to_register() {
        register(shared, id).await?;
    } else if shared.identity.is_registered() {
        let id = shared.identity.id();
        if shared.jobs.ledger().heartbeat(&report(shared, id)).await? == Heartbeat::Lost {
            tracing::warn!(worker = %shared.identity.name(), "this worker was declared lost; it continues under a new id");
            shared.identity.renew(id);
            register(shared, shared.identity.id()).await?;
        }
    } else {
        // Claims for many ids may still be applied. Their rows are beaten; the next id waits until they are resolved.
        return Ok(());
    }
    shared.vitals.heartbeat();
    replace_worn(shared, successor).await
}

/// Lets another id claim once the current one has taken many jobs. It is registered first, so no claim waits for it.
async fn replace_worn(shared: &WorkerState, successor: &mut Option<WorkerId>) -> Result<(), LedgerError> {
    let Some(worn) = shared.identity.worn() else {
        return Ok(());
    };
    let next = *successor.get_or_insert_with(WorkerId::generate);
    shared.jobs.ledger().register(&report(shared, next)).await?;
    *successor = None;
    shared.identity.succeed(worn, next);
    Ok(())
}

/// Heartbeats of the ids that claim no more, all in one statement.
async fn beat_retired(shared: &WorkerState) {
    loop {
        let retired = shared.identity.retired();
        let renewed = if retired.is_empty() {
            Ok(Vec::new())
        } else {
            shared.jobs.ledger().renew(&retired, &[]).await
        };
        let pause = match renewed {
            Ok(found) => {
                let found: Vec<WorkerId> = found.iter().map(|lease| lease.worker).collect();
                if !retired.is_empty() {
                    shared.vitals.heartbeat();
                }
                for gone in retired.iter().filter(|id| !found.contains(id)) {
                    shared.identity.buried(*gone);
                }
                shared.settings.worker.heartbeat
            }
            Err(error) => {
                tracing::debug!(error = ?error, ids = retired.len(), "heartbeats of retired ids were not stored; trying again");
                RETRY
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shared.identity.has_retired.notified() => {}
        }
    }
}

/// When a retired id is looked at next.
#[derive(Debug, Clone, Copy)]
struct Plan {
    due: Instant,
    /// Before the next search for strays; doubled by each.
    pause: Duration,
    /// It held jobs when it was looked at.
    held: bool,
}

/// Ends retired ids, each by itself: one whose rows are locked, or whose statement takes long, is tried again later.
async fn wind_up_retired(shared: &WorkerState) {
    let heartbeat = shared.settings.worker.heartbeat;
    let mut plans: BTreeMap<WorkerId, Plan> = BTreeMap::new();
    loop {
        let retired = shared.identity.retired();
        plans.retain(|id, _| retired.contains(id));
        let now = Instant::now();
        let due: Vec<WorkerId> = retired
            .into_iter()
            .filter(|id| {
                let plan = plans.entry(*id).or_insert(Plan {
                    due: now,
                    pause: heartbeat,
                    held: false,
                });
                // What held jobs and holds none any more can be ended at once.
                plan.due <= now || plan.held && shared.leased.of_worker(*id).is_empty()
            })
            .collect();
        let steps = stream::iter(due).map(|id| async move { (id, wind_up(shared, id).await) });
        let stepped: Vec<_> = steps.buffer_unordered(WINDING_UP).collect().await;
        for (id, step) in stepped {
            let Some(plan) = plans.get_mut(&id) else { continue };
            let pause = match step {
                Step::Gone => Duration::ZERO,
                Step::Again => RETRY,
                Step::Failed => heartbeat,
                Step::HoldsJobs => plan.pause,
            };
            plan.held = step == Step::HoldsJobs;
            if plan.held {
                plan.pause = (plan.pause * 2).min(MAX_STRAY_PAUSE);
            }
            plan.due = Instant::now() + pause;
        }
        tokio::time::sleep(RETRY).await;
    }
}

/// What a step towards the end of a retired id came to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Gone,
    /// A claim is under way, or rows are locked.
    Again,
    HoldsJobs,
    Failed,
}

/// Puts back what a retired id holds unknowingly, and deletes its row once it holds nothing.
async fn wind_up(shared: &WorkerState, retired: WorkerId) -> Step {
    let ledger = shared.jobs.ledger();
    if shared.identity.is_claiming(retired) {
        return Step::Again;
    }
    // Read after that: what the last claim has brought is in it.
    let known = shared.leased.of_worker(retired);
    let returned = if known.is_empty() {
        ledger.deregister(retired).await
    } else {
        ledger.return_strays(retired, &known).await
    };
    match returned {
        Ok(report) => {
            announce(shared, &report);
            if report.jobs() > 0 {
                tracing::warn!(jobs = report.jobs(), "returned jobs whose claim got no reply");
            }
            if report.gone {
                shared.identity.buried(retired);
                Step::Gone
            } else if known.is_empty() || report.jobs() >= MAX_STATEMENT_ROWS as u64 {
                Step::Again
            } else {
                Step::HoldsJobs
            }
        }
        Err(error) => {
            tracing::debug!(error = ?error, "a retired id could not be removed; trying again");
            if error.is_contention() {
                Step::Again
            } else {
                Step::Failed
            }
        }
    }
}

/// Puts back what the ledger calls running under the current id and this process does not know, for two heartbeats: a
/// standby that was promoted may have lost the outcomes of the last seconds.
async fn return_strays(shared: &WorkerState) {
    let ledger = shared.jobs.ledger();
    let twice = shared.settings.worker.heartbeat * 2;
    let mut pause = twice;
    loop {
        tokio::time::sleep(pause).await;
        if !shared.identity.is_registered() {
            continue;
        }
        let worker = shared.identity.id();
        let began = Instant::now();
        let known = shared.leased.begin_comparison(worker);
        let listed = ledger.unknown_to_worker(worker, &known).await;
        let newest = shared.identity.newest_claim();
        pause = twice.max(began.elapsed() * STRAY_SHARE);
        let listed = listed.unwrap_or_else(|error| {
            tracing::debug!(error = ?error, "cannot look for stray jobs");
            Vec::new()
        });
        if shared.leased.end_comparison(listed) == 0 {
            continue;
        }
        tokio::time::sleep(twice).await;
        while !shared.identity.claims_are_over(newest) {
            tokio::time::sleep(RETRY).await;
        }
        let strays = shared.leased.take_suspects();
        // What an id holds that was retired meanwhile is looked after by its end.
        if strays.is_empty() || shared.identity.id() != worker {
            continue;
        }
        match ledger.return_suspects(worker, &strays).await {
            Ok(report) => {
                announce(shared, &report);
                if report.jobs() > 0 {
                    tracing::warn!(
                        jobs = report.jobs(),
                        "returned jobs that are running in the ledger and in no process"
                    );
                }
            }
            Err(error) => tracing::debug!(error = ?error, "stray jobs could not be returned; trying again"),
        }
    }
}

/// Wakes those who may run what was put back.
fn announce(shared: &WorkerState, report: &ReturnReport) {
    shared.jobs.announce(&report.effects);
    wake(shared, &report.returned);
}

/// Jobs of these queues are available again: rings the bell and sets this worker's alarms.
pub(crate) fn wake(shared: &WorkerState, returned: &BTreeMap<String, u64>) {
    for (queue, jobs) in returned {
        let jobs = usize::try_from(*jobs).unwrap_or(usize::MAX);
        shared.jobs.bell().ring(queue, jobs, Duration::ZERO);
        if let Some(lane) = shared.lanes.get(queue.as_str()) {
            lane.ledger_alarm.now();
        }
    }
}

async fn beat_brokers(shared: &WorkerState) {
    // Queues where the last heartbeat found strays: those of a fetch under way are none, so it takes two.
    let mut suspected = HashSet::new();
    loop {
        beat_broker(shared, &mut suspected).await;
        tokio::time::sleep(shared.settings.worker.heartbeat).await;
    }
}

async fn beat_broker(shared: &WorkerState, suspected: &mut HashSet<Arc<str>>) {
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
                tracing::warn!(queue = %lane.name, "the broker declared this worker lost; it continues under a new id");
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
pub(crate) async fn deregister(shared: &WorkerState) {
    let farewell = async { tokio::join!(leave_ledger(shared), leave_broker(shared)) };
    if tokio::time::timeout(FAREWELL, farewell).await.is_err() {
        tracing::warn!("could not deregister in time; the rescuer will remove this worker");
    }
}

async fn leave_ledger(shared: &WorkerState) {
    let mut ids = shared.identity.retired();
    ids.push(shared.identity.id());
    stream::iter(ids)
        .for_each_concurrent(WINDING_UP, |id| leave_id(shared, id))
        .await;
}

async fn leave_id(shared: &WorkerState, id: WorkerId) {
    loop {
        match shared.jobs.ledger().deregister(id).await {
            Ok(report) => {
                announce(shared, &report);
                if report.jobs() > 0 {
                    tracing::warn!(jobs = report.jobs(), "returned the remaining jobs");
                }
                if report.gone {
                    return;
                }
            }
            // A claim for it is under way, or an outcome.
            Err(error) if error.is_contention() => {}
            Err(error) => {
                tracing::warn!(error = ?error, "could not deregister; the rescuer will remove this worker");
                return;
            }
        }
        tokio::time::sleep(FAREWELL_RETRY).await;
    }
}

async fn leave_broker(shared: &WorkerState) {
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
            tracing::warn!(queue = %lane.name, error = %error, "could not deregister from the broker; the rescuer will remove this worker");
        }
    }
}
