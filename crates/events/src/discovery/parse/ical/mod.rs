//! iCalendar (RFC 5545, and what an event can hold of RFC 7986): events, with what repeats written out.
//!
//! # How
//! The text is read twice, or up to four times. First what any line may depend on is gathered: the zones that the calendar
//! defines; then, where a UID has several entries, which of several versions counts, and which occurrences have an entry of
//! their own (`RECURRENCE-ID`) ([`series`]); then the entries that replace all that follow (`RANGE=THISANDFUTURE`). At last each
//! event is read, written out, handed over and forgotten: memory holds the text, one event, and a hash of each other.
//!
//! # Invariants
//! - Content lines are unfolded here and parsed by the `icalendar` crate, one by one: a broken line costs itself, a broken
//!   property costs itself and a note, an event without a readable `DTSTART` costs itself.
//! - An occurrence is named by its event and the moment for which it was planned: moving it does not change its name.
//! - Rules are followed in local time, as the RFC has it, and each occurrence is then put into its zone. All work is charged
//!   to one [`Meter`] of the document ([`recur`]).
//! - A zone is the IANA's of that name; or the one the calendar's `VTIMEZONE` names in `X-LIC-LOCATION`; or what the
//!   `VTIMEZONE` spells out; or the one that Windows calls so. A time in any other zone is no time: its event is skipped, not
//!   guessed.
//! - Floating times are in the source's zone, or the one that `X-WR-TIMEZONE` names, or UTC. Those of a series' exceptions,
//!   ends and added dates are in the zone of the series.
//! - An event without repetition is kept however far ahead; what repeats is followed to the end of the window.
//!
//! # Late, not absent
//! A parse that is not waited for any more ends at its next step: see [`Stop`].

mod event;
mod length;
mod lines;
mod reader;
mod recur;
mod series;
mod when;
mod windows;
mod zone;

use std::borrow::Cow;
use std::collections::HashMap;
use std::ops::ControlFlow;

use self::event::Writer;
use self::reader::{Piece, Want, read};
use self::recur::Meter;
use self::series::{AllSeries, SeriesIndex};
use self::zone::Zones;
use super::text::{decode, is_html};
use super::{Note, ParseFault, ParsedItem, Reading, Sink, Stop, Survey};

pub use self::recur::{MAX_ALL_STEPS, MAX_OCCURRENCES, MAX_PERIOD, MAX_STEPS};
pub(super) use self::windows::zone as windows_zone;
pub(super) use self::zone::iana;

const EXPECTED: &str = "a calendar";

/// What the whole calendar says about its events.
struct Context<'a> {
    zones: Zones<'a>,
    series: AllSeries,
    /// Not all entries of the same event are known to each other.
    overfull: bool,
}

/// Reads a calendar.
pub(super) fn parse(
    body: &[u8],
    reading: &Reading<'_>,
    stop: &Stop,
    sink: &mut Sink<'_>,
) -> Result<Survey, ParseFault> {
    let mut survey = Survey::default();
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
        && sink(ParsedItem::Noted(note)).is_break()
    {
        return Ok(survey);
    }
    let meter = Meter::new(stop);
    let context = gather(&text, reading, stop, &meter)?;
    let mut lost = false;
    let mut writer = Writer {
        zones: &context.zones,
        series: &context.series,
        reading,
        meter: &meter,
        survey: &mut survey,
    };
    let whole = read(&text, Want::Everything, stop, &mut |piece| match piece {
        Piece::Event(event) => writer.write(*event, sink),
        Piece::Broken { line, reason } => sink(ParsedItem::Noted(Note::new(format!("line {line}"), reason))),
        Piece::Lost { line, reason } => {
            lost = true;
            sink(ParsedItem::Skipped(Note::new(format!("line {line}"), reason)))
        }
        Piece::Zone(_) | Piece::ZoneName(_) => ControlFlow::Continue(()),
    })?;
    if meter.is_stopped() {
        return Err(ParseFault::Stopped(stop.limit()));
    }
    survey.whole &= whole && !lost && !context.overfull;
    Ok(survey)
}

fn gather<'a>(
    text: &str,
    reading: &Reading<'_>,
    stop: &Stop,
    meter: &'a Meter<'a>,
) -> Result<Context<'a>, ParseFault> {
    let (mut declared, mut related, mut named) = (HashMap::new(), SeriesIndex::default(), None);
    read(text, Want::Context, stop, &mut |piece| {
        match piece {
            Piece::Zone(zone) => {
                declared.entry(zone.id.clone()).or_insert(zone);
            }
            Piece::ZoneName(name) => {
                named.get_or_insert(name);
            }
            Piece::Event(event) => related.see(&event),
            Piece::Broken { .. } | Piece::Lost { .. } => {}
        }
        ControlFlow::Continue(())
    })?;
    let zones = Zones::new(reading.zone, named.as_deref(), declared, reading.until, meter);
    let mut heads = Vec::new();
    if related.has_any() {
        read(text, Want::Context, stop, &mut |piece| {
            if let Piece::Event(event) = piece {
                heads.extend(related.head(*event));
            }
            ControlFlow::Continue(())
        })?;
    }
    let mut series = AllSeries::of(heads, &zones);
    if series.wants_entries() {
        read(text, Want::Everything, stop, &mut |piece| {
            if let Piece::Event(event) = piece {
                series.keep(*event);
            }
            ControlFlow::Continue(())
        })?;
    }
    Ok(Context {
        zones,
        series,
        overfull: related.is_overfull(),
    })
}
