//! A beat that waits for its database and ticks: what `beat` and `holdfast dev` run.

use std::time::Duration;

use holdfast_core::backoff::Backoff;
use holdfast_core::config::Settings;
use holdfast_core::shutdown::Shutdown;
use holdfast_core::sql::{Database, SqlError, wait_for_schema};
use holdfast_jobs::enqueue::Fault;
use holdfast_jobs::schedules::{ScheduleError, Schedules, Ticker};
use tokio::time::sleep;

use super::Progress;
use crate::product::Process;
use crate::upkeep::{finish_upkeep, spawn_upkeep};

/// Between tries to store the configuration's schedules.
const BACKOFF: Backoff = Backoff::new(Duration::from_millis(200), Duration::from_secs(3));

/// Why a beat ended otherwise than by being asked to.
#[derive(Debug, thiserror::Error)]
pub enum BeatError {
    #[error("the configuration's schedules have faults: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Configured(Vec<Fault>),
    #[error("the database cannot be used")]
    Database(#[from] SqlError),
    #[error("the configuration's schedules cannot be stored")]
    Schedules(#[from] ScheduleError),
}

/// Checks the configuration's schedules, waits for the schema, stores them, and ticks until `stop`; beside that it does the
/// duties of the products.
///
/// # Errors
/// What waiting does not mend: an invalid schedule, a database that does not let us in, a migration that fails.
pub async fn run_beat(
    schedules: Schedules,
    settings: &Settings,
    database: &Database,
    progress: &Progress,
    stop: Shutdown,
) -> Result<(), BeatError> {
    let faults = schedules.faults_of_config(&settings.schedules);
    if !faults.is_empty() {
        return Err(BeatError::Configured(faults));
    }
    match wait_for_schema(database, &settings.database, &stop).await {
        Err(SqlError::Stopped) => return Ok(()),
        ended => ended?,
    }
    let storing = stop
        .token()
        .run_until_cancelled(store_configured(&schedules, settings));
    let Some(stored) = storing.await else {
        return Ok(());
    };
    stored?;
    let jobs = schedules.jobs().clone();
    spawn_upkeep(&jobs, false, &stop);
    let duties = crate::beat_duties(Process {
        settings,
        database,
        jobs: schedules.jobs(),
    });
    let ticker = Ticker::new(schedules, settings.beat.clone(), stop);
    progress.begin(ticker.vitals());
    tokio::select! {
        () = ticker.run() => {}
        // They never end by themselves.
        () = crate::perform(duties) => {}
    }
    finish_upkeep(&jobs).await;
    Ok(())
}

/// However long that takes: a database that goes away between its migration and this is no reason to end.
async fn store_configured(schedules: &Schedules, settings: &Settings) -> Result<(), ScheduleError> {
    for attempt in 1.. {
        match schedules.sync(&settings.schedules).await {
            Ok(report) => {
                if !report.stored.is_empty() || !report.deleted.is_empty() {
                    tracing::info!(
                        stored = report.stored.join(" "),
                        deleted = report.deleted.join(" "),
                        "the configuration's schedules are in the database"
                    );
                }
                break;
            }
            Err(error) if is_transient(&error) => {
                tracing::warn!(
                    error = &error as &dyn std::error::Error,
                    attempt,
                    "the configuration's schedules wait for the database"
                );
                sleep(BACKOFF.delay(attempt)).await;
            }
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Two beats that start at once, with different configurations, may overtake each other for a while.
fn is_transient(error: &ScheduleError) -> bool {
    match error {
        ScheduleError::Ledger(error) => error.is_transient(),
        ScheduleError::Contended(_) => true,
        _ => false,
    }
}
