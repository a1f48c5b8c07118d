//! The report: one HTML document that opens offline. Charts are drawn as SVG here; there is no script in it.

use std::fmt::Write as _;

use chrono::{DateTime, Utc};
use holdfast_core::clock;

use super::Watch;
use super::alerts::{Notice, NoticeKind};
use super::history::Span;
use super::sample::{Sample, TargetState};

mod svg;

use svg::{Chart, Series};

/// Lines of one chart. More queues than colours would say nothing.
const MOST_LINES: usize = 6;

pub(super) fn html(watch: &Watch) -> String {
    let mut body = String::new();
    body.push_str(&head(watch));
    body.push_str(&timeline(watch));
    body.push_str(&alerts(&watch.notices));
    body.push_str(&charts(watch));
    let title = escaped(&watch.target);
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><title>Holdfast: {title}</title>\
         <style>{}</style></head><body><main>{body}</main></body></html>\n",
        include_str!("report.css")
    )
}

fn head(watch: &Watch) -> String {
    let samples = watch.history.samples();
    let (Some(first), Some(last)) = (samples.front(), samples.back()) else {
        return format!("<h1>{}</h1><p>Nothing was seen.</p>", escaped(&watch.target));
    };
    let seconds = (last.at - first.at).as_seconds_f64();
    let alerts = watch
        .notices
        .iter()
        .filter(|notice| notice.kind == NoticeKind::Alert)
        .count();
    let tiles = [
        ("at the end", last.standing.as_str().to_owned()),
        ("healthy", format!("{:.1} %", healthy_share(watch) * 100.0)),
        ("alerts", alerts.to_string()),
        ("most jobs/s", most(watch, |sample| sample.throughput)),
        ("deepest backlog", most(watch, Sample::total_depth)),
        ("slowest /health", most(watch, |sample| sample.latency_ms) + " ms"),
    ];
    let tile = |(name, value): &(&str, String)| {
        let value = escaped(value);
        format!("<div class=\"tile\"><b>{value}</b><span>{name}</span></div>")
    };
    let tiles: String = tiles.iter().map(tile).collect();
    format!(
        "<h1>{}</h1><p>{} to {}, {} ({} samples). Times are UTC. Written {} by holdfast {}.</p><div class=\"tiles\">{tiles}</div>",
        escaped(&watch.target),
        stamp(first.at),
        stamp(last.at),
        lasted(seconds),
        samples.len(),
        stamp(clock::now()),
        env!("CARGO_PKG_VERSION"),
    )
}

fn most(watch: &Watch, value: impl Fn(&Sample) -> Option<f64>) -> String {
    let values = watch.history.samples().iter().filter_map(value);
    values
        .reduce(f64::max)
        .map_or_else(|| "–".to_owned(), svg::number)
}

fn healthy_share(watch: &Watch) -> f64 {
    let length = |span: &Span| (span.until - span.from).as_seconds_f64();
    let total: f64 = watch.history.spans().iter().map(length).sum();
    let healthy = watch
        .history
        .spans()
        .iter()
        .filter(|span| span.standing == TargetState::Healthy);
    if total > 0.0 {
        healthy.map(length).sum::<f64>() / total
    } else {
        0.0
    }
}

/// A strip of colours, and the same as a table.
fn timeline(watch: &Watch) -> String {
    let spans = watch.history.spans();
    let mut html = String::from("<h2>Mode</h2>");
    html.push_str(&svg::strip(spans.iter()));
    html.push_str(
        "<table class=\"mode\"><tr><th>from</th><th>until</th><th>for</th><th>mode</th><th>why</th></tr>",
    );
    for span in spans {
        let _ = write!(
            html,
            "<tr><td>{}</td><td>{}</td><td>{}</td><td class=\"{mode}\">{mode}</td><td>{}</td></tr>",
            stamp(span.from),
            stamp(span.until),
            lasted((span.until - span.from).as_seconds_f64()),
            escaped(span.reason.as_deref().unwrap_or_default()),
            mode = span.standing.as_str(),
        );
    }
    html + "</table>"
}

fn alerts(notices: &[Notice]) -> String {
    if notices.is_empty() {
        return "<h2>Alerts</h2><p>None.</p>".to_owned();
    }
    let mut html = String::from(
        "<h2>Alerts</h2><table><tr><th>told</th><th></th><th>since</th><th>until</th><th>what</th></tr>",
    );
    for notice in notices {
        let word = match notice.kind {
            NoticeKind::Alert => notice.severity.as_str(),
            NoticeKind::Reminder => "reminder",
            NoticeKind::Recovery => "recovery",
        };
        let _ = write!(
            html,
            "<tr><td>{}</td><td class=\"{word}\">{word}</td><td>{}</td><td>{}</td><td>{}</td></tr>",
            stamp(notice.at),
            stamp(notice.since),
            notice.until.map(stamp).unwrap_or_default(),
            escaped(&notice.summary()),
        );
    }
    html + "</table>"
}

