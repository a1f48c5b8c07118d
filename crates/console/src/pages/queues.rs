//! All queues.

use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, rate, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let queues = cx.get(&["v1", "queues"], &[]).await?;
    let content = html! {
        h1 { "Queues" }
        div #queues data-live { (table(cx, &queues)) }
    };
    Ok(Page::new("queues", "Queues", content))
}

/// The queues, those with jobs first.
pub(super) fn table(cx: &Context, queues: &Json) -> Markup {
    let mut rows: Vec<&Json> = queues.list("queues").iter().collect();
    let work = |queue: &Json| queue.get("depth").count("available") + queue.get("depth").count("running");
    rows.sort_by(|a, b| {
        work(b)
            .cmp(&work(a))
            .then_with(|| a.text("name").cmp(b.text("name")))
    });
    html! {
        div.scroll { table data-rows {
            thead { tr {
                th scope="col" { "Queue" }
                th.number scope="col" { "Waiting" }
                th.number scope="col" { "Running" }
                th.number scope="col" { "Scheduled" }
                th.number scope="col" { "To retry" }
                th.number scope="col" { "Dead" }
                th.number scope="col" { "Oldest" }
                th.number scope="col" { "Done/s" }
                th.number scope="col" { "Drained in" }
                th.number scope="col" { "Workers" }
                th scope="col" { span.unseen { "Action" } }
            } }
            tbody { @for queue in rows { (row(cx, queue)) } }
        } }
    }
}

fn row(cx: &Context, queue: &Json) -> Markup {
    let name = queue.text("name");
    let depth = queue.get("depth");
    let workers = queue.get("rates").count("workers");
    let jobs = |state: &str| cx.url_with(&["jobs"], &[("q", &format!("queue:{name} state:{state}"))]);
    let is_idle = workers == 0 && depth.count("available") > 0;
    html! {
        tr {
            td {
                a href=(cx.url(&["queues", name])) data-open { (name) }
                @if queue.flag("paused") { " " (ui::state("paused")) }
                @if queue.text("durability") == "redis" { " " span.tag { "redis" } }
                @if queue.text("served_by") == "pull" { " " span.tag { "pull" } }
            }
            td.number { (ui::count_link(depth.count("available"), &jobs("available"))) }
            td.number { (ui::count_link(depth.count("running"), &jobs("running"))) }
            td.number { (ui::count_link(depth.count("scheduled"), &jobs("scheduled"))) }
            td.number { (ui::count_link(depth.count("retryable"), &jobs("retryable"))) }
            td.number { (ui::count_link(depth.count("discarded"), &cx.url_with(&["failures"], &[("queue", name)]))) }
            td.number { @if depth.count("available") > 0 { (seconds(queue.float("oldest_age_seconds"))) } @else { (ui::absent()) } }
            td.number { (rate(queue.get("rates").float("per_second"))) }
            td.number { (drained(queue)) }
            td.number class=[is_idle.then_some("bad")] { (ui::count(workers)) }
            td.act { (pause_button(cx, queue)) }
        }
    }
}

/// How long the waiting jobs take at the current rate.
pub(super) fn drained(queue: &Json) -> Markup {
    match queue.get("drain_seconds").as_float() {
        _ if queue.get("depth").count("available") == 0 => ui::absent(),
        Some(left) => html! { (seconds(left)) },
        None => html! { span.absent title="No job finishes now" { "?" } },
    }
}

pub(super) fn pause_button(cx: &Context, queue: &Json) -> Markup {
    if !cx.viewer.may(Scope::Admin) {
        return html! {};
    }
    let name = queue.text("name");
    if queue.flag("paused") {
        ui::button(cx, &["queues", name, "resume"], "Resume", "small", &[])
    } else {
        ui::button(cx, &["queues", name, "pause"], "Pause", "small", &[])
    }
}
