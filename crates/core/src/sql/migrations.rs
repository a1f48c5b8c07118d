//! The schema, embedded in the binary, and how it is applied.
//!
//! Every migration of a run happens in one transaction that first takes a lock: an advisory *transaction* lock on
//! PostgreSQL, `BEGIN IMMEDIATE` on SQLite. So any number of processes may start at once, one migrates while the
//! others wait, and a failed or killed run leaves nothing behind. All of it is sent without prepared statements.
//! Together this makes any transaction pooler good enough, which sqlx' own migrator is not: it holds a session lock
//! and names its statements. The price: nothing that refuses a transaction, such as `CREATE INDEX CONCURRENTLY`.
//! A direct URL is still preferred where one is given, because some poolers cut long transactions.
//!
//! A database that is *ahead* of the binary is accepted: while a deployment rolls, the old binary meets the new
//! schema. A migration therefore must not break the version before it. One that was edited after it was applied
//! is refused.

use std::error::Error;
use std::fmt::Write;
use std::time::Duration;

use sha2::{Digest, Sha256};
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, Connection, PgConnection, Row, SqlSafeStr, SqlStr};
use tokio::time::timeout;

use super::{Database, Dialect, SqlError, postgres, sqlite};
use crate::backoff::Backoff;
use crate::config::DatabaseSettings;

/// "holdfast" in ASCII; every process that migrates this database takes this advisory lock.
const TAKE_LOCK: &str = "SELECT pg_advisory_xact_lock(x'686f6c6466617374'::bigint)";

/// For this transaction only. Without the limit, DDL that waits for a long query would make every later statement
/// wait behind it.
const TRANSACTION_SETTINGS: &str = "SET LOCAL client_min_messages = warning; SET LOCAL statement_timeout = 0; SET LOCAL lock_timeout = '60s'";

/// Longest run, the wait for another process included.
const RUN_DEADLINE: Duration = Duration::from_mins(10);

/// Runs at most, while the failures are transient.
const ATTEMPTS: u32 = 5;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));

/// A table of our own: the database may be shared with an application that has `_sqlx_migrations` already.
const CREATE_TABLE: &str = "CREATE TABLE IF NOT EXISTS holdfast_migrations (
    version    bigint      PRIMARY KEY,
    name       text        NOT NULL,
    checksum   text        NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT CURRENT_TIMESTAMP
)";

const LIST_APPLIED: &str = "SELECT version, checksum FROM holdfast_migrations";

/// One file of `migrations/`.
#[derive(Debug, Clone, Copy)]
struct Migration {
    version: i64,
    name: &'static str,
    sql: &'static str,
}

/// Embeds the files of one folder of `migrations/`, by number and name.
macro_rules! embedded {
    ($folder:literal, $(($version:literal, $file:literal)),+ $(,)?) => {
        &[$(Migration {
            version: $version,
            name: $file,
            sql: include_str!(concat!("../../../../migrations/", $folder, "/", $file, ".sql")),
        }),+]
    };
}

const POSTGRES: &[Migration] = embedded!(
    "postgres",
    (1, "0001_jobs"),
    (2, "0002_accounts"),
    (3, "0003_schedules"),
    (4, "0004_queue_limits"),
    (5, "0005_dead_letters"),
    (6, "0006_points"),
    (7, "0007_batches"),
    (8, "0008_events"),
    (9, "0009_notifications"),
    (10, "0010_sources"),
    (11, "0011_preferences"),
    (12, "0012_cancelling")
);
const SQLITE: &[Migration] = embedded!(
    "sqlite",
    (1, "0001_jobs"),
    (2, "0002_accounts"),
    (3, "0003_schedules"),
    (4, "0004_queue_limits"),
    (5, "0005_dead_letters"),
    (6, "0006_points"),
    (7, "0007_batches"),
    (8, "0008_events"),
    (9, "0009_notifications"),
    (10, "0010_sources"),
    (11, "0011_preferences"),
    (12, "0012_cancelling")
);

/// What a migration run did.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MigrationReport {
    /// Applied now, oldest first, as `0001_jobs`.
    pub applied: Vec<String>,
    /// How many had been applied before.
    pub already_applied: usize,
    /// Applied by a newer version of Holdfast; this binary does not know them.
    pub ahead: Vec<i64>,
}

