//! From readings to notices: each episode of a rule is told once when it begins, again as a reminder while it lasts,
//! and once when it is over.
//!
//! idle → pending (the condition holds) → firing (it has held for `for`) → clearing (it is gone) → idle (gone for
//! `recover`). A condition that comes back while clearing is the same episode, so one that flaps is one alert.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use serde::Serialize;

use super::history::History;
use super::rules::{Reading, Rule, Severity};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum NoticeKind {
    Alert,
    Reminder,
    Recovery,
}

/// What is told. One episode keeps its id.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Notice {
    #[serde(rename = "type")]
    pub(super) kind: NoticeKind,
    pub(super) id: String,
    pub(super) rule: String,
    pub(super) severity: Severity,
    pub(super) condition: String,
    pub(super) value: f64,
    /// The first sample for which the condition held.
    pub(super) since: DateTime<Utc>,
    /// Of a recovery: the first sample for which it did not any more.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) until: Option<DateTime<Utc>>,
    pub(super) at: DateTime<Utc>,
    pub(super) target: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) reason: Option<String>,
}

impl Notice {
    /// One line for people.
    pub(super) fn summary(&self) -> String {
        let Self {
            rule,
            condition,
            value,
            since,
            until,
            ..
        } = self;
        let since_text = since.format("%H:%M:%S");
        let reason = self
            .reason
            .as_ref()
            .map(|reason| format!(" ({reason})"))
            .unwrap_or_default();
        match (self.kind, until) {
            (NoticeKind::Recovery, Some(until)) => {
                let seconds = (*until - *since).as_seconds_f64();
                format!("over: {rule}, after {seconds:.0} s ({condition}; now {value})")
            }
            (NoticeKind::Reminder, _) => {
                format!("still: {rule}, since {since_text}{reason} ({condition}; now {value})")
            }
            _ => format!("{rule}, since {since_text}{reason} ({condition}; now {value})"),
        }
    }
}

#[derive(Debug, Clone, Copy)]
enum Stage {
    Idle,
    Pending {
        since: DateTime<Utc>,
    },
    Firing {
        since: DateTime<Utc>,
        told: DateTime<Utc>,
    },
    Clearing {
        since: DateTime<Utc>,
        told: DateTime<Utc>,
        cleared: DateTime<Utc>,
    },
}

#[derive(Debug)]
struct RuleWatch {
    rule: Rule,
    stage: Stage,
    /// Of the episode that fires.
    id: String,
}

/// The rules and how each of them stands.
#[derive(Debug)]
pub(super) struct AlertBook {
    watched: Vec<RuleWatch>,
    target: String,
    /// Between reminders of one episode.
    repeat: Duration,
}

impl AlertBook {
    pub(super) fn new(rules: Vec<Rule>, target: String, repeat: Duration) -> Self {
        let watch = |rule| RuleWatch {
            rule,
            stage: Stage::Idle,
            id: String::new(),
        };
        Self {
            watched: rules.into_iter().map(watch).collect(),
            target,
            repeat,
        }
    }

    /// What is to be told after the last sample.
    pub(super) fn look(&mut self, history: &History) -> Vec<Notice> {
        let Some(last) = history.last() else {
            return Vec::new();
        };
        let (target, repeat) = (&self.target, self.repeat);
        let step = |watched: &mut RuleWatch| {
            let reading = watched.rule.read(history);
            let mut notice = watched.step(reading, last.at, repeat)?;
            notice.target.clone_from(target);
            notice.reason.clone_from(&last.reason);
            Some(notice)
        };
        self.watched.iter_mut().filter_map(step).collect()
    }

    /// The rules that fire now, and since when.
    pub(super) fn firing(&self) -> impl Iterator<Item = (&Rule, DateTime<Utc>)> {
        self.watched.iter().filter_map(|watched| match watched.stage {
            Stage::Firing { since, .. } | Stage::Clearing { since, .. } => Some((&watched.rule, since)),
            Stage::Idle | Stage::Pending { .. } => None,
        })
    }
}

impl RuleWatch {
    fn step(&mut self, reading: Reading, at: DateTime<Utc>, repeat: Duration) -> Option<Notice> {
        let (holds, value) = match reading {
            Reading::Unknown => return None,
            Reading::Holds(value) => (true, value),
            Reading::Clear(value) => (false, value),
        };
        let (stage, told) = self.next(holds, at, repeat);
        self.stage = stage;
        let (kind, since, until) = told?;
        if kind == NoticeKind::Alert {
            self.id = ulid::Ulid::generate().to_string();
        }
        Some(Notice {
            kind,
            id: self.id.clone(),
            rule: self.rule.name.clone(),
            severity: self.rule.severity,
            condition: self.rule.condition(),
            value,
            since,
            until,
            at,
            target: String::new(),
            reason: None,
        })
    }

