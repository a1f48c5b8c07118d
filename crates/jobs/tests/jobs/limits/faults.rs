//! Whoever stands still, or holds a lock, in the middle of a claim: the others go on, and no limit is exceeded. PostgreSQL alone:
//! SQLite's claims are made one after another, in one process for each file at a time.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::failure::Certainty;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, PostgresDatabase};
use holdfast_jobs::ledger::{self, Ledger as _, NewJob, PostgresLedger};
use holdfast_jobs::limits::{ClaimRequest, LimitStore, LimitedClaim};
use holdfast_jobs::worker::{Worker, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry, Resources, WorkerId};
use holdfast_testkit::{Child, FaultProxy, Mode, PostgresServer, eventually};
use rand::RngExt as _;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use sqlx::Row as _;

use super::{LimitFixture, max_running};
use crate::support::{self, Host, LOST_AFTER, new_job, raw, settings};

const DEADLINE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(10);

fn pool(l: &LimitFixture) -> &PostgresDatabase {
    match &l.f.database {
        Database::Postgres(pool) => pool,
        Database::Sqlite(_) => panic!("these tests are about PostgreSQL"),
    }
}

fn server(l: &LimitFixture) -> &PostgresServer {
    match &l.f.host {
        Host::Postgres(host) => &host.0,
        Host::Sqlite(_) => panic!("these tests are about PostgreSQL"),
    }
}

fn asked(worker: WorkerId, room: usize) -> ClaimRequest<'static> {
    ClaimRequest {
        queue: "default",
        worker,
        room,
        lost_after: LOST_AFTER,
    }
}

/// Over a server that lets a statement wait long enough for a busy machine.
async fn patient() -> LimitFixture {
    let mut fixture = support::postgres().await;
    fixture.settings.database.statement_timeout = DEADLINE;
    fixture.ledger = ledger::open(&fixture.database, &fixture.settings.database);
    LimitFixture::over(fixture)
}

