//! One job: what it is, what happened to it, why it waits, and what can be done.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use crate::actions::operation_key;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, duration, seconds, short_id};

pub(super) async fn page(cx: &Context, id: &str) -> Result<Page, Failure> {
    let (job, queues, standing) = join!(
        cx.get(&["v1", "jobs", id], &[]),
        cx.get(&["v1", "queues"], &[]),
        cx.get(&["v1", "jobs", id, "why"], &[]),
    );
    let job = job?;
    let queues = queues.unwrap_or_default();
    let id = job.text("id");
    let content = html! {
        p.crumbs { a href=(cx.url(&["jobs"])) { "Jobs" } }
        div.title {
            h1 { (job.text("kind")) " " span.id title=(id) { (short_id(id)) } }
            div #actions data-live { (actions(cx, &job)) }
        }
        div #state data-live { (state(cx, &job, &queues, standing.as_ref().ok())) }
        div #facts data-live { (facts(cx, &job)) }
        div #content data-live {
            @if !job.get("progress").is_null() {
                section { h2 { "Progress" } (progress(job.get("progress"))) }
            }
            section { h2 { "Payload" } (ui::json_block(job.get("payload"), "Payload")) }
            @if !job.get("result").is_null() {
                section { h2 { "Result" } (ui::json_block(job.get("result"), "Result")) }
            }
            section { h2 { "Attempts" } (attempts(cx, &job)) }
            @if !job.get("then").is_null() {
                section { h2 { "Then" } p.quiet { "Enqueued when this job completes." } (ui::json_block(job.get("then"), "Follow-up job")) }
            }
        }
        (rerun(cx, &job))
        (copies(&job))
    };
    Ok(Page::new(
        "jobs",
        format!("{} {}", job.text("kind"), short_id(id)),
        content,
    ))
}

fn actions(cx: &Context, job: &Json) -> Markup {
    let id = job.text("id");
    let is_final = matches!(job.text("state"), "completed" | "discarded" | "cancelled");
    html! {
        @if cx.viewer.may(Scope::Produce) {
            @if !is_final { (ui::button(cx, &["jobs", id, "cancel"], "Cancel", "", &[])) }
            @if matches!(job.text("state"), "discarded" | "cancelled" | "scheduled" | "retryable") {
                (ui::button(cx, &["jobs", id, "retry"], if job.text("state") == "discarded" { "Retry" } else { "Run now" }, "primary", &[]))
            }
        }
        @if job.text("state") == "discarded" && cx.viewer.may(Scope::Admin) {
            (ui::button(cx, &["failures", "delete"], "Delete", "danger", &[("id", id)]))
        }
    }
}

fn state(cx: &Context, job: &Json, queues: &Json, standing: Option<&Json>) -> Markup {
    html! {
        p.standing {
            (ui::state(job.text("state"))) " "
            @match job.text("state") {
                "available" => { "Due since " (ui::time(job.moment("run_at"))) ". " @if standing.is_none() { (why(cx, job, queues)) } }
                "scheduled" => { "Due " (ui::time(job.moment("run_at"))) "." }
                "retryable" => { "Attempt " (job.get("attempt").brief()) " failed; the next is due " (ui::time(job.moment("run_at"))) "." }
                "running" => {
                    "Began " (ui::time(job.moment("started_at")))
                    @if job.flag("cancel_requested") { "; it was asked to stop" } "."
                }
                _ => {
                    "Ended " (ui::time(job.moment("finished_at")))
                    @if let Some(took) = duration(job.moment("started_at"), job.moment("finished_at")) { ", after " (took) } "."
                }
            }
        }
        @if let Some(standing) = standing { (reasons(cx, standing)) }
    }
}

