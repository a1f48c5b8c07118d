//! Times on the command line.

use std::time::Duration;

use chrono::{DateTime, Utc};

/// `90`, `1.5` (seconds), `500ms`, `90s`, `5m`, `2h`, `1d`.
pub fn duration(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, f64); 5] = [
        ("ms", 0.001),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3_600.0),
        ("d", 86_400.0),
    ];
    let (number, seconds) = UNITS
        .iter()
        .find_map(|(unit, seconds)| Some((text.strip_suffix(unit)?, *seconds)))
        .unwrap_or((text, 1.0));
    let count = number.trim().parse::<f64>().map_err(|_| EXPECTED.to_owned())?;
    Duration::try_from_secs_f64(count * seconds).map_err(|_| EXPECTED.to_owned())
}

const EXPECTED: &str = "expected seconds, or a number with a unit: 90, 1.5, 500ms, 90s, 5m, 2h, 1d";

/// RFC 3339, with any offset.
pub fn instant(text: &str) -> Result<DateTime<Utc>, String> {
    DateTime::parse_from_rfc3339(text)
        .map(|at| at.to_utc())
        .map_err(|error| format!("{error}: expected RFC 3339, such as 2027-01-31T09:00:00Z"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_are_seconds_unless_a_unit_says_otherwise() {
        for (text, millis) in [
            ("90", 90_000),
            ("1.5", 1_500),
            ("500ms", 500),
            ("90s", 90_000),
            ("5m", 300_000),
            ("2h", 7_200_000),
            ("1d", 86_400_000),
            ("0", 0),
        ] {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
        for text in ["", "s", "-1", "1w", "1h30m", "inf", "nan", "1e300"] {
            assert!(duration(text).is_err(), "{text:?}");
        }
    }

    #[test]
    fn instants_are_rfc_3339() {
        assert_eq!(
            instant("2027-01-31T10:00:00+01:00"),
            instant("2027-01-31T09:00:00Z")
        );
        assert!(instant("tomorrow").is_err());
        assert!(instant("2027-01-31T09:00:00").is_err());
    }
}
