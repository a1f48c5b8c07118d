//! A recurrence rule, read and completed from `DTSTART`.

use chrono::{Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Weekday};

use super::Start;
use crate::discovery::parse::ical::when::{Clock, clock};

/// The period of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Frequency {
    Secondly,
    Minutely,
    Hourly,
    Daily,
    Weekly,
    Monthly,
    Yearly,
}

/// `MO`, or `-1MO`: the last Monday of its month or year.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct NthDay {
    /// 0: every one.
    nth: i32,
    day: Weekday,
}

/// A rule. Its lists are sorted, without doubles; an empty one limits nothing.
#[derive(Debug)]
pub(super) struct Rule {
    pub(super) frequency: Frequency,
    pub(super) interval: i64,
    pub(super) count: Option<u64>,
    /// By the series' own clock.
    pub(super) until: Option<NaiveDateTime>,
    pub(super) week_start: Weekday,
    months: Vec<i32>,
    week_numbers: Vec<i32>,
    year_days: Vec<i32>,
    month_days: Vec<i32>,
    week_days: Vec<NthDay>,
    pub(super) hours: Vec<i32>,
    pub(super) minutes: Vec<i32>,
    pub(super) seconds: Vec<i32>,
    pub(super) positions: Vec<i32>,
    /// One moment in each period, at the same distance: its occurrences are known by arithmetic.
    pub(super) is_even: bool,
}

impl Rule {
    /// # Errors
    /// Why it is no rule.
    pub(super) fn parse(
        text: &str,
        start: Start,
        to_local: &dyn Fn(NaiveDateTime) -> NaiveDateTime,
    ) -> Result<Self, String> {
        let mut rule = Self::empty();
        let (mut frequency, mut seen) = (None, Vec::new());
        for part in text.split(';').map(str::trim).filter(|part| !part.is_empty()) {
            let (name, value) = part
                .split_once('=')
                .ok_or_else(|| format!("{part:?} has no value"))?;
            let (name, value) = (name.trim().to_ascii_uppercase(), value.trim());
            if seen.contains(&name) {
                return Err(format!("{name} is given twice"));
            }
            match name.as_str() {
                "FREQ" => frequency = Some(frequency_of(value)?),
                "UNTIL" => rule.until = Some(end(value, start.whole_day, to_local)?),
                _ => rule.put(&name, value)?,
            }
            seen.push(name);
        }
        rule.frequency = frequency.ok_or("it has no FREQ")?;
        rule.complete(start.local);
        Ok(rule)
    }

    fn empty() -> Self {
        Self {
            frequency: Frequency::Daily,
            interval: 1,
            count: None,
            until: None,
            week_start: Weekday::Mon,
            months: Vec::new(),
            week_numbers: Vec::new(),
            year_days: Vec::new(),
            month_days: Vec::new(),
            week_days: Vec::new(),
            hours: Vec::new(),
            minutes: Vec::new(),
            seconds: Vec::new(),
            positions: Vec::new(),
            is_even: false,
        }
    }

    fn put(&mut self, name: &str, value: &str) -> Result<(), String> {
        let list = |low, high, signed| numbers(name, value, low, high, signed);
        match name {
            "INTERVAL" => self.interval = whole(name, value)?.try_into().unwrap_or(i64::MAX),
            "COUNT" => self.count = Some(whole(name, value)?),
            "WKST" => self.week_start = week_day(value).ok_or_else(|| no_day(value))?,
            "BYMONTH" => self.months = list(1, 12, false)?,
            "BYWEEKNO" => self.week_numbers = list(1, 53, true)?,
            "BYYEARDAY" => self.year_days = list(1, 366, true)?,
            "BYMONTHDAY" => self.month_days = list(1, 31, true)?,
            "BYDAY" => self.week_days = nth_days(value)?,
            "BYHOUR" => self.hours = list(0, 23, false)?,
            "BYMINUTE" => self.minutes = list(0, 59, false)?,
            // A leap second is read as the second before, which everything else counts it as.
            "BYSECOND" => {
                self.seconds = list(0, 60, false)?
                    .iter()
                    .map(|second| *second.min(&59))
                    .collect();
                self.seconds.dedup();
            }
            "BYSETPOS" => self.positions = list(1, 366, true)?,
            // RFC 7529, as far as it says what is so without it.
            "RSCALE" if value.eq_ignore_ascii_case("GREGORIAN") => {}
            "SKIP" if value.eq_ignore_ascii_case("OMIT") => {}
            _ if name.starts_with("X-") => {}
            _ => return Err(format!("{name}={value} is unknown")),
        }
        Ok(())
    }

