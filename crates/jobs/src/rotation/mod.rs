//! Rotation: encrypts stored values under the first key of [`Encryption`], whatever they were before.
//!
//! # What it rewrites
//! The payloads of jobs and of what follows them, of schedules, the callbacks of batches, and the [`SealedColumn`]s of products: each value
//! that is plain and should not be, and each that is encrypted under another key than the first. So it also encrypts what was stored
//! before there were keys, and what was enqueued by SQL.
//!
//! # Invariants
//! - At most [`STEP_ROWS`] rows are rewritten in one transaction, in the order of the primary key.
//! - It waits for no row: one that another transaction has locked, or that changed since it was read, is passed over and counted
//!   ([`RotationReport::skipped`]). The next pass finds it.
//! - A value changes its encryption and nothing else. What is encrypted stays encrypted, also of a kind that this process does not know.
//!
//! # When things fail
//! It may end anywhere and begin again: what is rewritten is found to be so. Any number of processes may rotate at once. A value that
//! cannot be opened is left as it is and counted ([`RotationReport::unreadable`]). Values on Redis are not rewritten: they end with their jobs.
//!
//! # What if a step is late
//! A step that commits after the keys changed again has written values under a key of before, which the next pass finds.

mod links;
mod step;

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use holdfast_core::encryption::{Column, Encryption};
use tokio::time::{Instant, sleep};

use crate::client::Jobs;
use crate::ledger::LedgerError;

/// Most rows of one transaction.
pub const STEP_ROWS: usize = 100;

/// How long a beat pauses between two passes.
pub const PASS_EVERY: Duration = Duration::from_mins(10);

/// How long a pass pauses between two steps that rewrote rows: it is in no hurry.
const STEP_PAUSE: Duration = Duration::from_millis(20);

/// After an error.
const RETRY_PAUSE: Duration = Duration::from_secs(30);

/// A column whose values are encrypted where there are keys.
#[derive(Debug, Clone, Copy)]
pub struct SealedColumn {
    pub table: &'static str,
    /// The column of the primary key.
    pub key: &'static str,
    pub column: &'static str,
    /// What takes the column's part in [`Column`]: columns between which values move have one place.
    pub place: &'static str,
    pub form: SealedForm,
}

/// How a column holds its value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SealedForm {
    /// As a text, in a row whose key is a UUID.
    Text,
    /// As a member of a JSON document that is stored as a text, in a row whose key is a UUID.
    Member(&'static str),
    /// As bytes, in a row whose key is a text.
    Bytes,
}

impl SealedColumn {
    /// The place of one row's value. `row` is the key; of a UUID its 36 characters in lower case.
    pub fn column<'a>(&self, row: &'a str) -> Column<'a> {
        Column {
            table: self.table,
            column: self.place,
            row,
        }
    }
}

/// How far a pass has come.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationPosition {
    /// Which of the tables, from 0.
    pub(crate) table: usize,
    /// The key after which it goes on; empty: from the beginning.
    pub(crate) after: String,
}

impl fmt::Display for RotationPosition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.table, self.after)
    }
}

/// The text is no position.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not the `next` of a rotation")]
pub struct InvalidPosition;

impl FromStr for RotationPosition {
    type Err = InvalidPosition;

    fn from_str(text: &str) -> Result<Self, InvalidPosition> {
        let (table, after) = text.split_once(':').ok_or(InvalidPosition)?;
        if after.contains('\0') {
            return Err(InvalidPosition);
        }
        Ok(Self {
            table: table.parse().map_err(|_| InvalidPosition)?,
            after: after.to_owned(),
        })
    }
}

/// What a pass, or a part of it, did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RotationReport {
    /// Rows.
    pub rewritten: u64,
    /// Rows that were locked or changed meanwhile.
    pub skipped: u64,
    /// Rows that could not be opened, by the reason.
    pub unreadable: BTreeMap<String, u64>,
    /// Where it goes on; `None`: the pass is complete.
    pub next: Option<RotationPosition>,
}

impl RotationReport {
    pub(crate) fn unreadable(&mut self, reason: impl fmt::Display) {
        *self.unreadable.entry(reason.to_string()).or_default() += 1;
    }

    fn add(&mut self, other: Self) {
        self.rewritten += other.rewritten;
        self.skipped += other.skipped;
        for (reason, rows) in other.unreadable {
            *self.unreadable.entry(reason).or_default() += rows;
        }
        self.next = other.next;
    }
}

/// Rotates the values of one database. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Rotation {
    jobs: Jobs,
    columns: Arc<[SealedColumn]>,
}

impl Rotation {
    /// `columns` are those of the products.
    pub fn new(jobs: &Jobs, columns: impl IntoIterator<Item = SealedColumn>) -> Self {
        Self {
            jobs: jobs.clone(),
            columns: columns.into_iter().collect(),
        }
    }

    pub fn encryption(&self) -> &Encryption {
        self.jobs.encryption()
    }

    /// Goes on from a position until the pass is complete or the time is up; at least one step. Without keys there is nothing to do.
    pub async fn run(&self, from: RotationPosition, time: Duration) -> Result<RotationReport, LedgerError> {
        let until = Instant::now() + time;
        let mut rotated = RotationReport::default();
        let Some(prefix) = self.encryption().current_prefix() else {
            return Ok(rotated);
        };
        // Declared kinds mark fields too.
        self.jobs.declared().current().await?;
        let mut position = from;
        loop {
            rotated.add(self.step(&position, &prefix).await?);
            match &rotated.next {
                Some(next) if Instant::now() < until => position = next.clone(),
                _ => return Ok(rotated),
            }
        }
    }

    /// The duty of a beat: a pass at the start and then every [`PASS_EVERY`], where there are keys. It never ends.
    pub async fn keep_rotating(self) {
        if !self.encryption().is_on() {
            return std::future::pending().await;
        }
        loop {
            let pause = match self.pass().await {
                Ok(rotated) => {
                    report(&rotated);
                    PASS_EVERY
                }
                Err(error) => {
                    tracing::debug!(error = ?error, "stored values cannot be encrypted anew now");
                    RETRY_PAUSE
                }
            };
            sleep(pause).await;
        }
    }

    async fn pass(&self) -> Result<RotationReport, LedgerError> {
        let (mut total, mut position) = (RotationReport::default(), RotationPosition::default());
        loop {
            let part = self.run(position, Duration::ZERO).await?;
            let has_written = part.rewritten > 0;
            total.add(part);
            match total.next.clone() {
                Some(next) => position = next,
                None => return Ok(total),
            }
            if has_written {
                sleep(STEP_PAUSE).await;
            }
        }
    }
}

fn report(rotated: &RotationReport) {
    if rotated.rewritten > 0 {
        tracing::info!(
            rows = rotated.rewritten,
            skipped = rotated.skipped,
            "stored values were encrypted under the first key"
        );
    }
    for (reason, rows) in &rotated.unreadable {
        tracing::warn!(rows, reason, "stored values cannot be decrypted");
    }
}