/// Why the job is where it is, as the API says it; the reason that decides stands first.
fn reasons(cx: &Context, standing: &Json) -> Markup {
    html! {
        @if !standing.list("reasons").is_empty() {
            ul.faults.why { @for reason in standing.list("reasons") {
                li class=(if matches!(reason.text("code"), "ready" | "running" | "due_later" | "jobs_ahead") { "info" } else { "warn" }) {
                    (reason.text("message"))
                    @if reason.get("until").as_moment().is_some() { " " span.quiet { "Until " (ui::time(reason.moment("until"))) } }
                    @if !reason.list("holders").is_empty() { p.quiet { "Held by " @for holder in reason.texts("holders") { (ui::job_link(cx, holder)) " " } } }
                }
            } }
        }
    }
}

/// Why a job that is due has not begun, of an API that does not say it.
fn why(cx: &Context, job: &Json, queues: &Json) -> Markup {
    let queue = queues
        .list("queues")
        .iter()
        .find(|queue| queue.text("name") == job.text("queue"));
    let Some(queue) = queue else {
        return html! {};
    };
    let limits = queue.get("limits");
    let is_limited = ["max_running", "rate", "key_max_running", "key_rate"]
        .iter()
        .any(|name| !limits.get(name).is_null());
    html! {
        @if queue.flag("paused") { "Its queue " (ui::queue_link(cx, job.text("queue"))) " is paused." }
        @else if queue.get("rates").count("workers") == 0 { "No worker serves its queue " (ui::queue_link(cx, job.text("queue"))) "." }
        @else {
            (ui::plural(queue.get("depth").count("available"), "job waits", "jobs wait")) " in its queue"
            @if let Some(drain) = queue.get("drain_seconds").as_float() { ", which would take " (seconds(drain)) }
            "."
            @if is_limited { " The queue has limits." }
        }
    }
}

fn facts(cx: &Context, job: &Json) -> Markup {
    let link = |section: &str, id: &str| html! { @if id.is_empty() { (ui::absent()) } @else { a.id href=(cx.url(&[section, id])) { (short_id(id)) } } };
    html! {
        dl.facts {
            (ui::fact("Id", html! { code { (job.text("id")) } }))
            (ui::fact("Queue", ui::queue_link(cx, job.text("queue"))))
            (ui::fact("Attempt", html! { (job.get("attempt").brief()) " of " (job.get("max_attempts").brief()) @if job.count("crashes") > 0 { ", " (ui::plural(job.count("crashes"), "crash", "crashes")) } }))
            (ui::fact("Priority", ui::or_absent(job.text("priority"))))
            (ui::fact("Accepted", ui::time(job.moment("created_at"))))
            (ui::fact("Due", ui::time(job.moment("run_at"))))
            (ui::fact("Began", ui::time(job.moment("started_at"))))
            (ui::fact("Ended", ui::time(job.moment("finished_at"))))
            (ui::fact("Timeout", seconds(job.float("timeout_seconds"))))
            (ui::fact("Stored in", if job.text("durability") == "redis" { "Redis" } else { "the database" }))
            (ui::fact("Worker", html! { @if job.text("worker").is_empty() { (ui::absent()) } @else { a.id href=(cx.url(&["workers", job.text("worker")])) { (short_id(job.text("worker"))) } } }))
            @if !job.text("unique_key").is_empty() { (ui::fact("Unique key", html! { code { (job.text("unique_key")) } })) }
            @if !job.text("limit_key").is_empty() { (ui::fact("Limit key", html! { code { (job.text("limit_key")) } })) }
            @if !job.list("tags").is_empty() { (ui::fact("Tags", html! { @for tag in job.texts("tags") { span.tag { (tag) } " " } })) }
            @if !job.text("enqueued_by").is_empty() { (ui::fact("Enqueued by", job.text("enqueued_by"))) }
            @if !job.text("batch").is_empty() { (ui::fact("Batch", link("batches", job.text("batch")))) }
            @if !job.text("callback_of").is_empty() { (ui::fact("Callback of", link("batches", job.text("callback_of")))) }
            @if !job.text("parent").is_empty() { (ui::fact("Parent", link("jobs", job.text("parent")))) }
            @if !job.text("child").is_empty() { (ui::fact("Followed by", link("jobs", job.text("child")))) }
            @if !job.get("expires_at").is_null() { (ui::fact("Expires", ui::time(job.moment("expires_at")))) }
        }
    }
}

