//! Counting: the three types of metric, and the one recorder of the process.
//!
//! Every metric is declared in [`catalogue`], and recorded through its declaration:
//! `catalogue::JOB_EXECUTIONS.with(["http.request", "completed"]).increment(1)`. So the list is complete, the names
//! and labels cannot disagree with it, and what is served at `/metrics` is what the documents describe.
//!
//! # Invariants
//! - The values of a label come from a closed list: settings, registered kinds, route patterns, words of the code. What a
//!   client writes never becomes a label; [`OTHER`] stands for it.
//! - Counters and histograms go on for the life of the process. Keep their handles where a path is hot: [`Counters::with`]
//!   builds a key and looks it up (200 ns), a kept handle adds a number (a few ns).
//! - A gauge that nobody has set for [`GAUGE_LIFE`] is served no more: a figure that cannot be read is absent, not old.
//!   So gauges are set whenever `/metrics` is asked, and their handles are not kept.
//!
//! # When nobody scrapes
//! A histogram keeps its samples until they are folded into buckets; a thread does so every [`UPKEEP`], so that memory
//! stays bounded by the samples of that time.

use std::sync::LazyLock;
use std::time::Duration;

use metrics::{Counter, Gauge, Histogram, Key, KeyName, Label, Level, Metadata, Recorder};
use metrics_exporter_prometheus::{Matcher, PrometheusBuilder, PrometheusHandle, PrometheusRecorder};
use metrics_util::MetricKindMask;

use super::{catalogue, process};

/// The value of a label for everything outside of its list.
pub const OTHER: &str = "other";

/// How long a gauge is served after it was set.
pub const GAUGE_LIFE: Duration = Duration::from_mins(2);

/// How often samples are folded into buckets while nobody scrapes.
const UPKEEP: Duration = Duration::from_secs(5);

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// For requests, statements and calls, in seconds.
pub const LATENCY_BUCKETS: &[f64] = &[
    0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];

/// For jobs, which may take minutes and wait for as long, in seconds.
pub const JOB_BUCKETS: &[f64] = &[
    0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0,
    600.0, 1_800.0,
];

/// What a metric is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MetricKind {
    Counter,
    Gauge,
    Histogram,
}

impl MetricKind {
    /// The word of the Prometheus text.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
            Self::Histogram => "histogram",
        }
    }
}

/// A metric as it is declared.
#[derive(Debug, Clone, Copy)]
pub struct Definition {
    pub name: &'static str,
    pub kind: MetricKind,
    pub labels: &'static [&'static str],
    pub help: &'static str,
    /// Of a histogram; empty for the others.
    pub buckets: &'static [f64],
}

impl Definition {
    fn key(&self, values: &[&str]) -> Key {
        let labels: Vec<Label> = self
            .labels
            .iter()
            .zip(values)
            .map(|(name, value)| Label::new(*name, (*value).to_owned()))
            .collect();
        Key::from_parts(self.name, labels)
    }
}

const METADATA: Metadata<'static> = Metadata::new("holdfast", Level::INFO, None);

/// A counter for each set of values of its `N` labels.
#[derive(Debug)]
pub struct Counters<const N: usize>(pub(super) Definition);

impl<const N: usize> Counters<N> {
    /// The counter of these label values, in the order of the declaration.
    pub fn with(&self, values: [&str; N]) -> Counter {
        RECORDER
            .recorder
            .register_counter(&self.0.key(&values), &METADATA)
    }
}

/// A gauge for each set of values of its `N` labels.
#[derive(Debug)]
pub struct Gauges<const N: usize>(pub(super) Definition);

impl<const N: usize> Gauges<N> {
    /// The gauge of these label values. Do not keep it: see the module.
    pub fn with(&self, values: [&str; N]) -> Gauge {
        RECORDER.recorder.register_gauge(&self.0.key(&values), &METADATA)
    }
}

/// A histogram for each set of values of its `N` labels.
#[derive(Debug)]
pub struct Histograms<const N: usize>(pub(super) Definition);

