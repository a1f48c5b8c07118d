//! An event of a calendar as entries: one, or each occurrence within the window.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ops::ControlFlow;
use std::sync::Arc;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta, Utc};

use super::reader::Event;
use super::recur::{self, Budget, MAX_OCCURRENCES};
use super::when::{Clock, Stamp, duration};
use super::zone::{Zone, Zones};
use crate::discovery::parse::entry::Texts;
use crate::discovery::parse::text::one_line;
use crate::discovery::parse::{Entry, Found, Note, Reading, Sink};

/// Writes events out.
pub(super) struct Writer<'a> {
    zones: &'a Zones,
    replaced: &'a HashMap<String, Vec<Stamp>>,
    reading: &'a Reading<'a>,
    budget: Budget,
}

/// When something begins.
#[derive(Debug, Clone)]
struct Begin {
    local: NaiveDateTime,
    zone: Arc<Zone>,
    whole_day: bool,
}

impl Begin {
    fn utc(&self) -> DateTime<Utc> {
        self.zone.to_utc(self.local)
    }
}

/// How long it lasts.
#[derive(Debug, Clone, Copy)]
enum Length {
    Unknown,
    /// Elapsed time.
    Exact(TimeDelta),
    /// Days on the calendar, which may have 23 or 25 hours.
    Days(TimeDelta),
}

impl Length {
    fn end(self, begin: &Begin) -> Option<DateTime<Utc>> {
        match self {
            Self::Unknown => None,
            Self::Exact(span) => begin.utc().checked_add_signed(span),
            Self::Days(span) => Some(begin.zone.to_utc(begin.local.checked_add_signed(span)?)),
        }
    }

    fn span(self) -> TimeDelta {
        match self {
            Self::Unknown => TimeDelta::zero(),
            Self::Exact(span) | Self::Days(span) => span,
        }
    }
}

/// Occurrences that do not take place, or have an entry of their own.
#[derive(Default)]
struct Except {
    moments: HashSet<DateTime<Utc>>,
    /// A day excludes what begins on it: some programs write nothing else.
    days: HashSet<NaiveDate>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(
        zones: &'a Zones,
        replaced: &'a HashMap<String, Vec<Stamp>>,
        reading: &'a Reading<'a>,
    ) -> Self {
        Self {
            zones,
            replaced,
            reading,
            budget: Budget::default(),
        }
    }

    /// Hands over what an event amounts to.
    pub(super) fn write(&mut self, event: &Event, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let place = || {
            let title = event.summary.as_deref().map(one_line);
            format!(
                "line {}{}",
                event.line,
                title.map_or_else(String::new, |title| format!(" ({title})"))
            )
        };
        match self.entries(event, &place, sink) {
            Ok(flow) => flow,
            Err(reason) => sink(Found::Skipped(Note::new(place(), reason))),
        }
    }

