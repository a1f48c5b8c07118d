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

/// Jobs of an hour at 5,000 a second.
const JOBS_OF_AN_HOUR: usize = 18_000_000;
/// Jobs of one drain, at any scale: in a short one the start and the end of the worker would count.
const DRAINED_BESIDE: usize = 100_000;
/// Jobs that one statement of [`churn`] passes through a state.
const CHURN_ROWS: usize = 50_000;

/// What a transaction costs that has been open while an hour's jobs passed: drain and pick-up before it, and beside it after each
/// quarter of these jobs. Nothing that was claimed or finished since it began may be vacuumed.
///
/// The jobs of the hour pass by statements inside the server, which leave the same dead rows and index entries as workers do, in
/// minutes instead of an hour.
pub(super) async fn old_transaction(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let part = "old-transaction";
    let mut system = System::open(setup).await?;
    let count = DRAINED_BESIDE;
    let without = measure_beside(&mut system, count).await?;
    report.figure(part, "drain without it", Figure::Rate(without.drain), None);
    report.figure(part, "pick-up without it, p50", Figure::Millis(without.p50), None);
    report.figure(part, "pick-up without it, p99", Figure::Millis(without.p99), None);
    let mut old = begin_transaction(&system).await?;
    let quarter = scaled(JOBS_OF_AN_HOUR / 4, scale);
    for passed in (0..=4).map(|quarters| quarters * quarter) {
        if passed > 0 {
            churn(&system, passed - quarter, quarter).await?;
        }
        let beside = measure_beside(&mut system, count).await?;
        let what = format!("beside it, after {passed} jobs");
        report.figure(part, &format!("drain {what}"), Figure::Rate(beside.drain), None);
        report.figure(
            part,
            &format!("pick-up {what}, p50"),
            Figure::Millis(beside.p50),
            None,
        );
        report.figure(
            part,
            &format!("pick-up {what}, p99"),
            Figure::Millis(beside.p99),
            None,
        );
        report.figure(
            part,
            "  its drain as a share of without",
            Figure::Share(100.0 * beside.drain / without.drain),
            Some(Figure::Share(80.0)),
        );
        report.figure(
            part,
            "  its p99 above that without",
            Figure::Percent(100.0 * (beside.p99 / without.p99 - 1.0)),
            Some(Figure::Percent(20.0)),
        );
    }
    old.execute("commit").await.map_err(failed)?;
    system.close().await
}

/// Jobs a second; milliseconds.
struct Pace {
    drain: f64,
    p50: f64,
    p99: f64,
}

/// The median of three drains, and a pick-up of 2,000 jobs one by one.
async fn measure_beside(system: &mut System, count: usize) -> Result<Pace, Failure> {
    let mut drains = Vec::new();
    for _ in 0..3 {
        enqueue_bulk(system, count).await?;
        drains.push(drain(system, count).await?.rate);
        system.tally.take_waits();
    }
    drains.sort_by(f64::total_cmp);
    let waits = sample_pick_up(system, 2_000).await?;
    system.stop_working().await?;
    Ok(Pace {
        drain: drains[1],
        p50: quantile(&waits, 0.5),
        p99: quantile(&waits, 0.99),
    })
}

