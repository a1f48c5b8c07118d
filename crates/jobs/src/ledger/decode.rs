//! Rows that cannot be read, one by one.
//!
//! A row may hold what this version cannot read: a newer version wrote it while a deployment rolls, or it is damaged. It
//! must not fail the statement that reads it beside others: a claim would put all of its jobs back, and claim them again,
//! for ever. So each value that cannot be read takes its default, and the fault is noted: a claimed job is discarded with it
//! as its error ([`crate::ledger::ClaimedJob::unreadable`]), a record shows it among its errors.

use std::fmt::Display;

use holdfast_core::clock;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use sqlx::FromRow as _;

use super::{ErrorRecord, JobRecord};

/// The class of the error that says so.
pub(crate) const UNREADABLE: &str = "unreadable";

/// The values of one row, and what could not be read of them.
#[derive(Debug, Default)]
pub(super) struct DecodedRow {
    faults: Vec<String>,
}

/// The records of a page. A row in a state that this version does not know is left out; a page without it is better than
/// none.
pub(crate) fn records<R: sqlx::Row>(rows: &[R]) -> Vec<JobRecord>
where
    JobRecord: for<'r> sqlx::FromRow<'r, R>,
{
    let read = |row: &R| {
        let read = JobRecord::from_row(row);
        read.inspect_err(
            |error| tracing::error!(error = %error, "a job cannot be read and is left out of a list"),
        )
        .ok()
    };
    rows.iter().filter_map(read).collect()
}

type Column<T> = Result<T, sqlx::Error>;

impl DecodedRow {
    /// JSON as it is stored; `null` if it is not JSON.
    pub(super) fn raw(&mut self, column: &str, text: Column<String>) -> Box<RawValue> {
        let text = self.column(column, text);
        let read = text.and_then(|text| self.value(column, RawValue::from_string(text)));
        read.unwrap_or_else(|| RawValue::NULL.to_owned())
    }

    pub(super) fn optional_raw(
        &mut self,
        column: &str,
        text: Column<Option<String>>,
    ) -> Option<Box<RawValue>> {
        let text = self.column(column, text).flatten()?;
        self.value(column, RawValue::from_string(text))
    }

    /// A value of our own in a column that may be null.
    pub(super) fn json<T: DeserializeOwned + Default>(
        &mut self,
        column: &str,
        text: Column<Option<String>>,
    ) -> T {
        let text = self.column(column, text).flatten();
        let read = text.and_then(|text| self.value(column, serde_json::from_str(&text)));
        read.unwrap_or_default()
    }

    fn column<T>(&mut self, column: &str, read: Column<T>) -> Option<T> {
        self.value(column, read)
    }

    fn value<T, E: Display>(&mut self, column: &str, read: Result<T, E>) -> Option<T> {
        read.inspect_err(|error| self.faults.push(format!("{column}: {error}")))
            .ok()
    }

    /// What could not be read. `None`: all could.
    pub(super) fn faults(self) -> Option<String> {
        (!self.faults.is_empty())
            .then(|| format!("this version cannot read the job: {}", self.faults.join("; ")))
    }

    /// Shows the faults among the errors of a record.
    pub(super) fn note_in(self, record: &mut JobRecord) {
        let attempt = record.attempt;
        if let Some(faults) = self.faults() {
            record
                .errors
                .push(ErrorRecord::new(clock::now(), attempt, UNREADABLE, &faults, ""));
        }
    }
}
