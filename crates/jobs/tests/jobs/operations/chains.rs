//! Chains: what a completion enqueues, once, and what it does not.

use std::sync::Arc;
use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::enqueue::{EnqueueError, FaultCode, JobRequest};
use holdfast_jobs::follow_ups::{self, Effects, FollowedOutcome};
use holdfast_jobs::ledger::{ClaimedJob, ErrorRecord, JobFilter, JobRecord, Outcome, RetryReply};
use holdfast_jobs::link::MAX_LINKS;
use holdfast_jobs::sql::Sql;
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, Registry, State, WorkerId};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{Fixture, LOST_AFTER, raw};

contract!(
    a_completion_enqueues_what_follows_once_with_the_result_and_the_trace,
    a_lost_lease_enqueues_nothing,
    a_discarded_job_goes_on_only_after_its_redrive,
    a_cancelled_job_does_not_go_on,
    a_follower_whose_unique_key_is_taken_is_the_job_that_has_it,
    what_follows_is_checked_at_enqueue,
);

/// A kind that needs no worker here: the tests play its part.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Step {
    pub(crate) n: u32,
}

impl Job for Step {
    const KIND: &'static str = "test.step";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

pub(crate) fn jobs_of(f: &Fixture) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    Jobs::new(
        &f.settings,
        Registry::new().register::<Step>(),
        &f.database,
        &gate,
    )
}

/// Claims up to `most` jobs.
pub(crate) async fn claim(f: &Fixture, worker: WorkerId, most: usize) -> Vec<ClaimedJob> {
    f.ledger.claim("default", worker, most, LOST_AFTER).await.unwrap()
}