    fn entries(
        &mut self,
        event: &Event,
        place: &dyn Fn() -> String,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, String> {
        let start = event.start.as_ref().ok_or("has no DTSTART")?;
        let begin = self.begin(start)?;
        let length = self.length(event, &begin)?;
        let entry = self.entry(event, &begin)?;
        if event.overfull {
            let note = Note::new(place(), "lists more rules or dates than are read");
            if sink(Found::Noted(note)).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        let repeats = !event.rules.is_empty() || !event.dates.is_empty();
        if !repeats || event.original.is_some() {
            return self.single(event, entry, &begin, length, sink);
        }
        let (dates, cut) = self.dates(event, &begin, length)?;
        if cut {
            let reason = format!("takes place more than {MAX_OCCURRENCES} times; the first ones are kept");
            if sink(Found::Noted(Note::new(place(), reason))).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        if dates.is_empty() {
            return Ok(sink(Found::Outside));
        }
        for local in dates {
            let begin = Begin {
                local,
                ..begin.clone()
            };
            let mut occurrence = entry.clone();
            occurrence.starts_at = begin.utc();
            occurrence.ends_at = length.end(&begin);
            occurrence.occurrence(occurrence.starts_at);
            if sink(Found::Entry(Box::new(occurrence))).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
        Ok(ControlFlow::Continue(()))
    }

    /// What does not repeat, or replaces one occurrence of what does.
    fn single(
        &self,
        event: &Event,
        mut entry: Entry,
        begin: &Begin,
        length: Length,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, String> {
        entry.ends_at = length.end(begin);
        if let Some(original) = &event.original {
            entry.occurrence(self.begin(original)?.utc());
        }
        if !self.reading.covers(entry.starts_at, entry.ends_at) {
            return Ok(sink(Found::Outside));
        }
        Ok(sink(Found::Entry(Box::new(entry))))
    }

    fn begin(&self, stamp: &Stamp) -> Result<Begin, String> {
        let zone = |zones: &Zones| match &stamp.zone {
            Some(id) => zones.find(id),
            None => Ok(Arc::clone(zones.own())),
        };
        Ok(match stamp.clock()? {
            Clock::Day(day) => Begin {
                local: day.and_time(NaiveTime::MIN),
                zone: zone(self.zones)?,
                whole_day: true,
            },
            Clock::Local(local) => Begin {
                local,
                zone: zone(self.zones)?,
                whole_day: false,
            },
            Clock::Utc(local) => Begin {
                local,
                zone: Arc::clone(self.zones.utc()),
                whole_day: false,
            },
        })
    }

    fn length(&self, event: &Event, begin: &Begin) -> Result<Length, String> {
        let length = match (&event.end, &event.duration) {
            (Some(end), _) => {
                let end = self.begin(end)?;
                if begin.whole_day && end.whole_day {
                    Length::Days(end.local - begin.local)
                } else {
                    Length::Exact(end.utc() - begin.utc())
                }
            }
            (None, Some(text)) if begin.whole_day => Length::Days(duration(text)?),
            (None, Some(text)) => Length::Exact(duration(text)?),
            (None, None) if begin.whole_day => Length::Days(TimeDelta::days(1)),
            (None, None) => Length::Unknown,
        };
        if length.span() < TimeDelta::zero() {
            return Err("ends before it begins".to_owned());
        }
        // A day that ends where it begins is what some programs call one day.
        Ok(match length {
            Length::Days(span) if span.is_zero() => Length::Days(TimeDelta::days(1)),
            length => length,
        })
    }

    fn entry(&self, event: &Event, begin: &Begin) -> Result<Entry, String> {
        let category = event.categories.as_deref().map(first_of_list);
        let texts = Texts {
            uid: event.uid.as_deref(),
            title: event.summary.as_deref(),
            description: event.description.as_deref(),
            url: event.url.as_deref(),
            category: category.as_deref(),
            place: event.location.as_deref(),
        };
        let mut entry =
            Entry::new(&texts, begin.utc(), self.reading.url).ok_or_else(|| "has no SUMMARY".to_owned())?;
        let zone = begin.zone.name.or(self.zones.own().name);
        entry.time_zone = zone.map(ToOwned::to_owned);
        entry.position = event.geo.as_deref().map(position).transpose()?;
        entry.cancelled = event
            .status
            .as_deref()
            .is_some_and(|status| status.trim().eq_ignore_ascii_case("CANCELLED"));
        Ok(entry)
    }

    /// When it takes place within the window, by the local clock; and whether there would be more.
    fn dates(
        &mut self,
        event: &Event,
        begin: &Begin,
        length: Length,
    ) -> Result<(BTreeSet<NaiveDateTime>, bool), String> {
        let to_local = |moment: NaiveDateTime| begin.zone.to_local(moment);
        let earliest = self.reading.from.checked_sub_signed(length.span());
        let from = to_local(earliest.unwrap_or(self.reading.from).naive_utc());
        let until = to_local(self.reading.until.naive_utc());
        let mut dates = BTreeSet::new();
        let mut cut = false;
        for rule in &event.rules {
            let followed = recur::follow(
                rule,
                begin.local,
                begin.whole_day,
                &to_local,
                from,
                until,
                &mut self.budget,
            )?;
            cut |= followed.cut;
            dates.extend(followed.dates);
        }
        // The first one takes place whether a rule names it or not.
        dates.insert(begin.local);
        for stamp in &event.dates {
            dates.insert(to_local(self.begin(stamp)?.utc().naive_utc()));
        }
        let except = self.except(event)?;
        dates.retain(|local| {
            let day = local.date();
            (from..=until).contains(local)
                && !except.days.contains(&day)
                && !except.moments.contains(&begin.zone.to_utc(*local))
        });
        while dates.len() > MAX_OCCURRENCES {
            cut = true;
            dates.pop_last();
        }
        Ok((dates, cut))
    }

    fn except(&self, event: &Event) -> Result<Except, String> {
        let replaced = event.uid.as_ref().and_then(|uid| self.replaced.get(uid));
        let mut except = Except::default();
        for stamp in event.except.iter().chain(replaced.into_iter().flatten()) {
            match stamp.clock()? {
                Clock::Day(day) => {
                    except.days.insert(day);
                }
                Clock::Local(_) | Clock::Utc(_) => {
                    except.moments.insert(self.begin(stamp)?.utc());
                }
            }
        }
        Ok(except)
    }
}

/// The first text of a list, whose commas may be escaped.
fn first_of_list(list: &str) -> String {
    let mut text = String::new();
    let mut escaped = false;
    for character in list.chars() {
        match (escaped, character) {
            (false, '\\') => escaped = true,
            (false, ',') if text.trim().is_empty() => {}
            (false, ',') => break,
            (true, 'n' | 'N') => {
                text.push(' ');
                escaped = false;
            }
            (_, other) => {
                text.push(other);
                escaped = false;
            }
        }
    }
    text
}

/// `GEO`: latitude and longitude, parted by a semicolon.
fn position(text: &str) -> Result<(f64, f64), String> {
    let degrees = |text: &str| text.trim().parse().ok().filter(|number: &f64| number.is_finite());
    text.split_once([';', ','])
        .and_then(|(lat, lon)| degrees(lat).zip(degrees(lon)))
        .ok_or_else(|| format!("says {text:?} at GEO, which is no place"))
}
