//! Times as the world writes them.

use std::borrow::Cow;

use chrono::{DateTime, NaiveDate, NaiveDateTime, NaiveTime, Offset, TimeDelta, TimeZone, Utc};
use chrono_tz::Tz;

/// Longest text that is looked at, in bytes.
const LONGEST: usize = 64;

/// With an offset.
const WITH_OFFSET: [&str; 9] = [
    "%Y-%m-%dT%H:%M:%S%.f%#z",
    "%Y-%m-%d %H:%M:%S%.f %#z",
    "%Y-%m-%dT%H:%M%#z",
    "%Y-%m-%dT%H:%M:%S%.f %#z",
    "%Y-%m-%d %H:%M %#z",
    "%Y%m%dT%H%M%S%#z",
    "%d %b %Y %H:%M:%S %#z",
    "%d %b %Y %H:%M %#z",
    "%B %d, %Y %H:%M:%S %#z",
];

/// Without one: the source's own time.
const LOCAL: [&str; 17] = [
    "%Y-%m-%dT%H:%M:%S%.f",
    "%Y-%m-%d %H:%M:%S%.f",
    "%Y-%m-%dT%H:%M",
    "%Y-%m-%d %H:%M",
    "%Y%m%dT%H%M%S",
    "%d %b %Y %H:%M:%S",
    "%d %b %Y %H:%M",
    "%B %d, %Y %H:%M",
    "%B %d, %Y %H:%M:%S",
    "%B %d, %Y %I:%M %p",
    "%B %d, %Y %I:%M:%S %p",
    "%Y/%m/%d %H:%M:%S",
    "%Y/%m/%d %H:%M",
    // With dots it is the day that comes first; with slashes nobody knows.
    "%d.%m.%Y %H:%M:%S",
    "%d.%m.%Y %H:%M",
    "%a %b %d %H:%M:%S %Y",
    "%b %d %H:%M:%S %Y",
];

const DAYS: [&str; 6] = [
    "%Y-%m-%d",
    "%Y%m%d",
    "%d %b %Y",
    "%B %d, %Y",
    "%Y/%m/%d",
    "%d.%m.%Y",
];

/// Hours and minutes ahead of UTC of zones that feeds call by their initials; those of RFC 822, and others of one meaning.
const INITIALS: [(&str, &str); 50] = [
    ("UTC", "+0000"),
    ("GMT", "+0000"),
    ("UT", "+0000"),
    ("Z", "+0000"),
    ("WET", "+0000"),
    ("WEST", "+0100"),
    ("BST", "+0100"),
    ("CET", "+0100"),
    ("MEZ", "+0100"),
    ("MET", "+0100"),
    ("WAT", "+0100"),
    ("CEST", "+0200"),
    ("MESZ", "+0200"),
    ("MEST", "+0200"),
    ("EET", "+0200"),
    ("CAT", "+0200"),
    ("SAST", "+0200"),
    ("EEST", "+0300"),
    ("MSK", "+0300"),
    ("EAT", "+0300"),
    ("TRT", "+0300"),
    ("PKT", "+0500"),
    ("WIB", "+0700"),
    ("ICT", "+0700"),
    ("HKT", "+0800"),
    ("SGT", "+0800"),
    ("AWST", "+0800"),
    ("JST", "+0900"),
    ("KST", "+0900"),
    ("ACST", "+0930"),
    ("AEST", "+1000"),
    ("ACDT", "+1030"),
    ("AEDT", "+1100"),
    ("NZST", "+1200"),
    ("NZDT", "+1300"),
    ("NDT", "-0230"),
    ("BRT", "-0300"),
    ("ADT", "-0300"),
    ("NST", "-0330"),
    ("EDT", "-0400"),
    ("EST", "-0500"),
    ("CDT", "-0500"),
    ("CST", "-0600"),
    ("MDT", "-0600"),
    ("MST", "-0700"),
    ("PDT", "-0700"),
    ("AKDT", "-0800"),
    ("PST", "-0800"),
    ("AKST", "-0900"),
    ("HST", "-1000"),
];

/// From here on a number counts milliseconds: as seconds it would be the year 5138.
const MILLIS_FROM: i64 = 100_000_000_000;

