//! Workers in any language: they register, pull their jobs, and report outcomes, over HTTP.
//!
//! A pull worker is a row in `holdfast_workers`, as a Rust worker is, and that row is the lease of all its jobs (ADR 0004, ADR 0008).
//! The claim, the limits, the fences, the finish with follow-ups and batches, the retry rule, the rescue and the count of crashes
//! are those of Rust workers: this module calls [`crate::claiming`], [`crate::follow_ups`], [`crate::retry`] and the
//! [ledger](crate::ledger), and has no statement that moves a job. What differs is who knows what: a Rust worker has its jobs in
//! memory, while a pull worker tells with each call what it has.
//!
//! # States
//! Of a worker: *registered* → (*draining*) → *gone*: deleted by itself, or silent for `lost_after` and buried by the rescuer. A
//! worker that is gone registers again, under another id.
//! Of a job: available → leased to the worker, in the ledger → known to the client → ended, under its fence. Between the second and
//! the third a reply may be lost; between the third and the fourth the lease may be.
//!
//! # Invariants
//! - **A job is given once, unless the client says that it does not have it.** A pull names what the client has (`have`). What is
//!   leased to it and not named is given again with the same fence. A client has one pull at a time, and drops the reply of one that
//!   it has given up: then no job runs twice in it.
//! - **The server keeps nothing that it needs.** Any process may answer any call. What a process remembers ([`memory`]) only saves
//!   statements: it is used while it explains what the client says, and else the database is asked.
//! - **A call keeps the lease alive only when it arrives**, never while it waits. A client that dies in a long poll is silent from
//!   then on, and its jobs are rescued after `lost_after`.
//! - **Clients' clocks decide nothing.** Times on the wire are durations.
//! - **A worker belongs to whoever registered it**: to other callers it does not exist.
//! - **Two suspects never share a worker**: of the jobs whose next crash would make them poison, a worker has one at a time, as a
//!   Rust process does. The others are put back for [`SUSPECT_REST`].
//! - Everything is bounded: [`MAX_JOBS`], [`MAX_WAIT`], [`ANSWER_BYTES`], [`MAX_OUTCOMES`], [`MAX_WAITING`], [`MAX_HELD`].
//!
//! # What if a step is late, not absent
//! - *A pull's claim commits after the client gave it up* (or after this process was killed): the jobs are leased to a client that
//!   does not know them. Its next pull does not name them, so it gets them. If there is no next pull, the worker is silent and they
//!   are rescued.
//! - *A pull's claim commits after the worker was deleted or buried*: impossible. The claim locks the worker's row; the deletion
//!   waits for it, and looks for running jobs afterwards (ADR 0008).
//! - *An older pull of the same worker still waits, here or in another process*: here it is answered at once, with nothing. In another
//!   process it may still claim; its reply goes nowhere, and the next pull gives the jobs.
//! - *A finish arrives after the lease was lost*: its fence does not hold any more; nothing is written, and the item is answered
//!   `lease_lost`. *A finish arrives twice*: the second finds the job ended by this worker under this fence, and answers `stored`.
//! - *A heartbeat is late*: while the row is there it renews the lease; the jobs that were rescued meanwhile are answered in `lost`.
//!   If the row is gone the call is answered `worker-not-found`, and the client registers again.
//! - *A job's kind or queue is deleted while it runs*: it ends as any other.
//! - *The process is killed between the commit of a finish and its reply*: the client sends it again, see above.
//!
//! # When things fail
//! - *The database is unavailable*: calls are answered 503 with `Retry-After`, in microseconds once the gate is open. Clients hold
//!   outcomes and go on. The rescuer waits until the database has answered for `lost_after` without a break, so workers that repeat
//!   their heartbeats lose nothing.
//! - *Redis is unavailable*: waiting pulls are woken by polling, as Rust workers are ([`hub`]).
//! - *A batch's row is locked by another transaction*: outcomes of other batches are stored, and these are tried again for
//!   [`finish::LOCK_PATIENCE`]; then the call is answered 503, and may be repeated as it was.
//!
//! # What it costs
//! A pull that finds jobs at once: a heartbeat and one claim for each queue. A finish: one read by primary key and one or two
//! statements for all of its outcomes. A pull that waits costs nothing until it is woken: one listener and one look serve all
//! of a process' waiting pulls. While others wait for its queues and found nothing, a pull does not claim before it waits ([`hub`]).
//! Workers with nothing to do have their leases renewed in groups ([`renewals`]): 200 of them cost about a statement in two seconds.

