//! Hours of the day in a user's own zone: when it is quiet, and when a digest is due.
//!
//! A zone's clock is set forward and back. An hour that comes twice is quiet both times, one that never comes ends when the
//! clock has jumped over it.

use std::fmt;
use std::str::FromStr;

use chrono::{DateTime, Days, LocalResult, NaiveDate, NaiveTime, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;
use serde::{Deserialize, Serialize};

/// Longest jump of a clock that is looked over, in minutes: islands have changed sides of the date line.
const LONGEST_JUMP: i64 = 26 * 60;

/// A minute of a day, `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct TimeOfDay {
    hour: u8,
    minute: u8,
}

/// The text is not a time of day.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("is not a time of day: expected HH:MM, 00:00 to 23:59")]
pub struct InvalidTime;

impl TimeOfDay {
    /// Eight in the morning: when digests are due unless their readers say otherwise.
    pub(super) const MORNING: Self = Self { hour: 8, minute: 0 };

    fn naive(self) -> NaiveTime {
        NaiveTime::from_hms_opt(self.hour.into(), self.minute.into(), 0).unwrap_or_default()
    }

    /// The first moment after `now` when the zone's clock shows it.
    pub(super) fn next(self, zone: Tz, now: DateTime<Utc>) -> DateTime<Utc> {
        let today = now.with_timezone(&zone).date_naive();
        let days = (0..=2).filter_map(|days| today.checked_add_days(Days::new(days)));
        days.filter_map(|day| self.on(day, zone, Occurrence::First))
            .find(|moment| *moment > now)
            // Only at the end of time is there no such day.
            .unwrap_or(now)
    }

    fn on(self, day: NaiveDate, zone: Tz, which: Occurrence) -> Option<DateTime<Utc>> {
        let shown = day.and_time(self.naive());
        (0..=LONGEST_JUMP).find_map(|minutes| {
            let shown = shown.checked_add_signed(TimeDelta::minutes(minutes))?;
            match (zone.from_local_datetime(&shown), which) {
                (LocalResult::Single(moment), _)
                | (LocalResult::Ambiguous(moment, _), Occurrence::First)
                | (LocalResult::Ambiguous(_, moment), Occurrence::Last) => Some(moment.to_utc()),
                (LocalResult::None, _) => None,
            }
        })
    }
}

#[derive(Debug, Clone, Copy)]
enum Occurrence {
    First,
    Last,
}

impl FromStr for TimeOfDay {
    type Err = InvalidTime;

    fn from_str(text: &str) -> Result<Self, InvalidTime> {
        let digits = |text: &str| {
            let are_two = text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit());
            are_two.then(|| text.parse::<u8>().ok()).flatten()
        };
        let (hour, minute) = text.split_once(':').ok_or(InvalidTime)?;
        match (digits(hour), digits(minute)) {
            (Some(hour @ 0..24), Some(minute @ 0..60)) => Ok(Self { hour, minute }),
            _ => Err(InvalidTime),
        }
    }
}

impl TryFrom<String> for TimeOfDay {
    type Error = InvalidTime;

    fn try_from(text: String) -> Result<Self, InvalidTime> {
        text.parse()
    }
}

impl From<TimeOfDay> for String {
    fn from(time: TimeOfDay) -> Self {
        time.to_string()
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:02}:{:02}", self.hour, self.minute)
    }
}

/// When nothing is to be sent, every day; over midnight where `until` is the earlier.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct QuietHours {
    pub from: TimeOfDay,
    /// Not quiet any more. Never the same as `from`.
    pub until: TimeOfDay,
}

impl QuietHours {
    /// When the quiet hours end in which `now` lies; `None`: it is not quiet.
    pub(super) fn end(self, zone: Tz, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let today = now.with_timezone(&zone).date_naive();
        // Those of yesterday may last until today.
        let days = [today.checked_sub_days(Days::new(1)), Some(today)];
        days.into_iter()
            .flatten()
            .filter_map(|day| self.on(day, zone))
            .find(|(from, until)| *from <= now && now < *until)
            .map(|(_, until)| until)
    }

