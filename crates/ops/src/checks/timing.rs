//! What many measured durations come to.

use std::time::Duration;

use serde::Serialize;

#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[allow(clippy::struct_field_names, reason = "the unit belongs to the name")]
pub(crate) struct Percentiles {
    pub(crate) p50_ms: f64,
    pub(crate) p95_ms: f64,
    pub(crate) p99_ms: f64,
}

impl Percentiles {
    /// `None` of nothing.
    pub(crate) fn of(mut samples: Vec<Duration>) -> Option<Self> {
        samples.sort_unstable();
        let at = |share: f64| {
            let rank = (samples.len() as f64 * share).ceil() as usize;
            samples.get(rank.max(1) - 1).copied().map(millis)
        };
        Some(Self {
            p50_ms: at(0.50)?,
            p95_ms: at(0.95)?,
            p99_ms: at(0.99)?,
        })
    }
}

/// With a thousandth of a millisecond as the finest.
pub(crate) fn millis(duration: Duration) -> f64 {
    (duration.as_secs_f64() * 1_000_000.0).round() / 1_000.0
}

/// `0.24 ms`, `12 ms`, `3.1 s`.
pub(crate) fn shown(ms: f64) -> String {
    match ms {
        ms if ms < 1.0 => format!("{ms:.2} ms"),
        ms if ms < 10.0 => format!("{ms:.1} ms"),
        ms if ms < 1_000.0 => format!("{ms:.0} ms"),
        ms => format!("{:.1} s", ms / 1_000.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_percentile_is_a_sample() {
        let samples = (1..=1000).rev().map(Duration::from_millis).collect();
        let expected = Percentiles {
            p50_ms: 500.0,
            p95_ms: 950.0,
            p99_ms: 990.0,
        };
        assert_eq!(Percentiles::of(samples), Some(expected));
        assert_eq!(Percentiles::of(Vec::new()), None);
        let one = Percentiles::of(vec![Duration::from_millis(7)]);
        assert_eq!(one.map(|one| (one.p50_ms, one.p99_ms)), Some((7.0, 7.0)));
    }

    #[test]
    fn times_are_shown_as_precisely_as_they_matter() {
        assert_eq!(
            [0.2401, 2.26, 12.3, 3_140.0].map(shown),
            ["0.24 ms", "2.3 ms", "12 ms", "3.1 s"]
        );
    }
}
