//! `holdfast stats`: what was done lately.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_control::wire::{OutageView, PercentileView, SeriesView, StatsView};
use holdfast_core::clock;
use holdfast_ops::{Failure, time};
use holdfast_services::Program;

use crate::args::{OutputArgs, TargetArgs};
use crate::output::{shown, table};

#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    target: TargetArgs,
    #[command(flatten)]
    output: OutputArgs,
    /// The last so long: 90s, 5m, 8h
    #[arg(long, default_value = "1h", value_parser = time::duration)]
    last: Duration,
    /// A line for each queue, or for each kind
    #[arg(long, value_parser = ["queue", "kind"])]
    by: Option<String>,
    /// Only this queue
    #[arg(long)]
    queue: Option<String>,
    /// Only this kind
    #[arg(long)]
    kind: Option<String>,
}

pub(crate) async fn run(args: Args, program: &Program) -> Result<(), Failure> {
    let api = args.target.open(program).await?;
    let last = TimeDelta::from_std(args.last).unwrap_or(TimeDelta::MAX);
    let from = clock::now()
        .checked_sub_signed(last)
        .unwrap_or(DateTime::UNIX_EPOCH);
    let given = [("by", args.by), ("queue", args.queue), ("kind", args.kind)];
    let given = given.into_iter().filter_map(|(name, value)| Some((name, value?)));
    let query: Vec<_> = [("from", shown(from))].into_iter().chain(given).collect();
    let document = api.get(&["v1", "stats"], &query).await?;
    let stats: StatsView = api.read(&document)?;
    args.output.print(&document, || text(&stats))
}

fn text(stats: &StatsView) -> String {
    let rows: Vec<_> = stats.series.iter().map(row).collect();
    let header = [
        "NAME",
        "ENQUEUED",
        "COMPLETED",
        "FAILED",
        "DISCARDED",
        "WAIT P50/P95/P99",
        "RUN P50/P95/P99",
    ];
    let mut lines = vec![table(header, &rows)];
    if stats.has_more {
        lines.push("and others".to_owned());
    }
    lines.extend(stats.outages.iter().map(outage));
    lines.join("\n")
}

fn row(series: &SeriesView) -> [String; 7] {
    let total = &series.total;
    [
        series.name.clone().unwrap_or_else(|| "total".to_owned()),
        total.enqueued.to_string(),
        total.completed.to_string(),
        total.failed.to_string(),
        total.discarded.to_string(),
        percentiles(&total.wait_seconds),
        percentiles(&total.run_seconds),
    ]
}

fn percentiles(view: &PercentileView) -> String {
    [view.p50, view.p95, view.p99].map(seconds).join(" / ")
}

fn seconds(seconds: Option<f64>) -> String {
    match seconds {
        None => "-".to_owned(),
        Some(seconds) if seconds < 1.0 => format!("{:.0} ms", seconds * 1_000.0),
        Some(seconds) if seconds < 120.0 => format!("{seconds:.1} s"),
        Some(seconds) => format!("{:.0} min", seconds / 60.0),
    }
}

fn outage(outage: &OutageView) -> String {
    let OutageView {
        dependency,
        reason,
        from,
        to,
        ..
    } = outage;
    let until = |to: &DateTime<Utc>| format!("until {}", shown(*to));
    let to = to.as_ref().map_or_else(|| "and goes on".to_owned(), until);
    format!("{dependency} unavailable ({reason}) from {} {to}", shown(*from))
}
