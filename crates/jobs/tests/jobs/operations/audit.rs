//! The audit log, and that what operators do is in it.

use std::time::Duration;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::Database;
use holdfast_jobs::audit::{Actor, AuditContext, AuditEntry, AuditFilter, action};
use holdfast_jobs::ledger::{CancelReply, RetryReply};
use holdfast_jobs::{JobId, Jobs, LedgerTx, Registry};
use serde_json::json;

use crate::support::{Fixture, new_job};

contract!(
    steering_leaves_one_entry_for_each_change,
    an_entry_rolls_back_with_its_action,
    the_log_filters_and_pages,
    pruning_takes_old_entries_only,
);

pub(crate) fn jobs_of(f: &Fixture) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap();
    Jobs::new(&f.settings, Registry::new(), &f.database, &gate)
}

fn all() -> AuditFilter {
    AuditFilter {
        limit: 100,
        ..AuditFilter::default()
    }
}

async fn steering_leaves_one_entry_for_each_change(f: Fixture) {
    let jobs = jobs_of(&f);
    let job = new_job();
    f.ledger.insert(std::slice::from_ref(&job)).await.unwrap();
    let by = AuditContext::new(Actor::key("01J")).in_request("req-1");
    let steering = jobs.steer(&by);
    steering.pause("default").await.unwrap();
    assert_eq!(f.ledger.paused_queues().await.unwrap(), ["default"]);
    steering.resume("default").await.unwrap();
    assert!(f.ledger.paused_queues().await.unwrap().is_empty());
    assert_eq!(
        steering.retry(job.id).await.unwrap(),
        Some(RetryReply::Available {
            queue: "default".to_owned()
        })
    );
    assert_eq!(
        steering.cancel(job.id).await.unwrap(),
        Some(CancelReply::Cancelled)
    );
    // What changes nothing leaves no entry.
    assert!(matches!(
        steering.cancel(job.id).await.unwrap(),
        Some(CancelReply::AlreadyFinal(_))
    ));
    assert_eq!(steering.cancel(JobId::generate()).await.unwrap(), None);
    assert_eq!(steering.retry(JobId::generate()).await.unwrap(), None);

    let entries = jobs.audit().list(&all()).await.unwrap();
    let said: Vec<_> = entries
        .iter()
        .rev()
        .map(|entry| (entry.action.as_str(), entry.target.clone().unwrap()))
        .collect();
    let id = job.id.to_string();
    assert_eq!(
        said,
        [
            ("queue.pause", "default".to_owned()),
            ("queue.resume", "default".to_owned()),
            ("job.retry", id.clone()),
            ("job.cancel", id),
        ]
    );
    assert!(entries.iter().all(|entry| entry.actor == "key/01J"
        && entry.request_id.as_deref() == Some("req-1")
        && entry.finished));
}

async fn an_entry_rolls_back_with_its_action(f: Fixture) {
    let jobs = jobs_of(&f);
    let by = AuditContext::new(Actor::system());
    let entry = AuditEntry::new(action::KEY_REVOKE).target("k");
    match &f.database {
        Database::Postgres(pool) => {
            let mut tx = pool.begin().await.unwrap();
            jobs.audit().record_in(&mut tx, &by, &entry).await.unwrap();
            tx.rollback().await.unwrap();
            let mut tx = pool.begin().await.unwrap();
            jobs.audit()
                .record_in(LedgerTx::from(&mut tx), &by, &entry)
                .await
                .unwrap();
            tx.commit().await.unwrap();
        }
        Database::Sqlite(database) => {
            let mut tx = database.writer.begin().await.unwrap();
            jobs.audit().record_in(&mut tx, &by, &entry).await.unwrap();
            tx.rollback().await.unwrap();
            let mut tx = database.writer.begin().await.unwrap();
            jobs.audit().record_in(&mut tx, &by, &entry).await.unwrap();
            tx.commit().await.unwrap();
        }
    }
    assert_eq!(jobs.audit().list(&all()).await.unwrap().len(), 1);
}

async fn the_log_filters_and_pages(f: Fixture) {
    let jobs = jobs_of(&f);
    let audit = jobs.audit();
    let (alice, bob) = (
        AuditContext::new(Actor::user("alice")),
        AuditContext::new(Actor::user("bob")),
    );
    for n in 0..5_u64 {
        let entry = AuditEntry::new(action::QUEUE_PURGE)
            .target(format!("q{n}"))
            .count(n)
            .details(json!({ "nul": "a\u{0}b" }));
        audit.record(&alice, &entry).await.unwrap();
        // Ids made within one millisecond have no order.
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    audit
        .record(&bob, &AuditEntry::new(action::QUEUE_PAUSE).target("q1"))
        .await
        .unwrap();

    let count = async |filter: AuditFilter| {
        audit
            .list(&AuditFilter { limit: 100, ..filter })
            .await
            .unwrap()
            .len()
    };
    let by_actor = |actor: &str| AuditFilter {
        actor: Some(actor.to_owned()),
        ..AuditFilter::default()
    };
    let by_action = |action: &str| AuditFilter {
        action: Some(action.to_owned()),
        ..AuditFilter::default()
    };
    assert_eq!(count(by_actor("user/alice")).await, 5);
    assert_eq!(count(by_action("queue.pause")).await, 1);
    assert_eq!(count(by_action("queue.")).await, 6);
    assert_eq!(count(by_action("queue")).await, 0);
    let on_q1 = AuditFilter {
        target: Some("q1".to_owned()),
        ..AuditFilter::default()
    };
    assert_eq!(count(on_q1).await, 2);
    let ahead = holdfast_core::clock::now() + chrono::Duration::hours(1);
    let later = AuditFilter {
        from: Some(ahead),
        ..AuditFilter::default()
    };
    assert_eq!(count(later).await, 0);
    let earlier = AuditFilter {
        to: Some(ahead),
        ..AuditFilter::default()
    };
    assert_eq!(count(earlier).await, 6);

    let mut seen = Vec::new();
    let mut after = None;
    loop {
        let page = audit
            .list(&AuditFilter {
                after,
                limit: 4,
                ..AuditFilter::default()
            })
            .await
            .unwrap();
        let Some(last) = page.last() else { break };
        after = Some(last.id);
        seen.extend(page.into_iter().map(|entry| entry.id));
    }
    assert_eq!(seen.len(), 6);
    assert!(seen.is_sorted_by(|newer, older| newer > older));
}

async fn pruning_takes_old_entries_only(f: Fixture) {
    let jobs = jobs_of(&f);
    let by = AuditContext::new(Actor::system());
    let entry = AuditEntry::new(action::QUEUE_PAUSE);
    for _ in 0..3 {
        jobs.audit().record(&by, &entry).await.unwrap();
    }
    let hour = Duration::from_hours(1);
    assert_eq!(jobs.audit().prune(hour, 100).await.unwrap(), 0);
    // A clock that was two hours behind: the time counts, the id only narrows the walk.
    f.sql(
        "update holdfast_audit set at = at - interval '2 hours', id = ('00' || substr(id::text, 3))::uuid",
        "update holdfast_audit set at = at - 7200000, id = unhex('00' || substr(hex(id), 3))",
    )
    .await;
    jobs.audit().record(&by, &entry).await.unwrap();
    assert_eq!(jobs.audit().prune(hour, 2).await.unwrap(), 2);
    assert_eq!(jobs.audit().prune(hour, 2).await.unwrap(), 1);
    assert_eq!(jobs.audit().list(&all()).await.unwrap().len(), 1);
}
