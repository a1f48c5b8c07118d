//! Charts as SVG.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};

use super::super::history::Span;
use super::super::sample::TargetState;
use super::escaped;

const WIDTH: f64 = 580.0;
const HEIGHT: f64 = 190.0;
/// Room for the numbers to the left and the times below.
const LEFT: f64 = 52.0;
const BOTTOM: f64 = 22.0;
const TOP: f64 = 8.0;

/// Points of one line. More than pixels would only make the file longer.
const MOST_POINTS: usize = 1_000;
/// Two neighbours further apart than this many usual steps are not joined: nothing is known between them.
const GAP_STEPS: f64 = 3.5;

const COLOURS: [&str; 6] = ["#2f7d5b", "#3567b5", "#b4572e", "#7a4fa3", "#98791c", "#a33a5a"];

pub(super) type Range = Option<(DateTime<Utc>, DateTime<Utc>)>;

pub(super) struct Series {
    pub(super) name: String,
    pub(super) points: Vec<(DateTime<Utc>, f64)>,
}

pub(super) struct Chart<'a> {
    pub(super) title: &'a str,
    pub(super) unit: &'a str,
    pub(super) series: Vec<Series>,
}

impl Chart<'_> {
    /// Against the whole range, the times that were not healthy shaded.
    pub(super) fn draw<'s>(&self, range: Range, spans: impl Iterator<Item = &'s Span>) -> String {
        let values = || {
            self.series
                .iter()
                .flat_map(|series| &series.points)
                .map(|(_, value)| *value)
        };
        let title = escaped(self.title);
        let (Some((from, until)), Some(highest)) = (range, values().reduce(f64::max)) else {
            return format!(
                "<figure><figcaption>{title}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
                 aria-label=\"{title}\"><text class=\"none\" x=\"50%\" y=\"50%\">not known</text></svg></figure>"
            );
        };
        let top = round_up(highest);
        let scale = Scale {
            from,
            seconds: (until - from).as_seconds_f64().max(0.001),
            top,
        };
        let mut inner = shades(spans, &scale);
        inner.push_str(&axes(&scale, until, self.unit));
        for (index, series) in self.series.iter().enumerate() {
            let _ = write!(
                inner,
                "<path class=\"line\" stroke=\"{}\" d=\"{}\"/>",
                COLOURS[index % COLOURS.len()],
                path(&series.points, &scale)
            );
        }
        format!(
            "<figure><figcaption>{title}{}</figcaption><svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" role=\"img\" \
             aria-label=\"{title}\">{inner}</svg></figure>",
            self.legend()
        )
    }

    fn legend(&self) -> String {
        let named = self
            .series
            .iter()
            .enumerate()
            .filter(|(_, series)| !series.name.is_empty());
        let entry = |(index, series): (usize, &Series)| {
            let colour = COLOURS[index % COLOURS.len()];
            format!(" <i style=\"color:{colour}\">■ {}</i>", escaped(&series.name))
        };
        named.map(entry).collect()
    }
}

struct Scale {
    from: DateTime<Utc>,
    seconds: f64,
    top: f64,
}

impl Scale {
    fn x(&self, at: DateTime<Utc>) -> f64 {
        LEFT + (at - self.from).as_seconds_f64() / self.seconds * (WIDTH - LEFT - 4.0)
    }

    fn y(&self, value: f64) -> f64 {
        HEIGHT - BOTTOM - value / self.top * (HEIGHT - BOTTOM - TOP)
    }
}

fn path(points: &[(DateTime<Utc>, f64)], scale: &Scale) -> String {
    let every = points.len().div_ceil(MOST_POINTS).max(1);
    let kept: Vec<_> = points.iter().step_by(every).collect();
    let gap = usual_step(&kept) * GAP_STEPS;
    let mut path = String::new();
    let mut before: Option<DateTime<Utc>> = None;
    for (at, value) in kept {
        let joined = before.is_some_and(|before| (*at - before).as_seconds_f64() <= gap);
        let command = if joined { 'L' } else { 'M' };
        let _ = write!(path, "{command}{:.1} {:.1}", scale.x(*at), scale.y(*value));
        if !joined {
            // A point that stands alone is still seen.
            path.push_str("h.1");
        }
        before = Some(*at);
    }
    path
}

/// The median of the steps between neighbours, in seconds.
fn usual_step(points: &[&(DateTime<Utc>, f64)]) -> f64 {
    let mut steps: Vec<f64> = points
        .windows(2)
        .map(|pair| (pair[1].0 - pair[0].0).as_seconds_f64())
        .collect();
    steps.sort_by(f64::total_cmp);
    steps.get(steps.len() / 2).copied().unwrap_or(f64::MAX)
}

