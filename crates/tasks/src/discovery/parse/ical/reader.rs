//! The components of a calendar, one at a time.

use std::ops::ControlFlow;

use super::EXPECTED;
use super::lines::{Lines, Property, name};
use super::when::Stamp;
use crate::discovery::parse::ParseFault;

/// Components within components: a calendar has four levels.
const MAX_DEPTH: usize = 16;

/// Dates that one event may list.
const MAX_DATES: usize = 5_000;

/// Rules of one event.
const MAX_RULES: usize = 4;

/// Observances of one zone.
const MAX_OBSERVANCES: usize = 200;

/// An event, its values as they are written.
#[derive(Debug, Default)]
pub(super) struct Event {
    pub(super) line: usize,
    pub(super) uid: Option<String>,
    pub(super) summary: Option<String>,
    pub(super) description: Option<String>,
    pub(super) location: Option<String>,
    pub(super) url: Option<String>,
    pub(super) categories: Option<String>,
    pub(super) geo: Option<String>,
    pub(super) status: Option<String>,
    pub(super) start: Option<Stamp>,
    pub(super) end: Option<Stamp>,
    pub(super) duration: Option<String>,
    pub(super) rules: Vec<String>,
    pub(super) dates: Vec<Stamp>,
    pub(super) except: Vec<Stamp>,
    /// Of an entry that replaces one occurrence: which.
    pub(super) original: Option<Stamp>,
    pub(super) overfull: bool,
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
    /// A line that is of no use; what it stands in goes on.
    Broken {
        line: usize,
        reason: String,
    },
    /// An event that is of no use.
    Lost {
        line: usize,
        reason: String,
    },
}

/// What is looked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Want {
    /// What other events depend on: zones, and which occurrences are replaced.
    Context,
    Everything,
}

impl Want {
    fn in_event(self, name: &str) -> bool {
        let context = matches!(name, "UID" | "RECURRENCE-ID");
        context
            || self == Self::Everything
                && matches!(
                    name,
                    "SUMMARY"
                        | "DESCRIPTION"
                        | "LOCATION"
                        | "URL"
                        | "CATEGORIES"
                        | "GEO"
                        | "STATUS"
                        | "DTSTART"
                        | "DTEND"
                        | "DURATION"
                        | "RRULE"
                        | "RDATE"
                        | "EXDATE"
                )
    }
}

/// Hands over the pieces of a calendar in their order.
///
/// # Errors
/// There is no calendar in it.
pub(super) fn read(
    text: &str,
    want: Want,
    sink: &mut dyn FnMut(Piece) -> ControlFlow<()>,
) -> Result<(), ParseFault> {
    let mut reader = Reader {
        want,
        stack: Vec::new(),
        event: None,
        zone: None,
        calendars: 0,
    };
    for (number, line) in Lines::of(text) {
        if reader.line(number, &line, sink)?.is_break() {
            return Ok(());
        }
    }
    if reader.calendars == 0 {
        let begins: String = text.trim_start().chars().take(40).collect();
        return Err(ParseFault::not(EXPECTED, format!("it begins with {begins:?}")));
    }
    if let Some(event) = reader.event {
        // Nobody waits for what follows.
        let _ = sink(unfinished(&event));
    }
    Ok(())
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
        reason: format!("{begins:?} is no content line; it was passed by"),
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
        match property.name.as_str() {
            "UID" => first(&mut self.uid, property.value),
            "SUMMARY" => first(&mut self.summary, property.value),
            "DESCRIPTION" => first(&mut self.description, property.value),
            "LOCATION" => first(&mut self.location, property.value),
            "URL" => first(&mut self.url, property.value),
            "CATEGORIES" => first(&mut self.categories, property.value),
            "GEO" => first(&mut self.geo, property.value),
            "STATUS" => first(&mut self.status, property.value),
            "DURATION" => first(&mut self.duration, property.value),
            "DTSTART" => first(&mut self.start, Stamp::of(&property, &property.value)),
            "DTEND" => first(&mut self.end, Stamp::of(&property, &property.value)),
            "RECURRENCE-ID" => first(&mut self.original, Stamp::of(&property, &property.value)),
            "RRULE" if self.rules.len() < MAX_RULES => self.rules.push(property.value),
            "RRULE" => self.overfull = true,
            "RDATE" => self.overfull |= list(&mut self.dates, &property),
            "EXDATE" => self.overfull |= list(&mut self.except, &property),
            _ => {}
        }
    }
}

/// Adds the dates of a line; whether there were too many.
fn list(stamps: &mut Vec<Stamp>, property: &Property) -> bool {
    let values = property
        .value
        .split(',')
        .map(str::trim)
        .filter(|value| !value.is_empty());
    let room = MAX_DATES.saturating_sub(stamps.len());
    let before = stamps.len();
    let count = values.clone().count();
    // Of a period only the beginning counts.
    let begins = values.map(|value| value.split('/').next().unwrap_or(value));
    stamps.extend(begins.take(room).map(|value| Stamp::of(property, value)));
    stamps.len() - before < count
}

impl Observance {
    fn put(&mut self, name: &str, value: String) {
        match name {
            "DTSTART" => self.start = Some(value),
            "TZOFFSETFROM" => self.from = Some(value),
            "TZOFFSETTO" => self.to = Some(value),
            "RRULE" if self.rules.len() < MAX_RULES => self.rules.push(value),
            "RDATE" if self.dates.len() < MAX_DATES => {
                self.dates.extend(value.split(',').map(ToOwned::to_owned));
            }
            _ => {}
        }
    }
}
