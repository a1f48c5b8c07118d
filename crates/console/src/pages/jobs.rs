//! The list of jobs: state tabs, filter, rows to select.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::filter::Filter;
use super::job_rows;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, grouped};

/// Jobs of one page. A page never has more rows than this, so a list of millions scrolls as one of fifty.
pub(super) const PAGE: &str = "50";

pub(super) const STATES: [&str; 7] = [
    "available",
    "running",
    "scheduled",
    "retryable",
    "completed",
    "discarded",
    "cancelled",
];

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let q = cx.query.get("q");
    let filter = Filter::parse(q);
    let parameters = parameters(cx);
    let parameters: Vec<(&str, &str)> = parameters.iter().map(|(name, value)| (*name, &**value)).collect();
    let every_state = filter.with("state", "");
    let (jobs, counts) = join!(
        cx.get(&["v1", "jobs"], &parameters),
        cx.get(&["v1", "jobs", "counts"], &[("q", &every_state), ("by", "state")]),
    );
    let content = html! {
        div.title {
            h1 { "Jobs" }
            div {
                @if cx.viewer.may(Scope::Produce) { a.button href=(cx.url(&["jobs", "new"])) { "New job" } }
            }
        }
        nav.tabs #tabs data-live aria-label="States" { (tabs(cx, &filter, counts.as_ref().ok())) }
        (filter_bar(cx, q))
        (ui::shown(&jobs, |found| list(cx, q, found)))
    };
    Ok(Page::new("jobs", "Jobs", content))
}

/// What the list asks the API for.
pub(super) fn parameters(cx: &Context) -> Vec<(&'static str, String)> {
    let q = cx.query.get("q");
    let filter = Filter::parse(q);
    let mut parameters = match filter.columns() {
        Some(columns) => columns,
        None => vec![("q", q.to_owned())],
    };
    parameters.push(("after", cx.query.get("after").to_owned()));
    parameters.push(("limit", PAGE.to_owned()));
    parameters
}

fn tabs(cx: &Context, filter: &Filter, counts: Option<&Json>) -> Markup {
    let current = filter.value("state");
    let counted = |state: &str| {
        counts?
            .list("counts")
            .iter()
            .find(|count| count.text("value") == state)
    };
    html! {
        a href=(cx.url_with(&["jobs"], &[("q", &filter.with("state", ""))]))
            aria-current=[current.is_none().then_some("page")] { "All" }
        @for state in STATES {
            a href=(cx.url_with(&["jobs"], &[("q", &filter.with("state", state))]))
                aria-current=[(current == Some(state)).then_some("page")] {
                (state) @if let Some(count) = counted(state) { " " span.count { (approximate(count)) } }
            }
        }
    }
}

/// A count that is never more certain than the API's.
fn approximate(count: &Json) -> String {
    let number = grouped(count.count("count"));
    match count.text("certainty") {
        "approximate" => format!("≈{number}"),
        "at_least" => format!("≥{number}"),
        _ => number,
    }
}

fn filter_bar(cx: &Context, q: &str) -> Markup {
    html! {
        form.filter method="get" action=(cx.url(&["jobs"])) role="search" aria-label="This list" {
            input #filter type="search" name="q" value=(q) aria-label="Filter" autocomplete="off" spellcheck="false"
                placeholder="kind:http.request payload.customer.id:42 error:\"timed out\" age:>1h";
            button { "Filter" }
        }
        details.help {
            summary { "What can be asked for" }
            p { "Terms stand behind each other, and all must hold; " code { "-" } " in front of one excludes it; commas mean one of several." }
            ul.terms {
                @for (term, says) in TERMS { li { code { (term) } " " (says) } }
            }
        }
    }
}

const TERMS: &[(&str, &str)] = &[
    ("state:discarded", "a state; -state:completed leaves one out"),
    ("queue:mail,bulk", "one of these queues"),
    ("kind:http.request", "a kind"),
    ("payload.customer.id:42", "a value at a path of the payload"),
    ("error:\"timed out\"", "a text in an error"),
    ("age:>1h", "older than an hour; s, m, h and d"),
    (
        "attempt:>=2",
        "attempts; crashes: counts executions whose worker died",
    ),
    ("key:customer-7", "a limit key; unique: is the unique key"),
    ("tag:vip", "a tag; by: is who enqueued it, such as by:key/ID"),
    ("batch:01JD…", "the jobs of a batch; worker: those of a worker"),
];

fn list(cx: &Context, q: &str, found: &Json) -> Markup {
    let may_select = cx.viewer.may(Scope::Produce);
    let next = found.text("next");
    let jobs = found.list("jobs");
    let rows = html! { div #jobs data-live="rows" { (job_rows::table(cx, jobs, may_select)) } };
    html! {
        (progress(cx, q, found))
        @if may_select && !jobs.is_empty() {
            form #selection method="post" action=(cx.url(&["jobs", "selected"])) {
                (ui::back(cx))
                (rows)
                div.selected {
                    span.chosen data-chosen {}
                    button name="do" value="cancel" { "Cancel selected" }
                    button name="do" value="retry" { "Retry selected" }
                }
            }
        } @else { (rows) }
        (ui::pager(
            (!next.is_empty()).then(|| cx.url_with(&["jobs"], &[("q", q), ("after", next)])).as_deref(),
            (!cx.query.get("after").is_empty()).then(|| cx.url_with(&["jobs"], &[("q", q)])).as_deref(),
        ))
        p.quiet {
            "Export these: "
            a href=(cx.url_with(&["jobs", "export"], &[("q", q), ("as", "ndjson")])) { "NDJSON" } ", "
            a href=(cx.url_with(&["jobs", "export"], &[("q", q), ("as", "csv")])) { "CSV" }
        }
    }
}

/// How far the API has looked, where a search found less than a page and there is more to look at. `search.js` goes on by itself.
fn progress(cx: &Context, q: &str, found: &Json) -> Markup {
    let next = found.text("next");
    let is_full = found.list("jobs").len().to_string() == PAGE;
    html! {
        @if !next.is_empty() && !is_full && !found.flag("complete") {
            p.notice #progress role="status" {
                "Searched " span data-searched=(found.count("searched")) { (grouped(found.count("searched"))) }
                @if let Some(of) = found.get("of").as_count() { " of about " (grouped(of)) }
                " jobs. " a href=(cx.url_with(&["jobs"], &[("q", q), ("after", next)])) data-search-on { "Search on" }
            }
        }
    }
}
