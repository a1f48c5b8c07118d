//! Workers that pull over HTTP, and the kinds and queues that are declared for them: below HTTP, on both databases.

use std::collections::{BTreeSet, HashSet};
use std::time::{Duration, Instant};

use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::batches::BatchRequest;
use holdfast_jobs::declared::{DeclareError, KindDefinition, RetryDefinition, UNKNOWN_FOR};
use holdfast_jobs::enqueue::{EnqueueError, FaultCode, JobRequest};
use holdfast_jobs::pull::{
    Beat, ClientInfo, OutcomeStatus, PullAnswer, PullError, PullRequest, PullWorkers, PulledJob,
    Registration, ReportedLine, ReportedOutcome, Verb, fence_text,
};
use holdfast_jobs::{JobId, Jobs, Registry, State, WorkerId};
use holdfast_testkit::eventually;
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, LOST_AFTER, raw};

/// Writes each test once for each database.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::postgres().await).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::sqlite().await).await; })+
        }
    };
}

mod limits;

contract!(
    a_job_is_given_once_and_again_only_if_the_client_does_not_have_it,
    jobs_of_a_silent_worker_are_rescued_and_suspects_are_given_one_at_a_time,
    a_declared_kind_is_checked_everywhere_and_known_to_other_processes_in_time,
    kinds_that_are_declared_concurrently_are_each_known_at_once,
    a_waiting_pull_is_woken_and_a_newer_one_ends_it,
    an_idle_worker_waits_out_each_of_its_pulls,
    lines_that_the_database_refuses_hold_up_no_heartbeat_and_no_outcome,
);

const OWNER: &str = "key";

fn process(f: &Fixture) -> (Jobs, PullWorkers) {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    let jobs = Jobs::new(&f.settings, Registry::new(), &f.database, &gate);
    let workers = PullWorkers::new(&jobs, &f.settings);
    (jobs, workers)
}

fn by() -> AuditContext {
    AuditContext::new(Actor::local())
}

async fn declare(jobs: &Jobs, name: &str, definition: KindDefinition) {
    let definition = KindDefinition {
        queue: "media".to_owned(),
        ..definition
    };
    jobs.steer(&by()).put_kind(name, definition).await.unwrap();
}

fn request(kind: &str, payload: &str) -> JobRequest {
    JobRequest::new(kind, raw(payload))
}

async fn enqueue(jobs: &Jobs, kind: &str, count: usize) -> Vec<JobId> {
    let requests = (0..count)
        .map(|n| request(kind, &format!("{{\"n\":{n}}}")))
        .collect();
    let stored = jobs.enqueue_requests(requests).await.unwrap();
    stored.into_iter().map(|job| job.id).collect()
}

fn registration(queue: &str) -> Registration {
    Registration {
        name: "test".to_owned(),
        queues: vec![queue.to_owned()],
        concurrency: 4,
        client: ClientInfo {
            name: "test".to_owned(),
            version: "1".to_owned(),
            language: "rust".to_owned(),
        },
        kinds: None,
    }
}

async fn register(workers: &PullWorkers) -> WorkerId {
    workers.register(OWNER, registration("media")).await.unwrap()
}

async fn pull(workers: &PullWorkers, worker: WorkerId, max: usize, have: &[JobId]) -> Vec<PulledJob> {
    let asked = PullRequest {
        max,
        wait: Duration::ZERO,
        have: have.to_vec(),
    };
    let pulled = workers
        .pull(OWNER, worker, asked, &CancellationToken::new())
        .await;
    pulled.unwrap().jobs
}

fn ids(jobs: &[PulledJob]) -> Vec<JobId> {
    let ids: BTreeSet<JobId> = jobs.iter().map(|job| job.job.id).collect();
    ids.into_iter().collect()
}

fn outcome(job: &PulledJob, verb: Verb) -> ReportedOutcome {
    ReportedOutcome {
        job: job.job.id,
        fence: fence_text(&job.job.fence()),
        verb,
        result: None,
        error: Some("it broke".to_owned()),
        retry_after: None,
        log: Vec::new(),
    }
}

async fn finish(
    workers: &PullWorkers,
    worker: WorkerId,
    outcomes: Vec<ReportedOutcome>,
) -> Vec<OutcomeStatus> {
    let stored = workers.finish(OWNER, worker, outcomes).await.unwrap();
    stored.into_iter().map(|one| one.status).collect()
}

async fn state(jobs: &Jobs, id: JobId) -> (State, u32, u32) {
    let job = jobs.get(id).await.unwrap().unwrap();
    (job.state, job.attempt, job.crashes)
}