/// Claims again while others are in the way, as a lane does.
async fn claim_when_free(limits: &LimitStore, worker: WorkerId, room: usize) -> LimitedClaim {
    eventually("a claim", DEADLINE, POLL, async || {
        match limits.claim(asked(worker, room)).await {
            Ok(claimed) => Some(claimed),
            Err(error) => {
                assert!(error.is_contention(), "{error:?}");
                assert_eq!(error.certainty(), Certainty::NotApplied);
                None
            }
        }
    })
    .await
    .unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_on_the_queues_row_is_contention_and_costs_nothing_but_time() {
    let l = LimitFixture::over(support::postgres().await);
    l.set(max_running(5)).await;
    l.insert(&[new_job(), new_job()]).await;
    let worker = l.f.worker().await;
    assert_eq!(l.claim(worker, 1).await.len(), 1);

    let mut foreign = pool(&l).begin().await.unwrap();
    sqlx::raw_sql("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *foreign)
        .await
        .unwrap();
    sqlx::query("select from holdfast_queues where name = 'default' for update")
        .execute(&mut *foreign)
        .await
        .unwrap();
    let error = l.limits.claim(asked(worker, 5)).await.unwrap_err();
    assert!(error.is_contention(), "{error:?}");
    assert_eq!(
        error.certainty(),
        Certainty::NotApplied,
        "the worker keeps its id"
    );
    foreign.rollback().await.unwrap();
    assert_eq!(l.claim(worker, 5).await.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_row_is_being_removed_claims_nothing_and_delays_nobody() {
    let l = LimitFixture::over(support::postgres().await);
    l.set(max_running(5)).await;
    l.insert(&[new_job(), new_job()]).await;
    let (leaving, staying) = (l.f.worker().await, l.f.worker().await);
    let mut foreign = pool(&l).begin().await.unwrap();
    sqlx::raw_sql("set local idle_in_transaction_session_timeout = 0")
        .execute(&mut *foreign)
        .await
        .unwrap();
    sqlx::query("select from holdfast_workers where id = $1 for update")
        .bind(leaving.as_uuid())
        .execute(&mut *foreign)
        .await
        .unwrap();
    assert!(l.claim(leaving, 5).await.is_empty());
    assert_eq!(l.claim(staying, 5).await.len(), 2);
    foreign.rollback().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_holds_its_workers_row_until_it_has_committed() {
    let l = patient().await;
    l.set(max_running(5)).await;
    l.insert(&[new_job()]).await;
    let worker = l.f.worker().await;
    close_the_gate(&l).await;
    let limits = l.limits.clone();
    let claim = tokio::spawn(async move { limits.claim(asked(worker, 5)).await });
    wait_at_the_gate(&l).await;
    let removed = sqlx::query("select from holdfast_workers where id = $1 for update nowait")
        .bind(worker.as_uuid())
        .execute(pool(&l))
        .await;
    assert!(
        removed.is_err(),
        "its row cannot be taken while a claim is under way"
    );
    open_the_gate(&l).await;
    assert_eq!(claim.await.unwrap().unwrap().jobs.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_first_limited_claim_counts_what_ordinary_claims_are_about_to_take() {
    let l = patient().await;
    l.insert(&(0..9).map(|_| new_job()).collect::<Vec<_>>()).await;
    let (ordinary, limited) = (l.f.worker().await, l.f.worker().await);
    close_the_gate(&l).await;
    // Its first look may wait at the gate as long as the test needs.
    let ledger = PostgresLedger::new(pool(&l).clone(), &l.f.settings.database).with_look_bound(DEADLINE * 2);
    let under_way = tokio::spawn(async move { ledger.claim("default", ordinary, 2, LOST_AFTER).await });
    wait_at_the_gate(&l).await;

    l.set(max_running(3)).await;
    let error = l.limits.claim(asked(limited, 9)).await.unwrap_err();
    assert!(
        error.is_contention(),
        "it waits for the claim that is under way: {error:?}"
    );
    open_the_gate(&l).await;
    assert_eq!(under_way.await.unwrap().unwrap().len(), 2);
    let claimed = claim_when_free(&l.limits, limited, 9).await;
    assert_eq!(claimed.jobs.len(), 1, "two of three places are taken");
    let nothing =
        l.f.ledger
            .claim("default", ordinary, 9, LOST_AFTER)
            .await
            .unwrap();
    assert!(
        nothing.is_empty(),
        "ordinary claims that begin later find the queue closed"
    );
}

/// From now on, whoever leases a job waits in the middle of the statement.
async fn close_the_gate(l: &LimitFixture) {
    sqlx::raw_sql(
        "create table gate (waiting boolean);
         create function wait_at_gate() returns trigger language plpgsql as $$
         begin
             perform pg_advisory_xact_lock_shared(77);
             while exists (select from gate) loop
                 perform pg_sleep(0.01);
             end loop;
             return new;
         end $$;
         create trigger gate before update on holdfast_jobs for each row
             when (new.state = 'running') execute function wait_at_gate();
         insert into gate values (true)",
    )
    .execute(pool(l))
    .await
    .unwrap();
}

async fn wait_at_the_gate(l: &LimitFixture) {
    eventually("a claim at the gate", DEADLINE, POLL, async || {
        let waiting: bool = sqlx::query_scalar(
            "select exists (select from pg_locks where locktype = 'advisory' and objid = 77 and mode = 'ShareLock')",
        )
        .fetch_one(pool(l))
        .await
        .unwrap();
        waiting.then_some(())
    })
    .await
    .unwrap();
}

async fn open_the_gate(l: &LimitFixture) {
    sqlx::raw_sql("delete from gate").execute(pool(l)).await.unwrap();
}

/// Nothing comes back to this worker, and nothing of what the server sends is read. Its claim of large jobs, which no socket
/// could buffer, holds no lock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_reads_no_answer_holds_up_nobody() {
    /// A connection that rested for a second is tested before it is used, and then the claim is never sent: another try.
    const TRIES: usize = 4;
    const ROOM: usize = 60;
    let l = patient().await;
    l.set(max_running(1_000)).await;
    // Letters that do not compress.
    let body: String = (0..200_000)
        .map(|_| char::from(rand::rng().random_range(b'a'..=b'z')))
        .collect();
    let payload: Arc<serde_json::value::RawValue> = Arc::from(raw(&format!(r#"{{"body":"{body}"}}"#)));
    for _ in 0..=TRIES {
        let jobs: Vec<NewJob> = (0..ROOM)
            .map(|_| NewJob {
                payload: Arc::clone(&payload),
                ..new_job()
            })
            .collect();
        l.insert(&jobs).await;
    }
    let well = l.f.worker().await;
    let proxy = FaultProxy::for_postgres(server(&l)).await.unwrap();
    let url = proxy.url_for(&server(&l).url());
    let mut through = settings(&[("DATABASE_URL", &url)]);
    through.database.statement_timeout = Duration::from_secs(20);
    let database = Database::open(&through.database).unwrap();
    let limits = LimitStore::new(&database, &through.database);
    for _ in 0..TRIES {
        let frozen = l.f.worker().await;
        proxy.set_mode(Mode::Forward).await.unwrap();
        // It knows the limits, and has a connection.
        claim_when_free(&limits, frozen, 1).await;
        eventually("a connection at rest", DEADLINE, POLL, async || {
            (database.pool_stats().idle > 0).then_some(())
        })
        .await
        .unwrap();
        proxy.set_mode(Mode::HalfOpen).await.unwrap();
        let store = limits.clone();
        let claim = tokio::spawn(async move { store.claim(asked(frozen, ROOM)).await });
        let committed = eventually("the claim's commit", Duration::from_secs(5), POLL, async || {
            let leased: i64 = sqlx::query_scalar(
                "select count(*) from holdfast_jobs where state = 'running' and worker = $1",
            )
            .bind(frozen.as_uuid())
            .fetch_one(pool(&l))
            .await
            .unwrap();
            (leased > 1).then_some(())
        })
        .await;
        if committed.is_err() {
            claim.abort();
            continue;
        }
        // Committed, though nobody has read the answer.
        assert_eq!(claim_when_free(&l.limits, well, 10).await.jobs.len(), 10);
        let error = claim.await.unwrap().unwrap_err();
        assert_eq!(
            error.certainty(),
            Certainty::Unknown,
            "its jobs are returned with its id: {error:?}"
        );
        return;
    }
    panic!("the claim of a worker that reads no answer was not committed");
}

/// A job that says when it ran, by the clock of the database.
#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct WitnessJob {
    number: i64,
}

impl Job for WitnessJob {
    const KIND: &'static str = "test.witnessed";
    type Output = ();

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        let pool = ctx.resource::<PostgresDatabase>()?;
        sqlx::query("insert into witness (number) values ($1)")
            .bind(self.number)
            .execute(&*pool)
            .await
            .map_err(|error| JobError::transient(error.to_string()))?;
        Ok(())
    }
}

const WORKER_URL: &str = "HOLDFAST_TEST_LIMITED_WORKER_URL";

/// Connections of each worker process to the server, its handlers' included.
const CONNECTIONS: u32 = 4;

/// Not a test: the body of the processes that the next test starts.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "started by a_frozen_worker_does_not_stop_a_limited_queue"]
#[allow(clippy::disallowed_methods, reason = "what its parent has to say to it")]
async fn limited_worker_process() {
    let Ok(url) = std::env::var(WORKER_URL) else {
        return;
    };
    let connections = CONNECTIONS.to_string();
    let settings = settings(&[
        ("DATABASE_URL", url.as_str()),
        ("HOLDFAST__DATABASE__MAX_CONNECTIONS", connections.as_str()),
        ("HOLDFAST__QUEUES__DEFAULT__CONCURRENCY", "2"),
        ("HOLDFAST__QUEUES__DEFAULT__MAX_RUNNING", "6"),
    ]);
    let database = Database::open(&settings.database).unwrap();
    let Database::Postgres(pool) = &database else {
        panic!("these tests are about PostgreSQL")
    };
    let resources = Resources::default().with(pool.clone());
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    let jobs = Jobs::new(
        &settings,
        Registry::new().register::<WitnessJob>(),
        &database,
        &gate,
    );
    let parts = WorkerParts {
        settings,
        jobs,
        gate,
        resources,
    };
    Worker::new(parts, Shutdown::new()).unwrap().run().await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_frozen_worker_does_not_stop_a_limited_queue() {
    const FREEZES: usize = 15;
    const AT_ONCE: i64 = 6;
    let l = LimitFixture::over(support::postgres().await);
    l.set(max_running(6)).await;
    sqlx::raw_sql("create table witness (number bigint not null)")
        .execute(pool(&l))
        .await
        .unwrap();
    let mut workers: Vec<Child> = (0..3)
        .map(|number| {
            Child::program(std::env::current_exe().unwrap())
                .args([
                    "--ignored",
                    "--exact",
                    "limits::faults::limited_worker_process",
                    "--nocapture",
                ])
                .env(WORKER_URL, server(&l).url())
                .named(format!("worker-{number}"))
                .start()
                .unwrap()
        })
        .collect();
    let mut enqueued = 0_i64;
    let mut most_running = 0;
    let mut most_connections = 0;
    for freeze in 0..FREEZES {
        let jobs: Vec<NewJob> = (enqueued..enqueued + 500)
            .map(|number| NewJob {
                kind: Arc::from(WitnessJob::KIND),
                payload: Arc::from(raw(&format!(r#"{{"number":{number}}}"#))),
                ..new_job()
            })
            .collect();
        l.insert(&jobs).await;
        enqueued += 500;
        let busy_for = rand::rng().random_range(0..400);
        progress(
            &l,
            completed(&l).await + 1,
            &mut most_running,
            &mut most_connections,
        )
        .await;
        tokio::time::sleep(Duration::from_millis(busy_for)).await;
        let frozen = freeze % workers.len();
        workers[frozen].sigstop().unwrap();
        // What the others had under way when it stood still says nothing; what they claim afterwards does.
        let from = completed(&l).await;
        let goal = (from + 60).min(enqueued - 4);
        progress(&l, goal, &mut most_running, &mut most_connections).await;
        workers[frozen].sigcont().unwrap();
    }
    progress(&l, enqueued, &mut most_running, &mut most_connections).await;
    let ran: BTreeMap<i64, i64> =
        sqlx::query("select number, count(*) as times from witness group by number")
            .fetch_all(pool(&l))
            .await
            .unwrap()
            .iter()
            .map(|row| (row.get("number"), row.get("times")))
            .collect();
    assert_eq!(ran.len() as i64, enqueued, "every job ran");
    assert!(most_running <= AT_ONCE, "{most_running} jobs ran at once");
    // Each pool has one connection more, which asks whether the server is there and ends what was given up.
    assert!(
        most_connections <= 3 * (i64::from(CONNECTIONS) + 1),
        "{most_connections} connections of three pools of {CONNECTIONS}"
    );
    for worker in &mut workers {
        worker.sigkill().await.unwrap();
    }
}

async fn completed(l: &LimitFixture) -> i64 {
    sqlx::query_scalar("select count(*) from holdfast_jobs where state = 'completed'")
        .fetch_one(pool(l))
        .await
        .unwrap()
}

/// Waits until so many jobs are completed, and looks at what runs at once meanwhile.
async fn progress(l: &LimitFixture, goal: i64, most_running: &mut i64, most_connections: &mut i64) {
    let started = std::time::Instant::now();
    loop {
        let row = sqlx::query(
            "select count(*) filter (where state = 'running') as running,
                    count(*) filter (where state = 'completed') as completed,
                    (select count(*) from pg_stat_activity where backend_type = 'client backend') as connections
             from holdfast_jobs",
        )
        .fetch_one(pool(l))
        .await
        .unwrap();
        *most_running = (*most_running).max(row.get("running"));
        // The test's own pool is connected too.
        let own = i64::from(l.f.database.pool_stats().size);
        *most_connections = (*most_connections).max(row.get::<i64, _>("connections") - own);
        if row.get::<i64, _>("completed") >= goal {
            return;
        }
        assert!(
            started.elapsed() < DEADLINE,
            "{goal} jobs were not completed in time"
        );
        tokio::time::sleep(POLL).await;
    }
}