impl<const N: usize> Histograms<N> {
    /// The histogram of these label values, in the order of the declaration.
    pub fn with(&self, values: [&str; N]) -> Histogram {
        RECORDER
            .recorder
            .register_histogram(&self.0.key(&values), &METADATA)
    }
}

struct MetricsRecorder {
    recorder: PrometheusRecorder,
    handle: PrometheusHandle,
}

/// Made when it is needed first, so that a handle which is taken early counts too.
static RECORDER: LazyLock<MetricsRecorder> = LazyLock::new(|| {
    let mut builder = PrometheusBuilder::new().idle_timeout(MetricKindMask::GAUGE, Some(GAUGE_LIFE));
    for metric in catalogue::ALL {
        if metric.kind == MetricKind::Histogram {
            let matcher = Matcher::Full(metric.name.to_owned());
            // It refuses an empty list alone, and the catalogue's test finds one.
            builder = builder
                .set_buckets_for_metric(matcher, metric.buckets)
                .unwrap_or_default();
        }
    }
    let recorder = builder.build_recorder();
    for metric in catalogue::ALL {
        describe(&recorder, metric);
    }
    let handle = recorder.handle();
    keep_up(handle.clone());
    MetricsRecorder { recorder, handle }
});

fn describe(recorder: &PrometheusRecorder, metric: &Definition) {
    let (name, help) = (KeyName::from_const_str(metric.name), metric.help.into());
    match metric.kind {
        MetricKind::Counter => recorder.describe_counter(name, None, help),
        MetricKind::Gauge => recorder.describe_gauge(name, None, help),
        MetricKind::Histogram => recorder.describe_histogram(name, None, help),
    }
}

/// A thread of its own: runtimes come and go in a process. Without it samples are folded only when somebody scrapes.
fn keep_up(handle: PrometheusHandle) {
    let upkeep = move || {
        loop {
            std::thread::sleep(UPKEEP);
            handle.run_upkeep();
        }
    };
    let named = std::thread::Builder::new()
        .name("metrics".to_owned())
        .stack_size(128 * 1024);
    if let Err(error) = named.spawn(upkeep) {
        tracing::warn!(%error, "no thread for the maintenance of metrics: scrape them often");
    }
}

/// Makes the recorder of the process, unless it is there.
pub(super) fn install() {
    LazyLock::force(&RECORDER);
}

/// Everything counted so far, as Prometheus text, with the process' own figures.
pub fn render() -> String {
    process::measure();
    RECORDER.handle.render()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_recorded_is_rendered_with_its_help_and_labels() {
        let executions = catalogue::JOB_EXECUTIONS.with(["test.metrics", "completed"]);
        executions.increment(2);
        catalogue::JOB_DURATION.with(["test.metrics"]).record(0.02);
        let text = render();
        assert!(
            text.contains("holdfast_job_executions_total{kind=\"test.metrics\",outcome=\"completed\"} 2"),
            "{text}"
        );
        assert!(text.contains("# TYPE holdfast_job_duration_seconds histogram"));
        assert!(text.contains("holdfast_job_duration_seconds_bucket{kind=\"test.metrics\",le=\"0.025\"} 1"));
        assert!(text.contains("holdfast_job_duration_seconds_bucket{kind=\"test.metrics\",le=\"0.01\"} 0"));
        assert!(text.contains("# HELP holdfast_job_executions_total "));
    }

    #[test]
    fn a_label_value_is_escaped() {
        catalogue::JOB_EXECUTIONS
            .with(["a\"b\\c\nd", "completed"])
            .increment(1);
        assert!(render().contains(r#"kind="a\"b\\c\nd""#));
    }

    #[test]
    fn the_process_tells_its_own_figures() {
        let text = render();
        for name in [
            "process_start_time_seconds",
            "process_resident_memory_bytes",
            "process_cpu_seconds",
        ] {
            assert!(
                text.lines().any(|line| line.starts_with(&format!("{name} "))),
                "{name}: {text}"
            );
        }
    }
}
