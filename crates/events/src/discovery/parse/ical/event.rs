//! An event of a calendar as entries: one, or each occurrence within the window.
//!
//! Only `DTSTART`, a readable `RECURRENCE-ID` (of an entry that has one) and something to call it by are needed. Any other
//! property that cannot be read is left out, with a note: a rule that is refused leaves the first occurrence.

use std::collections::{BTreeMap, HashSet};
use std::ops::ControlFlow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, TimeDelta, Utc};

use super::length::Length;
use super::reader::{Event, ListedDate, ListedEnd};
use super::recur::{self, MAX_OCCURRENCES, Meter, Start, Window};
use super::series::{AllSeries, Series};
use super::when::{Clock, Stamp, duration};
use super::zone::{Begin, Zones};
use crate::discovery::parse::entry::{Texts, position};
use crate::discovery::parse::text::one_line;
use crate::discovery::parse::{Entry, Note, ParsedItem, Reading, Sink, Survey};

/// How far an occurrence may be moved by an entry for all that follow: occurrences are planned for so much more than the
/// window.
const MAX_SHIFT: TimeDelta = TimeDelta::days(366);

/// Writes events out.
pub(super) struct Writer<'a> {
    pub(super) zones: &'a Zones<'a>,
    pub(super) series: &'a AllSeries,
    pub(super) reading: &'a Reading<'a>,
    pub(super) meter: &'a Meter<'a>,
    pub(super) survey: &'a mut Survey,
}

/// The occurrences of a series from one moment on.
struct Part {
    /// For which they were planned.
    from: DateTime<Utc>,
    /// How far they are moved, by the clock of `begin`.
    shift: TimeDelta,
    begin: Begin,
    length: Length,
    entry: Entry,
}

/// An occurrence within the window.
struct PlacedOccurrence {
    part: usize,
    planned: DateTime<Utc>,
    starts: DateTime<Utc>,
    ends: Option<DateTime<Utc>>,
}

/// What an event amounts to.
enum Output {
    /// It is not a thing of its own.
    Nothing,
    One(ParsedItem),
    Many(Vec<Part>, Vec<PlacedOccurrence>),
}

impl Output {
    fn hand_over(self, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let (parts, placed) = match self {
            Self::Nothing => return ControlFlow::Continue(()),
            Self::One(found) => return sink(found),
            Self::Many(_, placed) if placed.is_empty() => return sink(ParsedItem::Outside),
            Self::Many(parts, placed) => (parts, placed),
        };
        for one in placed {
            let Some(part) = parts.get(one.part) else { continue };
            let mut entry = part.entry.clone();
            (entry.starts_at, entry.ends_at) = (one.starts, one.ends);
            entry.occurrence(one.planned);
            if sink(ParsedItem::Entry(Box::new(entry))).is_break() {
                return ControlFlow::Break(());
            }
        }
        ControlFlow::Continue(())
    }
}

/// By the series' own clock; of a period in `RDATE` with its own length.
type Dates = BTreeMap<NaiveDateTime, Option<Length>>;

/// Occurrences that do not take place.
#[derive(Default)]
struct Except {
    moments: HashSet<DateTime<Utc>>,
    /// A day excludes what begins on it: some programs write nothing else.
    days: HashSet<NaiveDate>,
}

