//! The one owner of retries: what becomes of a job after an attempt.
//!
//! Default: 3 attempts after the first, base 60 s, exponential, cap 600 s, full jitter.
//!
//! # Who decides
//! Each part of a policy (attempts, base, cap, jitter) is what the first of these says of it:
//! 1. the job itself (`max_attempts`, and its own backoff from Rust);
//! 2. the configuration of its kind, `[kinds."NAME".retry]`;
//! 3. the configuration of its queue, `[queues.NAME.retry]`;
//! 4. the kind's code, [`Job::retry`](crate::Job::retry);
//! 5. `[jobs.retry]`.
//!
//! So an operator overrules code, and the narrower word overrules the wider one. A base that comes out above its cap
//! raises the cap. Attempts are fixed when the job is accepted; the backoff is that of the worker's configuration at the
//! time of the failure.
//!
//! # What is no attempt
//! A crash: the rescuer counts it. A snooze ([`JobError::Snooze`]): the job goes back for a time, up to [`MAX_SNOOZES`]
//! times; after that each is a failed attempt, so that no job goes round for ever. No rest that a handler asks for
//! is longer than [`MAX_REST`].

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

pub use holdfast_core::backoff::{Backoff, Jitter};
use holdfast_core::config::{RetryOverride, RetrySettings, Settings};

use crate::declared::DeclaredKind;
use crate::job::JobError;

/// How often a job is tried, and the delays in between.
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
                jitter: Jitter::Full.switched(settings.jitter),
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
                jitter: Jitter::Off,
            },
        }
    }
}

/// How often a job may be put back by its own wish; then each wish is a failed attempt. Every minute for a week.
pub const MAX_SNOOZES: u32 = 10_000;

/// Longest rest that a handler, or a `Retry-After`, is given.
pub const MAX_REST: Duration = Duration::from_secs(30 * 86_400);

/// The policies of a process: its configuration over those that kinds bring along. Cheap to clone.
#[derive(Debug, Clone)]
pub struct RetryPolicies(Arc<Layers>);

/// The configured numbers of attempts; a kind's overrules its queue's, which overrules the kind's own in code.
#[derive(Debug)]
pub(crate) struct ConfiguredAttempts<'r> {
    pub default: u32,
    pub kinds: BTreeMap<&'r str, u32>,
    pub queues: BTreeMap<&'r str, u32>,
}

#[derive(Debug)]
struct Layers {
    default: RetryPolicy,
    kinds: BTreeMap<String, RetryOverride>,
    queues: BTreeMap<String, RetryOverride>,
}

impl RetryPolicies {
    pub fn new(settings: &Settings) -> Self {
        let named = |(name, retry): (&String, RetryOverride)| (name.clone(), retry);
        let kinds = settings.kinds.iter().map(|(name, kind)| (name, kind.retry));
        let queues = settings.queues.iter().map(|(name, queue)| (name, queue.retry));
        Self(Arc::new(Layers {
            default: settings.jobs.retry.into(),
            kinds: kinds.map(named).collect(),
            queues: queues.map(named).collect(),
        }))
    }

    /// The policy of a kind's jobs on a queue; `code` is what the kind itself says.
    pub fn of(&self, kind: &str, code: Option<RetryPolicy>, queue: &str) -> RetryPolicy {
        let mut policy = code.unwrap_or(self.0.default);
        for layer in [self.0.queues.get(queue), self.0.kinds.get(kind)]
            .into_iter()
            .flatten()
        {
            policy = policy.overruled_by(layer);
        }
        policy
    }

    /// What the configuration says of numbers of attempts.
    pub(crate) fn configured_attempts(&self) -> ConfiguredAttempts<'_> {
        fn named(layer: &BTreeMap<String, RetryOverride>) -> BTreeMap<&str, u32> {
            let named = layer.iter();
            named
                .filter_map(|(name, retry)| Some((name.as_str(), retry.max_attempts?)))
                .collect()
        }
        ConfiguredAttempts {
            default: self.0.default.max_attempts,
            kinds: named(&self.0.kinds),
            queues: named(&self.0.queues),
        }
    }

    /// What a kind that says only parts of a policy says in code: the other parts are the configured default's.
    fn completed(&self, parts: RetryOverride) -> RetryPolicy {
        self.0.default.overruled_by(&parts)
    }

    /// The policy of a declared kind's jobs on a queue.
    pub fn of_declared(&self, kind: &DeclaredKind, queue: &str) -> RetryPolicy {
        self.of(
            &kind.name,
            Some(self.completed(kind.definition.retry.parts())),
            queue,
        )
    }

    /// Whether the queue has a word of its own.
    pub fn is_overruled_on(&self, queue: &str) -> bool {
        self.0
            .queues
            .get(queue)
            .is_some_and(|retry| *retry != RetryOverride::default())
    }
}