fn charts(watch: &Watch) -> String {
    let history = &watch.history;
    let one = |title, unit, value: &dyn Fn(&Sample) -> Option<f64>| Chart {
        title,
        unit,
        series: vec![Series {
            name: String::new(),
            points: history.series(value),
        }],
    };
    let share = |value: Option<f64>| value.map(|value| value * 100.0);
    let charts = [
        one("Throughput", "jobs/s", &|sample| sample.throughput),
        one("Latency of /health", "ms", &|sample| sample.latency_ms),
        Chart {
            title: "Waiting jobs by queue",
            unit: "jobs",
            series: depths(watch),
        },
        one("Workers alive", "", &|sample| {
            sample.workers.map(|count| count as f64)
        }),
        one("Database pool in use", "%", &|sample| share(sample.pool)),
        one("Redis memory", "MB", &|sample| sample.memory_mb),
        one("Cache hit ratio", "%", &|sample| share(sample.hit_ratio)),
        one("Dead letters", "jobs", &|sample| {
            sample.dead_letters.map(|count| count as f64)
        }),
    ];
    let samples = history.samples();
    let range = samples
        .front()
        .zip(samples.back())
        .map(|(first, last)| (first.at, last.at));
    let drawn: String = charts
        .iter()
        .map(|chart| chart.draw(range, history.spans().iter()))
        .collect();
    format!("<h2>Charts</h2><div class=\"charts\">{drawn}</div>")
}

/// The deepest queues, each a line.
fn depths(watch: &Watch) -> Vec<Series> {
    let mut deepest: std::collections::BTreeMap<&String, u64> = std::collections::BTreeMap::new();
    for (name, depth) in watch.history.samples().iter().flat_map(|sample| &sample.depth) {
        let most = deepest.entry(name).or_default();
        *most = (*most).max(*depth);
    }
    let mut names: Vec<(&String, u64)> = deepest.into_iter().collect();
    names.sort_by_key(|(_, most)| std::cmp::Reverse(*most));
    names.truncate(MOST_LINES);
    let line = |(name, _): (&String, u64)| Series {
        name: name.clone(),
        points: watch
            .history
            .series(|sample| sample.depth.get(name).map(|depth| *depth as f64)),
    };
    names.into_iter().map(line).collect()
}

/// To the millisecond, machine-readable in its attribute.
fn stamp(at: DateTime<Utc>) -> String {
    let exact = at.to_rfc3339_opts(chrono::SecondsFormat::Millis, true);
    format!(
        "<time datetime=\"{exact}\">{}</time>",
        at.format("%Y-%m-%d %H:%M:%S%.3f")
    )
}

fn lasted(seconds: f64) -> String {
    match seconds {
        seconds if seconds < 120.0 => format!("{seconds:.1} s"),
        seconds if seconds < 7_200.0 => format!("{:.0} min", seconds / 60.0),
        seconds => format!("{:.1} h", seconds / 3_600.0),
    }
}

/// Whatever a target says of itself is text here.
fn escaped(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use chrono::TimeDelta;

    use super::super::alerts::AlertBook;
    use super::super::history::History;
    use super::super::rules;
    use super::*;

    #[test]
    fn a_report_is_whole_whatever_the_target_says() {
        let rules = rules::parse("[[rule]]\nname = \"down\"\nmetric = \"up\"\nbelow = 1\n").unwrap();
        let mut watch = Watch {
            book: AlertBook::new(rules, "http://t".to_owned(), Duration::from_hours(1)),
            target: "http://t".to_owned(),
            history: History::default(),
            notices: Vec::new(),
        };
        assert!(html(&watch).contains("Nothing was seen"));
        let start: DateTime<Utc> = "2027-01-31T09:00:00Z".parse().unwrap();
        for second in 0..10_i64 {
            let mut sample = Sample::down(
                start + TimeDelta::seconds(second),
                "<script>alert(1)</script>".to_owned(),
            );
            if second < 5 {
                sample.standing = TargetState::Healthy;
                sample.throughput = Some(second as f64);
            }
            watch.history.push(sample);
            let news = watch.book.look(&watch.history);
            watch.remember(&news);
        }
        let report = html(&watch);
        assert!(!report.contains("<script"), "{report}");
        assert!(
            !report.contains("http://www.w3.org") && !report.contains("src="),
            "nothing is fetched"
        );
        assert!(report.contains("<time datetime=\"2027-01-31T09:00:05.000Z\">"));
        assert_eq!(report.matches("<svg").count(), 9);
        assert!(report.ends_with("</html>\n"));
    }
}
