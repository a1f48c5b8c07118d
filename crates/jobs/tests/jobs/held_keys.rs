//! Producers whose keys another open transaction holds, that race for the same keys, that repeat what stands, and that are
//! refused: each is answered for itself, and leaves nothing behind.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test that cannot go on must stop"
)]

use crate::support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::sql::{Database, migrate};
use holdfast_jobs::batches::BatchRequest;
use holdfast_jobs::enqueue::{EnqueueError, JobRequest};
use holdfast_jobs::ledger::JobFilter;
use holdfast_jobs::{Job, JobContext, JobError, JobId, Jobs, Registry};
use holdfast_testkit::{PostgresOptions, PostgresServer, eventually};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::{Connection as _, PgConnection};
use support::{raw, settings};
use tokio::task::JoinSet;

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(50);

/// Connections of each process' pool.
const POOL: i64 = 10;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct Step {
    n: u32,
}

impl Job for Step {
    const KIND: &'static str = "test.step";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        Ok(())
    }
}

fn step(n: u32) -> JobRequest {
    JobRequest::new(Step::KIND, raw(&format!(r#"{{"n":{n}}}"#)))
}

fn unique(n: u32, key: &str) -> JobRequest {
    JobRequest {
        unique_key: Some(key.to_owned()),
        ..step(n)
    }
}

fn idempotent(n: u32, key: &str) -> JobRequest {
    JobRequest {
        idempotency_key: Some(key.to_owned()),
        ..step(n)
    }
}

async fn server() -> PostgresServer {
    let options = PostgresOptions::fast().setting("lock_timeout", "500ms");
    PostgresServer::start_with(options).await.unwrap()
}

/// One API process.
async fn jobs_on(server: &PostgresServer) -> Jobs {
    let (url, pool) = (server.url(), POOL.to_string());
    let settings = settings(&[
        ("DATABASE_URL", url.as_str()),
        ("HOLDFAST__DATABASE__MAX_CONNECTIONS", &pool),
    ]);
    migrate(&settings.database).await.unwrap();
    let database = Database::open(&settings.database).unwrap();
    let gate = RedisGate::open(Role::Queue, None, &settings.redis).unwrap();
    Jobs::new(&settings, Registry::new().register::<Step>(), &database, &gate)
}

/// A connection of somebody else's.
async fn foreigner(server: &PostgresServer) -> PgConnection {
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    sqlx::raw_sql("set application_name = 'foreigner'; set lock_timeout = 0; set idle_in_transaction_session_timeout = 0")
        .execute(&mut connection)
        .await
        .unwrap();
    connection
}

async fn count(server: &PostgresServer, what: &'static str) -> i64 {
    let mut connection = foreigner(server).await;
    sqlx::query_scalar(what).fetch_one(&mut connection).await.unwrap()
}

const JOBS: &str = "select count(*) from holdfast_jobs";

const OPEN: &str = "select count(*) from pg_stat_activity
    where backend_type = 'client backend' and application_name <> 'foreigner'";

const WAITING: &str = "select count(*) from pg_stat_activity
    where wait_event_type = 'Lock' and application_name <> 'foreigner'";

/// Clients repeat requests whose key an open transaction holds; innocents with other keys, and without, go on.
async fn innocents_go_on_beside_a_held_key(repeated: fn(u64) -> JobRequest) {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let mut holder = foreigner(&server).await;
    let mut tx = holder.begin().await.unwrap();
    let held = jobs.enqueue(Step { n: 0 }).unique("held");
    let held = jobs.enqueue_in(&mut tx, held).await.unwrap().id;
    let (over, told, nth) = (
        Arc::new(AtomicBool::new(false)),
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicU64::new(0)),
    );
    let mut clients = JoinSet::new();
    for _ in 0..16 {
        let (jobs, over, told, nth) = (
            jobs.clone(),
            Arc::clone(&over),
            Arc::clone(&told),
            Arc::clone(&nth),
        );
        clients.spawn(async move {
            loop {
                let request = repeated(nth.fetch_add(1, Ordering::SeqCst));
                match jobs.enqueue_request(request).await {
                    Err(EnqueueError::KeyHeld { certain: true, .. }) => {
                        told.fetch_add(1, Ordering::SeqCst);
                    }
                    Ok(enqueued) => {
                        assert!(enqueued.duplicate && over.load(Ordering::SeqCst), "{enqueued:?}");
                        return enqueued.id;
                    }
                    Err(error) => panic!("{error:?}"),
                }
            }
        });
    }
    eventually("a client has been told", DEADLINE, POLL, || async {
        (told.load(Ordering::SeqCst) > 0).then_some(())
    })
    .await
    .unwrap();
    let mut innocents = JoinSet::new();
    for lane in 0..8 {
        let jobs = jobs.clone();
        innocents.spawn(async move {
            for n in 0..50 {
                let own = format!("{lane}-{n}");
                jobs.enqueue_request(step(n)).await.unwrap();
                assert!(!jobs.enqueue_request(unique(n, &own)).await.unwrap().duplicate);
                assert!(!jobs.enqueue_request(idempotent(n, &own)).await.unwrap().duplicate);
            }
        });
    }
    while let Some(done) = innocents.join_next().await {
        done.unwrap();
        assert!(count(&server, OPEN).await <= POOL);
        // Two lanes for keys, and two tries for those that are known to be held.
        assert!(count(&server, WAITING).await <= 4);
    }
    assert_eq!(count(&server, JOBS).await, 1_200);
    over.store(true, Ordering::SeqCst);
    tx.commit().await.unwrap();
    let answers: BTreeSet<JobId> = clients.join_all().await.into_iter().collect();
    assert_eq!(answers, BTreeSet::from([held]));
    assert_eq!(count(&server, JOBS).await, 1_201);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_unique_key_that_an_open_transaction_holds_delays_its_own_requests_alone() {
    innocents_go_on_beside_a_held_key(|n| unique(n as u32, "held")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn so_does_one_whose_requests_each_have_another_idempotency_key() {
    innocents_go_on_beside_a_held_key(|n| JobRequest {
        idempotency_key: Some(format!("request-{n}")),
        ..unique(n as u32, "held")
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hundreds_of_held_keys_leave_other_keys_free() {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let mut holder = foreigner(&server).await;
    let mut tx = holder.begin().await.unwrap();
    let held = (0..300).map(|n| jobs.enqueue(Step { n }).unique(format!("held-{n}")));
    jobs.enqueue_all_in(&mut tx, held.collect()).await.unwrap();
    let mut clients = JoinSet::new();
    for n in 0..300 {
        let jobs = jobs.clone();
        clients.spawn(async move { jobs.enqueue_request(unique(n, &format!("held-{n}"))).await });
    }
    // One after another, so that each would wait for all that is in front of it.
    for n in 0..30 {
        let own = jobs.enqueue_request(unique(n, &format!("own-{n}"))).await;
        match own {
            Ok(enqueued) => assert!(!enqueued.duplicate),
            // Its place in the lane came too late; it is not its own key that is held.
            Err(EnqueueError::Unavailable { certain: true, .. }) => {}
            Err(error) => panic!("{error:?}"),
        }
    }
    for answer in clients.join_all().await {
        assert!(
            matches!(
                answer,
                Err(EnqueueError::KeyHeld { certain: true, .. }
                    | EnqueueError::Unavailable { certain: true, .. })
            ),
            "{answer:?}"
        );
    }
    assert!(
        !jobs
            .enqueue_request(unique(0, "own-later"))
            .await
            .unwrap()
            .duplicate
    );
    tx.rollback().await.unwrap();
    assert!(
        !jobs.enqueue_request(unique(0, "held-0")).await.unwrap().duplicate,
        "it is free again"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_of_many_jobs_is_told_that_one_of_its_keys_is_held_and_leaves_nothing_behind() {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let mut holder = foreigner(&server).await;
    let mut tx = holder.begin().await.unwrap();
    let held = jobs.enqueue(Step { n: 0 }).unique("held");
    jobs.enqueue_in(&mut tx, held).await.unwrap();
    let request = |key: &str| {
        (0..40)
            .map(|n| {
                unique(
                    n,
                    &if n == 23 {
                        key.to_owned()
                    } else {
                        format!("{key}-{n}")
                    },
                )
            })
            .collect()
    };
    let answer = jobs.enqueue_requests(request("held")).await;
    assert!(
        matches!(answer, Err(EnqueueError::KeyHeld { certain: true, .. })),
        "{answer:?}"
    );
    assert_eq!(count(&server, JOBS).await, 0);
    assert_eq!(jobs.enqueue_requests(request("free")).await.unwrap().len(), 40);
    let batch = |key: &str| BatchRequest {
        name: None,
        jobs: vec![step(1)],
        callback: None,
        idempotency_key: Some(key.to_owned()),
    };
    sqlx::query(
        "insert into holdfast_batches (id, total, idempotency_key) values (gen_random_uuid(), 1, 'held')",
    )
    .execute(&mut *tx)
    .await
    .unwrap();
    let answer = jobs.enqueue_batch(batch("held")).await;
    assert!(
        matches!(answer, Err(EnqueueError::KeyHeld { certain: true, .. })),
        "{answer:?}"
    );
    assert!(!jobs.enqueue_batch(batch("free")).await.unwrap().duplicate);
    assert_eq!(count(&server, JOBS).await, 41);
    tx.rollback().await.unwrap();
    assert!(!jobs.enqueue_batch(batch("held")).await.unwrap().duplicate);
    assert!(
        jobs.enqueue_requests(request("held"))
            .await
            .unwrap()
            .iter()
            .all(|job| !job.duplicate)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sixty_four_producers_on_forty_keys_never_deadlock_and_are_all_answered() {
    let server = server().await;
    let apis = [jobs_on(&server).await, jobs_on(&server).await];
    let mut producers = JoinSet::new();
    for producer in 0..64_u32 {
        let jobs = apis[producer as usize % 2].clone();
        producers.spawn(async move {
            for n in 0..30_u32 {
                let key = format!("key-{}", (producer * 7 + n * 13) % 40);
                // As many that come in batches, whose keys stand in any order.
                if n % 3 == 0 {
                    let keys = (0..5).map(|i| unique(n, &format!("key-{}", (producer + n + i * 17) % 40)));
                    jobs.enqueue_requests(keys.collect()).await.unwrap();
                }
                let mut request = unique(n, &key);
                request.idempotency_key = (n % 2 == 0).then(|| format!("{producer}-{n}"));
                jobs.enqueue_request(request).await.unwrap();
            }
        });
    }
    producers.join_all().await;
    assert_eq!(count(&server, JOBS).await, 40);
    let deadlocks = "select deadlocks from pg_stat_database where datname = current_database()";
    assert_eq!(count(&server, deadlocks).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeat_finds_its_job_without_reading_the_others_that_have_keys() {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let mut connection = foreigner(&server).await;
    sqlx::raw_sql(
        "insert into holdfast_jobs (id, queue, kind, payload, priority, run_at, max_attempts, timeout_ms, unique_key,
                                    idempotency_key, state)
         select gen_random_uuid(), 'default', 'test.step', '{\"n\":1}', 1, now() + interval '1 day', 4, 30000,
                'key-' || n, 'once-' || n, 'available'
         from generate_series(1, 50000) as n",
    )
    .execute(&mut connection)
    .await
    .unwrap();
    let read = async || -> (i64, i64) {
        let mut connection = foreigner(&server).await;
        sqlx::query_as(
            "select (idx_scan)::bigint, (idx_tup_fetch + seq_tup_read)::bigint from pg_stat_user_tables
             where relname = 'holdfast_jobs'",
        )
        .fetch_one(&mut connection)
        .await
        .unwrap()
    };
    let before = read().await;
    let mut repeats = 0;
    // The server counts what a connection has read some time after it has.
    let after = tokio::time::timeout(DEADLINE, async {
        loop {
            for n in 1..=20 {
                assert!(
                    jobs.enqueue_request(unique(1, &format!("key-{n}")))
                        .await
                        .unwrap()
                        .duplicate
                );
                assert!(
                    jobs.enqueue_request(idempotent(1, &format!("once-{n}")))
                        .await
                        .unwrap()
                        .duplicate
                );
                repeats += 2;
            }
            let after = read().await;
            if after.0 - before.0 >= 40 {
                return after;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    })
    .await
    .unwrap();
    let rows = after.1 - before.1;
    assert!(rows <= repeats * 4, "{rows} rows were read for {repeats} repeats");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_with_a_used_key_and_other_content_leaves_nothing_behind() {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let batch = |from: u32, len: u32| {
        (0..len)
            .map(|n| idempotent(from + n, &format!("batch/{n}")))
            .collect()
    };
    jobs.enqueue_requests(batch(0, 2)).await.unwrap();
    // Neighbours that may share its statement.
    let mut neighbours = JoinSet::new();
    for n in 0..30 {
        let jobs = jobs.clone();
        neighbours.spawn(async move {
            jobs.enqueue_request(idempotent(n, &format!("own-{n}")))
                .await
                .unwrap()
        });
    }
    let answer = jobs.enqueue_requests(batch(100, 5)).await;
    assert!(
        matches!(answer, Err(EnqueueError::KeyReused { .. })),
        "{answer:?}"
    );
    neighbours.join_all().await;
    let filter = JobFilter {
        limit: 100,
        ..JobFilter::default()
    };
    let stands = jobs.list(&filter).await.unwrap();
    assert_eq!(stands.len(), 32);
    assert!(
        stands
            .iter()
            .all(|job| (100..105).all(|n| !job.payload.get().contains(&format!(":{n}")))),
        "none of the refused batch"
    );
    // So does one that begins as the first did, and goes on.
    let key_of = |index: usize| format!("batch/{index}");
    let under_one_key = |len| jobs.enqueue_requests_under_one_key(batch(0, len), key_of);
    for other in [5, 3, 1] {
        let refused = under_one_key(other).await;
        let is_reused = matches!(refused, Err(EnqueueError::KeyReused { .. }));
        assert!(is_reused, "{other} instead of two: {refused:?}");
    }
    let same = under_one_key(2).await.unwrap();
    assert!(same.iter().all(|job| job.duplicate));
    assert_eq!(jobs.list(&filter).await.unwrap().len(), 32);
    // The keys of those that were taken back are free.
    let again: Vec<JobRequest> = (2..5).map(|n| idempotent(7, &format!("batch/{n}"))).collect();
    assert!(
        jobs.enqueue_requests(again)
            .await
            .unwrap()
            .iter()
            .all(|job| !job.duplicate)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_request_that_the_database_refuses_fails_no_other() {
    let server = server().await;
    let jobs = jobs_on(&server).await;
    let mut connection = foreigner(&server).await;
    sqlx::raw_sql("alter table holdfast_jobs add check (payload::jsonb ->> 'n' <> '13')")
        .execute(&mut connection)
        .await
        .unwrap();
    for keyed in [false, true] {
        let mut producers = JoinSet::new();
        for n in 0..100 {
            let jobs = jobs.clone();
            producers.spawn(async move {
                let request = if keyed {
                    unique(n, &format!("key-{n}"))
                } else {
                    step(n)
                };
                let answer = jobs.enqueue_request(request).await;
                match n {
                    13 => assert!(matches!(answer, Err(EnqueueError::Internal(_))), "{answer:?}"),
                    _ => assert!(!answer.unwrap().duplicate),
                }
            });
        }
        producers.join_all().await;
    }
    assert_eq!(count(&server, JOBS).await, 198);
}
