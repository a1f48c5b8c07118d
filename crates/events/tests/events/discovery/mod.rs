//! Parsers against corpora that cover the corners of their formats.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "test code: what is not there must fail the test"
)]

mod calendars;
mod changes;
mod feeds;
mod mapped;
mod others;

use std::ops::ControlFlow;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use holdfast_events::discovery::parse::{Entry, Form, Note, ParseFault, ParsedItem, Reading, parse};
use url::Url;

/// What became of a body.
#[derive(Debug, Default)]
pub(crate) struct Harvest {
    pub(crate) entries: Vec<Entry>,
    pub(crate) skipped: Vec<Note>,
    pub(crate) noted: Vec<Note>,
    pub(crate) outside: usize,
}

impl Harvest {
    /// `uid start` of each, in their order; the start in UTC.
    pub(crate) fn starts(&self) -> Vec<String> {
        let start = |entry: &Entry| format!("{} {}", entry.uid, short(entry.starts_at));
        self.entries.iter().map(start).collect()
    }

    pub(crate) fn find(&self, uid: &str) -> &Entry {
        let found = self.entries.iter().find(|entry| entry.uid == uid);
        found.unwrap_or_else(|| panic!("no {uid} among {:?}", self.starts()))
    }

    /// The reason why what `at` names was skipped.
    pub(crate) fn reason(&self, at: &str) -> &str {
        let found = self.skipped.iter().find(|note| note.at.contains(at));
        &found
            .unwrap_or_else(|| panic!("{at} is not among {:?}", self.skipped))
            .reason
    }
}

pub(crate) fn short(at: DateTime<Utc>) -> String {
    at.format("%Y-%m-%dT%H:%M").to_string()
}

pub(crate) fn moment(text: &str) -> DateTime<Utc> {
    DateTime::parse_from_rfc3339(text).unwrap().to_utc()
}

/// Reads as of May 2030, a year ahead.
pub(crate) fn read(form: Form<'_>, body: &[u8], zone: Option<Tz>) -> Result<Harvest, ParseFault> {
    read_as(form, body, zone, None)
}

/// The same, with a content type.
pub(crate) fn read_as(
    form: Form<'_>,
    body: &[u8],
    zone: Option<Tz>,
    content_type: Option<&str>,
) -> Result<Harvest, ParseFault> {
    let url = Url::parse("https://example.com/feeds/all").unwrap();
    let reading = Reading {
        zone,
        from: moment("2030-05-01T00:00:00Z"),
        until: moment("2031-05-01T00:00:00Z"),
        content_type,
        url: &url,
    };
    let mut harvest = Harvest::default();
    parse(form, body, &reading, &mut |found| {
        match found {
            ParsedItem::Entry(entry) => harvest.entries.push(*entry),
            ParsedItem::Skipped(note) => harvest.skipped.push(note),
            ParsedItem::Noted(note) => harvest.noted.push(note),
            ParsedItem::Outside => harvest.outside += 1,
        }
        ControlFlow::Continue(())
    })
    .map(|()| harvest)
}
