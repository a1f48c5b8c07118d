//! The one owner of retries: what becomes of a job after an attempt.
//!
//! Default: 3 attempts after the first, base 60 s, exponential, cap 600 s, full jitter. A kind may set its own
//! policy, a job its own `max_attempts` and backoff. A crash is not an attempt; the rescuer counts it.

use std::time::Duration;

use holdfast_core::config::RetrySettings;
use serde::{Deserialize, Serialize};

use crate::job::JobError;

/// Exponential backoff of one kind or one job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Backoff {
    #[serde(with = "millis")]
    pub base: Duration,
    #[serde(with = "millis")]
    pub cap: Duration,
    pub jitter: bool,
}

/// How often a job is tried, and how long it rests in between.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Executions that may come to an outcome, the first included. At least 1.
    pub max_attempts: u32,
    pub backoff: Backoff,
}

/// Most attempts a policy or a request may ask for.
pub const MAX_ATTEMPTS_LIMIT: u32 = 100;

impl From<RetrySettings> for RetryPolicy {
    fn from(settings: RetrySettings) -> Self {
        Self {
            max_attempts: settings.max_attempts,
            backoff: Backoff {
                base: settings.base,
                cap: settings.cap,
                jitter: settings.jitter,
            },
        }
    }
}

impl RetryPolicy {
    /// One execution, no retry.
    pub const fn once() -> Self {
        Self {
            max_attempts: 1,
            backoff: Backoff {
                base: Duration::ZERO,
                cap: Duration::ZERO,
                jitter: false,
            },
        }
    }
}

impl Backoff {
    /// The rest before the attempt after the `attempt`-th (1-based).
    pub fn delay(&self, attempt: u32) -> Duration {
        let core = holdfast_core::backoff::Backoff {
            base: self.base,
            cap: self.cap,
            jitter: self.jitter,
        };
        core.delay(attempt)
    }
}

/// What the ledger is told of an attempt that failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    RetryIn(Duration),
    /// Run again later without spending an attempt.
    SnoozeFor(Duration),
    Discard,
    Cancel,
}

/// Decides what follows a failed attempt.
///
/// `attempt` is the 1-based number of the attempt that just failed.
pub fn verdict(
    error: &JobError,
    attempt: u32,
    max_attempts: u32,
    backoff: &Backoff,
    cancel_requested: bool,
) -> Verdict {
    if cancel_requested {
        return Verdict::Cancel;
    }
    match error {
        JobError::Cancelled => Verdict::Cancel,
        JobError::Snooze(delay) => Verdict::SnoozeFor(*delay),
        JobError::Permanent(_) => Verdict::Discard,
        _ if attempt >= max_attempts => Verdict::Discard,
        JobError::RetryAfter(delay, _) => Verdict::RetryIn(*delay),
        JobError::Transient(_) | JobError::TimedOut(_) | JobError::Panicked(_) => {
            Verdict::RetryIn(backoff.delay(attempt))
        }
    }
}

mod millis {
    use std::time::Duration;

    use serde::{Deserialize, Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(value: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_u64(u64::try_from(value.as_millis()).unwrap_or(u64::MAX))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
        u64::deserialize(deserializer).map(Duration::from_millis)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_secs(60),
        cap: Duration::from_secs(600),
        jitter: false,
    };

    #[test]
    fn the_default_policy_rests_1_2_4_minutes() {
        let rests: Vec<u64> = (1..=6).map(|attempt| BACKOFF.delay(attempt).as_secs()).collect();
        assert_eq!(rests, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn the_last_attempt_discards_whatever_the_error_asks_for() {
        let later = JobError::retry_after(Duration::from_secs(5), "busy");
        assert_eq!(
            verdict(&later, 1, 2, &BACKOFF, false),
            Verdict::RetryIn(Duration::from_secs(5))
        );
        assert_eq!(verdict(&later, 2, 2, &BACKOFF, false), Verdict::Discard);
    }

    #[test]
    fn a_permanent_error_is_never_retried_and_a_snooze_spends_nothing() {
        assert_eq!(
            verdict(&JobError::permanent("no"), 1, 9, &BACKOFF, false),
            Verdict::Discard
        );
        let snooze = JobError::Snooze(Duration::from_secs(3));
        assert_eq!(
            verdict(&snooze, 9, 9, &BACKOFF, false),
            Verdict::SnoozeFor(Duration::from_secs(3))
        );
    }

    #[test]
    fn a_failure_after_a_cancel_request_cancels() {
        assert_eq!(
            verdict(&JobError::transient("x"), 1, 9, &BACKOFF, true),
            Verdict::Cancel
        );
    }
}