    /// The next stage, and what is told of it: what, since when, until when.
    fn next(&self, holds: bool, at: DateTime<Utc>, repeat: Duration) -> (Stage, Option<NoticeKey>) {
        let lasted = |since: DateTime<Utc>, least: Duration| {
            at - since >= TimeDelta::from_std(least).unwrap_or(TimeDelta::MAX)
        };
        let begin = |since| {
            if lasted(since, self.rule.hold) {
                (
                    Stage::Firing { since, told: at },
                    Some((NoticeKind::Alert, since, None)),
                )
            } else {
                (Stage::Pending { since }, None)
            }
        };
        let end = |since, told, cleared| {
            if lasted(cleared, self.rule.recover) {
                (Stage::Idle, Some((NoticeKind::Recovery, since, Some(cleared))))
            } else {
                (Stage::Clearing { since, told, cleared }, None)
            }
        };
        match (self.stage, holds) {
            (Stage::Idle | Stage::Pending { .. }, false) => (Stage::Idle, None),
            (Stage::Idle, true) => begin(at),
            (Stage::Pending { since }, true) => begin(since),
            (Stage::Firing { since, told } | Stage::Clearing { since, told, .. }, true) => {
                if lasted(told, repeat) {
                    return (
                        Stage::Firing { since, told: at },
                        Some((NoticeKind::Reminder, since, None)),
                    );
                }
                (Stage::Firing { since, told }, None)
            }
            (Stage::Firing { since, told }, false) => end(since, told, at),
            (Stage::Clearing { since, told, cleared }, false) => end(since, told, cleared),
        }
    }
}

type NoticeKey = (NoticeKind, DateTime<Utc>, Option<DateTime<Utc>>);

#[cfg(test)]
mod tests {
    use holdfast_core::clock;

    use super::super::rules::parse;
    use super::super::sample::{Sample, TargetState};
    use super::*;

    const RULE: &str =
        "[[rule]]\nname = \"r\"\nmetric = \"depth\"\nabove = 10\nfor = \"3s\"\nrecover = \"3s\"\n";

    /// Depths, one a second; what was told at which second.
    fn told(depths: &[Option<u64>]) -> Vec<(usize, NoticeKind)> {
        let start = clock::now();
        let mut history = History::default();
        let mut book = AlertBook::new(parse(RULE).unwrap(), "t".to_owned(), Duration::from_secs(10));
        let mut told = Vec::new();
        for (second, depth) in depths.iter().enumerate() {
            let mut sample = Sample::down(start + TimeDelta::seconds(second as i64), String::new());
            if let Some(depth) = depth {
                sample.standing = TargetState::Healthy;
                sample.depth = [("q".to_owned(), *depth)].into();
            }
            history.push(sample);
            told.extend(
                book.look(&history)
                    .into_iter()
                    .map(|notice| (second, notice.kind)),
            );
        }
        told
    }

    fn line(parts: &[(usize, Option<u64>)]) -> Vec<Option<u64>> {
        parts
            .iter()
            .flat_map(|(seconds, depth)| std::iter::repeat_n(*depth, *seconds))
            .collect()
    }

    #[test]
    fn an_episode_is_told_once_and_its_end_once() {
        let depths = line(&[(2, Some(0)), (6, Some(20)), (6, Some(0))]);
        assert_eq!(
            told(&depths),
            [(5, NoticeKind::Alert), (11, NoticeKind::Recovery)]
        );
    }

    #[test]
    fn a_short_peak_is_not_told_and_a_flapping_one_is_one_alert() {
        assert_eq!(told(&line(&[(2, Some(0)), (2, Some(20)), (6, Some(0))])), []);
        let flaps = line(&[
            (5, Some(20)),
            (1, Some(0)),
            (1, Some(20)),
            (2, Some(0)),
            (2, Some(20)),
            (5, Some(0)),
        ]);
        assert_eq!(told(&flaps), [(3, NoticeKind::Alert), (14, NoticeKind::Recovery)]);
    }

    #[test]
    fn a_long_one_is_reminded_of_and_an_unknown_value_changes_nothing() {
        let depths = line(&[(16, Some(20)), (9, None), (4, Some(0))]);
        assert_eq!(
            told(&depths),
            [
                (3, NoticeKind::Alert),
                (13, NoticeKind::Reminder),
                (28, NoticeKind::Recovery)
            ]
        );
    }
}
