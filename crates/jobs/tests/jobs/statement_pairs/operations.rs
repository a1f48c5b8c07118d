//! The operations, as one process runs them.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::config::QueueLimits;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::batches::BatchRequest;
use holdfast_jobs::bulk::BulkError;
use holdfast_jobs::dead_letters::{DeadLetterFilter, Redrive};
use holdfast_jobs::enqueue::{EnqueueError, JobRequest};
use holdfast_jobs::follow_ups::{self, FollowedOutcome};
use holdfast_jobs::ledger::{
    ErrorRecord, Fence, IdRange, InsertOutcome, Insertion, LedgerError, NewJob, Options, Outcome, Priority,
    Progress, Retention, TimeSpan,
};
use holdfast_jobs::limits::{ClaimRequest, KeyRule};
use holdfast_jobs::link::Previous;
use holdfast_jobs::{CancelFilter, EditError, JobEdit, JobId, WorkerId};

use crate::statement_pairs::world::{
    self, BATCH_LAST, BATCH_MANY, LIMITED, Side, WORKER, batch, job, worker,
};
use crate::support::{LOST_AFTER, new_job, raw, report};

/// What an operation did, as far as the verdict asks.
#[derive(Debug, Default)]
pub(crate) struct OperationResult {
    /// Jobs that were accepted, and so must be there.
    pub(crate) accepted: Vec<JobId>,
}

/// How an operation failed.
#[derive(Debug)]
pub(crate) enum Failure {
    /// It may succeed later: contention, a deadline, a gate.
    Later,
    /// It says that it never will.
    Never(String),
}

impl From<LedgerError> for Failure {
    fn from(error: LedgerError) -> Self {
        let text = format!("{error:?}");
        if error.is_transient() {
            Self::Later
        } else {
            Self::Never(text)
        }
    }
}

impl From<EnqueueError> for Failure {
    fn from(error: EnqueueError) -> Self {
        let text = format!("{error:?}");
        match error {
            EnqueueError::Unavailable { .. } | EnqueueError::KeyHeld { .. } => Self::Later,
            _ => Self::Never(text),
        }
    }
}

impl From<EditError> for Failure {
    fn from(error: EditError) -> Self {
        match error {
            EditError::Ledger(error) => error.into(),
            other @ EditError::Invalid(_) => Self::Never(format!("{other:?}")),
        }
    }
}

impl From<BulkError> for Failure {
    fn from(error: BulkError) -> Self {
        match error {
            BulkError::Ledger(error) => error.into(),
            other => Self::Never(format!("{other:?}")),
        }
    }
}

type Outcomes = Result<OperationResult, Failure>;

macro_rules! operations {
    ($($name:ident: $method:expr, $units:expr;)+) => {
        /// One operation that writes.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub(crate) enum Operation { $($name),+ }

        impl Operation {
            pub(crate) const ALL: &'static [Self] = &[$(Self::$name),+];

            /// The method of the trait `Ledger`, if it is one.
            pub(crate) fn method(self) -> Option<&'static str> {
                match self { $(Self::$name => $method),+ }
            }

            /// The names of its units of work.
            pub(crate) fn units(self) -> &'static [&'static str] {
                match self { $(Self::$name => &$units),+ }
            }
        }
    };
}

