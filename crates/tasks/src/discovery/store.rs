//! The table of sources, on either database.

use std::time::Duration;

use chrono::DateTime;
use holdfast_jobs::LedgerTx;
use holdfast_jobs::enqueue::{EnqueueError, Enqueued};
use holdfast_jobs::ledger::LedgerError;
use ulid::Ulid;
use uuid::Uuid;

use super::Sources;
use super::run::{EventsDiscover, Report};
use super::source::{MAX_SOURCES, SourceFault, SourceId, SourceRecord};

/// Why a source was not changed or shown.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// Every fault, at least one.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("; "))]
    Invalid(Vec<SourceFault>),
    #[error("there is no source {0}")]
    Unknown(SourceId),
    #[error("there is a source {0:?} already")]
    NameTaken(String),
    #[error("there are {MAX_SOURCES} sources already, and more are not kept")]
    TooMany,
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

/// The same query on either database: its two texts, and what is done with it.
macro_rules! on_either {
    ($tx:expr, $named:expr, $postgres:expr, $sqlite:expr, |$query:ident, $on:ident| $done:expr) => {
        match $tx.on() {
            LedgerTx::Postgres($on) => {
                let $query = sqlx::query_as($postgres).persistent($named);
                $done
            }
            LedgerTx::Sqlite($on) => {
                let $query = sqlx::query_as($sqlite);
                $done
            }
        }
    };
}
pub(super) use on_either;

pub(super) type Row = (
    Uuid,
    String,
    String,
    bool,
    i32,
    Option<i64>,
    Option<String>,
    Option<String>,
    i32,
    Option<i64>,
    Option<i64>,
    Option<String>,
    i64,
    i64,
);

macro_rules! postgres_columns {
    () => {
        "id, name, definition, enabled, revision, (extract(epoch from next_run_at) * 1000)::bigint, etag, last_modified,
         failures, (extract(epoch from last_run_at) * 1000)::bigint, (extract(epoch from last_success_at) * 1000)::bigint,
         report, (extract(epoch from created_at) * 1000)::bigint, (extract(epoch from updated_at) * 1000)::bigint"
    };
}
macro_rules! sqlite_columns {
    () => {
        "id, name, definition, enabled, revision, next_run_at, etag, last_modified, failures, last_run_at,
         last_success_at, report, created_at, updated_at"
    };
}
macro_rules! sqlite_now {
    () => {
        "cast(unixepoch('subsec') * 1000 as integer)"
    };
}
pub(super) use {postgres_columns, sqlite_columns, sqlite_now};

pub(super) fn record(row: Row) -> Result<SourceRecord, LedgerError> {
    let (
        id,
        name,
        definition,
        enabled,
        revision,
        next,
        etag,
        last_modified,
        failures,
        ran,
        succeeded,
        report,
        made,
        edited,
    ) = row;
    let at = |millis| DateTime::from_timestamp_millis(millis).unwrap_or_default();
    let corrupt = |error: serde_json::Error| LedgerError::Corrupt(format!("the source {name}: {error}"));
    Ok(SourceRecord {
        id: SourceId(Ulid(id.as_u128())),
        enabled,
        definition: serde_json::from_str(&definition).map_err(corrupt)?,
        revision,
        next_run_at: next.map(at),
        etag,
        last_modified,
        failures: u32::try_from(failures).unwrap_or_default(),
        last_run_at: ran.map(at),
        last_success_at: succeeded.map(at),
        report: report
            .as_deref()
            .map(serde_json::from_str)
            .transpose()
            .map_err(corrupt)?,
        created_at: at(made),
        updated_at: at(edited),
        name,
    })
}

pub(super) fn uuid(id: SourceId) -> Uuid {
    Uuid::from_u128(id.0.0)
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX / 4)
}

pub(super) fn encoded(value: &impl serde::Serialize) -> Result<String, LedgerError> {
    serde_json::to_string(value).map_err(|error| LedgerError::Corrupt(error.to_string()))
}

/// What a run leaves behind.
pub(super) struct Outcome<'a> {
    pub(super) report: &'a Report,
    pub(super) failures: u32,
    /// Of a success: what to send along next time.
    pub(super) validators: Option<(Option<&'a str>, Option<&'a str>)>,
    /// Of a failure: the rest.
    pub(super) rest: Option<Duration>,
}

/// A source whose moment has come.
#[derive(Debug, Clone, Copy)]
pub(super) struct Due {
    pub(super) id: SourceId,
    /// Milliseconds since the epoch.
    pub(super) tick: i64,
    pub(super) interval: Duration,
}

impl Sources {
    pub async fn get(&self, id: SourceId) -> Result<SourceRecord, SourceError> {
        let sql = &self.0.sql;
        let row: Option<Row> = sql
            .within("read a source", async {
                let mut tx = sql.begin_read().await?;
                let row = on_either!(
                    tx,
                    sql.named(),
                    concat!(
                        "select ",
                        postgres_columns!(),
                        " from holdfast_sources where id = $1"
                    ),
                    concat!(
                        "select ",
                        sqlite_columns!(),
                        " from holdfast_sources where id = $1"
                    ),
                    |query, on| query.bind(uuid(id)).fetch_optional(on).await?
                );
                tx.commit().await?;
                Ok(row)
            })
            .await?;
        Ok(record(row.ok_or(SourceError::Unknown(id))?)?)
    }

