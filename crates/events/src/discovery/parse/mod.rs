//! From bytes to entries: calendars, feeds, mapped JSON and Reddit's listings.
//!
//! # Invariants
//! - A parser hands its entries over one by one and keeps none: what it needs is the body, and a constant.
//! - One bad entry is one [`Note`], and the next entry is read. Only what is not the promised format at all is a
//!   [`ParseFault`].
//! - Whatever is handed over is short enough, on as many lines as it may have, and clean ([`Entry`]); only times and
//!   places may still be out of range.
//! - Nothing here waits, allocates more than a few times the body, or runs for longer than the body and the named limits
//!   allow. It is synchronous: run it where blocking is no harm.

pub mod dates;
mod entry;
mod feed;
pub mod ical;
pub mod json;
mod reddit;
mod stop;
mod text;

use std::collections::HashSet;
use std::ops::ControlFlow;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};
use url::Url;

pub use self::entry::Entry;
pub(super) use self::entry::is_occurrence;
pub use self::json::Mapping;
pub(super) use self::reddit::parse as parse_page;
pub use self::stop::{MAX_READING, Stop};

/// Longest text of a note, in characters.
const MAX_NOTE: usize = 200;

/// What is read how.
#[derive(Debug, Clone, Copy)]
pub enum Form<'a> {
    /// RFC 5545.
    Calendar,
    /// RSS 0.9 to 2.0, Atom, JSON Feed.
    Feed,
    Json(&'a Mapping),
    /// A page of one of Reddit's listings.
    Reddit,
}

/// What a parser has to know of its source.
#[derive(Debug, Clone, Copy)]
pub struct Reading<'a> {
    /// What times without a zone mean. `None`: what the calendar says itself, or else UTC.
    pub zone: Option<Tz>,
    /// What ended before is left out.
    pub from: DateTime<Utc>,
    /// What repeats is followed up to here.
    pub until: DateTime<Utc>,
    /// The `Content-Type` that came with the body.
    pub content_type: Option<&'a str>,
    /// Where the body came from: relative links begin here.
    pub url: &'a Url,
}

impl Reading<'_> {
    fn zone(&self) -> Tz {
        self.zone.unwrap_or(Tz::UTC)
    }

    /// Whether something of this time is not over yet.
    fn covers(&self, starts: DateTime<Utc>, ends: Option<DateTime<Utc>>) -> bool {
        ends.unwrap_or(starts).max(starts) >= self.from
    }
}

/// What was found at one place of the body.
#[derive(Debug, Clone, PartialEq)]
pub enum ParsedItem {
    Entry(Box<Entry>),
    /// An invalid entry, and why.
    Skipped(Note),
    /// Something odd that cost no entry.
    Noted(Note),
    /// An entry that is over, or too far ahead.
    Outside,
}

/// What is wrong, and where. Short.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Note {
    pub at: String,
    pub reason: String,
}

impl Note {
    pub fn new(at: impl Into<String>, reason: impl Into<String>) -> Self {
        Self {
            at: shortened(&at.into()),
            reason: shortened(&reason.into()),
        }
    }
}

/// Takes what is found; `Break` ends the parsing.
pub type Sink<'a> = dyn FnMut(ParsedItem) -> ControlFlow<()> + 'a;

/// The body is not what it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ParseFault {
    #[error("the answer is empty")]
    Empty,
    #[error(
        "the answer is an HTML page where {0} was expected; give the address that the page's link leads to"
    )]
    Html(&'static str),
    #[error("the answer is not {expected}: {reason}")]
    Not { expected: &'static str, reason: String },
    #[error("the answer declares XML entities, which are not expanded")]
    Entities,
    #[error("the answer was not read to its end within {} s", .0.as_secs())]
    Stopped(Duration),
}

impl ParseFault {
    fn not(expected: &'static str, reason: impl Into<String>) -> Self {
        Self::Not {
            expected,
            reason: shortened(&reason.into()),
        }
    }
}

/// What a body was read to.
#[derive(Debug)]
pub struct Survey {
    /// To its own end, and nothing is known to be missing: what it does not name is not there. A feed shows its newest
    /// entries, and is never whole.
    pub(super) whole: bool,
    /// It has rules: there is more beyond the window.
    pub(super) repeats: bool,
    /// Names of events that were not read, or not to their end.
    unread: HashSet<String>,
}

impl Default for Survey {
    fn default() -> Self {
        Self {
            whole: true,
            repeats: false,
            unread: HashSet::new(),
        }
    }
}

impl Survey {
    /// Of a body that shows a part of what there is.
    fn of_part() -> Self {
        Self {
            whole: false,
            ..Self::default()
        }
    }

    /// An event was not read to its end: what is missing of it proves nothing.
    fn leave_alone(&mut self, uid: Option<&str>) {
        match uid {
            Some(uid) => {
                self.unread.insert(entry::name(uid));
            }
            None => self.whole = false,
        }
    }

    /// Whether an entry that was not found is gone.
    pub(super) fn vouches_for(&self, name: &str) -> bool {
        self.whole && !self.unread.contains(entry::event_of(name))
    }
}

/// Reads a body, for as long as [`MAX_READING`] allows.
///
/// # Errors
/// It is not what `form` says. What was handed over until then stands.
pub fn parse(
    form: Form<'_>,
    body: &[u8],
    reading: &Reading<'_>,
    sink: &mut Sink<'_>,
) -> Result<(), ParseFault> {
    parse_until(form, body, reading, &Stop::default(), sink).map(drop)
}

/// Reads a body until it ends or is stopped.
///
/// # Errors
/// It is not what `form` says, or the parse was stopped. What was handed over until then stands.
pub fn parse_until(
    form: Form<'_>,
    body: &[u8],
    reading: &Reading<'_>,
    stop: &Stop,
    sink: &mut Sink<'_>,
) -> Result<Survey, ParseFault> {
    let mut halting = |found: ParsedItem| {
        if stop.is_due() {
            return ControlFlow::Break(());
        }
        sink(found)
    };
    let survey = match form {
        Form::Calendar => return ical::parse(body, reading, stop, sink),
        Form::Feed => feed::parse(body, reading, &mut halting),
        Form::Json(mapping) => json::parse(mapping, body, reading, &mut halting),
        Form::Reddit => reddit::parse(body, reading, &mut halting).map(drop),
    };
    if stop.is_due() {
        return Err(ParseFault::Stopped(stop.limit()));
    }
    survey.map(|()| Survey::of_part())
}

/// On one line, and cut.
fn shortened(text: &str) -> String {
    let mut line = text::one_line(text);
    if let Some((end, _)) = line.char_indices().nth(MAX_NOTE) {
        line.truncate(end);
        line.push('…');
    }
    line
}
