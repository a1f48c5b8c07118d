//! `Retry-After`: how long a server asks to be left alone (RFC 9110, 10.2.3).
//!
//! Seconds, or a date in any of the three forms that a recipient must accept. A date is measured against the
//! answer's own `Date`, so that a clock that is wrong here or there does not matter; against the clock of this
//! host if there is none. The rest is at least a second, since zero and the past mean "soon" and not "hammer me",
//! and at most a day, since a job is not to be parked for years by a stranger. What cannot be read is ignored: the
//! job's own backoff applies.

use std::time::{Duration, SystemTime};

use holdfast_core::clock;
use reqwest::header::{DATE, HeaderMap, HeaderName, RETRY_AFTER};

const SHORTEST: Duration = Duration::from_secs(1);
const LONGEST: Duration = Duration::from_hours(24);

/// The rest that the answer with these headers asks for.
pub(super) fn retry_after(headers: &HeaderMap) -> Option<Duration> {
    let text = text(headers, &RETRY_AFTER)?;
    let asked = if !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit()) {
        // More digits than u64 holds: a number all the same, beyond the longest.
        text.parse().map_or(LONGEST, Duration::from_secs)
    } else {
        let until = httpdate::parse_http_date(text).ok()?;
        until.duration_since(said_at(headers)).unwrap_or(Duration::ZERO)
    };
    Some(asked.clamp(SHORTEST, LONGEST))
}

fn said_at(headers: &HeaderMap) -> SystemTime {
    text(headers, &DATE)
        .and_then(|text| httpdate::parse_http_date(text).ok())
        .unwrap_or_else(|| clock::now().into())
}

fn text<'a>(headers: &'a HeaderMap, name: &HeaderName) -> Option<&'a str> {
    headers
        .get(name)
        .and_then(|value| value.to_str().ok())
        .map(str::trim)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(retry_after: &str, date: Option<&str>) -> Option<u64> {
        let mut headers = HeaderMap::new();
        headers.insert(RETRY_AFTER, retry_after.parse().unwrap());
        if let Some(date) = date {
            headers.insert(DATE, date.parse().unwrap());
        }
        super::retry_after(&headers).map(|rest| rest.as_secs())
    }

    #[test]
    fn seconds_are_kept_within_a_second_and_a_day() {
        for (text, seconds) in [
            ("120", 120),
            (" 7 ", 7),
            ("0", 1),
            ("86401", 86_400),
            ("99999999999999999999999999", 86_400),
        ] {
            assert_eq!(read(text, None), Some(seconds), "{text}");
        }
    }

    #[test]
    fn a_date_in_each_form_is_measured_against_the_servers_own_clock() {
        let date = Some("Sun, 06 Nov 1994 08:49:37 GMT");
        for text in [
            "Sun, 06 Nov 1994 08:50:37 GMT",
            "Sunday, 06-Nov-94 08:50:37 GMT",
            "Sun Nov  6 08:50:37 1994",
        ] {
            assert_eq!(read(text, date), Some(60), "{text}");
        }
        assert_eq!(read("Sun, 06 Nov 1994 08:00:00 GMT", date), Some(1));
        assert_eq!(read("Sat, 06 Nov 2094 08:00:00 GMT", date), Some(86_400));
    }

    #[test]
    fn a_date_without_the_servers_clock_is_measured_against_ours() {
        let soon = httpdate::fmt_http_date((clock::now() + chrono::TimeDelta::seconds(30)).into());
        let rest = read(&soon, None).unwrap();
        assert!((28..=30).contains(&rest), "{rest}");
    }

    #[test]
    fn what_cannot_be_read_is_ignored() {
        for text in ["", "-5", "1.5", "soon", "Sun, 99 Nov 1994 08:49:37 GMT"] {
            assert_eq!(read(text, None), None, "{text}");
        }
        assert_eq!(super::retry_after(&HeaderMap::new()), None);
    }
}
