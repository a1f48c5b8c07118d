//! Waiting for a database that a worker or a beat can work on, however long that takes.
//!
//! A service starts before its database as well as after it. It brings the schema up to date itself, or waits until
//! somebody has run `holdfast migrate` where `database.migrate_at_start` is off. Only what no waiting mends is an error:
//! a wrong password, a migration that fails or was edited.

use std::time::Duration;

use tokio::time::{sleep, timeout};

use super::{Database, SqlError, migrate};
use crate::config::DatabaseSettings;
use crate::shutdown::Shutdown;

/// One round of waiting for an answer; each is logged where it begins.
const ROUND: Duration = Duration::from_mins(5);

/// Between looks at a schema that somebody else brings up to date.
const LOOK_PERIOD: Duration = Duration::from_secs(2);

/// Longest single look.
const LOOK_DEADLINE: Duration = Duration::from_secs(5);

/// Returns once the schema is up to date: by a migration of its own, or by somebody else's.
///
/// # Errors
/// [`SqlError::Stopped`] if the process was asked to stop first; else what waiting does not mend.
pub async fn wait_for_schema(
    database: &Database,
    settings: &DatabaseSettings,
    stop: &Shutdown,
) -> Result<(), SqlError> {
    let waiting = async {
        loop {
            match attempt(database, settings, stop).await {
                Err(error) if error.is_transient() && !error.is_refused() => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "still waiting for the database"
                    );
                }
                ended => return ended,
            }
        }
    };
    // A migration that is dropped midway is whole or not there at all, and the next run goes on from it.
    stop.token()
        .run_until_cancelled(waiting)
        .await
        .unwrap_or(Err(SqlError::Stopped))
}

async fn attempt(database: &Database, settings: &DatabaseSettings, stop: &Shutdown) -> Result<(), SqlError> {
    database.wait_until_ready(ROUND, stop).await?;
    if settings.migrate_at_start {
        return migrate(settings).await.map(drop);
    }
    let mut said = false;
    loop {
        let missing = timeout(LOOK_DEADLINE, database.pending_migrations())
            .await
            .unwrap_or_else(|_| Err(database.late(LOOK_DEADLINE)))?;
        if missing.is_empty() {
            return Ok(());
        }
        if !said {
            tracing::warn!(migrations = %missing.join(" "), "waiting for the schema: run `holdfast migrate`");
            said = true;
        }
        sleep(LOOK_PERIOD).await;
    }
}
