//! The schema, embedded in the binary, and how it is applied.
//!
//! # PostgreSQL: beside traffic
//! Each migration is applied and recorded by itself: a failed one leaves those before it applied, and the next run goes on
//! where this one stopped. A migration is one message to the server, which opens its transaction, waits for each lock at
//! most [`LOCK_WAIT`](postgres::LOCK_WAIT), records the migration and commits; so a migrator that is killed or frozen never
//! leaves a transaction open. A lock that cannot be had is asked for again later, with backoff: waiting DDL makes every later
//! statement on its table wait behind it, and may not do so for long. Index builds and backfills run outside such a
//! transaction ([`files`] says how a file asks for that).
//!
//! One process migrates at a time, by a lease row that it renews over a second connection; no session lock is held, so a
//! transaction pooler will do. The lease only saves work. What keeps a frozen migrator, continued after another took over,
//! from doing harm is that each message is safe by itself: recording a migration a second time violates the primary key and
//! so undoes the whole message; batches and concurrent index builds may be repeated.
//!
//! What the client gives up ends on the server as well: every statement has the rest of the run's deadline as its
//! `statement_timeout`, and on a direct connection the server looks every two seconds whether its client is still there.
//!
//! # SQLite
//! The whole run is one `BEGIN IMMEDIATE`: other processes wait for it, and a failed run leaves nothing behind.
//!
//! # Versions side by side
//! A database that is *ahead* of the binary is accepted: while a deployment rolls, the old binary meets the new
//! schema. A migration therefore must not break the version before it. One that was edited after it was applied
//! is refused.

mod files;
mod lease;
mod postgres;
mod sqlite;

use std::time::Duration;

use sqlx::sqlite::SqliteConnection;
use sqlx::{PgConnection, Row};
use tokio::time::Instant;

use self::files::{Migration, POSTGRES, SQLITE};
use super::{Database, Dialect, SqlError, address_of};
use crate::config::DatabaseSettings;

/// Longest run where the caller names none. A large table is converted at some thousand rows a second.
pub const MIGRATION_DEADLINE: Duration = Duration::from_hours(6);

/// A table of our own: the database may be shared with an application that has `_sqlx_migrations` already.
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS holdfast_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

const LIST_APPLIED: &str = "SELECT version, checksum FROM holdfast_migrations";

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationReport {
    /// Applied now, oldest first, as `0001_jobs`.
    pub applied: Vec<String>,
    /// How many had been applied before, or by another process meanwhile.
    pub already_applied: usize,
    /// Applied by a newer version of Holdfast; this binary does not know them.
    pub ahead: Vec<i64>,
}

/// Brings the database up to date over a connection of its own: the direct URL when there is one.
///
/// Safe while other processes do the same, and beside traffic. Transient failures are tried again a few times, locks that
/// cannot be had until [`MIGRATION_DEADLINE`].
pub async fn migrate(settings: &DatabaseSettings) -> Result<MigrationReport, SqlError> {
    migrate_within(settings, MIGRATION_DEADLINE).await
}

/// As [`migrate`], for at most `deadline`. What was applied by then stays; another run goes on from there.
pub async fn migrate_within(
    settings: &DatabaseSettings,
    deadline: Duration,
) -> Result<MigrationReport, SqlError> {
    let url = settings.direct_url.as_ref().unwrap_or(&settings.url);
    let give_up = Instant::now() + deadline;
    let run = async {
        match Dialect::of(url)? {
            Dialect::Postgres => postgres::migrate(settings, url, give_up).await,
            Dialect::Sqlite => sqlite::migrate(settings, url).await,
        }
    };
    let address = address_of(url, settings.direct_url.is_some())?;
    let report = tokio::time::timeout_at(give_up, run)
        .await
        .unwrap_or(Err(SqlError::deadline(deadline)))
        .map_err(|error| error.of(address))?;
    log_report(&report);
    Ok(report)
}

/// Versions and checksums.
type AppliedVersions = Vec<(i64, String)>;

/// What a database lacks, and what it has beyond this binary.
struct Plan {
    pending: Vec<&'static Migration>,
    ahead: Vec<i64>,
}

impl Plan {
    /// # Errors
    /// [`SqlError::MigrationEdited`] where a migration differs from what was applied.
    fn of(migrations: &'static [Migration], mut applied: AppliedVersions) -> Result<Self, SqlError> {
        let mut pending = Vec::new();
        for migration in migrations {
            let entry = applied
                .iter()
                .position(|(version, _)| *version == migration.version);
            match entry.map(|index| applied.swap_remove(index)) {
                Some((_, checksum)) if checksum == migration.checksum() => {}
                Some(_) => {
                    return Err(SqlError::MigrationEdited {
                        migration: migration.name,
                    });
                }
                None => pending.push(migration),
            }
        }
        let mut ahead: Vec<i64> = applied.into_iter().map(|(version, _)| version).collect();
        ahead.sort_unstable();
        Ok(Self { pending, ahead })
    }

    fn report(&self, all: usize, applied: Vec<String>) -> MigrationReport {
        MigrationReport {
            already_applied: all.saturating_sub(applied.len()),
            applied,
            ahead: self.ahead.clone(),
        }
    }
}

/// What `holdfast_migrations` lists; empty where there is no such table.
async fn applied_on_postgres(connection: &mut PgConnection) -> sqlx::Result<AppliedVersions> {
    let exists = "SELECT to_regclass('holdfast_migrations') IS NOT NULL";
    if !sqlx::raw_sql(exists)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?
    {
        return Ok(Vec::new());
    }
    let rows = sqlx::raw_sql(LIST_APPLIED).fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

async fn applied_on_sqlite(connection: &mut SqliteConnection) -> sqlx::Result<AppliedVersions> {
    let exists = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'holdfast_migrations'";
    if !sqlx::raw_sql(exists)
        .fetch_one(&mut *connection)
        .await?
        .try_get(0)?
    {
        return Ok(Vec::new());
    }
    let rows = sqlx::raw_sql(LIST_APPLIED).fetch_all(connection).await?;
    rows.iter()
        .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
        .collect()
}

/// The migrations that a database lacks. Reads only.
pub(super) async fn pending(database: &Database) -> Result<Vec<String>, SqlError> {
    let (migrations, applied) = match database {
        Database::Postgres(pool) => {
            let mut session = pool.acquire().await?;
            (POSTGRES, applied_on_postgres(&mut session).await?)
        }
        Database::Sqlite(embedded) => (
            SQLITE,
            applied_on_sqlite(&mut *embedded.reader.acquire().await?).await?,
        ),
    };
    let is_missing =
        |migration: &&Migration| applied.iter().all(|(version, _)| *version != migration.version);
    Ok(migrations
        .iter()
        .filter(is_missing)
        .map(|migration| migration.name.to_owned())
        .collect())
}

fn log_report(report: &MigrationReport) {
    if !report.applied.is_empty() {
        tracing::info!(migrations = report.applied.join(" "), "the database was migrated");
    }
    if !report.ahead.is_empty() {
        tracing::warn!(migrations = ?report.ahead, "the database was migrated by a newer version of Holdfast");
    }
}