/// Brings the database up to date over a connection of its own: the direct URL when there is one.
///
/// Safe while other processes do the same. Transient failures are tried again a few times.
pub async fn migrate(settings: &DatabaseSettings) -> Result<MigrationReport, SqlError> {
    let mut attempt = 1;
    loop {
        let run = timeout(RUN_DEADLINE, migrate_once(settings)).await;
        match run.unwrap_or(Err(SqlError::Deadline(RUN_DEADLINE))) {
            Err(error) if error.is_transient() && !error.is_refused() && attempt < ATTEMPTS => {
                tracing::warn!(
                    error = &error as &dyn Error,
                    attempt,
                    "migrating failed, trying again"
                );
                tokio::time::sleep(BACKOFF.delay(attempt)).await;
                attempt += 1;
            }
            result => return result.inspect(log_report),
        }
    }
}

async fn migrate_once(settings: &DatabaseSettings) -> Result<MigrationReport, SqlError> {
    let url = settings.direct_url.as_ref().unwrap_or(&settings.url);
    match Dialect::of(url)? {
        Dialect::Postgres => {
            let options = postgres::connect_options(url)?;
            let connecting = PgConnection::connect_with(&options);
            let mut connection = within(settings.connect_timeout, connecting).await?;
            let report = migrate_postgres(&mut connection).await?;
            close(connection).await;
            Ok(report)
        }
        Dialect::Sqlite => {
            let options = sqlite::connect_options(url)?;
            sqlite::create_directory(options.get_filename())?;
            let connecting = SqliteConnection::connect_with(&options);
            let mut connection = within(settings.connect_timeout, connecting).await?;
            let report = migrate_sqlite(&mut connection).await?;
            close(connection).await;
            Ok(report)
        }
    }
}

async fn within<T>(deadline: Duration, step: impl Future<Output = sqlx::Result<T>>) -> Result<T, SqlError> {
    Ok(timeout(deadline, step)
        .await
        .map_err(|_| SqlError::Deadline(deadline))??)
}

/// The work is committed by now, so a connection that does not close politely is only worth a line.
async fn close(connection: impl Connection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migration connection did not close cleanly");
    }
}

async fn migrate_postgres(connection: &mut PgConnection) -> Result<MigrationReport, SqlError> {
    let mut transaction = connection.begin().await?;
    transaction.send(TRANSACTION_SETTINGS.into_sql_str()).await?;
    transaction.send(TAKE_LOCK.into_sql_str()).await?;
    let report = bring_up_to_date(&mut *transaction, POSTGRES).await?;
    transaction.commit().await?;
    Ok(report)
}

async fn migrate_sqlite(connection: &mut SqliteConnection) -> Result<MigrationReport, SqlError> {
    let mut transaction = connection.begin_with("BEGIN IMMEDIATE").await?;
    let report = bring_up_to_date(&mut *transaction, SQLITE).await?;
    transaction.commit().await?;
    Ok(report)
}

/// Applies what is missing, oldest first, inside the transaction that the session is in.
async fn bring_up_to_date<S: Session>(
    session: &mut S,
    migrations: &[Migration],
) -> Result<MigrationReport, SqlError> {
    session.send(CREATE_TABLE.into_sql_str()).await?;
    let mut applied = session.applied().await?;
    let mut report = MigrationReport::default();
    for migration in migrations {
        match applied
            .iter()
            .position(|(version, _)| *version == migration.version)
        {
            Some(index) if applied.swap_remove(index).1 == migration.checksum() => {
                report.already_applied += 1;
            }
            Some(_) => {
                return Err(SqlError::MigrationEdited {
                    migration: migration.name,
                });
            }
            None => {
                apply(session, migration).await?;
                report.applied.push(migration.name.to_owned());
            }
        }
    }
    report.ahead = applied.into_iter().map(|(version, _)| version).collect();
    report.ahead.sort_unstable();
    Ok(report)
}

async fn apply<S: Session>(session: &mut S, migration: &Migration) -> Result<(), SqlError> {
    let failed = |source| SqlError::Migration {
        migration: migration.name,
        source,
    };
    session.send(migration.sql.into_sql_str()).await.map_err(failed)?;
    session.send(migration.entry()).await.map_err(failed)
}

