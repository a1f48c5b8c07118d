//! The kinds of jobs, and a form that enqueues one.

use maud::{Markup, html};

use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, seconds};
use holdfast_http::Scope;

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let kinds = cx.get(&["v1", "kinds"], &[]).await?;
    let content = html! {
        h1 { "Kinds" }
        p.lead { "What a job can be. Kinds in Rust are part of the program; others were declared for pull workers." }
        @for kind in kinds.list("kinds") { (details(cx, kind)) }
    };
    Ok(Page::new("kinds", "Kinds", content))
}

fn details(cx: &Context, kind: &Json) -> Markup {
    let name = kind.text("kind");
    let retry = kind.get("retry");
    html! {
        details.section {
            summary {
                strong { (name) } " " span.quiet { "on " (kind.text("queue")) @if kind.flag("declared") { ", declared" } }
            }
            @if !kind.text("description").is_empty() { p { (kind.text("description")) } }
            dl.facts {
                (ui::fact("Queue", ui::queue_link(cx, kind.text("queue"))))
                (ui::fact("Timeout", seconds(kind.float("timeout_seconds"))))
                (ui::fact("Attempts", retry.get("max_attempts").brief()))
                (ui::fact("Delay", html! { (seconds(retry.float("base_seconds"))) " to " (seconds(retry.float("cap_seconds"))) }))
                @if !kind.list("redact").is_empty() { (ui::fact("Secret fields", kind.texts("redact").collect::<Vec<_>>().join(", "))) }
            }
            p {
                a href=(cx.url_with(&["jobs"], &[("q", &format!("kind:{name}"))])) { "Its jobs" }
                @if cx.viewer.may(Scope::Produce) { " · " a href=(cx.url_with(&["jobs", "new"], &[("kind", name)])) { "Enqueue one" } }
            }
            @if !kind.get("payload_schema").is_null() { details { summary { "Schema of its payload" } (ui::json_block(kind.get("payload_schema"), "Schema of the payload")) } }
            @if !kind.get("result_schema").is_null() { details { summary { "Schema of its result" } (ui::json_block(kind.get("result_schema"), "Schema of the result")) } }
        }
    }
}

/// The form for a new job.
pub(super) async fn enqueue_page(cx: &Context) -> Result<Page, Failure> {
    let kinds = cx.get(&["v1", "kinds"], &[]).await?;
    let wanted = cx.query.get("kind");
    let example = kinds
        .list("kinds")
        .iter()
        .find(|kind| kind.text("kind") == wanted)
        .and_then(|kind| kind.get("payload_schema").list("examples").first())
        .map_or_else(|| "{}".to_owned(), Json::pretty);
    let text = |name: &'static str| html! { input name=(name) autocomplete="off"; };
    let content = html! {
        p.crumbs { a href=(cx.url(&["jobs"])) { "Jobs" } }
        h1 { "New job" }
        form.stack method="post" action=(cx.url(&["jobs"])) {
            (ui::field("Kind", "", &html! {
                input name="kind" required list="kinds" value=(wanted) autocomplete="off";
                datalist #kinds { @for kind in kinds.list("kinds") { option value=(kind.text("kind")) {} } }
            }))
            (ui::field("Payload", "JSON.", &html! { textarea.code name="payload" rows="10" spellcheck="false" { (example) } }))
            (ui::field("Queue", "Empty: the kind's.", &text("queue")))
            (ui::field("Delay in seconds", "", &text("delay_seconds")))
            (ui::field("Priority", "", &html! { select name="priority" { @for choice in ["normal", "high", "low"] { option { (choice) } } } }))
            (ui::field("Attempts", "Empty: the kind's.", &text("max_attempts")))
            (ui::field("Unique key", "While a job with it has not ended, no second one is accepted.", &text("unique_key")))
            (ui::field("Limit key", "Whose limits count, in a queue with limits by key.", &text("limit_key")))
            (ui::field("Tags", "Words by which the job is found, between commas or spaces; 8 at most.", &text("tags")))
            button.primary { "Enqueue" }
        }
    };
    Ok(Page::new("jobs", "New job", content))
}
