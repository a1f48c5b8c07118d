//! Alert rules: a threshold that is passed for a while, or a trend by linear regression.
//!
//! ```toml
//! [[rule]]
//! name = "backlog"
//! metric = "depth"            # or depth.QUEUE
//! above = 1000                # or below
//! for = "1m"
//!
//! [[rule]]
//! name = "backlog grows"
//! metric = "depth"
//! rising = 10                 # a minute; or falling
//! window = "5m"
//! above = 100                 # and only then
//! ```
//!
//! A value that is unknown (the target is down, the key may not read it) neither fires a rule nor lets it recover.

use std::time::Duration;

use chrono::TimeDelta;
use serde::{Deserialize, Serialize};

use super::history::History;
use super::sample::{Sample, TargetState};
use crate::time;

/// Most rules of a file.
const MOST_RULES: usize = 200;
/// A trend needs so many samples, over this share of its window.
const FEWEST_SAMPLES: usize = 5;
const LEAST_COVERAGE: f64 = 0.8;

/// What a monitor without a file watches.
pub(super) const DEFAULTS: &str = include_str!("rules.toml");

pub(super) const METRICS: [&str; 12] = [
    "up",
    "degraded",
    "redis",
    "latency_ms",
    "throughput",
    "depth",
    "dead_letters",
    "workers",
    "pool",
    "memory_mb",
    "memory",
    "hit_ratio",
];

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Severity {
    #[default]
    Warning,
    Critical,
}

impl Severity {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Critical => "critical",
        }
    }
}

/// As the file words it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Rule {
    pub(super) name: String,
    pub(super) metric: String,
    #[serde(default)]
    pub(super) severity: Severity,
    #[serde(default)]
    above: Option<f64>,
    #[serde(default)]
    below: Option<f64>,
    /// How long the condition must hold before it is told.
    #[serde(default, rename = "for", deserialize_with = "duration")]
    pub(super) hold: Duration,
    /// How long it must be gone before that is told.
    #[serde(default, deserialize_with = "duration")]
    pub(super) recover: Duration,
    /// Units a minute.
    #[serde(default)]
    rising: Option<f64>,
    #[serde(default)]
    falling: Option<f64>,
    #[serde(default, deserialize_with = "duration")]
    window: Duration,
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    rule: Vec<Rule>,
}

fn duration<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Duration, D::Error> {
    let text = String::deserialize(deserializer)?;
    time::duration(&text).map_err(serde::de::Error::custom)
}

/// Every fault names its rule.
pub(super) fn parse(text: &str) -> Result<Vec<Rule>, String> {
    let file: File = toml::from_str(text).map_err(|error| error.to_string())?;
    if file.rule.len() > MOST_RULES {
        return Err(format!("{} rules; {MOST_RULES} are the most", file.rule.len()));
    }
    for (index, rule) in file.rule.iter().enumerate() {
        let name = &rule.name;
        rule.check().map_err(|fault| format!("rule {name:?}: {fault}"))?;
        if file.rule[..index].iter().any(|other| other.name == *name) {
            return Err(format!("rule {name:?} is there twice"));
        }
    }
    Ok(file.rule)
}

/// Whether a condition holds now.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Reading {
    Unknown,
    Clear(f64),
    Holds(f64),
}

impl Rule {
    fn check(&self) -> Result<(), String> {
        if self.name.trim().is_empty() {
            return Err("a name is needed".to_owned());
        }
        let is_queue = self
            .metric
            .strip_prefix("depth.")
            .is_some_and(|queue| !queue.is_empty());
        if !METRICS.contains(&self.metric.as_str()) && !is_queue {
            return Err(format!(
                "metric {:?} is none of {}, depth.QUEUE",
                self.metric,
                METRICS.join(", ")
            ));
        }
        if self.above.is_some() && self.below.is_some() {
            return Err("give `above` or `below`, not both".to_owned());
        }
        match (self.rising, self.falling) {
            (Some(_), Some(_)) => return Err("give `rising` or `falling`, not both".to_owned()),
            (None, None) if self.above.is_none() && self.below.is_none() => {
                return Err("give `above`, `below`, `rising` or `falling`".to_owned());
            }
            (None, None) => {}
            _ if self.window.is_zero() => return Err("a trend needs a `window`, such as \"5m\"".to_owned()),
            _ => {}
        }
        let numbers = [self.above, self.below, self.rising, self.falling];
        if numbers.into_iter().flatten().any(|number| !number.is_finite()) {
            return Err("numbers must be finite".to_owned());
        }
        Ok(())
    }

