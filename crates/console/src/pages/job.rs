//! One job: what it is, what happened to it, why it waits, and what can be done.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::filter::quoted;
use super::job_rows;
use crate::actions::operation_key;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, duration, seconds, short_id};

pub(super) async fn page(cx: &Context, id: &str) -> Result<Page, Failure> {
    let (job, queues, standing, history, log) = join!(
        cx.get(&["v1", "jobs", id], &[]),
        cx.get(&["v1", "queues"], &[]),
        cx.get(&["v1", "jobs", id, "why"], &[]),
        cx.get(&["v1", "jobs", id, "attempts"], &[]),
        cx.get(&["v1", "jobs", id, "log"], &[]),
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
            section { h2 { "Attempts" } (attempts(cx, &job, &history)) }
            (lines(&log))
            @if !job.get("then").is_null() {
                section { h2 { "Then" } p.quiet { "Enqueued when this job completes." } (ui::json_block(job.get("then"), "Follow-up job")) }
            }
        }
        (edit(cx, &job, &queues))
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
            @if !job.list("tags").is_empty() { (ui::fact("Tags", html! { (job_rows::tags(cx, job)) })) }
            @if !job.text("enqueued_by").is_empty() { (ui::fact("Enqueued by", html! { a href=(cx.url_with(&["jobs"], &[("q", &format!("by:{}", quoted(job.text("enqueued_by"))))])) { (job.text("enqueued_by")) } })) }
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

/// What the job has done, the newest first. An API that has no list of attempts has the errors of the failed ones.
fn attempts(cx: &Context, job: &Json, history: &Result<Json, Failure>) -> Markup {
    if history.as_ref().is_err_and(Failure::is_missing_route) {
        return table_of(cx, job.list("errors"));
    }
    ui::shown(history, |history| table_of(cx, history.list("attempts")))
}

fn table_of(cx: &Context, attempts: &[Json]) -> Markup {
    html! {
        @if attempts.is_empty() { (ui::nothing("It has not begun.")) }
        @else {
            div.scroll tabindex="0" { table {
                thead { tr { th.number scope="col" { "Attempt" } th scope="col" { "Outcome" } th scope="col" { "Began" } th.number scope="col" { "Took" } th scope="col" { "Worker" } th scope="col" { "Error" } } }
                tbody { @for attempt in attempts.iter().rev() { (row_of(cx, attempt)) } }
            } }
        }
    }
}

fn row_of(cx: &Context, attempt: &Json) -> Markup {
    // Of an attempt, or itself.
    let error = if attempt.get("message").is_null() {
        attempt.get("error")
    } else {
        attempt
    };
    let ended = attempt.moment("ended_at").or(attempt.moment("at"));
    html! { tr {
        td.number { (attempt.get("attempt").brief()) }
        td { @if attempt.text("outcome").is_empty() { "failed" } @else { (attempt.text("outcome")) } }
        td { @if let Some(began) = attempt.moment("started_at") { (ui::time(Some(began))) } @else { (ui::time(ended)) } }
        td.number { @match attempt.get("duration_seconds").as_float() { Some(took) => (seconds(took)), None => (ui::absent()) } }
        td { (worker(cx, attempt)) }
        td.whole { @if !error.text("class").is_empty() { span.tag { (error.text("class")) } pre.error { (error.text("message")) } } }
    } }
}

fn worker(cx: &Context, attempt: &Json) -> Markup {
    let (name, id) = (attempt.text("worker"), attempt.text("worker_id"));
    let shown = if name.is_empty() {
        short_id(id)
    } else {
        name.to_owned()
    };
    html! {
        @if shown.is_empty() { (ui::absent()) }
        @else if id.is_empty() { span title=(attempt.text("host")) { (shown) } }
        @else { a href=(cx.url(&["workers", id])) title=(attempt.text("host")) { (shown) } }
    }
}

/// What the handlers have written. Nothing where no line is there: most jobs write none.
fn lines(log: &Result<Json, Failure>) -> Markup {
    let Ok(log) = log else {
        return html! { @if !log.as_ref().is_err_and(Failure::is_missing_route) { section { h2 { "Log" } (ui::shown(log, |_| html! {})) } } };
    };
    html! {
        @if !log.list("lines").is_empty() {
            section {
                h2 { "Log" }
                @if log.count("dropped") > 0 { p.quiet { (ui::plural(log.count("dropped"), "earlier line was dropped", "earlier lines were dropped")) "." } }
                div.log tabindex="0" role="log" aria-label="Log" { @for line in log.list("lines") {
                    p { (ui::time(line.moment("at"))) " " span.quiet { "#" (line.get("attempt").brief()) } " " code { (line.text("line")) } }
                } }
            }
        }
    }
}

/// What can be changed until a worker takes the job. A payload of which the reader is not shown all is not offered.
fn edit(cx: &Context, job: &Json, queues: &Json) -> Markup {
    let waits = matches!(job.text("state"), "available" | "scheduled" | "retryable");
    if !waits || !cx.viewer.may(Scope::Produce) || job.text("durability") == "redis" {
        return html! {};
    }
    let payload = job.get("payload").pretty();
    let is_shown = !job.get("payload").to_string().contains("[redacted]");
    let was =
        |name: &str, value: &str| html! { input type="hidden" name=(format!("was_{name}")) value=(value); };
    let (queue, priority, attempts) = (
        job.text("queue"),
        job.text("priority"),
        job.get("max_attempts").to_string(),
    );
    let due = job.text("run_at");
    html! {
        details.section id="edit" {
            summary { "Change it while it waits" }
            form.stack method="post" action=(cx.url(&["jobs", job.text("id"), "edit"])) {
                (ui::back(cx))
                @if is_shown {
                    (ui::field("Payload", "JSON, which the kind must accept.", &html! { textarea.code name="payload" rows="8" spellcheck="false" { (payload) } }))
                    textarea name="was_payload" hidden { (payload) }
                }
                (ui::field("Queue", "", &html! { input name="queue" value=(queue) list="queue-names"; }))
                datalist id="queue-names" { @for one in queues.list("queues") { option value=(one.text("name")); } }
                (ui::field("Priority", "", &html! { select name="priority" { @for one in ["high", "normal", "low"] { option value=(one) selected[one == priority] { (one) } } } }))
                (ui::field("Not before", "A time with its zone, such as 2030-01-31T12:00:00Z.", &html! { input name="run_at" value=(due); }))
                (ui::field("Attempts at most", "", &html! { input name="max_attempts" inputmode="numeric" value=(attempts); }))
                (was("queue", queue)) (was("priority", priority)) (was("run_at", due)) (was("max_attempts", &attempts))
                button.primary { "Change" }
            }
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