async fn a_job_is_given_once_and_again_only_if_the_client_does_not_have_it(f: Fixture) {
    let (jobs, workers) = process(&f);
    declare(&jobs, "thumbnail.make", KindDefinition::default()).await;
    let enqueued = enqueue(&jobs, "thumbnail.make", 5).await;
    let worker = register(&workers).await;
    let first = pull(&workers, worker, 2, &[]).await;
    assert_eq!(first.len(), 2);
    // The reply was lost: the same jobs under the same fences, and no others.
    let again = pull(&workers, worker, 2, &[]).await;
    assert_eq!(ids(&again), ids(&first));
    let fences = |jobs: &[PulledJob]| -> HashSet<String> {
        jobs.iter().map(|job| fence_text(&job.job.fence())).collect()
    };
    assert_eq!(fences(&again), fences(&first));
    // The same through another process, which knows nothing.
    let (_, elsewhere) = process(&f);
    let lost_there = pull(&elsewhere, worker, 2, &[first[0].job.id]).await;
    assert!(ids(&lost_there).contains(&first[1].job.id) && lost_there.len() == 2);
    let have = ids(&first);
    let mut rest = pull(&elsewhere, worker, 500, &have).await;
    // The one that process gave beside the lost one is among those that are leased; nothing is given twice to a client that has it.
    let mut held: Vec<JobId> = [have.clone(), ids(&rest)].concat();
    held.sort_unstable();
    let mut all = enqueued.clone();
    all.sort_unstable();
    assert_eq!(held, all);
    assert!(pull(&workers, worker, 500, &held).await.is_empty());

    // Each outcome is answered by itself, and may be repeated.
    let (done, failed) = (rest.remove(0), rest.remove(0));
    let foreign = ReportedOutcome {
        fence: "7.7".to_owned(),
        ..outcome(&first[0], Verb::Completed)
    };
    let unknown = ReportedOutcome {
        job: JobId::generate(),
        ..outcome(&first[0], Verb::Completed)
    };
    let outcomes = vec![
        outcome(&done, Verb::Completed),
        outcome(&done, Verb::Discard),
        outcome(&failed, Verb::Failed),
        foreign,
        unknown,
    ];
    let expected = [
        OutcomeStatus::Stored,
        OutcomeStatus::Stored,
        OutcomeStatus::Stored,
        OutcomeStatus::LeaseLost,
        OutcomeStatus::Unknown,
    ];
    assert_eq!(finish(&workers, worker, outcomes.clone()).await, expected);
    assert_eq!(finish(&elsewhere, worker, outcomes).await, expected, "sent again");
    assert_eq!(state(&jobs, done.job.id).await, (State::Completed, 1, 0));
    assert_eq!(state(&jobs, failed.job.id).await, (State::Retryable, 1, 0));
    assert_eq!(state(&jobs, first[0].job.id).await, (State::Running, 0, 0));

    // A cancellation is heard with the next heartbeat; what is not the worker's is lost.
    jobs.cancel(first[0].job.id).await.unwrap();
    let beat = Beat {
        running: vec![first[0].job.id, done.job.id],
        progress: vec![(first[0].job.id, raw("[1,2]"))],
        log: Vec::new(),
    };
    let answer = workers.beat(OWNER, worker, beat).await.unwrap();
    assert_eq!(
        (answer.cancel, answer.lost, answer.drain),
        (vec![first[0].job.id], vec![done.job.id], false)
    );
    let shown = jobs.get(first[0].job.id).await.unwrap().unwrap();
    assert_eq!(shown.progress.unwrap().get(), "[1,2]");
    assert_eq!(
        finish(&workers, worker, vec![outcome(&first[0], Verb::Failed)]).await,
        [OutcomeStatus::Stored]
    );
    assert_eq!(state(&jobs, first[0].job.id).await.0, State::Cancelled);

    // To another key the worker does not exist; leaving gives back without a crash, and may be repeated.
    let stranger = workers.leave("another", worker).await;
    assert!(
        matches!(stranger, Err(PullError::UnknownWorker(_))),
        "{stranger:?}"
    );
    jobs.steer(&by()).drain_worker(worker).await.unwrap();
    assert!(workers.beat(OWNER, worker, Beat::default()).await.unwrap().drain);
    workers.leave(OWNER, worker).await.unwrap();
    workers.leave(OWNER, worker).await.unwrap();
    assert_eq!(state(&jobs, first[1].job.id).await, (State::Available, 0, 0));
    assert_eq!(
        finish(&workers, worker, vec![outcome(&first[1], Verb::Completed)]).await,
        [OutcomeStatus::LeaseLost]
    );
}