    /// For people: `depth above 1000 for 60 s`.
    pub(super) fn condition(&self) -> String {
        let mut text = self.metric.clone();
        let parts = [
            ("above", self.above),
            ("below", self.below),
            ("rising, a minute, by more than", self.rising),
            ("falling, a minute, by more than", self.falling),
        ];
        for (word, number) in parts {
            if let Some(number) = number {
                text = format!("{text} {word} {number}");
            }
        }
        if self.hold.is_zero() {
            return text;
        }
        format!("{text} for {} s", self.hold.as_secs_f64())
    }

    pub(super) fn read(&self, history: &History) -> Reading {
        let Some(value) = history.last().and_then(|sample| value(&self.metric, sample)) else {
            return Reading::Unknown;
        };
        let beyond =
            self.above.is_none_or(|limit| value > limit) && self.below.is_none_or(|limit| value < limit);
        let Some(trend) = self.rising.or(self.falling.map(|per_minute| -per_minute)) else {
            return reading(beyond, value);
        };
        let Some(slope) = slope_per_minute(&self.recent(history), self.window) else {
            return Reading::Clear(value);
        };
        let moves = if self.rising.is_some() {
            slope > trend
        } else {
            slope < trend
        };
        reading(moves && beyond, value)
    }

    /// Seconds and values inside the window.
    fn recent(&self, history: &History) -> Vec<(f64, f64)> {
        let Some(last) = history.last() else {
            return Vec::new();
        };
        let window = TimeDelta::from_std(self.window).unwrap_or(TimeDelta::MAX);
        let samples = history.samples().iter().rev();
        let recent = samples.take_while(|sample| last.at - sample.at <= window);
        recent
            .filter_map(|sample| {
                let seconds = (sample.at - last.at).as_seconds_f64();
                Some((seconds, value(&self.metric, sample)?))
            })
            .collect()
    }
}

fn reading(holds: bool, value: f64) -> Reading {
    if holds {
        Reading::Holds(value)
    } else {
        Reading::Clear(value)
    }
}

/// A metric of one sample; `None` if it is unknown.
pub(super) fn value(metric: &str, sample: &Sample) -> Option<f64> {
    let is_up = sample.standing != TargetState::Down;
    match metric {
        "up" => Some(f64::from(u8::from(is_up))),
        "degraded" => is_up.then(|| f64::from(u8::from(sample.standing != TargetState::Healthy))),
        "redis" => sample.redis,
        "latency_ms" => sample.latency_ms,
        "throughput" => sample.throughput,
        "depth" => sample.total_depth(),
        "dead_letters" => sample.dead_letters.map(|count| count as f64),
        "workers" => sample.workers.map(|count| count as f64),
        "pool" => sample.pool,
        "memory_mb" => sample.memory_mb,
        "memory" => sample.memory,
        "hit_ratio" => sample.hit_ratio,
        metric => {
            let queue = metric.strip_prefix("depth.")?;
            sample.depth.get(queue).map(|count| *count as f64)
        }
    }
}

/// Least squares; `None` of too few points, or of points that cover too little of the window.
fn slope_per_minute(points: &[(f64, f64)], window: Duration) -> Option<f64> {
    let covered = points.first()?.0 - points.last()?.0;
    if points.len() < FEWEST_SAMPLES || covered < window.as_secs_f64() * LEAST_COVERAGE {
        return None;
    }
    let count = points.len() as f64;
    let mean_x = points.iter().map(|(x, _)| x).sum::<f64>() / count;
    let mean_y = points.iter().map(|(_, y)| y).sum::<f64>() / count;
    let (mut covariance, mut variance) = (0.0, 0.0);
    for (x, y) in points {
        covariance += (x - mean_x) * (y - mean_y);
        variance += (x - mean_x).powi(2);
    }
    (variance > 0.0).then(|| covariance / variance * 60.0)
}