    /// What a rule leaves out is taken from `DTSTART`.
    fn complete(&mut self, start: NaiveDateTime) {
        // Which Monday of the month: only where the period has a month.
        if self.frequency < Frequency::Monthly {
            for day in &mut self.week_days {
                day.nth = 0;
            }
        }
        let by_day = !self.week_numbers.is_empty()
            || !self.year_days.is_empty()
            || !self.month_days.is_empty()
            || !self.week_days.is_empty();
        let by_time = !self.hours.is_empty() || !self.minutes.is_empty() || !self.seconds.is_empty();
        self.is_even = !by_day
            && !by_time
            && self.months.is_empty()
            && self.positions.is_empty()
            && self.frequency <= Frequency::Weekly;
        if !by_day {
            match self.frequency {
                Frequency::Yearly => {
                    if self.months.is_empty() {
                        self.months.push(number(start.month()));
                    }
                    self.month_days.push(number(start.day()));
                }
                Frequency::Monthly => self.month_days.push(number(start.day())),
                Frequency::Weekly => self.week_days.push(NthDay {
                    nth: 0,
                    day: start.weekday(),
                }),
                _ => {}
            }
        }
        for (list, coarser_than, own) in [
            (&mut self.hours, Frequency::Hourly, start.hour()),
            (&mut self.minutes, Frequency::Minutely, start.minute()),
            (&mut self.seconds, Frequency::Secondly, start.second()),
        ] {
            if list.is_empty() && self.frequency > coarser_than {
                list.push(number(own));
            }
        }
    }

    /// How many moments one period may have, at most.
    pub(super) fn moments_per_period(&self) -> u64 {
        let several = |list: &Vec<i32>, of: Frequency| {
            if self.frequency > of {
                list.len().max(1) as u64
            } else {
                1
            }
        };
        self.days_per_period()
            * several(&self.hours, Frequency::Hourly)
            * several(&self.minutes, Frequency::Minutely)
            * several(&self.seconds, Frequency::Secondly)
    }

    fn days_per_period(&self) -> u64 {
        let months = match self.frequency {
            Frequency::Yearly if self.months.is_empty() => 12,
            Frequency::Yearly => self.months.len(),
            _ => 1,
        };
        let mut days = match self.frequency {
            Frequency::Yearly => 366.min(31 * months),
            Frequency::Monthly => 31,
            Frequency::Weekly => 7,
            _ => 1,
        };
        if !self.month_days.is_empty() {
            days = days.min(self.month_days.len() * months);
        }
        if !self.year_days.is_empty() {
            days = days.min(self.year_days.len());
        }
        if !self.week_numbers.is_empty() {
            days = days.min(self.week_numbers.len() * 9);
        }
        if !self.week_days.is_empty() {
            let each = |day: &NthDay| {
                if day.nth == 0 {
                    days.div_ceil(7) + 1
                } else {
                    months
                }
            };
            days = days.min(self.week_days.iter().map(each).sum());
        }
        days as u64
    }

    pub(super) fn has_month(&self, month: u32) -> bool {
        self.months.is_empty() || self.months.binary_search(&number(month)).is_ok()
    }

    /// Whether a day may hold occurrences.
    pub(super) fn has_day(&self, day: NaiveDate) -> bool {
        let ordinal = number(day.ordinal());
        let year = if day.leap_year() { 366 } else { 365 };
        let (day_of_month, month) = (number(day.day()), number(u32::from(day.num_days_in_month())));
        self.has_month(day.month())
            && either(&self.month_days, day_of_month, month)
            && either(&self.year_days, ordinal, year)
            && self.has_week(day)
            && self.has_week_day(day, ordinal, year)
    }

    fn has_week_day(&self, day: NaiveDate, ordinal: i32, year: i32) -> bool {
        let in_month = self.frequency == Frequency::Monthly || !self.months.is_empty();
        let (at, of) = if in_month {
            (number(day.day()), number(u32::from(day.num_days_in_month())))
        } else {
            (ordinal, year)
        };
        let (nth, from_end) = ((at - 1) / 7 + 1, -((of - at) / 7 + 1));
        let named = |one: &NthDay| {
            one.day == day.weekday() && (one.nth == 0 || one.nth == nth || one.nth == from_end)
        };
        self.week_days.is_empty() || self.week_days.iter().any(named)
    }

    fn has_week(&self, day: NaiveDate) -> bool {
        if self.week_numbers.is_empty() {
            return true;
        }
        week_of(day, self.week_start).is_some_and(|(week, weeks)| either(&self.week_numbers, week, weeks))
    }
}

fn number(small: u32) -> i32 {
    i32::try_from(small).unwrap_or(i32::MAX)
}