fn axes(scale: &Scale, until: DateTime<Utc>, unit: &str) -> String {
    let mut svg = String::new();
    for part in [0.0, 0.5, 1.0] {
        let (value, y) = (scale.top * part, scale.y(scale.top * part));
        let _ = write!(
            svg,
            "<path class=\"grid\" d=\"M{LEFT} {y:.1}H{WIDTH}\"/><text class=\"y\" x=\"{:.0}\" y=\"{:.1}\">{}</text>",
            LEFT - 6.0,
            y + 4.0,
            number(value)
        );
    }
    let baseline = HEIGHT - 6.0;
    let clock = |at: DateTime<Utc>| at.format("%H:%M:%S").to_string();
    let _ = write!(
        svg,
        "<text class=\"x\" x=\"{LEFT}\" y=\"{baseline}\">{}</text><text class=\"x end\" x=\"{WIDTH}\" y=\"{baseline}\">{}</text>\
         <text class=\"unit\" x=\"{:.0}\" y=\"{baseline}\">{}</text>",
        clock(scale.from),
        clock(until),
        f64::midpoint(LEFT, WIDTH),
        escaped(unit)
    );
    svg
}

fn shades<'s>(spans: impl Iterator<Item = &'s Span>, scale: &Scale) -> String {
    let ill = spans.filter(|span| span.standing != TargetState::Healthy);
    let shade = |span: &Span| {
        let (x, end) = (scale.x(span.from).max(LEFT), scale.x(span.until));
        format!(
            "<rect class=\"{}\" x=\"{x:.1}\" y=\"{TOP}\" width=\"{:.1}\" height=\"{:.1}\"/>",
            span.standing.as_str(),
            (end - x).max(1.0),
            HEIGHT - BOTTOM - TOP
        )
    };
    ill.map(shade).collect()
}

/// The mode over the whole time, as one strip.
pub(super) fn strip<'s>(spans: impl Iterator<Item = &'s Span>) -> String {
    const LENGTH: f64 = 1_180.0;
    let spans: Vec<&Span> = spans.collect();
    let (Some(first), Some(last)) = (spans.first(), spans.last()) else {
        return String::new();
    };
    let seconds = (last.until - first.from).as_seconds_f64().max(0.001);
    let x = |at: DateTime<Utc>| (at - first.from).as_seconds_f64() / seconds * LENGTH;
    let part = |span: &&Span| {
        let mode = span.standing.as_str();
        format!(
            "<rect class=\"solid {mode}\" x=\"{:.1}\" y=\"0\" width=\"{:.1}\" height=\"26\"><title>{mode}</title></rect>",
            x(span.from),
            (x(span.until) - x(span.from)).max(1.0)
        )
    };
    let parts: String = spans.iter().map(part).collect();
    format!(
        "<svg class=\"strip\" viewBox=\"0 0 {LENGTH} 26\" preserveAspectRatio=\"none\" role=\"img\" aria-label=\"mode\">{parts}</svg>"
    )
}

/// 1, 2 or 5 times a power of ten, not below `value`.
fn round_up(value: f64) -> f64 {
    if value <= 0.0 {
        return 1.0;
    }
    let power = 10.0_f64.powf(value.log10().floor());
    let steps = [1.0, 2.0, 5.0, 10.0].map(|step| step * power);
    steps.into_iter().find(|step| *step >= value).unwrap_or(value)
}

/// As short as it can be said.
pub(super) fn number(value: f64) -> String {
    match value {
        value if value >= 1_000_000.0 => format!("{:.1}M", value / 1_000_000.0),
        value if value >= 10_000.0 => format!("{:.0}k", value / 1_000.0),
        value if value >= 10.0 || value.fract() == 0.0 => format!("{value:.0}"),
        value => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_axis_ends_at_a_round_number() {
        let rounded = [0.0, 0.3, 7.0, 12.0, 480.0, 1000.0].map(round_up);
        assert_eq!(format!("{rounded:?}"), "[1.0, 0.5, 10.0, 20.0, 500.0, 1000.0]");
        assert_eq!(
            [0.5, 2.0, 250.0, 12_000.0, 3e6].map(number),
            ["0.50", "2", "250", "12k", "3.0M"]
        );
    }

    #[test]
    fn a_line_breaks_where_nothing_is_known() {
        let start: DateTime<Utc> = "2027-01-31T09:00:00Z".parse().unwrap();
        let at = |second| start + chrono::TimeDelta::seconds(second);
        let points: Vec<_> = [0, 1, 2, 3, 20, 21, 22].map(|second| (at(second), 1.0)).to_vec();
        let scale = Scale {
            from: start,
            seconds: 22.0,
            top: 1.0,
        };
        assert_eq!(path(&points, &scale).matches('M').count(), 2);
    }
}
