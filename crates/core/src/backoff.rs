//! Delays between attempts: exponential, capped, with full jitter.
//!
//! Full jitter draws evenly from zero to the exponential value, so that callers who failed together do not come
//! back together. No delay is ever longer than the cap, whatever the attempt number.

use std::time::Duration;

/// A delay policy. It holds no state: the caller counts its attempts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// Longest delay before the second attempt.
    pub base: Duration,
    /// Longest delay at all.
    pub cap: Duration,
    /// Draw evenly from zero to the exponential value instead of taking the value itself.
    pub jitter: bool,
}

impl Backoff {
    /// A policy with full jitter.
    pub const fn new(base: Duration, cap: Duration) -> Self {
        Self {
            base,
            cap,
            jitter: true,
        }
    }

    /// How long to wait after the `attempt`-th failure (1-based; 0 counts as 1).
    pub fn delay(&self, attempt: u32) -> Duration {
        let longest = self.longest(attempt);
        if self.jitter && !longest.is_zero() {
            rand::random_range(Duration::ZERO..=longest)
        } else {
            longest
        }
    }

    /// `base × 2^(attempt-1)`, never over the cap: what `delay` draws from.
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
            jitter: false,
        };
        let seconds: Vec<u64> = (1..=6).map(|attempt| backoff.delay(attempt).as_secs()).collect();
        assert_eq!(seconds, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn the_cap_is_reached_from_however_small_a_base() {
        let backoff = Backoff {
            base: Duration::from_nanos(1),
            cap: Duration::MAX,
            jitter: false,
        };
        assert_eq!(backoff.delay(200), Duration::MAX);
    }

    #[test]
    fn attempt_zero_waits_like_the_first() {
        let backoff = Backoff {
            base: SECOND,
            cap: 8 * SECOND,
            jitter: false,
        };
        assert_eq!(backoff.delay(0), backoff.delay(1));
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
        fn no_delay_is_over_the_cap(base in 0u64..=u64::MAX, cap in 0u64..=u64::MAX, attempt: u32, jitter: bool) {
            let backoff = Backoff { base: Duration::from_nanos(base), cap: Duration::from_nanos(cap), jitter };
            prop_assert!(backoff.delay(attempt) <= backoff.cap);
        }

        #[test]
        fn later_attempts_never_wait_less(base_ms in 0u64..100_000, cap_ms in 0u64..10_000_000, attempt in 0u32..200) {
            let backoff = Backoff::new(Duration::from_millis(base_ms), Duration::from_millis(cap_ms));
            prop_assert!(backoff.longest(attempt) <= backoff.longest(attempt + 1));
        }
    }
}
