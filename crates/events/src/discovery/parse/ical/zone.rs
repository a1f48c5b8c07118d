//! Time zones: the IANA's, and those that a calendar spells out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, NaiveTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::reader::{Observance, ZoneText};
use super::recur::{self, Meter, Start, Window};
use super::when::{Clock, Stamp, clock, offset};
use super::windows;
use crate::discovery::parse::dates::at_local;

/// Changes of one spelled-out zone that are kept; the newest ones.
const MAX_SHIFTS: usize = 2_000;

/// Steps that looking for the zone of a name costs.
const STEPS_PER_NAME: usize = 100;

/// Seconds of a year, and a little more.
const YEAR: i64 = 366 * 86_400;

/// A zone, and how local times are put into it.
#[derive(Debug)]
pub(super) struct Zone {
    /// The IANA's name, where one is given.
    pub(super) name: Option<&'static str>,
    rule: Rule,
}

#[derive(Debug)]
enum Rule {
    Iana(Tz),
    /// In their order; never empty.
    Shifts(Vec<Shift>),
}

/// A change of the offset, both in seconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Shift {
    /// By the clock from before.
    at: NaiveDateTime,
    before: i64,
    after: i64,
}

impl Shift {
    fn utc(&self) -> NaiveDateTime {
        moved(self.at, -self.before)
    }
}

fn moved(at: NaiveDateTime, seconds: i64) -> NaiveDateTime {
    at.checked_add_signed(TimeDelta::seconds(seconds)).unwrap_or(at)
}

impl Zone {
    /// `named`: the zone was given explicitly.
    pub(super) fn iana(zone: Tz, named: bool) -> Self {
        Self {
            name: named.then(|| zone.name()),
            rule: Rule::Iana(zone),
        }
    }

    pub(super) fn utc() -> Self {
        Self::iana(Tz::UTC, false)
    }

    /// The moment of a local time. In a gap the offset from before it counts, of a repeated time the first occurrence: with
    /// changes written in the time from before them, both follow from asking which one came last.
    pub(super) fn to_utc(&self, local: NaiveDateTime) -> DateTime<Utc> {
        match &self.rule {
            Rule::Iana(zone) => at_local(*zone, local),
            Rule::Shifts(shifts) => {
                let passed = shifts.partition_point(|shift| shift.at <= local);
                let offset = match passed.checked_sub(1).and_then(|last| shifts.get(last)) {
                    // Until the clocks have been put forward, the old offset is meant.
                    Some(shift) if moved(shift.at, shift.after - shift.before) > local => shift.before,
                    Some(shift) => shift.after,
                    None => shifts.first().map_or(0, |shift| shift.before),
                };
                moved(local, -offset).and_utc()
            }
        }
    }

    pub(super) fn to_local(&self, moment: NaiveDateTime) -> NaiveDateTime {
        match &self.rule {
            Rule::Iana(zone) => moment.and_utc().with_timezone(zone).naive_local(),
            Rule::Shifts(shifts) => {
                let passed = shifts.partition_point(|shift| shift.utc() <= moment);
                let offset = match passed.checked_sub(1).and_then(|last| shifts.get(last)) {
                    Some(shift) => shift.after,
                    None => shifts.first().map_or(0, |shift| shift.before),
                };
                moved(moment, offset)
            }
        }
    }
}

/// When something begins, by the clock there.
#[derive(Debug, Clone)]
pub(super) struct Begin {
    pub(super) local: NaiveDateTime,
    pub(super) zone: Arc<Zone>,
    pub(super) whole_day: bool,
}

impl Begin {
    /// A time that names no zone is in `floating`, or else in the calendar's own.
    ///
    /// # Errors
    /// The zone that it names is unknown.
    pub(super) fn of(stamp: &Stamp, zones: &Zones<'_>, floating: Option<&Arc<Zone>>) -> Result<Self, String> {
        let zone = match &stamp.zone {
            _ if matches!(stamp.clock, Clock::Utc(_)) => Arc::clone(zones.utc()),
            Some(id) => zones.find(id)?,
            None => Arc::clone(floating.unwrap_or(zones.own())),
        };
        let (local, whole_day) = match stamp.clock {
            Clock::Day(day) => (day.and_time(NaiveTime::MIN), true),
            Clock::Local(at) | Clock::Utc(at) => (at, false),
        };
        Ok(Self {
            local,
            zone,
            whole_day,
        })
    }

    pub(super) fn utc(&self) -> DateTime<Utc> {
        self.zone.to_utc(self.local)
    }

    /// Another moment of the same kind, by the same clock.
    pub(super) fn at(&self, local: NaiveDateTime) -> Self {
        Self {
            local,
            ..self.clone()
        }
    }
}