impl Migration {
    fn checksum(&self) -> String {
        Sha256::digest(self.sql)
            .iter()
            .fold(String::new(), |mut hex, byte| {
                let _ = write!(hex, "{byte:02x}"); // writing to a String does not fail
                hex
            })
    }

    /// The statement that enters it as applied. Nothing in it comes from outside this binary.
    fn entry(&self) -> SqlStr {
        let Self { version, name, .. } = self;
        let checksum = self.checksum();
        let sql = format!(
            "INSERT INTO holdfast_migrations (version, name, checksum) VALUES ({version}, '{name}', '{checksum}')"
        );
        AssertSqlSafe(sql).into_sql_str()
    }
}

/// A connection that is spoken to in plain statements, none of them prepared.
trait Session: Send {
    fn send(&mut self, sql: SqlStr) -> impl Future<Output = sqlx::Result<()>> + Send;

    /// Whether this database was ever migrated.
    fn has_table(&mut self) -> impl Future<Output = sqlx::Result<bool>> + Send;

    /// Versions and checksums.
    fn applied(&mut self) -> impl Future<Output = sqlx::Result<Vec<(i64, String)>>> + Send;
}

impl Session for PgConnection {
    async fn send(&mut self, sql: SqlStr) -> sqlx::Result<()> {
        sqlx::raw_sql(sql).execute(self).await.map(drop)
    }

    async fn has_table(&mut self) -> sqlx::Result<bool> {
        let sql = "SELECT to_regclass('holdfast_migrations') IS NOT NULL";
        sqlx::raw_sql(sql).fetch_one(self).await?.try_get(0)
    }

    async fn applied(&mut self) -> sqlx::Result<Vec<(i64, String)>> {
        let rows = sqlx::raw_sql(LIST_APPLIED).fetch_all(self).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }
}

impl Session for SqliteConnection {
    async fn send(&mut self, sql: SqlStr) -> sqlx::Result<()> {
        sqlx::raw_sql(sql).execute(self).await.map(drop)
    }

    async fn has_table(&mut self) -> sqlx::Result<bool> {
        let sql = "SELECT count(*) FROM sqlite_schema WHERE type = 'table' AND name = 'holdfast_migrations'";
        sqlx::raw_sql(sql).fetch_one(self).await?.try_get(0)
    }

    async fn applied(&mut self) -> sqlx::Result<Vec<(i64, String)>> {
        let rows = sqlx::raw_sql(LIST_APPLIED).fetch_all(self).await?;
        rows.iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }
}

/// The migrations that a database lacks. Reads only.
pub(super) async fn pending(database: &Database) -> Result<Vec<String>, SqlError> {
    match database {
        Database::Postgres(pool) => missing(&mut *pool.acquire().await?, POSTGRES).await,
        Database::Sqlite(embedded) => missing(&mut *embedded.reader.acquire().await?, SQLITE).await,
    }
}

async fn missing<S: Session>(session: &mut S, migrations: &[Migration]) -> Result<Vec<String>, SqlError> {
    let applied = if session.has_table().await? {
        session.applied().await?
    } else {
        Vec::new()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_dialects_have_the_same_migrations_numbered_from_one() {
        let names = |listed: &[Migration]| listed.iter().map(|migration| migration.name).collect::<Vec<_>>();
        assert_eq!(names(POSTGRES), names(SQLITE));
        for (Migration { version, name, .. }, number) in POSTGRES
            .iter()
            .chain(SQLITE)
            .zip((1..=POSTGRES.len() as i64).cycle())
        {
            assert_eq!(*version, number);
            assert!(name.starts_with(&format!("{number:04}_")), "{name}");
        }
    }

    #[test]
    fn every_file_in_the_folders_is_embedded() {
        for (folder, migrations) in [("postgres", POSTGRES), ("sqlite", SQLITE)] {
            let path = format!("{}/../../migrations/{folder}", env!("CARGO_MANIFEST_DIR"));
            let mut files: Vec<String> = std::fs::read_dir(path)
                .unwrap()
                .map(|entry| entry.unwrap().file_name().into_string().unwrap())
                .collect();
            files.sort();
            let names: Vec<String> = migrations
                .iter()
                .map(|migration| format!("{}.sql", migration.name))
                .collect();
            assert_eq!(files, names, "migrations/{folder}");
        }
    }
}