mod finish;
mod heartbeat;
mod hub;
mod memory;
mod renewals;
mod rows;
mod take;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::config::{QueueSettings, ServedBy, Settings};
use serde::{Deserialize, Serialize};
use tokio::sync::OnceCell;

use crate::admin::AdminHandle;
use crate::audit::{AuditEntry, action};
use crate::client::Jobs;
use crate::enqueue::{Fault, FaultCode};
use crate::id::{JobId, WorkerId};
use crate::ledger::{Fence, LedgerError, ReturnReport, WorkerReport};
use hub::Hub;
use memory::Memory;
use renewals::Renewals;

pub use finish::{OutcomeStatus, ReportedOutcome, StoredOutcome, Verb};
pub use heartbeat::{Beat, BeatAnswer, ReportedLine};
pub use take::{PullAnswer, PullRequest, PulledJob};

/// Most jobs of one answer.
pub const MAX_JOBS: usize = 500;

/// Longest wait of one pull; `server.max_wait_seconds` may allow less.
pub const MAX_WAIT: Duration = Duration::from_secs(60);

/// Bytes of payloads and earlier results in one answer, about: what comes beyond is given with the next pull.
pub const ANSWER_BYTES: usize = 16 * 1024 * 1024;

/// Most outcomes of one call.
pub const MAX_OUTCOMES: usize = 1_000;

/// Most pulls that wait in one process at the same time.
pub const MAX_WAITING: usize = 2_000;

/// Most jobs that a worker may have at once.
pub const MAX_HELD: usize = 10_000;

/// Most queues of one worker.
pub const MAX_QUEUES: usize = 100;

/// Most kinds that one worker names.
const MAX_KINDS: usize = 1_000;

/// Longest name of a worker, and of what it says of its client, in characters.
const MAX_TEXT: usize = 100;

/// How long a suspect is put back that finds another one.
const SUSPECT_REST: Duration = Duration::from_secs(5);

/// How long a job is put back whose kind the worker does not have.
const UNKNOWN_KIND_REST: Duration = Duration::from_secs(15);

/// What a client is, for people.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ClientInfo {
    pub name: String,
    pub version: String,
    pub language: String,
}

/// A worker that wants to work.
#[derive(Debug, Clone)]
pub struct Registration {
    pub name: String,
    pub queues: Vec<String>,
    pub concurrency: u32,
    pub client: ClientInfo,
    /// The kinds that it has handlers for; jobs of others are put back. `None`: every kind.
    pub kinds: Option<BTreeSet<String>>,
}

/// What the row of a pull worker says beside what every worker's does.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PullClient {
    /// The caller that registered it.
    pub owner: String,
    #[serde(flatten)]
    pub client: ClientInfo,
    pub concurrency: u32,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kinds: Option<BTreeSet<String>>,
}

/// Why a call was refused.
#[derive(Debug, thiserror::Error)]
pub enum PullError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<Fault>),
    #[error(
        "the queue {0:?} is served by Rust workers; set queues.{0}.served_by = \"pull\", or name another queue"
    )]
    RustQueue(String),
    #[error(
        "there is no worker {0} of this key: it was silent for too long, was deleted, or belongs to another key; register again"
    )]
    UnknownWorker(WorkerId),
    #[error("{MAX_WAITING} pulls wait in this process already")]
    TooManyWaiting,
    /// Repeat the call as it was.
    #[error("other transactions hold rows that these outcomes need")]
    Locked,
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The pull protocol of one process. Cheap to clone.
#[derive(Debug, Clone)]
pub struct PullWorkers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: Jobs,
    settings: Settings,
    hub: Hub,
    memory: Arc<Memory>,
    renewals: Renewals,
    /// Whether this process' configured limits stand in SQL; nothing is claimed before they do.
    limits_declared: OnceCell<()>,
}