/// The zones that a calendar's times may name.
pub(super) struct Zones<'a> {
    /// Of times without a zone.
    own: Arc<Zone>,
    utc: Arc<Zone>,
    declared: HashMap<String, ZoneText>,
    known: RefCell<HashMap<String, Result<Arc<Zone>, String>>>,
    until: DateTime<Utc>,
    meter: &'a Meter<'a>,
}

impl<'a> Zones<'a> {
    /// Times without a zone are in `own`, or else in the zone that the calendar names, or else in UTC.
    pub(super) fn new(
        own: Option<Tz>,
        named: Option<&str>,
        declared: HashMap<String, ZoneText>,
        until: DateTime<Utc>,
        meter: &'a Meter<'a>,
    ) -> Self {
        let mut zones = Self {
            own: Arc::new(Zone::utc()),
            utc: Arc::new(Zone::utc()),
            declared,
            known: RefCell::default(),
            until,
            meter,
        };
        if let Some(own) = own {
            zones.own = Arc::new(Zone::iana(own, true));
        } else if let Some(zone) = named.and_then(|name| zones.find(name).ok()) {
            zones.own = zone;
        }
        zones
    }

    pub(super) fn own(&self) -> &Arc<Zone> {
        &self.own
    }

    pub(super) fn utc(&self) -> &Arc<Zone> {
        &self.utc
    }

    /// The zone of that name.
    pub(super) fn find(&self, id: &str) -> Result<Arc<Zone>, String> {
        if let Some(known) = self.known.borrow().get(id) {
            return known.clone();
        }
        let found = self.look_up(id.trim()).map(Arc::new);
        self.known.borrow_mut().insert(id.to_owned(), found.clone());
        found
    }

    /// The IANA's zone of that name; what the calendar defines under it; what Windows calls so; or an offset.
    fn look_up(&self, id: &str) -> Result<Zone, String> {
        if self.meter.charge(STEPS_PER_NAME).is_err() {
            return Err("the calendar takes too long to read".to_owned());
        }
        let declared = self.declared.get(id);
        let location = declared.and_then(|zone| zone.location.as_deref());
        if let Some(zone) = iana(id).or_else(|| location.and_then(iana)) {
            return Ok(Zone::iana(zone, true));
        }
        let windows = windows::zone(id);
        let spelled_out = declared.map(|text| spelled_out(text, self.until, self.meter));
        match (spelled_out, windows) {
            (Some(Ok(zone)), windows) => Ok(Zone {
                // Its name is for people; the definition counts.
                name: windows.map(Tz::name),
                ..zone
            }),
            (_, Some(zone)) => Ok(Zone::iana(zone, true)),
            (Some(Err(reason)), None) => Err(format!(
                "names the time zone {id:?}, whose definition cannot be used: {reason}"
            )),
            (None, None) => fixed(id).ok_or_else(|| {
                let id: String = id.chars().take(60).collect();
                format!(
                    "names the time zone {id:?}, which is not an IANA zone and is not defined in the calendar"
                )
            }),
        }
    }
}

/// The IANA's zone of a name in any case, also behind a prefix such as `/freeassociation.sourceforge.net/`.
pub(in super::super) fn iana(id: &str) -> Option<Tz> {
    if let Ok(zone) = id.parse() {
        return Some(zone);
    }
    if let Some(id) = id.strip_prefix('/') {
        return id
            .match_indices('/')
            .find_map(|(at, _)| id[at + 1..].parse().ok());
    }
    chrono_tz::TZ_VARIANTS
        .iter()
        .copied()
        .find(|zone| zone.name().eq_ignore_ascii_case(id))
}

/// An offset for a name: `UTC+01:00`, `GMT-0500`, `+0200`.
fn fixed(id: &str) -> Option<Zone> {
    let digits = id
        .strip_prefix("UTC")
        .or_else(|| id.strip_prefix("GMT"))
        .unwrap_or(id);
    let seconds = offset(&digits.replace(':', "")).ok()?;
    let shift = Shift {
        at: NaiveDateTime::MIN,
        before: seconds,
        after: seconds,
    };
    Some(Zone {
        name: None,
        rule: Rule::Shifts(vec![shift]),
    })
}

/// A zone as its `VTIMEZONE` defines it. What changed before the first event that can be stored (1970) is not followed.
fn spelled_out(text: &ZoneText, until: DateTime<Utc>, meter: &Meter<'_>) -> Result<Zone, String> {
    let window = Window {
        from: moved(DateTime::UNIX_EPOCH.naive_utc(), -2 * YEAR),
        // Rules are asked about local times near the end of the window.
        until: moved(until.naive_utc(), YEAR),
    };
    let mut shifts = Vec::new();
    for observance in &text.observances {
        observe(observance, window, meter, &mut shifts)?;
    }
    shifts.sort_unstable();
    shifts.dedup();
    let surplus = shifts.len().saturating_sub(MAX_SHIFTS);
    shifts.drain(..surplus);
    if shifts.is_empty() {
        return Err("it has no STANDARD and no DAYLIGHT".to_owned());
    }
    Ok(Zone {
        name: None,
        rule: Rule::Shifts(shifts),
    })
}