/// What the handler reported: a bar where it has a percentage.
fn progress(progress: &Json) -> Markup {
    let percent = progress.get("percent").as_float().or_else(|| progress.as_float());
    html! {
        @if let Some(percent) = percent { (ui::bar(percent / 100.0, &format!("{percent} percent"))) }
        (ui::json_block(progress, "Progress"))
    }
}

fn attempts(cx: &Context, job: &Json) -> Markup {
    let errors = job.list("errors");
    html! {
        @if errors.is_empty() { (ui::nothing("No attempt has failed.")) }
        @else {
            div.scroll { table {
                thead { tr { th.number scope="col" { "Attempt" } th scope="col" { "When" } th scope="col" { "Class" } th scope="col" { "Error" } th scope="col" { "Worker" } } }
                tbody { @for error in errors.iter().rev() { tr {
                    td.number { (error.get("attempt").brief()) }
                    td { (ui::time(error.moment("at"))) }
                    td { span.tag { (error.text("class")) } }
                    td.whole { pre.error { (error.text("message")) } }
                    td { @if error.text("worker").is_empty() { (ui::absent()) } @else { a.id href=(cx.url(&["workers", error.text("worker")])) { (short_id(error.text("worker"))) } } }
                } } }
            } }
        }
    }
}

/// A dead letter may run again with another payload; any other job is enqueued once more.
fn rerun(cx: &Context, job: &Json) -> Markup {
    let is_hidden = job.get("payload").as_text() == Some("[redacted]");
    let is_dead = job.text("state") == "discarded";
    if is_hidden || !cx.viewer.may(if is_dead { Scope::Admin } else { Scope::Produce }) {
        return html! {};
    }
    let payload =
        html! { textarea.code name="payload" rows="8" spellcheck="false" { (job.get("payload").pretty()) } };
    html! {
        details.section {
            summary { @if is_dead { "Run it again with another payload" } @else { "Enqueue it once more" } }
            @if is_dead {
                form.stack method="post" action=(cx.url(&["failures", "redrive"])) {
                    input type="hidden" name="id" value=(job.text("id"));
                    input type="hidden" name="step" value="do";
                    input type="hidden" name="op" value=(operation_key());
                    (ui::field("Payload", "JSON. The job keeps its id and its errors.", &payload))
                    button.primary { "Run again" }
                }
            } @else {
                form.stack method="post" action=(cx.url(&["jobs", job.text("id"), "rerun"])) {
                    input type="hidden" name="op" value=(operation_key());
                    (ui::field("Payload", "JSON. A new job is made, without the unique key of this one.", &payload))
                    button.primary { "Enqueue" }
                }
            }
        }
    }
}

/// The same job as commands.
fn copies(job: &Json) -> Markup {
    if job.get("payload").as_text() == Some("[redacted]") {
        return html! {};
    }
    let payload = job.get("payload").to_string();
    let quoted = |text: &str| format!("'{}'", text.replace('\'', r"'\''"));
    let body = format!(
        "{{\"kind\":{},\"queue\":{},\"payload\":{payload}}}",
        job.get("kind"),
        job.get("queue")
    );
    let curl = format!(
        "curl -s \"$HOLDFAST_URL/v1/jobs\" -H \"authorization: Bearer $HOLDFAST_API_KEY\" -H 'content-type: application/json' -d {}",
        quoted(&body)
    );
    let cli = format!(
        "holdfast jobs enqueue {} {} --queue {}",
        quoted(job.text("kind")),
        quoted(&payload),
        quoted(job.text("queue"))
    );
    html! {
        details.section {
            summary { "As commands" }
            @for (label, text) in [("curl", curl), ("holdfast", cli)] {
                div.code {
                    button.copy.small type="button" hidden data-copy { "Copy" }
                    pre tabindex="0" aria-label=(label) { code { (text) } }
                }
            }
        }
    }
}
