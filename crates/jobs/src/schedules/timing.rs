//! When a schedule ticks: a cron expression in a time zone, or an interval.
//!
//! # Rules
//! - An *interval* of n seconds ticks at every multiple of n seconds since 1970 in UTC. It has no state, so it cannot
//!   drift, every beat agrees on it, and a restart or an edit does not move it.
//! - A *cron expression* has five fields (minute, hour, day of month, month, day of week) or six (a second first), or is
//!   one of `@hourly`, `@daily`, `@weekly`, `@monthly`, `@yearly`. croner matches it against wall-clock times; what
//!   becomes of a wall-clock time that a zone skips or repeats is decided here, and croner is not asked:
//!   - An expression that names hours (`30 2 * * *`, `*/15 8-18 * * *`, `0 */2 * * *`) ticks **once** for each time on
//!     the clock's face: for one that is skipped, at the first moment after the gap (several in one gap are one tick);
//!     for one that is repeated, at its first occurrence.
//!   - An expression that runs in every hour of the day (`*/5 * * * *`, `30 * * * *`) follows elapsed time: it goes on
//!     through a repeated hour, and a skipped one takes no time. It would else stand still for an hour in autumn.
//! - Ticks are whole seconds.

use std::collections::VecDeque;
use std::str::FromStr;

use chrono::{DateTime, Duration, NaiveDate, NaiveDateTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use croner::Cron;
use croner::parser::{CronParser, Seconds, Year};

/// Longest interval: a leap year. What is rarer is a cron expression.
pub const MAX_INTERVAL_SECONDS: u32 = 366 * 86_400;

/// Longest cron expression, in bytes.
pub const MAX_CRON_BYTES: usize = 255;

/// No zone is farther from UTC, and no gap is longer than a day (Samoa once skipped one).
const ZONE_SPAN: TimeDelta = TimeDelta::hours(38);

/// Changes of a zone's offset that one search passes.
const MAX_TRANSITIONS: usize = 64;

/// The first look back for missed ticks; each next one is [`LOOK_BACK_FACTOR`] times as long.
const FIRST_LOOK_BACK: TimeDelta = TimeDelta::seconds(64);
const LOOK_BACK_FACTOR: i32 = 8;

/// What is wrong with a cron expression or a zone: the part, and the fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct TimingFault(String);

/// A cron expression in English.
///
/// # Errors
/// Which field is wrong.
pub fn in_words(expression: &str) -> Result<String, TimingFault> {
    Ok(parse(expression)?.describe())
}

/// The names of cron's fields, with what each takes.
const FIELDS: [(&str, &str); 6] = [
    ("second", "0 to 59"),
    ("minute", "0 to 59"),
    ("hour", "0 to 23"),
    ("day-of-month", "1 to 31, L for the last"),
    ("month", "1 to 12, or JAN to DEC"),
    ("day-of-week", "0 to 7, or SUN to SAT; 0 and 7 are Sunday"),
];

const NICKNAMES: [(&str, &str); 7] = [
    ("@hourly", "0 * * * *"),
    ("@daily", "0 0 * * *"),
    ("@midnight", "0 0 * * *"),
    ("@weekly", "0 0 * * 0"),
    ("@monthly", "0 0 1 * *"),
    ("@yearly", "0 0 1 1 *"),
    ("@annually", "0 0 1 1 *"),
];

/// A parsed schedule's ticks.
#[derive(Debug, Clone)]
pub struct Timing(Rule);

#[derive(Debug, Clone)]
enum Rule {
    Cron { cron: Box<Cron>, zone: Tz, hours: Hours },
    Every(i64),
}

/// Which hours an expression names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Hours {
    /// Every one: elapsed time counts.
    All,
    /// Some: the clock's face counts.
    Named,
}

impl Timing {
    /// Ticks at every multiple of `seconds` since 1970; 1 to [`MAX_INTERVAL_SECONDS`].
    pub fn every(seconds: u32) -> Self {
        Self(Rule::Every(i64::from(seconds.clamp(1, MAX_INTERVAL_SECONDS))))
    }

