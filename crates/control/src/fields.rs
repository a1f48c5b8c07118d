//! Values of the bodies of jobs.

use std::fmt;

use holdfast_http::body::fields::shortened;
use holdfast_jobs::ledger::Priority;
use holdfast_jobs::retry::MAX_ATTEMPTS_LIMIT;
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// `high`, `normal` or `low`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Urgency(pub Priority);

impl Serialize for Urgency {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

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
pub struct Attempts(pub u32);

impl Serialize for Attempts {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

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

#[cfg(test)]
mod tests {
    use super::*;

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
