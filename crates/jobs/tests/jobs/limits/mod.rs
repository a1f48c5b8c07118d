//! Limits over all workers, one contract on PostgreSQL, behind PgBouncer, and on SQLite.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

mod faults;
mod model;
mod throughput;

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicUsize, Ordering};
use std::time::Duration;

use holdfast_core::clock;
use holdfast_jobs::ledger::{ClaimedJob, NewJob, Outcome, Priority, RunAt};
use holdfast_jobs::limits::{ClaimRequest, LimitStore, LimitedClaim, QueueLimits};
use holdfast_jobs::{JobId, WorkerId};
use support::{Fixture, LOST_AFTER, new_job, settings};

/// Writes each test once for each way to a database.
macro_rules! contract {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(super::LimitFixture::over(crate::support::postgres().await)).await; })+
        }
        mod behind_pgbouncer {
            $(#[tokio::test] async fn $name() { super::$name(super::LimitFixture::over(crate::support::pgbouncer().await)).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(super::LimitFixture::over(crate::support::sqlite().await)).await; })+
        }
    };
}

mod overrides;

contract!(
    a_limited_queue_opens_to_the_limited_claim_alone,
    running_jobs_are_counted_over_all_workers,
    a_lost_workers_jobs_count_until_they_are_rescued,
    each_key_has_its_own_places,
    a_hot_key_neither_starves_nor_slows_the_others,
    more_keys_than_one_walk_sees_all_have_their_turn,
    a_job_without_a_key_is_not_bound_by_keys,
    a_rate_lets_exactly_its_count_start_and_tells_when_the_next_may,
    each_key_has_its_own_rate,
    a_limited_claim_says_when_the_next_job_is_due,
    the_guards_of_the_ordinary_claim_hold,
    what_the_api_sets_stands_before_what_is_configured,
    claims_at_the_same_time_never_exceed_a_limit,
    a_bucket_that_is_emptier_than_empty_fills_again_at_its_rate,
    running_jobs_of_a_worker_without_a_row_count,
    jobs_too_large_for_one_answer_come_whole_and_in_order,
);

struct LimitFixture {
    f: Fixture,
    limits: LimitStore,
    inserted: AtomicI64,
}

impl LimitFixture {
    fn over(f: Fixture) -> Self {
        let limits = LimitStore::new(&f.database, &f.settings.database);
        let inserted = AtomicI64::new(0);
        Self { f, limits, inserted }
    }

    async fn set(&self, limits: QueueLimits) {
        self.limits.set_override("default", Some(&limits)).await.unwrap();
    }

    /// Accepts jobs, each due a millisecond after the one before: ids of one millisecond are in no order.
    async fn insert(&self, jobs: &[NewJob]) {
        let first = clock::now() - chrono::Duration::hours(1);
        let jobs: Vec<NewJob> = jobs
            .iter()
            .cloned()
            .map(|job| match job.run_at {
                RunAt::Now => {
                    let place = self.inserted.fetch_add(1, Ordering::SeqCst);
                    NewJob {
                        run_at: RunAt::Tick(first + chrono::Duration::milliseconds(place)),
                        ..job
                    }
                }
                _ => job,
            })
            .collect();
        self.f.ledger.insert(&jobs).await.unwrap();
    }

    async fn claim_all(&self, worker: WorkerId, room: usize) -> LimitedClaim {
        let asked = ClaimRequest {
            queue: "default",
            worker,
            room,
            lost_after: LOST_AFTER,
        };
        let claimed = self.limits.claim(asked).await.unwrap();
        assert!(claimed.limited);
        claimed
    }

    async fn claim(&self, worker: WorkerId, room: usize) -> Vec<ClaimedJob> {
        self.claim_all(worker, room).await.jobs
    }

