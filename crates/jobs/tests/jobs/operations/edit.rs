//! Changing a job while it waits.

use std::time::Duration;

use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, AuditContext, AuditFilter};
use holdfast_jobs::enqueue::FaultCode;
use holdfast_jobs::ledger::{NewJob, Outcome, Priority, RunAt};
use holdfast_jobs::{
    EditError, EditReply, Job, JobContext, JobEdit, JobError, JobId, Jobs, Registry, SecretField, SecretPart,
    State,
};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{Fixture, LOST_AFTER, new_job, raw};

contract!(
    what_is_named_is_changed_and_the_rest_stays,
    a_job_that_does_not_wait_stays_as_it_is,
    an_invalid_change_names_its_field,
    a_job_that_was_changed_is_claimed_in_its_new_place,
);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct CountedJob {
    a: u32,
    #[serde(default)]
    token: Option<String>,
}

impl Job for CountedJob {
    const KIND: &'static str = "test.kind";
    type Output = ();

    fn secret_fields() -> &'static [SecretField] {
        &[("token", SecretPart::Whole)]
    }

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

fn jobs_of(f: &Fixture) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    Jobs::new(
        &f.settings,
        Registry::new().register::<CountedJob>(),
        &f.database,
        &gate,
    )
}

async fn enqueued(f: &Fixture, job: NewJob) -> JobId {
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    job.id
}

async fn edit(jobs: &Jobs, id: JobId, edit: JobEdit) -> Result<Option<EditReply>, EditError> {
    let by = AuditContext::new(Actor::key("01J"));
    jobs.steer(&by).edit(id, edit).await
}

