//! The run on PostgreSQL: who migrates, which step comes next, what is tried again.

use std::error::Error;
use std::time::Duration;

use secrecy::SecretString;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgRow};
use sqlx::{AssertSqlSafe, Connection, Row};
use tokio::time::{Instant, sleep, timeout};

use super::files::{ConcurrentIndex, Method, Migration, POSTGRES};
use super::lease::{self, Lease, quoted};
use super::{CREATE_TABLE, MigrationReport, Plan, applied_on_postgres};
use crate::backoff::Backoff;
use crate::config::DatabaseSettings;
use crate::failure::{SqlFailureKind, classify_sql};
use crate::sql::{SqlError, postgres};

/// Longest wait of one statement for a lock. Shorter than the 500 ms that statements of the ledger wait for theirs: those
/// that wait behind a migration find it gone before they give up.
pub(super) const LOCK_WAIT: Duration = Duration::from_millis(400);

/// The wait of every [`PATIENT_EVERY`]th try: the server cancels an autovacuum that is in the way after `deadlock_timeout`, 1 s
/// by default, and no sooner.
const PATIENT_LOCK_WAIT: Duration = Duration::from_millis(1_500);
const PATIENT_EVERY: u32 = 4;

/// Between tries for a lock. Many times [`LOCK_WAIT`], so that the traffic is held up for a small part of the time.
const LOCK_BACKOFF: Backoff = Backoff::new(Duration::from_secs(1), Duration::from_secs(10));

/// Failures in a row at most, other than for want of a lock.
const ATTEMPTS: u32 = 5;

const BACKOFF: Backoff = Backoff::new(Duration::from_millis(250), Duration::from_secs(3));

/// Between looks at whether another process has finished.
const FOLLOW_PERIOD: Duration = Duration::from_millis(500);

/// Longest batch of a backfill; one that takes longer is cancelled and halved.
const BATCH_DEADLINE: Duration = Duration::from_secs(4);

/// How long a batch should take: it locks its rows, and outcomes that wait for one give up after 500 ms.
const BATCH_TARGET: Duration = Duration::from_millis(200);

/// Rows of a batch, at first and at most. A row may hold several documents of 256 KiB.
const BATCH_ROWS: u32 = 500;

/// Longest pause after a batch. The pause is as long as the batch was: a backfill takes at most half of one core.
const BATCH_PAUSE: Duration = Duration::from_secs(1);

/// Between lines of the log about a backfill.
const PROGRESS_PERIOD: Duration = Duration::from_secs(10);

/// "holdfast" in ASCII. Releases before 0013 migrate in one transaction under this lock.
const OLD_RELEASES_LOCK: &str = "SELECT pg_advisory_xact_lock(x'686f6c6466617374'::bigint)";

/// Makes new tables beside those that there are. The schema `holdfast` has the functions for SQL clients, and a role of that name has it
/// first in its search path.
const BESIDE_THE_OTHERS: &str = "SELECT set_config('search_path', quote_ident(n.nspname) || ', ' || current_setting('search_path'), true) \
    FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = to_regclass('holdfast_migrations')";

/// How a server refuses start-up options: a pooler, another pooler, a server that lacks one of them.
const REFUSED_OPTIONS: [&str; 3] = ["08P01", "42704", "22023"];

pub(super) async fn migrate(
    settings: &DatabaseSettings,
    url: &SecretString,
    give_up: Instant,
) -> Result<MigrationReport, SqlError> {
    let mut run = Run {
        options: postgres::connect_options(url)?,
        connect_timeout: settings.connect_timeout,
        give_up,
        lease: Lease::new(),
        lock_wait: LOCK_WAIT,
        applied: Vec::new(),
        steps: 0,
    };
    let (mut failures, mut lock_failures, mut steps) = (0, 0, 0);
    loop {
        let error = match run.advance().await {
            Ok(report) => return Ok(report),
            Err(error) => error,
        };
        if run.steps > steps {
            (failures, lock_failures, steps) = (0, 0, run.steps);
        }
        let pause = if waits_for_a_lock(&error) {
            lock_failures += 1;
            run.lock_wait = if lock_failures % PATIENT_EVERY == PATIENT_EVERY - 1 {
                PATIENT_LOCK_WAIT
            } else {
                LOCK_WAIT
            };
            LOCK_BACKOFF.delay(lock_failures)
        } else {
            failures += 1;
            if !error.is_transient() || error.is_refused() || failures >= ATTEMPTS {
                run.give_way().await;
                return Err(error);
            }
            BACKOFF.delay(failures)
        };
        tracing::warn!(
            error = &error as &dyn Error,
            retry_ms = pause.as_millis() as u64,
            "migrating was interrupted; trying again"
        );
        if waits_for_a_lock(&error) {
            run.log_old_transactions().await;
        }
        sleep(pause).await;
    }
}

