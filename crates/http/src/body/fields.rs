//! Values of request bodies, parsed at the border: what they are called where they are refused is what users read.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use holdfast_jobs::ledger::Priority;
use holdfast_jobs::retry::MAX_ATTEMPTS_LIMIT;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};

/// A time span in seconds, perhaps with a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seconds(pub(crate) Duration);

impl<'de> Deserialize<'de> for Seconds {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsSeconds;

        impl Visitor<'_> for AsSeconds {
            type Value = Seconds;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of seconds, 0 or more")
            }

            fn visit_u64<E: Error>(self, seconds: u64) -> Result<Seconds, E> {
                Ok(Seconds(Duration::from_secs(seconds)))
            }

            fn visit_i64<E: Error>(self, seconds: i64) -> Result<Seconds, E> {
                u64::try_from(seconds)
                    .map(|seconds| Seconds(Duration::from_secs(seconds)))
                    .map_err(|_| E::invalid_value(Unexpected::Signed(seconds), &self))
            }

            fn visit_f64<E: Error>(self, seconds: f64) -> Result<Seconds, E> {
                Duration::try_from_secs_f64(seconds)
                    .map(Seconds)
                    .map_err(|_| E::invalid_value(Unexpected::Float(seconds), &self))
            }
        }

        deserializer.deserialize_any(AsSeconds)
    }
}

/// A moment as RFC 3339 writes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment(pub(crate) DateTime<Utc>);

impl<'de> Deserialize<'de> for Moment {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsMoment;

        impl Visitor<'_> for AsMoment {
            type Value = Moment;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an RFC 3339 time with an offset, such as \"2030-01-31T12:00:00Z\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Moment, E> {
                DateTime::parse_from_rfc3339(text)
                    .map(|at| Moment(at.to_utc()))
                    .map_err(|_| E::invalid_value(Unexpected::Str(&shortened(text)), &self))
            }
        }

        deserializer.deserialize_any(AsMoment)
    }
}

/// `high`, `normal` or `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Urgency(pub(crate) Priority);

impl<'de> Deserialize<'de> for Urgency {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsUrgency;

        impl Visitor<'_> for AsUrgency {
            type Value = Urgency;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("\"high\", \"normal\" or \"low\"")
            }

            fn visit_str<E: Error>(self, text: &str) -> Result<Urgency, E> {
                match text {
                    "high" => Ok(Urgency(Priority::High)),
                    "normal" => Ok(Urgency(Priority::Normal)),
                    "low" => Ok(Urgency(Priority::Low)),
                    other => Err(E::invalid_value(Unexpected::Str(&shortened(other)), &self)),
                }
            }
        }

        // Not as an enum: serde_json takes a number in its place for broken JSON.
        deserializer.deserialize_any(AsUrgency)
    }
}

/// How often a job may be tried: 1 to [`MAX_ATTEMPTS_LIMIT`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Attempts(pub(crate) u32);

impl<'de> Deserialize<'de> for Attempts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct AsAttempts;

        impl Visitor<'_> for AsAttempts {
            type Value = Attempts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "a whole number from 1 to {MAX_ATTEMPTS_LIMIT}")
            }

            fn visit_u64<E: Error>(self, number: u64) -> Result<Attempts, E> {
                u32::try_from(number)
                    .ok()
                    .filter(|number| (1..=MAX_ATTEMPTS_LIMIT).contains(number))
                    .map(Attempts)
                    .ok_or_else(|| E::invalid_value(Unexpected::Unsigned(number), &self))
            }

            fn visit_i64<E: Error>(self, number: i64) -> Result<Attempts, E> {
                match u64::try_from(number) {
                    Ok(number) => self.visit_u64(number),
                    Err(_) => Err(E::invalid_value(Unexpected::Signed(number), &self)),
                }
            }
        }

        deserializer.deserialize_any(AsAttempts)
    }
}

/// A client's own text, short enough to be repeated to it.
fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn seconds_are_numbers_that_are_not_negative() {
        let parsed = |text| serde_json::from_str::<Seconds>(text).map(|seconds| seconds.0);
        assert_eq!(parsed("2").unwrap(), Duration::from_secs(2));
        assert_eq!(parsed("0.25").unwrap(), Duration::from_millis(250));
        for odd in ["-1", "-0.5", "\"2\"", "1e300", "null", "[]"] {
            assert!(parsed(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn a_moment_needs_an_offset() {
        let parsed = |text| serde_json::from_str::<Moment>(text).map(|moment| moment.0.to_rfc3339());
        assert_eq!(
            parsed("\"2030-01-31T12:00:00+02:00\"").unwrap(),
            "2030-01-31T10:00:00+00:00"
        );
        for odd in [
            "\"2030-01-31\"",
            "\"2030-01-31T12:00:00\"",
            "1893456000",
            "\"tomorrow\"",
            "\"31.1.2030 12:00\"",
        ] {
            assert!(parsed(odd).is_err(), "{odd}");
        }
    }

    #[test]
    fn attempts_are_bounded() {
        let parsed = |text: &str| serde_json::from_str::<Attempts>(text).map(|attempts| attempts.0);
        assert_eq!(parsed("1").unwrap(), 1);
        assert_eq!(
            parsed(&MAX_ATTEMPTS_LIMIT.to_string()).unwrap(),
            MAX_ATTEMPTS_LIMIT
        );
        for odd in ["0", "-1", "101", "1.5", "4294967297", "\"3\""] {
            assert!(parsed(odd).is_err(), "{odd}");
        }
        let text = parsed("101").unwrap_err().to_string();
        assert!(
            text.starts_with("invalid value: integer `101`, expected a whole number from 1 to 100"),
            "{text}"
        );
    }
}
