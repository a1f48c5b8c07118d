//! How many jobs a second pass a queue with limits. Not a test: run it by name, on a quiet machine, in release mode.
//! `cargo test --release -p holdfast-jobs --test jobs -- --ignored --nocapture throughput`

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::ledger::NewJob;
use holdfast_jobs::limits::QueueLimits;
use holdfast_jobs::worker::{Worker, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry, Resources};
use holdfast_testkit::{RedisOptions, RedisServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{LimitFixture, key_max_running, keyed, max_running};
use crate::support::{self, Host, new_job, raw, settings};

const WORKERS: usize = 3;

#[derive(Debug, Serialize, Deserialize, JsonSchema)]
struct CountedJob {}

impl Job for CountedJob {
    const KIND: &'static str = "test.counted";
    type Output = ();

    async fn run(self, ctx: JobContext) -> Result<(), JobError> {
        ctx.resource::<Arc<AtomicUsize>>()?
            .fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "a measurement"]
#[allow(clippy::disallowed_methods, reason = "how long it shall take")]
async fn throughput() {
    let jobs: usize = std::env::var("JOBS").map_or(20_000, |jobs| jobs.parse().unwrap());
    for round in 1..=3 {
        for (name, limits, keys) in [
            ("no limits", None, 0),
            ("max_running = 100", Some(max_running(100)), 0),
            ("key_max_running = 1, 50 keys", Some(key_max_running(1)), 50),
        ] {
            let rate = measure(limits, keys, jobs).await;
            println!("round {round}: {name}: {rate:.0} jobs/s");
        }
    }
}

async fn measure(limits: Option<QueueLimits>, keys: usize, jobs: usize) -> f64 {
    let l = LimitFixture::over(support::postgres().await);
    if let Some(limits) = limits {
        l.set(limits).await;
    }
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    for chunk in (0..jobs).collect::<Vec<_>>().chunks(500) {
        let jobs: Vec<NewJob> = chunk
            .iter()
            .map(|number| NewJob {
                kind: Arc::from(CountedJob::KIND),
                payload: Arc::from(raw("{}")),
                ..if keys == 0 {
                    new_job()
                } else {
                    keyed(&format!("key-{}", number % keys))
                }
            })
            .collect();
        l.insert(&jobs).await;
    }
    let Host::Postgres(host) = &l.f.host else {
        panic!("a measurement of PostgreSQL");
    };
    let (database_url, redis_url) = (host.0.url(), redis.url());
    let done = Arc::new(AtomicUsize::new(0));
    let stop = Shutdown::new();
    let mut running = Vec::new();
    for _ in 0..WORKERS {
        let settings = settings(&[("DATABASE_URL", &database_url), ("REDIS_URL", &redis_url)]);
        let database = Database::open(&settings.database).unwrap();
        let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
        gate.wait_ready(Duration::from_secs(5)).await;
        let jobs = Jobs::new(
            &settings,
            Registry::new().register::<CountedJob>(),
            &database,
            &gate,
        );
        let parts = WorkerParts {
            settings,
            jobs,
            gate,
            resources: Resources::default().with(Arc::clone(&done)),
        };
        running.push(tokio::spawn(Worker::new(parts, stop.clone()).unwrap().run()));
    }
    // From a tenth on, so that what starts up does not count.
    let mut began = None;
    loop {
        let so_far = done.load(Ordering::Relaxed);
        if began.is_none() && so_far >= jobs / 10 {
            began = Some((Instant::now(), so_far));
        }
        if so_far >= jobs {
            break;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let (since, from) = began.unwrap();
    let rate = (jobs - from) as f64 / since.elapsed().as_secs_f64();
    stop.trigger();
    for worker in running {
        worker.await.unwrap().unwrap();
    }
    rate
}
