//! Dead letters in groups: by what they failed of, counted, and put back by it.

use std::sync::Arc;

use holdfast_core::clock;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::dead_letters::{DeadLetterFilter, Redrive};
use holdfast_jobs::failures::{COUNT_CAP, RECENT_HOURS, fingerprint};
use holdfast_jobs::ledger::{ErrorRecord, NewJob, Outcome};

use crate::operations::audit::jobs_of;
use crate::support::{Fixture, LOST_AFTER, new_job};

contract!(
    a_discarded_job_joins_the_group_of_its_failure_at_once,
    dead_letters_without_a_fingerprint_are_given_one,
    a_group_is_redriven_and_deleted_by_its_fingerprint,
    large_groups_are_counted_as_far_as_is_told,
);

/// A dead letter that came without a fingerprint, as from an older version or the broker.
fn dead(kind: &str, error: &str) -> NewJob {
    NewJob {
        kind: Arc::from(kind),
        attempt: 4,
        errors: vec![ErrorRecord::new(clock::now(), 4, "transient", error, "worker-1")],
        discarded: true,
        ..new_job()
    }
}

fn of(print: &str) -> DeadLetterFilter {
    DeadLetterFilter {
        fingerprint: Some(print.to_owned()),
        ..DeadLetterFilter::default()
    }
}

async fn a_discarded_job_joins_the_group_of_its_failure_at_once(f: Fixture) {
    let jobs = jobs_of(&f);
    let worker = f.worker().await;
    f.ledger.insert(&[new_job(), new_job(), new_job()]).await.unwrap();
    let claimed = f.ledger.claim("default", worker, 3, LOST_AFTER).await.unwrap();
    let outcomes: Vec<Outcome> = claimed
        .iter()
        .enumerate()
        .map(|(n, job)| {
            let message = if n < 2 {
                format!("no user {n} in 'shard-{n}'")
            } else {
                "gone".to_owned()
            };
            let error = ErrorRecord::new(clock::now(), 1, "permanent", &message, "w");
            Outcome::Discard {
                fence: job.fence(),
                error: error.with_fingerprint(&job.kind),
            }
        })
        .collect();
    assert_eq!(f.ledger.finish(worker, &outcomes).await.unwrap().len(), 3);
    let list = jobs.failures(10).await.unwrap();
    assert!(!list.has_more);
    let mut told: Vec<_> = list
        .groups
        .iter()
        .map(|group| (group.message.as_str(), group.count, group.class.as_str()))
        .collect();
    told.sort_unstable();
    assert_eq!(
        told,
        [("gone", 1, "permanent"), ("no user # in '…'", 2, "permanent")]
    );
    let print = fingerprint("test.kind", "permanent", "no user 7 in 'shard-9'");
    let group = jobs.failure(&print).await.unwrap().unwrap();
    assert!(list.groups.contains(&group));
    assert_eq!(
        (group.kind.as_str(), group.queue.as_str()),
        ("test.kind", "default")
    );
    assert_eq!(group.samples.len(), 2);
    assert_eq!(group.recent[RECENT_HOURS - 1], 2);
    assert!(group.first_at <= group.last_at && !group.is_capped);
    assert!(jobs.failures(1).await.unwrap().has_more);
    assert_eq!(jobs.failure("0000000000000000").await.unwrap(), None);
}

async fn dead_letters_without_a_fingerprint_are_given_one(f: Fixture) {
    let jobs = jobs_of(&f);
    let mut letters: Vec<_> = (0..5).map(|n| dead("test.kind", &format!("boom {n}"))).collect();
    letters.push(NewJob {
        errors: Vec::new(),
        ..dead("test.kind", "")
    });
    f.ledger.insert(&letters).await.unwrap();
    assert!(jobs.failures(10).await.unwrap().groups.is_empty());
    let mut filled = Vec::new();
    for _ in 0..3 {
        filled.push(jobs.fill_fingerprints(4).await.unwrap());
    }
    assert_eq!(filled, [4, 2, 0]);
    let list = jobs.failures(10).await.unwrap();
    let mut told: Vec<_> = list
        .groups
        .iter()
        .map(|group| (group.class.as_str(), group.message.as_str(), group.count))
        .collect();
    told.sort_unstable();
    assert_eq!(told, [("transient", "boom #", 5), ("unknown", "", 1)]);
}

async fn a_group_is_redriven_and_deleted_by_its_fingerprint(f: Fixture) {
    let jobs = jobs_of(&f);
    let mut letters: Vec<_> = (0..4).map(|n| dead("test.kind", &format!("boom {n}"))).collect();
    letters.extend((0..3).map(|n| dead("test.kind", &format!("bang {n}"))));
    f.ledger.insert(&letters).await.unwrap();
    jobs.fill_fingerprints(100).await.unwrap();
    let boom = fingerprint("test.kind", "transient", "boom 1");
    let bang = fingerprint("test.kind", "transient", "bang 1");
    let read = jobs.dead_letters();
    assert_eq!(read.count(&of(&boom)).await.unwrap(), 4);
    assert_eq!(read.list(&of(&bang), None, 10).await.unwrap().len(), 3);
    let by = AuditContext::new(Actor::bootstrap());
    let redrive = Redrive {
        filter: of(&boom),
        rate: Some(50.0),
        ..Redrive::default()
    };
    let done = jobs.steer(&by).redrive(&redrive).await.unwrap();
    assert_eq!((done.affected, done.finished), (4, true));
    assert_eq!(jobs.failure(&boom).await.unwrap(), None);
    let deleted = jobs
        .steer(&by)
        .delete_dead_letters(&of(&bang), None)
        .await
        .unwrap();
    assert_eq!(deleted.affected, 3);
    assert!(jobs.failures(10).await.unwrap().groups.is_empty());
}

async fn large_groups_are_counted_as_far_as_is_told(f: Fixture) {
    let jobs = jobs_of(&f);
    let letters: Vec<_> = (0..500)
        .map(|n| dead("test.kind", &format!("boom {n}")))
        .collect();
    f.ledger.insert(&letters).await.unwrap();
    assert_eq!(jobs.fill_fingerprints(1_000).await.unwrap(), 500);
    let copies = COUNT_CAP / 500;
    f.sql_text(
        &format!(
            "insert into holdfast_jobs (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, state, finished_at, errors, fingerprint)
             select gen_random_uuid(), queue, kind, payload, priority, run_at, max_attempts, timeout_ms, state, finished_at, errors, fingerprint
             from holdfast_jobs, generate_series(1, {copies})"
        ),
        &format!(
            "with recursive copies (n) as (select 1 union all select n + 1 from copies where n < {copies})
             insert into holdfast_jobs (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, state, finished_at, errors, fingerprint, created_at)
             select randomblob(16), queue, kind, payload, priority, run_at, max_attempts, timeout_ms, state, finished_at, errors, fingerprint, created_at
             from holdfast_jobs, copies"
        ),
    )
    .await;
    let list = jobs.failures(10).await.unwrap();
    let [group] = &list.groups[..] else {
        panic!("{} groups", list.groups.len());
    };
    assert_eq!((group.count, group.is_capped), (COUNT_CAP, true));
}
