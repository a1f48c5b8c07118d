//! Time zones: the IANA's, and those that a calendar spells out.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use chrono::{DateTime, NaiveDateTime, TimeDelta, Utc};
use chrono_tz::Tz;

use super::reader::{Observance, ZoneText};
use super::recur::{self, Budget};
use super::when::{Clock, clock, offset};
use crate::discovery::parse::dates::at_local;

/// Changes of one spelled-out zone that are kept; the newest ones.
const MAX_SHIFTS: usize = 2_000;

/// A zone, and how local times are put into it.
#[derive(Debug)]
pub(super) struct Zone {
    /// The IANA's name, where somebody gave one.
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
    /// `named`: somebody said so, it is no default.
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

/// The zones that a calendar's times may name.
pub(super) struct Zones {
    /// Of times without a zone.
    own: Arc<Zone>,
    utc: Arc<Zone>,
    declared: HashMap<String, ZoneText>,
    known: RefCell<HashMap<String, Result<Arc<Zone>, String>>>,
    until: DateTime<Utc>,
}

impl Zones {
    pub(super) fn new(own: Arc<Zone>, declared: HashMap<String, ZoneText>, until: DateTime<Utc>) -> Self {
        Self {
            own,
            utc: Arc::new(Zone::utc()),
            declared,
            known: RefCell::default(),
            until,
        }
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
        let found = self.look_up(id).map(Arc::new);
        self.known.borrow_mut().insert(id.to_owned(), found.clone());
        found
    }

    fn look_up(&self, id: &str) -> Result<Zone, String> {
        let declared = self.declared.get(id);
        let location = declared.and_then(|zone| zone.location.as_deref());
        let iana = iana(id).or_else(|| location.and_then(iana));
        match (iana, declared) {
            (Some(zone), _) => Ok(Zone::iana(zone, true)),
            (None, Some(text)) => spelled_out(text, self.until).map_err(|reason| {
                format!("names the time zone {id:?}, whose definition is of no use: {reason}")
            }),
            (None, None) => Err(format!(
                "names the time zone {id:?}, which is no IANA zone and is not defined in the calendar"
            )),
        }
    }
}

/// The IANA's zone of a name, also behind a prefix such as `/freeassociation.sourceforge.net/`.
fn iana(id: &str) -> Option<Tz> {
    if let Ok(zone) = id.parse() {
        return Some(zone);
    }
    let id = id.strip_prefix('/')?;
    id.match_indices('/')
        .find_map(|(at, _)| id[at + 1..].parse().ok())
}

fn spelled_out(text: &ZoneText, until: DateTime<Utc>) -> Result<Zone, String> {
    let mut budget = Budget::default();
    // A year more: rules are asked about local times near the end of the window.
    let until = moved(until.naive_utc(), 366 * 86_400);
    let mut shifts = Vec::new();
    for observance in &text.observances {
        observe(observance, until, &mut budget, &mut shifts)?;
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
    until: NaiveDateTime,
    budget: &mut Budget,
    shifts: &mut Vec<Shift>,
) -> Result<(), String> {
    let local = |text: &str| match clock(text.split('/').next().unwrap_or(text).trim())? {
        Clock::Day(day) => Ok(day.and_time(chrono::NaiveTime::MIN)),
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
        onsets.extend(recur::follow(rule, start, false, &to_local, start, until, budget)?.dates);
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
        spelled_out(&text, until).unwrap()
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
        let zones = Zones::new(Arc::new(Zone::utc()), HashMap::new(), DateTime::UNIX_EPOCH);
        let reason = zones.find("Mars/Base").unwrap_err();
        assert!(reason.contains("\"Mars/Base\""), "{reason}");
    }
}
