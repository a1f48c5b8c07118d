//! Values of request bodies, parsed where the body is: a refusal names the field as its user wrote it.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use secrecy::{ExposeSecret as _, SecretString};
use serde::de::{Deserialize, Deserializer, Error, Unexpected, Visitor};
use serde::{Serialize, Serializer};

/// A time span in seconds, perhaps with a fraction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seconds(pub Duration);

impl Serialize for Seconds {
    /// Whole seconds as a whole number.
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0.subsec_nanos() {
            0 => serializer.serialize_u64(self.0.as_secs()),
            _ => serializer.serialize_f64(self.0.as_secs_f64()),
        }
    }
}

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
pub struct Moment(pub DateTime<Utc>);

impl Serialize for Moment {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.0.serialize(serializer)
    }
}

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

/// A text that no message repeats, also where it is not a text.
pub fn secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<SecretString, D::Error> {
    let text = String::deserialize(deserializer);
    text.map(SecretString::from)
        .map_err(|_| D::Error::custom("expected a text"))
}

/// The same, where it may be absent or null.
pub fn optional_secret<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<SecretString>, D::Error> {
    let text = Option::<String>::deserialize(deserializer);
    text.map(|text| text.map(SecretString::from))
        .map_err(|_| D::Error::custom("expected a text"))
}

/// The same, as a client sends it.
pub fn exposed<S: Serializer>(secret: &SecretString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(secret.expose_secret())
}

/// The same, where it may be absent.
pub fn optional_exposed<S: Serializer>(
    secret: &Option<SecretString>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    match secret {
        Some(secret) => exposed(secret, serializer),
        None => serializer.serialize_none(),
    }
}

/// A client's own text, short enough to be repeated to it.
pub fn shortened(text: &str) -> String {
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
}
