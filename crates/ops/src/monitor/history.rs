//! What was seen: samples, thinned out as they age, and the spans of each standing, which are kept exactly.

use std::collections::VecDeque;

use chrono::{DateTime, Utc};

use super::sample::{Sample, TargetState};

/// Most samples. When they are all there the older half is thinned out to every second one: a long run keeps its whole
/// length, and its last hours their detail.
const MOST_SAMPLES: usize = 7_200;

/// Most spans of the timeline; then the oldest go.
const MOST_SPANS: usize = 10_000;

/// The target stood so from `from` to `until`: the first sample that said so, and the first that did not any more.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Span {
    pub(super) standing: TargetState,
    pub(super) from: DateTime<Utc>,
    pub(super) until: DateTime<Utc>,
    pub(super) reason: Option<String>,
}

#[derive(Debug, Default)]
pub(super) struct History {
    samples: VecDeque<Sample>,
    spans: VecDeque<Span>,
}

impl History {
    pub(super) fn push(&mut self, sample: Sample) {
        self.extend_timeline(&sample);
        self.samples.push_back(sample);
        if self.samples.len() > MOST_SAMPLES {
            self.thin_out();
        }
    }

    pub(super) fn samples(&self) -> &VecDeque<Sample> {
        &self.samples
    }

    pub(super) fn spans(&self) -> &VecDeque<Span> {
        &self.spans
    }

    pub(super) fn last(&self) -> Option<&Sample> {
        self.samples.back()
    }

    /// A value over time; gaps are left out.
    pub(super) fn series(&self, value: impl Fn(&Sample) -> Option<f64>) -> Vec<(DateTime<Utc>, f64)> {
        self.samples
            .iter()
            .filter_map(|sample| Some((sample.at, value(sample)?)))
            .collect()
    }

    fn extend_timeline(&mut self, sample: &Sample) {
        if let Some(span) = self.spans.back_mut() {
            span.until = sample.at;
            if span.standing == sample.standing {
                return;
            }
        }
        self.spans.push_back(Span {
            standing: sample.standing,
            from: sample.at,
            until: sample.at,
            reason: sample.reason.clone(),
        });
        if self.spans.len() > MOST_SPANS {
            self.spans.pop_front();
        }
    }

    fn thin_out(&mut self) {
        let half = self.samples.len() / 2;
        let mut index = 0;
        self.samples.retain(|_| {
            index += 1;
            index > half || index % 2 == 1
        });
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;
    use holdfast_core::clock;

    use super::*;

    #[test]
    fn a_long_run_keeps_its_length_and_its_timeline() {
        let start = clock::now();
        let mut history = History::default();
        for second in 0..20_000 {
            let mut sample = Sample::down(start + TimeDelta::seconds(second), "away".to_owned());
            if !(5_000..5_010).contains(&second) {
                sample.standing = TargetState::Healthy;
            }
            history.push(sample);
        }
        assert!(history.samples().len() <= MOST_SAMPLES);
        assert!(history.samples()[0].at < start + TimeDelta::seconds(60));
        let down = &history.spans()[1];
        assert_eq!(down.standing, TargetState::Down);
        assert_eq!(down.from, start + TimeDelta::seconds(5_000));
        assert_eq!(down.until, start + TimeDelta::seconds(5_010));
    }
}
