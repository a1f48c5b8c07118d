//! Counts on their way into the database: totals of this process by minute.
//!
//! The minute that goes on is written again with every flush, as the total so far: a write whose answer was lost is repeated without
//! counting twice. While the database is unavailable minutes gather here; when they become too many, the oldest are merged.

use std::collections::BTreeMap;

use super::counters::{Counts, CountsByKind};

/// Rows that wait at most: a minute of every pair 16 times over, or seven hours of ten pairs.
const MAX_ROWS: usize = 4_096;

type Pair = (Box<str>, Box<str>);

#[derive(Debug, Clone, Copy)]
struct Total {
    counts: Counts,
    /// It differs from what was written last.
    is_new: bool,
    /// It was sent, so the database may hold it.
    is_sent: bool,
}

/// A total of this process, as it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Row {
    /// Since the epoch.
    pub minute: i64,
    pub queue: Box<str>,
    pub kind: Box<str>,
    pub counts: Counts,
}

#[derive(Debug, Default)]
pub(super) struct Pending {
    minutes: BTreeMap<i64, BTreeMap<Pair, Total>>,
}

impl Pending {
    pub(super) fn add(&mut self, minute: i64, taken: Vec<CountsByKind>) {
        for CountsByKind { queue, kind, counts } in taken {
            self.add_one(minute, (queue, kind), &counts);
        }
        while self.len() > MAX_ROWS && self.merge_oldest() {}
    }

    fn add_one(&mut self, minute: i64, pair: Pair, counts: &Counts) {
        let totals = self.minutes.entry(minute).or_default();
        let total = totals.entry(pair).or_insert(Total {
            counts: Counts::default(),
            is_new: true,
            is_sent: false,
        });
        total.counts.add(counts);
        total.is_new = true;
    }

    fn len(&self) -> usize {
        self.minutes.values().map(BTreeMap::len).sum()
    }

    /// Counts the oldest minute with the next one; whether there was something to merge. What was sent stays: it cannot be moved
    /// without counting it twice.
    fn merge_oldest(&mut self) -> bool {
        let movable = |totals: &BTreeMap<Pair, Total>| totals.values().any(|total| !total.is_sent);
        let mut movable = self
            .minutes
            .iter()
            .filter(|(_, totals)| movable(totals))
            .map(|(minute, _)| *minute);
        let (Some(oldest), Some(next)) = (movable.next(), movable.next()) else {
            return false;
        };
        let totals = self.minutes.remove(&oldest).unwrap_or_default();
        let (sent, unsent): (BTreeMap<_, _>, BTreeMap<_, _>) =
            totals.into_iter().partition(|(_, total)| total.is_sent);
        if !sent.is_empty() {
            self.minutes.insert(oldest, sent);
        }
        for (pair, total) in unsent {
            self.add_one(next, pair, &total.counts);
        }
        true
    }

    /// Up to `most` rows that are to be written, the oldest first. They count as sent from now on.
    pub(super) fn send(&mut self, most: usize) -> Vec<Row> {
        let totals = self
            .minutes
            .iter_mut()
            .flat_map(|(minute, totals)| totals.iter_mut().map(|(pair, total)| (*minute, pair, total)));
        totals
            .filter(|(_, _, total)| total.is_new)
            .take(most)
            .map(|(minute, (queue, kind), total)| {
                total.is_sent = true;
                Row {
                    minute,
                    queue: queue.clone(),
                    kind: kind.clone(),
                    counts: total.counts,
                }
            })
            .collect()
    }

    /// These rows are stored. What is complete is forgotten: all of it before the minute that goes on.
    pub(super) fn stored(&mut self, rows: &[Row], current: i64) {
        for row in rows {
            let totals = self.minutes.get_mut(&row.minute);
            // The pair is cloned rather than borrowed: a map of pairs is not asked by a pair of borrows.
            let pair = (row.queue.clone(), row.kind.clone());
            if let Some(total) = totals.and_then(|totals| totals.get_mut(&pair)) {
                total.is_new = false;
            }
        }
        self.minutes.retain(|minute, totals| {
            totals.retain(|_, total| total.is_new || *minute >= current);
            !totals.is_empty()
        });
    }

    pub(super) fn has_new(&self) -> bool {
        let mut totals = self.minutes.values().flat_map(BTreeMap::values);
        totals.any(|total| total.is_new)
    }

    /// Forgets what may have been written under a name that is given up.
    pub(super) fn forget_sent(&mut self) {
        self.minutes.retain(|_, totals| {
            totals.retain(|_, total| !total.is_sent);
            !totals.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(kind: &str, completed: u64) -> Vec<CountsByKind> {
        let counts = Counts {
            completed,
            ..Counts::default()
        };
        vec![CountsByKind {
            queue: "default".into(),
            kind: kind.into(),
            counts,
        }]
    }

    fn sum(pending: &mut Pending) -> u64 {
        pending
            .send(usize::MAX)
            .iter()
            .map(|row| row.counts.completed)
            .sum()
    }

    #[test]
    fn a_minute_is_written_as_its_total_until_it_is_over() {
        let mut pending = Pending::default();
        pending.add(7, taken("a", 2));
        let first = pending.send(10);
        assert_eq!(first[0].counts.completed, 2);
        // No answer: it is sent again, with what came since.
        pending.add(7, taken("a", 3));
        let again = pending.send(10);
        assert_eq!(again[0].counts.completed, 5);
        pending.stored(&again, 7);
        assert!(!pending.has_new());
        pending.add(7, taken("a", 1));
        let last = pending.send(10);
        assert_eq!(last[0].counts.completed, 6);
        pending.stored(&last, 8);
        assert!(pending.minutes.is_empty());
    }

    #[test]
    fn minutes_without_a_database_are_merged_and_none_is_lost_or_counted_twice() {
        let mut pending = Pending::default();
        for minute in 0..3 * MAX_ROWS as i64 {
            pending.add(minute, taken("a", 1));
            if minute == 0 {
                assert_eq!(pending.send(1).len(), 1, "sent, and never answered");
            }
        }
        assert!(pending.len() <= MAX_ROWS);
        assert_eq!(
            pending.minutes.first_key_value().map(|(minute, _)| *minute),
            Some(0)
        );
        assert_eq!(sum(&mut pending), 3 * MAX_ROWS as u64);
    }
}
