//! What an entry says.

use std::fmt;
use std::sync::{Mutex, PoisonError};

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use serde_json::value::RawValue;
use ulid::Ulid;

/// The names of the engine's actions and of those on keys, users and sessions. Each product has its own.
pub mod action {
    pub const QUEUE_PAUSE: &str = "queue.pause";
    pub const QUEUE_RESUME: &str = "queue.resume";
    pub const QUEUE_PURGE: &str = "queue.purge";
    pub const QUEUE_LIMIT: &str = "queue.limit";
    pub const QUEUE_KEY: &str = "queue.key";
    pub const QUEUE_PUT: &str = "queue.put";
    pub const QUEUE_DELETE: &str = "queue.delete";
    pub const KIND_PUT: &str = "kind.put";
    pub const KIND_DELETE: &str = "kind.delete";
    pub const WORKER_DRAIN: &str = "worker.drain";
    pub const JOB_CANCEL: &str = "job.cancel";
    pub const JOB_RETRY: &str = "job.retry";
    pub const JOB_EDIT: &str = "job.edit";
    pub const JOBS_CANCEL: &str = "jobs.cancel";
    pub const BATCH_CANCEL: &str = "batch.cancel";
    pub const DEAD_LETTERS_REDRIVE: &str = "dead_letters.redrive";
    pub const DEAD_LETTERS_DELETE: &str = "dead_letters.delete";
    pub const ENCRYPTION_ROTATE: &str = "encryption.rotate";
    pub const KEY_CREATE: &str = "key.create";
    pub const KEY_ROTATE: &str = "key.rotate";
    pub const KEY_REVOKE: &str = "key.revoke";
    pub const USER_CREATE: &str = "user.create";
    pub const USER_UPDATE: &str = "user.update";
    pub const USER_DELETE: &str = "user.delete";
    pub const SESSION_REVOKE: &str = "session.revoke";
    pub const SCHEDULE_CREATE: &str = "schedule.create";
    pub const SCHEDULE_UPDATE: &str = "schedule.update";
    pub const SCHEDULE_DELETE: &str = "schedule.delete";
    pub const SCHEDULE_RUN: &str = "schedule.run";
}

/// Longest actor or target that is kept, in bytes; what is longer is cut.
pub const MAX_ACTOR_BYTES: usize = 255;

/// Longest details that are kept, in bytes of JSON; what is larger is replaced by its size.
pub const MAX_DETAILS_BYTES: usize = 8_192;

/// Longest request id that is kept, in bytes.
const MAX_REQUEST_ID_BYTES: usize = 128;

holdfast_core::ids! {
    /// Names one entry; a ULID, so entries sort by time, and those of one process in the order in which it wrote them.
    AuditId;
}

impl AuditId {
    /// Later than every one before it in this process, also within a millisecond, and when the clock is set back.
    pub(crate) fn next() -> Self {
        static LAST: Mutex<u128> = Mutex::new(0);
        let fresh = Self::generate();
        let mut last = LAST.lock().unwrap_or_else(PoisonError::into_inner);
        *last = if fresh.created_ms() > Ulid(*last).timestamp_ms() {
            fresh.as_ulid().0
        } else {
            last.saturating_add(1)
        };
        Self::from_ulid(Ulid(*last))
    }
}

/// Who acts, as entries name them: `key/<id>`, `user/<name>`, `cli/<login>`, `bootstrap`, `local` or `system`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Actor(String);

impl Actor {
    /// An API key, by its id.
    pub fn key(id: impl fmt::Display) -> Self {
        Self::named("key/", id)
    }

    /// A user, by id or name.
    pub fn user(name: impl fmt::Display) -> Self {
        Self::named("user/", name)
    }

    /// Whoever runs the command line, by the login of the operating system.
    pub fn cli() -> Self {
        Self::named("cli/", holdfast_core::config::login_name())
    }

    /// The holder of `HOLDFAST_API_KEY`.
    pub fn bootstrap() -> Self {
        Self("bootstrap".to_owned())
    }

    /// This machine, while there is no key at all.
    pub fn local() -> Self {
        Self("local".to_owned())
    }

    /// Holdfast itself, such as a schedule from the configuration.
    pub fn system() -> Self {
        Self("system".to_owned())
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }

    fn named(prefix: &str, name: impl fmt::Display) -> Self {
        Self(cut(&format!("{prefix}{name}"), MAX_ACTOR_BYTES))
    }
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Who acts, and in which request.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AuditContext {
    pub actor: Actor,
    /// What the server's log calls the request; none from the command line.
    pub request_id: Option<String>,
}

impl AuditContext {
    pub fn new(actor: Actor) -> Self {
        Self {
            actor,
            request_id: None,
        }
    }

    #[must_use]
    pub fn in_request(mut self, id: &str) -> Self {
        self.request_id = Some(cut(id, MAX_REQUEST_ID_BYTES));
        self
    }
}

/// What was done.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// One of [`action`].
    pub action: &'static str,
    /// The queue, job, key, … that the action changed.
    pub target: Option<String>,
    /// Number of changed rows, for actions that change many.
    pub count: Option<u64>,
    pub details: Option<Value>,
}

impl AuditEntry {
    pub fn new(action: &'static str) -> Self {
        Self {
            action,
            target: None,
            count: None,
            details: None,
        }
    }

    #[must_use]
    pub fn target(mut self, target: impl fmt::Display) -> Self {
        self.target = Some(cut(&target.to_string(), MAX_ACTOR_BYTES));
        self
    }

    #[must_use]
    pub fn count(mut self, count: u64) -> Self {
        self.count = Some(count);
        self
    }

    /// Never a secret, never a payload.
    #[must_use]
    pub fn details(mut self, details: Value) -> Self {
        self.details = Some(details);
        self
    }

    /// The details as they are stored.
    pub(super) fn details_text(&self) -> Option<String> {
        let text = self.details.as_ref()?.to_string().replace("\\u0000", "");
        Some(if text.len() > MAX_DETAILS_BYTES {
            format!("{{\"left_out_bytes\":{}}}", text.len())
        } else {
            text
        })
    }
}

/// An entry as it is listed.
#[derive(Debug, Clone, Serialize)]
pub struct AuditRecord {
    pub id: AuditId,
    pub at: DateTime<Utc>,
    pub actor: String,
    pub action: String,
    pub target: Option<String>,
    pub count: Option<u64>,
    pub request_id: Option<String>,
    pub details: Option<Box<RawValue>>,
    /// False: a bulk operation that has more to do, and may be continued.
    pub finished: bool,
}

/// Which entries to list.
#[derive(Debug, Clone, Default)]
pub struct AuditFilter {
    pub actor: Option<String>,
    /// An action, or its first part with a dot (`queue.`) for all of them.
    pub action: Option<String>,
    pub target: Option<String>,
    /// Not before.
    pub from: Option<DateTime<Utc>>,
    /// Before.
    pub to: Option<DateTime<Utc>>,
    /// Only entries older than this one.
    pub after: Option<AuditId>,
    pub limit: usize,
}

/// At most so many bytes, and no NUL, which PostgreSQL cannot hold.
fn cut(text: &str, most: usize) -> String {
    let mut text = text.replace('\0', "");
    let mut end = most.min(text.len());
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.truncate(end);
    text
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn entries_of_a_process_are_in_the_order_in_which_it_wrote_them() {
        let ids: Vec<AuditId> = (0..10_000).map(|_| AuditId::next()).collect();
        assert!(ids.is_sorted_by(|earlier, later| earlier < later));
    }

    #[test]
    fn what_is_too_long_is_cut_at_a_character() {
        assert_eq!(cut("añb", 2), "a");
        let by = AuditContext::new(Actor::user("é".repeat(300))).in_request(&"r".repeat(500));
        assert!(by.actor.as_str().len() <= MAX_ACTOR_BYTES);
        assert_eq!(by.request_id.unwrap().len(), MAX_REQUEST_ID_BYTES);
    }

    #[test]
    fn large_details_are_left_out_and_their_size_kept() {
        let entry = AuditEntry::new(action::QUEUE_PURGE).details(json!({"x": "y".repeat(MAX_DETAILS_BYTES)}));
        assert!(entry.details_text().unwrap().starts_with("{\"left_out_bytes\":8"));
    }
}