    /// By id, which is the order in which they were made, from the one after `after`.
    pub async fn list(
        &self,
        after: Option<SourceId>,
        limit: usize,
    ) -> Result<Vec<SourceRecord>, LedgerError> {
        let (after, limit) = (
            uuid(after.unwrap_or(SourceId(Ulid(0)))),
            i64::try_from(limit).unwrap_or(i64::MAX),
        );
        let sql = &self.0.sql;
        let rows: Vec<Row> = sql
            .within("list sources", async {
                let mut tx = sql.begin_read().await?;
                let rows = on_either!(
                    tx,
                    sql.named(),
                    concat!(
                        "select ",
                        postgres_columns!(),
                        " from holdfast_sources where id > $1 order by id limit $2"
                    ),
                    concat!(
                        "select ",
                        sqlite_columns!(),
                        " from holdfast_sources where id > $1 order by id limit $2"
                    ),
                    |query, on| query.bind(after).bind(limit).fetch_all(on).await?
                );
                tx.commit().await?;
                Ok(rows)
            })
            .await?;
        rows.into_iter().map(record).collect()
    }

    /// Discovers it now, beside its rhythm, enabled or not.
    pub async fn discover_now(&self, id: SourceId) -> Result<Enqueued, SourceError> {
        self.get(id).await?;
        let job = EventsDiscover { source: id };
        Ok(self.0.jobs.enqueue(job).unique(id.to_string()).await?)
    }

    /// Those whose moment has come, the longest overdue first.
    pub(super) async fn due(&self, limit: usize) -> Result<Vec<Due>, LedgerError> {
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        let sql = &self.0.sql;
        let rows: Vec<(Uuid, i64, i64)> = sql
            .within("look for due sources", async {
                let mut tx = sql.begin_read().await?;
                let rows = on_either!(
                    tx,
                    sql.named(),
                    "select id, (extract(epoch from next_run_at) * 1000)::bigint,
                            (definition::json ->> 'interval_seconds')::bigint
                     from holdfast_sources where next_run_at <= now() order by next_run_at limit $1",
                    concat!(
                        "select id, next_run_at, definition ->> 'interval_seconds' from holdfast_sources
                         where next_run_at <= ",
                        sqlite_now!(),
                        " order by next_run_at limit $1"
                    ),
                    |query, on| query.bind(limit).fetch_all(on).await?
                );
                tx.commit().await?;
                Ok(rows)
            })
            .await?;
        let due = |(id, tick, seconds): (Uuid, i64, i64)| Due {
            id: SourceId(Ulid(id.as_u128())),
            tick,
            interval: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        };
        Ok(rows.into_iter().map(due).collect())
    }

    /// Moves a source on from a moment, if it still waits for that one.
    pub(super) async fn move_on(&self, due: Due, rest: Duration) -> Result<(), LedgerError> {
        let sql = &self.0.sql;
        let _: Option<(Uuid,)> = sql
            .within("move a source on", async {
                let mut tx = sql.begin().await?;
                let moved = on_either!(
                    tx,
                    sql.named(),
                    "update holdfast_sources
                     set next_run_at = date_trunc('milliseconds', now() + $3 * interval '1 millisecond')
                     where id = $1 and next_run_at = 'epoch'::timestamptz + $2 * interval '1 millisecond' returning id",
                    concat!(
                        "update holdfast_sources set next_run_at = ", sqlite_now!(),
                        " + $3 where id = $1 and next_run_at = $2 returning id"
                    ),
                    |query, on| query
                        .bind(uuid(due.id))
                        .bind(due.tick)
                        .bind(millis(rest))
                        .fetch_optional(on)
                        .await?
                );
                tx.commit().await?;
                Ok(moved)
            })
            .await?;
        Ok(())
    }

    /// Writes down what came of a run, unless the source was edited since.
    pub(super) async fn note(&self, source: &SourceRecord, outcome: &Outcome<'_>) -> Result<(), LedgerError> {
        let report = encoded(outcome.report)?;
        let (etag, last_modified) = match outcome.validators {
            Some((etag, last_modified)) => (etag, last_modified),
            None => (source.etag.as_deref(), source.last_modified.as_deref()),
        };
        let (failures, rest) = (
            i32::try_from(outcome.failures).unwrap_or(i32::MAX),
            outcome.rest.map(millis),
        );
        let sql = &self.0.sql;
        let _: Option<(Uuid,)> = sql
            .within("note a discovery", async {
                let mut tx = sql.begin().await?;
                let noted = on_either!(
                    tx,
                    sql.named(),
                    "update holdfast_sources
                     set report = $3, failures = $4, etag = $5, last_modified = $6, last_run_at = now(),
                         last_success_at = case when $4 = 0 then now() else last_success_at end,
                         next_run_at = case when $7::bigint is null or next_run_at is null then next_run_at
                             else date_trunc('milliseconds', now() + $7 * interval '1 millisecond') end
                     where id = $1 and revision = $2 returning id",
                    concat!(
                        "update holdfast_sources
                         set report = $3, failures = $4, etag = $5, last_modified = $6, last_run_at = ",
                        sqlite_now!(),
                        ",
                             last_success_at = case when $4 = 0 then ",
                        sqlite_now!(),
                        " else last_success_at end,
                             next_run_at = case when $7 is null or next_run_at is null then next_run_at
                                 else ",
                        sqlite_now!(),
                        " + $7 end
                         where id = $1 and revision = $2 returning id"
                    ),
                    |query, on| query
                        .bind(uuid(source.id))
                        .bind(source.revision)
                        .bind(&report)
                        .bind(failures)
                        .bind(etag)
                        .bind(last_modified)
                        .bind(rest)
                        .fetch_optional(on)
                        .await?
                );
                tx.commit().await?;
                Ok(noted)
            })
            .await?;
        Ok(())
    }
}
