//! Checks: what `holdfast redis-check` and `holdfast validate` are made of.
//!
//! A check is one function in a table ([`Check`]): it has a name, a deadline of its own, and the names of those that it
//! builds upon. A [`Run`] takes the tables one after the other and keeps what each check found.
//!
//! # Invariants
//! - Every check ends within its deadline, whatever hangs. The next one is not touched by that.
//! - One fault is told once: a check that builds upon one that failed, or was skipped itself, is skipped and says so.
//! - Nothing is changed but keys of our own, which expire, and probe jobs, which end. No finding holds a secret.
//! - Checks run one at a time: half of them measure.

pub(crate) mod api;
pub(crate) mod configuration;
pub(crate) mod database;
pub(crate) mod drill;
pub(crate) mod files;
pub(crate) mod ledger;
pub(crate) mod redis;
pub mod report;
pub(crate) mod system;
pub(crate) mod timing;

use std::time::{Duration, Instant};

use futures::future::LocalBoxFuture;
use serde::Serialize;
use serde_json::{Map, Value};
use tokio::time::timeout;

/// How a check came out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    Pass,
    /// It was not checked; the summary says why.
    Skipped,
    Warn,
    Fail,
}

/// What one check found.
#[derive(Debug, Clone)]
pub(crate) struct Finding {
    verdict: Verdict,
    summary: String,
    hint: Option<String>,
    numbers: Map<String, Value>,
}

impl Finding {
    pub(crate) fn pass(summary: impl Into<String>) -> Self {
        Self::new(Verdict::Pass, summary, None)
    }

    /// It works, and will cost something: `hint` says what to do.
    pub(crate) fn warn(summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Verdict::Warn, summary, Some(hint.into()))
    }

    /// It does not work: `hint` says what to do.
    pub(crate) fn fail(summary: impl Into<String>, hint: impl Into<String>) -> Self {
        Self::new(Verdict::Fail, summary, Some(hint.into()))
    }

    pub(crate) fn skipped(why: impl Into<String>) -> Self {
        Self::new(Verdict::Skipped, why, None)
    }

    pub(crate) fn summary(&self) -> &str {
        &self.summary
    }

    /// A measured value, for the machine-readable forms.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.numbers.insert(name.to_owned(), value.into());
        self
    }

    fn new(verdict: Verdict, summary: impl Into<String>, hint: Option<String>) -> Self {
        Self {
            verdict,
            summary: summary.into(),
            hint,
            numbers: Map::new(),
        }
    }
}

/// `?` inside a check ends it with the finding in hand.
pub(crate) type CheckResult<T> = Result<T, Finding>;

/// Both arms of a check that uses `?`.
pub(crate) fn either(result: CheckResult<Finding>) -> Finding {
    result.unwrap_or_else(|finding| finding)
}

/// One line of a table of checks over subjects of type `S`.
pub(crate) struct Check<S> {
    /// Within its group.
    pub(crate) name: &'static str,
    /// Checks that must not have failed: `name` of the same group, or `group.name`.
    pub(crate) needs: &'static [&'static str],
    pub(crate) deadline: Duration,
    pub(crate) run: for<'a> fn(&'a S) -> LocalBoxFuture<'a, Finding>,
}

/// A line of a table: `check!("login", needs ["connect"], within 10, login)`.
macro_rules! check {
    ($name:literal, needs [$($need:literal),*], within $seconds:literal, $run:path) => {
        $crate::checks::Check {
            name: $name,
            needs: &[$($need),*],
            deadline: std::time::Duration::from_secs($seconds),
            run: |subject| Box::pin($run(subject)),
        }
    };
}
pub(crate) use check;

/// A finding with its place and its time.
#[derive(Debug, Clone, Serialize)]
pub struct Outcome {
    pub group: &'static str,
    pub name: String,
    pub verdict: Verdict,
    pub summary: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Milliseconds.
    pub elapsed_ms: f64,
    #[serde(skip_serializing_if = "Map::is_empty")]
    pub numbers: Map<String, Value>,
}

impl Outcome {
    /// `group.name`.
    pub fn full_name(&self) -> String {
        format!("{}.{}", self.group, self.name)
    }
}

/// Runs checks and keeps their outcomes.
pub struct Run {
    outcomes: Vec<Outcome>,
    on_outcome: Box<dyn Fn(&Outcome)>,
}

