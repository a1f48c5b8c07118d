//! What happened over time: jobs in and out, waits, and the outages of Redis and the database as bands behind them.

use chrono::{DateTime, TimeDelta, Utc};
use holdfast_core::clock;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::ui::{self, Band, Series, chart, grouped, seconds};

/// Spans that can be chosen: the value in the address, the name, and its length.
const SPANS: [(&str, &str, TimeDelta); 5] = [
    ("", "1 hour", TimeDelta::hours(1)),
    ("6h", "6 hours", TimeDelta::hours(6)),
    ("24h", "24 hours", TimeDelta::hours(24)),
    ("7d", "7 days", TimeDelta::days(7)),
    ("30d", "30 days", TimeDelta::days(30)),
];

/// The figures of the span that the address names, of all jobs or of one queue.
pub(super) async fn read(cx: &Context, queue: &str) -> Result<Json, Failure> {
    let to = clock::now();
    let from = (to - span(cx)).to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    let to = to.to_rfc3339_opts(chrono::SecondsFormat::Secs, true);
    cx.get(
        &["v1", "stats"],
        &[("from", &from), ("to", &to), ("queue", queue)],
    )
    .await
}

fn span(cx: &Context) -> TimeDelta {
    let wanted = cx.query.get("span");
    SPANS
        .iter()
        .find(|(value, ..)| *value == wanted)
        .map_or(TimeDelta::hours(1), |(.., span)| *span)
}

/// The section; nothing where the API keeps no figures.
pub(super) fn section(cx: &Context, path: &[&str], stats: &Result<Json, Failure>) -> Markup {
    if stats.as_ref().is_err_and(Failure::is_missing_route) {
        return html! {};
    }
    let current = cx.query.get("span");
    html! {
        section {
            div.title {
                h2 { "History" }
                nav.spans aria-label="Span" { @for (value, name, _) in SPANS {
                    a href=(cx.url_with(path, &[("span", value)])) aria-current=[(current == value).then_some("true")] { (name) }
                } }
            }
            div #history data-live { (ui::shown(stats, charts)) }
        }
    }
}

fn charts(stats: &Json) -> Markup {
    let step = stats.float("step_seconds").max(1.0);
    let Some(from) = stats.moment("from") else {
        return ui::nothing("There are no figures for this time yet.");
    };
    let series = stats.list("series").first().cloned().unwrap_or_default();
    let steps = series.list("completed").len();
    let times: Vec<DateTime<Utc>> = (0..steps)
        .map(|index| from + TimeDelta::milliseconds((index as f64 * step * 1_000.0) as i64))
        .collect();
    let rates = |name: &str| {
        values(series.list(name))
            .into_iter()
            .map(|count| Some(count? / step))
            .collect()
    };
    let bands = bands(stats);
    let total = series.get("total");
    let throughput = [
        line("enqueued", "waiting", rates("enqueued")),
        line("completed", "done", rates("completed")),
        line("failed", "failed", rates("failed")),
    ];
    let waits = [
        line("median", "done", values(series.get("wait_seconds").list("p50"))),
        line("95%", "waiting", values(series.get("wait_seconds").list("p95"))),
    ];
    html! {
        p.quiet {
            (grouped(total.count("enqueued"))) " enqueued, " (grouped(total.count("completed"))) " completed, "
            (grouped(total.count("failed"))) " attempts failed, " (grouped(total.count("discarded"))) " discarded. "
            @if let Some(wait) = total.get("wait_seconds").get("p95").as_float() { "95% began within " (seconds(wait)) ". " }
            @if let Some(run) = total.get("run_seconds").get("p95").as_float() { "95% ran " (seconds(run)) " at most." }
        }
        (chart("Jobs a second", "a second", &times, &throughput, &bands))
        (chart("Wait from due to start", "s", &times, &waits, &bands))
        (outages(stats))
    }
}

fn line(name: &'static str, class: &'static str, values: Vec<Option<f64>>) -> Series {
    Series { name, class, values }
}

fn values(items: &[Json]) -> Vec<Option<f64>> {
    items.iter().map(Json::as_float).collect()
}

fn bands(stats: &Json) -> Vec<Band> {
    let to = stats.moment("to").unwrap_or_else(clock::now);
    let band = |outage: &Json| {
        let from = outage.moment("from")?;
        let until = outage.moment("to").unwrap_or_else(|| clock::now().min(to));
        let is_redis = outage.text("dependency") == "redis";
        let name = if is_redis { "Redis" } else { "The database" };
        let label = format!(
            "{name} was unavailable ({}) for {}",
            outage.text("reason"),
            seconds((until - from).num_milliseconds() as f64 / 1_000.0)
        );
        Some(Band {
            label,
            class: if is_redis { "redis" } else { "sql" },
            from,
            to: until,
        })
    };
    stats.list("outages").iter().filter_map(band).collect()
}

/// The outages in words: what failed, how long, and that jobs went on.
fn outages(stats: &Json) -> Markup {
    let outages = stats.list("outages");
    html! {
        @if !outages.is_empty() {
            h3 { "Outages" }
            ul.outages { @for outage in outages {
                li {
                    strong { (if outage.text("dependency") == "redis" { "Redis" } else { "Database" }) }
                    " " (outage.text("reason").replace('_', " ")) ", " (ui::time(outage.moment("from")))
                    @if let Some(took) = ui::duration(outage.moment("from"), outage.moment("to")) { ", for " (took) } @else { ", and goes on" }
                    ", in " (ui::plural(outage.count("processes"), "process", "processes"))
                }
            } }
        }
    }
}