operations! {
    Insert: Some("insert_as"), ["accept jobs"];
    KeyedInsert: Some("insert_as"), ["accept jobs"];
    DryInsert: Some("insert_as"), ["accept jobs"];
    BatchInsert: None, ["accept a batch"];
    Claim: Some("claim"), ["claim jobs", "look at a queue", "publish a frontier"];
    LimitedClaim: None, ["claim jobs within limits"];
    MarkStarted: Some("mark_started"), ["record a start"];
    StoreProgress: Some("store_progress"), ["store progress"];
    Finish: Some("finish"), ["record outcomes"];
    FinishFree: Some("finish_free"), ["record held outcomes"];
    FinishTied: None, ["record outcomes and what follows them"];
    FinishTiedFree: None, ["record held outcomes and what follows them"];
    CheckClock: Some("check_clock"), ["read the clock"];
    MakeDue: Some("make_due"), ["make jobs due"];
    Register: Some("register"), ["register the worker"];
    Heartbeat: Some("heartbeat"), ["record a heartbeat"];
    Renew: Some("renew"), ["renew leases"];
    ReturnStrays: Some("return_strays"), ["put stray jobs back"];
    ReturnSuspects: Some("return_suspects"), ["put stray jobs back"];
    Deregister: Some("deregister"), ["deregister the worker"];
    Rescue: Some("rescue"), ["rescue jobs"];
    RescueOrphans: Some("rescue_orphans"), ["rescue jobs without a worker"];
    CancelWaiting: Some("cancel"), ["cancel a job"];
    CancelRunning: Some("cancel"), ["cancel a job"];
    RetryDelayed: Some("retry_now"), ["retry a job"];
    RetryDiscarded: Some("retry_now"), ["retry a job"];
    Prune: Some("prune"), ["prune finished jobs", "prune dead letters"];
    PruneBatches: None, ["prune batches"];
    SweepBatches: None, ["look for batches that should have ended", "end batches that were left open"];
    SetPaused: Some("set_paused"), ["pause or resume a queue"];
    Settle: Some("settle"), ["settle doubtful jobs"];
    Redrive: None, ["begin a bulk operation", "do a step of a bulk operation"];
    DeleteDeadLetters: None, ["begin a bulk operation", "do a step of a bulk operation"];
    CancelMany: None, ["begin a bulk operation", "do a step of a bulk operation"];
    Purge: None, ["begin a bulk operation", "do a step of a bulk operation"];
    CancelExpired: None, ["cancel expired jobs"];
    Edit: None, ["edit a job"];
    WriteLog: None, ["write job logs"];
    SetLimits: None, ["set a queue's limits"];
    DeclareLimits: None, ["declare the configured limits"];
    OverrideKey: None, ["override the limit of a key"];
    EndOverride: None, ["override the limit of a key", "end the override of a key"];
}

fn fence(number: u8) -> Fence {
    world::fence(job(number))
}

/// Of the job that has crashed once.
fn crashed() -> Fence {
    Fence {
        crashes: 1,
        ..fence(23)
    }
}

