//! The table of sources, on either database.

use std::time::Duration;

use chrono::DateTime;
use holdfast_core::encryption::{Column, Encryption};
use holdfast_jobs::enqueue::{EnqueueError, EnqueuedJob};
use holdfast_jobs::ledger::LedgerError;
use holdfast_jobs::rotation::{SealedColumn, SealedForm};
use uuid::Uuid;

use super::Sources;
use super::run::{EventsDiscover, Report};
use super::source::{Definition, MAX_SOURCES, SourceFault, SourceId, SourceRecord};
use holdfast_core::sql::dialect::{self, read_either, write_either};

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
    #[error("{MAX_SOURCES} sources already exist, which is the limit")]
    TooMany,
    #[error(transparent)]
    Enqueue(#[from] EnqueueError),
    #[error(transparent)]
    Ledger(#[from] LedgerError),
}

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

/// As [`record`] reads them.
pub(super) const COLUMNS: &str =
    "id, name, definition, enabled, revision, @ms(next_run_at), etag, last_modified, failures,
    @ms(last_run_at), @ms(last_success_at), report, @ms(created_at), @ms(updated_at)";

pub(super) fn record(encryption: &Encryption, row: Row) -> Result<SourceRecord, LedgerError> {
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
    let mut found: Definition = serde_json::from_str(&definition)
        .map_err(|error| LedgerError::Corrupt(format!("the source {name}: {error}")))?;
    found.url = opened(encryption, &URL.column(&id.to_string()), found.url)?;
    let corrupt = |error: serde_json::Error| LedgerError::Corrupt(format!("the source {name}: {error}"));
    Ok(SourceRecord {
        id: SourceId::from_uuid(id),
        enabled,
        definition: found,
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

/// The columns that are encrypted where there are keys: of a definition the URL alone, because SQL reads the rest.
pub(crate) const SEALED: &[SealedColumn] = &[URL, BODY_URL];

const URL: SealedColumn = SealedColumn {
    table: "holdfast_sources",
    key: "id",
    column: "definition",
    place: "definition.url",
    form: SealedForm::Member("url"),
};

pub(super) const BODY_URL: SealedColumn = SealedColumn {
    table: "holdfast_source_bodies",
    key: "source_id",
    column: "url",
    place: "url",
    form: SealedForm::Text,
};

fn opened(
    encryption: &Encryption,
    column: &Column<'_>,
    stored: Option<String>,
) -> Result<Option<String>, LedgerError> {
    let opened = stored.map(|stored| encryption.open_text(column, stored));
    opened.transpose().map_err(|source| LedgerError::Sealed {
        what: "the URL of a source",
        source,
    })
}

/// A definition as it is stored.
pub(super) fn stored_definition(
    encryption: &Encryption,
    id: Uuid,
    definition: &Definition,
) -> Result<String, LedgerError> {
    let row = id.to_string();
    let url = definition.url.as_deref();
    encoded(&Definition {
        url: url.map(|url| encryption.seal_text(&URL.column(&row), url)),
        ..definition.clone()
    })
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
pub(super) struct DueSource {
    pub(super) id: SourceId,
    /// Milliseconds since the epoch.
    pub(super) tick: i64,
    pub(super) interval: Duration,
}

impl Sources {
    pub async fn get(&self, id: SourceId) -> Result<SourceRecord, SourceError> {
        let text = format!("select {COLUMNS} from holdfast_sources where id = $1");
        let row = read_either!(
            self.0.sql,
            "read a source",
            query_as::<Row>(&text),
            [id.as_uuid()],
            fetch_optional
        )?;
        Ok(record(
            self.0.jobs.encryption(),
            row.ok_or(SourceError::Unknown(id))?,
        )?)
    }

    /// By id, which is the order in which they were made, from the one after `after`.
    pub async fn list(
        &self,
        after: Option<SourceId>,
        limit: usize,
    ) -> Result<Vec<SourceRecord>, LedgerError> {
        let after = after.map_or(Uuid::nil(), SourceId::as_uuid);
        let text = format!("select {COLUMNS} from holdfast_sources where id > $1 order by id limit $2");
        let rows = read_either!(
            self.0.sql,
            "list sources",
            query_as::<Row>(&text),
            [after, dialect::rows(limit)],
            fetch_all
        )?;
        rows.into_iter()
            .map(|row| record(self.0.jobs.encryption(), row))
            .collect()
    }

    /// Discovers it now, beside its rhythm, enabled or not.
    pub async fn discover_now(&self, id: SourceId) -> Result<EnqueuedJob, SourceError> {
        self.get(id).await?;
        let job = EventsDiscover { source: id };
        Ok(self.0.jobs.enqueue(job).unique(id.to_string()).await?)
    }

    /// Those whose moment has come, the longest overdue first.
    pub(super) async fn due(&self, limit: usize) -> Result<Vec<DueSource>, LedgerError> {
        let text =
            "select id, @ms(next_run_at), cast(cast(definition as @json) ->> 'interval_seconds' as bigint)
            from holdfast_sources where next_run_at <= @now order by next_run_at limit $1";
        let rows = read_either!(
            self.0.sql,
            "look for due sources",
            query_as::<(Uuid, i64, i64)>(text),
            [dialect::rows(limit)],
            fetch_all
        )?;
        let due = |(id, tick, seconds): (Uuid, i64, i64)| DueSource {
            id: SourceId::from_uuid(id),
            tick,
            interval: Duration::from_secs(u64::try_from(seconds).unwrap_or_default()),
        };
        Ok(rows.into_iter().map(due).collect())
    }

    /// Moves a source on from a moment, if it still waits for that one.
    pub(super) async fn move_on(&self, due: DueSource, rest: Duration) -> Result<(), LedgerError> {
        let text =
            "update holdfast_sources set next_run_at = @tick($3) where id = $1 and next_run_at = @at($2)";
        write_either!(
            self.0.sql,
            "move a source on",
            query(text),
            [due.id.as_uuid(), due.tick, dialect::millis(rest)],
            execute
        )?;
        Ok(())
    }

    /// Writes down what came of a run, unless the source was edited since.
    pub(super) async fn note(&self, source: &SourceRecord, outcome: &Outcome<'_>) -> Result<(), LedgerError> {
        let report = encoded(outcome.report)?;
        let (etag, last_modified) = match outcome.validators {
            Some((etag, last_modified)) => (etag, last_modified),
            None => (source.etag.as_deref(), source.last_modified.as_deref()),
        };
        let failures = i32::try_from(outcome.failures).unwrap_or(i32::MAX);
        let rest = outcome.rest.map(dialect::millis);
        let text = "update holdfast_sources
            set report = $3, failures = $4, etag = $5, last_modified = $6, last_run_at = @now,
                last_success_at = case when $4 = 0 then @now else last_success_at end,
                next_run_at = case when $7 is null or next_run_at is null then next_run_at else @tick($7) end
            where id = $1 and revision = $2";
        write_either!(
            self.0.sql,
            "note a discovery",
            query(text),
            [
                source.id.as_uuid(),
                source.revision,
                &report,
                failures,
                etag,
                last_modified,
                rest
            ],
            execute
        )?;
        Ok(())
    }
}