impl std::fmt::Debug for Run {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Run")
            .field("outcomes", &self.outcomes)
            .finish_non_exhaustive()
    }
}

impl Run {
    /// `on_outcome` is called as each check ends.
    pub fn new(on_outcome: impl Fn(&Outcome) + 'static) -> Self {
        Self {
            outcomes: Vec::new(),
            on_outcome: Box::new(on_outcome),
        }
    }

    pub fn outcomes(&self) -> &[Outcome] {
        &self.outcomes
    }

    pub(crate) fn into_outcomes(self) -> Vec<Outcome> {
        self.outcomes
    }

    /// Runs a table over one subject.
    pub(crate) async fn all<S>(&mut self, group: &'static str, subject: &S, checks: &[Check<S>]) {
        for check in checks {
            let started = Instant::now();
            let finding = match self.unmet(group, check.needs) {
                Some(why) => Finding::skipped(why),
                None => timeout(check.deadline, (check.run)(subject))
                    .await
                    .unwrap_or_else(|_| overdue(check.deadline)),
            };
            self.keep(group, check.name, finding, started.elapsed());
        }
    }

    /// A whole table that cannot be run.
    pub(crate) fn skip<S>(&mut self, group: &'static str, checks: &[Check<S>], why: &str) {
        for check in checks {
            self.keep(group, check.name, Finding::skipped(why), Duration::ZERO);
        }
    }

    fn keep(&mut self, group: &'static str, name: &str, finding: Finding, elapsed: Duration) {
        let outcome = Outcome {
            group,
            name: name.to_owned(),
            verdict: finding.verdict,
            summary: finding.summary,
            hint: finding.hint,
            elapsed_ms: timing::millis(elapsed),
            numbers: finding.numbers,
        };
        (self.on_outcome)(&outcome);
        self.outcomes.push(outcome);
    }

    /// Why a check with these needs is not run, if it is not. A need that nobody has looked at is no obstacle.
    fn unmet(&self, group: &str, needs: &[&str]) -> Option<String> {
        needs.iter().find_map(|need| {
            let full = if need.contains('.') {
                (*need).to_owned()
            } else {
                format!("{group}.{need}")
            };
            let met = |outcome: &&Outcome| outcome.full_name() == full;
            match self.outcomes.iter().find(met)?.verdict {
                Verdict::Fail => Some(format!("{full} failed")),
                Verdict::Skipped => Some(format!("{full} was skipped")),
                Verdict::Pass | Verdict::Warn => None,
            }
        })
    }
}

fn overdue(deadline: Duration) -> Finding {
    Finding::fail(
        format!("no result within {} s", deadline.as_secs()),
        "The server or the network to it hangs: see the server's log and load, and the network.",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Subject;

    async fn passes(_: &Subject) -> Finding {
        Finding::pass("fine")
    }

    async fn fails(_: &Subject) -> Finding {
        Finding::fail("broken", "mend it")
    }

    async fn hangs(_: &Subject) -> Finding {
        std::future::pending().await
    }

    const TABLE: &[Check<Subject>] = &[
        check!("first", needs [], within 5, fails),
        check!("second", needs ["first"], within 5, passes),
        check!("third", needs ["second"], within 5, passes),
        check!("fourth", needs ["other.unknown"], within 5, passes),
        check!("fifth", needs [], within 3600, hangs),
        check!("sixth", needs [], within 5, passes),
    ];

    #[tokio::test(start_paused = true)]
    async fn a_fault_is_told_once_and_a_hang_ends() {
        let mut run = Run::new(|_| ());
        run.all("table", &Subject, TABLE).await;
        let verdicts: Vec<_> = run.outcomes().iter().map(|outcome| outcome.verdict).collect();
        assert_eq!(
            verdicts,
            [
                Verdict::Fail,
                Verdict::Skipped,
                Verdict::Skipped,
                Verdict::Pass,
                Verdict::Fail,
                Verdict::Pass
            ]
        );
        assert_eq!(run.outcomes()[1].summary, "table.first failed");
        assert_eq!(run.outcomes()[2].summary, "table.second was skipped");
        assert_eq!(run.outcomes()[4].summary, "no result within 3600 s");
    }
}
