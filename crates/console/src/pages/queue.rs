//! One queue: its figures, limits, jobs and what can be done with it.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::filter::quoted;
use super::queues::{drained, pause_button};
use super::{history, job_rows};
use crate::actions::operation_key;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, rate, seconds};

pub(super) async fn page(cx: &Context, name: &str) -> Result<Page, Failure> {
    let (queues, jobs, stats, keys) = join!(
        cx.get(&["v1", "queues"], &[]),
        cx.get(&["v1", "jobs"], &[("queue", name), ("limit", "20")]),
        history::read(cx, name),
        cx.get(
            &["v1", "queues", name, "keys"],
            &[("limit", "20"), ("after", cx.query.get("key"))]
        ),
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
        div #keys data-live { (self::keys(cx, name, &keys)) }
        @if cx.viewer.may(Scope::Admin) && keys.is_ok() { (key_form(cx, name)) }
        section {
            h2 { "Newest jobs" }
            div #jobs data-live { (ui::shown(&jobs, |page| job_rows::table(cx, page.list("jobs"), false))) }
            p { a href=(cx.url_with(&["jobs"], &[("q", &format!("queue:{name}"))])) { "All jobs of this queue" } }
        }
        @if cx.viewer.may(Scope::Admin) { (purge(cx, name)) }
    };
    Ok(Page::new("queues", format!("Queue {name}"), content))
}

/// Its limit keys. Nothing where there are none, for people who cannot change that.
fn keys(cx: &Context, name: &str, keys: &Result<Json, Failure>) -> Markup {
    let may_change = cx.viewer.may(Scope::Admin);
    let is_silent = match keys {
        Ok(found) => !may_change && found.list("keys").is_empty() && cx.query.get("key").is_empty(),
        Err(failure) => failure.is_missing_route(),
    };
    if is_silent {
        return html! {};
    }
    html! { section {
        h2 { "Keys" }
        (ui::shown(keys, |found| html! {
            @if found.list("keys").is_empty() { (ui::nothing("No keys: no job that waits or runs has one.")) }
            @else { (key_table(cx, name, found.list("keys"))) }
            nav.pager aria-label="Keys" {
                @if !cx.query.get("key").is_empty() { a.button href=(cx.url(&["queues", name])) { "First keys" } }
                @if !found.text("next").is_empty() { a.button rel="next" href=(cx.url_with(&["queues", name], &[("key", found.text("next"))])) { "More keys" } }
            }
        }))
    } }
}

fn key_table(cx: &Context, name: &str, keys: &[Json]) -> Markup {
    let may_change = cx.viewer.may(Scope::Admin);
    let jobs = |key: &str, state: &str| {
        let search = format!("queue:{name} key:{} {state}", quoted(key));
        cx.url_with(&["jobs"], &[("q", &search)])
    };
    let waiting = "state:available,scheduled,retryable";
    html! { div.scroll { table {
        thead { tr {
            th scope="col" { "Key" }
            th.number scope="col" { "Waiting" }
            th.number scope="col" { "Running" }
            th scope="col" { "Override" }
            @if may_change { th scope="col" { "Change" } }
        } }
        tbody { @for row in keys {
            @let key = row.text("key");
            @let own = row.get("overridden");
            tr {
                td { code { (key) } }
                td.number { (ui::count_link(row.count("waiting"), &jobs(key, waiting))) }
                td.number { (ui::count_link(row.count("running"), &jobs(key, "state:running"))) @if row.flag("is_capped") { " +" } }
                td {
                    @if own.flag("paused") { (ui::state("paused")) " until " (ui::time(own.moment("expires_at"))) }
                    @else if !own.is_null() { (own.count("max_running")) " at once until " (ui::time(own.moment("expires_at"))) }
                    @else { (ui::absent()) }
                }
                @if may_change { td {
                    @if own.is_null() { (ui::button(cx, &["queues", name, "key"], "Pause for an hour", "small", &[("key", key), ("rule", "pause"), ("ttl_seconds", "3600")])) }
                    @else { (ui::button(cx, &["queues", name, "key"], "End", "small", &[("key", key), ("rule", "end")])) }
                } }
            }
        } }
    } } }
}

/// Pauses or limits any key, also one of which no job waits.
fn key_form(cx: &Context, name: &str) -> Markup {
    let times = [
        ("900", "15 minutes"),
        ("3600", "1 hour"),
        ("86400", "1 day"),
        ("604800", "7 days"),
    ];
    html! {
        form.row method="post" action=(cx.url(&["queues", name, "key"])) {
            (ui::back(cx))
            (ui::field("Key", "", &html! { input name="key" required autocomplete="off"; }))
            (ui::field("Running at once", "Empty: paused.", &html! { input name="max_running" size="10" inputmode="numeric" autocomplete="off"; }))
            (ui::field("For", "", &html! { select name="ttl_seconds" { @for (seconds, words) in times { option value=(seconds) selected[seconds == "3600"] { (words) } } } }))
            button { "Pause or limit the key" }
        }
    }
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
