//! Sources of events: when each was read, and what that gave.

use holdfast_http::Scope;
use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, seconds};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let after = cx.query.get("after");
    let sources = cx
        .get(&["v1", "sources"], &[("after", after), ("limit", "100")])
        .await?;
    let next = sources.text("next");
    let content = html! {
        h1 { "Sources" }
        p.lead { "Feeds and calendars from which events are read at set intervals." }
        div #sources data-live { (table(cx, sources.list("sources"))) }
        (ui::pager((!next.is_empty()).then(|| cx.url_with(&["sources"], &[("after", next)])).as_deref(), None))
    };
    Ok(Page::new("sources", "Sources", content))
}

fn table(cx: &Context, sources: &[Json]) -> Markup {
    if sources.is_empty() {
        return ui::nothing("No sources.");
    }
    html! {
        div.scroll tabindex="0" { table {
            thead { tr {
                th scope="col" { "Source" } th scope="col" { "State" } th scope="col" { "Last read" } th scope="col" { "Next" }
                th.number scope="col" { "New" } th.number scope="col" { "Changed" } th.number scope="col" { "Skipped" } th.number scope="col" { "Took" }
                th scope="col" { "Notes" } th scope="col" { span.unseen { "Action" } }
            } }
            tbody { @for source in sources { (row(cx, source)) } }
        } }
    }
}

fn row(cx: &Context, source: &Json) -> Markup {
    let run = source.get("last_run");
    let failures = source.count("consecutive_failures");
    html! { tr {
        td { strong { (source.text("name")) } br; span.quiet { (source.text("kind")) " " (source.text("url")) } }
        td {
            (ui::state(if source.flag("enabled") { "enabled" } else { "disabled" }))
            @if failures > 0 { " " span.error { (ui::plural(failures, "failure", "failures")) " in a row" } }
        }
        td { (ui::time(source.moment("last_run_at"))) }
        td { (ui::time(source.moment("next_run_at"))) }
        td.number { (ui::count(run.count("inserted"))) }
        td.number { (ui::count(run.count("changed"))) }
        td.number { (ui::count(run.count("skipped"))) }
        td.number { @if run.is_null() { (ui::absent()) } @else { (seconds(run.float("took_ms") / 1_000.0)) } }
        td.long {
            @if !run.text("error").is_empty() { span.error { (run.text("error")) } }
            @if !run.list("notes").is_empty() { details { summary { (ui::plural(run.list("notes").len() as u64, "note", "notes")) } (ui::json_block(run.get("notes"), "Notes")) } }
        }
        td.act { @if cx.viewer.may(Scope::Produce) { (ui::button(cx, &["sources", source.text("id"), "discover"], "Read now", "small", &[])) } }
    } }
}
