//! Dates, times and durations as iCalendar writes them.

use chrono::{NaiveDate, NaiveDateTime, NaiveTime, TimeDelta};

use super::lines::Property;

/// A `DATE` or `DATE-TIME`, as it is written, with its zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamp {
    pub(super) text: String,
    pub(super) zone: Option<String>,
}

/// What a stamp says before its zone is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Clock {
    Day(NaiveDate),
    Local(NaiveDateTime),
    Utc(NaiveDateTime),
}

impl Stamp {
    pub(super) fn of(property: &Property, text: &str) -> Self {
        Self {
            text: text.trim().to_owned(),
            zone: property.param("TZID").map(ToOwned::to_owned),
        }
    }

    pub(super) fn clock(&self) -> Result<Clock, String> {
        clock(&self.text)
    }
}

/// Reads `20300501`, `20300501T180000` or `20300501T180000Z`.
pub(super) fn clock(text: &str) -> Result<Clock, String> {
    let fault = || {
        format!(
            "{:?} is no date or time",
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

/// Reads a duration such as `PT1H30M`, `P1DT12H` or `-P2W`.
pub(super) fn duration(text: &str) -> Result<TimeDelta, String> {
    let fault = || format!("{:?} is no duration", text.chars().take(40).collect::<String>());
    let (sign, rest) = match text.trim().strip_prefix(['+', '-']) {
        Some(rest) => (if text.trim().starts_with('-') { -1 } else { 1 }, rest),
        None => (1, text.trim()),
    };
    let mut rest = rest.strip_prefix('P').ok_or_else(fault)?;
    let (mut seconds, mut in_time, mut parts) = (0_i64, false, 0);
    while !rest.is_empty() {
        if let Some(time) = rest.strip_prefix('T') {
            (rest, in_time) = (time, true);
            continue;
        }
        let end = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(fault)?;
        let number: i64 = rest[..end].parse().map_err(|_| fault())?;
        // Every unit is one byte; whatever else stands there may be more.
        let unit = match (rest.as_bytes().get(end), in_time) {
            (Some(b'W'), false) => 7 * 86_400,
            (Some(b'D'), false) => 86_400,
            (Some(b'H'), true) => 3_600,
            (Some(b'M'), true) => 60,
            (Some(b'S'), true) => 1,
            _ => return Err(fault()),
        };
        let part = number.checked_mul(unit).ok_or_else(fault)?;
        seconds = seconds.checked_add(part).ok_or_else(fault)?;
        parts += 1;
        rest = &rest[end + 1..];
    }
    let span = TimeDelta::try_seconds(sign * seconds).filter(|_| parts > 0);
    span.ok_or_else(fault)
}

/// Reads an offset from UTC such as `+0200` or `-033730`; in seconds.
pub(super) fn offset(text: &str) -> Result<i64, String> {
    let fault = || {
        format!(
            "{:?} is no offset from UTC",
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
        for (text, seconds) in [
            ("PT1H30M", 5_400),
            ("P1DT12H", 129_600),
            ("-P2W", -1_209_600),
            ("+PT15S", 15),
        ] {
            assert_eq!(duration(text), Ok(TimeDelta::seconds(seconds)), "{text}");
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
