//! Dates, times and durations as iCalendar writes them.

use std::rc::Rc;

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

/// A `DATE` or `DATE-TIME`, with the zone that its property names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) clock: Clock,
    pub(super) zone: Option<Rc<str>>,
}

/// What a stamp says before its zone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    Day(NaiveDate),
    Local(NaiveDateTime),
    Utc(NaiveDateTime),
}

impl Stamp {
    /// # Errors
    /// The text is not a date or time.
    pub(super) fn of(text: &str, zone: Option<&Rc<str>>) -> Result<Self, String> {
        Ok(Self {
            clock: clock(text.trim())?,
            zone: zone.cloned(),
        })
    }
}

/// How long something lasts: `P1D` is a day on the calendar, which may have 23 or 25 hours; `PT24H` is elapsed time.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) days: i64,
    pub(super) seconds: i64,
}

impl Span {
    pub(super) fn is_negative(self) -> bool {
        self.days < 0 || self.seconds < 0
    }

    /// About, where days have 24 hours.
    pub(super) fn about(self) -> TimeDelta {
        let days = TimeDelta::try_days(self.days).unwrap_or(TimeDelta::MAX);
        let seconds = TimeDelta::try_seconds(self.seconds).unwrap_or(TimeDelta::MAX);
        days.checked_add(&seconds).unwrap_or(TimeDelta::MAX)
    }
}

/// Reads `20300501`, `20300501T180000` or `20300501T180000Z`.
pub(super) fn clock(text: &str) -> Result<Clock, String> {
    let fault = || {
        format!(
            "{:?} is not a date or time",
            text.chars().take(40).collect::<String>()
        )
    };
    let digits = |range: std::ops::Range<usize>| -> Option<u32> {
        let part = text.get(range)?;
        part.bytes()
            .all(|byte| byte.is_ascii_digit())
            .then(|| part.parse().ok())?
    };
    let day = || {
        let year = i32::try_from(digits(0..4)?).ok()?;
        NaiveDate::from_ymd_opt(year, digits(4..6)?, digits(6..8)?)
    };
    let day = day().ok_or_else(fault)?;
    let (time, utc) = match (text.len(), text.get(8..9), text.get(15..16)) {
        (8, ..) => return Ok(Clock::Day(day)),
        (15, Some("T" | "t"), _) => (9..15, false),
        (16, Some("T" | "t"), Some("Z" | "z")) => (9..15, true),
        _ => return Err(fault()),
    };
    let part = |at: usize| digits(time.start + at..time.start + at + 2);
    let clock = || {
        // A leap second is told as the second before: nothing counts them.
        NaiveTime::from_hms_opt(part(0)?, part(2)?, part(4)?.min(59))
    };
    let at = day.and_time(clock().ok_or_else(fault)?);
    Ok(if utc { Clock::Utc(at) } else { Clock::Local(at) })
}

/// Most days or seconds of a duration: a thousand years.
const LONGEST: i64 = 1_000 * 366 * 86_400;

/// Reads a duration such as `PT1H30M`, `P1DT12H` or `-P2W`.
pub(super) fn duration(text: &str) -> Result<Span, String> {
    let fault = || {
        format!(
            "{:?} is not a duration",
            text.chars().take(40).collect::<String>()
        )
    };
    let (sign, rest) = match text.trim().strip_prefix(['+', '-']) {
        Some(rest) => (if text.trim().starts_with('-') { -1 } else { 1 }, rest),
        None => (1, text.trim()),
    };
    let mut rest = rest.strip_prefix('P').ok_or_else(fault)?;
    let (mut days, mut seconds, mut in_time, mut parts) = (0_i64, 0_i64, false, 0);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, in_time) = (time, true);
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let number: i64 = rest[..end].parse().map_err(|_| fault())?;
        // Every unit is one byte; whatever else stands there may be more.
        let (sum, unit) = match (rest.as_bytes().get(end), in_time) {
            (Some(b'W'), false) => (&mut days, 7),
            (Some(b'D'), false) => (&mut days, 1),
            (Some(b'H'), true) => (&mut seconds, 3_600),
            (Some(b'M'), true) => (&mut seconds, 60),
            (Some(b'S'), true) => (&mut seconds, 1),
            _ => return Err(fault()),
        };
        let part = number.checked_mul(unit).filter(|part| *part <= LONGEST);
        *sum = sum.saturating_add(part.ok_or_else(fault)?);
        parts += 1;
        rest = &rest[end + 1..];
    }
    let sound = parts > 0 && seconds <= LONGEST && days <= LONGEST / 86_400;
    let span = Span {
        days: sign * days,
        seconds: sign * seconds,
    };
    sound.then_some(span).ok_or_else(fault)
}