/// Whether a list is empty, or names the `at`th of so many, from either end.
fn either(list: &[i32], at: i32, of: i32) -> bool {
    list.is_empty() || list.binary_search(&at).is_ok() || list.binary_search(&(at - of - 1)).is_ok()
}

/// The week that a day is in, and how many its year has. The first week is the one with four days of the year.
fn week_of(day: NaiveDate, week_start: Weekday) -> Option<(i32, i32)> {
    let first_of = |year: i32| -> Option<NaiveDate> {
        let fourth = NaiveDate::from_ymd_opt(year, 1, 4)?;
        Some(fourth - chrono::Days::new(u64::from(fourth.weekday().days_since(week_start))))
    };
    let mut year = day.year();
    if day >= first_of(year + 1)? {
        year += 1;
    } else if day < first_of(year)? {
        year -= 1;
    }
    let (first, next) = (first_of(year)?, first_of(year + 1)?);
    let weeks = |days: i64| i32::try_from(days / 7).unwrap_or(i32::MAX);
    let week = weeks(day.signed_duration_since(first).num_days()) + 1;
    Some((week, weeks(next.signed_duration_since(first).num_days())))
}

fn frequency_of(value: &str) -> Result<Frequency, String> {
    Ok(match value.to_ascii_uppercase().as_str() {
        "SECONDLY" => Frequency::Secondly,
        "MINUTELY" => Frequency::Minutely,
        "HOURLY" => Frequency::Hourly,
        "DAILY" => Frequency::Daily,
        "WEEKLY" => Frequency::Weekly,
        "MONTHLY" => Frequency::Monthly,
        "YEARLY" => Frequency::Yearly,
        _ => return Err(format!("FREQ={value} is unknown")),
    })
}

/// The last moment of a rule, by the series' own clock.
fn end(
    value: &str,
    whole_day: bool,
    to_local: &dyn Fn(NaiveDateTime) -> NaiveDateTime,
) -> Result<NaiveDateTime, String> {
    let last_of = |day: NaiveDate| {
        day.and_hms_opt(23, 59, 59)
            .unwrap_or(day.and_time(NaiveTime::MIN))
    };
    Ok(match clock(value)? {
        Clock::Day(day) => last_of(day),
        // Days have no zone to convert to.
        Clock::Local(at) | Clock::Utc(at) if whole_day => last_of(at.date()),
        Clock::Local(at) => at,
        Clock::Utc(at) => to_local(at),
    })
}

/// A number from one on.
fn whole(name: &str, value: &str) -> Result<u64, String> {
    let digits = value.trim_start_matches('0');
    let sound = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !sound {
        return Err(format!("{name} must be a whole number from 1 on"));
    }
    // More than anything counts to.
    Ok(digits.parse().unwrap_or(u64::MAX))
}

fn numbers(name: &str, value: &str, low: i32, high: i32, signed: bool) -> Result<Vec<i32>, String> {
    let mut list = Vec::new();
    for text in value.split(',').map(str::trim) {
        let number: i32 = text
            .strip_prefix('+')
            .unwrap_or(text)
            .parse()
            .map_err(|_| format!("{name} lists {text:?}, which is not a number"))?;
        let sound = (low..=high).contains(&number) || signed && (low..=high).contains(&-number);
        if !sound {
            return Err(format!(
                "{name} lists {number}, which is not from {low} to {high}"
            ));
        }
        list.push(number);
    }
    list.sort_unstable();
    list.dedup();
    Ok(list)
}

fn nth_days(value: &str) -> Result<Vec<NthDay>, String> {
    let mut list: Vec<NthDay> = Vec::new();
    for text in value.split(',').map(str::trim) {
        let split = text.len().checked_sub(2).and_then(|at| text.split_at_checked(at));
        let (nth, day) = split.ok_or_else(|| no_day(text))?;
        let day = week_day(day).ok_or_else(|| no_day(text))?;
        let nth = match nth.strip_prefix('+').unwrap_or(nth) {
            "" => 0,
            nth => nth
                .parse()
                .ok()
                .filter(|nth: &i32| (1..=53).contains(&nth.saturating_abs()))
                .ok_or_else(|| no_day(text))?,
        };
        let one = NthDay { nth, day };
        if !list.contains(&one) {
            list.push(one);
        }
    }
    Ok(list)
}

fn no_day(text: &str) -> String {
    format!("{text:?} is not a day of the week")
}

fn week_day(text: &str) -> Option<Weekday> {
    Some(match text.to_ascii_uppercase().as_str() {
        "MO" => Weekday::Mon,
        "TU" => Weekday::Tue,
        "WE" => Weekday::Wed,
        "TH" => Weekday::Thu,
        "FR" => Weekday::Fri,
        "SA" => Weekday::Sat,
        "SU" => Weekday::Sun,
        _ => return None,
    })
}
