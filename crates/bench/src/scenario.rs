//! The parts of the bench, each over one set-up.

use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use secrecy::ExposeSecret;
use sqlx::postgres::PgConnection;
use sqlx::{Connection, Executor};

use super::failed;
use super::load::{self, HttpLoad};
use super::report::{Figure, Report};
use super::system::{Noop, QUEUE, Setup, System};

/// Jobs of one call of `enqueue_all`.
const BULK: usize = 1_000;
/// Calls of `enqueue_all` at once.
const BULK_PRODUCERS: usize = 3;
const PATIENCE: Duration = Duration::from_secs(300);

pub(super) fn scaled(number: usize, scale: f64) -> usize {
    (((number as f64 * scale) as usize) / BULK).max(2) * BULK
}

pub(super) async fn redis(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "redis";
    let mut system = System::open(setup).await?;
    let count = scaled(1_000_000, scale);
    let before = memory(&system).await?;
    let rate = enqueue_bulk(&system, count).await?;
    report.figure(
        part,
        "bulk enqueue (library)",
        Figure::Rate(rate),
        Some(Figure::Rate(180_000.0)),
    );
    let bytes = (memory(&system).await? - before) / count as f64;
    report.figure(
        part,
        &format!("Redis memory per job, {count} queued"),
        Figure::Bytes(bytes),
        Some(Figure::Bytes(800.0)),
    );
    let drained = drain(&mut system, count).await?;
    drained.report(report, part, 100_000.0);
    pick_up(&mut system, report, part, (0.8, 3.0), 2_000).await?;
    system.close().await
}

pub(super) async fn ledger(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "ledger";
    let mut system = System::open(setup).await?;
    let count = scaled(300_000, scale);
    let rate = enqueue_bulk(&system, count).await?;
    report.figure(
        part,
        "bulk enqueue (library)",
        Figure::Rate(rate),
        Some(Figure::Rate(100_000.0)),
    );
    let drained = drain(&mut system, count).await?;
    drained.report(report, part, 50_000.0);
    pick_up(&mut system, report, part, (1.5, 5.0), 2_000).await?;
    system.stop_working().await?;
    let http = load::measure(
        &system,
        HttpLoad {
            producers: 64,
            requests: scaled(50_000, scale),
        },
    )
    .await?;
    report.figure(
        part,
        "HTTP, 64 producers, one job a request",
        Figure::Rate(http.rate),
        Some(Figure::Rate(12_000.0)),
    );
    report.figure(part, "HTTP, p99 of a request", Figure::Millis(http.p99), None);
    system.close().await
}

/// Beside a report that has run since before the first job: nothing that was claimed or finished may be vacuumed.
pub(super) async fn old_transaction(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "old-transaction";
    let mut system = System::open(setup).await?;
    let mut old = begin_transaction(&system).await?;
    let count = scaled(100_000, scale);
    enqueue_bulk(&system, count).await?;
    let drained = drain(&mut system, count).await?;
    drained.report(report, part, 50_000.0);
    pick_up(&mut system, report, part, (1.5, 5.0), 2_000).await?;
    old.execute("commit").await.map_err(failed)?;
    system.close().await
}

/// On a connection of its own, with a snapshot that lasts.
async fn begin_transaction(system: &System) -> Result<PgConnection, Failure> {
    let url = system.settings.database.url.expose_secret();
    let mut connection = PgConnection::connect(url).await.map_err(failed)?;
    for statement in [
        "begin isolation level repeatable read",
        "select count(*) from holdfast_jobs",
    ] {
        connection.execute(statement).await.map_err(failed)?;
    }
    Ok(connection)
}

pub(super) async fn no_redis(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "no-redis";
    let mut system = System::open(setup).await?;
    let count = scaled(200_000, scale);
    let rate = enqueue_bulk(&system, count).await?;
    report.figure(
        part,
        "bulk enqueue (library)",
        Figure::Rate(rate),
        Some(Figure::Rate(100_000.0)),
    );
    let drained = drain(&mut system, count).await?;
    drained.report(report, part, 50_000.0);
    system.close().await?;
    // Another process' worker polls: here it is a second system, which this one cannot notify.
    let producer = System::open(setup).await?;
    let mut polling = System::open(setup).await?;
    polling.work()?;
    tokio::time::sleep(Duration::from_secs(2)).await;
    for _ in 0..60 {
        let before = polling.tally.total();
        producer
            .jobs
            .enqueue(Noop::at(polling.tally.now()))
            .await
            .map_err(failed)?;
        polling.tally.reaches(before + 1, PATIENCE).await?;
        tokio::time::sleep(Duration::from_millis(600)).await;
    }
    latency(
        report,
        part,
        "pick-up, idle, polling",
        &polling.tally.take_waits(),
        (130.0, f64::INFINITY),
    );
    polling.close().await?;
    producer.close().await
}

pub(super) async fn sqlite(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "sqlite";
    let mut system = System::open(setup).await?;
    let count = scaled(200_000, scale);
    let rate = enqueue_bulk(&system, count).await?;
    report.figure(
        part,
        "bulk enqueue (library)",
        Figure::Rate(rate),
        Some(Figure::Rate(60_000.0)),
    );
    let drained = drain(&mut system, count).await?;
    drained.report(report, part, 15_000.0);
    pick_up(&mut system, report, part, (3.0, f64::INFINITY), 1_000).await?;
    system.close().await
}

