//! `holdfast copy`: moves an installation from SQLite to PostgreSQL, and compares both row by row.
//!
//! # Steps
//! 1. *Check*: the source is opened for reading only, in one transaction, so that the copy is of one moment. No worker or
//!    beat of the source may have a fresh heartbeat. The target is migrated. Both must have the same migrations, tables,
//!    columns and primary keys.
//! 2. *Compare what is there*: each row of the target must be in the source, with the same values. So the target is empty,
//!    or holds a part of an earlier copy. Anything else is refused before a row is written.
//! 3. *Copy*: table by table, a referenced table before those that refer to it, in the order of the primary key. Each batch
//!    is one transaction; rows that the target has are left out.
//! 4. *Compare everything*: every row of the source is looked up in the target by its primary key, and each value compared.
//!    The numbers of rows must be equal. So both have the same rows.
//! 5. *Still stopped*: nothing may have been committed to the source since the copy began.
//!
//! # Invariants
//! - Nothing is written to the source, and no row of the target is changed or deleted.
//! - Tables and columns come from the catalogues of both databases, and how a value is converted comes from the types of its
//!   column ([`value`]). What is not understood, or is on one side only, is an error that names it; the tables that are not
//!   copied are listed with the reason ([`catalogue::NOT_COPIED`]). A new migration is either copied or refused.
//! - Memory is bounded: a batch is at most [`BATCH_ROWS`](source::BATCH_ROWS) rows, and ends with the row that brings it to
//!   [`BATCH_BYTES`](source::BATCH_BYTES).
//! - No error or line of the log holds a value of a row: it may be a secret. Of primary keys, ids, numbers and times are
//!   shown, and texts of the columns in [`SHOWN_KEYS`].
//!
//! # When it fails
//! A batch that the target does not answer is sent again some times: it may have been applied, and rows that are there
//! are left out. When the command ends early, for whatever reason, the same command goes on: steps 2 and 3 find what was
//! copied. A row that the target refuses is found by sending the rows of its batch one by one, and named.
//!
//! # Jobs that were running
//! They and the rows of their workers are copied as they are. No process renews these rows, so the first rescue on the target
//! treats the jobs as those of lost workers: they return to their queues with one crash more, as they would on the source.

mod catalogue;
mod source;
mod target;
#[cfg(test)]
mod tests;
mod value;

use std::time::Duration;

use holdfast_core::config::Settings;
use holdfast_core::sql::{self, Database, SqlError};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use tokio::time::Instant;

use self::catalogue::Table;
use self::source::Source;
use self::target::Target;

pub use self::catalogue::NOT_COPIED;

/// Text columns of primary keys that errors may show. Others may be secrets or addresses of people.
const SHOWN_KEYS: [&str; 3] = ["name", "queue", "list"];

/// Longest statement of the target: counting the rows of a large table takes longer than any statement of a service.
const STATEMENT_TIMEOUT: Duration = Duration::from_mins(5);

/// Between lines of the log about one table.
const PROGRESS_PERIOD: Duration = Duration::from_secs(5);

/// Longest wait for the target's connections to close.
const CLOSE_DEADLINE: Duration = Duration::from_secs(5);

/// What is copied, and where to.
#[derive(Debug)]
pub struct Options {
    /// `sqlite://path`.
    pub from: SecretString,
    /// `postgres://user@host/database`.
    pub to: SecretString,
    /// Copy although a worker or a beat of the source seems to run.
    pub force: bool,
}

/// What was copied, by table in the order of copying.
#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct Report {
    pub tables: Vec<TableReport>,
}

#[derive(Debug, Serialize, PartialEq, Eq)]
pub struct TableReport {
    pub table: String,
    /// Rows of the source.
    pub rows: u64,
    /// Rows that this run wrote; the others were there from an earlier run.
    pub copied: u64,
    /// Rows that were read from both sides at the end and are equal.
    pub verified: u64,
}

/// Where source and target differ. It has no values, which may be secrets.
#[derive(Debug, PartialEq, Eq)]
pub struct Difference {
    pub table: String,
    /// The primary key, as `id=…`.
    pub key: String,
    /// `None`: the target has no such row.
    pub column: Option<String>,
}

impl std::fmt::Display for Difference {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { table, key, column } = self;
        match column {
            Some(column) => write!(f, "{table}, row {key}: column {column} differs"),
            None => write!(f, "{table}: the target has no row {key}"),
        }
    }
}

