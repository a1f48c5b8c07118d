//! What the services say of themselves: database, Redis, workers, sessions; and Redis in figures, with advice.

use futures::join;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, grouped, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let (health, redis) = join!(cx.get(&["health"], &[]), cx.get(&["metrics", "redis"], &[]));
    let content = html! {
        h1 { "Health" }
        div #services data-live { (ui::shown(&health, services)) }
        section {
            h2 { "Redis" }
            div #redis data-live { (ui::shown(&redis, redis_report)) }
        }
    };
    Ok(Page::new("redis", "Health", content))
}

fn services(health: &Json) -> Markup {
    html! {
        p.standing {
            (ui::state(health.text("status")))
            " Version " (health.text("version")) ", up " (seconds(health.float("uptime_seconds"))) "."
        }
        div.cards { @for (name, service) in health.get("services").fields() {
            section.card {
                h2 { (name) " " (ui::state(service.text("status"))) }
                @if !service.text("error").is_empty() { p.error { (service.text("error")) } }
                @if !service.text("hint").is_empty() { p.quiet { (service.text("hint")) } }
                dl.facts.tight {
                    @if service.float("response_time_ms") > 0.0 { (ui::fact("Answered in", seconds(service.float("response_time_ms") / 1_000.0))) }
                    @for (detail, value) in plain(service) { (ui::fact(&detail.replace('_', " "), ui::or_absent(&value.brief()))) }
                }
                @for (detail, value) in nested(service) {
                    details { summary { (detail.replace('_', " ")) } (ui::json_block(value, detail)) }
                }
            }
        } }
    }
}

/// The details of a service that are one value.
fn plain(service: &Json) -> impl Iterator<Item = &(String, Json)> {
    let details = service.get("details").fields().iter();
    details.filter(|(_, value)| !matches!(value, Json::List(_) | Json::Object(_)))
}

/// Those that are more than one, and not empty.
fn nested(service: &Json) -> impl Iterator<Item = &(String, Json)> {
    let details = service.get("details").fields().iter();
    details.filter(|(_, value)| !value.items().is_empty() || !value.fields().is_empty())
}

fn redis_report(report: &Json) -> Markup {
    html! {
        p.standing { (ui::state(report.text("status"))) @if !report.text("error").is_empty() { " " (report.text("error")) } }
        @if !report.text("hint").is_empty() { p.quiet { (report.text("hint")) } }
        @if !report.list("advice").is_empty() {
            ul.faults { @for advice in report.list("advice") {
                li class=(if advice.text("severity") == "warning" { "warn" } else { "info" }) { (advice.text("message")) p.quiet { (advice.text("remedy")) } }
            } }
        }
        div.cards {
            (metrics("Queue", report.get("metrics")))
            @if !report.get("cache").is_null() { (metrics("Cache", report.get("cache"))) }
        }
    }
}

fn metrics(name: &str, metrics: &Json) -> Markup {
    let memory = metrics.get("memory");
    let megabytes = |field: &str| match memory.get(field).as_float() {
        Some(mb) => format!("{mb:.1} MB"),
        None => "–".to_owned(),
    };
    let performance = metrics.get("performance");
    html! {
        section.card {
            h2 { (name) }
            dl.facts.tight {
                (ui::fact("Memory", megabytes("used_mb")))
                (ui::fact("At most", megabytes("max_mb")))
                (ui::fact("Peak", megabytes("peak_mb")))
                (ui::fact("Fragmentation", ui::or_absent(&memory.get("fragmentation").brief())))
                (ui::fact("Clients", ui::or_absent(&metrics.get("connections").get("connected_clients").brief())))
                (ui::fact("Blocked", ui::or_absent(&metrics.get("connections").get("blocked_clients").brief())))
                @for (field, value) in metrics.get("connections").get("pool").fields() { (ui::fact(&format!("pool {}", field.replace('_', " ")), value.brief())) }
                (ui::fact("Commands a second", ui::or_absent(&performance.get("ops_per_sec").brief())))
                (ui::fact("Hit ratio of the cache", match performance.get("cache_hit_ratio").as_float() { Some(ratio) => format!("{:.0}%", ratio * 100.0), None => "–".to_owned() }))
                (ui::fact("Latency", match performance.get("latency_ms").as_float() { Some(ms) => seconds(ms / 1_000.0), None => "–".to_owned() }))
            }
            @if !metrics.get("queues").fields().is_empty() {
                h3 { "Waiting on Redis" }
                dl.facts.tight { @for (queue, length) in metrics.get("queues").fields() { (ui::fact(queue, grouped(length.as_count().unwrap_or_default()))) } }
            }
        }
    }
}