/// Whether another transaction is in the way, which passes.
fn waits_for_a_lock(error: &SqlError) -> bool {
    match error {
        SqlError::Driver(source) | SqlError::Migration { source, .. } => {
            classify_sql(source).kind == SqlFailureKind::Contention
        }
        _ => false,
    }
}

struct Run {
    options: PgConnectOptions,
    connect_timeout: Duration,
    give_up: Instant,
    lease: Lease,
    lock_wait: Duration,
    /// By this process.
    applied: Vec<String>,
    /// Steps that went well, batches included.
    steps: u64,
}

impl Run {
    /// Applies what is missing, or waits until another process has; over one connection, to its first failure.
    async fn advance(&mut self) -> Result<MigrationReport, SqlError> {
        let mut connection = self.connect().await?;
        let mut told = false;
        loop {
            let plan = Plan::of(POSTGRES, applied_on_postgres(&mut connection).await?)?;
            if plan.pending.is_empty() {
                close(connection).await;
                return Ok(plan.report(POSTGRES.len(), std::mem::take(&mut self.applied)));
            }
            self.create_tables(&mut connection).await?;
            if self.lease.take(&mut connection).await? {
                self.apply_pending(&mut connection).await?;
            } else {
                if !told {
                    tracing::info!("another process migrates the database; waiting for it");
                    told = true;
                }
                sleep(FOLLOW_PERIOD).await;
            }
        }
    }

    /// With the bounds as start-up options, or without where a pooler refuses those.
    async fn connect(&self) -> Result<PgConnection, SqlError> {
        let bounds = [
            ("statement_timeout", self.left().as_millis().to_string()),
            ("lock_timeout", "0".to_owned()),
            ("client_connection_check_interval", "2000".to_owned()),
        ];
        let bounded = self.options.clone().options(bounds);
        match within(self.connect_timeout, PgConnection::connect_with(&bounded)).await {
            Err(SqlError::Driver(sqlx::Error::Database(error)))
                if error.code().is_some_and(|code| REFUSED_OPTIONS.contains(&&*code)) =>
            {
                within(self.connect_timeout, PgConnection::connect_with(&self.options)).await
            }
            connected => connected,
        }
    }

    /// Until the end of the run: at least a moment, since zero would mean no bound.
    fn left(&self) -> Duration {
        self.give_up
            .saturating_duration_since(Instant::now())
            .clamp(Duration::from_millis(1), Duration::from_hours(24))
    }

    async fn create_tables(&self, connection: &mut PgConnection) -> Result<(), SqlError> {
        let exists = "SELECT to_regclass('holdfast_migrator') IS NOT NULL";
        if let Some(row) = fetch(connection, exists).await?.first()
            && row.try_get(0)?
        {
            return Ok(());
        }
        let create = format!("{CREATE_TABLE}; {}", lease::CREATE_TABLE);
        Ok(send(connection, &self.transaction(&[OLD_RELEASES_LOCK, &create])).await?)
    }

    /// Statements that the server runs as one transaction, with the bounds of a step. There is no `BEGIN` in it: the
    /// statements of one message are a transaction, which ends with the message whether or not the client lives.
    fn transaction(&self, statements: &[&str]) -> String {
        format!(
            "SET LOCAL client_min_messages = warning; SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; {}; {}",
            self.left().as_millis(),
            self.lock_wait.as_millis(),
            BESIDE_THE_OTHERS,
            statements.join(";\n")
        )
    }

    async fn apply_pending(&mut self, connection: &mut PgConnection) -> Result<(), SqlError> {
        let (lease, options) = (self.lease.clone(), self.options.clone());
        tokio::select! {
            applied = self.apply_while_leased(connection) => applied,
            silent = lease.keep(&options) => Err(silent),
        }
    }

