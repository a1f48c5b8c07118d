//! Who did what.

use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, grouped, short_id};

const FILTER: [(&str, &str, &str); 5] = [
    ("actor", "Actor", "user/01J…"),
    ("action", "Action", "queue."),
    ("target", "Target", "mail"),
    ("from", "From", "2026-11-30T08:00:00Z"),
    ("to", "Before", ""),
];

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let given: Vec<(&str, &str)> = FILTER
        .iter()
        .map(|(name, ..)| (*name, cx.query.get(name)))
        .collect();
    let mut parameters = given.clone();
    parameters.extend([("after", cx.query.get("after")), ("limit", "100")]);
    let audit = cx.get(&["v1", "audit"], &parameters).await;
    let content = html! {
        h1 { "Audit log" }
        form.row method="get" action=(cx.url(&["audit"])) role="search" aria-label="This list" {
            @for (name, label, example) in FILTER {
                (ui::field(label, "", &html! { input name=(name) id=[(name == "actor").then_some("filter")] value=(cx.query.get(name)) placeholder=(example) autocomplete="off"; }))
            }
            button { "Filter" }
        }
        (ui::shown(&audit, |found| {
            let next = found.text("next");
            let mut older = given.clone();
            older.push(("after", next));
            html! {
                div #entries data-live="rows" { (table(cx, found.list("entries"))) }
                (ui::pager((!next.is_empty()).then(|| cx.url_with(&["audit"], &older)).as_deref(), None))
            }
        }))
    };
    Ok(Page::new("audit", "Audit log", content))
}

fn table(cx: &Context, entries: &[Json]) -> Markup {
    if entries.is_empty() {
        return ui::nothing("No entries.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr { th scope="col" { "When" } th scope="col" { "Actor" } th scope="col" { "Action" } th scope="col" { "Target" } th.number scope="col" { "Count" } th scope="col" { "Details" } th scope="col" { "Request" } } }
            tbody { @for entry in entries { tr id=(format!("entry-{}", entry.text("id"))) data-row=(entry.text("id")) {
                td { (ui::time(entry.moment("at"))) }
                td title=(entry.text("actor")) { (actor(entry.text("actor"))) }
                td { a href=(cx.url_with(&["audit"], &[("action", entry.text("action"))])) { (entry.text("action")) } @if entry.get("finished") == &Json::Bool(false) { " " span.tag { "unfinished" } } }
                td.long { (target(cx, entry)) }
                td.number { @if let Some(count) = entry.get("count").as_count() { (grouped(count)) } }
                td.long { @if !entry.get("details").is_null() { code { (entry.get("details").to_string()) } } }
                td title=(entry.text("request_id")) { (short_id(entry.text("request_id"))) }
            } } }
        } }
    }
}

fn actor(actor: &str) -> String {
    match actor.split_once('/') {
        Some((kind, id)) => format!("{kind} {}", short_id(id)),
        None => actor.to_owned(),
    }
}

/// What was acted on, with a link where it has a page.
fn target(cx: &Context, entry: &Json) -> Markup {
    let target = entry.text("target");
    let section = match entry.text("action").split('.').next() {
        Some("queue") => "queues",
        Some("job" | "jobs") => "jobs",
        Some("schedule") => "schedules",
        Some("batch") => "batches",
        Some("webhook") => "webhooks",
        _ => "",
    };
    html! {
        @if target.is_empty() { (ui::absent()) }
        @else if section.is_empty() { (target) }
        @else { a href=(cx.url(&[section, target])) { (target) } }
    }
}