impl PullWorkers {
    /// It reaches nothing yet.
    pub fn new(jobs: &Jobs, settings: &Settings) -> Self {
        let lost_after = settings.worker.lost_after;
        let memory = Arc::new(Memory::new(lost_after));
        Self(Arc::new(Inner {
            renewals: Renewals::new(jobs.clone(), Arc::clone(&memory), lost_after),
            jobs: jobs.clone(),
            settings: settings.clone(),
            hub: Hub::new(jobs.clone(), settings.worker.clone()),
            memory,
            limits_declared: OnceCell::new(),
        }))
    }

    /// How often a worker is to be heard of.
    pub fn heartbeat(&self) -> Duration {
        self.0.settings.worker.heartbeat
    }

    /// After so much silence its jobs are rescued.
    pub fn lost_after(&self) -> Duration {
        self.0.settings.worker.lost_after
    }

    /// Registers a worker for this caller. A registration whose reply is lost may be repeated: the row of the first one is
    /// silent, and goes.
    pub async fn register(&self, owner: &str, asked: Registration) -> Result<WorkerId, PullError> {
        check(&asked).map_err(PullError::Invalid)?;
        self.check_queues(&asked.queues).await?;
        let id = WorkerId::generate();
        let client = PullClient {
            owner: owner.to_owned(),
            client: asked.client,
            concurrency: asked.concurrency,
            kinds: asked.kinds,
        };
        let report = WorkerReport {
            id,
            // Names tell processes apart where workers are listed, and in the records of errors.
            name: format!("{}-{}", asked.name, id.to_string().to_lowercase().split_at(18).1),
            queues: asked.queues,
            started_at: clock::now(),
            stats: std::collections::BTreeMap::new(),
            client: Some(client),
        };
        self.0.jobs.ledger().register(&report).await?;
        tracing::info!(worker = %report.name, queues = ?report.queues, "a pull worker has registered");
        Ok(id)
    }

    /// Ends a worker: what it holds goes back, without a crash. Nothing happens to a worker that is gone.
    pub async fn leave(&self, owner: &str, worker: WorkerId) -> Result<(), PullError> {
        match self.session(owner, worker).await {
            Err(PullError::UnknownWorker(_)) if self.owner_of(worker).await?.is_none() => return Ok(()),
            known => known?,
        };
        self.0.hub.supersede(worker);
        // Rows that others hold at this moment are left for the next step.
        for _ in 0..LEAVE_STEPS {
            let report = self.0.jobs.ledger().deregister(worker).await?;
            self.announce(&report);
            if report.gone {
                self.0.memory.forget(worker);
                return Ok(());
            }
        }
        Err(PullError::Locked)
    }

    /// Wakes those who may run what was put back.
    fn announce(&self, report: &ReturnReport) {
        self.0.jobs.announce(&report.effects);
        for (queue, jobs) in &report.returned {
            let jobs = usize::try_from(*jobs).unwrap_or(usize::MAX);
            self.0.jobs.bell().ring(queue, jobs, Duration::ZERO);
        }
    }