    /// Returns early where the lease was lost: the caller then waits for the process that has it.
    async fn apply_while_leased(&mut self, connection: &mut PgConnection) -> Result<(), SqlError> {
        // Another process may have finished just before the lease was taken.
        let plan = Plan::of(POSTGRES, applied_on_postgres(connection).await?)?;
        for migration in plan.pending {
            if !self.lease.take(connection).await? {
                return Ok(());
            }
            let started = Instant::now();
            tracing::info!(migration = migration.name, "applying");
            let applied = self
                .apply(connection, migration)
                .await
                .map_err(|source| SqlError::Migration {
                    migration: migration.name,
                    source,
                })?;
            self.steps += 1;
            if !applied {
                return Ok(());
            }
            tracing::info!(
                migration = migration.name,
                elapsed_ms = started.elapsed().as_millis() as u64,
                "applied"
            );
            self.applied.push(migration.name.to_owned());
        }
        Ok(self.lease.release(connection).await?)
    }

    /// `false`: another process has recorded it.
    async fn apply(&mut self, connection: &mut PgConnection, migration: &Migration) -> sqlx::Result<bool> {
        match migration.method() {
            Method::Transaction => return self.record(connection, migration, migration.sql).await,
            Method::Statements => {
                for statement in migration.statements() {
                    match ConcurrentIndex::built_by(statement) {
                        Some(index) => self.build(connection, &index, statement).await?,
                        None => send(connection, &self.transaction(&[statement])).await?,
                    }
                    self.steps += 1;
                }
            }
            Method::Batches { first } => {
                if !self.backfill(connection, migration, first).await? {
                    return Ok(false);
                }
            }
        }
        self.record(connection, migration, "").await
    }

    /// The entry comes first: a process that is too late fails there, before it changes anything.
    async fn record(
        &self,
        connection: &mut PgConnection,
        migration: &Migration,
        sql: &str,
    ) -> sqlx::Result<bool> {
        let message = self.transaction(&[OLD_RELEASES_LOCK, &migration.entry(), sql]);
        match send(connection, &message).await {
            Err(sqlx::Error::Database(error)) if error.constraint() == Some("holdfast_migrations_pkey") => {
                Ok(false)
            }
            sent => sent.map(|()| true),
        }
    }

    /// Builds an index beside traffic. What a build that failed or was killed left behind is dropped first.
    async fn build(
        &self,
        connection: &mut PgConnection,
        index: &ConcurrentIndex<'_>,
        statement: &str,
    ) -> sqlx::Result<()> {
        let ConcurrentIndex { name, table } = index;
        let look = format!("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('{name}')");
        // Builds are found finished, dropped and begun: a second round is needed only where another process is at it too.
        loop {
            let valid: Option<bool> = match fetch(connection, &look).await?.first() {
                Some(row) => row.try_get(0)?,
                None => None,
            };
            match valid {
                Some(true) => return Ok(()),
                Some(false) => send(connection, &self.transaction(&[&drop_if_invalid(name, table)])).await?,
                None => send(connection, statement).await?,
            }
        }
    }

    /// Repeats the statement until it says that nothing is left. `false`: the lease was lost meanwhile.
    async fn backfill(
        &mut self,
        connection: &mut PgConnection,
        migration: &Migration,
        first: &str,
    ) -> sqlx::Result<bool> {
        let position = self.lease.position(connection, migration.version).await?;
        let mut position = position.unwrap_or_else(|| first.to_owned());
        let (mut rows, mut logged) = (BATCH_ROWS, Instant::now());
        loop {
            let started = Instant::now();
            match self.batch(connection, migration.sql, &position, rows).await {
                Ok(Some(next)) => position = next,
                Ok(None) => return Ok(true),
                Err(error) if rows > 1 && classify_sql(&error).kind == SqlFailureKind::Timeout => {
                    rows = (rows / 2).max(1);
                    continue;
                }
                Err(error) => return Err(error),
            }
            self.steps += 1;
            self.lease
                .set_position(connection, migration.version, &position)
                .await?;
            if logged.elapsed() >= PROGRESS_PERIOD {
                tracing::info!(migration = migration.name, position, "backfilling");
                logged = Instant::now();
                if !self.lease.take(connection).await? {
                    return Ok(false);
                }
            }
            let took = started.elapsed();
            if took > BATCH_TARGET {
                rows = (rows / 2).max(1);
            } else if took * 4 < BATCH_TARGET {
                rows = (rows * 2).min(BATCH_ROWS);
            }
            sleep(took.min(BATCH_PAUSE)).await;
        }
    }

