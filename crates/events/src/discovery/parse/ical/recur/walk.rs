//! The walk along a rule: its periods in order, and the moments of each.

use std::ops::ControlFlow;

use chrono::{Datelike, Days, NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

use super::Window;
use super::rule::{Frequency, Rule};

/// Charges steps, and says why there are no more.
pub(super) type Charge<'a> = dyn FnMut(usize) -> Result<(), String> + 'a;

/// Takes occurrences; `Break` ends the walk.
pub(super) type Take<'a> = dyn FnMut(NaiveDateTime) -> ControlFlow<()> + 'a;

/// Hands over the occurrences of a rule within the window, in order.
///
/// # Errors
/// What `charge` says.
pub(super) fn walk(
    rule: &Rule,
    start: NaiveDateTime,
    window: Window,
    charge: &mut Charge<'_>,
    take: &mut Take<'_>,
) -> Result<(), String> {
    let last = rule.until.map_or(window.until, |until| until.min(window.until));
    let mut gate = Gate {
        start,
        from: window.from.max(start),
        last,
        left: rule.count,
        take,
    };
    if last < start {
        return Ok(());
    }
    if rule.frequency >= Frequency::Daily {
        walk_days(rule, charge, &mut gate)
    } else {
        walk_times(rule, charge, &mut gate)
    }
}

/// What every moment of the walk has to pass, in order.
struct Gate<'a, 't> {
    /// Nothing happens before the series begins.
    start: NaiveDateTime,
    from: NaiveDateTime,
    last: NaiveDateTime,
    /// Of a `COUNT`.
    left: Option<u64>,
    take: &'a mut Take<'t>,
}

impl Gate<'_, '_> {
    fn pass(&mut self, moment: NaiveDateTime) -> ControlFlow<()> {
        if moment < self.start {
            return ControlFlow::Continue(());
        }
        if moment > self.last {
            return ControlFlow::Break(());
        }
        if let Some(left) = &mut self.left {
            match left.checked_sub(1) {
                Some(fewer) => *left = fewer,
                None => return ControlFlow::Break(()),
            }
        }
        if moment >= self.from {
            return (self.take)(moment);
        }
        ControlFlow::Continue(())
    }

    /// How many whole periods of `length` (in the unit of `distance`) may be passed over, from `start` to the window. With a
    /// `COUNT`, only an even rule may be, whose periods hold one occurrence each.
    fn skip(&mut self, rule: &Rule, distance: i64, length: i64) -> i64 {
        let periods = (distance / length - 1).max(0);
        match &mut self.left {
            None => periods,
            Some(left) if rule.is_even => {
                *left = left.saturating_sub(u64::try_from(periods).unwrap_or_default());
                periods
            }
            Some(_) => 0,
        }
    }
}

/// Of a year, month, week or day: the days of each period, and the times of each day.
fn walk_days(rule: &Rule, charge: &mut Charge<'_>, gate: &mut Gate<'_, '_>) -> Result<(), String> {
    let times = times(&rule.hours, &rule.minutes, &rule.seconds);
    let first = gate.start.date();
    let distance = match rule.frequency {
        Frequency::Yearly => i64::from(gate.from.year() - first.year()),
        Frequency::Monthly => months_of(gate.from.date()) - months_of(first),
        Frequency::Weekly => (gate.from.date() - first).num_days() / 7,
        _ => (gate.from.date() - first).num_days(),
    };
    let mut period = gate.skip(rule, distance, rule.interval);
    loop {
        let Some(days) = days_of(rule, first, period) else {
            return Ok(());
        };
        charge(1)?;
        if days.begin > gate.last.date() {
            return Ok(());
        }
        if days.visit(rule, &times, charge, gate)?.is_break() {
            return Ok(());
        }
        let Some(next) = period.checked_add(1) else {
            return Ok(());
        };
        period = next;
    }
}

fn months_of(day: NaiveDate) -> i64 {
    i64::from(day.year()) * 12 + i64::from(day.month0())
}

/// Days in a row: one period.
struct Run {
    begin: NaiveDate,
    end: NaiveDate,
}

/// The days of a period; `None`: beyond the calendar.
fn days_of(rule: &Rule, first: NaiveDate, period: i64) -> Option<Run> {
    let offset = period.checked_mul(rule.interval)?;
    let month = |months: i64| {
        let (year, month) = (months.div_euclid(12), months.rem_euclid(12) + 1);
        NaiveDate::from_ymd_opt(year.try_into().ok()?, month.try_into().ok()?, 1)
    };
    let (begin, end) = match rule.frequency {
        Frequency::Yearly => {
            let year = i64::from(first.year()).checked_add(offset)?.checked_mul(12)?;
            (month(year)?, month(year.checked_add(12)?)?)
        }
        Frequency::Monthly => {
            let at = months_of(first).checked_add(offset)?;
            (month(at)?, month(at.checked_add(1)?)?)
        }
        Frequency::Weekly => {
            let back = u64::from(first.weekday().days_since(rule.week_start));
            let begin = forward(first.checked_sub_days(Days::new(back))?, offset.checked_mul(7)?)?;
            (begin, forward(begin, 7)?)
        }
        _ => {
            let begin = forward(first, offset)?;
            (begin, begin.succ_opt()?)
        }
    };
    Some(Run { begin, end })
}

fn forward(day: NaiveDate, days: i64) -> Option<NaiveDate> {
    day.checked_add_days(Days::new(days.try_into().ok()?))
}

impl Run {
    fn visit(
        &self,
        rule: &Rule,
        times: &[NaiveTime],
        charge: &mut Charge<'_>,
        gate: &mut Gate<'_, '_>,
    ) -> Result<ControlFlow<()>, String> {
        let mut chosen = Vec::new();
        let mut day = self.begin;
        while day < self.end {
            if !rule.has_month(day.month()) {
                // To the next month; a week may end first.
                let next = day
                    .with_day(1)
                    .and_then(|first| first.checked_add_months(chrono::Months::new(1)));
                day = next.unwrap_or(self.end);
                continue;
            }
            charge(1)?;
            if rule.has_day(day) {
                charge(times.len())?;
                for time in times {
                    let moment = day.and_time(*time);
                    if !rule.positions.is_empty() {
                        chosen.push(moment);
                    } else if gate.pass(moment).is_break() {
                        return Ok(ControlFlow::Break(()));
                    }
                }
            }
            day = day.succ_opt().unwrap_or(self.end);
        }
        Ok(pass_chosen(rule, &chosen, gate))
    }
}

/// Of the moments of one period, those that `BYSETPOS` names.
fn pass_chosen(rule: &Rule, moments: &[NaiveDateTime], gate: &mut Gate<'_, '_>) -> ControlFlow<()> {
    let at = |position: &i32| {
        let index = usize::try_from(position.unsigned_abs()).ok()?;
        if *position > 0 {
            index.checked_sub(1)
        } else {
            moments.len().checked_sub(index)
        }
    };
    let mut chosen: Vec<usize> = rule
        .positions
        .iter()
        .filter_map(at)
        .filter(|index| *index < moments.len())
        .collect();
    chosen.sort_unstable();
    chosen.dedup();
    for index in chosen {
        if let Some(moment) = moments.get(index)
            && gate.pass(*moment).is_break()
        {
            return ControlFlow::Break(());
        }
    }
    ControlFlow::Continue(())
}

fn times(hours: &[i32], minutes: &[i32], seconds: &[i32]) -> Vec<NaiveTime> {
    let small = |number: &i32| u32::try_from(*number).unwrap_or_default();
    let mut times = Vec::with_capacity(hours.len() * minutes.len() * seconds.len());
    for hour in hours {
        for minute in minutes {
            let of = |second| NaiveTime::from_hms_opt(small(hour), small(minute), small(second));
            times.extend(seconds.iter().filter_map(of));
        }
    }
    times
}

/// Of an hour, minute or second: the period is a moment on the line of all seconds, and what does not match is passed over
/// by its day, hour or minute.
fn walk_times(rule: &Rule, charge: &mut Charge<'_>, gate: &mut Gate<'_, '_>) -> Result<(), String> {
    let unit = match rule.frequency {
        Frequency::Hourly => 3_600,
        Frequency::Minutely => 60,
        _ => 1,
    };
    let Some(length) = rule.interval.checked_mul(unit) else {
        // Longer than the calendar: only the first period counts.
        return walk_period(
            rule,
            seconds_of(gate.start).div_euclid(unit) * unit,
            unit,
            charge,
            gate,
        )
        .map(drop);
    };
    let begin = seconds_of(gate.start).div_euclid(unit) * unit;
    let skipped = gate.skip(rule, seconds_of(gate.from) - begin, length);
    let mut at = begin + skipped * length;
    let last = seconds_of(gate.last);
    while at <= last {
        charge(1)?;
        let next = match first_match(rule, at) {
            Ok(()) => {
                if walk_period(rule, at, unit, charge, gate)?.is_break() {
                    return Ok(());
                }
                at.checked_add(length)
            }
            // The first period that is not before this moment.
            Err(moment) => {
                let periods = (moment - at + length - 1) / length;
                periods.checked_mul(length).and_then(|span| at.checked_add(span))
            }
        };
        let Some(next) = next else { return Ok(()) };
        at = next;
    }
    Ok(())
}

/// Whether a period matches what is coarser than it; if not, the earliest moment at which the next one may.
fn first_match(rule: &Rule, at: i64) -> Result<(), i64> {
    let Some(moment) = moment_of(at) else {
        return Err(at.saturating_add(86_400));
    };
    let after = |unit: i64| (at.div_euclid(unit) + 1) * unit;
    let names = |list: &[i32], value: i64| {
        list.is_empty() || i32::try_from(value).is_ok_and(|value| list.binary_search(&value).is_ok())
    };
    if !rule.has_day(moment.date()) {
        return Err(after(86_400));
    }
    if !names(&rule.hours, at.div_euclid(3_600).rem_euclid(24)) {
        return Err(after(3_600));
    }
    if rule.frequency <= Frequency::Minutely && !names(&rule.minutes, at.div_euclid(60).rem_euclid(60)) {
        return Err(after(60));
    }
    if rule.frequency <= Frequency::Secondly && !names(&rule.seconds, at.rem_euclid(60)) {
        return Err(after(1));
    }
    Ok(())
}

/// The moments of one hour, minute or second.
fn walk_period(
    rule: &Rule,
    at: i64,
    unit: i64,
    charge: &mut Charge<'_>,
    gate: &mut Gate<'_, '_>,
) -> Result<ControlFlow<()>, String> {
    let Some(begin) = moment_of(at) else {
        return Ok(ControlFlow::Continue(()));
    };
    let zero = [0];
    let minutes: &[i32] = if unit == 3_600 { &rule.minutes } else { &zero };
    let seconds: &[i32] = if unit >= 60 { &rule.seconds } else { &zero };
    charge(minutes.len() * seconds.len())?;
    let mut chosen = Vec::new();
    for minute in minutes {
        for second in seconds {
            let moment = begin + TimeDelta::seconds(i64::from(minute * 60 + second));
            if !rule.positions.is_empty() {
                chosen.push(moment);
            } else if gate.pass(moment).is_break() {
                return Ok(ControlFlow::Break(()));
            }
        }
    }
    Ok(pass_chosen(rule, &chosen, gate))
}

fn seconds_of(at: NaiveDateTime) -> i64 {
    at.and_utc().timestamp()
}

fn moment_of(seconds: i64) -> Option<NaiveDateTime> {
    chrono::DateTime::from_timestamp(seconds, 0).map(|at| at.naive_utc())
}
