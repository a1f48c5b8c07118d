//! Statistics on both databases: what processes count is stored once, added up, read back and deleted in its time.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::clock;
use holdfast_core::redis::{RedisGate, Role};
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::statistics::{Counts, Dependency, Grouping, Range, StatsFilter, StatsReport, percentile};
use holdfast_jobs::worker::{Worker, WorkerParts};
use holdfast_jobs::{Job, JobContext, JobError, Jobs, Registry, Resources};
use holdfast_testkit::{RedisOptions, RedisServer};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::support::{Fixture, settings};

macro_rules! on_both {
    ($($name:ident),+ $(,)?) => {
        mod on_postgres {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::postgres().await).await; })+
        }
        mod on_sqlite {
            $(#[tokio::test] async fn $name() { super::$name(crate::support::sqlite().await).await; })+
        }
    };
}

on_both!(
    what_processes_count_is_stored_once_and_read_back,
    a_worker_counts_how_its_jobs_waited_ran_and_ended,
    minutes_become_hours_and_days_and_are_deleted_in_their_time,
    what_is_counted_while_the_database_refuses_is_written_later,
);

#[derive(Serialize, Deserialize, JsonSchema)]
struct CountedJob {
    fails: bool,
}

impl Job for CountedJob {
    const KIND: &'static str = "test.counted";
    const QUEUE: &'static str = "default";
    type Output = ();

    async fn run(self, _: JobContext) -> Result<(), JobError> {
        tokio::time::sleep(Duration::from_millis(30)).await;
        if self.fails {
            return Err(JobError::permanent("no"));
        }
        Ok(())
    }
}

/// One process.
fn process(fixture: &Fixture) -> Jobs {
    let gate = RedisGate::open(Role::Queue, None, &fixture.settings.redis).unwrap();
    let registry = Registry::new().register::<CountedJob>();
    Jobs::new(&fixture.settings, registry, &fixture.database, &gate)
}

async fn enqueue(jobs: &Jobs, count: usize) {
    let new: Vec<_> = (0..count).map(|_| CountedJob { fails: false }).collect();
    jobs.enqueue_all(&new).await.unwrap();
}

fn minute(at: DateTime<Utc>) -> i64 {
    at.timestamp() / 60
}

/// The last two hours and some minutes ahead, so that no test ends in another range than it began in.
fn lately(step: i64) -> Range {
    let now = clock::now();
    Range::covering(now - TimeDelta::hours(2), now + TimeDelta::minutes(10), step)
}

async fn read(jobs: &Jobs, range: Range, grouping: Grouping) -> StatsReport {
    let filter = StatsFilter::default();
    jobs.statistics().read(range, grouping, &filter).await.unwrap()
}

async fn total(jobs: &Jobs, step: i64) -> Counts {
    read(jobs, lately(step), Grouping::Total).await.series[0].total
}

async fn what_processes_count_is_stored_once_and_read_back(f: Fixture) {
    let (one, other) = (process(&f), process(&f));
    assert!(!one.statistics().flush().await.unwrap(), "nothing was counted");
    enqueue(&one, 3).await;
    enqueue(&other, 4).await;
    for _ in 0..2 {
        one.statistics().flush().await.unwrap();
        other.statistics().flush().await.unwrap();
    }
    assert_eq!(total(&one, 1).await.enqueued, 7);
    // The minute goes on, and is written again.
    enqueue(&one, 2).await;
    one.statistics().flush().await.unwrap();
    assert_eq!(total(&one, 1).await.enqueued, 9);
    let by_kind = read(&one, lately(5), Grouping::Kind).await;
    assert_eq!(
        (by_kind.series.len(), by_kind.series[0].name.as_str()),
        (1, CountedJob::KIND)
    );
    let points: u64 = by_kind.series[0]
        .points
        .iter()
        .map(|point| point.counts.enqueued)
        .sum();
    assert_eq!((points, by_kind.series[0].total.enqueued), (9, 9));
    let none = StatsFilter {
        queues: Some(vec!["other".to_owned()]),
        kinds: None,
    };
    let none = one
        .statistics()
        .read(lately(1), Grouping::Queue, &none)
        .await
        .unwrap();
    assert!(none.series.is_empty());
}