fn completed(number: u8) -> Outcome {
    Outcome::Completed {
        fence: fence(number),
        result: Some(Arc::from(raw(r#"{"done":true}"#))),
    }
}

fn failed(number: u8) -> Outcome {
    Outcome::Retry {
        fence: fence(number),
        delay: Duration::ZERO,
        error: ErrorRecord::new(clock::now(), 1, "transient", "it failed", "test"),
    }
}

/// Of a batch of many, of a chain, and of a batch of which it is the last.
fn tied() -> Vec<FollowedOutcome> {
    let chain = FollowedOutcome {
        outcome: completed(7),
        batch: None,
        next: Some(NewJob {
            options: Options {
                previous: Some(Previous {
                    id: job(7),
                    result: None,
                }),
                ..Options::default()
            },
            ..new_job()
        }),
        observed: Vec::new(),
    };
    let member = |outcome, of| FollowedOutcome {
        outcome,
        batch: Some(batch(of)),
        next: None,
        observed: Vec::new(),
    };
    vec![
        member(completed(6), BATCH_MANY),
        chain,
        member(completed(9), BATCH_LAST),
    ]
}

fn plain() -> [Outcome; 3] {
    [completed(5), failed(8), Outcome::HandBack { fence: crashed() }]
}

fn request() -> JobRequest {
    JobRequest::new(world::KIND, raw(r#"{"n":1}"#))
}

fn by() -> AuditContext {
    AuditContext::new(Actor::local())
}

/// Jobs whose keys are those of the other side, and of a job that waits.
fn keyed() -> Vec<NewJob> {
    let unique = |key: &str| NewJob {
        unique_key: Some(key.to_owned()),
        ..new_job()
    };
    let once = NewJob {
        idempotency_key: Some("once".to_owned()),
        ..new_job()
    };
    vec![unique("waiting"), unique("new"), once]
}

async fn insert(side: &Side, jobs: &[NewJob], how: Insertion) -> Outcomes {
    let answers = side.ledger.insert_as(jobs, how).await?;
    let new = answers.iter().filter_map(|answer| match answer {
        InsertOutcome::New(id) if !how.dry => Some(*id),
        _ => None,
    });
    Ok(OperationResult {
        accepted: new.collect(),
    })
}

impl Operation {
    pub(crate) async fn run(self, side: &Side) -> Outcomes {
        match self {
            Self::Insert => return insert(side, &[new_job(), new_job()], Insertion::WHOLE).await,
            Self::KeyedInsert => return insert(side, &keyed(), Insertion::WHOLE).await,
            Self::DryInsert => {
                let dry = Insertion {
                    dry: true,
                    ..Insertion::WHOLE
                };
                return insert(side, &keyed(), dry).await;
            }
            Self::BatchInsert => return self.enqueue_batch(side).await,
            Self::Redrive | Self::DeleteDeadLetters | Self::CancelMany | Self::Purge => {
                self.bulk(side).await?;
            }
            Self::Finish | Self::FinishFree | Self::FinishTied | Self::FinishTiedFree => {
                self.finish(side).await?;
            }
            Self::SetLimits | Self::DeclareLimits | Self::LimitedClaim => self.limits(side).await?,
            Self::OverrideKey | Self::EndOverride => {
                let (by, rule) = (by(), KeyRule::MaxRunning(2));
                let admin = side.jobs.steer(&by);
                let time = Duration::from_hours(1);
                admin.override_key(LIMITED, "key", rule, time).await?;
                if self == Self::EndOverride {
                    admin.end_override(LIMITED, "key").await?;
                }
            }
            Self::PruneBatches => {
                side.jobs.batches().prune(Duration::from_hours(1), 10).await?;
            }
            Self::CancelExpired => {
                side.jobs.cancel_expired(10).await?;
            }
            Self::Edit => {
                let edit = JobEdit {
                    priority: Some(Priority::High),
                    max_attempts: Some(9),
                    ..JobEdit::default()
                };
                let by = by();
                side.jobs.steer(&by).edit(job(3), edit).await?;
            }
            Self::WriteLog => {
                let lines = ["one", "two"];
                side.jobs.write_log(worker(WORKER), fence(5), &lines).await?;
            }
            Self::SweepBatches => {
                side.jobs.batches().sweep(10).await?;
            }
            _ => self.ledgers_own(side).await?,
        }
        Ok(OperationResult::default())
    }

    async fn enqueue_batch(self, side: &Side) -> Outcomes {
        let batch = BatchRequest {
            jobs: vec![request(), request()],
            idempotency_key: Some("batch".to_owned()),
            ..BatchRequest::default()
        };
        let enqueued = side.jobs.enqueue_batch(batch).await?;
        Ok(OperationResult {
            accepted: enqueued.jobs.iter().map(|job| job.id).collect(),
        })
    }

    async fn bulk(self, side: &Side) -> Result<(), Failure> {
        let by = by();
        let steering = side.jobs.steer(&by);
        match self {
            Self::Redrive => {
                steering.redrive(&Redrive::default()).await?;
            }
            Self::DeleteDeadLetters => {
                steering
                    .delete_dead_letters(&DeadLetterFilter::default(), None)
                    .await?;
            }
            Self::CancelMany => {
                steering.cancel_many(&CancelFilter::default(), None).await?;
            }
            _ => {
                steering.purge("default", None).await?;
            }
        }
        Ok(())
    }

    async fn finish(self, side: &Side) -> Result<(), Failure> {
        let of = worker(WORKER);
        match self {
            Self::Finish => {
                side.ledger.finish(of, &plain()).await?;
            }
            Self::FinishFree => {
                side.ledger.finish_free(of, &plain()).await?;
            }
            Self::FinishTied => {
                follow_ups::finish(&side.sql, of, &tied()).await?;
            }
            _ => {
                follow_ups::finish_free(&side.sql, of, &tied()).await?;
            }
        }
        Ok(())
    }

    async fn limits(self, side: &Side) -> Result<(), Failure> {
        match self {
            Self::SetLimits => {
                let limits = QueueLimits {
                    max_running: Some(3),
                    ..QueueLimits::default()
                };
                side.limits.set_override(LIMITED, Some(&limits)).await?;
            }
            Self::DeclareLimits => {
                let mut queues = side.settings.queues.clone();
                if let Some(queue) = queues.get_mut(LIMITED) {
                    queue.limits.max_running = Some(4);
                }
                side.limits.declare(&queues).await?;
            }
            _ => {
                let asked = ClaimRequest {
                    queue: LIMITED,
                    worker: side.worker,
                    room: 4,
                    lost_after: LOST_AFTER,
                };
                side.limits.claim(asked).await?;
            }
        }
        Ok(())
    }

    async fn ledgers_own(self, side: &Side) -> Result<(), Failure> {
        let (ledger, of) = (&side.ledger, worker(WORKER));
        match self {
            Self::Claim => {
                ledger.claim("default", side.worker, 4, LOST_AFTER).await?;
            }
            Self::MarkStarted => {
                ledger.mark_started(of, &crashed()).await?;
            }
            Self::StoreProgress => {
                let progress = [5, 6].map(|number| Progress {
                    fence: fence(number),
                    value: Arc::from(raw("50")),
                });
                ledger.store_progress(of, &progress).await?;
            }
            Self::CheckClock => {
                ledger.check_clock().await?;
            }
            Self::MakeDue => {
                let span = TimeSpan {
                    after: clock::now(),
                    until: clock::now() + chrono::Duration::hours(1),
                };
                ledger.make_due(&["default".to_owned()], span, 100).await?;
            }
            Self::Register => ledger.register(&report(of)).await?,
            Self::Heartbeat => {
                ledger.heartbeat(&report(of)).await?;
            }
            Self::Renew => {
                ledger.renew(&[of, worker(world::SILENT)], &[of]).await?;
            }
            Self::ReturnStrays => {
                ledger.return_strays(of, &[job(5), job(6)]).await?;
            }
            Self::ReturnSuspects => {
                ledger.return_suspects(of, &[fence(8), fence(9)]).await?;
            }
            Self::Deregister => {
                ledger.deregister(of).await?;
            }
            Self::Rescue => {
                ledger.rescue(LOST_AFTER, 3, 100).await?;
            }
            Self::RescueOrphans => {
                ledger.rescue_orphans(IdRange::ALL, 3, 100).await?;
            }
            Self::CancelWaiting => {
                ledger.cancel(job(3)).await?;
            }
            Self::CancelRunning => {
                ledger.cancel(job(6)).await?;
            }
            Self::RetryDelayed => {
                ledger.retry_now(job(22)).await?;
            }
            Self::RetryDiscarded => {
                ledger.retry_now(job(16)).await?;
            }
            Self::Prune => {
                let retention = Retention {
                    completed: Duration::from_hours(1),
                    discarded: Duration::from_hours(1),
                };
                ledger.prune(&retention, 100).await?;
            }
            Self::SetPaused => ledger.set_paused("default", true).await?,
            Self::Settle => ledger.settle(&[job(18)]).await?,
            other => unreachable!("{other:?} is run elsewhere"),
        }
        Ok(())
    }
}

/// Whose claims a side makes. A's are of the worker whose id is retired meanwhile; B's of another one: no claim begins for a
/// retired id.
pub(crate) fn claims_for(is_first: bool) -> WorkerId {
    worker(if is_first { WORKER } else { world::OTHER })
}