/// Why an installation could not be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    #[error("{side}: {source}")]
    Url { side: &'static str, source: SqlError },
    #[error("{side} must be a {expected} URL: the one direction is from SQLite to PostgreSQL")]
    Direction {
        side: &'static str,
        expected: &'static str,
    },
    #[error("--from: there is no database at {0}")]
    NoSource(String),
    #[error("the source cannot be read")]
    Source(#[source] sqlx::Error),
    #[error("the source holds no Holdfast: it has no table holdfast_migrations")]
    NotHoldfast,
    #[error(
        "{who} of the source sent a heartbeat within {seconds} s: stop every service, wait {seconds} s and try again, or give --force if it no longer runs"
    )]
    Running { who: String, seconds: u64 },
    #[error(
        "the source lacks migrations that this version has: run `holdfast migrate` on it first (lacks {0})"
    )]
    SourceBehind(String),
    #[error("the source is of a newer version of Holdfast (migrations {0}): use that version to copy it")]
    SourceAhead(String),
    #[error("source and target do not have the same tables and columns: {}", .0.join("; "))]
    Schema(Vec<String>),
    #[error("the target cannot be migrated")]
    Migrate(#[source] SqlError),
    #[error("the target failed while it should {doing}; the same command goes on where this one stopped")]
    Target {
        doing: &'static str,
        #[source]
        source: sql::UnitError,
    },
    #[error(
        "the target is not empty: {table} has {extra} rows that the source does not have. Copy into an empty database"
    )]
    NotEmpty { table: String, extra: u64 },
    #[error("the target holds another row than the source ({0}). Copy into an empty database")]
    Conflict(Difference),
    #[error("{table}, row {key}: column {column} {problem}")]
    Value {
        table: String,
        key: String,
        column: String,
        problem: &'static str,
    },
    #[error("{table}: the target refuses row {key} ({code}{detail})")]
    Refused {
        table: String,
        key: String,
        code: String,
        detail: String,
    },
    #[error("the copy differs from the source: {0}")]
    Differs(Difference),
    #[error("the copy differs from the source: {table} has {target} rows, in the source {rows}")]
    Count { table: String, rows: u64, target: u64 },
    #[error(
        "something wrote to the source while it was copied: stop every service, and copy into an empty database again"
    )]
    SourceChanged,
}

/// Copies and compares. Progress goes to the log; the same call goes on after an interruption.
///
/// # Errors
/// See [`CopyError`]; whatever was copied by then stays in the target.
pub async fn copy(settings: &Settings, options: &Options) -> Result<Report, CopyError> {
    check_urls(options)?;
    let mut source = Source::open(&options.from).await?;
    if !options.force {
        source
            .refuse_running(settings.worker.lost_after.max(settings.beat.lost_after))
            .await?;
    }
    let mut database = settings.database.clone();
    database.url = options.to.clone();
    database.direct_url = None;
    database.statement_timeout = database.statement_timeout.max(STATEMENT_TIMEOUT);
    sql::migrate(&database).await.map_err(CopyError::Migrate)?;
    let opened = Database::open(&database).map_err(CopyError::Migrate)?;
    let Database::Postgres(postgres) = &opened else {
        return Err(CopyError::Direction {
            side: "--to",
            expected: "postgres://",
        });
    };
    let copied = copy_between(&mut source, &Target::new(postgres)).await;
    opened.close(CLOSE_DEADLINE).await;
    copied
}

fn check_urls(options: &Options) -> Result<(), CopyError> {
    let sides = [
        ("--from", &options.from, ["sqlite:", "sqlite:"], "sqlite://"),
        ("--to", &options.to, ["postgres:", "postgresql:"], "postgres://"),
    ];
    for (side, url, schemes, expected) in sides {
        sql::check_url(url).map_err(|source| CopyError::Url { side, source })?;
        if !schemes
            .iter()
            .any(|scheme| url.expose_secret().starts_with(scheme))
        {
            return Err(CopyError::Direction { side, expected });
        }
    }
    Ok(())
}

async fn copy_between(source: &mut Source, target: &Target<'_>) -> Result<Report, CopyError> {
    compare_migrations(&source.migrations().await?, &target.migrations().await?)?;
    let tables = catalogue::tables(&source.catalogue().await?, &target.catalogue().await?)?;
    let mut there = Vec::with_capacity(tables.len());
    for table in &tables {
        there.push(compare_what_is_there(source, target, table).await?);
    }
    let mut reports = Vec::with_capacity(tables.len());
    for (table, there) in tables.iter().zip(there) {
        reports.push(copy_table(source, target, table, there).await?);
    }
    target.advance_sequences(&tables).await?;
    for (table, report) in tables.iter().zip(&mut reports) {
        report.verified = verify_table(source, target, table).await?;
    }
    source.refuse_changed().await?;
    Ok(Report { tables: reports })
}

