//! What is shown of a run of checks: lines for people, a JSON document, a JUnit file.

use std::fmt::Write as _;

use holdfast_core::clock;
use serde::Serialize;

use super::{Outcome, Verdict};

/// Checks without which no job runs: if one of them failed, the score is 0.
const ESSENTIAL: [&str; 5] = [
    "configuration.settings",
    "database.connect",
    "database.schema",
    "api.reach",
    "workers.alive",
];

/// The highest score of a run in which a check failed.
const MOST_WITH_A_FAULT: u32 = 50;

/// The form of a rendered report.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    Text,
    Json,
    Junit,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
struct Counts {
    passed: usize,
    warned: usize,
    failed: usize,
    skipped: usize,
}

/// A finished run.
#[derive(Debug, Serialize)]
pub struct Report<'a> {
    /// The gravest verdict; `pass` if nothing was checked.
    pub status: Verdict,
    /// 0 to 100: what passed of what was checked; a warning counts half. At most 50 if a check failed, and 0 if no job can run.
    pub score: u32,
    counts: Counts,
    version: &'static str,
    at: chrono::DateTime<chrono::Utc>,
    checks: &'a [Outcome],
}

impl<'a> Report<'a> {
    pub fn of(checks: &'a [Outcome]) -> Self {
        let count = |verdict| checks.iter().filter(|check| check.verdict == verdict).count();
        let counts = Counts {
            passed: count(Verdict::Pass),
            warned: count(Verdict::Warn),
            failed: count(Verdict::Fail),
            skipped: count(Verdict::Skipped),
        };
        let status = match counts {
            Counts { failed: 1.., .. } => Verdict::Fail,
            Counts { warned: 1.., .. } => Verdict::Warn,
            _ => Verdict::Pass,
        };
        Self {
            status,
            score: score(counts, checks),
            counts,
            version: env!("CARGO_PKG_VERSION"),
            at: clock::now(),
            checks,
        }
    }

    /// The whole run. The text form is the closing line alone: each check's [`line`](fn@line) is printed as the check ends.
    pub fn render(&self, form: Form) -> serde_json::Result<String> {
        Ok(match form {
            Form::Text => self.closing_line(),
            Form::Json => serde_json::to_string_pretty(self)? + "\n",
            Form::Junit => self.junit(),
        })
    }

    /// The exit code: 0, 1 (something failed), 2 (something is to be looked at, and that is not allowed).
    pub fn exit_code(&self, strict: bool) -> u8 {
        match self.status {
            Verdict::Fail => 1,
            Verdict::Warn if strict => 2,
            _ => 0,
        }
    }

    fn closing_line(&self) -> String {
        let Counts {
            passed,
            warned,
            failed,
            skipped,
        } = self.counts;
        let score = self.score;
        format!(
            "\n{passed} passed, {warned} to be looked at, {failed} failed, {skipped} skipped. Score: {score} of 100.\n"
        )
    }

    fn junit(&self) -> String {
        let Counts {
            passed,
            warned,
            failed,
            skipped,
        } = self.counts;
        let total = passed + warned + failed + skipped;
        let mut xml = format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<testsuites name=\"holdfast\" tests=\"{total}\" failures=\"{failed}\">\n"
        );
        for group in self.groups() {
            let cases: Vec<_> = self.checks.iter().filter(|check| check.group == group).collect();
            let of = |verdict| cases.iter().filter(|case| case.verdict == verdict).count();
            let seconds: f64 = cases.iter().map(|case| case.elapsed_ms).sum::<f64>() / 1_000.0;
            let _ = writeln!(
                xml,
                "  <testsuite name=\"{group}\" tests=\"{}\" failures=\"{}\" skipped=\"{}\" time=\"{seconds:.3}\">",
                cases.len(),
                of(Verdict::Fail),
                of(Verdict::Skipped),
            );
            for case in cases {
                xml.push_str(&junit_case(case));
            }
            xml.push_str("  </testsuite>\n");
        }
        xml + "</testsuites>\n"
    }

    fn groups(&self) -> Vec<&'static str> {
        let mut groups: Vec<&'static str> = Vec::new();
        for check in self.checks {
            if !groups.contains(&check.group) {
                groups.push(check.group);
            }
        }
        groups
    }
}

fn score(counts: Counts, checks: &[Outcome]) -> u32 {
    let checked = counts.passed + counts.warned + counts.failed;
    let is_down =
        |check: &Outcome| check.verdict == Verdict::Fail && ESSENTIAL.contains(&check.full_name().as_str());
    if checked == 0 || checks.iter().any(is_down) {
        return 0;
    }
    let share = ((counts.passed * 2 + counts.warned) * 100 / (checked * 2)) as u32;
    if counts.failed == 0 {
        share
    } else {
        share.min(MOST_WITH_A_FAULT)
    }
}