/// Makes the silence of all workers longer than a lease, and rescues their jobs. A renewal that a pull has begun and that is not stored
/// yet makes its worker young again, or holds its row: so until one is lost.
async fn lose_workers(f: &Fixture) {
    let lost = async || {
        f.age_workers().await;
        let max_crashes = f.settings.worker.max_crashes;
        let rescued = f.ledger.rescue(LOST_AFTER, max_crashes, 100).await.unwrap();
        (!rescued.workers_lost.is_empty()).then_some(())
    };
    eventually(
        "a worker to be lost",
        Duration::from_secs(60),
        Duration::from_millis(5),
        lost,
    )
    .await
    .unwrap();
}

async fn jobs_of_a_silent_worker_are_rescued_and_suspects_are_given_one_at_a_time(f: Fixture) {
    let (jobs, workers) = process(&f);
    declare(&jobs, "thumbnail.make", KindDefinition::default()).await;
    let enqueued = enqueue(&jobs, "thumbnail.make", 3).await;
    let most = f.settings.worker.max_crashes;
    for crash in 1..most {
        let worker = register(&workers).await;
        let given = pull(&workers, worker, 3, &[]).await;
        if crash < most - 1 || crash == 1 {
            assert_eq!(given.len(), 3);
        }
        lose_workers(&f).await;
        // Late words of a worker that is gone: void, and told so.
        assert_eq!(
            finish(&workers, worker, vec![outcome(&given[0], Verb::Completed)]).await,
            [OutcomeStatus::LeaseLost]
        );
        let late = workers.beat(OWNER, worker, Beat::default()).await;
        assert!(matches!(late, Err(PullError::UnknownWorker(_))), "{late:?}");
        for id in &enqueued {
            assert_eq!(
                state(&jobs, *id).await,
                (State::Available, 0, crash),
                "each counted exactly"
            );
        }
    }
    // The next crash would be their last: one of them at a time.
    let worker = register(&workers).await;
    let suspect = pull(&workers, worker, 3, &[]).await;
    assert_eq!(suspect.len(), 1);
    assert!(pull(&workers, worker, 3, &ids(&suspect)).await.is_empty());
    lose_workers(&f).await;
    for id in enqueued {
        let expected = if id == suspect[0].job.id {
            State::Discarded
        } else {
            State::Scheduled
        };
        assert_eq!(state(&jobs, id).await.0, expected);
    }
}

async fn lines_that_the_database_refuses_hold_up_no_heartbeat_and_no_outcome(f: Fixture) {
    let (jobs, workers) = process(&f);
    declare(&jobs, "thumbnail.make", KindDefinition::default()).await;
    enqueue(&jobs, "thumbnail.make", 2).await;
    f.sql(
        "alter table holdfast_job_logs add constraint refused check (number < 0)",
        "create trigger refused before insert on holdfast_job_logs begin select raise(abort, 'refused'); end",
    )
    .await;
    let worker = register(&workers).await;
    let given = pull(&workers, worker, 2, &[]).await;
    let beat = Beat {
        running: ids(&given),
        progress: vec![(given[0].job.id, raw("1"))],
        log: vec![ReportedLine {
            job: given[0].job.id,
            fence: None,
            line: "of a heartbeat".to_owned(),
        }],
    };
    jobs.cancel(given[1].job.id).await.unwrap();
    let answer = workers.beat(OWNER, worker, beat).await.unwrap();
    assert_eq!(answer.cancel, [given[1].job.id]);
    let last = ReportedOutcome {
        log: vec!["of the outcome".to_owned()],
        ..outcome(&given[0], Verb::Completed)
    };
    let outcomes = vec![last, outcome(&given[1], Verb::Failed)];
    assert_eq!(
        finish(&workers, worker, outcomes).await,
        [OutcomeStatus::Stored, OutcomeStatus::Stored]
    );
    assert_eq!(state(&jobs, given[0].job.id).await.0, State::Completed);
    assert_eq!(jobs.log_of(given[0].job.id).await.unwrap().lines.len(), 0);
}

