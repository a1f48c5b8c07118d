//! Jobs as rows of a table.

use maud::{Markup, html};

use super::filter::quoted;
use crate::context::Context;
use crate::json::Json;
use crate::ui;

/// The table; with boxes to select jobs where `selectable`.
pub(super) fn table(cx: &Context, jobs: &[Json], selectable: bool) -> Markup {
    if jobs.is_empty() {
        return ui::nothing("No jobs.");
    }
    html! {
        div.scroll { table data-rows {
            thead { tr {
                @if selectable { th.select scope="col" { input type="checkbox" hidden data-select-all aria-label="Select all"; } }
                th scope="col" { "Job" }
                th scope="col" { "State" }
                th scope="col" { "Kind" }
                th scope="col" { "Queue" }
                th.number scope="col" { "Attempt" }
                th scope="col" { "When" }
                th scope="col" { "Payload or error" }
            } }
            tbody { @for job in jobs { (row(cx, job, selectable)) } }
        } }
    }
}

fn row(cx: &Context, job: &Json, selectable: bool) -> Markup {
    let id = job.text("id");
    html! {
        tr id=(format!("job-{id}")) data-row=(id) {
            @if selectable { td.select { input type="checkbox" name="id" value=(id) aria-label=(format!("Select job {id}")); } }
            td { a.id href=(cx.url(&["jobs", id])) title=(id) data-open { (ui::short_id(id)) } }
            td { (ui::state(job.text("state"))) @if job.flag("cancel_requested") && job.text("state") == "running" { " " span.tag { "stopping" } } }
            td { (job.text("kind")) " " (tags(cx, job)) }
            td { (ui::queue_link(cx, job.text("queue"))) }
            td.number { (job.get("attempt").brief()) "/" (job.get("max_attempts").brief()) }
            td { (when(job)) }
            td.long { (content(job)) }
        }
    }
}

/// Its tags, each with the jobs that have it too.
pub(super) fn tags(cx: &Context, job: &Json) -> Markup {
    html! { @for tag in job.texts("tags") {
        a.tag href=(cx.url_with(&["jobs"], &[("q", &format!("tag:{}", quoted(tag)))])) { (tag) } " "
    } }
}

/// The time that counts in the job's state.
fn when(job: &Json) -> Markup {
    let (word, field) = match job.text("state") {
        "scheduled" | "retryable" => ("due", "run_at"),
        "running" => ("began", "started_at"),
        "available" => ("since", "run_at"),
        _ => ("", "finished_at"),
    };
    html! { @if !word.is_empty() { span.quiet { (word) " " } } (ui::time(job.moment(field))) }
}

/// The last error where there is one, else the payload.
fn content(job: &Json) -> Markup {
    let error = job
        .list("errors")
        .last()
        .or_else(|| Some(job.get("last_error")).filter(|error| !error.is_null()));
    let shows_error = matches!(
        job.text("state"),
        "retryable" | "discarded" | "available" | "running"
    );
    if let Some(error) = error.filter(|_| shows_error) {
        let text = error.as_text().unwrap_or_else(|| error.text("message"));
        return html! { span.error { (short(text)) } };
    }
    html! { code { (short(&job.get("payload").brief())) } }
}

/// The start of a text that may have megabytes.
fn short(text: &str) -> String {
    const MOST: usize = 160;
    let mut chars = text.chars();
    let mut start: String = chars.by_ref().take(MOST).collect();
    if chars.next().is_some() {
        start.push('…');
    }
    start
}