    async fn complete(&self, worker: WorkerId, jobs: &[ClaimedJob]) {
        let outcomes: Vec<Outcome> = jobs
            .iter()
            .map(|job| Outcome::Completed {
                fence: job.fence(),
                result: None,
            })
            .collect();
        assert_eq!(
            self.f.ledger.finish(worker, &outcomes).await.unwrap().len(),
            jobs.len()
        );
    }

    /// Makes every bucket of tokens `seconds` fuller.
    async fn let_an_hour_pass(&self) {
        self.f
            .sql(
                "update holdfast_queues set rate_full_at = rate_full_at - interval '1 hour';
                 update holdfast_limit_buckets set full_at = full_at - interval '1 hour'",
                "update holdfast_queues set rate_full_at = rate_full_at - 3600000;
                 update holdfast_limit_buckets set full_at = full_at - 3600000",
            )
            .await;
    }
}

fn keyed(key: &str) -> NewJob {
    NewJob {
        limit_key: Some(key.to_owned()),
        ..new_job()
    }
}

fn ids(jobs: &[ClaimedJob]) -> Vec<JobId> {
    jobs.iter().map(|job| job.id).collect()
}

fn max_running(most: u32) -> QueueLimits {
    QueueLimits {
        max_running: Some(most),
        ..QueueLimits::default()
    }
}

fn key_max_running(most: u32) -> QueueLimits {
    QueueLimits {
        key_max_running: Some(most),
        ..QueueLimits::default()
    }
}

async fn a_limited_queue_opens_to_the_limited_claim_alone(l: LimitFixture) {
    let worker = l.f.worker().await;
    let queues = ["default".to_owned()];
    l.insert(&[new_job(), new_job()]).await;
    assert!(!l.limits.is_limited("default").await.unwrap());
    l.set(max_running(1)).await;
    assert!(l.limits.is_limited("default").await.unwrap());
    let ordinary = l.f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert!(ordinary.is_empty());
    assert!(
        l.f.ledger.peek(&queues).await.unwrap().is_empty(),
        "what is due may not start all the same"
    );
    assert_eq!(l.claim(worker, 10).await.len(), 1);

    l.limits.set_override("default", None).await.unwrap();
    let asked = ClaimRequest {
        queue: "default",
        worker,
        room: 10,
        lost_after: LOST_AFTER,
    };
    let claimed = l.limits.claim(asked).await.unwrap();
    assert!(!claimed.limited && claimed.jobs.is_empty());
    assert_eq!(l.f.ledger.peek(&queues).await.unwrap()["default"], Duration::ZERO);
    let ordinary = l.f.ledger.claim("default", worker, 10, LOST_AFTER).await.unwrap();
    assert_eq!(ordinary.len(), 1);
}

async fn running_jobs_are_counted_over_all_workers(l: LimitFixture) {
    l.set(max_running(3)).await;
    let jobs: Vec<NewJob> = (0..10).map(|_| new_job()).collect();
    l.insert(&jobs).await;
    let elsewhere = NewJob {
        queue: Arc::from("other"),
        ..new_job()
    };
    l.insert(&[elsewhere]).await;
    let (one, two) = (l.f.worker().await, l.f.worker().await);
    assert_eq!(
        l.f.ledger
            .claim("other", one, 10, LOST_AFTER)
            .await
            .unwrap()
            .len(),
        1
    );
    let first = l.claim(one, 2).await;
    assert_eq!(ids(&first), [jobs[0].id, jobs[1].id], "in order");
    let second = l.claim(two, 10).await;
    assert_eq!(second.len(), 1);
    assert!(l.claim(one, 10).await.is_empty());
    l.complete(one, &first).await;
    assert_eq!(l.claim(two, 10).await.len(), 2);
    assert!(l.claim(one, 10).await.is_empty());
}

