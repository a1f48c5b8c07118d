//! The components of a calendar, one at a time.

use std::ops::ControlFlow;
use std::rc::Rc;

use chrono::NaiveDateTime;

use super::EXPECTED;
use super::lines::{Lines, Property, name};
use super::when::{Clock, Span, Stamp, clock, duration};
use crate::discovery::parse::{ParseFault, Stop};

/// Components within components: a calendar has four levels.
const MAX_DEPTH: usize = 16;

/// Dates that one event may list.
const MAX_DATES: usize = 200_000;

/// Faults that one event tells.
const MAX_FAULTS: usize = 4;

/// Lines between two looks at the clock.
const LINES_PER_LOOK: usize = 64;

/// Rules of one event.
const MAX_RULES: usize = 4;

/// Changes that one observance may list.
const MAX_ONSETS: usize = 2_000;

/// Observances of one zone.
const MAX_OBSERVANCES: usize = 200;

/// A time that a property gives: one that cannot be read is not one that is missing.
pub(super) type TimeProperty = Option<Result<Stamp, String>>;

/// An event, its texts as they are written.
#[derive(Debug, Clone, Default)]
pub(super) struct Event {
    pub(super) line: usize,
    pub(super) uid: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) description: Option<String>,
    pub(super) location: Option<String>,
    pub(super) url: Option<String>,
    /// RFC 7986: where it is attended from afar.
    pub(super) conference: Option<String>,
    pub(super) categories: Option<String>,
    pub(super) geo: Option<String>,
    pub(super) status: Option<String>,
    pub(super) start: TimeProperty,
    pub(super) end: TimeProperty,
    pub(super) duration: Option<String>,
    pub(super) rules: Vec<String>,
    pub(super) except_rules: Vec<String>,
    pub(super) dates: Vec<ListedDate>,
    pub(super) except: Vec<Stamp>,
    /// Of an entry that replaces one occurrence: which.
    pub(super) original: TimeProperty,
    /// It replaces all occurrences from there on (`RANGE=THISANDFUTURE`).
    pub(super) following: bool,
    pub(super) revision: Revision,
    pub(super) overfull: bool,
    /// What could not be read: the property, and why.
    pub(super) faults: Vec<String>,
}

/// Which of two versions of an event is the newer one: the greater.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Revision {
    sequence: i64,
    modified: Option<NaiveDateTime>,
    stamped: Option<NaiveDateTime>,
}

/// An element of `RDATE`.
#[derive(Debug, Clone)]
pub(super) struct ListedDate {
    pub(super) begin: Stamp,
    /// Of a period.
    pub(super) end: Option<ListedEnd>,
}

#[derive(Debug, Clone)]
pub(super) enum ListedEnd {
    At(Stamp),
    After(Span),
}

/// One half of the year, or a span of history, of a zone.
#[derive(Debug, Default)]
pub(super) struct Observance {
    pub(super) start: Option<String>,
    pub(super) from: Option<String>,
    pub(super) to: Option<String>,
    pub(super) rules: Vec<String>,
    pub(super) dates: Vec<String>,
}

/// A `VTIMEZONE`.
#[derive(Debug, Default)]
pub(super) struct ZoneText {
    pub(super) id: String,
    /// `X-LIC-LOCATION`: the IANA's name of it.
    pub(super) location: Option<String>,
    pub(super) observances: Vec<Observance>,
}

/// What reading came upon.
pub(super) enum Piece {
    Event(Box<Event>),
    Zone(ZoneText),
    /// `X-WR-TIMEZONE`.
    ZoneName(String),
    /// An invalid line; its component continues.
    Broken {
        line: usize,
        reason: String,
    },
    /// An invalid event.
    Lost {
        line: usize,
        reason: String,
    },
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// What other events depend on: zones, versions, and which occurrences are replaced.
    Context,
    Everything,
}

impl Want {
    fn in_event(self, name: &str) -> bool {
        let context = matches!(
            name,
            "UID" | "RECURRENCE-ID" | "SEQUENCE" | "LAST-MODIFIED" | "DTSTAMP" | "DTSTART" | "SUMMARY"
        );
        context
            || self == Self::Everything
                && matches!(
                    name,
                    "DESCRIPTION"
                        | "LOCATION"
                        | "URL"
                        | "CONFERENCE"
                        | "CATEGORIES"
                        | "GEO"
                        | "STATUS"
                        | "DTEND"
                        | "DURATION"
                        | "RRULE"
                        | "RDATE"
                        | "EXDATE"
                        | "EXRULE"
                )
    }
}

/// Hands over the pieces of a calendar in their order. Whether the calendar was read to its `END`.
///
/// # Errors
/// There is no calendar in it, or it takes too long.
pub(super) fn read(
    text: &str,
    want: Want,
    stop: &Stop,
    sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
) -> Result<bool, ParseFault> {
    let mut reader = Reader {
        want,
        stack: Vec::new(),
        event: None,
        zone: None,
        calendars: 0,
        torn: false,
    };
    for (index, (number, line)) in Lines::of(text).enumerate() {
        if index % LINES_PER_LOOK == 0 && stop.is_due() {
            return Err(ParseFault::Stopped(stop.limit()));
        }
        if reader.line(number, &line, sink)?.is_break() {
            return Ok(false);
        }
    }
    if reader.calendars == 0 {
        let begins: String = text.trim_start().chars().take(40).collect();
        return Err(ParseFault::not(EXPECTED, format!("it begins with {begins:?}")));
    }
    let whole = reader.stack.is_empty() && !reader.torn;
    if let Some(event) = reader.event {
        // Nobody waits for what follows.
        let _ = sink(unfinished(&event));
    }
    Ok(whole)
}

