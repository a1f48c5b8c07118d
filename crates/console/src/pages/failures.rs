//! Dead letters: jobs that have failed for good, found by queue, kind, error and time.

use futures::join;
use holdfast_http::Scope;
use maud::{Markup, html};

use super::job_rows;
use crate::actions::LETTER_FILTER;
use crate::context::Context;
use crate::failure::Failure;
use crate::json::Json;
use crate::page::Page;
use crate::ui::{self, grouped};

pub(super) async fn page(cx: &Context) -> Result<Page, Failure> {
    let after = cx.query.get("after");
    let mut parameters = given(cx);
    parameters.extend([("after", after), ("limit", super::jobs::PAGE)]);
    let (letters, groups) = join!(
        cx.get(&["v1", "dead-letters"], &parameters),
        cx.get(&["v1", "failures"], &[("limit", "50")]),
    );
    let content = html! {
        h1 { "Failures" }
        p.lead { "Dead letters are jobs that have used all their attempts, or failed in a way that no attempt mends. They wait here for a decision." }
        @if given(cx).iter().all(|(_, value)| value.is_empty()) && after.is_empty() {
            div #groups data-live { @if let Ok(found) = &groups { (group_table(cx, found)) } }
        }
        section { h2 { "Dead letters" } (filter(cx)) }
        (ui::shown(&letters, |found| list(cx, found)))
    };
    Ok(Page::new("failures", "Failures", content))
}

/// Failures by what failed: the same kind, class and message without numbers and ids.
fn group_table(cx: &Context, found: &Json) -> Markup {
    let groups = found.list("failures");
    if groups.is_empty() {
        return html! {};
    }
    html! {
        section {
            h2 { "By cause" }
            div.scroll tabindex="0" { table {
                thead { tr {
                    th scope="col" { "What failed" } th scope="col" { "Kind" } th scope="col" { "Class" } th.number scope="col" { "Letters" }
                    th scope="col" { "Last 24 hours" } th scope="col" { "First" } th scope="col" { "Last" } th scope="col" { span.unseen { "Action" } }
                } }
                tbody { @for group in groups { (group_row(cx, group)) } }
            } }
            @if found.flag("has_more") { p.quiet { "There are more groups; these failed last." } }
        }
    }
}

fn group_row(cx: &Context, group: &Json) -> Markup {
    let fingerprint = group.text("fingerprint");
    let recent: Vec<f64> = group.list("recent").iter().filter_map(Json::as_float).collect();
    html! { tr {
        td.long { a href=(cx.url_with(&["failures"], &[("fingerprint", fingerprint)])) { (match group.text("message") { "" => "(hidden)", message => message }) } }
        td { (group.text("kind")) }
        td { span.tag { (group.text("class")) } }
        td.number { @if group.flag("is_capped") { "≥" } (grouped(group.count("count"))) }
        td { (ui::spark(&recent, "Discarded in each of the last 24 hours")) }
        td { (ui::time(group.moment("first_at"))) }
        td { (ui::time(group.moment("last_at"))) }
        td.act { @if cx.viewer.may(Scope::Admin) { (ui::button(cx, &["failures", "redrive"], "Redrive", "small", &[("fingerprint", fingerprint)])) } }
    } }
}

/// The filter that the address names.
fn given(cx: &Context) -> Vec<(&'static str, &str)> {
    LETTER_FILTER
        .iter()
        .map(|name| (*name, cx.query.get(name)))
        .collect()
}

fn filter(cx: &Context) -> Markup {
    let fields = [
        ("fingerprint", "Cause", ""),
        ("queue", "Queue", "mail"),
        ("kind", "Kind", "http.request"),
        ("error", "Error contains", "timed out"),
        ("from", "From", "2026-11-30T08:00:00Z"),
        ("to", "Before", ""),
    ];
    html! {
        form.row method="get" action=(cx.url(&["failures"])) role="search" aria-label="This list" {
            @for (name, label, example) in fields {
                @if (name != "error" || cx.viewer.sees(Scope::ReadPayload)) && (name != "fingerprint" || !cx.query.get(name).is_empty()) {
                    (ui::field(label, "", &html! { input name=(name) id=[(name == "queue").then_some("filter")] value=(cx.query.get(name)) placeholder=(example) autocomplete="off"; }))
                }
            }
            button { "Filter" }
        }
    }
}

fn list(cx: &Context, found: &Json) -> Markup {
    let jobs = found.list("dead_letters");
    let may_change = cx.viewer.may(Scope::Admin);
    let next = found.text("next");
    let mut older = given(cx);
    older.push(("after", next));
    html! {
        @if may_change && !jobs.is_empty() {
            div.actions {
                (all_of_filter(cx, "redrive", "Redrive all that match"))
                (all_of_filter(cx, "delete", "Delete all that match"))
            }
            form #selection method="post" action=(cx.url(&["failures", "redrive"])) {
                (ui::back(cx))
                div #letters data-live="rows" { (job_rows::table(cx, jobs, true)) }
                div.selected {
                    span.chosen data-chosen {}
                    button { "Redrive selected" }
                    button formaction=(cx.url(&["failures", "delete"])) { "Delete selected" }
                }
            }
        } @else {
            div #letters data-live="rows" { (job_rows::table(cx, jobs, false)) }
        }
        (ui::pager(
            (!next.is_empty()).then(|| cx.url_with(&["failures"], &older)).as_deref(),
            (!cx.query.get("after").is_empty()).then(|| cx.url_with(&["failures"], &given(cx))).as_deref(),
        ))
    }
}

fn all_of_filter(cx: &Context, verb: &str, label: &str) -> Markup {
    let fields: Vec<_> = given(cx)
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect();
    ui::button(cx, &["failures", verb], label, "", &fields)
}