/// The moment that a text means; one without a zone is in `zone`.
///
/// RFC 3339 and ISO 8601 (extended and basic), RFC 2822 and the HTTP dates, the Unix epoch in seconds or milliseconds, and
/// days, which begin at midnight.
pub fn parse(text: &str, zone: Tz) -> Option<DateTime<Utc>> {
    let text = text.trim();
    if text.is_empty() || text.len() > LONGEST {
        return None;
    }
    if let Ok(at) = DateTime::parse_from_rfc3339(text) {
        return Some(at.to_utc());
    }
    // 8 digits are a day.
    if text.len() >= 9 && text.bytes().all(|byte| byte.is_ascii_digit()) {
        return of_epoch(text.parse().ok()?);
    }
    // One of its forms begins with a long weekday, and is not itself without it.
    if let Ok(at) = httpdate::parse_http_date(text) {
        return Some(at.into());
    }
    // A weekday says nothing more, and is wrong or in another language often enough.
    let text = match text.split_once(", ") {
        Some((day, rest)) if day.chars().all(char::is_alphabetic) => rest.trim_start(),
        _ => text,
    };
    let text = &*with_known_names(text);
    let as_mail = || DateTime::parse_from_rfc2822(text).ok().map(|at| at.to_utc());
    let with_offset = || {
        WITH_OFFSET
            .iter()
            .find_map(|format| DateTime::parse_from_str(text, format).ok())
            .map(|at| at.to_utc())
    };
    let local = || {
        LOCAL
            .iter()
            .find_map(|format| NaiveDateTime::parse_from_str(text, format).ok())
            .map(|at| at_local(zone, at))
    };
    let day = || {
        DAYS.iter()
            .find_map(|format| NaiveDate::parse_from_str(text, format).ok())
            .map(|day| at_local(zone, day.and_time(NaiveTime::MIN)))
    };
    as_mail().or_else(with_offset).or_else(local).or_else(day)
}

/// The text with an offset for its zone's initials, and the month that has four letters with three. Initials that mean
/// nothing, or several things, are left out: then the source's own zone counts.
fn with_known_names(text: &str) -> Cow<'_, str> {
    let mut text = Cow::Borrowed(text);
    if text.contains("Sept ") {
        text = Cow::Owned(text.replacen("Sept ", "Sep ", 1));
    }
    // A comment of RFC 2822, such as (CEST), repeats what its offset says.
    if let Some((rest, _)) = text.split_once('(') {
        text = Cow::Owned(rest.trim_end().to_owned());
    }
    let Some((rest, last)) = text.rsplit_once(' ') else {
        return text;
    };
    let is_zone = last.len() <= 5 && last.bytes().all(|byte| byte.is_ascii_uppercase());
    let is_half_of_day = last == "AM" || last == "PM";
    if !is_zone || is_half_of_day || rest.is_empty() {
        return text;
    }
    match INITIALS.iter().find(|(name, _)| *name == last) {
        Some((_, offset)) => Cow::Owned(format!("{rest} {offset}")),
        None => Cow::Owned(rest.to_owned()),
    }
}

/// Seconds or milliseconds since 1970.
pub(super) fn of_epoch(number: i64) -> Option<DateTime<Utc>> {
    if number.abs() >= MILLIS_FROM {
        DateTime::from_timestamp_millis(number)
    } else {
        DateTime::from_timestamp(number, 0)
    }
}

