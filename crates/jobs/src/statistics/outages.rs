//! When this process could not use Redis or the database.

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::mode::{DegradedReason, Mode};

use crate::id::WorkerId;

/// Ended outages that wait to be written. Of more, neighbours are merged.
const MAX_ENDED: usize = 64;

/// What a process depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Dependency {
    Redis,
    Database,
}

impl Dependency {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Redis => "redis",
            Self::Database => "database",
        }
    }

    pub(super) fn of_word(word: &str) -> Option<Self> {
        [Self::Redis, Self::Database]
            .into_iter()
            .find(|dependency| dependency.as_str() == word)
    }
}

/// One outage, as it is written. Times are the host's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Outage {
    pub id: String,
    pub dependency: Dependency,
    pub reason: DegradedReason,
    pub started_at: DateTime<Utc>,
    /// `None`: it goes on.
    pub ended_at: Option<DateTime<Utc>>,
}

/// The outages of this process that are not written yet, and those that go on.
#[derive(Debug, Default)]
pub(super) struct OutageLog {
    open: Vec<Outage>,
    ended: Vec<Outage>,
}

impl OutageLog {
    /// A dependency is in this mode at this time.
    pub(super) fn observe(&mut self, dependency: Dependency, mode: Mode, now: DateTime<Utc>) {
        let place = self.open.iter().position(|open| open.dependency == dependency);
        match (mode, place) {
            // A process that has just started has no verdict.
            (Mode::Degraded { since, reason }, None) if reason != DegradedReason::Connecting => {
                self.open.push(Outage {
                    id: WorkerId::generate().to_string(),
                    dependency,
                    reason,
                    started_at: since,
                    ended_at: None,
                });
            }
            (Mode::Normal | Mode::Absent, Some(place)) => {
                let mut outage = self.open.remove(place);
                outage.ended_at = Some(now.max(outage.started_at));
                self.ended.push(outage);
                if self.ended.len() > MAX_ENDED {
                    self.merge_oldest(dependency);
                }
            }
            _ => {}
        }
    }

    /// Makes one of the two oldest that were ended: from the first one's start to the second one's end.
    fn merge_oldest(&mut self, dependency: Dependency) {
        let mut same = (0..self.ended.len()).filter(|place| self.ended[*place].dependency == dependency);
        if let (Some(first), Some(second)) = (same.next(), same.next()) {
            let second = self.ended.remove(second);
            self.ended[first].ended_at = second.ended_at;
        }
    }

    /// All that is to be written: an outage that goes on is written again, to say so.
    pub(super) fn rows(&self) -> Vec<Outage> {
        self.ended.iter().chain(&self.open).cloned().collect()
    }

    /// These are stored.
    pub(super) fn stored(&mut self, rows: &[Outage]) {
        self.ended.retain(|outage| !rows.contains(outage));
    }
}

/// A span of time in which at least one process could not use a dependency.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OutageSpan {
    pub dependency: Dependency,
    pub reason: String,
    pub from: DateTime<Utc>,
    /// `None`: it goes on.
    pub to: Option<DateTime<Utc>>,
    /// How many processes had it.
    pub processes: usize,
}

/// An outage as it is stored.
#[derive(Debug, Clone)]
pub(super) struct StoredOutage {
    pub process: String,
    pub dependency: Dependency,
    pub reason: String,
    pub started_at: DateTime<Utc>,
    pub ended_at: Option<DateTime<Utc>>,
}

/// Outages of several processes that touch are one span.
pub(super) fn spans(mut outages: Vec<StoredOutage>) -> Vec<OutageSpan> {
    /// Processes notice an outage and its end within a probe's period of each other.
    const GAP: TimeDelta = TimeDelta::seconds(2);
    outages.sort_by_key(|outage| (outage.dependency, outage.started_at));
    let mut spans: Vec<(OutageSpan, Vec<String>)> = Vec::new();
    for outage in outages {
        let last = spans.last_mut().filter(|(span, _)| {
            let touches = span.to.is_none_or(|to| outage.started_at <= to + GAP);
            span.dependency == outage.dependency && touches
        });
        if let Some((span, processes)) = last {
            span.to = span.to.zip(outage.ended_at).map(|(one, other)| one.max(other));
            if !processes.contains(&outage.process) {
                processes.push(outage.process);
            }
            span.processes = processes.len();
        } else {
            let span = OutageSpan {
                dependency: outage.dependency,
                reason: outage.reason,
                from: outage.started_at,
                to: outage.ended_at,
                processes: 1,
            };
            spans.push((span, vec![outage.process]));
        }
    }
    let mut spans: Vec<OutageSpan> = spans.into_iter().map(|(span, _)| span).collect();
    spans.sort_by_key(|span| span.from);
    spans
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> DateTime<Utc> {
        DateTime::from_timestamp(seconds, 0).unwrap()
    }

    fn degraded(since: i64, reason: DegradedReason) -> Mode {
        Mode::Degraded {
            since: at(since),
            reason,
        }
    }

    #[test]
    fn an_outage_is_written_while_it_goes_on_and_once_more_when_it_has_ended() {
        let mut log = OutageLog::default();
        log.observe(Dependency::Redis, degraded(1, DegradedReason::Connecting), at(1));
        assert!(log.rows().is_empty(), "there is no verdict yet");
        log.observe(Dependency::Redis, degraded(1, DegradedReason::Refused), at(2));
        log.observe(Dependency::Redis, degraded(1, DegradedReason::TimedOut), at(3));
        let rows = log.rows();
        assert_eq!(
            (rows.len(), rows[0].started_at, rows[0].ended_at),
            (1, at(1), None)
        );
        log.stored(&rows);
        assert_eq!(log.rows(), rows, "it goes on");
        log.observe(Dependency::Redis, Mode::Normal, at(9));
        let rows = log.rows();
        assert_eq!(rows[0].ended_at, Some(at(9)));
        log.stored(&rows);
        assert!(log.rows().is_empty());
    }

    #[test]
    fn outages_that_cannot_be_written_are_bounded_and_stay_covered() {
        let mut log = OutageLog::default();
        for n in 0..1_000 {
            log.observe(
                Dependency::Database,
                degraded(n * 10, DegradedReason::Refused),
                at(n * 10),
            );
            log.observe(Dependency::Database, Mode::Normal, at(n * 10 + 5));
        }
        let rows = log.rows();
        assert_eq!(rows.len(), MAX_ENDED);
        let first = rows.iter().map(|row| row.started_at).min();
        let last = rows.iter().filter_map(|row| row.ended_at).max();
        assert_eq!((first, last), (Some(at(0)), Some(at(9_995))));
    }

    #[test]
    fn outages_of_several_processes_are_one_span() {
        let stored = |process: &str, dependency, from, to: Option<i64>| StoredOutage {
            process: process.to_owned(),
            dependency,
            reason: "refused".to_owned(),
            started_at: at(from),
            ended_at: to.map(at),
        };
        let found = spans(vec![
            stored("b", Dependency::Redis, 11, Some(20)),
            stored("a", Dependency::Redis, 10, Some(19)),
            stored("a", Dependency::Redis, 100, None),
            stored("a", Dependency::Database, 12, Some(13)),
        ]);
        let told: Vec<_> = found
            .iter()
            .map(|span| (span.dependency, span.from, span.to, span.processes))
            .collect();
        assert_eq!(
            told,
            [
                (Dependency::Redis, at(10), Some(at(20)), 2),
                (Dependency::Database, at(12), Some(at(13)), 1),
                (Dependency::Redis, at(100), None, 1),
            ]
        );
    }
}
