//! What bounds a queue over all of its workers: how many jobs run at once and how many start in a time, for the queue as
//! a whole and for each `limit_key`.
//!
//! One type for the configuration, the API and the database, so that a limit reads the same in all of them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::declare::{optional_count, optional_parsed};
use crate::settings;

/// Most jobs that a `max_running` may name.
pub const MAX_RUNNING_LIMIT: u32 = 1_000_000;

/// Most starts that a rate may name.
pub const MAX_RATE_COUNT: u32 = 1_000_000;

/// Longest time that a rate may name: a day.
pub const MAX_RATE_PERIOD: Duration = Duration::from_hours(24);

/// Shortest time that a rate may name. A server's clock is read in milliseconds.
pub const MIN_RATE_PERIOD: Duration = Duration::from_millis(100);

/// At most `count` starts at once, and `count` in each `period` over a longer time: a bucket of `count` tokens that
/// fills up evenly within `period`. Written `100/60s`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    pub count: u32,
    pub period: Duration,
}

impl Rate {
    /// The time in which one token grows, in milliseconds.
    pub fn millis_each(self) -> f64 {
        self.period.as_secs_f64() * 1_000.0 / f64::from(self.count)
    }
}

/// What is wrong with a limit, and what would be right.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidLimit(String);

impl FromStr for Rate {
    type Err = InvalidLimit;

    fn from_str(text: &str) -> Result<Self, InvalidLimit> {
        let fault = |problem: &str| {
            InvalidLimit(format!(
                "{text:?} {problem}; write starts/time, such as \"100/60s\": 1 to {MAX_RATE_COUNT} starts, a time from \
                 0.1s to 24h in s, m or h"
            ))
        };
        let (count, period) = text.split_once('/').ok_or_else(|| fault("is not a rate"))?;
        let count: u32 = count
            .trim()
            .parse()
            .map_err(|_| fault("names no whole number of starts"))?;
        if count == 0 {
            return Err(fault("would let nothing start (pause the queue instead)"));
        }
        if count > MAX_RATE_COUNT {
            return Err(fault("names too many starts"));
        }
        let period = period_of(period.trim()).ok_or_else(|| fault("names no time"))?;
        if !(MIN_RATE_PERIOD..=MAX_RATE_PERIOD).contains(&period) {
            return Err(fault("names a time out of range"));
        }
        Ok(Self { count, period })
    }
}

/// `60s`, `1.5m`, `24h`; a unit alone is one of it.
fn period_of(text: &str) -> Option<Duration> {
    let unit = text.chars().last()?;
    let seconds = match unit {
        's' => 1.0,
        'm' => 60.0,
        'h' => 3_600.0,
        _ => return None,
    };
    let number = text.trim_end_matches(unit).trim();
    let number: f64 = if number.is_empty() {
        1.0
    } else {
        number.parse().ok()?
    };
    Duration::try_from_secs_f64(number * seconds).ok()
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}s", self.count, self.period.as_secs_f64())
    }
}

impl Serialize for Rate {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}

/// A `max_running`: never zero.
pub fn check_max_running(number: u64) -> Result<u32, InvalidLimit> {
    u32::try_from(number)
        .ok()
        .filter(|number| (1..=MAX_RUNNING_LIMIT).contains(number))
        .ok_or_else(|| {
            let hint = if number == 0 {
                "; zero would let nothing run (pause the queue instead)"
            } else {
                ""
            };
            InvalidLimit(format!(
                "{number} is not a whole number from 1 to {MAX_RUNNING_LIMIT}{hint}"
            ))
        })
}

settings! {
    ["queue_defaults"]
    /// The limits of one queue; what is `None` is not limited.
    #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
    #[serde(default)]
    pub struct QueueLimits {
        /// Jobs of the queue that run concurrently over all workers, {range}. Empty: only the workers' own limits. This and
        /// the next three limits are enforced in SQL, with and without Redis; the API can change them without a restart.
        max_running: Option<u32> = optional_count(1..=MAX_RUNNING_LIMIT);
        /// Jobs of the queue that start in a period, over all workers: "100/60s" allows 100 immediately, and 100 a minute over a
        /// longer time. 1 to 1000000 starts; from 0.1s to 24h, in s, m or h. Empty: no limit.
        rate: Option<Rate> = optional_parsed();
        /// Jobs that run concurrently for each `limit_key`, {range}: with 1 and the customer as key, one at a time for each
        /// customer. Empty: no limit.
        key_max_running: Option<u32> = optional_count(1..=MAX_RUNNING_LIMIT);
        /// Jobs that start in a period for each `limit_key`, written like `rate`. Empty: no limit.
        key_rate: Option<Rate> = optional_parsed();
    }
}

impl QueueLimits {
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether jobs are told apart by their `limit_key`.
    pub fn by_key(&self) -> bool {
        self.key_max_running.is_some() || self.key_rate.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_is_read_as_it_is_written() {
        let rate = |text: &str| text.parse::<Rate>();
        assert_eq!(
            rate("100/60s").unwrap(),
            Rate {
                count: 100,
                period: Duration::from_mins(1)
            }
        );
        for (text, again) in [
            ("1/s", "1/1s"),
            ("5/m", "5/60s"),
            ("10 / 0.5s", "10/0.5s"),
            ("7/24h", "7/86400s"),
        ] {
            assert_eq!(rate(text).unwrap().to_string(), again);
            assert_eq!(rate(again).unwrap(), rate(text).unwrap());
        }
        for odd in [
            "",
            "100",
            "0/60s",
            "-1/60s",
            "1.5/60s",
            "1/",
            "1/60",
            "1/0s",
            "1/25h",
            "1/NaNs",
            "1/-5s",
            "1000001/60s",
            "1/1d",
        ] {
            assert!(rate(odd).is_err(), "{odd}");
        }
        assert!(
            rate("0/60s")
                .unwrap_err()
                .to_string()
                .contains("pause the queue instead")
        );
    }

    #[test]
    fn a_limit_of_zero_is_no_limit_at_all() {
        assert_eq!(check_max_running(1), Ok(1));
        for odd in [0, 1_000_001, u64::MAX] {
            assert!(check_max_running(odd).is_err(), "{odd}");
        }
    }
}