pub(crate) fn completed(job: &ClaimedJob) -> Outcome {
    Outcome::Completed {
        fence: job.fence(),
        result: Some(Arc::from(raw(r#"{"sum":3}"#))),
    }
}

pub(crate) fn discarded(job: &ClaimedJob) -> Outcome {
    Outcome::Discard {
        fence: job.fence(),
        error: ErrorRecord::new(clock::now(), 1, "permanent", "it failed", "test"),
    }
}

/// Ends jobs as a worker does.
pub(crate) async fn finish(
    f: &Fixture,
    worker: WorkerId,
    ends: &[(&ClaimedJob, Outcome)],
) -> (Vec<JobId>, Effects) {
    let sql = Sql::new(&f.database, &f.settings.database);
    let tied: Vec<FollowedOutcome> = ends
        .iter()
        .map(|(job, outcome)| FollowedOutcome::of(job, outcome).expect("something hangs on it"))
        .collect();
    follow_ups::finish(&sql, worker, &tied).await.unwrap()
}

pub(crate) async fn all(jobs: &Jobs) -> Vec<JobRecord> {
    let filter = JobFilter {
        limit: 1_000,
        ..JobFilter::default()
    };
    jobs.list(&filter).await.unwrap()
}

async fn a_completion_enqueues_what_follows_once_with_the_result_and_the_trace(f: Fixture) {
    let jobs = jobs_of(&f);
    let trace = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let mut request = JobRequest::new(Step::KIND, raw(r#"{"n":1}"#));
    request.traceparent = Some(trace.to_owned());
    let mut second = JobRequest::new(Step::KIND, raw(r#"{"n":2}"#));
    second.delay = Some(Duration::from_secs(3_600));
    second.then = Some(Box::new(JobRequest::new(Step::KIND, raw(r#"{"n":3}"#))));
    request.then = Some(Box::new(second));
    let first = jobs.enqueue_request(request).await.unwrap().id;
    let seen = jobs.get(first).await.unwrap().unwrap();
    let then = seen.then.as_ref().unwrap();
    assert_eq!(
        (then.payload.get().replace(' ', ""), seen.child),
        (r#"{"n":2}"#.to_owned(), None)
    );

    let worker = f.worker().await;
    let claimed = claim(&f, worker, 10).await;
    assert_eq!(claimed.len(), 1, "nothing that follows can run before its turn");
    let (held, effects) = finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    assert_eq!((held, effects.enqueued.len()), (vec![first], 1));
    assert_eq!(effects.enqueued[0].delay, Duration::from_secs(3_600));
    // The reply was lost, and the worker says it again.
    let (held, effects) = finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    assert_eq!((held, effects), (vec![], Effects::default()));

    let parent = jobs.get(first).await.unwrap().unwrap();
    let child = jobs.get(parent.child.unwrap()).await.unwrap().unwrap();
    assert_eq!((child.parent, child.state), (Some(first), State::Scheduled));
    assert_eq!(all(&jobs).await.len(), 2);
    assert!(matches!(
        jobs.retry(child.id).await.unwrap(),
        Some(RetryReply::Available { .. })
    ));
    let claimed = claim(&f, worker, 10).await;
    let options = &claimed[0].options;
    assert_eq!(options.traceparent.as_deref(), Some(trace));
    let previous = options.previous.as_ref().unwrap();
    let result: serde_json::Value = serde_json::from_str(previous.result.as_ref().unwrap().get()).unwrap();
    assert_eq!((previous.id, result), (first, serde_json::json!({ "sum": 3 })));
    finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    let last = claim(&f, worker, 10).await;
    assert_eq!(last[0].payload.get().replace(' ', ""), r#"{"n":3}"#);
    assert!(last[0].options.then.is_none());
    assert_eq!(all(&jobs).await.len(), 3);
}

async fn a_lost_lease_enqueues_nothing(f: Fixture) {
    let jobs = jobs_of(&f);
    let first = jobs.enqueue(Step { n: 1 }).then(Step { n: 2 }).await.unwrap().id;
    let lost = f.worker().await;
    let late = claim(&f, lost, 1).await;
    f.age_workers().await;
    let report = f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert_eq!(report.jobs(), 1);
    let other = f.worker().await;
    let claimed = claim(&f, other, 1).await;
    let (held, effects) = finish(&f, lost, &[(&late[0], completed(&late[0]))]).await;
    assert_eq!((held, effects), (vec![], Effects::default()));
    assert_eq!(all(&jobs).await.len(), 1);
    let (held, _) = finish(&f, other, &[(&claimed[0], completed(&claimed[0]))]).await;
    assert_eq!((held, all(&jobs).await.len()), (vec![first], 2));
}

async fn a_discarded_job_goes_on_only_after_its_redrive(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = jobs.enqueue(Step { n: 1 }).then(Step { n: 2 }).await.unwrap().id;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 1).await;
    let outcome = discarded(&claimed[0]);
    assert!(
        FollowedOutcome::of(&claimed[0], &outcome).is_none(),
        "nothing hangs on that"
    );
    f.ledger.finish(worker, &[outcome]).await.unwrap();
    assert_eq!(all(&jobs).await.len(), 1);
    let by = AuditContext::new(Actor::local());
    assert!(matches!(
        jobs.steer(&by).retry(id).await.unwrap(),
        Some(RetryReply::Available { .. })
    ));
    let claimed = claim(&f, worker, 1).await;
    finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    let child = jobs.get(id).await.unwrap().unwrap().child.unwrap();
    assert_eq!(jobs.get(child).await.unwrap().unwrap().parent, Some(id));
}

async fn a_cancelled_job_does_not_go_on(f: Fixture) {
    let jobs = jobs_of(&f);
    let waiting = jobs.enqueue(Step { n: 1 }).then(Step { n: 2 }).await.unwrap().id;
    jobs.cancel(waiting).await.unwrap();
    let running = jobs.enqueue(Step { n: 1 }).then(Step { n: 2 }).await.unwrap().id;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 1).await;
    let outcome = Outcome::Cancel {
        fence: claimed[0].fence(),
        error: None,
    };
    assert!(FollowedOutcome::of(&claimed[0], &outcome).is_none());
    assert_eq!(f.ledger.finish(worker, &[outcome]).await.unwrap(), [running]);
    let records = all(&jobs).await;
    assert_eq!(records.len(), 2);
    assert!(
        records
            .iter()
            .all(|job| job.state == State::Cancelled && job.child.is_none())
    );
}

async fn a_follower_whose_unique_key_is_taken_is_the_job_that_has_it(f: Fixture) {
    let jobs = jobs_of(&f);
    let standing = jobs
        .enqueue(Step { n: 9 })
        .unique("report")
        .delay(Duration::from_secs(60))
        .await
        .unwrap()
        .id;
    let id = jobs
        .enqueue(Step { n: 1 })
        .then_enqueue(jobs.enqueue(Step { n: 2 }).unique("report"))
        .await
        .unwrap()
        .id;
    let worker = f.worker().await;
    let claimed = claim(&f, worker, 1).await;
    let (_, effects) = finish(&f, worker, &[(&claimed[0], completed(&claimed[0]))]).await;
    assert!(effects.enqueued.is_empty());
    assert_eq!(jobs.get(id).await.unwrap().unwrap().child, Some(standing));
    assert_eq!(all(&jobs).await.len(), 2);
}

async fn what_follows_is_checked_at_enqueue(f: Fixture) {
    let jobs = jobs_of(&f);
    let step = |n: u32| JobRequest::new(Step::KIND, raw(&format!(r#"{{"n":{n}}}"#)));
    let after = |then: JobRequest| JobRequest {
        then: Some(Box::new(then)),
        ..step(1)
    };
    let fault = async |request: JobRequest| match jobs.enqueue_request(request).await {
        Err(EnqueueError::Invalid(fault)) => (fault.code, fault.field),
        other => panic!("{other:?}"),
    };
    let unknown = after(after(JobRequest::new("test.none", raw("{}"))));
    assert_eq!(
        fault(unknown).await,
        (FaultCode::UnknownKind, "then.then.kind".to_owned())
    );
    let misfit = after(JobRequest::new(Step::KIND, raw(r#"{"n":"x"}"#)));
    assert_eq!(
        fault(misfit).await,
        (FaultCode::InvalidPayload, "then.payload.n".to_owned())
    );
    let mut elsewhere = step(2);
    elsewhere.queue = Some("nowhere".to_owned());
    assert_eq!(
        fault(after(elsewhere)).await,
        (FaultCode::UnknownQueue, "then.queue".to_owned())
    );
    let mut timed = step(2);
    timed.run_at = Some(clock::now());
    assert_eq!(
        fault(after(timed)).await,
        (FaultCode::InvalidField, "then.run_at".to_owned())
    );
    let mut keyed = step(2);
    keyed.idempotency_key = Some("key".to_owned());
    assert_eq!(fault(after(keyed)).await.1, "then.idempotency_key");

    let chain = |links: usize| {
        (0..links).fold(step(0), |chain, _| JobRequest {
            then: Some(Box::new(chain)),
            ..step(0)
        })
    };
    let deepest = fault(chain(MAX_LINKS + 1)).await;
    assert_eq!(
        deepest,
        (
            FaultCode::InvalidField,
            format!("{}then", "then.".repeat(MAX_LINKS))
        )
    );
    jobs.enqueue_request(chain(MAX_LINKS)).await.unwrap();

    let most = f.settings.jobs.max_payload_bytes;
    let large =
        |bytes: usize| JobRequest::new(Step::KIND, raw(&format!(r#"{{"n":1{}}}"#, " ".repeat(bytes))));
    let heavy = after(JobRequest {
        then: Some(Box::new(large(most / 2))),
        ..large(most / 2)
    });
    assert_eq!(
        fault(heavy).await,
        (FaultCode::PayloadTooLarge, "then.payload".to_owned())
    );
    assert_eq!(all(&jobs).await.len(), 1, "what was refused left nothing");
}
