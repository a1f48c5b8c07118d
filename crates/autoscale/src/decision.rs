//! What to do about one service: a pure function of its need, its replicas and its history.

use std::time::Duration;

use tokio::time::Instant;

/// What a service is allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bounds {
    pub min: u32,
    pub max: u32,
    /// Replicas that one change may add, where doubling adds less.
    pub max_step: u32,
    /// How long the need must be lower before replicas are taken away.
    pub cooldown: Duration,
}

/// What its queues need.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    pub replicas: u64,
    /// See [`holdfast_jobs::scaling`].
    pub is_trusted: bool,
}

/// What is remembered of a service between rounds.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct History {
    lower: Option<Lower>,
}

/// Fewer replicas would do since this time; the highest need since then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Lower {
    since: Instant,
    peak: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Decision {
    /// There are as many as are needed.
    Keep,
    /// Fewer would do, and the cool-down goes on for this long.
    Wait(Duration),
    /// Fewer might do, but the figures are not trusted.
    Distrust,
    Raise(u32),
    Lower(u32),
}

impl Decision {
    /// The number to set; `None`: nothing is to be changed.
    pub fn target(self) -> Option<u32> {
        match self {
            Self::Raise(replicas) | Self::Lower(replicas) => Some(replicas),
            Self::Keep | Self::Wait(_) | Self::Distrust => None,
        }
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Self::Keep => "keep",
            Self::Wait(_) => "wait",
            Self::Distrust => "distrust",
            Self::Raise(_) => "raise",
            Self::Lower(_) => "lower",
        }
    }
}

impl History {
    /// Decides for a service that has `current` replicas, and remembers what the next decision needs.
    pub fn decide(&mut self, bounds: &Bounds, need: Need, current: u32, now: Instant) -> Decision {
        let wanted = u32::try_from(need.replicas)
            .unwrap_or(u32::MAX)
            .clamp(bounds.min, bounds.max);
        if wanted >= current {
            self.lower = None;
            if wanted == current {
                return Decision::Keep;
            }
            let step = bounds.max_step.max(current);
            return Decision::Raise(wanted.min(current.saturating_add(step)));
        }
        if !need.is_trusted {
            self.lower = None;
            return Decision::Distrust;
        }
        let lower = self.lower.get_or_insert(Lower {
            since: now,
            peak: wanted,
        });
        lower.peak = lower.peak.max(wanted);
        let since = now.saturating_duration_since(lower.since);
        let left = bounds.cooldown.saturating_sub(since);
        if !left.is_zero() {
            return Decision::Wait(left);
        }
        let peak = lower.peak;
        self.lower = None;
        Decision::Lower(peak)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BOUNDS: Bounds = Bounds {
        min: 0,
        max: 20,
        max_step: 4,
        cooldown: Duration::from_secs(300),
    };

    /// Rounds of a minute: the need, whether it is trusted, and what is decided. Replicas follow each change.
    fn play(bounds: &Bounds, mut replicas: u32, rounds: &[(u64, bool, &str, u32)]) {
        let (mut history, begin) = (History::default(), Instant::now());
        for (minute, (need, is_trusted, word, after)) in rounds.iter().enumerate() {
            let now = begin + Duration::from_secs(60 * minute as u64);
            let need = Need {
                replicas: *need,
                is_trusted: *is_trusted,
            };
            let decision = history.decide(bounds, need, replicas, now);
            replicas = decision.target().unwrap_or(replicas);
            assert_eq!((decision.as_str(), replicas), (*word, *after), "minute {minute}");
        }
    }

    #[test]
    fn a_ramp_is_followed_by_bounded_steps_up_to_the_bound() {
        play(
            &BOUNDS,
            1,
            &[
                (2, true, "raise", 2),
                (100, true, "raise", 6),
                (100, true, "raise", 12),
                (100, true, "raise", 20),
                (100, true, "keep", 20),
            ],
        );
    }

    #[test]
    fn replicas_are_lowered_after_the_cooldown_to_the_highest_need_of_it() {
        play(
            &BOUNDS,
            10,
            &[
                (2, true, "wait", 10),
                (5, true, "wait", 10),
                (3, true, "wait", 10),
                (2, true, "wait", 10),
                (2, true, "wait", 10),
                (2, true, "lower", 5),
                // The next step down has a cool-down of its own.
                (2, true, "wait", 5),
            ],
        );
    }

    #[test]
    fn need_that_swings_raises_and_never_lowers() {
        let swing = [(3, true, "wait", 8), (8, true, "keep", 8)];
        play(&BOUNDS, 8, &swing.repeat(10));
    }

    #[test]
    fn figures_that_are_not_trusted_raise_but_do_not_lower_and_end_the_cooldown() {
        play(
            &BOUNDS,
            4,
            &[
                (0, true, "wait", 4),
                (0, true, "wait", 4),
                (0, true, "wait", 4),
                (0, false, "distrust", 4),
                (0, true, "wait", 4),
                (0, true, "wait", 4),
                (0, true, "wait", 4),
                (6, false, "raise", 6),
            ],
        );
    }

    #[test]
    fn a_service_goes_to_zero_and_back() {
        let idle = [(0, true, "wait", 1); 5];
        play(&BOUNDS, 1, &[&idle[..], &[(0, true, "lower", 0)]].concat());
        play(
            &BOUNDS,
            0,
            &[
                (0, true, "keep", 0),
                (0, false, "keep", 0),
                (1, false, "raise", 1),
            ],
        );
    }

    #[test]
    fn replicas_outside_the_bounds_are_brought_back() {
        let bounds = Bounds {
            min: 2,
            max: 5,
            cooldown: Duration::ZERO,
            ..BOUNDS
        };
        play(&bounds, 0, &[(0, true, "raise", 2), (0, true, "keep", 2)]);
        play(&bounds, 9, &[(9, true, "lower", 5)]);
    }
}