/// Jobs a second.
pub(super) async fn enqueue_bulk(system: &System, count: usize) -> Result<f64, Failure> {
    let batch: Vec<Noop> = vec![Noop::at(0); BULK];
    let began = Instant::now();
    let mut producers = tokio::task::JoinSet::new();
    for producer in 0..BULK_PRODUCERS {
        let (jobs, batch) = (system.jobs.clone(), batch.clone());
        let batches = (count / BULK + BULK_PRODUCERS - 1 - producer) / BULK_PRODUCERS;
        producers.spawn(async move {
            for _ in 0..batches {
                jobs.enqueue_all(&batch).await?;
            }
            Ok::<(), holdfast_jobs::enqueue::EnqueueError>(())
        });
    }
    while let Some(done) = producers.join_next().await {
        done.map_err(failed)?.map_err(failed)?;
    }
    Ok(count as f64 / began.elapsed().as_secs_f64())
}

/// How a backlog was worked off, as a whole and in its first and last tenth.
pub(super) struct Drained {
    count: usize,
    pub(super) rate: f64,
    first_tenth: f64,
    last_tenth: f64,
}

impl Drained {
    fn report(&self, report: &mut Report, part: &str, aim: f64) {
        let what = format!("drain of {}, one worker process", self.count);
        report.figure(part, &what, Figure::Rate(self.rate), Some(Figure::Rate(aim)));
        report.figure(part, "  its first tenth", Figure::Rate(self.first_tenth), None);
        report.figure(part, "  its last tenth", Figure::Rate(self.last_tenth), None);
    }
}

pub(super) async fn drain(system: &mut System, count: usize) -> Result<Drained, Failure> {
    let before = system.tally.total();
    let tenth = (count / 10) as u64;
    let total = count as u64;
    system.work()?;
    // The registration of the worker is no part of its pace.
    system.tally.reaches(before + 1, PATIENCE).await?;
    let began = Instant::now();
    system.tally.reaches(before + tenth, PATIENCE).await?;
    let first = began.elapsed();
    system.tally.reaches(before + total - tenth, PATIENCE).await?;
    let last_began = began.elapsed();
    system.tally.reaches(before + total, PATIENCE).await?;
    wait_until_stored(system).await?;
    let all = began.elapsed();
    system.stop_working().await?;
    Ok(Drained {
        count,
        rate: total as f64 / all.as_secs_f64(),
        first_tenth: tenth as f64 / first.as_secs_f64(),
        last_tenth: tenth as f64 / all.saturating_sub(last_began).as_secs_f64(),
    })
}

/// The last outcomes are part of the work.
pub(super) async fn wait_until_stored(system: &System) -> Result<(), Failure> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let stats = system.jobs.queue_stats().await.map_err(failed)?;
        let left: u64 = stats
            .iter()
            .filter(|queue| queue.queue == QUEUE)
            .map(|queue| queue.available + queue.running)
            .sum();
        if left == 0 {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(Failure::msg(format!("{left} jobs were not stored as finished")));
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// From the call of enqueue to the first line of the handler, one job at a time on an idle worker.
async fn pick_up(
    system: &mut System,
    report: &mut Report,
    part: &str,
    aim: (f64, f64),
    samples: usize,
) -> Result<(), Failure> {
    system.work()?;
    tokio::time::sleep(Duration::from_secs(1)).await;
    for _ in 0..samples {
        let before = system.tally.total();
        system
            .jobs
            .enqueue(Noop::at(system.tally.now()))
            .await
            .map_err(failed)?;
        system.tally.reaches(before + 1, PATIENCE).await?;
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
    latency(
        report,
        part,
        "pick-up, idle worker",
        &system.tally.take_waits(),
        aim,
    );
    Ok(())
}

pub(super) fn latency(report: &mut Report, part: &str, what: &str, sorted: &[f64], aim: (f64, f64)) {
    let at = |quantile: f64| {
        sorted
            .get(((sorted.len() as f64 - 1.0) * quantile) as usize)
            .copied()
            .unwrap_or(0.0)
    };
    let aimed = |aim: f64| aim.is_finite().then_some(Figure::Millis(aim));
    report.figure(
        part,
        &format!("{what}, p50"),
        Figure::Millis(at(0.5)),
        aimed(aim.0),
    );
    report.figure(
        part,
        &format!("{what}, p99"),
        Figure::Millis(at(0.99)),
        aimed(aim.1),
    );
}

async fn memory(system: &System) -> Result<f64, Failure> {
    let info: String = system
        .gate
        .run("bench.memory", |mut connection| async move {
            redis::cmd("INFO")
                .arg("memory")
                .query_async(&mut connection)
                .await
        })
        .await
        .map_err(failed)?;
    let used = info
        .lines()
        .find_map(|line| line.strip_prefix("used_memory:"))
        .unwrap_or("0");
    Ok(used.trim().parse().unwrap_or(0.0))
}