impl Writer<'_> {
    /// Hands over what an event amounts to.
    pub(super) fn write(&mut self, mut event: Event, sink: &mut Sink<'_>) -> ControlFlow<()> {
        let title = event.summary.as_deref().map(one_line);
        let title = title.map_or_else(String::new, |title| format!(" ({title})"));
        let place = format!("line {}{title}", event.line);
        if let Some(reason) = self.series.superseded(&event, self.zones) {
            return sink(ParsedItem::Skipped(Note::new(place, reason)));
        }
        match self.entries(&mut event, &place, sink) {
            Ok(flow) => flow,
            Err(reason) => {
                self.survey.leave_alone(event.uid.as_deref());
                sink(ParsedItem::Skipped(Note::new(place, reason)))
            }
        }
    }

    fn entries(
        &mut self,
        event: &mut Event,
        place: &str,
        sink: &mut Sink<'_>,
    ) -> Result<ControlFlow<()>, String> {
        let series = self.series.find(event);
        let part = self.part(event, series)?;
        let found = match event.original.take() {
            Some(original) => Output::One(self.replacement(&original?, series, part)?),
            None if event.rules.is_empty() && event.dates.is_empty() => self.single(series, part),
            None => self.occurrences(event, series, part),
        };
        if event.overfull {
            event.fault("the rest", "it lists more rules or dates than are read");
            self.survey.leave_alone(event.uid.as_deref());
        }
        if !event.faults.is_empty()
            && sink(ParsedItem::Noted(Note::new(place, event.faults.join("; ")))).is_break()
        {
            return Ok(ControlFlow::Break(()));
        }
        Ok(found.hand_over(sink))
    }

    /// An event as one part: all that it says but when else it takes place.
    fn part(&self, event: &mut Event, series: Option<&Series>) -> Result<Part, String> {
        let start = event.start.take().ok_or("has no DTSTART")??;
        let begin = Begin::of(&start, self.zones, None)?;
        let length = self.length(event, &begin);
        Ok(Part {
            from: begin.utc(),
            shift: TimeDelta::zero(),
            entry: self.entry(event, series, &begin)?,
            begin,
            length,
        })
    }

    fn length(&self, event: &mut Event, begin: &Begin) -> Length {
        let (end, span) = (event.end.take(), event.duration.take());
        let length = match end {
            Some(end) => end
                .and_then(|end| self.between(begin, &end))
                .map_err(|reason| ("DTEND", reason)),
            None => match &span {
                Some(text) => duration(text)
                    .map(Length::Known)
                    .map_err(|reason| ("DURATION", reason)),
                None => Ok(Length::Unknown),
            },
        };
        let length = length.and_then(|length| match length {
            Length::Known(span) if span.is_negative() => {
                Err(("the end", "it is before the beginning".to_owned()))
            }
            length => Ok(length),
        });
        let length = length.unwrap_or_else(|(property, reason)| {
            event.fault(property, &reason);
            Length::Unknown
        });
        // A day that ends where it begins is what some programs call one day.
        match length {
            Length::Unknown if begin.whole_day => Length::days(1),
            Length::Known(span) if begin.whole_day && span.about().is_zero() => Length::days(1),
            length => length,
        }
    }

    fn between(&self, begin: &Begin, end: &Stamp) -> Result<Length, String> {
        let end = Begin::of(end, self.zones, Some(&begin.zone))?;
        if begin.whole_day && end.whole_day {
            return Ok(Length::days((end.local - begin.local).num_days()));
        }
        Ok(Length::elapsed(end.utc() - begin.utc()))
    }

    fn entry(&self, event: &mut Event, series: Option<&Series>, begin: &Begin) -> Result<Entry, String> {
        let category = event.categories.as_deref().map(first_of_list);
        // An entry for one occurrence often says only what is different.
        let inherited = series.and_then(|series| series.summary.as_deref());
        let own = [event.description.as_deref(), event.location.as_deref()];
        let titles = [event.summary.as_deref(), inherited].into_iter().chain(own);
        let title = titles
            .flatten()
            .find(|title| !title.trim().is_empty())
            .map(ToOwned::to_owned);
        let url = event.url.take().filter(|url| !url.trim().is_empty());
        let texts = Texts {
            uid: event.uid.as_deref(),
            title: title.as_deref(),
            description: event.description.as_deref(),
            url: url.as_deref().or(event.conference.as_deref()),
            category: category.as_deref(),
            place: event.location.as_deref(),
        };
        let mut entry =
            Entry::new(&texts, begin.utc(), self.reading.url).ok_or_else(|| "has no SUMMARY".to_owned())?;
        let zone = begin.zone.name.or(self.zones.own().name);
        entry.time_zone = zone.map(ToOwned::to_owned);
        entry.cancelled = event
            .status
            .as_deref()
            .is_some_and(|status| status.trim().eq_ignore_ascii_case("CANCELLED"));
        if let (Some(url), None) = (url, &entry.url) {
            let reason = format!(
                "{:?} is not a web address",
                url.chars().take(40).collect::<String>()
            );
            event.fault("URL", &reason);
        }
        if let Some(text) = event.geo.take() {
            entry.position = geo(&text);
            if entry.position.is_none() {
                let reason = format!("{:?} is not a place", text.chars().take(40).collect::<String>());
                event.fault("GEO", &reason);
            }
        }
        Ok(entry)
    }

    /// What replaces one occurrence.
    fn replacement(
        &self,
        original: &Stamp,
        series: Option<&Series>,
        part: Part,
    ) -> Result<ParsedItem, String> {
        let planned = match series {
            Some(series) => series.planned(original, self.zones)?,
            None => Begin::of(original, self.zones, None)?.utc(),
        };
        let mut entry = part.entry;
        entry.ends_at = part.length.end(&part.begin);
        entry.occurrence(planned);
        Ok(self.within(entry))
    }

    /// What takes place once.
    fn single(&self, series: Option<&Series>, part: Part) -> Output {
        if series.is_some_and(|series| series.replaces(part.from)) {
            return Output::Nothing;
        }
        let mut entry = part.entry;
        entry.ends_at = part.length.end(&part.begin);
        Output::One(self.within(entry))
    }

    fn within(&self, entry: Entry) -> ParsedItem {
        if self.reading.covers(entry.starts_at, entry.ends_at) {
            ParsedItem::Entry(Box::new(entry))
        } else {
            ParsedItem::Outside
        }
    }

    /// What repeats, within the window.
    fn occurrences(&mut self, event: &mut Event, series: Option<&Series>, part: Part) -> Output {
        self.survey.repeats |= !event.rules.is_empty();
        let begin = part.begin.clone();
        let parts = self.parts(event, series, part);
        let window = self.window(&begin, &parts, event);
        let dates = self.dates(event, &begin, window);
        let except = self.except(event, &begin, window);
        let mut found = Vec::new();
        for (local, length) in dates {
            let planned = begin.zone.to_utc(local);
            let replaced = series.is_some_and(|series| series.replaces(planned));
            if replaced || except.days.contains(&local.date()) || except.moments.contains(&planned) {
                continue;
            }
            let Some(placed) = placed(&parts, planned, length) else {
                continue;
            };
            if placed.starts > self.reading.until || !self.reading.covers(placed.starts, placed.ends) {
                continue;
            }
            if found.len() == MAX_OCCURRENCES {
                self.cut(event);
                break;
            }
            found.push(placed);
        }
        Output::Many(parts, found)
    }

    /// An event takes place more often than is read.
    fn cut(&mut self, event: &mut Event) {
        let reason = format!("it takes place more than {MAX_OCCURRENCES} times; the first ones are read");
        event.fault("the rest", &reason);
        self.survey.leave_alone(event.uid.as_deref());
    }

    /// The series, and what replaces it from some moment on, in order.
    fn parts(&self, event: &mut Event, series: Option<&Series>, first: Part) -> Vec<Part> {
        let mut parts = vec![first];
        for (from, following) in series.iter().flat_map(|series| &series.following) {
            match self.following(following, series, *from) {
                Ok(part) => parts.push(part),
                Err(reason) => event.fault("RANGE=THISANDFUTURE", &reason),
            }
        }
        parts
    }

    fn following(&self, event: &Event, series: Option<&Series>, from: DateTime<Utc>) -> Result<Part, String> {
        // Its own entry is read, and complained about, where it stands.
        let mut event = event.clone();
        let part = self.part(&mut event, series)?;
        let planned = part.begin.zone.to_local(from.naive_utc());
        let shift = part.begin.local - planned;
        if shift.abs() > MAX_SHIFT {
            return Err("it moves what follows by more than a year".to_owned());
        }
        Ok(Part { from, shift, ..part })
    }

    /// When occurrences of interest are planned: a window as wide as they last and are moved.
    fn window(&self, begin: &Begin, parts: &[Part], event: &Event) -> Window {
        let (mut before, mut after) = (TimeDelta::zero(), TimeDelta::zero());
        for part in parts {
            before = before.max(
                part.length
                    .span()
                    .checked_add(&part.shift)
                    .unwrap_or(TimeDelta::MAX),
            );
            after = after.max(-part.shift);
        }
        for listed in &event.dates {
            if let Some(Length::Known(span)) = self.listed_length(listed, begin) {
                before = before.max(Length::Known(span).span());
            }
        }
        let (from, until) = (self.reading.from, self.reading.until);
        let from = from.checked_sub_signed(before).unwrap_or(DateTime::UNIX_EPOCH);
        let until = until.checked_add_signed(after).unwrap_or(until);
        Window {
            from: begin.zone.to_local(from.naive_utc()),
            until: begin.zone.to_local(until.naive_utc()),
        }
    }

    /// When it takes place within the window.
    fn dates(&mut self, event: &mut Event, begin: &Begin, window: Window) -> Dates {
        let mut dates = Dates::new();
        for rule in std::mem::take(&mut event.rules) {
            match self.follow(&rule, begin, window) {
                Ok(followed) => {
                    if followed.cut {
                        self.cut(event);
                    }
                    dates.extend(followed.dates.into_iter().map(|local| (local, None)));
                }
                Err(reason) => {
                    event.fault("RRULE", &reason);
                    self.survey.leave_alone(event.uid.as_deref());
                }
            }
        }
        // The first one takes place whether a rule names it or not.
        dates.entry(begin.local).or_insert(None);
        for listed in std::mem::take(&mut event.dates) {
            match self.listed(&listed, begin) {
                Ok((local, length)) if (window.from..=window.until).contains(&local) => {
                    dates.insert(local, length);
                }
                Ok(_) => {}
                Err(reason) => event.fault("RDATE", &reason),
            }
        }
        dates
    }

    fn follow(&self, rule: &str, begin: &Begin, window: Window) -> Result<recur::RuleDates, String> {
        let to_local = |moment: NaiveDateTime| begin.zone.to_local(moment);
        let start = Start {
            local: begin.local,
            whole_day: begin.whole_day,
        };
        recur::follow(rule, start, &to_local, window, self.meter)
    }

    fn listed(&self, listed: &ListedDate, begin: &Begin) -> Result<(NaiveDateTime, Option<Length>), String> {
        if self.meter.charge(1).is_err() {
            return Err("the calendar takes too long to read".to_owned());
        }
        let at = Begin::of(&listed.begin, self.zones, Some(&begin.zone))?;
        let local = begin.zone.to_local(at.utc().naive_utc());
        Ok((local, self.listed_length(listed, begin)))
    }

    fn listed_length(&self, listed: &ListedDate, begin: &Begin) -> Option<Length> {
        let length = match listed.end.as_ref()? {
            ListedEnd::After(span) => Length::Known(*span),
            ListedEnd::At(end) => {
                let at = Begin::of(&listed.begin, self.zones, Some(&begin.zone)).ok()?;
                self.between(&at, end).ok()?
            }
        };
        matches!(length, Length::Known(span) if !span.is_negative()).then_some(length)
    }

    fn except(&mut self, event: &mut Event, begin: &Begin, window: Window) -> Except {
        let mut except = Except::default();
        for stamp in std::mem::take(&mut event.except) {
            if self.meter.charge(1).is_err() {
                event.fault("EXDATE", "the calendar takes too long to read");
                self.survey.leave_alone(event.uid.as_deref());
                break;
            }
            match stamp.clock {
                Clock::Day(day) => {
                    except.days.insert(day);
                }
                Clock::Local(at) | Clock::Utc(at) if begin.whole_day => {
                    except.days.insert(at.date());
                }
                Clock::Local(_) | Clock::Utc(_) => match Begin::of(&stamp, self.zones, Some(&begin.zone)) {
                    Ok(at) => {
                        except.moments.insert(at.utc());
                    }
                    Err(reason) => event.fault("EXDATE", &reason),
                },
            }
        }
        for rule in std::mem::take(&mut event.except_rules) {
            match self.follow(&rule, begin, window) {
                Ok(followed) => except
                    .moments
                    .extend(followed.dates.iter().map(|at| begin.zone.to_utc(*at))),
                Err(reason) => event.fault("EXRULE", &reason),
            }
        }
        except
    }
}

/// An occurrence, as the part of the series to which it belongs has it.
fn placed(parts: &[Part], planned: DateTime<Utc>, length: Option<Length>) -> Option<PlacedOccurrence> {
    let at = parts
        .iter()
        .rposition(|part| part.from <= planned)
        .unwrap_or_default();
    let part = parts.get(at)?;
    let local = part.begin.zone.to_local(planned.naive_utc());
    let begin = part.begin.at(local.checked_add_signed(part.shift)?);
    Some(PlacedOccurrence {
        part: at,
        planned,
        starts: begin.utc(),
        ends: length.unwrap_or(part.length).end(&begin),
    })
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
fn geo(text: &str) -> Option<(f64, f64)> {
    let (lat, lon) = text.split_once([';', ','])?;
    position(lat, lon)
}
