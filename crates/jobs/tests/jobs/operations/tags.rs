//! Tags, and who enqueued a job.

use std::sync::Arc;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::dead_letters::Redrive;
use holdfast_jobs::enqueue::{EnqueueError, JobRequest};
use holdfast_jobs::ledger::{NewJob, Outcome};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::support::{Fixture, LOST_AFTER, new_job, raw};

contract!(
    tags_are_stored_and_follow_a_chain,
    a_redrive_leaves_tags_and_their_giver,
    wrong_tags_are_named,
);

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Step {}

impl Job for Step {
    const KIND: &'static str = "test.kind";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

fn jobs_of(f: &Fixture) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    Jobs::new(
        &f.settings,
        Registry::new().register::<Step>(),
        &f.database,
        &gate,
    )
}

async fn tags_are_stored_and_follow_a_chain(f: Fixture) {
    let jobs = jobs_of(&f);
    let next = jobs.enqueue(Step {}).tags(["second"]);
    let first = jobs
        .enqueue(Step {})
        .tags(["vip", "first"])
        .enqueued_by("user/7")
        .then_enqueue(next)
        .await
        .unwrap();
    let job = jobs.get(first.id).await.unwrap().unwrap();
    assert_eq!(job.tags, ["vip", "first"]);
    assert_eq!(job.enqueued_by.as_deref(), Some("user/7"));
    assert_eq!(job.then.unwrap().tags, ["second"]);
    let summary = jobs.summaries(&[first.id]).await.unwrap();
    assert_eq!(summary[0].tags, ["vip", "first"]);
    let plain = jobs.enqueue(Step {}).await.unwrap();
    let plain = jobs.get(plain.id).await.unwrap().unwrap();
    assert!(plain.tags.is_empty() && plain.enqueued_by.is_none());

    let worker = f.worker().await;
    let claimed = f.ledger.claim("default", worker, 1, LOST_AFTER).await.unwrap();
    let outcome = Outcome::Completed {
        fence: claimed[0].fence(),
        result: None,
    };
    let followed = holdfast_jobs::follow_ups::FollowedOutcome::of(&claimed[0], &outcome).unwrap();
    let sql = holdfast_jobs::sql::Sql::new(&f.database, &f.settings.database);
    holdfast_jobs::follow_ups::finish(&sql, worker, &[followed])
        .await
        .unwrap();
    let job = jobs.get(first.id).await.unwrap().unwrap();
    let child = jobs.get(job.child.unwrap()).await.unwrap().unwrap();
    assert_eq!(
        (child.tags.as_slice(), child.enqueued_by),
        (&["second".to_owned()][..], None)
    );
}

async fn a_redrive_leaves_tags_and_their_giver(f: Fixture) {
    let jobs = jobs_of(&f);
    let dead = NewJob {
        discarded: true,
        tags: vec!["vip".to_owned()],
        enqueued_by: Some(Arc::from("key/01J")),
        ..new_job()
    };
    f.ledger.insert(std::slice::from_ref(&dead)).await.unwrap();
    let by = AuditContext::new(Actor::local());
    jobs.steer(&by).redrive(&Redrive::default()).await.unwrap();
    let job = jobs.get(dead.id).await.unwrap().unwrap();
    assert!(!job.state.is_final());
    assert_eq!(
        (job.tags, job.enqueued_by.as_deref()),
        (vec!["vip".to_owned()], Some("key/01J"))
    );
}

async fn wrong_tags_are_named(f: Fixture) {
    let jobs = jobs_of(&f);
    let long = "x".repeat(65);
    for (tags, field) in [
        (vec!["1", "2", "3", "4", "5", "6", "7", "8", "9"], "tags"),
        (vec!["a", ""], "tags[1]"),
        (vec![long.as_str()], "tags[0]"),
        (vec!["a\nb"], "tags[0]"),
        (vec!["a", "a"], "tags"),
    ] {
        let request = JobRequest {
            tags: tags.into_iter().map(ToOwned::to_owned).collect(),
            ..JobRequest::new("test.kind", raw("{}"))
        };
        match jobs.enqueue_request(request).await {
            Err(EnqueueError::Invalid(fault)) => assert_eq!(fault.field, field, "{fault}"),
            other => panic!("{field}: {other:?}"),
        }
    }
    let most = JobRequest {
        tags: vec!["ü".repeat(64); 1],
        ..JobRequest::new("test.kind", raw("{}"))
    };
    jobs.enqueue_request(most).await.unwrap();
}
