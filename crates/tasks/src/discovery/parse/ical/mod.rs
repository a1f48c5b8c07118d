//! iCalendar (RFC 5545): events, with what repeats written out.
//!
//! # How
//! The text is read twice. First what any line may depend on is gathered: the zones the calendar defines, and which
//! occurrences have an entry of their own (`RECURRENCE-ID`), which may stand anywhere. Then each event is read, written
//! out, handed over and forgotten: memory holds the text, one event, and the names of the replaced occurrences.
//!
//! # What holds
//! - Content lines are unfolded here and parsed by the `icalendar` crate, one by one: a broken line costs itself, a broken
//!   event costs itself.
//! - Rules (`RRULE`) are followed by the `rrule` crate in local time, as the RFC has it, and each occurrence is then put into
//!   its zone. Its work is bounded: [`MAX_STEPS`] of a rule and [`MAX_ALL_STEPS`] of a calendar, [`MAX_OCCURRENCES`] of an
//!   event.
//! - A zone is the IANA's of that name; or the one the calendar's `VTIMEZONE` names in `X-LIC-LOCATION`; or what the
//!   `VTIMEZONE` spells out. A time in any other zone is no time: its event is skipped, not guessed.
//! - Floating times are in the source's zone, or the one that `X-WR-TIMEZONE` names, or UTC.
//! - An event without repetition is kept however far ahead; what repeats is followed to the end of the window.

mod event;
mod lines;
mod reader;
mod recur;
mod when;
mod zone;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;
use std::sync::Arc;

use chrono_tz::Tz;

use self::event::Writer;
use self::reader::{Piece, Want, read};
use self::when::Stamp;
use self::zone::{Zone, Zones};
use super::text::{decode, is_html};
use super::{Found, Note, ParseFault, Reading, Sink};

pub use self::recur::{MAX_ALL_STEPS, MAX_OCCURRENCES, MAX_STEPS};

const EXPECTED: &str = "a calendar";

/// What the whole calendar says about its events.
struct Context {
    zones: Zones,
    /// By UID: the occurrences that have an entry of their own.
    replaced: HashMap<String, Vec<Stamp>>,
}

/// Reads a calendar.
pub(super) fn parse(body: &[u8], reading: &Reading<'_>, sink: &mut Sink<'_>) -> Result<(), ParseFault> {
    // Folding counts bytes, and may part a character: that has to be mended before the text is decoded.
    let body = match std::str::from_utf8(body) {
        Ok(_) => Cow::Borrowed(body),
        Err(_) => Cow::Owned(lines::unfolded(body)),
    };
    let (text, note) = decode(&body, reading.content_type);
    if text.trim_start().is_empty() {
        return Err(ParseFault::Empty);
    }
    if is_html(&text) {
        return Err(ParseFault::Html(EXPECTED));
    }
    if let Some(note) = note
        && sink(Found::Noted(note)).is_break()
    {
        return Ok(());
    }
    let context = gather(&text, reading)?;
    let mut writer = Writer::new(&context.zones, &context.replaced, reading);
    read(&text, Want::Everything, &mut |piece| match piece {
        Piece::Event(event) => writer.write(&event, sink),
        Piece::Broken { line, reason } => sink(Found::Noted(Note::new(format!("line {line}"), reason))),
        Piece::Lost { line, reason } => sink(Found::Skipped(Note::new(format!("line {line}"), reason))),
        Piece::Zone(_) | Piece::ZoneName(_) => ControlFlow::Continue(()),
    })
}

fn gather(text: &str, reading: &Reading<'_>) -> Result<Context, ParseFault> {
    let mut declared = HashMap::new();
    let mut replaced: HashMap<String, Vec<Stamp>> = HashMap::new();
    let mut own = reading.zone;
    read(text, Want::Context, &mut |piece| {
        match piece {
            Piece::Zone(zone) => {
                declared.entry(zone.id.clone()).or_insert(zone);
            }
            Piece::ZoneName(name) if own.is_none() => own = name.parse::<Tz>().ok(),
            Piece::Event(event) => {
                if let (Some(uid), Some(original)) = (event.uid, event.original) {
                    replaced.entry(uid).or_default().push(original);
                }
            }
            Piece::ZoneName(_) | Piece::Broken { .. } | Piece::Lost { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    let own = Arc::new(Zone::iana(own.unwrap_or(Tz::UTC), own.is_some()));
    Ok(Context {
        zones: Zones::new(own, declared, reading.until),
        replaced,
    })
}
