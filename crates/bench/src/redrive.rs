//! Dead letters put back while the queue serves fresh jobs.

use std::time::{Duration, Instant};

use anyhow::Error as Failure;
use holdfast_core::shutdown::Shutdown;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::dead_letters::{DeadLetterFilter, Redrive};

use super::failed;
use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Noop, QUEUE, Setup, System};

const PART: &str = "redrive";

/// Longest wait for all jobs to run.
const PATIENCE: Duration = Duration::from_mins(2);

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let mut system = System::open(setup).await?;
    let letters = scaled(50_000, scale);
    bury(&system, letters).await?;
    system.work()?;
    let stop = Shutdown::new();
    let fresh = tokio::spawn(serve_fresh(
        system.jobs.clone(),
        std::sync::Arc::clone(&system.tally),
        stop.clone(),
    ));
    let began = Instant::now();
    let redriven = redrive(&system).await?;
    let took = began.elapsed();
    stop.trigger();
    let produced = fresh.await.map_err(failed)??;
    system
        .tally
        .reaches((letters + produced) as u64, PATIENCE)
        .await?;
    let waits = system.tally.take_waits();
    report.figure(
        PART,
        &format!("redrive of {letters} dead letters, fresh jobs beside"),
        Figure::Rate(redriven as f64 / took.as_secs_f64()),
        Some(Figure::Rate(5_000.0)),
    );
    let p99 = waits.get(waits.len() * 99 / 100).copied().unwrap_or(0.0);
    report.figure(
        PART,
        "pick-up of fresh high jobs meanwhile, p99",
        Figure::Millis(p99),
        None,
    );
    if redriven != letters as u64 {
        return Err(Failure::msg(format!(
            "only {redriven} of {letters} were put back"
        )));
    }
    system.close().await
}

/// Jobs that are dead from the start.
async fn bury(system: &System, count: usize) -> Result<(), Failure> {
    for _ in 0..count / 1_000 {
        let batch = vec![Noop::at(0); 1_000];
        system.jobs.enqueue_all(&batch).await.map_err(failed)?;
    }
    system
        .sql(
            "update holdfast_jobs set state = 'discarded', finished_at = created_at, attempt = 4, \
             errors = '[{\"at\":\"2024-01-01T00:00:00Z\",\"attempt\":4,\"class\":\"transient\",\"message\":\"boom\"}]' \
             where queue = 'bench'",
        )
        .await
}

/// A few urgent jobs each moment; how many.
async fn serve_fresh(
    jobs: holdfast_jobs::Jobs,
    tally: std::sync::Arc<super::system::Tally>,
    stop: Shutdown,
) -> Result<usize, Failure> {
    let mut count = 0;
    while !stop.token().is_cancelled() {
        let urgent = jobs
            .enqueue(Noop::at(tally.now()))
            .priority(holdfast_jobs::ledger::Priority::High);
        urgent.await.map_err(failed)?;
        count += 1;
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    Ok(count)
}

async fn redrive(system: &System) -> Result<u64, Failure> {
    let by = AuditContext::new(Actor::cli());
    let redrive = Redrive {
        filter: DeadLetterFilter {
            queue: Some(QUEUE.to_owned()),
            ..DeadLetterFilter::default()
        },
        key: Some(ulid::Ulid::generate().to_string()),
        ..Redrive::default()
    };
    loop {
        let done = system.jobs.steer(&by).redrive(&redrive).await?;
        if done.finished {
            return Ok(done.affected);
        }
    }
}