    async fn batch(
        &self,
        connection: &mut PgConnection,
        sql: &str,
        position: &str,
        rows: u32,
    ) -> sqlx::Result<Option<String>> {
        let statement = sql
            .replace(":after", &quoted(position))
            .replace(":rows", &rows.to_string());
        let message = format!(
            "SET LOCAL statement_timeout = {}; SET LOCAL lock_timeout = {}; {statement}",
            BATCH_DEADLINE.as_millis(),
            LOCK_WAIT.as_millis()
        );
        match fetch(connection, &message).await?.first() {
            Some(row) => row.try_get(0),
            None => Ok(None),
        }
    }

    /// After a failure that waiting does not mend: the next run need not wait for the lease to end.
    async fn give_way(&self) {
        let released = async {
            let mut connection = PgConnection::connect_with(&self.options).await?;
            self.lease.release(&mut connection).await?;
            connection.close().await
        };
        if let Err(error) = within(self.connect_timeout, released).await {
            tracing::debug!(%error, "the lease of the migration was not released");
        }
    }

    /// Says which transactions may be in the way. Without their statements, which may hold values.
    async fn log_old_transactions(&self) {
        let oldest = async {
            let mut connection = self.connect().await?;
            let rows = fetch(&mut connection, OLD_TRANSACTIONS).await?;
            for row in &rows {
                tracing::warn!(
                    transaction.pid = row.try_get::<i32, _>(0)?,
                    transaction.application = row.try_get::<Option<String>, _>(1)?,
                    transaction.state = row.try_get::<Option<String>, _>(2)?,
                    transaction.age_ms = row.try_get::<i64, _>(3)?,
                    "a transaction may block the migration"
                );
            }
            close(connection).await;
            Ok::<(), SqlError>(())
        };
        if let Err(error) = oldest.await {
            tracing::debug!(%error, "the blocking transactions cannot be listed");
        }
    }
}

const OLD_TRANSACTIONS: &str = "
SELECT pid, application_name, state, (extract(epoch FROM clock_timestamp() - xact_start) * 1000)::bigint
FROM pg_stat_activity
WHERE datname = current_database() AND xact_start < clock_timestamp() - interval '400 milliseconds'
  AND pid <> pg_backend_pid()
ORDER BY xact_start LIMIT 3";

/// The first lock is one that a build holds and traffic does not ask for: while a build is under way, by a process that lost
/// its lease, this fails without having stopped anybody.
fn drop_if_invalid(name: &str, table: &str) -> String {
    format!(
        "LOCK TABLE {table} IN SHARE UPDATE EXCLUSIVE MODE NOWAIT;
         DO $$ BEGIN
             IF EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass('{name}') AND NOT indisvalid) THEN
                 DROP INDEX {name};
             END IF;
         END $$"
    )
}

async fn send(connection: &mut PgConnection, message: &str) -> sqlx::Result<()> {
    sqlx::raw_sql(AssertSqlSafe(message.to_owned()))
        .execute(connection)
        .await
        .map(drop)
}

async fn fetch(connection: &mut PgConnection, message: &str) -> sqlx::Result<Vec<PgRow>> {
    sqlx::raw_sql(AssertSqlSafe(message.to_owned()))
        .fetch_all(connection)
        .await
}

async fn within<T>(deadline: Duration, step: impl Future<Output = sqlx::Result<T>>) -> Result<T, SqlError> {
    Ok(timeout(deadline, step)
        .await
        .map_err(|_| SqlError::deadline(deadline))??)
}

/// The work is committed by now, so a connection that does not close politely is only worth a line.
async fn close(connection: impl Connection) {
    if let Err(error) = connection.close().await {
        tracing::debug!(%error, "the migration connection did not close cleanly");
    }
}