async fn what_is_named_is_changed_and_the_rest_stays(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f, new_job()).await;
    let before = jobs.get(id).await.unwrap().unwrap();
    let payload = JobEdit {
        payload: Some(raw(r#"{"a":  12}"#)),
        ..JobEdit::default()
    };
    assert_eq!(edit(&jobs, id, payload).await.unwrap(), Some(EditReply::Edited));
    let after = jobs.get(id).await.unwrap().unwrap();
    assert_eq!(after.payload.get(), r#"{"a":  12}"#);
    assert_eq!(
        (
            after.priority,
            after.run_at,
            after.max_attempts,
            after.queue.as_str()
        ),
        (
            before.priority,
            before.run_at,
            before.max_attempts,
            before.queue.as_str()
        )
    );
    let at = clock::now() + chrono::Duration::hours(2);
    let rest = JobEdit {
        priority: Some(Priority::High),
        run_at: Some(at),
        max_attempts: Some(9),
        queue: Some("events".to_owned()),
        ..JobEdit::default()
    };
    assert_eq!(edit(&jobs, id, rest).await.unwrap(), Some(EditReply::Edited));
    let after = jobs.get(id).await.unwrap().unwrap();
    assert_eq!(
        (
            after.state,
            after.priority,
            after.max_attempts,
            after.queue.as_str()
        ),
        (State::Scheduled, Priority::High, 9, "events")
    );
    assert_eq!(after.run_at.timestamp_millis(), at.timestamp_millis());
    assert_eq!(after.payload.get(), r#"{"a":  12}"#);
    let soon = JobEdit {
        delay: Some(Duration::ZERO),
        ..JobEdit::default()
    };
    edit(&jobs, id, soon).await.unwrap();
    assert_eq!(jobs.get(id).await.unwrap().unwrap().state, State::Available);

    let filter = AuditFilter {
        limit: 10,
        ..AuditFilter::default()
    };
    let entries = jobs.audit().list(&filter).await.unwrap();
    let details: Vec<String> = entries
        .iter()
        .map(|entry| entry.details.as_ref().unwrap().to_string().replace(' ', ""))
        .collect();
    assert_eq!(entries.len(), 3, "{details:?}");
    assert!(entries.iter().all(|entry| entry.action == "job.edit"));
    assert_eq!(
        details[2], r#"{"payload":"changed"}"#,
        "the payload is not in the log"
    );
    assert!(details[1].contains(r#""priority":"high""#), "{details:?}");
}

async fn a_job_that_does_not_wait_stays_as_it_is(f: Fixture) {
    let jobs = jobs_of(&f);
    let id = enqueued(&f, new_job()).await;
    let change = || JobEdit {
        payload: Some(raw(r#"{"a":2}"#)),
        priority: Some(Priority::Low),
        ..JobEdit::default()
    };
    assert_eq!(edit(&jobs, JobId::generate(), change()).await.unwrap(), None);
    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    let refused = |state| Some(EditReply::Refused(state));
    assert_eq!(edit(&jobs, id, change()).await.unwrap(), refused(State::Running));
    let completed = Outcome::Completed {
        fence: claimed[0].fence(),
        result: None,
    };
    f.ledger.finish(worker, &[completed]).await.unwrap();
    assert_eq!(
        edit(&jobs, id, change()).await.unwrap(),
        refused(State::Completed)
    );
    let job = jobs.get(id).await.unwrap().unwrap();
    assert_eq!(
        (job.payload.get(), job.priority),
        (r#"{"a":1}"#, Priority::Normal)
    );
    // One that may also be on the broker could run as it was.
    let doubtful = NewJob {
        doubtful: true,
        ..new_job()
    };
    let id = enqueued(&f, doubtful).await;
    assert_eq!(
        edit(&jobs, id, change()).await.unwrap(),
        Some(EditReply::OnBroker)
    );
    let filter = AuditFilter {
        limit: 10,
        ..AuditFilter::default()
    };
    assert_eq!(jobs.audit().list(&filter).await.unwrap().len(), 0);
}

async fn an_invalid_change_names_its_field(f: Fixture) {
    let jobs = jobs_of(&f);
    let tried = NewJob {
        attempt: 2,
        ..new_job()
    };
    let id = enqueued(&f, tried).await;
    let none = JobEdit::default;
    let cases = [
        (none(), "body", FaultCode::InvalidField),
        (
            JobEdit {
                payload: Some(raw(r#"{"a":"x"}"#)),
                ..none()
            },
            "payload.a",
            FaultCode::InvalidPayload,
        ),
        (
            JobEdit {
                payload: Some(raw(r#"{"a":1,"token":"[redacted]"}"#)),
                ..none()
            },
            "payload.token",
            FaultCode::InvalidPayload,
        ),
        (
            JobEdit {
                queue: Some("nowhere".to_owned()),
                ..none()
            },
            "queue",
            FaultCode::UnknownQueue,
        ),
        (
            JobEdit {
                max_attempts: Some(2),
                ..none()
            },
            "max_attempts",
            FaultCode::InvalidField,
        ),
        (
            JobEdit {
                run_at: Some(clock::now()),
                delay: Some(Duration::ZERO),
                ..none()
            },
            "run_at",
            FaultCode::InvalidField,
        ),
    ];
    for (change, field, code) in cases {
        match edit(&jobs, id, change).await {
            Err(EditError::Invalid(fault)) => {
                assert_eq!((fault.field.as_str(), fault.code), (field, code), "{fault}");
            }
            other => panic!("{field}: {other:?}"),
        }
    }
}

async fn a_job_that_was_changed_is_claimed_in_its_new_place(f: Fixture) {
    let jobs = jobs_of(&f);
    let (first, second) = (enqueued(&f, new_job()).await, enqueued(&f, new_job()).await);
    let later = NewJob {
        run_at: RunAt::In(Duration::from_hours(1)),
        ..new_job()
    };
    let later = enqueued(&f, later).await;
    for id in [first, second, later] {
        f.set_due_ago(id, Duration::from_mins(10)).await;
    }
    let worker = f.worker().await;
    // Claims have come past all of them.
    let newest = enqueued(&f, new_job()).await;
    let claimed = f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(claimed.len(), 4);
    let back: Vec<Outcome> = claimed
        .iter()
        .map(|job| Outcome::HandBack { fence: job.fence() })
        .collect();
    f.ledger.finish(worker, &back).await.unwrap();
    let urgent = JobEdit {
        priority: Some(Priority::High),
        ..JobEdit::default()
    };
    edit(&jobs, second, urgent).await.unwrap();
    let elsewhere = JobEdit {
        queue: Some("events".to_owned()),
        ..JobEdit::default()
    };
    edit(&jobs, newest, elsewhere).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    assert_eq!(claimed[0].id, second);
    let claimed = f.ledger.claim("events", worker, 1, LOST_AFTER).await.unwrap();
    assert_eq!(claimed[0].id, newest);
}
