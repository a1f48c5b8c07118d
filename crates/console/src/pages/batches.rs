//! Batches: jobs that were accepted together, and what has become of them.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::job_rows;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, duration, grouped, short_id};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let state = cx.query.get("state");
    let after = cx.query.get("after");
    let parameters = [("state", state), ("after", after), ("limit", super::jobs::PAGE)];
    let batches = cx.get(&["v1", "batches"], &parameters).await?;
    let next = batches.text("next");
    let url = |state: &str| cx.url_with(&["batches"], &[("state", state)]);
    let content = html! {
        h1 { "Batches" }
        nav.tabs aria-label="States" {
            @for (value, name) in [("", "All"), ("running", "Running"), ("ended", "Ended")] {
                a href=(url(value)) aria-current=[(state == value).then_some("page")] { (name) }
            }
        }
        div #batches data-live="rows" { (table(cx, batches.list("batches"))) }
        (ui::pager(
            (!next.is_empty()).then(|| cx.url_with(&["batches"], &[("state", state), ("after", next)])).as_deref(),
            (!after.is_empty()).then(|| url(state)).as_deref(),
        ))
    };
    Ok(Page::new("batches", "Batches", content))
}

fn table(cx: &Context, batches: &[Json]) -> Markup {
    if batches.is_empty() {
        return ui::nothing("No batches.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr {
                th scope="col" { "Batch" } th scope="col" { "Name" } th scope="col" { "State" } th scope="col" { "Progress" }
                th.number scope="col" { "Jobs" } th.number scope="col" { "Completed" } th.number scope="col" { "Discarded" }
                th.number scope="col" { "Cancelled" } th scope="col" { "Accepted" }
            } }
            tbody { @for batch in batches {
                @let id = batch.text("id");
                tr id=(format!("batch-{id}")) data-row=(id) {
                    td { a.id href=(cx.url(&["batches", id])) title=(id) data-open { (short_id(id)) } }
                    td.long { (ui::or_absent(batch.text("name"))) }
                    td { (ui::state(batch.text("state"))) }
                    td { (ui::bar(batch.float("percent") / 100.0, &format!("{} percent", batch.count("percent")))) " " (batch.count("percent")) "%" }
                    td.number { (ui::count(batch.count("total"))) }
                    td.number { (ui::count(batch.count("completed"))) }
                    td.number { (ui::count(batch.count("discarded"))) }
                    td.number { (ui::count(batch.count("cancelled"))) }
                    td { (ui::time(batch.moment("created_at"))) }
                }
            } }
        } }
    }
}

pub(super) async fn show(cx: &Context, id: &str) -> Result<Page, Failure> {
    let (batch, jobs) = join!(
        cx.get(&["v1", "batches", id], &[]),
        cx.get(&["v1", "jobs"], &[("batch", id), ("limit", super::jobs::PAGE)]),
    );
    let batch = batch?;
    let title = match batch.text("name") {
        "" => format!("Batch {}", short_id(id)),
        name => name.to_owned(),
    };
    let content = html! {
        p.crumbs { a href=(cx.url(&["batches"])) { "Batches" } }
        div.title {
            h1 { (title) }
            div #actions data-live {
                @if batch.text("state") == "running" && cx.viewer.may(Scope::Produce) {
                    (ui::button(cx, &["batches", id, "cancel"], "Cancel", "", &[]))
                }
            }
        }
        div #facts data-live { (facts(cx, &batch)) }
        section {
            h2 { "Jobs" }
            div #jobs data-live { (ui::shown(&jobs, |page| job_rows::table(cx, page.list("jobs"), false))) }
            p { a href=(cx.url_with(&["jobs"], &[("q", &format!("batch:{id}"))])) { "All jobs of this batch" } }
        }
    };
    Ok(Page::new("batches", title, content))
}

fn facts(cx: &Context, batch: &Json) -> Markup {
    let id = batch.text("id");
    let count = |state: &str| {
        let url = cx.url_with(&["jobs"], &[("q", &format!("batch:{id} state:{state}"))]);
        ui::count_link(batch.count(state), &url)
    };
    let callback = batch.get("callback");
    html! {
        p.standing {
            (ui::state(batch.text("state"))) " "
            (batch.count("percent")) "% of " (grouped(batch.count("total"))) " jobs have ended"
            @if batch.flag("cancel_requested") { "; it was cancelled" } "."
            (ui::bar(batch.float("percent") / 100.0, "Progress"))
        }
        dl.facts {
            (ui::fact("Id", html! { code { (id) } }))
            (ui::fact("Completed", count("completed")))
            (ui::fact("Discarded", count("discarded")))
            (ui::fact("Cancelled", count("cancelled")))
            (ui::fact("Pending", html! { (ui::count(batch.count("pending"))) }))
            @for (state, waiting) in batch.get("progress").fields() { (ui::fact(state, waiting.brief())) }
            (ui::fact("Accepted", ui::time(batch.moment("created_at"))))
            (ui::fact("Ended", ui::time(batch.moment("ended_at"))))
            @if let Some(took) = duration(batch.moment("created_at"), batch.moment("ended_at")) { (ui::fact("Took", took)) }
            @if !callback.is_null() {
                (ui::fact("Callback", html! { (callback.text("kind")) " on " (ui::queue_link(cx, callback.text("queue"))) " " (ui::job_link(cx, callback.text("id"))) }))
            }
        }
    }
}