#[cfg(test)]
mod tests {
    use chrono::{DateTime, Utc};
    use holdfast_core::clock;

    use super::*;

    fn sample(at: DateTime<Utc>, depth: u64) -> Sample {
        let mut sample = Sample::down(at, String::new());
        sample.standing = TargetState::Healthy;
        sample.depth = [("default".to_owned(), depth)].into();
        sample
    }

    fn history(depths: impl IntoIterator<Item = u64>) -> History {
        let start = clock::now();
        let mut history = History::default();
        for (second, depth) in depths.into_iter().enumerate() {
            history.push(sample(start + TimeDelta::seconds(second as i64), depth));
        }
        history
    }

    fn rule(text: &str) -> Rule {
        parse(&format!("[[rule]]\nname = \"r\"\n{text}"))
            .unwrap()
            .remove(0)
    }

    #[test]
    fn the_defaults_are_sound() {
        assert!(parse(DEFAULTS).unwrap().len() >= 8);
    }

    #[test]
    fn a_fault_of_a_file_names_its_rule() {
        for (text, words) in [
            ("metric = \"deph\"\nabove = 1", "is none of up"),
            ("metric = \"depth\"", "give `above`"),
            ("metric = \"depth\"\nrising = 1", "a trend needs a `window`"),
            ("metric = \"depth\"\nabove = 1\nbelow = 2", "not both"),
            (
                "metric = \"depth\"\nabove = 1\nfor = \"soon\"",
                "expected seconds",
            ),
            ("metric = \"depth\"\nover = 1", "unknown field"),
            ("metric = \"depth\"\nabove = nan", "finite"),
        ] {
            let fault = parse(&format!("[[rule]]\nname = \"r\"\n{text}")).unwrap_err();
            assert!(fault.contains(words), "{text}: {fault}");
        }
        let twice = "[[rule]]\nname = \"r\"\nmetric = \"up\"\nbelow = 1\n".repeat(2);
        assert!(parse(&twice).unwrap_err().contains("twice"));
    }

    #[test]
    fn a_threshold_is_passed_and_an_unknown_value_is_neither() {
        let above = rule("metric = \"depth.default\"\nabove = 10");
        assert_eq!(above.read(&history([5, 11])), Reading::Holds(11.0));
        assert_eq!(above.read(&history([11, 5])), Reading::Clear(5.0));
        let mut down = history([11]);
        down.push(Sample::down(clock::now(), "away".to_owned()));
        assert_eq!(above.read(&down), Reading::Unknown);
        assert_eq!(
            rule("metric = \"up\"\nbelow = 1").read(&down),
            Reading::Holds(0.0)
        );
    }

    #[test]
    fn a_trend_is_seen_through_noise_and_not_in_it() {
        let rising = rule("metric = \"depth\"\nrising = 10\nwindow = \"60s\"");
        let noise = |second: u64| (second * 7_919) % 5;
        // Half a job a second, 30 a minute.
        let grows = history((0..=60).map(|second| 100 + second / 2 + noise(second)));
        assert!(matches!(rising.read(&grows), Reading::Holds(_)));
        let level = history((0..=60).map(|second| 100 + noise(second)));
        assert!(matches!(rising.read(&level), Reading::Clear(_)));
        let too_short = history((0..20).map(|second| 100 + second * 10));
        assert!(matches!(rising.read(&too_short), Reading::Clear(_)));
        let falling = rule("metric = \"depth\"\nfalling = 10\nwindow = \"60s\"");
        let sinks = history((0..=60).map(|second| 200 - second));
        assert!(matches!(falling.read(&sinks), Reading::Holds(_)));
        assert!(matches!(falling.read(&grows), Reading::Clear(_)));
    }

    #[test]
    fn a_slope_is_per_minute() {
        let points: Vec<(f64, f64)> = (0..=60)
            .rev()
            .map(|second| (f64::from(second), 2.0 * f64::from(second)))
            .collect();
        let slope = slope_per_minute(&points, Duration::from_secs(60));
        assert!(
            slope.is_some_and(|slope| (slope - 120.0).abs() < 1e-6),
            "{slope:?}"
        );
    }
}