/// Passes `count` jobs through the states that a worker takes them through. They are due at times scattered over the last hour.
async fn churn(system: &System, first: usize, count: usize) -> Result<(), Failure> {
    const PASSAGE: [&str; 3] = [
        "insert into holdfast_jobs (id, queue, kind, payload, run_at, max_attempts, timeout_ms)
         select lpad(to_hex(i), 32, '0')::uuid, $3, 'bench.noop', '{}', now() - random() * interval '1 hour', 1, 1000
         from generate_series($1::bigint, $2 - 1) as i",
        "update holdfast_jobs set state = 'running', worker = id, started_at = now()
         where id >= lpad(to_hex($1::bigint), 32, '0')::uuid and id < lpad(to_hex($2::bigint), 32, '0')::uuid
           and queue = $3",
        "update holdfast_jobs set state = 'completed', attempt = 1, finished_at = now()
         where id >= lpad(to_hex($1::bigint), 32, '0')::uuid and id < lpad(to_hex($2::bigint), 32, '0')::uuid
           and queue = $3",
    ];
    let url = system.settings.database.url.expose_secret();
    let mut connection = PgConnection::connect(url).await.map_err(failed)?;
    for from in (first..first + count).step_by(CHURN_ROWS) {
        let to = (from + CHURN_ROWS).min(first + count);
        for statement in PASSAGE {
            sqlx::query(statement)
                .bind(from as i64)
                .bind(to as i64)
                .bind(QUEUE)
                .execute(&mut connection)
                .await
                .map_err(failed)?;
        }
    }
    Ok(())
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
pub(super) struct DrainReport {
    count: usize,
    pub(super) rate: f64,
    first_tenth: f64,
    last_tenth: f64,
}

impl DrainReport {
    fn report(&self, report: &mut Report, part: &str, aim: f64) {
        let what = format!("drain of {}, one worker process", self.count);
        report.figure(part, &what, Figure::Rate(self.rate), Some(Figure::Rate(aim)));
        report.figure(part, "  its first tenth", Figure::Rate(self.first_tenth), None);
        report.figure(part, "  its last tenth", Figure::Rate(self.last_tenth), None);
    }
}

pub(super) async fn drain(system: &mut System, count: usize) -> Result<DrainReport, Failure> {
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
    let all = finish_working(system).await?.duration_since(began);
    Ok(DrainReport {
        count,
        rate: total as f64 / all.as_secs_f64(),
        first_tenth: tenth as f64 / first.as_secs_f64(),
        last_tenth: tenth as f64 / all.saturating_sub(last_began).as_secs_f64(),
    })
}

/// Ends the worker, which stores its last outcomes first: they are part of the work. The time until it returns is the end of the
/// work; a count of the queue would come late, since an expensive one is given again for a while.
pub(super) async fn finish_working(system: &mut System) -> Result<Instant, Failure> {
    system.stop_working().await?;
    let ended = Instant::now();
    let stats = system.jobs.queue_stats().await.map_err(failed)?;
    let bench = stats.iter().filter(|queue| queue.queue == QUEUE);
    let left: u64 = bench.map(|queue| queue.available + queue.running).sum();
    if left > 0 {
        return Err(Failure::msg(format!("{left} jobs were not stored as finished")));
    }
    Ok(ended)
}

/// From the call of enqueue to the first line of the handler, one job at a time on an idle worker.
async fn pick_up(
    system: &mut System,
    report: &mut Report,
    part: &str,
    aim: (f64, f64),
    samples: usize,
) -> Result<(), Failure> {
    let waits = sample_pick_up(system, samples).await?;
    latency(report, part, "pick-up, idle worker", &waits, aim);
    Ok(())
}

/// In milliseconds, in ascending order.
async fn sample_pick_up(system: &mut System, samples: usize) -> Result<Vec<f64>, Failure> {
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
    Ok(system.tally.take_waits())
}

/// 0 without samples. `sorted` ascends.
fn quantile(sorted: &[f64], quantile: f64) -> f64 {
    sorted
        .get(((sorted.len() as f64 - 1.0) * quantile) as usize)
        .copied()
        .unwrap_or(0.0)
}

pub(super) fn latency(report: &mut Report, part: &str, what: &str, sorted: &[f64], aim: (f64, f64)) {
    let aimed = |aim: f64| aim.is_finite().then_some(Figure::Millis(aim));
    report.figure(
        part,
        &format!("{what}, p50"),
        Figure::Millis(quantile(sorted, 0.5)),
        aimed(aim.0),
    );
    report.figure(
        part,
        &format!("{what}, p99"),
        Figure::Millis(quantile(sorted, 0.99)),
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
