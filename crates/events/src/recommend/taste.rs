//! What a user did, as how much the user likes each event.
//!
//! An action counts its weight, halved with each half-life since. Of the same action with the same event only the newest
//! counts, so reloading a page a hundred times says no more than opening it once. The sum over the actions is taken by its
//! root, sign kept: five times as much interest is not five times as much likeness. What sums up below zero is disliked; it
//! takes from what resembles it, and teaches the model nothing.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use ulid::Ulid;

use crate::interactions::{Action, UserInteraction};

/// How much one action says, when it is fresh.
const fn weight(action: Action) -> f32 {
    match action {
        Action::View => 1.0,
        Action::Save => 3.0,
        Action::Attend => 5.0,
        Action::Dismiss => -4.0,
    }
}

/// What is left of a weight after so many seconds; what lies ahead counts as now.
pub(crate) fn decay(age_seconds: f32, half_life: Duration) -> f32 {
    (-age_seconds.max(0.0) / half_life.as_secs_f32()).exp2()
}

/// A user as the ranking knows one: events with how much each is liked (below zero: disliked), and what not to recommend.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Taste {
    pub(crate) liked: Vec<(Ulid, f32)>,
    /// Saved, attended or dismissed: the user knows about them.
    pub(crate) settled: HashSet<Ulid>,
}

impl Taste {
    /// From weights of any origin.
    pub fn of(liked: &[(Ulid, f32)], settled: &[Ulid]) -> Self {
        Self {
            liked: liked.to_vec(),
            settled: settled.iter().copied().collect(),
        }
    }

    /// From what one user did, as seen at `now` (milliseconds since the epoch).
    pub fn from_actions(done: &[UserInteraction], now: i64, half_life: Duration) -> Self {
        let mut newest: HashMap<(Ulid, Action), i64> = HashMap::with_capacity(done.len());
        for UserInteraction { event, action, at } in done {
            let seen = newest.entry((*event, *action)).or_insert(i64::MIN);
            *seen = (*seen).max(at.timestamp_millis());
        }
        let mut sums: HashMap<Ulid, f32> = HashMap::with_capacity(newest.len());
        let mut settled = HashSet::new();
        for ((event, action), at) in newest {
            let age = (now - at) as f32 / 1_000.0;
            *sums.entry(event).or_insert(0.0) += weight(action) * decay(age, half_life);
            if action != Action::View {
                settled.insert(event);
            }
        }
        let mut liked: Vec<_> = sums
            .into_iter()
            .map(|(event, sum)| (event, sum.abs().sqrt().copysign(sum)))
            .collect();
        liked.sort_unstable_by_key(|(event, _)| *event);
        Self { liked, settled }
    }

    /// What a training learns from.
    pub fn likes(&self) -> impl Iterator<Item = (Ulid, f32)> {
        self.liked.iter().copied().filter(|(_, weight)| *weight > 0.0)
    }
}

#[cfg(test)]
mod tests {
    use chrono::DateTime;

    use super::*;

    const DAY: Duration = Duration::from_hours(24);
    const NOW: i64 = 1_900_000_000_000;

    fn done(event: u128, action: Action, days_ago: i64) -> UserInteraction {
        UserInteraction {
            event: Ulid(event),
            action,
            at: DateTime::from_timestamp_millis(NOW - days_ago * 86_400_000).unwrap(),
        }
    }

    #[test]
    fn an_action_counts_half_after_each_half_life_and_once() {
        let actions = [
            done(1, Action::Attend, 0),
            done(2, Action::Attend, 2),
            done(3, Action::View, 0),
            done(3, Action::View, 0),
            done(3, Action::View, 9),
            done(4, Action::View, 0),
            done(4, Action::Dismiss, 0),
            done(5, Action::Save, -3),
        ];
        let taste = Taste::from_actions(&actions, NOW, DAY);
        let expected = [5.0_f32, 1.25, 1.0, -3.0, 3.0];
        for ((event, liked), sum) in taste.liked.iter().zip(expected) {
            assert!((liked * liked.abs() - sum).abs() < 1e-4, "{event}: {liked}");
        }
        assert_eq!(taste.settled, [1, 2, 4, 5].map(Ulid).into());
        assert_eq!(taste.likes().count(), 4, "what is disliked teaches nothing");
    }
}
