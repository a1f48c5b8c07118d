//! When a fault began and ended, and when the processes noticed.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};

use crate::health::HealthSample;
use crate::logs::{self, LogLine};

/// What a fault takes away.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dependency {
    Redis,
    Sql,
}

/// A span in which a dependency is away.
#[derive(Debug, Clone)]
pub struct Fault {
    pub what: String,
    pub dependency: Dependency,
    pub began: Instant,
    pub ended: Option<Instant>,
    began_at: DateTime<Utc>,
    ended_at: Option<DateTime<Utc>>,
    /// When the next fault began: what is seen from there on is about that one.
    next: Option<(Instant, DateTime<Utc>)>,
}

impl Fault {
    pub(crate) fn begin(what: &str, dependency: Dependency) -> Self {
        Self {
            what: what.to_owned(),
            dependency,
            began: Instant::now(),
            ended: None,
            began_at: logs::now(),
            ended_at: None,
            next: None,
        }
    }

    /// The next fault begins now.
    pub(crate) fn passes_into_the_next(&mut self) {
        self.next = Some((Instant::now(), logs::now()));
    }

    pub(crate) fn end(&mut self) {
        self.ended = Some(Instant::now());
        self.ended_at = Some(logs::now());
    }

    /// Whether the time up to the next fault has something in common with `from..to`.
    pub(crate) fn overlaps(&self, from: Instant, to: Option<Instant>) -> bool {
        self.next.is_none_or(|(next, _)| from < next) && to.is_none_or(|to| to > self.began)
    }

    /// From the beginning until this process' breaker opened, by its log.
    pub fn noticed_by(&self, log: &[LogLine]) -> Option<Duration> {
        self.first_after(log, self.began_at, &["Redis is unavailable"])
    }

    /// From the end until this process was back in normal mode, by its log; zero if it never left it.
    pub fn recovered_by(&self, log: &[LogLine]) -> Option<Duration> {
        let ended = self.ended_at?;
        self.first_after(log, ended, &["Redis has recovered", "Redis is connected"])
            .or_else(|| self.noticed_by(log).is_none().then_some(Duration::ZERO))
    }

    /// From the beginning until `/health` was no longer healthy.
    pub fn seen_in(&self, samples: &[HealthSample]) -> Option<Duration> {
        self.first_sample(samples, self.began, |sample| {
            sample.http_status.is_some() && !sample.is_healthy()
        })
    }

    /// From the end until `/health` was healthy again; zero if it never was otherwise.
    pub fn healed_in(&self, samples: &[HealthSample]) -> Option<Duration> {
        self.first_sample(samples, self.ended?, HealthSample::is_healthy)
    }

    fn first_sample(
        &self,
        samples: &[HealthSample],
        from: Instant,
        wanted: impl Fn(&HealthSample) -> bool,
    ) -> Option<Duration> {
        let is_ours =
            |sample: &&HealthSample| sample.at >= from && self.next.is_none_or(|(next, _)| sample.at < next);
        let sample = samples.iter().filter(is_ours).find(|sample| wanted(sample))?;
        Some(sample.at - from)
    }

    fn first_after(&self, log: &[LogLine], moment: DateTime<Utc>, messages: &[&str]) -> Option<Duration> {
        let is_ours = |line: &&LogLine| line.at >= moment && self.next.is_none_or(|(_, next)| line.at < next);
        let wanted = |line: &&LogLine| messages.iter().any(|text| line.message.starts_with(text));
        let line = log.iter().filter(is_ours).find(wanted)?;
        (line.at - moment).to_std().ok()
    }
}
