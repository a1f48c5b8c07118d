//! The embedded database: every migration of a run in one `BEGIN IMMEDIATE`, for which other processes wait.

use std::error::Error;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection};
use tokio::time::timeout;

use super::files::{Migration, SQLITE};
use super::{CREATE_TABLE, MigrationReport, Plan, applied_on_sqlite};
use crate::backoff::Backoff;
use crate::config::DatabaseSettings;
use crate::sql::{SqlError, sqlite};

/// Runs at most, while the failures are transient.
const ATTEMPTS: u32 = 5;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));

pub(super) async fn migrate(
    settings: &DatabaseSettings,
    url: &SecretString,
) -> Result<MigrationReport, SqlError> {
    let mut attempt = 1;
    loop {
        match migrate_once(settings, url).await {
            Err(error) if error.is_transient() && !error.is_refused() && attempt < ATTEMPTS => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    attempt,
                    "migrating failed; trying again"
                );
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
                attempt += 1;
            }
            result => return result,
        }
    }
}

async fn migrate_once(settings: &DatabaseSettings, url: &SecretString) -> Result<MigrationReport, SqlError> {
    let options = sqlite::connect_options(url)?;
    sqlite::create_file(options.get_filename())?;
    let mut connection = timeout(settings.connect_timeout, SqliteConnection::connect_with(&options))
        .await
        .map_err(|_| SqlError::deadline(settings.connect_timeout))??;
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    sqlx::raw_sql(CREATE_TABLE).execute(&mut *transaction).await?;
    let plan = Plan::of(SQLITE, applied_on_sqlite(&mut transaction).await?)?;
    let mut applied = Vec::new();
    for migration in &plan.pending {
        apply(&mut transaction, migration)
            .await
            .map_err(|source| SqlError::Migration {
                migration: migration.name,
                source,
            })?;
        applied.push(migration.name.to_owned());
    }
    transaction.commit().await?;
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migration connection did not close cleanly");
    }
    Ok(plan.report(SQLITE.len(), applied))
}

async fn apply(connection: &mut SqliteConnection, migration: &Migration) -> sqlx::Result<()> {
    sqlx::raw_sql(migration.sql).execute(&mut *connection).await?;
    sqlx::raw_sql(AssertSqlSafe(migration.entry()))
        .execute(connection)
        .await
        .map(drop)
}