    /// # Errors
    /// Which field is wrong.
    pub fn cron(expression: &str, zone: Tz) -> Result<Self, TimingFault> {
        let cron = parse(expression)?;
        let hours = hours_of(&cron);
        Ok(Self(Rule::Cron {
            cron: Box::new(cron),
            zone,
            hours,
        }))
    }

    /// The first tick after `moment`; `None` if there is none any more.
    pub fn next_after(&self, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match &self.0 {
            Rule::Every(seconds) => {
                let next = moment.timestamp().div_euclid(*seconds) + 1;
                DateTime::from_timestamp(next.checked_mul(*seconds)?, 0)
            }
            Rule::Cron { cron, zone, hours } => match hours {
                Hours::Named => next_on_the_clock(cron, *zone, moment),
                Hours::All => next_by_elapsed_time(cron, *zone, moment),
            },
        }
    }

    /// The first ticks after `moment`, `count` at most.
    pub fn next_ticks(&self, moment: DateTime<Utc>, count: usize) -> Vec<DateTime<Utc>> {
        let first = self.next_after(moment);
        std::iter::successors(first, |tick| self.next_after(*tick))
            .take(count)
            .collect()
    }

    /// The newest `most` ticks from `from` to `until`, both included, oldest first. However long ago `from` is, this
    /// takes a time that depends on `most` alone: it looks back in steps that grow.
    pub fn due(&self, from: DateTime<Utc>, until: DateTime<Utc>, most: usize) -> Vec<DateTime<Utc>> {
        let mut look_back = FIRST_LOOK_BACK;
        loop {
            // A moment before a possible tick, so that this tick itself is found.
            let begin = from.max(until - look_back) - Duration::milliseconds(1);
            let mut found = VecDeque::with_capacity(most.min(1_024));
            let mut last = begin;
            while let Some(tick) = self.next_after(last).filter(|tick| *tick <= until) {
                if found.len() == most {
                    found.pop_front();
                }
                found.push_back(tick);
                last = tick;
            }
            if found.len() >= most || until - look_back <= from {
                return found.into();
            }
            look_back = look_back * LOOK_BACK_FACTOR;
        }
    }
}

/// An IANA name such as `Europe/Berlin`.
pub fn zone(name: &str) -> Result<Tz, TimingFault> {
    Tz::from_str(name).map_err(|_| {
        let name: String = name.chars().take(80).collect();
        TimingFault(format!(
            "{name:?} is not a time zone; give an IANA name such as \"UTC\", \"Europe/Berlin\" or \"America/New_York\""
        ))
    })
}

fn parser() -> CronParser {
    CronParser::builder()
        .seconds(Seconds::Optional)
        .year(Year::Disallowed)
        .build()
}

fn parse(expression: &str) -> Result<Cron, TimingFault> {
    let fault = |text: String| Err(TimingFault(text));
    if expression.len() > MAX_CRON_BYTES {
        return fault(format!("longer than {MAX_CRON_BYTES} bytes"));
    }
    let trimmed = expression.trim();
    if trimmed.starts_with('@') {
        let full = NICKNAMES
            .iter()
            .find(|(name, _)| name.eq_ignore_ascii_case(trimmed));
        return match full {
            Some((_, full)) => parse(full),
            None => fault(format!(
                "{trimmed:?} is not a name that is known; give {}",
                NICKNAMES.map(|(name, _)| name).join(", ")
            )),
        };
    }
    let fields: Vec<&str> = trimmed.split_whitespace().collect();
    let names = match fields.len() {
        5 => &FIELDS[1..],
        6 => &FIELDS[..],
        count => {
            return fault(format!(
                "has {count} fields; give five (minute hour day-of-month month day-of-week), or six with a second first"
            ));
        }
    };
    for (field, (name, takes)) in fields.iter().zip(names) {
        check_field(field, name, takes)?;
    }
    let cron = match parser().parse(&fields.join(" ")) {
        Ok(cron) => cron,
        Err(error) => return fault(error.to_string()),
    };
    match cron.find_next_occurrence(&midnight(2026), false) {
        Ok(_) => Ok(cron),
        Err(_) => fault("never comes: no date has this day-of-month in this month".to_owned()),
    }
}