/// A question about the declared kinds may have begun before a change was committed: its answer does not count for who made the
/// change.
async fn kinds_that_are_declared_concurrently_are_each_known_at_once(f: Fixture) {
    let (jobs, _) = process(&f);
    for round in 0..10 {
        let declared = (0..8).map(|kind| {
            let jobs = jobs.clone();
            tokio::spawn(async move {
                let name = format!("kind.{round}.{kind}");
                declare(&jobs, &name, KindDefinition::default()).await;
                enqueue(&jobs, &name, 1).await;
            })
        });
        for one in declared.collect::<Vec<_>>() {
            one.await.unwrap();
        }
    }
}

async fn a_declared_kind_is_checked_everywhere_and_known_to_other_processes_in_time(f: Fixture) {
    let ((jobs, workers), (elsewhere, _)) = (process(&f), process(&f));
    let unknown = elsewhere.enqueue_request(request("mail.send", "{}")).await;
    assert!(matches!(unknown, Err(EnqueueError::Invalid(fault)) if fault.code == FaultCode::UnknownKind));
    let refused = jobs
        .steer(&by())
        .put_kind(
            "mail.send",
            KindDefinition {
                queue: "default".to_owned(),
                ..KindDefinition::default()
            },
        )
        .await;
    assert!(matches!(refused, Err(DeclareError::RustQueue(_))), "{refused:?}");
    let definition = KindDefinition {
        payload_schema: Some(raw(
            r#"{"required": ["to"], "properties": {"to": {"type": "string"}}}"#,
        )),
        result_schema: Some(raw(r#"{"properties": {"size": {"type": "integer"}}}"#)),
        retry: RetryDefinition {
            max_attempts: Some(7),
            ..RetryDefinition::default()
        },
        timeout_seconds: Some(9.0),
        ..KindDefinition::default()
    };
    declare(&jobs, "mail.send", definition.clone()).await;
    declare(&jobs, "mail.send", definition).await;
    assert_eq!(jobs.declared().snapshot().kinds.len(), 1);
    // A name that was unknown is looked for again within the stated time, and no sooner than that.
    tokio::time::sleep(UNKNOWN_FOR).await;
    let good = || request("mail.send", r#"{"to": "a"}"#);
    let first = elsewhere.enqueue_request(good()).await.unwrap();
    let shown = jobs.get(first.id).await.unwrap().unwrap();
    assert_eq!(
        (shown.max_attempts, shown.timeout_seconds, shown.queue.as_str()),
        (7, 9.0, "media")
    );
    for bad in [r#"{"to": 1}"#, "{}"] {
        let refused = jobs.enqueue_request(request("mail.send", bad)).await;
        assert!(
            matches!(&refused, Err(EnqueueError::Invalid(fault)) if fault.field == "payload.to"),
            "{refused:?}"
        );
    }
    let misplaced = jobs
        .enqueue_request(JobRequest {
            queue: Some("default".to_owned()),
            ..good()
        })
        .await;
    assert!(
        matches!(&misplaced, Err(EnqueueError::Invalid(fault)) if fault.field == "queue"),
        "{misplaced:?}"
    );

    // A chain and a batch go on when a pull worker finishes.
    let chained = JobRequest {
        then: Some(Box::new(good())),
        ..good()
    };
    let batch = BatchRequest {
        name: None,
        jobs: vec![chained, good()],
        callback: Some(good()),
        idempotency_key: None,
    };
    let batch = jobs.enqueue_batch(batch).await.unwrap();
    let worker = register(&workers).await;
    let given = pull(&workers, worker, 500, &[]).await;
    assert_eq!(given.len(), 3);
    let results = [r#"{"size": 1}"#, "null", r#"{"size": "x"}"#];
    let outcomes = given.iter().zip(results).map(|(job, result)| ReportedOutcome {
        result: Some(raw(result)),
        ..outcome(job, Verb::Completed)
    });
    let stored = workers.finish(OWNER, worker, outcomes.collect()).await.unwrap();
    let refused: Vec<_> = stored.iter().filter_map(|one| one.refused.as_deref()).collect();
    assert_eq!(refused.len(), 1);
    assert!(refused[0].starts_with("result.size: "), "{refused:?}");
    assert_eq!(
        state(&jobs, given[2].job.id).await.0,
        State::Discarded,
        "a result that its schema refuses"
    );
    let ended = jobs.batches().get(batch.id).await.unwrap().unwrap();
    assert_eq!((ended.completed + ended.discarded, ended.pending()), (2, 0));
    let follow_ups = pull(&workers, worker, 500, &[]).await;
    let callbacks = follow_ups
        .iter()
        .filter(|job| job.job.options.ended_batch.is_some())
        .count();
    assert_eq!(callbacks, 1);

    // What is in use is not deleted; what is deleted is refused, here at once.
    let kept = jobs.steer(&by()).delete_queue("media").await;
    assert!(matches!(kept, Err(DeclareError::QueueInUse(..))), "{kept:?}");
    assert!(jobs.steer(&by()).delete_kind("mail.send").await.unwrap());
    assert!(!jobs.steer(&by()).delete_kind("mail.send").await.unwrap());
    let gone = jobs.enqueue_request(good()).await;
    assert!(matches!(gone, Err(EnqueueError::Invalid(fault)) if fault.code == FaultCode::UnknownKind));
    let last = follow_ups.iter().map(|job| outcome(job, Verb::Discard)).collect();
    let last = finish(&workers, worker, last).await;
    assert!(
        last.iter().all(|status| *status == OutcomeStatus::Stored),
        "{last:?}"
    );
    workers.leave(OWNER, worker).await.unwrap();
    assert!(jobs.steer(&by()).delete_queue("media").await.unwrap());
    let nowhere = workers.register(OWNER, registration("media")).await;
    assert!(
        matches!(&nowhere, Err(PullError::Invalid(faults)) if faults[0].field == "queues[0]"),
        "{nowhere:?}"
    );
    let other_fleet = workers.register(OWNER, registration("default")).await;
    assert!(
        matches!(other_fleet, Err(PullError::RustQueue(_))),
        "{other_fleet:?}"
    );
}

async fn a_waiting_pull_is_woken_and_a_newer_one_ends_it(f: Fixture) {
    let (jobs, workers) = process(&f);
    declare(&jobs, "thumbnail.make", KindDefinition::default()).await;
    let worker = register(&workers).await;
    let stop = CancellationToken::new();
    let waiting = |worker: WorkerId| {
        let (workers, stop) = (workers.clone(), stop.clone());
        let asked = PullRequest {
            max: 1,
            wait: Duration::from_secs(60),
            have: Vec::new(),
        };
        tokio::spawn(async move { workers.pull(OWNER, worker, asked, &stop).await })
    };
    let end = async |pull: tokio::task::JoinHandle<Result<PullAnswer, PullError>>| {
        let ended = tokio::time::timeout(Duration::from_secs(30), pull).await;
        let jobs = ended.expect("it is answered").unwrap().unwrap().jobs;
        jobs.iter().map(|given| given.job.id).collect::<BTreeSet<JobId>>()
    };
    let older = waiting(worker);
    tokio::task::yield_now().await;
    let newer = waiting(worker);
    let others: Vec<_> = [register(&workers).await, register(&workers).await]
        .map(&waiting)
        .into();
    // Three pulls wait (the fourth was ended by the newer one, or ended it): three jobs are enough for all of them.
    enqueue(&jobs, "thumbnail.make", 3).await;
    let mut given = BTreeSet::new();
    for pull in others {
        given.extend(end(pull).await);
    }
    let mut have = end(older).await;
    have.extend(end(newer).await);
    given.extend(&have);
    if given.len() < 3 {
        // The older pull had claimed one when it was ended: it is leased to the worker, whose next pull gives it.
        let next = PullRequest {
            max: 3,
            wait: Duration::ZERO,
            have: have.into_iter().collect(),
        };
        let next = workers.pull(OWNER, worker, next, &stop).await.unwrap();
        given.extend(next.jobs.iter().map(|given| given.job.id));
    }
    assert_eq!(given.len(), 3);
    let last = waiting(register(&workers).await);
    stop.cancel();
    assert!(end(last).await.is_empty(), "the process stops");
}

/// The lease of an idle worker is renewed while its pull waits: until then the pull is not answered early, or clients would ask in a loop.
async fn an_idle_worker_waits_out_each_of_its_pulls(mut f: Fixture) {
    let lost_after = Duration::from_secs(2);
    f.settings.worker.lost_after = lost_after;
    let (jobs, workers) = process(&f);
    declare(&jobs, "thumbnail.make", KindDefinition::default()).await;
    let worker = register(&workers).await;
    for _ in 0..4 {
        let asked = PullRequest {
            max: 1,
            wait: Duration::from_secs(30),
            have: Vec::new(),
        };
        let began = Instant::now();
        let pulled = workers
            .pull(OWNER, worker, asked, &CancellationToken::new())
            .await
            .unwrap();
        assert_eq!(ids(&pulled.jobs), []);
        assert!(
            began.elapsed() >= lost_after / 2,
            "it was answered after {:?}",
            began.elapsed()
        );
    }
}