async fn a_lost_workers_jobs_count_until_they_are_rescued(l: LimitFixture) {
    l.set(key_max_running(1)).await;
    l.insert(&[keyed("a"), keyed("a")]).await;
    let lost = l.f.worker().await;
    assert_eq!(l.claim(lost, 10).await.len(), 1);
    l.f.age_workers().await;
    let worker = l.f.worker().await;
    assert!(l.claim(worker, 10).await.is_empty(), "its lease may live");
    let report = l.f.ledger.rescue(LOST_AFTER, 3, 10).await.unwrap();
    assert_eq!(report.jobs(), 1);
    assert_eq!(l.claim(worker, 10).await.len(), 1);
    assert!(l.claim(worker, 10).await.is_empty());
}

async fn each_key_has_its_own_places(l: LimitFixture) {
    l.set(QueueLimits {
        max_running: Some(5),
        ..key_max_running(2)
    })
    .await;
    let jobs: Vec<NewJob> = ["a", "a", "a", "b", "b", "c", "c"]
        .iter()
        .map(|key| keyed(key))
        .collect();
    l.insert(&jobs).await;
    let worker = l.f.worker().await;
    let claimed: HashSet<JobId> = l.claim(worker, 10).await.iter().map(|job| job.id).collect();
    // One of each first, then the oldest seconds, five in all.
    let expected: HashSet<JobId> = [0, 1, 3, 4, 5].iter().map(|at| jobs[*at].id).collect();
    assert_eq!(claimed, expected);
    let urgent = NewJob {
        priority: Priority::High,
        ..keyed("c")
    };
    l.set(key_max_running(2)).await;
    l.insert(std::slice::from_ref(&urgent)).await;
    assert_eq!(
        ids(&l.claim(worker, 10).await),
        [urgent.id],
        "one place of c, the most urgent first"
    );
}

async fn a_hot_key_neither_starves_nor_slows_the_others(l: LimitFixture) {
    l.set(key_max_running(1)).await;
    let hot: Vec<NewJob> = (0..5_000).map(|_| keyed("hot")).collect();
    l.insert(&hot).await;
    let cold: Vec<NewJob> = (0..50).map(|number| keyed(&format!("cold-{number}"))).collect();
    l.insert(&cold).await;
    let worker = l.f.worker().await;
    let claimed: HashSet<JobId> = l.claim(worker, 100).await.iter().map(|job| job.id).collect();
    assert_eq!(claimed.len(), 51);
    assert!(claimed.contains(&hot[0].id));
    assert!(cold.iter().all(|job| claimed.contains(&job.id)));
    l.insert(&[keyed("late")]).await;
    assert_eq!(
        l.claim(worker, 100).await.len(),
        1,
        "behind 4,999 that may not start"
    );
}

async fn more_keys_than_one_walk_sees_all_have_their_turn(l: LimitFixture) {
    l.set(key_max_running(1)).await;
    // 2,600 keys, of which the first 2,500 in their order are at their limit.
    let blockers: Vec<NewJob> = (0..2_500).map(|number| keyed(&format!("a{number:05}"))).collect();
    l.insert(&blockers).await;
    let worker = l.f.worker().await;
    let mut running = 0;
    while running < 2_500 {
        let claimed = l.claim(worker, 1_000).await;
        assert!(!claimed.is_empty());
        running += claimed.len();
    }
    let mut waiting = blockers
        .iter()
        .map(|job| keyed(job.limit_key.as_ref().unwrap()))
        .collect::<Vec<_>>();
    waiting.extend((0..100).map(|number| keyed(&format!("b{number:05}"))));
    l.insert(&waiting).await;
    let mut served = HashSet::new();
    for _ in 0..10 {
        let claimed = l.claim_all(worker, 60).await;
        let came_round = claimed.again_in.is_none();
        served.extend(ids(&claimed.jobs));
        if served.len() == 100 {
            break;
        }
        assert!(
            !came_round || !claimed.jobs.is_empty(),
            "a walk that missed keys goes on"
        );
    }
    let expected: HashSet<JobId> = waiting[2_500..].iter().map(|job| job.id).collect();
    assert_eq!(served, expected);
}

