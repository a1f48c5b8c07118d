//! The pieces that pages are made of.

mod chart;
mod json_view;
mod text;

use chrono::{DateTime, Utc};
use maud::{Markup, PreEscaped, Render, html};

use crate::context::Context;
use crate::failure::Failure;

pub(crate) use chart::{Band, Series, chart, spark};
pub(crate) use json_view::json_block;
pub(crate) use text::{age, duration, grouped, plural, rate, seconds, short_id};

/// A point in time, as its age; the exact time is its title.
pub(crate) fn time(at: Option<DateTime<Utc>>) -> Markup {
    let Some(at) = at else {
        return absent();
    };
    let exact = at.format("%Y-%m-%d %H:%M:%S%.3f UTC").to_string();
    html! { time datetime=(at.to_rfc3339()) title=(exact) { (age(at)) } }
}

/// What is not there.
pub(crate) fn absent() -> Markup {
    html! { span.absent aria-label="none" { "–" } }
}

/// A text, or the sign for none.
pub(crate) fn or_absent(text: &str) -> Markup {
    if text.is_empty() {
        return absent();
    }
    html! { (text) }
}

/// The state of a job, a batch, a worker: a word and a colour.
pub(crate) fn state(name: &str) -> Markup {
    let known = [
        "available",
        "scheduled",
        "running",
        "retryable",
        "completed",
        "discarded",
        "cancelled",
        "paused",
        "ended",
        "alive",
        "lost",
        "draining",
        "healthy",
        "degraded",
        "unhealthy",
        "enabled",
        "disabled",
        "not_configured",
        "idle",
    ];
    let class = known
        .iter()
        .find(|known| **known == name)
        .copied()
        .unwrap_or("other");
    html! { span class=(format!("state {class}")) { (name.replace('_', " ")) } }
}

/// A number that leads somewhere, grouped by thousands; a zero is quiet.
pub(crate) fn count_link(count: u64, url: &str) -> Markup {
    if count == 0 {
        return html! { span.zero { "0" } };
    }
    html! { a href=(url) { (grouped(count)) } }
}

pub(crate) fn count(count: u64) -> Markup {
    if count == 0 {
        return html! { span.zero { "0" } };
    }
    html! { (grouped(count)) }
}

/// What could not be read, in the place of what was to be shown.
pub(crate) fn failed(failure: &Failure) -> Markup {
    html! {
        div.notice.bad role="status" {
            strong { (failure.title) }
            @if !failure.detail.is_empty() { " " (failure.detail) }
            @if !failure.request_id.is_empty() { " " span.quiet { "Request " (failure.request_id) } }
        }
    }
}

/// The content of a document, or why there is none.
pub(crate) fn shown<T>(found: &Result<T, Failure>, show: impl FnOnce(&T) -> Markup) -> Markup {
    match found {
        Ok(document) => show(document),
        Err(failure) => failed(failure),
    }
}

pub(crate) fn nothing(text: &str) -> Markup {
    html! { p.nothing { (text) } }
}

/// A form with one button. `fields` are hidden.
pub(crate) fn button(
    cx: &Context,
    path: &[&str],
    label: &str,
    class: &str,
    fields: &[(&str, &str)],
) -> Markup {
    html! {
        form.inline method="post" action=(cx.url(path)) {
            @for (name, value) in fields { input type="hidden" name=(name) value=(value); }
            (back(cx))
            button class=(class) { (label) }
        }
    }
}

/// Where an action leads when it is done: the page that it is on.
pub(crate) fn back(cx: &Context) -> Markup {
    html! { input type="hidden" name="back" value=(cx.here()); }
}

/// A labelled field of a form.
pub(crate) fn field(label: &str, hint: &str, input: &Markup) -> Markup {
    html! {
        label.field {
            span { (label) }
            (input)
            @if !hint.is_empty() { small { (hint) } }
        }
    }
}

/// A name and its value, in a list of facts.
pub(crate) fn fact(name: &str, value: impl Render) -> Markup {
    html! { div { dt { (name) } dd { (value) } } }
}

/// The link to the next page of a list, and to its start.
pub(crate) fn pager(next: Option<&str>, start: Option<&str>) -> Markup {
    html! {
        @if next.is_some() || start.is_some() {
            nav.pager aria-label="Pages" {
                @if let Some(url) = start { a.button href=(url) { "Newest" } }
                @if let Some(url) = next { a.button href=(url) rel="next" { "Older" } }
            }
        }
    }
}

/// A job's id, short, that leads to its page.
pub(crate) fn job_link(cx: &Context, id: &str) -> Markup {
    if id.is_empty() {
        return absent();
    }
    html! { a.id href=(cx.url(&["jobs", id])) title=(id) { (short_id(id)) } }
}

pub(crate) fn queue_link(cx: &Context, name: &str) -> Markup {
    html! { a href=(cx.url(&["queues", name])) { (name) } }
}

/// A share of a whole as a bar.
pub(crate) fn bar(share: f64, label: &str) -> Markup {
    let width = (share.clamp(0.0, 1.0) * 100.0).round();
    html! {
        svg.bar viewBox="0 0 100 6" preserveAspectRatio="none" role="img" aria-label=(label) {
            rect.track width="100" height="6" {}
            rect.fill width=(width) height="6" {}
        }
    }
}

/// A small picture in the text.
pub(crate) fn icon(path: &str) -> Markup {
    PreEscaped(format!(
        "<svg class=\"icon\" viewBox=\"0 0 16 16\" aria-hidden=\"true\"><path d=\"{path}\"/></svg>"
    ))
}
