//! The time of day, asked in one place.
//!
//! Clippy refuses `Utc::now` and `SystemTime::now` everywhere else, so whoever looks for a time dependency looks
//! here. Leases and schedules do not use it at all: they take their times from the server (SQL `now()`, Redis
//! `TIME`). Intervals and deadlines are measured with `Instant`, which no clock adjustment can move.

use chrono::{DateTime, Utc};

/// The host's time of day, in UTC.
#[allow(clippy::disallowed_methods, reason = "this is the one place that asks")]
pub fn now() -> DateTime<Utc> {
    Utc::now()
}

/// Milliseconds since the Unix epoch by the host's clock; 0 should the clock stand before 1970.
pub fn unix_millis() -> u64 {
    u64::try_from(now().timestamp_millis()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_readings_come_from_the_same_clock() {
        let before = unix_millis();
        let reading = u64::try_from(now().timestamp_millis()).unwrap();
        let after = unix_millis();
        assert!(before <= reading && reading <= after);
    }
}