fn observe(
    observance: &Observance,
    window: Window,
    meter: &Meter<'_>,
    shifts: &mut Vec<Shift>,
) -> Result<(), String> {
    let local = |text: &str| match clock(text.split('/').next().unwrap_or(text).trim())? {
        Clock::Day(day) => Ok(day.and_time(NaiveTime::MIN)),
        Clock::Local(at) | Clock::Utc(at) => Ok::<_, String>(at),
    };
    let required = |text: &Option<String>, name: &str| {
        text.clone()
            .ok_or_else(|| format!("an observance of it has no {name}"))
    };
    let start = local(&required(&observance.start, "DTSTART")?)?;
    let before = offset(&required(&observance.from, "TZOFFSETFROM")?)?;
    let after = offset(&required(&observance.to, "TZOFFSETTO")?)?;
    let mut onsets = vec![start];
    for rule in &observance.rules {
        // An end in UTC is put into the time in which the rule runs.
        let to_local = |moment| moved(moment, before);
        let start = Start {
            local: start,
            whole_day: false,
        };
        onsets.extend(recur::follow(rule, start, &to_local, window, meter)?.dates);
    }
    for date in &observance.dates {
        onsets.push(local(date)?);
    }
    shifts.extend(onsets.into_iter().map(|at| Shift { at, before, after }));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::discovery::parse::Stop;

    fn observance(start: &str, from: &str, to: &str, rule: &str) -> Observance {
        Observance {
            start: Some(start.to_owned()),
            from: Some(from.to_owned()),
            to: Some(to.to_owned()),
            rules: vec![rule.to_owned()],
            dates: Vec::new(),
        }
    }

    fn vienna_by_hand() -> Zone {
        let text = ZoneText {
            id: "Custom".to_owned(),
            location: None,
            observances: vec![
                observance(
                    "16010101T030000",
                    "+0200",
                    "+0100",
                    "FREQ=YEARLY;BYDAY=-1SU;BYMONTH=10",
                ),
                observance(
                    "16010101T020000",
                    "+0100",
                    "+0200",
                    "FREQ=YEARLY;BYDAY=-1SU;BYMONTH=3",
                ),
            ],
        };
        let until = DateTime::parse_from_rfc3339("2031-01-01T00:00:00Z")
            .unwrap()
            .to_utc();
        spelled_out(&text, until, &Meter::new(&Stop::default())).unwrap()
    }

    #[test]
    fn a_zone_that_is_spelled_out_is_the_one_it_spells() {
        let (by_hand, known) = (vienna_by_hand(), Zone::iana(Tz::Europe__Vienna, true));
        let mut local = clock_at("20300101T003000");
        for _ in 0..366 * 24 {
            assert_eq!(by_hand.to_utc(local), known.to_utc(local), "{local}");
            let moment = local;
            assert_eq!(by_hand.to_local(moment), known.to_local(moment), "{moment}");
            local = moved(local, 3_600);
        }
    }

    fn clock_at(text: &str) -> NaiveDateTime {
        match clock(text).unwrap() {
            Clock::Local(at) => at,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_name_is_found_behind_a_prefix_and_nowhere_else() {
        assert_eq!(iana("Europe/Vienna"), Some(Tz::Europe__Vienna));
        assert_eq!(
            iana("/freeassociation.sourceforge.net/Tzfile/Europe/Vienna"),
            Some(Tz::Europe__Vienna)
        );
        assert_eq!(
            iana("/mozilla.org/20050126_1/America/Argentina/Salta"),
            Some(Tz::America__Argentina__Salta)
        );
        assert_eq!(iana("W. Europe Standard Time"), None);
        assert_eq!(iana("europe/VIENNA"), Some(Tz::Europe__Vienna));
        let stop = Stop::default();
        let meter = Meter::new(&stop);
        let zones = Zones::new(None, None, HashMap::new(), DateTime::UNIX_EPOCH, &meter);
        for (name, iana) in [
            ("W. Europe Standard Time", Some("Europe/Berlin")),
            ("UTC+01:00", None),
            ("GMT-0500", None),
        ] {
            assert_eq!(zones.find(name).unwrap().name, iana, "{name}");
        }
        let reason = zones.find("Mars/Base").unwrap_err();
        assert!(reason.contains("\"Mars/Base\""), "{reason}");
    }
}