impl RetryPolicy {
    fn overruled_by(self, by: &RetryOverride) -> Self {
        let base = by.base.unwrap_or(self.backoff.base);
        Self {
            max_attempts: by.max_attempts.unwrap_or(self.max_attempts),
            backoff: Backoff {
                base,
                cap: by.cap.unwrap_or(self.backoff.cap).max(base),
                jitter: by
                    .jitter
                    .map_or(self.backoff.jitter, |on| self.backoff.jitter.switched(on)),
            },
        }
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
/// `attempt` is the 1-based number of the attempt that just failed, `snoozes` how often the job was put back before.
pub fn verdict(
    error: &JobError,
    attempt: u32,
    max_attempts: u32,
    snoozes: u32,
    backoff: &Backoff,
    cancel_requested: bool,
) -> Verdict {
    if cancel_requested {
        return Verdict::Cancel;
    }
    match error {
        JobError::Cancelled => Verdict::Cancel,
        JobError::Snooze(delay) if snoozes < MAX_SNOOZES => Verdict::SnoozeFor((*delay).min(MAX_REST)),
        JobError::Permanent(_) => Verdict::Discard,
        _ if attempt >= max_attempts => Verdict::Discard,
        // A server that always answers "Retry-After: 1" must not use up the attempts in seconds.
        JobError::RetryAfter(delay, _) => {
            Verdict::RetryIn((*delay).max(backoff.floor(attempt)).min(MAX_REST))
        }
        JobError::Transient(_) | JobError::TimedOut(_) | JobError::Panicked(_) | JobError::Snooze(_) => {
            Verdict::RetryIn(backoff.delay(attempt))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BACKOFF: Backoff = Backoff {
        base: Duration::from_secs(60),
        cap: Duration::from_secs(600),
        jitter: Jitter::Off,
    };

    #[test]
    fn the_default_policy_rests_1_2_4_minutes() {
        let rests: Vec<u64> = (1..=6).map(|attempt| BACKOFF.delay(attempt).as_secs()).collect();
        assert_eq!(rests, [60, 120, 240, 480, 600, 600]);
    }

    #[test]
    fn a_short_wish_to_retry_is_no_way_around_the_floor() {
        let soon = JobError::retry_after(Duration::from_secs(1), "busy");
        let verdict = |backoff| verdict(&soon, 3, 9, 0, &backoff, false);
        let (base, cap) = (BACKOFF.base, BACKOFF.cap);
        let floor = Duration::from_secs(120);
        assert_eq!(verdict(Backoff::with_floor(base, cap)), Verdict::RetryIn(floor));
        let asked = Duration::from_secs(1);
        assert_eq!(verdict(Backoff::new(base, cap)), Verdict::RetryIn(asked));
    }

    #[test]
    fn the_last_attempt_discards_whatever_the_error_asks_for() {
        let later = JobError::retry_after(Duration::from_secs(5), "busy");
        assert_eq!(
            verdict(&later, 1, 2, 0, &BACKOFF, false),
            Verdict::RetryIn(Duration::from_secs(5))
        );
        assert_eq!(verdict(&later, 2, 2, 0, &BACKOFF, false), Verdict::Discard);
    }

    #[test]
    fn a_permanent_error_is_never_retried_and_a_snooze_spends_nothing() {
        assert_eq!(
            verdict(&JobError::permanent("no"), 1, 9, 0, &BACKOFF, false),
            Verdict::Discard
        );
        let snooze = JobError::Snooze(Duration::from_secs(3));
        assert_eq!(
            verdict(&snooze, 9, 9, 0, &BACKOFF, false),
            Verdict::SnoozeFor(Duration::from_secs(3))
        );
    }

    #[test]
    fn a_failure_after_a_cancel_request_cancels() {
        assert_eq!(
            verdict(&JobError::transient("x"), 1, 9, 0, &BACKOFF, true),
            Verdict::Cancel
        );
    }

    #[test]
    fn a_job_that_snoozes_for_ever_runs_out_of_attempts() {
        let snooze = JobError::snooze(Duration::from_secs(3));
        let after = |snoozes, attempt| verdict(&snooze, attempt, 2, snoozes, &BACKOFF, false);
        assert_eq!(
            after(MAX_SNOOZES - 1, 1),
            Verdict::SnoozeFor(Duration::from_secs(3))
        );
        assert_eq!(after(MAX_SNOOZES, 1), Verdict::RetryIn(BACKOFF.base));
        assert_eq!(after(MAX_SNOOZES, 2), Verdict::Discard);
    }

    #[test]
    fn no_rest_is_longer_than_the_longest() {
        for error in [
            JobError::snooze(Duration::MAX),
            JobError::retry_after(Duration::MAX, "later"),
        ] {
            let verdict = verdict(&error, 1, 2, 0, &BACKOFF, false);
            assert!(
                matches!(verdict, Verdict::RetryIn(rest) | Verdict::SnoozeFor(rest) if rest == MAX_REST),
                "{verdict:?}"
            );
        }
    }

    #[test]
    fn the_narrower_word_counts_and_the_operators_before_the_codes() {
        use holdfast_core::config::{Sources, load_from};

        let file = r#"
            [jobs.retry]
            max_attempts = 2
            [queues.events.retry]
            max_attempts = 5
            base_seconds = 700
            [kinds."http.request".retry]
            max_attempts = 9
            jitter = false
        "#;
        let file = Some(("holdfast.toml".into(), file.to_owned()));
        let settings = load_from(Sources {
            file,
            ..Sources::default()
        })
        .unwrap();
        let policies = RetryPolicies::new(&settings);
        let once = Some(RetryPolicy::once());
        let attempts = |kind, code, queue| policies.of(kind, code, queue).max_attempts;
        assert_eq!(attempts("other", None, "default"), 2);
        assert_eq!(attempts("other", once, "default"), 1);
        assert_eq!(attempts("other", once, "events"), 5);
        assert_eq!(attempts("http.request", once, "events"), 9);
        let both = policies.of("http.request", None, "events").backoff;
        // The base is above the default cap of 600 s, and raises it.
        assert_eq!(
            (both.base, both.cap),
            (Duration::from_secs(700), Duration::from_secs(700))
        );
        assert_eq!(both.jitter, Jitter::Off);
        assert_eq!(policies.of("other", None, "events").backoff.jitter, Jitter::Full);
        assert!(policies.is_overruled_on("events") && !policies.is_overruled_on("default"));
    }
}
