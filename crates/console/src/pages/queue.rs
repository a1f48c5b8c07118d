//! One queue: its figures, limits, jobs and what can be done with it.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::queues::{drained, pause_button};
use super::{history, job_rows};
use crate::actions::operation_key;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, rate, seconds};

pub(super) async fn page(cx: &Context, name: &str) -> Result<Page, Failure> {
    let (queues, jobs, stats) = join!(
        cx.get(&["v1", "queues"], &[]),
        cx.get(&["v1", "jobs"], &[("queue", name), ("limit", "20")]),
        history::read(cx, name),
    );
    let queues = queues?;
    let queue = queues
        .list("queues")
        .iter()
        .find(|queue| queue.text("name") == name);
    let queue = queue.ok_or_else(|| Failure::not_found(&format!("There is no queue {name}.")))?;
    let content = html! {
        p.crumbs { a href=(cx.url(&["queues"])) { "Queues" } }
        div.title {
            h1 { (name) }
            div #state data-live {
                @if queue.flag("paused") { (ui::state("paused")) }
                (pause_button(cx, queue))
                @if cx.viewer.may(Scope::Produce) { (ui::button(cx, &["queues", name, "ring"], "Wake its workers", "small", &[])) }
            }
        }
        div #figures data-live { (figures(cx, queue)) }
        (history::section(cx, &["queues", name], &stats))
        section {
            h2 { "Limits" }
            (limits(cx, queue))
        }
        section {
            h2 { "Newest jobs" }
            div #jobs data-live { (ui::shown(&jobs, |page| job_rows::table(cx, page.list("jobs"), false))) }
            p { a href=(cx.url_with(&["jobs"], &[("q", &format!("queue:{name}"))])) { "All jobs of this queue" } }
        }
        @if cx.viewer.may(Scope::Admin) { (purge(cx, name)) }
    };
    Ok(Page::new("queues", format!("Queue {name}"), content))
}

fn figures(cx: &Context, queue: &Json) -> Markup {
    let name = queue.text("name");
    let depth = queue.get("depth");
    let jobs = |state: &str| cx.url_with(&["jobs"], &[("q", &format!("queue:{name} state:{state}"))]);
    let count = |state: &str| ui::count_link(depth.count(state), &jobs(state));
    let rates = queue.get("rates");
    html! {
        dl.facts {
            (ui::fact("Waiting", count("available")))
            (ui::fact("Running", count("running")))
            (ui::fact("Scheduled", count("scheduled")))
            (ui::fact("To be retried", count("retryable")))
            (ui::fact("Dead letters", ui::count_link(depth.count("discarded"), &cx.url_with(&["failures"], &[("queue", name)]))))
            (ui::fact("Oldest waits", html! { @if depth.count("available") > 0 { (seconds(queue.float("oldest_age_seconds"))) } @else { (ui::absent()) } }))
            (ui::fact("Finished a second", rate(rates.float("per_second"))))
            (ui::fact("Drained in", drained(queue)))
            (ui::fact("Workers", ui::count_link(rates.count("workers"), &cx.url(&["workers"]))))
            (ui::fact("Completed, failed", html! { (ui::count(rates.count("completed"))) ", " (ui::count(rates.count("failed"))) }))
            (ui::fact("Stored in", match queue.text("durability") { "redis" => "Redis", "ledger" => "the database", _ => "the database (not configured)" }))
            (ui::fact("Served by", match queue.text("served_by") { "pull" => "pull workers", "rust" => "workers in Rust", _ => "no configured worker" }))
        }
    }
}

fn limits(cx: &Context, queue: &Json) -> Markup {
    let limits = queue.get("limits");
    let name = queue.text("name");
    let values = [
        ("max_running", "Running at once", "All workers together."),
        ("rate", "Starts", "Such as 100/60s."),
        ("key_max_running", "Running at once for each key", ""),
        ("key_rate", "Starts for each key", "Such as 10/1s."),
    ];
    html! {
        p.quiet {
            @if limits.text("source") == "api" { "Set over the API, in place of the configured ones." }
            @else { "From the configuration." }
        }
        @if cx.viewer.may(Scope::Admin) {
            form.row method="post" action=(cx.url(&["queues", name, "limits"])) {
                (ui::back(cx))
                @for (field, label, hint) in values {
                    (ui::field(label, hint, &html! { input name=(field) size="10" autocomplete="off" value=(limits.get(field).brief()) placeholder="no limit"; }))
                }
                button { "Set limits" }
            }
            @if limits.text("source") == "api" { (ui::button(cx, &["queues", name, "unlimit"], "Back to the configured limits", "", &[])) }
        } @else {
            dl.facts { @for (field, label, _) in values {
                (ui::fact(label, html! { @if limits.get(field).is_null() { "no limit" } @else { (limits.get(field).brief()) } }))
            } }
        }
    }
}

fn purge(cx: &Context, name: &str) -> Markup {
    html! {
        section.danger {
            h2 { "Purge" }
            p { "Cancels every waiting job of the queue: due and delayed ones, and retries. Running jobs continue." }
            form.row method="post" action=(cx.url(&["queues", name, "purge"])) {
                (ui::back(cx))
                input type="hidden" name="op" value=(operation_key());
                (ui::field("Type the queue's name", "", &html! {
                    input name="confirm" autocomplete="off" required pattern=(pattern_of(name)) placeholder=(name);
                }))
                button.danger { "Purge" }
            }
        }
    }
}

/// The name as a regular expression. Names that are declared have no other characters than these and letters.
fn pattern_of(name: &str) -> String {
    name.chars()
        .map(|c| {
            if c.is_ascii_alphanumeric() || c == '_' {
                c.to_string()
            } else {
                format!("\\u{{{:x}}}", u32::from(c))
            }
        })
        .collect()
}
