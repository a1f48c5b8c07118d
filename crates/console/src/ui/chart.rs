//! Charts as SVG: lines over time, bands behind them, and the same figures as a table that can be opened below.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use maud::{Markup, html};

use super::text::rate;

const WIDTH: f64 = 720.0;
const HEIGHT: f64 = 120.0;
/// Above the highest value.
const HEADROOM: f64 = 8.0;

/// One line.
#[derive(Debug)]
pub(crate) struct Series {
    pub(crate) name: &'static str,
    /// The class of its colour in the style sheet.
    pub(crate) class: &'static str,
    /// One for each step; `None`: it is not known, and the line has a gap.
    pub(crate) values: Vec<Option<f64>>,
}

/// A span of time with a state that is not the normal one.
#[derive(Debug)]
pub(crate) struct Band {
    pub(crate) label: String,
    pub(crate) class: &'static str,
    pub(crate) from: DateTime<Utc>,
    pub(crate) to: DateTime<Utc>,
}

/// Lines over `times`, which are even steps. `unit` is what the values count.
pub(crate) fn chart(
    label: &str,
    unit: &str,
    times: &[DateTime<Utc>],
    series: &[Series],
    bands: &[Band],
) -> Markup {
    let (Some(first), Some(last)) = (times.first(), times.last()) else {
        return super::nothing("There are no figures for this time yet.");
    };
    let highest = series
        .iter()
        .flat_map(|series| series.values.iter().flatten())
        .fold(0.0_f64, |highest, value| highest.max(*value));
    let top = nice(highest);
    let plot = HEIGHT - 1.0;
    let span = (*last - *first).num_milliseconds().max(1) as f64;
    let x = |at: &DateTime<Utc>| ((*at - *first).num_milliseconds() as f64 / span * WIDTH).clamp(0.0, WIDTH);
    let y = |value: f64| plot - value / top * (plot - HEADROOM);
    html! {
        figure.chart {
            figcaption {
                span { (label) }
                span.legend {
                    @for series in series { span.key { span class=(format!("swatch {}", series.class)) {} (series.name) } }
                    @for class in classes(bands) { span.key { span class=(format!("swatch {class}")) {} (band_name(class)) } }
                }
            }
            p.tick { (rate(top)) " " (unit) }
            svg viewBox=(format!("0 0 {WIDTH} {HEIGHT}")) preserveAspectRatio="none" role="img" aria-label=(summary(label, unit, series, bands)) {
                @for band in bands {
                    @let (from, to) = (x(&band.from), x(&band.to));
                    rect class=(format!("band {}", band.class)) x=(from) y="0" width=((to - from).max(2.0)) height=(plot) {
                        title { (band.label) }
                    }
                }
                line.axis x1="0" x2=(WIDTH) y1=(plot) y2=(plot) {}
                line.grid x1="0" x2=(WIDTH) y1=(y(top)) y2=(y(top)) {}
                @for series in series {
                    path class=(format!("line {}", series.class)) d=(path(&series.values, times, x, y)) {}
                }
            }
            p.tick.ends { span { (clock_time(first)) } span { (clock_time(last)) " UTC" } }
            details {
                summary { "Figures" }
                div.scroll tabindex="0" role="region" aria-label=(format!("{label}: figures")) {
                    table {
                        thead { tr { th scope="col" { "Time (UTC)" } @for series in series { th.number scope="col" { (series.name) } } } }
                        tbody {
                            @for (index, at) in times.iter().enumerate() {
                                tr {
                                    td { (at.format("%m-%d %H:%M")) }
                                    @for series in series { td.number { @match series.values.get(index).copied().flatten() { Some(value) => (rate(value)), None => (super::absent()) } } }
                                }
                            }
                        }
                    }
                    @if !bands.is_empty() {
                        table {
                            thead { tr { th scope="col" { "What" } th scope="col" { "From (UTC)" } th scope="col" { "To (UTC)" } } }
                            tbody { @for band in bands { tr { td { (band.label) } td { (exact_time(&band.from)) } td { (exact_time(&band.to)) } } } }
                        }
                    }
                }
            }
        }
    }
}

/// A small line without axes.
pub(crate) fn spark(values: &[f64], label: &str) -> Markup {
    let highest = values.iter().fold(1.0_f64, |highest, value| highest.max(*value));
    let step = 100.0 / (values.len().max(2) - 1) as f64;
    let points: Vec<String> = values
        .iter()
        .enumerate()
        .map(|(index, value)| format!("{:.1},{:.1}", index as f64 * step, 19.0 - value / highest * 18.0))
        .collect();
    html! {
        svg.spark viewBox="0 0 100 20" preserveAspectRatio="none" role="img" aria-label=(label) {
            polyline class="line failed" points=(points.join(" ")) vector-effect="non-scaling-stroke" {}
        }
    }
}

fn path(
    values: &[Option<f64>],
    times: &[DateTime<Utc>],
    x: impl Fn(&DateTime<Utc>) -> f64,
    y: impl Fn(f64) -> f64,
) -> String {
    let mut text = String::new();
    let mut command = 'M';
    for (at, value) in times.iter().zip(values) {
        let Some(value) = value else {
            command = 'M';
            continue;
        };
        write!(text, "{command}{:.1} {:.1}", x(at), y(*value)).ok();
        command = 'L';
    }
    text
}

/// What the picture says, for those who do not see it.
fn summary(label: &str, unit: &str, series: &[Series], bands: &[Band]) -> String {
    let mut parts: Vec<String> = series
        .iter()
        .map(|series| {
            let last = series.values.iter().flatten().last().copied().unwrap_or_default();
            let highest = series
                .values
                .iter()
                .flatten()
                .fold(0.0_f64, |highest, value| highest.max(*value));
            format!("{}: {} now, {} at most", series.name, rate(last), rate(highest))
        })
        .collect();
    parts.extend(bands.iter().map(|band| band.label.clone()));
    format!("{label}, {unit}. {}", parts.join("; "))
}

fn classes(bands: &[Band]) -> Vec<&'static str> {
    let mut classes: Vec<_> = bands.iter().map(|band| band.class).collect();
    classes.sort_unstable();
    classes.dedup();
    classes
}

fn band_name(class: &str) -> &'static str {
    match class {
        "sql" => "database unavailable",
        _ => "Redis unavailable",
    }
}

/// The next of 1, 2, 5, 10, … that is not below a value.
fn nice(highest: f64) -> f64 {
    if highest <= 0.0 {
        return 1.0;
    }
    let magnitude = 10_f64.powf(highest.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0];
    let step = steps.iter().find(|step| **step * magnitude >= highest);
    step.unwrap_or(&10.0) * magnitude
}

fn clock_time(at: &DateTime<Utc>) -> String {
    at.format("%H:%M").to_string()
}

fn exact_time(at: &DateTime<Utc>) -> String {
    at.format("%m-%d %H:%M:%S").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_axis_ends_at_a_round_number() {
        for (highest, top) in [(0.0, 1.0), (0.03, 0.05), (1.2, 2.0), (4.9, 5.0), (51.0, 100.0)] {
            assert!((nice(highest) - top).abs() < 1e-9, "{highest}: {}", nice(highest));
        }
    }
}
