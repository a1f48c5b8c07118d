//! How late ticks are, from their due moment to the commit of their job, by the database's clock.
//!
//! First a few schedules tick every second beside each other; then a thousand are due in the same second. One beat takes
//! them all: more would share the work.

use std::time::Duration;

use anyhow::Error as Failure;
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::Database;
use holdfast_jobs::Job;
use holdfast_jobs::audit::{Actor, AuditContext};
use holdfast_jobs::schedules::{Definition, Schedules, Ticker};
use serde_json::value::to_raw_value;

use super::failed;
use super::http::percentile;
use super::report::{Figure, Report};
use super::scenario::scaled;
use super::system::{Noop, Setup, System};

const PART: &str = "ticks";
const EACH_SECOND: usize = 20;
const SECONDS: u64 = 15;
const AT_ONCE: usize = 1_000;

/// Intervals of one length fall due together.
const AT_ONCE_EVERY: Duration = Duration::from_secs(30);

/// Longest wait for all ticks that are due at once.
const PATIENCE: Duration = Duration::from_mins(2);
const POLL: Duration = Duration::from_millis(50);

const LATENESS: &str = "select (extract(epoch from created_at - run_at) * 1000)::float8 from holdfast_jobs \
                        where queue = 'bench' and idempotency_key like 'schedule:bench-%'";

pub(super) async fn measure(setup: &Setup, scale: f64, report: &mut Report) -> Result<(), Failure> {
    let system = System::open(setup).await?;
    let schedules = Schedules::new(system.jobs.clone(), &system.database, &system.settings.database);
    forget(&system).await?;
    // Before the beat: it may notice a new schedule as late as its next look, and that is no lateness of a tick.
    for number in 0..EACH_SECOND {
        make(&schedules, number, Duration::from_secs(1)).await?;
    }
    let stop = Shutdown::new();
    let ticker = Ticker::new(schedules.clone(), system.settings.beat.clone(), stop.clone());
    let beating = tokio::spawn(ticker.run());
    let measured = both(&system, &schedules, scale, report).await;
    stop.trigger();
    beating.await.map_err(failed)?;
    measured?;
    forget(&system).await?;
    system.close().await
}

async fn both(
    system: &System,
    schedules: &Schedules,
    scale: f64,
    report: &mut Report,
) -> Result<(), Failure> {
    tokio::time::sleep(Duration::from_secs(SECONDS)).await;
    forget_schedules(system).await?;
    let mut late = lateness(system).await?;
    let (ticks, p99) = (late.len(), Figure::Millis(percentile(&mut late, 0.99)));
    let what = format!("lateness of {ticks} ticks of {EACH_SECOND} schedules, p99");
    report.figure(PART, &what, p99, Some(Figure::Millis(250.0)));
    system
        .sql("delete from holdfast_jobs where queue = 'bench'")
        .await?;

    let count = scaled(AT_ONCE, scale);
    for number in 0..count {
        make(schedules, number, AT_ONCE_EVERY).await?;
    }
    let all = tokio::time::timeout(PATIENCE, async {
        loop {
            let late = lateness(system).await?;
            if late.len() >= count {
                return Ok::<_, Failure>(late);
            }
            tokio::time::sleep(POLL).await;
        }
    });
    let mut late = all.await.map_err(failed)??;
    let longest = Figure::Millis(percentile(&mut late, 1.0));
    let what = format!("{count} schedules due in the same second, the latest tick");
    report.figure(PART, &what, longest, Some(Figure::Millis(1_000.0)));
    Ok(())
}

async fn make(schedules: &Schedules, number: usize, every: Duration) -> Result<(), Failure> {
    let definition = Definition {
        name: format!("bench-{number}"),
        cron: None,
        every: Some(every),
        time_zone: None,
        kind: Noop::KIND.to_owned(),
        payload: to_raw_value(&Noop::at(0)).map_err(failed)?,
        queue: None,
        catch_up: Some("all".to_owned()),
        catch_up_max: Some(100),
        jitter: None,
        enabled: true,
    };
    schedules
        .create(&AuditContext::new(Actor::cli()), definition)
        .await
        .map(drop)
        .map_err(failed)
}

async fn lateness(system: &System) -> Result<Vec<f64>, Failure> {
    let Database::Postgres(pool) = &system.database else {
        return Err(Failure::msg("ticks are measured on PostgreSQL"));
    };
    sqlx::query_scalar(LATENESS).fetch_all(pool).await.map_err(failed)
}

async fn forget_schedules(system: &System) -> Result<(), Failure> {
    system
        .sql("delete from holdfast_schedules where name like 'bench-%'")
        .await
}

/// What an earlier run left, too.
async fn forget(system: &System) -> Result<(), Failure> {
    forget_schedules(system).await?;
    system
        .sql("delete from holdfast_audit where target like 'bench-%'")
        .await
}