    /// Every queue exists, and is of this fleet.
    async fn check_queues(&self, queues: &[String]) -> Result<(), PullError> {
        let jobs = &self.0.jobs;
        let names: Vec<&str> = queues.iter().map(String::as_str).collect();
        jobs.look_up(&[], &names).await?;
        for (place, queue) in queues.iter().enumerate() {
            match jobs.fleet_of(queue) {
                Some(ServedBy::Pull) => {}
                Some(ServedBy::Rust) => return Err(PullError::RustQueue(queue.clone())),
                None => {
                    let name: String = queue.chars().take(80).collect();
                    let reason = format!("unknown queue {name:?}; declare it with PUT /v1/queues/{name}");
                    let field = format!("queues[{place}]");
                    return Err(PullError::Invalid(vec![Fault::new(
                        FaultCode::UnknownQueue,
                        field,
                        reason,
                    )]));
                }
            }
        }
        Ok(())
    }
}

/// Steps of a farewell, each of [`crate::ledger::MAX_STATEMENT_ROWS`] jobs at most.
const LEAVE_STEPS: usize = 20;

impl Jobs {
    /// Which workers serve a queue, as far as this process knows. `None`: there is no such queue.
    pub fn fleet_of(&self, queue: &str) -> Option<ServedBy> {
        let configured = self
            .queues()
            .get(queue)
            .map(|queue: &QueueSettings| queue.served_by);
        configured.or_else(|| {
            self.declared()
                .snapshot()
                .queues
                .contains(queue)
                .then_some(ServedBy::Pull)
        })
    }
}

impl AdminHandle<'_> {
    /// Asks a pull worker to take no more jobs. False: there is none of that id.
    pub async fn drain_worker(&self, worker: WorkerId) -> Result<bool, LedgerError> {
        let entry = AuditEntry::new(action::WORKER_DRAIN).target(worker);
        let sql = self.jobs.sql();
        sql.within("drain a worker", async {
            let mut tx = sql.begin().await?;
            let found = rows::drain(tx.on(), sql.named, worker).await?;
            if found {
                self.jobs.audit().record_in(tx.on(), self.by, &entry).await?;
                tx.commit().await?;
            }
            Ok(found)
        })
        .await
    }
}

/// A fence on the wire: opaque to clients.
pub fn fence_text(fence: &Fence) -> String {
    format!("{}.{}", fence.attempt, fence.crashes)
}

/// `None`: it is no fence of ours.
fn fence_of(id: JobId, text: &str) -> Option<Fence> {
    let (attempt, crashes) = text.split_once('.')?;
    Some(Fence {
        id,
        attempt: attempt.parse().ok()?,
        crashes: crashes.parse().ok()?,
    })
}

fn check(asked: &Registration) -> Result<(), Vec<Fault>> {
    let mut faults = Vec::new();
    let mut text = |field: &str, text: &str| {
        if text.is_empty() || text.chars().count() > MAX_TEXT || text.chars().any(char::is_control) {
            let rule = format!("must have 1 to {MAX_TEXT} characters, none of them a control character");
            faults.push(Fault::field(field, rule));
        }
    };
    text("name", &asked.name);
    text("client.name", &asked.client.name);
    text("client.version", &asked.client.version);
    text("client.language", &asked.client.language);
    let distinct: BTreeSet<&String> = asked.queues.iter().collect();
    if asked.queues.is_empty() || asked.queues.len() > MAX_QUEUES || distinct.len() < asked.queues.len() {
        faults.push(Fault::field(
            "queues",
            format!("must name 1 to {MAX_QUEUES} queues, each once"),
        ));
    }
    if asked.concurrency == 0 || asked.concurrency as usize > MAX_HELD {
        faults.push(Fault::field("concurrency", format!("must be 1 to {MAX_HELD}")));
    }
    let kinds = asked.kinds.iter().flatten();
    if asked.kinds.as_ref().is_some_and(BTreeSet::is_empty) || kinds.clone().count() > MAX_KINDS {
        faults.push(Fault::field(
            "kinds",
            format!("must name 1 to {MAX_KINDS} kinds; leave it out for every kind"),
        ));
    }
    if kinds.clone().any(|kind| kind.len() > 255) {
        faults.push(Fault::field("kinds", "no kind has a name of more than 255 bytes"));
    }
    if faults.is_empty() { Ok(()) } else { Err(faults) }
}