async fn a_job_without_a_key_is_not_bound_by_keys(l: LimitFixture) {
    l.set(key_max_running(1)).await;
    let jobs = [keyed("a"), keyed("a"), new_job(), new_job()];
    l.insert(&jobs).await;
    let worker = l.f.worker().await;
    let claimed: HashSet<JobId> = l.claim(worker, 10).await.iter().map(|job| job.id).collect();
    assert_eq!(claimed, [0, 2, 3].iter().map(|at| jobs[*at].id).collect());
}

async fn a_rate_lets_exactly_its_count_start_and_tells_when_the_next_may(l: LimitFixture) {
    l.set(QueueLimits {
        rate: Some("10/10h".parse().unwrap()),
        ..QueueLimits::default()
    })
    .await;
    let jobs: Vec<NewJob> = (0..40).map(|_| new_job()).collect();
    l.insert(&jobs).await;
    let (one, two) = (l.f.worker().await, l.f.worker().await);
    let first = l.claim(one, 6).await;
    assert_eq!(first.len(), 6);
    // A token is spent by the start, not by the end.
    l.complete(one, &first).await;
    let rest = l.claim_all(two, 20).await;
    assert_eq!(rest.jobs.len(), 4);
    for worker in [one, two] {
        let none = l.claim_all(worker, 20).await;
        assert!(none.jobs.is_empty());
        let wait = none.again_in.unwrap().as_secs();
        assert!((3_000..=3_600).contains(&wait), "a token an hour: {wait}");
    }
    l.let_an_hour_pass().await;
    assert_eq!(l.claim(one, 20).await.len(), 1, "one token grew");
    assert!(l.claim(two, 20).await.is_empty());
    for _ in 0..30 {
        l.let_an_hour_pass().await;
    }
    assert_eq!(
        l.claim(one, 20).await.len(),
        10,
        "a bucket holds no more than its count"
    );
}

async fn each_key_has_its_own_rate(l: LimitFixture) {
    l.set(QueueLimits {
        key_rate: Some("2/2h".parse().unwrap()),
        ..QueueLimits::default()
    })
    .await;
    let jobs: Vec<NewJob> = ["a", "a", "a", "a", "b"].iter().map(|key| keyed(key)).collect();
    l.insert(&jobs).await;
    let worker = l.f.worker().await;
    let claimed = l.claim_all(worker, 10).await;
    assert_eq!(claimed.jobs.len(), 3);
    let wait = claimed.again_in.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&wait), "{wait}");
    l.let_an_hour_pass().await;
    assert_eq!(l.claim(worker, 10).await.len(), 1);
}

async fn a_limited_claim_says_when_the_next_job_is_due(l: LimitFixture) {
    l.set(key_max_running(1)).await;
    let worker = l.f.worker().await;
    assert_eq!(l.claim_all(worker, 10).await.again_in, None);
    l.insert(&[NewJob {
        run_at: RunAt::In(Duration::from_secs(100)),
        ..keyed("a")
    }])
    .await;
    let none = l.claim_all(worker, 10).await;
    assert!(none.jobs.is_empty());
    let wait = none.again_in.unwrap().as_secs();
    assert!((30..=100).contains(&wait), "{wait}");
}

async fn the_guards_of_the_ordinary_claim_hold(l: LimitFixture) {
    l.set(max_running(5)).await;
    l.insert(&[new_job()]).await;
    assert!(l.claim(WorkerId::generate(), 10).await.is_empty(), "unknown");
    let worker = l.f.worker().await;
    l.f.age_workers().await;
    assert!(l.claim(worker, 10).await.is_empty(), "silent");
    let worker = l.f.worker().await;
    l.f.ledger.set_paused("default", true).await.unwrap();
    assert!(l.claim(worker, 10).await.is_empty(), "paused");
    l.f.ledger.set_paused("default", false).await.unwrap();
    let claimed = l.claim(worker, 10).await;
    assert_eq!(claimed.len(), 1);
    assert!(claimed[0].run_at <= clock::now() + chrono::Duration::seconds(60));
}