async fn a_worker_counts_how_its_jobs_waited_ran_and_ended(f: Fixture) {
    let jobs = process(&f);
    enqueue(&jobs, 4).await;
    jobs.enqueue(CountedJob { fails: true }).await.unwrap();
    let stop = Shutdown::new();
    let parts = WorkerParts {
        settings: f.settings.clone(),
        jobs: jobs.clone(),
        gate: RedisGate::open(Role::Queue, None, &f.settings.redis).unwrap(),
        resources: Resources::default(),
    };
    let worker = tokio::spawn(Worker::new(parts, stop.clone()).unwrap().run());
    let ended = async {
        loop {
            jobs.statistics().flush().await.unwrap();
            let counts = total(&jobs, 1).await;
            if counts.completed + counts.discarded == 5 {
                return counts;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let counts = tokio::time::timeout(Duration::from_secs(30), ended)
        .await
        .unwrap();
    let lost_after = f.settings.worker.lost_after;
    let report = jobs
        .scaling(Duration::from_secs(60), lost_after, |_| true)
        .await
        .unwrap();
    let (queue, places) = (
        &report.queues["default"],
        f.settings.queues["default"].concurrency as u64,
    );
    assert_eq!((queue.capacity.workers, queue.capacity.places), (1, places));
    assert_eq!(report.fleets["rust"].capacity.workers, 1);
    let run = queue.demand.run_seconds.unwrap();
    assert!((0.02..5.0).contains(&run), "they slept 30 ms: {run}");
    assert!(queue.demand.completions_per_second > 0.0);
    stop.trigger();
    worker.await.unwrap().unwrap();
    assert_eq!(
        (
            counts.enqueued,
            counts.completed,
            counts.discarded,
            counts.failed()
        ),
        (5, 4, 1, 1)
    );
    assert_eq!(counts.wait.iter().sum::<u64>(), 5);
    assert_eq!(counts.run.iter().sum::<u64>(), 5);
    let median = percentile(&counts.run, 0.5).unwrap();
    assert!(
        median >= Duration::from_millis(25),
        "they slept 30 ms: {median:?}"
    );
}

async fn minutes_become_hours_and_days_and_are_deleted_in_their_time(f: Fixture) {
    let jobs = process(&f);
    enqueue(&jobs, 5).await;
    jobs.statistics().flush().await.unwrap();
    let now = minute(clock::now());
    jobs.sum_statistics(now).await.unwrap();
    // May be repeated, by any process, and adds nothing twice.
    process(&f).sum_statistics(now).await.unwrap();
    process(&f).sum_statistics(now + 1).await.unwrap();
    for step in [1, 60, 1_440] {
        assert_eq!(total(&jobs, step).await.enqueued, 5, "{step}");
    }
    let depths = read(&jobs, lately(60), Grouping::Queue).await;
    let default = depths
        .series
        .iter()
        .find(|series| series.name == "default")
        .unwrap();
    let gauges: Vec<_> = default.points.iter().filter_map(|point| point.gauge).collect();
    assert_eq!(gauges.iter().map(|gauge| gauge.available).max(), Some(5));
    // Three days later the minutes are gone, and the hours are not.
    jobs.sum_statistics(now + 3 * 1_440).await.unwrap();
    let counts = BTreeMap::from([1, 60, 1_440].map(|step| (step, 0)));
    let mut found = counts;
    for (step, count) in &mut found {
        *count = total(&jobs, *step).await.enqueued;
    }
    assert_eq!(found, BTreeMap::from([(1, 0), (60, 5), (1_440, 5)]));
}

/// The process goes on, and loses nothing.
async fn what_is_counted_while_the_database_refuses_is_written_later(f: Fixture) {
    let jobs = process(&f);
    enqueue(&jobs, 2).await;
    f.sql(
        "alter table holdfast_stats rename to holdfast_stats_away",
        "alter table holdfast_stats rename to holdfast_stats_away",
    )
    .await;
    for _ in 0..3 {
        jobs.statistics().flush().await.unwrap_err();
        enqueue(&jobs, 1).await;
    }
    f.sql(
        "alter table holdfast_stats_away rename to holdfast_stats",
        "alter table holdfast_stats_away rename to holdfast_stats",
    )
    .await;
    assert!(jobs.statistics().flush().await.unwrap());
    assert_eq!(total(&jobs, 1).await.enqueued, 5);
}

#[tokio::test]
async fn an_outage_of_redis_is_stored_as_a_span_while_it_goes_on_and_when_it_has_ended() {
    let f = crate::support::sqlite().await;
    let redis = RedisServer::start(RedisOptions::default()).await.unwrap();
    let url = redis.url();
    let settings = settings(&[("REDIS_URL", &url)]);
    let gate = RedisGate::open(Role::Queue, settings.redis.queue.as_ref(), &settings.redis).unwrap();
    gate.wait_ready(Duration::from_secs(5)).await;
    let database = Database::open(&f.settings.database).unwrap();
    let jobs = Jobs::new(&f.settings, Registry::new(), &database, &gate);
    let stop = CancellationToken::new();
    let keeping = {
        let (jobs, stop) = (jobs.clone(), stop.clone());
        tokio::spawn(async move { jobs.keep_statistics(false, &stop).await })
    };
    let spans = async |is_over: bool| {
        let looking = async {
            loop {
                jobs.statistics().flush().await.unwrap();
                let report = read(&jobs, lately(1), Grouping::Total).await;
                let span = report
                    .outages
                    .into_iter()
                    .find(|span| span.to.is_some() == is_over);
                if let Some(span) = span {
                    return span;
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), looking)
            .await
            .unwrap()
    };
    redis.sigstop().await.unwrap();
    let open = spans(false).await;
    assert_eq!((open.dependency, open.processes), (Dependency::Redis, 1));
    redis.sigcont().await.unwrap();
    let over = spans(true).await;
    assert_eq!((over.from, over.reason), (open.from, open.reason));
    assert!(over.to.is_some_and(|to| to > over.from));
    stop.cancel();
    keeping.await.unwrap();
}