/// A local time as a moment. One that comes twice is its first occurrence; one that the clocks skip is read by the offset
/// from before the gap, as RFC 5545 has it.
pub(super) fn at_local(zone: Tz, local: NaiveDateTime) -> DateTime<Utc> {
    if let Some(at) = zone.from_local_datetime(&local).earliest() {
        return at.to_utc();
    }
    // No gap is longer than a day (Samoa once skipped one).
    let before = [TimeDelta::hours(3), TimeDelta::hours(26)]
        .iter()
        .filter_map(|back| local.checked_sub_signed(*back))
        .find_map(|earlier| zone.from_local_datetime(&earlier).latest());
    let offset = before.map_or(0, |at| at.offset().fix().local_minus_utc());
    local
        .checked_sub_signed(TimeDelta::seconds(i64::from(offset)))
        .unwrap_or(local)
        .and_utc()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn vienna(text: &str) -> Option<String> {
        parse(text, Tz::Europe__Vienna).map(|at| at.format("%Y-%m-%dT%H:%M:%SZ").to_string())
    }

    #[test]
    fn every_format_is_read() {
        for (text, moment) in [
            ("2030-05-01T18:00:00Z", "2030-05-01T18:00:00Z"),
            ("2030-05-01t18:00:00.25+02:00", "2030-05-01T16:00:00Z"),
            ("2030-05-01 18:00:00+02:00", "2030-05-01T16:00:00Z"),
            ("2030-05-01T18:00:00+0200", "2030-05-01T16:00:00Z"),
            ("2030-05-01T18:00+02", "2030-05-01T16:00:00Z"),
            ("20300501T180000Z", "2030-05-01T18:00:00Z"),
            ("2030-05-01T18:00:00", "2030-05-01T16:00:00Z"),
            ("2030-01-01 18:00", "2030-01-01T17:00:00Z"),
            ("2030-05-01", "2030-04-30T22:00:00Z"),
            ("20300501", "2030-04-30T22:00:00Z"),
            ("Wed, 01 May 2030 18:00:00 +0200", "2030-05-01T16:00:00Z"),
            ("Wed, 01 May 2030 18:00:00 GMT", "2030-05-01T18:00:00Z"),
            ("Wed, 1 May 2030 18:00:00 EST", "2030-05-01T23:00:00Z"),
            ("Mittwoch, 01 May 2030 18:00:00 UTC", "2030-05-01T18:00:00Z"),
            // The weekday is wrong.
            ("Mon, 01 May 2030 18:00:00 Z", "2030-05-01T18:00:00Z"),
            ("01 May 2030 18:00:00", "2030-05-01T16:00:00Z"),
            ("Wed May  1 18:00:00 2030", "2030-05-01T18:00:00Z"),
            ("Wednesday, 01-May-30 18:00:00 GMT", "2030-05-01T18:00:00Z"),
            ("May 1, 2030 18:00", "2030-05-01T16:00:00Z"),
            ("Wed, 01 May 2030 18:00:00 CEST", "2030-05-01T16:00:00Z"),
            ("Wed, 01 May 2030 18:00 PDT", "2030-05-02T01:00:00Z"),
            ("Wed, 01 May 30 18:00:00 JST", "2030-05-01T09:00:00Z"),
            ("Wed, 01 May 2030 18:00:00 +0200 (CEST)", "2030-05-01T16:00:00Z"),
            ("Wed, 01 May 2030 18:00:00 +02:00", "2030-05-01T16:00:00Z"),
            // Nobody knows this zone: the source's own counts.
            ("Wed, 01 May 2030 18:00:00 XYZ", "2030-05-01T16:00:00Z"),
            ("Sun, 01 Sept 2030 18:00:00 GMT", "2030-09-01T18:00:00Z"),
            ("2030-05-01 18:00:00 UTC", "2030-05-01T18:00:00Z"),
            ("2030-05-01T18:00:00 +02:00", "2030-05-01T16:00:00Z"),
            ("2030-05-01T18:00:00.123456", "2030-05-01T16:00:00Z"),
            ("2030/05/01 18:00", "2030-05-01T16:00:00Z"),
            ("01.05.2030 18:00", "2030-05-01T16:00:00Z"),
            ("01.05.2030", "2030-04-30T22:00:00Z"),
            ("May 1, 2030 6:00 PM", "2030-05-01T16:00:00Z"),
            ("1903975200", "2030-05-02T18:00:00Z"),
            ("1903975200000", "2030-05-02T18:00:00Z"),
        ] {
            assert_eq!(vienna(text).as_deref(), Some(moment), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_none() {
        for text in [
            "",
            "tomorrow",
            "2030-13-01",
            "2030-05-01T25:00:00Z",
            "31.12.",
            "1234567",
            &"9".repeat(70),
        ] {
            assert_eq!(vienna(text), None, "{text}");
        }
    }

    #[test]
    fn the_clocks_changes_are_known() {
        // 02:30 does not exist on the first day, and comes twice on the second.
        assert_eq!(
            vienna("2030-03-31 02:30").as_deref(),
            Some("2030-03-31T01:30:00Z")
        );
        assert_eq!(
            vienna("2030-10-27 02:30").as_deref(),
            Some("2030-10-27T00:30:00Z")
        );
        let skipped = parse("2011-12-30 12:00", Tz::Pacific__Apia).unwrap();
        assert_eq!(skipped.to_rfc3339(), "2011-12-30T22:00:00+00:00");
    }

    proptest! {
        #[test]
        fn any_text_is_a_time_or_none(text in ".{0,80}") {
            let _ = parse(&text, Tz::America__New_York);
        }
    }
}