fn compare_migrations(source: &[i64], target: &[i64]) -> Result<(), CopyError> {
    let beyond = |these: &[i64], those: &[i64]| {
        let names: Vec<String> = these
            .iter()
            .filter(|version| !those.contains(version))
            .map(|version| format!("{version:04}"))
            .collect();
        (!names.is_empty()).then(|| names.join(", "))
    };
    if let Some(missing) = beyond(target, source) {
        return Err(CopyError::SourceBehind(missing));
    }
    beyond(source, target).map_or(Ok(()), |ahead| Err(CopyError::SourceAhead(ahead)))
}

/// How many rows an earlier run copied. Anything else in the target is an error.
async fn compare_what_is_there(
    source: &mut Source,
    target: &Target<'_>,
    table: &Table,
) -> Result<u64, CopyError> {
    let rows = target.count(table).await?;
    if rows == 0 {
        return Ok(0);
    }
    let mut found = 0;
    let mut after = None;
    while let Some(batch) = source.batch(table, after.as_deref()).await? {
        for (row, other) in batch.rows.iter().zip(target.look_up(table, &batch.rows).await?) {
            let Some(other) = other else { continue };
            if let Some(difference) = table.difference(row, &other) {
                return Err(CopyError::Conflict(difference));
            }
            found += 1;
        }
        after = Some(batch.last_key);
    }
    // Another copy into the same target may have added rows since they were counted.
    match rows.saturating_sub(found) {
        0 => Ok(found),
        extra => Err(CopyError::NotEmpty {
            table: table.name.clone(),
            extra,
        }),
    }
}

async fn copy_table(
    source: &mut Source,
    target: &Target<'_>,
    table: &Table,
    there: u64,
) -> Result<TableReport, CopyError> {
    let mut report = TableReport {
        table: table.name.clone(),
        rows: 0,
        copied: 0,
        verified: 0,
    };
    let mut progress = Progress::new("copied so far", table);
    let mut after = None;
    while let Some(batch) = source.batch(table, after.as_deref()).await? {
        report.rows += batch.rows.len() as u64;
        let mut rows = batch.rows;
        if there > 0 {
            let mut found = target.look_up(table, &rows).await?.into_iter();
            rows.retain(|_| !matches!(found.next(), Some(Some(_))));
        }
        target.insert(table, &rows).await?;
        report.copied += rows.len() as u64;
        progress.log(report.rows);
        after = Some(batch.last_key);
    }
    if report.copied > 0 {
        target.analyze(table).await;
        tracing::info!(table = table.name, rows = report.copied, "copied");
    }
    Ok(report)
}

async fn verify_table(source: &mut Source, target: &Target<'_>, table: &Table) -> Result<u64, CopyError> {
    let mut verified = 0;
    let mut progress = Progress::new("compared so far", table);
    let mut after = None;
    while let Some(batch) = source.batch(table, after.as_deref()).await? {
        for (row, other) in batch.rows.iter().zip(target.look_up(table, &batch.rows).await?) {
            let difference = match other {
                Some(other) => table.difference(row, &other),
                None => Some(table.missing(row)),
            };
            if let Some(difference) = difference {
                return Err(CopyError::Differs(difference));
            }
            verified += 1;
        }
        progress.log(verified);
        after = Some(batch.last_key);
    }
    let rows = target.count(table).await?;
    if rows == verified {
        Ok(verified)
    } else {
        Err(CopyError::Count {
            table: table.name.clone(),
            rows: verified,
            target: rows,
        })
    }
}

/// Lines of the log about one table, now and then.
struct Progress<'a> {
    doing: &'static str,
    table: &'a Table,
    logged: Instant,
}

impl<'a> Progress<'a> {
    fn new(doing: &'static str, table: &'a Table) -> Self {
        Self {
            doing,
            table,
            logged: Instant::now(),
        }
    }

    fn log(&mut self, rows: u64) {
        if self.logged.elapsed() >= PROGRESS_PERIOD {
            tracing::info!(table = self.table.name, rows, "{}", self.doing);
            self.logged = Instant::now();
        }
    }
}