fn junit_case(case: &Outcome) -> String {
    let (summary, hint) = (
        escaped(&case.summary),
        escaped(case.hint.as_deref().unwrap_or_default()),
    );
    let inner = match case.verdict {
        Verdict::Fail => format!("<failure message=\"{summary}\">{hint}</failure>"),
        Verdict::Skipped => format!("<skipped message=\"{summary}\"/>"),
        // JUnit knows no warnings.
        Verdict::Warn => format!("<system-out>warning: {summary}: {hint}</system-out>"),
        Verdict::Pass => format!("<system-out>{summary}</system-out>"),
    };
    format!(
        "    <testcase classname=\"{}\" name=\"{}\" time=\"{:.3}\">{inner}</testcase>\n",
        case.group,
        escaped(&case.name),
        case.elapsed_ms / 1_000.0,
    )
}

/// For XML's text and attributes. Control characters have no place there, escaped or not.
fn escaped(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            c if c.is_control() && !matches!(c, '\n' | '\t') => safe.push('\u{fffd}'),
            c => safe.push(c),
        }
    }
    safe
}

/// The text form of one check: verdict, name and summary; a hint, if there is one, on a line of its own.
pub fn line(outcome: &Outcome, coloured: bool) -> String {
    let (word, colour) = match outcome.verdict {
        Verdict::Pass => ("pass", 32),
        Verdict::Warn => ("warn", 33),
        Verdict::Fail => ("FAIL", 31),
        Verdict::Skipped => ("skip", 90),
    };
    let word = if coloured {
        format!("\x1b[{colour}m{word}\x1b[0m")
    } else {
        word.to_owned()
    };
    let took = match outcome.verdict {
        Verdict::Skipped => String::new(),
        _ => format!(" ({})", super::timing::shown(outcome.elapsed_ms)),
    };
    let mut line = format!("{word}  {:<24} {}{took}\n", outcome.full_name(), outcome.summary);
    if let Some(hint) = &outcome.hint {
        let _ = writeln!(line, "      hint: {hint}");
    }
    line
}

#[cfg(test)]
mod tests {
    use serde_json::Map;

    use super::*;

    fn outcome(verdict: Verdict) -> Outcome {
        Outcome {
            group: "redis",
            name: "login".to_owned(),
            verdict,
            summary: "<\"a\" & \u{1b}b>".to_owned(),
            hint: Some("mend it".to_owned()),
            elapsed_ms: 1.5,
            numbers: Map::new(),
        }
    }

    #[test]
    fn a_warning_counts_half_and_a_skipped_check_not_at_all() {
        let checks = [
            outcome(Verdict::Pass),
            outcome(Verdict::Warn),
            outcome(Verdict::Skipped),
        ];
        let report = Report::of(&checks);
        assert_eq!((report.score, report.status), (75, Verdict::Warn));
        assert_eq!((report.exit_code(false), report.exit_code(true)), (0, 2));
        assert_eq!(Report::of(&[outcome(Verdict::Fail)]).exit_code(true), 1);
        assert_eq!(Report::of(&[]).exit_code(true), 0);
    }

    #[test]
    fn a_fault_halves_the_score_at_least_and_a_system_that_runs_no_job_has_none() {
        let mut checks = vec![outcome(Verdict::Pass); 99];
        checks.push(outcome(Verdict::Fail));
        assert_eq!(Report::of(&checks).score, 50);
        assert_eq!(
            Report::of(&[outcome(Verdict::Fail), outcome(Verdict::Warn)]).score,
            25
        );
        for name in ESSENTIAL {
            let (group, name) = name.split_once('.').unwrap();
            let (group, name) = (group, name.to_owned());
            checks[0] = Outcome {
                group,
                name,
                ..outcome(Verdict::Fail)
            };
            assert_eq!(Report::of(&checks).score, 0, "{group}");
        }
    }

    #[test]
    fn junit_is_well_formed_whatever_a_server_says() {
        let checks = [outcome(Verdict::Fail), outcome(Verdict::Warn)];
        let xml = Report::of(&checks).junit();
        assert!(xml.contains("<failure message=\"&lt;&quot;a&quot; &amp; \u{fffd}b&gt;\">mend it</failure>"));
        assert!(
            xml.contains(
                "<testsuite name=\"redis\" tests=\"2\" failures=\"1\" skipped=\"0\" time=\"0.003\">"
            )
        );
        assert!(xml.ends_with("</testsuites>\n"));
    }

    #[test]
    fn a_line_says_verdict_name_and_hint() {
        let line = line(&outcome(Verdict::Fail), false);
        assert!(line.starts_with("FAIL  redis.login"), "{line}");
        assert!(line.ends_with("(1.5 ms)\n      hint: mend it\n"), "{line}");
    }
}