/// croner does not say which field it stumbles over, so each is tried by itself.
fn check_field(field: &str, name: &str, takes: &str) -> Result<(), TimingFault> {
    let place = FIELDS
        .iter()
        .position(|(known, _)| *known == name)
        .unwrap_or_default();
    let mut alone = ["0", "0", "0", "*", "*", "*"];
    alone[place] = field;
    match parser().parse(&alone.join(" ")) {
        Ok(_) => Ok(()),
        Err(error) => {
            let text = error.to_string();
            let reason = text.split_once(": ").map_or(text.as_str(), |(_, reason)| reason);
            Err(TimingFault(format!(
                "the {name} field {field:?} is invalid ({}); it takes {takes}, and * , - /",
                reason.trim_end_matches('.')
            )))
        }
    }
}

fn midnight(year: i32) -> NaiveDateTime {
    NaiveDate::from_ymd_opt(year, 1, 1).unwrap_or_default().into()
}

/// Whether it matches in each of the 24 hours of its days.
fn hours_of(cron: &Cron) -> Hours {
    let every = (0..24).all(|hour| matches!(cron.pattern.hour_match(hour), Ok(true)));
    if every { Hours::All } else { Hours::Named }
}

fn offset_at(zone: Tz, moment: DateTime<Utc>) -> TimeDelta {
    let offset = zone.offset_from_utc_datetime(&moment.naive_utc()).fix();
    TimeDelta::seconds(i64::from(offset.local_minus_utc()))
}

fn local(zone: Tz, moment: DateTime<Utc>) -> NaiveDateTime {
    moment.naive_utc() + offset_at(zone, moment)
}

/// Each wall-clock time has one moment, and later times never have earlier moments: so the first time whose moment lies
/// ahead is the answer.
fn next_on_the_clock(cron: &Cron, zone: Tz, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let mut face = local(zone, moment);
    loop {
        face = cron.find_next_occurrence(&face, false).ok()?;
        let tick = moment_of(zone, face)?;
        if tick > moment {
            return Some(tick);
        }
    }
}

/// The first occurrence of a repeated time, the end of the gap for a skipped one.
fn moment_of(zone: Tz, face: NaiveDateTime) -> Option<DateTime<Utc>> {
    match zone.from_local_datetime(&face) {
        chrono::LocalResult::Single(at) | chrono::LocalResult::Ambiguous(at, _) => Some(at.to_utc()),
        chrono::LocalResult::None => {
            let around = face.and_utc();
            first_second(around - ZONE_SPAN, around + ZONE_SPAN, |at| {
                local(zone, at) >= face
            })
        }
    }
}

/// The first second after `from`, up to `until`, at which `holds`; it must go on to hold.
fn first_second(
    from: DateTime<Utc>,
    until: DateTime<Utc>,
    holds: impl Fn(DateTime<Utc>) -> bool,
) -> Option<DateTime<Utc>> {
    let (mut before, mut after) = (from.timestamp(), until.timestamp());
    while after - before > 1 {
        let middle = before + (after - before) / 2;
        if holds(DateTime::from_timestamp(middle, 0)?) {
            after = middle;
        } else {
            before = middle;
        }
    }
    DateTime::from_timestamp(after, 0)
}

/// Goes on from one offset of the zone to the next, and within one offset a wall clock is elapsed time.
fn next_by_elapsed_time(cron: &Cron, zone: Tz, moment: DateTime<Utc>) -> Option<DateTime<Utc>> {
    let (mut from, mut inclusive) = (moment, false);
    for _ in 0..MAX_TRANSITIONS {
        let offset = offset_at(zone, from);
        let face = cron
            .find_next_occurrence(&(from.naive_utc() + offset), inclusive)
            .ok()?;
        let tick = (face - offset).and_utc();
        // A repeated hour begins soon, if it matters: what it repeats is behind the face that was found.
        let soon = from + TimeDelta::hours(3);
        let horizon = if offset_at(zone, soon) == offset {
            tick
        } else {
            tick.min(soon)
        };
        if offset_at(zone, horizon) == offset {
            return Some(tick);
        }
        from = first_second(from, horizon, |at| offset_at(zone, at) != offset)?;
        if tick < from {
            return Some(tick);
        }
        inclusive = true;
    }
    None
}

#[cfg(test)]
#[path = "timing_tests.rs"]
mod tests;
