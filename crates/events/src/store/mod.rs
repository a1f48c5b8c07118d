//! Events: what takes place somewhere, some time. One store for all that bring them (`POST /v1/events`, a discovery) and
//! for all that look for them (`GET /v1/events`, recommendations).
//!
//! # Invariants
//! - An event is (source, uid): bringing it again changes it if it says something else, and nothing otherwise. Its id
//!   stays. [`Events::upsert`] tells which of the three it was.
//! - A cancelled event stays, marked, and is not found unless asked for. Bringing it again without the mark revives it.
//! - What it says is told by [`NewEvent::content_hash`]: two sources that bring the same event agree in it.
//! - Cached answers ([`ANSWERS`]) are forgotten on every server once a change is committed. A process that dies in
//!   between leaves them to their time, `cache.api_response_ttl_seconds`.
//! - An event goes `events.retain_past_seconds` after its end, if no interaction names it (`prune.rs`).
//!
//! # When things fail
//! Everything is SQL: while that is away nothing is accepted, and what was cached is served. A batch is stored in
//! transactions of [`BATCH`]; after a failure the same batch may be sent again, which doubles nothing.

mod check;
mod export;
mod find;
mod prune;
mod upsert;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use chrono::{DateTime, Utc};
use holdfast_cache::{Cache, Class, Namespace};
use holdfast_core::config::Settings;
use holdfast_core::sql::Database;
use holdfast_jobs::sql::Sql;
use serde::Serialize;
use ulid::Ulid;

use crate::EventsSettings;

pub use self::check::{EventFault, MAX_DESCRIPTION, MAX_TITLE, MAX_UID};
pub(crate) use self::export::{ForTraining, TableChange};
pub use self::find::{Filter, MAX_SEARCH_WORDS, Near, SearchFault, search_words};
pub use self::upsert::{Outcome, UpsertHook, UpsertedEvent};

/// Most events that one statement writes.
pub const BATCH: usize = 1_000;

/// The cached answers about events, of the class `ApiResponse`.
pub const ANSWERS: Namespace<Bytes> = Namespace::raw(Class::ApiResponse, "event-list", 1);

/// An event as it is brought. [`NewEvent::check`] says whether it is sound; the caller that stores it has asked.
#[derive(Debug, Clone, PartialEq)]
pub struct NewEvent {
    /// Where it was found; `None`: posted by hand.
    pub source: Option<String>,
    /// What its source calls it.
    pub uid: String,
    pub title: String,
    pub description: Option<String>,
    pub url: Option<String>,
    /// Lower case: [`NewEvent::tidy`] sees to it.
    pub category: Option<String>,
    /// To the millisecond.
    pub starts_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    /// An IANA name: what the local time is there.
    pub time_zone: Option<String>,
    /// Degrees: latitude, longitude.
    pub position: Option<(f64, f64)>,
    /// The name of the place.
    pub place: Option<String>,
    pub cancelled: bool,
}

/// An event as it is stored.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Event {
    pub id: Ulid,
    pub source: Option<String>,
    pub uid: String,
    pub title: String,
    pub description: Option<String>,
    pub url: Option<String>,
    pub category: Option<String>,
    pub starts_at: DateTime<Utc>,
    pub ends_at: Option<DateTime<Utc>>,
    pub time_zone: Option<String>,
    pub lat: Option<f64>,
    pub lon: Option<f64>,
    pub place: Option<String>,
    pub created_at: DateTime<Utc>,
    pub updated_at: DateTime<Utc>,
    pub cancelled_at: Option<DateTime<Utc>>,
}

/// The event store of one database. Cheap to clone.
#[derive(Clone)]
pub struct Events(Arc<Inner>);

struct Inner {
    sql: Sql,
    cache: Cache,
    retain: Duration,
}

impl Events {
    /// It reaches nothing yet.
    pub fn new(settings: &Settings, database: &Database, cache: &Cache) -> Self {
        Self(Arc::new(Inner {
            sql: Sql::new(database, &settings.database),
            cache: cache.clone(),
            retain: settings.section::<EventsSettings>().retain_past,
        }))
    }
}

impl fmt::Debug for Events {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Events").finish_non_exhaustive()
    }
}