/// Reads an offset from UTC such as `+0200` or `-033730`; in seconds.
pub(super) fn offset(text: &str) -> Result<i64, String> {
    let fault = || {
        format!(
            "{:?} is not an offset from UTC",
            text.chars().take(20).collect::<String>()
        )
    };
    let text = text.trim();
    let (sign, digits) = match text.split_at_checked(1) {
        Some(("+", digits)) => (1, digits),
        Some(("-", digits)) => (-1, digits),
        _ => return Err(fault()),
    };
    let sound = matches!(digits.len(), 4 | 6) && digits.bytes().all(|byte| byte.is_ascii_digit());
    if !sound {
        return Err(fault());
    }
    let part = |range: std::ops::Range<usize>| digits.get(range).and_then(|part| part.parse::<i64>().ok());
    let (hours, minutes) = (part(0..2).unwrap_or_default(), part(2..4).unwrap_or_default());
    let seconds = part(4..6).unwrap_or_default();
    if hours > 26 || minutes > 59 || seconds > 59 {
        return Err(fault());
    }
    Ok(sign * (hours * 3_600 + minutes * 60 + seconds))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn times_are_read() {
        let day = NaiveDate::from_ymd_opt(2030, 5, 1).unwrap();
        assert_eq!(clock("20300501"), Ok(Clock::Day(day)));
        assert_eq!(
            clock("20300501T180000"),
            Ok(Clock::Local(day.and_hms_opt(18, 0, 0).unwrap()))
        );
        assert_eq!(
            clock("20300501T235960Z"),
            Ok(Clock::Utc(day.and_hms_opt(23, 59, 59).unwrap()))
        );
        for odd in [
            "",
            "2030",
            "20301301",
            "20300501T",
            "20300501T250000",
            "20300501T180000X",
            "+2030501",
            "ä0300501",
        ] {
            assert!(clock(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn durations_and_offsets_are_read() {
        for (text, days, seconds) in [
            ("PT1H30M", 0, 5_400),
            ("P1DT12H", 1, 43_200),
            ("PT24H", 0, 86_400),
            ("-P2W", -14, 0),
            ("+PT15S", 0, 15),
        ] {
            assert_eq!(duration(text), Ok(Span { days, seconds }), "{text}");
        }
        for odd in [
            "",
            "P",
            "PT",
            "1H",
            "P1H",
            "PT1D",
            "P1",
            "P99999999999999999W",
            "PT9999999999999999H",
            "pt1h",
            "PTä",
            "P0ä",
        ] {
            assert!(duration(odd).is_err(), "{odd}");
        }
        assert_eq!(offset("+0200"), Ok(7_200));
        assert_eq!(offset("-033730"), Ok(-13_050));
        for odd in ["", "0200", "+02", "+02:00", "+0260", "+ää"] {
            assert!(offset(odd).is_err(), "{odd}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in ".{0,20}", start in "20300501T1800.{0,4}", span in "P[0-9TWDHMSä]{0,8}") {
            let _ = (clock(&text), clock(&start), duration(&text), duration(&span), offset(&text));
        }
    }
}