fn unfinished(event: &Event) -> Piece {
    Piece::Lost {
        line: event.line,
        reason: "begins an event that does not end".to_owned(),
    }
}

struct Reader {
    want: Want,
    /// The open components, outermost first.
    stack: Vec<String>,
    event: Option<Box<Event>>,
    zone: Option<ZoneText>,
    calendars: usize,
    /// An event does not end: nobody knows what else is missing.
    torn: bool,
}

impl Reader {
    fn line(
        &mut self,
        number: usize,
        line: &str,
        sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> Result<ControlFlow<()>, ParseFault> {
        let Some(name) = name(line) else {
            // What is no calendar is not complained about line by line.
            return Ok(if self.stack.is_empty() {
                ControlFlow::Continue(())
            } else {
                sink(broken(number, line))
            });
        };
        match name.as_str() {
            "BEGIN" => {
                let component = value_of(line);
                if self.stack.len() == MAX_DEPTH {
                    let reason = format!("line {number} nests components deeper than {MAX_DEPTH}");
                    return Err(ParseFault::not(EXPECTED, reason));
                }
                Ok(self.begin(number, component, sink))
            }
            "END" => Ok(self.end(number, &value_of(line), sink)),
            _ => Ok(self.property(number, line, &name, sink)),
        }
    }

    fn begin(
        &mut self,
        number: usize,
        component: String,
        sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let mut lost = None;
        match component.as_str() {
            "VCALENDAR" => self.calendars += 1,
            "VEVENT" => {
                if let Some(event) = self.event.take() {
                    self.torn = true;
                    lost = Some(unfinished(&event));
                    let open = self.stack.iter().position(|open| open == "VEVENT");
                    self.stack.truncate(open.unwrap_or(self.stack.len()));
                }
                self.event = Some(Box::new(Event {
                    line: number,
                    ..Event::default()
                }));
            }
            "VTIMEZONE" => self.zone = Some(ZoneText::default()),
            "STANDARD" | "DAYLIGHT" => {
                if let Some(zone) = &mut self.zone
                    && zone.observances.len() < MAX_OBSERVANCES
                {
                    zone.observances.push(Observance::default());
                }
            }
            _ => {}
        }
        self.stack.push(component);
        lost.map_or(ControlFlow::Continue(()), sink)
    }

    fn end(
        &mut self,
        number: usize,
        component: &str,
        sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        // What was left open inside ends with it.
        let Some(open) = self.stack.iter().rposition(|open| open == component) else {
            return sink(Piece::Broken {
                line: number,
                reason: format!("ends {component:?}, which is not open"),
            });
        };
        let closed = self.stack.split_off(open);
        if component != "VEVENT" && closed.iter().any(|name| name == "VEVENT") {
            let Some(event) = self.event.take() else {
                return ControlFlow::Continue(());
            };
            self.torn = true;
            return sink(unfinished(&event));
        }
        match component {
            "VEVENT" => match self.event.take() {
                Some(event) => sink(Piece::Event(event)),
                None => ControlFlow::Continue(()),
            },
            "VTIMEZONE" => match self.zone.take().filter(|zone| !zone.id.is_empty()) {
                Some(zone) => sink(Piece::Zone(zone)),
                None => ControlFlow::Continue(()),
            },
            _ => ControlFlow::Continue(()),
        }
    }

    fn property(
        &mut self,
        number: usize,
        line: &str,
        name: &str,
        sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
    ) -> ControlFlow<()> {
        let Some(inside) = self.stack.last().map(String::as_str) else {
            return ControlFlow::Continue(());
        };
        let wanted = match inside {
            "VEVENT" => self.want.in_event(name),
            "VCALENDAR" => self.want == Want::Context && name == "X-WR-TIMEZONE",
            "VTIMEZONE" | "STANDARD" | "DAYLIGHT" => self.want == Want::Context,
            _ => false,
        };
        if !wanted {
            return ControlFlow::Continue(());
        }
        let Ok(property) = Property::parse(line) else {
            return sink(broken(number, line));
        };
        match inside {
            "VEVENT" => {
                if let Some(event) = &mut self.event {
                    event.put(property);
                }
            }
            "VCALENDAR" => return sink(Piece::ZoneName(property.value)),
            "VTIMEZONE" => {
                if let Some(zone) = &mut self.zone {
                    match name {
                        "TZID" => zone.id = property.value,
                        "X-LIC-LOCATION" => zone.location = Some(property.value),
                        _ => {}
                    }
                }
            }
            _ => {
                if let Some(observance) = self.zone.as_mut().and_then(|zone| zone.observances.last_mut()) {
                    observance.put(name, property.value);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

fn broken(number: usize, line: &str) -> Piece {
    let begins: String = line.chars().take(60).collect();
    Piece::Broken {
        line: number,
        reason: format!("{begins:?} is not a content line; it was skipped"),
    }
}

fn value_of(line: &str) -> String {
    let value = line.split_once(':').map_or("", |(_, value)| value);
    value.trim().to_ascii_uppercase()
}

impl Event {
    /// The first of a name stands, where there is to be one.
    fn put(&mut self, property: Property) {
        fn first<T>(slot: &mut Option<T>, value: T) {
            slot.get_or_insert(value);
        }
        let zone: Option<Rc<str>> = property.param("TZID").map(Rc::from);
        let stamp = |value: &str| Stamp::of(value, zone.as_ref());
        match property.name.as_str() {
            "UID" => first(&mut self.uid, property.value),
            "SUMMARY" => first(&mut self.summary, property.value),
            "DESCRIPTION" => first(&mut self.description, property.value),
            "LOCATION" => first(&mut self.location, property.value),
            "URL" => first(&mut self.url, property.value),
            "CONFERENCE" => first(&mut self.conference, property.value),
            "CATEGORIES" => first(&mut self.categories, property.value),
            "GEO" => first(&mut self.geo, property.value),
            "STATUS" => first(&mut self.status, property.value),
            "DURATION" => first(&mut self.duration, property.value),
            "DTSTART" => first(&mut self.start, stamp(&property.value)),
            "DTEND" => first(&mut self.end, stamp(&property.value)),
            "RECURRENCE-ID" if self.original.is_none() => {
                let range = property.param("RANGE").unwrap_or_default();
                self.following = range.eq_ignore_ascii_case("THISANDFUTURE");
                self.original = Some(stamp(&property.value));
            }
            "SEQUENCE" => self.revision.sequence = property.value.trim().parse().unwrap_or_default(),
            "LAST-MODIFIED" => self.revision.modified = instant(&property.value),
            "DTSTAMP" => self.revision.stamped = instant(&property.value),
            "RRULE" if self.rules.len() < MAX_RULES => self.rules.push(property.value),
            "EXRULE" if self.except_rules.len() < MAX_RULES => self.except_rules.push(property.value),
            "RRULE" | "EXRULE" => self.overfull = true,
            "RDATE" => self.list_dates(&property.value, zone.as_ref()),
            "EXDATE" => self.list_exceptions(&property.value, zone.as_ref()),
            _ => {}
        }
    }

    pub(super) fn fault(&mut self, property: &str, reason: &str) {
        let fault = format!("{property} is left out: {reason}");
        if self.faults.len() < MAX_FAULTS && !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }

    fn list_dates(&mut self, values: &str, zone: Option<&Rc<str>>) {
        for value in elements(values) {
            if self.dates.len() == MAX_DATES {
                self.overfull = true;
                return;
            }
            match ListedDate::of(value, zone) {
                Ok(listed) => self.dates.push(listed),
                Err(reason) => self.fault("RDATE", &reason),
            }
        }
    }

    fn list_exceptions(&mut self, values: &str, zone: Option<&Rc<str>>) {
        for value in elements(values) {
            if self.except.len() == MAX_DATES {
                self.overfull = true;
                return;
            }
            match Stamp::of(value, zone) {
                Ok(stamp) => self.except.push(stamp),
                Err(reason) => self.fault("EXDATE", &reason),
            }
        }
    }
}

impl ListedDate {
    fn of(text: &str, zone: Option<&Rc<str>>) -> Result<Self, String> {
        let (begin, end) = match text.split_once('/') {
            Some((begin, end)) => (begin, Some(end.trim())),
            None => (text, None),
        };
        let end = match end {
            None => None,
            Some(end) if end.starts_with(['P', '+', '-']) => Some(ListedEnd::After(duration(end)?)),
            Some(end) => Some(ListedEnd::At(Stamp::of(end, zone)?)),
        };
        Ok(Self {
            begin: Stamp::of(begin, zone)?,
            end,
        })
    }
}

fn elements(values: &str) -> impl Iterator<Item = &str> {
    values.split(',').map(str::trim).filter(|value| !value.is_empty())
}

/// A moment that only orders versions.
fn instant(text: &str) -> Option<NaiveDateTime> {
    match clock(text.trim()).ok()? {
        Clock::Day(day) => Some(day.and_time(chrono::NaiveTime::MIN)),
        Clock::Local(at) | Clock::Utc(at) => Some(at),
    }
}

impl Observance {
    fn put(&mut self, name: &str, value: String) {
        match name {
            "DTSTART" => self.start = Some(value),
            "TZOFFSETFROM" => self.from = Some(value),
            "TZOFFSETTO" => self.to = Some(value),
            "RRULE" if self.rules.len() < MAX_RULES => self.rules.push(value),
            "RDATE" => {
                let room = MAX_ONSETS.saturating_sub(self.dates.len());
                self.dates
                    .extend(value.split(',').take(room).map(ToOwned::to_owned));
            }
            _ => {}
        }
    }
}