async fn what_the_api_sets_stands_before_what_is_configured(l: LimitFixture) {
    let configured = settings(&[
        ("HOLDFAST__QUEUES__DEFAULT__MAX_RUNNING", "7"),
        ("HOLDFAST__QUEUES__DEFAULT__KEY_RATE", "5/1s"),
    ]);
    l.limits.declare(&configured.queues).await.unwrap();
    let seven = QueueLimits {
        max_running: Some(7),
        key_rate: Some("5/1s".parse().unwrap()),
        ..QueueLimits::default()
    };
    let in_force = async || l.limits.all().await.unwrap()["default"];
    assert_eq!(in_force().await.effective(), seven);
    assert!(l.limits.is_limited("default").await.unwrap());
    assert!(!l.limits.is_limited("events").await.unwrap());

    l.set(QueueLimits::default()).await;
    assert!(
        !l.limits.is_limited("default").await.unwrap(),
        "no limit, on purpose"
    );
    l.set(max_running(2)).await;
    l.limits.declare(&settings(&[]).queues).await.unwrap();
    assert_eq!(in_force().await.effective(), max_running(2));
    l.limits.declare(&configured.queues).await.unwrap();
    l.limits.set_override("default", None).await.unwrap();
    assert_eq!(in_force().await.effective(), seven);
    assert!(l.limits.is_limited("default").await.unwrap());
    l.limits.declare(&settings(&[]).queues).await.unwrap();
    assert!(
        !l.limits.is_limited("default").await.unwrap(),
        "the configuration names none any more"
    );
    l.set(max_running(2)).await;
    l.limits.set_override("default", None).await.unwrap();
    assert!(
        !l.limits.is_limited("default").await.unwrap(),
        "nor does an override leave any behind"
    );
}

async fn claims_at_the_same_time_never_exceed_a_limit(l: LimitFixture) {
    l.set(QueueLimits {
        max_running: Some(4),
        ..key_max_running(1)
    })
    .await;
    let jobs: Vec<NewJob> = (0..120)
        .map(|number| keyed(&format!("key-{}", number % 6)))
        .collect();
    let key_of: BTreeMap<JobId, String> = jobs
        .iter()
        .map(|job| (job.id, job.limit_key.clone().unwrap()))
        .collect();
    l.insert(&jobs).await;
    let l = Arc::new(l);
    // Entered by a claim's jobs, left before their outcomes are stored: what overlaps here overlapped in the ledger.
    let inside: Arc<std::sync::Mutex<Vec<JobId>>> = Arc::default();
    let done = Arc::new(AtomicUsize::new(0));
    let mut workers = Vec::new();
    for _ in 0..4 {
        let (l, inside, done, key_of) = (
            Arc::clone(&l),
            Arc::clone(&inside),
            Arc::clone(&done),
            key_of.clone(),
        );
        workers.push(tokio::spawn(async move {
            let worker = l.f.worker().await;
            while done.load(Ordering::SeqCst) < 120 {
                let claimed = l.claim(worker, 10).await;
                {
                    let mut inside = inside.lock().unwrap();
                    inside.extend(claimed.iter().map(|job| job.id));
                    let keys: HashSet<&String> = inside.iter().map(|id| &key_of[id]).collect();
                    assert!(inside.len() <= 4 && keys.len() == inside.len(), "{inside:?}");
                }
                tokio::task::yield_now().await;
                inside
                    .lock()
                    .unwrap()
                    .retain(|id| !claimed.iter().any(|job| job.id == *id));
                if !claimed.is_empty() {
                    l.complete(worker, &claimed).await;
                    done.fetch_add(claimed.len(), Ordering::SeqCst);
                }
            }
        }));
    }
    for worker in workers {
        tokio::time::timeout(Duration::from_secs(60), worker)
            .await
            .unwrap()
            .unwrap();
    }
    assert_eq!(done.load(Ordering::SeqCst), 120);
}

