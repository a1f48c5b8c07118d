//! What a run did, as it is stored with the source and as the job answers it.

use holdfast_core::telemetry::catalogue;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use ulid::Ulid;

use crate::discovery::parse::Note;

/// Notes that a report keeps.
pub(super) const MAX_NOTES: usize = 20;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    Ok,
    /// The server says that nothing has changed.
    Unchanged,
    Failed,
}

/// An event that is new or changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    pub id: Ulid,
    pub title: String,
    /// `inserted`, `changed` or `cancelled`.
    pub outcome: String,
}

/// What a run did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    pub status: Status,
    /// Why it failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub took_ms: u64,
    /// Of the answers, unpacked.
    pub bytes: u64,
    /// That could be read.
    pub entries: u64,
    pub inserted: u64,
    pub changed: u64,
    pub unchanged: u64,
    /// That another event says already.
    pub duplicates: u64,
    /// That are over.
    pub outside: u64,
    /// That could not be read.
    pub skipped: u64,
    /// How often a subscription matched something new or changed.
    pub notices: u64,
    /// Deliveries to webhooks that this made.
    pub webhooks: u64,
    /// Mails that this made.
    pub mails: u64,
    /// What was skipped or odd; the first ones.
    pub notes: Vec<Note>,
    /// The first ones.
    pub changes: Vec<Change>,
}

impl Report {
    pub(super) fn new() -> Self {
        Self {
            status: Status::Ok,
            error: None,
            took_ms: 0,
            bytes: 0,
            entries: 0,
            inserted: 0,
            changed: 0,
            unchanged: 0,
            duplicates: 0,
            outside: 0,
            skipped: 0,
            notices: 0,
            webhooks: 0,
            mails: 0,
            notes: Vec::new(),
            changes: Vec::new(),
        }
    }

    /// In the metrics.
    pub(super) fn count(&self) {
        let status = match self.status {
            Status::Ok => "ok",
            Status::Unchanged => "unchanged",
            Status::Failed => "failed",
        };
        catalogue::DISCOVERY_RUNS.with([status]).increment(1);
        for (outcome, count) in [
            ("inserted", self.inserted),
            ("changed", self.changed),
            ("unchanged", self.unchanged),
            ("duplicate", self.duplicates),
            ("outside", self.outside),
            ("skipped", self.skipped),
        ] {
            catalogue::DISCOVERY_EVENTS.with([outcome]).increment(count);
        }
    }

    pub(crate) fn skip(&mut self, note: Note) {
        self.skipped += 1;
        self.note(note);
    }

    pub(crate) fn note(&mut self, note: Note) {
        if self.notes.len() < MAX_NOTES {
            self.notes.push(note);
        }
    }
}

/// The job's result: the report without its lists.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[schemars(rename = "Discovered")]
pub struct DiscoverySummary {
    pub status: Status,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
    pub entries: u64,
    pub inserted: u64,
    pub changed: u64,
    pub skipped: u64,
}
