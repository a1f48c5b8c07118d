//! Delays between attempts: exponential, capped, with jitter.
//!
//! Jitter keeps callers that failed together from returning together. No delay is ever longer than the cap, whatever the
//! attempt number.

use std::time::Duration;

use serde::{Deserialize, Serialize};

/// A delay policy. It holds no state: the caller counts its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(from = "StoredBackoff", into = "StoredBackoff")]
pub struct Backoff {
    /// Longest delay before the second attempt.
    pub base: Duration,
    /// Longest delay at all.
    pub cap: Duration,
    pub jitter: Jitter,
}

/// From what a delay is drawn, uniformly, up to its longest value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Jitter {
    /// Each delay has its longest value.
    Off,
    /// From zero: the best spread, and no promise how long all attempts together last.
    Full,
    /// From half of the longest value: all attempts together last at least half of the longest time.
    Equal,
}

impl Jitter {
    /// The jitter under a setting that says whether there is any.
    pub const fn switched(self, on: bool) -> Self {
        match (on, self) {
            (false, _) => Self::Off,
            (true, Self::Off) => Self::Full,
            (true, own) => own,
        }
    }
}

/// The form that is stored with a job. Versions that know no equal jitter ignore `half`, and draw from zero.
#[derive(Serialize, Deserialize)]
struct StoredBackoff {
    /// Milliseconds.
    base: u64,
    /// Milliseconds.
    cap: u64,
    jitter: bool,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    half: bool,
}

impl From<StoredBackoff> for Backoff {
    fn from(stored: StoredBackoff) -> Self {
        let drawn = if stored.half { Jitter::Equal } else { Jitter::Full };
        Self {
            base: Duration::from_millis(stored.base),
            cap: Duration::from_millis(stored.cap),
            jitter: drawn.switched(stored.jitter),
        }
    }
}

impl From<Backoff> for StoredBackoff {
    fn from(backoff: Backoff) -> Self {
        let millis = |time: Duration| u64::try_from(time.as_millis()).unwrap_or(u64::MAX);
        Self {
            base: millis(backoff.base),
            cap: millis(backoff.cap),
            jitter: backoff.jitter != Jitter::Off,
            half: backoff.jitter == Jitter::Equal,
        }
    }
}

impl Backoff {
    /// A policy with full jitter.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            jitter: Jitter::Full,
        }
    }

    /// A policy whose attempts together last at least half of the longest time: for what is promised to be tried for a
    /// while.
    pub const fn with_floor(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            jitter: Jitter::Equal,
        }
    }

    /// How long to wait after the `attempt`-th failure (1-based; 0 counts as 1).
    pub fn delay(&self, attempt: u32) -> Duration {
        let (floor, longest) = (self.floor(attempt), self.longest(attempt));
        if self.jitter == Jitter::Off || floor == longest {
            longest
        } else {
            rand::random_range(floor..=longest)
        }
    }

    /// What no wait is shorter than, not even one that the other side asks for. Zero without [`Jitter::Equal`].
    pub fn floor(&self, attempt: u32) -> Duration {
        match self.jitter {
            Jitter::Off | Jitter::Full => Duration::ZERO,
            Jitter::Equal => self.longest(attempt) / 2,
        }
    }

    /// `base × 2^(attempt-1)`, never over the cap: the most that `delay` gives.
    pub fn longest(&self, attempt: u32) -> Duration {
        let doublings = attempt.saturating_sub(1);
        let base = self.base.as_nanos();
        if base == 0 {
            return Duration::ZERO;
        }
        // With fewer leading zeros than doublings the value has passed every cap there can be.
        let exponential = if doublings < base.leading_zeros() {
            base << doublings
        } else {
            u128::MAX
        };
        Duration::from_nanos_u128(exponential.min(self.cap.as_nanos()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_from_the_base_up_to_the_cap() {
        let backoff = Backoff {
            base: 60 * SECOND,
            cap: 600 * SECOND,
            jitter: Jitter::Off,
        };
        let seconds: Vec<u64> = (1..=6).map(|attempt| backoff.delay(attempt).as_secs()).collect();
        assert_eq!(seconds, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn the_cap_is_reached_from_however_small_a_base() {
        let backoff = Backoff {
            base: Duration::from_nanos(1),
            cap: Duration::MAX,
            jitter: Jitter::Off,
        };
        assert_eq!(backoff.delay(200), Duration::MAX);
    }

    #[test]
    fn attempt_zero_waits_like_the_first() {
        let backoff = Backoff {
            base: SECOND,
            cap: 8 * SECOND,
            jitter: Jitter::Off,
        };
        assert_eq!(backoff.delay(0), backoff.delay(1));
    }

    #[test]
    fn equal_jitter_draws_from_the_upper_half() {
        let backoff = Backoff::with_floor(SECOND, SECOND);
        let draws: Vec<Duration> = (0..200).map(|_| backoff.delay(1)).collect();
        assert!(draws.iter().all(|draw| (SECOND / 2..=SECOND).contains(draw)));
        assert!(draws.iter().any(|draw| *draw < SECOND * 3 / 4));
        assert!(draws.iter().any(|draw| *draw > SECOND * 3 / 4));
    }

    #[test]
    fn the_stored_form_is_read_by_versions_without_equal_jitter() {
        let stored = |jitter| {
            let backoff = Backoff {
                jitter,
                ..Backoff::new(SECOND, 2 * SECOND)
            };
            let stored = serde_json::to_string(&backoff).unwrap();
            assert_eq!(serde_json::from_str::<Backoff>(&stored).unwrap(), backoff);
            stored
        };
        assert_eq!(stored(Jitter::Off), r#"{"base":1000,"cap":2000,"jitter":false}"#);
        assert_eq!(stored(Jitter::Full), r#"{"base":1000,"cap":2000,"jitter":true}"#);
        assert_eq!(
            stored(Jitter::Equal),
            r#"{"base":1000,"cap":2000,"jitter":true,"half":true}"#
        );
    }

    #[test]
    fn jitter_reaches_both_halves_of_the_range() {
        let backoff = Backoff::new(SECOND, SECOND);
        let draws: Vec<Duration> = (0..200).map(|_| backoff.delay(1)).collect();
        assert!(draws.iter().any(|draw| *draw < SECOND / 2));
        assert!(draws.iter().any(|draw| *draw > SECOND / 2));
    }

    proptest! {
        #[test]
        fn no_delay_is_over_the_cap(base in 0u64..=u64::MAX, cap in 0u64..=u64::MAX, attempt: u32) {
            for jitter in [Jitter::Off, Jitter::Full, Jitter::Equal] {
                let backoff = Backoff { base: Duration::from_nanos(base), cap: Duration::from_nanos(cap), jitter };
                prop_assert!(backoff.delay(attempt) <= backoff.cap);
            }
        }

        #[test]
        fn later_attempts_never_wait_less(base_ms in 0u64..100_000, cap_ms in 0u64..10_000_000, attempt in 0u32..200) {
            let backoff = Backoff::new(Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            prop_assert!(backoff.longest(attempt) <= backoff.longest(attempt + 1));
        }
    }
}
