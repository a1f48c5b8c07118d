//! How many jobs match, by state, queue or kind.
//!
//! A count walks as a search does, for as long as one call goes. A walk that comes to its end gives exact numbers. Of one that does not,
//! each number is what was found so far, raised to the whole table where its size is known. Jobs that have not ended and dead letters are
//! counted exactly in any case where all jobs are asked for: their partial indexes are counted for the list of queues too.

use std::collections::BTreeMap;

use crate::ledger::QueueStats;
use crate::state::State;

/// What jobs are counted by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CountBy {
    State,
    Queue,
    Kind,
}

impl CountBy {
    /// The value of a row.
    pub(super) const fn column(self) -> &'static str {
        match self {
            Self::State => {
                "case when state <> 'available' then state when run_at <= @now then 'available'
                      when attempt > 0 then 'retryable' else 'scheduled' end"
            }
            Self::Queue => "queue",
            Self::Kind => "kind",
        }
    }
}

/// How a number relates to the true one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Certainty {
    Exact,
    /// Estimated from a part of the jobs.
    Approximate,
    /// There may be more.
    AtLeast,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct GroupCount {
    pub value: String,
    pub count: u64,
    pub certainty: Certainty,
}

/// Most groups of an answer.
pub const MAX_GROUPS: usize = 200;

/// The counts of one call.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CountedJobs {
    /// The largest first.
    pub groups: Vec<GroupCount>,
    /// There are more than [`MAX_GROUPS`].
    pub is_cut: bool,
    pub searched: u64,
    pub of: Option<u64>,
    pub is_complete: bool,
}

impl CountedJobs {
    /// Of what a walk has found among `searched` rows of about `of`.
    pub(super) fn of_walk(
        found: BTreeMap<String, u64>,
        searched: u64,
        of: Option<u64>,
        is_complete: bool,
    ) -> Self {
        let group = |(value, count): (String, u64)| {
            let (count, certainty) = match of {
                _ if is_complete => (count, Certainty::Exact),
                Some(of) if searched > 0 => (scaled(count, of, searched), Certainty::Approximate),
                _ => (count, Certainty::AtLeast),
            };
            GroupCount {
                value,
                count,
                certainty,
            }
        };
        let mut counted = Self {
            groups: found.into_iter().map(group).collect(),
            is_cut: false,
            searched,
            of,
            is_complete,
        };
        counted.put_in_order();
        counted
    }

    fn put_in_order(&mut self) {
        self.groups
            .sort_by(|a, b| b.count.cmp(&a.count).then_with(|| a.value.cmp(&b.value)));
        self.is_cut = self.groups.len() > MAX_GROUPS;
        self.groups.truncate(MAX_GROUPS);
    }

    /// Takes the exact numbers of the states that queues are counted by, in place of what a part of the jobs told.
    pub(crate) fn with_queue_stats(mut self, queues: &[QueueStats]) -> Self {
        if self.is_complete {
            return self;
        }
        let sum = |count: fn(&QueueStats) -> u64| queues.iter().map(count).sum::<u64>();
        for (state, count) in [
            (State::Available, sum(|queue| queue.available)),
            (State::Scheduled, sum(|queue| queue.scheduled)),
            (State::Retryable, sum(|queue| queue.retryable)),
            (State::Running, sum(|queue| queue.running)),
            (State::Discarded, sum(|queue| queue.discarded)),
        ] {
            self.groups.retain(|group| group.value != state.as_str());
            if count > 0 {
                self.groups.push(GroupCount {
                    value: state.as_str().to_owned(),
                    count,
                    certainty: Certainty::Exact,
                });
            }
        }
        self.put_in_order();
        self
    }
}

/// `count` of `searched` rows, as a share of `of`.
fn scaled(count: u64, of: u64, searched: u64) -> u64 {
    let scaled = u128::from(count) * u128::from(of) / u128::from(searched.max(1));
    u64::try_from(scaled).unwrap_or(u64::MAX).max(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn groups(counted: &CountedJobs) -> Vec<(&str, u64, Certainty)> {
        counted
            .groups
            .iter()
            .map(|group| (&*group.value, group.count, group.certainty))
            .collect()
    }

    #[test]
    fn a_count_says_how_sure_it_is() {
        use Certainty::{Approximate, AtLeast, Exact};
        let found = || BTreeMap::from([("a".to_owned(), 5), ("b".to_owned(), 15)]);
        let counted = |of, is_complete| CountedJobs::of_walk(found(), 20, of, is_complete);
        assert_eq!(
            groups(&counted(Some(20), true)),
            [("b", 15, Exact), ("a", 5, Exact)]
        );
        assert_eq!(
            groups(&counted(Some(200), false)),
            [("b", 150, Approximate), ("a", 50, Approximate)]
        );
        assert_eq!(
            groups(&counted(None, false)),
            [("b", 15, AtLeast), ("a", 5, AtLeast)]
        );
    }

    #[test]
    fn states_that_queues_are_counted_by_are_exact() {
        let found = BTreeMap::from([("completed".to_owned(), 10), ("available".to_owned(), 10)]);
        let queue = QueueStats {
            available: 7,
            running: 1,
            ..QueueStats::default()
        };
        let counted = CountedJobs::of_walk(found, 20, Some(200), false).with_queue_stats(&[queue]);
        assert_eq!(
            groups(&counted),
            [
                ("completed", 100, Certainty::Approximate),
                ("available", 7, Certainty::Exact),
                ("running", 1, Certainty::Exact)
            ]
        );
    }
}