/// The database's clock was set back by 100 hours: full again only in 100 hours, which no number of starts can cause.
async fn a_bucket_that_is_emptier_than_empty_fills_again_at_its_rate(l: LimitFixture) {
    l.set(QueueLimits {
        rate: Some("3/3h".parse().unwrap()),
        key_rate: Some("2/2h".parse().unwrap()),
        ..QueueLimits::default()
    })
    .await;
    l.insert(
        &vec![keyed("a"); 9]
            .into_iter()
            .map(|job| NewJob {
                id: JobId::generate(),
                ..job
            })
            .collect::<Vec<_>>(),
    )
    .await;
    let worker = l.f.worker().await;
    assert_eq!(l.claim(worker, 10).await.len(), 2);
    l.f.sql(
        "update holdfast_queues set rate_full_at = rate_full_at + interval '100 hours';
         update holdfast_limit_buckets set full_at = full_at + interval '100 hours'",
        "update holdfast_queues set rate_full_at = rate_full_at + 360000000;
         update holdfast_limit_buckets set full_at = full_at + 360000000",
    )
    .await;
    let none = l.claim_all(worker, 10).await;
    assert!(none.jobs.is_empty(), "an empty bucket, as after a burst");
    let wait = none.again_in.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&wait), "the queue's next token: {wait}");
    l.let_an_hour_pass().await;
    let none = l.claim_all(worker, 10).await;
    assert!(
        none.jobs.is_empty(),
        "the queue has a token again, and the key is looked at for the first time"
    );
    let wait = none.again_in.unwrap().as_secs();
    assert!((3_000..=3_600).contains(&wait), "the key's next token: {wait}");
    l.let_an_hour_pass().await;
    assert_eq!(l.claim(worker, 10).await.len(), 1);
}

async fn running_jobs_of_a_worker_without_a_row_count(l: LimitFixture) {
    l.set(QueueLimits {
        key_max_running: Some(2),
        ..max_running(3)
    })
    .await;
    l.insert(&["a", "a", "b", "b"].map(keyed)).await;
    let gone = l.f.worker().await;
    assert_eq!(l.claim(gone, 2).await.len(), 2);
    let worker = l.f.worker().await;
    l.f.sql(
        "delete from holdfast_workers where id = (select worker from holdfast_jobs where state = 'running' limit 1)",
        "delete from holdfast_workers where id = (select worker from holdfast_jobs where state = 'running' limit 1)",
    )
    .await;
    assert_eq!(
        l.claim(worker, 10).await.len(),
        1,
        "three run at once, whoever runs them"
    );
}

async fn jobs_too_large_for_one_answer_come_whole_and_in_order(l: LimitFixture) {
    l.set(max_running(100)).await;
    let jobs: Vec<NewJob> = (0..12)
        .map(|number| {
            let body = "x".repeat(10_000);
            NewJob {
                payload: Arc::from(support::raw(&format!(r#"{{"number":{number},"body":"{body}"}}"#))),
                ..new_job()
            }
        })
        .collect();
    l.insert(&jobs).await;
    let worker = l.f.worker().await;
    let claimed = l.claim(worker, 100).await;
    assert_eq!(ids(&claimed), jobs.iter().map(|job| job.id).collect::<Vec<_>>());
    for (number, job) in claimed.iter().enumerate() {
        let payload: serde_json::Value = serde_json::from_str(job.payload.get()).unwrap();
        assert_eq!(payload["number"], number);
        assert_eq!(payload["body"].as_str().unwrap().len(), 10_000);
    }
    l.complete(worker, &claimed).await;
}