    /// The quiet hours that begin on a day.
    fn on(self, day: NaiveDate, zone: Tz) -> Option<(DateTime<Utc>, DateTime<Utc>)> {
        let over_midnight = self.until.naive() < self.from.naive();
        let last = day.checked_add_days(Days::new(u64::from(over_midnight)))?;
        let from = self.from.on(day, zone, Occurrence::First)?;
        let until = self.until.on(last, zone, Occurrence::Last)?;
        Some((from, until))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const VIENNA: Tz = chrono_tz::Europe::Vienna;

    fn quiet(from: &str, until: &str) -> QuietHours {
        QuietHours {
            from: from.parse().unwrap(),
            until: until.parse().unwrap(),
        }
    }

    fn at(text: &str) -> DateTime<Utc> {
        text.parse().unwrap()
    }

    fn ends(quiet: QuietHours, zone: Tz, now: &str) -> Option<String> {
        let end = quiet.end(zone, at(now));
        end.map(|end| end.to_rfc3339_opts(chrono::SecondsFormat::Secs, true))
    }

    #[test]
    fn a_time_of_day_has_one_spelling() {
        assert_eq!("07:05".parse::<TimeOfDay>().unwrap().to_string(), "07:05");
        for bad in ["7:05", "24:00", "07:60", "0705", "", "07:5", "+7:05", "07:05:00"] {
            assert_eq!(bad.parse::<TimeOfDay>(), Err(InvalidTime), "{bad}");
        }
    }

    #[test]
    fn quiet_hours_may_lie_within_a_day_or_over_midnight() {
        let noon = quiet("12:00", "13:30");
        for (now, end) in [
            ("2030-01-10T10:59:59Z", None),
            ("2030-01-10T11:00:00Z", Some("2030-01-10T12:30:00Z")),
            ("2030-01-10T12:29:59Z", Some("2030-01-10T12:30:00Z")),
            ("2030-01-10T12:30:00Z", None),
        ] {
            assert_eq!(ends(noon, VIENNA, now).as_deref(), end, "{now}");
        }
        let night = quiet("22:00", "07:00");
        for (now, end) in [
            ("2030-01-10T20:59:59Z", None),
            ("2030-01-10T21:00:00Z", Some("2030-01-11T06:00:00Z")),
            ("2030-01-10T23:30:00Z", Some("2030-01-11T06:00:00Z")),
            ("2030-01-11T05:59:59Z", Some("2030-01-11T06:00:00Z")),
            ("2030-01-11T06:00:00Z", None),
        ] {
            assert_eq!(ends(night, VIENNA, now).as_deref(), end, "{now}");
        }
    }

    #[test]
    fn the_clock_may_be_set_forward_or_back_meanwhile() {
        let night = quiet("22:00", "07:00");
        // On 2030-03-31 the clocks of Vienna go from 02:00 to 03:00, on 2030-10-27 from 03:00 back to 02:00.
        assert_eq!(
            ends(night, VIENNA, "2030-03-30T21:00:00Z").unwrap(),
            "2030-03-31T05:00:00Z"
        );
        assert_eq!(
            ends(night, VIENNA, "2030-10-26T20:00:00Z").unwrap(),
            "2030-10-27T06:00:00Z"
        );
        // An end that never comes: it is when the clock has jumped over it.
        let early = quiet("00:00", "02:30");
        assert_eq!(
            ends(early, VIENNA, "2030-03-31T00:30:00Z").unwrap(),
            "2030-03-31T01:00:00Z"
        );
        assert_eq!(ends(early, VIENNA, "2030-03-31T01:00:00Z"), None);
        // An end that comes twice: it is the second one.
        for now in [
            "2030-10-27T00:15:00Z",
            "2030-10-27T00:45:00Z",
            "2030-10-27T01:15:00Z",
        ] {
            assert_eq!(ends(early, VIENNA, now).unwrap(), "2030-10-27T01:30:00Z", "{now}");
        }
        assert_eq!(ends(early, VIENNA, "2030-10-27T01:30:00Z"), None);
    }

    #[test]
    fn a_day_that_never_was_does_no_harm() {
        // Apia went from the 29th to the 31st of December 2011 at midnight.
        let night = quiet("22:00", "07:00");
        assert_eq!(
            ends(night, chrono_tz::Pacific::Apia, "2011-12-30T09:00:00Z").unwrap(),
            "2011-12-30T10:00:00Z"
        );
    }

    #[test]
    fn the_next_time_lies_ahead() {
        let next = |time: &str, now| {
            let next = time.parse::<TimeOfDay>().unwrap().next(VIENNA, at(now));
            next.to_rfc3339_opts(chrono::SecondsFormat::Secs, true)
        };
        assert_eq!(next("08:00", "2030-01-10T06:59:59Z"), "2030-01-10T07:00:00Z");
        assert_eq!(next("08:00", "2030-01-10T07:00:00Z"), "2030-01-11T07:00:00Z");
        assert_eq!(next("02:30", "2030-03-30T12:00:00Z"), "2030-03-31T01:00:00Z");
        assert_eq!(next("08:00", "2030-03-30T12:00:00Z"), "2030-03-31T06:00:00Z");
    }

    proptest! {
        #[test]
        fn quiet_hours_end_ahead_and_are_over_then(
            from in 0_u32..1_440, length in 1_u32..1_440, second in 1_893_456_000_i64..1_924_992_000,
        ) {
            let time = |minutes: u32| TimeOfDay { hour: (minutes / 60 % 24) as u8, minute: (minutes % 60) as u8 };
            let quiet = QuietHours { from: time(from), until: time((from + length) % 1_440) };
            let now = DateTime::from_timestamp(second, 0).unwrap();
            for zone in [VIENNA, chrono_tz::America::New_York, chrono_tz::Australia::Lord_Howe, chrono_tz::UTC] {
                if let Some(end) = quiet.end(zone, now) {
                    prop_assert!(end > now && end - now <= TimeDelta::hours(25));
                    prop_assert_eq!(quiet.end(zone, end).filter(|_| length < 1_300), None);
                }
            }
        }
    }
}
